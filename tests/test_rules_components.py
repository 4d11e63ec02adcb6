"""Rules about the parts of a reward."""

import numpy as np
import pytest

from agent_tunix.diagnostics._intake import read_signals
from agent_tunix.diagnostics._signals import component_words
from agent_tunix.diagnostics.rules import dead_component, format_only, tradeoff

N = 200
T = np.linspace(0, 1, N)
UP = np.minimum(T * 3, 1)


def noise(size, seed=0):
    return np.random.default_rng(seed).normal(0, size, N)


def seen(planned_steps=None, **series):
    return read_signals(
        {f"rewards/{name}/mean": values for name, values in series.items()}, planned_steps=planned_steps
    )


def test_words_of_a_name_decide_its_role():
    names = ["formatReward", "xml_tags", "correctness", "math_accuracy", "answer_format", "style"]
    parts = seen(**dict.fromkeys(names, UP)).components
    assert [part.role for part in parts] == ["format", "format", "task", "task", "", ""]
    assert component_words("XMLCountReward") == {"xml", "count", "reward"}


def test_format_without_task_names_both():
    found = format_only(seen(format=0.2 + 0.75 * UP + noise(0.01), correct=0.08 + noise(0.02, 1)))
    assert found.evidence["format"] == "format"
    assert found.evidence["task"] == "correct"
    assert found.evidence["format_gain"] == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("form", [UP, 0.3 + 0.1 * UP])
def test_a_task_that_is_learned_after_the_format_is_healthy(form):
    task = 0.1 + 0.5 / (1 + np.exp(-(T - 0.7) / 0.06)) + noise(0.02)
    assert format_only(seen(format=form + noise(0.01, 1), correct=task)) is None


def test_format_only_waits_while_the_run_may_still_learn():
    parts = {"format": 0.2 + 0.75 * UP + noise(0.01), "correct": 0.08 + noise(0.02, 1)}
    assert format_only(seen(planned_steps=1000, **parts)) is None
    assert format_only(seen(planned_steps=300, **parts)) is not None


def test_one_part_against_another_says_how_much():
    (found,) = tradeoff(seen(brevity=0.2 + 0.6 * T + noise(0.02), safety=0.8 - 0.5 * T + noise(0.02, 1)))
    assert (found.evidence["up"], found.evidence["down"]) == ("brevity", "safety")
    # The deepest fall is between means of 10 % of the run: 0.5 times 0.9, and a little chance.
    assert found.evidence["fall"] == pytest.approx(0.45, abs=0.02)


def test_a_fall_that_is_taken_back_is_flagged_as_recovered():
    dip = 0.8 - 0.5 * np.sin(np.pi * T) + noise(0.02)
    (found,) = tradeoff(seen(brevity=0.2 + 0.6 * T + noise(0.02, 1), safety=dip))
    assert found.evidence["recovered"] > 0.8


def test_a_saturated_part_that_jitters_is_not_traded():
    assert list(tradeoff(seen(format=np.clip(0.97 + noise(0.03), 0, 1), correct=0.2 + 0.6 * T))) == []


def test_parts_that_fall_together_are_not_traded():
    assert list(tradeoff(seen(format=0.9 - 0.5 * T + noise(0.02), correct=0.6 - 0.5 * T + noise(0.02, 1)))) == []


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_part_that_never_moves_is_dead(value):
    (found,) = dead_component(seen(style=np.full(N, value), correct=0.2 + 0.6 * T + noise(0.02)))
    assert found.evidence["component"] == "style"
    assert found.evidence["value"] == value


def test_a_part_that_stops_moving_is_dead_from_there():
    (found,) = dead_component(seen(style=np.where(T > 0.4, 0.1, 0.4 + noise(0.05)), correct=0.2 + 0.6 * T))
    assert 78 <= found.evidence["since"] <= 82


def test_a_part_that_almost_never_pays_is_dead():
    rare = np.where(np.arange(N) % 50 == 0, 1 / 64, 0.0)  # one completion of 64 in every 50th batch: 0.0003
    assert len(list(dead_component(seen(style=rare)))) == 1


def test_a_solved_part_and_a_penalty_that_is_never_due_are_fine():
    assert list(dead_component(seen(format=np.ones(N), length_penalty=np.zeros(N)))) == []


@pytest.mark.parametrize("top", [0.7, 0.97])
def test_a_part_that_rests_on_a_level_it_rose_to_is_saturated(top):
    learned = 0.2 + (top - 0.2) * np.clip(5 * T, 0, 1)
    assert list(dead_component(seen(format=learned, correct=0.2 + 0.6 * T + noise(0.02)))) == []


def test_a_sudden_fall_that_stays_is_traded_for_a_slow_gain():
    (found,) = tradeoff(seen(style=0.9 - 0.5 * (T > 0.45) + noise(0.01), correct=0.3 + 0.4 * T + noise(0.02, 1)))
    assert (found.evidence["up"], found.evidence["down"]) == ("correct", "style")
