"""Laws of the losses, their NumPy twins, and numbers worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_tunix import advantages, losses
from agent_tunix.types import Rollouts, Score, TokenBatch
from tests.reference import losses as twin


def batch_of(seed, shape=(3, 4, 6), spread=0.5, empty=False):
    """Random tokens, right-padded; one completion without any token."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, shape[-1] + 1, shape[:2])
    lengths[0, 0] = 0
    mask = np.zeros(shape, bool) if empty else np.arange(shape[-1]) < lengths[..., None]
    old = -rng.exponential(1.5, shape)

    def near():
        return (old + spread * rng.normal(size=shape)).astype(np.float32)

    advantages = np.broadcast_to(rng.normal(size=(*shape[:2], 1)), shape).astype(np.float32)
    entropy = rng.exponential(1.0, shape).astype(np.float32)
    return TokenBatch(
        jnp.asarray(near()),
        jnp.asarray(entropy),
        jnp.asarray(old.astype(np.float32)),
        jnp.asarray(near()),
        jnp.asarray(near()),
        jnp.asarray(advantages),
        jnp.asarray(mask),
    )


def filled_outside(batch, garbage):
    return jax.tree.map(lambda array: jnp.where(batch.mask, array, garbage), batch)._replace(mask=batch.mask)


def prompts_of(batch, chosen):
    return jax.tree.map(lambda array: array[chosen], batch)


def single(**values):
    """A batch of one completion from lists; what is not given is 0 and the mask is full."""
    length = len(next(iter(values.values())))
    arrays = dict.fromkeys(TokenBatch._fields, [0.0] * length) | {"mask": [True] * length} | values
    return TokenBatch(**{name: jnp.asarray([[array]]) for name, array in arrays.items()})


def total(loss, batch, truncated=None):
    """The loss of a batch, as the loop adds it up, as a function of its log-probabilities and entropy."""
    truncated = jnp.zeros(batch.mask.shape[:2], bool) if truncated is None else truncated

    def value(logprobs, entropy):
        per_token, _ = loss.per_token(batch._replace(logprobs=logprobs, entropy=entropy))
        return jnp.sum(loss.weights(batch.mask, truncated) * per_token)

    return value


CASES = {
    "clipped": (losses.clipped(), twin.clipped, {}),
    "clip-higher": (
        losses.clipped(0.2, epsilon_high=0.28),
        functools.partial(twin.clipped, epsilon_high=0.28),
        {},
    ),
    "dual clip": (
        losses.clipped(dual_clip=1.5),
        functools.partial(twin.clipped, dual_clip=1.5),
        {},
    ),
    "sequence": (losses.clipped(0.1, ratio=losses.sequence_ratio), functools.partial(twin.clipped, epsilon=0.1), {}),
    "truncated": (losses.truncated(0.3, 0.4), functools.partial(twin.truncated, epsilon=0.3, epsilon_high=0.4), {}),
    "truncated sequence": (losses.truncated(ratio=losses.sequence_ratio), twin.truncated, {}),
    "k1": (losses.clipped(), twin.clipped, {"kl_coefficient": 0.1, "kl_estimator": "k1"}),
    "k2": (losses.clipped(), twin.clipped, {"kl_coefficient": 0.1, "kl_estimator": "k2"}),
    "k3": (losses.clipped(), twin.clipped, {"kl_coefficient": 0.1, "kl_estimator": "k3"}),
    "entropy": (losses.clipped(), twin.clipped, {"entropy_coefficient": 0.01}),
    "mismatch": (losses.clipped(), twin.clipped, {"mismatch_cap": 1.2}),
    "everything": (
        losses.truncated(),
        twin.truncated,
        {"kl_coefficient": 0.05, "kl_estimator": "k3", "entropy_coefficient": 0.02, "mismatch_cap": 2.0},
    ),
}


def options_of(module, options):
    return {name: getattr(module, value) if name == "kl_estimator" else value for name, value in options.items()}


def both(name):
    """The loss of a case and its twin as a function of a batch."""
    surrogate, reference, options = CASES[name]
    loss = losses.policy_loss(surrogate, **options_of(losses, options))
    return loss, functools.partial(
        twin.policy_loss, surrogate=reference, sequence="sequence" in name, **options_of(twin, options)
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_loss_and_its_gradient_equal_the_twin(name, seed):
    loss, reference = both(name)
    batch = batch_of(seed)
    expected, slopes = reference(batch)
    np.testing.assert_allclose(loss.per_token(batch)[0], expected, rtol=1e-6, atol=1e-6)
    gradient = jax.grad(lambda logprobs: jnp.sum(loss.per_token(batch._replace(logprobs=logprobs))[0]))(batch.logprobs)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_garbage_outside_the_mask_reaches_neither_loss_nor_gradient_nor_statistics(name):
    loss, _ = both(name)
    batch = batch_of(3)
    clean = jax.value_and_grad(total(loss, batch), (0, 1))(batch.logprobs, batch.entropy)
    for garbage in (jnp.nan, jnp.inf, -jnp.inf):
        dirty = filled_outside(batch, garbage)
        value, gradients = jax.value_and_grad(total(loss, dirty), (0, 1))(dirty.logprobs, dirty.entropy)
        assert value == clean[0]
        for got, wanted in zip(gradients, clean[1]):
            np.testing.assert_array_equal(got, wanted)
            assert not np.any(np.asarray(got)[~np.asarray(batch.mask)])
        for key, statistic in loss.per_token(dirty)[1].items():
            np.testing.assert_array_equal(statistic, loss.per_token(batch)[1][key], err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_jit_equals_eager(name):
    loss, _ = both(name)
    batch = batch_of(4)
    eager, compiled = loss.per_token(batch), jax.jit(loss.per_token)(batch)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), compiled, eager)


AGGREGATIONS = {
    "token_mean": losses.token_mean,
    "sequence_mean_token_mean": losses.sequence_mean_token_mean,
    "sequence_mean_token_sum": losses.sequence_mean_token_sum,
    "constant": losses.constant(10),
}


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_weights_equal_the_twin_and_are_zero_for_an_empty_mask(kind):
    for seed in range(3):
        mask = batch_of(seed).mask
        got = AGGREGATIONS[kind](mask)
        np.testing.assert_allclose(got, twin.weights(kind, np.asarray(mask), 10), rtol=1e-6)
        assert got.dtype == jnp.float32
    np.testing.assert_array_equal(AGGREGATIONS[kind](jnp.zeros((2, 3, 4), bool)), 0.0)


def test_weights_of_a_mask_worked_out_by_hand():
    mask = jnp.array([[[1, 1, 1, 0], [1, 0, 0, 0]]], bool)  # a completion of three tokens and one of a single token
    np.testing.assert_allclose(losses.token_mean(mask), np.where(mask, 1 / 4, 0))
    np.testing.assert_allclose(
        losses.sequence_mean_token_mean(mask), [[[1 / 6, 1 / 6, 1 / 6, 0], [1 / 2, 0, 0, 0]]], rtol=1e-6
    )
    np.testing.assert_allclose(losses.sequence_mean_token_sum(mask), np.where(mask, 1 / 2, 0))
    np.testing.assert_allclose(losses.constant(4)(mask), np.where(mask, 1 / 8, 0))


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_masking_truncated_completions_equals_removing_them(kind):
    batch = batch_of(5, shape=(1, 4, 6))
    truncated = jnp.array([[False, True, False, True]])
    loss = losses.policy_loss(aggregation=AGGREGATIONS[kind], mask_truncated=True, kl_coefficient=0.1)
    kept = jax.tree.map(lambda array: array[:, ::2], batch)
    got = total(loss, batch, truncated)(batch.logprobs, batch.entropy)
    np.testing.assert_allclose(got, total(loss, kept)(kept.logprobs, kept.entropy), rtol=1e-6)
    assert got != total(loss, batch)(batch.logprobs, batch.entropy)


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_a_batch_masked_altogether_gives_zero_loss_and_zero_gradient(kind):
    loss = losses.policy_loss(
        aggregation=AGGREGATIONS[kind],
        mask_truncated=True,
        kl_coefficient=0.1,
        entropy_coefficient=0.1,
        mismatch_cap=2.0,
    )
    for batch, truncated in ((batch_of(6), True), (batch_of(6, empty=True), False)):
        function = total(loss, batch, jnp.full(batch.mask.shape[:2], truncated))
        value, gradients = jax.value_and_grad(function, (0, 1))(batch.logprobs, batch.entropy)
        assert value == 0.0
        np.testing.assert_array_equal(gradients, 0.0)


@pytest.mark.parametrize("kind", AGGREGATIONS)
@pytest.mark.parametrize("name", ["sequence", "everything"])
def test_microbatches_add_up_to_the_whole(kind, name):
    surrogate, _, options = CASES[name]
    loss = losses.policy_loss(surrogate, aggregation=AGGREGATIONS[kind], **options_of(losses, options))
    batch = batch_of(7, shape=(4, 3, 5))
    weights = loss.weights(batch.mask, jnp.zeros(batch.mask.shape[:2], bool))
    whole = jnp.sum(weights * loss.per_token(batch)[0])
    parts = [jnp.sum(weights[part] * loss.per_token(prompts_of(batch, part))[0]) for part in (slice(0, 1), slice(1, 4))]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-6, atol=1e-6)


def test_clipping_worked_out_by_hand():
    # Ratios 1.5, 1.5, 0.5, 0.5 and 5 with epsilon 0.2, 0.3 above and a dual clip of 3.
    log_ratios, advantages = np.log([1.5, 1.5, 0.5, 0.5, 5.0]), [1.0, -1.0, 1.0, -1.0, -1.0]
    batch = single(logprobs=log_ratios.astype(np.float32), advantages=advantages)
    value, statistics = losses.clipped(0.2, 0.3, 3.0)(batch)
    np.testing.assert_allclose(value[0, 0], [-1.3, 1.5, -0.5, 0.8, 3.0], rtol=1e-6)
    np.testing.assert_array_equal(statistics["clip_fraction_high"][0, 0], [1, 0, 0, 0, 1])
    np.testing.assert_array_equal(statistics["clip_fraction_low"][0, 0], [0, 0, 0, 1, 0])
    np.testing.assert_array_equal(statistics["clip_fraction"][0, 0], [1, 0, 0, 1, 1])
    np.testing.assert_allclose(statistics["ratio"][0, 0], [1.5, 1.5, 0.5, 0.5, 5.0], rtol=1e-6)


def test_truncation_worked_out_by_hand():
    # Weights of 1.5, 1.0 and 0.5 are kept in [0.8, 1.3]; the loss is -weight * advantage * log-probability.
    batch = single(
        logprobs=[-1.0, -1.0, -1.0],
        old_logprobs=(-1.0 - np.log([1.5, 1.0, 0.5])).astype(np.float32),
        advantages=[2.0, 2.0, -2.0],
    )
    value, statistics = losses.truncated(0.2, 0.3)(batch)
    np.testing.assert_allclose(value[0, 0], [2.6, 2.0, -1.6], rtol=1e-6)
    np.testing.assert_array_equal(statistics["clip_fraction"][0, 0], [1, 0, 1])


def test_sequence_ratio_is_the_geometric_mean_over_the_mask():
    batch = single(logprobs=np.log([2.0, 8.0, 100.0]).astype(np.float32), mask=[True, True, False])
    np.testing.assert_allclose(losses.sequence_ratio(batch)[0, 0], [4.0, 4.0, 1.0], rtol=1e-6)  # sqrt(2 * 8)
    np.testing.assert_allclose(losses.token_ratio(batch)[0, 0], [2.0, 8.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize("sequence", [False, True])
def test_gradient_of_the_clipped_loss_equals_finite_differences(sequence):
    # The differences are those of the plain ratio in float64, without any stop-gradient, so for sequences this shows
    # that the tokens' gradients add up to that of the sequence.
    batch = batch_of(8, shape=(2, 2, 3))
    loss = losses.policy_loss(losses.clipped(ratio=losses.sequence_ratio if sequence else losses.token_ratio))
    gradient = jax.grad(total(loss, batch))(batch.logprobs, batch.entropy)
    weights = twin.weights("token_mean", np.asarray(batch.mask))

    def value(logprobs):
        return np.sum(weights * twin.policy_loss(batch._replace(logprobs=logprobs), twin.clipped, sequence)[0])

    logprobs, step = np.asarray(batch.logprobs, np.float64), 1e-6
    for at in np.ndindex(logprobs.shape):
        nudge = np.zeros(logprobs.shape)
        nudge[at] = step
        slope = (value(logprobs + nudge) - value(logprobs - nudge)) / (2 * step)
        np.testing.assert_allclose(gradient[at], slope, rtol=1e-6, atol=1e-6)


def test_on_policy_every_surrogate_has_the_policy_gradient():
    batch = batch_of(9)
    batch = batch._replace(old_logprobs=batch.logprobs, sampler_logprobs=batch.logprobs)
    expected = -np.asarray(batch.advantages * losses.token_mean(batch.mask))
    for ratio in (losses.token_ratio, losses.sequence_ratio):
        for surrogate in (losses.clipped(ratio=ratio), losses.clipped(0.0, ratio=ratio), losses.truncated(ratio=ratio)):
            loss = losses.policy_loss(surrogate, mismatch_cap=1.0)
            gradient = jax.grad(total(loss, batch))(batch.logprobs, batch.entropy)
            np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_divergences_equal_the_golden_values_of_peers():
    logprobs, ref = jnp.array([-1.0, -2.0, -0.5]), jnp.array([-1.2, -1.0, -0.5])
    np.testing.assert_allclose(losses.k1(logprobs, ref), [0.2, -1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(losses.k2(logprobs, ref), [0.02, 0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(losses.k3(logprobs, ref), [0.018731, 0.718282, 0.0], atol=1e-6)  # TRL and verl


@given(st.floats(-200, 0, width=32), st.floats(-200, 0, width=32))
@settings(deadline=None, max_examples=60)
def test_divergences_are_finite_and_those_meant_to_be_are_not_negative(logprob, ref):
    for estimator in (losses.k1, losses.k2, losses.k3):
        value, slope = jax.value_and_grad(estimator)(jnp.float32(logprob), jnp.float32(ref))
        assert np.isfinite(value) and np.isfinite(slope)
        assert estimator is losses.k1 or value >= 0


@pytest.mark.parametrize("gap", [1e-5, 1e-4, 1e-3])
def test_k3_of_nearly_equal_policies_is_half_the_squared_difference(gap):
    # exp(d) - d - 1 in float32 would leave rounding of 1e-7, twenty times the answer at 1e-4.
    np.testing.assert_allclose(losses.k3(jnp.float32(0), jnp.float32(gap)), gap**2 / 2, rtol=1e-3, atol=1e-12)


def test_huge_ratios_stay_finite():
    batch = single(logprobs=[0.0, -500.0], old_logprobs=[-500.0, 0.0], advantages=[-1.0, 1.0])
    value, gradients = jax.value_and_grad(total(losses.policy_loss(), batch))(batch.logprobs, batch.entropy)
    np.testing.assert_allclose(value, (np.exp(20.0) - np.exp(-20.0)) / 2, rtol=1e-6)
    np.testing.assert_array_equal(gradients, 0.0)


def test_mismatch_weight_is_capped_constant_and_spares_the_divergence():
    batch = single(
        logprobs=[-1.0, -1.0],
        old_logprobs=[-1.0, -1.0],
        sampler_logprobs=(-1.0 - np.log([5.0, 0.5])).astype(np.float32),
        ref_logprobs=[-1.0, 0.0],
        advantages=[1.0, 1.0],
    )
    loss = losses.policy_loss(mismatch_cap=2.0, kl_coefficient=1.0)
    value, statistics = loss.per_token(batch)
    np.testing.assert_allclose(statistics["mismatch_weight"][0, 0], [2.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(value[0, 0], [-2.0, -0.5 + np.e - 2], rtol=1e-6)
    slope = jax.grad(lambda sampler: jnp.sum(loss.per_token(batch._replace(sampler_logprobs=sampler))[0]))
    np.testing.assert_array_equal(slope(batch.sampler_logprobs), 0.0)


def test_entropy_bonus_rewards_entropy():
    batch = batch_of(10)
    loss = losses.policy_loss(entropy_coefficient=0.3)
    gradient = jax.grad(total(loss, batch), 1)(batch.logprobs, batch.entropy)
    np.testing.assert_allclose(gradient, -0.3 * losses.token_mean(batch.mask), rtol=1e-6)
    assert loss.needs_entropy and not losses.policy_loss().needs_entropy


def test_statistics_are_per_token_zero_outside_the_mask_and_carry_no_gradient():
    batch = batch_of(11)
    loss = losses.policy_loss(mismatch_cap=2.0)
    statistics = loss.per_token(batch)[1]
    clipping = {"ratio", "clip_fraction", "clip_fraction_low", "clip_fraction_high"}
    assert set(statistics) == clipping | {"entropy", "old_kl", "kl", "mismatch_weight"}
    for name, values in statistics.items():
        assert values.shape == batch.mask.shape and values.dtype == jnp.float32, name
        assert not np.any(np.asarray(values)[~np.asarray(batch.mask)]), name
        slope = jax.grad(lambda lp, key=name: jnp.sum(loss.per_token(batch._replace(logprobs=lp))[1][key]))
        np.testing.assert_array_equal(slope(batch.logprobs), 0.0, err_msg=name)
    expected = [
        [[twin.k3(float(o), float(n))[0] for o, n in zip(*r)] for r in zip(*p)]
        for p in zip(np.asarray(batch.old_logprobs), np.asarray(batch.logprobs))
    ]
    np.testing.assert_allclose(statistics["old_kl"], np.where(batch.mask, expected, 0), rtol=1e-5, atol=1e-6)


def test_without_a_reference_the_loss_works_and_reports_no_divergence():
    batch = batch_of(12)._replace(ref_logprobs=None)
    loss = losses.policy_loss()
    assert not loss.needs_reference
    assert "kl" not in loss.per_token(batch)[1]
    wanting = losses.policy_loss(kl_coefficient=0.1)
    assert wanting.needs_reference
    with pytest.raises(ValueError, match="without ref_logprobs"):
        wanting.per_token(batch)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: losses.clipped(dual_clip=1.0), "dual_clip=1.0"),
        (lambda: losses.constant(0), "length=0"),
        (lambda: losses.policy_loss(mismatch_cap=0.0), "mismatch_cap=0.0"),
    ],
)
def test_values_that_cannot_work_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def rollouts_of(old, ref, mask):
    shape = np.shape(mask)
    return Rollouts(
        prompts=["p"] * shape[0],
        completions=[["c"] * shape[1]] * shape[0],
        columns={},
        prompt_ids=np.zeros((shape[0], 1), int),
        prompt_mask=np.ones((shape[0], 1), bool),
        completion_ids=np.zeros(shape, int),
        completion_mask=np.asarray(mask),
        truncated=np.zeros(shape[:2], bool),
        logprobs=np.asarray(old, np.float32),
        old_logprobs=np.asarray(old, np.float32),
        ref_logprobs=None if ref is None else np.asarray(ref, np.float32),
    )


def test_kl_penalty_subtracts_the_summed_log_ratio_of_valid_completions():
    nan = np.nan
    rollouts = rollouts_of(
        old=[[[-1.0, -2.0, nan], [-1.0, -1.0, -1.0]]],
        ref=[[[-1.5, -3.0, nan], [-2.0, -2.0, -2.0]]],
        mask=[[[True, True, False], [True, True, True]]],
    )
    score = Score(np.array([[1.0, 0.0]], np.float32), np.array([[True, False]]), {"a": np.array([[1.0, nan]])})
    shaping = losses.kl_penalty(0.1)
    assert shaping.needs_reference
    shaped, state = shaping.update(score, shaping.init(), rollouts)
    np.testing.assert_allclose(shaped.value, [[1.0 - 0.1 * (0.5 + 1.0), 0.0]], rtol=1e-6)
    assert shaped.parts is score.parts and state == shaping.init()
    with pytest.raises(ValueError, match="without ref_logprobs"):
        shaping.update(score, state, rollouts_of([[[-1.0]]], None, [[[True]]]))


def test_log_probabilities_are_taken_from_the_reward():
    batch = batch_of(3)
    rollouts = rollouts_of(filled_outside(batch, np.nan).old_logprobs, None, batch.mask)
    value, valid = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((3, 4), bool)
    valid[1, 2] = False
    shaped, _ = losses.entropy_reward(0.5).update(Score(np.where(valid, value, 0), valid), (), rollouts)
    for at in np.ndindex(3, 4):
        old = np.asarray(batch.old_logprobs, np.float64)[at][np.asarray(batch.mask)[at]]
        np.testing.assert_allclose(shaped.value[at], value[at] - 0.5 * old.sum() if valid[at] else 0.0, rtol=1e-5)
    dense = Score(value, valid, per_token=np.zeros(batch.mask.shape, np.float32))
    with pytest.raises(ValueError, match="whole completions"):
        losses.entropy_reward(0.5).update(dense, (), rollouts)


def test_the_entropy_reward_has_the_gradient_of_the_trajectory_balance():
    # Of six completions of one token; the flow at the start is estimated from the group, gradient and all.
    rng = np.random.default_rng(5)
    logits, drawn = jnp.asarray(rng.normal(size=5), jnp.float32), np.array([0, 2, 2, 4, 1, 3])
    reward, temperature = jnp.asarray(rng.normal(size=6), jnp.float32), 0.7

    def balance(logits):
        flow = reward / temperature - jax.nn.log_softmax(logits)[drawn]
        return jnp.mean(jnp.square(jnp.mean(flow) - flow))

    def credited(logits):
        logs = jax.nn.log_softmax(logits)[drawn]
        shaped = reward - temperature * jax.lax.stop_gradient(logs)
        return -jnp.mean(advantages.centered(shaped, jnp.full(6, True)) * logs)

    wanted = jax.grad(balance)(logits)
    np.testing.assert_allclose(2 / temperature * jax.grad(credited)(logits), wanted, atol=1e-5)
