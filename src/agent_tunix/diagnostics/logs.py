"""From a log that was read to what the rules say about it."""

from pathlib import Path
from typing import Any

from agent_tunix import runs
from agent_tunix.diagnostics import diagnosis
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.diagnostics.reading import Log


def diagnose_log(log: Log, *, planned_steps: int | None = None, **known: Any) -> list[Finding]:
    """What `diagnose` finds in a log, with everything that the log says about itself.

    Args:
      log: From `agent_tunix.diagnostics.reading.read`.
      planned_steps: How long a run that goes on will be; None for one that is over.
      **known: `bounds`, `eval_samples`, `group_size` or `roles` that replace those of the log; None keeps them.
    """
    facts = {name: getattr(log, name) for name in ("bounds", "eval_samples", "group_size", "roles")}
    facts |= {name: value for name, value in known.items() if value is not None}
    return diagnosis.diagnose(log.series, steps=log.steps, planned_steps=planned_steps, **facts)


def planned_steps(path: Path | str) -> int | None:
    """The steps that a run of ours is planned to have, if it is still going on; None for anything else."""
    if not runs.is_run(path) or runs.read_summary(path):
        return None
    steps = runs.read_config(path).get("training", {}).get("steps")
    return steps if isinstance(steps, int) else None
