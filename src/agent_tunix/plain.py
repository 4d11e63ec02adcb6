"""Plain values: what JSON and YAML can hold, dotted keys, and the description of the machine a run is on."""

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: arrays and their scalars as Python numbers, NaN and infinities as None.

    Examples:
      >>> plain({"a": float("nan"), "b": (1, 2.5)})
      {'a': None, 'b': [1, 2.5]}
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy and JAX arrays and scalars, without importing either
        return plain(value.tolist())
    raise TypeError(f"a run folder cannot hold {value!r} of type {type(value).__name__}; pass numbers, text or lists")


def replace_file(path: Path, text: str) -> None:
    """Writes a whole file or nothing of it; the one that is there is kept until then.

    Raises:
      OSError: The disk is full, or the place cannot be written to; nothing of the new file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # two processes may write the same file
    try:
        with open(temporary, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def json_line(row: Mapping[str, Any]) -> bytes:
    """One JSON line, UTF-8, newline included."""
    # A lone surrogate from a byte-level tokenizer becomes its JSON escape instead of an encoding error.
    return (json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping of dotted keys; an empty mapping has no keys.

    Examples:
      >>> flatten({"loss": {"epsilon": 0.2}, "seed": 0})
      {'loss.epsilon': 0.2, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The dotted keys whose values differ, `(old, new)`; a key that is missing on one side counts as None there."""
    before, after = flatten(plain(old)), flatten(plain(new))
    keys = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _commit() -> str | None:
    """The commit of the checkout this package runs from, with `+` behind it if files were changed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    git = ("git", "-C", str(root))
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        state = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+" if state.stdout.strip() else "")


def environment() -> dict[str, Any]:
    """What a run depends on besides its config: interpreter, machine, package versions and the commit."""
    versions = {entry.name: entry.version for entry in importlib.metadata.distributions() if entry.name}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "commit": _commit(),
        "packages": dict(sorted(versions.items(), key=lambda item: item[0].lower())),
    }
