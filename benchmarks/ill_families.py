"""Runs with one illness each. A builder says in its docstring how strong the illness is at least."""

import math
from dataclasses import replace

import numpy as np
from health_courses import EASY, in_format, learning_course, stalling
from health_simulation import Array, Generator, World, autoregressive, course, logit, ordinary

# --- The reward does not move, or cannot be trusted -------------------------------------------------------------------


def stagnation(rng: Generator, steps: int, form: str) -> World:
    """Never learns: the expected reward stays between 0.1 and 0.55 and changes by less than 0.03 from start to end.

    Groups are not flat: there is a signal, the policy makes nothing of it.
    """
    time = np.linspace(0, 1, steps)
    level = rng.uniform(0.15, 0.42)
    change = {
        "constant": 0 * time,
        "wander": autoregressive(rng, steps, 0.008, 0.97),
        "oscillation": 0.015 * np.sin(2 * np.pi * rng.uniform(2, 8) * time),
        "two levels": 0.02 * (np.sin(2 * np.pi * rng.uniform(1, 3) * time) > 0),
        "little rise": 0.02 * (1 - np.exp(-5 * time)),
        "little fall": -0.02 * time,
    }
    world = ordinary(rng, steps, level + change[form])
    rate = rng.uniform(0.15, 0.55) if rng.random() < 0.6 else rng.uniform(0.9, 0.99)
    world.parts = {name: np.full(steps, rate) for name in world.parts}
    if rate > 0.6 and world.parts:
        world.weights = {world.task: 0.85, world.format: 0.15}
    world.solve = level + change[form] + autoregressive(rng, steps, 0.004, 0.9)
    world.spread, world.group = np.full(steps, rng.uniform(5, 12)), int(rng.choice([8, 16]))
    world.onset, world.depth = 0.0, np.ones(steps)
    return world


def exceeds_bound(rng: Generator, steps: int, form: str) -> World:
    """A fault in the grader pays without limit: the expected reward ends at least 0.15 of its span above its bound."""
    onset = rng.uniform(0.05, 0.6)
    world = stalling(rng, steps, onset)
    world.depth, world.onset = course(form, steps, onset, rng), onset
    world.bonus = world.depth * (rng.uniform(1.25, 3) - world.reward[-1])
    return world


def explosive_growth(rng: Generator, steps: int, form: str) -> World:
    """An unbounded reward that grows at least 20 times and faster in the second third than in the first.

    Neither the bounds nor a held-out score are known: with them it would be another rule's.
    """
    time = np.linspace(0, 1, steps)
    rate = rng.uniform(4, 6)
    shape = {
        "exponential": np.expm1(rate * time) / math.expm1(rate),
        "power law": time ** rng.uniform(2.2, 3.5),
        "logistic": 1 / (1 + np.exp(-(time - rng.uniform(0.5, 0.62)) / rng.uniform(0.08, 0.12))),
        "gompertz": np.exp(-np.exp(-(time - rng.uniform(0.45, 0.55)) / 0.14)),
        "regime switch": np.where(time < 0.35, 0.1 * time, 0.035 + 1.48 * (time - 0.35)),
        "doublings": 2.0 ** (np.floor(time * 7.99) - 7),
    }
    world = in_format(rng, ordinary(rng, steps, np.full(steps, rng.uniform(0.1, 0.35))))
    world.depth = (shape[form] - shape[form][0]) / (shape[form][-1] - shape[form][0])
    world.bonus = rng.uniform(20, 200) * float(world.reward[0]) * world.depth
    world.onset = 0.0
    return world


def proxy_gold_divergence(rng: Generator, steps: int, form: str) -> World:
    """The grader is tricked: from the onset on the reward gains at least 0.2, the held-out accuracy nothing.

    In half of the runs tricking costs ability, and the held-out accuracy falls, as under over-optimisation (Gao,
    Schulman and Hilton, 2022, arXiv 2210.10760).
    """
    onset = rng.uniform(0.05, 0.55)
    world = stalling(rng, steps, onset, (0.25, 0.4))
    world.weights = {world.task: 0.8} | dict.fromkeys(world.parts, 0.2) if world.parts else {world.task: 1.0}
    world.depth, world.onset = course(form, steps, onset, rng), onset
    world.exploit = np.clip(world.depth * rng.uniform(0.6, 0.9), 0, 0.97)
    world.harm = rng.uniform(0.3, 0.8) if rng.random() < 0.5 else 0.0
    return world


def length_drift(rng: Generator, steps: int, form: str) -> World:
    """From the onset on the length grows at least 2.2 times and the accuracy gains nothing, or it falls below 0.35 and
    takes a fifth of the accuracy with it: shorter answers that are as good are no illness.

    Where it grows, the policy has learnt before and stands still now, or a bounded component pays for the length; in
    some runs the budget begins to cut then.
    """
    onset = rng.uniform(0.1, 0.55)
    world = stalling(rng, steps, onset, (0.3, 0.6))
    world.depth, world.onset = course(form, steps, onset, rng), onset
    done = np.minimum(world.depth, 1)
    grows = rng.random() < 0.8
    factor = rng.uniform(2.2, 5) if grows else rng.uniform(0.12, 0.33)
    world.median_length = rng.uniform(20, 800) * factor**done
    if not grows:
        world.solve = world.solve * (1 - rng.uniform(0.25, 0.45) * done)
    elif rng.random() < 0.5:
        world.parts = world.parts | {"length_reward": 0.2 + 0.5 * done}
        world.weights = {name: 0.75 * weight for name, weight in world.weights.items()} | {"length_reward": 0.25}
    tight = grows and rng.random() < 0.3
    world.budget = float(world.median_length.max()) * (rng.uniform(1.5, 2) if tight else rng.uniform(3, 5))
    world.length_shape = rng.uniform(5, 8)
    return world


def format_only(rng: Generator, steps: int, form: str) -> World:
    """The format rises by at least 0.35 to above 0.8, the task stays at or below 0.27 and gains at most 0.02.

    In a fifth of the runs the task falls to a third, as reported for open-r1 (issue 255).
    """
    onset = rng.uniform(0, 0.3)
    falls = rng.random() < 0.2
    world = ordinary(rng, steps, np.full(steps, rng.uniform(0.06, 0.15) if falls else rng.uniform(0.01, 0.25)))
    world.depth, world.onset = course(form, steps, onset, rng), onset
    rise = np.minimum(world.depth, 1)
    world.solve = world.solve * (1 - 0.67 * rise) if falls else world.solve
    world.format = world.format or "format"
    world.parts = {world.format: rng.uniform(0.05, 0.5) * (1 - rise) + rng.uniform(0.9, 0.99) * rise}
    weight = rng.uniform(0.15, 0.5)
    world.weights = {world.task: 1 - weight, world.format: weight}
    world.budget = float(world.median_length.max()) * 4
    return world


def answer_spam(rng: Generator, steps: int, form: str) -> World:
    """At least 0.4 of the completions end up naming several answers, which a lenient grader pays; accuracy stays."""
    onset = rng.uniform(0.05, 0.6)
    world = stalling(rng, steps, onset)
    world.depth, world.onset = course(form, steps, onset, rng), onset
    reach = rng.uniform(0.4, 0.9)
    world.spam = np.clip(0.005 + reach * world.depth, 0, 0.98)
    world.exploit = np.clip(rng.uniform(0.6, 0.95) * reach * world.depth, 0, 0.95)
    world.harm = rng.uniform(0, 0.4)
    world.median_length = world.median_length * (1 + rng.uniform(0, 0.25) * np.minimum(world.depth, 1))
    return world


def collapse(rng: Generator, steps: int, form: str) -> World:
    """After a rise the expected reward loses at least half of its peak, and 0.25 of its span, and stays down."""
    onset = rng.uniform(0.35, 0.65)
    world = stalling(rng, steps, onset, (0.6, 0.85))
    world.depth, world.onset = course(form, steps, onset, rng, (1 - onset) * rng.uniform(0.2, 0.6)), onset
    world.broken = np.clip(rng.uniform(0.6, 0.97) * world.depth, 0, 0.99)
    return world


def flat_share(world: World) -> Array:
    """Expected share of groups whose task values are all equal, from the beta-binomial distribution."""
    alpha, beta = world.spread * world.solve, world.spread * (1 - world.solve)
    none, every = np.ones(world.steps), np.ones(world.steps)
    for k in range(world.group):
        none *= (beta + k) / (world.spread + k)
        every *= (alpha + k) / (world.spread + k)
    return none + every


def variance_collapse(rng: Generator, steps: int, form: str) -> World:
    """At least 0.72 of the groups become flat at a solve rate between 0.2 and 0.75, and learning stops.

    Prompts are either always solved or never; or groups of two cannot differ often with a reward of 0 or 1.
    """
    onset = 0.0 if form == "pairs" else rng.uniform(0.05, 0.55)
    world = stalling(rng, steps, max(onset, 0.05), (0.35, 0.7))
    world.graded, world.onset = False, onset
    if form == "pairs":
        world.solve = np.clip(rng.uniform(0.2, 0.3) + autoregressive(rng, steps, 0.006, 0.9), 0.18, 0.32)
        world.parts, world.weights, world.group = {}, {world.task: 1.0}, 2
        world.format, world.prompts = "", 64
        world.spread, world.depth = np.full(steps, rng.uniform(0.3, 0.8)), np.ones(steps)
        return world
    world.depth = course(form, steps, onset, rng)
    world.spread = world.spread * (rng.uniform(0.05, 0.12) / world.spread) ** np.minimum(world.depth, 1)
    world.parts = {name: np.full(steps, rng.uniform(0.985, 0.998)) for name in world.parts}
    world.budget = float(world.median_length.max()) * 5
    return world


def _saturated(rng: Generator, steps: int, form: str, level: float) -> World:
    room = min(level, 1 - level)
    time = np.linspace(0, 1, steps)
    change = {
        "constant": 0 * time,
        "wander": 0.3 * room * np.tanh(autoregressive(rng, steps, 1.0, 0.97)),
        "oscillation": 0.3 * room * np.sin(2 * np.pi * rng.uniform(1, 6) * time),
        "drift": 0.3 * room * (2 * time - 1),
    }
    world = ordinary(rng, steps, np.full(steps, 0.5))
    world.solve, world.graded = level + change[form], False
    world.parts = {name: np.clip(level + rng.uniform(-0.3, 0.3) * room + 0 * time, 0, 1) for name in world.parts}
    world.budget = float(world.median_length.max()) * 8
    world.length_shape, world.onset, world.depth = 7.0, 0.0, np.ones(steps)
    return world


def saturated_high(rng: Generator, steps: int, form: str) -> World:
    """The reward is above 0.98 of its span from start to end: there is nothing to learn."""
    return _saturated(rng, steps, form, rng.uniform(0.987, 0.997))


def saturated_low(rng: Generator, steps: int, form: str) -> World:
    """The reward is below 0.015 of its span from start to end: there is nothing to learn from."""
    return _saturated(rng, steps, form, rng.uniform(0.0003, 0.01))


def too_noisy(rng: Generator, steps: int, form: str) -> World:
    """The batch mean jumps from step to step with a deviation of at least 0.17 of the span, and hardly rises."""
    world = ordinary(rng, steps, np.full(steps, rng.uniform(0.4, 0.6)))
    world.parts = {name: np.full(steps, rng.uniform(0.4, 0.6)) for name in world.parts}
    world.onset, world.depth = 0.0, np.ones(steps)
    world.wobble = np.full(steps, rng.uniform(0.42, 0.55))
    if form == "heavy tails":
        world.heavy_tails, world.wobble = True, np.full(steps, rng.uniform(0.55, 0.7))
    elif form == "two kinds of prompts":
        swing = rng.choice([-1.0, 1.0], steps) * rng.uniform(0.28, 0.38)
        world.solve, world.wobble = np.clip(world.solve + swing, 0.03, 0.97), np.full(steps, 0.08)
        world.parts, world.weights, world.format = {}, {world.task: 1.0}, ""
    elif form == "tiny batches":
        world = replace(world, prompts=2, group=4, spread=np.full(steps, 0.8), graded=False, wobble=np.zeros(1))
        world.parts, world.weights, world.format = {}, {world.task: 1.0}, ""
    return world


def tradeoff(rng: Generator, steps: int, form: str) -> World:
    """One component gains at least 0.3 and another loses at least 0.25 after the onset; the sum rises."""
    onset = rng.uniform(0.05, 0.45)
    names = [("helpfulness", "brevity"), ("style", "safety"), ("coverage", "precision"), ("correctness", "conciseness")]
    winner, loser = names[int(rng.integers(len(names)))]
    world = ordinary(rng, steps, np.full(steps, 0.3))
    world.depth, world.onset = course("linear" if form == "dip" else form, steps, onset, rng), onset
    rise = np.minimum(world.depth, 1)
    fall = np.where(rise < 1, rise, 1.0)
    if form == "dip":
        fall = rise - 0.35 * np.clip((rise - 0.6) / 0.4, 0, 1)
    start = rng.uniform(0.6, 0.9)
    gain, loss = rng.uniform(0.4, 0.6), rng.uniform(0.4, start - 0.12)
    weight = rng.uniform(max(0.6, (loss + 0.05) / (gain + loss)), 0.85)
    world.parts = {winner: rng.uniform(0.15, 0.35) + gain * rise, loser: start - loss * fall}
    world.weights = {winner: weight, loser: 1 - weight}
    world.task = world.format = ""
    world.budget = float(world.median_length.max()) * 4
    return world


# --- The policy breaks ------------------------------------------------------------------------------------------------


def _later(world: World, lag: float) -> Array:
    """The depth of the illness, delayed by a share of the run."""
    shift = int(lag * world.steps)
    return np.concatenate([np.zeros(shift), np.minimum(world.depth, 1)[: world.steps - shift]])


def kl_blowup(rng: Generator, steps: int, form: str) -> World:
    """The divergence ends at least ten times as high as at the onset, above 0.6 nats a token; the reward may follow."""
    onset = rng.uniform(0.1, 0.6)
    world = stalling(rng, steps, onset, (0.4, 0.6))
    world.depth, world.onset = course(form, steps, onset, rng), onset
    world.kl = np.minimum(world.kl, 0.08)
    world.kl = world.kl + max(rng.uniform(0.6, 4), 10 * float(world.kl.max())) * world.depth
    world.broken = _later(world, 0.1) * (rng.uniform(0.1, 0.6) if rng.random() < 0.6 else 0)
    world.spikes = 1 + rng.uniform(0, 1) * world.depth
    return world


def entropy_collapse(rng: Generator, steps: int, form: str) -> World:
    """Entropy ends below 0.12 of its start, learning stops at the onset and groups become flat."""
    onset = rng.uniform(0.02, 0.4)
    world = stalling(rng, steps, onset, (0.35, 0.6))
    world.depth, world.onset = course(form, steps, onset, rng, (1 - onset) * rng.uniform(0.2, 0.6)), onset
    left = rng.uniform(0.01, 0.11)
    start = rng.uniform(0.4, 2.5)
    fallen = np.minimum(world.depth, 1)
    world.entropy = start * (left**fallen if rng.random() < 0.5 else 1 - (1 - left) * fallen)
    world.spread = world.spread * (rng.uniform(0.2, 1) / world.spread) ** _later(world, 0.05)
    return world


def entropy_explosion(rng: Generator, steps: int, form: str) -> World:
    """Entropy ends at least three times as high as at the onset and above 1.5 nats; gibberish follows."""
    onset = rng.uniform(0.1, 0.6)
    world = stalling(rng, steps, onset, (0.4, 0.7))
    world.depth, world.onset = course(form, steps, onset, rng), onset
    start = rng.uniform(0.3, 1.2)
    world.entropy = start + (max(start * rng.uniform(3, 7), 1.6) - start) * world.depth
    world.broken = _later(world, 0.08) * (rng.uniform(0.1, 0.6) if rng.random() < 0.7 else 0)
    return world


def grad_spike(rng: Generator, steps: int, form: str) -> World:
    """From the onset on at least eight steps, and a twentieth of them, have a gradient norm 12 times as large or more.

    The reward dips a little at each.
    """
    onset = rng.uniform(0.1, 0.5)
    first = int(onset * steps)
    left = steps - first
    count = max(8, math.ceil(left * rng.uniform(0.05, 0.1)))
    if form == "periodic":
        at = np.linspace(0, left - 1, count).astype(int)
    elif form == "clusters":
        length = int(rng.integers(3, 6))
        starts = rng.choice(left // length, math.ceil(count / length), replace=False) * length
        at = (starts[:, None] + np.arange(length)).ravel()
    elif form == "last stretch":
        at = left - 1 - rng.choice(min(left, 3 * count), count, replace=False)
    else:
        at = rng.choice(left, count, replace=False)
    world = ordinary(rng, steps, learning_course(rng, steps, "exponential"))
    size = rng.uniform(12, 40) * (1 + rng.pareto(2, at.size) if form == "pareto" else np.ones(at.size))
    if form == "growing":
        size = size * (1 + 4 * at / left)
    world.spikes = np.ones(steps)
    world.spikes[first + at] = size
    world.broken = np.where(world.spikes > 1, rng.uniform(0, 0.1), 0.0)
    world.onset, world.depth = onset, (np.arange(steps) >= first).astype(float)
    return world


def truncation(rng: Generator, steps: int, form: str) -> World:
    """The budget ends up cutting at least 0.4 of the completions; it cut at most 0.08, or was too small all along."""
    onset = 0.0 if form == "small budget" else rng.uniform(0.05, 0.6)
    world = ordinary(rng, steps, learning_course(rng, steps, "exponential"))
    world.length_shape = rng.uniform(8, 12)
    world.budget = rng.uniform(24, 4000)
    world.depth = np.ones(steps) if form == "small budget" else course(form, steps, onset, rng)
    world.onset = onset
    few, many = logit(np.array([rng.uniform(0.01, 0.08), rng.uniform(0.45, 0.8)]))
    world.median_length = world.budget * np.exp((few + (many - few) * np.minimum(world.depth, 1)) / world.length_shape)
    return world


def sampler_mismatch(rng: Generator, steps: int, form: str) -> World:
    """Trainer and sampler disagree: the mismatch ends at least 15 times as high as at the onset and above 0.08.

    In one form it is above 0.1 from the start.
    """
    onset = 0.0 if form == "from the start" else rng.uniform(0.05, 0.6)
    world = stalling(rng, steps, max(onset, 0.3), (0.4, 0.6))
    world.onset = onset
    world.depth = np.ones(steps) if form == "from the start" else course(form, steps, onset, rng)
    before = world.mismatch[0]
    world.mismatch = before + (rng.uniform(0.11, 0.5) - before) * world.depth
    world.broken = _later(world, 0.1) * (rng.uniform(0.05, 0.3) if rng.random() < 0.5 else 0)
    return world


def dead_component(rng: Generator, steps: int, form: str) -> World:
    """A component with a weight of at least 0.15 never says anything, while the others learn.

    It is always 0, always the same value in between, or fires for fewer than one completion in 3000.
    """
    world = ordinary(rng, steps, learning_course(rng, steps, str(rng.choice(EASY))))
    names = rng.permutation(["language", "citation", "tone", "brevity", "tool_use"])[: 2 if form == "two zeros" else 1]
    share = rng.uniform(0.15, 0.25)
    left = 1 - share * len(names)
    world.weights = {name: left * weight for name, weight in world.weights.items()} | dict.fromkeys(
        map(str, names), share
    )
    if form == "almost never":
        world.parts = world.parts | {str(name): np.full(steps, rng.uniform(1e-5, 3e-4)) for name in names}
        world.graded = False
    else:
        value = float(rng.choice([0.1, 0.25, 0.5])) if form == "neutral" else 0.0
        world.constants = {str(name): value for name in names}
    world.onset, world.depth = 0.0, np.ones(steps)
    return world


def failed_grader(rng: Generator, steps: int, form: str) -> World:
    """At least 0.25 of the grader's calls fail from the onset on, or all do in outages over a fifth of the time.

    What failed counts as 0.
    """
    onset = 0.0 if form == "from the start" else rng.uniform(0.05, 0.6)
    world = ordinary(rng, steps, learning_course(rng, steps, str(rng.choice(EASY))))
    world.onset = onset
    if form == "from the start":
        world.depth = np.ones(steps)
    elif form == "outages":
        world.depth = np.zeros(steps)
        first = int(onset * steps)
        length = max(5, int(0.08 * (steps - first)))
        for start in first + rng.choice((steps - first) // length, 4, replace=False) * length:
            world.depth[start : start + length] = 1.0
    else:
        world.depth = course(form, steps, onset, rng)
    world.failed = np.clip((rng.uniform(0.7, 1) if form == "outages" else rng.uniform(0.3, 0.9)) * world.depth, 0, 1)
    return world


def non_finite(rng: Generator, steps: int, form: str) -> World:
    """Infinite values in the loss, the gradient or the reward; or loss and gradient are NaN from the onset to the end.

    Where the numbers are gone for good, the policy is, too, and the reward falls to nothing. A NaN here and there is
    no illness: logs have gaps.
    """
    onset = rng.uniform(0.1, 0.7)
    first = int(onset * steps)
    world = stalling(rng, steps, onset, (0.4, 0.7))
    world.onset, world.depth = onset, (np.arange(steps) >= first).astype(float)
    count = max(3, int(0.03 * (steps - first)))
    some = np.zeros(steps)
    some[first + rng.choice(steps - first, count, replace=False)] = math.inf
    gone = np.where(np.arange(steps) >= first, math.nan, 0.0)
    world.holes = {
        "infinite loss": {"loss": some},
        "infinite gradient": {"grad_norm": some},
        "infinite both": {"loss": some, "grad_norm": some},
        "infinite reward": {"reward": some},
        "gone": {"loss": gone, "grad_norm": gone, "kl": gone, "entropy": gone},
        "gone to infinity": {"loss": gone, "grad_norm": np.where(np.isnan(gone), math.inf, 0.0)},
    }[form]
    if form.startswith("gone"):
        world.broken = np.clip(world.depth * 0.98, 0, 0.98)
    return world
