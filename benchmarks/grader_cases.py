"""Every function that grades a text, with what it is called with and what it may return; and texts made to hurt.

Used by `fuzz_graders.py` and by the hostile part of `rewards.py`.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from agent_tunix import recipes, rewards, text
from agent_tunix.rewards.presets import reasoning_tags

PROMPT = "Tom has 3 red apples and buys 4 green ones. How many apples does he have?"
TEMPLATES = ("The answer is [NUM].", "[TEXT] is [NUM]", "Answer: [TEXT]")
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
LEFT_OUT = ("passes_tests", "program_of")
"""The one starts processes, and is measured and attacked by itself; the other is a reader, and among those here."""


class Case(NamedTuple):
    """One grader with its settings.

    Attributes:
      name: For people; unique.
      grade: `(response, reference) -> value`.
      grade_list: The same over one-element lists, as a list of values; None where lists are not taken.
      accepts: Whether a value is what the documentation promises.
      numeric: Whether the reference has to be a number.
    """

    name: str
    grade: Callable[[str, str], Any]
    grade_list: Callable[[str, str], Sequence[Any]] | None
    accepts: Callable[[Any], bool]
    numeric: bool = False


# --- What may come back -----------------------------------------------------------------------------------------------


def within(low: float, high: float) -> Callable[[Any], bool]:
    """Accepts finite floats, and bools, in a closed range."""
    return lambda value: isinstance(value, bool | float) and math.isfinite(value) and low <= value <= high


def one_of(*values: Any) -> Callable[[Any], bool]:
    """Accepts some values and nothing else; `True` is 1."""
    return lambda value: isinstance(value, bool | float) and value in values


def _is_number_or_nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isinf(value)


def _is_record(value: Any) -> bool:
    """What `check_numbers` returns for one expected number."""
    extracted, matches, score = value["extracted"], value["matches"], value["score"]
    are_numbers = all(type(number) is int or (type(number) is float and math.isfinite(number)) for number in extracted)
    return are_numbers and [type(match) for match in matches] == [bool] and within(0, 1)(score)


_YES, _STEPS, _SHARE = one_of(0, 1), one_of(0, 0.5, 1), within(0, 1)
_ACCEPTS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("exact_answer", "binary_reward"), _YES),
    **dict.fromkeys(("exact_match", "close_match", "is_correct", "is_partially_correct"), _YES),
    **dict.fromkeys(("has_hallucination", "has_reasoning_steps"), _YES),
    **dict.fromkeys(("tag_format", "match_format_exactly", "check_format", "evaluate_format", "json_valid"), _STEPS),
    **dict.fromkeys(("check_answer", "check_correctness", "evaluate_correctness"), _STEPS),
    **dict.fromkeys(("graduated_reward", "improved_reward", "robust_reward", "evaluate_completeness"), _STEPS),
    "stable_reward": one_of(0.1, 0.5, 1),
    "shaped_reward": within(-math.inf, 1.1),
    "check_numbers": _is_record,
    "extract_number": _is_number_or_nan,
    "equation_errors": within(0, math.inf),
    "hallucination_penalty": one_of(-0.2, 0),
    "repetition": within(-1, 0),
}
"""By name of the grader; all others give a number in [0, 1]."""

# --- Graders ----------------------------------------------------------------------------------------------------------

_ARGUMENTS: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(("answer", "ground_truth"), lambda reference: reference),
    "expected_numbers": lambda reference: [reference],
    "expected_format": lambda reference: TEMPLATES[len(reference) % len(TEMPLATES)],
    "prompt": lambda reference: PROMPT,
    "metadata": lambda reference: {"answer": reference, "format": TEMPLATES[len(reference) % len(TEMPLATES)]},
}
_NUMERIC = ("continuous_reward", "check_numbers")
_SETTINGS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "exact_answer": ({"fallback": "last_number"}, {"tolerance": 0.01}, {"fallback": "last_number", "tolerance": 0.5}),
    "close_match": ({"tolerance": 0.0},),
    "continuous_reward": ({"max_error": 0.5},),
    "evaluate_format": ({"expected_format": "The answer is [NUM]."},),
    "json_valid": ({"schema": SCHEMA},),
    "repetition": ({"by": "characters"}, {"n": 1}),
    "script_consistency": ({"script": "han"}, {"script": "japanese"}),
    "similarity": tuple({"by": by} for by in ("partial_ratio", "token_sort_ratio", "chrf")),
}


def cases(*, symbolic: bool = False) -> list[Case]:
    """All graders of texts, once with their defaults and once for each further setting.

    Args:
      symbolic: Whether to add `exact_answer(..., symbolic=True)`, which compares in processes of its own.
    """
    found = []
    for name, function in recipes.graders().items():
        if name not in LEFT_OUT:
            found += [_case(name, function, settings) for settings in ({}, *_SETTINGS.get(name, ()))]
    if symbolic:
        found.append(_case("exact_answer", rewards.exact_answer, {"symbolic": True}))
    return found + _presets() + _readers()


def _case(name: str, function: Callable[..., Any], settings: Mapping[str, Any]) -> Case:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    wanted = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]

    def arguments(reference: str) -> list[Any]:
        return [_ARGUMENTS[parameter](reference) for parameter in wanted]

    def grade(response: str, reference: str) -> Any:
        return function(response, *arguments(reference), **settings)

    def grade_list(response: str, reference: str) -> Any:
        return list(function([response], *arguments(reference), **settings))

    # A function that takes a whole row is one of a single completion.
    is_single = "metadata" in wanted
    words = ", ".join(f"{key}={value!r:.30}" for key, value in settings.items())
    return Case(
        f"{name}({words})" if words else name,
        grade,
        None if is_single else grade_list,
        _ACCEPTS.get(name, _SHARE),
        name in _NUMERIC,
    )


def _presets() -> list[Case]:
    """The list-style functions of `presets.reasoning_tags`."""
    accepted = {
        "match_format_exactly": one_of(0, 3),
        "match_format_approximately": within(-2, 2),
        "check_answer": one_of(-1, -0.5, 0, 0.25, 0.5, 1.5, 3),
        "check_numbers": one_of(0, 1.5),
    }

    def case(name: str, accepts: Callable[[Any], bool]) -> Case:
        function = getattr(reasoning_tags, name)

        def grade_list(response: str, reference: str) -> list[Any]:
            return function([PROMPT], [[{"role": "assistant", "content": response}]], answer=[reference])

        def grade(response: str, reference: str) -> Any:
            return function([PROMPT], [response], answer=[reference])[0]

        return Case(f"reasoning_tags.{name}", grade, grade_list, accepts)

    return [case(name, accepts) for name, accepts in accepted.items()]


def _readers() -> list[Case]:
    """What the graders read texts with."""

    def stated(response: str, _: str) -> str | None:
        found = text.stated_answer(response)
        assert found is None or (found == found.strip() and found in response), (
            f"{found!r:.80} is not a part of the response"
        )
        return found

    def number(response: str, _: str) -> str | None:
        found = text.last_number(response)
        assert found is None or (found in response and len(found) <= 210), f"{found!r:.80} is no number of the response"
        return found

    def key(response: str, _: str) -> Any:
        found = rewards.answer_key(response)
        assert hash(found) == hash(rewards.answer_key(response)), "two keys of one text differ"
        if isinstance(found, str):
            again = rewards.answer_key(found)
            assert again == found, f"the key of the key is {again!r:.200}, of the text {found!r:.200}"
        return found

    def program(response: str, _: str) -> str:
        return rewards.program_of(response)

    def is_text_or_none(value: Any) -> bool:
        return value is None or isinstance(value, str)

    return [
        Case("text.stated_answer", stated, None, is_text_or_none),
        Case("text.last_number", number, None, is_text_or_none),
        Case("answer_key", key, None, lambda value: isinstance(value, str | tuple)),
        Case("program_of", program, None, lambda value: isinstance(value, str)),
    ]


# --- Texts made to hurt -----------------------------------------------------------------------------------------------


def hostile(characters: int) -> dict[str, str]:
    """Twelve kinds of responses on which a careless grader takes seconds, or raises.

    Args:
      characters: Length of each, up to a few.
    """

    def repeated(piece: str) -> str:
        return piece * (characters // len(piece))

    half = characters // 2
    return {
        "opening tags": repeated("<answer>"),
        "blocks": repeated("<reasoning>x</reasoning><answer>1</answer>\n"),
        "opening boxes": repeated(r"\boxed{"),
        "nested boxes": r"\boxed{" * (half // 7) + "1" + "}" * half,
        "digits": f"<answer>{'9' * characters}</answer>",
        "separators": f"<answer>{repeated('1,')}</answer>",
        "powers": f"<answer>{repeated('9**')}9</answer>",
        "equations": repeated("1+1=3, "),
        "answer lines": repeated("The answer is 42.\n"),
        "blank lines": "\n" * characters + "The answer is 42.",
        "invisible signs": repeated("\u200b\u202e\x00\ud800"),
        "JSON": f"<answer>{'[' * half}{']' * half}</answer>",
    }
