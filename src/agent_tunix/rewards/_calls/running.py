"""Where graders run: in this thread, in threads, in processes that can be killed, or as coroutines.

A runner takes a function and the arguments of all its calls and says what came of each. It is an argument of the
functions that lift graders (`per_completion`, `as_reward`, `from_lists`), so that any reward can run anywhere.
"""

import functools
import logging
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from agent_tunix.errors import RewardError, unknown
from agent_tunix.rewards._calls.pool import Call, ProcessPool, Result, UnpicklableError
from agent_tunix.rewards._calls.waiting import awaited, in_event_loop, in_threads
from agent_tunix.rewards._calls.worker import reason
from agent_tunix.types import Outcome

_log = logging.getLogger(__name__)

_OUTCOMES = {"failed": Outcome.FAILED, "timed_out": Outcome.TIMED_OUT}
_CHOICES = ("abstain", "raise")


class Results(NamedTuple):
    """What came of calls, in their order.

    Attributes:
      values: What each call returned; None where it abstained or gave no value.
      problems: Index of each call without a value that did not abstain: `FAILED` or `TIMED_OUT`, and the reason.
      seconds: How long each call took.
    """

    values: list[Any]
    problems: dict[int, tuple[Outcome, str]]
    seconds: Sequence[float]


Runner = Callable[[Callable[..., Any], Sequence[Call]], Results]
"""`(function, calls) -> Results`. It raises nothing that the function raises."""


def inline(function: Callable[..., Any], calls: Sequence[Call]) -> Results:
    """Runs calls one after the other in this thread, without a timeout: the default."""
    values: list[Any] = []
    problems: dict[int, tuple[Outcome, str]] = {}
    function = awaited(function)
    clock = time.perf_counter
    times = [clock()]
    keep, stamp = values.append, times.append
    for arguments, settings in calls:
        try:
            keep(function(*arguments, **settings) if settings else function(*arguments))
        except (Exception, SystemExit) as error:  # A user's grader may do anything; the reason is kept.
            problems[len(values)] = Outcome.FAILED, reason(error)
            keep(None)
        stamp(clock())
    return Results(values, problems, np.diff(times).tolist())


def threads(workers: int = 8, *, timeout_s: float | None = None) -> Runner:
    """A runner in threads, for graders that wait for something: a server, a disk, a subprocess.

    Args:
      workers: Calls at the same time.
      timeout_s: Seconds after which a call counts as timed out. A thread cannot be killed: its call goes on in the
        background, without a result, until it ends or the interpreter does, which does not wait for it. A grader that
        keeps the interpreter's lock, such as a catastrophic regular expression, stops everything; `processes` does not.

    Returns:
      A runner that starts its threads anew for every batch.
    """
    return functools.partial(_waiting, in_threads, _positive("workers", workers), _positive("timeout_s", timeout_s))


def processes(workers: int = 0, *, timeout_s: float | None = None, memory_mb: float | None = None) -> Runner:
    """A runner in worker processes, which are killed at the timeout and replaced.

    Functions travel by cloudpickle, those of scripts and notebooks, lambdas and closures by value. A function that
    cannot be pickled runs inline instead, without a timeout, and a warning is logged for it. Workers see no
    accelerator (`JAX_PLATFORMS=cpu`), their prints go to standard error, and they end with this process, however it
    ends. The runner can be copied and pickled; copies start workers of their own.

    Args:
      workers: Processes, started when first needed and kept; 0 for one per processor.
      timeout_s: Seconds after which a call is killed, whatever it does, and counts as timed out. Starting a worker and
        loading the function are not counted; what a grader imports while it runs is, so import it outside.
      memory_mb: What a call may add to its process's address space, in MiB; beyond it, it fails with MemoryError.

    Returns:
      A runner.

    Examples:
      >>> results = processes(1, timeout_s=30)(len, [(("four",), {}), ((4,), {})])
      >>> results.values, results.problems[1][1]
      ([4, None], "TypeError: object of type 'int' has no len()")
    """
    return functools.partial(_in_processes, ProcessPool(workers, timeout_s=timeout_s, memory_mb=memory_mb))


def asynchronous(concurrency: int = 64, *, timeout_s: float | None = None) -> Runner:
    """A runner for coroutine functions, such as judges behind a network.

    All of them share one event loop in a thread of its own, also where the caller is inside a running loop, as in a
    notebook; clients that belong to a loop can be kept between batches. Ordinary functions run in threads.

    Args:
      concurrency: Calls at the same time.
      timeout_s: Seconds after which a call is cancelled and counts as timed out.

    Returns:
      A runner. Where a coroutine blocks the loop instead of awaiting, all calls without a result count as timed out
      a few seconds later; without `timeout_s` nothing bounds the wait.
    """
    checked = _positive("concurrency", concurrency), _positive("timeout_s", timeout_s)
    return functools.partial(_waiting, in_event_loop, *checked)


# --- Failures ---------------------------------------------------------------------------------------------------------


class OnFailure(NamedTuple):
    """What a call that fails or times out leads to.

    Attributes:
      retries: Further attempts.
      then: After the last one: `abstain` leaves the entry without a value, `raise` ends the run.
    """

    retries: int = 0
    then: str = "abstain"


def retry(times: int, then: str = "abstain") -> OnFailure:
    """Tries a call again, at most `times` times, before `abstain` or `raise`.

    Examples:
      >>> retry(2)
      OnFailure(retries=2, then='abstain')
    """
    return on_failure_policy(OnFailure(times, then))


def on_failure_policy(policy: str | OnFailure) -> OnFailure:
    """A policy from one of the words `abstain` and `raise`, or a checked one.

    Raises:
      ValueError: It is neither, or the number of retries is negative.
    """
    made = policy if isinstance(policy, OnFailure) else OnFailure(0, policy)
    if made.then not in _CHOICES:
        raise ValueError(f"{unknown('on_failure', made.then, _CHOICES)} Or retry(times).")
    if made.retries < 0:
        raise ValueError(f"on_failure retries {made.retries} times; give 0 or more")
    return made


def run(runner: Runner, function: Callable[..., Any], calls: Sequence[Call], policy: OnFailure) -> Results:
    """Runs calls, and those that fail or time out again, as often as the policy says.

    Args:
      runner: Where.
      function: What.
      calls: Its arguments.
      policy: What failures lead to.

    Returns:
      Results; the seconds of all attempts at a call add up.

    Raises:
      RewardError: A call has still failed and the policy is `raise`.
    """
    results = runner(function, calls)
    for _ in range(policy.retries):
        if not results.problems:
            break
        again = sorted(results.problems)
        results = _replaced(results, again, runner(function, [calls[index] for index in again]))
    if results.problems and policy.then == "raise":
        index = min(results.problems)
        outcome, why = results.problems[index]
        raise RewardError(
            f"grader call {index} of {len(calls)} {outcome.name.lower().replace('_', ' ')}: {why}; mend the grader, or "
            "let such calls abstain with on_failure='abstain'"
        )
    return results


def _replaced(results: Results, indices: Sequence[int], later: Results) -> Results:
    """Results with those of a further attempt at some calls."""
    values, seconds, problems = list(results.values), list(results.seconds), {}
    for position, index in enumerate(indices):
        values[index] = later.values[position]
        seconds[index] += later.seconds[position]
        if position in later.problems:
            problems[index] = later.problems[position]
    return Results(values, problems, seconds)


# --- Places -----------------------------------------------------------------------------------------------------------

_Waiting = Callable[[int, float | None, Callable[..., Any], Sequence[Call]], dict[int, Result]]


def _waiting(
    place: _Waiting, at_once: int, timeout_s: float | None, function: Callable[..., Any], calls: Sequence[Call]
) -> Results:
    attempts = place(at_once, timeout_s, function if place is in_event_loop else awaited(function), calls)
    return _results([attempts[index] for index in range(len(calls))])


def _positive(name: str, value: Any) -> Any:
    if value is not None and not value > 0:
        raise ValueError(f"{name} is {value}; give a positive number")
    return value


_warned: dict[int, weakref.ref[Any]] = {}


def _in_processes(pool: ProcessPool, function: Callable[..., Any], calls: Sequence[Call]) -> Results:
    try:
        return _results(pool.run(awaited(function), calls))
    except UnpicklableError as error:
        _warn_once(function, error)
        return inline(function, calls)


def _results(attempts: Sequence[Result]) -> Results:
    problems = {
        index: (_OUTCOMES[attempt.status], attempt.reason)
        for index, attempt in enumerate(attempts)
        if attempt.status in _OUTCOMES
    }
    return Results([attempt.value for attempt in attempts], problems, [attempt.seconds for attempt in attempts])


def _warn_once(function: Callable[..., Any], error: Exception) -> None:
    """One warning per function; every time for those that cannot be told apart from later ones."""
    known = _warned.get(id(function))
    if known is not None and known() is function:
        return
    _log.warning("%s; it runs in this process instead, where no timeout can end it", error)
    key = id(function)
    with suppress(TypeError):
        _warned[key] = weakref.ref(function, lambda _: _warned.pop(key, None))
