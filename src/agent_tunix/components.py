r"""What the components of a reward do to each other, from one batch of scores: plain array functions.

A reward :math:`r = w_f f + w_g g` pushes its components together. Along the natural gradient, which is also the path
of least divergence :math:`\pi \propto \pi_0 e^{r/\beta}`, a component changes at the rate of its covariance with the
reward,

.. math:: \frac{d\,E[g]}{dt} = \mathrm{Cov}(g, r) = w_f \mathrm{Cov}(f, g) + w_g \mathrm{Var}(g),

all of it within prompts, since only completions of the same prompt compete. So raising f lowers g exactly if
:math:`\mathrm{Cov}(f, g) < 0` and :math:`w_f / w_g > w^* = -\mathrm{Var}(g) / \mathrm{Cov}(f, g)`. Everything here is
an estimate of a term of that line (Price's equation; for policies Kakade, 2001, A Natural Policy Gradient).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from agent_tunix.weight_limits import TINY, Products, centred, limit_of, moments_of, products
from agent_tunix.weight_limits import Limit as Limit
from agent_tunix.weight_limits import Moments as Moments
from agent_tunix.weight_limits import forecast as forecast
from agent_tunix.weight_limits import moments as moments
from agent_tunix.weight_limits import student_quantile as student_quantile
from agent_tunix.weight_limits import weight_limit as weight_limit

QUADRANTS = ("pp", "pm", "mp", "mm", "tie")
"""Signs of the deviations of two components from their group's mean: plus or minus of the first, then of the second; a
completion at the mean of either is a tie."""

SIDES = ("all", "positive", "negative")
"""Completions a quadrant's share is told among: all, those with positive and those with negative credit."""

PAIRED = 6
"""Parts whose pairs are measured: their number grows with the square, and every batch is measured while a run waits."""


@runtime_checkable
class Scored(Protocol):
    """A score, as far as it is read here: `agent_tunix.types.Score`, or `Stored`."""

    @property
    def value(self) -> Any:
        """The reward, `[prompts group]`."""
        ...

    @property
    def valid(self) -> Any:
        """Where there is one."""
        ...

    @property
    def parts(self) -> Mapping[str, Any]:
        """Raw components, NaN where there is none."""
        ...


class Stored(NamedTuple):
    """Scores read from records of rollouts; entries that do not exist are not valid.

    Attributes:
      value: The reward, 0 where there is none.
      valid: Where there is one.
      parts: Raw components, NaN where there is none.
      advantage: Credit that was given, NaN where none was.
      steps: Optimizer updates before each group was sampled.
    """

    value: Float[np.ndarray, "prompts group"]
    valid: Bool[np.ndarray, "prompts group"]
    parts: dict[str, Float[np.ndarray, "prompts group"]]
    advantage: Float[np.ndarray, "prompts group"]
    steps: np.ndarray


class Quadrant(NamedTuple):
    """How many completions lie in one quadrant, as shares.

    Attributes:
      all: Of all completions: the base rate.
      positive: Of those with positive credit.
      negative: Of those with negative credit.
      lift: `positive / all`: above 1 where positive credit prefers the quadrant. A share alone only repeats the base
        rate, which the baseline of the credit cancels.
    """

    all: float
    positive: float
    negative: float
    lift: float


def component_measures(score: Scored) -> dict[str, float]:
    """What is logged about the components of one batch.

    Args:
      score: Of the batch, before shaping; arrays of NumPy.

    Returns:
      For every part `reward/part/NAME/{min,max,group_std,skewness,weight,weighted_mean,advantage_share}` and, where two
      or more parts have a value, for every pair `tradeoff/A__B/` with `covariance`, `correlation`,
      `quadrant_{pp,pm,mp,mm,tie}_{all,positive,negative}`, and in both orders `weight_limit`, `weight_limit_low`,
      `weight_limit_high` and `forecast`. nan where nothing can be said, and where a limit is infinite. Of more than
      `PAIRED` parts only the pairs of the `loudest` are told.
    """
    present, weights = present_parts(score), part_weights(score)
    shares = advantage_shares(score, weights)
    out: dict[str, float] = {}
    for name in score.parts:
        numbers = _part_measures(present[name], weights[name], shares[name]) if name in present else {}
        out |= {f"reward/part/{name}/{label}": numbers.get(label, math.nan) for label in _PART_LABELS}
    spreads = {name: weights[name] * out[f"reward/part/{name}/group_std"] for name in present}
    for first, second in combinations(loudest(spreads), 2):
        parts = {first: present[first], second: present[second]}
        out |= _pair_measures(score, parts, weights)
    return out


def loudest(spreads: Mapping[str, float], most: int = PAIRED) -> list[str]:
    """The parts that move the reward most within groups, in the order given.

    Args:
      spreads: Weight of every part times its deviation within groups; only the magnitude counts, and nan is none.
      most: So many at most.

    Examples:
      >>> loudest({"length": 0.1, "format": -0.4, "style": math.nan, "correct": 1.0}, most=2)
      ['format', 'correct']
    """
    loud = sorted(spreads, key=lambda name: -abs(np.nan_to_num(spreads[name])))[:most]
    return [name for name in spreads if name in loud]


_PART_LABELS = ("min", "max", "group_std", "skewness", "weight", "weighted_mean", "advantage_share")


def _part_measures(part: Float[np.ndarray, "prompts group"], weight: float, share: float) -> dict[str, float]:
    used = ~np.isnan(part)
    values = part[used]
    return {
        "min": float(values.min()),
        "max": float(values.max()),
        "group_std": group_std(part, used),
        "skewness": skewness(part, used),
        "weight": weight,
        "weighted_mean": float(weight * values.mean()),
        "advantage_share": share,
    }


def _pair_measures(
    score: Scored, parts: Mapping[str, Float[np.ndarray, "prompts group"]], weights: Mapping[str, float]
) -> dict[str, float]:
    (first, f), (second, g) = parts.items()
    used = _complete(score, parts)
    a, b = centred(f, used), centred(g, used)
    both = products(a, b, used)
    found = moments_of(both)
    out = {"covariance": found.covariance, "correlation": found.correlation}
    for quadrant, share in _quadrants(a, b, centred(np.asarray(score.value, np.float64), used), used).items():
        out |= {f"quadrant_{quadrant}_{side}": getattr(share, side) for side in SIDES}
    out = {f"tradeoff/{first}__{second}/{label}": number for label, number in out.items()}
    one, other = weights[first], weights[second]
    out |= _ordered_measures(f"tradeoff/{first}__{second}", both, one, other)
    return out | _ordered_measures(f"tradeoff/{second}__{first}", both.swapped(), other, one)


def _ordered_measures(where: str, both: Products, weight_first: float, weight_second: float) -> dict[str, float]:
    limit = limit_of(both)
    numbers = {f"weight_limit{end}": bound for end, bound in zip(("", "_low", "_high"), limit, strict=True)}
    numbers["forecast"] = forecast(moments_of(both), weight_first, weight_second)
    return {f"{where}/{label}": _finite(number) for label, number in numbers.items()}


def present_parts(score: Scored) -> dict[str, Float[np.ndarray, "prompts group"]]:
    """The components that have a value anywhere, in double precision."""
    parts = {name: np.asarray(part, np.float64) for name, part in score.parts.items()}
    return {name: part for name, part in parts.items() if not np.isnan(part).all()}


def pair(
    score: Scored, first: str, second: str
) -> tuple[Float[np.ndarray, "prompts group"], Float[np.ndarray, "prompts group"], Bool[np.ndarray, "prompts group"]]:
    """Two components and the valid completions for which both have a value."""
    f, g = (np.asarray(score.parts[name], np.float64) for name in (first, second))
    return f, g, np.asarray(score.valid, bool) & ~np.isnan(f) & ~np.isnan(g)


def part_weights(score: Scored) -> dict[str, float]:
    """Weight of every component in the reward, by least squares over the completions that have them all.

    Exact for a weighted sum, the best linear stand-in for anything else. nan for a component that does not vary, whose
    weight cannot be told.
    """
    present = present_parts(score)
    used = _complete(score, present)
    out = dict.fromkeys(score.parts, math.nan)
    if used.any():
        table = np.stack([part[used] for part in present.values()], -1)
        weights = fitted_weights(table, np.asarray(score.value, np.float64)[used])[0]
        varies = np.ptp(table, axis=0) > TINY * np.abs(table).max(0)
        out |= {name: float(w) for name, w, known in zip(present, weights, varies, strict=True) if known}
    return out


def advantage_shares(score: Scored, weights: Mapping[str, float]) -> dict[str, float]:
    r"""Signed share of every component in what credit is made of: :math:`\mathrm{Cov}(w_k r_k, r) / \mathrm{Var}(r)`.

    Args:
      score: Of a batch.
      weights: Of its components; one that is nan has no part in the reward's variation.

    Returns:
      Shares within groups, which add up to 1 for a weighted sum. A negative one works against the total. nan where all
      groups are flat.
    """
    present = present_parts(score)
    used = _complete(score, present)
    reward = centred(np.asarray(score.value, np.float64), used)
    spread = float((reward**2).sum())
    out = dict.fromkeys(score.parts, math.nan)
    if spread > 1e-20:
        for name, part in present.items():
            covariance = float((centred(part, used) * reward).sum())
            out[name] = 0.0 if math.isnan(weights[name]) else weights[name] * covariance / spread
    return out


def _complete(score: Scored, present: Mapping[str, np.ndarray]) -> np.ndarray:
    valid = np.asarray(score.valid, bool)
    return valid & ~np.isnan(np.stack(list(present.values()))).any(0) if present else np.zeros_like(valid)


def fitted_weights(
    table: Float[np.ndarray, "entries parts"], total: Float[np.ndarray, " entries"]
) -> tuple[Float[np.ndarray, " parts"], float]:
    """Least squares with an intercept; of several solutions the smallest, so a constant component gets no weight.

    Returns:
      Weights, and the share of the total's variance that they explain, nan if it has none.

    Examples:
      >>> weights, explained = fitted_weights(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), np.array([4.0, 1.0, 0.0]))
      >>> weights.round(6).tolist(), round(explained, 6)
      ([4.0, 1.0], 1.0)
    """
    deviations, target = table - table.mean(0), total - total.mean()
    weights = np.linalg.lstsq(deviations, target, rcond=1e-10)[0]
    spread = float((target**2).sum())
    residual = float(((target - deviations @ weights) ** 2).sum())
    return weights, 1.0 - residual / spread if spread > 1e-20 else math.nan


def group_std(values: Float[np.ndarray, "prompts group"], used: Bool[np.ndarray, "prompts group"]) -> float:
    """Mean over groups of the sample deviation; nan where no group has two values."""
    counts = used.sum(-1)
    sums = (centred(values, used) ** 2).sum(-1)
    deviations = np.sqrt(sums[counts > 1] / (counts[counts > 1] - 1))
    return float(deviations.mean()) if deviations.size else math.nan


def skewness(values: Float[np.ndarray, "prompts group"], used: Bool[np.ndarray, "prompts group"]) -> float:
    r"""Skewness within groups: the mean third cumulant over the mean variance to the power 3/2, both unbiased.

    Its sign says in which direction a component is dearer to move. The least divergence that moves its mean by D is

    .. math:: \frac{D^2}{2 k_2} - \frac{k_3 D^3}{6 k_2^3} + \dots,

    so that going up costs more than coming down exactly if the skewness is negative; for a component of zeros and ones,
    if it is met more often than not.

    Returns:
      0 where nothing varies; nan where no group has three values.

    References:
      Cumulants from k-statistics: Kendall and Stuart, 1969, The Advanced Theory of Statistics, section 12.7. The
      expansion follows from inverting the cumulant generating function of the tilted distribution.

    Examples:
      >>> skewness(np.array([[1.0, 0.0, 0.0, 0.0]]), np.ones((1, 4), bool))
      2.0
    """
    n = used.sum(-1)
    enough = n > 2
    if not enough.any():
        return math.nan
    deviations, n = centred(values, used)[enough], n[enough]
    second = float(((deviations**2).sum(-1) / (n - 1)).mean())
    third = float(((deviations**3).sum(-1) * n / ((n - 1) * (n - 2))).mean())
    return third / second**1.5 if second > 0 else 0.0


def quadrants(
    first: Float[np.ndarray, "prompts group"],
    second: Float[np.ndarray, "prompts group"],
    credit: Float[np.ndarray, "prompts group"],
    used: Bool[np.ndarray, "prompts group"],
) -> dict[str, Quadrant]:
    """How completions lie to the mean of their group in two components, and which of them get positive credit.

    Args:
      first: A component.
      second: Another.
      credit: Advantages, or the reward centred within groups; only the sign counts, NaN is neither.
      used: Completions for which both have a value; groups of one are left out.

    Returns:
      By the names of `QUADRANTS`; nan where there is no completion to take a share of.

    Examples:
      >>> f, g = np.array([[1.0, 1.0, 0.0, 0.0]]), np.array([[1.0, 0.0, 1.0, 0.0]])
      >>> credit = np.array([[2.5, 1.5, -1.5, -2.5]])  # 4 f + g, centred
      >>> quadrants(f, g, credit, np.ones((1, 4), bool))["pm"]
      Quadrant(all=0.25, positive=0.5, negative=0.0, lift=2.0)
    """
    return _quadrants(centred(first, used), centred(second, used), credit, used)


def _quadrants(
    a: Float[np.ndarray, "prompts group"],
    b: Float[np.ndarray, "prompts group"],
    credit: Float[np.ndarray, "prompts group"],
    used: Bool[np.ndarray, "prompts group"],
) -> dict[str, Quadrant]:
    """From the deviations of both."""
    used = used & (used.sum(-1, keepdims=True) > 1)
    where = np.where((a == 0) | (b == 0), 4, 2 * (a < 0) + (b < 0)).astype(int)
    sides = {"all": used, "positive": used & (credit > 0), "negative": used & (credit < 0)}
    shares = {side: _shares(where[mask]) for side, mask in sides.items()}
    rows = zip(QUADRANTS, shares["all"], shares["positive"], shares["negative"], strict=True)
    return {name: Quadrant(base, good, bad, _ratio(good, base)) for name, base, good, bad in rows}


def _shares(codes: np.ndarray) -> list[float]:
    counts = np.bincount(codes, minlength=len(QUADRANTS))
    return (counts / codes.size).tolist() if codes.size else [math.nan] * len(QUADRANTS)


def stored(groups: Iterable[Sequence[Mapping[str, Any]]]) -> Stored:
    """Scores from records of rollouts, as `agent_tunix.runs.groups` lists them.

    Groups may differ in size; those whose reward failed as a whole are left out.
    """
    names: dict[str, int] = {}
    steps: list[int] = []
    tables: list[np.ndarray] = []
    for group in groups:
        if all("parts" in record for record in group):
            for name in (name for record in group for name in record["parts"]):
                names.setdefault(name, len(names) + 2)
            tables.append(_numbers(group, names))
            steps.append(group[0]["step"])
    table = np.full((len(names) + 2, len(tables), max((one.shape[1] for one in tables), default=0)), math.nan)
    for row, one in enumerate(tables):
        table[: one.shape[0], row, : one.shape[1]] = one
    valid = ~np.isnan(table[0])
    parts = {name: table[index] for name, index in names.items()}
    return Stored(np.where(valid, table[0], 0.0), valid, parts, table[1], np.array(steps, int))


def _numbers(group: Sequence[Mapping[str, Any]], names: Iterable[str]) -> Float[np.ndarray, "numbers group"]:
    """Reward, credit and parts of the records of a group: all that is kept of them, for a run has many."""
    rows = [[_number(record["reward"]) for record in group], [_number(record.get("advantage")) for record in group]]
    rows += [[_number(record["parts"].get(name)) for record in group] for name in names]
    return np.array(rows, np.float64)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _finite(number: float) -> float:
    return number if math.isfinite(number) else math.nan
