"""Numbers behind the pictures: block means, change points, and the over-optimisation curve. NumPy only."""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

BLOCKS = 20
"""Blocks of a run; long enough for their means to be nearly independent, short enough to follow a curve."""


HUGE = 1e100


class Blocks(NamedTuple):
    """Means over consecutive stretches of a series.

    Attributes:
      steps: Mean step of every block.
      mean: Mean of its values.
      error: Standard error of that mean from the scatter about a straight line through the block, so that a steady
        rise does not count as noise; 0 for a block of fewer than three values.
      first: First step of the block.
      last: Last step of the block.
    """

    steps: Float[np.ndarray, " blocks"]
    mean: Float[np.ndarray, " blocks"]
    error: Float[np.ndarray, " blocks"]
    first: Float[np.ndarray, " blocks"]
    last: Float[np.ndarray, " blocks"]


def present(
    steps: Float[np.ndarray, " steps"], values: Float[np.ndarray, " steps"]
) -> tuple[Float[np.ndarray, " kept"], Float[np.ndarray, " kept"]]:
    """The entries that are numbers, in the order of their steps; infinities, and what squares to one, are missing."""
    steps, values = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    keep = (np.abs(values) < HUGE) & np.isfinite(steps)  # nan is not smaller than anything
    order = np.argsort(steps[keep], kind="stable")
    return steps[keep][order], values[keep][order]


def blocks(steps: Float[np.ndarray, " steps"], values: Float[np.ndarray, " steps"], count: int = BLOCKS) -> Blocks:
    """Splits a series into at most `count` blocks of equal length.

    Args:
      steps: Where the values stand; any order.
      values: Missing ones are left out.
      count: Blocks wanted; a series of fewer than `3 * count` values gets fewer, of three each.

    Examples:
      >>> blocks(np.arange(6.0), np.array([0.0, 1.0, 2.0, 10.0, 11.0, 12.0]), 2).mean
      array([ 1., 11.])
    """
    steps, values = present(steps, values)
    pieces = max(1, min(count, len(values) // 3)) if len(values) else 0
    cuts = [(part_steps, part) for part_steps, part in zip(_cut(steps, pieces), _cut(values, pieces), strict=True)]
    columns = [
        (part_steps.mean(), part.mean(), _error(part_steps, part), part_steps[0], part_steps[-1])
        for part_steps, part in cuts
    ]
    return Blocks(*np.array(columns, np.float64).reshape(-1, 5).T)


def _cut(values: np.ndarray, pieces: int) -> list[np.ndarray]:
    return np.array_split(values, pieces) if pieces else []


def _error(steps: np.ndarray, values: np.ndarray) -> float:
    if len(values) < 3:
        return 0.0
    centered = steps - steps.mean()
    spread = float(centered @ centered)
    slope = float(centered @ values) / spread if spread > 0 else 0.0
    residual = values - values.mean() - slope * centered
    return math.sqrt(float(residual @ residual) / (len(values) - 2) / len(values))


def step_noise(values: Float[np.ndarray, " steps"]) -> float:
    """Robust deviation of the noise from step to step, insensitive to a trend.

    1.4826 times the median absolute deviation of the differences, over the square root of two. Where more than half of
    the differences are equal that is 0, and their plain deviation takes its place.
    """
    differences = np.diff(np.asarray(values, np.float64))
    if not differences.size:
        return 0.0
    robust = 1.4826 * float(np.median(np.abs(differences - np.median(differences))))
    return (robust or float(differences.std())) / math.sqrt(2.0)


def change_points(values: Float[np.ndarray, " steps"], most: int = 5, shortest: int = 5) -> list[int]:
    """Where the mean of a series shifts: binary segmentation with squared error and penalty 3 sigma^2 log n.

    Args:
      values: A series without gaps.
      most: Shifts wanted at most, those that explain most first. A smooth rise has no end of them.
      shortest: Entries in a segment at least.

    Returns:
      Indices of the first entry after each shift, ascending; none in noise about a constant.

    References:
      Scott and Knott, 1974, Biometrics 30 (binary segmentation); Killick et al., 2012, arXiv:1101.1438 (penalty of the
      order log n).

    Examples:
      >>> noise = 0.1 * np.random.default_rng(1).standard_normal(100)
      >>> change_points(noise), change_points(noise + np.repeat([0.0, 1.0], 50))
      ([], [50])
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2 * shortest:
        return []
    penalty = 3.0 * step_noise(values) ** 2 * math.log(len(values))
    open_ends, found = {(0, len(values)): _best_split(values, 0, len(values), shortest)}, []
    while open_ends and len(found) < most:
        segment = max(open_ends, key=lambda ends: open_ends[ends][0])
        gain, cut = open_ends.pop(segment)
        if gain <= max(penalty, 1e-12):
            break
        found.append(cut)
        for ends in ((segment[0], cut), (cut, segment[1])):
            open_ends[ends] = _best_split(values, *ends, shortest)
    return sorted(found)


def _best_split(values: np.ndarray, start: int, end: int, shortest: int) -> tuple[float, int]:
    """How much squared error the best cut of a segment takes away, and where it is."""
    part = values[start:end] - values[start:end].mean()
    left = np.arange(shortest, len(part) - shortest + 1)
    if not left.size:
        return 0.0, start
    sums = np.cumsum(part)[left - 1]
    gains = sums**2 / left + sums**2 / (len(part) - left)  # the segment's mean is 0, so its right sum is minus the left
    best = int(np.argmax(gains))
    return float(gains[best]), start + int(left[best])


class Fit(NamedTuple):
    r"""An over-optimisation curve :math:`R(d) = c + d (a - b \log d)` with d the root of the divergence.

    Attributes:
      start: c, the value before any optimisation.
      gain: a.
      loss: b, positive where too much optimisation hurts.
      aic: Akaike's criterion of the curve minus that of a straight line; negative where the curve is the better.
    """

    start: float
    gain: float
    loss: float
    aic: float

    @property
    def peak(self) -> float:
        """The distance at which the curve is highest, exp(a / b - 1); infinite where it only rises."""
        exponent = self.gain / self.loss - 1.0 if self.loss > 0 else math.inf
        return math.exp(exponent) if exponent < 50 else math.inf

    def at(self, distance: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
        """The curve's value at distances."""
        distance = np.asarray(distance, np.float64)
        log = np.log(np.maximum(distance, 1e-12))
        return self.start + distance * (self.gain - self.loss * log)


def over_optimisation(distance: Float[np.ndarray, " points"], value: Float[np.ndarray, " points"]) -> Fit | None:
    """Fits the curve of reward over-optimisation in reinforcement learning, if it says more than a straight line.

    Args:
      distance: Square roots of the divergence from the reference, nats.
      value: The reward, or the held-out score, at each.

    Returns:
      The fit; None for fewer than six points, without a spread of distances, or where the line is as good by AIC.

    References:
      Gao, Schulman and Hilton, 2022, Scaling laws for reward model overoptimization, arXiv:2210.10760, section 3.1. The
      intercept is ours: scores of a task do not start at 0.
    """
    distance, value = present(distance, value)
    keep = distance >= 0
    distance, value = distance[keep], value[keep]
    if len(value) < 6 or np.ptp(distance) < 1e-6 or np.ptp(value) < 1e-12:
        return None
    log = np.log(np.maximum(distance, 1e-12))
    ones = np.ones_like(distance)
    curve, curve_error = _least_squares(np.stack([ones, distance, -distance * log], -1), value)
    _, line_error = _least_squares(np.stack([ones, distance], -1), value)
    tiny = 1e-12 * float(np.ptp(value)) ** 2 * len(value)
    aic = len(value) * math.log((curve_error + tiny) / (line_error + tiny)) + 2.0
    start, gain, loss = curve.tolist()
    fit = Fit(start, gain, loss, aic)
    return fit if aic < 0 else None


def _least_squares(table: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    solution = np.linalg.lstsq(table, target, rcond=None)[0]
    residual = target - table @ solution
    return solution, float(residual @ residual)


def at_steps(
    wanted: Float[np.ndarray, " points"], steps: Float[np.ndarray, " steps"], values: Float[np.ndarray, " steps"]
) -> Float[np.ndarray, " points"]:
    """A series read at other steps, from block means and straight lines between them; NaN where it has no values."""
    summary = blocks(steps, values)
    if not len(summary.steps):
        return np.full(len(wanted), np.nan)
    return np.interp(wanted, summary.steps, summary.mean)


def thin(
    steps: Float[np.ndarray, " steps"], values: Float[np.ndarray, " steps"], most: int = 500
) -> tuple[Float[np.ndarray, " kept"], Float[np.ndarray, " kept"]]:
    """At most `most` points that keep the least and the greatest value of every stretch, so that no spike is lost."""
    if len(values) <= most:
        return steps, values
    edges = np.linspace(0, len(values), max(most // 2, 1) + 1).astype(int)
    kept: list[int] = []
    for start, end in pairwise(edges):
        part = values[start:end]
        if np.isnan(part).all():
            kept.append(start)
        else:
            kept += sorted({start + int(np.nanargmin(part)), start + int(np.nanargmax(part))})
    return steps[kept], values[kept]
