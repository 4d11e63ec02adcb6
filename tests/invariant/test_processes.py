"""Real processes on one machine train as one does, agree on errors and stops, and go on where one was killed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent_tunix import models, policies, runs

ROOT = Path(__file__).parents[2]
SMALL = [
    "model.layers=1", "model.width=16", "model.mlp=32", "model.head_dim=8", "data.train_size=200",
    "data.heldout_size=16", "warm_start.steps=10", "training.prompts_per_batch=8", "training.group_size=4",
    "training.minibatches=2", "evaluation.rows=16", "evaluation.prompts_per_batch=16", "evaluation.every_steps=0",
    "checkpoint.every_steps=2", "training=grpo_kl", "diagnostics.report_every_steps=0", "training.steps=6",
    "optimizer.learning_rate=1e-5",
]  # fmt: skip
EXACT = ("completion/length", "reward/mean", "group/flat_fraction")
CLOSE = ("policy/loss", "policy/gradient_norm", "policy/kl", "policy/entropy")
REWARDS = """
import os

def letters(response):
    return len(set(response)) / 10

def broken(response):
    if os.environ["AGENT_TUNIX_PROCESS"] == "1":
        raise OSError("the grader of this host is down")
    return 1.0
"""
BOUND_S = 60
"""Seconds within which the others end; processes count as dead after ten."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder / "rewards.py").write_text(REWARDS)
    return folder


def started(place, run_dir, processes, *words, devices=1, reward="letters"):
    """One process, or several that find each other by the environment."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "AGENT_TUNIX_CACHE": str(place / "cache"), "AGENT_TUNIX_HEARTBEAT_S": "10",
        "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }  # fmt: skip
    function = f"training.reward_function={place / 'rewards.py'}:{reward}"
    command = [sys.executable, str(ROOT / "run_training.py"), *SMALL, function, f"run_dir={run_dir}", *words]
    found = []
    for process in range(processes):
        own = {
            "AGENT_TUNIX_COORDINATOR": f"localhost:{port}", "AGENT_TUNIX_PROCESSES": str(processes),
            "AGENT_TUNIX_PROCESS": str(process),
        }  # fmt: skip
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        found.append(subprocess.Popen(command, env=environment | (own if processes > 1 else {}), **pipes))
    return found


def ended(processes, timeout=300):
    """Exit codes and what was said on standard error; nothing is left running."""
    try:
        said = [process.communicate(timeout=timeout)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def finished(place, run_dir, processes, *words, **settings):
    codes, said = ended(started(place, run_dir, processes, *words, **settings))
    assert set(codes) == {0}, said
    return run_dir


@pytest.fixture(scope="module")
def one(place):
    return finished(place, place / "one", 1)


@pytest.fixture(scope="module")
def two(place):
    return finished(place, place / "two", 2, "mesh=data2")


def train_rows(run_dir):
    return runs.read_metrics(run_dir, "train")


def sha256(run_dir):
    return json.loads((run_dir / "summary.json").read_text())["params_sha256"]


def same_curve(several, one):
    for row, single in zip(train_rows(several), train_rows(one), strict=True):
        for name in EXACT:
            assert row[name] == single[name], name
        for name in CLOSE:
            assert row[name] == pytest.approx(single[name], abs=1e-5), name
    keys = ("prompt", "completion", "reward")
    mine, theirs = ([[sample[key] for key in keys] for sample in runs.read_samples(run)] for run in (several, one))
    assert mine == theirs


@pytest.mark.slow
def test_two_processes_train_as_one_does(two, one):
    assert min(row["policy/gradient_norm"] for row in train_rows(one)) > 1e-3
    same_curve(two, one)


@pytest.mark.slow
def test_four_processes_hold_a_share_each_and_train_as_one_does(place, one):
    same_curve(finished(place, place / "four", 4, "mesh=data2xfsdp2"), one)


@pytest.mark.slow
def test_what_two_hosts_with_two_devices_saved_is_read_by_one_and_goes_on_there(place, one):
    run = finished(place, place / "cut", 2, "mesh=fsdp2xtp2", devices=2)
    same_curve(run, one)
    _, parameters = policies.load(run)  # on the single device of this process
    assert models.params_sha256(parameters.trainable) == sha256(run)
    codes, (said,) = ended(started(place, run, 1, "mesh=data1", "training.steps=8", "resume=force"))
    assert codes == [0], said
    assert "mesh was fsdp2xtp2 and is data1: from here on the last bits may be others" in said
    assert [row["step"] for row in train_rows(run)] == list(range(1, 9))


@pytest.mark.slow
def test_where_one_process_is_killed_the_others_end_and_all_go_on_to_the_same_bits(place, two):
    folder = place / "killed"
    processes = started(place, folder, 2, "mesh=data2")
    until = time.monotonic() + 200
    while not list(folder.glob("checkpoints/[2-9]*")) and time.monotonic() < until:
        assert processes[1].poll() is None
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    codes, said = ended(processes, timeout=BOUND_S)
    assert time.monotonic() - killed < BOUND_S
    assert codes[0] != 0
    assert "another process has ended" in said[0] or "another task died" in said[0], said[0]
    finished(place, folder, 2, "mesh=data2")
    assert (folder / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    assert sha256(folder) == sha256(two)


@pytest.mark.slow
def test_a_grader_that_fails_on_one_host_ends_all_with_their_state_saved(place):
    folder = place / "broken"
    settings = ("mesh=data2", "reward.on_failure=raise")
    codes, said = ended(started(place, folder, 2, *settings, reward="broken"), timeout=BOUND_S * 2)
    assert codes == [1, 1], said
    assert all("the grader of this host is down" in text for text in said)
    assert "process 1 failed" in said[0]
    assert list(folder.glob("checkpoints/0"))


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all(place):
    folder = place / "stopped"
    processes = started(place, folder, 2, "mesh=data2", "training.steps=2000")
    until = time.monotonic() + 200
    while not list(folder.glob("checkpoints/[2-9]*")) and time.monotonic() < until:
        assert processes[1].poll() is None
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    codes, said = ended(processes, timeout=BOUND_S)
    assert codes == [0, 0], said
    assert "stopped after step" in said[0]
    assert runs.read_summary(folder) is None
