"""The grader of phrases of reasoning, and the calibration that uses it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix import rewards
from agent_tunix.batching import text_rollouts
from agent_tunix.rewards._reasoning import PATTERNS


def test_phrases_count_once_each_in_any_case():
    assert rewards.reasoning_patterns("WAIT, wait. Therefore x.") == pytest.approx(2 / 20)
    assert rewards.reasoning_patterns("Therefore", phrases=("therefore",), enough=1) == 1.0
    assert rewards.reasoning_patterns("4") == 0.0


def test_a_recital_of_all_phrases_gets_full_marks():
    assert rewards.reasoning_patterns(" ".join(PATTERNS)) == 1.0  # why it should not be the only reward


def test_recited_again_it_loses_them():
    recital = " ".join(PATTERNS) + " "
    words = recital.split() * 3
    grams = [tuple(words[start : start + 20]) for start in range(len(words) - 19)]
    again = sum(grams.count(gram) > 1 for gram in set(grams)) / len(grams)
    assert rewards.reasoning_patterns(recital * 3) == pytest.approx(1 - again)
    assert again > 0.3


def test_a_turn_of_somebody_else_costs_everything():
    assert rewards.reasoning_patterns(" ".join(PATTERNS) + " user: and 3 + 3?") == 0.0


@given(st.text(), st.integers(1, 4))
def test_grades_stay_within_bounds(response, n):
    assert 0 <= rewards.reasoning_patterns(response, enough=2, n=n) <= 1


@pytest.mark.parametrize("setting", [{"enough": 0}, {"n": 0}])
def test_wrong_settings_are_refused(setting):
    with pytest.raises(ValueError, match="give positive"):
        rewards.reasoning_patterns("so", **setting)


# --- Calibration ------------------------------------------------------------------------------------------------------


def judged(values, name="judge", bounds=(0, 1)):
    """A reward that says of the texts "0", "1", ... what a list holds."""
    return rewards.per_completion(lambda response: values[int(response)], name=name, bounds=bounds)


def calibrated(judge, pattern, **settings):
    rollouts = text_rollouts(["q"], [[str(index) for index in range(len(judge))]], {})
    return rewards.calibrated(judged(judge), judged(pattern, "pattern"), **settings)(rollouts)


def test_only_low_grades_are_lifted():
    score = calibrated([0.0, 0.4, 0.5, 1.0], [1.0, 0.5, 1.0, 1.0])
    np.testing.assert_allclose(score.value, [[0.1, 0.45, 0.5, 1.0]], rtol=1e-6)
    assert set(score.parts) == {"judge", "pattern"}


def test_what_is_lifted_stays_at_most_one():
    np.testing.assert_allclose(calibrated([0.6, 0.6], [1.0, 0.1], threshold=0.7, strength=0.5).value, [[1.0, 0.65]])


def test_a_missing_pattern_matters_only_where_the_grade_is_low():
    score = calibrated([0.2, 0.9, None], [None, None, 1.0])
    np.testing.assert_array_equal(score.valid, [[False, True, False]])
    np.testing.assert_allclose(score.value, [[0, 0.9, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("bounds", "pattern", "wanted"),
    [
        ((0, 1), (0, 1), (0, 1)),
        ((-1, 0.2), (0, 1), (-1, 0.7)),
        ((0, 0.3), (-1, 0), (-0.5, 0.3)),
        ((0, 9), (0, 9), (0, 9)),
    ],
)
def test_bounds_are_those_of_what_can_come_out(bounds, pattern, wanted):
    judge, second = judged([], bounds=bounds), judged([], "pattern", pattern)
    assert rewards.calibrated(judge, second, strength=0.5).bounds == pytest.approx(wanted)


def test_a_negative_strength_is_refused():
    with pytest.raises(ValueError, match="at least 0"):
        calibrated([0.0], [0.0], strength=-0.1)
