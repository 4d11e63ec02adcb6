"""Rules about numbers that are not there."""

import numpy as np
import pytest

from agent_tunix.diagnostics._intake import read_signals
from agent_tunix.diagnostics.rules import failed_grader, non_finite

N = 200
T = np.linspace(0, 1, N)
REWARD = 0.2 + 0.5 * T


def with_nan(values, rows):
    changed = np.array(values, dtype=float)
    changed[rows] = np.nan
    return changed


def test_failed_calls_are_found_once_they_are_many():
    few = read_signals({"failed_fraction": np.full(N, 0.02)})
    many = read_signals({"reward/part/judge/failed_fraction": np.where(T > 0.5, 0.5, 0.0)})
    assert failed_grader(few) is None
    found = failed_grader(many)
    assert (found.level, found.evidence["share"]) == ("error", 0.5)
    assert found.steps[0] == 100


def test_an_outage_that_is_over_is_a_warning():
    found = failed_grader(read_signals({"failed_fraction": np.where((T > 0.3) & (T < 0.5), 0.9, 0.0)}))
    assert (found.level, found.evidence["end"]) == ("warn", 0)


def test_five_failed_rows_are_enough_while_a_run_goes_on():
    assert failed_grader(read_signals({"failed_fraction": [0.9] * 5}, planned_steps=1000)) is not None


@pytest.mark.parametrize("name", ["loss", "reward", "grad_norm", "kl", "completion_length"])
def test_an_infinite_value_is_an_error(name):
    values = np.array(REWARD)
    values[120] = np.inf
    found = non_finite(read_signals({"reward": REWARD} | {name: values}))
    assert (found.level, found.steps[0]) == ("error", 120)
    assert found.evidence["series"] == name


def test_a_loss_that_stops_while_the_rest_goes_on_is_an_error():
    found = non_finite(read_signals({"reward": REWARD, "loss": with_nan(T, slice(150, None))}))
    assert found.steps[0] == 150


def test_a_reward_that_stops_for_good_is_an_error():
    assert non_finite(read_signals({"reward": with_nan(REWARD, slice(150, None))})).steps[0] == 150


def test_gaps_that_hit_all_series_alike_are_none():
    gaps = np.random.default_rng(0).random(N) < 0.1
    gaps[95:105] = True
    names = ("reward", "loss", "grad_norm", "completion_length")
    assert non_finite(read_signals({name: with_nan(REWARD, gaps) for name in names})) is None


def test_values_that_are_missing_here_and_there_are_none():
    rng = np.random.default_rng(0)
    names = ("reward", "loss", "grad_norm", "completion_length", "kl")
    assert non_finite(read_signals({name: with_nan(REWARD, rng.random(N) < 0.08) for name in names})) is None


def test_a_loss_with_holes_that_nothing_else_has_is_an_error():
    holes = np.random.default_rng(0).random(N) < 0.15
    series = {"reward": REWARD, "kl": T, "completion_length": 100 + T, "loss": with_nan(T, holes)}
    assert non_finite(read_signals(series)).evidence["series"] == "loss"


def test_a_loss_that_is_logged_every_tenth_step_is_none():
    sparse = np.full(N, np.nan)
    sparse[::10] = 0.1
    assert non_finite(read_signals({"reward": REWARD, "loss": sparse})) is None


def test_a_reward_without_any_value_is_an_error_and_another_series_is_not():
    nothing = [None] * 20
    assert non_finite(read_signals({"reward": nothing})) is not None
    assert non_finite(read_signals({"reward": REWARD, "entropy": np.full(N, np.nan)})) is None


def test_gaps_of_one_series_all_over_the_run_were_not_logged():
    gaps = np.random.default_rng(0).random(N) < 0.2
    later = gaps & (np.arange(N) > N // 2)
    others = {"reward": REWARD, "kl": T, "completion_length": 100 + T}
    assert non_finite(read_signals(others | {"grad_norm": with_nan(T, gaps)})) is None
    assert non_finite(read_signals(others | {"grad_norm": with_nan(T, later)})) is not None


def test_a_block_without_loss_stands_out_among_gaps():
    rng = np.random.default_rng(0)
    block = (np.arange(N) > 80) & (np.arange(N) < 100)
    series = {name: with_nan(REWARD, rng.random(N) < 0.1) for name in ("reward", "kl", "completion_length")}
    broken = {name: with_nan(T, (rng.random(N) < 0.1) | block) for name in ("loss", "grad_norm")}
    assert "in a row" in non_finite(read_signals(series | broken)).message
    assert non_finite(read_signals(series | {"grad_norm": broken["grad_norm"]})) is None
