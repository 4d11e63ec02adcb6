"""Shares of the pieces of a completion in its reward: the values of Shapley and of Owen, and a reward per token."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from agent_tunix.rewards._tokens import from_tokens
from agent_tunix.types import Reward

MOST = 12
"""Players of a game whose coalitions are all looked at; 4096 of them."""

Worth = Callable[[Bool[Array, " players"]], Array]
"""What a coalition is worth, from its members: an array of any shape, the games that are played at once."""


def shapley_values(
    worth: Worth, players: int, orders: Int[Array, "orders players"] | None = None
) -> Float[Array, "players *games"]:
    r"""What each player adds to a coalition, averaged over the orders in which players may join.

    .. math:: \phi_i = \sum_{C \not\ni i} \frac{|C|!\,(n - |C| - 1)!}{n!}\big(v(C \cup i) - v(C)\big)

    Whatever the orders, the values add up to the worth of all less that of none. Over all orders, players who add the
    same have equal values, and one who adds nothing has none.

    Args:
      worth: v, traced once and called for all coalitions at once; it has to bear that much memory.
      players: Their number n.
      orders: Orders of joining from `joining_orders`, for an estimate from n + 1 coalitions each; it is unbiased. None
        is exact, from all of the 2^n coalitions.

    Returns:
      Values, in units of the worth.

    Raises:
      ValueError: Too many players to look at all coalitions.

    References:
      Shapley, 1953, A Value for n-Person Games.
    """
    if orders is not None:
        return jnp.mean(jax.vmap(functools.partial(_added, worth))(orders), axis=0)
    if players > MOST:
        raise ValueError(
            f"shapley_values got {players} players, whose {2.0**players:.3g} coalitions are too many; give orders"
        )
    members, weights = _coalitions(players)
    return jnp.tensordot(jnp.asarray(weights, jnp.float32), jax.vmap(worth)(jnp.asarray(members)), axes=1)


def joining_orders(
    key: Key[Array, ""], players: int, pairs: int, blocks: Int[Array, " players"] | None = None
) -> Int[Array, "orders players"]:
    """Draws orders in which players join, each with its reverse, whose errors partly cancel.

    Args:
      key: Random key.
      players: Their number.
      pairs: Half the number of orders.
      blocks: Block of every player, from 0, such as the sentence of a phrase. The players of a block then join one
        after the other, which makes the estimate one of Owen's value: blocks share as players do, and players share
        within their block.

    References:
      Owen, 1977, Values of Games with a Priori Unions.
    """
    return _drawn(key, jnp.arange(players) if blocks is None else jnp.asarray(blocks), pairs)


@functools.partial(jax.jit, static_argnums=2)
def _drawn(key: Key[Array, ""], blocks: Int[Array, " players"], pairs: int) -> Int[Array, "orders players"]:
    turn, place = jax.random.uniform(key, (2, pairs, len(blocks)))  # of blocks, and of players within theirs
    drawn = jnp.lexsort((place, turn[:, blocks]))
    return jnp.concatenate([drawn, drawn[:, ::-1]])


def _added(worth: Worth, order: Int[Array, " players"]) -> Array:
    """What each player adds in one order, by player."""
    place = jnp.argsort(order)
    worths = jax.vmap(lambda count: worth(place < count))(jnp.arange(len(order) + 1))
    return (worths[1:] - worths[:-1])[place]


@functools.cache
def _coalitions(players: int) -> tuple[np.ndarray, np.ndarray]:
    """Members of all coalitions, `[coalitions players]`, and what each counts for a player, `[players coalitions]`."""
    members = (np.arange(2**players)[:, None] >> np.arange(players)) & 1 == 1
    chances = np.array([1 / (players * math.comb(players - 1, size)) for size in range(players)])
    size = members.sum(1)
    joined, left = chances[np.maximum(size - 1, 0)], chances[np.minimum(size, players - 1)]
    return members, np.where(members, joined[:, None], -left[:, None]).T


def shapley(
    worth: Callable[[Array, Array], Array],
    units: Callable[[Array, Array], Array],
    players: int,
    *,
    share: float = 1.0,
    name: str = "shapley",
    bounds: tuple[float, float] | None = None,
) -> Reward:
    r"""Pays the pieces of a completion their shares in its reward, instead of all at the end.

    Rewards per token add up to the reward of the completion. They are no shaping by a potential, though: what an early
    piece is paid depends on later ones, so that credit from a token on, `agent_tunix.advantages.reward_to_go`, leaves
    out what a token did for earlier pieces. Of a reward for two pieces that fit together, the later one sees half. And
    the function has to say something sensible of completions with pieces missing, which it may never have been meant
    for. Normalising shares within a group would make them add up to something else.

    Args:
      worth: `(completion_ids, mask) -> [prompts group]`, in `jax.numpy`: the reward of the tokens in the mask, in their
        order and with gaps. What it makes of a gap (nothing, a blank, a token) is its business.
      units: `(completion_ids, completion_mask) -> [prompts group tokens]`: which piece a token belongs to, from 0 up to
        `players`, such as the number of separators before it.
      players: Most pieces, at most 12: all their coalitions are looked at, 2^players calls of `worth`.
      share: How much of the reward is paid by share; the rest, and what no tokens at all are worth, is paid with the
        last token.
      name: Name of the part in metrics.
      bounds: Least and greatest reward of a completion.

    Returns:
      A reward with rewards per token; a piece is paid with its last one.

    Raises:
      ValueError: Too many players; when called: as `from_tokens`.

    References:
      Cao et al., 2025, SCAR: Shapley Credit Assignment for More Efficient RLHF, arXiv:2505.20417.
    """
    if not 1 <= players <= MOST:
        raise ValueError(f"shapley got {players} players; give 1 to {MOST} and longer pieces, or use shapley_values")

    def per_token(ids: Array, mask: Array) -> Array:
        piece = jnp.clip(units(ids, mask), 0, players - 1)
        values = shapley_values(lambda members: worth(ids, mask & members[piece]), players)
        own = mask[..., None] & (piece[..., None] == jnp.arange(players))
        paid = jnp.einsum("pgtn,npg->pgt", (own & _last(own, 2)).astype(values.dtype), values)
        whole = worth(ids, mask)
        return share * paid + jnp.where(_last(mask, 2), (whole - share * paid.sum(-1))[..., None], 0.0)

    return from_tokens(per_token, name=name, bounds=bounds)


def _last(marked: Bool[Array, "..."], axis: int) -> Bool[Array, "..."]:
    """True at the last True along an axis."""
    return marked & (jnp.cumsum(marked[:, :, ::-1], axis=axis)[:, :, ::-1] == 1)
