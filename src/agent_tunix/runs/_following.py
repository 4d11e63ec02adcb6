"""A run seen from a process that does not write it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agent_tunix.runs._writing import Listener, RunWriter


class Follower(RunWriter):
    """A run that another process writes: takes everything in and writes nothing."""

    def __init__(self, path: Path, *, resumed: bool, changes: Mapping[str, tuple[Any, Any]]):
        self.path, self.resumed, self.changes = path, resumed, dict(changes)

    def log(self, row: Mapping[str, Any]) -> None:
        """Does nothing, and so does all that follows."""

    def log_timing(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def attach(self, listener: Listener) -> None:
        """Nothing."""

    def log_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Nothing."""

    def log_text(self, tag: str, text: str, step: int) -> None:
        """Nothing."""

    def position(self) -> dict[str, int]:
        """No files, no position."""
        return {}

    def sync(self) -> None:
        """Nothing."""

    def rewind(self, position: Mapping[str, int] | None, step: int = 0) -> None:
        """Nothing."""

    def write_reward(self, facts: Mapping[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
