"""What a worker process of the pool runs: receives a function, then calls of it, and answers each as it ends.

The file is started by its path and imports nothing but the standard library, so that a worker is there in a few
hundredths of a second and has loaded only what the function itself needs. Frames on both pipes are a kind, a length
and a pickle.
"""

import fcntl
import os
import pickle
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

HEADER = struct.Struct("<cQ")
SETTINGS, FUNCTION, CALL = b"S", b"F", b"C"
LOADED, DONE = b"L", b"D"
GRACE_S = 5.0
"""How long after its timeout a call lives on where no parent is left to kill it."""


class Settings(NamedTuple):
    """What a worker is told first.

    Attributes:
      path: `sys.path` of the parent.
      timeout_s: Of a call, or None.
      memory_mb: What a call may add to the address space of the process, in MiB, or None.
    """

    path: list[str]
    timeout_s: float | None
    memory_mb: float | None


def reason(error: BaseException) -> str:
    """The line about an exception that records keep; it can be written to any file."""
    try:
        text = f"{type(error).__name__}: {error}"[:200]
    except Exception:  # An exception may fail to describe itself.
        text = type(error).__name__
    return text.encode("utf-8", "backslashreplace").decode()


def serve(lifeline: int) -> None:
    """Answers frames from standard input on standard output until the input ends."""
    _end_with_parent(lifeline)
    inbox, outbox = _private_pipes()
    settings, function, base = Settings([], None, None), _unloaded, 0
    owner = os.getpid()
    while (frame := _received(inbox)) is not None:
        kind, payload = frame
        if kind == SETTINGS:
            settings = Settings(*pickle.loads(payload))
            sys.path[:] = settings.path
            continue
        if kind == FUNCTION:
            function, problem = _loaded(payload)
            base = _address_space()
            reply = LOADED, pickle.dumps(problem)
        else:
            reply = DONE, _answer(function, payload, settings, base)
        if os.getpid() != owner:  # The function forked and its child came back, too.
            os._exit(0)
        _send(outbox, *reply)


def _end_with_parent(lifeline: int) -> None:
    """Lets the kernel end this process when the other end of a pipe closes, also while the interpreter is locked."""
    os.set_inheritable(lifeline, False)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _private_pipes() -> tuple[BinaryIO, int]:
    """Both pipes under numbers that functions do not use: prints go to standard error, reads find nothing."""
    inbox, outbox = os.fdopen(os.dup(0), "rb", buffering=1 << 16), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return inbox, outbox


def _received(inbox: BinaryIO) -> tuple[bytes, bytes] | None:
    header = inbox.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    kind, size = HEADER.unpack(header)
    payload = inbox.read(size)
    return (kind, payload) if len(payload) == size else None


def _send(outbox: int, kind: bytes, payload: bytes) -> None:
    rest = memoryview(HEADER.pack(kind, len(payload)) + payload)
    while rest:
        rest = rest[os.write(outbox, rest) :]


def _loaded(payload: bytes) -> tuple[Callable[..., Any], str]:
    """The function, and what went wrong in loading it."""
    try:
        return pickle.loads(payload), ""
    except BaseException as error:
        return _unloaded, reason(error)


def _unloaded(*_: Any, **__: Any) -> None:
    raise RuntimeError("no function was loaded")


def _answer(function: Callable[..., Any], payload: bytes, settings: Settings, base: int) -> bytes:
    """What came of a call, as a pickle of `status, value, reason, seconds`."""
    started = time.perf_counter()
    try:
        arguments, named = pickle.loads(payload)
        started = time.perf_counter()
        value = _limited(function, arguments, named, settings, base)
        seconds = time.perf_counter() - started
    except BaseException as error:  # Also SystemExit: a function that gives up is no reason to end the worker.
        return pickle.dumps(("failed", None, reason(error), time.perf_counter() - started))
    try:
        return pickle.dumps(("graded", value, "", seconds), protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        problem = f"the {type(value).__name__} it returned cannot be pickled; {reason(error)}"
        return pickle.dumps(("failed", None, problem[:200], seconds))


def _limited(function: Callable[..., Any], arguments: tuple, named: dict, settings: Settings, base: int) -> Any:
    """Calls under limits that hold for the call alone."""
    if settings.timeout_s is not None:
        signal.setitimer(signal.ITIMER_REAL, settings.timeout_s + GRACE_S)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if settings.memory_mb is not None:
        resource.setrlimit(resource.RLIMIT_AS, (base + int(settings.memory_mb * 2**20), limits[1]))
    try:
        return function(*arguments, **named)
    finally:
        if settings.memory_mb is not None:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        if settings.timeout_s is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _address_space() -> int:
    """Bytes of virtual memory in use, 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


if __name__ == "__main__":
    serve(int(sys.argv[1]))
    os._exit(0)  # Threads that a function left behind do not keep the process.
