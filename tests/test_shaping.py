"""Shapings: what they do to a score, and that their state is all they remember."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent_tunix import rewards
from agent_tunix.rewards._shaping import clip_values
from agent_tunix.types import Failure, Outcome, Rollouts, Score, Shaping
from tests.reference import shaping as reference


def score_of(value, valid=None):
    value = np.asarray(value, np.float32)
    valid = np.ones(value.shape, bool) if valid is None else np.asarray(valid, bool)
    return Score(
        value=np.where(valid, value, 0), valid=valid, parts={"part": value}, failures=(Failure("part", 0, 0, "why"),)
    )


def run(shaping, scores, state=None):
    """Applies a shaping to one batch after the other."""
    state = shaping.init() if state is None else state
    shaped = []
    for score in scores:
        score, state = shaping.update(score, state, None)
        shaped.append(np.asarray(score.value))
    return shaped, state


def test_identity_changes_nothing():
    score = score_of([[1, 2]])
    assert rewards.identity().update(score, (), None) == (score, ())
    assert rewards.identity().init() == ()


def test_running_mean_is_worked_out_by_hand():
    # Batch means 1 and 4 at decay 0.5: the baseline is 1, then (0.5 * 1 + 4) / (0.5 + 1) = 3.
    shaped, state = run(rewards.center_running(0.5), [score_of([[0, 2]]), score_of([[3, 5]])])
    np.testing.assert_allclose(shaped, [[[-1, 1]], [[0, 2]]], atol=1e-6)
    np.testing.assert_allclose([state.total, state.weight, state.batches], [4.5, 1.5, 2], atol=1e-6)


def test_entries_that_are_not_valid_stay_zero_and_are_not_remembered():
    center = rewards.center_running(0.5)
    shaped, state = run(center, [score_of([[0, 2, 99]], [[1, 1, 0]])])
    np.testing.assert_allclose(shaped, [[[-1, 1, 0]]], atol=1e-6)
    after, unchanged = run(center, [score_of([[7, 7, 7]], [[0, 0, 0]])], state)
    np.testing.assert_array_equal(after, [[[0, 0, 0]]])
    assert [float(x) for x in unchanged] == [float(x) for x in state]
    before_any, _ = run(center, [score_of([[7.0]], [[False]])])
    np.testing.assert_array_equal(before_any, [[[0]]])


def test_parts_validity_and_failures_pass_through():
    score = score_of([[1, 2]], [[True, False]])
    shaped, _ = rewards.center_running(0.9).update(score, rewards.center_running(0.9).init(), None)
    assert shaped.parts is score.parts and shaped.valid is score.valid and shaped.failures == score.failures


def test_annotate_adds_parts_and_pays_nothing():
    score = score_of([[1, 2]])
    shaped, _ = rewards.annotate(length=lambda rollouts: np.array([[5, 7]])).update(score, (), None)
    np.testing.assert_array_equal(shaped.parts["length"], [[5.0, 7.0]])
    assert shaped.parts["part"] is score.parts["part"] and shaped.value is score.value
    with pytest.raises(ValueError, match="would replace part `part`"):
        rewards.annotate(part=lambda rollouts: np.zeros((1, 2))).update(score, (), None)
    with pytest.raises(ValueError, match=r"shape \(2,\) for completions \(1, 2\)"):
        rewards.annotate(length=lambda rollouts: np.zeros(2)).update(score, (), None)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_forgets_nothing_is_refused(decay):
    with pytest.raises(ValueError, match="give a number in"):
        rewards.center_running(decay)


def test_chain_applies_the_first_shaping_first():
    double = Shaping(lambda: (), lambda score, state, _: (Score(score.value * 2, score.valid), state))
    first_centered, _ = run(rewards.chain(rewards.center_running(0.0), double), [score_of([[0, 2]])])
    np.testing.assert_allclose(first_centered, [[[-2, 2]]], atol=1e-6)
    shaped, state = run(rewards.chain(double, rewards.center_running(0.0)), [score_of([[0, 2]])])
    np.testing.assert_allclose(shaped, [[[-2, 2]]], atol=1e-6)
    assert state[0] == () and float(state[1].total) == 2.0  # the mean of the doubled batch
    empty = rewards.chain()
    assert empty.init() == () and empty.update("score", (), None) == ("score", ())


def test_chain_needs_the_reference_where_a_member_does():
    needy = rewards.identity()._replace(needs_reference=True)
    assert rewards.chain(rewards.identity(), needy).needs_reference
    assert not rewards.chain(rewards.identity()).needs_reference


def test_chain_refuses_what_is_no_shaping():
    with pytest.raises(TypeError, match="call its factory"):
        rewards.chain(rewards.identity)  # pyright: ignore


BATCHES = st.lists(hnp.arrays(np.float32, (2, 3), elements=st.floats(-10, 10, width=32)), min_size=2, max_size=5)


@settings(deadline=None)  # the first example compiles
@given(BATCHES, st.data())
def test_a_resumed_state_goes_on_as_if_nothing_had_happened(batches, data):
    shaping = rewards.chain(rewards.center_running(0.9), rewards.center_running(0.5))
    scores = [score_of(batch) for batch in batches]
    cut = data.draw(st.integers(0, len(scores)))
    whole, end = run(shaping, scores)
    head, state = run(shaping, scores[:cut])
    leaves, structure = jax.tree.flatten(state)
    restored = jax.tree.unflatten(structure, [np.array(leaf) for leaf in leaves])  # as a checkpoint gives it back
    tail, resumed_end = run(shaping, scores[cut:], restored)
    np.testing.assert_array_equal(whole, head + tail)
    for a, b in zip(jax.tree.leaves(end), jax.tree.leaves(resumed_end), strict=True):
        np.testing.assert_array_equal(a, b)


RUNNING = rewards.center_running(0.8)
RUNNING_UPDATE = jax.jit(lambda score, state: RUNNING.update(score, state, None))


@settings(deadline=None)  # the first example compiles
@given(BATCHES)
def test_compiled_and_plain_updates_agree_with_an_obvious_twin(batches):
    state, means = RUNNING.init(), []
    for batch in batches:
        score, state = RUNNING_UPDATE(score_of(batch), state)
        means.append(batch.mean(dtype=float))
        weights = 0.8 ** np.arange(len(means))[::-1]
        np.testing.assert_allclose(score.value, batch - np.average(means, weights=weights), atol=1e-5)


# --- What all shapings have in common ---------------------------------------------------------------------------------

LENGTHS = np.array([[1, 2, 3], [3, 0, 2]])
MASK = np.arange(3) < LENGTHS[..., None]
POTENTIALS = np.array([[[5, 5, 5], [2, 3, 9], [1, 4, 2]], [[1, 1, 1], [7, 7, 7], [3, 8, 0]]], np.float32)
STEPS = np.where(POTENTIALS % 2, POTENTIALS / 10, np.nan).astype(np.float32)


def rollouts(mask=MASK):
    """Rollouts of which only the lengths matter."""
    zeros = np.zeros(mask.shape, np.float32)
    return Rollouts(
        prompts=["question"] * mask.shape[0],
        completions=[["text"] * mask.shape[1]] * mask.shape[0],
        columns={},
        prompt_ids=np.zeros((mask.shape[0], 1), np.int32),
        prompt_mask=np.ones((mask.shape[0], 1), bool),
        completion_ids=zeros.astype(np.int32),
        completion_mask=mask,
        truncated=np.zeros(mask.shape[:2], bool),
        logprobs=zeros,
        old_logprobs=zeros,
    )


ROLLOUTS = rollouts()


def REFERENCES(rollouts):
    return score_of([[-1, 2], [0, 7]], [[True, True], [True, False]])


SHAPINGS = {
    "identity": rewards.identity(),
    "center_group": rewards.center("group"),
    "center_batch": rewards.center("batch"),
    "center_running": rewards.center("running", decay=0.8),
    "standardize_group": rewards.standardize("group"),
    "standardize_batch": rewards.standardize("batch"),
    "standardize_running": rewards.standardize("running", decay=0.8),
    "rank": rewards.rank(),
    "clip": clip_values(-1.0, 2.0),
    "sigmoid": rewards.sigmoid(2.0, 1.0),
    "tanh": rewards.tanh(3.0),
    "noise": rewards.noise(0.4, -10.0, 10.0, seed=3),
    "noise_per_group": rewards.noise(0.4, -10.0, 10.0, seed=3, per="group"),
    "potential_difference": rewards.potential_difference(lambda _: POTENTIALS, 0.9),
    "process_reward": rewards.process_reward(
        lambda _: STEPS, rewards.clip_steps(0.75), rewards.step_differences, weight=0.5
    ),
    "concise_where_solved": rewards.concise_where_solved(0.5, 0.6, threshold=0.0),
    "anneal": rewards.anneal(optax.linear_schedule(1.0, 0.0, 4)),
    "anneal_parts": rewards.anneal({"first": optax.cosine_decay_schedule(1.0, 5), "second": lambda batch: 0.5}),
    "curriculum": rewards.curriculum(
        rewards.Stage({"first": 1.0}, until=("first", 2.0), batches=2),
        rewards.Stage({"first": 0.5, "second": 0.5}, until=("second", 0.0)),
        rewards.Stage({"second": 1.0}),
    ),
    "ema_weights": rewards.ema_weights({"first": 1.0, "second": -0.5}, 0.8),
    "clip_running": rewards.clip_running(1.0, decay=0.8),
    "min_max": rewards.min_max(),
    "preference": rewards.preference(REFERENCES),
    "log_sigmoid_centered": rewards.log_sigmoid_centered(REFERENCES),
    "chain": rewards.chain(
        rewards.anneal({"first": lambda batch: 1.0 / (batch + 1), "second": lambda batch: 1.0}),
        rewards.center("running", 0.5),
        rewards.standardize("running", decay=0.9),
        rewards.noise(0.2, seed=1),
        rewards.tanh(),
    ),
}
UPDATES = {
    name: jax.jit(lambda score, state, shaping=shaping: shaping.update(score, state, ROLLOUTS))
    for name, shaping in SHAPINGS.items()
}


def parted(values, valid, missing=None):
    """A score of two parts whose sum is its value; the second one is missing in some places."""
    values, valid = np.asarray(values, np.float32), np.asarray(valid, bool)
    missing = np.zeros(valid.shape, bool) if missing is None else np.asarray(missing, bool)
    first, second = np.where(valid, values, np.nan)
    second = np.where(missing, np.nan, second)
    kept = valid & ~missing
    outcomes = np.where(kept, int(Outcome.GRADED), int(Outcome.ABSTAINED)).astype(np.int8)
    return Score(
        value=np.where(valid, values.sum(0), 0).astype(np.float32),
        valid=valid,
        parts={"first": first.astype(np.float32), "second": second.astype(np.float32)},
        outcomes={"second": outcomes},
    )


VALUES = hnp.arrays(np.float32, (2, 2, 3), elements=st.floats(-10, 10, width=32))
MASKS = hnp.arrays(bool, (2, 3))
SCORES = st.builds(parted, VALUES, MASKS, MASKS)
# On a grid sums are exact: whatever the order or the precision, the same rewards are equal and thresholds reached.
GRID = hnp.arrays(np.float32, (2, 2, 3), elements=st.integers(-40, 40).map(lambda quarter: quarter / 4))
GRID_SCORES = st.builds(parted, GRID, MASKS, MASKS)
FEW = settings(deadline=None, max_examples=12)  # the first example compiles


def described(tree):
    return jax.tree.structure(tree), [(np.shape(leaf), np.asarray(leaf).dtype) for leaf in jax.tree.leaves(tree)]


def same(one, other):
    """Whether two pytrees agree bit for bit."""
    assert described(one) == described(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        np.testing.assert_array_equal(a, b)


def reloaded(state):
    """A state as a JSON file gives it back."""
    leaves, structure = jax.tree.flatten(state)
    arrays = [np.asarray(leaf) for leaf in leaves]
    written = json.loads(json.dumps([array.tolist() for array in arrays]))
    return jax.tree.unflatten(structure, [np.array(w, array.dtype) for w, array in zip(written, arrays)])


def trained(name, scores, state):
    shaped = []
    for score in scores:
        score, state = UPDATES[name](score, state)
        shaped.append(score)
    return shaped, state


@pytest.mark.parametrize("name", SHAPINGS)
@FEW
@given(st.lists(SCORES, min_size=1, max_size=4))
def test_shaped_values_are_finite_and_zero_where_not_valid(name, scores):
    start = SHAPINGS[name].init()
    shaped, end = trained(name, scores, start)
    assert described(end) == described(start)
    for raw, score in zip(scores, shaped):
        assert score.value.dtype == np.float32 and score.value.shape == raw.value.shape
        assert np.isfinite(score.value).all() and not np.asarray(score.value)[~np.asarray(score.valid)].any()
        assert (np.asarray(score.valid) <= raw.valid).all()  # nothing becomes valid
        same((score.parts, score.outcomes), (raw.parts, raw.outcomes))


@pytest.mark.parametrize("name", SHAPINGS)
@FEW
@given(st.lists(SCORES, min_size=1, max_size=4), st.data())
def test_a_state_read_back_from_json_goes_on_bit_for_bit(name, scores, data):
    cut = data.draw(st.integers(0, len(scores)))
    whole, end = trained(name, scores, SHAPINGS[name].init())
    head, middle = trained(name, scores[:cut], SHAPINGS[name].init())
    tail, resumed_end = trained(name, scores[cut:], reloaded(middle))
    same((whole, end), (head + tail, resumed_end))


@pytest.mark.parametrize("name", SHAPINGS)
@FEW
@given(st.lists(SCORES, min_size=1, max_size=3), st.sampled_from([np.nan, np.inf, -3e38, 1.0]))
def test_what_an_entry_that_is_not_valid_holds_changes_nothing(name, scores, garbage):
    def spoiled(score):
        parts = {path: np.where(score.valid, part, garbage).astype(np.float32) for path, part in score.parts.items()}
        return dataclasses.replace(score, value=np.where(score.valid, score.value, garbage), parts=parts)

    clean, end = trained(name, scores, SHAPINGS[name].init())
    dirty, dirty_end = trained(name, [spoiled(score) for score in scores], SHAPINGS[name].init())
    same(end, dirty_end)
    for one, other in zip(clean, dirty):
        if name != "identity":
            same((one.value, one.valid, one.per_token), (other.value, other.valid, other.per_token))


@pytest.mark.parametrize("name", SHAPINGS)
@settings(deadline=None, max_examples=8)
@given(st.lists(GRID_SCORES, min_size=1, max_size=3))
def test_compiled_and_plain_updates_agree(name, scores):
    state = SHAPINGS[name].init()
    for raw in scores:
        plain, after = SHAPINGS[name].update(raw, state, ROLLOUTS)
        score, state = UPDATES[name](raw, state)
        np.testing.assert_allclose(plain.value, score.value, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(plain.valid, score.valid)
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state)):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


OF_PLACES = {"noise", "chain", "potential_difference", "process_reward", "concise_where_solved"}
"""Shapings that look at the place of a completion, or at its tokens."""


@pytest.mark.parametrize("name", sorted(SHAPINGS.keys() - OF_PLACES))
@FEW
@given(st.lists(GRID_SCORES, min_size=1, max_size=3), st.permutations(range(3)))
def test_order_within_the_group_does_not_matter(name, scores, order):
    def reordered(score):
        return jax.tree.map(lambda array: np.asarray(array)[:, list(order)], score)

    shaped, _ = trained(name, scores, SHAPINGS[name].init())
    other, _ = trained(name, [reordered(score) for score in scores], SHAPINGS[name].init())
    for one, two in zip(shaped, other):
        np.testing.assert_allclose(reordered(one).value, two.value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SHAPINGS)
def test_no_batch_after_the_first_is_traced_again(name):
    traces, state = [], SHAPINGS[name].init()

    @jax.jit
    def update(score, state):
        traces.append(name)
        return SHAPINGS[name].update(score, state, ROLLOUTS)

    for seed in range(3):
        values = np.random.default_rng(seed).normal(size=(2, 2, 3))
        _, state = update(parted(values, np.ones((2, 3))), state)
    assert traces == [name]


# --- Baselines and scales ---------------------------------------------------------------------------------------------


def listed(score, of=None):
    """Values as the twins take them: None where not valid."""
    value = np.asarray(score.value if of is None else score.parts[of])
    valid = np.asarray(score.valid) & ~np.isnan(value)
    return [[float(v) if ok else None for v, ok in zip(*pair)] for pair in zip(value, valid)]


def agrees(shaped, expected, tolerance=1e-5):
    assert [[v is None for v in group] for group in listed(shaped)] == [[v is None for v in g] for g in expected]
    for group, wanted in zip(listed(shaped), expected):
        for value, twin in zip(group, wanted):
            assert twin is None or value == pytest.approx(twin, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("over", ["group", "batch"])
@FEW
@given(GRID_SCORES)
def test_centered_and_standardized_rewards_agree_with_their_twins(over, score):
    (centered,), _ = trained(f"center_{over}", [score], ())
    agrees(centered, reference.center(listed(score), over))
    (standardized,), _ = trained(f"standardize_{over}", [score], ())
    agrees(standardized, reference.standardize(listed(score), over, 1e-6))


@FEW
@given(st.lists(GRID_SCORES, min_size=1, max_size=5))
def test_running_moments_agree_with_a_weighted_list_of_everything_seen(scores):
    shaped, _ = trained("standardize_running", scores, SHAPINGS["standardize_running"].init())
    expected = reference.standardize_running([listed(score) for score in scores], 1e-6, 0.8)
    for score, twin in zip(shaped, expected):
        agrees(score, twin, 1e-4)


def test_centering_is_worked_out_by_hand():
    score = score_of([[0, 2], [5, 9]])
    assert run(rewards.center(), [score])[0][0].tolist() == [[-1, 1], [-2, 2]]
    assert run(rewards.center("batch"), [score])[0][0].tolist() == [[-4, -2], [1, 5]]
    # The running mean at decay 0 is that of the batch.
    assert run(rewards.center("running", 0.0), [score])[0][0].tolist() == [[-4, -2], [1, 5]]


def test_running_deviation_is_worked_out_by_hand():
    # Batches {0, 2} and {4, 4} at decay 0.5 weigh 1/3 and 2/3: mean 3, variance (1 + 4) / 3 + 2/3 * 1 = 7/3.
    standardize = rewards.standardize("running", eps=0.0, decay=0.5)
    shaped, state = run(standardize, [score_of([[0, 2]]), score_of([[4, 4]])])
    np.testing.assert_allclose(shaped, [[[-1, 1]], [[1 / np.sqrt(7 / 3)] * 2]], atol=1e-6)
    np.testing.assert_allclose([state.mean, state.squares, state.weight, state.batches], [3, 3.5, 1.5, 2], atol=1e-6)


@pytest.mark.parametrize("eps", [1e-6, 0.0])
@pytest.mark.parametrize("over", ["group", "batch", "running"])
@FEW
@given(st.floats(-1e6, 1e6, width=32))
def test_equal_rewards_become_exactly_zero(over, eps, value):
    flat = score_of(np.full((3, 7), value, np.float32))
    shaped, _ = run(rewards.standardize(over, eps=eps), [flat, flat])
    np.testing.assert_array_equal(shaped, np.zeros((2, 3, 7)))
    if over != "running":
        np.testing.assert_array_equal(run(rewards.center(over), [flat])[0], np.zeros((1, 3, 7)))


@pytest.mark.parametrize("over", ["group", "batch", "running"])
@FEW
@given(GRID_SCORES, st.integers(-8, 8), st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_shift_and_scale_of_the_reward_do_not_show_when_standardized(over, score, shift, scale):
    moved = dataclasses.replace(score, value=np.where(score.valid, score.value * scale + shift, 0).astype(np.float32))
    shaping = rewards.standardize(over, eps=0.0)
    shaped, _ = run(shaping, [score])
    np.testing.assert_allclose(run(shaping, [moved])[0], shaped, rtol=1e-4, atol=1e-4)


def test_a_lone_valid_completion_and_an_empty_batch_get_zero():
    lone, none = score_of([[7, 1]], [[True, False]]), score_of([[7, 1]], [[False, False]])
    for over in ("group", "batch", "running"):
        np.testing.assert_array_equal(run(rewards.standardize(over), [none, lone, none])[0], np.zeros((3, 1, 2)))
        np.testing.assert_array_equal(run(rewards.center(over), [none, lone, none])[0], np.zeros((3, 1, 2)))
    np.testing.assert_array_equal(run(rewards.rank(), [none, lone])[0], np.zeros((2, 1, 2)))


def test_ranks_are_worked_out_by_hand():
    # Sorted 1 5 5 9: places 0, 1.5, 1.5, 3 of 3.
    shaped, _ = run(rewards.rank(), [score_of([[5, 9, 1, 5], [3, 3, 3, 3]])])
    assert shaped[0].tolist() == [[0, 0.5, -0.5, 0], [0, 0, 0, 0]]


@FEW
@given(GRID_SCORES)
def test_ranks_agree_with_their_twin_and_ignore_increasing_maps(score):
    (ranked,), _ = trained("rank", [score], ())
    agrees(ranked, reference.rank(listed(score)))
    bent = dataclasses.replace(score, value=np.where(score.valid, score.value**3 + 1, 0).astype(np.float32))
    same(trained("rank", [bent], ())[0][0].value, ranked.value)


# --- Maps of one value ------------------------------------------------------------------------------------------------


def test_maps_of_one_value_are_worked_out_by_hand():
    score = score_of([[-3, 0, 1, 3]], [[True, False, True, True]])
    assert run(clip_values(-2, 2), [score])[0][0].tolist() == [[-2, 0, 1, 2]]
    assert run(clip_values(low=2), [score])[0][0].tolist() == [[2, 0, 2, 3]]
    squeezed = run(rewards.sigmoid(scale=2, center=1), [score])[0][0]
    np.testing.assert_allclose(squeezed, [[1 / (1 + np.e**2), 0, 0.5, 1 / (1 + np.e**-1)]], atol=1e-6)
    np.testing.assert_allclose(run(rewards.tanh(3), [score])[0][0][0, [0, 3]], [-0.761594, 0.761594], atol=1e-6)


@FEW
@given(hnp.arrays(np.float32, (2, 3), elements=st.floats(-(2.0**127), 2.0**127, width=32)))
def test_bounds_of_squeezed_and_clipped_rewards_hold(value):
    score = score_of(value)
    for shaping, low, high in (
        (rewards.sigmoid(0.5), 0, 1),
        (rewards.tanh(0.5), -1, 1),
        (clip_values(-2, 5), -2, 5),
    ):
        shaped = run(shaping, [score])[0][0]
        assert (low <= shaped).all() and (shaped <= high).all()
        order = np.argsort(value, axis=None)
        assert (np.diff(shaped.ravel()[order]) >= -1e-6).all()  # the order is kept, up to how tanh is approximated


# --- Noise ------------------------------------------------------------------------------------------------------------


def test_noise_at_the_ends_flips_nothing_or_everything():
    score = score_of([[0, 1, 0.25]], [[True, True, False]])
    assert run(rewards.noise(0.0), [score])[0][0].tolist() == [[0, 1, 0]]
    assert run(rewards.noise(1.0), [score])[0][0].tolist() == [[1, 0, 0]]
    assert run(rewards.noise(1.0, low=-1), [score])[0][0].tolist() == [[0, -1, 0]]


def test_noise_flips_the_stated_share_and_other_places_in_every_batch():
    score = score_of(np.zeros((200, 50)))
    shaped, state = run(rewards.noise(0.3), [score, score])
    again, _ = run(rewards.noise(0.3), [score, score])
    other, _ = run(rewards.noise(0.3, seed=1), [score])
    assert abs(shaped[0].mean() - 0.3) < 0.02  # 4 standard errors of 10,000 coins
    assert (shaped[0] != shaped[1]).any() and (shaped[0] != other[0]).any() and int(state) == 2
    np.testing.assert_array_equal(shaped, again)


def test_one_coin_per_group_turns_whole_groups():
    shaped, _ = run(rewards.noise(0.5, per="group"), [score_of(np.tile([0, 1, 1, 0], (100, 1)))])
    flipped = shaped[0][:, 0] == 1
    assert 25 < flipped.sum() < 75
    agrees(score_of(shaped[0]), reference.flip([[0, 1, 1, 0]] * 100, [[coin] * 4 for coin in flipped], 0, 1))


def test_what_others_lack_moves_no_coin():
    value = np.random.default_rng(0).uniform(size=(6, 4)).astype(np.float32)
    valid = np.random.default_rng(1).uniform(size=(6, 4)) < 0.6
    whole, partly = (
        run(rewards.noise(0.5), [score_of(value)])[0][0],
        run(rewards.noise(0.5), [score_of(value, valid)])[0][0],
    )
    np.testing.assert_array_equal(partly, np.where(valid, whole, 0))


# --- Potentials -------------------------------------------------------------------------------------------------------


def test_differences_of_a_potential_are_worked_out_by_hand():
    # Potentials 2, 3 and then the end: 2 - 0, 3 - 2, 0 - 3 plus the value 1 on the last token.
    shaping = rewards.potential_difference(lambda _: np.array([[[2, 3, 9, 4]]]))
    where = rollouts(np.array([[[True, True, True, False]]]))
    shaped, _ = shaping.update(score_of([[1]]), (), where)
    assert shaped.per_token.tolist() == [[[2, 1, -2, 0]]] and shaped.value.tolist() == [[1]]
    # Rewards of tokens are added to where there are some: with gamma 0.5, 0.25 + 1 - 0, 1.5 - 2, 0.75 - 3.
    given = dataclasses.replace(score_of([[1]]), per_token=np.array([[[0.25, 0, 0.75, 0]]], np.float32))
    halved, _ = rewards.potential_difference(lambda _: np.array([[[2, 3, 9, 4]]]), 0.5).update(given, (), where)
    assert halved.per_token.tolist() == [[[1.25, -0.5, -2.25, 0]]]


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
@FEW
@given(hnp.arrays(np.float32, (2, 3, 3), elements=st.floats(-10, 10, width=32)), SCORES)
def test_a_potential_adds_nothing_to_the_discounted_reward_of_a_completion(gamma, potentials, score):
    shaping = rewards.potential_difference(lambda _: potentials, gamma)
    shaped, _ = shaping.update(score, (), ROLLOUTS)
    same(shaped.value, score.value)
    for (p, i), length in np.ndenumerate(LENGTHS):
        rewarded = np.zeros(length)
        rewarded[length - 1 :] = score.value[p, i]
        expected = reference.potential_difference(rewarded, potentials[p, i, :length].astype(float), gamma)
        tokens = np.asarray(shaped.per_token)[p, i]
        np.testing.assert_allclose(tokens[:length], expected if score.valid[p, i] and length else 0, atol=1e-5)
        assert not tokens[length:].any()
        if length:
            discounts = gamma ** np.arange(length)
            np.testing.assert_allclose(discounts @ tokens[:length], discounts @ rewarded, atol=1e-4)


def test_a_potential_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3\) for completions of \(2, 3, 3\)"):
        rewards.potential_difference(lambda _: np.zeros((2, 3))).update(score_of(np.zeros((2, 3))), (), ROLLOUTS)


# --- Scores of steps --------------------------------------------------------------------------------------------------

FOUR_TOKENS = np.array([[[True, True, True, True]]])


def stepped(steps, *changes, score=None, weight=0.5):
    shaping = rewards.process_reward(lambda _: np.array([[steps]]), *changes, weight=weight)
    return shaping.update(score_of([[1]]) if score is None else score, (), rollouts(FOUR_TOKENS))[0]


def test_scores_of_steps_are_worked_out_by_hand():
    steps = [0.75, np.nan, 0.5, 1.0]
    raw = stepped(steps)
    assert raw.per_token.tolist() == [[[0.375, 0, 0.25, 1.5]]] and raw.value.tolist() == [[2.125]]
    # 0.75 - 0.5; 0.5 for the last but one; nothing for the last, which has the outcome 1.
    delta = stepped(steps, rewards.step_differences)
    assert delta.per_token.tolist() == [[[0.125, 0, 0.25, 1]]] and delta.value.tolist() == [[1.375]]
    # Clipped at 0.75: 0, -0.25 and 0; of which the differences are 0.25, -0.25 and 0.
    both = stepped(steps, rewards.clip_steps(0.75), rewards.step_differences)
    assert both.per_token.tolist() == [[[0.125, 0, -0.125, 1]]] and both.value.tolist() == [[1]]
    np.testing.assert_array_equal(both.parts["part"], [[1]])


def test_scores_of_steps_are_added_to_rewards_of_tokens():
    given = dataclasses.replace(score_of([[1]]), per_token=np.array([[[0.25, 0.75, 0, 0]]], np.float32))
    shaped = stepped([np.nan, 1.0, np.nan, 0.5], score=given)
    assert shaped.per_token.tolist() == [[[0.25, 1.25, 0, 0.25]]] and shaped.value.tolist() == [[1.75]]


@FEW
@given(st.lists(st.none() | st.floats(-1, 1, width=32), min_size=1, max_size=9))
def test_differences_of_steps_agree_with_an_obvious_twin(steps):
    scores = np.array([np.nan if step is None else step for step in steps], np.float32)
    expected = [np.nan if step is None else step for step in reference.step_differences(steps)]
    found = np.asarray(jax.jit(rewards.step_differences)(scores))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # What a step is credited with is its score, whatever comes after it; the last one has none.
    places = np.flatnonzero(~np.isnan(scores))
    for place in places[:-1]:
        np.testing.assert_allclose(np.nansum(found[place:]), scores[place], atol=1e-5)


def test_what_a_process_reward_says_outside_of_a_completion_or_of_what_is_valid_does_not_count():
    shaping = rewards.process_reward(lambda _: np.full((1, 2, 3), 9.0), weight=1.0)
    where = rollouts(np.array([[[True, False, False], [True, True, False]]]))
    shaped, _ = shaping.update(score_of([[1, 5]], [[True, False]]), (), where)
    assert shaped.per_token.tolist() == [[[10, 0, 0], [0, 0, 0]]] and shaped.value.tolist() == [[10, 0]]


def test_scores_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"scores of shape \(1, 1, 3\) for completions of \(1, 1, 4\)"):
        stepped([1.0, 2.0, 3.0])


# --- Length where prompts are solved ----------------------------------------------------------------------------------


def long(lengths):
    """Rollouts of these lengths."""
    return rollouts(np.arange(9) < np.array(lengths)[..., None])


def charged(shaping, right, lengths, state=0, valid=None):
    return np.asarray(shaping.update(score_of(right, valid), np.int32(state), long(lengths))[0].value)


def test_only_what_is_solved_best_is_charged_for_length():
    # The first prompt is solved by three of four: lengths 2, 4, 6 stand at -1.2247, 0 and 1.2247 deviations.
    right, lengths = [[1, 1, 1, 0], [1, 1, 0, 0]], [[2, 4, 6, 1], [1, 9, 1, 1]]
    shaping = rewards.concise_where_solved(0.5, 0.2)
    expected = [[1 - 0.2 * 0.227106, 0.9, 1 - 0.2 * 0.772894, 0], right[1]]
    np.testing.assert_allclose(charged(shaping, right, lengths), expected, atol=1e-6)
    # A third of two groups, rounded up, is one; all of them are two.
    np.testing.assert_allclose(charged(rewards.concise_where_solved(0.3), right, lengths), expected, atol=1e-6)
    assert (charged(rewards.concise_where_solved(1.0), right, lengths)[1, :2] < 1).all()
    np.testing.assert_array_equal(charged(rewards.concise_where_solved(0.0), right, lengths), right)


def test_a_part_says_what_is_right_and_what_is_not_valid_is_not_counted():
    # The lone valid completion of the first prompt is right, half of the second: the first is solved best.
    score = dataclasses.replace(
        score_of([[3, 3], [3, 3]], [[True, False], [True, True]]),
        parts={"correctness": np.array([[1, 0], [1, np.nan]], np.float32)},
    )
    shaping = rewards.concise_where_solved(0.5, 1.0, part="correctness")
    shaped, state = shaping.update(score, np.int32(4), long([[2, 9], [2, 4]]))
    assert np.asarray(shaped.value).tolist() == [[2.5, 0], [3, 3]] and state == 5
    with pytest.raises(ValueError, match=r"names the part `right`, but the score has the parts \['correctness'\]"):
        rewards.concise_where_solved(part="right").update(score, np.int32(0), long([[1, 1], [1, 1]]))


def test_ties_are_broken_by_lot():
    shaping = rewards.concise_where_solved(0.5)
    right, lengths = np.ones((2, 2)), [[1, 3], [1, 3]]
    chosen = [int(np.argmin(charged(shaping, right, lengths, state).min(-1))) for state in range(20)]
    assert 3 < sum(chosen) < 17
    assert all((charged(shaping, right, lengths, state) < 1).any(-1).sum() == 1 for state in range(5))


# --- Weights of parts -------------------------------------------------------------------------------------------------


def test_one_schedule_fades_the_reward_by_batches():
    score = dataclasses.replace(score_of([[4, 8]]), per_token=np.array([[[1, 3], [8, 0]]], np.float32))
    shaping = rewards.anneal(optax.linear_schedule(1.0, 0.0, 2))
    assert [value.tolist() for value in run(shaping, [score] * 4)[0]] == [[[4, 8]], [[2, 4]], [[0, 0]], [[0, 0]]]
    shaped, state = shaping.update(score, shaping.init() + 1, None)
    assert shaped.per_token.tolist() == [[[0.5, 1.5], [4, 0]]] and int(state) == 2  # still adds up to the value


def test_schedules_of_parts_move_the_reward_from_one_to_the_other():
    score = parted([[[1, 0]], [[0, 4]]], [[True, True]])
    shaping = rewards.anneal(
        {"first": optax.linear_schedule(1.0, 0.0, 2), "second": optax.linear_schedule(0.0, 1.0, 2)}
    )
    shaped, _ = run(shaping, [score] * 3)
    assert [value.tolist() for value in shaped] == [[[1, 0]], [[0.5, 2]], [[0, 4]]]


def test_a_missing_part_counts_only_while_it_weighs():
    score = parted([[[1, 2]], [[3, 4]]], [[True, True]], [[True, False]])
    shaping = rewards.anneal({"first": lambda batch: 1.0, "second": lambda batch: batch * 1.0})
    state = shaping.init()
    unweighted, state = shaping.update(score, state, None)
    weighted, _ = shaping.update(score, state, None)
    assert unweighted.valid.tolist() == [[True, True]] and unweighted.value.tolist() == [[1, 2]]
    assert weighted.valid.tolist() == [[False, True]] and weighted.value.tolist() == [[0, 6]]


def test_a_number_that_was_not_graded_is_no_value():
    score = parted([[[1, 2]], [[3, 4]]], [[True, True]])
    failed = np.array([[int(Outcome.FAILED), int(Outcome.GRADED)]], np.int8)
    shaped, _ = rewards.anneal({"second": lambda batch: 1.0}).update(
        dataclasses.replace(score, outcomes={"second": failed}), np.int32(0), None
    )
    assert shaped.valid.tolist() == [[False, True]] and shaped.value.tolist() == [[0, 4]]


@pytest.mark.parametrize(
    ("shaping", "where"),
    [
        (rewards.anneal({"style": lambda batch: 1.0}), "anneal"),
        (rewards.curriculum(rewards.Stage({"style": 1.0})), "curriculum"),
        (rewards.curriculum(rewards.Stage({"first": 1}, ("style", 1)), rewards.Stage({"first": 1})), "curriculum"),
        (rewards.ema_weights({"style": 1.0}), "ema_weights"),
    ],
)
def test_a_part_that_the_score_lacks_is_named_with_those_it_has(shaping, where):
    with pytest.raises(ValueError, match=rf"{where} names the part `style`, .* parts \['first', 'second'\]"):
        shaping.update(parted(np.zeros((2, 1, 2)), [[True, True]]), shaping.init(), None)


def test_a_curriculum_moves_on_by_success_or_by_time():
    shaping = rewards.curriculum(
        rewards.Stage({"first": 1.0}, until=("first", 0.5), batches=3),
        rewards.Stage({"first": 1.0, "second": 10.0}, batches=1),
        rewards.Stage({"second": 100.0}),
    )
    poor, good = parted([[[0, 0]], [[1, 1]]], [[True] * 2]), parted([[[0, 1]], [[1, 1]]], [[True] * 2])
    by_success, state = run(shaping, [poor, good, good, good, good])
    assert [value.tolist() for value in by_success] == [[[0, 0]], [[0, 1]], [[10, 11]], [[100, 100]], [[100, 100]]]
    assert (int(state.stage), int(state.batches)) == (2, 2)
    by_time, _ = run(shaping, [poor] * 5)
    assert [value.tolist() for value in by_time] == [[[0, 0]]] * 3 + [[[10, 10]], [[100, 100]]]


def test_a_stage_is_not_left_for_what_entries_that_are_not_valid_hold():
    shaping = rewards.curriculum(rewards.Stage({"first": 1.0}, until=("first", 0.5)), rewards.Stage({"second": 1.0}))
    lucky = dataclasses.replace(parted([[[0, 9]], [[1, 1]]], [[True, False]]), parts={
        "first": np.array([[0, 9]], np.float32), "second": np.ones((1, 2), np.float32)})  # fmt: skip
    _, state = run(shaping, [lucky, parted(np.ones((2, 1, 2)), [[False, False]])])
    assert int(state.stage) == 0 and int(state.batches) == 2


@FEW
@given(st.lists(GRID_SCORES, min_size=1, max_size=6))
def test_curricula_agree_with_their_twin(scores):
    shaped, _ = trained("curriculum", scores, SHAPINGS["curriculum"].init())
    stages = [
        ({"first": 1.0}, ("first", 2.0), 2),
        ({"first": 0.5, "second": 0.5}, ("second", 0.0), None),
        ({"second": 1.0}, None, None),
    ]
    batches = [{name: listed(score, name) for name in ("first", "second")} for score in scores]
    for score, twin in zip(shaped, reference.curriculum(batches, stages)):
        agrees(score, twin)


def test_parts_of_any_scale_keep_their_nominal_influence():
    # Deviations within the group: sqrt(0.5) for the first part, 1000 times that for the second.
    score = parted([[[0, 1]], [[0, 1000]]], [[True, True]])
    shaped, state = run(rewards.ema_weights({"first": 1.0, "second": 0.5}, eps=0.0), [score])
    np.testing.assert_allclose(shaped[0], [[0, 1.5 / np.sqrt(0.5)]], rtol=1e-6)
    np.testing.assert_allclose(state.total, [np.sqrt(0.5), 1000 * np.sqrt(0.5)], rtol=1e-6)
    # What the first part alone says in two groups: its mean deviation is the weight, and proportions stay.
    alone = parted([[[0, 1], [0, 3]], np.zeros((2, 2))], np.ones((2, 2)))
    shaped, _ = run(rewards.ema_weights({"first": 2.0, "second": 1.0}, eps=0.0), [alone])
    np.testing.assert_allclose(shaped[0].std(1, ddof=1), [1.0, 3.0], rtol=1e-6)


def test_a_part_that_never_varied_is_weighed_as_it_is():
    flat = parted([[[0, 1]], [[7, 7]]], [[True, True]])
    shaped, state = run(rewards.ema_weights({"first": 0.0, "second": 0.5}), [flat])
    assert shaped[0].tolist() == [[3.5, 3.5]] and state.total.tolist()[1] == 0
    nothing = parted(np.ones((2, 1, 2)), [[True, False]])  # one value is no deviation
    _, unchanged = run(rewards.ema_weights({"first": 0.0, "second": 0.5}), [nothing], state)
    same(unchanged, state)


@FEW
@given(st.lists(GRID_SCORES, min_size=1, max_size=5))
def test_running_weights_agree_with_their_twin(scores):
    shaped, _ = trained("ema_weights", scores, SHAPINGS["ema_weights"].init())
    batches = [{name: listed(score, name) for name in ("first", "second")} for score in scores]
    expected = reference.ema_weights(batches, {"first": 1.0, "second": -0.5}, 0.8, 1e-6)
    for score, twin in zip(shaped, expected):
        agrees(score, twin, 1e-4)


# --- What is refused --------------------------------------------------------------------------------------------------

LAST = rewards.Stage({"a": 1.0})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rewards.center("all"), "center got over='all'; give 'group', 'batch' or 'running'"),
        (lambda: rewards.standardize("all"), "standardize got over='all'"),
        (lambda: rewards.standardize(eps=-1.0), "eps=-1.0; give a number of at least 0"),
        (lambda: rewards.standardize("running", decay=1.0), r"decay=1.0; give a number in \[0, 1\)"),
        (lambda: rewards.center("running", decay=1.0), "decay=1.0"),
        (lambda: clip_values(1.0, 0.0), "give the lower end first"),
        (lambda: clip_values(float("nan"), 0.0), "give the lower end first"),
        (lambda: rewards.sigmoid(0.0), "sigmoid got scale=0.0; give a positive number"),
        (lambda: rewards.sigmoid(1.0, float("inf")), "center=inf; give a finite number"),
        (lambda: rewards.tanh(-1.0), "tanh got scale=-1.0"),
        (lambda: rewards.noise(1.5), r"rate=1.5; give a fraction in \[0, 1\]"),
        (lambda: rewards.noise(0.1, high=float("inf")), "give finite ends"),
        (lambda: rewards.noise(0.1, per="token"), "give 'completion' or 'group'"),
        (lambda: rewards.potential_difference(lambda _: POTENTIALS, 1.1), "gamma=1.1"),
        (lambda: rewards.process_reward(lambda _: STEPS, weight=float("nan")), "weight of process_reward is nan"),
        (lambda: rewards.clip_steps(float("inf")), "threshold of clip_steps is inf"),
        (lambda: rewards.concise_where_solved(1.5), r"fraction=1.5; give a fraction in \[0, 1\]"),
        (lambda: rewards.concise_where_solved(strength=-1.0), "strength=-1.0; give a number of at least 0"),
        (lambda: rewards.anneal({}), "anneal got no schedules"),
        (lambda: rewards.curriculum(), "curriculum got no stages"),
        (lambda: rewards.curriculum(rewards.Stage({})), "give at least one part"),
        (lambda: rewards.curriculum(rewards.Stage({"a": float("nan")})), "finite weights"),
        (lambda: rewards.curriculum(rewards.Stage({"a": 1.0}, batches=0), LAST), "stage 0 .* batches=0; give at least"),
        (lambda: rewards.curriculum(rewards.Stage({"a": 1.0}, ("a", float("inf"))), LAST), "a finite threshold"),
        (lambda: rewards.curriculum(LAST, LAST), "stage 0 of the curriculum never ends"),
        (lambda: rewards.curriculum(rewards.Stage({"a": 1.0}, batches=2)), "is the last one and has an end"),
        (lambda: rewards.ema_weights({}), "give at least one part"),
        (lambda: rewards.ema_weights({"a": float("inf")}), "finite weights"),
        (lambda: rewards.ema_weights({"a": 1.0}, decay=1.0), "decay=1.0"),
        (lambda: rewards.ema_weights({"a": 1.0}, eps=-1.0), "eps=-1.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("schedule", [0.5, {"first": 0.5}])
def test_a_number_is_no_schedule(schedule):
    with pytest.raises(TypeError, match="give a function of the batch number"):
        rewards.anneal(schedule)
