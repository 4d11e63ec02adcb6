"""From what graders returned to a score of one part: checks values, keeps what has none apart."""

import math
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, NoReturn

import numpy as np

from agent_tunix.rewards._calls.running import Results
from agent_tunix.types import UNBOUNDED, Bounds, Failure, Outcome, Score

LARGEST = float(np.finfo(np.float32).max)
"""Greatest value of a score, which is float32."""
_PLAIN = frozenset((float, int, bool, type(None)))


def part_score(name: str, bounds: Bounds, shape: tuple[int, int], results: Results) -> Score:
    """The score of one part, from one result per completion.

    Args:
      name: Of the part.
      bounds: Values outside are refused.
      shape: `(prompts, group)`.
      results: Of all completions, prompt by prompt.

    Returns:
      A score whose only part is `name`.

    Raises:
      ValueError: A value is NaN, infinite or out of bounds; the message says for which completion.
      TypeError: A value is not one number.
    """
    numbers = _numbers(name, shape, results.values)
    outcomes = np.full(len(numbers), Outcome.GRADED, np.int8)
    outcomes[np.isnan(numbers)] = Outcome.ABSTAINED
    for index, (outcome, _) in results.problems.items():
        numbers[index], outcomes[index] = np.nan, outcome
    valid = outcomes == Outcome.GRADED
    outside = valid & ~((bounds.low <= numbers) & (numbers <= bounds.high))
    if outside.any():
        refuse_outside(name, bounds, shape, int(np.argmax(outside)), results.values)
    return Score(
        value=np.where(valid, numbers, 0).astype(np.float32).reshape(shape),
        valid=valid.reshape(shape),
        parts={name: numbers.astype(np.float32).reshape(shape)},
        outcomes={name: outcomes.reshape(shape)},
        failures=tuple(
            Failure(name, index // shape[1], index % shape[1], reason)
            for index, (_, reason) in sorted(results.problems.items())
        ),
        seconds={name: np.asarray(results.seconds, np.float32).reshape(shape)},
    )


def refuse_outside(name: str, bounds: Bounds, shape: tuple[int, int], index: int, values: Sequence[Any]) -> NoReturn:
    """Raises the error about a value outside of its bounds."""
    raise ValueError(
        f"{_got(name, values[index])} {_where(shape, index)}, outside its bounds {written(bounds)}; "
        "widen bounds= or mend the reward"
    )


def written(bounds: Bounds) -> str:
    """Bounds as errors show them."""
    return f"[{bounds.low:g}, {bounds.high:g}]"


def is_number(value: Any) -> bool:
    """Whether the value is one real number: Python's, NumPy's, or an array without axes."""
    if isinstance(value, bool | int | float | Real | Decimal):
        return True
    return getattr(value, "ndim", None) == 0 and not isinstance(value, str | bytes) and not np.iscomplexobj(value)


def as_float(number: Any) -> float:
    """A number as a float, infinite where it is beyond their range."""
    try:
        return float(number)
    except OverflowError:  # an integer
        return math.inf


def checked_bounds(name: str, bounds: tuple[float, float] | None) -> Bounds:
    """Bounds as given, or infinite ones.

    Raises:
      ValueError: The lower bound is not below the upper one.
    """
    if bounds is None:
        return UNBOUNDED
    low, high = map(float, bounds)
    if not low <= high:
        raise ValueError(f"the bounds of reward `{name}` are ({low:g}, {high:g}); give the lower one first")
    return Bounds(low, high)


def _numbers(name: str, shape: tuple[int, int], values: Sequence[Any]) -> np.ndarray:
    """Values as float64 with NaN for None; anything but None and finite numbers is refused."""
    if set(map(type, values)) <= _PLAIN:
        try:
            numbers = np.array(values, dtype=np.float64)
        except OverflowError:  # an integer beyond the range of floats
            numbers = np.full(len(values), np.inf)
        with np.errstate(invalid="ignore"):
            if np.count_nonzero(np.abs(numbers) <= LARGEST) == len(values) - values.count(None):
                return numbers
    return np.array(
        [np.nan if value is None else _finite(value, name, _where(shape, index)) for index, value in enumerate(values)],
        dtype=np.float64,
    )


def _finite(value: Any, name: str, where: str) -> float:
    if not is_number(value):
        raise TypeError(f"{_got(name, value)} ({type(value).__name__}) {where}; return one number, or None to abstain")
    number = as_float(value)
    if not abs(number) <= LARGEST:  # NaN as well
        raise ValueError(f"{_got(name, value)} {where}, no finite float32 number; return None to abstain")
    return number


def _got(name: str, value: Any) -> str:
    return f"reward `{name}` returned {value!r:.80}"


def _where(shape: tuple[int, int], index: int) -> str:
    return f"for prompt {index // shape[1]}, completion {index % shape[1]}"
