"""A small writer of SVG charts: axes, lines, bands, dots, bars and cells, as strings.

Colours and dash patterns are classes that the page's style sheet defines (`s0` to `s6` for series, `h0` to `h8` for
shades), so that one drawing serves light, dark and print. Whatever text comes in is escaped here.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from agent_tunix.reports._words import escaped, number

STYLES = 7
"""Series that can be told apart by colour and dash; more begin again."""
SHADES = 9
"""Steps from none to full of a shaded cell."""


class Frame(NamedTuple):
    """Where a chart's data stand: the box in the drawing, and the ranges of both axes.

    Attributes:
      width: Of the whole drawing, in its own units.
      height: Of the whole drawing.
      left: Left end of the box.
      right: Right end of the box.
      top: Upper end of the box.
      bottom: Lower end of the box.
      x: Least and greatest value of the horizontal axis.
      y: Least and greatest value of the vertical axis.
    """

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at_x(self, value: float) -> float:
        """Horizontal place of a value."""
        low, high = self.x
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def at_y(self, value: float) -> float:
        """Vertical place of a value; a value outside of the range stays at the edge."""
        low, high = self.y
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return self.bottom - share * (self.bottom - self.top)


def frame(
    x: tuple[float, float], y: tuple[float, float], *, width: float = 480, height: float = 240, top: float = 26
) -> Frame:
    """A frame with room for the labels of both axes; an empty range is widened about its value."""
    labels = max((len(label) for _, label in ticks(*widened(*y), 5)), default=1)
    left = 8 + 8.2 * max(labels, 3)  # also enough for the larger letters of a telephone
    return Frame(width, height, left, width - 12, top, height - 38, widened(*x), widened(*y))


def widened(low: float, high: float) -> tuple[float, float]:
    """A range that can be drawn: one that is empty is widened about its value."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    if high - low > 1e-9 * max(abs(low), abs(high)):  # not zero, nor lost in rounding
        return low, high
    half = 0.5 * abs(low) or 0.5
    return low - half, high + half


def span(values: Iterable[Sequence[float] | np.ndarray], *, include: Iterable[float] = ()) -> tuple[float, float]:
    """Least and greatest finite value of several series, with a twentieth of room on both sides."""
    parts = [np.asarray(part, np.float64).ravel() for part in values]
    everything = np.concatenate([*parts, np.asarray([*include], np.float64)]) if parts else np.array([0.0, 1.0])
    finite = everything[np.isfinite(everything)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    room = 0.05 * (high - low)
    return (low if low == 0 else low - room), high + room


def ticks(low: float, high: float, wanted: int = 5) -> list[tuple[float, str]]:
    """Round values within a range, about as many as wanted, with their labels.

    Examples:
      >>> ticks(0.0, 1.0, 5)
      [(0.0, '0'), (0.2, '0.2'), (0.4, '0.4'), (0.6, '0.6'), (0.8, '0.8'), (1.0, '1')]
    """
    size = (high - low) / max(wanted, 1)
    if not size > 0 or not math.isfinite(size):
        return []
    power = 10.0 ** math.floor(math.log10(size))
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= size * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [float(f"{index * step:.10g}") for index in range(first, last + 1)]
    return [(value, number(value, 6)) for value in values]


def _points(x: Iterable[float], y: Iterable[float]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _runs(values: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of finite values, as first index and the one after the last."""
    finite = np.concatenate([[False], np.isfinite(values), [False]])
    edges = np.flatnonzero(finite[1:] != finite[:-1])
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def line(on: Frame, x: np.ndarray, y: np.ndarray, style: int, extra: str = "") -> str:
    """A line that breaks where values are missing; a lone value is a dot."""
    out = []
    for start, end in _runs(np.asarray(y, np.float64)):
        places = [on.at_x(value) for value in x[start:end]], [on.at_y(value) for value in y[start:end]]
        if end - start == 1:
            out.append(f'<circle class="s{style % STYLES} dot" cx="{places[0][0]:.1f}" cy="{places[1][0]:.1f}" r="2"/>')
        else:
            out.append(f'<polyline class="s{style % STYLES} line {extra}" points="{_points(*places)}"/>')
    return "".join(out)


def band(on: Frame, x: np.ndarray, low: np.ndarray, high: np.ndarray, style: int, extra: str = "") -> str:
    """The area between two series, broken where either is missing."""
    out = []
    for start, end in _runs(np.asarray(low, np.float64) + np.asarray(high, np.float64)):
        if end - start > 1:
            across = [on.at_x(value) for value in x[start:end]]
            up, down = [on.at_y(v) for v in high[start:end]], [on.at_y(v) for v in low[start:end]]
            points = _points([*across, *across[::-1]], [*up, *down[::-1]])
            out.append(f'<polygon class="s{style % STYLES} band {extra}" points="{points}"/>')
    return "".join(out)


def dots(on: Frame, x: np.ndarray, y: np.ndarray, style: int, *, radius: float = 2.6) -> str:
    """A dot for every value that is there."""
    return "".join(
        f'<circle class="s{style % STYLES} dot" cx="{on.at_x(a):.1f}" cy="{on.at_y(b):.1f}" r="{radius}"/>'
        for a, b in zip(x, y, strict=True)
        if math.isfinite(a) and math.isfinite(b)
    )


def whiskers(on: Frame, x: np.ndarray, low: np.ndarray, high: np.ndarray, style: int) -> str:
    """Upright bars from low to high, the error bars of dots."""
    path = "".join(
        f"M{on.at_x(a):.1f} {on.at_y(b):.1f}V{on.at_y(c):.1f}"
        for a, b, c in zip(x, low, high, strict=True)
        if math.isfinite(b) and math.isfinite(c)
    )
    return f'<path class="s{style % STYLES} whisker" d="{path}"/>' if path else ""


def shaded_dots(on: Frame, x: np.ndarray, y: np.ndarray, shade: np.ndarray, hollow: np.ndarray) -> str:
    """Dots on a scale of shades in [0, 1]; hollow ones are drawn as rings."""
    return "".join(
        f'<circle class="h{_shade(depth)} {"ring" if ring else "point"}" cx="{on.at_x(a):.1f}" cy="{on.at_y(b):.1f}"'
        f' r="{4.2 if ring else 3.4}"/>'
        for a, b, depth, ring in zip(x, y, shade, hollow, strict=True)
        if math.isfinite(a) and math.isfinite(b)
    )


def cells(on: Frame, table: np.ndarray) -> str:
    """A heat map: `table[row, column]` in [0, 1], row 0 at the bottom, stretched over the box; NaN is left empty.

    Cells of one shade are one path, and equal neighbours in a column one piece of it, so that a map stays small.
    """
    rows, columns = table.shape
    wide, high = (on.right - on.left) / max(columns, 1), (on.bottom - on.top) / max(rows, 1)
    paths: dict[int, list[str]] = {}
    for column in range(columns):
        levels = [_shade(value) if math.isfinite(value) else -1 for value in table[:, column].tolist()]
        start = 0
        for row in range(1, rows + 1):
            if row == rows or levels[row] != levels[start]:
                if levels[start] >= 0:
                    x, y = on.left + column * wide, on.bottom - row * high
                    paths.setdefault(levels[start], []).append(
                        f"M{x:.1f} {y:.1f}h{wide + 0.15:.2f}v{(row - start) * high + 0.15:.2f}h-{wide + 0.15:.2f}z"
                    )
                start = row
    return "".join(f'<path class="h{level} cell" d="{"".join(parts)}"/>' for level, parts in sorted(paths.items()))


def _shade(value: float) -> int:
    return min(max(int(value * SHADES), 0), SHADES - 1)


def bars(on: Frame, values: Sequence[float], styles: Sequence[int], *, base: float = 0.0) -> str:
    """Upright bars, side by side over the box, from a base line."""
    width = (on.right - on.left) / max(len(values), 1)
    out = []
    for index, (value, style) in enumerate(zip(values, styles, strict=True)):
        if math.isfinite(value):
            top, bottom = sorted((on.at_y(value), on.at_y(base)))
            x = on.left + (index + 0.15) * width
            out.append(
                f'<rect class="s{style % STYLES} bar" x="{x:.1f}" y="{top:.1f}" width="{0.7 * width:.1f}"'
                f' height="{max(bottom - top, 0.5):.1f}"/>'
            )
    return "".join(out)


def level(on: Frame, y: float, label: str, kind: str = "bound") -> str:
    """A level line across the box with a label above it; nothing where it would be outside."""
    if not on.y[0] <= y <= on.y[1]:
        return ""
    place = on.at_y(y)
    above = place - 4 if place - on.top > 14 else place + 12
    return (
        f'<line class="{kind}" x1="{on.left:.1f}" x2="{on.right:.1f}" y1="{place:.1f}" y2="{place:.1f}"/>'
        f'<text class="note" x="{on.right - 4:.1f}" y="{above:.1f}" text-anchor="end">{escaped(label)}</text>'
    )


def upright(on: Frame, x: float, label: str, kind: str = "shift") -> str:
    """An upright line at a value of the horizontal axis, with its label as a tooltip."""
    if not on.x[0] <= x <= on.x[1]:
        return ""
    place = on.at_x(x)
    return (
        f'<line class="{kind}" x1="{place:.1f}" x2="{place:.1f}" y1="{on.top:.1f}" y2="{on.bottom:.1f}">'
        f"<title>{escaped(label)}</title></line>"
    )


def stretch(on: Frame, first: float, last: float, kind: str, label: str) -> str:
    """A shaded stretch of the horizontal axis, clipped to the box."""
    start, end = (on.at_x(min(max(value, on.x[0]), on.x[1])) for value in (first, last))
    return (
        f'<rect class="stretch {escaped(kind)}" x="{start:.1f}" y="{on.top:.1f}" width="{max(end - start, 2):.1f}"'
        f' height="{on.bottom - on.top:.1f}"><title>{escaped(label)}</title></rect>'
    )


def axes(on: Frame, x_label: str, y_label: str, *, y_ticks: list[tuple[float, str]] | None = None) -> str:
    """Grid, tick labels and the names of both axes."""
    out = []
    for value, label in ticks(*on.y, 4 if on.height < 260 else 6) if y_ticks is None else y_ticks:
        y = on.at_y(value)
        out.append(f'<line class="rule" x1="{on.left:.1f}" x2="{on.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{on.left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{escaped(label)}</text>')
    for value, label in ticks(*on.x, 5 if on.width < 500 else 9):
        if x_label == "step" and not value.is_integer():  # there is no half step
            continue
        x = on.at_x(value)
        out.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{on.bottom:.1f}" y2="{on.bottom + 4:.1f}"/>')
        out.append(f'<text x="{x:.1f}" y="{on.bottom + 17:.1f}" text-anchor="middle">{escaped(label)}</text>')
    middle = (on.left + on.right) / 2
    out.append(f'<line class="axis" x1="{on.left}" x2="{on.right}" y1="{on.bottom}" y2="{on.bottom}"/>')
    out.append(
        f'<text class="name" x="{middle:.1f}" y="{on.height - 5}" text-anchor="middle">{escaped(x_label)}</text>'
    )
    out.append(f'<text class="name" x="2" y="{on.top - 12:.1f}">{escaped(y_label)}</text>')
    return "".join(out)


def drawing(on: Frame, parts: Iterable[str], *, key: str, title: str, summary: str, kind: str = "") -> str:
    """The whole picture with its name and its description for those who cannot see it.

    Args:
      on: Its frame.
      parts: What stands in it, later ones in front.
      key: Id in the page, unique; the picture's hover data are found under `data-chart`.
      title: Its name.
      summary: What it shows, in a sentence.
      kind: Further classes.
    """
    data = f'data-box="{on.left:.1f} {on.right:.1f} {on.top:.1f} {on.bottom:.1f} {on.x[0]:.8g} {on.x[1]:.8g}"'
    return (
        f'<svg class="{escaped(kind)}" viewBox="0 0 {on.width:g} {on.height:g}" role="img" {data}'
        f' aria-labelledby="{key}-t {key}-d"><title id="{key}-t">{escaped(title)}</title>'
        f'<desc id="{key}-d">{escaped(summary)}</desc>{"".join(parts)}</svg>'
    )
