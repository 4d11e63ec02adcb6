r"""The form of a mathematical answer: value, list, set, tuple or interval, union, matrix, equation.

What a completion states is cut into closed pieces here, by brackets and commas, before a computer algebra system is
asked whether two pieces are equal: such systems take the first thing they can read out of `41 or 42` or `not 42`. A
text that is not written in the small language below as a whole has no form and equals nothing but itself. All of it is
linear in the text, whose length, nesting and exponents are bounded.
"""

import math
import re
from typing import NamedTuple

from agent_tunix.rewards._numbers import TIE, _are_words, _unwrapped, quantity

MAX_CHARACTERS = 300
MAX_DEPTH = 10
MAX_DIGITS = 30
MAX_POWER = 9_999
MAX_NESTED_POWER = 10**6


class Form(NamedTuple):
    """A mathematical answer, cut into pieces.

    Attributes:
      kind: `value`, `based` (a numeral with its base), `list`, `set`, `bracketed` (a tuple or an interval), `union`,
        `matrix` or `equation`.
      parts: Forms of the pieces, in order; of a value, its LaTeX.
      detail: The two brackets of `bracketed`, the variable of an interval from an inequality after them, `%` of a
        percentage, the columns of a matrix, the relation of an equation.
    """

    kind: str
    parts: tuple
    detail: str = ""


def form(text: str) -> Form | None:
    """Reads the form of an answer; None where the text is not one closed mathematical expression."""
    if len(text) > MAX_CHARACTERS or "~~" in text:  # ~~42~~ is crossed out
        return None
    bare = _unwrapped(text)
    if "," in bare and quantity(bare) is not None:
        bare = bare.replace(",", "")
    written = _without_unit(_canonical(bare))
    return _read(written) if written and _is_language(written) else None


def spelling(text: str) -> str | None:
    """One way of writing what has no form, with only the spaces between words; None where it is too long."""
    if len(text) > MAX_CHARACTERS:
        return None
    return re.sub(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])", "", _canonical(_unwrapped(text)))


# --- One way of writing each thing ------------------------------------------------------------------------------------

_OPEN_SET, _CLOSE_SET, _NEW_ROW = "\u2983", "\u2984", "\u2985"  # brackets of no alphabet stand in for two characters
_REWRITES = (
    ("\\\\", _NEW_ROW), ("{~", "{"),
    ("\\{", _OPEN_SET), ("\\}", _CLOSE_SET), ("\\lbrace", _OPEN_SET), ("\\rbrace", _CLOSE_SET),
    ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\cfrac", "\\frac"), ("\\dbinom", "\\binom"),
    *((sign, "-") for sign in ("\u2212", "\u2013", "\ufe63")), ("×", "\\times "), ("·", "\\cdot "), ("÷", "\\div "),
    ("±", "\\pm "), ("≤", "\\le "), ("≥", "\\ge "), ("∞", "\\infty "), ("∪", "\\cup "), ("∈", "\\in "), ("π", "\\pi "),
    ("√", "sqrt"), ("²", "^2"), ("³", "^3"), ("½", "\\frac{1}{2}"), ("θ", "\\theta "), ("∅", "\\emptyset "),
    ("\\leqslant", "\\le "), ("\\geqslant", "\\ge "), ("\\leq", "\\le "), ("\\geq", "\\ge "), ("\\lt", "<"),
    ("\\gt", ">"), ("\\neq", "\\ne "),
    ("≠", "\\ne "), ("\\degree", "°"), ("^{\\circ}", "°"), ("^\\circ", "°"), ("^{°}", "°"), ("^°", "°"),
    ("\\emptyset", _OPEN_SET + _CLOSE_SET), ("\\varnothing", _OPEN_SET + _CLOSE_SET),
    ("\\mathbb{R}", "(-\\infty,\\infty)"), ("\\mathbb R", "(-\\infty,\\infty)"), ("\\mathrm{i}", "i"),
    ("\\displaystyle", ""), ("\\$", ""), ("$", " "), ("\\%", "%"), ("**", "^"), ("*", "\\cdot "),
)  # fmt: skip
_ROW_HEIGHT = re.compile(rf"{_NEW_ROW}\[[0-9.]+[a-z]{{2}}\]")
_FACTORIAL = re.compile(r"(?<![0-9.)}!])([0-9]|1[0-9]|20)!(?!!)")
_DEGREES = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc))\s*(?:\{([0-9]+)\}|\(([0-9]+)\)|([0-9]+))°")
_DEGREES_INSIDE = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc))\s*[({]\s*([0-9]+)°\s*[)}]")
_THOUSANDS = re.compile(r"(?<=[0-9])\{,\}(?=[0-9]{3})")
_SPACES = re.compile(r"\\(?:[,;:! ]|quad\b|qquad\b)|\s+")
_UPRIGHT = re.compile(r"\\(?:text|textrm|mathrm|mathbf)\{([0-9A-F]+)\}")
_SIZES = re.compile(rf"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])(?:\.|\s*(?=[()\[\]|{_OPEN_SET}{_CLOSE_SET}]))")
_JOINTS = re.compile(r",?\s*(?:\\(?:text|textrm|mathrm|mbox)\{\s*(?:or|and)\s*\}|(?<![A-Za-z])(?:or|and)(?![A-Za-z]))")
_FUNCTIONS = (
    "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "sin", "cos", "tan", "cot", "sec", "csc", "ln", "log", "exp",
)  # fmt: skip
_PLAIN_NAME = re.compile(rf"(?<![\\A-Za-z])({'|'.join(_FUNCTIONS)}|pi|infinity|infty|inf)(?![A-Za-z])")
_BARE_POWER = re.compile(r"\^\s*(-?(?:[0-9]+(?:\.[0-9]+)?|\\[A-Za-z]+|[A-Za-z]))")
_FRAC_FIRST = re.compile(r"\\frac\s*([0-9A-Za-z])")
_FRAC_SECOND = re.compile(r"(\\frac\s*\{[^{}]*\})\s*([0-9A-Za-z])")
_ROOT = re.compile(r"\\sqrt\s*([0-9A-Za-z])")
_REPEATING = re.compile(r"(?<![0-9.])([0-9]{1,9})\.([0-9]{0,9})\\overline\{([0-9]{1,9})\}")
_DECIMAL = re.compile(r"([0-9]*)\.([0-9]+)")


def _canonical(text: str) -> str:
    """Writes typography, plain text and abbreviated LaTeX as one kind of LaTeX."""
    text = _THOUSANDS.sub("", TIE.sub(" ", text))
    for written, canonical in _REWRITES:
        text = text.replace(written, canonical)
    text = _FACTORIAL.sub(lambda match: str(math.factorial(int(match[1]))), _ROW_HEIGHT.sub(_NEW_ROW, text))
    text = _DEGREES.sub(_radians, _DEGREES_INSIDE.sub(_radians, text))
    text = _JOINTS.sub(",", _SPACES.sub(" ", _UPRIGHT.sub(r"\1", _SIZES.sub("", text))))
    text = _PLAIN_NAME.sub(lambda name: "\\infty " if name[1].startswith("inf") else f"\\{name[1]} ", text)
    text = _with_braces(_with_braces(text, "sqrt("), "^(")
    text = re.sub(r"(?<![\\A-Za-z])sqrt\s*([0-9]+|[A-Za-z])", r"\\sqrt{\1}", text)
    text = _FRAC_SECOND.sub(r"\1{\2}", _FRAC_FIRST.sub(r"\\frac{\1}", text))
    text = _BARE_POWER.sub(r"^{\1}", _ROOT.sub(r"\\sqrt{\1}", text))
    return _REPEATING.sub(_repeating_fraction, text).strip()


def _with_braces(text: str, opening: str) -> str:
    r"""Writes `sqrt(2)` as `\sqrt{2}` and `x^(2)` as `x^{2}`, from the last one to the first."""
    start = len(text)
    for _ in range(MAX_CHARACTERS):
        start = text.rfind(opening, 0, start)
        if start < 0:
            break
        inner = start + len(opening)
        end = _closing(text, inner)
        if end < 0:
            break
        command = opening[:-1] if opening[0] == "^" or text[start - 1 : start] == "\\" else "\\sqrt"
        text = f"{text[:start]}{command}{{{text[inner:end]}}}{text[end + 1 :]}"
    return text


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that is open before a position closes, or -1."""
    depth = 1
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0:
            return position
    return -1


def _radians(match: re.Match[str]) -> str:
    name, *numbers = match.groups()
    return f"{name}(\\frac{{{next(filter(None, numbers))}\\pi}}{{180}})"


def _repeating_fraction(match: re.Match[str]) -> str:
    r"""`0.1\overline{6}` is (16 - 1) / 90."""
    whole, fixed, period = match.groups()
    under = (10 ** len(period) - 1) * 10 ** len(fixed)
    return f"\\frac{{{int(whole + fixed + period) - int(whole + fixed)}}}{{{under}}}"


_TEXT_UNIT = re.compile(r"\s*\\(?:text|textrm|mathrm|mbox)\{\s*([^{}]*)\}(?:\^\{[23]\})?\Z")
_PLAIN_UNIT = re.compile(r"(?<=[0-9)}i])\s+([A-Za-z]{2,}(?:\s[A-Za-z]+){0,4})(?:\^\{[23]\})?\Z")


def _without_unit(text: str) -> str:
    """Takes a unit off the end: words that cannot change the value."""
    for pattern in (_TEXT_UNIT, _PLAIN_UNIT):
        unit = pattern.search(text)
        if unit is not None and unit.start() > 0 and _are_words(unit[1].replace(".", "").replace("/", " ").split()):
            return text[: unit.start()]
    return text


# --- The language -----------------------------------------------------------------------------------------------------

_COMMANDS = frozenset(
    (
        "frac sqrt cdot times div pi infty pm le ge ne cup in lfloor rfloor lceil rceil binom alpha beta gamma delta "
        "epsilon theta lambda mu sigma phi omega rho tau " + " ".join(_FUNCTIONS)
    ).split()
)
_TOKEN = re.compile(
    rf"[0-9]+|\.[0-9]|\\[A-Za-z]+|[A-Za-z]+|[-+/^_()\[\]{{}}|,=<>&°%\s{_OPEN_SET}{_CLOSE_SET}{_NEW_ROW}]", re.ASCII
)
_MATRIX = re.compile(
    r"\\begin\{((?:[bpB]?matrix|array))\}(?:\{[lcr|]*\})?(.*?)\\end\{\1\}", re.DOTALL
)  # one lazy group over at most 300 characters
# What the parser would take for a product or drop: 4 2, and subscripts of anything but letters and numerals.
_NO_FORMULA = re.compile(r"(?<![_0-9])[0-9]+\s+[0-9]|(?<![A-Za-z0-9])_|[0-9]_(?!\{?[0-9])")
_OPENERS, _CLOSERS = "([{" + _OPEN_SET, ")]}" + _CLOSE_SET


def _is_language(text: str) -> bool:
    """Whether every token is known, brackets balance and numbers, nesting and powers are bounded."""
    position, depth, deepest, powers = 0, 0, 0, []
    if _NO_FORMULA.search(text) or not _is_computable(text):
        return False
    text = _MATRIX.sub(r"(\2)", text)
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None or not _is_known(token[0]):
            return False
        position = token.end()
        if token[0] == "^":
            if not text.startswith("{", position) or (powers and not _is_symbolic(text, position)):
                return False
            powers.append(depth)
        depth += (token[0] in _OPENERS) - (token[0] in _CLOSERS)
        while powers and token[0] == "}" and depth <= powers[-1]:
            powers.pop()
        deepest = max(deepest, depth)
        if depth < 0:
            return False
    return depth == 0 and deepest <= MAX_DEPTH


def _is_computable(text: str) -> bool:
    """Whether powers are small, and the product of all where one may be of another."""
    powers = [int(power) for power in re.findall(r"\^\{[^{}0-9]*([0-9]+)", text)]
    is_nested = re.search(r"[)}\]]\s*\^", text) is not None
    return max(powers, default=0) <= MAX_POWER and not (is_nested and math.prod(powers) > MAX_NESTED_POWER)


def _is_known(token: str) -> bool:
    if token[0].isdigit():
        return len(token) <= MAX_DIGITS
    if token[0] == "\\" and token[1:2].isalpha():
        return token[1:] in _COMMANDS
    # Longer runs of letters are words, and no two words are a formula.
    return not token.isalpha() or len(token) <= 2


def _is_symbolic(text: str, position: int) -> bool:
    """Whether the braces at a position hold a variable: a tower of numbers is too large to compute."""
    return any(character.isalpha() for character in text[position : text.find("}", position)])


# --- Pieces -----------------------------------------------------------------------------------------------------------

_RELATION = re.compile(r"\\(?:le|ge|ne)(?![A-Za-z])|[<>=]")
_BASED = re.compile(r"([0-9A-F]+)_\{?([0-9]{1,2})\}?")
_NUMERAL_SUBSCRIPT = re.compile(r"[0-9]_")
_NAME = re.compile(
    r"(?:[A-Za-z](?:_\{?[0-9A-Za-z]\}?)?|\\(?:theta|alpha|beta|lambda))(?:(?:\^\{-1\})?\s*\([A-Za-z]\))?"
)
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}


def _read(text: str) -> Form | None:
    """Reads a piece: a list, else a relation, else what brackets and commas say."""
    text = text.strip()
    matrix = _MATRIX.fullmatch(text)
    if matrix is not None:
        return _matrix(matrix[2])
    pieces = _split(text, ",")
    if len(pieces) > 1:
        return _compound("list", pieces)
    related, relations = _relations(text)
    if relations:
        return _related(related, relations)
    member = _split(text, "\\in ")
    if len(member) == 2 and _NAME.fullmatch(member[0].strip()):
        return _read(member[1])
    union = _split(text, "\\cup")
    return _compound("union", union) if len(union) > 1 else _enclosed(text)


def _split(text: str, separator: str) -> list[str]:
    """Splits at a separator outside of all brackets."""
    pieces, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in _OPENERS) - (character in _CLOSERS)
        if depth == 0 and text.startswith(separator, position):
            pieces.append(text[start:position])
            start = position + len(separator)
    return [*pieces, text[start:]]


def _compound(kind: str, pieces: list[str], detail: str = "") -> Form | None:
    parts = tuple(_read(piece) for piece in pieces)
    return None if None in parts else Form(kind, parts, detail)


def _matrix(body: str) -> Form | None:
    rows = [row.split("&") for row in body.strip().removesuffix(_NEW_ROW).split(_NEW_ROW)]
    if len({len(row) for row in rows}) > 1:
        return None
    return _compound("matrix", [cell for row in rows for cell in row], detail=str(len(rows[0])))


def _enclosed(text: str) -> Form | None:
    """A set, tuple or interval by its brackets, or a value."""
    if len(text) >= 2 and text[0] in _OPENERS and text[-1] in _CLOSERS and _is_whole(text):
        inner = text[1:-1].strip()
        if text[0] in ("{", _OPEN_SET):
            return _compound("set", _split(inner, ",")) if inner else Form("set", ())
        if _MATRIX.fullmatch(inner):
            return _read(inner)
        pieces = _split(inner, ",")
        if len(pieces) > 1 or text[0] == "[":
            return _compound("bracketed", pieces, detail=text[0] + text[-1])
    return _value(text)


def _is_whole(text: str) -> bool:
    """Whether the first bracket closes with the last character."""
    depth = 0
    for character in text[:-1]:
        depth += (character in _OPENERS) - (character in _CLOSERS)
        if depth == 0:
            return False
    return True


def _value(text: str) -> Form | None:
    based = _BASED.fullmatch(text)
    if based is not None:
        return Form("based", based.groups())
    if _NUMERAL_SUBSCRIPT.search(text):
        return None
    if "\\pm" in text:
        return _plus_minus(text)
    detail = ""
    if text.endswith("%"):
        text, detail = text[:-1].strip(), "%"
    if text.endswith("°") and not any(f"\\{name}" in text for name in _FUNCTIONS):
        text = text[:-1].strip()
    if not text or any(sign in text for sign in f"%°&,{_OPEN_SET}{_CLOSE_SET}"):
        return None
    # The parser takes (2)(3) for a function of 3.
    return Form("value", (_DECIMAL.sub(_decimal_fraction, text).replace(")(", ")\\cdot("),), detail)


def _plus_minus(text: str) -> Form | None:
    """The two values of one plus-minus sign."""
    if text.count("\\pm") != 1:
        return None
    before, after = text.split("\\pm")
    return _compound("list", [f"{before}+{after}" if before.strip() else after, f"{before}-{after}"])


def _decimal_fraction(match: re.Match[str]) -> str:
    """A decimal as a fraction, so that no binary rounding takes part in a comparison."""
    whole, fraction = match.groups()
    return f"\\frac{{{int(whole + fraction)}}}{{{10 ** len(fraction)}}}"


def _relations(text: str) -> tuple[list[str], list[str]]:
    """The sides and the signs of a chain of relations outside of all brackets."""
    sides, signs, depth, start, scanned = [], [], 0, 0, 0
    for sign in _RELATION.finditer(text):
        between = text[scanned : sign.start()]
        depth += sum(between.count(mark) for mark in _OPENERS) - sum(between.count(mark) for mark in _CLOSERS)
        scanned = sign.start()
        if depth == 0:
            sides.append(text[start : sign.start()].strip())
            signs.append(sign[0])
            start = sign.end()
    return [*sides, text[start:].strip()], signs


def _related(sides: list[str], signs: list[str]) -> Form | None:
    """An equation of two sides, or an inequality: of a single variable, the interval it says."""
    if not all(sides):
        return None
    if signs in (["="], ["\\ne"]):
        return _compound("equation", sides, signs[0])
    if "=" in signs or "\\ne" in signs or len(signs) > 2:
        return None
    if len(signs) == 2:
        return _between(sides, signs)
    if _NAME.fullmatch(sides[1]) and not _NAME.fullmatch(sides[0]):
        sides, signs = sides[::-1], [_FLIPPED[signs[0]]]
    (name, bound), sign = sides, signs[0]
    is_upper, closed = sign in ("<", "\\le"), len(sign) > 1
    if not _NAME.fullmatch(name):
        return _compound("equation", *((sides, sign) if is_upper else (sides[::-1], _FLIPPED[sign])))
    if is_upper:
        return _compound("bracketed", ["-\\infty", bound], f"({']' if closed else ')'}{name}")
    return _compound("bracketed", [bound, "\\infty"], f"{'[' if closed else '('}){name}")


def _between(sides: list[str], signs: list[str]) -> Form | None:
    """The interval of `1 < x < 3`."""
    if signs[0] in (">", "\\ge"):
        sides, signs = sides[::-1], [_FLIPPED.get(sign, "") for sign in signs[::-1]]
    low, name, high = sides
    if not _NAME.fullmatch(name) or not set(signs) <= {"<", "\\le"}:
        return None
    brackets = ("[" if signs[0] == "\\le" else "(") + ("]" if signs[1] == "\\le" else ")")
    return _compound("bracketed", [low, high], brackets + name)
