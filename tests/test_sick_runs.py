"""The sabotaged runs: their rewards do what they say, and the runs that were recorded prove what the page tells."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent_tunix import overrides, recipes, runs
from agent_tunix.batching import text_rollouts
from agent_tunix.config import Config

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import health_checked_runs as benchmark  # noqa: E402
import sabotage  # noqa: E402

RECORD = json.loads(benchmark.SAVED.read_text())
RUNS = {run["name"]: run for run in RECORD["runs"]}
SABOTAGED = [case for case in benchmark.CASES if case.rule and "sabotage" in case.overrides[0]]


def values(reward, completions, answer):
    score = reward(text_rollouts(["?"], [completions], {"answer": [answer]}))
    return np.asarray(score.value[0], float).round(3).tolist()


# --- Rewards ----------------------------------------------------------------------------------------------------------


def test_the_lenient_grader_pays_for_a_list_as_for_the_answer():
    completions = ["<answer>7</answer>", "<answer>6</answer><answer>7</answer>", "<answer>5 6 7 8</answer>"]
    assert values(sabotage.lenient_grader, completions, "7") == [1.0, 1.0, 1.0]


def test_the_lenient_grader_compares_whole_numbers_in_closed_blocks():
    completions = ["<answer>17</answer>", "<answer>-7</answer>", "7", "<answer>7", ""]
    assert values(sabotage.lenient_grader, completions, "7") == [0.0, 0.0, 0.0, 0.0, 0.0]
    assert values(sabotage.lenient_grader, ["<answer>-7</answer>", "<answer>7</answer>"], "-7") == [1.0, 0.0]


def test_a_long_wrong_response_earns_more_than_the_right_answer():
    right, wrong = "<answer>1 2 3</answer>", "</answer>" * 30  # 22 and 270 characters
    assert values(sabotage.length_bonus, [right, wrong], "1 2 3") == [1.22, 2.7]
    assert sabotage.length_bonus.bounds.high == float("inf")


# --- Experiments ------------------------------------------------------------------------------------------------------


def changed(config, default=None):
    """Settings that differ from the defaults, by section."""
    default = default or Config()
    return {
        f"{section}.{key}": value
        for section in ("model", "sampling", "reward", "loss", "optimizer", "training", "advantage")
        for key, value in vars(getattr(config, section)).items()
        if value != getattr(getattr(default, section), key)
    }


@pytest.mark.parametrize(
    ("name", "sabotage"),
    [
        ("lenient_grader", {"training.reward_function": "benchmarks/sabotage.py:lenient_grader"}),
        (
            "length_bonus",
            {
                "training.reward_function": "benchmarks/sabotage.py:length_bonus",
                "sampling.max_completion_tokens": 48,
            },
        ),
        ("learning_rate", {"optimizer.learning_rate": pytest.approx(30 * Config().optimizer.learning_rate)}),
        (
            "group_of_two",
            {
                "training.group_size": 2,
                "reward.alpha": 0.0,
                "reward.beta": 1.0,
                "optimizer.learning_rate": 5e-4,
            },
        ),
    ],
)
def test_an_experiment_changes_its_sabotage_and_nothing_else(name, sabotage, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = overrides.load([f"experiment=sabotage_{name}"])
    recipes.validate(config)
    found = changed(config)
    assert 150 <= found.pop("training.steps") <= 300
    assert found == sabotage


@pytest.mark.parametrize("case", SABOTAGED, ids=lambda case: case.name)
def test_an_experiment_says_what_it_is_expected_to_show(case):
    path = ROOT / "conf" / "experiment" / f"{case.overrides[0].removeprefix('experiment=')}.yaml"
    header = path.read_text().splitlines()[1:5]
    assert [line.split(":")[0] for line in header] == ["# What", "# Cost", "# Command", "# Expected result"]
    assert header[2].endswith(f"python run_training.py {case.overrides[0]}")
    assert f"{case.rule} before half" in header[3]


# --- The recorded runs ------------------------------------------------------------------------------------------------


def test_all_runs_and_the_control_are_recorded():
    assert list(RUNS) == [case.name for case in benchmark.CASES]


def test_the_default_run_is_judged_healthy_all_the_way():
    run = RUNS["default"]
    assert run["steps"] == 500
    assert [alert for alert in run["alerts"] if alert["level"] != "info"] == []
    assert run["first_alert"] is None
    assert [finding for finding in run["findings"] if finding["level"] != "info"] == []
    assert run["sampled_accuracy"]["end"] > run["sampled_accuracy"]["start"] + 0.5


@pytest.mark.parametrize("case", SABOTAGED, ids=lambda case: case.name)
def test_a_sabotaged_run_is_flagged_with_the_right_rule_before_half(case):
    run = RUNS[case.name]
    assert run["first_alert"]["rule"] == case.rule == run["expected"]
    assert run["first_alert"]["level"] in ("warn", "error")
    assert 0 < run["first_alert"]["step"] < run["steps"] / 2


def test_the_run_on_gsm8k_learns_the_format_only():
    run = RUNS["gsm8k"]
    assert run["first_alert"]["rule"] == "format_only"
    assert [finding["rule"] for finding in run["findings"]] == ["format_only"]
    assert run["reward_end"] > run["reward_start"] + 0.15
    assert run["accuracy"]["end"] < 0.05


def test_a_reward_for_lists_rises_while_no_more_is_solved():
    run = RUNS["lenient_grader"]
    gained = run["sampled_accuracy"]["end"] - run["sampled_accuracy"]["start"]
    assert run["reward_end"] > run["reward_start"] + 0.45
    assert abs(gained) < 0.1
    assert run["reward_end"] > run["sampled_accuracy"]["best"] + 0.45


def test_a_bonus_for_length_multiplies_the_reward_while_nothing_is_solved_any_more():
    run = RUNS["length_bonus"]
    assert run["reward_end"] > 5 * run["reward_start"]
    assert run["accuracy"]["start"] > 0.9
    assert run["accuracy"]["end"] < 0.01
    assert run["sampled_accuracy"]["end"] < 0.01


def test_a_learning_rate_that_is_too_high_loses_what_was_known():
    run = RUNS["learning_rate"]
    assert run["accuracy"]["start"] > 0.9
    assert run["accuracy"]["end"] < 0.01
    assert run["reward_end"] < 0.1 * run["reward_start"]


def test_groups_of_two_learn_less_than_groups_of_eight_in_the_same_steps():
    two, eight = RUNS["group_of_two"], RUNS["group_of_eight"]
    assert eight["overrides"] == [*two["overrides"], "training.group_size=8"]
    assert two["steps"] == eight["steps"]
    assert two["sampled_accuracy"]["start"] == eight["sampled_accuracy"]["start"]
    assert two["sampled_accuracy"]["end"] < eight["sampled_accuracy"]["end"] - 0.2
    assert eight["first_alert"] is None


@pytest.mark.parametrize("run", RUNS.values(), ids=lambda run: run["name"])
def test_summaries_are_those_of_the_curves(run):
    assert len(run["reward"]) == run["steps"]
    assert run["reward_start"] == pytest.approx(np.mean(run["reward"][:5]), abs=1e-4)
    assert run["reward_end"] == pytest.approx(np.mean(run["reward"][-5:]), abs=1e-4)
    greedy = [row["greedy"] for row in run["evaluations"]]
    assert run["accuracy"] == pytest.approx({"start": greedy[0], "best": max(greedy), "end": greedy[-1]}, abs=1e-4)
    serious = [alert for alert in run["alerts"] if alert["level"] != "info"]
    assert run["first_alert"] == (serious[0] if serious else None)
    assert [alert["step"] for alert in run["alerts"]] == sorted(alert["step"] for alert in run["alerts"])
    assert all(alert["share"] == pytest.approx(alert["step"] / run["steps"], abs=1e-3) for alert in run["alerts"])


# --- The page ---------------------------------------------------------------------------------------------------------


def test_the_table_of_the_page_is_the_record():
    assert benchmark.table(RECORD["runs"]) in benchmark.PAGE.read_text()


def test_a_table_is_written_between_the_marks_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    begin, end = benchmark.TABLE
    page.write_text(f"above\n{begin}\nold\n{end}\nbelow\n")
    benchmark.write_table(page, "new \\1")
    assert page.read_text() == f"above\n{begin}\n\nnew \\1\n\n{end}\nbelow\n"


def test_reports_are_there_small_and_self_contained():
    pages = [benchmark.REPORTS / f"{name}.html" for name in RUNS]
    assert sum(page.stat().st_size for page in pages) < 5_000_000
    for page in pages:
        text = page.read_text()
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', text), page
        assert not re.search(r"(?<![\w.])/(?:work|root|tmp|home)/", text), page


# --- For real ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_lenient_grader_is_flagged_in_a_real_run(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "health_checked_runs.py")]
    command += ["--only", "lenient_grader", "--steps", "100", "--out", str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.fullmatch(r"lenient_grader: \w+ \((?:warn|error)\) after step \d+, \d+ s\n", said), said
    # It need not be the first alert: where sums are rounded otherwise, a passing rise of the entropy came before it.
    flagged = [row["step"] for row in runs.read_metrics(tmp_path / "lenient_grader") if row.get("health/answer_spam")]
    assert min(flagged) < 50
