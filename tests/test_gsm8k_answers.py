"""Every reference answer of GSM8K, in the notations and at the places where models write it.

A row of the data set (https://github.com/openai/grade-school-math, MIT) is
`{"question": "...", "answer": "... 9 * 2 = $<<9*2=18>>18 ...\n#### 18"}`. The folder with `train.jsonl` and
`test.jsonl` is named by the environment variable `AGENT_TUNIX_GSM8K`.
"""

import json
import os
from pathlib import Path

import pytest

from agent_tunix import rewards

FOLDER = os.environ.get("AGENT_TUNIX_GSM8K")

pytestmark = pytest.mark.skipif(not FOLDER, reason="AGENT_TUNIX_GSM8K does not name a folder with GSM8K")

PLACES = {
    "raw": "{reasoning}\nA: {answer}",
    "hashes": "{reasoning}\n#### {answer}",
    "tags": "<reasoning>{reasoning}</reasoning>\n<answer>{answer}</answer>",
    "boxed": "{reasoning}\nThe final answer is $\\boxed{{{answer}}}$.",
}
NOTATIONS = {
    "as given": "{given}",
    "without commas": "{number}",
    "with commas": "{number:,}",
    "dollars": "${number:,}",
    "cents": "{number}.00",
    "period": "{given}.",
    "words": "{given} dollars",
}


@pytest.fixture(scope="module")
def answers():
    """Solution without the calculator's annotations, and reference answer, of each of the 8,792 rows."""
    rows = []
    for name in ("train.jsonl", "test.jsonl"):
        with Path(FOLDER or "", name).open(encoding="utf-8") as lines:
            rows += [json.loads(line)["answer"].rpartition("\n#### ") for line in lines]
    return [(_without_annotations(reasoning), answer.strip()) for reasoning, _, answer in rows]


def _without_annotations(reasoning):
    return "".join(piece.rpartition(">>")[2] for piece in reasoning.split("<<"))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("notation", NOTATIONS)
def test_every_reference_answer_is_right_and_every_other_is_wrong(answers, place, notation):
    references = [answer for _, answer in answers]
    numbers = [int(answer.replace(",", "")) for answer in references]
    responses = [
        PLACES[place].format(reasoning=reasoning, answer=NOTATIONS[notation].format(given=answer, number=number))
        for (reasoning, answer), number in zip(answers, numbers)
    ]
    assert len(responses) == 8792
    assert rewards.exact_answer(responses, references).sum() == 8792
    assert rewards.exact_answer(responses, numbers).sum() == 8792
    others = list(_others(numbers))
    assert all(numbers[other] != number for other, number in zip(others, numbers))
    assert rewards.exact_answer(responses, [references[other] for other in others]).sum() == 0


def _others(numbers):
    """For each row the next one, going around, whose answer is another number."""
    for row, number in enumerate(numbers):
        other = (row + 1) % len(numbers)
        while numbers[other] == number:
            other = (other + 1) % len(numbers)
        yield other
