"""Several arms in one compiled function, where only the shaping differs."""

from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, Int

from agent_tunix.types import Rollouts, Score, Shaping


def chosen(arms: Mapping[str, Shaping], index: Int[Array, ""]) -> Shaping:
    """The shaping at a place in a mapping, which may be traced, so that a paper compiles once for all that it compares.

    Its state is the tuple of all states, of which an update changes one.
    """
    shapings = tuple(arms.values())

    def update(score: Score, state: tuple, rollouts: Rollouts) -> tuple[Score, tuple]:
        def branch(place: int) -> Any:
            def run(score: Score) -> tuple[Array, Array, tuple]:
                shaped, after = shapings[place].update(score, state[place], rollouts)
                return shaped.value, shaped.valid, (*state[:place], after, *state[place + 1 :])

            return run

        value, valid, after = jax.lax.switch(index, [branch(place) for place in range(len(shapings))], score)
        return Score(value, valid, score.parts, per_token=score.per_token), after

    return Shaping(init=lambda: tuple(shaping.init() for shaping in shapings), update=update)
