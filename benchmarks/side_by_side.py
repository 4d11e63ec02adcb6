"""Engines in turn: each in a process of its own, computing only between the word to go and its report.

The measuring process keeps the clock. A worker reports that it is ready, then after every step, and stands still in
between, so that of several engines never more than one is busy. A worker may run in another interpreter than the
measuring process, such as the environment of a library that does not go together with this one.
"""

import contextlib
import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger("benchmark")

FOLDER = Path(__file__).parent
MARGIN = 1.15
"""A warm-up of a few steps does not tell configurations apart that differ by less than this. All of those go on, and
have to find room in memory."""


class BenchmarkError(Exception):
    """The measurement is void: a worker died, or the engines did not do the same work."""


class Turns:
    """A worker's end of the handshake: it reports a step and then stands still until it is told to go on."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._started = self._idle = 0.0

    def wait(self, report: Mapping[str, Any]) -> None:
        """Reports what was done since the last turn and blocks until the next.

        Args:
          report: Facts about the step; processor seconds and memory are added.
        """
        reported = time.process_time()
        costs = {
            "cpu_seconds": reported - self._started,
            "idle_cpu_seconds": self._idle,
            "peak_memory_gb": peak_memory_gb(),
        }
        self._connection.send({**report, **costs})
        self._connection.recv()
        self._started = time.process_time()
        # Work that an engine left running behind its report shows up here.
        self._idle = self._started - reported

    def finish(self, report: Mapping[str, Any]) -> None:
        """Sends the last facts."""
        self._connection.send(dict(report))


class Engine(NamedTuple):
    """What a worker runs.

    Attributes:
      run: One turn when ready, one after every step, and a finish; importable by name in a fresh interpreter.
      python: The interpreter; one other than this gets the folder of this file to import from, and nothing else.
    """

    run: Callable[[Turns], None]
    python: str = sys.executable


def peak_memory_gb() -> float:
    """Peak resident memory of this process, 10^9 bytes; from the kernel's own count where there is one."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024 / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def machine_cpu_seconds() -> float:
    """Processor seconds that the whole machine has spent on work, those taken by its host included; 0 if not told."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0.0
    user, nice, system, _idle, _waiting, *rest = map(int, path.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


class Worker:
    """A process that runs an engine, one step at a time.

    Args:
      name: Of the engine, for messages.
      engine: What it runs.
      folder: Where its output goes.
    """

    def __init__(self, name: str, engine: Engine, folder: Path):
        self.name, self._output = name, folder / f"{name}.log"
        self._connection, theirs = Pipe()
        command = [engine.python, "-c", f"import side_by_side; side_by_side.serve({theirs.fileno()})"]
        with open(self._output, "wb") as file:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment_of(engine.python),
            )
        theirs.close()
        with contextlib.suppress(OSError):  # dead already: the next `receive` finds out
            self._connection.send(engine.run)

    def receive(self) -> dict[str, Any]:
        """The next report.

        Raises:
          BenchmarkError: If the worker died; with the end of what it said.
        """
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            tail = self._output.read_text(errors="replace").splitlines()[-20:] if self._output.exists() else []
            reason = f"{self.name} died with exit code {self._process.poll()}; it last said:"
            raise BenchmarkError("\n".join([reason, *tail])) from error

    def go(self) -> None:
        """Lets it run on; a worker that is dead is found out by the next `receive`."""
        with contextlib.suppress(OSError):
            self._connection.send("go")

    def step(self) -> dict[str, Any]:
        """One step, timed from here: from the word to go until the report of it."""
        started, busy = time.perf_counter(), machine_cpu_seconds()
        self.go()
        report = self.receive()
        seconds, busy = time.perf_counter() - started, machine_cpu_seconds() - busy
        return {**report, "seconds": seconds, "other_cpu_seconds": max(busy - report["cpu_seconds"], 0.0)}

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._connection.close()


def environment_of(python: str) -> dict[str, str]:
    """Environment variables of a worker: what it may import from differs by interpreter, the rest is the same."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    path = [str(FOLDER), *(entry for entry in sys.path if entry)] if python == sys.executable else [str(FOLDER)]
    return kept | {"PYTHONPATH": os.pathsep.join(path)}


def serve(descriptor: int) -> None:
    """A worker's main function: receives its engine and runs it.

    Args:
      descriptor: File descriptor of its end of the pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the measuring process cleans up.
    connection = Connection(descriptor)
    run = connection.recv()
    run(Turns(connection))


@dataclasses.dataclass(frozen=True)
class Measurement:
    """All that one engine reported.

    Attributes:
      ready: Facts before the first step.
      warm_up: Reports of the first, compiling step and the others that do not count.
      steps: Reports of the steps that count; none if another configuration of the same engine was clearly better.
      final: Facts after the last step.
    """

    ready: dict[str, Any]
    warm_up: list[dict[str, Any]]
    steps: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    final: dict[str, Any] = dataclasses.field(default_factory=dict)


def last_seconds(warm_up: Sequence[Mapping[str, Any]]) -> float:
    """What a warmed-up configuration is judged by: its fastest step behind the first, which compiles."""
    return min(step["seconds"] for step in warm_up[1:] or warm_up)


def measure(
    engines: Mapping[str, Mapping[str, Engine]],
    *,
    warm_up: int,
    steps: int,
    folder: Path,
    cost: Callable[[Sequence[Mapping[str, Any]]], float] = last_seconds,
) -> dict[str, Measurement]:
    """Warms every configuration up alone, then lets those that may be the best of their engine step in turn.

    Args:
      engines: Configurations by name, by engine, in the order in which they take turns; each has to run
        `warm_up + steps` steps.
      warm_up: Steps that do not count, at least the one that compiles.
      steps: Steps that count.
      folder: For the workers' output.
      cost: Of a configuration, from the reports of its warm-up. Those that cost more than `MARGIN` times as much as
        another of the same engine do not go on.

    Returns:
      What each configuration reported, by its name.

    Raises:
      BenchmarkError: If a worker dies.
    """
    with contextlib.ExitStack() as stack:
        measured: dict[str, Measurement] = {}
        workers: dict[str, Worker] = {}
        for configurations in engines.values():
            going: dict[str, Worker] = {}
            for name, engine in configurations.items():
                going[name] = stack.enter_context(contextlib.closing(Worker(name, engine, folder)))
                measured[name] = _warmed_up(going[name], warm_up)
                costs = {name: cost(measured[name].warm_up) for name in going}
                for slow in [name for name in going if costs[name] > MARGIN * min(costs.values())]:
                    going.pop(slow).close()
            workers |= going
        for number in range(1, steps + 1):
            for name, worker in workers.items():
                measured[name].steps.append(worker.step())
            seconds = ", ".join(f"{name} {measured[name].steps[-1]['seconds']:.3f} s" for name in workers)
            log.info("step %d of %d: %s", number, steps, seconds)
        for name, worker in workers.items():
            worker.go()
            measured[name].final.update(worker.receive())
        return measured


def _warmed_up(worker: Worker, steps: int) -> Measurement:
    log.info("%s starts, compiles and warms up", worker.name)
    ready = worker.receive()
    reports = []
    for _ in range(steps):
        reports.append(worker.step())
        log.info("%s: %.3f s, %.2f GB", worker.name, reports[-1]["seconds"], reports[-1]["peak_memory_gb"])
    return Measurement(ready, reports)
