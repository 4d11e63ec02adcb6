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
# # Compare methods
#
# Four methods on one task, each with the same rollouts per step, the same number of updates and the same start, over
# several seeds. The loop never asks for a method's name: a method is a choice of advantage and loss.

# %%
import importlib.util
import subprocess
import sys

SOURCE = ".."  # the folder of the repository, for an environment that lacks the package, such as a fresh Colab
if importlib.util.find_spec("agent_tunix") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", f"{SOURCE}[plots]"], check=True)

# %%
SCALE = 1  # 5: five times the steps and seeds, which is what it takes to tell these methods apart

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
# ## The methods

# %%
import contextlib
import dataclasses
import io

import agent_tunix
from agent_tunix.config import (
    AdvantageConfig,
    Config,
    DataConfig,
    DiagnosticsConfig,
    EvaluationConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    SamplingConfig,
    TrainingConfig,
    WarmStartConfig,
)

METHODS = {
    "GRPO": (AdvantageConfig("group_normalized"), LossConfig(aggregation="sequence_mean_token_mean")),
    "Dr.GRPO": (AdvantageConfig("centered"), LossConfig(aggregation="constant")),
    "RLOO": (AdvantageConfig("leave_one_out"), LossConfig(aggregation="sequence_mean_token_sum")),
    "GSPO": (
        AdvantageConfig("group_normalized"),
        LossConfig(ratio="sequence", epsilon=3e-4, epsilon_high=4e-4, aggregation="sequence_mean_token_mean"),
    ),
}
SEEDS = range(3 * SCALE)
BASE = Config(
    model=ModelConfig(layers=1, width=32, head_dim=16, mlp=128),
    data=DataConfig(task="file", path="digits", heldout_size=256),
    sampling=SamplingConfig(max_completion_tokens=8),
    warm_start=WarmStartConfig(steps=60, rows_per_batch=32, warmup_steps=5, learning_rate=8e-3),
    training=TrainingConfig(steps=30 * SCALE, prompts_per_batch=16, group_size=8, minibatches=2),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=4),
    evaluation=EvaluationConfig(every_steps=10 * SCALE, rows=256),
    diagnostics=DiagnosticsConfig(report_every_steps=0),
)

# %% [markdown]
# Two updates per batch of rollouts: with one, the ratio of the policies is 1, nothing is clipped, and GSPO's ratio
# would be the same as GRPO's.


# %%
def train(method, seed):
    """A run of a method; its progress is kept quiet."""
    advantage, loss = METHODS[method]
    with contextlib.redirect_stderr(io.StringIO()):
        return agent_tunix.train(dataclasses.replace(BASE, advantage=advantage, loss=loss, seed=seed))


runs = {method: [train(method, seed) for seed in SEEDS] for method in METHODS}

# %% [markdown]
# ## Equal compute
#
# Prompts, completions and updates are equal by construction. Tokens are not: a method that makes completions longer
# pays for them. They are counted here so that nobody has to take it on trust.

# %%
for method, found in runs.items():
    tokens = [run.summary["tokens"] for run in found]
    print(f"{method:<8} {found[0].summary['step']} updates, tokens sampled {min(tokens):,} to {max(tokens):,}")

# %% [markdown]
# ## Curves and their spread
#
# Thin lines are seeds, thick ones their means. The grey band is what the size of the evaluation alone makes
# uncertain: two standard errors of 256 questions around the mean of all runs.

# %%
import matplotlib.pyplot as plt

plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
curves = {
    method: np.array([[row["eval/sampled_accuracy"] for row in run.metrics("eval")] for run in found])
    for method, found in runs.items()
}
steps = [row["step"] for row in runs["GRPO"][0].metrics("eval")]
overall = np.concatenate(list(curves.values())).mean(0)
error = 2 * np.sqrt(overall * (1 - overall) / BASE.evaluation.rows)

figure, axes = plt.subplots(1, len(METHODS), figsize=(9.6, 2.7), sharey=True, layout="constrained")
for place, (axis, (method, curve)) in enumerate(zip(axes, curves.items())):
    axis.fill_between(steps, overall - error, overall + error, color="0.9", linewidth=0)
    axis.plot(steps, curve.T, color=f"C{place}", linewidth=0.8, alpha=0.6)
    axis.plot(steps, curve.mean(0), color=f"C{place}", linewidth=2.4)
    axis.set(title=method, xlabel="step")
axes[0].set(ylabel="held-out accuracy, sampled", ylim=(0, 1))
plt.show()

# %% [markdown]
# ## What can be said
#
# Each method starts from the same policy for the same seed, so differences are taken seed by seed. With $n$ seeds
# their mean has a standard error of $s / \sqrt{n}$, and a 95 % interval of Student's t times that.

# %%
from scipy import stats

gain = {method: curve[:, -1] for method, curve in curves.items()}
print(f"{'method':<10}{'end, mean':>10}{'lowest':>9}{'highest':>9}{'less GRPO':>12}   95 % interval")
for method, end in gain.items():
    difference = end - gain["GRPO"]
    line = f"{method:<10}{end.mean():>10.3f}{end.min():>9.3f}{end.max():>9.3f}"
    if method != "GRPO":
        half = stats.t.ppf(0.975, len(end) - 1) * difference.std(ddof=1) / np.sqrt(len(end))
        line += f"{difference.mean():>+12.3f}   {difference.mean() - half:+.3f} to {difference.mean() + half:+.3f}"
    print(line)

# %% [markdown]
# An interval that holds 0 means that these runs do not tell the two methods apart; one that does not is one of three
# looked at, on one task, with one learning rate that was chosen for none of them. That is the most that so few and so
# short runs can say: what a comparison needs is the same table with ten seeds, a learning rate tuned for each method
# with equal care, and a task on which the methods are meant to differ (long completions for Dr.GRPO, off-policy
# updates for GSPO). The [ablation](../docs/ablation.md) of the documentation has more steps and more seeds.
