r"""The form of a mathematical answer: value, list, set, tuple or interval, union, matrix, equation.

What a completion states is cut into closed pieces here, by brackets and commas, before a computer algebra system is
asked whether two pieces are equal: such systems take the first thing they can read out of `41 or 42` or `not 42`. A
text that is not written in the small language below as a whole has no form and equals nothing but itself. All of it is
linear in the text, whose length, nesting and exponents are bounded.
"""

import math
import re
from typing import NamedTuple

from agent_tunix.rewards._answers.latex import (
    ALL_REALS,
    CLOSE_SET,
    FUNCTIONS,
    MAX_CHARACTERS,
    NEW_ROW,
    OPEN_SET,
    canonical,
    spelled,
    without_unit,
)
from agent_tunix.rewards._answers.numbers import _are_words, _unwrapped, quantity

MAX_DEPTH = 10
MAX_DIGITS = 30
MAX_POWER = 9_999
MAX_NESTED_POWER = 10**6
_MAX_LABEL = 40


class Form(NamedTuple):
    """A mathematical answer, cut into pieces.

    Attributes:
      kind: `value`, `based` (a numeral with its base), `list`, `set`, `bracketed` (a tuple or an interval), `union`,
        `except` (all real numbers but some), `matrix`, `equation` or `name` (the left side of `AB = 12`).
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
        bare = bare.replace("{,}", "").replace(",", "")
    written = without_unit(canonical(bare))
    if not written:
        return None
    return _read(written) if _is_language(written) else _labelled(written)


_TEXT = r"\\(?:text|textrm|mathrm|mbox)\{([A-Za-z ]*)"
_LABEL = re.compile(
    rf"(?:{_TEXT}\}}|\\(?:angle|overline|triangle|vec|frac|theta|alpha|beta|gamma|phi|Delta|sin|cos|tan|cot|sec|csc)"
    r"(?![A-Za-z])|[A-Za-z {}|'])+"
)
_ARGUMENTS = re.compile(r"_(?:\{[A-Za-z0-9, ]*\}|[A-Za-z0-9])|(?<=[A-Za-z'}])\([^()]*\)|\^\{-1\}(?=\()")
_OPERATION = re.compile(r"\\(?:lim|int|sum|prod)(?![a-z])")
_INTRODUCTION = re.compile(rf"{_TEXT}(?:\b(?:is|are)|:)\s*\}}")
_LINKS = frozenset(("an", "of", "in", "is", "are"))


def _labelled(text: str) -> Form | None:
    r"""The equation of `AB = 12` or `\text{The area is } 12`, whose left side only says what the value is of."""
    introduction = _INTRODUCTION.match(text)
    if introduction is not None:
        label, sign, value = introduction[0], "=", text[introduction.end() :]
    else:
        label, sign, value = text.rpartition("=")
    if not sign or len(label) > _MAX_LABEL or not (_OPERATION.match(label) or _is_label(label, introduction)):
        return None
    value = without_unit(value.strip())
    right = _read(value) if value and _is_language(value) else None
    return None if right is None else Form("equation", (Form("name", (spelled(label),)), right), "=")


def _is_label(label: str, introduction: re.Match[str] | None) -> bool:
    """Whether a left side names something and neither denies nor hedges."""
    bare = introduction[1] if introduction is not None else _ARGUMENTS.sub("", _ARGUMENTS.sub("", label))
    # A single letter, or capitals such as AB, are names of things.
    words = re.findall(r"[A-Za-z]{3,}|\b[A-Za-z][a-z]\b", re.sub(r"\\[A-Za-z]+", " ", bare))
    return _LABEL.fullmatch(bare or " ") is not None and all(
        word in _LINKS or (len(word) > 2 and _are_words([word])) for word in words
    )


# --- The language -----------------------------------------------------------------------------------------------------

_COMMANDS = frozenset(
    (
        "frac sqrt cdot times div pi infty pm le ge ne cup in mid setminus lfloor rfloor lceil rceil binom fact "
        "alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi sigma phi varphi chi psi "
        "omega rho tau Gamma Delta Theta Lambda Sigma Phi Psi Omega " + " ".join(FUNCTIONS)
    ).split()
)
_TOKEN = re.compile(
    rf"[0-9]+|\.[0-9]|\\[A-Za-z]+|[A-Za-z]+|[-+/^_()\[\]{{}}|,=<>&°%\s{OPEN_SET}{CLOSE_SET}{NEW_ROW}]", re.ASCII
)
_MATRIX = re.compile(
    r"\\begin\{((?:[bpB]?matrix|array))\}(?:\{[lcr|]*\})?(.*?)\\end\{\1\}", re.DOTALL
)  # one lazy group over at most 300 characters
# What the parser would take for a product or drop: 4 2, and subscripts of anything but letters and numerals.
_NO_FORMULA = re.compile(r"(?<![_0-9])[0-9]+\s+[0-9]|(?<![A-Za-z0-9])_|[0-9]_(?!\{?[0-9])")
_OPENERS, _CLOSERS = "([{" + OPEN_SET, ")]}" + CLOSE_SET


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
    # Longer runs of letters are words.
    return not token.isalpha() or len(token) <= 2 or (len(token) <= 4 and _is_product(token))


def _is_product(letters: str) -> bool:
    """Whether letters are no word: without a vowel, or in alphabetical order, where no other word equals them."""
    return list(letters) == sorted(letters) or not set(letters) & set("aeiouAEIOU")


def _is_symbolic(text: str, position: int) -> bool:
    """Whether the braces at a position hold a variable: a tower of numbers is too large to compute."""
    return any(character.isalpha() for character in text[position : text.find("}", position)])


# --- Pieces -----------------------------------------------------------------------------------------------------------

_RELATION = re.compile(r"\\(?:le|ge|ne)(?![A-Za-z])|[<>=]")
_BASED = re.compile(r"\(?([0-9A-F]+)\)?_\{?([0-9]{1,2})\}?")
_NUMERAL_SUBSCRIPT = re.compile(r"[0-9]_")
NAME = re.compile(
    r"(?:[A-Za-z](?:_\{?[0-9A-Za-z]{1,3}\}?)?|\\(?:theta|alpha|beta|lambda|gamma|phi|mu|sigma|rho|tau|omega|delta))'?(?:(?:\^\{-1\})?\s*\([A-Za-z]\))?"
)
_TWO_LETTER_WORDS = frozenset((
    "am", "an", "as", "at", "be", "by", "do", "go", "he", "hi", "if", "in", "is", "it", "me", "my",
    "no", "of", "oh", "ok", "on", "or", "ox", "so", "to", "up", "us", "we",
))  # fmt: skip
_NO_VALUE = re.compile(r"\\(?:in|mid|cup|setminus)(?![a-z])")
_OF_SEVERAL = re.compile(r"\\(?:gcd|lcm|max|min)(?![a-z])")
_PRODUCT = re.compile(r"(\)|\\pi)\s*\(")
"""What the parser would take for a function of what is in the second parentheses."""
_DECIMAL = re.compile(r"([0-9]*)\.([0-9]+)")
_MEMBER = re.compile(r"\\in(?![a-z])")
_BUILDER = re.compile(r"[A-Za-z]\s*(?:\\in\s*\(-\\infty,\\infty\)\s*)?(?:\\mid(?![a-z])|\|)(.+)")  # x | x > 2
_SIZE_OF = re.compile(r"\|\s*([a-z])\s*\|")
_POINT = re.compile(r"[A-Z](?=\(.*,)")
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}


def _read(text: str) -> Form | None:
    """Reads a piece: a list, else a relation, else what brackets and commas say."""
    text = text.strip()
    matrix = _MATRIX.fullmatch(text)
    if matrix is not None:
        return _matrix(matrix[2])
    pieces = _split(text, ",")
    if len(pieces) > 1:
        return _listed(pieces)
    related, relations = _relations(text)
    if relations:
        return _related(related, relations)
    member = _MEMBER.split(text)
    if len(member) == 2 and NAME.fullmatch(member[0].strip()):
        return _read(member[1])
    remaining = _split(text, "\\setminus")
    if len(remaining) > 1:
        return _without(remaining)
    union = _split(text, "\\cup")
    return _united(union) if len(union) > 1 else _enclosed(text)


def _listed(pieces: list[str]) -> Form | None:
    """A list, in which a piece with a plus-minus sign is two."""
    read = _compound("list", pieces)
    if read is None or not any(part.kind == "list" for part in read.parts):
        return read
    return Form("list", tuple(one for part in read.parts for one in (part.parts if part.kind == "list" else (part,))))


def _without(pieces: list[str]) -> Form | None:
    r"""All real numbers but some."""
    if len(pieces) != 2 or pieces[0].strip() != ALL_REALS:
        return None
    left_out = _read(pieces[1])
    if left_out is None:
        return None
    return Form("except", left_out.parts if left_out.kind in ("set", "list") else (left_out,))


def _united(pieces: list[str]) -> Form | None:
    """A union; of open intervals that touch, from minus to plus infinity, all real numbers but where they touch."""
    union = _compound("union", pieces)
    if union is None or any(part.kind != "bracketed" or part.detail[:2] != "()" for part in union.parts):
        return union
    reach = dict(part.parts for part in union.parts if len(part.parts) == 2)
    at, touched = reach.pop(_LOWEST, None), []
    while at in reach:
        touched.append(at)
        at = reach.pop(at)
    is_all = at == _HIGHEST and len(touched) == len(pieces) - 1
    return Form("except", tuple(touched)) if is_all else union


_LOWEST, _HIGHEST = Form("value", ("-\\infty",)), Form("value", ("\\infty",))


def _split(text: str, separator: str) -> list[str]:
    """Splits at a separator outside of all brackets."""
    pieces, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in _OPENERS) - (character in _CLOSERS)
        if depth == 0 and character == separator[0] and text.startswith(separator, position):
            pieces.append(text[start:position])
            start = position + len(separator)
    return [*pieces, text[start:]]


def _compound(kind: str, pieces: list[str], detail: str = "") -> Form | None:
    parts = tuple(_read(piece) for piece in pieces)
    return None if None in parts else Form(kind, parts, detail)


def _matrix(body: str) -> Form | None:
    rows = [row.split("&") for row in body.strip().removesuffix(NEW_ROW).split(NEW_ROW)]
    if len({len(row) for row in rows}) > 1:
        return None
    return _compound("matrix", [cell for row in rows for cell in row], detail=str(len(rows[0])))


def _enclosed(text: str) -> Form | None:
    """A set, tuple or interval by its brackets, or a value."""
    if _POINT.match(text):
        text = text[1:]
    if len(text) >= 2 and text[0] in _OPENERS and text[-1] in _CLOSERS and _is_whole(text):
        inner = text[1:-1].strip()
        builder = _BUILDER.fullmatch(inner)
        if text[0] == OPEN_SET and builder is not None:
            return _read(builder[1])
        if text[0] == "{" and len(_split(inner, ",")) == 1:
            return _read(inner)
        if text[0] in ("{", OPEN_SET):
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
    if text in _TWO_LETTER_WORDS or _NO_VALUE.search(text):
        return None
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
    if text.endswith("°") and not any(f"\\{name}" in text for name in FUNCTIONS):
        text = text[:-1].strip()
    if not text or any(sign in text for sign in f"%°&{OPEN_SET}{CLOSE_SET}"):
        return None
    if "," in text and not _OF_SEVERAL.search(text):
        return None
    text = _PRODUCT.sub(r"\1\\cdot(", _DECIMAL.sub(_decimal_fraction, text))
    return Form("value", (text,), detail)


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
    if signs == ["\\ne"] and NAME.fullmatch(sides[0]):
        left_out = _read(sides[1])
        return None if left_out is None or left_out.kind != "value" else Form("except", (left_out,), sides[0])
    if signs in (["="], ["\\ne"]):
        return _compound("equation", sides, signs[0])
    if "=" in signs or "\\ne" in signs or len(signs) > 2:
        return None
    if len(signs) == 2:
        return _between(sides, signs)
    if NAME.fullmatch(sides[1]) and not NAME.fullmatch(sides[0]):
        sides, signs = sides[::-1], [_FLIPPED[signs[0]]]
    (name, bound), sign = sides, signs[0]
    is_upper, closed = sign in ("<", "\\le"), len(sign) > 1
    size = _SIZE_OF.fullmatch(name)
    if size is not None and is_upper:
        return _compound("bracketed", [f"-({bound})", bound], f"{'[]' if closed else '()'}{size[1]}")
    if not NAME.fullmatch(name):
        return _compound("equation", *((sides, sign) if is_upper else (sides[::-1], _FLIPPED[sign])))
    if is_upper:
        return _compound("bracketed", ["-\\infty", bound], f"({']' if closed else ')'}{name}")
    return _compound("bracketed", [bound, "\\infty"], f"{'[' if closed else '('}){name}")


def _between(sides: list[str], signs: list[str]) -> Form | None:
    """The interval of `1 < x < 3`."""
    if signs[0] in (">", "\\ge"):
        sides, signs = sides[::-1], [_FLIPPED.get(sign, "") for sign in signs[::-1]]
    low, name, high = sides
    if not NAME.fullmatch(name) or not set(signs) <= {"<", "\\le"}:
        return None
    brackets = ("[" if signs[0] == "\\le" else "(") + ("]" if signs[1] == "\\le" else ")")
    return _compound("bracketed", [low, high], brackets + name)
