# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Read a report
#
# A reward with a mistake that people make: the right answer, plus a bonus for length that has no bound. The policy
# trains on it, the rules say what goes wrong, the trade-off says why, and a second run shows the cure.

# %%
import importlib.util
import subprocess
import sys

SOURCE = ".."  # the folder of the repository, for an environment that lacks the package, such as a fresh Colab
if importlib.util.find_spec("agent_tunix") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", f"{SOURCE}[plots]"], check=True)

# %%
SCALE = 1  # 5: five times the steps

# %% [markdown]
# ## The task
#
# Three digits, of which the largest is wanted: rows of our own, in two files, one object per line. The policy has a
# single layer of width 32.

# %%
import json
from pathlib import Path

import numpy as np

random = np.random.default_rng(0)
rows = []
for digits in random.permutation([(a, b, c) for a in range(10) for b in range(10) for c in range(10)]):
    answer = str(digits.max())
    prompt = " ".join(map(str, digits)) + "="
    rows.append({"prompt": prompt, "answer": answer, "demonstration": f"<answer>{answer}</answer>"})
Path("digits").mkdir(exist_ok=True)
for name, part in (("train", rows[:-256]), ("test", rows[-256:])):
    Path("digits", f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
print(rows[0])

# %% [markdown]
# ## Two rewards
#
# The first is the sum of the right answer and the bonus. The second comes in at the end.

# %%
import contextlib
import io

import agent_tunix
from agent_tunix.config import (
    Config,
    DataConfig,
    DiagnosticsConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    SamplingConfig,
    TrainingConfig,
    WarmStartConfig,
)

REWARDS = '''
from agent_tunix import rewards


def length(response):
    """A bonus for long responses, so that the policy may think: without a bound."""
    return len(response) / 20


correct = rewards.per_completion(rewards.exact_answer, "answer", name="correctness", bounds=(0, 1))
bonus = rewards.as_reward(length, name="length")

sick = rewards.weighted_sum((1.0, correct), (1.0, bonus))
cured = rewards.product(correct, rewards.clip(bonus, 0, 1), name="both")
'''
Path("two_rewards.py").write_text(REWARDS)


def train(name):
    """A run with one of the two rewards; its progress is kept quiet."""
    config = Config(
        model=ModelConfig(layers=1, width=32, head_dim=16, mlp=128),
        data=DataConfig(task="file", path="digits", heldout_size=256),
        warm_start=WarmStartConfig(steps=60, rows_per_batch=32, warmup_steps=5, learning_rate=8e-3),
        training=TrainingConfig(
            steps=60 * SCALE, prompts_per_batch=16, group_size=8, reward_function=f"two_rewards.py:{name}"
        ),
        sampling=SamplingConfig(max_completion_tokens=12),
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup_steps=5),
        evaluation=EvaluationConfig(every_steps=10 * SCALE, rows=256),
        diagnostics=DiagnosticsConfig(report_every_steps=0),
    )
    with contextlib.redirect_stderr(io.StringIO()):
        return agent_tunix.train(config)


sick = train("sick")

# %% [markdown]
# ## The verdict
#
# Read a report from the top: what is wrong, how sure that is, what to do. The same words stand in the terminal, in
# `report.html` and here.

# %%
from agent_tunix.diagnostics import reading
from agent_tunix.diagnostics.logs import diagnose_log

log = reading.read(sick.path)
findings = diagnose_log(log)
print(reading.report_text(log, findings))

# %% [markdown]
# ## The curves
#
# The reward alone looks like a run that learns. Its parts tell which of them rises.

# %%
from IPython.display import Image, display

from agent_tunix.reports import figures


def show(runs, *names):
    """Figures of the report, as pictures."""
    for file in figures.write_figures([run.path for run in runs], runs[0].path / "figures"):
        if file.stem in names or not names:
            display(Image(file, width=780))


show([sick], "reward", "components")

# %% [markdown]
# ## What it writes now

# %%
for sample in agent_tunix.sample_run(sick.path, prompts=5):
    print(f"{'right' if sample['correct'] else 'wrong'}   {sample['prompt']:<10} {sample['completion']}")

# %% [markdown]
# ## The trade-off
#
# Why did the answers suffer? Two parts may exclude each other within groups: what is long is then wrong, and above a
# certain ratio of weights pushing the first lowers the second. Every row of the metrics has the correlation, the
# limit and a forecast.

# %%
import matplotlib.pyplot as plt

plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
steps_of_sick = sick.metrics("train")


def series(name):
    """Steps and values of a metric where it was logged."""
    pairs = [(row["step"], row[name]) for row in steps_of_sick if row.get(name) is not None]
    return np.array(pairs, float).reshape(-1, 2).T


figure, axes = plt.subplots(1, 3, figsize=(9.6, 2.9), layout="constrained")
for name, colour in (("length", "C1"), ("correctness", "C0")):
    axes[0].plot(*series(f"reward/part/{name}"), color=colour, label=name)
    axes[1].plot(*series(f"reward/part/{name}/advantage_share"), color=colour, label=name)
axes[0].set(title="Mean of each part")
axes[0].legend(frameon=False)
axes[1].set(title="Share of the advantage")
axes[2].plot(*series("tradeoff/correctness__length/correlation"), color="C2")
axes[2].axhline(0, color="black", linewidth=0.8)
axes[2].set(title="Correlation within groups", ylim=(-1, 1))
for axis in axes:
    axis.set_xlabel("step")
plt.show()

# %%
steps, forecast = series("tradeoff/length__correctness/forecast")
falling = steps[forecast < 0]
print(f"correctness was forecast to fall at {len(falling)} of {len(steps)} steps where the forecast could be made")
met = sum(row["reward/part/correctness"] for row in steps_of_sick[-10:]) / 10
print(f"correctness in the last ten batches: {met:.3f}")

# %% [markdown]
# A forecast that hardly ever falls, beside answers that did, is a result too: completions of one group do not trade
# the answer for length here. The answers got lost on the way, because updates that make completions longer change
# what stands in them. `agent-tunix tradeoff runs/NAME` looks closer, at the gradients of the parts at a checkpoint.
#
# ## What to do
#
# The remedy of the finding names the choices: a bound, a smaller weight, or one goal of both. Here the bonus is
# bounded and multiplied, so that only right answers earn it. Before training on it, what would it have made of the
# rollouts of the sick run?

# %%
import importlib.util

from agent_tunix import rescoring, runs

spec = importlib.util.spec_from_file_location("two_rewards", "two_rewards.py")
two_rewards = importlib.util.module_from_spec(spec)
spec.loader.exec_module(two_rewards)
print(rescoring.table(rescoring.rescore(runs.read_samples(sick.path), two_rewards.cured)))

# %%
cured = train("cured")
figure, axis = plt.subplots(figsize=(5.4, 2.9), layout="constrained")
for run, words, colour in ((sick, "sum, without a bound", "C1"), (cured, "product, bounded", "C0")):
    evaluations = run.metrics("eval")
    share = np.array([row["eval/sampled_accuracy"] for row in evaluations])
    error = 2 * np.sqrt(share * (1 - share) / 256)
    axis.errorbar([row["step"] for row in evaluations], share, error, marker="o", capsize=3, color=colour, label=words)
axis.set(title="Held-out accuracy, sampled", xlabel="step", ylim=(-0.03, 1.03))
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# The report of both runs side by side is one command, `agent-tunix report runs/ONE runs/TWO`. Next: [compare
# methods](compare_methods.ipynb).
