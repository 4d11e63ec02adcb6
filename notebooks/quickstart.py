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
# # A first run
#
# A small policy learns to sort five digits: a warm start on demonstrations, then GRPO. Here everything is small, so
# that two cores of a CPU need about a minute; on a T4, a TPU or with more patience, set `SCALE` to 10.

# %%
import importlib.util
import subprocess
import sys

SOURCE = ".."  # the folder of the repository, for an environment that lacks the package, such as a fresh Colab
if importlib.util.find_spec("agent_tunix") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", f"{SOURCE}[plots]"], check=True)

# %%
SCALE = 1  # 10: ten times the steps, and a policy that gets somewhere

# %%
import jax

device = jax.devices()[0]
print(f"{len(jax.devices())} x {device.device_kind} ({device.platform}), JAX {jax.__version__}")

# %% [markdown]
# ## The run
#
# A `Config` says everything that a run depends on; what is not named here keeps its default. The last lines of the
# log name the run's folder.

# %%
import agent_tunix
from agent_tunix.config import Config, DataConfig, EvaluationConfig, TrainingConfig

config = Config(
    data=DataConfig(task="sorting", heldout_size=256),
    training=TrainingConfig(steps=40 * SCALE, prompts_per_batch=32, group_size=8),
    evaluation=EvaluationConfig(every_steps=10 * SCALE, rows=256),
)
run = agent_tunix.train(config)

# %% [markdown]
# ## The curve
#
# Every number of a run is in its folder, one row per step. The reward of the batches is what is optimised; accuracy
# on held-out prompts, graded strictly, is what is wanted. The bars are two standard errors of 256 questions.
#
# Forty steps are the very beginning of a curve. The first updates of a fresh optimizer cost more than they bring, and
# greedy completions, which the warm start made nearly perfect, pay for it first; then sampled ones get better.

# %%
import matplotlib.pyplot as plt
import numpy as np

plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True})
plt.rcParams.update({"grid.alpha": 0.25, "legend.frameon": False, "font.size": 9})


def column(rows, name):
    """The values of a metric."""
    return np.array([row[name] for row in rows], float)


steps, evaluations = run.metrics("train"), run.metrics("eval")
figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.1), layout="constrained")
left.plot(column(steps, "step"), column(steps, "reward/mean"), color="0.75", label="each batch")
width = max(1, len(steps) // 10)
smooth = np.convolve(column(steps, "reward/mean"), np.full(width, 1 / width), "valid")
left.plot(column(steps, "step")[width - 1 :], smooth, color="C0", label=f"mean of {width} batches")
left.set(title="Reward", xlabel="step")
left.legend()
for name, words, colour in (("accuracy", "greedy", "C1"), ("sampled_accuracy", "sampled", "C0")):
    share = column(evaluations, f"eval/{name}")
    error = 2 * np.sqrt(share * (1 - share) / config.evaluation.rows)
    right.errorbar(column(evaluations, "step"), share, error, marker="o", capsize=3, color=colour, label=words)
right.set(title="Held-out accuracy", xlabel="step", ylim=(0, 1))
right.legend()
plt.show()

# %% [markdown]
# ## What it writes
#
# One completion for each of some held-out prompts, sampled at the training temperature.

# %%
for sample in agent_tunix.sample_run(run.path, prompts=6):
    print(f"{'right' if sample['correct'] else 'wrong'}   {sample['prompt']:<12} {sample['completion']}")

# %%
print(agent_tunix.evaluate_run(run.path, samples=4).table())

# %% [markdown]
# ## What the rules say
#
# Health rules read the same numbers for stagnation, hacking, collapse and more. A run as short as this one gives them
# little to go by.

# %%
from agent_tunix.diagnostics import reading
from agent_tunix.diagnostics.logs import diagnose_log

log = reading.read(run.path)
print(reading.report_text(log, diagnose_log(log)))

# %% [markdown]
# ## The report
#
# The run wrote `report.html`, one file that opens in any browser. Its pictures can be had as files too:

# %%
from IPython.display import Image, display

from agent_tunix.reports import figures

print("report:", run.path / "report.html")
for file in figures.write_figures([run.path], run.path / "figures"):
    if file.stem in ("reward", "components"):
        display(Image(file, width=760))

# %% [markdown]
# Next: [a reward of your own](write_a_reward.ipynb).
