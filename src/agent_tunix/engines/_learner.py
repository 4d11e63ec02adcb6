"""Tunix's `GRPOLearner` with our batches: what it asks for is sampled, scored and credited as in `training`."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from tunix.rl.grpo.grpo_learner import GRPOLearner

from agent_tunix.collecting import Batches
from agent_tunix.engines._cluster import Cluster
from agent_tunix.engines._loss import Algorithm, Example
from agent_tunix.types import Reward, Row

Make = Callable[[Sequence[Row]], Example]
"""From the rows of a batch to what is trained on."""


class Learner(GRPOLearner[Algorithm]):
    """Tunix's learner over whole batches.

    Tunix samples and trains one minibatch after the other, each by the policy that the one before has left. Here a
    batch is sampled whole, as in our engine, and handed to the trainer once for each of its updates
    (`Cluster.update_actor` takes the rows).

    Args:
      cluster: Models, sampler and trainer.
      algorithm: The settings that Tunix wants.
      reward: Scores completions.
      make: Samples, scores and credits a batch.
      updates: Per batch.
      before: Asked before every batch; False ends training.
      after: Told after every batch.
    """

    def __init__(
        self,
        cluster: Cluster,
        algorithm: Algorithm,
        reward: Reward,
        *,
        make: Make,
        updates: int,
        before: Callable[[], bool],
        after: Callable[[], None],
    ) -> None:
        rewards: list[Any] = [reward]
        super().__init__(rl_cluster=cluster, algo_config=algorithm, reward_fns=rewards)
        self._make, self._updates, self._before, self._after = make, updates, before, after

    def _num_iterations(self) -> int:
        return self._updates

    def _generate_and_compute_advantage(self, training_input: Any, mode: Any = None) -> Example:
        """Tunix repeats every row for its group."""
        del mode
        return self._make(training_input["rows"][:: self._num_generations()].tolist())

    def _run_global_step(self, *arguments: Any) -> None:
        if not self._before():
            raise StopIteration  # how Tunix's loop knows that there is no more data
        super()._run_global_step(*arguments)
        self._after()


def rows_for(batches: Batches) -> Iterator[dict[str, Any]]:
    """Batches in Tunix's form: columns, of which one holds the rows themselves."""
    while True:
        rows = next(batches)
        column = np.empty(len(rows), object)
        column[:] = rows
        yield {"prompts": np.array([row["prompt"] for row in rows]), "rows": column}


@dataclasses.dataclass
class Given:
    """Batches of which the first has been drawn already.

    Attributes:
      rows: That one.
      batches: Where the others come from.
    """

    rows: Sequence[Row] | None
    batches: Batches

    def __next__(self) -> Sequence[Row]:
        """The next batch."""
        rows, self.rows = self.rows, None
        return next(self.batches) if rows is None else rows

    def get_state(self) -> dict[str, Any]:
        """Of the batches behind."""
        return self.batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Of the batches behind."""
        self.batches.set_state(state)
