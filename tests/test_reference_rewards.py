"""Shapings against the rewards of references, and against all that was seen."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from agent_tunix import rewards
from agent_tunix.batching import text_rollouts
from agent_tunix.types import Score
from tests.test_shaping import run, score_of


def known(values, valid=None):
    """References of these rewards, whatever is asked."""
    return lambda rollouts: score_of(values, valid)


def shaped(shaping, score):
    after, state = shaping.update(score, shaping.init(), None)
    assert state == ()
    return after


# --- Scores of references ---------------------------------------------------------------------------------------------


class Counted:
    """A grader that counts its calls."""

    def __init__(self):
        self.seen = []

    def __call__(self, response):
        self.seen.append(response)
        return float(len(response)) if response != "none" else None


def batch(samples, level=1):
    prompts = [f"p{index}" for index in range(len(samples))]
    columns = {"samples": samples, "level": [level] * len(samples)}
    return text_rollouts(prompts, [["x", "yy"]] * len(samples), columns)


def test_references_are_scored_by_the_reward_once_per_row():
    grader = Counted()
    scores = rewards.reference_scores(rewards.per_completion(grader, name="length"), "samples")
    first = scores(batch([["a", "bbb"], ["cc", "none"]]))
    np.testing.assert_array_equal(first.value, [[1, 3], [2, 0]])
    np.testing.assert_array_equal(first.valid, [[True, True], [True, False]])
    calls = len(grader.seen)
    again = scores(batch([["a", "bbb"], ["cc", "none"]]))
    np.testing.assert_array_equal(again.value, first.value)
    assert len(grader.seen) == calls
    scores(batch([["a", "bbb"], ["dddd", "e"]]))
    assert sorted(grader.seen[calls:]) == ["dddd", "e"]
    scores(batch([["a", "bbb"]], level=2))  # a reward may depend on any column
    assert grader.seen[-2:] == ["a", "bbb"]


def test_a_single_reference_is_a_text_and_may_be_written_out():
    reward = rewards.per_completion(rewards.exact_answer, "answer", name="correctness", bounds=(0, 1))
    rollouts = text_rollouts(["1+1=", "2+2="], [["", ""]] * 2, {"answer": ["2", "4"]})
    np.testing.assert_array_equal(rewards.reference_scores(reward, "answer")(rollouts).value, [[0], [0]])
    written = rewards.reference_scores(reward, "answer", "<answer>{}</answer>")
    np.testing.assert_array_equal(written(rollouts).value, [[1], [1]])


@pytest.mark.parametrize(
    ("samples", "words"),
    [([["a"], ["b", "c"]], "has 1, 2 references"), ([[], ["b"]], "without a reference"), (["a", None], "without a")],
)
def test_rows_without_references_are_refused(samples, words):
    scores = rewards.reference_scores(rewards.per_completion(len), "samples")
    with pytest.raises(ValueError, match=words):
        scores(batch(samples))


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match=r"`sample`.*did you mean `samples`"):
        rewards.reference_scores(rewards.per_completion(len), "sample")(batch([["a"]]))


# --- Against references -----------------------------------------------------------------------------------------------


def test_preference_is_worked_out_by_hand():
    after = shaped(rewards.preference(known([[0.0, 1.0]])), score_of([[1.0, -9.0]]))
    sigmoid = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(after.value[0, 0], (sigmoid + 0.5) / 2, rtol=1e-6)
    steep = shaped(rewards.preference(known([[0.0]]), k=2.0), score_of([[0.5, 0.0]]))
    np.testing.assert_allclose(steep.value, [[sigmoid, 0.5]], rtol=1e-6)


def test_each_prompt_is_compared_with_its_own_references():
    after = shaped(rewards.center_on(known([[1, 3], [10, 10]])), score_of([[2, 4], [10, 11]]))
    np.testing.assert_allclose(after.value, [[0, 2], [0, 1]], atol=1e-6)


def test_log_sigmoid_is_centred_on_the_quantile_of_a_normal_distribution():
    theirs = np.array([[0.0, 1.0, 5.0]])
    after = shaped(rewards.log_sigmoid_centered(known(theirs), 0.85), score_of([[3.0, 7.0]]))
    quantile = stats.norm(theirs.mean(), theirs.std() + 1e-5).ppf(0.85)
    np.testing.assert_allclose(after.value, -np.log1p(np.exp(quantile - np.array([[3.0, 7.0]]))), rtol=1e-5)


@pytest.mark.parametrize("make", [rewards.preference, rewards.center_on, rewards.log_sigmoid_centered])
def test_references_without_a_value_do_not_count(make):
    score = score_of([[1, 2], [3, 4]], [[True, False], [True, True]])
    some = shaped(make(known([[0, 99], [5, 5]], [[True, False], [False, False]])), score)
    np.testing.assert_array_equal(some.valid, [[True, False], [False, False]])
    alone = shaped(make(known([[0], [5]])), score)
    np.testing.assert_allclose(some.value[0], alone.value[0], rtol=1e-6)
    assert not np.any(some.value[1])
    assert some.value[0, 1] == 0
    assert some.parts is score.parts and some.failures == score.failures


def test_compiled_and_plain_agree():
    shaping = rewards.preference(known([[0.5, 1.5]]))
    score = dataclasses.replace(score_of([[1, 2, 3]]), failures=())
    compiled, _ = jax.jit(lambda score: shaping.update(score, (), None))(score)
    np.testing.assert_allclose(compiled.value, shaped(shaping, score).value, rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rewards.preference(known([[0]]), k=0.0),
        lambda: rewards.preference(known([[0]]), k=float("inf")),
        lambda: rewards.log_sigmoid_centered(known([[0]]), 1.0),
        lambda: rewards.clip_running(0.0),
        lambda: rewards.clip_running(1.0, decay=1.0),
    ],
)
def test_wrong_numbers_are_refused(make):
    with pytest.raises(ValueError, match="give a"):
        make()


# --- Against everything seen ------------------------------------------------------------------------------------------


def test_running_clip_is_worked_out_by_hand():
    clipped, state = run(rewards.clip_running(1.0, decay=0.5), [score_of([[0, 2]])])
    np.testing.assert_allclose(clipped, [[[0, 2]]], atol=1e-6)
    narrow, _ = run(rewards.clip_running(0.5, decay=0.5), [score_of([[0, 2, 77]], [[1, 1, 0]])])
    np.testing.assert_allclose(narrow, [[[0.5, 1.5, 0]]], atol=1e-6)
    later, _ = run(rewards.clip_running(0.5, decay=0.5), [score_of([[4, 4]])], state)
    standardized, _ = run(rewards.standardize("running", 0.0, 0.5), [score_of([[0, 2]]), score_of([[4, 4]])])
    deviation = 1.0 / standardized[1][0, 0]  # the mean of both is 3
    np.testing.assert_allclose(later, np.full((1, 1, 2), 3 + 0.5 * deviation), rtol=1e-6)


def test_range_is_that_of_all_batches():
    scaled, state = run(rewards.min_max(), [score_of([[5, 5]]), score_of([[1, 3]]), score_of([[9, 1]])])
    np.testing.assert_allclose(scaled, [[[0, 0]], [[0, 0.5]], [[1, 0]]], atol=1e-6)
    unseen, same = run(rewards.min_max(), [score_of([[50, 50]], [[0, 0]])], state)
    np.testing.assert_array_equal(unseen, [[[0, 0]]])
    assert [float(x) for x in same] == [1.0, 9.0]


def test_any_function_of_the_difference_will_do():
    after = shaped(rewards.over_references(known([[1.0, 2.0]]), jnp.square), score_of([[2.0]]))
    assert isinstance(after, Score)
    np.testing.assert_allclose(after.value, [[0.5]])
