"""Engines in turn: each in a process of its own, computing only between the word to go and its report.

The measuring process keeps the clock. A worker reports that it is ready, then after every step, and stands still in
between, so that of several engines never more than one is busy.
"""

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

log = logging.getLogger("benchmark")


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


Engine = Callable[[Turns], None]
"""Runs in a worker: one turn when ready, one after every step, and a finish."""


def peak_memory_gb() -> float:
    """Peak resident memory of this process, 10^9 bytes; from the kernel's own count where there is one."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024 / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


class Worker:
    """A process that runs an engine, one step at a time.

    Args:
      name: Of the engine, for messages.
      engine: What it runs; has to be importable by name in a fresh interpreter.
      folder: Where its output goes.
    """

    def __init__(self, name: str, engine: Engine, folder: Path):
        context = multiprocessing.get_context("spawn")
        self.name, self._output = name, folder / f"{name}.log"
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, engine, self._output), daemon=True)
        self._process.start()
        theirs.close()

    def receive(self) -> dict[str, Any]:
        """The next report.

        Raises:
          BenchmarkError: If the worker died; with the end of what it said.
        """
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(10)
            tail = self._output.read_text(errors="replace").splitlines()[-20:] if self._output.exists() else []
            reason = f"{self.name} died with exit code {self._process.exitcode}; it last said:"
            raise BenchmarkError("\n".join([reason, *tail])) from error

    def go(self) -> None:
        """Lets it run on; a worker that is dead is found out by the next `receive`."""
        with contextlib.suppress(OSError):
            self._connection.send("go")

    def step(self) -> dict[str, Any]:
        """One step, timed from here: from the word to go until the report of it."""
        started = time.perf_counter()
        self.go()
        report = self.receive()
        return {**report, "seconds": time.perf_counter() - started}

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.terminate()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()


def _serve(connection: Connection, engine: Engine, output: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the measuring process cleans up.
    with open(output, "w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    engine(Turns(connection))


@dataclasses.dataclass(frozen=True)
class Measurement:
    """All that one engine reported.

    Attributes:
      ready: Facts before the first step.
      warm_up: Reports of the first, compiling step and the others that do not count.
      steps: Reports of the steps that count.
      final: Facts after the last step.
    """

    ready: dict[str, Any]
    warm_up: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    final: dict[str, Any]


def measure(engines: Mapping[str, Engine], *, warm_up: int, steps: int, folder: Path) -> dict[str, Measurement]:
    """Warms every engine up alone, then lets them step in turn.

    Args:
      engines: By name, in the order in which they take turns; each has to run `warm_up + steps` steps.
      warm_up: Steps that do not count, at least the one that compiles.
      steps: Steps that count.
      folder: For the workers' output.

    Raises:
      BenchmarkError: If a worker dies.
    """
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        before: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
        for name, engine in engines.items():
            log.info("%s starts, compiles and warms up", name)
            workers[name] = worker = stack.enter_context(contextlib.closing(Worker(name, engine, folder)))
            before[name] = worker.receive(), [worker.step() for _ in range(warm_up)]
        counted: dict[str, list[dict[str, Any]]] = {name: [] for name in engines}
        for number in range(1, steps + 1):
            for name, worker in workers.items():
                counted[name].append(worker.step())
            seconds = ", ".join(f"{name} {counted[name][-1]['seconds']:.3f} s" for name in engines)
            log.info("step %d of %d: %s", number, steps, seconds)
        for worker in workers.values():
            worker.go()
        return {name: Measurement(*before[name], counted[name], worker.receive()) for name, worker in workers.items()}
