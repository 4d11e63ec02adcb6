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
# # A reward in five lines
#
# A grader is a plain function from text to a number. This notebook writes one, lifts it to a reward, tells zero from
# no value, and lets preflight find what is wrong with it before any training. Nothing here trains: it takes seconds.

# %%
import importlib.util
import subprocess
import sys

SOURCE = ".."  # the folder of the repository, for an environment that lacks the package, such as a fresh Colab
if importlib.util.find_spec("agent_tunix") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", f"{SOURCE}[plots]"], check=True)

# %%
SCALE = 1  # more rows for preflight; 4 is plenty

# %% [markdown]
# ## Five lines
#
# The task is to sort digits. Rows have a prompt, an answer and a demonstration.

# %%
from agent_tunix import rewards, tasks, text

rows = tasks.generate("sorting", level=1, size=16 * SCALE, split="train", seed=0)
rows[0]


# %%
def overlap(response, answer):
    """The share of digits that stand in their place."""
    stated, wanted = (text.stated_answer(response) or "").split(), answer.split()
    return sum(a == b for a, b in zip(stated, wanted)) / len(wanted)


overlap("<answer>1 2 3 5 4</answer>", "1 2 3 4 5")

# %% [markdown]
# ## Lift it
#
# `per_completion` makes a reward of it: a function of all completions of a batch. Naming the column hands each row's
# answer over; the bounds are a promise that is checked, and what diagnostics measure by.

# %%
from agent_tunix.batching import text_rollouts

reward = rewards.per_completion(overlap, "answer", name="overlap", bounds=(0, 1))
group = ["<answer>1 2 3 4 5</answer>", "<answer>1 2 3 5 4</answer>", "<answer>5 4 3 2 1</answer>", "I cannot say."]
rollouts = text_rollouts(["3 1 2 5 4="], [group], {"answer": ["1 2 3 4 5"]})

score = reward(rollouts)
print("values", score.value, "\nvalid ", score.valid)

# %% [markdown]
# A value outside of its bounds stops the run with a sentence that names the place:

# %%
generous = rewards.per_completion(lambda response, answer: 2 * overlap(response, answer), "answer", bounds=(0, 1))
try:
    generous(rollouts)
except ValueError as error:
    print(error)

# %% [markdown]
# ## Zero is not the same as no value
#
# A completion that states nothing may be bad, or may be none of this grader's business. `None` says the latter: the
# completion gets no advantage and enters no statistic of its group. Compare what becomes of the others.

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from agent_tunix import advantages


def cautious(response, answer):
    """As `overlap`, and no value where nothing is stated."""
    return overlap(response, answer) if text.stated_answer(response) else None


scores = {
    "0 where nothing is stated": score,
    "no value there": rewards.per_completion(cautious, "answer", name="overlap", bounds=(0, 1))(rollouts),
}

plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
for place, (words, found) in enumerate(scores.items()):
    credit = np.array(advantages.group_normalized(jnp.array(found.value[0], float), jnp.array(found.valid[0])))
    bars = axis.bar(np.arange(4) + 0.38 * place - 0.19, credit, 0.36, label=words)
    for bar, valid in zip(bars, found.valid[0]):
        if not valid:
            axis.text(bar.get_x() + 0.18, 0.05, "none", ha="center", color="C1")
axis.axhline(0, color="black", linewidth=0.8)
axis.set_xticks(range(4), ["all five", "three of five", "one of five", "states nothing"])
axis.set(ylabel="advantage", title="The same group, with and without a value for the fourth")
axis.legend(frameon=False, loc="upper right")
plt.show()

# %% [markdown]
# With a zero, "I cannot say" is the worst of four, and three digits in place are better than the average. Without a
# value three completions are left to compare: the middle one is the average, and one digit in place is the worst.
#
# ## Preflight
#
# Before it trains anything, a reward can be tried on right answers, wrong ones and texts that deserve no more than a
# wrong one. Here is a grader of the kind that looks fine:


# %%
def contains(response, answer):
    """Pays for any text that holds the answer."""
    return float(answer in response)


# %%
from agent_tunix import preflight

careless = preflight.preflight(rewards.per_completion(contains, "answer", bounds=(0, 1)), rows)
print(preflight.table(careless))

# %% [markdown]
# Texts that name the answer and state something else are paid in full. A policy finds such a hole in some dozens of
# steps. Our own grader reads only the answer that is stated. Is it safe?

# %%
checked = preflight.preflight(reward, rows)
for finding in checked.findings:
    print(f"{finding.level}: {finding.message}")
print("ready to train" if checked.ok else "not yet")

# %% [markdown]
# It is not: `zip` ends with the shorter list, so that a right answer followed by anything is right. A policy would
# learn to go on and on. The share of the longer list closes the hole.


# %%
def in_place(response, answer):
    """The share of digits that stand in their place; each further one counts against it."""
    stated, wanted = (text.stated_answer(response) or "").split(), answer.split()
    return sum(a == b for a, b in zip(stated, wanted)) / max(len(stated), len(wanted))


mended = preflight.preflight(rewards.per_completion(in_place, "answer", bounds=(0, 1)), rows)
for finding in mended.findings:
    print(f"{finding.level}: {finding.message}")
print("ready to train" if mended.ok else "not yet")

# %%
tried = {"contains": careless, "overlap": checked, "in_place": mended}
names = [name for name in careless.probes if max(found.probes[name] for found in tried.values()) > 0.01]
figure, axis = plt.subplots(figsize=(7, 0.4 * len(names) + 1.1), layout="constrained")
for place, (words, found) in enumerate(tried.items()):
    paid = [found.probes[name] for name in names]
    axis.barh(np.arange(len(names)) + 0.27 * (place - 1), paid, 0.26, label=words, color=("C1", "0.6", "C0")[place])
axis.axvline(1, color="black", linewidth=0.8, linestyle=":")
axis.set_yticks(range(len(names)), names)
axis.invert_yaxis()
axis.set(xlabel="reward (dotted: a right answer)", title="What texts that deserve nothing are paid")
axis.legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# What is left for `in_place` is no hole but its nature: a wrong order has some digits in place, and partial credit
# pays for them. Whether that is wanted is for you to say; preflight only makes sure that you were asked.
#
# Saved in a file, the reward trains by its name:
# `python run_training.py training.reward_function=my_rewards.py:reward`. Next: [combine and
# shape](compose_and_shape.ipynb).
