"""Strip charts: every metric of the policy, the lengths and the groups, with what its card says about it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from agent_tunix.diagnostics.cards import Card, catalogue
from agent_tunix.reports import _svg
from agent_tunix.reports._chart import Chart, Curve, chart
from agent_tunix.reports._gather import Series, Told
from agent_tunix.reports._pictures import COMPANIONS, REWARD, STRIPS, curve, findings_on


class Strip(NamedTuple):
    """A strip chart with the card of its metric.

    Attributes:
      chart: The picture.
      card: What the metric is; None for a metric without one.
      thumbnails: Small drawings of how it looks in health and in illness: label, drawing, analysis.
    """

    chart: Chart
    card: Card | None
    thumbnails: Sequence[tuple[str, str, str]]


def strips(told: Told) -> tuple[list[Strip], list[tuple[str, float]]]:
    """Strip charts of what was logged, and the metrics that never moved with their value."""
    moving, constant = [], []
    for card_id in STRIPS:
        series = told.of(card_id)
        card = catalogue().get(card_id)
        if series is None:
            continue
        label = card.name if card else card_id
        # Rounding apart, a metric such as the ratio of an on-policy step is one number for the whole run.
        if np.ptp(series.values) <= 1e-9 * max(1.0, float(np.abs(series.values).max())):
            constant.append((label, float(series.values[0])))
        else:
            moving.append(Strip(_strip(told, card_id, series, label, card), card, thumbnails(card)))
    return moving, constant


def _strip(told: Told, card_id: str, series: Series, label: str, card: Card | None) -> Chart:
    curves = [curve(label, series, REWARD)]
    for index, (other, component, statistic, name) in enumerate(COMPANIONS.get(card_id, ())):
        more = told.of(other, component, statistic)
        if more is not None:
            curves.append(Curve(name, more.steps, more.values, 1 + index, dotted=len(more.values) < 60))
    return chart(card_id, label, curves, unit=(card.unit if card else "") or "value", marks=findings_on(told, card_id))


def thumbnails(card: Card | None) -> list[tuple[str, str, str]]:
    """How a metric looks in health and in illness, from its card."""
    drawn = []
    if card is None:
        return []
    for example in card.curves():
        values = np.asarray(example.values, np.float64)
        ranges = [_svg.widened(*_svg.span([axis])) for axis in (example.steps, values)]
        on = _svg.Frame(120, 54, 3, 117, 4, 50, *ranges)
        style = 2 if example.key == "healthy" else 1
        label = "Healthy" if example.key == "healthy" else example.label
        key = f"{card.id}-{example.key}"
        steps, kept = (
            np.asarray(example.steps, np.float64)[:: max(len(values) // 60, 1)],
            values[:: max(len(values) // 60, 1)],
        )
        body = [_svg.line(on, steps, kept, style, "mean")]
        picture = _svg.drawing(on, body, key=f"thumb-{key}", title=f"Example: {label}", summary=example.analysis)
        drawn.append((label, picture, example.analysis))
    return drawn


def overlay(told: Sequence[Told]) -> list[Chart]:
    """Reward, held-out accuracy and every strip chart with all runs on one axis."""
    charts = []
    for card_id, title in [("rewards", "Reward"), ("eval_accuracy", "Held-out accuracy"), *((c, "") for c in STRIPS)]:
        card = catalogue().get(card_id)
        curves = []
        for index, run in enumerate(told):
            series = run.of(card_id)
            if series is not None:
                curves.append(Curve(run.name, series.steps, series.values, index, dotted=card_id == "eval_accuracy"))
        if curves and any(np.ptp(curve.values) > 1e-9 for curve in curves):
            wide = card_id in ("rewards", "eval_accuracy")
            unit = (card.unit if card else "") or "value"
            key = "reward" if card_id == "rewards" else card_id  # findings point at it by this name
            charts.append(chart(key, title or (card.name if card else card_id), curves, unit=unit, wide=wide))
    return charts
