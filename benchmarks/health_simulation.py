"""Training runs that never happened: a policy with known inner truth, and what a log of it would show.

A `World` holds the truth of every step: how well the policy solves its tasks, how often it exploits its grader, how
much of its output is broken, its entropy, its length. `observe` samples completions of groups of prompts from it and
logs what libraries log, so that flat groups, batch noise, truncation and the gap between the training reward and the
held-out accuracy follow from the truth as they do in real runs. Nothing here knows how illnesses are found.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

Array = np.ndarray
Generator = np.random.Generator

COURSES = (
    "linear",
    "logistic",
    "exponential",
    "power",
    "accelerating",
    "gompertz",
    "steps",
    "walk",
    "cosine",
    "oscillation",
    "piecewise",
    "switch",
)
"""Shapes of a change from 0 to 1."""
ABRUPT = ("switch", "steps")


def course(shape: str, steps: int, onset: float, rng: Generator, length: float | None = None) -> Array:
    """A change from 0 before `onset` to about 1, in one of many shapes.

    Args:
      shape: One of `COURSES`.
      steps: Number of values.
      onset: Where the change begins, as a share of the run.
      rng: Draws the parameters of the shape.
      length: How long the change takes, as a share of the run; by default half to 0.8 of what is left of it.

    Returns:
      Values in [0, 1.05], 0 before the onset; 1 within a twentieth after the change.
    """
    length = length or (1 - onset) * rng.uniform(0.5, 0.8)
    time = np.clip((np.linspace(0, 1, steps) - onset) / length, 0, None)
    done = np.minimum(time, 1)
    if shape == "logistic":
        return _between(1 / (1 + np.exp(-(time - rng.uniform(0.4, 0.6)) / rng.uniform(0.06, 0.14))))
    if shape == "exponential":
        return _between(1 - np.exp(-time * rng.uniform(3, 6)))
    if shape == "power":
        return done ** rng.uniform(0.35, 0.8)
    if shape == "accelerating":
        rate = rng.uniform(2, 4)
        return np.expm1(rate * done) / math.expm1(rate)
    if shape == "gompertz":
        return _between(np.exp(-rng.uniform(4, 8) * np.exp(-rng.uniform(5, 8) * time)))
    if shape == "steps":
        jumps = np.sort(rng.uniform(0.02, 0.95, int(rng.integers(2, 6))))
        return _between(np.mean([1 / (1 + np.exp(-(time - at) / 0.015)) for at in jumps], axis=0))
    if shape == "walk":
        return np.where(time > 0, np.clip(done + 0.06 * _bridge(rng, time), 0, 1.05), 0.0)
    if shape == "cosine":
        return np.clip(done + 0.05 * np.sin(2 * np.pi * rng.integers(2, 5) * done), 0, 1.05)
    if shape == "oscillation":
        waves = 0.05 * np.sin(2 * np.pi * rng.uniform(3, 7) * time) * done
        return np.clip(done + waves, 0, 1.05)
    if shape == "piecewise":
        knots = np.concatenate([[0], np.sort(rng.uniform(0, 1, 3)), [1]])
        return np.interp(done, np.linspace(0, 1, 5), knots)
    if shape == "switch":
        return np.minimum(time / (0.03 / length), 1) if steps < 200 else np.minimum(time * 60, 1)
    return done


def _between(values: Array) -> Array:
    """Shifted and stretched so that it starts at 0 and ends at 1."""
    return (values - values[0]) / (values[-1] - values[0])


def _bridge(rng: Generator, time: Array) -> Array:
    """A random walk of unit size that is 0 where the change begins and from where it is complete."""
    walk = np.cumsum(rng.normal(size=time.size) * ((time > 0) & (time < 1)))
    inside = np.flatnonzero((time > 0) & (time < 1))
    if inside.size:
        walk[inside] -= np.linspace(0, walk[inside[-1]], inside.size)
        walk[inside] /= max(np.abs(walk[inside]).max(), 1e-9)
    walk[time >= 1] = 0
    return walk


def autoregressive(rng: Generator, size: int, deviation: float, memory: float) -> Array:
    """Noise with a given stationary deviation whose neighbours correlate with `memory`."""
    fresh = rng.normal(size=size) * deviation * math.sqrt(1 - memory**2)
    values = np.empty(size)
    last = rng.normal() * deviation
    for k in range(size):
        last = memory * last + fresh[k]
        values[k] = last
    return values


def logit(share: Array) -> Array:
    """Log-odds of a share, clipped to finite values."""
    share = np.clip(share, 1e-4, 1 - 1e-4)
    return np.log(share / (1 - share))


def sigmoid(odds: Array) -> Array:
    """The share with the given log-odds."""
    return 1 / (1 + np.exp(-odds))


@dataclass
class World:
    """The truth about one run; arrays hold one value per step.

    Attributes:
      solve: Share of completions that solve their prompt, before truncation and breakage.
      exploit: Share of the others for which the grader is tricked.
      harm: How much of the ability exploiting costs, as a share at full exploitation.
      broken: Share of completions that are garbage.
      parts: Rates of the reward's other components, by name.
      task: Name of the component that `solve` drives; empty if there is none.
      weights: Of the components; they sum to 1, so that the reward without bonus is in [0, 1].
      bonus: An unbounded addition to the reward, in units of its span.
      constants: Components that always give the same value.
      wobble: Deviation of what hits the whole batch at once, in units of the span; about half of it is left of a reward
        of 0 or 1, which cannot leave its span.
      spread: Precision of the beta distribution of solve rates over prompts; small means solved or hopeless.
      greedy: Log-odds by which greedy held-out answers are better than sampled ones.
      median_length: Median of the length, tokens, before the budget cuts.
      budget: Longest completion, tokens.
      length_shape: Shape of the log-logistic length distribution; large is narrow.
      spikes: Factors on the gradient norm.
      holes: For a quantity, what is added to it: zeros, and NaN or infinity where the run broke.
      graded: Whether the components give partial credit instead of 0 or 1.
      prompts: Prompts per batch.
      group: Completions per prompt.
      onset: Where the illness begins, as a share of the run; NaN for healthy runs.
      depth: How far the illness has come, 0 to 1.
    """

    steps: int
    solve: Array
    spread: Array
    entropy: Array
    kl: Array
    median_length: Array
    prompts: int
    group: int
    budget: float
    length_shape: float
    greedy: float
    graded: bool
    task: str
    format: str
    parts: dict[str, Array]
    weights: dict[str, float]
    gradient: float
    exploit: Array = field(default_factory=lambda: np.zeros(1))
    broken: Array = field(default_factory=lambda: np.zeros(1))
    bonus: Array = field(default_factory=lambda: np.zeros(1))
    wobble: Array = field(default_factory=lambda: np.zeros(1))
    spikes: Array = field(default_factory=lambda: np.ones(1))
    spam: Array = field(default_factory=lambda: np.full(1, 0.005))
    repetition: Array = field(default_factory=lambda: np.full(1, 0.02))
    failed: Array = field(default_factory=lambda: np.zeros(1))
    mismatch: Array = field(default_factory=lambda: np.full(1, 0.002))
    harm: float = 0.0
    heavy_tails: bool = False
    constants: dict[str, float] = field(default_factory=dict)
    holes: dict[str, Array] = field(default_factory=dict)
    onset: float = math.nan
    depth: Array = field(default_factory=lambda: np.zeros(1))

    @property
    def truncated(self) -> Array:
        """Expected share of completions that the budget cuts."""
        return 1 / (1 + (self.budget / self.full(self.median_length)) ** self.length_shape)

    @property
    def intact(self) -> Array:
        """Share of completions that are whole and no garbage."""
        return (1 - self.truncated) * (1 - self.full(self.broken))

    @property
    def proxy(self) -> Array:
        """Expected value of the task component: what the grader says, right or tricked."""
        able = self.solve * (1 - self.harm * self.full(self.exploit))
        return (able + (1 - able) * self.full(self.exploit)) * self.intact

    @property
    def gold(self) -> Array:
        """Expected held-out accuracy, graded strictly."""
        able = self.solve * (1 - self.harm * self.full(self.exploit))
        return sigmoid(logit(able) + self.greedy) * self.intact

    @property
    def rates(self) -> dict[str, Array]:
        """Expected value of every component."""
        found = {name: rate * self.intact for name, rate in self.parts.items()}
        if self.task:
            found[self.task] = self.proxy
        return found | {name: np.full(self.steps, value) for name, value in self.constants.items()}

    @property
    def reward(self) -> Array:
        """Expected reward, in [0, 1] without a bonus."""
        working = 1 - self.full(self.failed)
        return sum(self.weights[name] * rate for name, rate in self.rates.items()) * working + self.full(self.bonus)

    def full(self, values: Array) -> Array:
        """One value per step, also of what is constant."""
        return np.broadcast_to(values, (self.steps,))


def draw_length(rng: Generator) -> int:
    """Number of steps, log-uniform between 60 and 1000."""
    return int(np.exp(rng.uniform(math.log(60), math.log(1000))).round())


TASK_NAMES = ("correctness", "accuracy_reward", "correct", "task")
FORMAT_NAMES = ("format", "format_reward")


def ordinary(rng: Generator, steps: int, solve: Array) -> World:
    """A world in order around a solve rate: entropy falls and the divergence grows as far as the policy learns.

    Args:
      rng: Draws everything else.
      steps: Of the run.
      solve: Solve rate of every step, without noise.
    """
    solve = sigmoid(logit(solve) + autoregressive(rng, steps, rng.uniform(0.01, 0.05), 0.9))
    learnt = np.clip((solve - solve[0]) / max(float(np.ptp(solve)), 0.2), 0, 1)
    smooth = np.maximum.accumulate(np.convolve(np.pad(learnt, 4, "edge"), np.ones(9) / 9, "valid"))
    time = np.linspace(0, 1, steps)
    task, formatted = str(rng.choice(TASK_NAMES)), str(rng.choice(FORMAT_NAMES))
    with_format = rng.random() < 0.7
    start = rng.uniform(0.3, 0.95)
    reach = start + (rng.uniform(0.96, 0.995) - start) * (1 - np.exp(-time / rng.uniform(0.03, 0.2)))
    length = rng.uniform(20, 1500) * (1 + rng.uniform(-0.25, 0.3) * smooth)
    weight = rng.uniform(0.55, 0.85) if with_format else 1.0
    return World(
        steps=steps,
        solve=solve,
        spread=np.full(steps, rng.uniform(3, 12)),
        entropy=rng.uniform(0.3, 2.5) * (1 - rng.uniform(0, 0.5) * smooth - rng.uniform(0, 0.1) * time),
        kl=rng.uniform(0.005, 0.15) * (smooth ** rng.uniform(0.7, 1.5) + rng.uniform(0.02, 0.3) * time) + 2e-4,
        median_length=length,
        prompts=int(rng.choice([16, 24, 32, 48, 64])),
        group=int(rng.choice([4, 8, 8, 16])),
        budget=float(length.max()) * rng.uniform(2, 4),
        length_shape=rng.uniform(4, 7),
        greedy=rng.uniform(-0.2, 0.7),
        graded=bool(rng.random() < 0.25),
        task=task,
        format=formatted if with_format else "",
        parts={formatted: reach} if with_format else {},
        weights={task: weight, formatted: 1 - weight} if with_format else {task: 1.0},
        gradient=float(np.exp(rng.uniform(-2, 1.5))),
        mismatch=np.full(1, float(np.exp(rng.uniform(-8, -5)))),
        repetition=np.full(1, rng.uniform(0.005, 0.04)),
    )


def at_rows(world: World, rows: Array) -> World:
    """The world as seen by the rows of a log, which may repeat steps."""
    arrays = {name: world.full(value)[rows] for name, value in vars(world).items() if isinstance(value, np.ndarray)}
    by_name = {
        name: {key: values[rows] for key, values in found.items()}
        for name, found in {"parts": world.parts, "holes": world.holes}.items()
    }
    return replace(world, steps=rows.size, **arrays, **by_name)


def _values(world: World, rng: Generator, rate: Array, spread: Array) -> Array:
    """Values of one component for all completions, `[steps prompts group]`."""
    rate = np.clip(rate, 1e-9, 1 - 1e-9)[:, None]
    per_prompt = rng.beta(rate * spread[:, None], (1 - rate) * spread[:, None], (world.steps, world.prompts))
    per_prompt = np.clip(per_prompt, 1e-9, 1 - 1e-9)[:, :, None]
    shape = (world.steps, world.prompts, world.group)
    if world.graded:
        return rng.beta(3 * per_prompt, 3 * (1 - per_prompt), shape)
    return (rng.random(shape) < per_prompt).astype(float)


def observe(world: World, rng: Generator) -> dict[str, Array]:
    """Samples completions and says what a log would hold, one value per step, by the quantity's own name.

    Args:
      world: The truth.
      rng: Draws completions and measurement noise.

    Returns:
      Values by metric card; components are named `part NAME`, `part_std NAME` and `failed NAME`.
    """
    shape = (world.steps, world.prompts, world.group)
    uniform = np.clip(rng.random(shape), 1e-9, 1 - 1e-9)
    free = world.full(world.median_length)[:, None, None] * (uniform / (1 - uniform)) ** (1 / world.length_shape)
    cut = free >= world.budget
    whole = ~cut & (rng.random(shape) >= world.full(world.broken)[:, None, None])
    parts = _components(world, rng, whole)
    works = rng.random(shape) >= world.full(world.failed)[:, None, None]
    total = sum(world.weights[name] * values for name, values in parts.items()) * works
    bonus = world.full(world.bonus)[:, None, None]
    total = total + bonus * np.exp(rng.normal(-0.02, 0.2, shape)) if np.any(bonus) else total
    total = total + _wobbles(world, rng)[:, None, None]
    if np.any(world.wobble):
        total = np.clip(total, 0, 1)
    within = total.std(axis=2, ddof=1)
    found = {
        "reward": total.mean(axis=(1, 2)),
        "reward_batch_std": total.std(axis=(1, 2)),
        "reward_max": total.max(axis=(1, 2)),
        "reward_min": total.min(axis=(1, 2)),
        "reward_std": within.mean(axis=1),
        "frac_reward_zero_std": (within < 1e-9).mean(axis=1),
        "completion_length": np.minimum(free, world.budget).mean(axis=(1, 2)),
        "terminated_length": np.where(cut, 0, free).sum(axis=(1, 2)) / np.maximum((~cut).sum(axis=(1, 2)), 1),
        "clipped_ratio": cut.mean(axis=(1, 2)),
    }
    for name, values in parts.items():
        found[f"part {name}"] = values.mean(axis=(1, 2))
        found[f"part_std {name}"] = values.std(axis=2, ddof=1).mean(axis=1)
    for name in [world.task] if world.task else list(world.parts)[:1]:
        found[f"failed {name}"] = 1 - works.mean(axis=(1, 2))
    return _with_holes(world, found | _process(world, rng, found["frac_reward_zero_std"]))


def _components(world: World, rng: Generator, whole: Array) -> dict[str, Array]:
    spread = world.full(world.spread)
    parts = {name: _values(world, rng, rate, spread * 2) * whole for name, rate in world.parts.items()}
    if world.task:
        able = world.solve * (1 - world.harm * world.full(world.exploit))
        solved = _values(world, rng, able, spread)
        tricked = rng.random(whole.shape) < world.full(world.exploit)[:, None, None]
        parts[world.task] = np.where(tricked, 1.0, solved) * whole
    return parts | {name: np.full(whole.shape, value) for name, value in world.constants.items()}


def _wobbles(world: World, rng: Generator) -> Array:
    """What hits a whole batch at once."""
    size = world.full(world.wobble)
    draws = rng.standard_t(3, world.steps) / math.sqrt(3) if world.heavy_tails else rng.normal(size=world.steps)
    return size * draws


def _process(world: World, rng: Generator, flat: Array) -> dict[str, Array]:
    """What is measured of the policy and the update; a flat group gives no gradient."""
    size, steps = world.prompts * world.group, world.steps

    def noisy(values: Array, deviation: float) -> Array:
        return world.full(values) * np.exp(autoregressive(rng, steps, deviation, 0.3))

    def counted(share: Array) -> Array:
        return rng.binomial(size, np.clip(world.full(share), 0, 1)) / size

    time = np.linspace(0, 1, steps)
    on_policy = rng.random() < 0.4
    rate = float(np.exp(rng.uniform(-14, -8))) * np.minimum(1, (time + 1 / steps) / rng.uniform(0.02, 0.1))
    return {
        "kl": noisy(world.kl, rng.uniform(0.05, 0.2)),
        "entropy": noisy(world.entropy, rng.uniform(0.01, 0.06)),
        "approx_kl": np.zeros(steps) if on_policy else noisy(np.full(1, 5e-4), 0.4),
        "clip_ratio": np.zeros(steps) if on_policy else noisy(np.full(1, rng.uniform(0.003, 0.03)), 0.3),
        "importance_ratio": np.ones(steps) if on_policy else 1 + rng.normal(size=steps) * 2e-3,
        "loss": rng.normal(size=steps) * rng.uniform(0.002, 0.05),
        "grad_norm": world.gradient
        * np.sqrt(np.clip(1 - flat, 0.02, 1))
        * np.exp(rng.normal(size=steps) * rng.uniform(0.1, 0.3))
        * world.full(world.spikes),
        "sampler_mismatch": noisy(world.mismatch, rng.uniform(0.05, 0.25)),
        "answer_spam": counted(world.spam),
        "repetition": np.clip(noisy(world.repetition, 0.1), 0, 1),
        "empty_completions": counted(np.full(1, 0.004)),
        "invalid_reward": counted(np.full(1, 0.001)),
        "learning_rate": rate * (0.5 + 0.5 * np.cos(np.pi * time) if rng.random() < 0.5 else 1),
        "step_time": noisy(np.full(1, rng.uniform(1, 90)), 0.1),
    }


def _with_holes(world: World, found: dict[str, Array]) -> dict[str, Array]:
    return found | {name: found[name] + added for name, added in world.holes.items()}
