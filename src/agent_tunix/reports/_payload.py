"""The numbers that a page carries along: rows to download, and lines that follow the pointer."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from agent_tunix.reports._chart import Chart
from agent_tunix.reports._gather import Told
from agent_tunix.reports._series import present
from agent_tunix.reports._words import script_json

VALUES = 60_000
"""Numbers of all rows of a page at most; beyond, every run is thinned to an even choice of its rows."""


class Axes:
    """Step axes, each written once however many series stand on it."""

    def __init__(self) -> None:
        self.known: dict[tuple[float, ...], int] = {}

    def place(self, steps: np.ndarray) -> int:
        """Where an axis stands in the list."""
        return self.known.setdefault(tuple(steps.tolist()), len(self.known))

    def listed(self) -> list[list[float]]:
        """All of them."""
        return [[int(step) if step.is_integer() else step for step in steps] for steps in self.known]


def payload(told: Sequence[Told], sections: Sequence[Mapping[str, Any]]) -> str:
    """Everything the page's script reads, as JSON for a script element."""
    axes = Axes()
    every = max(1, -(-sum(len(v) for one in told for v in one.log.series.values()) // VALUES))
    runs = [
        {
            "name": one.name,
            "findings": [finding.to_json() for finding in one.findings],
            "columns": dict(_columns(one, axes, every)),
        }
        for one in told
    ]
    charts = {chart.key: _lines(chart, axes) for section in sections for chart in charts_of(section) if chart.pointer}
    return script_json({"runs": runs, "charts": charts, "axes": axes.listed(), "every": every})


def _columns(told: Told, axes: Axes, every: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, values in told.log.series.items():
        steps, kept = present(told.log.steps[name], values)
        if len(kept):
            # The last row stays, whatever is left out before it.
            steps, kept = (array[::-1][::every][::-1] for array in (steps, kept))
            yield name, {"steps": axes.place(steps), "values": rounded(kept, 6)}


def _lines(chart: Chart, axes: Axes) -> list[dict[str, Any]]:
    return [{"label": label, "x": axes.place(steps), "y": rounded(values, 4)} for label, steps, values in chart.pointer]


def rounded(values: np.ndarray, digits: int) -> list[float | int | None]:
    """Values with a few significant digits, whole ones as whole numbers, so that they take little room.

    Examples:
      >>> rounded(np.array([0.123456, 2.0, float("nan")]), 3)
      [0.123, 2, None]
    """
    values = np.asarray(values, np.float64)
    shown = [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values.tolist()]
    return [int(v) if v is not None and v.is_integer() and abs(v) < 1e15 else v for v in shown]


def charts_of(section: Mapping[str, Any]) -> Iterator[Chart]:
    """Every chart of a section, wherever it stands."""
    yield from section.get("wide", ())
    yield from section.get("charts", ())
    yield from section.get("after", ())
    for pair in section.get("pairs", ()):
        yield from pair.charts
    for strip in section.get("strips", ()):
        yield strip.chart
