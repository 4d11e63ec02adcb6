"""Collectives of compiled programs, read from the text that XLA gives of them: kinds, numbers, bytes, and loops.

Bytes are those of the result on one device: for an all-reduce what is added up, for an all-gather the whole that is
gathered. What an algorithm sends for it over a network is `planning`'s arithmetic.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
BITS = {"pred": 8, "bf16": 16} | {f"{kind}{bits}": bits for kind in "suf" for bits in (4, 8, 16, 32, 64)}
BITS |= {"c64": 64, "c128": 128, "token": 0}

COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
INSTRUCTION = re.compile(rf"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ({'|'.join(KINDS)})(-start|-done)?\(")
CALLED = re.compile(r"(\w+)=(?:\{([^{}]*)\}|(%?[\w.\-]+))")
CALLS = {"calls", "to_apply", "body", "condition", "branch_computations", "true_computation", "false_computation"}
ARRAY = re.compile(r"\b([a-z]+\d*)(?:e\d+m\d+\w*)?\[([\d,]*)\]")


class Collective(NamedTuple):
    """One instruction that talks between devices.

    Attributes:
      kind: As XLA calls it, `all-reduce` and so on.
      bytes: Of its result on one device.
      scalar_bytes: Those of them that belong to single numbers.
      looped: Whether it stands in the body of a loop, where it runs once per turn.
    """

    kind: str
    bytes: int
    scalar_bytes: int
    looped: bool


def collectives(text: str) -> list[Collective]:
    """Those of a program, in the order of its text.

    Of a pair that is started and waited for, the wait is counted, which has the result's own shape.

    Args:
      text: `compiled.as_text()`.
    """
    bodies = _computations(text)
    looped = _looped(bodies)
    found = []
    for name, lines in bodies.items():
        for match in filter(None, map(INSTRUCTION.match, lines)):
            shapes, kind, form = match.groups()
            if form != "-start":
                found.append(Collective(kind, *_bytes(shapes), name in looped))
    return found


def _computations(text: str) -> dict[str, list[str]]:
    """Lines of every computation by its name."""
    bodies, lines = {}, []
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            lines = bodies.setdefault(match[1], [])
        else:
            lines.append(line)
    return bodies


def _looped(bodies: Mapping[str, Sequence[str]]) -> set[str]:
    """Computations that run in a loop: bodies and conditions, and what they call."""
    called = {name: [pair for line in lines for pair in _calls(line)] for name, lines in bodies.items()}
    waiting = [target for pairs in called.values() for word, target in pairs if word in ("body", "condition")]
    found = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [target for _, target in called.get(name, ())]
    return found


def _calls(line: str) -> Iterator[tuple[str, str]]:
    for word, several, one in CALLED.findall(line):
        if word in CALLS:
            yield from ((word, target.strip().removeprefix("%")) for target in (several or one).split(","))


def _bytes(shapes: str) -> tuple[int, int]:
    """Of all arrays of a type, and of those without axes."""
    arrays = [(BITS[kind], [int(size) for size in axes.split(",") if size]) for kind, axes in ARRAY.findall(shapes)]
    sizes = [(-(-bits * math.prod(axes) // 8), not axes) for bits, axes in arrays]
    return sum(size for size, _ in sizes), sum(size for size, scalar in sizes if scalar)


def summary(found: Sequence[Collective]) -> dict[str, dict[str, int]]:
    """By kind: how many (`count`), their bytes together, those of single numbers among them, and how many in loops."""
    out = {}
    for kind in dict.fromkeys(one.kind for one in found):
        same = [one for one in found if one.kind == kind]
        totals = {name: sum(getattr(one, name) for one in same) for name in ("bytes", "scalar_bytes", "looped")}
        out[kind] = {"count": len(same)} | totals
    return out


# --- The programs of functions that compile by themselves -------------------------------------------------------------


class Program(NamedTuple):
    """A compiled program: the name of its function, and XLA's text of it."""

    name: str
    text: str


@contextlib.contextmanager
def recorded() -> Iterator[list[Program]]:
    """Collects the programs of all functions that are given to `jax.jit` inside, whenever they are called.

    Every program is compiled once, and the one that was read is the one that runs.
    """
    programs: list[Program] = []
    jit = jax.jit

    def recording(function: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
        if function is None:
            return lambda function: recording(function, **settings)
        return _recorded(jit(function, **settings), _name(function), _static(settings), programs)

    with mock.patch.object(jax, "jit", recording):
        yield programs


def _name(function: Any) -> str:
    """The function's own name, also behind `functools.partial`."""
    while hasattr(function, "func"):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def _static(settings: Mapping[str, Any]) -> set[str | int]:
    """Names and positions of the arguments that are compiled into a program."""
    found = [settings.get(word, ()) for word in ("static_argnames", "static_argnums")]
    return {one for some in found for one in ((some,) if isinstance(some, str | int) else some)}


def _recorded(jitted: Any, name: str, static: set[str | int], programs: list[Program]) -> Callable[..., Any]:
    compiled: dict[Any, Any] = {}

    def run(*args: Any, **settings: Any) -> Any:
        places = [place for place in range(len(args)) if place not in static]
        given = [args[place] for place in places], {word: settings[word] for word in settings if word not in static}
        fixed = [args[place] for place in range(len(args)) if place in static]
        fixed += [(word, settings[word]) for word in settings if word in static]
        leaves, structure = jax.tree.flatten(given)
        key = structure, tuple((jax.typeof(leaf), getattr(leaf, "sharding", None)) for leaf in leaves), tuple(fixed)
        if key not in compiled:
            compiled[key] = jitted.lower(*args, **settings).compile()
            programs.append(Program(name, compiled[key].as_text()))
        return compiled[key](*given[0], **given[1])

    return run
