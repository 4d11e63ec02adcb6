"""Stored rollouts scored by another reward, or with other weights: what would have changed.

Nothing is trained. What a run sampled is read back, scored anew, and the two rewards are compared where it matters to
group-relative credit: within the groups.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from agent_tunix import runs
from agent_tunix.batching import text_rollouts
from agent_tunix.rewards import distance
from agent_tunix.runs import Record
from agent_tunix.types import Reward, Rollouts, Score

TOGETHER = 64
"""Groups scored in one call."""
MOVED_AT_LEAST = 1e-3
"""Deviations by which a completion has moved at all; rewards are stored in float32."""
MOVED = 5
"""Completions listed among those that moved most."""
SHOWN = 120
"""Characters of a completion in a table."""


class Moved(NamedTuple):
    """A completion whose standing in its group changed.

    Attributes:
      step: Updates before it was sampled.
      prompt: Its prompt.
      completion: Its text.
      before: Its reward, above the mean of its group.
      after: The same under the other reward.
    """

    step: int
    prompt: str
    completion: str
    before: float
    after: float


@dataclasses.dataclass(frozen=True)
class Rescored:
    """Two rewards on the same rollouts.

    Attributes:
      completions: How many have a value under both.
      groups: Groups compared, those with at least two such completions.
      lost: Completions with a value before and none after.
      gained: The other way round.
      mean_before: Mean reward.
      mean_after: The same under the other reward.
      rank_correlation: Spearman's, over all completions.
      rank_correlation_within: Spearman's within groups, averaged over groups in which both rewards differ.
      distance: Of the two rewards' credit, from 0 (the same) to 1 (the opposite); see `agent_tunix.rewards.distance`.
      best_turned: Groups whose best completion is no longer above its group's mean.
      worst_turned: Groups whose worst completion is no longer below its group's mean.
      flat_before: Share of groups that are flat.
      flat_after: The same under the other reward.
      parts_after: Mean of every part of the other reward.
      failures: Reasons for missing values, with how often.
      moved: Completions whose standing changed most.
    """

    completions: int
    groups: int
    lost: int
    gained: int
    mean_before: float
    mean_after: float
    rank_correlation: float
    rank_correlation_within: float
    distance: float
    best_turned: int
    worst_turned: int
    flat_before: float
    flat_after: float
    parts_after: dict[str, float]
    failures: dict[str, int]
    moved: tuple[Moved, ...]


def rescore(samples: Iterable[Record], reward: Reward) -> Rescored:
    """Scores stored rollouts with another reward.

    Args:
      samples: Records of a run's rollouts, in the order they were written.
      reward: The other reward. Texts, columns, lengths and truncation are there for it; token ids are not stored.

    Raises:
      ValueError: There are no rollouts with a reward to compare with; or what the reward raises.
    """
    return _compared(
        [pair for groups in _batches(_groups(samples)) for pair in _pairs(groups, reward(_rollouts(groups)))]
    )


def reweigh(samples: Iterable[Record], weights: Mapping[str, float]) -> Rescored:
    """Combines the stored parts of rollouts with other weights, without calling any grader.

    Args:
      samples: Records of a run's rollouts, in the order they were written.
      weights: Of parts, by the names they are stored under; parts that are not named get 0.

    Raises:
      ValueError: A part that is not stored, or nothing to compare with.
    """
    groups = list(_groups(samples))
    known = sorted({name for group in groups for sample in group for name in sample.get("parts", {})})
    for name in weights:
        if name not in known:
            raise ValueError(f"there is no part `{name}` in these rollouts; there are: {', '.join(known) or 'none'}")
    return _compared([pair for group in groups for pair in _pairs([group], _from_stored(group, weights))])


def table(result: Rescored) -> str:
    """The result as plain text."""
    lines = [
        f"{result.completions} completions in {result.groups} groups",
        f"{'':<34} {'before':>8} {'after':>8}",
        f"{'mean reward':<34} {result.mean_before:8.3f} {result.mean_after:8.3f}",
        f"{'flat groups':<34} {result.flat_before:8.1%} {result.flat_after:8.1%}",
        f"{'values only before, only after':<34} {result.lost:8d} {result.gained:8d}",
        f"rank correlation {result.rank_correlation:.3f}, within groups {result.rank_correlation_within:.3f}",
        f"distance of the credit {result.distance:.3f} (0 the same, 1 the opposite)",
        f"{result.best_turned} groups whose best completion is no longer above its mean, "
        f"{result.worst_turned} whose worst is no longer below",
        *(f"part {name}: mean {value:.3f}" for name, value in result.parts_after.items()),
        *(f"without a value, {count} times: {reason}" for reason, count in result.failures.items()),
    ]
    if result.moved:
        lines += ["", "moved most, above the mean of their group before and after:"]
    lines += [
        f"  {item.before:+.3f} {item.after:+.3f}  step {item.step}  {_short(item.prompt)} -> {_short(item.completion)}"
        for item in result.moved
    ]
    return "\n".join(lines)


def to_json(result: Rescored) -> dict[str, Any]:
    """The result as nested plain values."""
    return dataclasses.asdict(result) | {"moved": [item._asdict() for item in result.moved]}


# --- Reading groups back ----------------------------------------------------------------------------------------------


def _groups(samples: Iterable[Record]) -> Iterator[list[Record]]:
    """Groups of records; those written without a reward are left out."""
    return (group for group in runs.groups(samples) if all("reward" in sample for sample in group))


def _batches(groups: Iterable[list[Record]]) -> Iterator[list[list[Record]]]:
    """Groups of equal size together, so that pools of graders have something to share out."""
    batch: list[list[Record]] = []
    for group in groups:
        if batch and (len(batch) == TOGETHER or len(group) != len(batch[0])):
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


def _rollouts(groups: Sequence[Sequence[Record]]) -> Rollouts:
    """Rollouts of groups of equal size."""
    names = dict.fromkeys(name for group in groups for name in group[0]["columns"])
    return text_rollouts(
        [group[0]["prompt"] for group in groups],
        [[sample["completion"] for sample in group] for group in groups],
        {name: [group[0]["columns"].get(name) for group in groups] for name in names},
        lengths=np.array([[sample["length"] for sample in group] for group in groups]),
        truncated=np.array([[sample["truncated"] for sample in group] for group in groups]),
    )


def _from_stored(group: Sequence[Record], weights: Mapping[str, float]) -> Score:
    """The score of one group by its stored parts."""
    rows = [[_number(sample["parts"].get(name)) for name in weights] for sample in group]
    parts = np.array(rows, np.float64).reshape(len(group), len(weights))
    factors = np.array(list(weights.values()))
    counted = parts[:, factors != 0]
    valid = np.asarray(~np.isnan(counted).any(axis=-1))
    value = np.where(valid, counted @ factors[factors != 0], 0.0)
    return Score(value[None], valid[None], {name: parts[None, :, index] for index, name in enumerate(weights)})


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


# --- Comparing --------------------------------------------------------------------------------------------------------


class _Pair(NamedTuple):
    """One group under both rewards."""

    group: Sequence[Record]
    before: Float[np.ndarray, " group"]
    after: Float[np.ndarray, " group"]
    parts: dict[str, Float[np.ndarray, " group"]]
    reasons: list[str]

    @property
    def both(self) -> Bool[np.ndarray, " group"]:
        return ~np.isnan(self.before) & ~np.isnan(self.after)


def _pairs(groups: Sequence[Sequence[Record]], score: Score) -> Iterator[_Pair]:
    after = np.where(score.valid, np.asarray(score.value, np.float64), np.nan)
    for number, group in enumerate(groups):
        yield _Pair(
            group,
            np.array([_number(sample["reward"]) for sample in group]),
            after[number],
            {name: np.asarray(part)[number] for name, part in score.parts.items()},
            [failure.reason for failure in score.failures if failure.prompt_index == number],
        )


def _compared(pairs: Sequence[_Pair]) -> Rescored:
    before, after = (np.concatenate([getattr(pair, name) for pair in pairs] or [[]]) for name in ("before", "after"))
    both = ~np.isnan(before) & ~np.isnan(after)
    if not both.any():
        raise ValueError("no completion has a value under both rewards; is this the run that was meant?")
    usable = [pair for pair in pairs if pair.both.sum() > 1]
    return Rescored(
        completions=int(both.sum()),
        groups=len(usable),
        lost=int((~np.isnan(before) & np.isnan(after)).sum()),
        gained=int((np.isnan(before) & ~np.isnan(after)).sum()),
        mean_before=float(before[both].mean()),
        mean_after=float(after[both].mean()),
        rank_correlation=spearman(before[both], after[both]),
        rank_correlation_within=_within(usable),
        distance=_distance(usable),
        best_turned=sum(_turned(pair, 1.0) for pair in usable),
        worst_turned=sum(_turned(pair, -1.0) for pair in usable),
        flat_before=_share(np.ptp(pair.before[pair.both]) == 0 for pair in usable),
        flat_after=_share(np.ptp(pair.after[pair.both]) == 0 for pair in usable),
        parts_after=_part_means(pairs),
        failures=dict(Counter(reason for pair in pairs for reason in pair.reasons)),
        moved=tuple(_moved(usable)),
    )


def _part_means(pairs: Sequence[_Pair]) -> dict[str, float]:
    names = dict.fromkeys(name for pair in pairs for name in pair.parts)
    return {name: _mean(np.concatenate([pair.parts[name] for pair in pairs if name in pair.parts])) for name in names}


def spearman(first: Float[np.ndarray, " entries"], second: Float[np.ndarray, " entries"]) -> float:
    """Spearman's rank correlation, ties at their mean rank; nan where either does not vary.

    Examples:
      >>> round(spearman(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0])), 3)
      0.8
    """
    ranks = [_ranks(values) for values in (first, second)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return math.nan
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _within(pairs: Sequence[_Pair]) -> float:
    correlations = np.array([spearman(pair.before[pair.both], pair.after[pair.both]) for pair in pairs])
    return _mean(correlations)


def _distance(pairs: Sequence[_Pair]) -> float:
    width = max((len(pair.group) for pair in pairs), default=0)
    before, after = (np.full((len(pairs), width), math.nan) for _ in range(2))
    for row, pair in enumerate(pairs):
        before[row, : len(pair.group)], after[row, : len(pair.group)] = pair.before, pair.after
    return distance(*(Score(np.nan_to_num(values), ~np.isnan(values)) for values in (before, after)))


def _turned(pair: _Pair, sign: float) -> bool:
    """Whether the group's best completion (worst for sign -1) loses its side of the group's mean."""
    before, after = sign * pair.before[pair.both], sign * pair.after[pair.both]
    if np.ptp(before) == 0:
        return False
    return bool((after[np.flatnonzero(before == before.max())] <= after.mean()).all())


def _moved(pairs: Sequence[_Pair]) -> Iterator[Moved]:
    """The completions whose standing, in deviations of all rewards, changed most."""
    scales = [
        float(np.concatenate([getattr(pair, name)[pair.both] for pair in pairs] or [[0.0]]).std()) or 1.0
        for name in ("before", "after")
    ]
    moves = []
    for number, pair in enumerate(pairs):
        before, after = (values - values[pair.both].mean() for values in (pair.before, pair.after))
        distance = np.abs(after / scales[1] - before / scales[0])
        moves += [
            (distance[i], number, i, before[i], after[i])
            for i in np.flatnonzero(pair.both)
            if distance[i] > MOVED_AT_LEAST
        ]
    for _, number, index, before, after in sorted(moves, reverse=True)[:MOVED]:
        sample = pairs[number].group[index]
        yield Moved(sample["step"], sample["prompt"], sample["completion"], float(before), float(after))


def _share(flags: Iterable[bool]) -> float:
    return float(np.mean([bool(flag) for flag in flags] or [math.nan]))


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else math.nan


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"
