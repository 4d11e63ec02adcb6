"""Runs programs of strangers: starts the launcher of the sandbox, bounds its time, and reads what it says.

Each call starts a launcher of its own, a bare interpreter without site packages, and waits for its end; so calls from
any number of threads and processes do not touch each other. What confines a program is described in `child`,
and how tests reach it in `tester`.
"""

import contextlib
import functools
import json
import logging
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_START_S = 60.0
"""How long the launcher may take to start a program on a machine that is busy."""
_GRACE_S = 1.0
"""How long the launcher may take beyond the time that the program has."""
_CLEAR_S = 20.0
_MAX_ANSWER = 256 << 20

_log = logging.getLogger(__name__)


class SandboxError(RuntimeError):
    """The sandbox could not do its work; it says nothing of the program."""


class Limits(NamedTuple):
    """What a program may use.

    Attributes:
      timeout_s: Wall-clock seconds for all of its tests together.
      memory_mb: Address space of each of its processes, in MiB.
      file_mb: Size of each file it writes, and of its folder in memory, in MiB.
      processes: Processes and threads it may have at once.
    """

    timeout_s: float = 5.0
    memory_mb: int = 512
    file_mb: int = 16
    processes: int = 8


def run_asserts(
    program: str, tests: str, entry_point: str | None, *, stop_early: bool, limits: Limits
) -> Mapping[str, int] | None:
    """Runs test statements against a program.

    Returns:
      How many asserts were `passed`, `failed` and written (`asserts`); None where the tests took too long.

    Raises:
      SandboxError: The program could not be started.
      ValueError: The tests cannot be run here.
    """
    request = {"kind": "calls", "program": program}
    verdict = _run([request, {"source": tests, "entry_point": entry_point, "stop_early": stop_early}], limits)
    if verdict is not None and "unsupported" in verdict:
        raise ValueError(verdict["unsupported"])
    return verdict


def outputs(program: str, inputs: Sequence[str], *, limits: Limits) -> list[str | None]:
    """What a program writes to its standard output for each standard input; None where it failed or did not end.

    Raises:
      SandboxError: The program could not be started.
    """
    verdict = _run([{"kind": "streams", "program": program, "inputs": list(inputs)}], limits)
    found = [] if verdict is None else verdict["outputs"]
    return [*found, *[None] * (len(inputs) - len(found))]


@functools.cache
def sandbox_report() -> dict[str, bool]:
    """Tells what keeps a graded program away from this machine, by starting one that does nothing.

    Returns:
      `no_network`; `no_signals` (it cannot signal or trace other processes than its own); `own_processes` (it does not
      see others); `own_files` (it sees the standard library, read-only, and an empty folder in memory);
      `separate_user` (it has a user number of its own). Limits of time, memory, file size and processes are set in any
      case, and what it leaves running is killed.

    Raises:
      SandboxError: No program can be started on this machine.
    """
    reports: list[dict[str, bool]] = []
    _run([{"kind": "streams", "program": "", "inputs": [""]}], Limits(), reports)
    return reports[0]


# --- The launcher -----------------------------------------------------------------------------------------------------


def _run(messages: Sequence[Mapping[str, Any]], limits: Limits, reports: list[Any] | None = None) -> Any:
    """Starts a launcher on a request; its verdict, or None where it took too long."""
    with (
        tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as requests,
    ):
        first = dict(messages[0]) | {"folder": folder, "timeout_s": limits.timeout_s, "limits": _kernel_limits(limits)}
        for message in (first, *messages[1:]):
            body = json.dumps(message).encode()
            requests.write(struct.pack("!I", len(body)) + body)
        requests.seek(0)
        with _launched(requests) as launcher:
            return _verdict(launcher, _patience(messages[0], limits), reports)


def _kernel_limits(limits: Limits) -> dict[str, int]:
    return {
        "memory_mb": limits.memory_mb,
        "file_mb": limits.file_mb,
        "processes": limits.processes,
        "cpu_s": int(limits.timeout_s) + 2,
    }


def _patience(request: Mapping[str, Any], limits: Limits) -> float:
    """Seconds from the start of the program to the verdict, at most."""
    return limits.timeout_s + _GRACE_S + 0.2 * len(request.get("inputs", ()))


@contextlib.contextmanager
def _launched(requests: Any) -> Any:
    """A launcher that reads requests from a file, and is gone afterwards with all that it started."""
    here = os.path.dirname(os.path.abspath(__file__))
    start = f"import sys; sys.path.append({here!r}); import child, tester; "
    start += "sys.path.pop(); tester.main(child)"
    # The interpreter below a virtual environment: it needs no configuration, and no folder of the environment.
    python = getattr(sys, "_base_executable", None) or sys.executable
    process = subprocess.Popen(
        [python, "-I", "-S", "-c", start],
        stdin=requests,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        start_new_session=True,
    )
    requests.close()  # From here on, no process holds the tests in a file that another of the same user could open.
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        _drain(process)
        process.wait()
        process.stdout.close()  # pyright: ignore[reportOptionalMemberAccess]


def _drain(process: Any) -> None:
    """Waits until the keepers of programs are gone too: they hold the same pipe until nothing of a program is left."""
    answers, until = _Answers(process.stdout.fileno()), time.monotonic() + _CLEAR_S
    while answers.next(until) is not None:
        pass


def _verdict(process: Any, patience_s: float, reports: list[Any] | None) -> Any:
    answers = _Answers(process.stdout.fileno())
    ready = answers.next(time.monotonic() + _START_S)
    if ready is None:
        raise SandboxError(f"the sandbox did not start within {_START_S:.0f} s, or ended; see rewards.sandbox_report()")
    if "ready" not in ready:
        return _checked(ready)
    _note(tuple(ready["ready"].items()))
    if reports is not None:
        reports.append(ready["ready"])
    return _checked(answers.next(time.monotonic() + patience_s))


def _checked(verdict: Any) -> Any:
    if verdict is not None and "broken" in verdict:
        raise SandboxError(f"the sandbox could not run a program: {verdict['broken']}")
    return verdict


class _Answers:
    """JSON values, one a line, from a pipe.

    One reader for all lines: on a busy machine several of them arrive at once.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._rest = descriptor, b""
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def next(self, deadline: float) -> Any:
        """The next value, or None at the end of the pipe or of the time."""
        while b"\n" not in self._rest:
            if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1e3):
                return None
            chunk = os.read(self._descriptor, 1 << 16)
            self._rest += chunk
            if not chunk or len(self._rest) > _MAX_ANSWER:
                return None
        line, self._rest = self._rest.split(b"\n", 1)
        return json.loads(line)


@functools.cache
def _note(report: Sequence[tuple[str, bool]]) -> None:
    """Says once what the sandbox lacks."""
    missing = [name for name, there in report if not there and name != "separate_user"]
    if missing:
        _log.warning("programs are graded without %s on this system; see rewards.sandbox_report()", ", ".join(missing))
    else:
        _log.info("programs are graded in namespaces of their own")
