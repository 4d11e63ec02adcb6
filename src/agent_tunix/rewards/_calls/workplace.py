"""The parent's end of a worker process: starting it, its pipes, and ending it."""

import os
import pickle
import signal
import subprocess
import sys
from collections import deque

from agent_tunix.rewards._calls import worker
from agent_tunix.rewards._calls.worker import HEADER, SETTINGS

_PIECE = 1 << 16


class Worker:
    """One place for a worker process, and both ends of its pipes as the parent sees them.

    Attributes:
      blob: The function it has, or is loading.
      loading: Functions sent and not yet answered for.
      assigned: Calls sent and not yet answered, the running one first.
      since: When that call began, at the latest.
    """

    def __init__(self, timeout_s: float | None, memory_mb: float | None):
        self._limits = timeout_s, memory_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._forget()

    @property
    def alive(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def is_started(self) -> bool:
        """Whether there is a process, or one that has ended and was not yet noticed."""
        return self._process is not None

    @property
    def is_busy(self) -> bool:
        """Whether an answer is due."""
        return self.is_started and bool(self.assigned or self.loading)

    @property
    def is_clean(self) -> bool:
        """Whether another run can take over."""
        return not self.assigned and not self.outgoing

    def _forget(self) -> None:
        self.blob = b""
        self.loading = 0
        self.assigned: deque[int] = deque()
        self.since = 0.0
        self.outgoing, self._incoming = bytearray(), bytearray()

    def start(self) -> None:
        """Starts a process in a session of its own: Ctrl-C does not reach it, and its children die with it."""
        self.kill()
        held_by_worker, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-u", worker.__file__, str(held_by_worker)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(held_by_worker,),
                env=_environment(),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(held_by_worker)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.input, self.output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self.input, False)
        os.set_blocking(self.output, False)
        # The current folder: modules may have been imported from it by a path that is gone.
        self.queue(SETTINGS, pickle.dumps(([*sys.path, os.getcwd()], *self._limits)))

    def kill(self) -> int:
        """Kills the process and all its children; returns what it ended with, by itself or now."""
        process, self._process = self._process, None
        if process is None:
            return 0
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # the latter on macOS, where all that is left is a zombie
            process.kill()
        status = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
        os.close(self._lifeline)
        self._forget()
        return status

    def queue(self, kind: bytes, payload: bytes) -> None:
        """Adds a frame to what is written when the worker reads."""
        self.outgoing += HEADER.pack(kind, len(payload))
        self.outgoing += payload

    def write(self) -> None:
        """Writes as much as the pipe takes."""
        try:
            while self.outgoing:
                del self.outgoing[: os.write(self.input, self.outgoing)]
        except (BlockingIOError, BrokenPipeError):  # A broken pipe shows as the end of the other one.
            pass

    def read(self) -> bool:
        """Reads what has come; False at the end."""
        try:
            while piece := os.read(self.output, _PIECE):
                self._incoming += piece
        except BlockingIOError:
            return True
        return False

    def frames(self) -> list[tuple[bytes, bytes]]:
        """Takes the complete frames from what was read."""
        found, start = [], 0
        while len(self._incoming) - start >= HEADER.size:
            kind, size = HEADER.unpack_from(self._incoming, start)
            end = start + HEADER.size + size
            if len(self._incoming) < end:
                break
            found.append((kind, bytes(self._incoming[start + HEADER.size : end])))
            start = end
        del self._incoming[:start]
        return found


def _environment() -> dict[str, str]:
    """As here, but workers leave the accelerator to this process and use one processor each."""
    one_each = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**one_each, **os.environ, "JAX_PLATFORMS": "cpu"}


def ending(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-status}"
