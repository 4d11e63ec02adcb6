"""Numbers, steps and texts as a page shows them. Whatever a model wrote is hostile: it passes through here."""

import html
import json
import math
import re
from typing import Any

from agent_tunix.plain import plain

_UNSAFE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# Marks that turn or hide the text around them (Unicode technical report 36, section 2.5): shown by their code points.
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")


def number(value: float | None, digits: int = 3) -> str:
    """A number with a sensible count of digits, minus as the proper sign, a dash for none.

    Examples:
      >>> number(0.123456), number(1234567.0), number(-2.0), number(3.2e-7), number(float("nan"))
      ('0.123', '1,230,000', '−2', '3.2e-7', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    rounded = float(f"{value:.{digits}g}")
    size = abs(rounded)
    if size and (size < 1e-4 or size >= 1e7):
        mantissa, exponent = f"{rounded:.{digits - 1}e}".split("e")
        shown = f"{float(mantissa):g}e{int(exponent)}"
    else:
        places = 0 if not size else max(0, digits - 1 - math.floor(math.log10(size)))
        shown = f"{rounded:,.{places}f}"
        shown = shown.rstrip("0").rstrip(".") if "." in shown else shown
    return shown.replace("-", "−", 1) if shown.startswith("-") else shown


def stretch_of_steps(first: float, last: float) -> str:
    """A range of steps in words.

    Examples:
      >>> stretch_of_steps(40, 120), stretch_of_steps(7, 7)
      ('steps 40–120', 'step 7')
    """
    return f"step {first:g}" if first == last else f"steps {first:g}–{last:g}"


def clean(text: object) -> str:
    """Text without what a page cannot hold or what would turn it around: such characters are shown as their codes.

    Examples:
      >>> clean("a\\ud800b\\u202ec")
      'a\ufffdb⟨202E⟩c'
    """
    shown = _UNSAFE.sub("\ufffd", str(text))
    return _INVISIBLE.sub(lambda match: f"⟨{ord(match[0]):04X}⟩", shown)


def escaped(text: object) -> str:
    """Text for markup, attributes included."""
    return html.escape(clean(text))


def cut(text: object, most: int) -> tuple[str, int]:
    """The first `most` characters of a text, and how many were left out.

    Examples:
      >>> cut("abcdef", 4)
      ('abcd', 2)
    """
    whole = str(text)
    return clean(whole[:most]), max(len(whole) - most, 0)


def script_json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it can close the element or open a comment.

    Examples:
      >>> script_json({"a": "</script><!--"})
      '{"a":"\\\\u003c/script\\\\u003e\\\\u003c!--"}'
    """
    text = json.dumps(plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    # ensure_ascii already writes U+2028, U+2029 and surrogates as escapes.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
