"""Graders of how a response is written: repetition, script, steps, arithmetic, similarity to a reference, JSON.

They are universal functions like the others: one text gives a float, a list of texts an array. None of them says
whether the answer is right, and most are highest for an empty response: give them a small weight beside a reward that
does, or multiply with one.
"""

import functools
import importlib
import itertools
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from agent_tunix import text
from agent_tunix.rewards._equations import false_statements
from agent_tunix.rewards._universal import checked_text, universal

_MAX_TEXT = 200_000
_MAX_UNITS = 20_000
_MAX_STEPS_TEXT, _MAX_MARKERS, _STEP_KEY = 50_000, 2_000, 80
_MAX_JSON = 100_000


@universal(bounds=(-1, 0))
def repetition(response: str, *, n: int = 3, by: str = "words") -> float:
    r"""Charges a response for saying the same again.

    .. math:: r = \frac{\text{distinct n-grams}}{\text{n-grams}} - 1

    Args:
      response: A completion, or an array of them. Of more than 20,000 words (in 200,000 characters), or
        20,000 characters, the first are read.
      n: Length of the n-grams.
      by: `words` between whitespace; `characters` for scripts that put no space between words. Case does not count.

    Returns:
      0 where nothing is repeated or the response has fewer than `n` words, towards -1 the more is.

    Raises:
      ValueError: `n` is not positive, or `by` is neither of the two.

    Examples:
      >>> repetition("the cat sat the cat sat")  # 4 three-grams, 3 of them distinct
      -0.25

    References:
      Yeo et al., 2025, Demystifying Long Chain-of-Thought Reasoning in LLMs, appendix C.2 (arXiv 2502.03373), in the
      form of one number per response that Open-R1 uses.
    """
    if n < 1:
        raise ValueError(f"repetition got n={n}; give the length of the n-grams, at least 1")
    if by not in ("words", "characters"):
        raise ValueError(f"repetition got by={by!r}; give 'words' or 'characters'")
    lowered = checked_text(response)[:_MAX_TEXT].lower()
    units = lowered.split(maxsplit=_MAX_UNITS)[:_MAX_UNITS] if by == "words" else lowered[:_MAX_UNITS]
    count = len(units) - n + 1
    if count < 1:
        return 0.0
    return len(set(zip(*(units[start:] for start in range(n)), strict=False))) / count - 1


# --- Scripts ----------------------------------------------------------------------------------------------------------

_ALPHABETS = """
LATIN CYRILLIC GREEK ARABIC HEBREW ARMENIAN GEORGIAN ETHIOPIC DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU
KANNADA MALAYALAM SINHALA THAI LAO KHMER MYANMAR TIBETAN MONGOLIAN HANGUL HIRAGANA KATAKANA
"""
_SCRIPTS = {
    **{word.lower(): (word,) for word in _ALPHABETS.split()},
    "han": ("CJK",),
    "japanese": ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
    "korean": ("HANGUL", "CJK"),
}
"""The words in the Unicode names of letters that tell a script."""
_WORDS = frozenset(word for words in _SCRIPTS.values() for word in words)
# Most of all letters, whose names need not be looked up one by one.
_BLOCKS = (("CJK", 0x3400, 0x4DC0), ("CJK", 0x4E00, 0xA000), ("HANGUL", 0xAC00, 0xD7A4), ("CJK", 0x20000, 0x33480))


@universal(bounds=(0, 1))
def script_consistency(response: str, *, script: str = "latin") -> float:
    """Measures how far a response keeps to one script, against a policy that switches its language midway.

    Digits, punctuation, symbols and what belongs to no script, such as the letters of mathematical alphabets, do not
    count either way. A Greek letter in a formula does.

    Args:
      response: A completion, or an array of them.
      script: Its expected script, in lower case: `latin`, `cyrillic`, `greek`, `arabic`, `han`, `hangul`, ..., or
        `japanese` or `korean` for those that languages mix.

    Returns:
      The fraction of letters that are of the script, in [0, 1]; 1 where there are no letters.

    Raises:
      ValueError: The script is not known.

    Examples:
      >>> script_consistency(["so x = 4", "So 因此"])
      array([1. , 0.5])

    References:
      DeepSeek-AI, 2025, DeepSeek-R1, section 2.3.2 (arXiv 2501.12948), which rewards the share of words in the target
      language; counting letters needs no word lists.
    """
    if script not in _SCRIPTS:
        raise ValueError(f"script_consistency got script={script!r}; it knows {', '.join(sorted(_SCRIPTS))}")
    if checked_text(response).isascii():
        return 1.0 if script == "latin" or response.lower() == response.upper() else 0.0
    found = _letters(response)
    letters = sum(found.values())
    return sum(found[word] for word in _SCRIPTS[script]) / letters if letters else 1.0


def _letters(response: str) -> Counter[str]:
    """How many letters are of each script."""
    # An array of text is UTF-32 already; encoding to it refuses lone surrogates, or is slow on them.
    counts = np.bincount(np.array([response]).view(np.uint32))[: _BLOCKS[-1][2]]
    found: Counter[str] = Counter()
    for word, start, end in _BLOCKS:
        found[word] += int(counts[start:end].sum())
        counts[start:end] = 0
    for code in np.flatnonzero(counts).tolist():
        if chr(code).isalpha() and (word := _script(chr(code))):
            found[word] += int(counts[code])
    return found


def _script(letter: str) -> str:
    """The word that tells the script of a letter, which is the first of its name or the second: `FULLWIDTH LATIN`."""
    words = unicodedata.name(letter, "").split(maxsplit=2)[:2]
    return next((word for word in words if word in _WORDS), "")


# --- Steps ------------------------------------------------------------------------------------------------------------

# At the start of a line: a numbered step, a list entry; at the start of a sentence: a word that orders or concludes.
_STEP = re.compile(
    r"^[ \t]{0,8}(?:[#>*-]{1,6}[ \t]{1,3})?(?:\*\*)?"
    r"(?:step[ \t]{1,3}[0-9]{1,3}\b[*:.)]{0,4}|[0-9]{1,3}[.)](?=[ \t]))|"
    r"^[ \t]{0,8}[*•-](?=[ \t])|"
    r"(?:^[ \t]{0,8}|(?<=[.!?:] ))"
    r"(?:first|second|third|fourth|next|then|now|therefore|thus|hence|finally|so)(?:ly)?\b,?",
    re.IGNORECASE | re.MULTILINE,
)


@universal(bounds=(0, 1))
def reasoning_steps(response: str, *, target: int = 3) -> float:
    r"""Counts the steps a response is laid out in, up to a target.

    A step is what follows a marker up to the next one: `Step 1`, `2.`, `- ` at the start of a line; `First`, `Next`,
    `Then`, `So`, `Therefore` at the start of a line or sentence. A step without words or numbers, or one that repeats
    another, does not count: markers alone earn nothing.

    Args:
      response: A completion, or an array of them. Of more than 50,000 characters the first are read.
      target: How many steps earn the whole reward.

    Returns:
      Steps found over `target`, at most 1.

    Raises:
      ValueError: `target` is not positive.

    Examples:
      >>> reasoning_steps("First, 48 / 2 = 24. Then 48 + 24 = 72. So 72.")
      1.0
      >>> reasoning_steps("Step 1:\nStep 2:\nStep 3:")
      0.0

    References:
      Open-R1's `reasoning_steps_reward` (github.com/huggingface/open-r1), which counts markers alone.
    """
    if target < 1:
        raise ValueError(f"reasoning_steps got target={target}; give a number of steps, at least 1")
    head = checked_text(response)[:_MAX_STEPS_TEXT]
    markers = [marker.span() for marker in itertools.islice(_STEP.finditer(head), _MAX_MARKERS)]
    ends = [start for start, _ in markers[1:]] + [len(head)]
    steps = {_step_key(head[after:end]) for (_, after), end in zip(markers, ends, strict=False)} - {""}
    return min(len(steps) / target, 1.0)


def _step_key(step: str) -> str:
    """What tells a step from others: the words and numbers it begins with."""
    return " ".join(re.findall(r"\w+", step[:_STEP_KEY].casefold()))


# --- Arithmetic -------------------------------------------------------------------------------------------------------


@universal(bounds=(0, math.inf))
def equation_errors(response: str) -> float:
    """Counts the arithmetic statements of a response that are false.

    Every `a op b = c`, also with more operations, brackets, chains and powers, is computed exactly; a result may be
    rounded to the digits it shows. What is not certainly a statement about plain numbers (variables, percentages,
    dates, `= 3 dozen`) is left out.

    Args:
      response: A completion, or an array of them. Of more than 200,000 characters, or more than 4,000 characters of
        equations, the first are read.

    Returns:
      How many are false, as a float.

    Examples:
      >>> equation_errors(["48 / 2 = 24, 48 + 24 = 72", "2 * 9 = 19 dollars", "x = 3"])
      array([0., 1., 0.])
    """
    return float(len(false_statements(checked_text(response))))


@universal
def hallucination_penalty(response: str, *, penalty: float = 0.2) -> float:
    """Charges a response once for stating arithmetic that is false.

    Args:
      response: A completion, or an array of them.
      penalty: What it costs, not negative.

    Returns:
      `-penalty` where `equation_errors` finds any, else 0.

    Raises:
      ValueError: `penalty` is negative.

    Examples:
      >>> hallucination_penalty(["2 + 2 = 4", "2 + 2 = 5"])
      array([ 0. , -0.2])
    """
    if penalty < 0:
        raise ValueError(f"hallucination_penalty got penalty={penalty}; give what a false statement costs, as 0.2")
    return -float(penalty) if false_statements(checked_text(response)) else 0.0


# --- Similarity -------------------------------------------------------------------------------------------------------


@functools.cache
def _rapidfuzz(measure: str) -> Callable[[str, str], float]:
    return getattr(_optional("rapidfuzz.fuzz", "similarity"), measure)


@functools.cache
def _chrf(_: str) -> Callable[[str, str], float]:
    metric = _optional("sacrebleu.metrics", 'similarity(by="chrf")').CHRF()
    return lambda response, answer: metric.sentence_score(response, [answer]).score


# The longest text compared, in characters. All of them are quadratic, and `partial_ratio` is worse.
_MEASURES = {
    "ratio": (_rapidfuzz, 10_000),
    "partial_ratio": (_rapidfuzz, 1_000),
    "token_sort_ratio": (_rapidfuzz, 10_000),
    "chrf": (_chrf, 10_000),
}


@universal(bounds=(0, 1))
def similarity(response: str, answer: str, *, by: str = "ratio") -> float:
    """Compares a response with a reference text; partial credit where no verifier exists.

    Args:
      response: A completion, or an array of them.
      answer: The reference, or an array of them.
      by: `ratio` (edits that insert and delete, as a share of both lengths), `partial_ratio` (the same for the best
        matching part of the longer text), `token_sort_ratio` (with words in alphabetical order) or `chrf` (F-score of
        character n-grams up to 6, recall counting double). What is longer than 10,000 characters (1,000 for
        `partial_ratio`) is compared up to there.

    Returns:
      Similarity in [0, 1], 1 for equal texts that are not empty.

    Raises:
      ValueError: `by` is none of these.
      ImportError: rapidfuzz, or sacrebleu for `chrf`, is not installed.

    Examples:
      >>> round(similarity("the cat sat", "the cat sits"), 3)  # 23 letters, 3 inserted or deleted
      0.87

    References:
      Popović, 2015, chrF: character n-gram F-score for automatic MT evaluation, WMT.
    """
    if by not in _MEASURES:
        raise ValueError(f"similarity got by={by!r}; give one of {', '.join(_MEASURES)}")
    compare, longest = _MEASURES[by]
    return min(compare(by)(checked_text(response)[:longest], str(answer)[:longest]) / 100, 1.0)


# --- JSON -------------------------------------------------------------------------------------------------------------


@universal(bounds=(0, 1))
def json_valid(response: str, *, schema: Mapping[str, Any] | bool | None = None) -> float:
    """Grades whether a response holds valid JSON, of a given schema.

    Read is the last closed block that is fenced and marked `json`, else the last `<answer>` block, else the whole
    text. Strictly by RFC 8259: no `NaN` or `Infinity`. An object with a key twice is no valid JSON here, because
    readers differ on which value counts; nor is one nested too deeply for the parser, an integer of more than 4,300
    digits, or a text of more than 100,000 characters.

    Args:
      response: A completion, or an array of them.
      schema: A JSON schema, of the draft it names in `$schema`, 2020-12 by default. References to other documents are
        not fetched. The time a schema may take is its author's to bound.

    Returns:
      1 for valid JSON that satisfies the schema, if there is one; 0.5 for valid JSON that does not; else 0.

    Raises:
      ValueError: The schema is not a valid one, or refers to another document.
      ImportError: A schema is given and jsonschema is not installed.

    Examples:
      >>> json_valid(['{"age": 4}', '{"age": }'])
      array([1., 0.])
      >>> json_valid('<answer>{"age": "4"}</answer>', schema={"properties": {"age": {"type": "integer"}}})
      0.5
    """
    satisfies = None if schema is None else _validator(json.dumps(schema, sort_keys=True))
    document = _document(checked_text(response))
    if len(document) > _MAX_JSON:
        return 0.0
    try:
        value = json.loads(document, parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0 if satisfies is None or satisfies(value) else 0.5


def _document(response: str) -> str:
    """The part of a response that is meant to be JSON."""
    start = response.rfind("```json")
    end = response.find("```", start + 7)
    if start >= 0 and end < 0:  # an unclosed fence closes the one before, if that is not closed itself
        start = response.rfind("```json", 0, start)
        end = response.find("```", start + 7)
    if start >= 0:
        return response[start + 7 : end]
    return text.stated_answer(response) or "" if text.has_answer_block(response) else response


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(constant)


@functools.lru_cache(maxsize=64)
def _validator(schema: str) -> Callable[[Any], bool]:
    """A function that says whether a value satisfies a schema, which is written as JSON to be hashable."""
    jsonschema = _optional("jsonschema", "json_valid(schema=...)")
    referencing = importlib.import_module("referencing")
    read = json.loads(schema)
    kind = jsonschema.validators.validator_for(read, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(read)
    except jsonschema.SchemaError as error:
        raise ValueError(f"json_valid got a schema that is not valid: {error.message}; mend it") from error
    # A registry of its own: by default jsonschema fetches what a reference names.
    validator = kind(read, registry=importlib.import_module("jsonschema_specifications").REGISTRY)

    def satisfies(value: Any) -> bool:
        try:
            return validator.is_valid(value)
        except RecursionError:
            return False
        except referencing.exceptions.Unresolvable as error:
            raise ValueError(f"the schema refers to {error.ref!r} outside of itself; put that under $defs") from error

    return satisfies


# --- Details ----------------------------------------------------------------------------------------------------------


def _optional(module: str, user: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{user} needs {module.partition('.')[0]}: pip install 'agent-tunix[text]'") from error
