r"""One way of writing each piece of mathematics: typography, plain text and abbreviated LaTeX as one kind of LaTeX.

Only notation is settled here, never meaning: `\frac34`, `\dfrac{3}{4}` and `\tfrac 34` become one text, `3/4` and
`0.75` stay others. `forms` reads what comes out.
"""

import math
import re

from agent_tunix.rewards._answers.numbers import TIE, _are_words, _unwrapped

MAX_CHARACTERS = 300
OPEN_SET, CLOSE_SET, NEW_ROW = "\u2983", "\u2984", "\u2985"  # brackets of no alphabet stand in for two characters
ALL_REALS = "(-\\infty,\\infty)"
FUNCTIONS = (
    "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "sin", "cos", "tan", "cot", "sec", "csc", "ln", "log", "exp",
    "gcd", "lcm", "max", "min",
)  # fmt: skip

# --- Characters and commands ------------------------------------------------------------------------------------------

_REWRITES = (
    ("\\\\", NEW_ROW), ("{~", "{"), ("\\text{:}", ":"), ("{:}", ":"), ("\\!", ""),
    ("\\{", OPEN_SET), ("\\}", CLOSE_SET), ("\\lbrace", OPEN_SET), ("\\rbrace", CLOSE_SET),
    ("\\langle", "("), ("\\rangle", ")"), ("⟨", "("), ("⟩", ")"), ("\\lvert", "|"), ("\\rvert", "|"), ("\\vert", "|"),
    ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\cfrac", "\\frac"), ("\\dbinom", "\\binom"),
    ("\\tbinom", "\\binom"),
    *((sign, "-") for sign in ("\u2212", "\u2013", "\ufe63")), ("×", "\\times "), ("·", "\\cdot "), ("⋅", "\\cdot "),
    ("÷", "\\div "), ("\\ast", "\\cdot "), ("±", "\\pm "), ("≤", "\\le "), ("≥", "\\ge "), ("∞", "\\infty "),
    ("∪", "\\cup "), ("∈", "\\in "), ("π", "\\pi "), ("√", "sqrt"), ("²", "^2"), ("³", "^3"), ("½", "\\frac{1}{2}"),
    ("θ", "\\theta "), ("∅", "\\emptyset "),
    ("\\leqslant", "\\le "), ("\\geqslant", "\\ge "), ("\\leqq", "\\le "), ("\\geqq", "\\ge "), ("\\leq", "\\le "),
    ("\\geq", "\\ge "), ("\\lt", "<"), ("\\gt", ">"), ("\\neq", "\\ne "), ("≠", "\\ne "), ("\\not=", "\\ne "),
    ("\\degree", "°"), ("^{\\circ}", "°"), ("^\\circ", "°"), ("^{°}", "°"), ("^°", "°"), ("{\\circ}", "°"),
    ("\\emptyset", OPEN_SET + CLOSE_SET), ("\\varnothing", OPEN_SET + CLOSE_SET),
    *((real, ALL_REALS) for real in ("\\mathbb{R}", "\\mathbb R", "\\Bbb{R}", "\\Bbb R", "\\mathbf{R}", "ℝ")),
    ("\\backslash", "\\setminus "), ("\\displaystyle", ""), ("\\textstyle", ""), ("\\limits", ""),
    ("\\$", ""), ("\\textdollar", ""), ("$", " "), ("\\%", "%"), ("**", "^"), ("*", "\\cdot "),
    ("\\bar{", "\\overline{"), ("\\prime", "'"), ("^{'}", "'"), ("^'", "'"),
)  # fmt: skip
_ROW_HEIGHT = re.compile(rf"{NEW_ROW}\[[0-9.]+[a-z]{{2}}\]")
_THOUSANDS = re.compile(r"(?<=[0-9])\{,\}(?=[0-9]{3})")
_SPACES = re.compile(r"\\(?:[,;:> ]|quad\b|qquad\b|enspace\b|thinspace\b)|\s+")
_OPERATOR = re.compile(r"\\operatorname\*?\{([A-Za-z]+)\}")
_SIZES = re.compile(
    rf"\\(?:left|right|middle|[bB]igg?[lr]?)(?![A-Za-z])(?:\.|\s*(?=[()\[\]|{OPEN_SET}{CLOSE_SET}]|\\[lr](?:floor|ceil)))"
)
_UPRIGHT = re.compile(
    r"\\(?:(?:text|textrm|mathrm|mathbf)\{([0-9A-F]*[0-9][0-9A-F]*|[A-F]+(?=\}_))\}|(?:mathrm|mathbf|mathit)\{([eidxyz])\}"
    r"|(?:mathbf|boldsymbol|bm|vec)\{([A-Za-z])\})"
)
_JOINTS = re.compile(r",?\s*(?:\\(?:text|textrm|mathrm|mbox)\{\s*(?:or|and)\s*\}|(?<![A-Za-z])(?:or|and)(?![A-Za-z]))")
_PLAIN_NAME = re.compile(rf"(?<![\\A-Za-z])({'|'.join(FUNCTIONS)}|pi|infinity|infty|inf)(?![A-Za-z])")
_LEADING_PLUS = re.compile(r"(\A|[,(\[])\s*\+\s*(?=[0-9.\\A-Za-z])")
_BASED = re.compile(r"\(([0-9A-F]+)\)_")
_OUTWARD = re.compile(r"\A([\[\]])([^\[\]()]*,[^\[\]()]*)([\[\]])\Z")
_ALL_BUT = re.compile(r"(?:\\text\{\s*)?\ball real numbers(?: [a-z])? except(?: for)?\b\s*\}?", re.IGNORECASE)
_ALL = re.compile(r"(?:\\text\{\s*)?\b(?:the set of )?all real(?:s| numbers)\b(?: [a-z]\b)?\s*\}?", re.IGNORECASE)


def canonical(text: str) -> str:
    """Writes typography, plain text and abbreviated LaTeX as one kind of LaTeX."""
    text = _THOUSANDS.sub("", TIE.sub(" ", text))
    for written, rewritten in _REWRITES:
        text = text.replace(written, rewritten)
    text = _ALL.sub(lambda _: ALL_REALS, _ALL_BUT.sub(lambda _: ALL_REALS + "\\setminus ", text))
    text = _SIZES.sub("", _OPERATOR.sub(r"\\\1 ", _ROW_HEIGHT.sub(NEW_ROW, text)))
    text = _UPRIGHT.sub(lambda match: match[1] or match[2] or match[3], text)
    text = _factorials(_ANGLE.sub(_radians, _ANGLE_INSIDE.sub(_radians, text)))
    text = _JOINTS.sub(",", _SPACES.sub(" ", text)).replace(";", ",")
    text = _PLAIN_NAME.sub(lambda name: "\\infty " if name[1].startswith("inf") else f"\\{name[1]} ", text)
    text = _BASED.sub(r"\1_", _LEADING_PLUS.sub(r"\1", _with_arguments(_outward(text)))).strip()
    return _OUTWARD.sub(_half_open, text)


def _half_open(match: re.Match[str]) -> str:
    """The interval of `]0, 1[`, as some countries write `(0, 1)`."""
    return f"{'[' if match[1] == '[' else '('}{match[2]}{']' if match[3] == ']' else ')'}"


def spelling(text: str) -> str | None:
    """One way of writing what has no form, with only the spaces between words; None where it is too long."""
    return None if len(text) > MAX_CHARACTERS else spelled(canonical(_unwrapped(text))).rstrip(".")


_TEXT = re.compile(r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mathit|mbox)\{([^{}]*)\}")
_MODULUS = re.compile(r"\(?\\(?:pmod|bmod|mod)(?![a-z])\s*(?:\{([^{}]*)\}|([0-9A-Za-z]+))\)?")
_NAMED_LETTERS = re.compile(r"(\\[A-Za-z]+)\s*\{([A-Za-z0-9]+)\}(?!\s*\{)")


def spelled(text: str) -> str:
    """What is left of a canonical text without the choice of fonts, braces, case and space."""
    text = _MODULUS.sub(lambda match: f"(mod {match[1] or match[2]})", _TEXT.sub(r" \1 ", text))
    text = _NAMED_LETTERS.sub(r"\1 \2 ", text)
    return re.sub(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])", "", " ".join(text.split()))


# --- Arguments --------------------------------------------------------------------------------------------------------

_BARE_POWER = re.compile(r"\^\s*(-?(?:[0-9]+(?:\.[0-9]+)?|\\[A-Za-z]+|[A-Za-z]))")
_FRAC_FIRST = re.compile(r"\\frac\s*([0-9A-Za-z])")
_FRAC_SECOND = re.compile(r"(\\frac\s*\{[^{}]*\})\s*([0-9A-Za-z])")
_ROOT = re.compile(r"\\sqrt\s*([0-9A-Za-z])")
_PLAIN_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\s*([0-9]+|[A-Za-z])")
_ODD_ROOT = re.compile(r"\\sqrt\s*\[([3579])\]\s*\{\s*-([^{}+-]*)\}")
_BRACED_FRACTION = re.compile(r"\{([0-9]+)\}\s*/\s*\{([0-9]+)\}")
_TIMES_FRACTION = re.compile(r"(?<![0-9A-Za-z./)}^!])([0-9]+)/([0-9]+)(?=\s*\()")
_CHOOSE = re.compile(r"\{\s*([^{}\\]+?)\s*\\choose\s*([^{}\\]+?)\s*\}")
_REPEATING = re.compile(r"(?<![0-9.])([0-9]{1,9})\.\s?([0-9]{0,9})\\overline\s*(?:\{([0-9]{1,9})\}|([0-9]))")


def _outward(text: str) -> str:
    """Puts arguments into braces, from the outermost notation to the innermost."""
    text = _PLAIN_ROOT.sub(r"\\sqrt{\1}", _with_braces(_with_braces(text, "sqrt("), "^("))
    return _CHOOSE.sub(r"\\binom{\1}{\2}", _BRACED_FRACTION.sub(r"\\frac{\1}{\2}", text))


def _with_arguments(text: str) -> str:
    text = _FRAC_SECOND.sub(r"\1{\2}", _FRAC_FIRST.sub(r"\\frac{\1}", text))
    text = _BARE_POWER.sub(r"^{\1}", _ROOT.sub(r"\\sqrt{\1}", text))
    # The real root, where a computer algebra system takes a complex one.
    text = _ODD_ROOT.sub(r"(-\\sqrt[\1]{\2})", text)
    # Read from left to right, as people mean 5/9(F - 32).
    return _TIMES_FRACTION.sub(r"\\frac{\1}{\2}", _REPEATING.sub(_repeating_fraction, text))


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


def _repeating_fraction(match: re.Match[str]) -> str:
    r"""`0.1\overline{6}` is (16 - 1) / 90."""
    whole, fixed, period = match[1], match[2], match[3] or match[4]
    under = (10 ** len(period) - 1) * 10 ** len(fixed)
    return f"\\frac{{{int(whole + fixed + period) - int(whole + fixed)}}}{{{under}}}"


# --- Factorials and angles --------------------------------------------------------------------------------------------

_FACTORIAL = re.compile(r"(?<![0-9.)}])([0-9]|1[0-9]|2[0-4])!(?!!)")
_SYMBOLIC_FACTORIAL = re.compile(r"(?<![A-Za-z0-9)])(?:[a-z]|\([a-z0-9+ -]*[a-z][a-z0-9+ -]*\))!(?!!)")
_TURN = r"\\(?:sin|cos|tan|cot|sec|csc)(?:\s*\^\s*(?:[0-9]|\{[0-9]\}))?"
_ANGLE = re.compile(rf"({_TURN})\s*(?:\{{([0-9.]+)\}}|\(([0-9.]+)\)|([0-9.]+))\s?°")
_ANGLE_INSIDE = re.compile(rf"({_TURN})\s*[({{]\s*([0-9.]+)°\s*[)}}]")


def _factorials(text: str) -> str:
    r"""Computes factorials of numbers up to 24, and writes those of names as `\fact{n}`."""
    text = _FACTORIAL.sub(lambda match: f"({math.factorial(int(match[1]))})", text)
    return _SYMBOLIC_FACTORIAL.sub(lambda match: f"\\fact{{{match[0][:-1]}}}", text)


def _radians(match: re.Match[str]) -> str:
    name, *numbers = match.groups()
    return f"{name}(\\frac{{{next(filter(None, numbers))}\\pi}}{{180}})"


# --- Units ------------------------------------------------------------------------------------------------------------

_EXPONENT = r"(?:\s*\^\s*(?:\{-?[1-3]\}|-?[1-3]))?"
_TEXT_UNIT = re.compile(rf"\s*\\(?:text|textrm|mathrm|mbox)\{{\s*([^{{}}]*)\}}{_EXPONENT}\s*\Z")
_PLAIN_UNIT = re.compile(rf"(?<=[0-9)}}i])\s+([A-Za-z]{{2,}}(?:\s[A-Za-z]+){{0,4}}){_EXPONENT}\Z")
_MAX_UNITS = 3


def without_unit(text: str) -> str:
    """Takes units off the end: words that cannot change the value."""
    for _ in range(_MAX_UNITS):
        shorter = _without_last_unit(text)
        if shorter == text:
            break
        text = shorter
    return text


def _without_last_unit(text: str) -> str:
    for pattern in (_TEXT_UNIT, _PLAIN_UNIT):
        unit = pattern.search(text)
        if unit is not None and unit.start() > 0:
            words = re.sub(r"\^\{?-?[0-9]\}?", "", unit[1]).replace(".", "").replace("/", " ").split()
            if _are_words(words):
                return text[: unit.start()].rstrip().removesuffix("\\cdot").rstrip()
    return text
