"""Two components at a time: their way through the plane, the limit of their weights, and whom credit prefers."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from agent_tunix.components import QUADRANTS
from agent_tunix.reports import _svg
from agent_tunix.reports._chart import HIGH, NARROW, Chart, Curve, Mark, Table, chart
from agent_tunix.reports._gather import Told
from agent_tunix.reports._pictures import QUADRANT_NAMES, _falls, curve, means_at, ratio_and_limit
from agent_tunix.reports._series import BLOCKS, blocks
from agent_tunix.reports._words import cut, number, stretch_of_steps


class Pair(NamedTuple):
    """What the page tells about two components.

    Attributes:
      first: The one.
      second: The other.
      charts: Their pictures.
      quadrants: Rows of the quadrant table: label, share of all, of positive and of negative credit, lift.
      steps: Which steps the table counts, in words.
      verdict: What the numbers say, in a sentence.
      unlimited: Why there is no picture of the weight limit; empty if there is one.
    """

    first: str
    second: str
    charts: Sequence[Chart]
    quadrants: Sequence[Mapping[str, object]]
    steps: str
    verdict: str
    unlimited: str


def pairs(told: Told, most: int = 3) -> list[Pair]:
    """The pairs of components that work against each other most come first."""

    def strength(pair: tuple[str, str]) -> float:
        series = told.named(f"tradeoff/{pair[0]}__{pair[1]}/correlation")
        return float(series.values.mean()) if series else 0.0

    return [_pair(told, *pair, index) for index, pair in enumerate(sorted(told.pairs, key=strength)[:most])]


def _pair(told: Told, first: str, second: str, index: int) -> Pair:
    limit = _limits(told, first, second, f"limit-{index}")
    charts = [
        _phase(told, first, second, f"phase-{index}"),
        _correlation(told, first, second, f"correlation-{index}"),
        limit,
    ]
    rows, steps = quadrant_rows(told, first, second)
    why = (
        "Nothing to draw: there is a limit only where the two work against each other, and both weights must be known."
    )
    unlimited = "" if limit else why
    charts = [one for one in charts if one]
    names = cut(first, 60)[0], cut(second, 60)[0]
    return Pair(names[0], names[1], charts, rows, steps, _verdict(told, first, second), unlimited)


def _phase(told: Told, first: str, second: str, key: str) -> Chart | None:
    """The way of two components through their plane, light to dark; rings where the second was to fall."""
    one, other = told.of("reward_component", first), told.of("reward_component", second)
    if one is None or other is None or len(one.values) < 3 or len(other.values) < 3:
        return None
    means = blocks(one.steps, one.values, 2 * BLOCKS)
    x, y = means.mean, means_at(means.steps, other, 2 * BLOCKS)
    rings = _falls(told, first, second, means.steps)
    on = _svg.frame(_svg.span([x]), _svg.span([y]), width=NARROW[0], height=HIGH[1])
    shade = np.linspace(0.25, 0.999, len(x))
    names = [cut(name, 30)[0] for name in (first, second)]
    body = [_svg.axes(on, *names), _svg.line(on, x, y, 6, "path"), _svg.shaded_dots(on, x, y, shade, rings)]
    start, end = (f"({number(x[i])}, {number(y[i])})" for i in (0, -1))
    summary = f"{names[0]} and {names[1]} go from {start} to {end}."
    if rings.any():
        summary += f" {rings.sum()} of {len(rings)} points are rings: there {names[1]} was forecast to fall."
    title = f"{names[0]} against {names[1]}"
    rows = [[f"{s:g}", number(a), number(b)] for s, a, b in zip(means.steps, x, y, strict=True)]
    note = "Light to dark: first to last step."
    if rings.any():
        note += f" Ring: the weight of {names[0]} is over w*, the limit from which on {names[1]} falls."
    picture = _svg.drawing(on, body, key=key, title=title, summary=summary)
    return Chart(key, title, picture, summary, table=Table(["step", *names], rows), note=note)


def _limits(told: Told, first: str, second: str, key: str) -> Chart | None:
    """The limit w* beside the actual ratio of the weights, in the direction in which it is the closer one."""
    found = {pair: ratio_and_limit(told, *pair) for pair in ((first, second), (second, first))}
    known = {pair: both for pair, both in found.items() if both is not None and len(both[1].values) > 2}
    if not known:
        return None
    (a, b), (ratio, limit) = min(known.items(), key=lambda item: float(np.nanmedian(item[1][1].values)))
    names = [cut(name, 30)[0] for name in (a, b)]
    means = blocks(limit.steps, limit.values, BLOCKS)
    top = 2.5 * float(np.nanmedian([*ratio.values, *means.mean]))
    y = (0.0, max(top, 1.2 * float(np.nanmax(ratio.values)), 1e-6)) if np.isfinite(ratio.values).any() else None
    curves = [
        Curve("limit w*", limit.steps, limit.values, 1),
        Curve("actual ratio of the weights", ratio.steps, ratio.values, 0, plain=True),
    ]
    note = (
        f"w* is the weight of {names[0]} over that of {names[1]} from which on {names[1]} is pushed down. "
        "No point where the two do not work against each other: then there is no limit."
    )
    return chart(key, f"Weight limit of {names[0]}", curves, unit="ratio of weights", y=y, note=note)


def _correlation(told: Told, first: str, second: str, key: str) -> Chart | None:
    series = told.named(f"tradeoff/{first}__{second}/correlation")
    if series is None:
        return None
    zero = Mark(0.0, 0.0, "no relation", "bound")
    title = "Correlation within groups"
    low, high = float(min(series.values.min(), -0.2)), float(max(series.values.max(), 0.2))
    curves = [curve("correlation", series, 3)]
    return chart(key, title, curves, unit="correlation", marks=[zero], y=(1.1 * low, 1.1 * high))


def quadrant_rows(told: Told, first: str, second: str) -> tuple[list[dict[str, object]], str]:
    """The quadrant table as means over steps, with lift: share among positive credit over share among all.

    Also which steps those are, in words; empty where nothing is known.
    """
    rows, steps = [], ""
    names = {"a": cut(first, 30)[0], "b": cut(second, 30)[0]}
    for quadrant in QUADRANTS:
        series = {
            side: told.named(f"tradeoff/{first}__{second}/quadrant_{quadrant}_{side}")
            for side in ("all", "positive", "negative")
        }
        if series["all"] is None:
            continue
        steps = stretch_of_steps(*series["all"].steps[[0, -1]])
        means = {side: float(one.values.mean()) if one else math.nan for side, one in series.items()}
        lift = means["positive"] / means["all"] if means["all"] > 0 else math.nan
        label = QUADRANT_NAMES[quadrant].format(**names)
        rows.append({"label": label, **{side: number(mean, 2) for side, mean in means.items()}, **_lift(lift)})
    return rows, steps


def _lift(lift: float) -> dict[str, object]:
    """The number, and a shade: 0 for none, 4 for as usual, 8 for twice as often or more."""
    return {"lift": number(lift, 2), "shade": round(min(max(lift, 0.0), 2.0) * 4) if math.isfinite(lift) else -1}


def _verdict(told: Told, first: str, second: str) -> str:
    """Whether the push on one component presses on the other, from the steps' forecasts."""
    said = []
    for a, b in ((first, second), (second, first)):
        forecast = told.named(f"tradeoff/{a}__{b}/forecast")
        if forecast is not None and len(forecast.values):
            share = float((forecast.values < 0).mean())
            said.append(f"{cut(b, 30)[0]} at {share:.0%} of the steps")
    return f"Forecast to fall: {', '.join(said)}." if said else ""
