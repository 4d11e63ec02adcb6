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

from agent_tunix import buckets
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


class _Completions(NamedTuple):
    """What the loss needs of a bucket, `[prompts members tokens]`."""

    ids: Int[Any, "prompts members tokens"]
    mask: Bool[Any, "prompts members tokens"]
    logprobs: Float[Any, "prompts members tokens"]
    old_logprobs: Float[Any, "prompts members tokens"]
    ref_logprobs: Float[Any, "prompts members tokens"] | None
    advantages: Float[Any, "prompts members tokens"]
    weights: Float[Any, "prompts members tokens"]


def updater(
    policy: Policy, loss: Loss, optimizer: optax.GradientTransformation, *, temperature: float, microbatches: int
) -> Update:
    """The compiled update: gradients accumulated over length buckets, clipped and applied.

    Prompts are computed once for all buckets of their completions; what these owe to their prompts is added up and
    pulled back through the prompts at the end. Weights of the loss come from the whole minibatch, so one bucket and
    eight give the same sum. A loss or gradient that is not finite changes nothing and is reported in `policy/finite`.

    Args:
      policy: Model functions.
      loss: Per-token losses and their weights.
      optimizer: Optax transformation.
      temperature: Of the policy that is trained, the one it was sampled with.
      microbatches: Buckets in which the gradient is accumulated (`buckets.cut_of`).

    Returns:
      `(parameters, optimizer_state, minibatch) -> (trainable, optimizer_state, statistics)`; the trainable parameters
      and the optimizer state are donated.
    """
    weights_of = jax.jit(loss.weights)
    prefixed = jax.jit(functools.partial(_prefixed, policy))
    accumulate = jax.jit(functools.partial(_accumulated, policy, loss, temperature), donate_argnums=0)
    settle = jax.jit(_settled, donate_argnums=0)
    apply = jax.jit(functools.partial(_applied, optimizer), donate_argnums=(0, 1))
    zeros = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree))

    def step(
        parameters: Parameters, state: optax.OptState, batch: Minibatch
    ) -> tuple[Params, optax.OptState, dict[str, Array]]:
        trainable, rest = parameters.trainable, dataclasses.replace(parameters, trainable={})
        whole = _completions(batch, np.asarray(weights_of(batch.completion_mask, batch.truncated)))
        gradient, totals = zeros(trainable), []
        for chunk in buckets.chunks(whole.mask, cut_of(batch, microbatches)):
            prompts = batch.prompt_ids[chunk.prompts], batch.prompt_mask[chunk.prompts]
            prefix, pull = prefixed(trainable, rest, *prompts)
            owed = zeros(prefix[0])
            for stack in buckets.stacks(whole, chunk):
                (gradient, owed), total = accumulate((gradient, owed), trainable, rest, prefix, stack)
                totals.append(total)
            gradient = settle(gradient, pull, owed)
        return apply(trainable, state, gradient, totals, np.float32(max(whole.mask.sum(), 1)))

    return step


def cut_of(batch: Minibatch, parts: int) -> buckets.Cut:
    """How a minibatch is cut into a number of portions."""
    prompts, group_size, tokens = batch.completion_ids.shape
    return buckets.cut_of(parts, prompts, group_size, batch.prompt_ids.shape[1], tokens)


def _completions(batch: Minibatch, weights: np.ndarray) -> _Completions:
    fields = {name: getattr(batch, name) for name in _Completions._fields if name not in ("ids", "mask", "weights")}
    return _Completions(ids=batch.completion_ids, mask=np.asarray(batch.completion_mask), weights=weights, **fields)


def _prefixed(policy: Policy, trainable: Params, rest: Parameters, *prompts: Array) -> tuple[tuple[Any, Any], Callable]:
    """What completions need of their prompts, and the function from its gradient to that of the parameters."""

    def floating(trainable: Params) -> tuple[Any, Any]:
        prefix = policy.prefix(merged(dataclasses.replace(rest, trainable=trainable)), *prompts)
        floats = jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None, prefix)
        others = jax.tree.map(lambda leaf: None if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf, prefix)
        return floats, others

    floats, pull, others = jax.vjp(floating, trainable, has_aux=True)
    return (floats, others), pull


def _accumulated(
    policy: Policy,
    loss: Loss,
    temperature: float,
    sums: tuple[Params, Any],
    trainable: Params,
    rest: Parameters,
    prefix: tuple[Any, Any],
    stack: buckets.Stack,
) -> tuple[tuple[Params, Any], tuple[Array, dict[str, Array]]]:
    """Adds the gradients of buckets by the parameters and by what they need of their prompts; their loss, statistics.

    All buckets of a length run in one program, whose working memory is thus allocated once; on a CPU the page faults
    of a program for each bucket took a fifth of the update.
    """

    def objective(trainable: Params, floats: Any, part: _Completions, prompts: Array) -> tuple[Array, dict[str, Array]]:
        params = merged(dataclasses.replace(rest, trainable=trainable))
        whole = jax.tree.map(lambda *both: both[both[0] is None], floats, prefix[1], is_leaf=lambda leaf: leaf is None)
        own = jax.tree.map(lambda values: values[prompts], whole)
        logprobs, entropy = policy.continued_logprobs(params, own, part.ids, temperature, loss.needs_entropy)
        entropy = entropy if loss.needs_entropy else jax.lax.stop_gradient(entropy)
        tokens = TokenBatch(
            logprobs, entropy, part.old_logprobs, part.logprobs, part.ref_logprobs, part.advantages, part.mask
        )
        per_token, stats = loss.per_token(tokens)
        stats = {"entropy": entropy} | stats
        masked = {name: jnp.sum(jnp.where(part.mask, value, 0.0)) for name, value in stats.items()}
        return jnp.sum(jnp.where(part.mask, part.weights * per_token, 0.0)), masked

    def bucket(index: Array | int) -> tuple[_Completions, Array]:
        return jax.tree.map(lambda stacked: stacked[index], (stack.arrays, stack.prompts))

    def add(index: Array, carry: Any) -> Any:
        gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
        total, gradients = gradient(trainable, prefix[0], *bucket(index))
        return jax.tree.map(jnp.add, carry, (gradients, total))

    shapes = jax.eval_shape(lambda: objective(trainable, prefix[0], *bucket(0)))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.fori_loop(0, stack.filled, add, (sums, nothing))


def _settled(gradient: Params, pull: Callable, owed: Any) -> Params:
    return jax.tree.map(jnp.add, gradient, pull(owed)[0])


def _applied(
    optimizer: optax.GradientTransformation,
    trainable: Params,
    state: optax.OptState,
    gradient: Params,
    totals: list[tuple[Array, dict[str, Array]]],
    count: Array,
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    value, sums = jax.tree.map(lambda *parts: sum(parts), *totals)
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(value) & jnp.isfinite(norm)

    def changed() -> tuple[Params, optax.OptState]:
        updates, new = optimizer.update(gradient, state, trainable)
        return optax.apply_updates(trainable, updates), new

    kept = jax.lax.cond(finite, changed, lambda: (trainable, state))
    stats: dict[str, Array] = {f"policy/{name}": total / count for name, total in sums.items()}
    stats |= {"policy/loss": value, "policy/gradient_norm": jnp.asarray(norm), "policy/finite": finite}
    return *kept, stats


def reference_logprobs(
    policy: Policy, parameters: Parameters, temperature: float, parts: int
) -> Callable[[Rollouts], np.ndarray]:
    """Log-probabilities under the policy training started from; under LoRA its frozen backbone.

    Computed in buckets as the update is, whose activations are sized for the cache or the memory.
    """
    params = parameters.frozen if parameters.lora_scale else parameters.trainable
    prefixed = jax.jit(policy.prefix)

    @jax.jit
    def logprobs(params: Params, prefix: Any, stack: buckets.Stack) -> Array:
        def fill(index: Array, out: Array) -> Array:
            own = jax.tree.map(lambda values: values[stack.prompts[index]], prefix)
            return out.at[index].set(policy.continued_logprobs(params, own, stack.arrays[index], temperature)[0])

        return jax.lax.fori_loop(0, stack.filled, fill, jnp.zeros(stack.arrays.shape, jnp.float32))

    def reference(rollouts: Rollouts) -> np.ndarray:
        mask = np.asarray(rollouts.completion_mask)
        prompts, group_size, tokens = mask.shape
        cut = buckets.cut_of(parts, prompts, group_size, rollouts.prompt_ids.shape[1], tokens)
        pending = []
        for chunk in buckets.chunks(mask, cut):
            prefix = prefixed(params, rollouts.prompt_ids[chunk.prompts], rollouts.prompt_mask[chunk.prompts])
            stacks = buckets.stacks(rollouts.completion_ids, chunk)
            pending.append((chunk, [logprobs(params, prefix, stack) for stack in stacks]))
        out = np.zeros(mask.shape, np.float32)
        for chunk, values in pending:
            buckets.unstack(values, chunk, out)
        return np.where(mask, out, 0.0)

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
