"""Example curves of metric cards, from data or from a small reproducible recipe."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DEFAULT_LENGTH = 120

Shape = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Curve:
    """One example of a metric over a run.

    Attributes:
      key: `healthy`, or the name of the illness in the card.
      label: Title of the picture.
      metric: Name of the series, a metric name like any other.
      steps: Steps of the run, one per value.
      values: The metric itself.
      analysis: What the picture shows.
      rule: Health rule that the curve sets off, empty if it needs none.
      companions: Further series of the same run that a rule has to see, by metric name, as long as `values`.
      bounds: Lowest and highest possible total reward, where the rule has to know.
    """

    key: str
    label: str
    metric: str
    steps: np.ndarray
    values: np.ndarray
    analysis: str
    rule: str = ""
    companions: Mapping[str, np.ndarray] = field(default_factory=dict)
    bounds: tuple[float, float] | None = None

    @property
    def series(self) -> dict[str, np.ndarray]:
        """All series of the example run by metric name."""
        return {self.metric: self.values, **self.companions}


def curve_of(key: str, spec: Mapping[str, Any], metric: str) -> Curve:
    """The example that a card's `healthy` entry, or an entry of its `unhealthy`, describes.

    Args:
      key: Name of the entry.
      spec: With `data` or `gen`, and `analysis`; see `Curve` for the rest.
      metric: Name of the series if the entry gives none.

    Raises:
      ValueError: if the numbers cannot be made.
    """
    steps, values = _points(spec)
    companions = {name: generate(gen, len(values)) for name, gen in spec.get("companions", {}).items()}
    low_high = spec.get("bounds")
    return Curve(
        key=key,
        label=spec.get("label", key.replace("_", " ").capitalize()),
        metric=spec.get("metric", metric),
        steps=steps,
        values=values,
        analysis=spec.get("analysis", ""),
        rule=spec.get("rule", ""),
        companions=companions,
        bounds=(float(low_high[0]), float(low_high[1])) if low_high else None,
    )


def _points(spec: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    if ("data" in spec) == ("gen" in spec):
        raise ValueError("give either `data` or `gen`")
    if "gen" in spec:
        values = generate(spec["gen"])
        return np.arange(len(values)), values
    points = spec["data"]
    return np.array([point["step"] for point in points]), np.array([point["value"] for point in points], float)


def generate(spec: Mapping[str, Any], n: int | None = None) -> np.ndarray:
    """Values of a recipe; the same recipe gives the same values.

    Args:
      spec: `fn` is one of `SHAPES` and its parameters stand beside it; positions and widths are shares of the run.
        `noise: {sd, ar1}` adds an autoregressive error of that deviation, `clip: [low, high]` cuts what leaves the
        range, `n` is the number of values and `seed` that of the noise.
      n: Number of values that stands above the recipe's own.

    Returns:
      One value per step.

    Raises:
      ValueError: if the function or a parameter is unknown, or one is missing.

    Examples:
      >>> generate({"fn": "power", "a": 0, "b": 8, "exponent": 3, "n": 3}).tolist()
      [0.0, 1.0, 8.0]
    """
    parameters = dict(spec)
    shape = SHAPES.get(parameters.pop("fn", ""))
    if shape is None:
        raise ValueError(f"unknown fn `{spec.get('fn')}`; allowed: {', '.join(SHAPES)}")
    noise, clip, seed = parameters.pop("noise", {}), parameters.pop("clip", None), parameters.pop("seed", 0)
    length = n or parameters.pop("n", DEFAULT_LENGTH)
    parameters.pop("n", None)
    try:
        values = shape(np.linspace(0, 1, length), **parameters) + _noise(length, seed, **noise)
    except TypeError as error:
        raise ValueError(str(error).replace("()", "")) from error
    return np.clip(values, *clip) if clip else values


def _noise(n: int, seed: int, sd: float = 0.0, ar1: float = 0.0) -> np.ndarray:
    """Stationary first-order autoregressive noise of deviation `sd`."""
    shocks = np.random.default_rng(seed).normal(0, sd, n)
    if not ar1:
        return shocks
    shocks[1:] *= math.sqrt(1 - ar1**2)
    for index in range(1, n):
        shocks[index] += ar1 * shocks[index - 1]
    return shocks


def _const(t: np.ndarray, value: float) -> np.ndarray:
    return np.full(len(t), float(value))


def _logistic(t: np.ndarray, a: float, b: float, mid: float = 0.5, width: float = 0.1) -> np.ndarray:
    return a + (b - a) / (1 + np.exp(-(t - mid) / width))


def _exponential(t: np.ndarray, a: float, b: float, tau: float = 0.3) -> np.ndarray:
    return b + (a - b) * np.exp(-t / tau)


def _power(t: np.ndarray, a: float, b: float, exponent: float = 1.0) -> np.ndarray:
    return a + (b - a) * t**exponent


def _step(t: np.ndarray, a: float, b: float, at: float = 0.5) -> np.ndarray:
    return np.where(t < at, float(a), float(b))


def _peak(t: np.ndarray, a: float, b: float, c: float, at: float = 0.5) -> np.ndarray:
    return np.interp(t, [0, at, 1], [a, b, c])


def _points_between(t: np.ndarray, at: Sequence[float], values: Sequence[float]) -> np.ndarray:
    return np.interp(t, at, values)


def _growth(t: np.ndarray, a: float, b: float, at: float = 0.0) -> np.ndarray:
    """From `a`, by a constant factor per step from `at` on, to `b`."""
    return a * (b / a) ** np.clip((t - at) / (1 - at), 0, 1)


def _spikes(t: np.ndarray, value: float, height: float, at: Sequence[float]) -> np.ndarray:
    values = np.full(len(t), float(value))
    values[[round(place * (len(t) - 1)) for place in at]] = height
    return values


def _lost(t: np.ndarray, value: float, at: float = 0.5) -> np.ndarray:
    """Nothing but nan from `at` on."""
    return np.where(t < at, float(value), math.nan)


SHAPES: dict[str, Shape] = {
    "const": _const,
    "logistic": _logistic,
    "exp_rise": _exponential,
    "exp_decay": _exponential,
    "power": _power,
    "step": _step,
    "peak": _peak,
    "points": _points_between,
    "growth": _growth,
    "spikes": _spikes,
    "lost": _lost,
}
"""Functions of the share of the run that has passed."""
