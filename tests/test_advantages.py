"""Laws of the advantage estimators in one table, their NumPy twins, and the values of other frameworks."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_tunix import advantages
from agent_tunix.types import Outcome, Score
from tests.reference import advantages as twin

ESTIMATORS = {
    "centered": ("centered", {}),
    "group_normalized": ("group_normalized", {}),
    "group_normalized ddof 0": ("group_normalized", {"ddof": 0, "eps": 1e-8}),
    "leave_one_out": ("leave_one_out", {}),
    "leave_one_out_normalized": ("leave_one_out_normalized", {}),
    "mean_normalized": ("mean_normalized", {}),
    "pass_at_k 2": ("pass_at_k", {"k": 2}),
    "pass_at_k 4": ("pass_at_k", {"k": 4}),
    "pass_at_k all": ("pass_at_k", {"k": 99, "normalized": True}),
    "rank": ("rank", {}),
    "log_mean_gain": ("log_mean_gain", {}),
}
BATCH_ESTIMATORS = {
    "batch_normalized": ("batch_normalized", {}),
    "batch_normalized ddof 0": ("batch_normalized", {"ddof": 0}),
    "reinforce_plus_plus_baseline": ("reinforce_plus_plus_baseline", {}),
}
SHIFT_INVARIANT = [name for name in ESTIMATORS if name != "mean_normalized"]

each = pytest.mark.parametrize("name", ESTIMATORS)
each_of_batch = pytest.mark.parametrize("name", BATCH_ESTIMATORS)


@functools.cache
def compiled(name):
    function, arguments = (ESTIMATORS | BATCH_ESTIMATORS)[name]
    return jax.jit(functools.partial(getattr(advantages, function), **arguments))


def ours(name, rewards, valid):
    return np.asarray(compiled(name)(jnp.asarray(rewards, jnp.float32), jnp.asarray(valid, bool)))


def reference(name, rewards, valid):
    function, arguments = (ESTIMATORS | BATCH_ESTIMATORS)[name]
    return getattr(twin, function)(np.asarray(rewards, np.float32), np.asarray(valid, bool), **arguments)


def assert_equal(got, wanted):
    """To 1e-6 of the largest advantage of the group or batch, or 1e-6 where that is below 1.

    Relative to the largest because a reward near the mean of a group at the scale of 1e6 is a difference of float32
    numbers with a spacing of 0.06.
    """
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6 * max(1.0, np.max(np.abs(wanted), initial=0.0)))


RNG = np.random.default_rng(0)
GROUPS = {
    "normal": (RNG.normal(size=8), np.ones(8)),
    "zeros and ones": (RNG.integers(0, 2, 8), np.ones(8)),
    "ties": ([0.3, 0.7, 0.3, 0.7, 0.7, 0.1], np.ones(6)),
    "large": (RNG.normal(size=64), np.ones(64)) ,
    "partly valid": (RNG.normal(size=8), [1, 0, 1, 1, 0, 1, 0, 1]),
    "one differs": ([0.95, *[0.35] * 7], np.ones(8)),
    "one differs below": ([0.0, *[0.7] * 7], np.ones(8)),
    "flat": ([0.3] * 7, np.ones(7)),
    "flat at a million": ([1e6 + 0.3] * 7, np.ones(7)),
    "flat where valid": ([0.1, 0.1, 5.0, 0.1], [1, 1, 0, 1]),
    "one valid": ([0.7, 0.2, 0.1], [0, 1, 0]),
    "none valid": ([0.7, 0.2, 0.1], [0, 0, 0]),
    "group of one": ([0.7], [1]),
    "group of two": ([0.7, 0.2], [1, 1]),
    "two equal": ([0.7, 0.7], [1, 1]),
    "plus and minus a million": (RNG.choice([-1e6, 1e6], 8) + RNG.normal(size=8), np.ones(8)),
    "around a million": (1e6 + RNG.integers(-8, 9, 8) / 8, np.ones(8)),
    "millions": (1e6 * RNG.normal(size=8), np.ones(8)),
    "millionths": (1e-6 * RNG.normal(size=8), np.ones(8)),
}  # fmt: skip


@each
@pytest.mark.parametrize("case", GROUPS)
def test_every_estimator_equals_its_twin(name, case):
    if "pass_at_k" in name and case == "large":
        pytest.skip("the twin enumerates subsets, of which a group of 64 has too many")
    rewards, valid = GROUPS[case]
    assert_equal(ours(name, rewards, valid), reference(name, rewards, valid))


@each_of_batch
@pytest.mark.parametrize("case", GROUPS)
def test_every_batch_estimator_equals_its_twin(name, case):
    rewards, valid = np.asarray(GROUPS[case][0], float), np.asarray(GROUPS[case][1], bool)
    batch = np.stack([rewards, rewards[::-1] / 3, np.full(len(rewards), 0.1)]), np.stack([valid, valid[::-1], valid])
    assert_equal(ours(name, *batch), reference(name, *batch))
    np.testing.assert_array_equal(ours(name, *batch)[2], 0.0)


def test_subsets_of_a_group_of_64_are_counted_exactly():
    # One success among 64: it adds 1 to every subset of 8 that holds it. Two successes: each adds 1 unless the other
    # is among the 7 drawn from 63, that is with chance 56/63.
    rewards = np.zeros(64)
    rewards[3] = 1.0
    np.testing.assert_allclose(pass_at(8, rewards)[3], 1.0, rtol=1e-6)
    rewards[5] = 1.0
    np.testing.assert_allclose(pass_at(8, rewards)[3:6:2], 56 / 63, rtol=1e-6)


def pass_at(k, rewards):
    return advantages.pass_at_k(jnp.asarray(rewards, jnp.float32), jnp.ones(len(rewards), bool), k=k)


# Multiples of 1/8 so that shifting and scaling by powers of two is exact and laws hold without tolerance for rounding.
eighths = st.integers(-80, 80).map(lambda number: number / 8)


@st.composite
def groups(draw):
    size = draw(st.sampled_from([1, 2, 5]))  # few sizes, since each is compiled
    rewards, valid = (st.lists(entry, min_size=size, max_size=size) for entry in (eighths, st.booleans()))
    return draw(st.tuples(rewards, valid))


@each
@given(group=groups(), data=st.data())
@settings(deadline=None, max_examples=25)
def test_estimators_keep_their_laws(name, group, data):
    rewards, valid = np.array(group[0]), np.array(group[1])
    credit = ours(name, rewards, valid)
    assert np.all(np.isfinite(credit))
    assert not np.any(credit[~valid]), "an entry that is not valid got credit"
    if name in SHIFT_INVARIANT:
        assert_equal(ours(name, rewards + data.draw(eighths), valid), credit)
    order = data.draw(st.permutations(range(len(rewards))))
    assert_equal(ours(name, rewards[order], valid[order]), credit[order])
    garbage = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))
    np.testing.assert_array_equal(ours(name, np.where(valid, rewards, garbage), valid), credit)
    assert_equal(ours(name, rewards[valid], valid[valid]) if valid.any() else [], credit[valid])
    eager = getattr(advantages, ESTIMATORS[name][0])(
        jnp.asarray(rewards, jnp.float32), jnp.asarray(valid), **ESTIMATORS[name][1]
    )
    assert_equal(eager, credit)


@each
@given(value=st.floats(-1e6, 1e6, width=32), size=st.sampled_from([1, 3, 7, 8]))
@settings(deadline=None, max_examples=25)
def test_flat_group_gets_no_credit(name, value, size):
    np.testing.assert_array_equal(ours(name, np.full(size, value), np.ones(size)), 0.0)


@each_of_batch
@given(data=st.data())
@settings(deadline=None, max_examples=20)
def test_batch_estimators_keep_their_laws(name, data):
    rewards = np.array(data.draw(st.lists(eighths, min_size=12, max_size=12))).reshape(3, 4)
    valid = np.array(data.draw(st.lists(st.booleans(), min_size=12, max_size=12))).reshape(3, 4)
    rewards[1] = rewards[1, 0]
    credit = ours(name, rewards, valid)
    assert np.all(np.isfinite(credit)) and not np.any(credit[~valid]) and not np.any(credit[1])
    assert_equal(ours(name, rewards + data.draw(eighths), valid), credit)
    order = data.draw(st.permutations(range(4)))
    assert_equal(ours(name, rewards[:, order], valid[:, order]), credit[:, order])
    assert_equal(ours(name, rewards[[2, 0, 1]], valid[[2, 0, 1]]), credit[[2, 0, 1]])
    np.testing.assert_array_equal(ours(name, np.where(valid, rewards, np.nan), valid), credit)
    assert_equal(credit, reference(name, rewards, valid))


@each
def test_vmap_over_prompts_equals_a_loop(name):
    rewards = RNG.normal(size=(5, 6)).astype(np.float32)
    valid = RNG.random((5, 6)) > 0.3
    function, arguments = ESTIMATORS[name]
    lifted = advantages.per_group(getattr(advantages, function), **arguments)
    score = Score(rewards, valid)
    looped = np.stack([ours(name, r, v) for r, v in zip(rewards, valid)])
    assert_equal(lifted(score), looped)
    assert_equal(jax.jit(lifted)(score), looped)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_pass_at_k_gives_an_unbiased_gradient(size, k):
    # Completions succeed with chance p = sigmoid(theta). The expected estimate, enumerated over all outcomes, must be
    # the derivative of 1 - (1-p)^k, over k; d log P / d theta is 1-p for a success and -p for a failure.
    k, p, expected = min(k, size), 0.3, 0.0
    for outcome in itertools.product([0.0, 1.0], repeat=size):
        successes = np.array(outcome)
        chance = np.prod(np.where(successes == 1, p, 1 - p))
        expected += chance * np.mean(np.asarray(pass_at(k, successes)) * (successes - p))
    np.testing.assert_allclose(expected, (1 - p) ** (k - 1) * p * (1 - p), rtol=1e-6)


def test_pass_at_1_is_refused():
    with pytest.raises(ValueError, match="leave_one_out"):
        pass_at(1, [1.0, 0.0])


A = np.array([[1.0, 0.0, 0.5, 0.0], [1.0, 1.0, 1.0, 1.0]])
LENGTHS = jnp.array([[4, 2, 3, 1], [2, 2, 4, 3]])
PARTS = np.array([[[1.0, 0, 1, 0], [1, 1, 1, 1]], [[0.0, 1, 1, 0], [0.2, 0.4, 0.6, 0.8]]])
FLAT = [0.0] * 4


def sum_of_parts(weights):
    return np.tensordot(weights, PARTS, 1)


def summed_then_whitened_over_tokens(rewards, valid, *, weights):
    """verl's GDPO out of ours: standardized parts, summed, whitened over tokens."""
    standardized = jax.vmap(jax.vmap(advantages.group_normalized))(
        jnp.asarray(PARTS, jnp.float32), jnp.ones((2, 2, 4), bool)
    )
    summed = jnp.tensordot(jnp.asarray(weights), standardized, 1)
    return advantages.reinforce_plus_plus_baseline(summed, valid, lengths=LENGTHS, recentre=True, eps=0.0)


def gdpo(rewards, valid, *, weights, eps):
    return advantages.decoupled(
        jnp.asarray(PARTS, jnp.float32), jnp.ones((2, 2, 4), bool), jnp.asarray(weights), eps=eps
    )


GRPO = [1.30558, -0.783348, 0.261116, -0.783348]
RLOO = [0.833333, -0.5, 0.166667, -0.5]
PEERS = {
    "verl grpo": ("group_normalized", {}, A, [GRPO, FLAT]),
    "Tunix grpo": ("group_normalized", {"ddof": 1, "eps": 1e-6}, A, [GRPO, FLAT]),
    "TRL scale_rewards=group": (
        "group_normalized",
        {"eps": 1e-4},
        A,
        [[1.30531, -0.783186, 0.261062, -0.783186], FLAT],
    ),
    "TRL scale_rewards=batch": (
        "batch_normalized",
        {"eps": 1e-4},
        A,
        [[1.364144, -0.818487, 0.272829, -0.818487], FLAT],
    ),
    "TRL scale_rewards=none": ("centered", {}, A, [[0.625, -0.375, 0.125, -0.375], FLAT]),
    "verl, Tunix, OpenRLHF, prime-rl dr_grpo": ("centered", {}, A, [[0.625, -0.375, 0.125, -0.375], FLAT]),
    "OpenRLHF group_norm": ("group_normalized", {"eps": 1e-9}, A, [[1.305582, -0.783349, 0.261116, -0.783349], FLAT]),
    "open-instruct standard": (
        "group_normalized",
        {"ddof": 0, "eps": 1e-8},
        A,
        [[1.507557, -0.904534, 0.301511, -0.904534], FLAT],
    ),
    "EasyDeL scale=group": (
        "group_normalized",
        {"ddof": 0, "eps": 1e-4},
        A,
        [[1.507193, -0.904316, 0.301439, -0.904316], FLAT],
    ),
    "verl, TRL, Tunix, OpenRLHF rloo": ("leave_one_out", {}, A, [RLOO, FLAT]),
    "NeMo-RL default": (
        "leave_one_out_normalized",
        {"eps": 1e-6},
        A,
        [[2.886741, -0.999998, 0.288674, -0.999998], FLAT],
    ),
    "NeMo-RL without leave-one-out": ("group_normalized", {}, A, [GRPO, FLAT]),
    "prime-rl max_rl": ("mean_normalized", {"eps": 0.0}, A, [[1.666667, -1.0, 0.333333, -1.0], FLAT]),
    "verl grpo_passk": ("pass_at_k", {"k": 4, "normalized": True}, A, [[1.044464, 0.0, 0.0, 0.0], FLAT]),
    "verl reinforce++ baseline": (
        "reinforce_plus_plus_baseline",
        {"lengths": LENGTHS, "recentre": True, "eps": 0.0},
        A,
        [[1.764182, -1.492769, 0.135706, -1.492769], [-0.271413] * 4],
    ),
    "OpenRLHF reinforce_baseline": (
        "reinforce_plus_plus_baseline",
        {"lengths": LENGTHS, "recentre": True, "ddof": 0, "eps": 0.0},
        A,
        [[1.807749, -1.529634, 0.139058, -1.529634], [-0.278115] * 4],
    ),
    "TRL normalize_then_sum 1 1": (
        gdpo,
        {"weights": [1.0, 1.0], "eps": 1e-4},
        A,
        [[0.0, 0.0, 1.527499, -1.527499], [-1.024458, -0.341486, 0.341486, 1.024458]],
    ),
    "TRL normalize_then_sum 1 .5": (
        gdpo,
        {"weights": [1.0, 0.5], "eps": 1e-4},
        A,
        [[0.540014, -0.540014, 1.620041, -1.620041], [-0.724349, -0.24145, 0.24145, 0.724349]],
    ),
    "TRL sum_then_normalize 1 1": (
        "group_normalized",
        {"eps": 1e-4},
        sum_of_parts([1.0, 1.0]),
        [[0.0, 0.0, 1.224595, -1.224595], [-1.161445, -0.387148, 0.387148, 1.161445]],
    ),
    "TRL sum_then_normalize 1 .5": (
        "group_normalized",
        {"eps": 1e-4},
        sum_of_parts([1.0, 0.5]),
        [[0.387238, -0.387238, 1.161715, -1.161715], [-1.160996, -0.386999, 0.386999, 1.160996]],
    ),
    "verl GDPO 1 1": (
        summed_then_whitened_over_tokens,
        {"weights": [1.0, 1.0]},
        A,
        [[-0.269137, -0.269137, 1.543506, -2.08178], [-1.485092, -0.674455, 0.136181, 0.946818]],
    ),
    "verl GDPO 1 .5": (
        summed_then_whitened_over_tokens,
        {"weights": [1.0, 0.5]},
        A,
        [[0.333616, -0.968127, 1.63536, -2.26987], [-1.190489, -0.608333, -0.026177, 0.555979]],
    ),
}


@pytest.mark.parametrize("peer", PEERS)
def test_arguments_reproduce_other_frameworks(peer):
    # Values from the formulas in their sources, to six decimals.
    function, arguments, rewards, expected = PEERS[peer]
    estimator = getattr(advantages, function) if isinstance(function, str) else function
    whole = function in BATCH_ESTIMATORS or callable(function)
    lift = advantages.per_batch if whole else advantages.per_group
    score = Score(jnp.asarray(rewards, jnp.float32), jnp.ones((2, 4), bool))
    np.testing.assert_allclose(lift(estimator, **arguments)(score), expected, rtol=0, atol=1.5e-6)


def test_token_weights_give_flat_groups_credit_only_when_recentred():
    score = Score(jnp.asarray(A, jnp.float32), jnp.ones((2, 4), bool))
    weighted = advantages.per_batch(advantages.reinforce_plus_plus_baseline, lengths=LENGTHS)(score)
    np.testing.assert_array_equal(weighted[1], 0.0)
    lengths = np.asarray(LENGTHS)
    for recentre, ddof in itertools.product([False, True], [0, 1]):
        arguments = {"recentre": recentre, "ddof": ddof}
        got = advantages.reinforce_plus_plus_baseline(score.value, score.valid, lengths=LENGTHS, **arguments)
        assert_equal(got, twin.reinforce_plus_plus_baseline(A, np.ones((2, 4), bool), lengths, **arguments))


@pytest.mark.parametrize(("rewards", "largest"), [([0.95, *[0.35] * 7], 0.6), ([0.0, *[0.7] * 7], 0.7)])
def test_others_that_are_equal_do_not_blow_up_the_credit_of_the_one_that_differs(rewards, largest):
    # In float32 the others' deviation comes out as a residue, and NeMo-RL's formula gives 3692 and 2160 here.
    got = ours("leave_one_out_normalized", rewards, np.ones(8))
    np.testing.assert_allclose(np.abs(got[0]), largest, rtol=1e-6)
    assert np.max(np.abs(got)) < 1.0


def test_rank_worked_out_by_hand():
    # Of three others, 9 beats 3; the two 1s beat the 0 and lose to the 9: (1 - 1) / 3; the 0 loses to all.
    np.testing.assert_array_equal(ours("rank", [9.0, 1.0, 1.0, 0.0], np.ones(4)), [1.0, 0.0, 0.0, -1.0])
    np.testing.assert_array_equal(ours("rank", [9e9, 1.0, 1.0, -0.1], np.ones(4)), [1.0, 0.0, 0.0, -1.0])


def test_mean_normalized_does_not_turn_signs_around_for_negative_rewards():
    np.testing.assert_allclose(ours("mean_normalized", [0.0, -1.0], np.ones(2)), [1.0, -1.0], rtol=1e-5)


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_decoupled_equals_its_twin_whatever_is_missing(data):
    shape, entries = (2, 3, 4), 24
    parts = np.array(data.draw(st.lists(eighths, min_size=entries, max_size=entries))).reshape(shape)
    valid = np.array(data.draw(st.lists(st.booleans(), min_size=entries, max_size=entries))).reshape(shape)
    parts[:, 2] = parts[:, 2, :1]
    weights = data.draw(st.sampled_from([(1.0, 1.0), (1.0, 0.5), (0.7, -0.3)]))
    run = jitted_decoupled()
    got = run(jnp.asarray(np.where(valid, parts, np.nan), jnp.float32), jnp.asarray(valid), jnp.asarray(weights))
    assert_equal(got, twin.decoupled(parts, valid, weights))
    assert not np.any(np.asarray(got)[2]) and not np.any(np.asarray(got)[~valid.any(0)])


@functools.cache
def jitted_decoupled():
    return jax.jit(advantages.decoupled)


def test_a_missing_part_never_flips_a_sign():
    # Part a is missing for the second completion and both for the last; part b prefers the second and third to the
    # first. Adding a missing part as 0 before normalizing gives the second -0.577 here (TRL's sum_then_normalize).
    nan = np.nan
    parts = {
        "a": jnp.array([[1.0, nan, 1.0, nan], [1.0, 1.0, 1.0, 1.0]]),
        "b": jnp.array([[0.0, 1.0, 1.0, nan], [0.2, 0.4, 0.6, 0.8]]),
    }
    score = Score(jnp.zeros((2, 4)), jnp.array([[True] * 3 + [False], [True] * 4]), parts)
    got = advantages.decoupled_parts({"a": 1.0, "b": 1.0}, eps=1e-4)(score)
    expected = [[-1.264935, 0.632467, 0.632467, 0.0], [-1.272544, -0.424181, 0.424181, 1.272544]]
    np.testing.assert_allclose(got, expected, atol=1.5e-6)


def test_opposed_parts_that_cancel_leave_no_rounding_to_blow_up():
    rewards = np.array([[0.1, 0.7, 0.3, 0.9, 0.35]] * 3, np.float32)
    parts = jnp.asarray(np.stack([rewards, 0.7 - 3 * rewards]))  # standardized, one is minus the other up to rounding
    for eps in (1e-9, 1e-6, 1e-4):
        got = advantages.decoupled(parts, jnp.ones((2, 3, 5), bool), jnp.array([1.0, 1.0]), eps=eps)
        np.testing.assert_array_equal(got, 0.0)


def test_decoupled_parts_counts_graded_parts_of_valid_completions_only():
    rewards = jnp.array([[1.0, 0.0, 0.5, 9.0]])
    outcomes = {"a": jnp.array([[Outcome.GRADED, Outcome.GRADED, Outcome.GRADED, Outcome.TIMED_OUT]])}
    lift = advantages.decoupled_parts({"a": 2.0})
    removed = Score(jnp.zeros((1, 3)), jnp.ones((1, 3), bool), {"a": rewards[:, :3]})
    for score in (
        Score(jnp.zeros((1, 4)), jnp.ones((1, 4), bool), {"a": rewards, "b": rewards}, outcomes),
        Score(jnp.zeros((1, 4)), jnp.array([[True, True, True, False]]), {"a": rewards}),
        Score(jnp.zeros((1, 4)), jnp.ones((1, 4), bool), {"a": rewards.at[0, 3].set(jnp.nan)}),
    ):
        assert_equal(jax.jit(lift)(score)[:, :3], lift(removed))
        assert jax.jit(lift)(score)[0, 3] == 0.0


@given(
    right=st.lists(st.booleans(), min_size=6, max_size=6),
    known=st.lists(st.booleans(), min_size=6, max_size=6),
    seed=st.integers(0, 99),
    tau=st.sampled_from([0.1, 1.0, 10.0]),
)
@settings(deadline=None, max_examples=50)
def test_right_and_wrong_are_weighed_apart(right, known, seed, tau):
    rng, known = np.random.default_rng(seed), np.array(known)
    rewards, scores, wanted = np.array(right, np.float32), -50 * rng.exponential(size=6), rng.random(6)
    credit = discriminative_at(tau)(*(jnp.where(known, x, jnp.nan) for x in (rewards, scores, wanted)), known)
    np.testing.assert_allclose(credit, twin.discriminative(rewards, known, scores, wanted, tau=tau), atol=2e-4)
    plain = advantages.discriminative(jnp.asarray(rewards), jnp.asarray(known), jnp.asarray(scores), tau=tau)
    np.testing.assert_allclose(plain, twin.discriminative(rewards, known, scores, tau=tau), atol=2e-4)
    hot = advantages.discriminative(*map(jnp.asarray, (rewards, known, scores, wanted)), tau=tau, temperature=1e7)
    np.testing.assert_allclose(hot, plain, atol=1e-4)  # without preference: DisCO


@functools.cache
def discriminative_at(tau):
    def credit(rewards, scores, preference, valid):
        return advantages.discriminative(rewards, valid, scores, preference, tau=tau)

    return jax.jit(credit)


def test_a_length_penalty_turns_a_right_answer_around_and_weights_do_not():
    # Three right answers of length 0, 0.3 and 0.6 of the budget and three wrong ones.
    right, lengths = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]), jnp.array([0.0, 0.3, 0.9, 0.5, 0.5, 0.5])
    known = jnp.full(6, True)
    penalised = advantages.group_normalized(right - right * lengths, known)
    assert penalised[2] < 0
    assert (advantages.discriminative(right, known, -lengths, 1 - lengths)[:3] > 0).all()


def test_per_group_with_passes_parts_on():
    parts = {"score": jnp.array([[-1.0, -2.0, -3.0, jnp.nan]]), "short": jnp.array([[0.5, 0.1, 0.7, 0.2]])}
    score = Score(jnp.array([[1.0, 1.0, 0.0, 0.0]]), jnp.full((1, 4), True), parts)
    lift = advantages.per_group_with(
        advantages.discriminative, {"scores": "score", "preference": "short"}, temperature=0.3
    )
    known = np.array([True, True, True, False])
    expected = twin.discriminative(score.value[0], known, parts["score"][0], parts["short"][0], temperature=0.3)
    np.testing.assert_allclose(jax.jit(lift)(score)[0], expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"`score`"):
        lift(Score(score.value, score.valid))


def test_per_part_adds_the_estimates_of_parts():
    parts = {"a": jnp.array([[1.0, 0.0, jnp.nan, 3.0]]), "b": jnp.array([[0.0, 0.0, 1.0, 8.0]])}
    score = Score(jnp.zeros((1, 4)), jnp.array([[True, True, True, False]]), parts)
    lift = advantages.per_part(advantages.group_normalized, {"a": 0.25, "b": 0.5}, ddof=0)
    known = [[True, True, False, False], [True, True, True, False]]
    expected = 0.25 * reference("group_normalized ddof 0", parts["a"][0], known[0])
    expected = expected + 0.5 * reference("group_normalized ddof 0", parts["b"][0], known[1])
    np.testing.assert_allclose(jax.jit(lift)(score)[0], expected, atol=1e-5)
    with pytest.raises(ValueError, match="no weights"):
        advantages.per_part(advantages.centered, {})
    with pytest.raises(ValueError, match=r"`style`"):
        advantages.per_part(advantages.centered, {"style": 1.0})(score)


def test_decoupled_parts_names_the_parts_it_could_have_had():
    score = Score(jnp.zeros((1, 2)), jnp.ones((1, 2), bool), {"format": jnp.zeros((1, 2))})
    with pytest.raises(ValueError, match=r"`style`.*\['format'\]"):
        advantages.decoupled_parts({"style": 1.0})(score)
    with pytest.raises(ValueError, match="no weights"):
        advantages.decoupled_parts({})


def test_nan_of_a_grader_is_refused_by_name_and_place():
    values = np.zeros((4, 2))
    values[3, 1] = math.nan
    graded = np.full((4, 2), int(Outcome.GRADED))
    score = Score(np.zeros((4, 2)), np.ones((4, 2), bool), {"style": values}, {"style": graded})
    message = "reward `style` returned nan for prompt 3, completion 1; return None to abstain"
    with pytest.raises(ValueError, match=message):
        advantages.refuse_nan(score)
    with pytest.raises(ValueError, match="reward `value` returned inf for prompt 0, completion 1"):
        advantages.refuse_nan(Score(np.array([[0.0, np.inf]]), np.ones((1, 2), bool)))


def test_nan_of_what_was_not_graded_is_accepted():
    nan = np.array([[math.nan, 0.0]])
    abstained = np.array([[int(Outcome.ABSTAINED), int(Outcome.GRADED)]])
    score = Score(nan, np.array([[False, True]]), {"style": nan}, {"style": abstained})
    assert advantages.refuse_nan(score) is None


# --- Credit for tokens ------------------------------------------------------------------------------------------------


def test_every_token_is_credited_with_the_rewards_from_it_on():
    per_token = np.array([[[0.5, 0.0, 1.0], [0.0, 0.5, 0.0]]], np.float32)
    score = Score(per_token.sum(-1), np.ones((1, 2), bool), per_token=per_token)
    # Values 1.5 and 0.5, mean 1; returns 1.5 1 1 and 0.5 0.5 0.
    np.testing.assert_allclose(advantages.reward_to_go(score), [[[0.5, 0.0, 0.0], [-0.5, -0.5, -1.0]]], atol=1e-6)
    # Discounted by a half: 0.5 + 0.25 * 1, 0.5 * 1, 1.
    np.testing.assert_allclose(advantages.reward_to_go(score, gamma=0.5)[0, 0], [-0.25, -0.5, 0.0], atol=1e-6)


def test_without_rewards_for_tokens_returns_are_centered_values():
    value, valid = np.array([[1.0, 0.0, 9.0]], np.float32), np.array([[True, True, False]])
    score = Score(value, valid)
    np.testing.assert_allclose(advantages.reward_to_go(score), [[0.5, -0.5, 0.0]], atol=1e-6)
    tokens = Score(value, valid, per_token=np.repeat(value[..., None] / 2, 2, -1))
    assert (np.asarray(jax.jit(advantages.reward_to_go)(tokens))[0, 2] == 0).all()


def test_a_reward_for_a_token_that_is_not_finite_is_refused():
    per_token = np.array([[[0.0, np.nan], [0.0, 0.0]]])
    with pytest.raises(ValueError, match="per_token"):
        advantages.refuse_nan(Score(np.zeros((1, 2)), np.ones((1, 2), bool), per_token=per_token))
