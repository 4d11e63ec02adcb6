"""How a policy learns, for families of runs."""

import numpy as np
from health_simulation import COURSES, Array, Generator, World, course, ordinary

SMOOTH = tuple(shape for shape in COURSES if shape != "switch")
EASY = ("linear", "logistic", "exponential", "power", "gompertz", "walk")


def start_and_end(rng: Generator, gain: tuple[float, float] = (0.3, 0.5)) -> tuple[float, float]:
    """Solve rates before and after learning."""
    start = rng.uniform(0.08, 0.4)
    return start, min(start + rng.uniform(*gain), 0.96)


def learning_course(rng: Generator, steps: int, form: str, gain: tuple[float, float] = (0.3, 0.5)) -> Array:
    """The solve rate of a policy that learns from early on."""
    start, end = start_and_end(rng, gain)
    onset = rng.uniform(0, 0.08)
    return start + (end - start) * course(form, steps, onset, rng, rng.uniform(0.5, 0.9))


def learns_until(rng: Generator, steps: int, onset: float, end: tuple[float, float] = (0.3, 0.5)) -> Array:
    """A solve rate that rises until the onset and then stays."""
    high = rng.uniform(*end)
    low = high - rng.uniform(0.1, 0.2)
    time = np.linspace(0, 1, steps)
    return low + (high - low) * np.minimum(time / max(onset, 0.02), 1) ** rng.uniform(0.5, 1)


def in_format(rng: Generator, world: World) -> World:
    """The same world where the format was learnt before, so that only the illness is to be seen."""
    world.parts = {name: np.full(world.steps, rng.uniform(0.88, 0.99)) for name in world.parts}
    return world


def stalling(rng: Generator, steps: int, onset: float, end: tuple[float, float] = (0.3, 0.5)) -> World:
    """A world that learns until the onset."""
    return in_format(rng, ordinary(rng, steps, learns_until(rng, steps, onset, end)))
