"""Runs that nothing is wrong with. Each builder says what could be mistaken for an illness."""

import math
from dataclasses import replace

import numpy as np
from health_courses import learning_course, start_and_end
from health_simulation import Generator, World, course, logit, ordinary, sigmoid


def learns(rng: Generator, steps: int, form: str) -> World:
    """The solve rate rises by at least 0.3 in any shape, and the held-out accuracy with it."""
    return ordinary(rng, steps, learning_course(rng, steps, form))


def slow(rng: Generator, steps: int, form: str) -> World:
    """A slow rise over the whole run, by at least 0.2."""
    start, end = start_and_end(rng, (0.2, 0.3))
    time = np.linspace(0, 1, steps)
    shape = {"power": time ** rng.uniform(0.4, 0.8), "linear": time, "logarithm": np.log1p(9 * time) / math.log(10)}
    return ordinary(rng, steps, start + (end - start) * shape[form])


def wandering(rng: Generator, steps: int, form: str) -> World:
    """A random walk with drift in log-odds that never falls by more than 0.06 from its best, and gains at least 0.2."""
    while True:
        odds = logit(np.array(rng.uniform(0.1, 0.35)))
        walk = np.cumsum(rng.normal(0, 1, steps)) / math.sqrt(steps)
        drift = rng.uniform(1.6, 2.6) * np.linspace(0, 1, steps) ** (1.0 if form == "drift" else 0.6)
        solve = sigmoid(odds + drift + rng.uniform(0.2, 0.5) * walk)
        if np.max(np.maximum.accumulate(solve) - solve) < 0.06 and solve[-1] - solve[0] > 0.2:
            return ordinary(rng, steps, solve)


def in_steps(rng: Generator, steps: int, form: str) -> World:
    """Plateaus with jumps between them; the first jump before 0.3 of the run, no plateau longer than 0.45 of it."""
    count = {"two": 2, "three": 3, "four": 4}[form]
    times = np.linspace(0.12, 0.85, count) + rng.uniform(-0.06, 0.06, count)
    sizes = rng.uniform(0.6, 1.4, count)
    time = np.linspace(0, 1, steps)
    jumps = sum(size / (1 + np.exp(-(time - at) / 0.015)) for at, size in zip(times, sizes, strict=True))
    start, end = start_and_end(rng, (0.3, 0.5))
    return ordinary(rng, steps, start + (end - start) * jumps / sizes.sum())


def bumps(rng: Generator, steps: int, form: str) -> World:
    """A rise with the small dips of a learning rate that goes up and down, or of a curriculum; none above 0.07."""
    time = np.linspace(0, 1, steps)
    cycles = int(rng.integers(3, 6))
    saw = (time * cycles) % 1
    dip = {
        "cosine": 0.5 - 0.5 * np.cos(2 * np.pi * cycles * time),
        "curriculum": np.exp(-saw * 5) * (time > 1 / cycles),
    }
    return ordinary(
        rng, steps, learning_course(rng, steps, "linear", (0.35, 0.5)) - rng.uniform(0.02, 0.06) * dip[form]
    )


def two_rises(rng: Generator, steps: int, form: str) -> World:
    """Rise, plateau, rise again; the plateau takes at most 0.4 of the run."""
    start, end = start_and_end(rng, (0.3, 0.5))
    first = course(form, steps, 0.0, rng, rng.uniform(0.2, 0.3))
    second = course(form, steps, rng.uniform(0.5, 0.6), rng, rng.uniform(0.2, 0.35))
    share = rng.uniform(0.4, 0.7)
    return ordinary(rng, steps, start + (end - start) * (share * first + (1 - share) * second))


def starts_high(rng: Generator, steps: int, form: str) -> World:
    """A policy that solves 0.7 to 0.8 at the start and gains at least 0.1."""
    start = rng.uniform(0.7, 0.8)
    return ordinary(rng, steps, start + rng.uniform(0.12, 0.17) * course(form, steps, 0.0, rng, rng.uniform(0.5, 0.9)))


def noisy_start(rng: Generator, steps: int, form: str) -> World:
    """High variance of the whole batch that is gone by 0.35 of the run, while the solve rate gains at least 0.35."""
    world = ordinary(rng, steps, learning_course(rng, steps, form, (0.35, 0.5)))
    world.wobble = rng.uniform(0.15, 0.25) * np.clip(1 - np.linspace(0, 1, steps) / rng.uniform(0.2, 0.35), 0, 1)
    return world


def thinking(rng: Generator, steps: int, form: str) -> World:
    """Completions grow to 1.8 to 3 times their length because that solves more: accuracy gains at least 0.3."""
    solve = learning_course(rng, steps, form, (0.35, 0.55))
    world = ordinary(rng, steps, solve)
    grown = (solve - solve[0]) / (solve[-1] - solve[0])
    world.median_length = world.median_length[0] * (1 + rng.uniform(0.8, 2) * np.clip(grown, 0, 1.05))
    world.budget = float(world.median_length.max()) * rng.uniform(2.5, 5)
    return world


def format_first(rng: Generator, steps: int, form: str) -> World:
    """The format is learnt in the first tenth of the run, then the task: it gains at least 0.3."""
    start, end = start_and_end(rng)
    world = ordinary(rng, steps, start + (end - start) * course(form, steps, rng.uniform(0.08, 0.2), rng, 0.6))
    world.format = world.format or "format"
    rise = course("logistic", steps, 0.0, rng, rng.uniform(0.08, 0.15))
    world.parts = {world.format: rng.uniform(0.05, 0.4) * (1 - rise) + rng.uniform(0.97, 0.999) * rise}
    weight = rng.uniform(0.1, 0.4)
    world.weights = {world.task: 1 - weight, world.format: weight}
    return world


def late(rng: Generator, steps: int, form: str) -> World:
    """Takes off late, half-way at 0.35 to 0.55 of the run, and ends above 0.6."""
    start, end, middle = rng.uniform(0.04, 0.15), rng.uniform(0.6, 0.9), rng.uniform(0.35, 0.55)
    time = np.linspace(0, 1, steps)
    shape = {
        "logistic": 1 / (1 + np.exp(-(time - middle) / rng.uniform(0.06, 0.12))),
        "gompertz": np.exp(-np.exp(-(time - middle + 0.05) / 0.1)),
    }
    return ordinary(rng, steps, start + (end - start) * shape[form])


def solved(rng: Generator, steps: int, form: str) -> World:
    """Everything is solved in the end, from 0.3 to 0.6; most groups are flat then, as they should be."""
    start = rng.uniform(0.3, 0.6)
    rise = course(form, steps, 0.0, rng, rng.uniform(0.4, 0.8))
    world = ordinary(rng, steps, start + (rng.uniform(0.975, 0.995) - start) * np.minimum(rise, 1))
    world.budget = float(world.median_length.max()) * 5
    return world


def confident(rng: Generator, steps: int, form: str) -> World:
    """Entropy falls to 0.3 to 0.45 of its start in a tenth of the run, then stays, and the accuracy rises throughout.

    Entropy is known to fall fast in runs that learn well (Cui et al., 2025, arXiv 2505.22617).
    """
    world = ordinary(rng, steps, learning_course(rng, steps, form, (0.35, 0.5)))
    fall = course("exponential", steps, 0.0, rng, rng.uniform(0.08, 0.15))
    world.entropy = rng.uniform(0.6, 2.5) * (1 - rng.uniform(0.55, 0.7) * np.minimum(fall, 1))
    return world


def small_batches(rng: Generator, steps: int, form: str) -> World:
    """Eight prompts of eight completions a step: noisy, but the rise of at least 0.45 stands out."""
    world = ordinary(rng, steps, learning_course(rng, steps, form, (0.45, 0.55)))
    return replace(world, prompts=8, group=8)


def drifting_away(rng: Generator, steps: int, form: str) -> World:
    """The divergence from the reference grows all the time, up to 0.4 nats a token, and the accuracy with it."""
    world = ordinary(rng, steps, learning_course(rng, steps, form))
    world.kl = 1e-3 + rng.uniform(0.05, 0.4) * np.linspace(0, 1, steps) ** rng.uniform(0.6, 1.2)
    return world


def several_parts(rng: Generator, steps: int, form: str) -> World:
    """Three or four components that all rise, one of them early and one of them little; none falls by 0.03."""
    world = ordinary(rng, steps, learning_course(rng, steps, form))
    early = 0.3 + 0.65 * course("exponential", steps, 0.0, rng, 0.2)
    little = rng.uniform(0.4, 0.7) + rng.uniform(0.05, 0.15) * course(form, steps, 0.0, rng, 0.7)
    world.parts = world.parts | {"language": np.minimum(early, 0.97), "brevity": little}
    shares = rng.uniform(0.1, 0.25, len(world.parts))
    world.weights = dict(zip(world.parts, shares.tolist(), strict=True)) | {world.task: 1 - float(shares.sum())}
    return world


def from_nothing(rng: Generator, steps: int, form: str) -> World:
    """A sparse reward of about 0.02 that is found within 0.2 of the run and then rises above 0.5."""
    end = rng.uniform(0.55, 0.8)
    return ordinary(
        rng, steps, 0.02 + (end - 0.02) * course(form, steps, rng.uniform(0, 0.1), rng, rng.uniform(0.5, 0.8))
    )


def lone_spikes(rng: Generator, steps: int, form: str) -> World:
    """A healthy run with one or two single steps of a gradient norm five times as large, without effect."""
    world = ordinary(rng, steps, learning_course(rng, steps, form))
    world.spikes = np.ones(steps)
    world.spikes[rng.integers(0, steps, int(rng.integers(1, 3)))] = 5.0
    return world
