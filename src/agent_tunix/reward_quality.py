"""How far a reward can be trusted: whether it tells right from wrong, and what optimising it does to what is meant.

Measured on arrays of scores, so it does not matter where they are from: a grader, a judge, or a model that was fitted.
`process_reward` makes one score of those of the steps of a solution, `one_against_many` compares a right answer with
several wrong ones, `best_of_n` says what is chosen by it, and `fit_overoptimization` describes how what is meant rises
and falls while a policy moves away from where it started.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class Discrimination(NamedTuple):
    """How well scores tell a right answer from wrong ones.

    Attributes:
      accuracy: Share of problems whose right answer scores above all wrong ones.
      pair_accuracy: Share of wrong answers that score below the right one of their problem.
      reciprocal_rank: Mean over problems of one over the rank of the right answer.
    """

    accuracy: float
    pair_accuracy: float
    reciprocal_rank: float


def one_against_many(
    right: Float[np.ndarray, " problems"], wrong: Float[np.ndarray, "problems answers"]
) -> Discrimination:
    """Compares the right answer to every problem with several wrong ones in the same style.

    One wrong answer per problem can be told apart by its style; it takes many, and of the same style, to see whether
    a reward knows what is right. A tie counts against the reward everywhere: a policy would find it.

    Args:
      right: Score of the right answer to each problem, any scale.
      wrong: Scores of wrong answers to the same problems.

    Returns:
      Three shares, in [0, 1]; `accuracy` is at most each of the others.

    Raises:
      ValueError: There is nothing to compare, or a score is nan.

    Examples:
      >>> one_against_many(np.array([3.0, 1.0]), np.array([[1.0, 2.0], [1.0, 0.0]]))
      Discrimination(accuracy=0.5, pair_accuracy=0.75, reciprocal_rank=0.75)

    References:
      Kim et al., 2024, Evaluating Robustness of Reward Models for Mathematical Reasoning, arXiv:2410.01729.
    """
    if not wrong.size or len(right) != len(wrong):
        raise ValueError(
            f"one_against_many got scores of shapes {right.shape} and {wrong.shape}; give both of each problem"
        )
    if np.isnan(right).any() or np.isnan(wrong).any():
        raise ValueError("one_against_many got nan among the scores; leave such problems out and say how many")
    below = wrong < right[:, None]
    rank = 1 + (~below).sum(-1)
    return Discrimination(float(below.all(-1).mean()), float(below.mean()), float((1 / rank).mean()))


def process_reward(
    steps: Float[np.ndarray, "*solutions steps"], mask: Bool[np.ndarray, "*solutions steps"], *, by: str = "min"
) -> Float[np.ndarray, "*solutions"]:
    r"""One score of a solution from the probabilities that its steps are right.

    Args:
      steps: Probabilities in [0, 1].
      mask: True on steps; every solution has one at least.
      by: `min`, `max`, `mean`, `last`, `product`, `geometric_mean`, `mean_logit` (the mean of logits as a probability)
        or `mean_odds` (the mean of :math:`p / (1 - p)`).

    Returns:
      Scores; of `mean_odds` in [0, inf), else in [0, 1].

    Raises:
      ValueError: `by` is none of these, or a solution has no step.

    Examples:
      >>> steps = np.array([[0.9, 0.5, 0.8]])
      >>> [float(process_reward(steps, np.ones((1, 3), bool), by=by)[0].round(3)) for by in ("min", "last", "product")]
      [0.5, 0.8, 0.36]

    References:
      Kim et al., 2024, arXiv:2410.01729, whose code has all of them but the names.
    """
    if not mask.any(-1).all():
        raise ValueError("process_reward got a solution without steps; leave it out or give it a score of its own")
    count = mask.sum(-1)
    # Probabilities of exactly 0 and 1 have no logit.
    inner = np.clip(steps, 1e-7, 1 - 1e-7)
    logs = np.where(mask, np.log(inner), 0.0).sum(-1)
    odds = inner / (1 - inner)
    found = {
        "min": np.where(mask, steps, np.inf).min(-1),
        "max": np.where(mask, steps, -np.inf).max(-1),
        "mean": np.where(mask, steps, 0.0).sum(-1) / count,
        "last": np.take_along_axis(steps, _last(mask)[..., None], -1)[..., 0],
        "product": np.where(mask, steps, 1.0).prod(-1),
        "geometric_mean": np.exp(logs / count),
        "mean_logit": 1 / (1 + np.exp(-np.where(mask, np.log(odds), 0.0).sum(-1) / count)),
        "mean_odds": np.where(mask, odds, 0.0).sum(-1) / count,
    }
    if by not in found:
        raise ValueError(f"process_reward got by={by!r}; give one of {', '.join(found)}")
    return found[by]


def _last(mask: Bool[np.ndarray, "*solutions steps"]) -> np.ndarray:
    """Place of the last step."""
    return mask.shape[-1] - 1 - mask[..., ::-1].argmax(-1)


def best_of_n(
    proxy: Float[np.ndarray, "problems samples"], gold: Float[np.ndarray, "problems samples"], n: int
) -> float:
    """Expected gold of the sample that the proxy likes best among n, over all ways to draw n of the samples.

    Exact and without the noise of drawing subsets; samples that tie are as likely to be chosen.

    Args:
      proxy: What chooses, any scale.
      gold: What is meant, of the same samples.
      n: How many are drawn, without replacement.

    Returns:
      Mean over problems, in units of `gold`.

    Raises:
      ValueError: There are fewer samples than `n`, or `n` is below 1.

    Examples:
      >>> proxy, gold = np.array([[0.0, 1.0, 2.0]]), np.array([[0.0, 6.0, 3.0]])
      >>> [best_of_n(proxy, gold, n) for n in (1, 2, 3)]
      [3.0, 4.0, 3.0]
    """
    samples = proxy.shape[1]
    if not 1 <= n <= samples:
        raise ValueError(f"best_of_n got n={n} of {samples} samples; give a number from 1 to {samples}")
    # The sample of rank r (from 0) is the best of n if the others are of the r below it.
    weight = np.array([math.comb(rank, n - 1) / math.comb(samples, n) for rank in range(samples)])
    total = np.concatenate([[0.0], np.cumsum(weight)])
    means = []
    for scores, worth in zip(proxy, gold, strict=True):
        low, high = (np.searchsorted(np.sort(scores), scores, side=side) for side in ("left", "right"))
        means.append(float(((total[high] - total[low]) / (high - low) * worth).sum()))
    return float(np.mean(means))


def best_of_n_divergence(n: int) -> float:
    """Divergence of the best of n from the policy that draws them, nats: log n - (n - 1) / n, an upper bound.

    Examples:
      >>> round(best_of_n_divergence(64), 2)
      3.17
    """
    return math.log(n) - (n - 1) / n


class Overoptimization(NamedTuple):
    r"""The law :math:`R(d) = d (\alpha - \beta \log d)` with what was fitted.

    Attributes:
      alpha: Gain at first.
      beta: What it loses on the way; the law falls again only if this is positive.
      r2: Share of the variance of the gold that it explains.
      peak: Distance at which it is highest, :math:`e^{\alpha / \beta - 1}`; infinite where it does not fall.
    """

    alpha: float
    beta: float
    r2: float
    peak: float


def fit_overoptimization(
    divergence: Float[np.ndarray, " points"], gold: Float[np.ndarray, " points"]
) -> Overoptimization:
    r"""Fits how what is meant rises and falls with the distance from the reference, by least squares.

    Args:
      divergence: KL of policies from the reference, nats; those at 0 say nothing and are left out. Points of several
        runs belong together: a single trajectory leaves the law undetermined.
      gold: What is meant, less its value under the reference.

    Returns:
      Coefficients of :math:`R(d) = d (\alpha - \beta \log d)` with :math:`d = \sqrt{\text{KL}}`.

    Raises:
      ValueError: Fewer than three points are left.

    Examples:
      >>> d = np.array([0.5, 1.0, 2.0, 3.0])
      >>> found = fit_overoptimization(d**2, d * (1.0 - 0.5 * np.log(d)))
      >>> round(found.alpha, 3), round(found.beta, 3), round(found.peak, 3)
      (1.0, 0.5, 2.718)

    References:
      Gao, Schulman, and Hilton, 2022, Scaling Laws for Reward Model Overoptimization, arXiv:2210.10760, for
      reinforcement learning; Rafailov et al., 2024, arXiv:2406.02900, use it for direct alignment.
    """
    kept = divergence > 0
    if kept.sum() < 3:
        raise ValueError(
            f"fit_overoptimization got {kept.sum()} points away from the reference; it needs three at least"
        )
    distance, meant = np.sqrt(divergence[kept].astype(np.float64)), gold[kept].astype(np.float64)
    columns = np.stack([distance, -distance * np.log(distance)], 1)
    (alpha, beta), *_ = np.linalg.lstsq(columns, meant)
    missed = np.square(meant - columns @ np.array([alpha, beta])).sum()
    spread = np.square(meant - meant.mean()).sum()
    with np.errstate(over="ignore"):
        peak = float(np.exp(alpha / beta - 1)) if beta > 0 else math.inf
    return Overoptimization(float(alpha), float(beta), float(1 - missed / spread) if spread else math.nan, peak)
