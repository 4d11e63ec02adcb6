"""Shapley credit: the pieces of a completion are paid their shares in its reward, instead of all at the end.

Claim: A reward at the end of a completion says little about its pieces. Paying each piece its Shapley value, what it
  adds to a completion with other pieces missing, learns faster and leaves the best policy as it is.
Method: With v(C) the reward of the completion with only the pieces C, :math:`\\phi_i` is what i adds to v, averaged
  over the orders in which pieces may join; a token is credited with the shares from its piece on
  (`agent_tunix.advantages.reward_to_go`). Shares add up to :math:`v(N) - v(\\emptyset)`.
Here: Kept: exact shares, which the core has for text as `agent_tunix.rewards.shapley`, estimates from orders and Owen's
  value as well. Simplified, all ours: eight symbols out of six, drawn independently; 1 for each of three hidden pairs
  that match, 0.5 for each symbol that is its target; missing ones count nothing; batches of 32, 150 updates; gradient
  steps at rate 1, and Adam at 0.1. Baselines of the credit are the mean reward of the group, and the mean of the shares
  from each place on. No recipe: cutting text into pieces of tokens needs a tokenizer, which rewards do not have.
Run: `agent-tunix papers run shapley_credit`.
Seen: Not reproduced. 2 cores (AMD EPYC), 2026-12-01, five seeds: 90 % of the greatest reward after 88 updates, against
  57 with all reward at the end; with Adam and a baseline for each place 53 against 61, within the noise. The share of
  an earlier piece depends on later ones, which are not credited with it: of what a pair is worth, the later piece sees
  half the gradient (a law below). Rates from 0.5 to 32, Adam from 0.05 to 0.4, batches of 8 and half the reward at the
  end did not bring it to 0.6 of the updates either.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from agent_tunix import advantages, rewards
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper
from agent_tunix.types import Score

PLACES, SYMBOLS, UPDATES, ENOUGH = 8, 6, 150, 0.9
WORLD = lab.World(
    start=lambda key, prompt: jnp.zeros((), jnp.int32),
    step=lambda key, place, action: (place + 1, place == PLACES - 1),
    observe=lambda place: place,
    horizon=PLACES,
)


class Game(NamedTuple):
    """Places that should match, the first and the second ones, and the symbol that each place should have."""

    pairs: Int[Array, "2 three"]
    targets: Int[Array, " places"]


def drawn(rng: np.random.Generator) -> tuple[Game, float]:
    """A game, and the greatest reward."""
    order, targets = rng.permutation(PLACES), rng.integers(0, SYMBOLS, PLACES)
    pairs = order[:6].reshape(2, 3)
    best = 1.0 + sum(2.0 if targets[one] == targets[other] else 1.5 for one, other in pairs.T)
    return Game(jnp.asarray(pairs), jnp.asarray(targets)), best


def worth(game: Game, symbols: Int[Array, "*batch places"], members: Bool[Array, " places"]) -> Float[Array, "*batch"]:
    """The reward of the symbols of some places."""
    first, second = game.pairs
    match = (symbols[..., first] == symbols[..., second]) & members[first] & members[second]
    return match.sum(-1) + 0.5 * ((symbols == game.targets) & members).sum(-1)


def by_place(score: Score) -> Float[Array, "prompts group places"]:
    """The rewards from each place on, above their mean over the group."""
    returns = jnp.cumsum(jnp.asarray(score.per_token)[..., ::-1], -1)[..., ::-1]
    return jax.vmap(jax.vmap(advantages.leave_one_out, 1, 1))(returns, jnp.ones(returns.shape, bool))


CREDITS = {"terminal": lab.GROUPED["leave_one_out"], "shapley": advantages.reward_to_go, "by_place": by_place}


@functools.cache
def _trained(arm: str, adam: bool) -> Any:
    def run(key: Key[Array, ""], game: Game) -> Float[Array, " updates"]:
        def reward(key: Key[Array, ""], sampled: lab.Sampled) -> Score:
            del key
            shares = rewards.shapley_values(functools.partial(worth, game, sampled.actions), PLACES)
            return lab.per_token(jnp.moveaxis(shares, 0, -1), sampled.completion_mask)

        def expected(params: Any, *_: Any) -> dict[str, Array]:
            chance, (first, second) = jax.nn.softmax(params), game.pairs
            hits = chance[jnp.arange(PLACES), game.targets].sum()
            return {"reward": (chance[first] * chance[second]).sum() + 0.5 * hits}

        toy = lab.tabular(WORLD, jnp.zeros((PLACES, SYMBOLS)), prompts=1, group=32)
        given = {"steps": UPDATES, "rate": 1.0, "optimizer": optax.adam(0.1) if adam else None}
        return lab.learn(toy, reward, key=key, advantage=CREDITS[arm], measure=expected, **given).history["reward"]

    return jax.jit(run)


def reproduce(seed: int) -> Measured:
    """Updates until the expected reward is 90 % of the greatest, all of them where it never is; and the last one."""
    game, best = drawn(np.random.default_rng(seed))
    found: dict[str, Any] = {}
    for arm in CREDITS:
        for name, adam in ((arm, False), (f"{arm}_adam", True)):
            curve = np.asarray(_trained(arm, adam)(jax.random.key(seed), game)) / best
            reached = np.flatnonzero(curve >= ENOUGH)
            updates = float(reached[0]) if len(reached) else float(UPDATES)
            found |= {f"{name}/updates": updates, f"{name}/reward": float(curve[-1]), f"{name}/curve": curve}
    return found


def shares_add_up(rng: np.random.Generator) -> bool:
    """Shares add up to the reward; of a match each place of the pair gets half, and of a target its place all."""
    (game, _), symbols = drawn(rng), jnp.asarray(rng.integers(0, 2, (5, PLACES)))
    play, (first, second) = functools.partial(worth, game, symbols), game.pairs
    shares = rewards.shapley_values(play, PLACES).T
    match = jnp.tile(symbols[:, first] == symbols[:, second], 2)
    known = (0.5 * (symbols == game.targets)).at[:, game.pairs.ravel()].add(0.5 * match)
    whole = play(jnp.ones(PLACES, bool))
    return bool(np.allclose(shares.sum(1), whole, atol=1e-5) and np.allclose(shares, known, atol=1e-5))


def the_later_of_a_pair_is_pulled_by_half(rng: np.random.Generator) -> bool:
    """What the earlier piece is paid depends on the later one, which is not credited with it: half the gradient."""
    logits = rng.normal(size=(2, SYMBOLS))
    one, other = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    true = other * (one - one @ other)  # of the chance of a match
    credited = sum(
        one[a] * other[b] * 0.5 * (a == b) * (np.eye(SYMBOLS)[b] - other)
        for a in range(SYMBOLS)
        for b in range(SYMBOLS)
    )
    return bool(np.allclose(credited, 0.5 * true))


PAPER = Paper(
    title="SCAR: Shapley Credit Assignment for More Efficient RLHF",
    authors="Cao, Zhang, Chang, and others",
    year=2025,
    arxiv="2505.20417",
    checked="pages about the paper",
    comparisons=(
        Comparison("updates until 90 % of the greatest reward", "terminal/updates", "shapley/updates"),
        Comparison("the same, baseline of each place", "terminal/updates", "by_place/updates"),
        Comparison("the same, with Adam", "terminal_adam/updates", "by_place_adam/updates"),
        Comparison("share of the greatest reward after 150 updates", "terminal/reward", "shapley/reward"),
    ),
    checks=(Check("0.6 of the updates", lambda m: m["shapley/updates"] / m["terminal/updates"], at_most=0.6),),
    laws=(shares_add_up, the_later_of_a_pair_is_pulled_by_half),
    curves={f"{arm}/curve": arm.replace("_", " ") for arm in CREDITS},
)
