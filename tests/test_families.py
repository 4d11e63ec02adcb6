"""Every family of decoders beside Tunix's own module of the same parameters, and its adapters beside qwix."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from flax import nnx

from agent_tunix import buckets, models

pytestmark = pytest.mark.usefixtures("quickly_compiled")

PROMPTS, GROUP, PROMPT_TOKENS, TOKENS = 2, 2, 7, 5
SIZES = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp": 48}
LOCAL = {"window": 5, "local": (True, True)}
GEMMA4 = {
    "family": "gemma4", "window": 5, "query_scale": 1.0, "softcap": 3.0, "global_head_dim": 24,
    "rotary": models.Rotary(1e6, proportion=0.25),
}  # fmt: skip
ARCHITECTURES = {
    "qwen3": models.Architecture(40, **SIZES, tied=False),
    "qwen3_moe": models.Architecture(40, **SIZES, family="qwen3_moe", experts=models.Experts(6, 2, 24)),
    "qwen2": models.Architecture(40, **SIZES, family="qwen2"),
    "llama3": models.Architecture(40, **SIZES, family="llama3", norm_eps=1e-5),
    "gemma": models.Architecture(40, **(SIZES | {"kv_heads": 4}), family="gemma", rotary=models.Rotary(1e4)),
    "gemma2": models.Architecture(
        40, **SIZES, family="gemma2", rotary=models.Rotary(1e4), attention_softcap=2.0, softcap=3.0, window=5,
        local=(True, False),
    ),
    "gemma3": models.Architecture(40, **SIZES, family="gemma3", rotary=models.Rotary(1e6), **LOCAL),
    "gemma3 of one key-value head": models.Architecture(
        40, **(SIZES | {"kv_heads": 1}), family="gemma3", **LOCAL, query_scale=(32 // 4) ** -0.5
    ),
    "gemma4": models.Architecture(
        40, **(SIZES | {"layers": 6}), **GEMMA4, local=(True, True, False) * 2, shared=3, shared_mlp=64, layer_inputs=6
    ),
    "gemma4 of experts": models.Architecture(
        40, **SIZES, **GEMMA4, local=(True, False), global_kv_heads=1, keys_are_values=True,
        experts=models.Experts(6, 2, 24),
    ),
}  # fmt: skip


def shaken(params):
    """Parameters none of which is at its start, norms and biases least of all."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    return structure.unflatten(
        [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )


@pytest.fixture(scope="module", params=ARCHITECTURES)
def built(request):
    architecture = ARCHITECTURES[request.param]
    params = shaken(models.initial_params(architecture, seed=0))
    for layer in params["layers"].values():
        if "moe_pre_ffw_norm" in layer:  # Tunix's router sees what this norm makes, that of transformers does not
            layer["moe_pre_ffw_norm"]["scale"] = jnp.ones(architecture.width)
    return architecture, params


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    ids = random.integers(3, 40, (PROMPTS, PROMPT_TOKENS))
    return jnp.asarray(ids), jnp.ones(ids.shape, bool), jnp.asarray(random.integers(3, 40, (PROMPTS, GROUP, TOKENS)))


def through_tunix(module, batch):
    prompt_ids, _, completions = batch
    rows = jnp.concatenate([jnp.repeat(prompt_ids, GROUP, 0), completions.reshape(-1, TOKENS)], 1)
    length = rows.shape[1]
    positions = jnp.broadcast_to(jnp.arange(length), rows.shape)
    visible = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (len(rows), length, length))
    logits, _ = nnx.jit(lambda module: module(rows, positions, None, visible))(module)
    logprobs = jax.nn.log_softmax(logits[:, PROMPT_TOKENS - 1 : -1])
    taken = jnp.take_along_axis(logprobs, rows[:, PROMPT_TOKENS:, None], -1)[..., 0]
    entropy = -(jnp.exp(logprobs) * logprobs).sum(-1)
    return taken.reshape(completions.shape), entropy.reshape(completions.shape)


def through_ours(architecture, params, batch):
    return jax.jit(lambda params: models.policy(architecture).logprobs(params, *batch))(params)


def test_logprobs_and_entropies_are_those_of_tunix(built, batch):
    architecture, params = built
    wanted = through_tunix(models.tunix_module(architecture, params), batch)
    for got, expected in zip(through_ours(architecture, params, batch), wanted, strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5)


def test_the_window_matters(batch):
    architecture = ARCHITECTURES["gemma3"]
    params = shaken(models.initial_params(architecture, 0))
    near, _ = through_ours(architecture, params, batch)
    far, _ = through_ours(architecture._replace(window=100), params, batch)
    assert float(jnp.abs(near - far).max()) > 1e-3


def test_adapters_are_those_of_qwix(built, batch):
    architecture, params = built
    parameters = models.lora(architecture, params, rank=3, alpha=6.0, seed=1)
    factors = len(jax.tree.leaves(parameters.trainable))
    modules = {"qwen3_moe": 4, "gemma": 5, "gemma2": 6, "gemma3": 6, "gemma4": 6}.get(architecture.family, 7)
    assert factors == 2 * (modules * architecture.layers - architecture.shared)
    moved = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), parameters.trainable
    )
    provider = qwix.LoraProvider(module_path=models.FAMILIES[architecture.family].adapted, rank=3, alpha=6.0)
    module = models.tunix_module(architecture, params)
    adapted = qwix.apply_lora_to_model(module, provider, rngs=nnx.Rngs(1), **module.get_model_input())
    state = nnx.state(adapted, nnx.LoRAParam)
    nnx.replace_by_pure_dict(state, moved)
    nnx.update(adapted, state)
    expected, _ = through_tunix(adapted, batch)
    merged = models.merged(dataclasses.replace(parameters, trainable=moved))
    got, _ = through_ours(architecture, merged, batch)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    assert float(jnp.abs(got - through_ours(architecture, params, batch)[0]).max()) > 1e-2


def test_updates_stay_beside_weights_that_could_not_hold_them(built, batch):
    architecture, params = built
    coarse = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    parameters = models.lora(architecture, coarse, rank=3, alpha=6.0, seed=1)
    small = jax.tree.map(lambda leaf: leaf + 1e-4 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), parameters)
    small = dataclasses.replace(parameters, trainable=small.trainable)
    exact = dataclasses.replace(small, frozen=jax.tree.map(lambda leaf: leaf.astype(jnp.float32), coarse))
    expected, _ = through_ours(architecture, models.merged(exact), batch)
    got, _ = through_ours(architecture, models.merged(small), batch)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    start, _ = through_ours(architecture, models.merged(parameters), batch)
    lost, _ = through_ours(architecture, models.folded(models.merged(small)), batch)
    moved = float(jnp.abs(got - start).max())
    assert moved > 3 * float(jnp.abs(got - expected).max())
    assert float(jnp.abs(lost - expected).max()) > float(jnp.abs(got - expected).max())


def test_packed_tokens_and_rematerialised_layers_give_the_same(built, batch):
    architecture, params = built
    ids, mask, completions = batch
    real = np.arange(TOKENS) < np.array([[TOKENS, 2], [3, 1]])[..., None]
    places = np.append(np.flatnonzero(real), real.size)  # one of them empty
    order = np.where(real, np.cumsum(real).reshape(real.shape) - 1, len(places))
    packing = buckets.Packing(jnp.asarray(places), jnp.asarray(order))

    @jax.jit
    def found(params):
        policy = models.policy(architecture, remat=True)
        before = policy.prefix(params, ids, mask)
        return policy.continued_logprobs(params, before, completions, packing=packing)[0]

    expected, _ = through_ours(architecture, params, batch)
    np.testing.assert_allclose(np.asarray(found(params))[real], np.asarray(expected)[real], atol=2e-5)


def test_padding_on_the_left_changes_nothing(built, batch):
    architecture, params = built
    ids, mask, completions = batch
    padded = jnp.pad(ids, ((0, 0), (3, 0))), jnp.pad(mask, ((0, 0), (3, 0))), completions
    got, _ = through_ours(architecture, params, padded)
    np.testing.assert_allclose(got, through_ours(architecture, params, batch)[0], atol=2e-5)


def test_every_parameter_gets_a_gradient(built, batch):
    architecture, params = built
    gradient = jax.jit(jax.grad(lambda params: models.policy(architecture).logprobs(params, *batch)[0].mean()))(params)
    dead = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_flatten_with_path(gradient)[0]
        # A bias of keys moves all scores of a query alike.
        if not float(jnp.abs(leaf).max()) > 1e-9 and "k_bias" not in jax.tree_util.keystr(path)
    ]
    assert dead == []


@pytest.mark.parametrize("max_logits", [2**25, 200])
@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_capped_logits_are_differentiated_as_jax_does(entropy_gradient, max_logits):
    features, head = (jax.random.normal(jax.random.key(seed), (30, 8)) for seed in (0, 1))
    targets = jax.random.randint(jax.random.key(2), (30,), 0, 30)

    def ours(features, head):
        found = models.token_logprobs(
            features, head, targets, 0.7, entropy_gradient=entropy_gradient, softcap=2.0, max_logits=max_logits
        )
        return (found[0] * jnp.arange(30)).sum() + found[1].sum(), found

    def plain(features, head):
        logprobs = jax.nn.log_softmax(2.0 * jnp.tanh(features @ head.T / 2.0) / 0.7)
        entropy = -(jnp.exp(logprobs) * logprobs).sum(-1)
        chosen = jnp.take_along_axis(logprobs, targets[:, None], -1)[:, 0]
        through = entropy if entropy_gradient else jax.lax.stop_gradient(entropy)
        return (chosen * jnp.arange(30)).sum() + through.sum(), (chosen, entropy)

    (_, expected), wanted = jax.value_and_grad(plain, (0, 1), has_aux=True)(features, head)
    (_, found), got = jax.jit(jax.value_and_grad(ours, (0, 1), has_aux=True))(features, head)
    for one, other in zip((*found, *got), (*expected, *wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)
