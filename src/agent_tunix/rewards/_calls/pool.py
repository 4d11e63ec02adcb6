"""A pool of worker processes whose calls end: with a value, with a reason, or killed at their timeout.

Workers are fresh interpreters on pipes (`worker.py`), not children of `multiprocessing`: forking is unsafe once JAX
has started its threads, and spawning would run the user's script again in every worker. A worker answers every call on
its own, so the pool knows which call is running and for how long; it sends a few calls ahead to keep workers busy and
takes back what was sent ahead when it has to kill one.

Needs a POSIX system. Nothing here imports jax, and neither do workers unless the function does.
"""

import os
import pickle
import selectors
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cloudpickle

from agent_tunix.rewards._calls.worker import CALL, DONE, FUNCTION, reason
from agent_tunix.rewards._calls.workplace import Worker, ending

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one call."""

_LOAD_LIMIT_S = 120.0
_LOOK_S = 0.5  # How often to look after a process whose end its pipe may not show, as a child of it can hold the pipe.
_AHEAD_S = 0.01  # Calls sent ahead are worth about this much work: far more than a round trip, too little to wait for.
_MOST_AHEAD = 256


class Result(NamedTuple):
    """What came of one call.

    Attributes:
      status: `graded`, `failed` or `timed_out`.
      value: What the function returned, if `graded`.
      reason: Why there is no value.
      seconds: How long the call took.
    """

    status: str
    value: Any = None
    reason: str = ""
    seconds: float = 0.0


class UnpicklableError(TypeError):
    """A function that cannot be sent to another process."""


class ProcessPool:
    """Worker processes, started when they are first needed and kept between runs until the pool is collected.

    Safe to use from several threads: each run takes idle workers and waits for one if there is none. A copy, also a
    pickled one, is a pool of its own with the same settings.

    Attributes:
      workers: Processes at most; 0 stands for the number of processors this process may use.
      timeout_s: Seconds a call may take before its worker is killed, or None. Starting a worker and loading the
        function do not count.
      memory_mb: What a call may add to the memory of its worker, in MiB of address space, or None. Beyond it, Python
        raises MemoryError in the call.
    """

    def __init__(self, workers: int = 0, *, timeout_s: float | None = None, memory_mb: float | None = None):
        if workers < 0:
            raise ValueError(f"workers is {workers}; give a positive number, or 0 for one per processor")
        for name, limit in (("timeout_s", timeout_s), ("memory_mb", memory_mb)):
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} is {limit}; give a positive number, or None for no limit")
        self.workers = workers or _processors()
        self.timeout_s = timeout_s
        self.memory_mb = memory_mb
        self._begin()

    def run(self, function: Callable[..., Any], calls: Sequence[Call]) -> list[Result]:
        """Runs calls and returns one result each, in their order.

        Args:
          function: Sent to each worker once, by cloudpickle: functions of scripts and notebooks, lambdas and closures
            travel by value. Every worker has its own copy; what a call changes in it is not seen elsewhere.
          calls: Positional and keyword arguments of each call.

        Returns:
          Results. Exceptions, SystemExit included, the death of a worker and arguments or values that cannot be pickled
          are `failed`; no other call suffers from them.

        Raises:
          UnpicklableError: The function cannot be pickled.
        """
        blob = _pickled_function(function)
        if not calls:
            return []
        workers = self._leased(len(calls), blob)
        try:
            return _Run(workers, blob, calls, self.timeout_s).results()
        finally:
            with self._freed:
                self._idle += workers
                self._freed.notify_all()

    def close(self) -> None:
        """Kills all workers; a later run starts new ones."""
        _kill(self._all, os.getpid())

    def __reduce__(self) -> Any:
        return _pool, (self.workers, self.timeout_s, self.memory_mb)

    def _begin(self) -> None:
        self._owner = os.getpid()
        self._freed = threading.Condition()
        self._all = [Worker(self.timeout_s, self.memory_mb) for _ in range(self.workers)]
        self._idle = list(self._all)
        weakref.finalize(self, _kill, self._all, self._owner)

    def _leased(self, wanted: int, blob: bytes) -> list[Worker]:
        """Takes idle workers, those that know the function first."""
        if self._owner != os.getpid():  # After a fork the workers, and perhaps a held lock, are the parent's.
            self._begin()
        with self._freed:
            self._freed.wait_for(lambda: self._idle)
            self._idle.sort(key=lambda worker: (worker.alive, worker.blob == blob))
            split = max(len(self._idle) - wanted, 0)
            workers, self._idle = self._idle[split:], self._idle[:split]
        return workers


def _pool(workers: int, timeout_s: float | None, memory_mb: float | None) -> ProcessPool:
    return ProcessPool(workers, timeout_s=timeout_s, memory_mb=memory_mb)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _kill(workers: list[Worker], owner: int) -> None:
    if os.getpid() == owner:
        for worker in workers:
            worker.kill()


def _pickled_function(function: Callable[..., Any]) -> bytes:
    try:
        return cloudpickle.dumps(function)
    except Exception as error:
        raise UnpicklableError(f"{function!r:.80} cannot be sent to a worker process; {reason(error)}") from error


def _pickled_call(call: Call) -> bytes:
    blob = pickle.dumps(call, protocol=pickle.HIGHEST_PROTOCOL)
    # Pickle names classes of the script by a module that is another one in the worker; cloudpickle, slower, sends them.
    return cloudpickle.dumps(call) if b"__main__" in blob else blob


class _Run:
    """The calls of one run on the workers it has leased, driven by one thread."""

    def __init__(self, workers: list[Worker], blob: bytes, calls: Sequence[Call], timeout_s: float | None):
        self._workers, self._blob, self._calls, self._timeout_s = workers, blob, calls, timeout_s
        self._pending = deque(range(len(calls)))
        self._results: dict[int, Result] = {}
        self._mean_s = _AHEAD_S  # of a call; so that the first ones are sent singly

    def results(self) -> list[Result]:
        with selectors.DefaultSelector() as self._selector:
            try:
                for worker in self._workers:
                    self._open(worker)
                while len(self._results) < len(self._calls):
                    self._turn()
            finally:
                for worker in self._workers:
                    if not worker.is_clean:
                        worker.kill()
        return [self._results[index] for index in range(len(self._calls))]

    def _turn(self) -> None:
        for worker in self._workers:
            self._feed(worker)
        for key, _ in self._selector.select(self._patience()):
            worker = key.data
            if worker.is_started and key.fd == worker.output:
                self._hear(worker)
            elif worker.is_started:
                self._write(worker)
        for worker in self._workers:
            self._check(worker)

    # --- Sending ---

    def _open(self, worker: Worker) -> None:
        """Makes sure of a live worker that has the function, or will."""
        if not worker.alive:
            worker.start()
        if worker.blob != self._blob:
            worker.blob = self._blob
            worker.loading += 1
            worker.queue(FUNCTION, self._blob)
        worker.since = time.monotonic()
        self._selector.register(worker.output, selectors.EVENT_READ, worker)

    def _feed(self, worker: Worker) -> None:
        """Sends calls ahead: few where they are slow or nearly all are given out, so that none idles at the end."""
        if worker.is_started and not worker.loading:
            share = -(-len(self._pending) // (2 * len(self._workers)))
            ahead = max(1, min(share, int(_AHEAD_S / self._mean_s), _MOST_AHEAD))
            if len(worker.assigned) <= ahead // 2:
                self._assign(worker, ahead - len(worker.assigned))
        self._write(worker)

    def _assign(self, worker: Worker, count: int) -> None:
        if not worker.assigned:
            worker.since = time.monotonic()
        while self._pending and count > 0:
            index = self._pending.popleft()
            try:
                worker.queue(CALL, _pickled_call(self._calls[index]))
            except Exception as error:
                self._results[index] = Result(
                    "failed", reason=f"the arguments cannot be pickled; {reason(error)}"[:200]
                )
            else:
                worker.assigned.append(index)
                count -= 1

    def _write(self, worker: Worker) -> None:
        """Writes, and asks to be told when the pipe takes the rest: waiting for it could be waiting for each other."""
        if not worker.outgoing:
            return
        worker.write()
        waiting = worker.input in self._selector.get_map()
        if worker.outgoing and not waiting:
            self._selector.register(worker.input, selectors.EVENT_WRITE, worker)
        elif waiting and not worker.outgoing:
            self._selector.unregister(worker.input)

    # --- Receiving ---

    def _hear(self, worker: Worker) -> None:
        is_open = worker.read()
        for kind, payload in worker.frames():
            if kind == DONE:
                self._settle(worker, payload)
            else:
                self._note_loaded(worker, pickle.loads(payload))
        if not is_open:
            self._replace(worker)

    def _settle(self, worker: Worker, payload: bytes) -> None:
        try:
            result = Result(*pickle.loads(payload))
        except Exception as error:  # Classes that only the worker knows, or constructors that fail.
            result = Result("failed", reason=f"the value cannot be unpickled; {reason(error)}"[:200])
        self._results[worker.assigned.popleft()] = result
        self._mean_s += 0.2 * (result.seconds + 1e-6 - self._mean_s)
        worker.since = time.monotonic()

    def _note_loaded(self, worker: Worker, problem: str) -> None:
        worker.loading -= 1
        worker.since = time.monotonic()
        if problem and not worker.loading:  # else it is about the function of an earlier run
            worker.blob = b""
            self._give_up(f"the function cannot be loaded in a worker process; {problem}"[:200])

    def _give_up(self, why: str) -> None:
        """Fails every call without a result: what one worker cannot load, none can."""
        for index in range(len(self._calls)):
            self._results.setdefault(index, Result("failed", reason=why))
        self._pending.clear()

    # --- Ending ---

    def _limit_s(self, worker: Worker) -> float:
        if worker.loading:
            return _LOAD_LIMIT_S
        return float("inf") if self._timeout_s is None else self._timeout_s

    def _patience(self) -> float:
        """Seconds until some worker has to be looked after."""
        now = time.monotonic()
        left = [self._limit_s(worker) - (now - worker.since) for worker in self._workers if worker.is_busy]
        return max(0.0, min(_LOOK_S, *left)) if left else 0.0

    def _check(self, worker: Worker) -> None:
        """Ends a call that takes too long, and notices a death that the pipe does not show."""
        if not worker.is_busy or time.monotonic() - worker.since < min(self._limit_s(worker), _LOOK_S):
            return
        self._hear(worker)  # If this thread was held up, results may have been waiting here.
        if worker.is_busy and time.monotonic() - worker.since >= self._limit_s(worker):
            self._replace(worker, timed_out=True)
        elif worker.is_busy and not worker.alive:
            self._replace(worker)

    def _replace(self, worker: Worker, *, timed_out: bool = False) -> None:
        """Ends a worker, settles its running call and gives what was sent ahead to others."""
        loading, assigned, seconds = worker.loading, worker.assigned, time.monotonic() - worker.since
        for fd in (worker.input, worker.output):
            if fd in self._selector.get_map():
                self._selector.unregister(fd)
        ended = ending(worker.kill())
        if loading:
            why = f"took more than {_LOAD_LIMIT_S:g} s" if timed_out else ended
            self._give_up(f"the function cannot be loaded in a worker process, which {why}")
        elif assigned:
            late = Result("timed_out", reason=f"no result within {self._timeout_s or 0:g} s", seconds=seconds)
            died = Result("failed", reason=f"the worker process {ended} in this call", seconds=seconds)
            # Only a timer of the worker itself, for the case that nobody is left to kill it, ends it by SIGALRM.
            is_late = timed_out or (ended == "was killed by SIGALRM" and self._timeout_s is not None)
            self._results[assigned.popleft()] = late if is_late else died
            self._pending.extendleft(reversed(assigned))
        if self._pending:
            self._open(worker)
