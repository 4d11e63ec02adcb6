"""A run that another process is writing, read as it grows."""

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agent_tunix import runs
from agent_tunix.diagnostics import reading
from agent_tunix.diagnostics.findings import LEVELS, Finding
from agent_tunix.diagnostics.logs import diagnose_log
from agent_tunix.errors import AgentTunixError, RunError

Column = tuple[list[int], list[float]]
"""Steps, and the values logged at them."""

DIAGNOSE_EVERY_S = 5.0
SHARE_OF_TIME = 0.1
"""Of one processor, that looking for findings may take: runs of a million steps take seconds to look through."""
HEALTH = "health/"


class Tail:
    """The lines of a growing JSONL file, each read once.

    A resumed run cuts its file back and writes on. That is noticed by the file being shorter, or by the last line read
    having changed; reading then starts over. A last line without its newline is still being written, and waits.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._last, self._number = path, 0, b"", 0

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """Whether the file started over, and its new rows; all rows if it did.

        Raises:
          RunError: If a whole line is no JSON object.
        """
        try:
            with open(self._path, "rb") as file:
                restarted = self._rewritten(file)
                if restarted:
                    self._offset, self._last, self._number = 0, b"", 0
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            data, restarted = b"", self._offset > 0
            self._offset, self._last, self._number = 0, b"", 0
        return restarted, self._rows(data[: data.rfind(b"\n") + 1])

    def _rewritten(self, file: Any) -> bool:
        file.seek(self._offset - len(self._last))
        return file.read(len(self._last)) != self._last

    def _rows(self, data: bytes) -> list[dict[str, Any]]:
        lines = data.splitlines(keepends=True)
        rows = []
        for number, line in enumerate(lines, self._number + 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise RunError(f"{self._path}, line {number}, is not JSON: {error}") from error
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise RunError(f"{self._path}, line {number}, is no row of metrics: it has no step")
            rows.append(row)
        if lines:
            self._offset, self._last, self._number = self._offset + len(data), lines[-1], self._number + len(lines)
        return rows


class News(NamedTuple):
    """What a look at a run has brought.

    Attributes:
      restarted: The run was resumed from an earlier step, and everything was read anew.
      rows: New rows of metrics, in their order.
    """

    restarted: bool
    rows: list[dict[str, Any]]


class Following:
    """All that is known of a run while it goes on.

    Args:
      path: The run folder; it may be empty still.

    Attributes:
      path: The run folder.
      columns: Every number that has been logged, by name: those of training, evaluation and timings.
      step: Of the last train row, 0 before.
      steps: Steps that are planned, None where the config does not say.
      finished: Whether the run had written its summary at the last look.
      bounds: Of the reward, as far as the log declares them.
      findings: By diagnosis of the whole log, and what the run itself logged as `health/RULE`.

    Raises:
      RunError: If there is no such folder, or it is no run folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir() or (any(path.glob("[!.]*")) and not runs.is_run(path)):
            runs.read_config(path)  # says what is wrong
        self.path = path
        self._metrics, self._timings = Tail(path / runs.METRICS), Tail(path / runs.TIMINGS)
        self._due, self._found, self.bounds = 0.0, [], None
        self.columns: dict[str, Column] = {}
        self._measured: dict[str, Column] = {}
        self._timed: dict[str, Column] = {}
        self.step, self.steps, self.finished = 0, None, False
        self.findings: list[Finding] = []

    def poll(self) -> News:
        """Reads what is new, and looks for findings if enough time has passed."""
        # Asked before reading: whoever sees the summary then has read every row that came before it.
        self.finished = (self.path / runs.SUMMARY).exists()
        if self.steps is None and runs.is_run(self.path):
            self.steps = runs.read_config(self.path).get("training", {}).get("steps")
        restarted, rows = self._metrics.read()
        _extend(self._measured, rows, restarted)
        again, timings = self._timings.read()
        _extend(self._timed, timings, again)
        self.columns = self._timed | self._measured
        trained = [row["step"] for row in rows if row.get("kind") != "eval"]
        self.step = trained[-1] if trained else 0 if restarted else self.step
        if rows or restarted:
            self._diagnose()
        return News(restarted, rows)

    def settle(self) -> None:
        """Looks for findings now, so that the last word is about all rows."""
        self._due = 0.0
        self._diagnose()

    def seconds_left(self) -> float | None:
        """Time that the planned steps take at the pace of the last ones; None before there is a pace."""
        _, paces = self.columns.get("time/step_s", ([], []))
        if not paces or not self.steps:
            return None
        recent = paces[-20:]
        return sum(recent) / len(recent) * max(0, self.steps - self.step)

    def silent_s(self) -> float:
        """Seconds since the last row was written."""
        file = self.path / runs.METRICS
        return max(0.0, time.time() - file.stat().st_mtime) if file.exists() else 0.0

    def _diagnose(self) -> None:
        now = time.monotonic()
        if now >= self._due and self._measured:
            # Damaged rows have been refused by `Tail`; what a diagnosis cannot read is too short for one.
            with contextlib.suppress(AgentTunixError):
                self._look()
            took = time.monotonic() - now
            self._due = now + max(DIAGNOSE_EVERY_S, took / SHARE_OF_TIME)
        self.findings = merged(self._found, self.columns)

    def _look(self) -> None:
        log = reading.read(self.path)
        self.bounds = log.bounds
        self._found = diagnose_log(log, planned_steps=None if self.finished else self.steps)


def _extend(columns: dict[str, Column], rows: Sequence[Mapping[str, Any]], restarted: bool) -> None:
    if restarted:
        columns.clear()
    for row in rows:
        for name, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                steps, values = columns.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(float(value) if math.isfinite(value) else math.nan)


def merged(found: Sequence[Finding], columns: Mapping[str, Column]) -> list[Finding]:
    """Findings of a diagnosis, and rules that the run itself flags at its last step and that are not among them.

    Examples:
      >>> merged([], {"health/kl_blowup": ([10, 20, 30], [0.0, 1.0, 2.0])})[0].line()
      'ERROR kl_blowup, steps 20 to 30: flagged by the run itself'
    """
    known = {"worst", *(finding.rule for finding in found)}  # `health/worst` is the highest of the others
    flagged = [
        _flag(name.removeprefix(HEALTH), *column)
        for name, column in columns.items()
        if name.startswith(HEALTH) and column[1][-1] > 0 and name.removeprefix(HEALTH) not in known
    ]
    return [*found, *flagged]


def _flag(rule: str, steps: Sequence[int], levels: Sequence[float]) -> Finding:
    since = next((index for index in range(len(levels) - 1, -1, -1) if not levels[index] > 0), -1) + 1
    level = LEVELS[min(int(levels[-1]), len(LEVELS) - 1)]
    return Finding(rule, level, (steps[since], steps[-1]), "flagged by the run itself")
