"""Held-out accuracy with the strict grader, and how sure it is.

Every number is a mean over prompts; its interval says where the mean over all such prompts lies with 95 % confidence.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from agent_tunix.models import Parameters
from agent_tunix.rewards import answer_key
from agent_tunix.sampling import Sample
from agent_tunix.text import stated_answer
from agent_tunix.types import Row

Correct = Callable[[str, Row], float]
"""`(completion, row) -> 1.0 or 0.0`, the strict grader of the row's task."""

RESAMPLES = 1000


class Interval(NamedTuple):
    """A mean with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Answered:
    """The completions of one prompt and what the graders said of each.

    Attributes:
      row: The task's row.
      completions: Texts.
      correct: True where the strict grader accepted the answer.
      formatted: Format grader's value, in [0, 1].
      truncated: True where the token budget ended the completion.
      lengths: Tokens, stop token included.
    """

    row: Row
    completions: Sequence[str]
    correct: Sequence[bool]
    formatted: Sequence[float]
    truncated: Sequence[bool]
    lengths: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics of a policy on rows, overall and by task and difficulty.

    Attributes:
      split: Which rows.
      samples: Completions drawn per prompt besides the greedy one.
      slices: Name (`all`, `source mine`, `task sorting`, `sorting level 1`) to number of prompts and metrics.
    """

    split: str
    samples: int
    slices: dict[str, tuple[int, dict[str, Interval]]]

    def table(self) -> str:
        """Plain text: every metric of all prompts with its interval, then the slices side by side."""
        prompts, metrics = self.slices["all"]
        lines = [f"{f'{self.split}, {prompts} prompts':<30} {'value':>7}   95 % interval"]
        for name, interval in metrics.items():
            lines.append(f"  {name:<28} {interval.value:>7.3f}   [{interval.low:.3f}, {interval.high:.3f}]")
        others = {name: row for name, row in self.slices.items() if name != "all"}
        if others:
            lines += ["", f"{'slice':<24} {'prompts':>7}" + "".join(f" {name:>{_width(name)}}" for name in metrics)]
        for name, (count, row) in others.items():
            values = "".join(f" {row[metric].value:>{_width(metric)}.3f}" for metric in metrics)
            lines.append(f"{name:<24} {count:>7}{values}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Nested plain values."""
        return {
            "split": self.split,
            "samples": self.samples,
            "slices": {
                name: {"prompts": prompts} | {metric: value._asdict() for metric, value in metrics.items()}
                for name, (prompts, metrics) in self.slices.items()
            },
        }


def answer(
    sample: Sample,
    parameters: Parameters,
    rows: Sequence[Row],
    *,
    group_size: int,
    prompts_per_batch: int,
    key: Key[Array, ""],
    correct: Correct,
    formatted: Callable[[str], float],
) -> list[Answered]:
    """Completes every row and grades the completions.

    Args:
      sample: Draws completions.
      parameters: Of the policy.
      rows: Prompts and answers.
      group_size: Completions per prompt.
      prompts_per_batch: Prompts sampled together; the last batch is filled up, so that one shape is compiled.
      key: Random key; the batch index is folded in.
      correct: Strict grader.
      formatted: Format grader.
    """
    out = []
    for number, start in enumerate(range(0, len(rows), prompts_per_batch)):
        part = list(rows[start : start + prompts_per_batch])
        filled = part + [part[-1]] * (prompts_per_batch - len(part))
        rollouts = sample(parameters, filled, group_size, jax.random.fold_in(key, number))
        for index, row in enumerate(part):
            texts = rollouts.completions[index]
            out.append(
                Answered(
                    row=row,
                    completions=texts,
                    correct=[correct(text, row) == 1.0 for text in texts],
                    formatted=[float(formatted(text)) for text in texts],
                    truncated=rollouts.truncated[index].tolist(),
                    lengths=rollouts.lengths[index].tolist(),
                )
            )
    return out


def evaluation(
    greedy: Sequence[Answered], sampled: Sequence[Answered] = (), *, split: str, samples: int = 0
) -> Evaluation:
    """Metrics of greedy and, if any, sampled answers to the same rows, in slices.

    Args:
      greedy: One completion per prompt.
      sampled: `samples` completions per prompt, or nothing.
      split: Name of the rows.
      samples: Completions per prompt among `sampled`; `pass@j` and `majority@k` are given for j = 1, 2, 4 ... k.
    """
    slices: dict[str, list[int]] = {"all": list(range(len(greedy)))}
    by_level = sorted(range(len(greedy)), key=lambda index: greedy[index].row.get("level") or 0)
    for index in by_level:
        item = greedy[index]
        task, level, source = (item.row.get(name) for name in ("task", "level", "source"))
        if source is not None:
            slices.setdefault(f"source {source}", []).append(index)
        if task is not None:
            slices.setdefault(f"task {task}", []).append(index)
        if task is not None and level is not None:
            slices.setdefault(f"{task} level {level}", []).append(index)
    slices = {name: sorted(members) for name, members in slices.items()}
    distinct: dict[str, list[int]] = {}
    for name, members in slices.items():
        if members not in distinct.values():  # the only task, or the only level of a task, says nothing new
            distinct[name] = members
    named = {}
    for name, members in distinct.items():
        chosen = [sampled[index] for index in members] if sampled else []
        named[name] = (len(members), _metrics([greedy[index] for index in members], chosen, samples))
    return Evaluation(split, samples, named)


def accuracy_by_source(items: Sequence[Answered]) -> dict[str, float]:
    """Share of right first completions of each source of a mixture, by name; empty where rows have no source."""
    by_source: dict[str, list[bool]] = {}
    for item in items:
        if "source" in item.row:
            by_source.setdefault(item.row["source"], []).append(item.correct[0])
    return {name: float(np.mean(correct)) for name, correct in sorted(by_source.items())}


def pass_at_k(samples: int, correct: int, k: int) -> float:
    r"""Probability that at least one of `k` completions drawn without replacement is correct.

    .. math:: 1 - \binom{n - c}{k} / \binom{n}{k}

    Args:
      samples: Completions drawn, n.
      correct: Correct ones among them, c.
      k: At most `samples`.

    References:
      Chen et al., 2021, Evaluating Large Language Models Trained on Code, section 2.1 (:cite:`chen2021codex`).

    Examples:
      >>> pass_at_k(4, 1, 2)
      0.5
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs between 1 and {samples} of the {samples} samples")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority(item: Answered) -> float:
    """Whether the most frequent stated answer is correct; completions that state none do not vote, ties share."""
    votes = Counter(answer for answer in map(_vote, item.completions) if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [answer for answer, count in votes.items() if count == most]
    right = {_vote(text) for text, correct in zip(item.completions, item.correct, strict=True) if correct}
    return sum(answer in right for answer in winners) / len(winners)


def wilson(successes: float, total: int, z: float = 1.959964) -> Interval:
    """A proportion with Wilson's score interval.

    References:
      Wilson, 1927, Probable inference, the law of succession, and statistical inference (:cite:`wilson1927`).

    Examples:
      >>> wilson(0, 10).low
      0.0
    """
    p = successes / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    # The interval holds p; rounding must not push a bound past it where p is 0 or 1.
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def bootstrap(values: Float[np.ndarray, " prompts"], *, resamples: int = RESAMPLES) -> Interval:
    """A mean over prompts with its percentile bootstrap interval; the draws are always the same.

    Values that are all equal leave nothing to resample, which would claim certainty. They get Wilson's interval
    instead, which is wide enough for any values in [0, 1].

    Args:
      values: One value in [0, 1] per prompt.
      resamples: Number of draws.
    """
    values = np.asarray(values, np.float64)
    if values.min() == values.max():
        return wilson(float(values.sum()), len(values))
    random = np.random.default_rng(0)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def _width(metric: str) -> int:
    return max(7, len(metric))


def _vote(text: str) -> Hashable | None:
    """What a completion answers, equal for equal values: `42`, `42.0` and `$42` are one vote."""
    stated = stated_answer(text)
    return None if stated is None else answer_key(stated)


def _metrics(greedy: Sequence[Answered], sampled: Sequence[Answered], samples: int) -> dict[str, Interval]:
    count = len(greedy)
    out = {
        "accuracy": wilson(sum(item.correct[0] for item in greedy), count),
        "format": wilson(sum(item.formatted[0] == 1.0 for item in greedy), count),
        "truncated_fraction": wilson(sum(item.truncated[0] for item in greedy), count),
    }
    if not sampled:
        return out
    ks = sorted({2**power for power in range(samples.bit_length()) if 2**power <= samples} | {samples})
    for k in ks:
        out[f"pass@{k}"] = bootstrap(np.array([pass_at_k(samples, sum(item.correct), k) for item in sampled]))
    out[f"majority@{samples}"] = bootstrap(np.array([majority(item) for item in sampled]))
    out["sampled_format"] = bootstrap(np.array([np.mean(np.equal(item.formatted, 1.0)) for item in sampled]))
    out["sampled_truncated_fraction"] = bootstrap(np.array([np.mean(item.truncated) for item in sampled]))
    return out
