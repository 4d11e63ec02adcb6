"""Running calls that wait for something: in threads, or as coroutines in an event loop.

Neither can be killed; both are given up on at their timeout, and the interpreter's exit waits for none of them.
"""

import asyncio
import atexit
import functools
import inspect
import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any

from agent_tunix.rewards._calls.pool import Call, Result
from agent_tunix.rewards._calls.worker import reason

_BLOCKED_S = 10.0  # What an event loop is granted beyond the timeouts of its calls before it counts as blocked.


def is_asynchronous(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine, also for objects."""
    called = getattr(type(function), "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def awaited(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, or one that waits for the coroutines it makes, in an event loop of their own."""
    return functools.partial(_wait_for, function) if is_asynchronous(function) else function


def _wait_for(function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    return asyncio.run(function(*arguments, **settings))


# --- Threads ----------------------------------------------------------------------------------------------------------


def in_threads(
    workers: int, timeout_s: float | None, function: Callable[..., Any], calls: Sequence[Call]
) -> dict[int, Result]:
    """Attempts at calls in threads, by index; a call past its timeout is given up on."""
    return _ThreadedRun(timeout_s, function, calls).attempts(workers)


class _ThreadedRun:
    """One batch in threads: they take calls from `waiting`; who takes one out of `running` decides what came of it."""

    def __init__(self, timeout_s: float | None, function: Callable[..., Any], calls: Sequence[Call]):
        self._timeout_s, self._function, self._calls = timeout_s, function, calls
        self._waiting = deque(range(len(calls)))
        self._running: dict[int, float] = {}
        self._finished: queue.SimpleQueue[tuple[int, Result]] = queue.SimpleQueue()

    def attempts(self, workers: int) -> dict[int, Result]:
        for _ in range(min(workers, len(self._calls))):
            _start(self._work)
        found: dict[int, Result] = {}
        try:
            while len(found) < len(self._calls):
                try:
                    index, attempt = self._finished.get(timeout=self._patience())
                    found[index] = attempt
                except queue.Empty:
                    found |= self._given_up()
        finally:
            self._waiting.clear()
        return found

    def _work(self) -> None:
        while self._waiting:
            try:
                index = self._waiting.popleft()
            except IndexError:
                return
            self._running[index] = time.monotonic()
            attempt = _attempt(self._function, self._calls[index])
            if self._running.pop(index, None) is None:  # Given up on, and another thread has taken its place.
                return
            self._finished.put((index, attempt))

    def _given_up(self) -> dict[int, Result]:
        late = {}
        for index, since in self._running.copy().items():
            is_late = self._timeout_s is not None and time.monotonic() - since >= self._timeout_s
            if is_late and self._running.pop(index, None) is not None:
                late[index] = _too_late(self._timeout_s)
                _start(self._work)
        return late

    def _patience(self) -> float | None:
        """Seconds until a call that is running now is too late."""
        if self._timeout_s is None:
            return None
        oldest = min(self._running.copy().values(), default=time.monotonic())
        return max(0.0, oldest + self._timeout_s - time.monotonic())


def _start(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="grader", daemon=True).start()


def _attempt(function: Callable[..., Any], call: Call) -> Result:
    arguments, settings = call
    started = time.perf_counter()
    try:
        value = function(*arguments, **settings)
    except BaseException as error:  # Also SystemExit, which would end the thread without a word.
        return _failed(error, started)
    return Result("graded", value, seconds=time.perf_counter() - started)


def _failed(error: BaseException, started: float) -> Result:
    return Result("failed", reason=reason(error), seconds=time.perf_counter() - started)


def _too_late(timeout_s: float | None, why: str = "") -> Result:
    return Result("timed_out", reason=f"no result within {timeout_s or 0:g} s{why}", seconds=timeout_s or 0.0)


# --- An event loop ----------------------------------------------------------------------------------------------------


def in_event_loop(
    concurrency: int, timeout_s: float | None, function: Callable[..., Any], calls: Sequence[Call]
) -> dict[int, Result]:
    """Attempts at calls in the event loop of this process, by index; a call past its timeout is cancelled."""
    attempts: dict[int, Result] = {}
    gate = asyncio.Semaphore(concurrency)
    work = asyncio.run_coroutine_threadsafe(
        _all(_awaited_in_time(gate, timeout_s, function, call, index, attempts) for index, call in enumerate(calls)),
        _event_loop(os.getpid()),
    )
    rounds = math.ceil(len(calls) / concurrency)
    try:
        work.result(None if timeout_s is None else timeout_s * rounds + _BLOCKED_S)
    except TimeoutError:
        work.cancel()
        _event_loop.cache_clear()  # It stays blocked; the next batch gets another one.
        for index in set(range(len(calls))) - attempts.keys():
            attempts[index] = _too_late(timeout_s, "; the event loop is blocked, so await instead of waiting")
    except BaseException:
        work.cancel()
        raise
    return attempts


@functools.lru_cache(maxsize=1)
def _event_loop(process: int) -> asyncio.AbstractEventLoop:
    """The running loop of this process; threads do not survive a fork."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=f"coroutine graders of {process}", daemon=True)
    thread.start()
    atexit.register(_stop, loop, thread)
    return loop


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    thread.join(1.0)
    if not thread.is_alive():
        loop.close()


async def _all(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*coroutines)


async def _awaited_in_time(
    gate: asyncio.Semaphore,
    timeout_s: float | None,
    function: Callable[..., Any],
    call: Call,
    index: int,
    attempts: dict[int, Result],
) -> None:
    async with gate:
        task = asyncio.ensure_future(_awaited(function, call))
        try:
            # Unlike wait_for, wait does not wait for a coroutine that ignores its cancellation.
            await asyncio.wait({task}, timeout=timeout_s)
            if not task.done():
                attempts[index] = _too_late(timeout_s)
            elif task.cancelled():  # by itself
                attempts[index] = Result("failed", reason="CancelledError: ")
            else:
                attempts[index] = task.result()
        finally:
            task.cancel()


async def _awaited(function: Callable[..., Any], call: Call) -> Result:
    arguments, settings = call
    started = time.perf_counter()
    try:
        if is_asynchronous(function):
            value = await function(*arguments, **settings)
        else:
            attempt = await _in_its_thread(function, call)
            if not inspect.isawaitable(attempt.value):
                return attempt
            value = await attempt.value
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # SystemExit would end the loop and everything that waits for it.
        return _failed(error, started)
    return Result("graded", value, seconds=time.perf_counter() - started)


async def _in_its_thread(function: Callable[..., Any], call: Call) -> Result:
    """Like asyncio.to_thread, whose threads the interpreter would wait for when it exits."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(attempt: Result) -> None:
        if not future.done():
            future.set_result(attempt)

    def work() -> None:
        attempt = _attempt(function, call)
        with suppress(RuntimeError):  # The loop has been closed since.
            loop.call_soon_threadsafe(settle, attempt)

    _start(work)
    return await future
