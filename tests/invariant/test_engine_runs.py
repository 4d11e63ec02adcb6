"""`engine=tunix` as whole runs: killed and resumed, and beside our engine."""

import json
import signal

import numpy as np
import pytest

from agent_tunix import runs
from tests.invariant.test_resume import environment, finish, same_run, start, wait_for_rows  # noqa: F401

STEPS = 64


@pytest.mark.slow
def test_a_run_on_tunix_that_is_killed_and_resumed_is_the_run_that_was_not(tmp_path, environment):  # noqa: F811
    settings = ("engine=tunix", f"training.steps={STEPS}")
    finish(start(tmp_path / "whole", environment, *settings))
    process = start(tmp_path / "killed", environment, *settings)
    wait_for_rows(tmp_path / "killed", 30, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "summary.json").exists()
    finish(start(tmp_path / "killed", environment, *settings))
    assert same_run(tmp_path / "killed", tmp_path / "whole")
    assert list(runs.read_samples(tmp_path / "killed")) == list(runs.read_samples(tmp_path / "whole"))


@pytest.mark.slow
def test_both_engines_learn_alike(tmp_path, environment):  # noqa: F811
    curves = {}
    for engine in ("jax", "tunix"):
        folder = tmp_path / engine
        # Sizes of the test for kills are overridden by those of the experiment's own model.
        model = ("model.layers=2", "model.width=64", "model.mlp=256", "model.head_dim=32", "data.train_size=20000")
        portions = ("training.prompts_per_batch=16", "training.group_size=8", "training.num_iterations=1")
        portions += ("training.minibatches=1", "warm_start.steps=60", "checkpoint.every_steps=50")
        chosen = ("experiment=tunix_engine", *model, *portions, f"engine={engine}")
        finish(start(folder, environment, *chosen))
        rewards = [row["reward/mean"] for row in runs.read_metrics(folder, "train")]
        assert json.loads((folder / "summary.json").read_text())["step"] == 50
        curves[engine] = np.reshape(rewards, (5, 10)).mean(1)
    for curve in curves.values():
        assert curve[-1] > curve[0] + 0.05
    np.testing.assert_allclose(curves["tunix"], curves["jax"], atol=0.04)
