"""Rewards from rewards: every combinator through the same laws, bounds, routes, per-token rewards, compiled steps."""

import dataclasses
import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_tunix import advantages, rewards
from agent_tunix.types import UNBOUNDED, Bounds, Failure, Outcome, Reward, Rollouts, Score, Shaping
from tests.reference import rewards as twins

SHAPE = (2, 3)
NAMES = ("a", "b", "c")
TASKS = ("math", "chat")


def rollouts(completions, **columns):
    """Rollouts of texts, `completions[prompt][member]`, of which a completion has as many tokens as its longest."""
    shape = (len(completions), len(completions[0]))
    ids = np.arange(4 * math.prod(shape), dtype=np.int32).reshape(*shape, 4)
    return Rollouts(
        prompts=[str(prompt) for prompt in range(shape[0])],
        completions=completions,
        columns=columns,
        prompt_ids=np.zeros((shape[0], 1), np.int32),
        prompt_mask=np.ones((shape[0], 1), bool),
        completion_ids=ids,
        completion_mask=np.ones(ids.shape, bool),
        truncated=np.zeros(shape, bool),
        logprobs=np.zeros(ids.shape, np.float32),
        old_logprobs=np.zeros(ids.shape, np.float32),
    )


BATCH = rollouts([["a", "bb", "ccc"], ["d", "ee", "fff"]], task=TASKS)


def leaf(name, value, valid, bounds=UNBOUNDED):
    """A reward that gives these arrays for the prompts it is asked for, whatever stands where they are not valid."""
    xp = value.__array_namespace__()
    value, valid = xp.asarray(value, xp.float32), xp.asarray(valid)

    def score(batch):
        prompts = np.array([int(prompt) for prompt in batch.prompts], int)
        outcome = xp.where(valid, int(Outcome.GRADED), int(Outcome.ABSTAINED)).astype(xp.int8)
        return Score(
            value=value[prompts],
            valid=valid[prompts],
            parts={name: xp.where(valid, value, xp.nan)[prompts]},
            outcomes={name: outcome[prompts]},
        )

    return Reward(name, score, Bounds(*bounds))


def fixed(name, values, bounds=UNBOUNDED):
    """A reward of a list of values for `BATCH`, or any batch of as many prompts; None where there is none."""
    table = np.array(values, float).reshape(len(values) // SHAPE[1], SHAPE[1])
    return leaf(name, np.nan_to_num(table), ~np.isnan(table), bounds)


def combined(reward):
    """The values of a reward for `BATCH`, None where there is none."""
    score = reward(BATCH)
    return [value if valid else None for value, valid in zip(score.value.ravel().tolist(), score.valid.ravel())]


# --- The same laws for all --------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A combination of three rewards, and what it is for one completion with the values a, b, c of a task."""

    build: object
    twin: object
    low: float = -2.0
    order_matters: bool = True


CASES = {
    "weighted_sum": Case(
        lambda a, b, c: rewards.weighted_sum((0.5, a), (-2.0, b), (0.0, c)),
        lambda a, b, c, task: twins.weighted_sum([0.5, -2.0, 0.0], a, b, c),
    ),
    "plain sum": Case(
        lambda a, b, c: rewards.weighted_sum(*((1.0, reward) for reward in (a, b, c))),
        lambda a, b, c, task: twins.weighted_sum([1, 1, 1], a, b, c),
        order_matters=False,
    ),
    "product": Case(rewards.product, lambda a, b, c, task: twins.product(a, b, c), order_matters=False),
    "minimum": Case(rewards.minimum, lambda a, b, c, task: twins.minimum(a, b, c), order_matters=False),
    "maximum": Case(rewards.maximum, lambda a, b, c, task: twins.maximum(a, b, c), order_matters=False),
    "geometric_mean": Case(
        rewards.geometric_mean,
        lambda a, b, c, task: twins.geometric_mean([1, 1, 1], a, b, c),
        low=0.0,
        order_matters=False,
    ),
    "weighted geometric_mean": Case(
        lambda a, b, c: rewards.geometric_mean(a, b, c, weights=[2, 0, 0.5]),
        lambda a, b, c, task: twins.geometric_mean([2, 0, 0.5], a, b, c),
        low=0.0,
    ),
    "signed_geometric_mean": Case(
        rewards.signed_geometric_mean,
        lambda a, b, c, task: twins.signed_geometric_mean([1, 1, 1], a, b, c),
        order_matters=False,
    ),
    "weighted signed_geometric_mean": Case(
        lambda a, b, c: rewards.signed_geometric_mean(a, b, c, weights=[2, 0, 0.5]),
        lambda a, b, c, task: twins.signed_geometric_mean([2, 0, 0.5], a, b, c),
    ),
    "first_valid": Case(rewards.first_valid, lambda a, b, c, task: twins.first_valid(a, b, c)),
    "gate": Case(
        lambda a, b, c: rewards.gate(a, b, 0.25, otherwise=-3.0),
        lambda a, b, c, task: twins.gate(a, b, 0.25, -3.0),
    ),
    "hierarchy": Case(
        lambda a, b, c: rewards.hierarchy((1.0, a, 0.5), (-0.5, b, 0.25), (2.0, c, 9.0)),
        lambda a, b, c, task: twins.hierarchy([(1.0, a, 0.5), (-0.5, b, 0.25), (2.0, c, 9.0)]),
    ),
    "route": Case(
        lambda a, b, c: rewards.route("task", {"chat": b, "math": a, "code": c}),
        lambda a, b, c, task: twins.route(task, {"chat": b, "math": a, "code": c}),
    ),
    "scale": Case(lambda a, b, c: rewards.scale(a, -2, offset=0.5), lambda a, b, c, task: twins.scale(a, -2, 0.5)),
    "clip": Case(lambda a, b, c: rewards.clip(a, -0.25, 0.75), lambda a, b, c, task: twins.clip(a, -0.25, 0.75)),
    "bounded": Case(lambda a, b, c: rewards.bounded(a, -2, 2), lambda a, b, c, task: a),
}


def tables(low=-2.0):
    """Three tables of values `[prompts group]` and which of them are valid; nothing is rounded on the way in."""
    count = math.prod(SHAPE)
    value = st.lists(st.floats(low, 2.0, width=32), min_size=3 * count, max_size=3 * count)
    valid = st.lists(st.booleans(), min_size=3 * count, max_size=3 * count)
    return st.tuples(
        value.map(lambda values: np.array(values, np.float32).reshape(3, *SHAPE)),
        valid.map(lambda flags: np.array(flags).reshape(3, *SHAPE)),
    )


def leaves(values, valid, low=-2.0):
    return [leaf(name, *pair, bounds=(low, 2.0)) for name, pair in zip(NAMES, zip(values, valid))]


@functools.cache
def compiled(name):
    case = CASES[name]
    return jax.jit(lambda values, valid: case.build(*leaves(list(values), list(valid), case.low))(BATCH))


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_combinator_obeys_the_laws(name, data):
    case = CASES[name]
    values, valid = data.draw(tables(case.low))
    reward = case.build(*leaves(values, valid, case.low))
    score = reward(BATCH)
    assert score.value.dtype == np.float32 and score.valid.dtype == bool
    assert score.value.shape == score.valid.shape == SHAPE

    for prompt, member in np.ndindex(SHAPE):  # it is its twin
        entry = [float(v[prompt, member]) if ok[prompt, member] else None for v, ok in zip(values, valid)]
        expected = case.twin(*entry, TASKS[prompt])
        assert score.valid[prompt, member] == (expected is not None)
        assert score.value[prompt, member] == pytest.approx(expected or 0.0, rel=1e-6, abs=1e-6)

    inside = score.value[score.valid]  # it keeps its bounds
    assert (inside >= reward.bounds.low - 1e-6).all() and (inside <= reward.bounds.high + 1e-6).all()

    garbage = np.where(valid, values, np.float32(data.draw(st.sampled_from([np.nan, np.inf, -7e37]))))
    hidden = case.build(*leaves(garbage, valid, case.low))(BATCH)  # what stands where nothing is valid is not looked at
    np.testing.assert_array_equal(hidden.value, score.value)
    np.testing.assert_array_equal(hidden.valid, score.valid)

    traced = compiled(name)(garbage, valid)  # it is the same inside a compiled step
    np.testing.assert_array_equal(traced.valid, score.valid)
    np.testing.assert_allclose(traced.value, score.value, rtol=1e-6, atol=1e-6)
    assert traced.value.dtype == jnp.float32 and isinstance(traced.value, jax.Array)
    assert list(traced.parts) == sorted(score.parts)  # a compiled function sorts keys
    for part in score.parts:
        np.testing.assert_array_equal(traced.parts[part], score.parts[part])
        np.testing.assert_array_equal(traced.outcomes[part], score.outcomes[part])


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_an_abstention_changes_nothing_elsewhere(name, data):
    case = CASES[name]
    values, valid = data.draw(tables(case.low))
    which, prompt, member = data.draw(st.tuples(*(st.integers(0, size - 1) for size in (3, *SHAPE))))
    before = case.build(*leaves(values, valid, case.low))(BATCH)
    fewer = valid.copy()
    fewer[which, prompt, member] = False
    after = case.build(*leaves(values, fewer, case.low))(BATCH)
    others = np.ones(SHAPE, bool)
    others[prompt, member] = False
    np.testing.assert_array_equal(before.value[others], after.value[others])
    np.testing.assert_array_equal(before.valid[others], after.valid[others])


@pytest.mark.parametrize("name", CASES)
def test_parts_are_the_same_whatever_is_valid(name):
    case = CASES[name]
    value = np.ones((3, *SHAPE), np.float32)
    seen = set()
    for flags in itertools.product([False, True], repeat=3):
        valid = np.broadcast_to(np.array(flags)[:, None, None], value.shape)
        score = case.build(*leaves(value, valid, case.low))(BATCH)
        seen.add((tuple(score.parts), tuple(score.outcomes)))
        for part, graded in score.parts.items():
            np.testing.assert_array_equal(np.isnan(graded), score.outcomes[part] != Outcome.GRADED)
    assert len(seen) == 1
    (parts, outcomes), expected = seen.pop(), {"gate": "ab", "scale": "a", "clip": "a", "bounded": "a", "route": "bac"}
    assert parts == outcomes == tuple(expected.get(name, "abc"))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.order_matters])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_order_of_rewards_is_irrelevant(name, data):
    case = CASES[name]
    values, valid = data.draw(tables(case.low))
    built = leaves(values, valid, case.low)
    score = case.build(*built)(BATCH)
    for order in itertools.permutations(built):
        shuffled = case.build(*order)
        np.testing.assert_array_equal(shuffled(BATCH).valid, score.valid)
        np.testing.assert_allclose(shuffled(BATCH).value, score.value, rtol=1e-6, atol=1e-6)
        assert shuffled.bounds == pytest.approx(case.build(*built).bounds)


# --- Trees of combinators ---------------------------------------------------------------------------------------------


class Node(NamedTuple):
    """A reward, its twin on the values of the leaves of one completion, and the size its rounding is relative to."""

    reward: Reward
    twin: object
    size: float


_serial = itertools.count()


def _rounded(function):
    """Scores hold float32, so a twin rounds after every combinator too."""

    def value(entry):
        result = function(entry)
        return None if result is None else float(np.float32(result))

    return value


def _label():
    return f"n{next(_serial)}"


def _tree_leaf(index, values, valid):
    reward = leaf(f"{NAMES[index]}{_label()}", values[index], valid[index], (0.0, 1.0))
    return Node(reward, lambda entry: entry[index], 1.0)


def _joint(kind, nodes, weight, threshold):
    parts = [node.reward for node in nodes]
    sizes = [node.size for node in nodes]

    def twin(of, *settings):
        return _rounded(lambda entry: of(*settings, *(node.twin(entry) for node in nodes)))

    if kind == "sum":
        weights = [weight * (-1) ** index for index in range(len(nodes))]
        reward = rewards.weighted_sum(*zip(weights, parts), name=_label())
        return Node(reward, twin(twins.weighted_sum, weights), sum(sizes) * abs(weight) + 1)
    if kind == "gate":
        reward = rewards.gate(parts[0], parts[-1], threshold, otherwise=weight, name=_label())
        first, last = nodes[0].twin, nodes[-1].twin
        gated = _rounded(lambda entry: twins.gate(first(entry), last(entry), threshold, weight))
        return Node(reward, gated, max(*sizes, abs(weight)))
    if kind == "hierarchy":
        levels = [(weight, part, threshold) for part in parts]
        laddered = _rounded(lambda entry: twins.hierarchy([(weight, n.twin(entry), threshold) for n in nodes]))
        return Node(rewards.hierarchy(*levels, name=_label()), laddered, sum(sizes) * abs(weight) + 1)
    if kind == "clip":
        clipped = _rounded(lambda entry: twins.clip(nodes[0].twin(entry), -abs(weight), threshold))
        return Node(rewards.clip(parts[0], -abs(weight), threshold, name=_label()), clipped, sizes[0])
    reward = getattr(rewards, kind)(*parts, name=_label())
    return Node(reward, twin(getattr(twins, kind)), math.prod(sizes) if kind == "product" else max(sizes))


KINDS = ("sum", "gate", "hierarchy", "clip", "product", "minimum", "maximum", "first_valid")


@st.composite
def trees(draw, depth=3):
    """A random tree of combinators as a function of the tables of its leaves."""
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        index = draw(st.integers(0, 2))
        return lambda values, valid: _tree_leaf(index, values, valid)
    children = draw(st.lists(trees(depth=depth - 1), min_size=2, max_size=3))
    kind = draw(st.sampled_from(KINDS))
    weight = draw(st.sampled_from([-1.5, -0.5, 0.5, 1.0, 2.0]))
    threshold = draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    return lambda values, valid: _joint(kind, [child(values, valid) for child in children], weight, threshold)


@settings(max_examples=150, deadline=None)
@given(
    tree=trees(),
    eighths=st.lists(st.integers(0, 8), min_size=18, max_size=18),
    flags=st.lists(st.booleans(), min_size=18, max_size=18),
)
def test_trees_are_their_twins_and_keep_their_bounds(tree, eighths, flags):
    values = np.array(eighths, np.float32).reshape(3, *SHAPE) / 8
    valid = np.array(flags).reshape(3, *SHAPE)
    node = tree(values, valid)
    score = node.reward(BATCH)
    tolerance = 1e-6 * max(node.size, 1.0)
    for prompt, member in np.ndindex(SHAPE):
        expected = node.twin([float(v[prompt, member]) if ok[prompt, member] else None for v, ok in zip(values, valid)])
        assert score.valid[prompt, member] == (expected is not None)
        if expected is not None:
            assert score.value[prompt, member] == pytest.approx(expected, abs=tolerance)
    inside = score.value[score.valid]
    low, high = node.reward.bounds
    assert low <= high
    assert (inside >= low - tolerance).all() and (inside <= high + tolerance).all()


# --- Worked out by hand -----------------------------------------------------------------------------------------------


def test_products_and_means_by_hand():
    a, b = fixed("a", [0, 1, 4, 9, None, 2], (0, 9)), fixed("b", [5, 4, 1, 4, 1, None], (1, 5))
    assert combined(rewards.product(a, b)) == [0, 4, 4, 36, None, None]
    assert combined(rewards.geometric_mean(a, b)) == [0, 2, 2, 6, None, None]
    # 4 ** (3/4) * 1 ** (1/4) = 2.828427; 9 ** (3/4) * 4 ** (1/4) = 7.348469
    weighted = combined(rewards.geometric_mean(a, b, weights=[3, 1]))
    assert weighted[:4] == pytest.approx([0, 1.4142135, 2.8284271, 7.3484692], rel=1e-6)
    assert weighted[4:] == [None, None]
    assert combined(rewards.minimum(a, b)) == [0, 1, 1, 4, None, None]
    assert combined(rewards.maximum(a, b)) == [5, 4, 4, 9, None, None]
    assert combined(rewards.first_valid(a, b)) == [0, 1, 4, 9, 1, 2]


def test_signed_means_by_hand():
    a, b = fixed("a", [-4, 4, 4, -4, None, 0]), fixed("b", [-9, 9, -9, 9, 1, -9])
    assert combined(rewards.signed_geometric_mean(a, b)) == pytest.approx([-6, 6, -6, -6, None, 0])
    # Of weight 0, b is recorded and its sign does not count; 4 ** (3/4) * 9 ** (1/4) = 4.898979
    assert combined(rewards.signed_geometric_mean(a, b, weights=[1, 0]))[:4] == [-4, 4, 4, -4]
    assert combined(rewards.signed_geometric_mean(a, b, weights=[3, 1]))[:2] == pytest.approx([-4.898979, 4.898979])


def test_a_gate_by_hand():
    form = fixed("format", [1, 0.5, 0.25, None, 1, 0], (0, 1))
    correct = fixed("correct", [1, 0, 1, 1, None, None], (0, 1))
    score = rewards.gate(form, correct)(BATCH)
    # open and right, open and wrong, closed, unknown, open without a value, closed whatever the value would be
    np.testing.assert_array_equal(score.valid, [[True, True, True], [False, False, True]])
    np.testing.assert_array_equal(score.value, [[1, 0, 0], [0, 0, 0]])
    assert rewards.gate(form, correct).name == "correct_if_format" and list(score.parts) == ["format", "correct"]
    assert combined(rewards.gate(form, correct, 0.8, otherwise=-1.0)) == [1, -1, -1, None, None, -1]


def test_a_threshold_is_reached_by_its_own_value_in_float32():
    # float32(0.7) is 0.699999988, which as float64 would miss 0.7.
    condition, one = fixed("condition", [0.7] * 6, (0, 0.7)), fixed("one", [1] * 6, (1, 1))
    assert combined(rewards.gate(condition, one, 0.7)) == [1] * 6
    assert combined(rewards.hierarchy((0.0, condition, 0.7), (1.0, one, 0.0))) == [1] * 6
    thirds = rewards.weighted_sum((0.3, fixed("a", [1] * 6)), (0.4, fixed("b", [1] * 6)))
    assert combined(rewards.gate(thirds, one, 0.7)) == [1] * 6


def test_a_hierarchy_by_hand():
    first = fixed("first", [1, 1, 0, None, 1, 0], (0, 1))
    second = fixed("second", [0.5, 0.25, 0.5, 1, None, None], (0, 1))
    third = fixed("third", [2, None, 2, 2, 2, None], (0, 2))
    levels = rewards.hierarchy((1.0, first, 1.0), (2.0, second, 0.5), (10.0, third, 0.0))
    # 1 + 2 * 0.5 + 10 * 2; 1 + 2 * 0.25 and the third is not reached; 0 alone; unknown; unknown; 0 alone
    assert combined(levels) == [22, 1.5, 0, None, None, 0]


def test_scale_and_clip_by_hand():
    a = fixed("a", [-2, -1, 0, 1, 2, None], (-2, 2))
    assert combined(rewards.scale(a, 3, -1)) == [-7, -4, -1, 2, 5, None]
    assert combined(rewards.clip(a, -1, 0.5)) == [-1, -1, 0, 0.5, 0.5, None]
    assert combined(rewards.clip(a, low=0, high=math.inf)) == [0, 0, 0, 1, 2, None]
    assert combined(rewards.clip(reward=a, low=0, high=1)) == [0, 0, 0, 1, 1, None]
    np.testing.assert_array_equal(rewards.clip(a, 0, 1)(BATCH).parts["a"], [[-2, -1, 0], [1, 2, np.nan]])


def test_clip_of_two_numbers_is_a_shaping():
    shaping = rewards.clip(-1.0, 1.0)
    assert isinstance(shaping, Shaping)
    score, _ = shaping.update(fixed("a", [-2, -1, 0, 1, 2, None])(BATCH), shaping.init(), BATCH)
    np.testing.assert_array_equal(score.value, [[-1, -1, 0], [1, 1, 0]])


@given(
    st.lists(st.floats(0, 3, width=32) | st.none(), min_size=6, max_size=6),
    st.lists(st.floats(-1, 1, width=32) | st.none(), min_size=6, max_size=6),
    st.floats(-1, 1, width=32),
)
def test_a_gated_reward_is_at_most_the_reward(values, conditions, threshold):
    reward, condition = fixed("reward", values, (0, 3)), fixed("condition", conditions, (-1, 1))
    plain, gated = reward(BATCH), rewards.gate(condition, reward, threshold)(BATCH)
    both = plain.valid & gated.valid
    assert (gated.value[both] <= plain.value[both]).all()


# --- Missing values ---------------------------------------------------------------------------------------------------


def _nansum_advantages(*columns):
    """TRL's `sum_then_normalize` of one group: what is missing counts as 0, deviations with ddof=1 and eps 1e-4."""
    total = np.nansum(columns, axis=0)
    unknown = np.isnan(columns).all(0)
    total = np.where(unknown, np.nan, total)
    scaled = (total - np.nanmean(total)) / (np.nanstd(total, ddof=1) + 1e-4)
    return np.where(unknown, 0, scaled)


def _advantages(reward, batch):
    score = reward(batch)
    return np.array([advantages.group_normalized(*map(jnp.asarray, group)) for group in zip(score.value, score.valid)])


def test_a_partly_missing_score_takes_no_side():
    a, b = [1, np.nan, 1, np.nan], [0, 1, 1, np.nan]
    # TRL, first group: sums [1, 1, 2, missing], and so a penalty for the completion whose `a` nobody knows.
    np.testing.assert_allclose(_nansum_advantages(a, b), [-0.57725, -0.57725, 1.154501, 0.0], atol=1e-6)
    batch = rollouts([["", "", "", ""]])
    total = rewards.weighted_sum(*((1.0, leaf(n, np.array([v]), ~np.isnan([v]))) for n, v in (("a", a), ("b", b))))
    # Two completions are known: 1 and 2, half a deviation of sqrt(1/2) to either side.
    np.testing.assert_allclose(_advantages(total, batch), [[-0.7071058, 0, 0.7071058, 0]], atol=1e-5)


def test_a_missing_penalty_never_flips_a_sign():
    quality, penalty = [0.9, 0.5, 0.8, 0.2], [-2.0, 0.0, 0.0, 0.0]
    truth = _nansum_advantages(quality, penalty)
    unknown = [np.nan, 0.0, 0.0, 0.0]  # the grader of the penalty failed on the one that deserved it
    assert truth[0] < -1 and _nansum_advantages(quality, unknown)[0] > 0.9  # from the worst to the best
    batch = rollouts([["", "", "", ""]])
    terms = (("quality", quality), ("penalty", unknown))
    total = rewards.weighted_sum(*((1.0, leaf(n, np.array([v]), ~np.isnan([v]))) for n, v in terms))
    assert _advantages(total, batch)[0, 0] == 0.0


# --- Bounds -----------------------------------------------------------------------------------------------------------


def _of(*bounds):
    return [fixed(f"r{index}", [0] * 6, pair) for index, pair in enumerate(bounds)]


INF = math.inf


@pytest.mark.parametrize(
    ("build", "children", "expected"),
    [
        (rewards.product, [(-2, 3), (-5, 4)], (-15, 12)),  # 3 * -5 and 3 * 4
        (rewards.product, [(-2, -1), (-3, -2)], (2, 6)),
        (rewards.product, [(0, INF), (0, 0)], (0, 0)),
        (rewards.product, [(0, 1), (-INF, INF)], (-INF, INF)),
        (rewards.product, [(-1, INF), (-2, 5)], (-INF, INF)),
        (rewards.product, [(1, INF), (2, 5)], (2, INF)),
        (rewards.geometric_mean, [(0, 4), (1, 9)], (0, 6)),
        (rewards.geometric_mean, [(0, INF), (0, 0)], (0, 0)),
        (rewards.geometric_mean, [(1, INF), (4, 4)], (2, INF)),
        (rewards.signed_geometric_mean, [(0, 4), (1, 9)], (0, 6)),
        (rewards.signed_geometric_mean, [(-1, 4), (1, 9)], (-3, 6)),  # -1 with 9, and 4 with 9
        (rewards.signed_geometric_mean, [(-4, 1), (-9, 4)], (-6, 2)),
        (rewards.signed_geometric_mean, [(-4, -1), (-9, 4)], (-6, 0)),  # the first is always negative
        (rewards.signed_geometric_mean, [(-4, -1), (4, 9)], (-6, -2)),
        (rewards.signed_geometric_mean, [(-1, INF), (0, 0)], (0, 0)),
        (rewards.signed_geometric_mean, [(0, INF), (-1, 1)], (-INF, INF)),
        (rewards.minimum, [(0, 4), (1, 3)], (0, 3)),
        (rewards.maximum, [(0, 4), (1, 3)], (1, 4)),
        (rewards.maximum, [(-INF, INF), (1, 3)], (1, INF)),
        (rewards.first_valid, [(0, 1), (-3, 0.5)], (-3, 1)),
        (lambda a: rewards.weighted_sum((0.0, a)), [(-INF, INF)], (0, 0)),
        (lambda a, b: rewards.weighted_sum((-1, a), (2, b)), [(0, INF), (-1, 1)], (-INF, 2)),
        (lambda a: rewards.scale(a, -2, 1), [(-1, INF)], (-INF, 3)),
        (lambda a: rewards.scale(a, 0, 1), [(-INF, INF)], (1, 1)),
        (lambda a: rewards.clip(a, 0, 5), [(-INF, 3)], (0, 3)),
        (lambda a: rewards.clip(a, 0, 5), [(7, 9)], (5, 5)),
        (lambda a: rewards.bounded(a, 0, INF), [(-INF, INF)], (0, INF)),
        (lambda c, r: rewards.gate(c, r, 0.5), [(0, 1), (1, 2)], (0, 2)),
        (lambda c, r: rewards.gate(c, r, 0.5, otherwise=-9), [(0, 1), (1, 2)], (-9, 2)),
        (lambda c, r: rewards.gate(c, r, 0.5, otherwise=-9), [(0.5, 1), (1, 2)], (1, 2)),  # never closed
        (lambda c, r: rewards.gate(c, r, 0.5, otherwise=-9), [(0, 0.4), (1, 2)], (-9, -9)),  # never open
        (lambda c, r: rewards.gate(c, r, 0.5), [(-INF, INF), (-INF, -1)], (-INF, 0)),
        # reached: [0.5, 1] + 2 * [-1, 1]; missed: [0, 0.5]
        (lambda a, b: rewards.hierarchy((1, a, 0.5), (2, b, 0)), [(0, 1), (-1, 1)], (-1.5, 3)),
        # reached: -[0.5, 1] + [0, 1]; missed: -[0, 0.5]
        (lambda a, b: rewards.hierarchy((-1, a, 0.5), (1, b, 0)), [(0, 1), (0, 1)], (-1, 0.5)),
        # the second level comes only with a first of 10, so that nothing is below 0
        (lambda a, b: rewards.hierarchy((1, a, 10), (1, b, 0)), [(0, INF), (-10, 0)], (0, INF)),
        (lambda a, b: rewards.hierarchy((1, a, 5), (1, b, 0)), [(0, 1), (-INF, INF)], (0, 1)),  # never reached
        (lambda a, b: rewards.hierarchy((0, a, 5), (1, b, 0)), [(-INF, INF), (2, 3)], (0, 3)),
        (lambda a, b: rewards.route("task", {"math": a}, default=b), [(-1, 0), (2, 3)], (-1, 3)),
    ],
)
def test_bounds_by_hand(build, children, expected):
    assert build(*_of(*children)).bounds == expected


# --- Paths, failures and times ----------------------------------------------------------------------------------------


def _broken(response):
    if response in ("bb", "d"):
        raise OSError("down")
    return 1.0


NARY = {
    "weighted_sum": lambda *children, **named: rewards.weighted_sum(*((1.0, child) for child in children), **named),
    "product": rewards.product,
    "geometric_mean": rewards.geometric_mean,
    "signed_geometric_mean": rewards.signed_geometric_mean,
    "minimum": rewards.minimum,
    "maximum": rewards.maximum,
    "first_valid": rewards.first_valid,
    "gate": rewards.gate,
    "hierarchy": lambda *children, **named: rewards.hierarchy(*((1.0, child, 0.5) for child in children), **named),
    "route": lambda *children, **named: rewards.route("task", dict(zip(TASKS, children)), **named),
}


@pytest.mark.parametrize("kind", NARY)
def test_parts_failures_and_times_are_joined_under_their_paths(kind):
    broken = rewards.per_completion(_broken, name="broken", bounds=(0, 1))
    length = rewards.per_completion(len, name="length", bounds=(0, 9))
    inner = NARY[kind](broken, length, name="inner")
    score = rewards.weighted_sum((1.0, inner), (0.0, rewards.per_completion(len, name="length")))(BATCH)
    paths = ["inner/broken", "inner/length", "length"]
    assert list(score.parts) == list(score.outcomes) == list(score.seconds) == paths
    assert all(times.shape == SHAPE for times in score.seconds.values())
    failures = [Failure("inner/broken", 0, 1, "OSError: down"), Failure("inner/broken", 1, 0, "OSError: down")]
    assert list(score.failures) == (failures[:1] if kind == "route" else failures)
    assert score.outcomes["inner/broken"][0, 1] == Outcome.FAILED and np.isnan(score.parts["inner/broken"][0, 1])
    assert not score.valid[0, 1] or kind == "first_valid"


@pytest.mark.parametrize("wrap", [lambda r, **k: rewards.scale(r, 2, **k), lambda r, **k: rewards.clip(r, 0, 1, **k)])
def test_a_changed_reward_keeps_its_parts_and_may_take_another_name(wrap):
    broken = rewards.per_completion(_broken, name="broken")
    plain, renamed = wrap(broken), wrap(broken, name="again")
    assert plain.name == "broken" and renamed.name == "again"
    score = rewards.weighted_sum((1.0, plain), (1.0, renamed))(BATCH)
    assert list(score.parts) == list(score.seconds) == ["broken", "again/broken"]
    np.testing.assert_array_equal(score.parts["again/broken"], [[1, np.nan, 1], [np.nan, 1, 1]])
    assert [failure.part for failure in score.failures] == ["broken"] * 2 + ["again/broken"] * 2


# --- Routes -----------------------------------------------------------------------------------------------------------


def test_each_prompt_goes_to_the_reward_of_its_task():
    batch = rollouts([["a", "bb"], ["x", "yy"], ["ccc", "d"], ["e", "e"]], task=["len", "up", "len", "other"])
    seen = []

    def shout(prompts, completions):
        seen.append((prompts, completions))
        return [1.0 if completion == "yy" else None for completion in completions]

    reward = rewards.route(
        by="task",
        routes={"len": rewards.per_completion(len), "up": rewards.from_lists(shout)},
        default=rewards.per_completion(lambda response: -1.0, name="rest"),
    )
    score = reward(batch)
    assert seen == [(["1", "1"], ["x", "yy"])]
    np.testing.assert_array_equal(score.value, [[1, 2], [0, 1], [3, 1], [-1, -1]])
    np.testing.assert_array_equal(score.valid, [[True, True], [False, True], [True, True], [True, True]])
    nan = np.nan
    np.testing.assert_array_equal(score.parts["len"], [[1, 2], [nan, nan], [3, 1], [nan, nan]])
    np.testing.assert_array_equal(score.parts["shout"], [[nan, nan], [nan, 1], [nan, nan], [nan, nan]])
    np.testing.assert_array_equal(score.parts["rest"], [[nan, nan]] * 3 + [[-1, -1]])
    np.testing.assert_array_equal(score.outcomes["len"], [[0, 0], [1, 1], [0, 0], [1, 1]])
    assert score.outcomes["shout"].dtype == np.int8
    np.testing.assert_array_equal(np.isnan(score.seconds["len"]), score.outcomes["len"] == Outcome.ABSTAINED)


def test_a_route_without_prompts_keeps_its_parts():
    reward = rewards.route("task", {"math": rewards.per_completion(len), "code": rewards.from_tokens(_first_id)})
    score = reward(rollouts([["a", "bb"]], task=["math"]))
    assert list(score.parts) == ["len", "_first_id"] and np.isnan(score.parts["_first_id"]).all()
    np.testing.assert_array_equal(score.value, [[1, 2]])


def _first_id(ids, mask):
    return ids[..., 0] * 1.0


def test_routes_may_share_a_reward_and_failures_keep_their_prompt():
    batch = rollouts([["aaa", "aa"], ["bb", "a"], ["a", "d"]], task=["other", "math", "code"])
    broken = rewards.per_completion(_broken, name="broken")
    score = rewards.route("task", {"math": broken, "code": broken, "other": rewards.per_completion(len)})(batch)
    assert list(score.parts) == ["broken", "len"]
    assert [failure[:3] for failure in score.failures] == [("broken", 1, 0), ("broken", 2, 1)]
    np.testing.assert_array_equal(score.value, [[3, 2], [0, 1], [1, 0]])
    np.testing.assert_array_equal(score.valid, [[True, True], [False, True], [True, False]])


def test_an_unknown_task_is_named():
    reward = rewards.route("task", {"math": rewards.per_completion(len)})
    with pytest.raises(ValueError, match=r"`route` has no route for task='chat' of prompt 1, only for 'math'; add one"):
        reward(BATCH)
    with pytest.raises(ValueError, match=r"`route` routes by the column `task`, which the data lacks.*: answer"):
        reward(rollouts([["a"]], answer=["1"]))
    with pytest.raises(ValueError, match="route got no rewards"):
        rewards.route("task", {})


# --- Per token --------------------------------------------------------------------------------------------------------


def _tenths(ids, mask):
    return ids / 10


def _ones(ids, mask):
    return ids * 0 + 1.0


def _mean(ids, mask):
    return ids.mean(-1)


def test_rewards_per_token_are_added_scaled_and_gated():
    tenths, ones = rewards.from_tokens(_tenths), rewards.from_tokens(_ones)
    ids = BATCH.completion_ids
    score = rewards.weighted_sum((2.0, tenths), (-1.0, ones), (1.0, rewards.per_completion(len)))(BATCH)
    np.testing.assert_allclose(score.per_token, ids / 5 - 1, rtol=1e-6)
    assert rewards.weighted_sum((1.0, rewards.per_completion(len)), (0.0, ones))(BATCH).per_token is None
    scaled = rewards.scale(tenths, -3)(BATCH)
    np.testing.assert_allclose(scaled.per_token, ids * -0.3, rtol=1e-6)
    np.testing.assert_allclose(scaled.value, ids.sum(-1) * -0.3, rtol=1e-6)
    gated = rewards.gate(rewards.per_completion(len), tenths, 2)(BATCH)
    np.testing.assert_allclose(gated.per_token, np.where(np.array([0, 1, 1])[:, None], ids / 10, 0), rtol=1e-6)
    np.testing.assert_allclose(gated.value, gated.per_token.sum(-1), rtol=1e-6)
    np.testing.assert_array_equal(rewards.bounded(tenths, 0, 99)(BATCH).per_token, tenths(BATCH).per_token)


@pytest.mark.parametrize(
    "build",
    [
        rewards.product,
        rewards.minimum,
        rewards.maximum,
        rewards.first_valid,
        rewards.geometric_mean,
        rewards.signed_geometric_mean,
        lambda *children: rewards.hierarchy(*((1.0, child, 0.5) for child in children)),
        lambda *children: rewards.route("task", dict(zip(TASKS, children))),
        lambda length, tokens: rewards.clip(tokens, 0, 1),
        lambda length, tokens: rewards.scale(tokens, 1, offset=1),
        lambda length, tokens: rewards.gate(length, tokens, otherwise=1),
    ],
)
def test_rewards_per_token_are_never_lost_silently(build):
    length = rewards.per_completion(len, bounds=(0, 9))
    with pytest.raises(TypeError, match="reward `_ones` is given per token"):
        build(length, rewards.from_tokens(_ones, bounds=(0, 99)))(BATCH)


def test_combinations_of_token_rewards_run_inside_a_compiled_step():
    tenths = rewards.from_tokens(_tenths, bounds=(0, 99))
    first = rewards.from_tokens(_first_id, bounds=(0, 99))
    reward = rewards.weighted_sum(
        (1.0, rewards.gate(first, rewards.scale(tenths, 0.5), 8)),
        (0.25, rewards.product(rewards.bounded(first, 0, 99), rewards.scale(first, 2, name="twice"))),
    )

    @jax.jit
    def step(ids):
        batch = dataclasses.replace(BATCH, completion_ids=ids)
        return reward(batch)

    traced, host = step(jnp.asarray(BATCH.completion_ids)), reward(BATCH)
    np.testing.assert_allclose(traced.value, host.value, rtol=1e-6)
    np.testing.assert_allclose(traced.per_token, host.per_token, rtol=1e-6)
    assert isinstance(host.value, np.ndarray) and set(traced.parts) == set(host.parts)


def test_rewards_of_the_host_and_traced_ones_combine():
    lengths = rewards.per_completion(len, bounds=(0, 9))(BATCH)
    on_host = Reward("lengths", lambda batch: lengths, Bounds(0, 9))
    reward = rewards.product(on_host, rewards.from_tokens(_mean, bounds=(0, 99)))

    @jax.jit
    def step(ids):
        return reward(dataclasses.replace(BATCH, completion_ids=ids)).value

    means = BATCH.completion_ids.mean(-1)
    np.testing.assert_allclose(step(jnp.asarray(BATCH.completion_ids)), lengths.value * means, rtol=1e-6)


# --- Refusals ---------------------------------------------------------------------------------------------------------


def test_values_out_of_declared_bounds_are_refused():
    reward = rewards.bounded(fixed("length", [0, 1, 2, 3, 4, None]), 0, 2.5)
    with pytest.raises(ValueError, match=r"`length` returned 3.0 for prompt 1, completion 0, outside .* \[0, 2.5\]"):
        reward(BATCH)
    hidden = leaf("hidden", np.full(SHAPE, 99.0), np.zeros(SHAPE, bool))
    assert combined(rewards.bounded(hidden, 0, 1)) == [None] * 6


def test_a_rounding_of_float32_is_within_bounds():
    third = np.float32(1 / 3)
    assert float(third) > 1 / 3  # rounded up
    assert combined(rewards.bounded(fixed("third", [third] * 6), 0, 1 / 3)) == [third] * 6
    beyond = np.nextafter(np.nextafter(third, np.float32(1)), np.float32(1))
    with pytest.raises(ValueError, match="outside its bounds"):
        rewards.bounded(fixed("third", [beyond] * 6), 0, 1 / 3)(BATCH)


@pytest.mark.parametrize(
    "reward",
    [
        rewards.product(fixed("a", [1e30] * 6), fixed("b", [1e30] * 6)),
        rewards.weighted_sum((1.0, fixed("a", [3e38] * 6)), (1.0, fixed("b", [3e38] * 6)), name="product"),
        rewards.scale(fixed("a", [1e30] * 6), 1e30, name="product"),
    ],
)
def test_an_overflow_is_refused(reward):
    with pytest.raises(ValueError, match="`product` came to inf for prompt 0, completion 0; scale or clip its parts"):
        reward(BATCH)


def test_huge_bounds_and_thresholds_are_no_trouble():
    big = fixed("big", [1] * 6, (-1e300, 1e300))
    assert rewards.gate(big, fixed("one", [1] * 6, (1, 1)), 1e300).bounds == (0, 1)
    assert combined(rewards.gate(big, fixed("one", [1] * 6), 1e300)) == [0] * 6
    assert combined(rewards.clip(big, -1e300, 1e300)) == combined(rewards.bounded(big, -1e300, 1e300)) == [1] * 6


@pytest.mark.parametrize("kind", NARY)
def test_senseless_children_are_refused(kind):
    length = rewards.per_completion(len, bounds=(0, 9))
    with pytest.raises(ValueError, match="got `len` twice"):
        NARY[kind](length, rewards.per_completion(len, bounds=(0, 8)))
    with pytest.raises(TypeError, match=r"as_reward|give .weight, reward"):
        NARY[kind](length, len)
    if kind != "gate":
        with pytest.raises(ValueError, match=r"got no (rewards|terms)"):
            NARY[kind]()


def test_senseless_settings_are_refused():
    a, b = _of((0, 1), (0, 1))
    with pytest.raises(ValueError, match=r"never negative, `len` has bounds \[-inf, inf\]; declare"):
        rewards.geometric_mean(a, rewards.per_completion(len))
    for weights in ([1], [1, -1], [0, 0]):
        with pytest.raises(ValueError, match="give one each, none negative, not all 0"):
            rewards.geometric_mean(a, b, weights=weights)
        with pytest.raises(ValueError, match="signed_geometric_mean got weights"):
            rewards.signed_geometric_mean(a, b, weights=weights)
    with pytest.raises(ValueError, match="threshold of gate is nan; give a finite one"):
        rewards.gate(a, b, math.nan)
    with pytest.raises(TypeError, match="threshold of gate is '1'; give a number"):
        rewards.gate(a, b, "1")  # pyright: ignore
    with pytest.raises(TypeError, match=r"hierarchy got .*give \(weight, reward, threshold\)"):
        rewards.hierarchy((1.0, a))  # pyright: ignore
    with pytest.raises(ValueError, match="weight of reward `r0` is inf"):
        rewards.hierarchy((math.inf, a, 0.5))
    with pytest.raises(ValueError, match="factor of scale is inf"):
        rewards.scale(a, math.inf)
    with pytest.raises(ValueError, match="give the lower one first"):
        rewards.bounded(a, 1, 0)
    with pytest.raises(ValueError, match="give the lower one first"):
        rewards.clip(a, 1, 0)
    with pytest.raises(TypeError, match=r"clip got .*lift functions with as_reward"):
        rewards.clip(len, 0, 1)  # pyright: ignore
