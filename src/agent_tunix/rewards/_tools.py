"""Tools that a judge or a reward model may call while it writes: a calculator, and the loop of calls.

A call is two lines, and what the tool says about it is a third::

    Action: calculator
    Action Input: 365 + 78
    Observation: 443

the notation of ReAct (Yao et al., 2022, arXiv:2210.03629), which tool-augmented reward models use as well. Tools are
functions of text to text that answer alike every time; nothing that a model writes is ever executed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from agent_tunix.errors import unknown
from agent_tunix.rewards._equations import value

Tool = Callable[[str], str]
"""What stands after `Action Input:` to what will stand after `Observation:`; a refusal is text that says why."""

# Possessive, so that no text takes more than one pass.
_CALL = re.compile(r"Action:([^\n]*+)\nAction Input:([^\n]*+)(?:\nObservation:[^\n]*+)?\s*+\Z")
_PLACES = 6


def calculator(expression: str) -> str:
    """Computes an expression of plain numbers exactly; a tool for `tool_traces`.

    It knows + - * / ^, brackets, signs such as × and thousands separators, with bounds on everything that could take
    long. Names, functions and everything else are refused.

    Args:
      expression: Such as `3 * (2 + 4)`.

    Returns:
      The value as a whole number or as decimals, rounded to six places where these do not end before. What is no such
      expression, or divides by zero, gives a reason behind the word `error`.

    Examples:
      >>> calculator("365 + 78"), calculator("7 / 2"), calculator("2 / 3"), calculator("__import__('os')")
      ('443', '3.5', '0.666667', 'error: no expression of numbers')
    """
    try:
        return _written(value(expression))
    except ZeroDivisionError:
        return "error: division by zero"
    except ValueError:
        return "error: no expression of numbers"


def _written(number: Fraction) -> str:
    whole, rest = divmod(round(abs(number) * 10**_PLACES), 10**_PLACES)
    decimals = f".{rest:0{_PLACES}d}".rstrip("0").rstrip(".")
    return f"{'-' if number < 0 and (whole or rest) else ''}{whole}{decimals}"


def tool_traces(
    write: Callable[[Sequence[str]], Sequence[str]],
    tools: Mapping[str, Tool],
    texts: Sequence[str],
    *,
    max_calls: int = 4,
) -> list[str]:
    """Lets a model go on with texts, and answers its calls of tools.

    A continuation that ends with a call gets the tool's own observation, in place of one that the model may have
    made up, and is continued; any other one is at its end. All texts that go on are written in one call.

    Args:
      write: `texts -> continuations`, one each, that stop after a call (at `Observation:`) or at the end.
      tools: By the name that stands after `Action:`. One that is not here is answered by those there are.
      texts: What to go on with: question, answer to be judged, instructions.
      max_calls: Of tools for one text. After the last one the model goes on once more, and calls stay unanswered.

    Returns:
      The texts with everything that was written and observed.

    Raises:
      ValueError: When `write` returns another number of continuations.

    Examples:
      >>> def write(texts):
      ...     return ["Score: 1" if "443" in text else "Action: calculator\\nAction Input: 365 + 78" for text in texts]
      >>> print(tool_traces(write, {"calculator": calculator}, ["Is 365 + 78 = 443? "])[0].partition("? ")[2])
      Score: 1
    """
    traces, open_ = list(texts), list(range(len(texts)))
    for _ in range(max_calls):
        open_ = _continued(write, tools, traces, open_, answer=True)
        if not open_:
            return traces
    _continued(write, tools, traces, open_, answer=False)
    return traces


def _continued(
    write: Callable[[Sequence[str]], Sequence[str]],
    tools: Mapping[str, Tool],
    traces: list[str],
    open_: Sequence[int],
    *,
    answer: bool,
) -> list[int]:
    """Writes on in place; which of the traces called a tool that was answered."""
    written = write([traces[index] for index in open_])
    if len(written) != len(open_):
        raise ValueError(f"write returned {len(written)} continuations of {len(open_)} texts; return one for each")
    called = []
    for index, continuation in zip(open_, written, strict=True):
        call = _CALL.search(continuation) if answer else None
        if call:
            observation = _answer(tools, *map(str.strip, call.groups()))
            continuation = f"{continuation[: call.end(2)]}\nObservation: {observation}\n"
            called.append(index)
        traces[index] += continuation
    return called


def _answer(tools: Mapping[str, Tool], name: str, argument: str) -> str:
    if name not in tools:
        return f"error: {unknown('tool', name, tools)}"
    return " ".join(tools[name](argument).split())
