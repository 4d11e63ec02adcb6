"""A chart as the page shows it: picture, legend, what it says in words, its numbers as a table and for the pointer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from agent_tunix.reports import _svg
from agent_tunix.reports._series import Blocks, at_steps, blocks, present, thin
from agent_tunix.reports._words import number, stretch_of_steps

WIDE, NARROW, HIGH = (960.0, 330.0), (480.0, 240.0), (480.0, 300.0)
"""Sizes of a picture over the whole page, of one in a grid, and of one on a telephone."""

POINTS = 400
"""Points of a line at most."""

ROOM = 8.0
"""How many times the range of the data an axis may have to show a bound."""

LINES = ("bound", "shift")
"""Marks that are lines; others are shaded stretches, drawn first."""


class Curve(NamedTuple):
    """A series in a chart.

    Attributes:
      label: Its name in the legend.
      steps: Where its values stand.
      values: NaN where there is none.
      style: Which colour and dash.
      dotted: Drawn as dots with the line through them, for sparse measurements.
      error: Half the length of error bars, or None.
      plain: Drawn as it is, without block means over it.
    """

    label: str
    steps: np.ndarray
    values: np.ndarray
    style: int = 0
    dotted: bool = False
    error: np.ndarray | None = None
    plain: bool = False


class Mark(NamedTuple):
    """Something to point at: a level (`first` is its height), an upright line or a stretch of steps."""

    first: float
    last: float
    label: str
    kind: str


class Key(NamedTuple):
    """An entry of a legend."""

    label: str
    style: int
    kind: str


class Table(NamedTuple):
    """Rows of text under a head, the numbers of a picture in words."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Chart:
    """What the page shows of a picture.

    Attributes:
      key: Id in the page.
      title: Its name.
      picture: The drawing.
      small: The drawing for a telephone where `picture` is too wide for it, else empty.
      summary: What it shows, in words.
      legend: Keys of its series.
      table: Its numbers.
      pointer: Lines that follow the pointer: label, steps and values.
      note: A remark below it.
    """

    key: str
    title: str
    picture: str
    summary: str
    small: str = ""
    legend: Sequence[Key] = ()
    table: Table | None = None
    pointer: Sequence[tuple[str, np.ndarray, np.ndarray]] = ()
    note: str = ""


def chart(
    key: str,
    title: str,
    curves: Sequence[Curve],
    *,
    unit: str,
    marks: Sequence[Mark] = (),
    y: tuple[float, float] | None = None,
    wide: bool = False,
    note: str = "",
    x_label: str = "step",
) -> Chart:
    """Series over steps: each as a faint line with its block means and their band of two standard errors in front.

    Args:
      key: Id in the page.
      title: Its name.
      curves: One or more, already thinned or not.
      unit: Name of the vertical axis.
      marks: Levels, shifts and stretches.
      y: Range of the vertical axis; what the data need by default.
      wide: Over the whole page, with a drawing of its own for a telephone.
      note: A remark below it.
      x_label: Name of the horizontal axis.
    """
    kept = [curve._replace(**_kept(curve)) for curve in curves]
    summaries = [blocks(curve.steps, curve.values) for curve in curves]
    levels = [mark.first for mark in marks if mark.kind == "bound"]
    x = extent([curve.steps for curve in curves])
    y = y or _range([_shown_values(curve) for curve in curves], levels)
    summary = " ".join(_in_words(curve, summary) for curve, summary in zip(curves, summaries, strict=True))

    def draw(width: float, height: float, suffix: str = "") -> str:
        on = _svg.frame(x, y, width=width, height=height)
        parts = [_svg.axes(on, x_label, unit)]
        parts += [_drawn_mark(on, mark) for mark in sorted(marks, key=lambda mark: mark.kind in LINES)]
        parts += [_drawn(on, curve, means) for curve, means in zip(kept, summaries, strict=True)]
        return _svg.drawing(on, parts, key=key + suffix, title=title, summary=summary)

    return Chart(
        key,
        title,
        draw(*(WIDE if wide else NARROW)),
        summary,
        small=draw(*HIGH, "-small") if wide else "",
        legend=_legend(curves, marks),
        table=_table(curves, summaries),
        pointer=[(curve.label, curve.steps, curve.values) for curve in kept],
        note=note,
    )


def _range(values: Sequence[np.ndarray], levels: Sequence[float]) -> tuple[float, float]:
    """The vertical axis: the data, with the levels where those would not press the data flat."""
    alone, together = _svg.span(values), _svg.span(values, include=levels)
    return together if together[1] - together[0] <= ROOM * (alone[1] - alone[0]) else alone


def extent(axes: Sequence[np.ndarray]) -> tuple[float, float]:
    """First and last step of several series."""
    ends = [(float(np.min(steps)), float(np.max(steps))) for steps in axes if len(steps)]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 1.0)


def _kept(curve: Curve) -> dict[str, np.ndarray]:
    steps, values = np.asarray(curve.steps, np.float64), np.asarray(curve.values, np.float64)
    if curve.error is None:
        steps, values = thin(steps, values, POINTS)
    return {"steps": steps, "values": values}


def _shown_values(curve: Curve) -> np.ndarray:
    """What decides the range of the axis: all values, or without the wildest hundredth of a long noisy series."""
    values = np.asarray(curve.values, np.float64)
    if curve.error is not None:
        values = np.concatenate([values - curve.error, values + curve.error])
    finite = values[np.isfinite(values)]
    if len(finite) < 100 or curve.plain:
        return finite
    low, high = np.quantile(finite, (0.005, 0.995))
    rest = finite[(finite >= low) & (finite <= high)]
    # Only a spike far outside of the rest is cut; it stays at the edge.
    if rest.size and np.ptp(finite) > 4 * np.ptp(rest) > 0:
        return rest
    return finite


def _is_summarised(curve: Curve, means: Blocks) -> bool:
    return not (curve.plain or curve.dotted) and len(means.steps) > 4


def _drawn(on: _svg.Frame, curve: Curve, means: Blocks) -> str:
    steps, values, style = curve.steps, curve.values, curve.style
    if not _is_summarised(curve, means):
        bars = ""
        if curve.error is not None:
            bars = _svg.whiskers(on, steps, values - curve.error, values + curve.error, style)
        joined = present(steps, values)
        shape = _svg.line(on, *(joined if curve.dotted else (steps, values)), style)
        return bars + shape + (_svg.dots(on, steps, values, style) if curve.dotted else "")
    return (
        _svg.line(on, steps, values, style, "raw")
        + _svg.band(on, means.steps, means.mean - 2 * means.error, means.mean + 2 * means.error, style)
        + _svg.line(on, means.steps, means.mean, style, "mean")
    )


def _drawn_mark(on: _svg.Frame, mark: Mark) -> str:
    if mark.kind == "bound":
        return _svg.level(on, mark.first, mark.label)
    if mark.kind == "shift":
        return _svg.upright(on, mark.first, mark.label)
    return _svg.stretch(on, mark.first, mark.last, mark.kind, mark.label)


def _legend(curves: Sequence[Curve], marks: Sequence[Mark]) -> list[Key]:
    keys = [Key(curve.label, curve.style % _svg.STYLES, "dots" if curve.dotted else "line") for curve in curves]
    if any(mark.kind == "shift" for mark in marks):
        keys.append(Key("shift of the mean", 0, "shift"))
    return keys


def _in_words(curve: Curve, means: Blocks) -> str:
    _, values = present(curve.steps, curve.values)
    if not len(values):
        return f"{curve.label}: no values."
    first, last = (values[0], values[-1]) if len(means.mean) < 2 else (means.mean[0], means.mean[-1])
    return (
        f"{curve.label} goes from {number(first)} to {number(last)}, "
        f"with {number(values.min())} at the lowest and {number(values.max())} at the highest."
    )


def _table(curves: Sequence[Curve], summaries: Sequence[Blocks]) -> Table | None:
    """Block means of all curves over the blocks of the one that has most."""
    base = max(summaries, key=lambda means: len(means.steps), default=None)
    if base is None or not len(base.steps):
        return None
    columns = []
    for curve, means in zip(curves, summaries, strict=True):
        if len(means.steps) == len(base.steps) and np.allclose(means.steps, base.steps):
            pairs = zip(means.mean, means.error, strict=True)
            columns.append([number(m) + (f" ± {number(2 * e, 2)}" if e > 0 else "") for m, e in pairs])
        else:
            columns.append([number(value) for value in at_steps(base.steps, curve.steps, curve.values)])
    places = [stretch_of_steps(a, b) for a, b in zip(base.first, base.last, strict=True)]
    return Table(["steps", *(curve.label for curve in curves)], list(zip(places, *columns, strict=True)))


def stacked(
    key: str,
    title: str,
    steps: np.ndarray,
    layers: Mapping[str, np.ndarray],
    *,
    styles: Sequence[int],
    unit: str,
    note: str = "",
) -> Chart:
    """Shares stacked over steps: positive ones upward from zero, negative ones downward.

    Args:
      key: Id in the page.
      title: Its name.
      steps: Of all layers.
      layers: By label.
      styles: Of the layers.
      unit: Name of the vertical axis.
      note: A remark below it.
    """
    table = np.stack([np.nan_to_num(layer) for layer in layers.values()])
    up = np.vstack([np.zeros(len(steps)), np.cumsum(np.maximum(table, 0.0), 0)])
    down = np.vstack([np.zeros(len(steps)), np.cumsum(np.minimum(table, 0.0), 0)])
    ends = ", ".join(f"{label} {number(layer[-1], 2)}" for label, layer in layers.items())
    summary = f"At the end: {ends}."
    rows = [[f"{step:g}", *map(number, column)] for step, column in zip(steps, table.T, strict=True)]
    legend = [Key(label, style % _svg.STYLES, "area") for label, style in zip(layers, styles, strict=True)]

    def draw(width: float, height: float, suffix: str = "") -> str:
        on = _svg.frame(extent([steps]), _svg.span([up, down], include=(0.0, 1.0)), width=width, height=height)
        parts = [_svg.axes(on, "step", unit)]
        for edges in (up, down):
            between = zip(pairwise(edges), styles, strict=True)
            for (one, other), style in between:
                parts.append(_svg.band(on, steps, np.minimum(one, other), np.maximum(one, other), style, "solid"))
        return _svg.drawing(on, parts, key=key + suffix, title=title, summary=summary)

    wide = draw(WIDE[0], 0.75 * WIDE[1])
    return Chart(key, title, wide, summary, draw(*HIGH, "-small"), legend, Table(["step", *layers], rows), note=note)
