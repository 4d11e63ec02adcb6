"""What can go wrong in ways a caller can act on; every message is one sentence for the person at the terminal."""

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path


class AgentTunixError(Exception):
    """Root of the errors that the command line prints as one line, without a traceback."""


class ConfigError(AgentTunixError, ValueError):
    """A setting, name or command that cannot mean anything; nothing has been started."""


class RunError(AgentTunixError, RuntimeError):
    """A run folder, or a run, that cannot go on."""


class NotFinite(RunError):
    """A loss or gradient that is not finite."""


class ModelError(AgentTunixError, ValueError):
    """A model that cannot be loaded, or not be written: a missing weight, a wrong shape, a family without a forward."""


class RewardError(AgentTunixError, ValueError):
    """A reward that breaks its contract: a wrong shape, a nan, something that is not a number."""


class ConfigChanged(RunError):
    """An existing run was opened with another config.

    Attributes:
      changes: Dotted key to its value in the folder and its value now.
    """

    def __init__(self, message: str, changes: dict[str, tuple[object, object]]):
        super().__init__(message)
        self.changes = changes


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that resembles `name` most, or None if none does.

    Examples:
      >>> nearest("group_normalised", ["centered", "group_normalized"])
      'group_normalized'
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """One sentence about a wrong name: what was got, the nearest known name and all that are allowed.

    Examples:
      >>> unknown("task", "sortin", ["sorting", "gsm8k"])
      'unknown task `sortin`; did you mean `sorting`? Allowed: gsm8k, sorting.'
    """
    allowed = sorted(known)
    near = nearest(str(name), allowed)
    hint = f"; did you mean `{near}`? Allowed" if near else "; allowed"
    return f"unknown {what} `{name}`{hint}: {', '.join(allowed)}."


def command(*words: object) -> str:
    """A command line of this package that works in the current folder, whichever environment is active."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return " ".join(map(str, (python, "-m", "agent_tunix", *words)))
