"""Writing a run folder, and cutting it back to a checkpoint."""

import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
import zstandard

from agent_tunix.errors import RunError
from agent_tunix.plain import json_line, plain
from agent_tunix.runs._folder import check_resume, lock, prepare, record_start, replace
from agent_tunix.runs._names import CONFIG, GROWING, METRICS, REWARD, REWARD_ANALYSIS, SAMPLES, SUMMARY, TIMINGS, Record
from agent_tunix.runs._reading import is_run

KINDS = ("train", "eval")


class Listener(NamedTuple):
    """Who else is told what a run logs; none of the functions may raise.

    Attributes:
      row: Gets every row of metrics.jsonl and timings.jsonl.
      text: Gets `(tag, text, step)`; the text is Markdown.
      rewound: Gets the step that the run was cut back to, None where it starts over; what lay behind comes again.
      sync: Called before a checkpoint that counts on what was logged.
    """

    row: Callable[[Record], None]
    text: Callable[[str, str, int], None] = lambda tag, text, step: None
    rewound: Callable[[int | None], None] = lambda step: None
    sync: Callable[[], None] = lambda: None


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
        self._listeners: list[Listener] = []
        self._ready = not resumed

    def log(self, row: Mapping[str, Any]) -> None:
        """Appends one row to metrics.jsonl.

        Args:
          row: Metrics with a `step` and a `kind` ("train" or "eval"). Values that are not finite become null.
        """
        if row.get("kind") not in KINDS or "step" not in row:
            raise ValueError(f"a metrics row needs a step and a kind of {KINDS}, got {dict(row)!r}")
        self._append(METRICS, json_line(row))
        self._pass_on(row)

    def log_timing(self, row: Mapping[str, Any]) -> None:
        """Appends one row of wall-clock numbers, with a `step`, to timings.jsonl."""
        if "step" not in row:
            raise ValueError(f"a timings row needs a step, got {dict(row)!r}")
        self._append(TIMINGS, json_line(row))
        self._pass_on(row)

    def attach(self, listener: Listener) -> None:
        """Also tells a listener what is logged from now on."""
        self._listeners.append(listener)

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
        for listener in self._listeners:
            listener.sync()

    def rewind(self, position: Mapping[str, int] | None, step: int = 0) -> None:
        """Cuts the files back to `position`, so that what is logged next follows it; the run is unfinished again.

        Args:
          position: From `position()`; None cuts everything and starts over.
          step: The last step before the position, which listeners are told.

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
        for listener in self._listeners:
            listener.rewound(None if position is None else step)
        (self.path / SUMMARY).unlink(missing_ok=True)
        self._ready = True

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json, whole or not at all."""
        replace(self.path / SUMMARY, json.dumps(plain(summary), indent=2, ensure_ascii=False) + "\n")

    def write_reward_analysis(self, analysis: Mapping[str, Any]) -> None:
        """Writes reward_analysis.json, whole or not at all."""
        replace(self.path / REWARD_ANALYSIS, json.dumps(plain(analysis), indent=2, ensure_ascii=False) + "\n")

    def write_reward(self, facts: Mapping[str, Any]) -> None:
        """Writes reward.json, whole or not at all: `name`, `bounds` and `parts`, null where nothing is known."""
        replace(self.path / REWARD, json.dumps(plain(facts), indent=2, ensure_ascii=False) + "\n")

    def log_text(self, tag: str, text: str, step: int) -> None:
        """Passes on a text, which is kept in no file of the folder's own; Markdown is shown as such where it can be."""
        for listener in self._listeners:
            listener.text(tag, text, step)

    def close(self) -> None:
        """Closes the files and gives the folder free; a second call does nothing."""
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
        for listener in self._listeners:
            listener.row(row)


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
    prepare(path)
    descriptor = lock(path)
    try:
        resumed = is_run(path)
        changes = check_resume(path, config, resume) if resumed else {}
        if not resumed or changes:
            replace(path / CONFIG, yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))
        record_start(path, changes)
        return RunWriter(path, descriptor, resumed=resumed, changes=changes)
    except BaseException:
        os.close(descriptor)
        raise
