"""Reads anybody's training log: our runs, TensorBoard, CSV, JSON, trainer states and console logs.

What a file is, its content decides, not its name. Nothing about a metric is guessed: columns that no card knows are
listed, and a log without a single known one is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from agent_tunix import runs
from agent_tunix.diagnostics.names import resolve
from agent_tunix.diagnostics.reading._columns import Table
from agent_tunix.diagnostics.reading._console import read_console
from agent_tunix.diagnostics.reading._events import is_event_file, read_events
from agent_tunix.diagnostics.reading._files import UNDERSTOOD, sample
from agent_tunix.diagnostics.reading._folders import Declared, find_log, read_run
from agent_tunix.diagnostics.reading._summary import report_text, to_json
from agent_tunix.diagnostics.reading._tables import (
    csv_delimiter,
    looks_like_json_lines,
    read_csv,
    read_json,
    read_json_lines,
)
from agent_tunix.errors import RunError

__all__ = ["UNDERSTOOD", "Log", "read", "report_text", "to_json"]

LISTED = 8
REWARDS = frozenset({"rewards", "reward_component"})


@dataclass(frozen=True)
class Log:
    """The metrics of one training run, as `agent_tunix.diagnostics.diagnosis.diagnose` takes them.

    Attributes:
      series: Values by the name they were logged under; nan where a logger wrote nan or null.
      steps: The step of every value, increasing, by the same names; series may differ in length.
      bounds: Low and high of the reward and its parts, by name; empty where nobody declared them.
      eval_samples: Questions per evaluation, None if it is not known.
      group_size: Completions per prompt, None if it is not known.
      roles: What a series is, by name: `reward`, `gold`, `task` or `format`; empty for logs of others.
      unknown: Names in `series` that no metric card knows.
      source: What kind of log it was.
      notes: What was put right or left out on the way.
    """

    series: dict[str, np.ndarray]
    steps: dict[str, np.ndarray]
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    eval_samples: int | None = None
    group_size: int | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    source: str = ""
    notes: tuple[str, ...] = ()


def read(path: Path | str, *, roles: Mapping[str, str] | None = None) -> Log:
    """Reads a log of whatever kind.

    Args:
      path: A run folder, a file, or a folder of TensorBoard events, of checkpoints with a trainer_state.json, or with
        a single log in it. Files may be packed with gzip.
      roles: What columns that no card knows stand for, as `diagnose` takes it; added to those that are known.

    Returns:
      The log, its steps in order, the later of two rows of one step.

    Raises:
      RunError: If the path cannot be read, is nothing that is understood, holds no rows, no known metric, or not the
        columns that roles name.
    """
    log = _read(Path(path))
    return _judgeable(Path(path), _with_roles(Path(path), log, roles or {}))


def _read(path: Path) -> Log:
    if not path.exists():
        raise RunError(f"there is no {path}; name a log or a run folder")
    if path.is_dir():
        return _read_folder(path)
    table, source = _read_file(path)
    return _log(path, table, source)


def _read_folder(path: Path) -> Log:
    if runs.is_run(path):
        table, declared = read_run(path)
        return _log(path, table, "run of agent-tunix", declared)
    found, notes = find_log(path)
    table, source = (read_events(found), "TensorBoard events") if isinstance(found, list) else _read_file(found)
    return _log(path, table._replace(notes=(*table.notes, *notes)), source)


def _read_file(path: Path) -> tuple[Table, str]:
    """What a file holds, and what it is."""
    if is_event_file(path):
        return read_events([path]), "TensorBoard events"
    start = sample(path)
    if looks_like_json_lines(start):
        return read_json_lines(path), "JSON lines"
    if _is_json(start):
        return read_json(path)
    if delimiter := csv_delimiter(start):
        return read_csv(path, delimiter)
    return read_console(path)


def _is_json(start: str) -> bool:
    """A printed dictionary has single quotes, a line of a log that begins with a bracket has a word behind it."""
    text = "".join(start[:200].split())
    return text.startswith(('{"', "[{", "{}", "[]"))


def _log(path: Path, table: Table, source: str, declared: Declared | None = None) -> Log:
    """The log, once it is known to hold something that can be judged."""
    if not table.series:
        raise RunError(f"{path} holds no numbers; what can be read is {UNDERSTOOD}")
    unknown = tuple(name for name in table.series if resolve(name) is None)
    cards = {found.card for name in table.series if (found := resolve(name))}
    blind = () if cards & REWARDS else ("no metric stands for the reward, so only the rules about the rest apply",)
    texts = (f"columns without a number: {', '.join(table.texts[:LISTED])}",) if table.texts else ()
    told = declared or Declared({}, None, None, {})
    return Log(
        series=table.series,
        steps=table.steps,
        bounds=told.bounds,
        eval_samples=told.eval_samples,
        group_size=told.group_size,
        roles=told.roles,
        unknown=unknown,
        source=source,
        notes=(*table.notes, *texts, *blind),
    )


def _with_roles(path: Path, log: Log, roles: Mapping[str, str]) -> Log:
    """The log with roles for columns of its own."""
    if missing := [name for name in roles if name not in log.series]:
        raise RunError(f"{path} has no column `{missing[0]}` that could have a role; {_columns_of(log)}")
    unknown = tuple(name for name in log.unknown if name not in roles)
    return replace(log, roles={**log.roles, **roles}, unknown=unknown)


def _columns_of(log: Log) -> str:
    """The columns of a log, in words."""
    names = list(log.series)
    return f"its columns are {', '.join(names[:LISTED])}" + (" and more" if len(names) > LISTED else "")


def _judgeable(path: Path, log: Log) -> Log:
    """The log itself; one without any metric that is known is refused, since nothing found would look healthy."""
    if len(log.unknown) < len(log.series):
        return log
    raise RunError(
        f"{path} ({log.source}) holds no metric that a card knows; {_columns_of(log)}; `agent-tunix metrics` lists "
        "the names, and --role COLUMN=ROLE says what a column of yours is"
    )
