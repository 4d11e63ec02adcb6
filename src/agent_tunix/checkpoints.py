"""Saving and restoring everything a run needs to go on as if it had never stopped.

One orbax checkpoint holds the arrays (trainable parameters, optimizer state, shaping state) and a JSON record (step,
batch, data iterator, positions in the run's files, fingerprint); a run whose rollouts are sampled ahead adds the
parameters that sample the next batch. Writing happens in the background; a checkpoint that was cut off by a kill is
never seen.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from agent_tunix import hosts
from agent_tunix.errors import AgentTunixError

ARRAYS, BEHIND, RECORD = "arrays", "behind", "record"

WRITE_ERRORS = (OSError, ValueError)
"""What a refusing disk raises: tensorstore, which writes the arrays, reports a full one as a ValueError."""


class CheckpointError(AgentTunixError):
    """A checkpoint could not be written or read."""


class Checkpoints:
    """The checkpoints of one run: the newest few and the best.

    Args:
      directory: Folder of the checkpoints; created if missing.
      keep: Newest checkpoints kept besides the one with the best accuracy.
    """

    def __init__(self, directory: Path, *, keep: int) -> None:
        best = managers.BestN(get_metric_fn=_accuracy, n=1)
        self.directory = Path(directory).absolute()
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(keep), best]),
                best_fn=_accuracy,  # without it metrics are not written, and a resumed run forgets which was best
            ),
            item_names=(ARRAYS, BEHIND, RECORD),
        )

    def save(
        self,
        step: int,
        arrays: Any,
        record: dict[str, Any],
        *,
        accuracy: float,
        behind: Any = None,
        wait: bool = False,
    ) -> None:
        """Starts to write the state after `step`; an existing checkpoint of that step is left as it is.

        Args:
          step: Optimizer updates done.
          arrays: Pytree of arrays.
          record: JSON-serialisable record.
          accuracy: Held-out accuracy of the last evaluation, by which the best checkpoint is chosen.
          behind: Parameters that sample the next batch where those are not the trained ones; None writes none. They
            stand apart, so that who wants the trained ones need not know of them.
          wait: Return only when the checkpoint is complete.

        Raises:
          CheckpointError: If the disk refuses, also when an earlier background write failed.
        """
        self.wait()
        if step in self._agreed_steps():
            return
        self._discard_torn()
        items = {ARRAYS: ocp.args.StandardSave(_detached(arrays)), RECORD: ocp.args.JsonSave(record)}
        if behind is not None:
            items[BEHIND] = ocp.args.StandardSave(_detached(behind))
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(**items),
                metrics={"accuracy": accuracy},
                force=True,
            )
        except WRITE_ERRORS as error:
            raise self._failed(step, error) from error
        if wait:
            self.wait()

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict[str, Any]] | None:
        """The arrays and the record of a complete checkpoint, or None if there is none.

        Args:
          like: Pytree of arrays (or shapes) with the structure to restore.
          step: Which checkpoint; None is the newest.

        Raises:
          CheckpointError: If the asked step does not exist.
        """
        complete = self._agreed_steps()
        if step is None and not complete:
            return None
        step = complete[-1] if step is None else step
        if step not in complete:
            raise CheckpointError(f"no checkpoint of step {step} in {self.directory}; there are {complete}")
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{ARRAYS: ocp.args.StandardRestore(jax.tree.map(_shape, like)), RECORD: ocp.args.JsonRestore()}
            ),
        )
        return restored[ARRAYS], restored[RECORD]

    def restore_behind(self, like: Any) -> Any:
        """The parameters that sample the next batch after the newest checkpoint, or None if it has none of its own.

        Args:
          like: Pytree of arrays (or shapes) with the structure to restore.
        """
        complete = self._agreed_steps()
        if not complete or not (self._folder(complete[-1]) / BEHIND).exists():
            return None
        arguments = ocp.args.StandardRestore(jax.tree.map(_shape, like))
        return self._manager.restore(complete[-1], args=ocp.args.Composite(**{BEHIND: arguments}))[BEHIND]

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        # The manager's own list also holds the step that is being written, or whose writing failed.
        return sorted(found.step for found in ocp.path.step.standard_name_format().find_all(self.directory))

    def _agreed_steps(self) -> list[int]:
        """What the first process sees: others may see a folder of a shared file system a little later."""
        return hosts.exchanged("checkpoints", self.steps())[0]

    def best_step(self) -> int | None:
        """Step of the checkpoint with the best held-out accuracy; of several, the newest."""
        return max(self.steps(), key=lambda step: (self._accuracy(step), step), default=None)

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          CheckpointError: If a background write failed.
        """
        try:
            self._manager.wait_until_finished()
        except WRITE_ERRORS as error:
            raise self._failed(None, error) from error

    def close(self) -> None:
        """Waits and releases the manager's threads.

        Raises:
          CheckpointError: If a background write failed.
        """
        try:
            self.wait()
        finally:
            self._manager.close()

    def _discard_torn(self) -> None:
        """Removes what a kill or a full disk cut off.

        Only a writer may, and only while none of its own writes is under way: to one that merely reads, a checkpoint
        that another process is writing looks just the same. Of processes that train together the first one does.
        """
        for torn in self.directory.glob("*.orbax-checkpoint-tmp*"):
            if hosts.index() == 0:
                shutil.rmtree(torn, ignore_errors=True)

    def _folder(self, step: int) -> Path:
        return self.directory / ocp.path.step.standard_name_format().build_name(step)

    def _accuracy(self, step: int) -> float:
        metrics = self._manager.metrics(step)
        return _accuracy(metrics) if metrics else float("-inf")

    def _failed(self, step: int | None, error: Exception) -> CheckpointError:
        self._discard_torn()
        self._manager.reload()  # forgets the step that failed, so that it can be saved again
        what = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        complete = self.steps()
        kept = f"the last complete one is of step {complete[-1]}" if complete else "none is complete"
        return CheckpointError(
            f"could not write {what} to {self.directory}: {error}; {kept}. Free space and run the same command again"
        )


def save_tree(path: Path, tree: Any) -> None:
    """Writes one pytree of arrays; complete or not there at all.

    Raises:
      CheckpointError: If the disk refuses, or something is there already.
    """
    try:
        with _alone() as checkpointer:
            checkpointer.save(Path(path).absolute(), _detached(tree))
            checkpointer.wait_until_finished()
    except WRITE_ERRORS as error:
        raise CheckpointError(f"could not write parameters to {path}: {error}; make room and try again") from error


def load_tree(path: Path, like: Any) -> Any:
    """Reads what `save_tree` wrote, in the structure of `like`."""
    with _alone() as checkpointer:
        return checkpointer.restore(Path(path).absolute(), jax.tree.map(_shape, like))


def _alone() -> ocp.StandardCheckpointer:
    """Writes and reads without waiting for other processes."""
    own = hosts.index()
    alone = ocp.options.MultiprocessingOptions(own, {own}, f"process{own}") if hosts.count() > 1 else None
    return ocp.StandardCheckpointer(multiprocessing_options=alone) if alone else ocp.StandardCheckpointer()


def _accuracy(metrics: dict[str, float]) -> float:
    return metrics["accuracy"]


def _detached(tree: Any) -> Any:
    """Copies of arrays that live in host memory: the next update donates those buffers while they are being written."""

    def copy(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return np.array(leaf, copy=True)
        if next(iter(leaf.devices())).platform != "cpu":
            return leaf
        # What several devices hold is copied by each, and each process writes what its own hold.
        return np.array(leaf, copy=True) if len(leaf.devices()) == 1 else jnp.copy(leaf)

    return jax.tree.map(copy, tree)


def _shape(leaf: Any) -> Any:
    """What orbax restores into: JAX arrays come back as such, NumPy ones in NumPy with all their bits (float64)."""
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return np.asarray(leaf)
