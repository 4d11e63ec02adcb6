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
# # Compose and shape
#
# Combinators take rewards and return a reward; a shaping stands between the scores and the advantages and may
# remember. This notebook draws what each of them does to the same completions. Nothing here trains: it takes seconds.

# %%
import importlib.util
import subprocess
import sys

SOURCE = ".."  # the folder of the repository, for an environment that lacks the package, such as a fresh Colab
if importlib.util.find_spec("agent_tunix") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", f"{SOURCE}[plots]"], check=True)

# %%
SCALE = 1  # batches of the simulated course: 60 times this

# %%
import dataclasses

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from agent_tunix import advantages, rewards
from agent_tunix.batching import text_rollouts
from agent_tunix.types import Score

plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9})

# %% [markdown]
# ## Combine
#
# Two parts, the format and the answer, on four completions that differ in both.

# %%
layout = rewards.per_completion(rewards.tag_format, name="format", bounds=(0, 1))
correct = rewards.per_completion(rewards.exact_answer, "answer", name="correctness", bounds=(0, 1))

group = ["<answer>4</answer>", "It is <answer>4</answer>", "<answer>5</answer>", "5"]
words = ["right, in tags", "right, and chatty", "wrong, in tags", "wrong, bare"]
rollouts = text_rollouts(["2+2="], [group], {"answer": ["4"]})
combined = {
    "format": layout,
    "correctness": correct,
    "weighted_sum (0.3, 0.7)": rewards.weighted_sum((0.3, layout), (0.7, correct)),
    "product": rewards.product(layout, correct),
    "geometric_mean": rewards.geometric_mean(layout, correct),
    "minimum": rewards.minimum(layout, correct),
    "gate at format 1": rewards.gate(layout, correct, threshold=1.0),
    "hierarchy (0.3, 0.7)": rewards.hierarchy((0.3, layout, 1.0), (0.7, correct, 1.0)),
}


# %%
def table(values, rows, columns, title, limit=1.0, colours="Blues"):
    """A picture of a table, every cell with its number."""
    _, axis = plt.subplots(figsize=(7.2, 0.34 * len(rows) + 1.2), layout="constrained")
    axis.imshow(values, cmap=colours, vmin=0 if colours == "Blues" else -limit, vmax=limit, aspect="auto", alpha=0.85)
    for (row, column), value in np.ndenumerate(values):
        dark = abs(value) > 0.65 * limit
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(title, loc="left", fontweight="bold")
    plt.show()


values = np.array([np.asarray(reward(rollouts).value[0], float) for reward in combined.values()])
table(values, list(combined), words, "Rewards of four completions")

# %% [markdown]
# The sum pays 0.3 for a wrong answer in tags; product, minimum and gate do not. The gate is a cliff: the second
# completion is right and gets nothing. What a policy is pushed by is not the reward, though, but the advantage:

# %%
every = jnp.ones(4, bool)
credit = np.array([np.asarray(advantages.group_normalized(jnp.array(row), every)) for row in values])
table(credit, list(combined), words, "Advantages, normalised within the group", limit=1.6, colours="RdBu")

# %% [markdown]
# ## Scale
#
# One completion with a reward of 20 among others between 0 and 1: what each shaping makes of the group. A shaping is
# a pair of functions, `init() -> state` and `update(score, state, rollouts) -> (score, state)`.

# %%
raw = np.array([[0.0, 0.2, 0.4, 0.6, 0.8, 20.0]])
shapings = {
    "as it is": rewards.identity(),
    "clip to 1": rewards.clip(0, 1),
    "tanh": rewards.tanh(1.0),
    "standardize": rewards.standardize("group"),
    "rank": rewards.rank(),
}
figure, axes = plt.subplots(1, len(shapings), figsize=(9, 2.5), layout="constrained")
for axis, (name, shaping) in zip(axes, shapings.items()):
    score = Score(jnp.array(raw), jnp.ones(raw.shape, bool))
    shaped, _ = shaping.update(score, shaping.init(), None)
    credit = advantages.centered(jnp.asarray(shaped.value)[0], jnp.ones(6, bool))
    axis.bar(range(6), np.asarray(credit), color=["C0"] * 5 + ["C1"])
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_title(name)
    axis.set_xticks([])
axes[0].set_ylabel("centred advantage")
plt.show()

# %% [markdown]
# Unshaped, the outlier makes the other five indistinguishable. `standardize` only changes the
# unit. A bound or ranks keep the order and let no completion have it all.
#
# ## Remember
#
# Weights that change as training goes on have a state. Here a course is simulated in which the format is learned
# early and the answer late, and three shapings weigh the parts batch by batch. The state is all that a checkpoint has
# to keep.

# %%
import optax

BATCHES = 60 * SCALE
random = np.random.default_rng(0)
course = {
    "format": 1 / (1 + np.exp(-(np.arange(BATCHES) - BATCHES / 5) / (BATCHES / 20))),
    "correctness": 0.9 / (1 + np.exp(-(np.arange(BATCHES) - BATCHES / 1.7) / (BATCHES / 10))),
}


def batch(number):
    """Scores of 64 groups of eight, each part met as often as the course says."""
    parts = {name: (random.random((64, 8)) < rate[number]).astype(np.float32) for name, rate in course.items()}
    return Score(jnp.zeros((64, 8)), jnp.ones((64, 8), bool), {name: jnp.array(part) for name, part in parts.items()})


def weights(shaping, score, state):
    """What the parts weigh in this batch: how far the reward moves if one of them is raised by 1 everywhere."""
    plain = shaping.update(score, state, None)[0].value
    raised = [dataclasses.replace(score, parts={**score.parts, name: part + 1}) for name, part in score.parts.items()]
    return [float((shaping.update(other, state, None)[0].value - plain).mean()) for other in raised]


remembering = {
    "anneal": rewards.anneal(
        {"format": optax.linear_schedule(1.0, 0.1, BATCHES // 2), "correctness": lambda number: 1.0}
    ),
    "curriculum": rewards.curriculum(
        rewards.Stage({"format": 1.0}, until=("format", 0.9)), rewards.Stage({"format": 0.3, "correctness": 0.7})
    ),
    "ema_weights": rewards.ema_weights({"format": 1.0, "correctness": 1.0}, decay=0.9),
}
found = {name: [] for name in remembering}
states = {name: shaping.init() for name, shaping in remembering.items()}
for number in range(BATCHES):
    score = batch(number)
    for name, shaping in remembering.items():
        found[name].append(weights(shaping, score, states[name]))
        _, states[name] = shaping.update(score, states[name], None)

# %%
figure, axes = plt.subplots(1, 4, figsize=(10, 2.7), layout="constrained")
for name, rate in course.items():
    axes[0].plot(rate, label=name)
axes[0].set(title="The course", ylabel="share of completions", ylim=(0, 1.03))
for axis, (name, pairs) in zip(axes[1:], found.items()):
    axis.plot(np.array(pairs), label=list(course))
    axis.set(title=name, **({"yscale": "log"} if name == "ema_weights" else {"ylim": (0, 1.05)}))
axes[1].set_ylabel("weight in the reward")
axes[1].legend(frameon=False, loc="center right")
for axis in axes:
    axis.set_xlabel("batch")
plt.show()

# %% [markdown]
# `anneal` follows the clock, and `curriculum` waits until nine in ten completions keep the format. `ema_weights`
# divides each part by its spread within groups, which the last panel shows on a logarithmic scale: a part that is met
# almost never or almost always weighs the more. Its early weights are large because hardly any answer is right then.
#
# What was shaped is logged beside what was not: metrics of parts stay raw, and `reward/shaped_mean` is the mean of
# what the advantage saw. In a file, such a function trains by its name: `python run_training.py
# reward.shaping=my_shaping.py:stages`. Next: [read a report](read_a_report.ipynb).
