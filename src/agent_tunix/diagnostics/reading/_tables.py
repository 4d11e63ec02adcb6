"""Tables in text: CSV, JSON lines and JSON documents, read in chunks."""

import contextlib
import csv
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent_tunix.diagnostics.names import resolve
from agent_tunix.diagnostics.reading._columns import (
    COUNTERS,
    Columns,
    Table,
    Values,
    number,
    numbers,
    rows_of,
    step_key,
)
from agent_tunix.diagnostics.reading._files import UNDERSTOOD, text
from agent_tunix.errors import RunError

CHUNK_CHARACTERS = 1 << 18  # larger chunks leave the cache and are slower
EMPTY = -1.5e300
"""Stands for an empty cell while numbers are read."""

DELIMITERS = (",", ";", "\t")
BOUNDS = ("__MIN", "__MAX")
"""W&B exports three columns for every metric of a run; where rows are not thinned out, these two repeat the first."""

Cells = Sequence[str] | np.ndarray


# --- JSON lines -------------------------------------------------------------------------------------------------------


def looks_like_json_lines(sample: str) -> bool:
    """Whether the first line is a whole JSON object, and not a document that holds the rows."""
    first = sample.lstrip().split("\n", 1)[0]
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and _document_rows(row) is None


def read_json_lines(path: Path) -> Table:
    """One JSON object per line; a torn last line is left out, and so are lines between them that are no objects.

    Raises:
      RunError: If more lines are broken than whole.
    """
    columns, good, bad = Columns(), 0, 0
    with text(path) as lines:
        while chunk := lines.readlines(CHUNK_CHARACTERS):
            rows, broken = _parse_lines(chunk)
            columns.add_rows(rows)
            good, bad = good + len(rows), bad + broken
    if bad > good:
        raise RunError(
            f"{path} holds {bad} lines that are not JSON and {good} that are; what can be read is {UNDERSTOOD}"
        )
    if bad:
        columns.notes.append(f"{bad} line{'s' if bad > 1 else ''} left out: no JSON object, or cut off")
    return columns.table()


def _parse_lines(lines: list[str]) -> tuple[list[dict[str, Any]], int]:
    # One call for many lines: two thirds of the time of a call per line.
    try:
        rows = json.loads("[" + ",".join(lines) + "]")
        if len(rows) == len(lines) and all(type(row) is dict for row in rows):
            return rows, 0
    except (ValueError, RecursionError):
        pass
    rows, broken = [], 0
    for line in filter(None, map(str.strip, lines)):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            broken += 1
    return rows, broken


# --- JSON documents ---------------------------------------------------------------------------------------------------


def read_json(path: Path) -> tuple[Table, str]:
    """A JSON document: the trainer_state.json of transformers, a list of rows, lists by name, or steps by name.

    Returns:
      The table, and what kind of document it was.

    Raises:
      RunError: If it is no JSON, or holds no rows.
    """
    with text(path) as file:
        try:
            document = json.load(file)
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path} is not JSON: {error}; what can be read is {UNDERSTOOD}") from error
    found = _document_rows(document)
    if found is None:
        raise RunError(f"{path} is JSON but holds no rows of metrics; what can be read is {UNDERSTOOD}")
    rows, kind = found
    columns = Columns()
    columns.add_rows(rows)
    return columns.table(), kind


def _document_rows(document: Any) -> tuple[list[dict[str, Any]], str] | None:
    if isinstance(document, dict) and isinstance(document.get("log_history"), list):
        return [
            row for row in document["log_history"] if isinstance(row, dict)
        ], "trainer_state.json (transformers, TRL)"
    if isinstance(document, list):
        return [row for row in document if isinstance(row, dict)], "JSON list"
    if not isinstance(document, dict) or not document:
        return None
    if all(isinstance(value, list) for value in document.values()):
        return _transposed(document), "JSON lists by name"
    if all(isinstance(value, dict) and _is_by_step(value) for value in document.values()):
        return _by_step(document), "JSON steps by name"
    return None


def _transposed(document: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    names = list(document)
    return [dict(zip(names, row, strict=True)) for row in itertools.zip_longest(*document.values())]


def _is_by_step(values: Mapping[str, Any]) -> bool:
    return bool(values) and all(key.lstrip("-").isdigit() for key in values)


def _by_step(document: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """NeMo-RL's dump of its TensorBoard numbers: `{"train/reward": {"1": 0.5}}`."""
    entries = ((name, step, value) for name, values in document.items() for step, value in values.items())
    return [{"step": int(step), name: value} for name, step, value in entries]


# --- CSV --------------------------------------------------------------------------------------------------------------


def csv_delimiter(sample: str) -> str | None:
    """What separates the columns, None if the text is no table.

    A table has a first line of names and a second with as many fields and a number among them; where a name is that of
    a metric or of a count of steps, the number of fields may differ.

    Examples:
      >>> csv_delimiter("step;reward" + chr(10) + "1;0,5" + chr(10))
      ';'
      >>> csv_delimiter("12:01, INFO start" + chr(10) + "12:02, INFO step" + chr(10)) is None
      True
    """
    lines = [line for line in sample.splitlines() if line.strip()][:2]
    if not lines:
        return None
    best = max(DELIMITERS, key=lambda delimiter: len(_fields(lines[0], delimiter)))
    names = _fields(lines[0], best)
    if len(lines) == 1:
        return best if len(names) > 1 and step_key(map(str.strip, names)) else None
    first = _fields(lines[1], best)
    many = len(names) > 1 or _is_name(names[0])
    fits = len(first) == len(names) or (len(names) > 1 and _is_header(names))
    return best if many and fits and any(map(_is_number, first)) else None


def _fields(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter))


def _is_number(cell: str) -> bool:
    found = number(cell.replace(",", "."))
    return found is not None and not math.isnan(found)


def _is_name(cell: str) -> bool:
    return not _is_number(cell) and " " not in cell.strip()


def _is_header(names: Sequence[str]) -> bool:
    """Whether no name is a number and one is known."""
    names = [name.strip() for name in names]
    return not any(map(_is_number, names)) and (step_key(names) is not None or any(map(resolve, names)))


def read_csv(path: Path, delimiter: str) -> tuple[Table, str]:
    """A table with a header; rows of fewer cells are filled up, those of more and a torn last one are left out.

    Returns:
      The table, and what kind of CSV it was.

    Raises:
      RunError: If it has no header or no rows, rows of another length only, or holds several runs.
    """
    columns, rows, odd = Columns(), 0, Counter[int]()
    with text(path) as file, _well_formed(path):
        header = [name.strip() for name in _fields(next(line for line in file if line.strip()), delimiter)]
        names, kind = _names(header, path)
        while lines := file.readlines(CHUNK_CHARACTERS):
            rows += _add_lines(columns, lines, header, names, delimiter, odd)
    if not rows and not odd:
        raise RunError(f"{path} holds a header and no rows")
    if rows <= sum(count for cells, count in odd.items() if cells < len(header)):
        cells = f"{min(odd)} to {max(odd)}" if len(odd) > 1 else f"{min(odd)}"
        raise RunError(
            f"{path} is no table: its header names {len(header)} columns and its rows have {cells} cells; a row needs "
            f"one for every name, in quotes where it holds a `{delimiter}`"
        )
    columns.notes += _odd_notes(odd, len(header))
    return columns.table(), kind


@contextlib.contextmanager
def _well_formed(path: Path) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise RunError(f"{path} is no CSV: {error}") from error


def _odd_notes(odd: Mapping[int, int], width: int) -> list[str]:
    """What became of rows that are shorter or longer than the header."""
    fewer, more = ([(c, n) for c, n in odd.items() if (c < width) is short] for short in (True, False))
    kinds = ((fewer, "fewer", "filled up"), (more, "more", "left out"))
    return [
        f"{rows_of(sum(n for _, n in found))} of {word} cells than the {width} that the header names, such as "
        f"{found[0][0]}, {'were' if sum(n for _, n in found) > 1 else 'was'} {done}"
        for found, word, done in kinds
        if found
    ]


def _add_lines(
    columns: Columns,
    lines: list[str],
    header: list[str],
    names: Sequence[str | None],
    delimiter: str,
    odd: Counter[int],
) -> int:
    """Adds the rows of some lines, counts those of another length in `odd`, and returns how many were added."""
    cells = _numeric(lines, len(names), delimiter)
    if cells is None:
        rows = list(csv.reader(filter(str.strip, lines), delimiter=delimiter))
        if len(rows) > 1 and len(rows[-1]) < len(names) and not lines[-1].endswith("\n"):
            columns.notes.append("the last row was cut off and left out")
            del rows[-1]
        # A logger that is started again writes its header again.
        rows = [row for row in rows if row[0].strip() != header[0]]
        cells = list(zip(*_even(rows, len(names), odd), strict=True))
    if len(cells):
        _add_table(columns, dict(zip(names, cells, strict=True)), delimiter)
    return len(cells[0]) if len(cells) else 0


def _even(rows: Iterable[list[str]], width: int, odd: Counter[int]) -> list[list[str]]:
    """Rows of the same length. What stands in a longer one cannot be told apart; empty cells at its end are nothing."""
    even = []
    for row in rows:
        if len(row) == width:
            even.append(row)
            continue
        is_long = any(map(str.strip, row[width:]))
        if is_long or len(row) < width:
            odd[len(row)] += 1
        if not is_long:
            even.append((row + [""] * width)[:width])
    return even


def _numeric(lines: list[str], width: int, delimiter: str) -> np.ndarray | None:
    """Columns of lines that hold nothing but numbers, in a third of the time; None for all others."""
    if not any(map(str.strip, lines)):
        return None
    for candidate in (lines, _filled(lines, delimiter)):
        try:
            table = np.loadtxt(candidate, delimiter=delimiter, comments=None, quotechar='"', ndmin=2)
        except ValueError:
            continue
        return table.T if table.shape[1] == width else None
    return None


def _filled(lines: list[str], delimiter: str) -> list[str]:
    """The lines with a number that nobody logs in every empty cell."""
    text = "\n" + "".join(lines).replace('""', "")
    for cell in (delimiter * 2, delimiter * 2, f"{delimiter}\n", f"\n{delimiter}"):
        text = text.replace(cell, f"{cell[0]}{EMPTY}{cell[1]}")
    return text.splitlines()


def _add_table(columns: Columns, cells: Mapping[str | None, Cells], delimiter: str) -> None:
    key = step_key(name for name in cells if name)
    count = len(next(iter(cells.values())))
    steps = columns.place(_counted(columns, key, cells[key], delimiter) if key else np.full(count, math.nan))
    for name, column in cells.items():
        if name and name.lower() not in COUNTERS:
            _add_cells(columns, name, steps, column, delimiter)


def _counted(columns: Columns, key: str, cells: Cells, delimiter: str) -> np.ndarray:
    if isinstance(cells, np.ndarray):
        return _column(cells, delimiter)[0]
    return columns.counted(key, [cell.replace(",", ".") for cell in cells] if delimiter == ";" else cells)


def _add_cells(columns: Columns, name: str, steps: np.ndarray, cells: Cells, delimiter: str) -> None:
    """Empty cells are steps at which nothing was logged; the word nan is a value."""
    column: Values
    if isinstance(cells, np.ndarray):
        column, logged = cells, cells != EMPTY
    else:
        column, logged = _column(cells, delimiter)[1], np.array([bool(cell) for cell in cells])
    if logged.all():
        columns.add(name, steps, column)
    elif logged.any():
        columns.add(name, steps[logged], list(itertools.compress(column, logged)))


def _column(cells: Cells, delimiter: str) -> tuple[np.ndarray, Values]:
    """Cells as numbers, and as what `Columns.add` takes; between semicolons the decimal sign may be a comma."""
    if isinstance(cells, np.ndarray):
        return np.where(cells == EMPTY, math.nan, cells), cells
    if delimiter == ";":
        cells = [cell.replace(",", ".") for cell in cells]
    values, known = numbers(cells)
    return values, values if known else cells


def _names(header: list[str], path: Path) -> tuple[list[str | None], str]:
    """What to call each column, None for those to leave out; W&B's carry the name of the run."""
    if all(map(_is_number, header)):
        raise RunError(f"{path} has no header: its first line is {', '.join(header[:4])}; name the columns there")
    if not header or header[0].lower() != "step" or not all(" - " in name for name in header[1:]) or len(header) < 2:
        return list(header), "CSV"
    runs = dict.fromkeys(name.rsplit(" - ", 1)[0] for name in header[1:])
    if len(runs) > 1:
        listed = ", ".join(itertools.islice(runs, 5))
        raise RunError(f"{path} holds {len(runs)} runs ({listed}); export one run at a time")
    names = [None if name.endswith(BOUNDS) else name.rsplit(" - ", 1)[1] for name in header[1:]]
    return ["Step", *names], "CSV exported from W&B"
