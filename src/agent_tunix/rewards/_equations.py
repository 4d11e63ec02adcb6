r"""Finding arithmetic in running text and checking it exactly, without evaluation.

A statement is two expressions of plain numbers on either side of an equals sign, at least one of them with an
operation: `48 / 2 = 24`, `3 * (2 + 4) = 18`, `$5 + $3 = $8`, `2 + 2 + 2 = 3 * 2 = 6` (two statements). Whatever is not
certainly one is left out, because a false alarm teaches a model to write no arithmetic: variables, percentages, dates,
versions, clock times, `3 / 1/4`, numbers with a unit before the operation, results that go on (`= 3 dozen`,
`= 2 hours 30 minutes`).

One regular expression finds runs of arithmetic characters in a single pass; a recursive descent over a few dozen tokens
computes them as fractions. Caps on characters, digits, nesting and exponents come before any arithmetic.
"""

import itertools
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

_MAX_TEXT = 200_000
_MAX_RUN = 200
_MAX_READ = 4_000
_MAX_DEPTH = 8
_MAX_POWER = 20
_MAX_BITS = 2_048


def false_statements(text: str) -> list[str]:
    """Finds the arithmetic statements of a text that are false.

    A number that is written with decimals, or that stands for a fraction without end, may be rounded to the digits
    shown: `10 / 3 = 3.33` and `10 / 3 = 3` hold, `7 / 2 = 3` does not.

    Args:
      text: Any text. Of more than 200,000 characters, or more than 4,000 characters of equations, the first are read.

    Returns:
      The false statements as written, in their order.

    Examples:
      >>> false_statements("48 / 2 = 24, then 48 + 24 = 73 clips")
      ['48 + 24 = 73']
    """
    return [f"{left.text} = {right.text}" for left, right in _statements(text) if not _holds(left, right)]


def value(expression: str) -> Fraction:
    """Computes one expression of plain numbers exactly.

    Raises:
      ValueError: It is none, or beyond the bounds on length, digits, nesting and size.
      ZeroDivisionError: It divides by zero.
    """
    for written, plain in _REWRITES:
        expression = expression.replace(written, plain)
    if len(expression) > _MAX_RUN:
        raise ValueError(f"an expression of {len(expression)} characters; at most {_MAX_RUN} are read")
    return _Reader(expression.strip()).side().value


class _Side(NamedTuple):
    """One side of an equals sign.

    Attributes:
      text: As written, without surrounding whitespace.
      value: Exactly.
      operations: How many it is computed with.
      decimals: Most digits after the point of any of its numbers.
    """

    text: str
    value: Fraction
    operations: int
    decimals: int


def _holds(left: _Side, right: _Side) -> bool:
    """Whether two sides are equal, up to the rounding of the one that is a plain number."""
    if left.value == right.value:
        return True
    shown, computed = (left, right) if left.operations < right.operations else (right, left)
    if not shown.decimals and (shown.operations or _terminates(computed.value)):
        return False
    return abs(shown.value - computed.value) * 2 <= Fraction(1, 10**shown.decimals)


def _terminates(value: Fraction) -> bool:
    """Whether a number can be written with finitely many decimals."""
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    return rest == 1


# --- Finding ----------------------------------------------------------------------------------------------------------

_REWRITES = (
    *((minus, "-") for minus in ("\u2212", "\ufe63", "\u2013")),
    *((times, "*") for times in ("\\times", "\\cdot", "×", "·", "∗", "⋅")),
    *((divided, "/") for divided in ("\\div", "÷", "∕")),
    *((bracket, " ") for bracket in ("\\(", "\\)", "\\[", "\\]")),
    ("\\left(", "("),
    ("\\right)", ")"),
    ("\\$", "$"),
    ("{,}", ","),
    ("\u00a0", " "),
)
# A run begins with a number or an opening bracket, so that what stands before an operation is known or the run is left
# out. Points and commas belong to a number; the letter x is a sign only between numbers.
_RUN = re.compile(r"[$€£]?[0-9(](?:[-+*/^=()0-9 $€£]|[.,](?=[0-9])|(?<=[0-9 )])[xX](?=[ 0-9($]))*")
_BOLD = re.compile(r"(?:(?<=[\s:,;(])|\A)\*\*\Z")
_MIXED = re.compile(r"[0-9][ ]+and[ ]+\Z"), re.compile(r"\(?[0-9]+/[0-9]")
_BULLET = re.compile(r"(?:\n|\A\n?)[ \t]*[-*+•][ \t]+\Z")
_NOT_BEFORE = re.compile(
    r"(?:[\w.)\]}%^!°√∑\\]|[-+*/^√][ ]*|\bx[ ]*|[0-9](?::|,[ ]*)|"
    r"\b(?:half|third|quarter|fifth|tenth|fraction|percent|double|twice|triple|thrice|square|squared|root|cube|factorial|"
    r"weeks?|days?|pages?|chapters?|steps?|hours?|months?|years?|"
    r"times|plus|minus|by|over|not|if|whether|suppose|mod|modulo|dozen|hundred|thousand|million|billion)"
    r"(?:[ ]+(?:of|than))?(?:[ ]+(?:the|a))?[ ]+)\Z",
    re.IGNORECASE,
)
_NOT_AFTER = re.compile(
    r"[\w!°²³^{\[/%]|[:.,][0-9]|[ ]*(?:\\%|[%≤≥≠≈+/^±]|[<>]=?[ ]*[0-9(-]|-[ ]*[0-9]|\*+[ ]*[\w($])|"
    r"[ ]*(?:\\text\{)?[ ]*(?:k|mio|hundred|thousand|million|billion|trillion|dozen|score|gross|couple|percent|cents?|"
    r"r|rem|remainder|with|whole|full|complete|squared|cubed|or|to|mod|half|halves|thirds?|quarters?|"
    r"and[ ]+(?:an?[ ]+)?\(?(?:[0-9]+/[0-9]+|half|third|quarter))\b|"
    r"[ ]+(?!and\b)[a-z]+,?[ ]+(?:and[ ]+)?(?:an?[ ]+(?:half|third|quarter)|[0-9])",
    re.IGNORECASE,
)


def _statements(text: str) -> Iterator[tuple[_Side, _Side]]:
    """Pairs of neighbouring sides that can be checked, first to last."""
    if "=" not in text:
        return
    text = text[:_MAX_TEXT]
    for written, plain in _REWRITES:
        text = text.replace(written, plain)
    budget = _MAX_READ
    for run in _RUN.finditer(text):
        if "=" not in run[0] or len(run[0]) > _MAX_RUN:
            continue
        sides = _sides(text, run)
        for left, right in itertools.pairwise(sides):
            if left and right and left.operations + right.operations:
                yield left, right
        budget -= len(run[0])
        if budget < 0:
            return


def _sides(text: str, run: re.Match[str]) -> list[_Side | None]:
    """The sides of a chain of equations; None where one is not certainly an expression of numbers."""
    body = run[0].rstrip(" (*$€£")
    sides = [_side(piece) for piece in _without_brackets(body).split("=")]
    if sides[0] and not _is_start(text, run.start(), sides[0].operations):
        sides[0] = None
    if _NOT_AFTER.match(text, run.start() + len(body)):
        sides[-1] = None
    return sides


def _is_start(text: str, start: int, operations: int) -> bool:
    """Whether nothing before a run belongs to its first expression; a number after a word is a label, `Week 2 = `."""
    before = text[max(start - 40, 0) : start]
    if _BOLD.search(before) or _BULLET.search(before):
        return True
    if _MIXED[0].search(before) and _MIXED[1].match(text, start):  # 1 and 1/3
        return False
    return not _NOT_BEFORE.search(before) and bool(operations or not before.rstrip(" ")[-1:].isalpha())


def _without_brackets(body: str) -> str:
    """Drops the brackets around whole statements, as in `(2 + 2 = 4)`."""
    first, last = body.partition("=")[0], body.rpartition("=")[2]
    opened, closed = first.count("(") - first.count(")"), last.count(")") - last.count("(")
    body = body[opened:] if opened > 0 and body.startswith("(" * opened) else body
    return body[:-closed] if closed > 0 and body.endswith(")" * closed) else body


def _side(piece: str) -> _Side | None:
    """Reads one side."""
    try:
        return _Reader(piece.strip().removeprefix("**").removesuffix("**").strip()).side()
    except (ValueError, ZeroDivisionError):
        return None


# --- Reading ----------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"(?P<space>[ ]*)(?:"
    r"(?P<whole>[0-9]+)[ ]+(?P<over>[0-9]+)/(?P<under>[0-9]+)(?![0-9.,])|"
    r"(?P<number>[0-9][0-9,]*(?:\.[0-9]+)?)|(?P<sign>\*\*|[-+*/^()xX])|[$€£])"
)
_NUMBER = re.compile(r"(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:,[0-9]{3})+)(?:\.[0-9]+)?")
_MAX_DIGITS = 30
_SIGNS = {"x": "*", "X": "*", "**": "^"}


class _Reader:
    """Recursive descent over the tokens of one expression; raises ValueError where it is none."""

    def __init__(self, piece: str):
        self.piece = piece
        self.tokens = _tokens(piece)
        self.at = 0
        self.operations = 0
        self.decimals = 0

    def side(self) -> _Side:
        """The whole expression."""
        value = self.total(0)
        if self.at < len(self.tokens):
            raise ValueError(self.piece)
        return _Side(self.piece, value, self.operations, self.decimals)

    def next_sign(self, signs: str) -> str:
        """The next token if it is one of these signs, and moves past it; else nothing."""
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        if isinstance(token, str) and token in signs:
            self.at += 1
            return token
        return ""

    def total(self, depth: int) -> Fraction:
        """Terms added and subtracted."""
        value = self.signed(depth)
        while sign := self.next_sign("+-"):
            term = self.term(depth)
            value = self.done(value + term if sign == "+" else value - term)
        return value

    def signed(self, depth: int) -> Fraction:
        """A first term, which may be negative."""
        return -self.term(depth) if self.next_sign("-") else self.term(depth)

    def term(self, depth: int) -> Fraction:
        """Factors multiplied and divided; a bracket right after a number multiplies.

        After a division neither another one nor such a bracket is read: writers mean different things by `3 / 1/4`.
        """
        value, signs = self.power(depth), "*/("
        while sign := self.next_sign(signs):
            if sign == "(":
                self.at -= 1
            factor = self.power(depth)
            value = self.done(value / factor if sign == "/" else value * factor)
            signs = "*" if sign == "/" else signs
        return value

    def power(self, depth: int) -> Fraction:
        """A number or bracket, with a small whole exponent if any."""
        base = self.atom(depth)
        if not self.next_sign("^"):
            return base
        exponent = self.atom(depth)
        if exponent.denominator != 1 or not 0 <= exponent <= _MAX_POWER:
            raise ValueError(self.piece)
        return self.done(base ** int(exponent))

    def atom(self, depth: int) -> Fraction:
        """A number, or a total in brackets."""
        if self.next_sign("("):
            if depth == _MAX_DEPTH:
                raise ValueError(self.piece)
            value = self.total(depth + 1)
            if not self.next_sign(")"):
                raise ValueError(self.piece)
            return value
        token = self.tokens[self.at] if self.at < len(self.tokens) else ""
        if isinstance(token, str):
            raise ValueError(self.piece)
        self.at += 1
        value, decimals = token
        self.decimals = max(self.decimals, decimals)
        return value

    def done(self, value: Fraction) -> Fraction:
        """Counts an operation and refuses results that are too large to go on with."""
        self.operations += 1
        if value.numerator.bit_length() + value.denominator.bit_length() > _MAX_BITS:
            raise ValueError(self.piece)
        return value


def _tokens(piece: str) -> list[str | tuple[Fraction, int]]:
    """Signs, and numbers with their count of decimals; currency signs are passed over."""
    tokens: list[str | tuple[Fraction, int]] = []
    at = 0
    while at < len(piece):
        match = _TOKEN.match(piece, at)
        if match is None:
            raise ValueError(piece)
        at = match.end()
        if match["sign"] == "(" and match["space"] and tokens and not isinstance(tokens[-1], str):
            raise ValueError(piece)  # `group 2 (3 + 4)` is no product
        if match["sign"]:
            tokens.append(_SIGNS.get(match["sign"], match["sign"]))
        elif match["number"] or match["whole"]:
            tokens.append(_number(match))
    return tokens


def _number(match: re.Match[str]) -> tuple[Fraction, int]:
    """A number exactly, and how many decimals it shows."""
    written = match["number"]
    if len(match[0]) > _MAX_DIGITS:
        raise ValueError(written)
    if written is None:
        over, under = int(match["over"]), int(match["under"])
        if not over < under:
            raise ValueError(match[0])
        return int(match["whole"]) + Fraction(over, under), 0
    if not _NUMBER.fullmatch(written):
        raise ValueError(written)
    return Fraction(written.replace(",", "")), len(written.partition(".")[2])
