r"""Equality as mathematics, for answers that exact comparison finds different.

The two texts are first read by `_latex`, which decides what kind of answer each is; only kinds that agree are compared,
piece by piece: numbers exactly, everything else by SymPy through the LaTeX reader and the equality of math-verify
(https://github.com/huggingface/Math-Verify). That runs in worker processes that are killed when a comparison takes too
long, because no limit inside a process stops SymPy: `9^{9^9}` holds the interpreter's lock until memory ends.
"""

import functools
import importlib.util
import logging
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

from agent_tunix.rewards._latex import _NAME, Form, form, spelling
from agent_tunix.rewards._numbers import quantity
from agent_tunix.rewards._pool import ProcessPool

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
    result = _pool().run(_COMPARISON, [((found, wanted), {})])[0]
    if result.status != "graded" or result.value is None:
        raise _NotComparedError
    return result.value is True


def same(found: Form, wanted: Form, equal: Equal) -> bool:
    """Tells whether two forms are the same, given what makes two values equal."""
    if (found.kind == "equation") != (wanted.kind == "equation"):
        found, wanted = _assigned(found), _assigned(wanted)
    if found.kind == wanted.kind == "equation":
        return _same_equation(found, wanted, equal)
    if "equation" in (found.kind, wanted.kind):
        return False
    if not _may_be_same(found, wanted):
        return False
    if found.kind == "value":
        return _same_value(found, wanted, equal)
    if found.kind == "based":
        return found == wanted
    if found.kind in _UNORDERED:
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
    if found.kind != "bracketed":
        return found.detail == wanted.detail
    names = {form.detail[2:] for form in (found, wanted)} - {""}
    return found.detail[:2] == wanted.detail[:2] and len(names) <= 1


def _assigned(one: Form) -> Form:
    """The right side of an equation whose left side is a name: the value of `x = 5`."""
    if one.kind != "equation" or one.detail != "=":
        return one
    left, right = one.parts
    is_name = left.kind == "value" and _NAME.fullmatch(left.parts[0]) is not None
    is_names = left.kind == right.kind == "bracketed" and left.detail == right.detail == "()"
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


def _expression(latex: str) -> Any:
    """A SymPy expression of a piece of LaTeX, with `i` as the imaginary unit."""
    import sympy
    from latex2sympy2_extended import latex2sympy

    read: Any = latex2sympy(latex, is_real=True, convert_degrees=False, normalization_config=None)
    return read.subs({symbol: sympy.I for symbol in read.free_symbols if symbol.name == "i"})


def _equal(one: str, other: str) -> bool:
    """Whether two pieces of LaTeX have the same value: constants to 40 digits, formulas by math-verify."""
    import math_verify
    import sympy

    first, second = _expression(one), _expression(other)
    if first == second:
        return True
    if any(expression.has(sympy.oo, sympy.zoo, sympy.nan) for expression in (first, second)):
        return False
    if first.free_symbols or second.free_symbols:
        return bool(math_verify.verify(first, second, timeout_seconds=None))
    return bool(abs(sympy.N(first - second, 40)) < sympy.Float("1e-30") * (1 + abs(sympy.N(second, 40))))


def _are_multiples(one: str, other: str, positive: bool) -> bool:
    """Whether one expression is a constant multiple of the other, a positive one for inequalities."""
    import sympy

    ratio = sympy.simplify(_expression(one) / _expression(other))
    return bool(ratio.is_number and ratio.is_finite and not ratio.is_zero and (ratio.is_positive or not positive))


@functools.cache
def _is_installed() -> bool:
    return importlib.util.find_spec("math_verify") is not None


_LOCK = threading.Lock()


def _pool() -> ProcessPool:
    with _LOCK:
        return _made_pool()


@functools.cache
def _made_pool() -> ProcessPool:
    return ProcessPool(_WORKERS, timeout_s=TIMEOUT_S, memory_mb=_MEMORY_MB)
