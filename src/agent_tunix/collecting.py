"""One batch of scored rollouts: sampling, grading, refilling, and losing nothing when a grader breaks.

A batch may be sampled in parts. The completions of one part are then graded in the background while the device decodes
the next one, and the step waits only for grades that are still missing.
"""

import contextlib
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key

from agent_tunix import advantages, batching, devices, hosts, measures
from agent_tunix.errors import RewardError
from agent_tunix.models import Parameters
from agent_tunix.sampling import Sample
from agent_tunix.types import KeepGroup, Outcome, Reward, Rollouts, Row, Score

logger = logging.getLogger(__name__)

MOST_FAILED = 0.5
"""A batch in which graders fail on more completions than this fraction stops the run."""


Record = Callable[[Rollouts, Score | None], None]
"""Keeps rollouts that are not trained on, with their score if there is one."""

Grade = Callable[[Rollouts], Callable[[], Score]]
"""Begins to score rollouts; what it returns waits for the score."""

Grading = contextlib.AbstractContextManager[Grade]

Scored = tuple[Rollouts, Score, dict[str, float]]
"""A batch to train on: rollouts, their unshaped score, and numbers about how they were collected."""


Feedback = Callable[[Rollouts, Score], Mapping[str, float]]
"""Told of everything sampled for a batch and its unshaped score, batch after batch and before the rows of the next one
are drawn; returns numbers to log."""


def no_feedback(rollouts: Rollouts, score: Score) -> Mapping[str, float]:
    """Learns nothing and logs nothing."""
    return {}


class MostlyFailed(RewardError):
    """Graders gave no value for most of a batch."""


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
    parts: int = 1,
    max_refills: int,
    batch: int,
    record: Record,
    clock: "Clock",
    feedback: Feedback = no_feedback,
) -> Scored:
    """One batch of scored rollouts; with `keep_group`, refilled until every group is worth training on.

    Groups are judged on the unshaped score. After `max_refills` further rounds the batch is filled up with groups that
    were not kept, so that a policy that solves everything ends its run instead of sampling for ever.

    Args:
      sample: Draws completions.
      reward: Scores them; with several parts it sees the groups of one part at a time, in another thread.
      keep_group: Which groups to train on; None keeps all.
      parameters: Of the policy.
      batches: Rows.
      key: Random key of this batch; the round is folded in.
      group_size: Completions per prompt.
      parts: Parts in which a batch is sampled; it must divide the number of rows.
      max_refills: Further rounds at most.
      batch: Index of the batch, for messages.
      record: Keeps what was sampled and is not trained on.
      clock: Told of the end of each stage.
      feedback: Told of what was sampled, all rounds together.

    Returns:
      Rollouts, their score, and the numbers of `feedback` and, when refilling, `group/kept_fraction` and
      `group/refills`.

    Raises:
      RewardError: If the reward breaks its contract, or its graders fail on most of a batch.
    """
    kept, spare, wanted, refill, seen = [], [], 0, 0, 0
    for refill in range(max_refills + 1 if keep_group else 1):
        rows = next(batches)
        draw = _drawn(sample, parameters, rows, group_size, jax.random.fold_in(key, refill), parts)
        grading = _in_background(reward) if parts > 1 else _at_once(reward)
        rollouts, score = _sampled_and_scored(draw, grading, batch, record, clock)
        if keep_group is None:
            return rollouts, score, dict(feedback(rollouts, score))
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
    notes = {"group/kept_fraction": good / seen, "group/refills": float(refill), **feedback(rollouts, score)}
    return batching.take(rollouts, index), batching.take(score, index), notes


def dealt(reward: Reward, mesh: Mesh | None) -> Reward:
    """A reward of which every process computes the part of its own devices' prompts; the score is that of all.

    Groups stay whole. An error in one process is an error in all.
    """
    if hosts.count() == 1:
        return reward

    def score(rollouts: Rollouts) -> Score:
        own = batching.take(rollouts, range(len(rollouts.prompts))[devices.local(mesh, len(rollouts.prompts))])
        return batching.join(hosts.together("scores", lambda: reward(own), RewardError))

    return dataclasses.replace(reward, score=score)


class Clock:
    """Seconds spent in each stage of a batch."""

    def __init__(self) -> None:
        self._last = self._start = time.perf_counter()
        self._laps: dict[str, float] = {}
        self._notes: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Adds the time since the last call to a stage."""
        now = time.perf_counter()
        self._laps[stage] = self._laps.get(stage, 0.0) + now - self._last
        self._last = now

    def beside(self, other: "Clock") -> None:
        """Adds the stages and numbers of what went by in the background; the time since the last call was a wait."""
        self.lap("wait")
        for stage, seconds in other._laps.items():
            self._laps[stage] = self._laps.get(stage, 0.0) + seconds
        self._notes |= other._notes

    def note(self, numbers: Mapping[str, float]) -> None:
        """Adds numbers to the row of the next update."""
        self._notes |= numbers

    def timing(self, step: int, rollouts: Rollouts) -> dict[str, float]:
        """The row of timings after an update; the first update of a batch carries its rollouts."""
        self.lap("update")
        total = self._last - self._start
        row = {"step": step, "time/step_s": total} | {f"time/{name}_s": value for name, value in self._laps.items()}
        row |= self._notes
        if "rollout" in self._laps:
            row["throughput/tokens_per_s"] = float(rollouts.lengths.sum()) / total
        self._start, self._laps, self._notes = self._last, {}, {}
        return row


def _drawn(
    sample: Sample, parameters: Parameters, rows: Sequence[Row], group_size: int, key: Key[Array, ""], parts: int
) -> Iterator[Rollouts]:
    """The rollouts of a batch, part by part."""
    size = len(rows) // parts
    for part in range(parts):
        # A batch in one part keeps the key of the batch itself.
        own = jax.random.fold_in(key, part) if parts > 1 else key
        yield sample(parameters, rows[part * size : (part + 1) * size], group_size, own)


def _sampled_and_scored(
    draw: Iterator[Rollouts], grading: Grading, batch: int, record: Record, clock: "Clock"
) -> tuple[Rollouts, Score]:
    """All parts of a batch and their score; if the reward breaks its contract, what was sampled is saved first."""
    parts: list[Rollouts] = []
    score = None
    try:
        with grading as grade:
            scores = []
            for part in draw:
                clock.lap("rollout")
                parts.append(part)
                scores.append(grade(part))
                clock.lap("reward")
            score = _joined([wait() for wait in scores])
        advantages.refuse_nan(score)
        _report_failures(score, batch)
    except BaseException as error:
        if parts:
            record(_joined(parts), score if isinstance(error, MostlyFailed) else None)
        if isinstance(error, TypeError | ValueError) and not isinstance(error, RewardError):
            raise RewardError(f"{error} (batch {batch}; its completions are in the run's samples)") from error
        raise
    clock.lap("reward")
    clock.note(measures.latency_measures(score))
    return _joined(parts), score


def _joined(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else batching.join(parts)


@contextlib.contextmanager
def _at_once(reward: Reward) -> Iterator[Grade]:
    """Scores in this thread: signals, and what a debugger is told, are where a grader expects them."""

    def grade(rollouts: Rollouts) -> Callable[[], Score]:
        score = reward(rollouts)
        return lambda: score

    yield grade


@contextlib.contextmanager
def _in_background(reward: Reward) -> Iterator[Grade]:
    """Scores in one thread of its own, in the order in which rollouts are given."""
    waiting: queue.SimpleQueue = queue.SimpleQueue()

    def work() -> None:
        while (item := waiting.get()) is not None:
            rollouts, future = item
            try:
                future.set_result(reward(rollouts))
            except BaseException as error:  # raised again where the result is asked for
                future.set_exception(error)

    def grade(rollouts: Rollouts) -> Callable[[], Score]:
        future: Future[Score] = Future()
        waiting.put((rollouts, future))
        return future.result

    # A daemon: an interrupt must not wait for a grader that hangs.
    threading.Thread(target=work, name="graders", daemon=True).start()
    try:
        yield grade
    finally:
        waiting.put(None)


def _report_failures(score: Score, batch: int) -> None:
    """Says how many grader calls gave no value, and stops the run if they are most of a batch."""
    if score.failures:
        first = score.failures[0]
        logger.warning(
            "batch %d: %d grader calls gave no value, the first is `%s` on prompt %d, completion %d: %s",
            batch, len(score.failures), first.part, first.prompt_index, first.completion_index, first.reason,
        )  # fmt: skip
        _refuse_mostly_failed(score, batch)


def _refuse_mostly_failed(score: Score, batch: int) -> None:
    """Stops a run whose graders are down: training on the few that answered would go on unnoticed."""
    broken = (Outcome.FAILED, Outcome.TIMED_OUT)
    failed = np.any([np.isin(outcomes, broken) for outcomes in score.outcomes.values()], axis=0)
    if failed.mean() > MOST_FAILED:
        first = score.failures[0]
        raise MostlyFailed(
            f"graders failed on {failed.mean():.0%} of batch {batch}, first `{first.part}` on prompt "
            f"{first.prompt_index}, completion {first.completion_index}: {first.reason}; the state is saved, mend the "
            "grader and run the same command again"
        )
