"""Competition problems in the form of MATH: where the answer stands, levels, splits, and what is malformed."""

import json
import sys
from types import SimpleNamespace

import pytest

from agent_tunix import data, recipes
from agent_tunix.tasks import DataError, math_problems
from tests.test_data import load, write_jsonl

PROBLEM = {
    "problem": "A field of $12$ by $5$ metres is crossed from corner to corner. How long is the path?",
    "solution": r"By Pythagoras it is $\sqrt{144 + 25} = \boxed{13}$ metres.",
    "level": "Level 2",
    "type": "Geometry",
}


def test_a_record_becomes_a_row():
    assert math_problems.row(PROBLEM) == {
        "prompt": PROBLEM["problem"],
        "answer": "13",
        "demonstration": f"<reasoning>{PROBLEM['solution']}</reasoning><answer>13</answer>",
        "task": "math",
        "level": 2,
        "subject": "Geometry",
        "symbolic": False,
    }


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"First $\boxed{1}$, but then $\boxed{\frac{3}{\sqrt{2}}}$.", r"\frac{3}{\sqrt{2}}"),
        (r"It is $\fbox{(1, 2]}$.", "(1, 2]"),
        (r"So there are $\boxed 4$ of them.", "4"),
        (r"It is $\boxed{\text{odd}}$, as <answer>even</answer> cannot be.", r"\text{odd}"),
    ],
)
def test_the_answer_is_in_the_last_box(solution, answer):
    row = math_problems.row(PROBLEM | {"solution": solution})
    assert row["answer"] == answer
    assert recipes.is_correct(f"I get \\boxed{{{answer}}}", row) == 1.0


def test_an_answer_of_its_own_comes_first():
    record = {"problem": "1 + 1?", "solution": r"\boxed{3}", "answer": "2", "subject": "Algebra", "level": 5}
    row = math_problems.row(record)
    assert (row["answer"], row["level"], row["subject"]) == ("2", 5, "Algebra")
    assert math_problems.row({"problem": "1 + 1?", "answer": 2})["demonstration"] == "<answer>2</answer>"


@pytest.mark.parametrize(("level", "number"), [("Level 5", 5), ("3", 3), (4, 4), ("Level ?", 1), (None, 1)])
def test_levels_are_numbers(level, number):
    assert math_problems.row(PROBLEM | {"level": level})["level"] == number


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"solution": r"\boxed{1}"}, "`problem` is missing; the row has solution"),
        ({"problem": "?", "solution": "It is 4."}, "no answer in"),
        ({"problem": "?", "solution": r"$\boxed{ }$"}, "no answer in"),
        ({"problem": "?"}, "`solution` is missing"),
        ({"problem": "?", "answer": " "}, "`answer` is empty"),
    ],
)
def test_a_record_without_an_answer_is_named(tmp_path, record, words):
    path = write_jsonl(tmp_path / "rows.jsonl", [PROBLEM | {"problem": f"{n}?"} for n in range(5)] + [record])
    with pytest.raises(DataError, match=rf"rows.jsonl:6: .*{words}"):
        load("math", path=path)
    assert load("math", path=path, malformed="skip").skipped == 1


def test_a_folder_brings_its_own_test_rows(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [PROBLEM | {"problem": f"{n}?"} for n in range(4)])
    write_jsonl(tmp_path / "test.jsonl", [{"problem": "9?", "answer": "9"}])
    found = load("math", path=str(tmp_path))
    assert [row["prompt"] for row in found.train] == ["0?", "1?", "2?", "3?"]
    assert [row["answer"] for row in found.heldout] == ["9"]


def test_a_data_set_of_a_hub(monkeypatch):
    rows = [PROBLEM | {"problem": f"{n}?"} for n in range(3)]
    library = SimpleNamespace(load_dataset=lambda name, config: {"train": rows[:2], "test": rows[2:]})
    monkeypatch.setitem(sys.modules, "datasets", library)
    found = load("math", path="hf:ORGANISATION/MATH")
    assert (len(found.train), len(found.heldout)) == (2, 1)


def test_equal_as_mathematics_counts_where_it_is_asked_for(tmp_path):
    pytest.importorskip("math_verify", reason="the extra `math` is not installed")
    rows = [{"problem": f"Factor $x^2 + {n}x$.", "answer": f"x(x+{n})"} for n in range(2, 8)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    strict, symbolic = (load("math", path=path, symbolic=asked).train[0] for asked in (False, True))
    n = json.dumps(strict["answer"]).strip('")').rpartition("+")[2]
    response = f"<answer>(x+{n})x</answer>"
    assert recipes.is_correct(response, strict) == 0.0
    assert recipes.is_correct(response, symbolic) == 1.0
    assert recipes.is_correct(f"<answer>(x-{n})x</answer>", symbolic) == 0.0


def test_math_is_among_the_tasks():
    assert "math" in data.names()
