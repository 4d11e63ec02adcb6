"""The health of a run while it trains: what is watched, who is told, when to stop, when the report is written."""

import atexit
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent_tunix import lookup, reports
from agent_tunix.config import Config
from agent_tunix.diagnostics import alerts
from agent_tunix.diagnostics.findings import LEVELS, Finding
from agent_tunix.diagnostics.online import Monitor, watchers
from agent_tunix.display import Display
from agent_tunix.errors import ConfigError
from agent_tunix.runs import RunWriter
from agent_tunix.text import one_line
from agent_tunix.types import Bounds, Reward

logger = logging.getLogger(__name__)

MOST_CHECKS = 400
"""Checks of the rules per run: one reads all that was logged before it."""
REPORT_SHARE = 0.05
"""Share of the time that writing reports may take while a run goes on."""
FLUSH_S = 5.0
"""Seconds that the end of a run waits for posts under way."""


def monitor(config: Config, reward: Reward, run: RunWriter, display: Display, *, eval_samples: int) -> Monitor:
    """The monitor of a run, which tells the terminal, TensorBoard and whoever the config names.

    Raises:
      ConfigError: `diagnostics.callback` or `diagnostics.webhook` cannot be used.
    """
    every = config.diagnostics.every_steps
    return Monitor(
        config.training.steps,
        bounds=known_bounds(reward),
        eval_samples=eval_samples,
        group_size=config.training.group_size,
        every=every and max(every, config.training.steps // MOST_CHECKS),
        alert=watchers([lambda finding: display.say(finding.line()), _to_board(run), *_outside(config, run.path)]),
    )


def _to_board(run: RunWriter) -> Callable[[Finding], None]:
    """Findings as texts in TensorBoard, at the step that they were found after."""

    def tell(finding: Finding) -> None:
        text = f"**{finding.level.upper()} {finding.rule}** {one_line(finding.message)}\n\n{finding.remedy}"
        run.log_text("health/alerts", text, finding.steps[1])

    return tell


def check(config: Config) -> None:
    """Refuses a config whose callback or webhook cannot be used, before anything is started.

    Raises:
      ConfigError: What is wrong with it.
    """
    _outside(config, Path())


def facts(reward: Reward, eval_samples: int) -> dict[str, Any]:
    """What a run's folder says about how it is judged: attainable ranges of the reward and its parts, held-out rows."""
    parts = {name: _finite(bounds) for name, bounds in reward.parts.items()}
    return {"name": reward.name, "bounds": _finite(reward.bounds), "parts": parts, "eval_samples": eval_samples}


def known_bounds(reward: Reward) -> dict[str, tuple[float, float]]:
    """The same by the names of metrics, without what has no bound."""
    named = {"reward/mean": reward.bounds} | {f"reward/part/{name}": bounds for name, bounds in reward.parts.items()}
    return {name: known for name, bounds in named.items() if (known := _finite(bounds)) is not None}


def _finite(bounds: Bounds) -> tuple[float, float] | None:
    low, high = bounds
    return (low, high) if float("-inf") < low < high < float("inf") else None


def _outside(config: Config, path: Path) -> list[Callable[[Finding], None]]:
    """Who is told besides the terminal and the run's own files."""
    chosen, told = config.diagnostics, []
    if chosen.webhook is not None:
        post = alerts.webhook(_url(chosen.webhook))
        atexit.register(post.flush, FLUSH_S)
        told.append(lambda finding: post(finding, path.name))
    if chosen.callback is not None:
        callback = lookup.find("diagnostics.callback", chosen.callback, {})
        told.append(lambda finding: _call(callback, finding))
    return told


def _url(setting: str) -> str:
    """A URL, or what `env:NAME` names: a URL is often a secret, and the config is stored with the run."""
    scheme, _, name = setting.partition(":")
    if scheme != "env":
        return setting
    if name not in os.environ:
        raise ConfigError(f"diagnostics.webhook is {setting}, but the environment has no variable {name}; set it")
    return os.environ[name]


def _call(callback: Callable[[Finding], Any], finding: Finding) -> None:
    """A callback of the user's; what it raises is reported and does not end the run."""
    try:
        callback(finding)
    except Exception as error:
        logger.warning("diagnostics.callback failed (%s: %s)", type(error).__name__, error)


def stopping(asked: Callable[[], bool], watch: Monitor, stop_on: str) -> Callable[[], str]:
    """Why a run should stop now: because it was asked to, or because of its health."""
    least = LEVELS.index(stop_on) if stop_on in LEVELS else len(LEVELS)

    def reason() -> str:
        if asked():
            return "interrupted"
        return "unhealthy" if watch.level >= least else ""

    return reason


def write_report(path: Path) -> Path | None:
    """Writes the report of a run; what goes wrong is said and does not end the run."""
    try:
        return reports.write([path])
    except Exception as error:
        logger.warning("the report of %s could not be written (%s: %s)", path, type(error).__name__, error)
        return None


def periodic_report(path: Path, every: int, steps: int) -> Callable[[Mapping[str, Any]], None]:
    """A function of rows that writes the report after every `every` steps but the last, which has its own.

    A report of a long run takes longer than one of a short run. One that would take more than a twentieth of the time
    since the last one was written is left out.
    """
    written, took = time.monotonic(), 0.0

    def on_row(row: Mapping[str, Any]) -> None:
        nonlocal written, took
        now = time.monotonic()
        due = every and row["kind"] == "train" and row["step"] % every == 0 and row["step"] < steps
        if due and now - written >= took / REPORT_SHARE:
            write_report(path)
            written = time.monotonic()
            took = written - now

    return on_row
