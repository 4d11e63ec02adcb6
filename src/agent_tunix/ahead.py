"""When the batches of a run are sampled: each when it is asked for, or one ahead of the updates.

With `Ahead`, the device decodes and graders answer while the batch before is trained on, and the policy that samples is
one round of updates behind the one that learns. The ratios of the loss correct for that, because `old_logprobs` are
those of the policy that sampled (one-step off-policy training: Noukhovitch et al., 2024, arXiv:2410.18252).
"""

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

import jax
import jax.numpy as jnp

from agent_tunix.collecting import Batches, Clock, Record, Scored
from agent_tunix.models import Parameters
from agent_tunix.sampling import Sample
from agent_tunix.types import Params, Rollouts, Score

Gather = Callable[[Sample, Parameters, int, Record, Clock], Scored]
"""`(sample, parameters, batch, record, clock) -> Scored`: samples and scores the batch of an index."""


class InLine:
    """Batches sampled when they are asked for, by the policy of that moment.

    Args:
      sample: Draws completions.
      gather: Samples and scores one batch.
      batches: Rows, from which `gather` takes.

    Attributes:
      behind: None: no parameters but the trained ones sample.
    """

    behind: Params | None = None

    def __init__(self, sample: Sample, gather: Gather, batches: Batches) -> None:
        self._sample, self._gather, self._batches = sample, gather, batches

    def take(self, parameters: Parameters, batch: int, record: Record, clock: Clock, *, last: bool) -> Scored:
        """The batch of an index; the arguments are those of `Ahead.take`."""
        del last
        return self._gather(self._sample, parameters, batch, record, clock)

    def position(self) -> dict[str, Any]:
        """Where the rows of the next batch begin."""
        return self._batches.get_state()

    def close(self) -> None:
        """Nothing is under way."""


class Ahead:
    """Batches sampled and graded in the background while the one before is trained on.

    Batch `b` is sampled by the parameters from before the updates on batch `b - 1`; the first two by those training
    starts from. That depends on the index alone and never on which thread is faster. Settings of JAX that a context
    manager makes, such as a default device, hold in the thread that made them and not in the background.

    Args:
      sample: Draws completions; called in the background while other programs of the policy run.
      gather: Samples and scores one batch; called in a thread of its own.
      batches: Rows, from which `gather` takes.
      behind: Parameters that sample the next batch, as a checkpoint kept them; None takes the trained ones.

    Attributes:
      behind: Parameters that sample the batch after the one taken last; never donated to an update.
    """

    def __init__(self, sample: Sample, gather: Gather, batches: Batches, behind: Params | None = None) -> None:
        self.behind = behind
        self._sample, self._gather, self._batches = sample, gather, batches
        self._pending: _Pending | None = None
        self._decoding, self._closed = threading.Lock(), False

    def take(self, parameters: Parameters, batch: int, record: Record, clock: Clock, *, last: bool) -> Scored:
        """Waits for the batch of an index and begins the next one.

        Args:
          parameters: Of the policy, as they are now; they sample the batch after this one.
          batch: Its index, one more than that of the call before.
          record: Keeps what was sampled and is not trained on. Called here, in the caller's thread, so that what is
            kept is in the order of the batches.
          clock: Told of the stages; the wait is one of its own, and the others went by beside the batch before.
          last: No batch will be asked for after this one, so none is begun.

        Returns:
          What `gather` returned.

        Raises:
          Exception: Whatever `gather` raised for this batch, however long ago that was.
        """
        sampler = parameters if self.behind is None else dataclasses.replace(parameters, trainable=self.behind)
        pending = self._pending or self._begun(sampler, batch)
        try:
            scored = pending.future.result()
        finally:
            clock.beside(pending.clock)
            for rollouts, score in tuple(pending.kept):
                record(rollouts, score)
        self.behind = jax.tree.map(jnp.copy, parameters.trainable)  # the update is going to take the others
        sampler = dataclasses.replace(parameters, trainable=self.behind)
        self._pending = None if last else self._begun(sampler, batch + 1)
        return scored

    def position(self) -> dict[str, Any]:
        """Where the rows of the next batch begin, whether or not it is under way."""
        return self._pending.position if self._pending else self._batches.get_state()

    def close(self) -> None:
        """Begins no further decoding and waits for the one under way, but not for graders, which might hang."""
        self._closed = True
        with self._decoding:
            pass

    def _begun(self, sampler: Parameters, batch: int) -> "_Pending":
        pending = _Pending(self._batches.get_state())

        def work() -> None:
            try:
                scored = self._gather(self._guarded, sampler, batch, pending.keep, pending.clock)
                pending.future.set_result(scored)
            except BaseException as error:  # raised again where the batch is taken
                pending.future.set_exception(error)

        # A daemon: an interrupt must not wait for a grader that hangs.
        threading.Thread(target=work, name="rollouts", daemon=True).start()
        return pending

    def _guarded(self, *arguments: Any) -> Rollouts:
        """Samples, but nothing after `close`: an interpreter that ends while a program runs can crash."""
        with self._decoding:
            if self._closed:
                raise CancelledError
            return self._sample(*arguments)


class _Pending:
    """A batch under way: where its rows begin, what it will be, what it has kept and how long its stages took."""

    def __init__(self, position: dict[str, Any]) -> None:
        self.position = position
        self.future: Future[Scored] = Future()
        self.kept: list[tuple[Rollouts, Score | None]] = []
        self.clock = Clock()

    def keep(self, rollouts: Rollouts, score: Score | None) -> None:
        self.kept.append((rollouts, score))
