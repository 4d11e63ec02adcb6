"""What is happening to the reward, why, and what to do: for our runs and for anybody's logs.

Example::

    from agent_tunix.diagnostics import diagnose

    for finding in diagnose({"reward": rewards, "eval/accuracy": accuracies}, bounds=(0, 1), eval_samples=512):
        print(finding.line(), finding.remedy)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_tunix.diagnostics.diagnosis import diagnose
    from agent_tunix.diagnostics.findings import Finding
    from agent_tunix.diagnostics.online import Monitor
    from agent_tunix.diagnostics.reading import Log, read

_HOMES = {"Finding": "findings", "Log": "reading", "Monitor": "online", "diagnose": "diagnosis", "read": "reading"}
"""Public name to its module; they are imported when they are asked for, since a card needs none of them."""

__all__ = ["Finding", "Log", "Monitor", "diagnose", "read"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
