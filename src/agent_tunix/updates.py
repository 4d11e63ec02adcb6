"""The compiled half of training: minibatches, the update, log-probabilities of the reference."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from agent_tunix.models import Parameters, Policy, merged
from agent_tunix.types import Loss, Params, Rollouts, TokenBatch


class Minibatch(NamedTuple):
    """What one update sees: whole groups, so that a prompt is computed once."""

    prompt_ids: Int[Any, "prompts prompt_tokens"]
    prompt_mask: Bool[Any, "prompts prompt_tokens"]
    completion_ids: Int[Any, "prompts group tokens"]
    completion_mask: Bool[Any, "prompts group tokens"]
    truncated: Bool[Any, "prompts group"]
    logprobs: Float[Any, "prompts group tokens"]
    old_logprobs: Float[Any, "prompts group tokens"]
    ref_logprobs: Float[Any, "prompts group tokens"] | None
    advantages: Float[Any, "prompts group tokens"]


Update = Callable[[Parameters, optax.OptState, Minibatch], tuple[Params, optax.OptState, dict[str, Array]]]


def updater(
    policy: Policy, loss: Loss, optimizer: optax.GradientTransformation, *, temperature: float, microbatches: int
) -> Update:
    """The compiled update: gradients accumulated over microbatches, clipped and applied.

    Weights of the loss come from the whole minibatch, so one microbatch of eight groups and eight of one give the same
    sum. A loss or gradient that is not finite changes nothing and is reported in `policy/finite`.

    Args:
      policy: Model functions.
      loss: Per-token losses and their weights.
      optimizer: Optax transformation.
      temperature: Of the policy that is trained, the one it was sampled with.
      microbatches: Parts in which the gradient is accumulated; it must divide the prompts of a minibatch.

    Returns:
      `(parameters, optimizer_state, minibatch) -> (trainable, optimizer_state, statistics)`; the trainable parameters
      and the optimizer state are donated.
    """

    def objective(trainable: Params, rest: Parameters, part: Minibatch, weights: Array) -> tuple[Array, dict]:
        params = merged(dataclasses.replace(rest, trainable=trainable))
        logprobs, entropy = policy.logprobs(params, part.prompt_ids, part.prompt_mask, part.completion_ids, temperature)
        entropy = entropy if loss.needs_entropy else jax.lax.stop_gradient(entropy)
        tokens = TokenBatch(
            logprobs,
            entropy,
            part.old_logprobs,
            part.logprobs,
            part.ref_logprobs,
            part.advantages,
            part.completion_mask,
        )
        per_token, stats = loss.per_token(tokens)
        stats = {"entropy": entropy} | stats
        masked = {name: jnp.sum(jnp.where(tokens.mask, value, 0.0)) for name, value in stats.items()}
        return jnp.sum(jnp.where(tokens.mask, weights * per_token, 0.0)), masked

    def accumulated(trainable: Params, rest: Parameters, batch: Minibatch, weights: Array) -> tuple[Any, Params]:
        gradient = jax.value_and_grad(objective, has_aux=True)
        if microbatches == 1:
            return gradient(trainable, rest, batch, weights)
        parts = jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), (batch, weights))
        first, others = jax.tree.map(lambda x: x[0], parts), jax.tree.map(lambda x: x[1:], parts)

        def add(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(trainable, rest, *part)), None

        return jax.lax.scan(add, gradient(trainable, rest, *first), others)[0]

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(
        trainable: Params, state: optax.OptState, rest: Parameters, batch: Minibatch
    ) -> tuple[Params, optax.OptState, dict[str, Array]]:
        weights = loss.weights(batch.completion_mask, batch.truncated)
        (value, sums), gradient = accumulated(trainable, rest, batch, weights)
        norm = optax.tree.norm(gradient)
        updates, new_state = optimizer.update(gradient, state, trainable)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        new = optax.apply_updates(trainable, updates), new_state
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, (trainable, state))
        count = jnp.maximum(batch.completion_mask.sum(), 1)
        stats: dict[str, Array] = {f"policy/{name}": total / count for name, total in sums.items()}
        stats |= {"policy/loss": value, "policy/gradient_norm": jnp.asarray(norm), "policy/finite": finite}
        return *kept, stats

    def step(
        parameters: Parameters, state: optax.OptState, batch: Minibatch
    ) -> tuple[Params, optax.OptState, dict[str, Array]]:
        return update(parameters.trainable, state, dataclasses.replace(parameters, trainable={}), batch)

    return step


def reference_logprobs(
    policy: Policy, parameters: Parameters, temperature: float, parts: int
) -> Callable[[Rollouts], np.ndarray]:
    """Log-probabilities under the policy training started from; under LoRA its frozen backbone.

    Computed in as many parts as the update, whose activations are sized for the cache or the memory.
    """
    params = parameters.frozen if parameters.lora_scale else parameters.trainable

    @jax.jit
    def logprobs(params: Params, *batch: Array) -> Array:
        cut = tuple(x.reshape(parts, -1, *x.shape[1:]) for x in batch)
        out = jax.lax.map(lambda part: policy.logprobs(params, *part, temperature=temperature)[0], cut)
        return out.reshape(-1, *out.shape[2:])

    def reference(rollouts: Rollouts) -> np.ndarray:
        out = logprobs(params, rollouts.prompt_ids, rollouts.prompt_mask, rollouts.completion_ids)
        return np.where(rollouts.completion_mask, np.asarray(out), 0.0)

    return reference


def per_token(credit: np.ndarray, rollouts: Rollouts) -> Float[np.ndarray, "prompts group tokens"]:
    """Advantages spread over the tokens of their completion."""
    credit = credit[..., None] if credit.ndim == 2 else credit
    return np.where(rollouts.completion_mask, credit, 0.0).astype(np.float32)


def portions(
    rollouts: Rollouts, valid: np.ndarray, credit: np.ndarray, num_iterations: int, minibatches: int
) -> Iterator[tuple[int, Minibatch]]:
    """The minibatches of every pass over a batch, in order; prompts were shuffled by the data pipeline.

    Completions without a valid score carry no loss: they enter neither its sum nor its denominator.
    """
    whole = Minibatch(
        rollouts.prompt_ids,
        rollouts.prompt_mask,
        rollouts.completion_ids,
        rollouts.completion_mask & np.asarray(valid)[..., None],
        rollouts.truncated,
        rollouts.logprobs,
        rollouts.old_logprobs,
        rollouts.ref_logprobs,
        credit,
    )
    size = len(rollouts.prompts) // minibatches
    for iteration in range(num_iterations):
        for start in range(0, size * minibatches, size):
            yield iteration, jax.tree.map(lambda x, start=start: x[start : start + size], whole)
