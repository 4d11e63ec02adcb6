"""A run folder as a place: its name, who holds it, and what it was started with."""

import datetime
import fcntl
import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent_tunix.errors import ConfigChanged, RunError
from agent_tunix.plain import differences, environment, plain, replace_file
from agent_tunix.runs._names import CONFIG, ENVIRONMENT
from agent_tunix.runs._reading import is_run, read_config

log = logging.getLogger(__name__)

# Where the run lives and how it is opened is not what it computes.
NOT_COMPARED = ("run_dir", "resume", "cache_dir", "logging", "distributed")


def default_name(config: Mapping[str, Any]) -> str:
    """The name of a run before its time: task, model and seed."""
    name = f"{config['data']['task']}-{config['model']['name']}-s{config['seed']}"
    return re.sub(r"[^\w.+-]+", "_", name)


def new_run_dir(name: str, root: Path | str = "runs") -> Path:
    """Creates an empty folder `root/name-YYYYmmdd-HHMMSS`, with a number behind it when that is taken.

    Raises:
      RunError: If the folder cannot be created.
    """
    stem = f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    taken = 0
    while True:
        path = Path(root) / (f"{stem}-{taken + 1}" if taken else stem)
        try:
            path.mkdir(parents=True)  # atomic, so that two processes never share a name
            return path
        except FileExistsError:
            if not path.exists():
                raise RunError(f"cannot create the run folder {path}: a file stands in its path") from None
            taken += 1
        except OSError as error:
            raise _cannot_create(path, error) from error


def _cannot_create(path: Path, error: OSError) -> RunError:
    return RunError(f"cannot create the run folder {path}: {error.strerror}; choose another with run_dir=PATH")


def prepare(path: Path) -> None:
    """Makes the folder, or refuses one that is something else than a run."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_create(path, error) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise RunError(f"cannot write to the run folder {path}; choose another with run_dir=PATH")
    if not is_run(path):
        names = sorted(entry.name for entry in path.iterdir())
        foreign = [name for name in names if name != ".lock" and not name.startswith(f".{CONFIG}.")]
        if foreign:
            raise RunError(f"{path} holds {foreign[0]} but no {CONFIG}, so it is not a run; choose another run_dir")


def lock(path: Path) -> int:
    """Takes the folder for this process; the kernel gives it back however the process ends."""
    try:
        descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RunError(f"cannot write to the run folder {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 32).decode().strip() or "unknown"
        os.close(descriptor)
        raise RunError(f"the run folder {path} is in use by process {owner}; wait for it or choose another") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def replace(path: Path, text: str) -> None:
    """Writes a whole file or nothing of it."""
    try:
        replace_file(path, text)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error


def record_start(path: Path, changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Rewrites environment.json with one more start; the earlier ones stay."""
    file = path / ENVIRONMENT
    earlier: list[Any] = []
    if file.exists():
        try:
            earlier = json.loads(file.read_text(encoding="utf-8"))["starts"]
        except (ValueError, KeyError, TypeError):
            log.warning("%s could not be read and is written anew", file)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    start = {"time": now, "argv": sys.argv, "pid": os.getpid(), "changed": {key: list(v) for key, v in changes.items()}}
    document = environment() | {"starts": [*earlier, start]}
    replace(file, json.dumps(plain(document), indent=2, ensure_ascii=False) + "\n")


def check_resume(path: Path, config: Mapping[str, Any], resume: str) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ from the earlier start; refuses what `resume` does not allow."""
    if resume == "never":
        raise RunError(f"{path} is already a run; resume=auto goes on with it, another run_dir starts a new one")
    changes = {
        key: values
        for key, values in differences(read_config(path), config).items()
        if key.split(".")[0] not in NOT_COMPARED
    }
    if changes and resume != "force":
        listed = ", ".join(f"{key}: {old} -> {new}" for key, (old, new) in changes.items())
        raise ConfigChanged(
            f"{path} was started with another config ({listed}); resume=force goes on with the new one", changes
        )
    return changes
