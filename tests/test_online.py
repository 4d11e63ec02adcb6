"""The monitor, with rules that the test decides: what it adds is agreement over checks, alerts and replay."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix.diagnostics import online
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.diagnostics.online import Monitor, watchers


def finding(rule="stagnation", level="warn", step=0):
    return Finding(rule, level, (0, step), "seen")


@pytest.fixture
def told(monkeypatch):
    """Diagnoses what the last value of the reward says: `script[value]` are the findings."""

    def use(script):
        def diagnose(series, *, steps, **facts):
            return script(int(steps["reward"][-1]), series, facts)

        monkeypatch.setattr(online, "diagnose", diagnose)

    return use


def rows(last, first=1):
    return [{"kind": "train", "step": step, "reward": step / 10} for step in range(first, last + 1)]


def test_a_rule_counts_after_two_checks_that_agree(told):
    told(lambda step, series, facts: [finding()] if step >= 20 else [])
    monitor = Monitor(400)
    seen = {row["step"]: monitor.see(row) for row in rows(40)}
    assert {step: out for step, out in seen.items() if out} == {
        10: {"health/worst": 0.0},
        20: {"health/worst": 0.0},  # seen once
        30: {"health/worst": 1.0, "health/stagnation": 1.0},
        40: {"health/worst": 1.0, "health/stagnation": 1.0},
    }


def test_a_single_check_counts_for_nothing_and_one_gap_ends_nothing(told):
    told(lambda step, series, facts: [finding()] if step in (10, 30, 40, 60) else [])
    monitor = Monitor(400)
    levels = [out.get("health/stagnation") for row in rows(90) if (out := monitor.see(row))]
    #         10    20    30    40   50   60   70   80   90
    assert levels == [None, None, None, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert monitor.findings == []


def test_an_alert_is_given_once_and_again_when_it_becomes_more_serious(told):
    told(lambda step, series, facts: [finding(level="error" if step >= 50 else "warn", step=step)])
    alerts = []
    monitor = Monitor(400, alert=alerts.append)
    for row in rows(100):
        monitor.see(row)
    assert [(alert.level, alert.steps[1]) for alert in alerts] == [("warn", 20), ("error", 50)]
    assert monitor.level == 2


def test_an_info_counts_without_raising_the_level(told):
    told(lambda step, series, facts: [finding("saturated_high", "info")])
    monitor = Monitor(400)
    outs = [monitor.see(row) for row in rows(20)]
    assert outs[-1] == {"health/worst": 0.0, "health/saturated_high": 0.0}
    assert [found.rule for found in monitor.findings] == ["saturated_high"]


@given(st.integers(0, 100), st.sets(st.integers(1, 10)))
def test_a_replay_is_as_if_the_run_had_never_stopped(cut, ill):
    with pytest.MonkeyPatch.context() as patch:

        def diagnose(series, *, steps, **facts):
            return [finding()] if int(steps["reward"][-1]) // 10 in ill else []

        patch.setattr(online, "diagnose", diagnose)
        whole, first, second = Monitor(400), Monitor(400), Monitor(400, alert=lambda found: replayed.append(found))
        expected = [whole.see(row) for row in rows(100)]
        begun = [first.see(row) for row in rows(cut)]
        replayed: list[Finding] = []
        second.replay(rows(cut))
        assert replayed == []
        assert begun + [second.see(row) for row in rows(100, cut + 1)] == expected
        assert second.findings == whole.findings


def test_what_a_file_holds_as_null_is_what_the_loop_saw_as_not_finite(told):
    held = []
    told(lambda step, series, facts: held.append(series["reward"].tolist()) or [])
    for value in (math.inf, math.nan, None):
        monitor = Monitor(400)
        for row in rows(9):
            monitor.see(row)
        monitor.see({"kind": "train", "step": 10, "reward": value})
    assert all(math.isnan(values[-1]) for values in held)
    assert [values[:-1] for values in held] == [held[0][:-1]] * 3


def test_a_loss_that_is_null_in_a_file_was_not_finite(told):
    held = []
    told(lambda step, series, facts: held.append(series["policy/loss"].tolist()) or [])
    for value in (math.inf, -math.inf, math.nan, None):
        monitor = Monitor(400)
        for row in rows(10):
            monitor.see(row | {"policy/loss": value if row["step"] == 10 else 0.5})
    assert held == [[0.5] * 9 + [math.inf]] * 4


def test_evaluations_are_taken_in_with_their_own_steps_and_start_no_check(told):
    seen = []
    told(lambda step, series, facts: seen.append({name: len(values) for name, values in series.items()}) or [])
    monitor = Monitor(400)
    for row in rows(10):
        monitor.see(row)
    assert monitor.see({"kind": "eval", "step": 10, "eval/accuracy": 0.5}) == {}
    for row in rows(20, 11):
        monitor.see(row)
    assert seen == [{"reward": 10}, {"reward": 20, "eval/accuracy": 1}]


def test_columns_that_no_card_knows_are_left_alone(told):
    seen = []
    told(lambda step, series, facts: seen.append(sorted(series)) or [])
    monitor = Monitor(400)
    for row in rows(10):
        monitor.see(row | {"batch": 3, "my/number": 1.0})
    assert seen == [["reward"]]


def test_the_facts_of_the_run_reach_the_rules(told):
    seen = []
    told(lambda step, series, facts: seen.append(facts) or [])
    facts = {"bounds": (0, 1), "eval_samples": 512, "roles": {"a": "task"}, "group_size": 4}
    monitor = Monitor(60, every=5, **facts)
    for row in rows(5):
        monitor.see(row)
    assert seen == [facts | {"planned_steps": 60}]


def test_checks_are_a_fortieth_of_the_run_apart(told):
    seen = []
    told(lambda step, series, facts: seen.append(step) or [])
    monitor = Monitor(1000)
    for row in rows(200):
        monitor.see(row)
    assert seen == [25, 50, 75, 100, 125, 150, 175, 200]


def test_several_watchers_are_told_in_turn():
    first, second = [], []
    watchers([first.append, second.append])(finding())
    assert first == second == [finding()]


def test_rules_that_fail_are_reported_once_and_end_nothing(told, caplog):
    def fail(step, series, facts):
        raise ZeroDivisionError("of a rule")

    told(fail)
    monitor = Monitor(400)
    assert [monitor.see(row) for row in rows(30)] == [{}] * 30
    assert [record.getMessage() for record in caplog.records] == [
        "the health rules failed at step 10 (ZeroDivisionError: of a rule)"
    ]


@pytest.mark.parametrize(("rule", "checks"), [("exceeds_bound", 1), ("stagnation", 2)])
def test_arithmetic_counts_at_its_first_check(told, rule, checks):
    told(lambda step, series, facts: [Finding(rule, "warn", (0, 1), "")])
    monitor = Monitor(200, every=5)
    seen = [monitor.see(row) for row in rows(10)]
    assert [f"health/{rule}" in levels for levels in seen if levels] == [checks == 1, True]
