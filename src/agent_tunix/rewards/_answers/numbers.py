r"""The exact value of a text that names one number, and what makes two answers the same.

No evaluation and no tolerance: a text either matches a grammar of written numbers as a whole, or has no value. Caps on
length and exponent come before any arithmetic, because `Fraction("1e9999999")` never returns and
`int("1" * 5000)` raises.

The grammar takes one number (integer, decimal, scientific notation, fraction, mixed number) with an optional sign,
currency, percent sign or unit, in plain text, markdown or LaTeX. Whatever says more than one value, less than one, or
hedges, does not match: `41 or 42`, `3-5`, `> 42`, `not 42`, `about 42`, `42 million`, `42!`, `42x`, `9 * 2 = 18`.
"""

import re
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

MAX_CHARACTERS = 200
"""Longest text that can name a number; it bounds the digits as well."""
MAX_EXPONENT = 400
"""Greatest power of ten, either way, in scientific notation."""
_MAX_UNWRAPPED = 1_000


class Quantity(NamedTuple):
    """A number and whether it was written as a percentage; `50%` equals neither 50 nor 0.5."""

    value: Decimal | Fraction
    percent: bool = False


def answer_key(text: str) -> Quantity | str:
    r"""Returns a hashable key that two ways of writing the same answer share.

    Args:
      text: An answer, stated by a completion or given by the dataset.

    Returns:
      The exact quantity where the text names one number. Else the text itself without markup, quotes and closing
      period, with single spaces, case folded. Units and currencies are not part of the key.

    Examples:
      >>> answer_key("$1,000.00") == answer_key("1e3 dollars")
      True
      >>> answer_key("1  1 3 4 5.")
      '1 1 3 4 5'
    """
    found = quantity(text)
    return normalized(text) if found is None else found


def normalized(text: str) -> str:
    """Takes markup, quotes and a closing period off, and settles whitespace and case; idempotent."""
    words = " ".join(text.split()).casefold()
    return words if len(words) > _MAX_UNWRAPPED else _unwrapped(words)


def quantity(text: str) -> Quantity | None:
    """Returns the one number a text names, exactly; None where it names none, several, or too large a one."""
    bare = text.strip()
    if len(bare) > MAX_CHARACTERS:
        return None
    if bare.isdigit() and bare.isascii():
        return Quantity(Decimal(bare))
    plain = _plain(_unwrapped(bare))
    if plain.endswith(")"):
        return _repeated_in_words(plain)
    match = _QUANTITY.fullmatch(plain)
    if match is None or (match["sign"] and match["inner_sign"]) or not _is_unit(match["gap"], match["unit"]):
        return None
    value = _value(match)
    return None if value is None else Quantity(value, bool(match["percent"]))


def within(stated: str, reference: str, tolerance: float) -> bool:
    """Whether a text names a number that differs from the reference's by at most a share of the reference.

    Args:
      stated: The text to judge.
      reference: The reference answer.
      tolerance: Greatest difference as a fraction of the reference's size; a reference of 0 has to be met exactly.

    Returns:
      False where either text does not name one number, or only one of them is a percentage.
    """
    found, wanted = quantity(stated), quantity(reference)
    if found is None or wanted is None or found.percent != wanted.percent:
        return False
    target = Fraction(wanted.value)
    return abs(Fraction(found.value) - target) <= Fraction(tolerance) * abs(target)


def is_of_same_name(stated: str, reference: str) -> bool:
    """Whether two texts do not say of two different letters what they are equal to."""
    names = [_NAME.match(_unwrapped(text)) for text in (stated, reference)]
    return None in names or len({name[1] for name in names if name}) == 1


_NAME = re.compile(r"([A-Za-z])\s*=")

# --- Layers around the number -----------------------------------------------------------------------------------------

_COMMANDS = (
    "boxed", "fbox", "mbox", "text", "textrm", "textbf", "textit", "texttt", "mathbf", "mathrm", "mathit", "mathsf",
    "underline", "boldsymbol", "emph",
)  # fmt: skip
_WRAPPERS = (
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("_", "_"),
    ("```", "```"),
    ("`", "`"),
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ('"', '"'),
    ("'", "'"),
    ("“", "”"),
    ("‘", "’"),
    *((f"\\{command}{{", "}") for command in _COMMANDS),
)
_STATEMENT = re.compile(
    r"(?P<mark>\*\*|__|)(?:(?:the\s+)?(?:(?:final|correct)\s+)?answer(?:\s+is\b(?:\s*:)?|\s*[:=])|A:|\#{2,4}\s)"
    r"(?P=mark)\s*(?=\S)",
    re.IGNORECASE,
)


def _unwrapped(text: str) -> str:
    """Peels until nothing comes off; every layer is shorter, so this ends."""
    while (inner := _peeled(text)) != text:
        text = inner
    return text


def _peeled(text: str) -> str:
    """Takes one layer off: whitespace, a closing period, a label, a pair of quotes or of markup."""
    text = text.strip()
    if text.endswith((".", "\\")) and text[-2:] not in ("..", "\\\\"):
        return text[:-1].strip()
    label = _STATEMENT.match(text)
    if label is not None:
        return text[label.end() :]
    for opening, closing in _WRAPPERS:
        inner = text[len(opening) : len(text) - len(closing)]
        if inner and text.startswith(opening) and text.endswith(closing) and _is_one_piece(inner, closing):
            return inner.strip()
    return text


def _is_one_piece(inner: str, closing: str) -> bool:
    """Whether a pair of marks belongs together: in `*4* or *5*` the outer ones do not."""
    if closing != "}":
        return closing not in inner.replace("\\$", "")
    depth = 0
    for character in inner:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


# --- LaTeX and typography to plain text -------------------------------------------------------------------------------

_REWRITES = (
    *((minus, "-") for minus in ("\u2212", "\ufe63", "\u2013")),
    ("{,}", ","),
    (",\\!", ","),
    ("\\$", "$"),
    ("\\%", "%"),
    *((fraction, "\\frac") for fraction in ("\\dfrac", "\\tfrac")),
    *((times, "*") for times in ("\\times", "\\cdot", "×", "·")),
    *((circle, "°") for circle in ("^{\\circ}", "^\\circ")),
    ("\\ ", " "),
    *((style, " ") for style in ("\\displaystyle", "\\textstyle")),
    ("{~", "{"),
    *((thin, "\u2009") for thin in ("\\,", "\\;", "\\:", "\u00a0", "\u202f")),
    ("²", "^2"),
    ("³", "^3"),
    ("^{2}", "^2"),
    ("^{3}", "^3"),
)
TIE = re.compile(r"(?<=[0-9}])~(?=\\(?:text|mathrm|mbox))")
"""The space that LaTeX does not break, before a unit: at any other place `~` says `about`."""
_TEXT_COMMAND = re.compile(r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mathit|mbox)\{([^{}]*)\}")
_MARKED_NUMBER = re.compile(r"\A(\*\*|__|\*|`|\$)([^*_`$]+)\1(?=\s)")
_UNMARKED = re.compile(r"[^\\{}²³°×·$%^~\u00a0\u202f\u2013\u2212\ufe63*_`]*")


def _plain(text: str) -> str:
    """Rewrites LaTeX and typographic signs to the plain ones of the grammar."""
    if _UNMARKED.fullmatch(text):
        return text
    text = TIE.sub(" ", text)
    for written, plain in _REWRITES:
        text = text.replace(written, plain)
    text = _TEXT_COMMAND.sub(r" \1", text)
    return _MARKED_NUMBER.sub(r"\2", text).strip()


# --- The grammar ------------------------------------------------------------------------------------------------------

# Separators are well formed or absent, and `0,042` is left out: in half of the world it is a decimal.
_WHOLE = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9][0-9]{0,2}(?:\u2009[0-9]{3})+|[0-9]+)"
_QUANTITY = re.compile(
    rf"""
    (?:[A-Za-z]?\s*=\s*)?                                             # x = 42
    (?P<sign>[+-]?)\s*
    (?:(?:US\$|[$€£¥₹]|USD|EUR|GBP)\s*)?
    (?P<inner_sign>[+-]?)
    (?:
      (?:(?P<whole>[0-9]+)(?:\s+|\s*(?=\\)))?                         # of a mixed number
      (?:
        (?P<over>[0-9]+)\s*/\s*(?P<under>[0-9]+)
        | \\frac\s*(?:\{{\s*(?P<numerator>-?[0-9]+)\s*\}}|(?P<numerator_digit>[0-9]))
               \s*(?:\{{\s*(?P<denominator>[0-9]+)\s*\}}|(?P<denominator_digit>[0-9]))
      )
      | (?P<decimal>{_WHOLE}(?:\.[0-9]+)?|\.[0-9]+)
        (?:[eE](?P<e>[+-]?[0-9]+) | \s*[*x]\s*10\s*(?:\^|\*\*)\s*(?:\{{\s*(?P<power>[+-]?[0-9]+)\s*\}}|(?P<bare_power>[+-]?[0-9]+)))?
    )
    (?P<percent>\s*%|\s+per\s?cent)?
    (?P<gap>\s*)(?P<unit>[A-Za-z°€£¥₹¢$/][A-Za-z0-9°/^\s]*)?
    """,  # noqa: E501
    re.VERBOSE,
)


def _value(match: re.Match[str]) -> Decimal | Fraction | None:
    """Builds the value from text alone: unary minus on a Decimal would round it to the context's precision."""
    sign = "-" if "-" in (match["sign"], match["inner_sign"]) else ""
    if match["decimal"] is not None:
        exponent = match["e"] or match["power"] or match["bare_power"] or "0"
        # The length is tested first: int() refuses more than 4,300 digits and is slow long before.
        if len(exponent) > 6 or abs(int(exponent)) > MAX_EXPONENT:
            return None
        return Decimal(f"{sign}{match['decimal'].replace(',', '').replace(chr(0x2009), '')}E{exponent}")
    value = _fraction(match)
    return -value if value is not None and sign else value


def _fraction(match: re.Match[str]) -> Fraction | None:
    """A fraction or a mixed number; a mixed number's fraction is a proper one."""
    over = int(match["over"] or match["numerator"] or match["numerator_digit"])
    under = int(match["under"] or match["denominator"] or match["denominator_digit"])
    if under == 0:
        return None
    if match["whole"] is None:
        return Fraction(over, under)
    return int(match["whole"]) + Fraction(over, under) if 0 <= over < under else None


# --- Numbers in words -------------------------------------------------------------------------------------------------

_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SPELLED = {word: value for value, word in enumerate(_ONES.split())}
_SPELLED |= {word: 10 * tens for tens, word in enumerate(_TENS.split(), 2)}
_SPELLED_POWERS = {"thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000}


def _repeated_in_words(text: str) -> Quantity | None:
    """The number of `12 (twelve)`, which the words have to confirm."""
    figure, _, words = text[:-1].rpartition("(")
    spelled = _spelled(words.casefold().replace("-", " ").split())
    if spelled is None:
        return None
    found = quantity(figure)
    return found if found == Quantity(Decimal(spelled)) else None


def _spelled(words: list[str]) -> int | None:
    """The whole number that English words spell; None where another word is among them."""
    total = current = 0
    for word in words:
        if word in _SPELLED:
            current += _SPELLED[word]
        elif word == "hundred":
            current *= 100
        elif word in _SPELLED_POWERS:
            total, current = total + current * _SPELLED_POWERS[word], 0
        elif word != "and":
            return None
    return total + current if words else None


# --- Units ------------------------------------------------------------------------------------------------------------


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SYMBOLS = _words("""
mm cm m km in ft yd mi g kg mg lb lbs oz t s sec secs ms min mins h hr hrs d l L ml mL dl cl N J W kW V A Hz kHz
am pm AM PM
MHz GHz kJ Ω sq fl Pa kPa KB MB GB TB mph kph kmh km/h m/s ft/s °C °F ° C F rpm cal kcal kWh USD EUR GBP € £ ¥ ₹ ¢ $
""")
_SMALL_WORDS = frozenset(("a", "an", "of", "on"))
# Words that change the value, hedge, deny, compare, or name another number.
_NOT_UNITS = _words("""
hundred hundreds thousand thousands million millions billion billions trillion trillions quadrillion quintillion
sextillion septillion octillion nonillion decillion couple mio mrd lakh lakhs crore crores dozen dozens gross half
halves third thirds fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths
hundredth hundredths thousandth thousandths percent percentage percentages pct squared cubed factorial root power modulo
mod remainder zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety tens ones millionth millionths mil
mill mils bil bln mln tril grand thou thousandfold hundredfold tenfold twofold threefold fold twice double doubled
triple tripled quadruple thrice recurring repeating repeated basis base binary hexadecimal hex octal choose imaginary
score hundredweight and but nor not never none neither maybe perhaps possibly probably likely unlikely approximately
approx about around roughly nearly almost circa unsure unknown guess think except without unless else plus minus
multiplied divided over under above below than least most minimum maximum max between through until from with was were
are isnt equal equals equivalent would could might may should can does did inverse reciprocal opposite otherwise instead
rather versus ish kinda sorta hopefully presumably supposedly apparently seemingly allegedly potentially conceivably
arguably actually wait sorry oops nope untrue lie lies mistaken mistake error errors undefined infinite infinity doubt
doubtful suppose assume assuming estimated estimate estimation rounded near nearby exceeding beyond upwards downwards
either doesnt dont didnt wont wasnt arent cannot whichever whatever something
hmm hmmm umm huh meh idk dunno tbh afaik iirc imo imho tbd tba nvm nah nay yea yeah lol haha smh wtf typo joke
scratch ignore disregard guessing guessed guesstimate guesses ballpark halved quartered inverted negated negate reversed
backwards backward flipped halfway excluded excluding exclusive inclusive subtracted rejected retracted refuted denied
depends depending varies vary varying nothing null nan nil void if when whether because since though although however
yes okay nonsense bogus contradiction alternatively besides additionally once formerly anyone anything everything
""")
# Adjectives and adverbs that say how sure one is, unless what is counted follows: `4 wrong answers`.
_JUDGEMENTS = _words("""
wrong false incorrect correct right true invalid unclear sure certain confident tentative pending provisional est avg
average mean median approximate appr approxim erroneous fake disputed contested assumed random arbitrary placeholder
dummy example sample test imprecise inexact inaccurate any all every other others another extra less fewer off few some
short shy odd too added removed missing omitted included alternative first second final corrected correction even just
still yet absurd assumption confidence contradictory conflicting solved unsolved dependent variable many high low
negative positive
""")
_COMMON = _words("""
family fly jelly butterfly dragonfly lily belly assembly daily weekly monthly hourly yearly table cable vegetable marble
bible syllable timetable
""")
_PLURALS = _words("people children men women feet teeth mice geese fish sheep deer police")
_JUDGEMENT = re.compile(r"un(?!i|cl)[a-z]+|[a-z]+ly|(?![a-z]*(?:fish|dish)\b)[a-z]+ish|[a-z]+[ai]ble|[a-z]+ous")
"""Adjectives and adverbs say how sure one is; what is counted are nouns."""


def _is_unit(gap: str, unit: str | None) -> bool:
    """Whether what follows the number only says what is counted.

    Written onto the number (`42cm`), only a known symbol is one: `42k`, `42x` and `42m2` are other values. After it,
    or after a space, up to five words are, unless one of them could change the value.
    """
    if unit is None:
        return True
    unit = unit.strip()
    if unit.startswith("/"):
        return _are_words(unit[1:].split())
    if _without_power(unit) in _SYMBOLS:
        return True
    words = unit.replace("/", " ").split()
    return _are_words(words) and (bool(gap) or _without_power(words[0]) in _SYMBOLS)


def _are_words(words: list[str]) -> bool:
    if not 0 < len(words) <= 5 or words in (["per", "cent"], ["N", "A"]):
        return False
    if not all(_is_word(_without_power(word)) for word in words):
        return False
    return words == ["in", "all"] or not _is_judged(words)


def _is_judged(words: list[str]) -> bool:
    """Whether a word says how sure one is, with no plural behind it that it could describe."""
    for word in map(str.casefold, reversed(words)):
        if word in _JUDGEMENTS or (word not in _COMMON and _JUDGEMENT.fullmatch(word)):
            return True
        if word.endswith("s") or word in _PLURALS:
            return False
    return False


def _is_word(word: str) -> bool:
    if len(word) <= 2:
        return word in _SYMBOLS or word in _SMALL_WORDS
    return word.isalpha() and word.casefold() not in _NOT_UNITS


def _without_power(unit: str) -> str:
    """A unit without its square or cube."""
    return unit[:-2] if unit.endswith(("^2", "^3")) else unit
