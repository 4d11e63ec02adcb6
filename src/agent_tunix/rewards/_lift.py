"""Rewards from functions.

A grader call ends in one of three ways, which stay apart down to the metrics: it gives a number, it abstains by
returning None, or it fails by raising. Neither an abstention nor a failure is ever a zero.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from agent_tunix.errors import nearest
from agent_tunix.rewards._calls.running import Call, OnFailure, Results, Runner, asynchronous, inline, on_failure_policy
from agent_tunix.rewards._calls.running import run as run_calls
from agent_tunix.rewards._calls.waiting import is_asynchronous
from agent_tunix.rewards._sheet import checked_bounds, part_score
from agent_tunix.types import Bounds, Grader, Reward, Rollouts, Score

_RESPONSE_NAMES = ("response", "completion")
_ROW_NAMES = ("metadata", "row")


def per_completion(
    grader: Grader,
    *columns: str,
    name: str | None = None,
    bounds: tuple[float, float] | None = None,
    run: Runner | None = None,
    on_failure: str | OnFailure = "abstain",
) -> Reward:
    """Lifts a grader of one completion to a reward of a whole batch.

    Args:
      grader: `(completion, *column_values) -> float | None`. None abstains; an exception is recorded as a failure of
        that completion, with its reason, and leaves the entry without a value. A coroutine function is fine.
      *columns: Dataset columns whose value for the prompt the grader gets after the completion.
      name: Name of the part in metrics; by default that of the function.
      bounds: Least and greatest value the grader can give, by default those the grader declares, else infinite. They
        are enforced.
      run: Where the calls run: `inline`, `threads(...)`, `processes(...)` or `asynchronous(...)`. By default inline,
        and asynchronous for coroutine functions.
      on_failure: What a call that fails or times out leads to, once the retries of `retry(times)` are used up:
        `abstain` leaves that entry without a value, `raise` ends the run with its state saved.

    Returns:
      A reward with one part.

    Raises:
      ValueError: When called: a column is missing, or the grader returned NaN, an infinity or a value out of bounds.
      TypeError: When called: the grader returned something that is not one number.

    Examples:
      >>> from agent_tunix.rewards import exact_answer
      >>> correctness = per_completion(exact_answer, "answer", bounds=(0, 1))
      >>> correctness.name, correctness.bounds
      ('exact_answer', Bounds(low=0.0, high=1.0))
    """
    label = name or name_of(grader)

    def arguments(rollouts: Rollouts) -> tuple[list[Sequence[Any]], None]:
        return [column_of(rollouts, column, label) for column in columns], None

    return _of_each(grader, arguments, label, bounds, run, on_failure)


def from_lists(
    function: Callable[..., Sequence[float | None]],
    *,
    name: str | None = None,
    bounds: tuple[float, float] | None = None,
    run: Runner | None = None,
    on_failure: str | OnFailure = "abstain",
) -> Reward:
    """Lifts a list-style function, as TRL and Tunix take them, to a reward.

    Args:
      function: `(prompts, completions, **columns) -> list`, called by keyword with flat lists in which the completions
        of one prompt follow each other and prompts and column values are repeated. It gets the arguments it names,
        or every column where it takes `**kwargs`. A None in its list abstains.
      name: Name of the part in metrics; by default that of the function.
      bounds: Least and greatest value, by default those the grader declares, else infinite. They are
        enforced.
      run: As in `per_completion`; the whole batch is one call.
      on_failure: As in `per_completion`.

    Returns:
      A reward with one part. An exception inside the function marks the whole batch as failed, with the reason.

    Raises:
      ValueError: When called: a column is missing, or the list has another length than the completions, also length 1,
        or holds NaN, an infinity or a value out of bounds.
      TypeError: When called: the result is not a list, or an entry is not a number.
    """
    label = name or name_of(function)
    limits, policy = _bounds_of(label, function, bounds), on_failure_policy(on_failure)
    parameters = _parameters(function, label)
    function, runner = _placed(function, run)

    def score(rollouts: Rollouts) -> Score:
        call = (), _flat_arguments(parameters, rollouts, label)
        results = run_calls(runner, function, [call], policy)
        return part_score(label, limits, rollouts.shape, _spread(results, math.prod(rollouts.shape), label))

    return Reward(label, score, limits)


def as_reward(
    function: Reward | Callable[..., Any],
    *,
    name: str | None = None,
    bounds: tuple[float, float] | None = None,
    run: Runner | None = None,
    on_failure: str | OnFailure = "abstain",
) -> Reward:
    """Makes a reward of any supported kind of function, told apart by the names of its parameters.

    Args:
      function: One of

        - a `Reward`, returned as it is,
        - a list-style function with a parameter `completions`: see `from_lists`,
        - `(response, ...)` or `(completion, ...)` for one completion, whose further parameters are dataset columns,
          or `prompt` (the text of the prompt), `metadata` or `row` (a dictionary of all columns), or `ground_truth`
          (the column `answer`, unless there is one of that name). So `(response, prompt, metadata)`,
          `(response, ground_truth)` and `(response, **columns)` all work. A parameter with a default is left out
          where its column is missing.
      name: Name of the part in metrics; by default that of the function.
      bounds: Least and greatest value, by default those the grader declares, else infinite. They are
        enforced.
      run: As in `per_completion`.
      on_failure: As in `per_completion`.

    Returns:
      A reward; it fails, abstains and refuses values as that of `per_completion` does.

    Raises:
      TypeError: The function is none of these.
    """
    if isinstance(function, Reward):
        return function
    if not callable(function):
        raise TypeError(f"as_reward takes a function or a Reward, got {function!r:.80} ({type(function).__name__})")
    label = name or name_of(function)
    parameters = _parameters(function, label)
    if "completions" in parameters:
        return from_lists(function, name=label, bounds=bounds, run=run, on_failure=on_failure)
    if next(iter(parameters), None) not in _RESPONSE_NAMES:
        raise TypeError(
            f"reward `{label}` takes ({', '.join(parameters)}); make it (response, ground_truth), "
            "(response, prompt, metadata) or (prompts, completions, **columns), or lift it with per_completion"
        )
    wanted = list(parameters.values())[1:]

    def arguments(rollouts: Rollouts) -> tuple[list[Sequence[Any]], list[dict[str, Any]]]:
        return [], [_row_arguments(wanted, rollouts, prompt, label) for prompt in range(rollouts.shape[0])]

    return _of_each(function, arguments, label, bounds, run, on_failure)


# --- Grading ----------------------------------------------------------------------------------------------------------


def _placed(function: Callable[..., Any], run: Runner | None) -> tuple[Callable[..., Any], Runner]:
    """The function to call and where: coroutines in an event loop, anything else in this thread if nothing is said."""
    if run is not None:
        return function, run
    if is_asynchronous(function):
        return function, asynchronous()
    # In this thread the arguments are known to be scalars, and a universal grader need not look.
    return getattr(function, "each", function), inline


_Arguments = Callable[[Rollouts], tuple[list[Sequence[Any]], list[dict[str, Any]] | None]]
"""What a grader gets besides a completion: columns to pass in order, and keyword arguments for each prompt or None."""


class _Calls(Sequence[Call]):
    """The calls of a batch, each made when it is asked for.

    As a list of nested tuples they would outnumber everything else that garbage collection has to walk through, which
    took a third of the time of grading a batch of 8,192.
    """

    def __init__(
        self,
        completions: Sequence[Sequence[str]],
        columns: Sequence[Sequence[Any]],
        named: Sequence[dict[str, Any]] | None,
    ):
        group_size = len(completions[0]) if completions else 0
        self._columns = [flattened(completions), *(repeated(column, group_size) for column in columns)]
        self._named = None if named is None else repeated(named, group_size)

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, index: Any) -> Any:
        return tuple(column[index] for column in self._columns), self._named[index] if self._named else {}

    def __iter__(self) -> Iterator[Call]:
        return zip(zip(*self._columns, strict=True), self._named or itertools.repeat({}), strict=False)


def flattened(completions: Sequence[Sequence[str]]) -> list[str]:
    """Completions prompt by prompt."""
    return [completion for group in completions for completion in group]


def repeated(values: Sequence[Any], group_size: int) -> list[Any]:
    """One value per prompt as one per completion."""
    return [value for value in values for _ in range(group_size)]


def _of_each(
    grader: Callable[..., Any],
    arguments: _Arguments,
    name: str,
    bounds: tuple[float, float] | None,
    run: Runner | None,
    on_failure: str | OnFailure,
) -> Reward:
    """A reward that calls a grader on every completion, with the further arguments of its prompt."""
    limits, policy = _bounds_of(name, grader, bounds), on_failure_policy(on_failure)
    function, runner = _placed(grader, run)

    def score(rollouts: Rollouts) -> Score:
        calls = _Calls(rollouts.completions, *arguments(rollouts))
        return part_score(name, limits, rollouts.shape, run_calls(runner, function, calls, policy))

    return Reward(name, score, limits)


def _spread(results: Results, count: int, name: str) -> Results:
    """The results of one call over all completions, as one result each."""
    seconds = [results.seconds[0] / max(count, 1)] * count
    if results.problems:
        return Results([None] * count, dict.fromkeys(range(count), results.problems[0]), seconds)
    values = _checked_list(results.values[0], count, name)
    return Results(values.tolist() if hasattr(values, "tolist") else list(values), {}, seconds)


def _checked_list(values: Any, expected: int, name: str) -> Any:
    """The list a list-style function returned; a single value is refused, not broadcast."""
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) != 1:
        shape = getattr(values, "shape", None)
        got = f"{values!r:.80} ({type(values).__name__})" if shape is None else f"an array of shape {shape}"
        raise TypeError(f"reward `{name}` returned {got}; return a list with {expected} entries, one per completion")
    if len(values) != expected:
        raise ValueError(f"reward `{name}` returned {len(values)} entries for {expected} completions; return one each")
    return values


# --- Arguments --------------------------------------------------------------------------------------------------------


def column_of(rollouts: Rollouts, column: str, name: str) -> Sequence[Any]:
    """A dataset column, or an error that names the reward and the columns there are."""
    if column in rollouts.columns:
        return rollouts.columns[column]
    known = sorted(rollouts.columns)
    near = nearest(column, known)
    hint = f"did you mean `{near}`? " if near else ""
    raise ValueError(
        f"reward `{name}` needs the column `{column}`, which the data lacks; "
        f"{hint}there are: {', '.join(known) or 'none'}"
    )


def _parameters(function: Callable[..., Any], name: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except ValueError as error:  # some built-in functions
        raise TypeError(f"the parameters of reward `{name}` cannot be read; wrap it in a Python function") from error


def _flat_arguments(parameters: Mapping[str, inspect.Parameter], rollouts: Rollouts, name: str) -> dict[str, Any]:
    """Keyword arguments of a list-style function, everything repeated to one entry per completion."""
    size = rollouts.shape[1]
    given = {"prompts": repeated(rollouts.prompts, size), "completions": flattened(rollouts.completions)}
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments = {column: repeated(values, size) for column, values in rollouts.columns.items()} if takes_all else {}
    arguments |= given if takes_all else {}
    for key, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or key in arguments:
            continue
        if key == "completion_ids" and parameter.default is parameter.empty and key not in rollouts.columns:
            raise ValueError(f"reward `{name}` names `completion_ids`, which TRL passes; lift it with from_trl")
        if key in given:
            arguments[key] = given[key]
        elif parameter.default is parameter.empty or key in rollouts.columns:
            arguments[key] = repeated(column_of(rollouts, key, name), size)
    return arguments


def _row_arguments(wanted: Sequence[inspect.Parameter], rollouts: Rollouts, prompt: int, name: str) -> dict[str, Any]:
    """Keyword arguments of a grader of one completion, found by the names of its parameters."""
    row = {column: values[prompt] for column, values in rollouts.columns.items()}
    given = {"prompt": rollouts.prompts[prompt]} | dict.fromkeys(_ROW_NAMES, row)
    if "ground_truth" not in row and "answer" in row:
        given["ground_truth"] = row["answer"]
    arguments = {}
    for parameter in wanted:
        key = parameter.name
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments = {**row, **arguments}
        elif key in given:
            arguments[key] = given[key]
        elif parameter.kind is not parameter.VAR_POSITIONAL and (parameter.default is parameter.empty or key in row):
            arguments[key] = column_of(rollouts, "answer" if key == "ground_truth" else key, name)[prompt]
    return arguments


def _bounds_of(name: str, function: Callable[..., Any], bounds: tuple[float, float] | None) -> Bounds:
    """Bounds as given, else as the function or what a partial wraps declares them."""
    return checked_bounds(name, bounds if bounds is not None else getattr(_unwrapped(function), "bounds", None))


def name_of(function: Callable[..., Any]) -> str:
    """A name for metrics: of the function, of what a partial wraps, or of the object's class."""
    named = _unwrapped(function)
    return getattr(named, "__name__", type(named).__name__).strip("<>")


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    return function
