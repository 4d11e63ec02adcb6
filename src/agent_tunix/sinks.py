"""Where the numbers of a run go besides its own folder: Weights & Biases, Trackio, MLflow, or a function of the user's.

A sink is a function of a row: `sink(numbers, step)`. Each has a thread and a queue of its own, so that a tracker that
is slow, unreachable or broken neither slows training nor ends it; what it misses is in the folder all the same.
"""

import contextlib
import importlib.util
import json
import logging
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agent_tunix import lookup, runs
from agent_tunix.config import Config
from agent_tunix.errors import ConfigError
from agent_tunix.plain import plain
from agent_tunix.runs import RunWriter

logger = logging.getLogger(__name__)

Numbers = Mapping[str, float]
"""Metrics by name, finite numbers only."""

MOST_WAITING = 10_000
"""Rows that may wait for a tracker; further ones are left out, and said to be."""
MOST_FAILURES = 3
"""Failures in a row after which a sink is given up."""
PATIENCE_S = 30.0
"""Seconds that the end of a run waits for rows under way."""
KEPT = "trackers.json"
"""File of a run with the ids that trackers gave it, so that a resumed run goes on in theirs."""


class Sink(NamedTuple):
    """A place for numbers.

    Attributes:
      write: `(numbers, step)`; may raise.
      close: Called once at the end.
    """

    write: Callable[[Numbers, int], Any]
    close: Callable[[], Any] = lambda: None


@contextlib.contextmanager
def attached(config: Config, run: RunWriter) -> Iterator[None]:
    """Sends what a run logs to the sinks of its config, while it is open.

    Raises:
      ConfigError: If a sink is unknown or its library is not installed; nothing has been started.
    """
    opened = [Background(name, open_sink) for name, open_sink in found(config, run.path)]
    for sink in opened:
        run.attach(sink.put)
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
    """Names and openers of the sinks of a config."""
    return [(name, _opener(name, config, path)) for name in config.logging.sinks]


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


class Background:
    """A sink in a thread of its own.

    Args:
      name: For messages.
      open_sink: Makes the sink, in the thread: logging in may take a while, too.
    """

    def __init__(self, name: str, open_sink: Callable[[], Sink]) -> None:
        self._name, self._open = name, open_sink
        self._rows: queue.Queue[tuple[Numbers, int] | None] = queue.Queue(MOST_WAITING)
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
        try:
            if numbers:
                self._rows.put_nowait((numbers, int(row["step"])))
        except queue.Full:
            self._say(f"is {MOST_WAITING} rows behind and misses some")

    def close(self) -> None:
        """Waits for rows under way, but not for ever."""
        with contextlib.suppress(queue.Full):
            self._rows.put(None, timeout=PATIENCE_S)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self._say(f"did not end within {PATIENCE_S:.0f} s and is left alone")

    def _work(self) -> None:
        try:
            sink = self._open()
        except Exception as error:
            self._say(f"could not be opened ({type(error).__name__}: {error})")
            return self._drain()
        failures = 0
        while (item := self._rows.get()) is not None:
            try:
                sink.write(*item)
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
        while self._rows.get() is not None:
            pass

    def _say(self, what: str) -> None:
        """Once per sink; a failure of every row would fill the terminal."""
        if not self._said:
            self._said = True
            line = " ".join(what.split())
            logger.warning("sink %s %s; training goes on, and the run folder has every number", self._name, line)


# --- Trackers ---------------------------------------------------------------------------------------------------------


def _wandb(config: Config, path: Path) -> Sink:
    """Weights & Biases; `WANDB_MODE=offline` writes into the run folder only."""
    import wandb

    run = wandb.init(
        project=config.logging.project,
        name=path.name,
        dir=str(path),
        id=_kept(path, "wandb", lambda: uuid.uuid4().hex[:8]),
        resume="allow",
        config=dict(runs.read_config(path)),
        settings=wandb.Settings(silent=True),
    )
    # Steps of their own axis: a resumed run repeats the steps behind its checkpoint, which `step=` would refuse.
    run.define_metric("*", step_metric="step")
    return Sink(lambda numbers, step: run.log({**numbers, "step": step}), run.finish)


def _trackio(config: Config, path: Path) -> Sink:
    """Trackio, whose numbers stay on this machine unless its own settings say otherwise."""
    import trackio

    trackio.init(project=config.logging.project, name=path.name, config=dict(runs.read_config(path)), resume="allow")
    return Sink(lambda numbers, step: trackio.log(dict(numbers), step=step), trackio.finish)


def _mlflow(config: Config, path: Path) -> Sink:
    """MLflow; `MLFLOW_TRACKING_URI` says where, by default a folder here."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name(config.logging.project)
    number = experiment.experiment_id if experiment else client.create_experiment(config.logging.project)
    run_id = _kept(path, "mlflow", lambda: client.create_run(number, run_name=path.name).info.run_id)

    def write(numbers: Numbers, step: int) -> None:
        for name, value in numbers.items():
            client.log_metric(run_id, name, value, step=step)

    return Sink(write, lambda: client.set_terminated(run_id))


TRACKERS: Mapping[str, tuple[str, Callable[[Config, Path], Sink]]] = {
    "wandb": ("wandb", _wandb),
    "trackio": ("trackio", _trackio),
    "mlflow": ("mlflow", _mlflow),
}
"""Names in `logging.sinks`, the package that each needs, and what opens it."""


def _kept(path: Path, tracker: str, made: Callable[[], str]) -> str:
    """The id that a tracker knows the run by, from an earlier start or made now."""
    file = path / KEPT
    ids = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if tracker not in ids:
        ids[tracker] = made()
        file.write_text(json.dumps(ids) + "\n", encoding="utf-8")
    return ids[tracker]
