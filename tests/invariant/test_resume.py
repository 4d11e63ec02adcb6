"""A run that is killed and resumed is the run that was never killed, with real processes and real signals."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    "model.layers=1", "model.width=16", "model.mlp=32", "model.head_dim=8", "data.train_size=200",
    "data.heldout_size=32", "warm_start.steps=20", "training.prompts_per_batch=8", "training.group_size=4",
    "training.num_iterations=2", "training.minibatches=2", "evaluation.rows=32",
    "evaluation.prompts_per_batch=32", "evaluation.every_steps=40", "checkpoint.every_steps=8",
]  # fmt: skip
STEPS = 240  # 60 batches of 8 rows: more than two passes over the 200 training rows


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return {**os.environ, "AGENT_TUNIX_CACHE": str(tmp_path_factory.mktemp("cache")), "JAX_PLATFORMS": "cpu"}


def start(run_dir, environment, *overrides):
    command = [sys.executable, str(ROOT / "run_training.py"), *SMALL, f"run_dir={run_dir}", *overrides]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out + err


def rows(run_dir):
    path = Path(run_dir, "metrics.jsonl")
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_rows(run_dir, count, process, timeout_s=240):
    until = time.monotonic() + timeout_s
    while rows(run_dir) < count and process.poll() is None:
        assert time.monotonic() < until, f"{rows(run_dir)} rows after {timeout_s} s"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    finish(start(folder, environment, f"training.steps={STEPS}"))
    return folder


def same_run(one, other):
    sha = [json.loads((folder / "summary.json").read_text())["params_sha256"] for folder in (one, other)]
    assert sha[0] == sha[1]
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    return True


@pytest.mark.slow
def test_five_kills_at_random_moments_leave_no_trace(whole, tmp_path, environment):
    from agent_tunix import runs

    folder, moments = tmp_path / "killed", random.Random(0)
    reached = 0
    for _ in range(5):
        process = start(folder, environment, f"training.steps={STEPS}")
        reached = min(reached + moments.randint(10, 45), STEPS - 10)
        wait_for_rows(folder, reached, process)
        time.sleep(moments.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()
        assert process.returncode == -signal.SIGKILL
    finish(start(folder, environment, f"training.steps={STEPS}"))
    assert same_run(folder, whole)
    assert list(runs.read_samples(folder)) == list(runs.read_samples(whole))


@pytest.mark.slow
def test_the_run_that_is_compared_with_was_watched(whole):
    logged = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    checked = [row["step"] for row in logged if "health/worst" in row]
    assert checked == list(range(6, STEPS + 1, 6))  # every fortieth
    assert (whole / "report.html").stat().st_size > 50_000
    assert json.loads((whole / "reward.json").read_text())["bounds"] == [0, 1]


@pytest.mark.slow
def test_a_run_that_is_ill_stops_where_it_was_told_to_and_goes_on_when_it_is_told_to(tmp_path, environment):
    folder = tmp_path / "ill"
    # A reward that nobody can earn.
    (tmp_path / "hopeless.py").write_text("def grade(response):\n    return 0.0\n")
    settings = [f"training.steps={STEPS}", f"training.reward_function={tmp_path / 'hopeless.py'}:grade"]
    said = finish(start(folder, environment, *settings, "training.stop_on=warn"))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["reason"] == "unhealthy"
    assert summary["step"] < STEPS
    assert summary["health"][0]["level"] in ("warn", "error")
    assert "by training.stop_on=warn" in said
    assert f"run_dir={folder} training.stop_on=never resume=force" in said
    finish(start(folder, environment, *settings, "training.stop_on=never", "resume=force"))
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["reason"], summary["step"]) == ("finished", STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_saves_exits_with_zero_and_prints_how_to_go_on(whole, tmp_path, environment, number):
    folder = tmp_path / "stopped"
    process = start(folder, environment, f"training.steps={STEPS}")
    wait_for_rows(folder, 30, process)
    process.send_signal(number)
    said = finish(process)
    command = next(line for line in said.splitlines() if "go on with:" in line).split("go on with: ")[1].split()
    assert not (folder / "summary.json").exists()
    resumed = subprocess.run(
        [sys.executable, *command[1:]], env=environment, capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert same_run(folder, whole)


@pytest.mark.slow
def test_a_changed_setting_is_refused_and_named_and_a_finished_run_left_alone(whole, environment):
    before = (whole / "metrics.jsonl").read_bytes()
    process = start(whole, environment, f"training.steps={STEPS}", "optimizer.learning_rate=0.5")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "optimizer.learning_rate: 0.001 -> 0.5" in err
    assert "resume=force" in err
    assert "nothing to do" in finish(start(whole, environment, f"training.steps={STEPS}"))
    assert (whole / "metrics.jsonl").read_bytes() == before
    assert (whole / "summary.json").exists()
