"""One batch of scored rollouts: sampling, grading, refilling, and losing nothing when a grader breaks."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Array, Key

from agent_tunix import advantages, batching
from agent_tunix.errors import RewardError
from agent_tunix.models import Parameters
from agent_tunix.sampling import Sample
from agent_tunix.types import KeepGroup, Outcome, Reward, Rollouts, Row, Score

logger = logging.getLogger(__name__)

MOST_FAILED = 0.5
"""A batch in which graders fail on more completions than this fraction stops the run."""


Record = Callable[[Rollouts, Score | None], None]
"""Keeps rollouts that are not trained on, with their score if there is one."""


class Batches(Protocol):
    """An endless iterator over batches of rows with a state that can be saved."""

    def __next__(self) -> Sequence[Row]: ...

    def get_state(self) -> dict[str, Any]:
        """JSON-serialisable position."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a saved position."""
        ...


def collect(
    sample: Sample,
    reward: Reward,
    keep_group: KeepGroup | None,
    parameters: Parameters,
    batches: Batches,
    key: Key[Array, ""],
    *,
    group_size: int,
    max_refills: int,
    batch: int,
    record: Record,
    clock: "Clock",
) -> tuple[Rollouts, Score, dict[str, float]]:
    """One batch of scored rollouts; with `keep_group`, refilled until every group is worth training on.

    Groups are judged on the unshaped score. After `max_refills` further rounds the batch is filled up with groups that
    were not kept, so that a policy that solves everything ends its run instead of sampling for ever.

    Args:
      sample: Draws completions.
      reward: Scores them.
      keep_group: Which groups to train on; None keeps all.
      parameters: Of the policy.
      batches: Rows.
      key: Random key of this batch; the round is folded in.
      group_size: Completions per prompt.
      max_refills: Further rounds at most.
      batch: Index of the batch, for messages.
      record: Keeps what was sampled and is not trained on.
      clock: Told of the end of each stage.

    Returns:
      Rollouts, their score and, when refilling, `group/kept_fraction` and `group/refills`.

    Raises:
      RewardError: If the reward breaks its contract, or its graders fail on most of a batch.
    """
    kept, spare, wanted, refill, seen = [], [], 0, 0, 0
    for refill in range(max_refills + 1 if keep_group else 1):
        rows = next(batches)
        rollouts = sample(parameters, rows, group_size, jax.random.fold_in(key, refill))
        clock.lap("rollout")
        score = _scored(reward, rollouts, batch, record)
        clock.lap("reward")
        if keep_group is None:
            return rollouts, score, {}
        keep = np.asarray(keep_group(score))
        wanted, seen = len(rows), seen + len(rows)
        for chosen, groups in ((keep, kept), (~keep, spare)):
            index = np.flatnonzero(chosen).tolist()
            groups.append((batching.take(rollouts, index), batching.take(score, index)))
        if sum(len(part.prompts) for part, _ in kept) >= wanted:
            break
    rollouts, score = (batching.join(parts) for parts in zip(*kept, *spare, strict=True))
    good = sum(len(part.prompts) for part, _ in kept)
    unused = list(range(wanted, len(rollouts.prompts)))
    if unused:
        record(batching.take(rollouts, unused), batching.take(score, unused))
    index = list(range(wanted))
    notes = {"group/kept_fraction": good / seen, "group/refills": float(refill)}
    return batching.take(rollouts, index), batching.take(score, index), notes


class Clock:
    """Seconds spent in each stage of a batch."""

    def __init__(self) -> None:
        self._last = self._start = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Adds the time since the last call to a stage."""
        now = time.perf_counter()
        self._laps[stage] = self._laps.get(stage, 0.0) + now - self._last
        self._last = now

    def timing(self, step: int, rollouts: Rollouts) -> dict[str, float]:
        """The row of timings after an update; the first update of a batch carries its rollouts."""
        self.lap("update")
        total = self._last - self._start
        row = {"step": step, "time/step_s": total} | {f"time/{name}_s": value for name, value in self._laps.items()}
        if "rollout" in self._laps:
            row["throughput/tokens_per_s"] = float(rollouts.lengths.sum()) / total
        self._start, self._laps = self._last, {}
        return row


def _scored(reward: Reward, rollouts: Rollouts, batch: int, record: Record) -> Score:
    """The score; if the reward raises or returns nan, the completions it was given are saved first."""
    try:
        score = reward(rollouts)
        advantages.refuse_nan(score)
    except BaseException as error:
        record(rollouts, None)
        if isinstance(error, TypeError | ValueError):
            raise RewardError(f"{error} (batch {batch}; its completions are in the run's samples)") from error
        raise
    if score.failures:
        first = score.failures[0]
        logger.warning(
            "batch %d: %d grader calls gave no value, the first is `%s` on prompt %d, completion %d: %s",
            batch, len(score.failures), first.part, first.prompt_index, first.completion_index, first.reason,
        )  # fmt: skip
        _refuse_mostly_failed(score, batch)
    return score


def _refuse_mostly_failed(score: Score, batch: int) -> None:
    """Stops a run whose graders are down: training on the few that answered would go on unnoticed."""
    broken = (Outcome.FAILED, Outcome.TIMED_OUT)
    failed = np.any([np.isin(outcomes, broken) for outcomes in score.outcomes.values()], axis=0)
    if failed.mean() > MOST_FAILED:
        first = score.failures[0]
        raise RewardError(
            f"graders failed on {failed.mean():.0%} of batch {batch}, first `{first.part}` on prompt "
            f"{first.prompt_index}, completion {first.completion_index}: {first.reason}; the state is saved, mend the "
            "grader and run the same command again"
        )
