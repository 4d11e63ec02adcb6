import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from flax import nnx

from agent_tunix import models

ARCHITECTURE = models.tiny(40, layers=2, width=32, heads=4, kv_heads=2, head_dim=16, mlp=48)
PROMPTS, GROUP, PROMPT_TOKENS, TOKENS = 3, 2, 6, 5


@pytest.fixture(scope="module")
def params():
    return models.initial_params(ARCHITECTURE, seed=0)


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    prompt_ids = random.integers(3, 40, (PROMPTS, PROMPT_TOKENS))
    prompt_mask = np.ones((PROMPTS, PROMPT_TOKENS), bool)
    prompt_mask[1, :3] = False
    prompt_mask[2, :5] = False  # a prompt of one token: its prefix is empty
    completions = random.integers(3, 40, (PROMPTS, GROUP, TOKENS))
    return jnp.asarray(prompt_ids), jnp.asarray(prompt_mask), jnp.asarray(completions)


@jax.jit
def logprobs(params, prompt_ids, prompt_mask, completions):
    return models.policy(ARCHITECTURE).logprobs(params, prompt_ids, prompt_mask, completions)


@nnx.jit
def tunix_logprobs(module, prompt_ids, prompt_mask, completions):
    """Every copy in full through Tunix's module: the slow twin."""
    rows = jnp.concatenate([jnp.repeat(prompt_ids, GROUP, 0), completions.reshape(-1, TOKENS)], 1)
    mask = jnp.concatenate([jnp.repeat(prompt_mask, GROUP, 0), jnp.ones((PROMPTS * GROUP, TOKENS), bool)], 1)
    positions = jnp.maximum(jnp.cumsum(mask, -1) - 1, 0)
    length = rows.shape[1]
    visible = jnp.tril(jnp.ones((length, length), bool))[None] & mask[:, None, :]
    logits, _ = module(rows, positions, None, visible)
    logprobs = jax.nn.log_softmax(logits[:, PROMPT_TOKENS - 1 : -1])
    taken = jnp.take_along_axis(logprobs, rows[:, PROMPT_TOKENS:, None], -1)[..., 0]
    return taken.reshape(PROMPTS, GROUP, TOKENS), logprobs


def test_teacher_forced_logprobs_and_entropies_equal_those_of_tunix(params, batch):
    expected, full = tunix_logprobs(models.tunix_module(ARCHITECTURE, params), *batch)
    got, entropy = logprobs(params, *batch)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    exact = -(jnp.exp(full) * full).sum(-1).reshape(entropy.shape)
    np.testing.assert_allclose(entropy, exact, atol=1e-5)


def test_decoding_token_by_token_equals_the_teacher_forced_pass(params, batch):
    prompt_ids, prompt_mask, completions = batch

    @jax.jit
    def decoded(params):
        policy = models.policy(ARCHITECTURE)
        prefix = policy.prefix(params, prompt_ids, prompt_mask)
        cache, step = policy.cache(params, prefix, GROUP, 2), policy.decoder(params, prefix)
        fed, seen = jnp.broadcast_to(prompt_ids[:, -1:], (PROMPTS, GROUP)), []
        for index in range(TOKENS):
            cache = policy.grown(cache, TOKENS) if index == 2 else cache
            logits, cache = step(cache, fed, jnp.int32(index))
            fed = completions[:, :, index]
            seen.append(jnp.take_along_axis(jax.nn.log_softmax(logits), fed[..., None], 2)[..., 0])
        return jnp.stack(seen, -1)

    expected, _ = logprobs(params, *batch)
    np.testing.assert_allclose(decoded(params), expected, atol=1e-5)


def test_padding_on_the_left_changes_nothing(params, batch):
    prompt_ids, prompt_mask, completions = batch
    padded = jnp.pad(prompt_ids, ((0, 0), (4, 0))), jnp.pad(prompt_mask, ((0, 0), (4, 0)))
    np.testing.assert_allclose(logprobs(params, *padded, completions)[0], logprobs(params, *batch)[0], atol=1e-6)


@pytest.mark.parametrize("entropy_gradient", [False, True])
@pytest.mark.parametrize("max_logits", [2**24, 30 * 20, 30], ids=["whole", "in two parts", "token by token"])
def test_logprobs_entropies_and_gradients_are_those_of_jax(params, entropy_gradient, max_logits):
    features = jax.random.normal(jax.random.key(0), (2, 3, 5, 32))
    targets = jax.random.randint(jax.random.key(1), (2, 3, 5), 0, 40)
    head = models.policy(ARCHITECTURE).unembedding(params)
    weights = jnp.arange(30.0).reshape(2, 3, 5)

    def ours(features, head):
        found = models.token_logprobs(
            features, head, targets, 0.7, entropy_gradient=entropy_gradient, max_logits=max_logits
        )
        return (found[0] * weights + found[1]).sum(), found

    def plain(features, head):
        logprobs = jax.nn.log_softmax(features @ head.T / 0.7)
        entropy = -(jnp.exp(logprobs) * logprobs).sum(-1)
        chosen = jnp.take_along_axis(logprobs, targets[..., None], -1)[..., 0]
        through = entropy if entropy_gradient else jax.lax.stop_gradient(entropy)
        return (chosen * weights + through).sum(), (chosen, entropy)

    (_, expected), wanted = jax.value_and_grad(plain, (0, 1), has_aux=True)(features, head)
    (_, found), got = jax.jit(jax.value_and_grad(ours, (0, 1), has_aux=True))(features, head)
    for one, other in zip((*found, *got), (*expected, *wanted)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)


def test_every_parameter_of_a_fresh_policy_gets_a_gradient(params, batch):
    gradient = jax.jit(jax.grad(lambda tree: logprobs(tree, *batch)[0].mean()))(params)
    dead = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_flatten_with_path(gradient)[0]
        if not float(jnp.abs(leaf).max()) > 0
    ]
    assert dead == []


def test_lora_starts_as_the_backbone_and_equals_qwix_after_a_change(params, batch):
    parameters = models.lora(ARCHITECTURE, params, rank=3, alpha=6.0, seed=1)
    np.testing.assert_array_equal(logprobs(models.merged(parameters), *batch)[0], logprobs(params, *batch)[0])
    moved = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), parameters.trainable
    )
    provider = qwix.LoraProvider(module_path=models.FAMILIES["qwen3"].adapted, rank=3, alpha=6.0)
    module = models.tunix_module(ARCHITECTURE, params)
    adapted = qwix.apply_lora_to_model(module, provider, rngs=nnx.Rngs(1), **module.get_model_input())
    state = nnx.state(adapted, nnx.LoRAParam)
    nnx.replace_by_pure_dict(state, moved)
    nnx.update(adapted, state)
    expected, _ = tunix_logprobs(adapted, *batch)
    got, _ = logprobs(models.merged(dataclasses.replace(parameters, trainable=moved)), *batch)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert float(jnp.abs(got - logprobs(params, *batch)[0]).max()) > 1e-2


def test_the_tiny_policy_is_tiny_and_a_function_of_its_seed():
    architecture = models.tiny(104)
    first, again, other = (models.initial_params(architecture, seed=seed) for seed in (3, 3, 4))
    assert sum(leaf.size for leaf in jax.tree.leaves(first)) < 1_500_000
    assert models.params_sha256(first) == models.params_sha256(again) != models.params_sha256(other)
