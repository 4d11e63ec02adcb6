"""From the series a caller has to the signals that rules look at: names, roles, steps, bounds, scales."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agent_tunix.diagnostics._signals import Component, Gold, Raw, Signals, Track, component_words
from agent_tunix.diagnostics._statistics import LONGEST, reduced_edges, step_noise
from agent_tunix.diagnostics.names import Resolved, resolve
from agent_tunix.errors import ConfigError, unknown

Bounds = tuple[float, float] | Mapping[str, tuple[float, float]] | None
"""Least and greatest value of the total reward, or of several series by name."""

FORMAT_WORDS = frozenset({"format", "formatting", "tag", "tags", "xml", "structure", "layout"})
TASK_WORDS = frozenset(
    {"correct", "correctness", "accuracy", "acc", "exact", "answer", "task", "solve", "solved", "right", "math"}
)
ROLES = {"format": "format", "task": "task", "gold": "eval_accuracy", "reward": "rewards"}
"""Words a role may be given with, and the card of those that are no component."""
GOLD_STATISTICS = ("mean", "sampled", "reward", "majority", "best", "pass_at_k")
STANDARD_STATISTICS = {"eval_accuracy": GOLD_STATISTICS, "reward_std": ("mean", "batch"), "loss": ("mean", "policy")}


LARGEST = 1e60
"""What is beyond it counts as infinite: no training reaches it, and its square has no place in a float."""


@dataclass
class _Entry:
    """One series while it is being read."""

    name: str
    found: Resolved
    role: str
    steps: np.ndarray
    values: np.ndarray


def read_signals(
    series: Mapping[str, Any],
    *,
    steps: Any = None,
    bounds: Bounds = None,
    eval_samples: int | None = None,
    roles: Mapping[str, str] | None = None,
    planned_steps: int | None = None,
    group_size: int | None = None,
) -> Signals:
    """Sorts the series of a run into quantities; the arguments are those of `diagnose`.

    Raises:
      ConfigError: If a series holds something that is no number, or steps of another length.
    """
    _check(series, roles, eval_samples)
    arrays = {name: _numbers(name, values) for name, values in series.items() if resolvable(name, roles or {}, series)}
    grid = _grid(steps, arrays)
    entries = [
        _Entry(name, *_identity(name, roles or {}, series), _steps_of(name, values, grid), values)
        for name, values in arrays.items()
        if values.size
    ]
    for entry in entries:
        _sort(entry)
    return replace(_signals(entries, bounds, eval_samples, planned_steps), group_size=group_size)


def _check(series: Any, roles: Any, eval_samples: Any) -> None:
    """Refuses arguments that mean nothing.

    Raises:
      ConfigError: What was given, and what is wanted.
    """
    for word, value in (("series", series), ("roles", roles or {})):
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise ConfigError(f"{word} are {value!r:.60}; give a mapping of names")
    if eval_samples is not None and not (isinstance(eval_samples, int | np.integer) and eval_samples > 0):
        raise ConfigError(f"eval_samples is {eval_samples!r}; give the number of questions per evaluation, or None")
    for name, role in (roles or {}).items():
        if not isinstance(role, str) or not any(word in ROLES or resolve(word) for word in (name, role)):
            raise ConfigError(f"{unknown('role', role, ROLES)} Or the id of a metric card.")
        if name in series and role not in series and role not in ROLES and resolve(role) is None:
            raise ConfigError(f"{unknown(f'role of `{name}`', role, ROLES)} Or the id of a metric card.")


def resolvable(name: str, roles: Mapping[str, str], series: Mapping[str, Any]) -> bool:
    """Whether a series is one that rules know, by its name or by a role."""
    return bool(_role_of(name, roles, series)) or resolve(name) is not None


def _signals(entries: list[_Entry], bounds: Bounds, eval_samples: int | None, planned_steps: int | None) -> Signals:
    tracks: dict[str, list[Track]] = {}
    components: dict[str, Component] = {}
    highest = None
    for entry in entries:
        found, track = entry.found, _track(entry, bounds)
        if not len(track):
            continue
        if found.card == "reward_extremes" and found.statistic == "max":
            highest = track
        elif found.statistic in STANDARD_STATISTICS.get(found.card, ("mean",)) or _every(found):
            if found.card == "reward_component":
                components.setdefault(found.component, Component(found.component, entry.role, track))
            else:
                tracks.setdefault(found.card, []).append(track)
    ordered = _with_unit({card: tuple(sorted(found, key=lambda t: -len(t))) for card, found in tracks.items()})
    first = min((float(entry.steps[0]) for entry in entries), default=0.0)
    last = max((float(entry.steps[-1]) for entry in entries), default=0.0)
    done = 1.0 if not planned_steps else min(1.0, last / planned_steps)
    raws = tuple(_raw(entry) for entry in entries if _every(entry.found) or entry.found.statistic == "mean")
    gold = _gold(ordered, eval_samples)
    return Signals(ordered, tuple(components.values()), raws, gold, highest, first, last, done, bool(planned_steps))


def _with_unit(tracks: dict[str, tuple[Track, ...]]) -> dict[str, tuple[Track, ...]]:
    """Gives rewards without bounds a unit: a binary reward has bounds of at least twice its deviation."""
    deviations = tracks.get("reward_std", ())
    if not deviations or "rewards" not in tracks:
        return tracks
    unit = 2 * float(np.median(deviations[0].values))
    return tracks | {"rewards": tuple(replace(track, unit=unit) for track in tracks["rewards"])}


def _every(found: Resolved) -> bool:
    """Whether all statistics of a quantity count: any grader may fail, any mismatch may grow."""
    mismatch = ("mean", "ratio", "multiplicative", "correlation", "policy_kl", "js")
    if found.card == "sampler_mismatch":
        return found.statistic in mismatch
    return found.card == "failed_grader"


def _numbers(name: str, values: Any) -> np.ndarray:
    """A series as floats, None as nan."""
    try:
        array = np.asarray(values)
        if array.dtype.kind in "USM" or array.ndim > 1:
            raise ValueError
        numbers = np.atleast_1d(array.astype(float))
        return np.where(np.abs(numbers) > LARGEST, np.copysign(np.inf, numbers), numbers)
    except (TypeError, ValueError):
        raise ConfigError(
            f"series `{name}` holds {_example(values)}, not a row of numbers; leave it out or give numbers, "
            "with None where nothing was logged."
        ) from None


def _example(values: Any) -> str:
    """What is wrong with a series, in a few words."""
    if isinstance(values, str | bytes) or not np.iterable(values):
        return repr(values)[:40]
    wrong = (value for value in values if value is not None and not isinstance(value, int | float | np.number))
    return repr(next(wrong, values))[:40]


def _grid(steps: Any, arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray] | np.ndarray:
    """Steps by name, or the steps of the longest series."""
    if isinstance(steps, Mapping):
        return {name: _numbers(f"steps of {name}", values) for name, values in steps.items()}
    if steps is not None:
        return _numbers("steps", steps)
    return np.arange(max((values.size for values in arrays.values()), default=0), dtype=float)


def _steps_of(name: str, values: np.ndarray, grid: Mapping[str, np.ndarray] | np.ndarray) -> np.ndarray:
    """Steps of one series; what has none of its own length is stretched over the run."""
    if isinstance(grid, Mapping):
        own = grid.get(name)
        if own is not None and own.size != values.size:
            raise ConfigError(f"series `{name}` has {values.size} values but {own.size} steps; give as many of each.")
        if own is not None:
            return own
        every = np.concatenate([np.asarray(g, float) for g in grid.values()]) if grid else np.zeros(0)
        grid = every[np.isfinite(every)] if every.size else np.arange(values.size, dtype=float)
    if grid.size == values.size:
        return grid
    known = grid[np.isfinite(grid)]
    return np.linspace(known.min(), known.max(), values.size) if known.size else np.arange(values.size, dtype=float)


def _role_of(name: str, roles: Mapping[str, str], series: Mapping[str, Any]) -> str:
    """The role of a series, whichever way round the mapping is."""
    found = resolve(name)
    # The name of a component stands for its mean, not for its deviation or what was measured on held-out rows.
    mean = found is not None and (found.card, found.statistic) == ("reward_component", "mean")
    keys = {name, found.component} if found is not None and mean else {name}
    for key, value in roles.items():
        if key in keys and not (key in ROLES and value in series):
            return value
        if value in keys and (key in ROLES or resolve(key) is not None):
            return key
    return ""


def _identity(name: str, roles: Mapping[str, str], series: Mapping[str, Any]) -> tuple[Resolved, str]:
    """What a series is, and the role of a component."""
    role, found = _role_of(name, roles, series), resolve(name)
    if role in ("format", "task"):
        component = found.component if found and found.component else name
        return Resolved("reward_component", component), role
    if role in ROLES:
        return Resolved(ROLES[role]), ""
    named = resolve(role) if role else None
    if named:
        return named, ""
    assert found is not None  # `resolvable` let it through
    return found, _component_role(found.component) if found.card == "reward_component" else ""


def _component_role(name: str) -> str:
    """Role of a component by its own words; none if they point both ways."""
    words = component_words(name)
    is_format, is_task = bool(words & FORMAT_WORDS), bool(words & TASK_WORDS)
    return "" if is_format == is_task else "format" if is_format else "task"


def _sort(entry: _Entry) -> None:
    """Orders by step in place; of several values of one step the last one that is there counts."""
    steps, values = entry.steps, 1 - entry.values if entry.found.complement else entry.values
    placed = np.isfinite(steps)
    if not placed.all():
        steps, values = steps[placed], values[placed]
    rising = np.diff(steps)
    if steps.size and not (rising > 0).all():
        order = np.lexsort((np.arange(steps.size), ~np.isnan(values), steps))
        steps, values = steps[order], values[order]
        keep = np.append(np.diff(steps) > 0, True)
        steps, values = steps[keep], values[keep]
    entry.steps, entry.values = (steps, values) if steps.size else (np.zeros(1), np.full(1, np.nan))


def _raw(entry: _Entry) -> Raw:
    return Raw(entry.name, entry.found.card, entry.steps, np.isnan(entry.values), np.isinf(entry.values))


def _track(entry: _Entry, bounds: Bounds) -> Track:
    """The finite part of a series, reduced to at most 2000 points."""
    finite = np.isfinite(entry.values)
    steps, values = (entry.steps, entry.values) if finite.all() else (entry.steps[finite], entry.values[finite])
    declared = _bounds_of(entry, bounds)
    presumed = declared is None and _like_a_share(values, entry.found.card == "rewards")
    known = declared or ((0.0, 1.0) if presumed else None)
    sigma, extremes = step_noise(values), values
    if values.size > LONGEST:
        edges = reduced_edges(values.size)
        extremes = np.maximum.reduceat(values, edges[:-1])
        values = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
        steps = steps[edges[1:] - 1]
    return Track(entry.name, steps, values, known, presumed, sigma, extremes)


def _like_a_share(values: np.ndarray, total: bool) -> bool:
    """Whether values look like shares: all in [0, 1]; a total that is tiny, but not zero, has another unit."""
    if not values.size or values.min() < 0 or values.max() > 1:
        return False
    return not total or values.max() > 0.1 or values.max() == 0


def _bounds_of(entry: _Entry, bounds: Bounds) -> tuple[float, float] | None:
    """Declared bounds of a series; a plain pair is that of the total reward."""
    if bounds is None:
        return None
    if not isinstance(bounds, Mapping):
        return _pair("rewards", bounds) if entry.found.card in ("rewards", "reward_extremes") else None
    for name, pair in bounds.items():
        found = resolve(name)
        total = entry.found.card in ("rewards", "reward_extremes") and found is not None and found.card == "rewards"
        part = entry.found.component and name == entry.found.component
        same = found is not None and (found.card, found.component) == (entry.found.card, entry.found.component)
        if name == entry.name or total or part or same:
            return _pair(name, pair)
    return None


def _pair(name: str, pair: Any) -> tuple[float, float] | None:
    """Two finite numbers; bounds that are not finite are no bounds."""
    try:
        low, high = (float(value) for value in pair)
    except (TypeError, ValueError):
        raise ConfigError(f"bounds of `{name}` are {pair!r}; give the least and the greatest value.") from None
    if low >= high:
        raise ConfigError(f"bounds of `{name}` are {low:g} to {high:g}; the least value comes first.")
    return (low, high) if np.isfinite(low) and np.isfinite(high) else None


def _gold(tracks: Mapping[str, tuple[Track, ...]], samples: int | None) -> Gold | None:
    """Held-out accuracy on a scale of 0 to 1."""
    if "eval_accuracy" not in tracks:
        return None
    track = tracks["eval_accuracy"][0]
    scale, low = 1.0, 0.0
    if not (track.values.min() >= 0 and track.values.max() <= 1):
        totals = [total.bounds for total in tracks.get("rewards", ()) if total.bounds]
        fitting = [b for b in totals if b[0] <= track.values.min() and track.values.max() <= b[1]]
        low, high = track.bounds or (fitting[0] if fitting else _scale(track))
        scale = high - low
    track = Track(track.name, track.steps, (track.values - low) / scale, (0.0, 1.0), False, track.sigma / scale)
    return Gold(track, _gold_error(track, samples), samples)


def _scale(track: Track) -> tuple[float, float]:
    """Percent, or the range that was seen."""
    low, high = float(track.values.min()), float(track.values.max())
    return (0.0, 100.0) if low >= 0 and 1.5 < high <= 100 else (low, max(high, low + 1e-9 * max(abs(low), 1.0)))


def _gold_error(track: Track, samples: int | None) -> float:
    """Error of one evaluation: that of a share of `samples` questions, and what the curve itself shows.

    Few evaluations show their own noise badly, so that at least 0.02 is taken where the number of questions is
    unknown: that of some 500.
    """
    seen = track.noise.sigma if len(track) >= 8 else max(track.noise.sigma, 0.03)
    if not samples:
        return max(seen, 0.02)
    share = float(np.clip(track.values.mean(), 0.02, 0.98))
    return max(float(np.sqrt(share * (1 - share) / samples)), 0.7 * seen)
