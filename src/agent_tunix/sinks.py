"""Where the numbers of a run go besides its own files: to TensorBoard, to trackers, to a function of the user's.

A sink is a function of a row: `sink(numbers, step)`. Each has a thread and a queue of its own, so that a tracker that
is slow, unreachable or broken neither slows training nor ends it; what it misses is in the folder all the same.
"""

import contextlib
import importlib.util
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent_tunix import lookup, runs
from agent_tunix.config import Config
from agent_tunix.errors import ConfigError
from agent_tunix.plain import plain
from agent_tunix.runs import Listener, RunWriter
from agent_tunix.trackers import TRACKERS, Sink

logger = logging.getLogger(__name__)

MOST_WAITING = 10_000
"""Rows that may wait for a tracker; further ones are left out, and said to be."""
MOST_FAILURES = 3
"""Failures in a row after which a sink is given up."""
PATIENCE_S = 30.0
"""Seconds that the end of a run waits for rows under way."""
SYNC_S = 5.0
"""Seconds that a checkpoint waits for what is in the run's folder to be written."""


@contextlib.contextmanager
def attached(config: Config, run: RunWriter) -> Iterator[None]:
    """Sends what a run logs to the sinks of its config, while it is open.

    Raises:
      ConfigError: If a sink is unknown or its library is not installed; nothing has been started.
    """
    opened = [Background(name, open_sink) for name, open_sink in found(config, run.path)]
    for sink in opened:
        run.attach(Listener(sink.put, sink.text, sink.rewind, sink.flush))
    try:
        yield
    finally:
        for sink in opened:
            sink.close()


def check(config: Config) -> None:
    """Refuses a config whose sinks cannot be used, before anything is started.

    Raises:
      ConfigError: What is wrong with it.
    """
    found(config, Path())


def found(config: Config, path: Path) -> list[tuple[str, Callable[[], Sink]]]:
    """Names and openers of the sinks of a config; a run whose folder has TensorBoard events goes on in them."""
    begun = ("tensorboard",) if (path / runs.EVENTS).is_dir() else ()
    return [(name, _opener(name, config, path)) for name in dict.fromkeys((*begun, *config.logging.sinks))]


def _opener(name: str, config: Config, path: Path) -> Callable[[], Sink]:
    if name in TRACKERS:
        package, opener = TRACKERS[name]
        _require(name, package)
        return lambda: opener(config, path)
    function = lookup.find("logging.sinks", name, dict.fromkeys(TRACKERS))
    return lambda: Sink(function)


def _require(name: str, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"logging.sinks has {name}, which needs the package {package}: pip install {package}")


def _flushed(sink: Sink, done: threading.Event) -> None:
    try:
        if sink.flush is not None:
            sink.flush()
    finally:
        done.set()


class Background:
    """A sink in a thread of its own; nothing here raises.

    Args:
      name: For messages.
      open_sink: Makes the sink, in the thread: logging in may take a while, too.
    """

    def __init__(self, name: str, open_sink: Callable[[], Sink]) -> None:
        self._name, self._open = name, open_sink
        self._calls: queue.Queue[Callable[[Sink], Any] | None] = queue.Queue(MOST_WAITING)
        self._sink: Sink | None = None
        self._said = False
        self._thread = threading.Thread(target=self._work, name=f"sink {name}", daemon=True)
        self._thread.start()

    def put(self, row: Mapping[str, Any]) -> None:
        """Takes in a row; returns at once."""
        numbers = {
            key: value
            for key, value in plain(row).items()
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        if numbers:
            self._send(lambda sink: sink.write(numbers, int(row["step"])))

    def text(self, tag: str, text: str, step: int) -> None:
        """Takes in a text; returns at once."""
        self._send(lambda sink: sink.text(tag, text, step))

    def rewind(self, step: int | None) -> None:
        """Takes in that the run was cut back; returns at once."""
        self._send(lambda sink: sink.rewind(step))

    def flush(self) -> None:
        """Waits until a sink that keeps its own files has written them, but not for ever."""
        if self._sink is not None and self._sink.flush is not None:
            done = threading.Event()
            self._send(lambda sink: _flushed(sink, done))
            if not done.wait(SYNC_S):
                self._sink = None  # what is that slow is not waited for again

    def close(self) -> None:
        """Waits for rows under way, but not for ever."""
        with contextlib.suppress(queue.Full):
            self._calls.put(None, timeout=PATIENCE_S)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self._say(f"did not end within {PATIENCE_S:.0f} s and is left alone")

    def _send(self, call: Callable[[Sink], Any]) -> None:
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._say(f"is {MOST_WAITING} rows behind and misses some")

    def _work(self) -> None:
        try:
            self._sink = sink = self._open()
        except Exception as error:
            self._say(f"could not be opened ({type(error).__name__}: {error})")
            return self._drain()
        failures = 0
        while (call := self._calls.get()) is not None:
            try:
                call(sink)
                failures = 0
            except Exception as error:
                failures += 1
                self._say(f"failed ({type(error).__name__}: {error})")
                if failures == MOST_FAILURES:
                    return self._drain()
        try:
            sink.close()
        except Exception as error:
            self._say(f"could not be closed ({type(error).__name__}: {error})")

    def _drain(self) -> None:
        self._sink = None
        while self._calls.get() is not None:
            pass

    def _say(self, what: str) -> None:
        """Once per sink; a failure of every row would fill the terminal."""
        if not self._said:
            self._said = True
            line = " ".join(what.split())
            logger.warning("sink %s %s; training goes on, and the run folder has every number", self._name, line)
