"""Reading a run folder, also while it is written to."""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
import zstandard

from agent_tunix.errors import RunError
from agent_tunix.runs._names import CONFIG, ENVIRONMENT, HOLDS, METRICS, SAMPLES, SUMMARY, TIMINGS, Record


@dataclass(frozen=True)
class Run:
    """A run on disk, as `agent_tunix.train` returns it.

    Attributes:
      path: The folder.
      summary: What summary.json says; None while the run is unfinished.
    """

    path: Path
    summary: dict[str, Any] | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The config the run was started with."""
        return read_config(self.path)

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, of one kind ("train" or "eval") or all."""
        return read_metrics(self.path, kind)

    def samples(self) -> Iterator[dict[str, Any]]:
        """Every rollout, in the order it was sampled."""
        return read_samples(self.path)


def read_run(path: Path | str) -> Run:
    """The run in a folder.

    Raises:
      RunError: If the folder is not a run.
    """
    return Run(_run_folder(path), read_summary(path))


def is_run(path: Path | str) -> bool:
    """Whether a folder is a run."""
    return (Path(path) / CONFIG).is_file()


def latest(root: Path | str = "runs") -> Path:
    """The run below `root` that was started or resumed last.

    Raises:
      RunError: If there is none.
    """
    found = [path for path in Path(root).glob("*") if is_run(path)]
    if not found:
        raise RunError(f"there is no run in {root}; {HOLDS}")
    return max(found, key=lambda path: (_started(path), path.name))


def _started(path: Path) -> float:
    file = path / ENVIRONMENT
    return (file if file.exists() else path / CONFIG).stat().st_mtime


def read_config(path: Path | str) -> dict[str, Any]:
    """The config of a run, nested dictionaries of plain values.

    Raises:
      RunError: If the folder is not a run, or its config cannot be read.
    """
    file = _run_folder(path) / CONFIG
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise RunError(f"{file} holds no config; {HOLDS}")
    return config


def read_metrics(path: Path | str, kind: str | None = None) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; half a row at its end, from a process that was killed, is left out.

    Args:
      path: The run folder.
      kind: "train", "eval" or None for both.

    Raises:
      RunError: If the file is missing or damaged before its end.
    """
    rows = _read_lines(_run_folder(path) / METRICS)
    return [row for row in rows if kind is None or row.get("kind") == kind]


def read_timings(path: Path | str) -> list[dict[str, Any]]:
    """The rows of timings.jsonl, read as `read_metrics` does."""
    return list(_read_lines(_run_folder(path) / TIMINGS))


def read_samples(path: Path | str) -> Iterator[dict[str, Any]]:
    """Every rollout of a run, streamed; half a frame at the end of the file is left out.

    Raises:
      RunError: If the file is missing or damaged before its end.
    """
    file = _existing(_run_folder(path) / SAMPLES)
    return _read_samples(file)


def read_batches(path: Path | str, most: int) -> Iterator[list[dict[str, Any]]]:
    """Rollouts of an even choice of batches, first and last included, without parsing the others.

    Args:
      path: Run folder.
      most: Batches at most.

    Yields:
      The records of one batch. What was sampled but not trained on belongs to its batch.

    Raises:
      RunError: If the file is missing or damaged before its end.
    """
    file = _existing(_run_folder(path) / SAMPLES)
    places: dict[int, list[tuple[int, int]]] = {}
    for start, end, lines in _frames(file):
        places.setdefault(json.loads(lines[: lines.index(b"\n")])["batch"], []).append((start, end))
    batches = sorted(places)
    chosen = range(len(batches)) if len(batches) <= most else np.linspace(0, len(batches) - 1, most).round().astype(int)
    with open(file, "rb") as raw:
        for index in chosen:
            rows: list[dict[str, Any]] = []
            for start, end in places[batches[index]]:
                raw.seek(start)
                lines = zstandard.ZstdDecompressor().decompressobj().decompress(raw.read(end - start))
                rows += _rows(io.BytesIO(lines), file)
            yield rows


def _frames(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Where every whole frame starts and ends, in bytes, and what it holds."""
    start = 0
    with open(path, "rb") as file:
        rest = b""
        while True:
            frame = zstandard.ZstdDecompressor().decompressobj()
            parts, size = [], 0
            while not frame.eof:
                if not rest and not (rest := file.read(1 << 16)):
                    return
                try:
                    parts.append(frame.decompress(rest))
                except zstandard.ZstdError as error:
                    raise RunError(f"{path} is damaged: {error}") from error
                size += len(rest) - len(frame.unused_data)
                rest = frame.unused_data
            yield start, start + size, b"".join(parts)
            start += size


def groups(samples: Iterable[Record]) -> Iterator[list[Record]]:
    """Records of rollouts, in the order they were written, as one list for every prompt of every batch."""
    group: list[Record] = []
    for sample in samples:
        if sample["completion_index"] == 0 and group:
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def _read_samples(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as raw:
        reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        try:
            yield from _rows(io.BufferedReader(reader), path)  # type: ignore[arg-type]
        except zstandard.ZstdError as error:
            raise RunError(f"{path} is damaged: {error}") from error


def read_summary(path: Path | str) -> dict[str, Any] | None:
    """The summary of a finished run, or None while it is unfinished.

    Raises:
      RunError: If the folder is not a run, or its summary cannot be read.
    """
    file = _run_folder(path) / SUMMARY
    if not file.exists():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{file} is not JSON: {error}") from error


def _run_folder(path: Path | str) -> Path:
    path = Path(path)
    if not is_run(path):
        raise RunError(f"{path} is not a run ({'no ' + CONFIG if path.is_dir() else 'no such folder'}); {HOLDS}")
    return path


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise RunError(f"{file} is missing; {HOLDS}")
    return file


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(_existing(path), "rb") as lines:
        yield from _rows(lines, path)


def _rows(lines: Iterable[bytes], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):  # only the last line can lack it: it was torn
            return
        try:
            yield json.loads(line)
        except ValueError as error:
            raise RunError(f"{path}, line {number}, is not JSON: {error}") from error
