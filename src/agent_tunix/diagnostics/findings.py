"""What a health rule says about a run: one illness, its numbers, and what to do."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from agent_tunix.text import one_line

LEVELS = ("info", "warn", "error")
"""From least to most serious."""


@dataclass(frozen=True)
class Finding:
    """One illness of a run.

    Attributes:
      rule: Id of the rule, such as `stagnation`.
      level: `info`, `warn` or `error`.
      steps: First and last step concerned.
      message: What was seen, in one sentence with its numbers and how sure they are.
      evidence: The same numbers by name, for machines.
      remedy: What to do, with the page that tells more.
      sources: Where the rule and its thresholds come from.
    """

    rule: str
    level: str
    steps: tuple[int, int]
    message: str
    evidence: Mapping[str, float | str] = field(default_factory=dict)
    remedy: str = ""
    sources: tuple[str, ...] = ()

    def line(self) -> str:
        """The finding in one line, safe for a terminal: names of columns and parts come from anybody's log.

        Examples:
          >>> Finding("stagnation", "warn", (40, 100), "reward stays at 0.21").line()
          'WARN stagnation, steps 40 to 100: reward stays at 0.21'
        """
        first, last = self.steps
        return one_line(f"{self.level.upper()} {self.rule}, steps {first} to {last}: {self.message}")

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return asdict(self) | {"steps": list(self.steps), "sources": list(self.sources)}


def severity(finding: Finding) -> int:
    """0 for info, 1 for warn, 2 for error: what is logged as `health/RULE`."""
    return LEVELS.index(finding.level)


def worst(findings: Iterable[Finding]) -> str:
    """The highest level among findings; `healthy` if none is above info."""
    level = max(map(severity, findings), default=0)
    return LEVELS[level] if level else "healthy"
