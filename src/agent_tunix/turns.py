"""Credit within an episode: rewards of turns to advantages of turns, and of turns to tokens.

Arrays over turns are padded on the right; `there` is False where an episode has no such turn. Functions of one group or
of one sequence are lifted by `jax.vmap`, as those of `agent_tunix.advantages`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from agent_tunix.advantages import group_normalized


def to_go(rewards: Float[Array, "*batch turns"], *, gamma: float = 1.0) -> Float[Array, "*batch turns"]:
    r"""Rewards from each turn on.

    .. math:: R_k = \sum_{j \ge k} \gamma^{j-k} r_j

    Args:
      rewards: 0 where there is no turn.
      gamma: Discount per turn, in [0, 1].

    Examples:
      >>> to_go(jnp.array([0.0, 1.0, 2.0]), gamma=0.5)
      Array([1., 2., 2.], dtype=float32)
    """

    def before(later: Array, reward: Array) -> tuple[Array, Array]:
        returns = reward + gamma * later
        return returns, returns

    _, returns = jax.lax.scan(before, jnp.zeros(rewards.shape[:-1]), jnp.moveaxis(rewards, -1, 0), reverse=True)
    return jnp.moveaxis(returns, 0, -1)


def turn_level(
    rewards: Float[Array, "group turns"],
    there: Bool[Array, "group turns"],
    *,
    estimator: Callable[[Array, Array], Array] = group_normalized,
    gamma: float = 1.0,
) -> Float[Array, "group turns"]:
    r"""Compares what the members of a group still get with each other, turn by turn.

    .. math:: A_{ik} = f\big(R_{1k}, \dots, R_{Gk}\big)_i, \qquad R_{ik} = \sum_{j \ge k} \gamma^{j-k} r_{ij}

    with f an estimator of one group over the members that have a k-th turn. A turn that only one member has, or of
    which all get the same from then on, gets exactly 0. Members at the same turn need not be in the same place of the
    world: the baseline is one of time, not of state.

    Args:
      rewards: Of every turn; anything where there is none.
      there: Where there is a turn.
      estimator: `(rewards[group], valid[group]) -> advantages[group]`, one of `agent_tunix.advantages`.
      gamma: Discount per turn, in [0, 1].

    Returns:
      Advantages of turns, in the unit of the estimator; 0 where there is no turn.

    Examples:
      >>> rewards, there = jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.full((2, 2), True)
      >>> turn_level(rewards, there).round(3)  # after the first turn both get nothing
      Array([[ 0.707,  0.   ],
             [-0.707,  0.   ]], dtype=float32)

    References:
      Shao et al., 2024, DeepSeekMath, section 4.1.3 (process supervision), arXiv:2402.03300, credits a token with the
      normalized rewards of the steps from it on; the comparison at equal turns is ours.
    """
    returns = to_go(jnp.where(there, rewards, 0.0), gamma=gamma)
    return jax.vmap(estimator, in_axes=1, out_axes=1)(returns, there)


def over_tokens(
    credit: Float[Array, "*batch turns"], ends: Int[Array, "*batch turns"], tokens: int
) -> Float[Array, "*batch tokens"]:
    """Gives every token what its turn has; a token belongs to the first turn that ends at it or behind it.

    Args:
      credit: Of every turn.
      ends: Place of the last token of each turn, increasing; `tokens` where there is no turn.
      tokens: Length of a completion.

    Returns:
      0 behind the last turn. Tokens of observations carry what the turn after them has; masks leave them out.

    Examples:
      >>> over_tokens(jnp.array([1.0, 2.0]), jnp.array([1, 2]), 4)
      Array([1., 1., 2., 0.], dtype=float32)
    """
    real = jnp.where(ends < tokens, credit, 0.0)
    padded = jnp.concatenate([real, jnp.zeros_like(real[..., :1])], axis=-1)
    return jnp.take_along_axis(padded, _turn_of(ends, tokens), axis=-1)


def of_tokens(rewards: Float[Array, "*batch tokens"], ends: Int[Array, "*batch turns"]) -> Float[Array, "*batch turns"]:
    """Adds up the rewards of the tokens of each turn.

    Args:
      rewards: Per token.
      ends: As in `over_tokens`.

    Returns:
      Sums, 0 where there is no turn.

    Examples:
      >>> of_tokens(jnp.array([1.0, 2.0, 4.0, 8.0]), jnp.array([1, 2]))
      Array([3., 4.], dtype=float32)
    """
    tokens = rewards.shape[-1]
    own = _turn_of(ends, tokens)[..., None, :] == jnp.arange(ends.shape[-1])[:, None]
    sums = jnp.sum(jnp.where(own, rewards[..., None, :], 0.0), axis=-1)
    return jnp.where(ends < tokens, sums, 0.0)


def _turn_of(ends: Int[Array, "*batch turns"], tokens: int) -> Int[Array, "*batch tokens"]:
    """The turn that each token belongs to, counted; past the last one behind it."""
    return jnp.sum(ends[..., None, :] < jnp.arange(tokens)[:, None], axis=-1)


def gae(
    rewards: Float[Array, " tokens"],
    values: Float[Array, " tokens"],
    mask: Bool[Array, " tokens"],
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
) -> Float[Array, " tokens"]:
    r"""Generalized advantage estimation along a sequence of which only some tokens are the policy's.

    .. math:: \delta_t = r_t + \gamma V_{t'} - V_t, \qquad A_t = \delta_t + \gamma \lambda A_{t'}

    with :math:`t'` the next token of the mask, and both 0 behind the last one. Tokens outside of the mask, such as
    observations between turns, are passed over: they are no steps, and the result is that of the sequence without them.

    Args:
      rewards: Per token; one outside of the mask is never seen, so the reward of a turn belongs on its last token.
      values: A critic's expectation before each token, in reward units; anything outside of the mask.
      mask: True on the policy's tokens.
      gamma: Discount per token of the mask, in [0, 1].
      lam: 0 for one-step differences, 1 for returns less values.

    Returns:
      Advantages in reward units, 0 outside of the mask; with `values` added they are a critic's targets.

    References:
      Schulman et al., 2016, High-Dimensional Continuous Control Using Generalized Advantage Estimation,
      arXiv:1506.02438. Passing over observations: Wang and Ammanabrolu, 2025, arXiv:2510.01132, and their code.
    """

    def before(carry: tuple[Array, Array], token: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], Array]:
        (value_after, later), (reward, value, own) = carry, token
        advantage = reward + gamma * value_after - value + gamma * lam * later
        carry = jnp.where(own, value, value_after), jnp.where(own, advantage, later)
        return carry, jnp.where(own, advantage, 0.0)

    zero = jnp.zeros((), rewards.dtype)
    _, advantages = jax.lax.scan(before, (zero, zero), (rewards, values, mask), reverse=True)
    return advantages
