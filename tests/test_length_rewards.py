"""Rewards for length in tokens: hand-worked values, laws, and what truncation and abstention do."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix import rewards
from agent_tunix.types import Bounds, Outcome, Reward, Rollouts


def rollouts(lengths, *, truncated=None, right=None, **columns):
    """Rollouts of given lengths in tokens, `lengths[prompt][member]`; completions say `yes`, `no` or `?`."""
    lengths = np.array(lengths)
    shape = lengths.shape
    mask = np.arange(max(int(lengths.max()), 1)) < lengths[..., None]
    words = np.full(shape, "yes") if right is None else np.array(right)
    return Rollouts(
        prompts=[f"question {prompt}" for prompt in range(shape[0])],
        completions=words.tolist(),
        columns=columns,
        prompt_ids=np.zeros((shape[0], 1), np.int32),
        prompt_mask=np.ones((shape[0], 1), bool),
        completion_ids=mask.astype(np.int32),
        completion_mask=mask,
        truncated=np.zeros(shape, bool) if truncated is None else np.array(truncated),
        logprobs=mask.astype(np.float32),
        old_logprobs=mask.astype(np.float32),
    )


CORRECT = rewards.per_completion(
    lambda completion: {"yes": 1.0, "no": 0.0, "half": 0.5, "?": None}[completion], name="correct", bounds=(0, 1)
)
GATED = {
    "cosine_length": rewards.cosine_length(CORRECT, 100),
    "relative_length": rewards.relative_length(CORRECT),
    "concise": rewards.concise(CORRECT),
}
ALL = {
    **GATED,
    "soft_overlong": rewards.soft_overlong(100, 20),
    "length_budget": rewards.length_budget(50, slope=0.02),
}


@st.composite
def batches(draw):
    """Rollouts with any lengths, judgements and truncation."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 6)))
    count = shape[0] * shape[1]

    def of(values):
        return np.array(draw(st.lists(values, min_size=count, max_size=count))).reshape(shape)

    return rollouts(
        of(st.integers(0, 150)), truncated=of(st.booleans()), right=of(st.sampled_from(["yes", "no", "half", "?"]))
    )


# --- Values -----------------------------------------------------------------------------------------------------------


def test_cosine_goes_down_for_right_and_up_for_wrong_completions():
    # cos(0) = 1, cos(pi/3) = 1/2 at a third, cos(pi/2) = 0 at half, cos(pi) = -1 at and beyond the limit of 60.
    score = rewards.cosine_length(CORRECT, 60)(rollouts([[0, 20, 30, 60, 90]] * 2, right=[["yes"] * 5, ["no"] * 5]))
    np.testing.assert_allclose(score.value[0], [1.0, 0.875, 0.75, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(score.value[1], [-1.0, -0.875, -0.75, -0.5, -0.5], atol=1e-6)


def test_cosine_takes_the_ranges_of_the_paper():
    reward = rewards.cosine_length(CORRECT, 10, correct_range=(1, 2), wrong_range=(-10, 0))
    assert reward.bounds == Bounds(-10.0, 2.0)
    score = reward(rollouts([[0, 10, 5, 0, 10, 5]], right=[["yes"] * 3 + ["no"] * 3]))
    np.testing.assert_allclose(score.value[0], [2, 1, 1.5, -10, 0, -5], atol=1e-6)


def test_cosine_gives_the_low_end_to_what_was_cut_off():
    score = rewards.cosine_length(CORRECT, 100)(rollouts([[10, 10]], truncated=[[True, True]], right=[["yes", "no"]]))
    np.testing.assert_allclose(score.value, [[0.5, -1.0]])


LENGTHS = [79, 80, 90, 100, 110, 140]


@pytest.mark.parametrize(
    ("floor", "values"),
    [
        (-1.0, [0, 0, -0.5, -1, -1, -1]),  # TRL, OpenRLHF
        (-math.inf, [0, 0, -0.5, -1, -1.5, -3]),  # verl, NeMo-RL, Tunix
        (-0.25, [0, 0, -0.25, -0.25, -0.25, -0.25]),
    ],
)
def test_soft_overlong_agrees_with_other_frameworks(floor, values):
    reward = rewards.soft_overlong(100, 20, floor=floor)
    assert reward.bounds == Bounds(floor, 0.0)
    np.testing.assert_allclose(reward(rollouts([LENGTHS])).value, [values], atol=1e-7)


def test_soft_overlong_takes_what_was_cut_off_for_overlong():
    score = rewards.soft_overlong(100, 20)(rollouts([[64, 64]], truncated=[[True, False]]))
    np.testing.assert_array_equal(score.value, [[-1.0, 0.0]])


def test_budget_is_soft_at_its_edge():
    # 0.02 (50 - L) + 0.5: 1 at 25 and below, 0.5 at 50, 0 at 75 and above.
    score = ALL["length_budget"](rollouts([[10, 25, 40, 50, 60, 75, 90]]))
    np.testing.assert_allclose(score.value, [[1, 1, 0.7, 0.5, 0.3, 0, 0]], atol=1e-6)


def test_budget_can_be_a_column_and_cut_off_completions_are_never_within_it():
    reward = rewards.length_budget("budget", slope=0.1)
    batch = rollouts([[10, 10], [10, 10]], truncated=[[False, True]] * 2, budget=[10, 13])
    np.testing.assert_allclose(reward(batch).value, [[0.5, 0], [0.8, 0]], atol=1e-6)


@pytest.mark.parametrize(("tokens", "high"), [(1000, 0.8), (5000, 1.0), ("budget", 1.0)])
def test_bounds_of_the_budget_are_those_attained(tokens, high):
    reward = rewards.length_budget(tokens)
    assert reward.bounds == pytest.approx((0, high))
    assert reward(rollouts([[0]], budget=[9999])).value.item() == pytest.approx(high)


def test_relative_length_pays_right_completions_only():
    # Shortest 10, longest 50: 0.5 - (L - 10) / 40.
    score = GATED["relative_length"](rollouts([[10, 20, 30, 40, 50]] * 2, right=[["yes"] * 5, ["no"] * 5]))
    np.testing.assert_allclose(score.value[0], [0.5, 0.25, 0, -0.25, -0.5])
    np.testing.assert_allclose(score.value[1], [0, 0, 0, -0.25, -0.5])


def test_relative_length_of_equally_long_completions_is_zero():
    score = GATED["relative_length"](rollouts([[7, 7, 7], [3, 3, 9]], right=[["yes", "no", "?"], ["?", "?", "yes"]]))
    np.testing.assert_array_equal(score.value, np.zeros((2, 3)))


def test_concise_compares_right_completions_among_themselves():
    # The right ones are 10 and 30 long: mean 20, deviation 10, so z = -1 and 1; sigmoid(1) = 0.7310586.
    batch = rollouts([[10, 30, 1, 500]], right=[["yes", "yes", "no", "no"]])
    expected = [1 - 0.5 * (1 - 0.7310586), 1 - 0.5 * 0.7310586, 0, 0]
    np.testing.assert_allclose(rewards.concise(CORRECT, strength=0.5)(batch).value, [expected], atol=1e-6)


def test_concise_gives_the_middle_where_right_completions_do_not_differ():
    batch = rollouts([[10, 3, 4], [8, 8, 1], [5, 6, 7]], right=[["yes", "no", "no"], ["yes", "yes", "no"], ["no"] * 3])
    np.testing.assert_allclose(GATED["concise"](batch).value, [[0.9, 0, 0], [0.9, 0.9, 0], [0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("threshold", [0.5, 0.6])
def test_the_threshold_decides_what_is_right(threshold):
    score = rewards.concise(CORRECT, threshold=threshold)(rollouts([[5, 9]], right=[["half", "no"]]))
    np.testing.assert_array_equal(score.value > 0, [[threshold == 0.5, False]])


# --- Laws -------------------------------------------------------------------------------------------------------------


@given(batch=batches())
def test_values_keep_their_bounds_and_are_finite(batch):
    for name, reward in ALL.items():
        score = reward(batch)
        assert score.value.dtype == np.float32 and score.value.shape == batch.shape
        assert np.isfinite(score.value).all(), name
        assert (score.value[score.valid] >= reward.bounds.low - 1e-6).all(), name
        assert (score.value[score.valid] <= reward.bounds.high + 1e-6).all(), name


@given(batch=batches())
def test_no_wrong_completion_gets_more_than_a_right_one(batch):
    for name in ("cosine_length", "concise"):
        score = GATED[name](batch)
        right = score.valid & (score.parts["correct"] >= 0.5)
        wrong = score.valid & ~right
        if right.any() and wrong.any():
            assert score.value[right].min() > score.value[wrong].max(), name
    relative = GATED["relative_length"](batch)
    wrong = relative.valid & ~(relative.parts["correct"] >= 0.5)
    assert (relative.value[wrong] <= 0).all()


@given(batch=batches())
def test_longer_right_completions_of_a_group_never_get_more(batch):
    for name, reward in ALL.items():
        score = reward(batch)
        right = score.valid & ~batch.truncated & (score.parts.get("correct", np.ones(batch.shape)) >= 0.5)
        for values, lengths, rows in zip(score.value, batch.lengths, right):
            order = np.argsort(lengths[rows], kind="stable")
            assert (np.diff(values[rows][order]) <= 1e-6).all(), name


@given(batch=batches())
def test_a_completion_without_a_judgement_changes_nothing(batch):
    for name, reward in GATED.items():
        score = reward(batch)
        judged = np.array(batch.completions) != "?"
        np.testing.assert_array_equal(score.valid, judged)
        np.testing.assert_array_equal(score.outcomes[name] == Outcome.ABSTAINED, ~judged)
        for prompt, keep in enumerate(judged):
            if keep.any():
                alone = rollouts(
                    batch.lengths[prompt : prompt + 1, keep],
                    truncated=batch.truncated[prompt : prompt + 1, keep],
                    right=np.array(batch.completions)[prompt : prompt + 1, keep],
                )
                np.testing.assert_allclose(reward(alone).value[0], score.value[prompt, keep], atol=1e-6)


# --- Parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GATED)
def test_the_parts_and_failures_of_the_judge_are_kept(name):
    def judge(completion):
        if completion == "no":
            raise ValueError("cannot say")
        return 1.0

    parts = rewards.weighted_sum((1.0, rewards.per_completion(judge, name="judge")), name="accuracy")
    reward = {
        "cosine_length": lambda: rewards.cosine_length(parts, 10),
        "relative_length": lambda: rewards.relative_length(parts),
        "concise": lambda: rewards.concise(parts),
    }[name]()
    score = reward(rollouts([[3, 4]], right=[["yes", "no"]]))
    np.testing.assert_array_equal(score.valid, [[True, False]])
    np.testing.assert_array_equal(score.parts["accuracy/judge"], [[1.0, np.nan]])
    np.testing.assert_array_equal(np.isnan(score.parts[name]), [[False, True]])
    np.testing.assert_array_equal(score.outcomes["accuracy/judge"], [[Outcome.GRADED, Outcome.FAILED]])
    assert [failure.part for failure in score.failures] == ["accuracy/judge"]


def test_length_rewards_combine_with_others():
    total = rewards.weighted_sum((1.0, CORRECT), (0.5, ALL["soft_overlong"]), (0.2, GATED["relative_length"]))
    assert total.bounds == pytest.approx((-0.6, 1.1))
    score = total(rollouts([[90, 40]], right=[["yes", "yes"]]))
    np.testing.assert_allclose(score.value, [[1 - 0.25 - 0.1, 1 + 0.1]], atol=1e-6)
    assert set(score.parts) == {"correct", "soft_overlong", "relative_length", "relative_length/correct"}


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: rewards.cosine_length(CORRECT, 0), ValueError, "max_tokens is 0"),
        (lambda: rewards.cosine_length(CORRECT, 9, correct_range=(1, 0.5)), ValueError, "lower end first"),
        (lambda: rewards.cosine_length(CORRECT, 9, wrong_range=(-1, 0.6)), ValueError, "keep it below"),
        (lambda: rewards.cosine_length(len, 9), TypeError, "as_reward"),
        (lambda: rewards.cosine_length(Reward("cosine_length", CORRECT.score), 9), ValueError, "another name="),
        (lambda: rewards.soft_overlong(10, 11), ValueError, "more than max_tokens"),
        (lambda: rewards.soft_overlong(10, 5, floor=0.5), ValueError, "below 0"),
        (lambda: rewards.soft_overlong(10, 5, floor=math.nan), ValueError, "below 0"),
        (lambda: rewards.length_budget(-1), ValueError, "positive number of tokens"),
        (lambda: rewards.length_budget(10, slope=0), ValueError, "slope"),
        (lambda: rewards.length_budget(10, at_budget=2), ValueError, "at_budget"),
        (lambda: rewards.concise(CORRECT, strength=1), ValueError, r"\[0, 1\)"),
        (lambda: rewards.length_budget("budget")(rollouts([[1]])), ValueError, "needs the column `budget`"),
        (lambda: rewards.length_budget("budget")(rollouts([[1]], budget=[0])), ValueError, "column `budget` is 0"),
    ],
)
def test_wrong_settings_are_refused_with_a_remedy(make, error, match):
    with pytest.raises(error, match=match):
        make()
