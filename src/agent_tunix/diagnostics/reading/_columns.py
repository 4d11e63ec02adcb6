"""Rows become columns: numbers out of whatever a logger wrote, steps in order, a later row over an earlier one."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agent_tunix.diagnostics.names import resolve

STEP_KEYS = ("step", "global_step", "_step", "train/global_step", "training/global_step", "iteration")
"""Names of the column that counts steps, the first that is there."""

COUNTERS = frozenset(
    {*STEP_KEYS, "batch", "epoch", "train/epoch", "training/epoch", "_timestamp", "_runtime", "timestamp"}
)
"""Columns that say where in the run a row stands, not what happened there."""

MODE_KEYS = ("kind", "mode", "split", "phase")
MARKED = ("eval/", "eval_", "val/", "val-", "val_", "validation/", "test/")
HELD_OUT = frozenset({"eval", "evaluation", "val", "valid", "validation", "test", "heldout", "held_out"})
ENVELOPES = frozenset({"data", "metrics", "logs", "log", "scalars"})
"""Keys around a row's numbers that name nothing, as in `{"step": 1, "data": {...}}`."""

WRAPPED = re.compile(r"[A-Za-z_][\w.]*\((.*)\)")
NO_NUMBER = {"": math.nan, "null": math.nan, "none": math.nan, "n/a": math.nan, "na": math.nan, "-": math.nan}
MOST = 2**1000
DEEPEST = 8
EXACT = 2.0**53
Values = Sequence[Any] | np.ndarray
Pairs = Mapping[str, Any]


class Table(NamedTuple):
    """What a file holds, once it has been read.

    Attributes:
      series: Values by name.
      steps: Steps by name, increasing, as long as the values.
      texts: Names of columns without a single number.
      notes: What was put right on the way.
    """

    series: dict[str, np.ndarray]
    steps: dict[str, np.ndarray]
    texts: tuple[str, ...]
    notes: tuple[str, ...]


def number(value: Any) -> float | None:
    """A value as a number, nan where it says that there is none, None where it is something else.

    Examples:
      >>> number("np.float64(0.5)"), number("null"), number("-Infinity"), number("high")
      (0.5, nan, -inf, None)
    """
    if isinstance(value, int) and abs(value) > MOST:
        return math.inf if value > 0 else -math.inf
    if isinstance(value, int | float):
        return float(value)
    if value is None:
        return math.nan
    if not isinstance(value, str):
        return None
    text = value.strip()
    if wrapped := WRAPPED.fullmatch(text):
        text = wrapped[1].split(",")[0]
    try:
        return float(text)
    except ValueError:
        return NO_NUMBER.get(text.lower())


def numbers(values: Values) -> tuple[np.ndarray, bool]:
    """A column as float64, and whether it holds a number or a word for none at all."""
    try:
        column = np.array(values, dtype=np.float64)
        if column.ndim == 1:  # otherwise every value is a list
            return column, True
    except (TypeError, ValueError, OverflowError):
        pass
    read = [number(value) for value in values]
    known = any(entry is not None for entry in read)
    return np.array([math.nan if entry is None else entry for entry in read]), known


def _without_nan(column: np.ndarray, values: Values) -> np.ndarray:
    """Infinity where nan was written out: what is not finite. Where there is null, nothing was logged."""
    written = [index for index in np.flatnonzero(np.isnan(column)).tolist() if "nan" in str(values[index]).lower()]
    column[written] = math.inf
    return column


def step_key(names: Iterable[str]) -> str | None:
    """The column that counts steps, None if there is none.

    Examples:
      >>> step_key(["reward", "_step", "Step"])
      'Step'
    """
    by_lower = {name.lower(): name for name in reversed(list(names))}
    return next((by_lower[key] for key in STEP_KEYS if key in by_lower), None)


def flatten(row: Pairs, depth: int = 0) -> dict[str, Any]:
    """A row whose nested numbers are named by their path; an envelope such as `data` adds nothing to the name.

    Examples:
      >>> flatten({"step": 1, "data": {"actor/entropy": 0.5}, "reward": {"mean": 2.0}})
      {'step': 1, 'actor/entropy': 0.5, 'reward/mean': 2.0}
    """
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict) and depth < DEEPEST:
            prefix = "" if key in ENVELOPES else f"{key}/"
            flat |= {f"{prefix}{inner}": entry for inner, entry in flatten(value, depth + 1).items()}
        else:
            flat[key] = value
    return flat


class Columns:
    """Collects rows chunk by chunk and gives them back as one array per metric."""

    def __init__(self) -> None:
        self._values: dict[str, list[np.ndarray]] = {}
        self._steps: dict[str, list[np.ndarray]] = {}
        self._places: dict[str, list[np.ndarray]] = {}
        self._unordered = False
        self._texts: dict[str, None] = {}
        self._stepless: bool | None = None
        self._wordy: dict[str, tuple[str, int]] = {}
        self._last = 0.0
        self._rows = 0
        self.notes: list[str] = []

    def add(self, name: str, steps: np.ndarray, values: Values, places: np.ndarray | None = None) -> None:
        """Adds values of one metric; values that are no numbers are not logged.

        Args:
          name: Of the metric.
          steps: One for each value.
          values: What was logged.
          places: Rows of the log they stand in; those added last by default.
        """
        column, known = numbers(values)
        if not known:
            self._texts[name] = None
            return
        found = resolve(name)
        if found is not None and found.card in ("loss", "grad_norm"):
            column = _without_nan(column, values)
        self._values.setdefault(name, []).append(column)
        self._steps.setdefault(name, []).append(steps)
        self._places.setdefault(name, []).append(self._rows + np.arange(len(steps)) if places is None else places)

    def counted(self, name: str, cells: Values) -> np.ndarray:
        """The column that counts steps as numbers, nan for what is none; words in it go into the notes."""
        steps, _ = numbers(cells)
        missing = np.flatnonzero(np.isnan(steps))
        words = [str(cells[index]) for index in missing.tolist() if number(cells[index]) is None]
        if words:
            first, count = self._wordy.get(name, (words[0], 0))
            self._wordy[name] = first, count + len(words)
        return steps

    def place(self, steps: np.ndarray) -> np.ndarray:
        """Steps of the next rows: where one is missing that of the row before; the row number if there are none."""
        steps = np.where(np.isfinite(steps), steps, math.nan)
        if self._stepless is None and len(steps):
            self._stepless = bool(np.isnan(steps).all())
        if self._stepless:
            placed = np.arange(self._rows + 1, self._rows + len(steps) + 1, dtype=np.float64)
        else:
            carried = np.concatenate([[self._last], steps])
            source = np.maximum.accumulate(np.where(np.isnan(carried), 0, np.arange(len(carried))))
            placed = carried[source][1:]
            self._unordered |= bool((np.diff(placed, prepend=self._last if self._rows else -math.inf) < 0).any())
            self._last = float(placed[-1]) if len(placed) else self._last
        self._rows += len(steps)
        return placed

    def add_rows(self, rows: Sequence[Pairs]) -> None:
        """Adds rows of any shape; nested ones are flattened, held-out ones are told apart by their kind."""
        groups = _alike(rows)
        if any(isinstance(value, dict) for members in groups.values() for value in rows[members[0]].values()):
            rows = [flatten(row) for row in rows]
            groups = _alike(rows)
        steps = np.full(len(rows), math.nan)
        for names, members in groups.items():
            key = step_key(names)
            if key is not None:
                steps[members] = self.counted(key, [rows[index][key] for index in members])
        steps, places = self.place(steps), self._rows + np.arange(len(rows))
        for names, members in groups.items():
            self._add_group(names, [rows[index] for index in members], steps[members], places[members])

    def _add_group(self, names: tuple[str, ...], rows: Sequence[Pairs], steps: np.ndarray, places: np.ndarray) -> None:
        mode = next((key for key in MODE_KEYS if key in names), None)
        if mode is None:
            self._add_columns(names, rows, steps, places, "")
            return
        held_out = np.array([str(row[mode]).lower() in HELD_OUT for row in rows])
        for chosen, prefix in ((~held_out, ""), (held_out, "eval/")):
            if chosen.any():
                members = [row for row, take in zip(rows, chosen, strict=True) if take]
                kept = [name for name in names if name != mode]
                self._add_columns(kept, members, steps[chosen], places[chosen], prefix)

    def _add_columns(
        self, names: Iterable[str], rows: Sequence[Pairs], steps: np.ndarray, places: np.ndarray, prefix: str
    ) -> None:
        for name in names:
            if name.lower() not in COUNTERS:
                full = name if name.lower().startswith(MARKED) else prefix + name
                self.add(full, steps, [row[name] for row in rows], places)

    def table(self) -> Table:
        """Every column in order of its steps, the later of two rows of one step.

        Columns where no number was ever logged are left out.
        """
        series, steps = {}, {}
        doubled = 0
        for name, parts in self._values.items():
            values, at = np.concatenate(parts), np.concatenate(self._steps[name])
            if np.isnan(values).all() and name in self._texts:
                continue
            jumps = np.diff(at)
            if (jumps <= 0).any():
                order = np.lexsort((np.concatenate(self._places[name]), at))
                values, at = values[order], at[order]
                last = np.append(at[1:] != at[:-1], True)
                doubled += not last.all()
                values, at = values[last], at[last]
            series[name], steps[name] = values, whole(at)
        texts = tuple(name for name in self._texts if name not in series and name not in MODE_KEYS)
        return Table(series, steps, texts, (*self.notes, *self._order_notes(doubled)))

    def _order_notes(self, doubled: int) -> list[str]:
        notes = [
            f"the column `{name}` counts steps but holds no number in {rows_of(count)}, first `{word:.40}`"
            for name, (word, count) in self._wordy.items()
        ]
        if self._stepless:
            why = notes or ["no column counts steps"]
            notes = [f"{', '.join(why)}, so rows are counted from 1"]
        if doubled:
            among = f"{doubled} of {len(self._values)} metrics"
            notes.append(f"some steps were logged twice, as after a resume ({among}); the later row counts")
        if self._unordered and not doubled:
            notes.append("the steps were not in order and have been sorted")
        return notes


def rows_of(count: int) -> str:
    """A number of rows in words."""
    return f"{count} rows" if count > 1 else "1 row"


def _alike(rows: Sequence[Pairs]) -> dict[tuple[str, ...], list[int]]:
    """Which rows hold the same names, so that whole columns can be taken from them."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(tuple(row), []).append(index)
    return groups


def whole(steps: np.ndarray) -> np.ndarray:
    """Steps as integers where they are."""
    if np.abs(steps).max(initial=0.0) > EXACT:
        return steps
    integers = steps.astype(np.int64)
    return integers if (integers == steps).all() else steps
