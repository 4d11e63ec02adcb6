"""What was read and what was found, as text for a terminal and as plain values for a program."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from agent_tunix.diagnostics.findings import LEVELS, Finding, severity, worst
from agent_tunix.diagnostics.names import resolve
from agent_tunix.plain import plain
from agent_tunix.text import one_line

LINE = 100
MOST_LISTED = 40


FEWEST = 10
"""Rows below which the rules about a course have nothing to say."""
TOO_SHORT = f"Too short to judge: the rules need at least {FEWEST} rows."


class Read(Protocol):
    """What a summary needs of a log."""

    @property
    def series(self) -> Mapping[str, np.ndarray]:
        """Values by name."""
        ...

    @property
    def steps(self) -> Mapping[str, np.ndarray]:
        """Steps by the same names."""
        ...

    @property
    def unknown(self) -> Sequence[str]:
        """Names that no card knows."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was put right on the way."""
        ...

    @property
    def source(self) -> str:
        """What kind of log it was."""
        ...


def report_text(log: Read, findings: Sequence[Finding]) -> str:
    """What was read and what was found, for a terminal.

    Args:
      log: As `read` gives it.
      findings: As `diagnose` gives them.

    Returns:
      Lines without a newline at the end: source, verdict, findings from the most serious on, the metrics that the rules
      read with their cards, notes and unknown columns.
    """
    first, last = span(log)
    known = len(log.series) - len(log.unknown)
    lines = [
        f"{log.source}: {rows(log)} rows, steps {first} to {last}, {known} known of {len(log.series)} metrics",
        "",
        verdict(findings) if findings or rows(log) >= FEWEST else TOO_SHORT,
    ]
    for finding in sorted(findings, key=severity, reverse=True):
        lines += ["", finding.line()]
        lines += [f"  To do: {one_line(finding.remedy)}"] if finding.remedy else []
    lines += ["", *_metric_lines(log)]
    lines += ["", *(f"Note: {one_line(note)}." for note in log.notes)] if log.notes else []
    if log.unknown:
        lines += ["", *_listed("No card knows these, so they were not judged: ", log.unknown)]
    return "\n".join(lines)


def verdict(findings: Sequence[Finding]) -> str:
    """The findings in one line.

    Examples:
      >>> verdict([])
      'Healthy: no rule fired.'
      >>> verdict([Finding("collapse", "error", (10, 20), "reward fell to 0.1")])
      'Verdict: error (1 error).'
    """
    counts = [(level, sum(finding.level == level for finding in findings)) for level in reversed(LEVELS)]
    said = ", ".join(f"{count} {_plural(level, count)}" for level, count in counts if count)
    if worst(findings) == "healthy":
        return f"Healthy: {said}." if said else "Healthy: no rule fired."
    return f"Verdict: {worst(findings)} ({said})."


def _plural(level: str, count: int) -> str:
    word = {"warn": "warning", "info": "remark"}.get(level, level)
    return word if count == 1 else f"{word}s"


def to_json(log: Read, findings: Sequence[Finding]) -> dict[str, Any]:
    """The same as `report_text` for programs.

    Returns:
      `source`, `rows`, `steps` (first and last), `verdict` (healthy, warn or error), `findings`, `metrics` (name to
      card, component, statistic, values logged and the last of them), `unknown` and `notes`; no nan, no infinity.
    """
    return plain(
        {
            "source": log.source,
            "rows": rows(log),
            "steps": span(log),
            "verdict": worst(findings),
            "findings": [finding.to_json() for finding in sorted(findings, key=severity, reverse=True)],
            "metrics": {name: _metric(name, values) for name, values in log.series.items() if resolve(name)},
            "unknown": list(log.unknown),
            "notes": list(log.notes),
        }
    )


def rows(log: Read) -> int:
    """Steps at which anything was logged."""
    distinct = {id(steps): steps for steps in log.steps.values()}
    return len(np.unique(np.concatenate(list(distinct.values())))) if distinct else 0


def span(log: Read) -> tuple[float, float]:
    """First and last step, whole numbers where the log's are."""
    ends = [(steps[0].item(), steps[-1].item()) for steps in log.steps.values() if len(steps)]
    return min(first for first, _ in ends), max(last for _, last in ends)


def _metric(name: str, values: np.ndarray) -> dict[str, Any]:
    found = resolve(name)
    assert found is not None
    return {
        "card": found.card,
        "component": found.component,
        "statistic": found.statistic,
        "values": int(np.isfinite(values).sum()),
        "last": last(values),
    }


def last(values: np.ndarray) -> float:
    """The last finite value, nan if there is none."""
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else math.nan


def _metric_lines(log: Read) -> list[str]:
    known = [name for name in log.series if (found := resolve(name)) and found.statistic == "mean"]
    more = len(log.series) - len(log.unknown) - len(known)
    shown = {name: one_line(name) for name in known}
    wide = max(map(len, shown.values()), default=6)
    cards = {name: one_line(_card(name)) for name in known}
    broad = max(map(len, cards.values()), default=4)
    lines = [f"{'metric':<{wide}}  {'card':<{broad}}  {'values':>7}  {'first':>10}  {'last':>10}"]
    for name, card in cards.items():
        values = log.series[name]
        count, ends = int(np.isfinite(values).sum()), (last(values[::-1]), last(values))
        lines.append(f"{shown[name]:<{wide}}  {card:<{broad}}  {count:>7}  {ends[0]:>10.4g}  {ends[1]:>10.4g}")
    return [*lines, f"and {more} further statistics of these"] if more else lines


def _card(name: str) -> str:
    """The card of a known metric, with the component and what was taken of it where that is not the mean."""
    found = resolve(name)
    assert found is not None
    of = f" of {found.component}" if found.component else ""
    taken = f" ({found.statistic})" if found.statistic != "mean" else ""
    return f"{found.card}{of}{taken}{' (one minus)' if found.complement else ''}"


def _listed(words: str, names: Iterable[str]) -> list[str]:
    """Names behind some words, in lines of a terminal's width."""
    names = [one_line(name) for name in names]
    more = [f"and {len(names) - MOST_LISTED} more"] if len(names) > MOST_LISTED else []
    lines = [words]
    for entry in ", ".join([*names[:MOST_LISTED], *more]).split(" "):
        if len(lines[-1]) + len(entry) > LINE and lines[-1].strip():
            lines[-1] = lines[-1].rstrip()
            lines.append("  ")
        lines[-1] += entry + " "
    return [line.rstrip() for line in lines]
