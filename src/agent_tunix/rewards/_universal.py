"""What makes a function of one completion a function of arrays of them, and of the columns other trainers pass."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np

_ELSEWHERE = {"ground_truth": "answer", "prompt": "prompts"}
"""What other trainers call a column."""
_SCALARS = (str, Number)


def universal(
    grade: Callable[..., Any] | None = None, *, bounds: tuple[float, float] | None = None
) -> Callable[..., Any]:
    """Makes a grader of one completion behave like a universal function of NumPy.

    Positional parameters broadcast against each other, parameters that are keyword-only are settings and do not.
    Called with `completions=`, and any columns by name, it is a list-style function as TRL and Tunix take them: it
    picks the columns that it names (`ground_truth` is also found as `answer`), ignores the others and returns a list.

    Args:
      grade: `(response, *references, **settings) -> float`. Left out, a decorator is returned.
      bounds: Least and greatest value with any settings; a reward made of the grader has them by default.

    Returns:
      A function of the same name and signature, whose attributes are `each`, `grade` itself, and `bounds`.
    """
    if grade is None:
        return functools.partial(universal, bounds=bounds)
    parameters = inspect.signature(grade).parameters

    @functools.wraps(grade)
    def grader(*arguments: Any, **settings: Any) -> Any:
        if "completions" in settings:
            return _of_columns(grade, parameters, settings)
        if len(arguments) > 0 and all(isinstance(argument, _SCALARS) for argument in arguments):
            return grade(*arguments, **settings)
        bound = inspect.signature(grade).bind(*arguments, **settings)  # TypeErrors read as those of `grade` itself
        names = [name for name in bound.arguments if parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY]
        fixed = {name: value for name, value in bound.arguments.items() if name not in names}
        return _broadcast(functools.partial(grade, **fixed), [bound.arguments[name] for name in names])

    vars(grader).update(each=grade, bounds=bounds)
    return grader


def content(completion: Any) -> Any:
    """The text of a completion, which trainers of chat models give as a list of messages."""
    if isinstance(completion, Sequence) and not isinstance(completion, str) and completion:
        last = completion[-1]
        if isinstance(last, Mapping) and "content" in last:
            return last["content"]
    return completion


def checked_text(response: Any) -> str:
    """A response that has to be text.

    Raises:
      TypeError: It is something else.
    """
    if isinstance(response, str):
        return response
    raise TypeError(f"a response has to be text, got {response!r:.80} ({type(response).__name__})")


def _broadcast(grade: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Applies a function of scalars over broadcast arguments; a float for scalars, else an array."""
    # Object arrays: NumPy's own text arrays drop trailing null characters.
    arrays = [np.asarray(argument, dtype=object) for argument in arguments]
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    entries = zip(*(np.broadcast_to(array, shape).flat for array in arrays), strict=True)
    grades = np.array([grade(*entry) for entry in entries], dtype=float).reshape(shape)
    return grades if shape else grades.item()


def _of_columns(
    grade: Callable[..., Any], parameters: Mapping[str, inspect.Parameter], columns: Mapping[str, Any]
) -> list[float]:
    """Grades flat lists, given by the names of the parameters that follow the response."""
    completions = [content(completion) for completion in columns["completions"]]
    arguments: list[Any] = [completions]
    settings = {}
    for parameter in list(parameters.values())[1:]:
        name = parameter.name
        key = name if name in columns else _ELSEWHERE.get(name, name)
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            settings |= {name: columns[name]} if name in columns else {}
        elif key in columns:
            arguments.append([content(prompt) for prompt in columns[key]] if key == "prompts" else columns[key])
        elif parameter.default is parameter.empty:
            raise ValueError(
                f"`{getattr(grade, '__name__', grade)}` needs the column `{key}`, "
                f"got {', '.join(sorted(columns)) or 'none'}"
            )
        else:
            break
    graded = _broadcast(functools.partial(grade, **settings), arguments)
    return [float(value) for value in np.atleast_1d(graded)]
