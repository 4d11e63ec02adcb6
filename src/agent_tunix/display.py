"""What a person sees while a run goes on: a progress bar in a terminal, plain lines elsewhere."""

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SHOWN = {
    "reward/mean": "reward",
    "reward/part/correctness": "correct",
    "policy/kl": "kl",
    "completion/length": "length",
    "throughput/tokens_per_s": "tokens/s",
}
REWARD_NUMBERS = ("mean", "std", "min", "p10", "p50", "p90", "max")
HEALTH = ("ok", "warn", "error")
"""By the value of `health/worst`."""
LINES = 20
"""Plain lines of training progress per run."""


class Display:
    """Progress of one run; a context manager.

    Args:
      steps: Optimizer updates of the run.
      log_rewards: Whether to write a line about the rewards of every batch.
      console: Where to write; standard error by default, so that standard output stays for results.
      quiet: Whether to write nothing, because another process does.
    """

    def __init__(
        self, steps: int, *, log_rewards: bool = False, console: Console | None = None, quiet: bool = False
    ) -> None:
        self._steps, self._every = steps, max(1, steps // LINES)
        # In a notebook rich would otherwise write to the cell, a block for each line, whatever the file.
        self._console = console or Console(
            file=sys.stderr, soft_wrap=True, highlight=False, quiet=quiet, force_jupyter=False
        )
        self._accuracy, self._health, self._log_rewards, self._batch = "-", "", log_rewards, -1
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=steps, numbers="")

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """One line for people."""
        self._console.print(text, markup=False)

    def warm_start(self, step: int, steps: int, loss: float) -> None:
        """Progress of the supervised start."""
        self._bar.update(self._task, description="warm start", completed=step, total=steps, numbers=f"loss {loss:.3f}")
        if not self._console.is_terminal and step in (1, steps // 2, steps):
            self.say(f"warm start {step}/{steps} loss {loss:.3f}")

    def show(self, row: Mapping[str, Any], timing: Mapping[str, float]) -> None:
        """One row of metrics: a step, or an evaluation."""
        if row["kind"] == "eval":
            self._accuracy = f"{row['eval/accuracy']:.3f}"
            self.say(evaluation_line(row))
            return
        if self._log_rewards and row["batch"] != self._batch:
            self._batch = row["batch"]
            self.say(reward_line(row))
        if "health/worst" in row:
            self._health = HEALTH[int(row["health/worst"])]
        known = {**row, **timing}
        shown = [
            f"{label} {format_number(known[name])}" for name, label in SHOWN.items() if known.get(name) is not None
        ]
        health = [f"health {self._health}"] if self._health else []  # nothing before the first check
        numbers = " ".join([*shown, f"accuracy {self._accuracy}", *health])
        step = row["step"]
        self._bar.update(self._task, description="GRPO", completed=step, total=self._steps, numbers=numbers)
        if not self._console.is_terminal and (step % self._every == 0 or step in (1, self._steps)):
            self.say(f"step {step}/{self._steps} {numbers}")


def evaluation_line(row: Mapping[str, Any]) -> str:
    """An evaluation as one line, its metrics without the prefix they share."""
    parts = [f"{name.removeprefix('eval/')} {format_number(value)}" for name, value in row.items() if "eval/" in name]
    return f"evaluation after step {row['step']}: " + ", ".join(parts)


def reward_line(row: Mapping[str, Any]) -> str:
    """The rewards of a batch as one line: distribution, parts, flat groups."""
    quantiles = " ".join(f"{name} {format_number(row[f'reward/{name}'])}" for name in REWARD_NUMBERS)
    # The mean of a part is logged under its path, which may have several words; its deviation one word below.
    parts = [name.removesuffix("/std") for name in row if name.startswith("reward/part/") and name.endswith("/std")]
    means = ", ".join(f"{name.removeprefix('reward/part/')} {format_number(row[name])}" for name in parts)
    return f"rewards of batch {row['batch']}: {quantiles}; {means}; flat groups {row['group/flat_fraction']:.2f}"


def format_number(value: float) -> str:
    """Three decimals; none, but separators, from a thousand on.

    Examples:
      >>> format_number(0.12345), format_number(12345.6)
      ('0.123', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"
