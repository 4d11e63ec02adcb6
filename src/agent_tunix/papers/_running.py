"""Runs a paper's reproduction over seeds, and says what came out."""

import datetime
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from agent_tunix.papers._frame import Check, Comparison, Measured, Method

CONFIDENCE = 0.95
POINTS = 60


class Spread(NamedTuple):
    """Numbers of several seeds.

    Attributes:
      mean: Over the seeds.
      low: Lower end of the 95 % confidence interval of the mean, by Student's t; nan for one seed.
      high: Upper end.
    """

    mean: float
    low: float
    high: float


class Row(NamedTuple):
    """A comparison that was measured; the difference is that of pairs with the same seed."""

    what: str
    names: tuple[str, str]
    baseline: Spread
    method: Spread
    difference: Spread


class Verdict(NamedTuple):
    """A check and what was measured of it."""

    words: str
    value: Spread
    passed: bool


class Result(NamedTuple):
    """What a reproduction found.

    Attributes:
      slug: Of the paper.
      seeds: In the order of the numbers.
      measured: For each seed.
      rows: The comparisons.
      verdicts: The checks.
      seconds: Wall time of all seeds, compilation included.
    """

    slug: str
    seeds: tuple[int, ...]
    measured: tuple[Measured, ...]
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(verdict.passed for verdict in self.verdicts)


def run(
    method: Method, seeds: Iterable[int] = range(5), show: Callable[[int, int], None] = lambda done, of: None
) -> Result:
    """Measures a paper once per seed.

    Args:
      method: From `find`.
      seeds: At least one.
      show: Told how many seeds are done, of how many.

    Returns:
      What was measured, compared and checked.

    Raises:
      ValueError: There is no seed.
    """
    chosen, started = tuple(seeds), time.perf_counter()
    if not chosen:
        raise ValueError("run got no seeds; give at least one")
    measured = []
    for done, seed in enumerate(chosen, 1):
        measured.append({name: np.asarray(value) for name, value in method.reproduce(seed).items()})
        show(done, len(chosen))
    rows = tuple(_row(comparison, measured) for comparison in method.paper.comparisons)
    verdicts = tuple(verdict(check, measured) for check in method.paper.checks)
    return Result(method.slug, chosen, tuple(measured), rows, verdicts, time.perf_counter() - started)


def spread(values: Sequence[float] | Float[np.ndarray, " seeds"]) -> Spread:
    """Mean and confidence interval of the numbers of independent seeds.

    Examples:
      >>> spread([1.0, 3.0]).mean
      2.0
    """
    array = np.asarray(values, np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return Spread(mean, float("nan"), float("nan"))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return Spread(mean, mean - half, mean + half)


def _row(comparison: Comparison, measured: Sequence[Measured]) -> Row:
    baseline, method = ([float(one[name]) for one in measured] for name in comparison[1:])
    return Row(
        comparison.what,
        (comparison.baseline.partition("/")[0], comparison.method.partition("/")[0]),
        spread(baseline),
        spread(method),
        spread(np.subtract(method, baseline)),
    )


def verdict(check: Check, measured: Sequence[Measured]) -> Verdict:
    """Whether a check holds for what seeds measured."""
    value = spread([float(check.of(one)) for one in measured])
    low, high = (value.low, value.high) if check.surely else (value.mean, value.mean)
    return Verdict(check.words, value, bool(check.at_least <= low and high <= check.at_most))


def table(result: Result) -> str:
    """The comparisons and the checks as text for a terminal."""
    header = ("", "baseline", "method", "difference [95 % interval]")
    rows = [(row.what, *cells(row)) for row in result.rows]
    widths = [max(len(line[place]) for line in (header, *rows)) for place in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (header, *rows)
    ]
    lines += [
        "",
        *(
            f"{'passed' if verdict.passed else 'FAILED'}  {verdict.words}: {one(verdict.value)}"
            for verdict in result.verdicts
        ),
    ]
    words = "reproduced" if result.passed else "not reproduced"
    return "\n".join([*lines, "", f"{result.slug}: {words}, {len(result.seeds)} seeds, {result.seconds:.0f} s"])


def cells(row: Row) -> tuple[str, str, str]:
    """A row's numbers in words."""
    return (
        f"{row.names[0]} {number(row.baseline.mean)}",
        f"{row.names[1]} {number(row.method.mean)}",
        one(row.difference),
    )


def one(value: Spread) -> str:
    """A mean and its interval."""
    interval = "" if np.isnan(value.low) else f" [{number(value.low)}, {number(value.high)}]"
    return number(value.mean) + interval


def number(value: float) -> str:
    """Three digits, without an exponent where it can be read without one."""
    return (
        f"{value:.3g}"
        if abs(value) < 1e-3 or abs(value) >= 1e4
        else f"{value:.{max(0, 2 - int(np.floor(np.log10(abs(value)))))}f}"
    )


def to_json(result: Result) -> dict[str, Any]:
    """What is written to a file: all that was measured, curves included."""
    return {
        "paper": result.slug,
        "seeds": list(result.seeds),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": round(result.seconds, 1),
        "reproduced": result.passed,
        "comparisons": [
            row._asdict() | {name: getattr(row, name)._asdict() for name in ("baseline", "method", "difference")}
            for row in result.rows
        ],
        "checks": [
            {"words": verdict.words, **verdict.value._asdict(), "passed": verdict.passed} for verdict in result.verdicts
        ],
        "measured": [{name: _rounded(value) for name, value in one.items()} for one in result.measured],
    }


def thinned(value: Any) -> Float[np.ndarray, "..."]:
    """A curve in at most `POINTS` of its points; a number as it is."""
    array = np.asarray(value, np.float64)
    return array[places(len(array))] if array.ndim else array


def places(count: int) -> Int[np.ndarray, " points"]:
    """The points of a curve that are kept."""
    return np.linspace(0, count - 1, min(count, POINTS)).round().astype(int)


def _rounded(value: Any) -> Any:
    """Numbers to six digits, which is more than seeds agree on; curves in at most `POINTS` of their points."""
    array = thinned(value)
    return [float(f"{entry:.6g}") for entry in array.tolist()] if array.ndim else float(f"{float(array):.6g}")
