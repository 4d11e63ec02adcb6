"""The report's pictures as files for papers and slides: PNG, PDF or SVG by matplotlib, the extra `plots`."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent_tunix.components import QUADRANTS
from agent_tunix.diagnostics.cards import catalogue
from agent_tunix.errors import ConfigError, RunError, unknown
from agent_tunix.reports import _pairs, _pictures, _plots, _strips
from agent_tunix.reports._gather import Series, Told, gather
from agent_tunix.reports._pictures import _unit_scale, means_at
from agent_tunix.reports._plots import COLOURS, DASHES, MARKERS, SOFT, label
from agent_tunix.reports._samples import Map, distribution, solve_rates
from agent_tunix.reports._series import BLOCKS, at_steps, blocks, over_optimisation
from agent_tunix.reports._words import number

COLUMNS = 3
"""Panels side by side."""

Drawn = Iterator[tuple[str, Any]]
"""Names of files without their suffix, and figures."""


def write_figures(runs: Sequence[Path], folder: Path, *, format: str = "png") -> list[Path]:
    """Writes the figures of a run, or those of several runs over each other.

    Of one run: `reward` (block means with bands of two standard errors, bounds, held-out accuracy, shifts, findings),
    `components` (each of them, and their shares of the advantage), `tradeoff` for a pair of components (their way
    through the plane, the limit of their weights, quadrants with lift), `distance` (reward and held-out accuracy over
    the root of the divergence), `policy` (all other metrics), `prompts` (solve rates and rewards over time). What a run
    did not log is left out. Of several runs: `overlay`. The same run gives the same bytes.

    Args:
      runs: Run folders, or logs of any kind that `agent_tunix.diagnostics.reading.read` understands.
      folder: Where to; made if it is not there.
      format: `png`, `pdf` or `svg`.

    Returns:
      The files.

    Raises:
      ConfigError: For another format.
      RunError: If there is no run, one cannot be read, or the folder cannot be written.
      AgentTunixError: If matplotlib is missing.
    """
    if format not in _plots.NO_DATE:
        raise ConfigError(unknown("format of figures", format, _plots.NO_DATE))
    if not runs:
        raise RunError("figures need at least one run; give the path of a run folder or of a log")
    rc_context = _plots.matplotlib().rc_context
    told = [gather(Path(run)) for run in runs]
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with rc_context(_plots.STYLE):
            drawn = single(told[0]) if len(told) == 1 else overlay(told)
            return [_plots.save(figure, Path(folder) / f"{name}.{format}") for name, figure in drawn]
    except OSError as error:
        raise RunError(f"cannot write figures to {folder}: {error.strerror}; choose another folder") from error


def single(told: Told) -> Drawn:
    """The figures of one run."""
    for name, draw in (("reward", _reward), ("components", _components)):
        if (figure := draw(told)) is not None:
            yield name, figure
    for index, pair in enumerate(_opposed(told)):
        yield f"tradeoff-{index + 1}" if index else "tradeoff", _tradeoff(told, *pair)
    for name, draw in (("distance", _distance), ("policy", _policy), ("prompts", _prompts)):
        if (figure := draw(told)) is not None:
            yield name, figure


def _verdict(told: Told) -> str:
    worst = next((finding for finding in told.findings if finding.level == told.level), None)
    return f"{told.name}: {told.level}" + (f" ({worst.rule})" if worst and told.level != "healthy" else "")


def _reward(told: Told) -> Any:
    series, gold = told.of("rewards"), _pictures.gold(told)
    if series is None and gold is None:
        return None
    bounds = told.bounds(series.name) if series else None
    ends = [end for end in bounds or () if end is not None and math.isfinite(end)]
    # A reward far from the scale of an accuracy gets a panel of its own.
    apart = series is not None and gold is not None and not _unit_scale(series.values, ends)
    figure = _plots.page(9, 5.4 if apart else 3.8)
    axes = figure.subplots(2 if apart else 1, 1, sharex=True, squeeze=False)[:, 0]
    if series is not None:
        _plots.curve(axes[0], series.steps, series.values, "reward", _pictures.REWARD)
    if gold is not None:
        _plots.dotted(axes[-1], gold.steps, gold.values, gold.label, gold.style, gold.error)
    if series is not None:
        for end in ends:
            _plots.bound(axes[0], end, f"bound {number(end)}")
        for index, step in enumerate(_pictures.shifts(series)):
            name = "shift of the mean" if not index else None
            axes[0].axvline(step, color=SOFT, linewidth=0.8, alpha=0.7, linestyle=DASHES[2], label=name)
    _plots.marked(axes[0], _pictures.findings_on(told, "reward"))
    for axis, name in zip(axes, ("reward", "share"), strict=False):
        axis.set(ylabel=name if series is not None else "share")
        axis.legend(loc="best", ncols=3)
    axes[-1].set_xlabel("step")
    axes[0].set_title(_verdict(told))
    return figure


def _components(told: Told) -> Any:
    styles = _pictures.part_styles(told)
    if not styles:
        return None
    panels: list[Callable[[Any], None]] = [
        lambda axis, name=name, style=style: _component(axis, told, name, style) for name, style in styles.items()
    ]
    if len(styles) > 1:
        panels.append(lambda axis: _shares(axis, told, styles))
    return _grid(panels)


def _component(axis: Any, told: Told, name: str, style: int) -> None:
    series = told.of("reward_component", name)
    if series is None:
        return
    _plots.curve(axis, series.steps, series.values, name, style)
    for end in told.bounds(series.name) or ():
        if end is not None and math.isfinite(end):
            _plots.bound(axis, end, f"bound {number(end)}")
    _plots.marked(axis, _pictures.findings_on(told, "parts", name))
    axis.set(title=label(name), xlabel="step", ylabel="mean before its weight")


def _shares(axis: Any, told: Told, styles: dict[str, int]) -> None:
    found = {name: told.named(f"reward/part/{name}/advantage_share") for name in styles}
    known = {name: series for name, series in found.items() if series is not None}
    if len(known) < 2:
        _plots.empty(axis, "no shares of the advantage were logged")
        return
    longest = max(known.values(), key=lambda series: len(series.values))
    steps = blocks(longest.steps, longest.values, 2 * BLOCKS).steps
    layers = {name: means_at(steps, series, 2 * BLOCKS) for name, series in known.items()}
    _plots.stacked(axis, steps, layers, [styles[name] for name in known])
    axis.set(title="Shares of the advantage", xlabel="step", ylabel="share")
    axis.legend(loc="best")


def _grid(panels: Sequence[Callable[[Any], None]], high: float = 2.5, wide: float = 3.4) -> Any:
    """Small panels in rows of three."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = _plots.page(max(wide * columns, 4.2), high * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        panel(axis)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure


def _opposed(told: Told) -> list[tuple[str, str]]:
    """The pairs that work against each other most, at most three."""

    def strength(pair: tuple[str, str]) -> float:
        series = told.named(f"tradeoff/{pair[0]}__{pair[1]}/correlation")
        return float(series.values.mean()) if series else 0.0

    return sorted(told.pairs, key=strength)[:3]


def _tradeoff(told: Told, first: str, second: str) -> Any:
    quadrants, limits = _lifts(told, first, second), _closest_limit(told, first, second)
    panels: list[Callable[[Any], None]] = [lambda axis: _phase(axis, told, first, second)]
    panels += [lambda axis: _limit(axis, *limits)] if limits else []
    panels += [lambda axis: _lift(axis, quadrants)] if quadrants else []
    return _grid(panels, high=3.6, wide=4.4)


def _phase(axis: Any, told: Told, first: str, second: str) -> None:
    """The way of two components through their plane; rings where the second was forecast to fall."""
    one, other = told.of("reward_component", first), told.of("reward_component", second)
    if one is None or other is None:
        _plots.empty(axis, "a component has no values")
        return
    means = blocks(one.steps, one.values, 2 * BLOCKS)
    x, y = means.mean, means_at(means.steps, other, 2 * BLOCKS)
    forecast = told.named(f"tradeoff/{first}__{second}/forecast")
    falls = means_at(means.steps, forecast, 2 * BLOCKS) < 0 if forecast else np.zeros(len(x), bool)
    axis.plot(x, y, color=SOFT, linewidth=0.8, alpha=0.6)
    dots = axis.scatter(x, y, c=means.steps, cmap="cividis_r", s=24, zorder=3)
    if falls.any():
        ring = {"facecolors": "none", "edgecolors": COLOURS[1], "linewidths": 1.4, "s": 70, "zorder": 4}
        axis.scatter(x[falls], y[falls], label=f"{label(second, 20)} is forecast to fall", **ring)
        axis.legend(loc="best")
    for index, word in ((0, "start"), (-1, "end")):
        axis.annotate(word, (x[index], y[index]), (5, 5), textcoords="offset points", fontsize=8, fontweight="bold")
    axis.figure.colorbar(dots, ax=axis, label="step", pad=0.02)
    axis.set(title="Way through the plane", xlabel=label(first), ylabel=label(second))


def _closest_limit(told: Told, first: str, second: str) -> tuple[str, str, Series, Series] | None:
    """Names, actual ratio of the weights and limit w*, in the direction in which the limit is lower."""
    found = {pair: _pairs.ratio_and_limit(told, *pair) for pair in ((first, second), (second, first))}
    known = [(*pair, *both) for pair, both in found.items() if both is not None and len(both[1].values) > 2]
    return min(known, key=lambda entry: float(np.nanmedian(entry[3].values)), default=None)


def _limit(axis: Any, first: str, second: str, ratio: Series, limit: Series) -> None:
    means = blocks(limit.steps, limit.values)
    stretches = zip(means.first, means.last, strict=True)
    medians = [np.median(limit.values[(limit.steps >= low) & (limit.steps <= high)]) for low, high in stretches]
    axis.plot(limit.steps, limit.values, ".", color=COLOURS[1], markersize=3, alpha=0.35)
    strong = {"color": COLOURS[1], "linestyle": DASHES[1], "linewidth": 1.9}
    axis.plot(means.steps, medians, label="limit w* (block medians)", **strong)
    axis.plot(ratio.steps, ratio.values, color=COLOURS[0], linewidth=1.9, label="actual ratio")
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(lambda value, _: number(value))
    axis.yaxis.set_minor_formatter(lambda value, _: number(value) if f"{value:.0e}"[0] in "25" else "")
    axis.set(title=f"{label(second, 18)} falls above w*", xlabel="step")
    axis.set(ylabel=f"weight of {label(first, 18)} / of {label(second, 18)}")
    axis.legend(loc="best")


def _lifts(told: Told, first: str, second: str) -> list[tuple[str, float, float]]:
    """Quadrant, share among all, and lift: how much more often it is among completions with positive credit."""
    rows = []
    for quadrant in QUADRANTS[:4]:
        name = f"tradeoff/{first}__{second}/quadrant_{quadrant}"
        every, positive = told.named(f"{name}_all"), told.named(f"{name}_positive")
        if every is not None and positive is not None and every.values.mean() > 0:
            words = _pairs.QUADRANT_NAMES[quadrant].format(a=label(first, 14), b=label(second, 14))
            share = float(every.values.mean())
            rows.append((words.replace(", ", ",\n"), share, float(positive.values.mean()) / share))
    return rows


def _lift(axis: Any, rows: Sequence[tuple[str, float, float]]) -> None:
    names, shares, lifts = zip(*rows, strict=True)
    colours = [COLOURS[2] if lift > 1 else COLOURS[1] for lift in lifts]
    axis.barh(names, [lift - 1 for lift in lifts], left=1, color=colours, height=0.6)
    for row, (share, lift) in enumerate(zip(shares, lifts, strict=True)):
        words = f"×{number(lift, 2)} ({number(100 * share, 2)} % of all)"
        place = {"textcoords": "offset points", "va": "center", "fontsize": 8}
        axis.annotate(words, (max(lift, 1), row), (4, 0), **place)
    axis.axvline(1, color=SOFT, linewidth=1)
    axis.invert_yaxis()
    axis.set_xlim(0, max(2.0, *lifts) * 1.9)
    axis.set(title="Whom credit prefers", xlabel="lift: share with positive credit / share of all")


def _distance(told: Told) -> Any:
    kl, proxy, gold = told.of("kl"), told.of("rewards"), told.of("eval_accuracy")
    if kl is None or proxy is None or len(kl.values) < 6 or float(kl.values.max()) <= 0:
        return None
    figure = _plots.page(7, 3.8)
    axis = figure.subplots()
    means = blocks(kl.steps, kl.values, 2 * BLOCKS)
    look = {"linestyle": "none", "marker": MARKERS[0], "markersize": 4, "color": COLOURS[0]}
    axis.plot(np.sqrt(np.maximum(means.mean, 0)), means_at(means.steps, proxy, 2 * BLOCKS), label="reward", **look)
    if gold is not None:
        _gold_over_distance(axis, kl, gold)
    axis.set(
        xlabel="√KL from the reference, √nats", ylabel="reward, accuracy", title="What distance from the reference buys"
    )
    axis.legend(loc="best")
    return figure


def _gold_over_distance(axis: Any, kl: Series, gold: Series) -> None:
    late = gold.steps >= kl.steps[0]
    x, y = np.sqrt(np.maximum(at_steps(gold.steps[late], kl.steps, kl.values), 0)), gold.values[late]
    axis.plot(x, y, linestyle="none", marker=MARKERS[1], markersize=5, color=COLOURS[1], label="held-out accuracy")
    fit = over_optimisation(x, y)
    if fit is None:
        return
    grid = np.linspace(0, x.max(), 100)
    axis.plot(grid, fit.at(grid), color=COLOURS[6], linestyle=DASHES[6], label="c + d (a − b log d)")
    if fit.peak <= x.max():
        axis.axvline(fit.peak, color=COLOURS[3], linestyle=DASHES[2], label=f"peak of the fit at {number(fit.peak)}")


def _policy(told: Told) -> Any:
    panels: list[Callable[[Any], None]] = []
    for card in _strips.STRIPS:
        series = told.of(card)
        if series is not None and _moves(series):
            panels.append(lambda axis, card=card, series=series: _strip(axis, told, card, series))
    return _grid(panels, high=2.2) if panels else None


def _moves(series: Series) -> bool:
    return bool(np.ptp(series.values) > 1e-9 * max(1.0, float(np.abs(series.values).max())))


def _titled(axis: Any, card_id: str) -> None:
    card = catalogue().get(card_id)
    axis.set(title=card.name if card else card_id, xlabel="step", ylabel=(card.unit if card else "") or "value")


def _strip(axis: Any, told: Told, card: str, series: Series) -> None:
    _plots.curve(axis, series.steps, series.values, "all", _pictures.REWARD)
    for index, (other, component, statistic, name) in enumerate(_strips.COMPANIONS.get(card, ())):
        if (more := told.of(other, component, statistic)) is not None:
            _plots.curve(axis, more.steps, more.values, name, 1 + index)
            axis.legend(loc="best")
    _plots.unspiked(axis, series.values)
    _plots.marked(axis, _pictures.findings_on(told, card))
    _titled(axis, card)


def _prompts(told: Told) -> Any:
    found = [(solve_rates(told.batches), "Solve rate"), (distribution(told.batches), "Distribution of the reward")]
    known = [(what, title) for what, title in found if what is not None]
    if not known:
        return None
    figure = _plots.page(9, 2.9 * len(known))
    for axis, (what, title) in zip(figure.subplots(len(known), 1, squeeze=False)[:, 0], known, strict=True):
        _map(figure, axis, what, title)
    return figure


def _map(figure: Any, axis: Any, what: Map, title: str) -> None:
    spread = title.startswith("Distribution")
    cells = _plots.heat(axis, what.table, what.steps, (what.low, what.high), root=spread)
    figure.colorbar(cells, ax=axis, label=what.what if len(what.what) < 40 else "rate", pad=0.01)
    names = "prompts, the hardest on top" if what.rows else "share of prompts, the hardest on top"
    axis.set(title=title, xlabel="step", ylabel="reward" if spread else names)
    if what.rows and not spread:
        axis.set_yticks([])


def overlay(told: Sequence[Told]) -> Drawn:
    """Several runs over each other, one panel per metric, reward and held-out accuracy first."""
    panels: list[Callable[[Any], None]] = []
    for card in ("rewards", "eval_accuracy", *_strips.STRIPS):
        found = [(index, run.name, series) for index, run in enumerate(told) if (series := run.of(card)) is not None]
        if any(_moves(series) for _, _, series in found):
            panels.append(lambda axis, card=card, found=found: _together(axis, card, found))
    if panels:
        yield "overlay", _grid(panels, high=2.6)


def _together(axis: Any, card: str, found: Sequence[tuple[int, str, Series]]) -> None:
    for index, name, series in found:
        draw = _plots.dotted if card == "eval_accuracy" else _plots.curve
        draw(axis, series.steps, series.values, name, index)
    if card in ("rewards", "eval_accuracy"):
        axis.legend(loc="best")
    _titled(axis, card)
