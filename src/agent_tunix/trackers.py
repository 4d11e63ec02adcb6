"""The places for numbers that are known by name: TensorBoard, Weights & Biases, Trackio and MLflow."""

import json
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agent_tunix import runs
from agent_tunix.config import Config

KEPT = "trackers.json"
"""File of a run with the ids that trackers gave it, so that a resumed run goes on in theirs."""

BOARD: Mapping[str, Mapping[str, list]] = {
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

Numbers = Mapping[str, float]
"""Metrics by name, finite numbers only."""


class Sink(NamedTuple):
    """A place for numbers; each of its functions may raise.

    Attributes:
      write: `(numbers, step)`, all that a sink needs.
      close: Called once at the end.
      text: `(tag, text, step)`, Markdown; left out where a tracker has no place for it.
      rewind: Gets the step that the run was cut back to, None where it starts over; what lay behind comes again.
      flush: Keeps what was written, also if the process is killed next; None where that is the tracker's affair.
    """

    write: Callable[[Numbers, int], Any]
    close: Callable[[], Any] = lambda: None
    text: Callable[[str, str, int], Any] = lambda tag, text, step: None
    rewind: Callable[[int | None], Any] = lambda step: None
    flush: Callable[[], Any] | None = None


class Events:
    """TensorBoard's event files of a run; one is begun when there is something to write.

    They are written without the queue and the thread of tensorboardX's own writer: a sink has both already, and a disk
    that is full is then an error of the call that met it.

    Args:
      folder: Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None
        self._purge_step: int | None = None

    def write(self, numbers: Numbers, step: int) -> None:
        """Adds the numbers of a row."""
        from tensorboardX import summary

        self._add(step, summary=summary.Summary(value=[summary.scalar(*item).value[0] for item in numbers.items()]))

    def text(self, tag: str, text: str, step: int) -> None:
        """Adds a text; Markdown is shown as such."""
        from tensorboardX import summary

        self._add(step, summary=summary.text(tag, text))

    def rewind(self, step: int | None) -> None:
        """TensorBoard hides what earlier files hold behind the step; a start over removes them."""
        self.close()
        if step is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._purge_step = None if step is None else step + 1

    def flush(self) -> None:
        """Hands everything to the operating system."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Closes the file; more to write begins another."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, step: int, **content: Any) -> None:
        if self._writer is None:
            self._begin()
        self._put(step, **content)

    def _put(self, step: int, **content: Any) -> None:
        from tensorboardX.proto import event_pb2

        event: Any = event_pb2.Event  # type: ignore[attr-defined]
        self._writer.write_event(event(wall_time=time.time(), step=step, **content))

    def _begin(self) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import custom_scalars

        self._folder.mkdir(parents=True, exist_ok=True)
        # Files are named by the second; the number keeps a quick second start from overwriting the first.
        self._writer = EventsWriter(str(self._folder / "events"), f".{len(list(self._folder.glob('events.*')))}")
        if self._purge_step is not None:
            log: Any = event_pb2.SessionLog  # type: ignore[attr-defined]
            self._put(self._purge_step, session_log=log(status=log.START))
        self._put(0, summary=custom_scalars(BOARD))


# Each imports its library when it is called, in the thread of its sink.


def _tensorboard(config: Config, path: Path) -> Sink:
    """TensorBoard's event files in the run's folder."""
    events = Events(path / runs.EVENTS)
    return Sink(events.write, events.close, events.text, events.rewind, events.flush)


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


def _kept(path: Path, tracker: str, made: Callable[[], str]) -> str:
    """The id that a tracker knows the run by, from an earlier start or made now."""
    file = path / KEPT
    ids = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if tracker not in ids:
        ids[tracker] = made()
        file.write_text(json.dumps(ids) + "\n", encoding="utf-8")
    return ids[tracker]


TRACKERS: Mapping[str, tuple[str, Callable[[Config, Path], Sink]]] = {
    "tensorboard": ("tensorboardX", _tensorboard),
    "wandb": ("wandb", _wandb),
    "trackio": ("trackio", _trackio),
    "mlflow": ("mlflow", _mlflow),
}
"""Names in `logging.sinks`, the package that each needs, and what opens it."""
