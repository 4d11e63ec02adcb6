r"""Equality as mathematics, for answers that exact comparison finds different.

The two texts are first read by `latex`, which decides what kind of answer each is; only kinds that agree are compared,
piece by piece: numbers exactly, everything else by SymPy through the LaTeX reader and the equality of math-verify
(https://github.com/huggingface/Math-Verify). That runs in worker processes that are killed when a comparison takes too
long, because no limit inside a process stops SymPy: `9^{9^9}` holds the interpreter's lock until memory ends.
"""

import functools
import importlib.util
import logging
import os
import queue
import random
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agent_tunix.rewards._answers.forms import NAME, Form, form
from agent_tunix.rewards._answers.latex import FUNCTIONS, spelling
from agent_tunix.rewards._answers.numbers import quantity
from agent_tunix.rewards._calls.pool import ProcessPool, Result

TIMEOUT_S = 0.9
_PROCESSOR_S = 0.6  # The next comparison after a kill waits seconds for a new worker to import SymPy.
_WORKERS = 2
_MEMORY_MB = 512
_UNORDERED = frozenset(("list", "set", "union"))
_MAX_UNORDERED = 12

Equal = Callable[[str, str], bool]
"""Whether two pieces of LaTeX have the same value."""


def require() -> None:
    """Checks that math-verify is installed.

    Raises:
      ImportError: It is not.
    """
    if not _is_installed():
        raise ImportError(
            "`symbolic=True` compares with math-verify, which is not installed; `pip install agent-tunix[math]`"
        )


def is_equal(stated: str, reference: str) -> bool:
    """Tells whether two answers are equal as mathematics.

    Args:
      stated: What a completion states.
      reference: The reference answer.

    Returns:
      False also where only one text is a closed expression, or the comparison fails or takes too long. Two texts that
      are not (`3 : 2`, `\\angle ABC`) are equal where they are written alike.
    """
    found, wanted = form(stated), form(reference)
    if found is None and wanted is None:
        return (written := spelling(stated)) is not None and written == spelling(reference)
    if found is None or wanted is None or not _may_be_same(found, wanted):
        return False
    try:
        return _compared(found, wanted)
    except _NotComparedError:
        return False


class _NotComparedError(Exception):
    """A comparison that failed or took too long: its outcome says nothing about a repetition, and is not cached."""


@functools.lru_cache(maxsize=8192)
def _compared(found: Form, wanted: Form) -> bool:
    """What a worker process says; completions of one group often state the same answer."""
    result = _run(found, wanted)
    if result.status != "graded" or result.value is None:
        raise _NotComparedError
    return result.value is True


def same(found: Form, wanted: Form, equal: Equal) -> bool:
    """Tells whether two forms are the same, given what makes two values equal."""
    if (found.kind == "equation") != (wanted.kind == "equation"):
        found, wanted = _assigned(found, _OWN_NAME), _assigned(wanted, _OWNED_NAME)
    if found.kind == wanted.kind == "equation":
        return _same_equation(found, wanted, equal)
    if "equation" in (found.kind, wanted.kind):
        return False
    if not _may_be_same(found, wanted):
        return False
    if found.kind == "value":
        return _same_value(found, wanted, equal)
    if found.kind in ("based", "name"):
        return found == wanted
    if found.kind in (*_UNORDERED, "except"):
        return _same_in_any_order(found.parts, list(wanted.parts), equal)
    return all(same(one, other, equal) for one, other in zip(found.parts, wanted.parts, strict=True))


def _may_be_same(found: Form, wanted: Form) -> bool:
    """Whether kinds, sizes and brackets agree, which costs no algebra."""
    if "equation" in (found.kind, wanted.kind):
        return True
    if found.kind != wanted.kind and not {found.kind, wanted.kind} <= _UNORDERED:
        return False
    # A list or a union of one piece is the piece, which is another kind; only a set may hold a single value.
    if len(found.parts) != len(wanted.parts) or (found.kind in _UNORDERED and len(found.parts) > _MAX_UNORDERED):
        return False
    brackets = 2 if found.kind == "bracketed" else 0
    if found.kind not in ("bracketed", "except"):
        return found.detail == wanted.detail
    names = {form.detail[brackets:] for form in (found, wanted)} - {""}
    return found.detail[:brackets] == wanted.detail[:brackets] and len(names) <= 1


_ANGLE = r"(?:\\(?:theta|alpha|beta|gamma|phi)|[A-Z])"
_OWNED_NAME = re.compile(
    rf"{NAME.pattern}|\|?[A-Z]{{2,4}}\|?|\\(?:{'|'.join(FUNCTIONS)})\s*\(?\s*{_ANGLE}\s*\)?"
    r"|[A-Za-z]\([A-Za-z0-9 =+-]+\)|\\frac\{d[A-Za-z]?\}\{d[a-z]\}"
)
"""What an equation may be solved for."""
_OWN_NAME = re.compile(rf"(?:{_OWNED_NAME.pattern})(?:\s*[+-]\s*(?:{_OWNED_NAME.pattern}))*")
"""What a response may say that it has the value of; a reference `x + y = 5` is a line, not 5."""


def _assigned(one: Form, name: re.Pattern[str]) -> Form:
    """The right side of an equation whose left side is a name: the value of `x = 5`."""
    if one.kind != "equation" or one.detail != "=":
        return one
    left, right = one.parts
    is_name = left.kind == "name" or (left.kind == "value" and name.fullmatch(left.parts[0]) is not None)
    is_names = left.kind == right.kind == "bracketed" and left.detail == right.detail == "()"
    is_names = is_names and all(part.kind == "value" and NAME.fullmatch(part.parts[0]) for part in left.parts)
    return right if is_name or is_names else one


def _same_equation(found: Form, wanted: Form, equal: Equal) -> bool:
    """Equal on both sides, or, as differences of the sides, a multiple of each other."""
    if found.detail != wanted.detail:
        return False
    if all(same(one, other, equal) for one, other in zip(found.parts, wanted.parts, strict=True)):
        return True
    sides = [part for form in (found, wanted) for part in form.parts]
    if any(part.kind != "value" or part.detail for part in sides):
        return False
    first, second = (f"({form.parts[0].parts[0]})-({form.parts[1].parts[0]})" for form in (found, wanted))
    return _are_multiples(first, second, positive=found.detail in ("<", "\\le"))


def _same_value(found: Form, wanted: Form, equal: Equal) -> bool:
    if found.detail != wanted.detail:
        return False
    one, other = quantity(found.parts[0]), quantity(wanted.parts[0])
    if one is not None and other is not None:
        return one == other
    return equal(found.parts[0], wanted.parts[0])


def _same_in_any_order(found: Sequence[Form], wanted: list[Form], equal: Equal) -> bool:
    """Whether each piece takes a piece of its own; equality is transitive, so the first that fits will do."""
    for piece in found:
        match = next((index for index, other in enumerate(wanted) if same(piece, other, equal)), None)
        if match is None:
            return False
        wanted.pop(match)
    return not wanted


# --- In a worker process ----------------------------------------------------------------------------------------------


class _Comparison:
    """`same` with SymPy; importing SymPy is part of unpickling, so that no comparison is timed with it."""

    def __reduce__(self) -> Any:
        return _loaded, ()

    def __call__(self, found: Form, wanted: Form) -> bool | None:
        """Whether the forms are the same; None where that takes too long but can be stopped without killing."""
        signal.signal(signal.SIGVTALRM, _stop)
        signal.setitimer(signal.ITIMER_VIRTUAL, _PROCESSOR_S)
        try:
            return same(found, wanted, _equal)
        except _StoppedError:
            return None
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)


class _StoppedError(BaseException):
    """Not an Exception: SymPy catches those."""


def _stop(*_: Any) -> None:
    raise _StoppedError


_COMPARISON = _Comparison()


def _loaded() -> _Comparison:
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # It warns that the time limit is left to the caller.
    _equal("\\frac{1}{2}x", "x")  # The first parse builds the tables of the parser.
    return _COMPARISON


_FACTORIAL = re.compile(r"\\fact\{([^{}]*)\}")
_POINTS = 12
_MIN_POINTS = 3
_DIGITS = 40
_TINY, _NOTHING = "1e-30", "1e-95"


def _expression(latex: str) -> Any:
    """A SymPy expression of a piece of LaTeX, with `i` as the imaginary unit."""
    import sympy
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    read: Any = latex2sympy(
        _FACTORIAL.sub(r"\1!", latex),
        is_real=True,
        convert_degrees=False,
        normalization_config=None,
        conversion_config=ConversionConfig(lowercase_symbols=False),
    )
    if read.has(sympy.UnevaluatedExpr):  # how gcd and lcm are read
        read = read.doit()
    return read.subs({symbol: sympy.I for symbol in read.free_symbols if symbol.name == "i"})


def _equal(one: str, other: str) -> bool:
    """Whether two pieces of LaTeX have the same value: constants to 30 digits, formulas at random points."""
    import math_verify
    import sympy

    first, second = _expression(one), _expression(other)
    if first == second:
        return True
    endless = (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan)
    if any(expression.has(*endless) for expression in (first, second)):
        return False
    if not (first.free_symbols or second.free_symbols):
        if first.is_Rational and second.is_Rational:
            return False
        return _is_near(sympy.N(first, _DIGITS), sympy.N(second, _DIGITS))
    values = list(_at_points(first, second))
    # Formulas in names that are no numbers, or that are defined almost nowhere.
    if len(values) < _MIN_POINTS:
        return bool(math_verify.verify(first, second, timeout_seconds=None))
    return all(_is_near(a, b) for a, b in values)


def _are_multiples(one: str, other: str, positive: bool) -> bool:
    """Whether one expression is a constant multiple of the other, a positive one for inequalities."""
    values = [(a, b) for a, b in _at_points(_expression(one), _expression(other)) if a != 0 and b != 0]
    if len(values) < _MIN_POINTS:
        return False
    (a, b), *rest = values
    return all(_is_near(a * d, b * c) for c, d in rest) and (not positive or bool((a / b).is_positive))


def _at_points(first: Any, second: Any) -> Iterator[tuple[Any, Any]]:
    """Values of two formulas where both have one. Two that agree at random points are equal almost surely."""
    import sympy

    symbols = sorted(first.free_symbols | second.free_symbols, key=lambda symbol: symbol.name)
    is_complex = first.has(sympy.I) or second.has(sympy.I)
    drawn = random.Random(0)
    for point in range(_POINTS):
        low = 0.1 if point % 2 else -3.0  # logarithms and roots are real at positive points only
        # Multiples of 1/1024 are the same number in any precision.
        where = {symbol: sympy.Rational(round(1024 * drawn.uniform(low, 4.0)), 1024) for symbol in symbols}
        pair = tuple(expression.evalf(_DIGITS, subs=where) for expression in (first, second))
        if all(value.is_number and value.is_finite and (is_complex or value.is_real) for value in pair):
            yield pair


def _is_near(one: Any, other: Any) -> bool:
    """Whether two values agree in 30 digits, or are both what is left of a zero."""
    import sympy

    if one.is_Rational and other.is_Rational:
        return bool(one == other)
    size = max(abs(one), abs(other))
    return bool(size <= sympy.Float(_NOTHING) or abs(one - other) <= sympy.Float(_TINY) * size)


@functools.cache
def _is_installed() -> bool:
    return importlib.util.find_spec("math_verify") is not None


# --- Workers ----------------------------------------------------------------------------------------------------------


def _run(found: Form, wanted: Form) -> Result:
    """Compares in a worker; one that had to be killed is replaced in the background while others work on."""
    with _LOCK:
        ready = _ready(os.getpid())
    worker = ready.get()
    try:
        result = worker.run(_COMPARISON, [((found, wanted), {})])[0]
    except BaseException:
        ready.put(worker)
        raise
    if result.status == "graded":
        ready.put(worker)
    else:
        threading.Thread(target=_warm, args=(worker, ready), daemon=True).start()
    return result


def _warm(worker: ProcessPool, ready: queue.LifoQueue) -> None:
    """Loads SymPy into a worker, and then makes it available."""
    try:
        worker.run(_COMPARISON, [((_ONE, _ONE), {})])
    finally:
        ready.put(worker)


_ONE = Form("value", ("1",))
_LOCK = threading.Lock()


@functools.cache
def _ready(process: int) -> queue.LifoQueue:
    """The workers that are free in this process; a fork of it has none of them, and gets its own."""
    del process
    ready: queue.LifoQueue = queue.LifoQueue()
    for index in range(_WORKERS):
        worker = ProcessPool(1, timeout_s=TIMEOUT_S, memory_mb=_MEMORY_MB)
        if index:
            threading.Thread(target=_warm, args=(worker, ready), daemon=True).start()
        else:
            ready.put(worker)
    return ready
