"""Decision processes as tables, solved exactly: many of them at once, in float64.

Arrays may have further axes in front, one process per entry.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Process(NamedTuple):
    """A decision process without its reward.

    Attributes:
      transition: Probability of every next state.
      start: Probability of every first state.
      discount: In [0, 1).
    """

    transition: Float[np.ndarray, "*many states actions next"]
    start: Float[np.ndarray, " states"]
    discount: float


def random_process(
    rng: np.random.Generator, *many: int, states: int = 20, actions: int = 4, discount: float = 0.9
) -> Process:
    """Draws processes in which an action leads to about one state in six, and that start anywhere."""
    weight = rng.normal(size=(*many, states, actions, states))
    weight = np.where(weight > 1, weight, 0.0) + 1e-9
    return Process(weight / weight.sum(-1, keepdims=True), np.full(states, 1 / states), discount)


def expected(
    process: Process, reward: Float[np.ndarray, "*many states actions next"]
) -> Float[np.ndarray, "*many states actions"]:
    """Mean reward of an action, over where it leads."""
    return (process.transition * reward).sum(-1)


def values(
    process: Process,
    reward: Float[np.ndarray, "*many states actions"],
    policy: Float[np.ndarray, "*many states actions"],
) -> Float[np.ndarray, "*many states"]:
    """Value of every state under a policy, by solving Bellman's equation."""
    moves = (policy[..., None] * process.transition).sum(-2)
    own = (policy * reward).sum(-1)
    left = np.eye(own.shape[-1]) - process.discount * moves
    return np.linalg.solve(left, own[..., None])[..., 0]


def action_values(
    process: Process, reward: Float[np.ndarray, "*many states actions"], value: Float[np.ndarray, "*many states"]
) -> Float[np.ndarray, "*many states actions"]:
    """Value of every action, where that of the next state is given."""
    return reward + process.discount * (process.transition * value[..., None, None, :]).sum(-1)


def best(
    process: Process, reward: Float[np.ndarray, "*many states actions"]
) -> Float[np.ndarray, "*many states actions"]:
    """A best policy, by policy iteration until no action changes."""
    policy = _greedy(reward)
    while True:
        # A tie must not turn over for ever, so an action is left only for one that is better by more than rounding.
        worth = action_values(process, reward, values(process, reward, policy)) + 1e-9 * policy
        better = _greedy(worth)
        if np.array_equal(better, policy):
            return policy
        policy = better


def worth(
    process: Process,
    reward: Float[np.ndarray, "*many states actions"],
    policy: Float[np.ndarray, "*many states actions"],
) -> Float[np.ndarray, "*many"]:
    """Expected discounted reward of a policy from the start."""
    return values(process, reward, policy) @ process.start


def regret(
    process: Process,
    meant: Float[np.ndarray, "*many states actions"],
    optimised: Float[np.ndarray, "*many states actions"],
) -> Float[np.ndarray, "*many"]:
    """What the best policy of one reward loses of another, as a share of all there is to lose."""
    found, most, least = (worth(process, meant, best(process, target)) for target in (optimised, meant, -meant))
    return (most - found) / (most - least)


def _greedy(worth: Float[np.ndarray, "*many states actions"]) -> Float[np.ndarray, "*many states actions"]:
    choice: Int[np.ndarray, "*many states"] = worth.argmax(-1)
    return np.eye(worth.shape[-1])[choice]
