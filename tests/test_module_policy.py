"""Policies from Tunix's own modules, held to the modules called on every copy in full."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tunix.models.gemma import model as gemma
from tunix.models.gemma3 import model as gemma3
from tunix.models.gemma4 import model as gemma4
from tunix.models.llama3 import model as llama3
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen3 import model as qwen3

from agent_tunix import models, sampling, updates
from agent_tunix.losses import policy_loss

VOCAB, PROMPTS, GROUP, PROMPT_TOKENS, TOKENS = 40, 3, 2, 6, 5
ARCHITECTURE = models.tiny(VOCAB, layers=2, width=32, heads=4, kv_heads=2, head_dim=16, mlp=48)
SIZES = {"num_layers": 2, "embed_dim": 32, "hidden_dim": 48, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16}
QWEN = {"vocab_size": VOCAB, "rope_theta": 10_000, "norm_eps": 1e-6}
GEMMA = {
    "num_embed": VOCAB, "final_logit_softcap": None, "use_post_attn_norm": True, "use_post_ffw_norm": True,
    "attention_types": (gemma.AttentionType.GLOBAL,) * 2,
}  # fmt: skip


def gemma3_config(window):
    return gemma3.ModelConfig(**SIZES, num_embed=VOCAB, sliding_window_size=window, param_dtype=jnp.float32)


BUILT = {
    "qwen3": lambda: models.tunix_module(ARCHITECTURE),
    "llama3 tied": lambda: llama3.Llama3(
        llama3.ModelConfig(**SIZES, **QWEN, weight_tying=True, remat_config=llama3.RematConfig.BLOCK), rngs=nnx.Rngs(0)
    ),
    "llama3 untied": lambda: llama3.Llama3(llama3.ModelConfig(**SIZES, **QWEN), rngs=nnx.Rngs(0)),
    "qwen2": lambda: qwen2.Qwen2(qwen2.ModelConfig(**SIZES, **QWEN, use_tied_embedding=True), rngs=nnx.Rngs(0)),
    "gemma": lambda: gemma.Gemma(gemma.ModelConfig(**SIZES, **GEMMA), rngs=nnx.Rngs(0)),
    "gemma3": lambda: gemma3.Gemma3(gemma3_config(64), rngs=nnx.Rngs(0)),
    "gemma3 beyond its window": lambda: gemma3.Gemma3(gemma3_config(4), rngs=nnx.Rngs(0)),
}


def randomised(module):
    """Every parameter moved: Tunix starts kernels of MLPs at zero, and biases and norms where they hide errors."""
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))

    @jax.jit
    def moved(params):
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(7), len(leaves))
        noise = [jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves)]
        return structure.unflatten([leaf + 0.15 * change for leaf, change in zip(leaves, noise)])

    nnx.update(module, moved(params))
    return module


@functools.cache
def built(family):
    module = randomised(BUILT[family]())
    return module, *models.module_policy(module)


@pytest.fixture(scope="module", params=BUILT)
def family(request):
    return built(request.param)


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    prompt_mask = np.ones((PROMPTS, PROMPT_TOKENS), bool)
    prompt_mask[1, :3] = False
    prompt_mask[2, :5] = False  # a prompt of one token: its prefix is empty
    prompt_ids = random.integers(3, VOCAB, (PROMPTS, PROMPT_TOKENS))
    completions = random.integers(3, VOCAB, (PROMPTS, GROUP, TOKENS))
    return jnp.asarray(prompt_ids), jnp.asarray(prompt_mask), jnp.asarray(completions)


def plain_logprobs(module, params, prompt_ids, prompt_mask, completions):
    """Every copy in full, and the logits that the module itself gives: the slow twin."""
    graph, _, others = nnx.split(module, nnx.Param, ...)
    rows = jnp.concatenate([jnp.repeat(prompt_ids, GROUP, 0), completions.reshape(-1, TOKENS)], 1)
    mask = jnp.concatenate([jnp.repeat(prompt_mask, GROUP, 0), jnp.ones((PROMPTS * GROUP, TOKENS), bool)], 1)
    positions = jnp.maximum(jnp.cumsum(mask, -1) - 1, 0)
    visible = jnp.tril(jnp.ones((rows.shape[1],) * 2, bool))[None] & mask[:, None, :]
    logits, _ = nnx.merge(graph, params, others)(rows, positions, None, visible)
    logprobs = jax.nn.log_softmax(logits[:, prompt_ids.shape[1] - 1 : -1])
    return jnp.take_along_axis(logprobs, completions.reshape(-1, TOKENS, 1), -1).reshape(completions.shape)


def test_logprobs_and_gradients_equal_those_of_every_copy_in_full(family, batch):
    module, policy, params = family
    weights = jnp.cos(jnp.arange(batch[2].size)).reshape(batch[2].shape)

    def ours(params):
        logprobs, _ = policy.logprobs(params, *batch)
        return (weights * logprobs).sum(), logprobs

    def plain(params):
        logprobs = plain_logprobs(module, params, *batch)
        return (weights * logprobs).sum(), logprobs

    (_, got), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(params)
    (_, expected), wanted = jax.jit(jax.value_and_grad(plain, has_aux=True))(params)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted)) > 0
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * float(jnp.abs(other).max()))


def test_decoding_token_by_token_equals_the_teacher_forced_pass(family, batch):
    _, policy, params = family
    prompt_ids, prompt_mask, completions = batch

    @jax.jit
    def decoded(params):
        prefix = policy.prefix(params, prompt_ids, prompt_mask)
        cache, step = policy.cache(params, prefix, GROUP, 2), policy.decoder(params, prefix)
        fed, seen = jnp.broadcast_to(prompt_ids[:, -1:], (PROMPTS, GROUP)), []
        for index in range(TOKENS):
            cache = policy.grown(cache, TOKENS) if index == 2 else cache
            logits, cache = step(cache, fed, jnp.int32(index))
            fed = completions[:, :, index]
            seen.append(jnp.take_along_axis(jax.nn.log_softmax(logits), fed[..., None], 2)[..., 0])
        return jnp.stack(seen, -1)

    expected, _ = jax.jit(policy.logprobs)(params, *batch)
    np.testing.assert_allclose(decoded(params), expected, atol=1e-5)


def test_padding_on_the_left_changes_nothing(family, batch):
    _, policy, params = family
    prompt_ids, prompt_mask, completions = batch
    padded = jnp.pad(prompt_ids, ((0, 0), (4, 0))), jnp.pad(prompt_mask, ((0, 0), (4, 0)))
    logprobs = jax.jit(policy.logprobs)
    # 1e-5: the module's sums have another length.
    np.testing.assert_allclose(logprobs(params, *padded, completions)[0], logprobs(params, *batch)[0], atol=1e-5)


def test_prompts_of_one_token_have_an_empty_prefix(batch):
    module, policy, params = built("llama3 untied")
    prompt_ids, prompt_mask, completions = batch
    short = prompt_ids[:, -1:], prompt_mask[:, -1:], completions
    expected = jax.jit(functools.partial(plain_logprobs, module))(params, *short)
    np.testing.assert_allclose(jax.jit(policy.logprobs)(params, *short)[0], expected, atol=1e-5)


def test_a_prompt_is_computed_once_for_its_group(batch):
    """Counted operations grow by the group's completions, not by copies of its prompt."""
    _, policy, params = built("llama3 untied")

    def operations(group):
        tokens = jnp.zeros((1, group, 2), int), jnp.zeros((1, 64), int), jnp.ones((1, 64), bool)

        def hidden(params, completions, ids, mask):
            return policy.features(params, ids, mask, completions)

        return jax.jit(hidden).lower(params, *tokens).compile().cost_analysis()["flops"]

    assert operations(8) < 2 * operations(1)


def test_arrays_lead_with_the_axes_that_sampling_regroups(family, batch):
    _, policy, params = family
    prefix = jax.eval_shape(policy.prefix, params, *batch[:2])
    cache = jax.eval_shape(lambda params, prefix: policy.cache(params, prefix, GROUP, 4), params, prefix)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(prefix)} == {PROMPTS}
    assert {leaf.shape[:2] for leaf in jax.tree.leaves(cache)} == {(PROMPTS, GROUP)}


# --- Beside the own forward of Qwen3 ----------------------------------------------------------------------------------


def test_qwen3_through_its_module_equals_the_own_forward(batch):
    _, policy, params = built("qwen3")
    own = models.policy(ARCHITECTURE)
    expected, entropy = jax.jit(own.logprobs)(params, *batch)
    got, entropy_got = jax.jit(policy.logprobs)(params, *batch)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(entropy_got, entropy, atol=1e-5)
    np.testing.assert_array_equal(policy.unembedding(params), own.unembedding(params))


def drawn(policy, params, batch, tokens=6):
    # Many stop tokens, so that rows end at every pause and the rest is regrouped.
    decoded = sampling.decoding(policy, max_tokens=tokens, stop_ids=(3, 4, 5, 6, 7, 8), pad_id=0)
    prompts = jnp.tile(batch[0], (4, 1)), jnp.tile(batch[1], (4, 1))
    return *prompts, decoded(models.full(params), *prompts, 4, jax.random.key(2))


@pytest.fixture
def early_pauses(monkeypatch):
    monkeypatch.setattr(sampling, "FIRST_SEGMENT", 2)
    seen, regrouped = [], sampling.regrouped

    def watched(state, to, total_rows):
        seen.append(to)
        return regrouped(state, to, total_rows)

    monkeypatch.setattr(sampling, "regrouped", watched)
    return seen


@pytest.mark.parametrize("name", ["qwen3", "llama3 untied", "gemma3 beyond its window"])
def test_sampling_with_dropped_rows_and_a_growing_cache_equals_teacher_forcing(name, batch, early_pauses):
    _, policy, params = built(name)
    prompt_ids, prompt_mask, rollouts = drawn(policy, params, batch)
    assert early_pauses, "no row was dropped"
    mask = rollouts["completion_mask"]
    expected, _ = jax.jit(policy.logprobs)(params, prompt_ids, prompt_mask, jnp.asarray(rollouts["completion_ids"]))
    np.testing.assert_allclose(rollouts["logprobs"][mask], np.asarray(expected)[mask], atol=1e-5)
    assert mask.sum() > mask[:, :, 0].size


def test_sampling_draws_the_tokens_of_the_own_forward(batch, early_pauses):
    _, policy, params = built("qwen3")
    *_, through = drawn(policy, params, batch)
    *_, own = drawn(models.policy(ARCHITECTURE), params, batch)
    np.testing.assert_array_equal(through["completion_ids"], own["completion_ids"])


def minibatch(batch, logprobs):
    mask = jnp.arange(TOKENS) < jnp.array([[5, 3], [1, 4], [2, 5]])[..., None]
    advantages = jnp.array([[1.0, -1.0], [0.5, -0.5], [-1.0, 1.0]])[..., None] * mask
    old = jnp.where(mask, logprobs + 0.1 * jnp.cos(jnp.arange(mask.size)).reshape(mask.shape), 0.0)
    truncated = jnp.zeros(mask.shape[:2], bool)
    numbers = (*batch, mask, truncated, old, old, jnp.where(mask, logprobs, 0.0), advantages)
    return updates.Minibatch(*map(np.asarray, numbers))


def updated(policy, params, batch, expected):
    loss, optimizer = policy_loss(kl_coefficient=0.04), optax.sgd(0.1)
    update = updates.updater(policy, loss, optimizer, temperature=1.0, microbatches=2)
    start = jax.tree.map(jnp.copy, params)  # donated
    after, _, stats = update(models.full(start), optimizer.init(start), minibatch(batch, expected))
    return after, stats


def test_an_update_equals_that_of_the_own_forward(batch):
    _, policy, params = built("qwen3")
    own = models.policy(ARCHITECTURE)
    logprobs, _ = jax.jit(own.logprobs)(params, *batch)
    wanted, expected = updated(own, params, batch, logprobs)
    got, stats = updated(policy, params, batch, logprobs)
    assert bool(stats["policy/finite"])
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for name in expected:
        np.testing.assert_allclose(stats[name], expected[name], rtol=1e-5, atol=1e-5)
    for one, other, before in zip(*map(jax.tree.leaves, (got, wanted, params)), strict=True):
        assert float(jnp.abs(other - before).max()) > 0
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_module_that_computes_in_bfloat16_gives_features_in_it(batch):
    config = gemma3_config(64)
    config.param_dtype = jnp.bfloat16
    policy, params = models.module_policy(randomised(gemma3.Gemma3(config, rngs=nnx.Rngs(0))))
    assert jax.eval_shape(policy.features, params, *batch).dtype == jnp.bfloat16
    module = models.tunix_module(ARCHITECTURE)
    module.config.dtype = jnp.bfloat16
    policy, params = models.module_policy(randomised(qwen3.Qwen3(module.config, rngs=nnx.Rngs(0))))
    assert jax.eval_shape(policy.features, params, *batch).dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


# --- What is refused --------------------------------------------------------------------------------------------------


def test_a_softcap_over_the_logits_is_refused_however_small_the_logits():
    config = gemma.ModelConfig(**SIZES, **GEMMA | {"final_logit_softcap": 30.0})
    with pytest.raises(ValueError, match=r"logits of Gemma are not a product .* a forward of its own"):
        models.module_policy(gemma.Gemma(config, rngs=nnx.Rngs(0)))


def test_a_cache_that_begins_anew_with_several_tokens_is_refused():
    sizes = SIZES | {"num_embed": VOCAB, "final_logit_softcap": None, "sliding_window_size": 64}
    module = gemma4.Gemma4(gemma4.ModelConfig(**sizes, global_key_size=16), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="cache of Gemma4 does not go on"):
        models.module_policy(randomised(module))


def test_flash_attention_is_refused():
    module = models.tunix_module(ARCHITECTURE)
    module.config = dataclasses.replace(module.config, use_flash_attention=True)
    with pytest.raises(ValueError, match="use_flash_attention=False"):
        models.module_policy(module)


def test_the_module_itself_stays_as_it_was(batch):
    module, _, params = built("llama3 untied")
    ids = batch[0][:1]
    logits, _ = module(ids, jnp.arange(PROMPT_TOKENS)[None], None, jnp.ones((1, 6, 6), bool))
    assert logits.shape == (1, PROMPT_TOKENS, VOCAB)
    assert isinstance(module.lm_head, llama3.Einsum)
    assert "lm_head" in params
