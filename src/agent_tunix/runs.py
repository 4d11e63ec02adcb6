"""Run folders: their only reader and writer.

A run folder holds::

    config.yaml         the whole config the run was started with; its presence makes the folder a run
    environment.json    python, platform, package versions, commit, and every start with its command line
    metrics.jsonl       one row per step (kind "train") and per evaluation (kind "eval")
    timings.jsonl       wall-clock numbers, apart, so that metrics.jsonl is the same bytes after a resume
    samples.jsonl.zst   every rollout, one zstd frame of JSON lines per batch
    tensorboard/        the numbers of both, as TensorBoard events
    checkpoints/        written by `agent_tunix.checkpoints`
    summary.json        written at the end
    reward_analysis.json  only with training.save_reward_analysis=true
    reward.json         name and attainable range of the reward and of its parts
    report.html         written on the way, and at the end of a run that was not interrupted

The three growing files are only ever appended to, without a buffer in this process, and `RunWriter.rewind` cuts them
back to the byte offsets that a checkpoint recorded. A process killed at any moment therefore loses no row and doubles
none. (https://man7.org/linux/man-pages/man2/flock.2.html for the lock, RFC 8878 section 3 for frames.)
"""

import datetime
import fcntl
import io
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
import zstandard

from agent_tunix.errors import ConfigChanged, RunError
from agent_tunix.plain import differences, environment, json_line, plain, replace_file

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
TIMINGS = "timings.jsonl"
SAMPLES = "samples.jsonl.zst"
SUMMARY = "summary.json"
REWARD_ANALYSIS = "reward_analysis.json"
REWARD = "reward.json"
REPORT = "report.html"
EVENTS = "tensorboard"
CHECKPOINTS = "checkpoints"

BOARD = {
    "Reward": {
        "reward": ["Multiline", ["reward/(mean|p10|p50|p90)$"]],
        "parts": ["Multiline", ["reward/part/[^/]+$"]],
        "held-out accuracy": ["Multiline", ["eval/(sampled_)?accuracy$"]],
        "groups without a preference": ["Multiline", ["group/flat_fraction$"]],
    },
    "Trade-off": {
        "share of the advantage": ["Multiline", ["reward/part/.+/advantage_share$"]],
        "correlation within groups": ["Multiline", ["tradeoff/.+/correlation$"]],
        "limit of the weight": ["Multiline", ["tradeoff/.+/weight_limit$"]],
        "forecast": ["Multiline", ["tradeoff/.+/forecast$"]],
    },
    "Policy": {
        "entropy": ["Multiline", ["policy/entropy$"]],
        "divergence": ["Multiline", ["policy/(old_)?kl$"]],
        "gradient norm": ["Multiline", ["policy/gradient_norm$"]],
        "clipped": ["Multiline", ["policy/clip_fraction.*"]],
    },
    "Length": {
        "tokens": ["Multiline", ["completion/length.*"]],
        "cut off, empty, hedging": ["Multiline", ["completion/.+_fraction$"]],
    },
    "Health": {"levels": ["Multiline", ["health/.+"]]},
}
"""TensorBoard's Custom Scalars page: charts by section, lines by regular expression."""

Record = Mapping[str, Any]
"""A rollout as a run stores it: prompt, completion, columns, reward, parts, outcomes, advantage and more."""

GROWING: tuple[str, ...] = (METRICS, TIMINGS, SAMPLES)
KINDS = ("train", "eval")
# Where the run lives and how it is opened is not what it computes.
NOT_COMPARED = ("run_dir", "resume", "cache_dir", "logging", "distributed")
HOLDS = f"a run folder holds {CONFIG}, {METRICS}, {SAMPLES}, {SUMMARY} and {CHECKPOINTS}/"


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


def _prepare_folder(path: Path) -> None:
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


def _lock(path: Path) -> int:
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


def _replace(path: Path, text: str) -> None:
    """Writes a whole file or nothing of it."""
    try:
        replace_file(path, text)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error


def _record_start(path: Path, changes: Mapping[str, tuple[Any, Any]]) -> None:
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
    _replace(file, json.dumps(plain(document), indent=2, ensure_ascii=False) + "\n")


def _append(file: io.FileIO, data: bytes) -> None:
    remaining = memoryview(data)
    try:
        while remaining:
            remaining = remaining[file.write(remaining) :]
    except OSError as error:
        raise RunError(f"cannot write {file.name}: {error.strerror}") from error


class RunWriter:
    """An open run folder, locked for this process.

    A new run can be written to at once. A resumed one first has to be rewound, to the position of its checkpoint or to
    its start, because its files may end in rows, or in half a row, from after that checkpoint.

    Attributes:
      path: The folder.
      resumed: Whether the folder was a run before it was opened.
      changes: Dotted keys whose values differ from the earlier start, `(old, new)`; empty unless forced.
    """

    def __init__(self, path: Path, lock: int, *, resumed: bool, changes: Mapping[str, tuple[Any, Any]]):
        self.path = path
        self.resumed = resumed
        self.changes = dict(changes)
        self._lock: int | None = lock
        self._files = {name: io.FileIO(path / name, "a") for name in GROWING}
        self._events: Any = None
        self._sinks: list[Callable[[Record], None]] = []
        self._purge_step: int | None = None
        self._ready = not resumed

    def log(self, row: Mapping[str, Any]) -> None:
        """Appends one row to metrics.jsonl and its numbers to TensorBoard.

        Args:
          row: Metrics with a `step` and a `kind` ("train" or "eval"). Values that are not finite become null.
        """
        if row.get("kind") not in KINDS or "step" not in row:
            raise ValueError(f"a metrics row needs a step and a kind of {KINDS}, got {dict(row)!r}")
        self._append(METRICS, json_line(row))
        self._pass_on(row)

    def log_timing(self, row: Mapping[str, Any]) -> None:
        """Appends one row of wall-clock numbers, with a `step`, to timings.jsonl and to TensorBoard."""
        if "step" not in row:
            raise ValueError(f"a timings row needs a step, got {dict(row)!r}")
        self._append(TIMINGS, json_line(row))
        self._pass_on(row)

    def attach(self, sink: Callable[[Record], None]) -> None:
        """Also gives every row that is logged from now on to a function, which must not raise."""
        self._sinks.append(sink)

    def log_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rollouts to samples.jsonl.zst as one complete zstd frame; no rows, no frame."""
        lines = b"".join(map(json_line, rows))
        if lines:
            self._append(SAMPLES, zstandard.ZstdCompressor(level=3, write_checksum=True).compress(lines))

    def position(self) -> dict[str, int]:
        """Where the three files end, in bytes; a checkpoint keeps this."""
        return {name: os.fstat(file.fileno()).st_size for name, file in self._files.items()}

    def sync(self) -> None:
        """Returns once the disk holds everything logged so far; called before a checkpoint that counts on it."""
        for file in self._files.values():
            os.fsync(file.fileno())
        if self._events is not None:
            self._events.flush()

    def rewind(self, position: Mapping[str, int] | None, step: int = 0) -> None:
        """Cuts the files back to `position`, so that what is logged next follows it; the run is unfinished again.

        Args:
          position: From `position()`; None cuts everything and starts over.
          step: The last step before the position; TensorBoard hides its events after it.

        Raises:
          RunError: If a file is shorter than the position, that is, lost rows since.
        """
        wanted = dict.fromkeys(GROWING, 0) if position is None else {name: int(position[name]) for name in GROWING}
        for name, file in self._files.items():
            size = os.fstat(file.fileno()).st_size
            if size < wanted[name]:
                raise RunError(
                    f"{self.path / name} has {size} bytes but its checkpoint was taken at {wanted[name]}; "
                    "restore the file, or start again in another run_dir"
                )
        for name, file in self._files.items():
            file.truncate(wanted[name])
        self._close_events()
        if position is None:
            shutil.rmtree(self.path / EVENTS, ignore_errors=True)
        self._purge_step = None if position is None else step + 1
        (self.path / SUMMARY).unlink(missing_ok=True)
        self._ready = True

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json, whole or not at all."""
        _replace(self.path / SUMMARY, json.dumps(plain(summary), indent=2, ensure_ascii=False) + "\n")

    def write_reward_analysis(self, analysis: Mapping[str, Any]) -> None:
        """Writes reward_analysis.json, whole or not at all."""
        _replace(self.path / REWARD_ANALYSIS, json.dumps(plain(analysis), indent=2, ensure_ascii=False) + "\n")

    def write_reward(self, facts: Mapping[str, Any]) -> None:
        """Writes reward.json, whole or not at all: `name`, `bounds` and `parts`, null where nothing is known."""
        _replace(self.path / REWARD, json.dumps(plain(facts), indent=2, ensure_ascii=False) + "\n")

    def log_text(self, tag: str, text: str, step: int) -> None:
        """Adds a text to TensorBoard; Markdown is shown as such."""
        self._tensorboard().add_text(tag, text, step)

    def close(self) -> None:
        """Closes the files and gives the folder free; a second call does nothing."""
        self._close_events()
        for file in self._files.values():
            file.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, name: str, data: bytes) -> None:
        if not self._ready:
            raise RuntimeError(f"{self.path} is a resumed run; call rewind(position, step) or rewind(None) first")
        _append(self._files[name], data)

    def _pass_on(self, row: Record) -> None:
        self._to_tensorboard(row)
        for sink in self._sinks:
            sink(row)

    def _to_tensorboard(self, row: Mapping[str, Any]) -> None:
        events = self._tensorboard()
        for tag, value in plain(row).items():
            if tag != "step" and isinstance(value, int | float):
                events.add_scalar(tag, value, int(row["step"]))

    def _tensorboard(self) -> Any:
        if self._events is None:
            self._events = self._open_events()
            self._events.add_custom_scalars(BOARD)
        return self._events

    def _open_events(self) -> Any:
        from tensorboardX import SummaryWriter

        folder = self.path / EVENTS
        # Event files are named by the second; the number keeps a quick second start from overwriting the first.
        suffix = f".{len(list(folder.glob('events.*')))}"
        return SummaryWriter(str(folder), filename_suffix=suffix, purge_step=self._purge_step)

    def _close_events(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None


class Follower(RunWriter):
    """A run that another process writes: takes everything in and writes nothing."""

    def __init__(self, path: Path, *, resumed: bool, changes: Mapping[str, tuple[Any, Any]]):
        self.path, self.resumed, self.changes = path, resumed, dict(changes)

    def log(self, row: Mapping[str, Any]) -> None:
        """Does nothing, and so does all that follows."""

    def log_timing(self, row: Mapping[str, Any]) -> None:
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


def open_run(
    path: Path | str, *, config: Mapping[str, Any], resume: Literal["auto", "force", "never"] | str = "auto"
) -> RunWriter:
    """Creates a run folder, or opens an existing one to go on with it, and locks it for this process.

    Args:
      path: The folder; it may be missing or empty.
      config: The whole config, nested mappings of plain values.
      resume: `auto` goes on with an existing run whose config is equal, `force` also with one whose config differs
        (and records the new one), `never` refuses.

    Returns:
      A writer; `resumed` says whether the run existed, in which case `rewind` comes before any row.

    Raises:
      ConfigChanged: If the run exists with another config; the message lists every key.
      RunError: If the folder cannot be written, is no run folder, is in use, or exists under `never`.
    """
    path = Path(path)
    _prepare_folder(path)
    lock = _lock(path)
    try:
        resumed = is_run(path)
        changes = _check_resume(path, config, resume) if resumed else {}
        if not resumed or changes:
            _replace(path / CONFIG, yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))
        _record_start(path, changes)
        return RunWriter(path, lock, resumed=resumed, changes=changes)
    except BaseException:
        os.close(lock)
        raise


def _check_resume(path: Path, config: Mapping[str, Any], resume: str) -> dict[str, tuple[Any, Any]]:
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
