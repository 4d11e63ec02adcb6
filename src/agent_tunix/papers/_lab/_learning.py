"""Policy gradients on toys with the shaping, the advantage and the loss of the core."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from agent_tunix import advantages, losses, rewards
from agent_tunix.types import Advantage, Loss, Score, Shaping, TokenBatch


class Sampled(NamedTuple):
    """What a toy did, and what shapings ask of rollouts.

    Attributes:
      actions: Taken in turn; anything after the end of an episode.
      states: What each was taken in: a row of the table, or the symbol before.
      completion_mask: True on actions until the end of the episode, the one that ends it included.
      truncated: True where the horizon ended the episode.
      trail: Further arrays of the world for every action, `[prompts group tokens ...]`; the full states of a `World`.
    """

    actions: Int[Array, "prompts group tokens"]
    states: Int[Array, "prompts group tokens"]
    completion_mask: Bool[Array, "prompts group tokens"]
    truncated: Bool[Array, "prompts group"]
    trail: Any = ()

    @property
    def shape(self) -> tuple[int, int]:
        """`(prompts, group)`."""
        return self.truncated.shape[0], self.truncated.shape[1]

    @property
    def lengths(self) -> Int[Array, "prompts group"]:
        """Actions of each episode."""
        return self.completion_mask.sum(-1)

    @property
    def last(self) -> Int[Array, "prompts group"]:
        """The last action of each episode; of a bandit, the arm."""
        return jnp.take_along_axis(self.actions, self.lengths[..., None] - 1, -1)[..., 0]


class Toy(NamedTuple):
    """A policy and its world.

    Attributes:
      init: Key to the parameters it starts from.
      sample: `(params, key) -> Sampled`.
      logprobs: `(params, sampled) -> (log-probabilities of the actions, entropies)`, nats, `[prompts group tokens]`.
    """

    init: Callable[[Key[Array, ""]], Any]
    sample: Callable[[Any, Key[Array, ""]], Sampled]
    logprobs: Callable[[Any, Sampled], tuple[Array, Array]]


class Learned(NamedTuple):
    """The end of `learn`.

    Attributes:
      params: After the last update.
      history: What `measure` returned before every update, stacked over updates.
      shaping: The last state of the shaping.
    """

    params: Any
    history: dict[str, Array]
    shaping: Any


REINFORCE: Loss = losses.policy_loss(losses.clipped(0.2), aggregation=losses.sequence_mean_token_sum)
"""Where the policy that samples is the one that is trained: the policy gradient of whole episodes, unbiased."""

GROUPED: dict[str, Advantage] = {
    "group_normalized": advantages.per_group(advantages.group_normalized),
    "leave_one_out": advantages.per_group(advantages.leave_one_out),
}
"""With and without the deviation of the group, which hides some effects and makes others."""


def score(value: Array, valid: Array | None = None, per_token: Array | None = None, **parts: Array) -> Score:
    """A core `Score` of arrays; every entry is valid unless said otherwise."""
    value = jnp.asarray(value, jnp.float32)
    return Score(value, jnp.ones(value.shape, bool) if valid is None else valid, parts, per_token=per_token)


def per_token(rewards_: Float[Array, "prompts group tokens"], mask: Bool[Array, "prompts group tokens"]) -> Score:
    """A score whose value is the sum of rewards given to single actions, for credit such as `reward_to_go`."""
    kept = jnp.where(mask, rewards_, 0.0)
    return score(kept.sum(-1), per_token=kept)


def learn(
    toy: Toy,
    reward: Callable[[Key[Array, ""], Sampled], Score],
    *,
    key: Key[Array, ""],
    steps: int,
    shaping: Shaping | None = None,
    advantage: Advantage = GROUPED["leave_one_out"],
    loss: Loss = REINFORCE,
    optimizer: optax.GradientTransformation | None = None,
    rate: float = 0.3,
    penalty: Callable[[Any], Array] = lambda params: jnp.zeros(()),
    measure: Callable[[Any, Sampled, Score], dict[str, Array]] = lambda params, sampled, raw: {},
    start: Any = None,
) -> Learned:
    """Trains a toy, one update per batch of episodes. Pure: jit it, vmap it.

    Args:
      toy: What acts.
      reward: Scores episodes; the key is for rewards that draw.
      key: Random key of the whole run.
      steps: Updates.
      shaping: What is done to scores; none without.
      advantage: From scores to credit, for episodes or for actions.
      loss: Of the core.
      optimizer: Plain gradient steps of size `rate` unless given.
      rate: Their size.
      penalty: Added to the loss, such as an exact divergence from a reference.
      measure: What to keep of every update: `(params before it, episodes, raw score)` to numbers.
      start: Parameters to start from; those of `toy.init` unless given.

    Returns:
      Parameters and what was measured, numbers by name with one entry per update.
    """
    chosen = rewards.identity() if shaping is None else shaping
    transform = optax.sgd(rate) if optimizer is None else optimizer
    begin, run = jax.random.split(key)
    params = toy.init(begin) if start is None else start
    reference = params

    def update(carry: tuple[Any, Any, Any], key: Key[Array, ""]) -> tuple[tuple[Any, Any, Any], dict[str, Array]]:
        params, state, remembered = carry
        act, judge = jax.random.split(key)
        sampled = toy.sample(params, act)
        raw = reward(judge, sampled)
        shaped, remembered = chosen.update(raw, remembered, sampled)  # pyright: ignore[reportArgumentType]
        mask, credit = sampled.completion_mask, advantage(shaped)
        credit = jnp.broadcast_to(credit if credit.ndim == 3 else credit[..., None], mask.shape)
        fixed = toy.logprobs(reference, sampled)[0] if loss.needs_reference else None

        def objective(params: Any) -> Array:
            logprobs, entropies = toy.logprobs(params, sampled)
            old = jax.lax.stop_gradient(logprobs)
            batch = TokenBatch(logprobs, entropies, old, old, fixed, credit, mask)
            per, _ = loss.per_token(batch)
            return jnp.sum(jnp.where(mask, per, 0.0) * loss.weights(mask, sampled.truncated)) + penalty(params)

        gradient = jax.grad(objective)(params)
        changes, state = transform.update(gradient, state, params)
        return (optax.apply_updates(params, changes), state, remembered), measure(params, sampled, raw)

    carry = (params, transform.init(params), chosen.init())
    (params, _, remembered), history = jax.lax.scan(update, carry, jax.random.split(run, steps))
    return Learned(params, history, remembered)
