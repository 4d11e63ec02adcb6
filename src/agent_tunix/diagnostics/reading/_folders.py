"""Folders: a run of ours with what its config says about it, or the place where another library put its log."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agent_tunix import runs
from agent_tunix.diagnostics.reading._columns import Table
from agent_tunix.diagnostics.reading._events import is_event_file
from agent_tunix.diagnostics.reading._files import UNDERSTOOD, readable
from agent_tunix.diagnostics.reading._tables import read_json_lines
from agent_tunix.errors import RunError

REWARD = "reward.json"
STATE = "trainer_state.json"
EVENTS = "*tfevents*"
LOGS = ("*.jsonl", "*.csv", "*.tsv", "*.log")
PARTS = "reward/part/"
ROLES = {"format": "format", "correctness": "task", "correct": "task", "task": "task", "accuracy": "task"}
"""Parts of a reward that are named after what they do."""

Bounds = tuple[float, float]


class Declared(NamedTuple):
    """What a run says about itself, as `diagnose` takes it."""

    bounds: dict[str, Bounds]
    eval_samples: int | None
    group_size: int | None
    roles: dict[str, str]


def read_run(path: Path) -> tuple[Table, Declared]:
    """The metrics of a run folder with its timings, and what its config and its reward declare.

    Raises:
      RunError: If the run has not logged a step yet, or its files are damaged.
    """
    if not (path / runs.METRICS).is_file() or not (path / runs.METRICS).stat().st_size:
        raise RunError(f"{path} has not logged a step yet; its {runs.METRICS} is missing or empty")
    table = read_json_lines(path / runs.METRICS)
    if (path / runs.TIMINGS).is_file():
        timings = read_json_lines(path / runs.TIMINGS)
        table = table._replace(series=table.series | timings.series, steps=table.steps | timings.steps)
    return table, _declared(path, table.series)


def _declared(path: Path, names: Iterable[str]) -> Declared:
    config, reward = runs.read_config(path), _reward(path / REWARD)
    roles = {"reward/mean": "reward", "eval/accuracy": "gold"}
    roles |= {f"{PARTS}{part}": role for part, role in ROLES.items()}
    present = set(names)
    return Declared(
        bounds={name: bounds for name, bounds in _bounds(path / REWARD, reward).items() if name in present},
        eval_samples=_eval_samples(reward, config),
        group_size=_number(config, "training", "group_size"),
        roles={name: role for name, role in roles.items() if name in present},
    )


def _number(config: Mapping[str, Any], section: str, key: str) -> int | None:
    value = (config.get(section) or {}).get(key)
    return value if isinstance(value, int) else None


def _eval_samples(reward: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
    """What the run counted itself; its config tells no more than the most there can be."""
    counted = reward.get("eval_samples")
    if isinstance(counted, int) and counted > 0:
        return counted
    sizes = (_number(config, "evaluation", "rows"), _number(config, "data", "heldout_size"))
    return min(filter(None, sizes), default=None)


def _reward(file: Path) -> dict[str, Any]:
    """What the reward declared; nothing without the file."""
    if not file.is_file():
        return {}
    with readable(file):
        try:
            declared = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise _damaged(file, error) from error
    if not isinstance(declared, dict):
        raise _damaged(file, "it holds no object")
    return declared


def _bounds(file: Path, declared: Mapping[str, Any]) -> dict[str, Bounds]:
    """Bounds of the reward and of its parts, by the names of their series; an empty range is none."""
    try:
        ranges = {"reward/mean": declared.get("bounds")}
        ranges |= {f"{PARTS}{part}": bounds for part, bounds in (declared.get("parts") or {}).items()}
        read = {name: (float(pair[0]), float(pair[1])) for name, pair in ranges.items() if pair}
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise _damaged(file, error) from error
    return {name: (low, high) for name, (low, high) in read.items() if -math.inf < low < high < math.inf}


def _damaged(file: Path, why: object) -> RunError:
    return RunError(f"{file} is damaged: {why}; without the file the run is judged without bounds")


def find_log(path: Path) -> tuple[Path | list[Path], tuple[str, ...]]:
    """The log in a folder of another library, and a note if there was a choice.

    The newest trainer_state.json comes first, then event files of one folder, then a single log.

    Raises:
      RunError: If there is none, or several of which none is the newest.
    """
    with readable(path):
        states = [*path.glob(STATE), *path.glob(f"checkpoint-*/{STATE}")]
        if states:
            newest = max(states, key=_progress)
            return newest, _chosen(newest, len(states), path)
        events = [file for file in path.rglob(EVENTS) if file.is_file() and is_event_file(file)]
        if events:
            folder = max(events, key=lambda file: file.stat().st_mtime).parent
            chosen = sorted(file for file in events if file.parent == folder)
            return chosen, _chosen(folder, len({file.parent for file in events}), path)
        logs = sorted(file for pattern in LOGS for file in path.glob(pattern) if file.is_file())
    if len(logs) == 1:
        return logs[0], (f"read {logs[0].name}",)
    if logs:
        raise RunError(f"{path} holds several logs ({', '.join(file.name for file in logs[:5])}); name one of them")
    raise RunError(f"{path} holds no log; what can be read is {UNDERSTOOD}")


def _progress(state: Path) -> tuple[int, float]:
    """Steps done, from the folder's name where it has them; a state outside of checkpoints is the last one."""
    _, _, count = state.parent.name.partition("checkpoint-")
    return (int(count) if count.isdigit() else 1 << 62), state.stat().st_mtime


def _chosen(chosen: Path, among: int, path: Path) -> tuple[str, ...]:
    name = chosen.relative_to(path) if chosen != path else chosen.name
    return (f"read {name}, the newest of {among}",) if among > 1 else ()
