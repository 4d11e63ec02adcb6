"""Curves as text, for terminals and logs: a line of blocks, or a small chart with its axis."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

BLOCKS = "▁▂▃▄▅▆▇█"
MARKS = "●○+×◆◇▲△"
"""One mark per curve, in order; with more curves they repeat."""

Values = Sequence[float] | np.ndarray


def sparkline(values: Values, width: int = 40, *, bounds: tuple[float, float] | None = None) -> str:
    """Values as one line of block characters, lowest to highest.

    Args:
      values: Any numbers; nan and infinities leave a blank.
      width: Most characters; longer series are averaged block by block.
      bounds: Values of the lowest and the highest block; by default the lowest and highest that are drawn.

    Returns:
      At most `width` characters, none for no values. A constant is drawn at half height.

    Examples:
      >>> sparkline([0, 1, 2, 3, 4, 5, 6, 7])
      '▁▂▃▄▅▆▇█'
      >>> sparkline([1, float("nan"), 1])
      '▄ ▄'
    """
    columns = _columns(values, width)
    low, high = bounds or _extent(columns)
    top = len(BLOCKS) - 1
    return "".join(" " if math.isnan(x) else BLOCKS[_level(x, low, high, top)] for x in columns)


def curve(
    values_by_label: Mapping[str, Values],
    width: int = 72,
    height: int = 10,
    *,
    bounds: tuple[float, float] | None = None,
    steps: tuple[float, float] | None = None,
) -> str:
    """Several series over the same stretch as one chart of characters.

    Args:
      values_by_label: Series by label; they may have different lengths and all span the whole width. Values that are
        not finite leave a gap.
      width: Characters in all, the axis included.
      height: Rows of the chart, without the line below it and the legend.
      bounds: Lowest and highest value of the axis; by default those of the values. What lies outside is drawn at the
        edge.
      steps: First and last step, written below the chart.

    Returns:
      Lines without escape codes; a legend follows if there is more than one label.

    Examples:
      >>> print(curve({"reward": [0.0, 0.2, 0.9, 1.0]}, width=9, height=2))
      1 ┤   ●●●
      0 ┤●●●
        └──────
    """
    height = max(height, 2)
    finite = np.concatenate([np.ravel(_finite(values)) for values in values_by_label.values()] or [np.zeros(0)])
    low, high = bounds or _extent(finite)
    ticks = _ticks(low, high, height)
    margin = max(map(len, ticks)) + 2
    inner = max(width - margin, 2)
    canvas = [[" "] * inner for _ in range(height)]
    for index, values in enumerate(values_by_label.values()):
        _draw(canvas, _stretched(values, inner), low, high, MARKS[index % len(MARKS)])
    rows = [
        f"{tick:>{margin - 2}} ┤" + "".join(line) if tick else " " * (margin - 1) + "│" + "".join(line)
        for tick, line in zip(ticks, canvas, strict=True)
    ]
    rows.append(" " * (margin - 1) + "└" + "─" * inner)
    if steps:
        first, last = (number(step) for step in steps)
        rows.append(" " * margin + first + last.rjust(inner - len(first)))
    return "\n".join(row.rstrip() for row in rows + _legend(values_by_label, width))


def number(value: float) -> str:
    """A number in few characters.

    Examples:
      >>> [number(x) for x in (0.0, 0.12345, 12.0, 12345.678, 2e-7, float("nan"))]
      ['0', '0.123', '12', '12346', '2e-07', '-']
    """
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


LARGEST = 1e300


def _finite(values: Values) -> np.ndarray:
    """Values as floats; infinities have no place on an axis and become nan, and what could overflow is cut."""
    array = np.asarray([math.nan if x is None else x for x in values], float)
    return np.where(np.isfinite(array), np.clip(array, -LARGEST, LARGEST), math.nan)


def _columns(values: Values, width: int) -> np.ndarray:
    """At most `width` numbers: means over equal blocks, nan where a block has no value."""
    array = _finite(values)
    if len(array) <= width:
        return array
    starts = np.arange(width) * len(array) // width
    known = np.add.reduceat(np.isfinite(array).astype(float), starts)
    # Divided before they are added up, so that huge values do not overflow.
    share = np.nan_to_num(array) / np.repeat(np.maximum(known, 1), np.diff(starts, append=len(array)))
    return np.where(known > 0, np.add.reduceat(share, starts), math.nan)


def _stretched(values: Values, width: int) -> np.ndarray:
    """One number per column: block means of a long series, straight lines between the points of a short one."""
    array = _columns(values, width)
    if not len(array):
        return np.full(width, math.nan)
    place = np.linspace(0, len(array) - 1, width)
    left, right = array[np.floor(place).astype(int)], array[np.ceil(place).astype(int)]
    between = left * (1 - place % 1) + right * (place % 1)
    # Beside a gap there is no line, only the point itself.
    return np.where(np.isfinite(between), between, array[np.round(place).astype(int)])


def _extent(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)


def _level(value: float, low: float, high: float, top: int) -> int:
    """Row of a value, 0 at the bottom; half height where the axis has no extent."""
    # Halves first: the difference of two huge numbers would overflow.
    extent = high / 2 - low / 2
    share = (value / 2 - low / 2) / extent if extent > 0 else 0.5
    return min(max(int(share * top + (0.5 if extent > 0 else 0)), 0), top)


def _ticks(low: float, high: float, height: int) -> list[str]:
    """Labels of the rows from the top: the ends and, where there is room, the middle."""
    ticks = [""] * height
    if low < high:
        ticks[0], ticks[-1] = number(high), number(low)
        if height >= 7 and height % 2:
            ticks[height // 2] = number(low / 2 + high / 2)
    else:
        ticks[height - 1 - _level(low, low, high, height - 1)] = number(low)
    return ticks


def _draw(canvas: list[list[str]], columns: np.ndarray, low: float, high: float, mark: str) -> None:
    """Writes one curve; steep parts are filled so that the line stays connected."""
    top = len(canvas) - 1
    before: int | None = None
    for column, value in enumerate(columns):
        if math.isnan(value):
            before = None
            continue
        level = _level(float(value), low, high, top)
        start = level if before is None or abs(before - level) < 2 else before + (1 if level > before else -1)
        for row in range(min(start, level), max(start, level) + 1):
            canvas[top - row][column] = mark
        before = level


def _legend(labels: Iterable[str], width: int) -> list[str]:
    entries = [f"{MARKS[index % len(MARKS)]} {label}" for index, label in enumerate(labels)]
    return textwrap.wrap("  ".join(entries), width) if len(entries) > 1 else []
