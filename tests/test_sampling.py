import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent_tunix import models, sampling
from agent_tunix.sampling import Distribution

TOKENS = 12


@pytest.fixture(scope="module")
def sample(policy, tokenizer):
    return sampling.sampler(policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=TOKENS)


@pytest.fixture(scope="module")
def rollouts(sample, params, rows):
    return sample(models.full(params), rows[:4], 3, jax.random.key(0))


def frequencies(logits, distribution, draws=40_000):
    tokens, logprobs, old = jax.jit(sampling.draw, static_argnums=2)(
        jax.random.uniform(jax.random.key(1), (draws,)), jnp.tile(jnp.asarray(logits)[None], (draws, 1)), distribution
    )
    return np.bincount(tokens, minlength=len(logits)) / draws, np.asarray(tokens), logprobs, old


@pytest.mark.parametrize("vocab", [7, 104, 3000])
def test_draws_follow_the_softmax_by_a_chi_square_test(vocab):
    logits = 2.0 * np.random.default_rng(0).normal(size=vocab).astype(np.float32)
    draws = 40_000
    seen, *_ = frequencies(logits, Distribution(temperature=0.7), draws)
    expected = np.asarray(jax.nn.softmax(logits / 0.7), np.float64)
    common = expected * draws >= 5
    observed = np.append(seen[common], seen[~common].sum()) * draws
    wanted = np.append(expected[common], expected[~common].sum()) * draws
    wanted = np.maximum(wanted, 1e-9)
    statistic = ((observed - wanted) ** 2 / wanted)[wanted > 1].sum()
    freedom = (wanted > 1).sum() - 1
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)  # five deviations above the mean


PROBABILITIES = np.array([0.5, 0.3, 0.15, 0.05])


@pytest.mark.parametrize(
    ("distribution", "kept"),
    [
        (Distribution(top_k=2), [0.625, 0.375, 0, 0]),
        (Distribution(top_k=9), PROBABILITIES),
        (Distribution(top_p=0.8), [0.625, 0.375, 0, 0]),  # exactly reached by two
        (Distribution(top_p=0.81), [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        (Distribution(top_p=0.01), [1, 0, 0, 0]),
        (Distribution(min_p=0.25), [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        (Distribution(top_k=3, min_p=0.5), [0.625, 0.375, 0, 0]),
    ],
)
def test_filters_leave_the_worked_out_distribution(distribution, kept):
    # A grain below 0.8 in float32 would cross the threshold one token late; the logits are exact powers otherwise.
    seen, tokens, logprobs, old = frequencies(np.log(PROBABILITIES).astype(np.float32), distribution)
    np.testing.assert_allclose(seen, kept, atol=0.01)
    np.testing.assert_allclose(np.exp(logprobs), np.asarray(kept)[tokens], atol=1e-6)
    np.testing.assert_allclose(np.exp(old), PROBABILITIES[tokens], atol=1e-6)


def test_greedy_takes_the_likeliest_token_whatever_the_noise():
    logits = jnp.array([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
    for noise in (0.0, 0.5, 0.999):
        tokens, *_ = sampling.draw(jnp.full(2, noise), logits, Distribution(temperature=0.0))
        assert tokens.tolist() == [1, 0]


def test_impossible_tokens_are_never_drawn():
    logits = jnp.where(jnp.arange(5000) % 7 == 3, 0.0, -jnp.inf)
    noise = jax.random.uniform(jax.random.key(0), (5_000,))
    tokens, logprobs, _ = sampling.draw(noise, jnp.tile(logits[None], (5_000, 1)), Distribution())
    assert set((np.asarray(tokens) % 7).tolist()) == {3}
    assert np.isfinite(logprobs).all()


def tokens_of(rollouts):
    return map(jnp.asarray, (rollouts.prompt_ids, rollouts.prompt_mask, rollouts.completion_ids))


def test_logprobs_of_sampling_equal_a_teacher_forced_pass(rollouts, policy, params):
    expected, _ = policy.logprobs(params, *tokens_of(rollouts))
    mask = rollouts.completion_mask
    np.testing.assert_allclose(rollouts.logprobs[mask], np.asarray(expected)[mask], atol=1e-5)
    assert (rollouts.logprobs[~mask] == 0).all()


def test_logprobs_are_those_of_the_temperature_that_was_sampled_with(policy, tokenizer, params, rows):
    sample = sampling.sampler(
        policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=TOKENS,
        distribution=Distribution(temperature=0.5, top_k=5),
    )  # fmt: skip
    drawn = sample(models.full(params), rows[:2], 2, jax.random.key(3))
    expected, _ = policy.logprobs(params, *tokens_of(drawn), temperature=0.5)
    mask = drawn.completion_mask
    np.testing.assert_allclose(drawn.old_logprobs[mask], np.asarray(expected)[mask], atol=1e-5)
    assert (drawn.logprobs[mask] >= drawn.old_logprobs[mask] - 1e-6).all()  # fewer tokens share the mass
    assert (drawn.logprobs[mask] > drawn.old_logprobs[mask] + 1e-3).any()


def test_same_key_same_rollouts_and_different_key_different_ones(sample, params, rows, rollouts):
    again = sample(models.full(params), rows[:4], 3, jax.random.key(0))
    other = sample(models.full(params), rows[:4], 3, jax.random.key(1))
    np.testing.assert_array_equal(again.completion_ids, rollouts.completion_ids)
    assert (other.completion_ids != rollouts.completion_ids).any()


def test_members_of_a_group_and_equal_prompts_do_not_share_noise(sample, params, rows):
    drawn = sample(models.full(params), [rows[0]] * 4, 3, jax.random.key(0))
    texts = {text for group in drawn.completions for text in group}
    assert len(texts) == 12


def always_saying(token, params):
    """Parameters that put all mass on one token: the MLP writes a feature which only that token's embedding reads."""
    tree = jax.tree.map(jnp.zeros_like, params)
    tree["embedder"]["input_embedding"] = tree["embedder"]["input_embedding"].at[:, 0].set(1.0).at[token, 5].set(1.0)
    layer = tree["layers"][0]
    layer["post_attention_layernorm"]["w"] = jnp.ones_like(layer["post_attention_layernorm"]["w"])
    for name, value in (("gate_proj", 10.0), ("up_proj", 1.0)):
        layer["mlp"][name]["kernel"] = layer["mlp"][name]["kernel"].at[0, 0].set(value)
    layer["mlp"]["down_proj"]["kernel"] = layer["mlp"]["down_proj"]["kernel"].at[0, 5].set(50.0)
    tree["final_norm"]["w"] = tree["final_norm"]["w"].at[5].set(20.0)
    return tree


def test_a_stop_token_ends_a_completion_and_the_loop(policy, tokenizer, params, rows):
    eos = tokenizer.eos_id()
    always = always_saying(eos, params)
    drawn = sampling.sampler(policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=TOKENS)(
        models.full(always), rows[:2], 2, jax.random.key(0)
    )
    assert drawn.lengths.tolist() == [[1, 1], [1, 1]]
    assert not drawn.truncated.any()
    assert drawn.completions == [["", ""], ["", ""]]
    assert (drawn.completion_ids[:, :, 1:] == tokenizer.pad_id()).all()


def test_further_stop_strings_end_a_completion_and_stay_in_its_text(policy, tokenizer, params, rows):
    stop = tokenizer.token_id("</answer>")
    always = always_saying(stop, params)
    sample = sampling.sampler(
        policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=TOKENS, stop=("</answer>",)
    )
    drawn = sample(models.full(always), rows[:1], 2, jax.random.key(0))
    assert drawn.completions == [["</answer>", "</answer>"]]
    assert not drawn.truncated.any()


def test_a_completion_without_end_is_cut_at_the_budget_and_says_so(policy, tokenizer, params, rows):
    letter = tokenizer.token_id("a")
    always = always_saying(letter, params)
    sample = sampling.sampler(policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=5)
    drawn = sample(models.full(always), rows[:1], 2, jax.random.key(0))
    assert drawn.completions == [["aaaaa", "aaaaa"]]
    assert drawn.truncated.all()


def test_a_stop_string_of_several_tokens_is_refused(policy, tokenizer):
    with pytest.raises(ValueError, match="ab"):
        sampling.sampler(policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=4, stop=("ab",))


def test_one_shape_is_compiled_once(policy, tokenizer, params, rows):
    sample = sampling.sampler(policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=TOKENS)
    sample(models.full(params), rows[:4], 3, jax.random.key(0))
    with jax.log_compiles(False), pytest.MonkeyPatch.context() as patch:
        compiled = []
        patch.setattr(
            jax._src.compiler, "compile_or_get_cached", lambda *a, **k: compiled.append(a) or pytest.fail("compiled")
        )
        sample(models.full(params), rows[4:8], 3, jax.random.key(9))
    assert compiled == []


def test_columns_of_rows_travel_with_the_rollouts(rollouts, rows):
    assert rollouts.columns["answer"] == [row["answer"] for row in rows[:4]]
    assert "demonstration" not in rollouts.columns


@pytest.mark.parametrize("streams", [2, 3, 4])
def test_streams_draw_the_same_completions_in_the_same_order(policy, tokenizer, params, rows, rollouts, streams):
    sample = sampling.sampler(policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=TOKENS, streams=streams)
    drawn = sample(models.full(params), rows[:4], 3, jax.random.key(0))
    np.testing.assert_array_equal(drawn.completion_ids, rollouts.completion_ids)
    np.testing.assert_array_equal(drawn.truncated, rollouts.truncated)
    np.testing.assert_allclose(drawn.logprobs, rollouts.logprobs, atol=1e-6)


def test_streams_compile_a_program_once_and_pass_errors_on(policy, tokenizer, params, rows, caplog):
    sample = sampling.sampler(policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=TOKENS, streams=4)
    jax.config.update("jax_log_compiles", True)  # for all threads, which a context manager is not
    try:
        sample(models.full(params), rows[:8], 3, jax.random.key(0))
    finally:
        jax.config.update("jax_log_compiles", False)
    compiled = [record.getMessage() for record in caplog.records if "Compiling jit(" in record.getMessage()]
    assert sum("jit(begin)" in message for message in compiled) == 1
    assert sum("jit(decode)" in message for message in compiled) == 1
    with pytest.raises(TypeError):
        sample(models.full({}), rows[:8], None, jax.random.key(0))
