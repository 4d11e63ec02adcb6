"""What is done to a score between the reward and the advantage, in the manner of optax transformations.

A shaping is a pair `(init, update)`; `update` is pure, so that it can be jitted, and its state is a pytree of arrays
that is checkpointed beside the optimizer. Entries that are not valid stay as they are and enter no statistic.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from agent_tunix.types import Rollouts, Score, Shaping


def identity() -> Shaping:
    """Leaves scores as they are."""
    return Shaping(init=lambda: (), update=lambda score, state, rollouts: (score, state))


def chain(*shapings: Shaping) -> Shaping:
    """Applies shapings one after the other, the first one first.

    Args:
      *shapings: Any number of shapings; none is the identity.

    Returns:
      A shaping whose state is the tuple of theirs.

    Raises:
      TypeError: An argument is not a `Shaping`.
    """
    for shaping in shapings:
        if not isinstance(shaping, Shaping):
            raise TypeError(f"chain takes Shapings, got {shaping!r:.80} ({type(shaping).__name__}); call its factory")

    def update(score: Score, state: tuple, rollouts: Rollouts) -> tuple[Score, tuple]:
        after = []
        for shaping, before in zip(shapings, state, strict=True):
            score, remembered = shaping.update(score, before, rollouts)
            after.append(remembered)
        return score, tuple(after)

    return Shaping(
        init=lambda: tuple(shaping.init() for shaping in shapings),
        update=update,
        needs_reference=any(shaping.needs_reference for shaping in shapings),
    )


class RunningMean(NamedTuple):
    """State of `center_running`, three scalars.

    Attributes:
      total: Decayed sum of batch means, in reward units.
      weight: Decayed number of batches; 0 before the first one.
      batches: Number of batches seen that held a valid entry.
    """

    total: Array
    weight: Array
    batches: Array


def center_running(decay: float = 0.99) -> Shaping:
    r"""Subtracts a running mean of the reward, a baseline that remembers earlier batches.

    .. math:: b_k = \frac{\sum_{j \le k} \gamma^{k-j} \bar r_j}{\sum_{j \le k} \gamma^{k-j}}

    with :math:`\bar r_j` the mean over the valid entries of batch :math:`j`; the present batch counts, so the first
    one is centered on its own mean. A batch without valid entries changes nothing.

    Args:
      decay: Weight :math:`\gamma` of the past per batch, in [0, 1).

    Returns:
      A shaping with a `RunningMean` as state.

    Raises:
      ValueError: The decay lies outside of [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"center_running got decay={decay}; give a number in [0, 1)")

    def update(score: Score, state: RunningMean, rollouts: Rollouts) -> tuple[Score, RunningMean]:
        del rollouts
        value, valid = jnp.asarray(score.value), jnp.asarray(score.valid)
        count = valid.sum()
        mean = jnp.where(valid, value, 0).sum() / jnp.maximum(count, 1)
        seen = RunningMean(decay * state.total + mean, decay * state.weight + 1, state.batches + 1)
        state = RunningMean(*(jnp.where(count > 0, new, old) for new, old in zip(seen, state, strict=True)))
        baseline = state.total / jnp.maximum(state.weight, 1)  # the weight is at least 1 once a batch was seen
        return dataclasses.replace(score, value=jnp.where(valid, value - baseline, 0)), state

    return Shaping(init=lambda: RunningMean(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32)), update=update)
