"""Slow, obvious twins of the fast paths: the update, the sampler and the reference pass, each through Tunix's module.

Every completion is a whole sequence of its own, behind its own copy of its prompt, with nothing in front of it: what is
not there stands at the end, where causal attention never looks. Nothing is shared by a group, cut into buckets, kept in
a cache or fused.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import qwix
from flax import nnx

from agent_tunix import models
from agent_tunix.types import TokenBatch

ARCHITECTURE = models.tiny(24, layers=2, width=16, heads=2, kv_heads=1, head_dim=8, mlp=24)
"""Small enough to compile in a second; two layers, so that what completions owe to their prompts passes through one."""


def params(seed=0):
    """A policy that is sure of some tokens and hears what stands before them, unlike a fresh one."""
    tree = jax.eval_shape(lambda: nnx.to_pure_dict(nnx.state(models.tunix_module(ARCHITECTURE))))
    random = np.random.default_rng(seed)

    def drawn(path, leaf):
        norm = "norm" in jax.tree_util.keystr(path)
        return jnp.asarray(norm + (0.2 if norm else 0.35) * random.normal(size=leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(drawn, tree)


def full(architecture):
    """`(trainable, ids) -> [rows length vocab]` of Tunix's module, where everything trains."""
    return _logits(models.tunix_module(architecture), nnx.Param)


def lora(architecture, frozen, rank, alpha):
    """The same of the module as qwix adapts it, whose low-rank factors train."""
    module = models.tunix_module(architecture, frozen)
    provider = qwix.LoraProvider(module_path=models.FAMILIES[architecture.family].adapted, rank=rank, alpha=alpha)
    return _logits(
        qwix.apply_lora_to_model(module, provider, rngs=nnx.Rngs(0), **module.get_model_input()), nnx.LoRAParam
    )


def _logits(module, kind):
    graph, state, rest = nnx.split(module, kind, ...)

    def logits(trainable, ids):
        own = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(own, trainable)
        rows, length = ids.shape
        positions = jnp.broadcast_to(jnp.arange(length), ids.shape)
        causal = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (rows, length, length))
        return nnx.merge(graph, own, rest)(ids, positions, None, causal)[0]

    return logits


def sequences(prompt_ids, prompt_mask, completion_ids):
    """One row for every completion, its prompt before it, and the index at which it begins."""
    prompts, group, tokens = completion_ids.shape
    ids = np.zeros((prompts * group, prompt_ids.shape[1] + tokens), np.int32)
    for row in range(prompts * group):
        p, g = divmod(row, group)
        whole = [*prompt_ids[p][prompt_mask[p]], *completion_ids[p, g]]
        ids[row, : len(whole)] = whole
    return ids, np.repeat(prompt_mask.sum(-1), group)


def distributions(logits, trainable, ids, starts, tokens, temperature):
    """Log-probabilities of the whole vocabulary for every completion token, `[rows tokens vocab]`, and the tokens."""
    rows, before = np.arange(len(ids))[:, None], starts[:, None] - 1 + np.arange(tokens)
    return jax.nn.log_softmax(logits(trainable, ids)[rows, before] / temperature), ids[rows, before + 1]


def chosen(logprobs, targets):
    return jnp.take_along_axis(logprobs, targets[..., None], -1)[..., 0]


def teacher_forced(logits, temperature=1.0) -> Callable[..., np.ndarray]:
    """`(trainable, prompt_ids, prompt_mask, completion_ids) -> [prompts group tokens vocab]`, log-probabilities."""
    compiled = jax.jit(lambda *args: distributions(logits, *args, temperature)[0], static_argnums=3)

    def forced(trainable, prompt_ids, prompt_mask, completion_ids):
        ids, starts = sequences(prompt_ids, prompt_mask, completion_ids)
        found = compiled(trainable, ids, starts, completion_ids.shape[2])
        return np.asarray(found).reshape(*completion_ids.shape, -1)

    return forced


def logprobs(forced, trainable, prompt_ids, prompt_mask, completion_ids):
    """Of the completion tokens, `[prompts group tokens]`: the twin of the reference pass."""
    found = forced(trainable, prompt_ids, prompt_mask, completion_ids)
    return np.take_along_axis(found, np.asarray(completion_ids)[..., None], -1)[..., 0]


def updater(logits, loss, optimizer, temperature=1.0):
    """`(trainable, state, minibatch) -> (trainable, state, statistics)`: all at once, by `jax.value_and_grad`."""

    @jax.jit
    def step(trainable, state, ids, starts, batch):
        shape, mask = batch.completion_ids.shape, batch.completion_mask

        def objective(trainable):
            found, targets = distributions(logits, trainable, ids, starts, shape[2], temperature)
            entropy = -jnp.sum(jnp.exp(found) * found, -1).reshape(shape)
            tokens = TokenBatch(
                chosen(found, targets).reshape(shape), entropy, batch.old_logprobs, batch.logprobs,
                batch.ref_logprobs, batch.advantages, mask,
            )  # fmt: skip
            losses, statistics = loss.per_token(tokens)
            return jnp.sum(loss.weights(mask, batch.truncated) * losses), {"entropy": entropy} | statistics

        (value, found), gradient = jax.value_and_grad(objective, has_aux=True)(trainable)
        count = jnp.maximum(mask.sum(), 1)
        statistics = {f"policy/{name}": jnp.sum(jnp.where(mask, each, 0)) / count for name, each in found.items()}
        statistics |= {"policy/loss": value, "policy/gradient_norm": optax.tree.norm(gradient), "policy/finite": True}
        updates, state = optimizer.update(gradient, state, trainable)
        return optax.apply_updates(trainable, updates), state, statistics

    def update(trainable, state, batch):
        rows = sequences(batch.prompt_ids, batch.prompt_mask, batch.completion_ids)
        return step(trainable, state, *rows, batch)

    return update


class Drawn(NamedTuple):
    """Completions `[prompts group tokens]`, and how near any draw was to the border of two tokens, as a probability."""

    completion_ids: np.ndarray
    completion_mask: np.ndarray
    logprobs: np.ndarray
    truncated: np.ndarray
    margin: float


def sampler(logits, *, max_tokens, stop_ids, pad_id, temperature=1.0) -> Callable[..., Drawn]:
    """Token by token, each from a forward pass over all that is there so far, by the inverse CDF in float64.

    The noise is the rule of `sampling`: one uniform number for every completion from the key and the token's index.
    """

    def last(trainable, ids, lengths):
        return logits(trainable, ids)[jnp.arange(len(ids)), lengths - 1] / temperature

    forward: Callable[..., Any] = jax.jit(last)

    def sample(trainable, prompt_ids, prompt_mask, group, key):
        shape = (len(prompt_ids), group, max_tokens)
        ids, lengths = sequences(prompt_ids, prompt_mask, np.full(shape, pad_id))
        drawn = np.full((len(ids), max_tokens), pad_id)
        mask, found = np.zeros(drawn.shape, bool), np.zeros(drawn.shape)
        done, margin = np.zeros(len(ids), bool), 1.0
        for index in range(max_tokens):
            noise = np.asarray(jax.random.uniform(jax.random.fold_in(key, index), (len(ids),)), np.float64)
            scores = np.asarray(forward(trainable, ids, lengths), np.float64)
            for row in np.flatnonzero(~done):
                weights = np.exp(scores[row] - scores[row].max())
                cumulative = np.cumsum(weights) / weights.sum()
                token = int(np.argmax(cumulative > noise[row]))
                margin = min(margin, np.abs(cumulative[:-1] - noise[row]).min())
                drawn[row, index], mask[row, index] = token, True
                found[row, index] = np.log(weights[token] / weights.sum())
                ids[row, lengths[row]], lengths[row] = token, lengths[row] + 1
                done[row] = token in stop_ids
        arrays = [values.reshape(shape) for values in (drawn, mask, found)]
        return Drawn(*arrays, truncated=~done.reshape(shape[:2]), margin=margin)

    return sample
