"""The compiled half of training: minibatches, the update, log-probabilities of the reference."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int

from agent_tunix import buckets, devices
from agent_tunix.models import Parameters, Policy, merged
from agent_tunix.streams import called, side_by_side
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
    policy: Policy,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    temperature: float,
    microbatches: int,
    streams: int = 1,
    mesh: Mesh | None = None,
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
      microbatches: Buckets in which the gradient is accumulated, by each device (`buckets.cut_of`).
      streams: Threads that the buckets are dealt to (`streams`), each with a gradient of its own; two make the update
        of W1 take 0.54 instead of 0.66 s (`benchmarks/ablation.py`).
      mesh: Devices that prompts and their groups are dealt to (`devices`); each keeps the gradient of its own, and they
        are added up once per update.

    Returns:
      `(parameters, optimizer_state, minibatch) -> (trainable, optimizer_state, statistics)`; the trainable parameters
      and the optimizer state are donated.
    """
    weights_of = jax.jit(loss.weights)
    accumulated = functools.partial(_accumulated, policy, loss, temperature)
    prefixed = devices.each(mesh, functools.partial(_prefixed, policy), same=(0, 1))
    accumulate = devices.each(mesh, accumulated, same=(1, 2), donate=(0,))
    settle = devices.each(mesh, _settled, donate=(0,))
    apply = devices.summed(mesh, functools.partial(_applied, optimizer), sums=(2, 3), donate=(0, 1))
    begin, zeros = devices.each(mesh, _zeros, same=(0,)), devices.each(mesh, _zeros)
    plus = devices.each(mesh, lambda one, other: _sum([one, other]))

    def add(trainable: Params, rest: Parameters, prefix: Any, job: tuple[Any, Sequence[Any]]) -> tuple[Any, list[Any]]:
        """What one stream adds to its sums, and the loss and statistics of each of its stacks."""
        (sums, stacks), totals = job, []
        for stack in stacks:
            sums, total = called(accumulate, sums, trainable, rest, prefix, devices.together(mesh, stack))
            totals.append(total)
        return sums, totals

    def step(
        parameters: Parameters, state: optax.OptState, batch: Minibatch
    ) -> tuple[Params, optax.OptState, dict[str, Array]]:
        trainable, rest = parameters.trainable, dataclasses.replace(parameters, trainable={})
        whole = _completions(batch, np.asarray(weights_of(batch.completion_mask, batch.truncated)))
        parts, prompts = devices.dealt(mesh, whole), devices.dealt(mesh, (batch.prompt_ids, batch.prompt_mask))
        gradients, totals = [begin(trainable) for _ in range(streams)], []
        for chunks in buckets.aligned([part.mask for part in parts], cut_of(batch, microbatches, len(parts))):
            own = jax.tree.map(lambda values, rows=chunks[0].prompts: values[rows], prompts)
            prefix, pull = prefixed(trainable, rest, *devices.together(mesh, own))
            starts = [(gradient, zeros(prefix[0])) for gradient in gradients]
            jobs = list(zip(starts, _streams(parts, chunks, streams), strict=True))
            added = side_by_side(functools.partial(add, trainable, rest, prefix), jobs)
            gradients, owed = map(list, zip(*(sums for sums, _ in added), strict=True))
            totals += [total for _, found in added for total in found]
            gradients[0] = settle(gradients[0], pull, owed)
        # Two at a time: a program of as many as there are stacks would be compiled for every number of them.
        total = functools.reduce(plus, totals)
        return apply(trainable, state, gradients, total, np.float32(max(whole.mask.sum(), 1)))

    return step


def initial_state(optimizer: optax.GradientTransformation, trainable: Params, mesh: Mesh | None) -> optax.OptState:
    """The state an optimizer begins with, over a mesh cut as the parameters it belongs to."""
    if mesh is None:
        return optimizer.init(trainable)
    shapes, everywhere = jax.eval_shape(optimizer.init, trainable), NamedSharding(mesh, devices.SAME)
    places = optax.tree.map_params(
        optimizer, lambda _, weight: weight.sharding, shapes, trainable, transform_non_params=lambda _: everywhere
    )
    return jax.jit(optimizer.init, out_shardings=places)(trainable)


def cut_of(batch: Minibatch | Rollouts, parts: int, shares: int = 1) -> buckets.Cut:
    """How each device's share of a minibatch is cut into a number of portions."""
    prompts, group_size, tokens = batch.completion_mask.shape
    return buckets.cut_of(parts, prompts // shares, group_size, batch.prompt_ids.shape[1], tokens)


def _zeros(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


def _streams(
    parts: Sequence[Any], chunks: Sequence[buckets.Chunk], streams: int
) -> list[list[tuple[buckets.Stack, ...]]]:
    """The stacks of every stream, each for all devices."""
    own = ([buckets.dealt(chunk, stream, streams) for chunk in chunks] for stream in range(streams))
    return [list(zip(*map(buckets.stacks, parts, stream), strict=True)) for stream in own]


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

    def objective(
        trainable: Params, floats: Any, part: _Completions, prompts: Array, packing: buckets.Packing | None
    ) -> tuple[Array, dict[str, Array]]:
        params = merged(dataclasses.replace(rest, trainable=trainable))
        whole = jax.tree.map(lambda *both: both[both[0] is None], floats, prefix[1], is_leaf=lambda leaf: leaf is None)
        own = jax.tree.map(lambda values: values[prompts], whole)
        logprobs, entropy = policy.continued_logprobs(params, own, part.ids, temperature, loss.needs_entropy, packing)
        entropy = entropy if loss.needs_entropy else jax.lax.stop_gradient(entropy)
        tokens = TokenBatch(
            logprobs, entropy, part.old_logprobs, part.logprobs, part.ref_logprobs, part.advantages, part.mask
        )
        per_token, stats = loss.per_token(tokens)
        stats = {"entropy": entropy} | stats
        masked = {name: jnp.sum(jnp.where(part.mask, value, 0.0)) for name, value in stats.items()}
        return jnp.sum(jnp.where(part.mask, part.weights * per_token, 0.0)), masked

    def bucket(index: Array | int) -> tuple[_Completions, Array, buckets.Packing | None]:
        return jax.tree.map(lambda stacked: stacked[index], (stack.arrays, stack.prompts, stack.packing))

    def add(index: Array, carry: Any) -> Any:
        gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
        total, gradients = gradient(trainable, prefix[0], *bucket(index))
        return jax.tree.map(jnp.add, carry, (gradients, total))

    shapes = jax.eval_shape(lambda: objective(trainable, prefix[0], *bucket(0)))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.fori_loop(0, stack.filled, add, (sums, nothing))


def _settled(gradient: Params, pull: Callable, owed: list[Any]) -> Params:
    return jax.tree.map(jnp.add, gradient, pull(_sum(owed))[0])


def _sum(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *trees)


def _applied(
    optimizer: optax.GradientTransformation,
    trainable: Params,
    state: optax.OptState,
    gradients: list[Params],
    total: tuple[Array, dict[str, Array]],
    count: Array,
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    (value, sums), gradient = total, _sum(gradients)
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
    policy: Policy,
    parameters: Parameters,
    temperature: float,
    parts: int,
    *,
    streams: int = 1,
    mesh: Mesh | None = None,
) -> Callable[[Rollouts], np.ndarray]:
    """Log-probabilities under the policy training started from; under LoRA its frozen backbone.

    Computed in buckets and streams as the update is, whose activations are sized for the cache or the memory; with a
    mesh by every device for its own prompts.
    """
    params = devices.everywhere(mesh, parameters.frozen if parameters.lora_scale else parameters.trainable)
    prefixed = devices.each(mesh, policy.prefix, same=(0,))

    def logprobs(params: Params, prefix: Any, stack: buckets.Stack) -> Array:
        def fill(index: Array, out: Array) -> Array:
            ids, prompts, packing = jax.tree.map(lambda x: x[index], (stack.arrays, stack.prompts, stack.packing))
            own = jax.tree.map(lambda values: values[prompts], prefix)
            logprobs, _ = policy.continued_logprobs(params, own, ids, temperature, packing=packing)
            return out.at[index].set(logprobs)

        return jax.lax.fori_loop(0, stack.filled, fill, jnp.zeros(stack.arrays.shape, jnp.float32))

    compute = devices.each(mesh, logprobs, same=(0,))

    def values(prefix: Any, stacks: Sequence[Any]) -> list[Any]:
        return [called(compute, params, prefix, devices.together(mesh, stack)) for stack in stacks]

    def reference(rollouts: Rollouts) -> np.ndarray:
        mask = np.asarray(rollouts.completion_mask)
        shares = devices.dealt(mesh, (mask, rollouts.completion_ids))
        prompts = devices.dealt(mesh, (rollouts.prompt_ids, rollouts.prompt_mask))
        masks, ids = zip(*shares, strict=True)
        pending = []
        for chunks in buckets.aligned(masks, cut_of(rollouts, parts, len(shares))):
            own = jax.tree.map(lambda values, rows=chunks[0].prompts: values[rows], prompts)
            prefix = prefixed(params, *devices.together(mesh, own))
            jobs = _streams(ids, chunks, streams)
            pending.append((chunks, side_by_side(functools.partial(values, prefix), jobs)))
        out = [np.zeros(share.shape, np.float32) for share in masks]
        for chunks, found in pending:
            for stream, stacks in enumerate(found):
                for device, (chunk, into) in enumerate(zip(chunks, out, strict=True)):
                    own = [devices.apart(mesh, stack)[device] for stack in stacks]
                    buckets.unstack(own, buckets.dealt(chunk, stream, streams), into)
        return np.where(mask, np.concatenate(out), 0.0)

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
