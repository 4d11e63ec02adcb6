"""Rollouts one batch ahead: killed and resumed is never killed, with real processes and graders of uneven speed."""

import json
import random
import signal
import time

import pytest

from tests.invariant.test_resume import environment, finish, rows, same_run, start, wait_for_rows

__all__ = ["environment"]

GRADER = """
import random, time

def grade(response):
    time.sleep({seconds} * random.random())  # not the same from one start to the next
    return sum(map(str.isdigit, response)) / max(len(response), 1)
"""
STEPS = 96


def settings(folder, seconds):
    """24 batches, each graded in about 16 sleeps; checkpoints every second batch."""
    path = folder / "slow.py"
    path.write_text(GRADER.format(seconds=seconds))
    return [f"training.steps={STEPS}", "training.rollouts_ahead=1", f"training.reward_function={path}:grade"]


@pytest.mark.slow
def test_three_kills_at_random_moments_leave_no_trace(tmp_path, environment):
    from agent_tunix import runs

    words, whole, folder = settings(tmp_path, 0.004), tmp_path / "whole", tmp_path / "killed"
    finish(start(whole, environment, *words))
    moments, reached = random.Random(1), 0
    for _ in range(3):
        process = start(folder, environment, *words)
        reached = min(reached + moments.randint(8, 30), STEPS - 8)
        wait_for_rows(folder, reached, process)
        time.sleep(moments.random() * 0.1)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finish(start(folder, environment, *words))
    assert same_run(folder, whole)
    assert list(runs.read_samples(folder)) == list(runs.read_samples(whole))


@pytest.mark.slow
def test_a_second_interrupt_does_not_wait_for_a_grader_that_hangs_in_the_background(tmp_path, environment):
    path = tmp_path / "hangs.py"
    path.write_text(
        "import pathlib, time\n"
        "CALLS = []\n\n"
        "def grade(response):\n"
        "    CALLS.append(1)\n"
        f"    if len(CALLS) > 3 * 32:\n        pathlib.Path({str(tmp_path / 'hangs')!r}).touch(); time.sleep(600)\n"
        "    return float(len(response))\n"
    )
    words = [f"training.steps={STEPS}", "training.rollouts_ahead=1", f"training.reward_function={path}:grade"]
    process = start(tmp_path / "run", environment, *words)
    wait_for_rows(tmp_path / "run", 4, process)
    until = time.monotonic() + 240
    while not (tmp_path / "hangs").exists() or rows(tmp_path / "run") < 1 + 3 * 4:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    # The fourth batch waits for its grader, and so does the first Ctrl-C; the second one interrupts.
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in logged if row["kind"] == "train"] == list(range(1, 13))
