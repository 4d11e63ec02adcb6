"""Health while a run goes on: the rows of its metrics in, levels and alerts out.

A rule counts once two checks in a row agree, and is over once two in a row no longer see it, so that noise around a
threshold does not flicker. Everything is a function of the rows alone: a run that resumes replays the rows it kept and
goes on as if it had never stopped.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agent_tunix.diagnostics.diagnosis import diagnose
from agent_tunix.diagnostics.findings import Finding, severity
from agent_tunix.diagnostics.names import NEVER_MISSING, resolve

logger = logging.getLogger(__name__)

LEAST_EVERY, CHECKS = 5, 40
"""Steps between checks at least, and checks per run."""
AGREEING = 2
"""Checks in a row that make a rule count, or end it."""
CERTAIN = frozenset({"exceeds_bound", "non_finite", "failed_grader"})
"""Rules that count at once: they are arithmetic, and noise does not make them flicker."""

Alert = Callable[[Finding], None]


class Monitor:
    """Watches one run.

    Args:
      steps: Steps the run is planned to have.
      bounds: Least and greatest reward, or those of several metrics by name; None where nothing is known.
      eval_samples: Held-out questions per evaluation.
      roles: What components are for, as `diagnose` takes them.
      group_size: Completions per prompt.
      every: Steps between checks; 0 chooses a fortieth of the run, at least five.
      alert: Called with a finding when it begins to count and when it becomes more serious.

    Examples:
      >>> monitor = Monitor(400)
      >>> [monitor.see({"kind": "train", "step": step, "reward/mean": step / 400}) for step in (9, 10)]
      [{}, {'health/worst': 0.0}]
    """

    def __init__(
        self,
        steps: int,
        *,
        bounds: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
        eval_samples: int | None = None,
        roles: Mapping[str, str] | None = None,
        group_size: int | None = None,
        every: int = 0,
        alert: Alert = lambda finding: None,
    ) -> None:
        self._facts = {
            "bounds": bounds,
            "eval_samples": eval_samples,
            "roles": roles,
            "planned_steps": steps,
            "group_size": group_size,
        }
        self._every = every or max(LEAST_EVERY, steps // CHECKS)
        self._alert = alert
        self._values: dict[str, list[float]] = {}
        self._steps: dict[str, list[int]] = {}
        self._cards: dict[str, str] = {}
        self._checked, self._failed = 0, False
        self._agreed: dict[str, int] = {}  # checks in a row that saw a rule, or, below zero, that did not
        self._counting: set[str] = set()
        self._latest: dict[str, Finding] = {}
        self._told: dict[str, int] = {}  # the highest level told about, for every rule that has ever counted

    @property
    def findings(self) -> list[Finding]:
        """What counts now, most important first."""
        return [finding for rule, finding in self._latest.items() if rule in self._counting]

    @property
    def level(self) -> int:
        """The highest severity among the findings; 0 where there is none."""
        return max(map(severity, self.findings), default=0)

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes in the rows of an earlier session, without telling anybody."""
        alert, self._alert = self._alert, lambda finding: None
        try:
            for row in rows:
                self.see(row)
        finally:
            self._alert = alert

    def see(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Takes in one row of metrics.

        Args:
          row: With `step`, `kind` and numbers.

        Returns:
          After a check, the level of every rule that has ever counted as `health/RULE` (0 none or info, 1 warn,
          2 error), and the highest as `health/worst`; nothing between checks.
        """
        step = int(row["step"])
        for name, value in row.items():
            if card := self._card(name):
                finite = isinstance(value, int | float) and math.isfinite(value)
                # A file holds what is not finite as null; rules take nan for a gap.
                otherwise = math.inf if card in NEVER_MISSING else math.nan
                self._values.setdefault(name, []).append(float(value) if finite else otherwise)
                self._steps.setdefault(name, []).append(step)
        if row.get("kind") == "eval" or step // self._every == self._checked // self._every:
            return {}
        self._checked = step
        try:
            self._check()
        except Exception as error:  # a rule that fails is no reason to end a run
            if not self._failed:
                logger.warning("the health rules failed at step %d (%s: %s)", step, type(error).__name__, error)
            self._failed = True
            return {}
        levels = {rule: severity(self._latest[rule]) if rule in self._counting else 0 for rule in self._told}
        return {"health/worst": float(self.level)} | {f"health/{rule}": float(level) for rule, level in levels.items()}

    def _card(self, name: str) -> str:
        """The quantity that a column stands for, empty where no card knows it."""
        if name not in self._cards:
            found = resolve(name)
            self._cards[name] = found.card if found else ""
        return self._cards[name]

    def _check(self) -> None:
        series = {name: np.asarray(values) for name, values in self._values.items()}
        steps = {name: np.asarray(values) for name, values in self._steps.items()}
        found: dict[str, Finding] = {}
        for finding in diagnose(series, steps=steps, **self._facts):
            found.setdefault(finding.rule, finding)
        for rule in {**self._agreed, **found}:
            before, seen = self._agreed.get(rule, 0), rule in found
            self._agreed[rule] = max(before, 0) + 1 if seen else min(before, 0) - 1
        self._counting |= {
            rule for rule, checks in self._agreed.items() if checks >= (1 if rule in CERTAIN else AGREEING)
        }
        self._counting -= {rule for rule, checks in self._agreed.items() if checks <= -AGREEING}
        self._latest = {**found, **{rule: old for rule, old in self._latest.items() if rule not in found}}
        self._tell()

    def _tell(self) -> None:
        for finding in self.findings:
            level = severity(finding)
            if level > self._told.get(finding.rule, -1):
                self._told[finding.rule] = level
                self._alert(finding)


def watchers(alerts: Sequence[Alert]) -> Alert:
    """Several alerts as one."""

    def tell(finding: Finding) -> None:
        for alert in alerts:
            alert(finding)

    return tell
