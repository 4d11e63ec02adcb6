"""The pictures of one run or several: which series go together, and what is marked in them."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from agent_tunix.reports import _svg
from agent_tunix.reports._chart import HIGH, WIDE, Chart, Curve, Key, Mark, Table, chart, stacked
from agent_tunix.reports._gather import Series, Told
from agent_tunix.reports._samples import Batch, Map, distribution, solve_rates
from agent_tunix.reports._series import BLOCKS, at_steps, blocks, change_points, over_optimisation
from agent_tunix.reports._words import cut, number

REWARD, GOLD, FIRST_PART = 0, 1, 2
"""Styles that mean the same in every picture; components follow from the third on."""

STRIPS = (
    "entropy",
    "kl",
    "completion_length",
    "clipped_ratio",
    "frac_reward_zero_std",
    "reward_std",
    "grad_norm",
    "loss",
    "clip_ratio",
    "importance_ratio",
    "approx_kl",
    "sampler_mismatch",
    "answer_spam",
    "repetition",
    "empty_completions",
    "failed_grader",
    "invalid_reward",
    "advantages",
    "value_loss",
    "explained_variance",
    "reward_margins",
    "learning_rate",
    "step_time",
)
"""Cards with a strip chart, in the order of the page."""

COMPANIONS: Mapping[str, tuple[tuple[str, str, str, str], ...]] = {
    "completion_length": (("terminated_length", "", "mean", "of those that ended"),),
    "clipped_ratio": (("clipped_ratio", "", "eval", "held-out, greedy"),),
    "clip_ratio": (("clip_ratio", "", "low", "at the lower bound"), ("clip_ratio", "", "high", "at the upper bound")),
}
"""Series that stand in the picture of another: card, component, statistic and label."""

QUADRANT_NAMES: Mapping[str, str] = {
    "pp": "{a} up, {b} up",
    "pm": "{a} up, {b} down",
    "mp": "{a} down, {b} up",
    "mm": "{a} down, {b} down",
    "tie": "at the mean in one of them",
}

PLACES: Mapping[str, tuple[str, str]] = {
    "stagnation": ("reward", "best_wrong"),
    "exceeds_bound": ("reward", ""),
    "explosive_growth": ("reward", ""),
    "proxy_gold_divergence": ("reward", "best_wrong"),
    "length_drift": ("completion_length", "longest"),
    "format_only": ("parts", "best_wrong"),
    "answer_spam": ("answer_spam", "several"),
    "collapse": ("reward", "worst"),
    "variance_collapse": ("frac_reward_zero_std", ""),
    "saturated_high": ("reward", "best_wrong"),
    "saturated_low": ("reward", "best_wrong"),
    "too_noisy": ("reward", ""),
    "tradeoff": ("parts", ""),
    "kl_blowup": ("kl", "latest"),
    "entropy_collapse": ("entropy", "latest"),
    "entropy_explosion": ("entropy", "worst"),
    "grad_spike": ("grad_norm", ""),
    "truncation": ("clipped_ratio", "truncated"),
    "sampler_mismatch": ("sampler_mismatch", ""),
    "dead_component": ("parts", ""),
    "failed_grader": ("failed_grader", "failed"),
    "non_finite": ("loss", ""),
}
"""Rule to the picture that shows it and the kind of samples that do, empty for none."""


def curve(label: str, series: Series, style: int) -> Curve:
    """A series with its label and its line style."""
    return Curve(label, series.steps, series.values, style)


def findings_on(told: Told, place: str, component: str = "") -> list[Mark]:
    """Stretches of the findings that a picture shows; of those about one component, only its own picture."""
    return [
        Mark(*finding.steps, f"{finding.rule}: {finding.message}", finding.level)
        for finding in told.findings
        if PLACES.get(finding.rule, ("", ""))[0] == place and finding.evidence.get("component", component) == component
    ]


def gold(told: Told, style: int = GOLD, label: str = "held-out accuracy") -> Curve | None:
    """Held-out accuracy with two standard errors of sampling, where the number of questions is known."""
    series = told.of("eval_accuracy")
    if series is None:
        return None
    error = None
    if told.log.eval_samples:
        share = np.clip(series.values, 0.0, 1.0)
        error = 2.0 * np.sqrt(share * (1.0 - share) / told.log.eval_samples)
    return Curve(label, series.steps, series.values, style, dotted=True, error=error)


def reward(told: Told) -> list[Chart]:
    """The reward with its bounds and shifts, and held-out accuracy on the same axis where the scales allow it."""
    series, held_out = told.of("rewards"), gold(told)
    if series is None:
        return [] if held_out is None else [chart("gold", "Held-out accuracy", [held_out], unit="share", wide=True)]
    marks = _bounds(told.bounds(series.name))
    ends = [mark.first for mark in marks]
    marks += [Mark(step, step, f"the mean shifts at step {step:g}", "shift") for step in shifts(series)]
    marks += findings_on(told, "reward")
    fits = _unit_scale(series.values, ends)
    curves = [curve("reward", series, REWARD), *([held_out] if held_out and fits else [])]
    note = "Faint: every step. Strong: block means with a band of two standard errors. "
    note = note if len(series.values) > 14 else ""
    if held_out and fits and held_out.error is not None:
        note += f"Bars: two standard errors of {told.log.eval_samples} questions."
    charts = [chart("reward", "Reward", curves, unit="reward", marks=marks, wide=True, note=note)]
    if held_out and not fits:
        charts.append(chart("gold", "Held-out accuracy", [held_out], unit="share", wide=True))
    return charts


def _bounds(bounds: tuple[float, float] | None) -> list[Mark]:
    """Levels at the finite ends of a range."""
    named = zip(bounds or (), ("lower bound", "upper bound"), strict=False)
    ends = [(end, word) for end, word in named if end is not None and math.isfinite(end)]
    return [Mark(end, end, f"{word} {number(end)}", "bound") for end, word in ends]


def _unit_scale(values: np.ndarray, ends: Sequence[float]) -> bool:
    """Whether a reward can share an axis with an accuracy."""
    everything = [float(values.min()), float(values.max()), *ends]
    return min(everything) >= -1.0 and 0.05 <= max(everything) <= 2.0


def shifts(series: Series, most: int = 400) -> list[float]:
    """Steps at which the mean of a series shifts; a longer series is averaged down first."""
    steps, values = series.steps, series.values
    if len(values) > most:
        cells = np.array_split(np.arange(len(values)), most)
        steps, values = np.array([[steps[c[0]], values[c].mean()] for c in cells]).T
    return [float(steps[index]) for index in change_points(values)]


def part_styles(told: Told) -> dict[str, int]:
    """One style for each component, the same in every picture."""
    return {name: FIRST_PART + index for index, name in enumerate(told.parts)}


def parts(told: Told) -> list[Chart]:
    """Small multiples of the components, raw means on their own ranges."""
    charts = []
    for index, (name, style) in enumerate(part_styles(told).items()):
        series = told.of("reward_component", name)
        if series is None:
            continue
        marks = [*findings_on(told, "parts", name), *_bounds(told.bounds(series.name))]
        shown = cut(name, 60)[0]
        charts.append(chart(f"part-{index}", shown, [curve(shown, series, style)], unit="raw mean", marks=marks))
    return charts


def shares(told: Told) -> Chart | None:
    """Each component's signed share of the advantage, stacked."""
    found = {name: told.named(f"reward/part/{name}/advantage_share") for name in told.parts}
    present = {name: series for name, series in found.items() if series is not None}
    if len(present) < 2:
        return None
    longest = max(present.values(), key=lambda series: len(series.values))
    steps = blocks(longest.steps, longest.values, 40).steps
    layers = {cut(n, 60)[0]: means_at(steps, s, 40) for n, s in present.items()}
    note = "Shares of the reward's variance within groups. They add up to 1; a negative one works against the total."
    styles = part_styles(told)
    return stacked(
        "shares",
        "Shares of the advantage",
        steps,
        layers,
        styles=[styles[name] for name in present],
        unit="share",
        note=note,
    )


def means_at(steps: np.ndarray, series: Series, count: int) -> np.ndarray:
    """Block means of a series, interpolated at the given steps."""
    means = blocks(series.steps, series.values, count)
    return np.interp(steps, means.steps, means.mean)


def ratio_and_limit(told: Told, first: str, second: str) -> tuple[Series, Series] | None:
    """How much more the first component weighs than the second, and how much it may before the second falls."""
    limit = told.named(f"tradeoff/{first}__{second}/weight_limit")
    ours, theirs = (told.named(f"reward/part/{name}/weight") for name in (first, second))
    if limit is None or ours is None or theirs is None:
        return None
    above, below = (at_steps(limit.steps, weight.steps, weight.values) for weight in (ours, theirs))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(np.abs(below) > 1e-12, above / below, np.nan)
    return Series("weight ratio", limit.steps, ratio), limit


def _falls(told: Told, first: str, second: str, steps: np.ndarray) -> np.ndarray:
    """Where the first-order forecast of the second component is negative."""
    forecast = told.named(f"tradeoff/{first}__{second}/forecast")
    if forecast is None:
        return np.zeros(len(steps), bool)
    return means_at(steps, forecast, 2 * BLOCKS) < 0


def distance(told: Told) -> Chart | None:
    """Reward and held-out accuracy over the root of the divergence from the reference, with the curve that fits."""
    kl, proxy, held_out = told.of("kl"), told.of("rewards"), told.of("eval_accuracy")
    if kl is None or proxy is None or len(kl.values) < 6 or float(kl.values.max()) <= 0:
        return None
    means = blocks(kl.steps, kl.values, 2 * BLOCKS)
    root = np.sqrt(np.maximum(means.mean, 0.0))
    label, proxy = _beside_a_share(told, proxy) if held_out is not None else ("reward", proxy)
    lines = [(label, root, means_at(means.steps, proxy, 2 * BLOCKS), REWARD)]
    if held_out is not None:
        at = np.sqrt(np.maximum(at_steps(held_out.steps, kl.steps, kl.values), 0.0))
        late = held_out.steps >= kl.steps[0]
        lines.append(("held-out accuracy", at[late], held_out.values[late], GOLD))
    x, y = _svg.span([line[1] for line in lines]), _svg.span([line[2] for line in lines])
    fit = over_optimisation(lines[-1][1], lines[-1][2]) if held_out is not None else None
    legend = [Key(label, style, "dots") for label, _, _, style in lines]
    summary = " ".join(f"{label} from {number(v[0])} to {number(v[-1])}." for label, _, v, _ in lines if len(v))
    note = "No over-optimisation curve: a straight line describes the held-out accuracy as well."
    if fit is not None:
        legend.append(Key("d (a − b log d)", 6, "line"))
        note = _peak_note(fit.peak, float(lines[-1][1].max()), fit.aic)
    elif held_out is None:
        note = "There is no held-out accuracy in this log, so over-optimisation cannot be seen."
    unit = "√KL from the reference, √nats"

    def draw(width: float, height: float, suffix: str = "") -> str:
        on = _svg.frame(x, y, width=width, height=height)
        body = [_svg.axes(on, unit, "reward, accuracy")]
        if fit is not None:
            grid = np.linspace(*x, 80)
            body.append(_svg.line(on, grid, fit.at(grid), 6, "mean"))
            body.append(_svg.upright(on, fit.peak, f"peak of the fit at {number(fit.peak)}"))
        body += [_svg.dots(on, a, b, style) for _, a, b, style in lines]
        return _svg.drawing(on, body, key=f"distance{suffix}", title="Reward over distance", summary=summary)

    return Chart(
        "distance",
        "What distance from the reference buys",
        draw(*WIDE),
        summary,
        draw(*HIGH, "-small"),
        legend,
        Table(["√KL", lines[-1][0]], [[number(a), number(b)] for a, b in zip(*lines[-1][1:3], strict=True)]),
        note=note,
    )


def _beside_a_share(told: Told, series: Series) -> tuple[str, Series]:
    """A reward that can stand beside an accuracy, put on the scale of its bounds or of its own range if need be."""
    low, high = told.bounds(series.name) or (-math.inf, math.inf)
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = float(series.values.min()), float(series.values.max())
    if _unit_scale(series.values, ()) or high <= low:
        return "reward", series
    label = f"reward, {number(low)} to {number(high)} drawn as 0 to 1"
    return label, series._replace(values=(series.values - low) / (high - low))


def _peak_note(peak: float, reached: float, aic: float) -> str:
    said = f"The held-out accuracy follows d (a − b log d) better than a line (AIC {number(aic, 2)})"
    if not math.isfinite(peak):
        return f"{said}, without a peak."
    if peak > reached:
        return f"{said}; its peak, at √KL = {number(peak)}, has not been reached."
    return f"{said}; its peak is at √KL = {number(peak)} and the run went on to {number(reached)}: more of it hurts."


def heat(key: str, title: str, what: Map, *, y_label: str, note: str, table: Table, root: bool = False) -> Chart:
    """A map over steps; its rows are named prompts, ranks or a scale."""
    shades = np.sqrt(what.table) if root else what.table
    finite = what.table[np.isfinite(what.table)]
    least, most = (number(float(end), 2) for end in (finite.min(), finite.max()))
    step = (what.steps[-1] - what.steps[0]) / max(len(what.steps) - 1, 1) or 1.0
    x = (float(what.steps[0] - step / 2), float(what.steps[-1] + step / 2))
    summary = f"{what.what.capitalize()} over steps, from {least} to {most}; the numbers are in the table below."

    def draw(width: float, height: float, suffix: str = "") -> str:
        on = _svg.frame(x, (what.low, what.high), width=width, height=height)
        body = [_svg.axes(on, "step", y_label, y_ticks=[] if what.rows else None), _svg.cells(on, shades)]
        return _svg.drawing(on, body, key=key + suffix, title=title, summary=summary, kind="map")

    note = f"{note} From {least} (light) to {most} (dark)."
    return Chart(key, title, draw(*WIDE), summary, draw(*HIGH, "-small"), table=table, note=note)


def solve_map(batches: Sequence[Batch]) -> Chart | None:
    """Solve rates by prompt and step."""
    rates = solve_rates(batches)
    if rates is None:
        return None
    if rates.rows:
        note, y_label = "One row per prompt, the easiest at the bottom.", "prompts"
        rows = [[cut(name, 80)[0], number(mean(row), 2)] for name, row in zip(rates.rows, rates.table, strict=True)]
        table = Table(["prompt", f"mean {rates.what}"], rows)
    else:
        note = "Prompts seldom come back, so a row is a rank: in every batch the best solved prompts are at the bottom."
        y_label = "share of prompts"
        rows = [[f"{step:g}", number(mean(one), 2)] for step, one in zip(rates.steps, rates.table.T, strict=True)]
        table = Table(["step", f"mean {rates.what}"], rows)
    return heat("solve", "Solve rate by prompt", rates, y_label=y_label, note=note, table=table)


def mean(values: np.ndarray) -> float:
    """Mean of what is finite; nan of nothing."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def reward_map(batches: Sequence[Batch]) -> Chart | None:
    """How rewards are distributed, by step."""
    spread = distribution(batches)
    if spread is None:
        return None
    note = "How many completions of a batch have which reward; the shade goes with the square root of the share."
    table = Table(["step", "lowest", "median", "highest"], [_quantiles(batch) for batch in batches])
    return heat("spread", "Distribution of the reward", spread, y_label="reward", note=note, table=table, root=True)


def _quantiles(batch: Batch) -> list[str]:
    values = sorted(record["reward"] for record in batch if record.get("reward") is not None)
    picked = [values[index] for index in (0, len(values) // 2, -1)] if values else [math.nan] * 3
    return [f"{batch[0]['step']:g}", *map(number, picked)]
