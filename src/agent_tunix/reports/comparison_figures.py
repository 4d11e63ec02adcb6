"""A picture of a method beside its baseline over seeds: curves on the left, one panel per comparison on the right."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from agent_tunix.reports import _plots
from agent_tunix.reports._plots import COLOURS, DASHES, MARKERS, SOFT

MOST = 4
"""Comparisons that get a panel."""


class Pair(NamedTuple):
    """Two arms compared by one quantity.

    Attributes:
      what: The quantity in words.
      names: Of the baseline and of the method.
      values: Of each seed, the baseline first.
    """

    what: str
    names: tuple[str, str]
    values: Float[np.ndarray, "2 seeds"]


class Curve(NamedTuple):
    """A quantity over time.

    Attributes:
      places: Of its points.
      values: Of each seed.
    """

    places: Int[np.ndarray, " points"]
    values: Float[np.ndarray, "seeds points"]


def draw(path: Path, title: str, pairs: Sequence[Pair], curves: Mapping[str, Curve], axis: str) -> Path:
    """Writes the picture.

    Args:
      path: A file that ends in `.png`, `.pdf` or `.svg`.
      title: Above it all.
      pairs: Comparisons; the first ones get a panel, with a dot for every seed and a line through the means.
      curves: What is drawn over updates, mean and range over seeds.
      axis: What curves are over.

    Returns:
      The file. The same numbers give the same bytes.

    Raises:
      AgentTunixError: If matplotlib is missing.
    """
    shown = pairs[:MOST]
    with _plots.matplotlib().rc_context(_plots.STYLE):
        panels = len(shown) + bool(curves)
        figure = _plots.page(2.2 * len(shown) + (3.6 if curves else 0) + 0.4, 2.9)
        widths = ([1.7] if curves else []) + [1.0] * len(shown)
        axes = list(figure.subplots(1, panels, width_ratios=widths, squeeze=False)[0])
        if curves:
            _curves(axes.pop(0), curves, axis)
        for panel, pair in zip(axes, shown, strict=True):
            _pair(panel, pair)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        return _plots.save(figure, path)


def _curves(panel: Any, curves: Mapping[str, Curve], axis: str) -> None:
    for (name, (places, seeds)), colour, dash in zip(curves.items(), COLOURS * 3, DASHES * 3, strict=False):
        panel.plot(places, seeds.mean(0), color=colour, linestyle=dash, label=name)
        panel.fill_between(places, seeds.min(0), seeds.max(0), color=colour, alpha=0.15, linewidth=0)
    panel.set_xlabel(axis)
    panel.legend(loc="best")


def _pair(panel: Any, pair: Pair) -> None:
    for place, (seeds, colour, marker) in enumerate(zip(pair.values, COLOURS, MARKERS, strict=False)):
        spot = place + np.linspace(-0.12, 0.12, len(seeds)) if len(seeds) > 1 else [place]
        panel.scatter(spot, seeds, s=16, color=colour, marker=marker, zorder=3)
        panel.hlines(seeds.mean(), place - 0.25, place + 0.25, color=SOFT, linewidth=2)
    panel.set_xticks([0, 1], [_wrapped(name, 12) for name in pair.names])
    panel.set_xlim(-0.6, 1.6)
    panel.set_title(_wrapped(pair.what, 26), fontsize=8)


def _wrapped(text: str, width: int) -> str:
    """Text in short lines, broken at spaces and underscores."""
    lines = [""]
    for word in text.replace("_", " ").split():
        lines = [*lines[:-1], f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < width else [*lines, word]
    return "\n".join(lines)
