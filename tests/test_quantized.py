"""Backbones in 8 and 4 bits: what is lost, what is computed, what is held in memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent_tunix import models
from agent_tunix.models import _quantized

LOST = {"int8": 0.01, "int4": 0.15, "nf4": 0.12}
"""Mean error of a normal weight as a share of its mean size; NF4 has its levels where such weights are."""
SIZES = {"layers": 2, "width": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp": 96}


@pytest.fixture
def batch():
    prompts = jnp.asarray(np.random.default_rng(0).integers(1, 40, (2, 5)), jnp.int32)
    completions = jnp.asarray(np.random.default_rng(1).integers(1, 40, (2, 3, 6)), jnp.int32)
    return prompts, jnp.ones(prompts.shape, bool), completions


def kept(architecture, params, kind):
    keep = models.quantizer(architecture, kind)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: keep(tuple(key.key for key in path), leaf), params)


@pytest.mark.parametrize("kind", LOST)
@pytest.mark.parametrize("shape", [(128, 4, 16), (4, 32, 128), (96, 100)])
def test_a_weight_keeps_what_its_bits_can_say(kind, shape):
    weight = jax.random.normal(jax.random.key(0), shape)
    found = _quantized.quantized(weight, kind, inputs=2 if shape[0] == 4 else 1, heads_first=False)
    error = jnp.abs(found.plain() - weight).mean() / jnp.abs(weight).mean()
    assert found.plain().shape == shape and 1e-4 < error < LOST[kind]


def test_nf4_loses_less_of_normal_weights_than_even_levels():
    weight = jax.random.normal(jax.random.key(0), (256, 64))
    lost = {}
    for kind in ("int4", "nf4"):
        found = _quantized.quantized(weight, kind, inputs=1, heads_first=False)
        lost[kind] = float(((found.plain() - weight) ** 2).mean())
    assert lost["nf4"] < 0.9 * lost["int4"]


@pytest.mark.parametrize("stacked", [False, True])
def test_weights_that_lead_with_heads_come_back_in_their_own_axes(stacked):
    weight = jax.random.normal(jax.random.key(0), (2, 4, 64, 16) if stacked else (4, 64, 16))
    found = _quantized.quantized(weight, "int8", inputs=1, heads_first=True)
    assert found.plain().shape == weight.shape
    np.testing.assert_allclose(found.plain(), weight, atol=0.03)


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])  # weights with inputs first, and with heads first
def test_families_compute_with_the_quantised_weights_themselves(family, batch):
    architecture = models.Architecture(40, **SIZES, family=family)
    params = models.initial_params(architecture, 0)
    few = kept(architecture, params, "nf4")
    changed = [leaf for leaf in jax.tree.leaves(few, is_leaf=is_quantised) if is_quantised(leaf)]
    assert len(changed) == 2 * (7 if family == "qwen2" else 6)
    logprobs = jax.jit(models.policy(architecture).logprobs)
    got, wanted = (logprobs(tree, *batch)[0] for tree in (few, models.plain(few)))
    np.testing.assert_allclose(got, wanted, atol=2e-5)
    assert jnp.abs(got - logprobs(params, *batch)[0]).max() > 1e-4


def is_quantised(leaf):
    return isinstance(leaf, models.QuantizedWeight)


@pytest.mark.parametrize("remat", [False, True])
def test_factors_get_the_gradient_that_a_full_backbone_of_the_same_numbers_gives(remat, batch):
    architecture = models.Architecture(40, **SIZES)
    params = models.initial_params(architecture, 0)
    parameters = models.lora(architecture, kept(architecture, params, "int8"), rank=2, alpha=4.0, seed=1)
    second = jax.tree.map(lambda leaf: leaf + 0.01, parameters.trainable)
    policy = models.policy(architecture, remat=remat)

    def loss(trainable, frozen):
        full = models.merged(dataclasses.replace(parameters, trainable=trainable, frozen=frozen))
        return policy.logprobs(full, *batch)[0].sum()

    gradient = jax.jit(jax.grad(loss))
    got, wanted = gradient(second, parameters.frozen), gradient(second, models.plain(parameters.frozen))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-4), got, wanted)


@pytest.mark.parametrize("what", ["forward", "gradient", "decoding"])
def test_of_all_layers_one_is_in_full_at_a_time(what):
    architecture = models.Architecture(64, layers=6, width=256, heads=4, kv_heads=2, head_dim=64, mlp=1024)
    policy = models.policy(architecture, remat=True)
    prompts, mask, completions = jnp.ones((1, 4), jnp.int32), jnp.ones((1, 4), bool), jnp.ones((1, 1, 4), jnp.int32)

    def logprobs(params):
        return policy.logprobs(params, prompts, mask, completions)[0].sum()

    def decoded(params):
        before = policy.prefix(params, prompts, mask)
        step = policy.decoder(params, before)

        def body(index, state):
            logits, cache = step(state[1], state[0], index)
            return logits.argmax(-1).astype(jnp.int32), cache

        return jax.lax.fori_loop(0, 4, body, (prompts[:, :1], policy.cache(params, before, 1, 4)))[0]

    params = jax.eval_shape(lambda: kept(architecture, models.initial_params(architecture, 0), "int8"))
    parameters = jax.eval_shape(lambda tree: models.lora(architecture, tree, rank=1, alpha=1.0, seed=0), params)
    of_full = {"forward": logprobs, "gradient": logprobs, "decoding": decoded}[what]

    def function(trainable, frozen):
        return of_full(models.merged(dataclasses.replace(parameters, trainable=trainable, frozen=frozen)))

    compiled = jax.jit(jax.grad(function) if what == "gradient" else function)
    compiled = compiled.lower(parameters.trainable, parameters.frozen).compile()
    in_full = 4 * sum(leaf.size for leaf in jax.tree.leaves(params["layers"], is_leaf=is_quantised))
    assert compiled.memory_analysis().temp_size_in_bytes < in_full / 2
