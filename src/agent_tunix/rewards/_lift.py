"""Rewards from functions.

A grader call ends in one of three ways, which stay apart down to the metrics: it gives a number, it abstains by
returning None, or it fails by raising. Neither an abstention nor a failure is ever a zero.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from agent_tunix.errors import nearest
from agent_tunix.types import Bounds, Failure, Grader, Outcome, Reward, Rollouts, Score

UNBOUNDED = Bounds(-math.inf, math.inf)
_LARGEST = float(np.finfo(np.float32).max)
_RESPONSE_NAMES = ("response", "completion")
_ROW_NAMES = ("metadata", "row")


def per_completion(
    grader: Grader, *columns: str, name: str | None = None, bounds: tuple[float, float] | None = None
) -> Reward:
    """Lifts a grader of one completion to a reward of a whole batch.

    Args:
      grader: `(completion, *column_values) -> float | None`. None abstains; an exception is recorded as a failure of
        that completion, with its reason, and leaves the entry without a value.
      *columns: Dataset columns whose value for the prompt the grader gets after the completion.
      name: Name of the part in metrics; by default that of the function.
      bounds: Least and greatest value the grader can give, infinite by default. Given, they are enforced.

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
    label = name or _name_of(grader)
    limits = _checked_bounds(label, bounds)

    def arguments(rollouts: Rollouts) -> Callable[[int], tuple[list[Any], dict[str, Any]]]:
        values = [_column(rollouts, column, label) for column in columns]
        return lambda prompt: ([value[prompt] for value in values], {})

    return Reward(label, functools.partial(_grade_each, grader, arguments, label, limits), limits)


def from_lists(
    function: Callable[..., Sequence[float | None]],
    *,
    name: str | None = None,
    bounds: tuple[float, float] | None = None,
) -> Reward:
    """Lifts a list-style function, as TRL and Tunix take them, to a reward.

    Args:
      function: `(prompts, completions, **columns) -> list`, called by keyword with flat lists in which the completions
        of one prompt follow each other and prompts and column values are repeated. It gets the arguments it names,
        or every column where it takes `**kwargs`. A None in its list abstains.
      name: Name of the part in metrics; by default that of the function.
      bounds: Least and greatest value, infinite by default. Given, they are enforced.

    Returns:
      A reward with one part. An exception inside the function marks the whole batch as failed, with the reason.

    Raises:
      ValueError: When called: a column is missing, or the list has another length than the completions, also length 1,
        or holds NaN, an infinity or a value out of bounds.
      TypeError: When called: the result is not a list, or an entry is not a number.
    """
    label = name or _name_of(function)
    limits = _checked_bounds(label, bounds)
    parameters = _parameters(function, label)

    def score(rollouts: Rollouts) -> Score:
        sheet = _Sheet.blank(label, limits, rollouts.shape)
        arguments = _flat_arguments(parameters, rollouts, label)
        try:
            values = function(**arguments)
        except Exception as error:  # A user's function may raise anything; the reason is kept.
            for prompt, member in np.ndindex(rollouts.shape):
                sheet.fail(prompt, member, error)
            return sheet.score()
        for (prompt, member), value in zip(
            np.ndindex(rollouts.shape), _checked_list(values, rollouts, label), strict=True
        ):
            sheet.enter(prompt, member, value)
        return sheet.score()

    return Reward(label, score, limits)


def as_reward(
    function: Reward | Callable[..., Any], *, name: str | None = None, bounds: tuple[float, float] | None = None
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
      bounds: Least and greatest value, infinite by default. Given, they are enforced.

    Returns:
      A reward; it fails, abstains and refuses values as that of `per_completion` does.

    Raises:
      TypeError: The function is none of these.
    """
    if isinstance(function, Reward):
        return function
    if not callable(function):
        raise TypeError(f"as_reward takes a function or a Reward, got {function!r:.80} ({type(function).__name__})")
    label = name or _name_of(function)
    parameters = _parameters(function, label)
    if "completions" in parameters:
        return from_lists(function, name=label, bounds=bounds)
    if next(iter(parameters), None) not in _RESPONSE_NAMES:
        raise TypeError(
            f"reward `{label}` takes ({', '.join(parameters)}); make it (response, ground_truth), "
            "(response, prompt, metadata) or (prompts, completions, **columns), or lift it with per_completion"
        )
    limits = _checked_bounds(label, bounds)
    wanted = list(parameters.values())[1:]

    def arguments(rollouts: Rollouts) -> Callable[[int], tuple[list[Any], dict[str, Any]]]:
        return lambda prompt: ([], _row_arguments(wanted, rollouts, prompt, label))

    return Reward(label, functools.partial(_grade_each, function, arguments, label, limits), limits)


# --- Grading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sheet:
    """The entries of one part while they are being filled in."""

    name: str
    bounds: Bounds
    values: np.ndarray
    outcomes: np.ndarray
    failures: list[Failure]

    @classmethod
    def blank(cls, name: str, bounds: Bounds, shape: tuple[int, int]) -> "_Sheet":
        outcomes = np.full(shape, Outcome.ABSTAINED, np.int8)
        return cls(name, bounds, np.full(shape, np.nan, np.float32), outcomes, [])

    def enter(self, prompt: int, member: int, value: Any) -> None:
        """Writes down what a grader returned, after checking it."""
        if value is None:
            return
        self.values[prompt, member] = self._checked(value, f"for prompt {prompt}, completion {member}")
        self.outcomes[prompt, member] = Outcome.GRADED

    def fail(self, prompt: int, member: int, error: Exception) -> None:
        self.outcomes[prompt, member] = Outcome.FAILED
        self.failures.append(Failure(self.name, prompt, member, f"{type(error).__name__}: {error}"[:200]))

    def score(self) -> Score:
        valid = self.outcomes == Outcome.GRADED
        return Score(
            value=np.where(valid, self.values, np.float32(0)),
            valid=valid,
            parts={self.name: self.values},
            outcomes={self.name: self.outcomes},
            failures=tuple(self.failures),
        )

    def _checked(self, value: Any, where: str) -> float:
        got = f"reward `{self.name}` returned {value!r:.80}"
        if not is_number(value):
            kind = type(value).__name__
            raise TypeError(f"{got} ({kind}) {where}; return one number, or None to abstain")
        number = _as_float(value)
        if not abs(number) <= _LARGEST:  # NaN as well
            raise ValueError(f"{got} {where}, no finite float32 number; return None to abstain")
        if not self.bounds.low <= number <= self.bounds.high:
            low, high = self.bounds
            raise ValueError(f"{got} {where}, outside its bounds [{low:g}, {high:g}]; widen bounds= or mend the reward")
        return number


def _grade_each(
    grader: Callable[..., Any],
    arguments: Callable[[Rollouts], Callable[[int], tuple[list[Any], dict[str, Any]]]],
    name: str,
    bounds: Bounds,
    rollouts: Rollouts,
) -> Score:
    """Calls a grader on every completion, with the further arguments of its prompt."""
    sheet = _Sheet.blank(name, bounds, rollouts.shape)
    of_prompt = arguments(rollouts)
    for prompt, group in enumerate(rollouts.completions):
        positional, named = of_prompt(prompt)
        for member, completion in enumerate(group):
            try:
                value = grader(completion, *positional, **named)
            except Exception as error:  # A user's grader may raise anything; the reason is kept.
                sheet.fail(prompt, member, error)
            else:
                sheet.enter(prompt, member, value)
    return sheet.score()


def is_number(value: Any) -> bool:
    """Whether the value is one real number: Python's, NumPy's, or an array without axes."""
    if isinstance(value, bool | int | float | Real | Decimal):
        return True
    return getattr(value, "ndim", None) == 0 and not isinstance(value, str | bytes) and not np.iscomplexobj(value)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond the range of floats
        return math.inf


def _checked_list(values: Any, rollouts: Rollouts, name: str) -> Any:
    """The list a list-style function returned; a single value is refused, not broadcast."""
    expected = math.prod(rollouts.shape)
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) != 1:
        shape = getattr(values, "shape", None)
        got = f"{values!r:.80} ({type(values).__name__})" if shape is None else f"an array of shape {shape}"
        raise TypeError(f"reward `{name}` returned {got}; return a list with {expected} entries, one per completion")
    if len(values) != expected:
        raise ValueError(f"reward `{name}` returned {len(values)} entries for {expected} completions; return one each")
    return values


# --- Arguments --------------------------------------------------------------------------------------------------------


def _column(rollouts: Rollouts, column: str, name: str) -> Sequence[Any]:
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
    group_size = rollouts.shape[1]

    def repeated(values: Sequence[Any]) -> list[Any]:
        return [value for value in values for _ in range(group_size)]

    given: dict[str, Any] = {
        "prompts": repeated(rollouts.prompts),
        "completions": [completion for group in rollouts.completions for completion in group],
    }
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return {column: repeated(values) for column, values in rollouts.columns.items()} | given
    arguments = {}
    for key, parameter in parameters.items():
        if key in given:
            arguments[key] = given[key]
        elif parameter.default is parameter.empty or key in rollouts.columns:
            arguments[key] = repeated(_column(rollouts, key, name))
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
            arguments[key] = _column(rollouts, "answer" if key == "ground_truth" else key, name)[prompt]
    return arguments


def _name_of(function: Callable[..., Any]) -> str:
    """A name for metrics: of the function, of what a partial wraps, or of the object's class."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__).strip("<>")


def _checked_bounds(name: str, bounds: tuple[float, float] | None) -> Bounds:
    if bounds is None:
        return UNBOUNDED
    low, high = map(float, bounds)
    if not low <= high:
        raise ValueError(f"the bounds of reward `{name}` are ({low:g}, {high:g}); give the lower one first")
    return Bounds(low, high)
