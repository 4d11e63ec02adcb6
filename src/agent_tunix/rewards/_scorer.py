"""Learned scorers and judges: functions of a batch that may be slow, paid for and unreliable.

`scorer` lifts any function of flat lists, be it the forward pass of a reward model or a request to a server, to a
reward: batched, concurrent, with a timeout, retries and a cache. `http_judge` is such a function; it asks a language
model behind an OpenAI-compatible server.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import hashlib
import inspect
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, TypeVar

from agent_tunix.rewards._calls.running import Results, reason
from agent_tunix.rewards._calls.waiting import is_asynchronous
from agent_tunix.rewards._lift import column_of, name_of
from agent_tunix.rewards._sheet import checked_bounds, part_score
from agent_tunix.types import Outcome, Reward, Rollouts, Score

_T = TypeVar("_T")
_Row = tuple[Any, ...]
_Load = Callable[[Sequence[str]], dict[str, float]]
_Save = Callable[[Mapping[str, float]], None]

_BATCH_SIZE = 32
_LONGEST_DELAY_S = 30.0


def scorer(
    function: Callable[..., Any],
    *columns: str,
    name: str | None = None,
    bounds: tuple[float, float] | None = None,
    batch_size: int | None = None,
    concurrency: int = 8,
    timeout_s: float | None = 60.0,
    retries: int = 2,
    backoff_s: float = 0.5,
    cache: MutableMapping[str, float] | str | os.PathLike[str] | None = None,
) -> Reward:
    """Lifts a learned scorer or a judge to a reward.

    Completions that agree in prompt, text and columns are asked about once. Batches run concurrently: coroutine
    functions in an event loop of their own, which also works inside a notebook, other functions in threads. A thread
    cannot be killed: one that is past its timeout is left behind and its answer dropped.

    Args:
      function: `(prompts, completions, *column_lists) -> list of float | None`, flat lists with one entry per
        completion of the batch. None abstains. It may be a coroutine function, which must not block. Two attributes
        are read if there are any: `batch_size`, and `identity`, text that tells apart what different settings of the
        function would answer.
      *columns: Dataset columns whose values the function gets after the completions.
      name: Name of the part in metrics; by default that of the function.
      bounds: Least and greatest value, infinite by default. Given, they are enforced.
      batch_size: Completions per call; by default what the function says, else 32.
      concurrency: Calls at the same time.
      timeout_s: Seconds that one attempt of one batch may take; None waits for ever.
      retries: Further attempts of a batch that raised or ran out of time. After them each of its entries has failed,
        or timed out, with the reason: it has no value, and is no zero.
      backoff_s: Seconds before the first retry, doubled before each further one, at most 30.
      cache: Where graded values are kept: a dictionary, or the path of an SQLite file, which survives the process and
        may be shared by several. The key is the SHA-256 of name, `identity` and inputs: rename the part, or use
        another file, when a function changes.

    Returns:
      A reward with one part. `Score.seconds` holds how long the batch of an entry took, with its retries and the
      pauses between them, and zero where the cache knew the value.

    Raises:
      ValueError: A setting makes no sense. When called: a column is missing, a list has another length than its
        batch, or a value is NaN, infinite or out of bounds.
      TypeError: When called: the result is not a list, a value is not a number, or an input cannot be turned into a
        key.

    Examples:
      A tiny linear model on the counts of two letters:

      >>> import numpy as np
      >>> from agent_tunix.rewards import as_tunix
      >>> def bag_of_letters(prompts, completions):
      ...     counts = np.array([[text.count(letter) for letter in "ab"] for text in completions])
      ...     return counts @ np.array([1.0, -0.5])
      >>> as_tunix(scorer(bag_of_letters, bounds=(-10, 10)))(["?", "?"], ["aab", "b"])
      [1.5, -0.5]
    """
    label = name or name_of(function)
    limits = checked_bounds(label, bounds)
    size = getattr(function, "batch_size", _BATCH_SIZE) if batch_size is None else batch_size
    _check_settings(label, size, concurrency, timeout_s, retries, backoff_s)
    ask = functools.partial(_attempts, function, timeout_s, retries, backoff_s)
    load, save = _store(cache)
    identity = [label, getattr(function, "identity", "")]

    def score(rollouts: Rollouts) -> Score:
        rows = _rows(rollouts, columns, label)
        keys = [_key(identity, row, label) for row in rows]
        known = load(keys)
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
        replies = {key: _Reply(value, None, 0.0) for key, value in known.items()}
        replies |= _replies(_in_own_loop(_ask_all(ask, list(new.values()), size, concurrency)), list(new), label)
        scored = part_score(label, limits, rollouts.shape, _results([replies[key] for key in keys]))
        # After the checks: what is refused today must not be met again tomorrow.
        save({key: float(replies[key].value) for key in new if replies[key].value is not None})
        return scored

    return Reward(label, score, limits)


# --- Asking -----------------------------------------------------------------------------------------------------------

_Problem = tuple[Outcome, str]


class _Reply(NamedTuple):
    """What came of one entry, or of one batch of them."""

    value: Any
    problem: _Problem | None
    seconds: float


def _check_settings(
    name: str, batch_size: int, concurrency: int, timeout_s: float | None, retries: int, backoff_s: float
) -> None:
    """Raises where a setting would make no progress."""
    least = {"batch_size": (batch_size, 1), "concurrency": (concurrency, 1), "retries": (retries, 0)}
    for setting, (value, minimum) in least.items():
        if value < minimum:
            raise ValueError(f"scorer `{name}` got {setting}={value}; give at least {minimum}")
    if timeout_s is not None and not timeout_s > 0:
        raise ValueError(f"scorer `{name}` got timeout_s={timeout_s:g}; give a positive number of seconds, or None")
    if not backoff_s >= 0:
        raise ValueError(f"scorer `{name}` got backoff_s={backoff_s:g}; give seconds, 0 or more")


def _rows(rollouts: Rollouts, columns: Sequence[str], name: str) -> list[_Row]:
    """Prompt, completion and column values of every completion."""
    values = [column_of(rollouts, column, name) for column in columns]
    return [
        (rollouts.prompts[prompt], completion, *(value[prompt] for value in values))
        for prompt, group in enumerate(rollouts.completions)
        for completion in group
    ]


async def _ask_all(
    ask: Callable[[Sequence[list[Any]]], Coroutine[Any, Any, _Reply]],
    rows: Sequence[_Row],
    batch_size: int,
    concurrency: int,
) -> list[tuple[int, _Reply]]:
    """The size of each batch and what came of it, in order."""
    gate = asyncio.Semaphore(concurrency)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]

    async def one(batch: Sequence[_Row]) -> tuple[int, _Reply]:
        async with gate:
            return len(batch), await ask([list(column) for column in zip(*batch, strict=True)])

    return await asyncio.gather(*map(one, batches))


async def _attempts(
    function: Callable[..., Any],
    timeout_s: float | None,
    retries: int,
    backoff_s: float,
    arguments: Sequence[list[Any]],
) -> _Reply:
    """Calls the function on one batch until it answers or the attempts are used up."""
    start = time.perf_counter()
    problem = None
    for attempt in range(retries + 1):
        if attempt:
            await asyncio.sleep(min(backoff_s * 2 ** (attempt - 1), _LONGEST_DELAY_S))
        try:
            values = await asyncio.wait_for(_called(function, arguments), timeout_s)
            return _Reply(values, None, time.perf_counter() - start)
        except TimeoutError as error:
            # Ours says nothing; that of a socket says what it waited for.
            text = reason(error) if str(error) else f"TimeoutError: no answer within {timeout_s:g} s"
            problem = Outcome.TIMED_OUT, text
        except Exception as error:  # A user's function may raise anything; the reason is kept.
            problem = Outcome.FAILED, reason(error)
    return _Reply(None, problem, time.perf_counter() - start)


async def _called(function: Callable[..., Any], arguments: Sequence[list[Any]]) -> Any:
    """The result of a coroutine function, or of any other in a thread; an interrupt is a result too."""
    try:
        if is_asynchronous(function):
            return await function(*arguments)
        result = await asyncio.wrap_future(_in_thread(function, arguments))
        return await result if inspect.isawaitable(result) else result
    except (KeyboardInterrupt, SystemExit) as interrupt:  # Raised here it would end the event loop, not the caller.
        return interrupt


def _in_thread(function: Callable[..., Any], arguments: Sequence[Any]) -> concurrent.futures.Future[Any]:
    """Calls a function in a thread that nobody has to wait for, not even the end of the process."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    # A pool would lose a worker to every call that hangs; and once running, a future cannot be cancelled under it.
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            result = function(*arguments)
        except BaseException as error:  # Interrupts too belong to whoever waits.
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=work, name="scorer", daemon=True).start()
    return future


def _in_own_loop(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Runs a coroutine to its end in the event loop that this process keeps for scorers."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _loop_of(os.getpid()))
    try:
        return future.result()
    except BaseException:  # An interrupt of this thread leaves no requests behind.
        future.cancel()
        raise


@functools.cache
def _loop_of(process: int) -> asyncio.AbstractEventLoop:
    """An event loop in a thread; the same one at every call, since clients of servers belong to one loop.

    A forked process has no threads of its parent, so that each gets its own.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name=f"scorers of process {process}", daemon=True).start()
    return loop


def _replies(batches: Sequence[tuple[int, _Reply]], keys: Sequence[str], name: str) -> dict[str, _Reply]:
    """What came of each entry, from what came of each batch."""
    entries: list[_Reply] = []
    for size, (values, problem, seconds) in batches:
        given = [None] * size if problem else _list_of(values, size, name)
        entries += [_Reply(value, problem, seconds) for value in given]
    return dict(zip(keys, entries, strict=True))


def _list_of(values: Any, size: int, name: str) -> list[Any]:
    """What a function returned for a batch, as a list; a single value is refused, not broadcast."""
    if isinstance(values, KeyboardInterrupt | SystemExit):
        raise values
    plain = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(plain, list | tuple):
        raise TypeError(
            f"reward `{name}` returned {values!r:.80} ({type(values).__name__}); "
            f"return a list with {size} entries, one per completion of the batch"
        )
    if len(plain) != size:
        raise ValueError(
            f"reward `{name}` returned {len(plain)} entries for a batch of {size} completions; return one each"
        )
    return list(plain)


def _results(replies: Sequence[_Reply]) -> Results:
    problems = {index: reply.problem for index, reply in enumerate(replies) if reply.problem}
    return Results([reply.value for reply in replies], problems, [reply.seconds for reply in replies])


# --- Keeping ----------------------------------------------------------------------------------------------------------


def _key(identity: Sequence[str], row: _Row, name: str) -> str:
    """SHA-256 over who is asked what."""
    try:
        text = json.dumps([*identity, *row], default=_as_json)
    except (TypeError, ValueError) as error:
        raise TypeError(f"reward `{name}` got a column it cannot make a key of ({error}); give plain values") from error
    return hashlib.sha256(text.encode()).hexdigest()


def _as_json(value: Any) -> Any:
    """Arrays and exact numbers as what JSON knows."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, bytes | complex) or hasattr(value, "as_integer_ratio"):  # Decimal, Fraction
        return [type(value).__name__, str(value)]
    raise TypeError(f"{type(value).__name__} is neither text, number, list nor dictionary")


def _store(cache: MutableMapping[str, float] | str | os.PathLike[str] | None) -> tuple[_Load, _Save]:
    """How values are found and kept."""
    if cache is None:
        return (lambda keys: {}), (lambda graded: None)
    if isinstance(cache, MutableMapping):
        return (lambda keys: {key: cache[key] for key in keys if key in cache}), cache.update
    path = os.fspath(cache)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    return functools.partial(_load, path), functools.partial(_save, path)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    """The table in a file; writers wait for each other, a minute at most."""
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, value REAL NOT NULL)")
        yield connection


def _load(path: str, keys: Sequence[str]) -> dict[str, float]:
    wanted, found = list(dict.fromkeys(keys)), {}
    with _opened(path) as connection:
        for start in range(0, len(wanted), 500):  # SQLite takes 999 variables and more
            some = wanted[start : start + 500]
            marks = ",".join("?" * len(some))
            found |= dict(connection.execute(f"SELECT key, value FROM scores WHERE key IN ({marks})", some))
    return found


def _save(path: str, graded: Mapping[str, float]) -> None:
    if graded:
        with _opened(path) as connection:
            connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", graded.items())
