"""What a page needs of one run, read once: its log, what the rules find, a choice of its rollouts, and its setup."""

import json
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agent_tunix import runs
from agent_tunix.components import component_measures, stored
from agent_tunix.diagnostics.findings import Finding, worst
from agent_tunix.diagnostics.logs import diagnose_log, planned_steps
from agent_tunix.diagnostics.names import Resolved, resolve
from agent_tunix.diagnostics.reading import Log, read
from agent_tunix.errors import RunError
from agent_tunix.reports._series import present

log = logging.getLogger(__name__)

BATCHES = 48
"""Batches whose rollouts a page reads, evenly spaced over the run."""


class Series(NamedTuple):
    """A metric over steps.

    Attributes:
      name: As it was logged.
      steps: Where its values stand, ascending.
      values: Finite.
    """

    name: str
    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Told:
    """One run, or somebody else's log, as a page tells of it.

    Attributes:
      name: What the page calls it.
      log: Its metrics.
      findings: Of the health rules, the most serious first as the rules order them.
      batches: Records of rollouts, one list per batch that was chosen; empty where there are none.
      config: Of a run of ours, else None.
      environment: Versions and starts, else None.
      summary: Of a finished run, else None.
    """

    name: str
    log: Log
    findings: Sequence[Finding] = ()
    batches: Sequence[Sequence[Mapping[str, Any]]] = ()
    config: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] | None = None
    summary: Mapping[str, Any] | None = None

    @cached_property
    def _index(self) -> dict[tuple[str, str, str], tuple[str, bool]]:
        """Quantity to the series that has most values of it, and whether it is one minus the quantity."""
        found: dict[tuple[str, str, str], tuple[str, bool]] = {}
        for name, values in self.log.series.items():
            resolved = self._resolved(name)
            if resolved is not None:
                key = (resolved.card, resolved.component, resolved.statistic)
                rival = found.get(key)
                if rival is None or np.isfinite(values).sum() > np.isfinite(self.log.series[rival[0]]).sum():
                    found[key] = (name, resolved.complement)
        return found

    def _resolved(self, name: str) -> Resolved | None:
        role = (self.log.roles or {}).get(name)
        return Resolved("eval_accuracy") if role == "gold" else resolve(name)

    def of(self, card: str, component: str = "", statistic: str = "mean") -> Series | None:
        """The series of a quantity, by the id of its metric card; None where it was not logged or holds no number."""
        name, complement = self._index.get((card, component, statistic), ("", False))
        series = self.named(name)
        return series._replace(values=1.0 - series.values) if series and complement else series

    def named(self, name: str) -> Series | None:
        """A series by the name it was logged under, or computed from the rollouts of the batches that were read."""
        if name not in self.log.series:
            return self._computed.get(name)
        steps, values = present(self.log.steps[name], self.log.series[name])
        return Series(name, steps, values) if len(values) else None

    @cached_property
    def _computed(self) -> dict[str, Series]:
        """What runs log about their components, for those that did not, from their stored rollouts."""
        rows: dict[str, list[tuple[float, float]]] = {}
        for batch in self.batches:
            for name, value in _measured(batch).items():
                rows.setdefault(name, []).append((batch[0]["step"] + 1, value))
        found = {name: present(*np.array(pairs, np.float64).T) for name, pairs in rows.items()}
        return {name: Series(name, *both) for name, both in found.items() if len(both[1])}

    @property
    def parts(self) -> list[str]:
        """The reward's components, in the order they were logged."""
        known = [component for card, component, kind in self._index if card == "reward_component" and kind == "mean"]
        return [name for name in dict.fromkeys(known) if name and self.of("reward_component", name)]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of components of which something is known, in the order they were logged."""
        logged = self._pairs_in(self.log.series)
        return logged + [pair for pair in self._pairs_in(self._computed) if not {pair, pair[::-1]} & set(logged)]

    def _pairs_in(self, names: Collection[str]) -> list[tuple[str, str]]:
        """Pairs with measures; rows name a pair in one of its two orders."""
        return [
            (a, b)
            for a, b in permutations(self.parts, 2)
            if f"tradeoff/{a}__{b}/correlation" in names or f"tradeoff/{a}__{b}/quadrant_tie_all" in names
        ]

    def bounds(self, name: str) -> tuple[float, float] | None:
        """Declared range of a series; of the reward where only one range is declared."""
        declared = self.log.bounds
        if isinstance(declared, Mapping):
            return declared.get(name)
        reward = self.of("rewards")
        return declared if declared is not None and reward is not None and reward.name == name else None

    @property
    def level(self) -> str:
        """`healthy`, `warn` or `error`."""
        return worst(self.findings)

    @property
    def last_step(self) -> float:
        """The last step of any series; nan without one."""
        ends = [float(np.nanmax(steps)) for steps in self.log.steps.values() if len(steps)]
        return max(ends, default=math.nan)


def _measured(batch: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    score = stored(list(runs.groups(batch)))
    return component_measures(score) if len(score.parts) and score.value.size else {}


def gather(path: Path) -> Told:
    """Reads a run folder, or anything else that `agent_tunix.diagnostics.reading.read` understands.

    Args:
      path: The folder or the file.

    Raises:
      RunError: If it cannot be read.
    """
    path = Path(path)
    what, name = read(path), path.resolve().name
    if not runs.is_run(path):
        return of_log(what, name)
    config, summary = runs.read_config(path), runs.read_summary(path)
    findings = diagnose_log(what, planned_steps=planned_steps(path))
    return Told(name, what, findings, _batches(path), config, _environment(path), summary)


def of_log(what: Log, name: str) -> Told:
    """A log and what the rules find in it."""
    return Told(name, what, diagnose_log(what))


def _batches(path: Path) -> list[list[dict[str, Any]]]:
    """The choice of batches; a missing or damaged file costs the page its samples, not more."""
    try:
        return [batch for batch in runs.read_batches(path, BATCHES) if batch]
    except RunError as error:
        log.warning("the report has no samples: %s", error)
        return []


def _environment(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads((path / runs.ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
