"""Statistics of noisy curves: noise, window means and their errors, changes, falls, departures.

Health rules judge curves of 10 to 1000 points whose noise is unknown and often correlated from step to step. All
functions here return the unit of the curve, so that every ratio of two of them is free of scale and shift. NumPy only.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

TINY = 1e-12
NORMAL = 1.4826
"""A normal deviation in units of the median absolute deviation."""
LONGEST = 2000
"""Points that rules look at; longer curves are reduced to block means first."""


class Noise(NamedTuple):
    """What is left of a curve without its course.

    Attributes:
      sigma: Deviation of one point, in the unit of the curve.
      inflation: Variance of a mean of many points over what independent points would give, at least 1.
    """

    sigma: float
    inflation: float

    def error(self, points: int) -> float:
        """Standard error of the mean of so many consecutive points."""
        return self.sigma * float(np.sqrt(min(self.inflation, max(points, 1)) / max(points, 1)))


class Change(NamedTuple):
    """A difference and its standard error, in the unit of the curve."""

    delta: float
    error: float

    @property
    def z(self) -> float:
        """Difference in standard errors."""
        return self.delta / max(self.error, TINY)


class Fall(NamedTuple):
    """The deepest fall of a curve: how far, and from which index to which."""

    depth: float
    start: int
    stop: int


def robust_deviation(residuals: Float[np.ndarray, "..."]) -> float:
    """Deviation that a few outliers hardly move; half of the plain one where most residuals are equal."""
    flat = residuals.ravel()
    if not flat.size:
        return 0.0
    middle = float(np.median(np.abs(flat - np.median(flat))))
    return max(NORMAL * middle, 0.5 * float(np.sqrt(np.mean(flat**2))))


def step_noise(values: Float[np.ndarray, " n"]) -> float:
    """Deviation of one point around the mean of its neighbours; blind to any smooth course.

    For independent noise the residual has 3/2 of its variance, which is taken out. Of very long curves some 20,000
    points are looked at.

    Examples:
      >>> round(step_noise(np.arange(50.0)), 6)
      0.0
    """
    if values.size < 3:
        return 0.0
    middle = np.arange(1, values.size - 1, max(1, values.size // 20_000))
    return robust_deviation(values[middle] - (values[middle - 1] + values[middle + 1]) / 2) / float(np.sqrt(1.5))


def noise_of(values: Float[np.ndarray, " n"]) -> Noise:
    """Noise around straight pieces: its size, and how much its correlation spoils averaging.

    The curve is cut into up to eight pieces with a line through each. The residuals give the deviation and the
    correlation `phi` from one point to the next, corrected for the two degrees of freedom of a line; means of many
    points then have the variance of independent ones times (1 + phi) / (1 - phi) [first-order autoregression].
    """
    n = values.size
    if n < 24:
        return Noise(step_noise(values), 1.0)
    pieces = min(8, n // 12)
    length = n // pieces
    blocks = values[n - pieces * length :].reshape(pieces, length)
    x = np.arange(length) - (length - 1) / 2
    centred = blocks - blocks.mean(1, keepdims=True)
    residuals = centred - (centred @ x / (x @ x))[:, None] * x
    power = float((residuals**2).sum())
    if power <= TINY**2:
        return Noise(0.0, 1.0)
    phi = float((residuals[:, 1:] * residuals[:, :-1]).sum()) / power
    phi = float(np.clip(phi + (2 + 3 * max(phi, 0.0)) / length, 0.0, 0.85))
    sigma = robust_deviation(residuals) * float(np.sqrt(length / (length - 2)))
    return Noise(sigma, (1 + phi) / (1 - phi))


def smoothed(values: Float[np.ndarray, " n"], width: int) -> Float[np.ndarray, " m"]:
    """Moving average over `width` points (at most all of them); n - width + 1 values.

    Examples:
      >>> smoothed(np.array([1.0, 3.0, 5.0]), 2).tolist()
      [2.0, 4.0]
    """
    if not values.size:
        return values
    width = max(1, min(width, values.size))
    middle = values.mean()  # small sums lose fewer digits
    total = np.cumsum(np.concatenate([[0.0], values - middle]))
    # What rounding leaves must not lie outside of the values: a mean of zeros is zero.
    return np.clip((total[width:] - total[:-width]) / width + middle, values.min(), values.max())


def without_outliers(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Running median of five: single points that stand out disappear."""
    if values.size < 5:
        return values
    padded = np.concatenate([values[:2][::-1], values, values[-2:][::-1]])
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)


def block_means(values: Float[np.ndarray, " n"], count: int) -> Float[np.ndarray, " blocks"]:
    """Means of `count` consecutive blocks of nearly equal size (fewer when there are fewer values)."""
    count = max(1, min(count, values.size))
    edges = np.linspace(0, values.size, count + 1).astype(int)
    return np.add.reduceat(values, edges[:-1]) / np.diff(edges)


def deepest_fall(values: Float[np.ndarray, " n"]) -> Fall:
    """Largest drop from an earlier value to a later one.

    Examples:
      >>> deepest_fall(np.array([1.0, 5.0, 2.0, 4.0]))
      Fall(depth=3.0, start=1, stop=2)
    """
    below = np.maximum.accumulate(values) - values
    stop = int(below.argmax())
    start = int(values[: stop + 1].argmax())
    return Fall(float(values[start] - values[stop]), start, stop)


def line_change(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], error: float) -> Change:
    """Rise of the least-squares line over the range of `x`; `error` is the deviation of one `y`."""
    if x.size < 2 or np.ptp(x) <= 0:
        return Change(0.0, float("inf"))
    centred = x - x.mean()
    power = float(centred @ centred)
    width = float(np.ptp(x))
    return Change(float(centred @ y) / power * width, error / float(np.sqrt(power)) * width)


def departure(values: Float[np.ndarray, " n"], start: float, end: float, share: float = 0.2) -> int:
    """Index at which a curve left `start` for good on its way to `end`.

    That is behind the last point which had covered less than `share` of the way.

    Examples:
      >>> departure(np.array([0.0, 0.0, 0.1, 0.0, 0.5, 1.0]), 0.0, 1.0)
      4
    """
    way = end - start
    if abs(way) <= TINY or not values.size:
        return 0
    near = np.flatnonzero((values - start) / way < share)
    return min(int(near[-1]) + 1 if near.size else 0, values.size - 1)


def reduced_edges(n: int, longest: int = LONGEST) -> Int[np.ndarray, " blocks_plus_one"]:
    """Borders of the blocks that a curve of `n` points is reduced to."""
    return np.linspace(0, n, min(n, longest) + 1).astype(int)
