"""Drawing on matplotlib axes in the style of the report: the same colours, block bands and marks; see `figures`."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from agent_tunix.errors import AgentTunixError
from agent_tunix.reports._chart import Mark
from agent_tunix.reports._series import blocks, present, thin
from agent_tunix.reports._words import cut

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/)."""
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (8, 2, 2, 2)), (0, (4, 1.5)), (0, (1, 1.5)), (0, (10, 3)))
MARKERS = "osD^vPX"
LEVELS = {"info": ("#5B6577", "i"), "warn": ("#B07A00", "!"), "error": ("#B3261E", "!!")}
SOFT = "#5B6577"
POINTS = 600
SPARSE = 30
"""Measurements at most that get a dot each."""

STYLE: Mapping[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E7EC",
    "grid.linewidth": 0.7,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.fontsize": 8,
    "legend.handlelength": 3.2,  # room for a whole dash pattern
    "text.parse_math": False,  # names of metrics may hold dollar signs
    "svg.hashsalt": "agent_tunix",
    "svg.fonttype": "none",
}
NO_DATE: Mapping[str, Mapping[str, None]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}
"""Formats, and what has to stay out of their files so that the same run gives the same bytes."""


def matplotlib() -> Any:
    """The package, without the global state of pyplot.

    Raises:
      AgentTunixError: If it is not installed.
    """
    try:
        import matplotlib
        import matplotlib.colors
        import matplotlib.figure
    except ImportError as error:
        message = "figures need matplotlib, which is not installed: pip install 'agent-tunix[plots]'"
        raise AgentTunixError(message) from error
    return matplotlib


def page(width: float, height: float) -> Any:
    """An empty figure, size in inches."""
    return matplotlib().figure.Figure(figsize=(width, height), dpi=130, layout="constrained")


def save(figure: Any, path: Path) -> Path:
    """Writes a figure in the format of its name."""
    figure.savefig(path, metadata=dict(NO_DATE[path.suffix[1:]]))
    return path


def label(text: str, most: int = 40) -> str:
    """A name as a legend shows it."""
    shown = cut(text, most)[0]
    return f" {shown}" if shown.startswith("_") else shown  # matplotlib hides what begins with an underscore


def curve(axis: Any, steps: np.ndarray, values: np.ndarray, name: str, style: int) -> None:
    """A series: every step faint, block means strong, with a band of two standard errors."""
    steps, values = present(steps, values)
    look = {"color": COLOURS[style % len(COLOURS)]}
    means = blocks(steps, values)
    if len(means.steps) <= 4:
        axis.plot(steps, values, label=label(name), marker=MARKERS[style % len(MARKERS)], markersize=3, **look)
        return
    axis.plot(*thin(steps, values, POINTS), linewidth=0.6, alpha=0.3, **look)
    axis.fill_between(
        means.steps, means.mean - 2 * means.error, means.mean + 2 * means.error, alpha=0.22, linewidth=0, **look
    )
    axis.plot(means.steps, means.mean, label=label(name), linewidth=1.9, linestyle=DASHES[style % len(DASHES)], **look)


def dotted(
    axis: Any, steps: np.ndarray, values: np.ndarray, name: str, style: int, error: np.ndarray | None = None
) -> None:
    """Sparse measurements: dots with their error bars, and the line through them."""
    look = {"color": COLOURS[style % len(COLOURS)], "linestyle": DASHES[style % len(DASHES)]}
    bars = {"yerr": error, "elinewidth": 1, "capsize": 2} if error is not None else {}
    axis.errorbar(
        steps,
        values,
        marker=MARKERS[style % len(MARKERS)] if len(steps) <= SPARSE else None,
        markersize=4,
        linewidth=1.2,
        label=label(name),
        **bars,
        **look,
    )


def unspiked(axis: Any, values: np.ndarray) -> None:
    """Cuts the axis where a few wild values, such as the first step's compilation, would flatten all others."""
    values = values[np.isfinite(values)]
    if len(values) < 50:
        return
    low, high = np.quantile(values, (0.005, 0.995))
    if np.ptp(values) > 4 * (high - low) > 0:
        axis.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))


def bound(axis: Any, height: float, name: str) -> None:
    """A level that is named at its right end."""
    axis.axhline(height, color=SOFT, linewidth=1.1, linestyle=":")
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "fontsize": 7.5}
    axis.annotate(name, (1.0, height), (-2, 3), color=SOFT, **place)


def marked(axis: Any, marks: Sequence[Mark]) -> None:
    """Findings as shaded stretches, their names inside, one below the other."""
    for place, mark in enumerate(marks):
        colour, sign = LEVELS[mark.kind]
        first, last = mark.first, mark.last
        axis.axvspan(first, max(last, first + 1e-9), color=colour, alpha=0.1, linewidth=0)
        axis.axvline(first, color=colour, linewidth=1, alpha=0.7)
        # A stretch that begins late has no room to its right.
        low, high = axis.get_xlim()
        late = first > low + 0.6 * (high - low)
        axis.annotate(
            f"{sign} {mark.label.partition(':')[0]}",
            (first, 0.97 - 0.09 * place),
            (-3 if late else 3, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if late else "left",
            va="top",
            fontsize=8,
            fontweight="bold",
            color=colour,
        )


def stacked(axis: Any, steps: np.ndarray, layers: Mapping[str, np.ndarray], styles: Sequence[int]) -> None:
    """Shares stacked over steps: positive ones upward from zero, negative ones downward."""
    table = np.nan_to_num(np.stack([*layers.values()]))
    for sign in (1, -1):
        edges = np.vstack([np.zeros(len(steps)), np.cumsum(sign * np.maximum(sign * table, 0), 0)])
        for (below, above), name, style in zip(pairwise(edges), layers, styles, strict=True):
            look = {"color": COLOURS[style % len(COLOURS)], "hatch": ("", "///", "...", "xxx")[style % 4]}
            axis.fill_between(
                steps, below, above, label=label(name) if sign > 0 else None, alpha=0.7, edgecolor="white", **look
            )
    axis.axhline(0, color=SOFT, linewidth=0.8)
    axis.margins(x=0)


def heat(axis: Any, table: np.ndarray, steps: np.ndarray, ends: tuple[float, float], *, root: bool = False) -> Any:
    """Cells over steps, light for 0 and dark for 1, by the square root with `root`; what is missing stays white."""
    half = np.diff(steps).mean() / 2 if len(steps) > 1 else 0.5
    middles = (steps[1:] + steps[:-1]) / 2
    edges = np.concatenate([[steps[0] - half], middles, [steps[-1] + half]])
    rows = np.linspace(*ends, len(table) + 1)
    shades = matplotlib().colors.PowerNorm(0.5 if root else 1.0, 0.0, 1.0)
    axis.grid(False)
    # A picture of thousands of cells in a vector format would be slow to show, so cells are pixels everywhere.
    return axis.pcolormesh(edges, rows, np.ma.masked_invalid(table), cmap="cividis_r", norm=shades, rasterized=True)


def empty(axis: Any, why: str) -> None:
    """A place without a picture, and why."""
    axis.set_axis_off()
    axis.text(0.5, 0.5, why, ha="center", va="center", color=SOFT, wrap=True, transform=axis.transAxes)
