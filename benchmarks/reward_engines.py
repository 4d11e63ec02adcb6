"""What `rewards.py` sets side by side: rewards of this package and of others, and completions whose grade is known.

TRL and verl are not installed here. What stands for them is written anew from their documentation: the list-style
functions that TRL's users write (https://huggingface.co/docs/trl/grpo_trainer, "Using a custom reward function"), and
the behaviour of verl's scorer for GSM8K (`verl/utils/reward_score/gsm8k.py`). Tunix's functions are its own.
"""

import importlib
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from agent_tunix import rewards
from agent_tunix.batching import text_rollouts
from agent_tunix.types import Rollouts, Score

FORMAT_WEIGHT, ANSWER_WEIGHT = 0.3, 0.7
TAGS, HASHES = "tags", "hashes"
"""The two ways in which the same completions state their answers: `<answer>72</answer>` and `#### 72`."""

# --- Completions ------------------------------------------------------------------------------------------------------

_SENTENCES = (
    "{name} packs {a} boxes with {b} {things} in each, which makes {a} * {b} = {product} {things}.",
    "At ${a} each, {b} of them cost {a} * {b} = ${product}.",
    "First we need the number of {things} per day, and then the total for all {b} days.",
    "Together they have {a} + {b} = {sum} {things}.",
    "Half of {even} is {even} / 2 = {half}, so {name} keeps {half} {things}.",
    "Wait, the question asks how many {things} are left, not how many {name} had at first.",
    "If {a} of the {sum} {things} are given away, then {sum} - {a} = {b} remain.",
    "Let x be the number of {things} that {name} buys; we know that x is at most {sum}.",
)
_NAMES = ("Natalia", "Weng", "Betty", "Ken", "Alexis", "Tina", "James")
_THINGS = ("clips", "apples", "stickers", "pages", "marbles", "eggs")
_NOTATIONS = ("{:,}", "${}", "${:,}", "{} apples", "{}.00", "**{}**")
_PLAIN_SHARE, _MALFORMED_SHARE = 0.95, 0.1


class Batch(NamedTuple):
    """Completions of one step.

    Attributes:
      rollouts: With the column `answer`.
      completions: The same, prompt by prompt in one list.
      answers: The reference of each.
      right: Whether each states exactly the reference, once and completely: what a strict grader has to find.
    """

    rollouts: Rollouts
    completions: list[str]
    answers: list[str]
    right: list[bool]


def batch(style: str, *, prompts: int, group_size: int, characters: int, seed: int) -> Batch:
    """Completions of reasoning about sums and products with an integer at the end.

    Half of the well-formed ones are right; one in ten is malformed: cut off before the answer, cut off in it, with two
    values, or with words after it. 95 % write the number plainly, the share among the model solutions that come with
    GSM8K (`example_model_solutions.jsonl` of https://github.com/openai/grade-school-math); the rest have a currency
    sign, a unit, decimals, separators or markdown.

    Args:
      style: `TAGS` or `HASHES`; with the same seed the two say the same.
      prompts: Number of groups; each has one reference answer.
      group_size: Completions of each.
      characters: Length of every completion.
      seed: Of everything random.
    """
    facts, words = random.Random(seed), random.Random(seed)
    references = [_reference(facts) for _ in range(prompts)]
    cells = [
        [_completion(facts, words, style, reference, characters) for _ in range(group_size)] for reference in references
    ]
    texts = [[text for text, _ in group] for group in cells]
    answers = [str(reference) for reference in references]
    return Batch(
        text_rollouts([f"question {prompt}" for prompt in range(prompts)], texts, {"answer": answers}),
        [text for group in texts for text in group],
        [answer for answer in answers for _ in range(group_size)],
        [right for group in cells for _, right in group],
    )


def _reference(rng: random.Random) -> int:
    """An integer in the proportions of GSM8K: a tenth above a thousand, few negative."""
    size = rng.choices((10, 100, 1_000, 1_000_000), (2, 5, 2, 1))[0]
    return rng.randrange(2, size) * (-1 if rng.random() < 0.01 else 1)


def _completion(
    facts: random.Random, words: random.Random, style: str, reference: int, characters: int
) -> tuple[str, bool]:
    """A completion and whether it states the reference; words are drawn apart, for the styles need not as many."""
    value = reference if facts.random() < 0.5 else _other(facts, reference)
    statement, right = str(value), value == reference
    kind = "whole" if facts.random() >= _MALFORMED_SHARE else facts.choice(("cut", "open", "several", "after"))
    if kind == "several":
        statement, right = f"{value} or {value + 1}", False
    elif facts.random() >= _PLAIN_SHARE:
        statement = facts.choice(_NOTATIONS).format(value)
    opening, closing = _frame(style, statement, kind)
    reasoning = _reasoning(words, characters - len(opening) - len(closing))
    return opening + reasoning + closing, right and kind in ("whole", "after")


def _frame(style: str, statement: str, kind: str) -> tuple[str, str]:
    """What stands before and after the reasoning."""
    if style == TAGS:
        opening, before, after = "<reasoning>", "</reasoning>\n<answer>", "</answer>"
    else:
        opening, before, after = "", "\n#### ", ""
    if kind == "cut":
        return opening, ""
    if kind == "open":
        return opening, before + (statement if style == TAGS else "")
    return opening, before + statement + after + ("\nI hope this helps." if kind == "after" else "")


def _reasoning(rng: random.Random, characters: int) -> str:
    sentences: list[str] = []
    left = characters
    while left >= 0:
        a, b, half = rng.randint(2, 60), rng.randint(2, 60), rng.randint(2, 500)
        sentence = rng.choice(_SENTENCES).format(
            name=rng.choice(_NAMES), things=rng.choice(_THINGS), a=a, b=b, product=a * b, sum=a + b, half=half,
            even=2 * half,
        )  # fmt: skip
        sentences.append(sentence)
        left -= len(sentence) + 1
    return " ".join(sentences)[:characters]


def _other(rng: random.Random, reference: int) -> int:
    return rng.choice((reference + 1, reference - 10, 10 * reference, -reference, int(f"1{abs(reference)}")))


# --- Engines ----------------------------------------------------------------------------------------------------------


class Engine(NamedTuple):
    """One way to grade a batch.

    Attributes:
      name: In tables.
      style: Of the completions it reads.
      source: `agent_tunix`, `re-implementation` or the installed package it belongs to.
      grades: What it computes, in words.
      run: Grades a batch; this is timed.
      correctness: From what `run` returned, whether each completion counts as right.
    """

    name: str
    style: str
    source: str
    grades: str
    run: Callable[[Batch], Any]
    correctness: Callable[[Any], Sequence[bool]]


def engines() -> list[Engine]:
    """All engines that can run here; Tunix's functions are left out where Tunix cannot be imported."""
    return [*_ours(), *_others(), *_tunix()]


def _ours() -> list[Engine]:
    reward = rewards.weighted_sum(
        (FORMAT_WEIGHT, rewards.per_completion(rewards.tag_format, bounds=(0, 1))),
        (ANSWER_WEIGHT, rewards.per_completion(rewards.exact_answer, "answer", bounds=(0, 1))),
    )

    def on_lists(given: Batch) -> tuple[np.ndarray, np.ndarray]:
        layout = rewards.tag_format(given.completions)
        correct = rewards.exact_answer(given.completions, given.answers)
        return FORMAT_WEIGHT * layout + ANSWER_WEIGHT * correct, correct

    def on_rollouts(given: Batch) -> Score:
        return reward(given.rollouts)

    def of_score(score: Score) -> list[bool]:
        return (score.parts["exact_answer"].ravel() == 1).tolist()

    def answers_on_lists(given: Batch) -> np.ndarray:
        return rewards.exact_answer(given.completions, given.answers)

    ours = "agent_tunix"
    return [
        Engine("reward", TAGS, ours, "format + answer, Rollouts to Score", on_rollouts, of_score),
        Engine("graders on lists", TAGS, ours, "format + answer, lists to arrays", on_lists, _of_pair),
        Engine("exact_answer on lists", HASHES, ours, "answer, lists to an array", answers_on_lists, _of_ones),
    ]


def _others() -> list[Engine]:
    def verl(method: str) -> Callable[[Batch], list[float]]:
        return lambda given: [verl_score(*pair, method) for pair in zip(given.completions, given.answers, strict=True)]

    return [
        Engine("TRL style", TAGS, "re-implementation", "format + answer, lists to an array", trl_style, _of_pair),
        Engine("verl strict", HASHES, "re-implementation", "answer, one by one", verl("strict"), _of_ones),
        Engine("verl flexible", HASHES, "re-implementation", "answer, one by one", verl("flexible"), _of_ones),
    ]


def _tunix() -> list[Engine]:
    try:
        demo = importlib.import_module("tunix.cli.reward_fn.gsm8k")
    except ImportError:
        return []

    def run(given: Batch) -> tuple[list[float], list[float]]:
        layout = demo.match_format_exactly(given.completions, given.completions)
        return layout, demo.check_answer(given.completions, given.completions, answer=given.answers)

    def correctness(lists: tuple[list[float], list[float]]) -> list[bool]:
        return [points == 3.0 for points in lists[1]]

    return [Engine("Tunix demo", TAGS, "google-tunix", "format + answer, lists to lists", run, correctness)]


def _of_pair(results: tuple[Any, Any]) -> list[bool]:
    return _of_ones(results[1])


def _of_ones(grades: Any) -> list[bool]:
    return [bool(grade == 1) for grade in grades]


# --- Others' rewards, written anew ------------------------------------------------------------------------------------

_FORMAT = re.compile(r"^<reasoning>.*?</reasoning>\s*<answer>.*?</answer>$", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def format_reward(completions: Sequence[str], **_: Any) -> list[float]:
    """A format reward as users of TRL write it: one regular expression per completion."""
    return [1.0 if _FORMAT.match(completion) else 0.0 for completion in completions]


def answer_reward(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """A correctness reward as users of TRL write it: extraction by a regular expression, comparison of floats."""
    grades = []
    for completion, reference in zip(completions, answer, strict=True):
        block = _ANSWER.search(completion)
        number = _NUMBER.search(block[1]) if block else None
        same = number is not None and float(number[0].replace(",", "")) == float(reference.replace(",", ""))
        grades.append(1.0 if same else 0.0)
    return grades


def trl_style(given: Batch) -> tuple[np.ndarray, list[float]]:
    """Both rewards in lists, then weighted and summed as an array, as TRL's trainer does it.

    Returns:
      The total, and the correctness alone.
    """
    columns = {"prompts": given.completions, "completions": given.completions, "answer": given.answers}
    correct = answer_reward(**columns)
    table = np.array([format_reward(**columns), correct], dtype=float)
    return np.nansum(np.array([[FORMAT_WEIGHT], [ANSWER_WEIGHT]]) * table, axis=0), correct


_VERL_TAIL = 300
_VERL_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_VERL_FLEXIBLE = re.compile(r"-?[0-9.,]+")


def verl_score(response: str, reference: str, method: str = "strict") -> float:
    """Grades as verl's scorer for GSM8K does: a number of the last 300 characters, equal to the reference as text.

    Args:
      response: A completion.
      reference: The reference answer; it is compared as it is.
      method: `strict` for the number after the last `#### `, without its commas; `flexible` for the last run of digits,
        periods and commas, with them.

    Returns:
      1.0 or 0.0.
    """
    tail = response[-_VERL_TAIL:]
    if method == "strict":
        found = _VERL_STRICT.findall(tail)
        return 1.0 if found and found[-1].replace(",", "") == reference else 0.0
    runs = [run for run in _VERL_FLEXIBLE.findall(tail) if run not in ("", ".")]
    return 1.0 if runs and runs[-1] == reference else 0.0
