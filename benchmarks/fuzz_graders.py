"""Fuzzes every grader of texts: no exception, a value in the documented range, in time, the same every time.

    python benchmarks/fuzz_graders.py --seconds 300

Hypothesis builds responses from pieces that have broken answer checkers before. Every grader grades every one of them;
a failure is shrunk (one of time is not: each attempt at it would be slow), kept, and its grader left out from then on,
so that one run finds one failure of each. Rounds are numbered and seeded: a run with the same seed meets the same texts
in the same order, as far as its time goes.

Nothing is stored but what Hypothesis caches about Unicode, in `.hypothesis` in the root of the checkout. The exit code
is 1 if anything failed.
"""

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis.configuration
from grader_cases import Case, cases
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

STORE = Path(__file__).parents[1] / ".hypothesis"
LIMIT_S, LIMIT_S_PER_CHARACTER = 0.05, 50e-9
"""Processor time that one call may take: a fixed part, and a part for every character of the response."""
SYMBOLIC_LIMIT_S = 1.0
"""The fixed part where formulas are compared, of wall-clock time."""
LONGEST = 1_000_000
MOST_REPEATED = 50_000
"""Characters of the longest response that is graded once more, and in a list."""
ROUND = 400, 4
"""Texts in one round: of up to a few thousand characters, and of up to a million."""

# --- Texts ------------------------------------------------------------------------------------------------------------

_PIECES = {
    "tags": "<reasoning>|</reasoning>|<answer>|</answer>|<ANSWER>|< answer>|</ answer>|<answer/>|<think>|</think>|<ans",
    "boxes": r"\boxed{|\boxed|\fbox{|\boxed {|\text{|\frac{1}{|\frac12|\sqrt{|\left(|\right)|}|{|}}|{{|\}|\{|$|$$|\(|\)"
    r"|\[|\]",
    "numbers": "0|4|42|-42|+42|−42|042|1,000|1,00|1{,}000|1.000|42.|.5|-.5|4.2e1|1e400|1e-400|1e9999999|9**9|10^{10^8}"
    "|0x2a|42%|1/2|1/0|3 1/2|1 000|1\u2009000|٤٢|४२|４２|Ⅷ|½|²|一|𝟒𝟐|inf|nan|1_000|--1|- 1|4 2|42\u0301",
    "words": "The answer is |Answer:|A:|**Answer:**|the final answer is: |#### |####|### Answer\n|not |about |or |and |"
    "so |therefore |Step 1: |First, |1. |- |I hope it is correct.|dollars|cm^2|°C|per cent|USD|maybe",
    "signs": " |\n|\r\n|\r|\t|\x0b|\x0c|\x1c|\x85|\u2028|\u00a0|\u200b|\u200f|\u202e|\u2066|\ufeff|\u0000|\u0300|\ud800"
    "|\udfff|\U0010ffff|🙂|ﬀ|ß|İ|ı|ſ|\u212a|~|\\|\\\\|\"|'|“|”|‘|’|`|*|**|_|__|#|.|..|...|,|;|:|!|?|=|==|≠|<|>|≤|%|$"
    "|€|¢|/|//|^|@|&|(|)|[|]",
    "equations": "2 + 2 = 5|2+2=4|48 / 2 = 24|1/3 = 0.33|2^10 = 1024|9**9**9 = 1|1/0 = 0|(1+1)*2=4|x = 3|1 = 1 = 2"
    "|3 x 4 = 12|-1 - -1 = 0|10^400 = 1|0.1 + 0.2 = 0.3|((((1))))=1|5 mod 2 = 1|100% = 1|$5 + $3 = $8|3! = 6",
    "documents": '{"age": 4}|{"age":|[1, 2]|[[|]]|{"a": NaN}|1e999|"\\ud800"|null|```json\n|```python\n|```|<!--|-->'
    "|<!-- 42 -->|&lt;|</s>|<eos>|[NUM]|[TEXT]",
}
_FRAMES = (
    "<reasoning>{}</reasoning><answer>{}</answer>",
    "<answer>{}</answer>{}",
    r"{}\boxed{{{}}}",
    "{}\n#### {}",
    "{}\nThe answer is {}.",
    "{}\nAnswer: {}",
    "```json\n{}\n```{}",
    "{} = {}",
)

_piece = st.one_of(
    *(st.sampled_from(pieces.split("|")) for pieces in _PIECES.values()),
    st.sampled_from(("|", "<|im_end|>", "<|eot_id|>")),
    st.integers().map(str),
    st.floats().map(str),
    st.characters(codec=None),
    st.text(max_size=8),
)
_plain = st.lists(_piece, max_size=12).map("".join)
_repeated = st.builds(lambda piece, count: piece * count, _plain, st.integers(2, 60)).map(lambda text: text[:4_000])
_some = st.one_of(_plain, _plain, _repeated)
_framed = st.builds(lambda frame, one, other: frame.format(one, other), st.sampled_from(_FRAMES), _some, _some)


class Response(NamedTuple):
    """A response to grade.

    Attributes:
      text: The response.
      written: Python code for it.
    """

    text: str
    written: str


def _stretched(before: str, piece: str, after: str, characters: int) -> Response:
    piece = piece or " "
    count = characters // len(piece)
    return Response(before + piece * count + after, f"{before!a} + {piece!a} * {count} + {after!a}")


SHORT = st.one_of(_some, _framed, st.builds(str.__add__, _framed, _framed)).map(lambda one: Response(one, ascii(one)))
"""Responses of up to a few thousand characters."""

LONG = st.builds(_stretched, _plain, _plain, _plain, st.sampled_from((20_000, 200_000, LONGEST)))
"""Responses in which something is repeated up to a million characters."""
REFERENCES = st.one_of(st.sampled_from(("42", "-7", "1,000", "1/2", "3.5", "yes", r"\frac{1}{2}", "")), _plain)
NUMBERS = st.one_of(st.integers(-(10**6), 10**6).map(str), st.sampled_from(("0", "-0.5", "1,234", "1/3", "1e3")))

# --- Checks -----------------------------------------------------------------------------------------------------------


class GraderFailure(AssertionError):
    """A grader broke its word."""


class TooSlow(GraderFailure):
    """A grader took longer than it may."""


@dataclasses.dataclass
class Tally:
    """What was seen of one grader.

    Attributes:
      calls: Texts that it graded.
      slowest_s: Most processor time of one call.
      slowest_share: The most that a call took of its limit.
      slowest_characters: Length of the response that `slowest_share` belongs to.
      failure: What went wrong first, with its shrunk text.
    """

    calls: int = 0
    slowest_s: float = 0.0
    slowest_share: float = 0.0
    slowest_characters: int = 0
    failure: str = ""

    def add(self, seconds: float, limit_s: float, characters: int) -> None:
        """Counts a call."""
        self.calls += 1
        self.slowest_s = max(self.slowest_s, seconds)
        if seconds / limit_s > self.slowest_share:
            self.slowest_share, self.slowest_characters = seconds / limit_s, characters


def limit_s(case: Case, response: str) -> float:
    """Processor time that a call may take."""
    fixed = SYMBOLIC_LIMIT_S if "symbolic" in case.name else LIMIT_S
    return fixed + LIMIT_S_PER_CHARACTER * len(response)


def check(case: Case, response: str, reference: str, tally: Tally) -> None:
    """Grades one response and checks all that is promised about it.

    Raises:
      GraderFailure: With the grader, what happened, and the arguments.
    """
    value, seconds = _timed(case, response, reference)
    allowed = limit_s(case, response)
    if seconds > allowed:  # a pause of the garbage collector, or a cold cache, does not come twice
        value, seconds = min((_timed(case, response, reference) for _ in range(2)), key=lambda pair: pair[1])
    tally.add(seconds, allowed, len(response))
    if seconds > allowed:
        raise TooSlow(f"took {seconds:.3f} s, {allowed:.3f} s are allowed")
    if not case.accepts(value):
        raise GraderFailure(f"gave {value!r:.200}, which is outside of what is documented")
    if len(response) > MOST_REPEATED:
        return
    if not _same(_called(case.grade, response, reference), value):
        raise GraderFailure(f"gave {value!r:.200} first and something else at the second call")
    if case.grade_list is not None:
        (alone,) = _called(case.grade_list, response, reference)
        if not _same(alone, value):
            raise GraderFailure(f"gave {value!r:.200} for the text and {alone!r:.200} for a list of it")


def _timed(case: Case, response: str, reference: str) -> tuple[Any, float]:
    clock = time.perf_counter if "symbolic" in case.name else time.thread_time  # the former works in other processes
    started = clock()
    value = _called(case.grade, response, reference)
    return value, clock() - started


def _called(grade: Callable[[str, str], Any], response: str, reference: str) -> Any:
    try:
        return grade(response, reference)
    except Exception as error:  # whatever it is, it is a failure of the grader
        raise GraderFailure(f"raised {type(error).__name__}: {error!s:.300}") from error


def _same(one: Any, other: Any) -> bool:
    return one == other or (one != one and other != other)


# --- Rounds -----------------------------------------------------------------------------------------------------------


def fuzz(
    found: Sequence[Case], *, seconds: float, seed_number: int, counts: tuple[int, int] = ROUND
) -> dict[str, Tally]:
    """Fuzzes graders until the time is over; at least one round.

    Args:
      found: Graders.
      seconds: Wall-clock time.
      seed_number: Of the first round; each further one has the next.
      counts: Short and long texts in a round.

    Returns:
      What was seen, by the name of the grader.
    """
    tallies = {case.name: Tally() for case in found}
    for case in found:  # Imports and caches are no cost of a text.
        case.grade("The answer is 42.", "42")
    deadline = time.monotonic() + seconds
    number = seed_number
    while number == seed_number or time.monotonic() < deadline:
        for texts, count in zip((SHORT, LONG), counts, strict=True):
            _round([case for case in found if not tallies[case.name].failure], tallies, texts, count, number)
        number += 1
    return tallies


def _round(left: Sequence[Case], tallies: dict[str, Tally], texts: Any, count: int, number: int) -> None:
    """One round of texts through all graders, again without each grader that fails."""
    left = list(left)
    while left and (failed := _first_failure(left, tallies, texts, count, number)) is not None:
        case, report = failed
        tallies[case.name].failure = report
        left.remove(case)


def _first_failure(
    left: Sequence[Case], tallies: dict[str, Tally], texts: Any, count: int, number: int
) -> tuple[Case, str] | None:
    """The first grader that fails in a round, with its shrunk failure; None where none does."""
    failing: list[tuple[Case, str]] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example),
        print_blob=False,
        report_multiple_bugs=False,
    )
    @given(texts, REFERENCES, NUMBERS)
    def meets_all(response: Response, reference: str, number: str) -> None:
        for case in left if not failing else [failing[0][0]]:  # Shrinking is about the grader that failed first.
            given_reference, tally = number if case.numeric else reference, tallies[case.name]
            if tally.failure:
                continue
            try:
                check(case, response.text, given_reference, tally)
            except TooSlow as failure:
                tally.failure = _report(failure, response, given_reference)
            except GraderFailure as failure:
                failing.append((case, _report(failure, response, given_reference)))
                raise

    try:
        meets_all()
    except (GraderFailure, Flaky):  # Flaky: not again when Hypothesis repeats the shrunk example.
        return failing[-1]
    return None


def _report(failure: GraderFailure, response: Response, reference: str) -> str:
    return f"{failure}\n  response = {response.written}\n  reference = {reference!a}"


# --- The command line -------------------------------------------------------------------------------------------------


def table(tallies: dict[str, Tally]) -> str:
    """What was seen of each grader, the one nearest to its limit first."""
    width = max(map(len, tallies))
    lines = [f"{'grader':{width}}  {'texts':>8}  {'slowest ms':>10}  {'of its limit':>12}  at characters"]
    for name, tally in sorted(tallies.items(), key=lambda item: -item[1].slowest_share):
        lines.append(
            f"{name:{width}}  {tally.calls:8,}  {1000 * tally.slowest_s:10.2f}  {tally.slowest_share:12.1%}  "
            f"{tally.slowest_characters:,}{'   FAILED' if tally.failure else ''}"
        )
    return "\n".join(lines)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description="Fuzzes every grader of texts.")
    parser.add_argument("--seconds", type=float, default=300, help="how long, in wall-clock time (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (default: 0)")
    parser.add_argument("--only", metavar="WORD", default="", help="graders with this in their name")
    parser.add_argument("--symbolic", action="store_true", help="exact_answer(symbolic=True) as well")
    parser.add_argument("--quick", action="store_true", help="one small round, for the tests")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzzes and reports; returns the exit code."""
    chosen = arguments(argv)
    hypothesis.configuration.set_hypothesis_home_dir(STORE)
    found = [case for case in cases(symbolic=chosen.symbolic) if chosen.only in case.name]
    if not found:
        print(f"no grader has {chosen.only!r} in its name", file=sys.stderr)
        return 2
    run = functools.partial(fuzz, found, seed_number=chosen.seed)
    tallies = run(seconds=0, counts=(5, 2)) if chosen.quick else run(seconds=chosen.seconds)
    print(table(tallies))
    failures = {name: tally.failure for name, tally in tallies.items() if tally.failure}
    for name, failure in failures.items():
        print(f"\n{name} {failure}")
    calls = sum(tally.calls for tally in tallies.values())
    print(f"\n{calls:,} calls, {len(failures)} of {len(tallies)} graders failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
