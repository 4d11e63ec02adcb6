"""Procedural tasks and GSM8K: right answers, splits that cannot overlap, and bad input."""

import ast
import json
import operator
import os
import re
import subprocess
import sys
import time
import types
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix import tasks
from agent_tunix.errors import ConfigError
from agent_tunix.tasks import DataError, countdown, gsm8k
from agent_tunix.tokenizers import CharacterTokenizer

LEVELS = (1, 2, 3, 6)
EVERY = [(name, level) for name in tasks.names() for level in LEVELS]
COLUMNS = {"prompt", "answer", "demonstration", "task", "level"}


def rows(name, level=1, size=200, split="train", seed=0):
    return tasks.generate(name, level=level, size=size, split=split, seed=seed)


def slow_value(node):
    """Value of a parsed chain of + - *, by the syntax tree of Python."""
    if isinstance(node, ast.BinOp):
        signs = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
        return signs[type(node.op)](slow_value(node.left), slow_value(node.right))
    assert isinstance(node, ast.Constant)
    return node.value


EXPECTED = {
    "arithmetic": lambda prompt: str(slow_value(ast.parse(prompt, mode="eval").body)),
    "comparison": lambda prompt: str(max(map(int, prompt.removeprefix("max ").split()))),
    "letter_counting": lambda prompt: str(prompt[5:].count(prompt[0])),
    "sorting": lambda prompt: " ".join(sorted(prompt.split())),
}


def test_the_five_tasks_are_known_by_name():
    assert tasks.names() == ["arithmetic", "comparison", "countdown", "letter_counting", "sorting"]
    assert all(tasks.TASKS[name].name == name for name in tasks.names())


@pytest.mark.parametrize(("name", "level"), EVERY)
def test_demonstration_holds_an_answer_the_task_accepts(name, level):
    for row in rows(name, level) + rows(name, level, split="heldout"):
        found = re.fullmatch(r"<answer>(.*)</answer>", row["demonstration"])
        assert found and tasks.is_correct(found[1], row), row
        assert not tasks.is_correct(found[1] + "1", row)
        assert not tasks.is_correct("", row)


@pytest.mark.parametrize(("name", "level"), [(name, level) for name, level in EVERY if name in EXPECTED])
def test_answer_follows_from_the_prompt(name, level):
    for row in rows(name, level):
        assert row["prompt"].endswith("=")
        assert row["answer"] == EXPECTED[name](row["prompt"][:-1])


@pytest.mark.parametrize(("name", "level"), EVERY)
def test_splits_share_no_prompt_whatever_the_seeds(name, level):
    train = {row["prompt"] for seed in (0, 1) for row in rows(name, level, 1500, "train", seed)}
    heldout = {row["prompt"] for seed in (0, 2) for row in rows(name, level, 150, "heldout", seed)}
    assert train and heldout and train.isdisjoint(heldout)


@pytest.mark.parametrize(("name", "level"), EVERY)
def test_rows_are_plain_uniform_and_heldout_ones_differ(name, level):
    drawn = rows(name, level, split="heldout")
    assert len({row["prompt"] for row in drawn}) == len(drawn) == 200
    assert all(set(row) == set(drawn[0]) and set(row) >= COLUMNS for row in drawn)
    assert all(row["task"] == name and row["level"] == level for row in drawn)
    assert json.loads(json.dumps(drawn)) == drawn  # so no NumPy scalars


def test_same_seed_gives_same_rows_in_another_process_with_another_hash_seed():
    code = (
        "import json, sys; from agent_tunix import tasks; sys.stdout.write(json.dumps([tasks.generate(name, level=2, "
        "size=20, split=split, seed=5) for name in tasks.names() for split in tasks.SPLITS]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "4321"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(other.stdout) == [rows(name, 2, 20, split, 5) for name in tasks.names() for split in tasks.SPLITS]


def test_generated_rows_do_not_change_between_releases():
    first = {name: rows(name, 1, 1)[0]["prompt"] for name in tasks.names()}
    assert first == {
        "arithmetic": "9-8+1=",
        "comparison": "max 1 5=",
        "countdown": "2 3 14:13=",
        "letter_counting": "u in phhvc=",
        "sorting": "1 1 2 6 1=",
    }


def test_other_seeds_and_levels_give_other_rows():
    assert rows("sorting", seed=0) != rows("sorting", seed=1)
    assert len(rows("sorting", level=4)[0]["answer"].split()) == 8


def test_split_hash_is_the_leading_48_bits_of_sha256():
    # printf '3 1 4 1 5=' | sha256sum | head -c 12
    assert tasks.split_hash("3 1 4 1 5=") == int("507558a13bf1", 16) / 16**12
    fraction = np.mean([tasks.is_heldout(f"{number}=") for number in range(20_000)])
    assert abs(fraction - 0.1) < 4 * (0.1 * 0.9 / 20_000) ** 0.5  # four standard deviations
    assert tasks.split_hash("\ud800") >= 0  # a lone surrogate is no reason to fail


def test_default_task_fits_the_default_budgets():
    tokenizer = CharacterTokenizer()
    for row in rows("sorting", size=500):
        assert len(tokenizer.encode(row["prompt"])) + 1 <= 16
        assert len(tokenizer.encode(row["demonstration"])) + 1 <= 16


def test_every_letter_count_is_about_equally_likely():
    counts = np.bincount([int(row["answer"]) for row in rows("letter_counting", size=6000)], minlength=6)
    # The hash sends a tenth elsewhere evenly; the only word of five equal letters is drawn as often as 1/6 too.
    assert counts.min() > 0.12 * 6000 and counts.max() < 0.21 * 6000


def test_exhausted_task_gives_what_it_has_and_says_so(caplog):
    drawn = rows("arithmetic", 1, 5000, "heldout")
    every = {f"{a}{s}{b}{t}{c}=" for a in range(10) for b in range(10) for c in range(10) for s in "+-" for t in "+-"}
    assert {row["prompt"] for row in drawn} == {prompt for prompt in every if tasks.is_heldout(prompt)}
    assert f"has only {len(drawn)} of the 5000 heldout rows" in caplog.text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "sortin"}, "unknown task `sortin`; did you mean `sorting`.*arithmetic, comparison"),
        ({"split": "test"}, "unknown split `test`.*heldout, train"),
        ({"level": 0}, "level of task 'sorting' is 0; it must be at least 1"),
        ({"size": 0}, "size of task 'sorting' is 0"),
        ({"seed": -1}, "seed of task 'sorting' is -1"),
    ],
)
def test_wrong_argument_is_refused_by_name(changed, message):
    arguments = {"name": "sorting", "level": 1, "size": 1, "split": "train", "seed": 0} | changed
    with pytest.raises(ConfigError, match=message):
        tasks.generate(arguments.pop("name"), **arguments)


def test_answer_of_a_task_unknown_here_is_compared_as_text():
    assert tasks.is_correct(" 72 ", {"answer": "72", "task": "gsm8k"})
    assert tasks.is_correct("a", {"answer": "a"})
    assert not tasks.is_correct("73", {"answer": "72"})


# Countdown: 2, 5 and 11 to 21 has many right answers.
PROBLEM = {"numbers": [2, 5, 11], "target": 21}


@pytest.mark.parametrize("answer", ["5*2+11", "11+2*5", "(5*2)+11", " 11 + (2 * 5) ", "((11))+2*(5)", "2/(1/5)+11"])
def test_countdown_accepts_any_expression_that_reaches_the_target(answer):
    problem = {"numbers": [1, 2, 5, 11], "target": 21} if "1/5" in answer else PROBLEM
    assert countdown.is_correct(answer, problem) is True


def test_countdown_accepts_typographic_signs_and_fractions_on_the_way():
    assert countdown.is_correct("11+5×2", PROBLEM)
    assert countdown.is_correct("8÷(3−8÷3)", {"numbers": [3, 3, 8, 8], "target": 24})
    assert countdown.is_correct("8/(3-8/3)", {"numbers": [8, 3, 8, 3], "target": 24})
    assert countdown.is_correct("2-5+11", {"numbers": [2, 5, 11], "target": 8})  # -3 on the way


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " ",
        "21",
        "5*2+12",  # another number
        "5*2+11+0",  # one more number
        "11+5+5",  # a number twice
        "11+5*2*2/2",  # numbers repeated to the right value
        "5*2",  # a number left out
        "5*2+11=21",
        "52*11",  # concatenation
        "5 2+11",  # two values side by side
        "5*2+11)",
        "(5*2+11",
        ")5*2+11(",
        "()5*2+11",
        "5*2+11()",
        "5*2++11",
        "*5*2+11",
        "5*2+11+",
        "-5+2+11",  # a sign before a number
        "(5)(2)+11",
        "5**2+11",
        "5//2+11",
        "11/(5-5)+2",
        "9**9**9",
        "9**9**9**9**9",
        "int(21)",
        "__import__('os').system('true')",
        "21 if 5*2+11 else 21",
        "x",
        "5*2+1_1",
        "5*2+1e1",
        "5*2+11.0",
        "5*2+١١",  # Arabic digits
        "5*2+11\x00",
    ],
)
def test_countdown_refuses_everything_else(answer):
    assert countdown.is_correct(answer, PROBLEM) is False


def test_countdown_survives_division_by_zero():
    assert countdown.is_correct("2/(5-5)", {"numbers": [2, 5, 5], "target": 2}) is False
    assert countdown.is_correct("(5-5)/2", {"numbers": [2, 5, 5], "target": 0}) is True


@pytest.mark.parametrize("text", ["9" * 10**6, "(" * 10**6, "5*2+11" + " " * 10**6, "9**" * 10**5 + "9", "-" * 10**6])
def test_countdown_refuses_very_long_answers_at_once(text):
    start = time.perf_counter()
    assert countdown.is_correct(text, PROBLEM) is False
    assert time.perf_counter() - start < 1


def test_countdown_checks_many_deeply_nested_numbers_without_recursion():
    numbers = [1] * 2000
    nested = "(" * 1999 + "1" + "+1)" * 1999
    assert countdown.is_correct(nested, {"numbers": numbers, "target": 2000})


def combined(children):
    """Expressions as text, value and numbers; the value is exact, None after a division by zero."""

    def join(left, sign, right):
        operate = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}[sign]
        missing = left[1] is None or right[1] is None or (sign == "/" and right[1] == 0)
        return f"({left[0]}{sign}{right[0]})", None if missing else operate(left[1], right[1]), left[2] + right[2]

    return st.builds(join, children, st.sampled_from("+-*/"), children)


NUMBERS = st.integers(0, 30).map(lambda number: (str(number), Fraction(number), [number]))


@given(st.recursive(NUMBERS, combined, max_leaves=8))
def test_countdown_value_is_exact_for_any_nesting(expression):
    text, value, numbers = expression
    whole = value is not None and value.denominator == 1
    target = int(value) if whole else 1
    assert countdown.is_correct(text, {"numbers": numbers[::-1], "target": target}) == whole
    assert not countdown.is_correct(text, {"numbers": numbers, "target": target + 1})
    assert not countdown.is_correct(text, {"numbers": [*numbers, 1], "target": target})


@given(st.lists(st.sampled_from(["2", "5", "11", "+", "-", "*", "/", "(", ")"]), max_size=11).map("".join))
def test_countdown_accepts_only_what_python_finds_equal(text):
    if countdown.is_correct(text, PROBLEM):
        assert abs(eval(text, {"__builtins__": {}}) - 21) < 1e-9  # digits and single signs only, by the check above


@given(st.text(max_size=60))
def test_countdown_never_raises(text):
    assert countdown.is_correct(text, PROBLEM) in (True, False)


# GSM8K.
def record(answer, question="How many?"):
    return {"question": question, "answer": answer}


def write_gsm8k(folder, train):
    for name, lines in (("train", train), ("test", [record("So 1.\n#### 1", "Held out?")])):
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return str(folder)


def test_gsm8k_row_has_the_gold_and_a_rationale_without_calculator(tmp_path):
    path = write_gsm8k(tmp_path, [record("He has 2*3=<<2*3=6>>6.\nThen $<<6*200=1200>>1,200.\n#### 1,200")])
    train, heldout, skipped = gsm8k.load(path, malformed="raise")
    assert train == [
        {
            "prompt": "How many?",
            "answer": "1200",
            "demonstration": "<reasoning>He has 2*3=6.\nThen $1,200.</reasoning><answer>1200</answer>",
            "task": "gsm8k",
            "level": 2,
        }
    ]
    assert [row["answer"] for row in heldout] == ["1"] and skipped == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("72", "72"),
        (" 1,080 ", "1080"),
        ("109,200,000", "109200000"),
        ("-5", "-5"),
        ("−5", "-5"),
        ("-1,000", "-1000"),
        ("0", "0"),
        ("-0", "0"),
        ("007", "7"),
        ("2.50", "2.5"),
        ("3.0", "3"),
        ("$18", "18"),
    ],
)
def test_gold_has_one_spelling(text, expected):
    assert gsm8k.canonical(text) == expected


@pytest.mark.parametrize(
    "text", ["", "many", "1,08", "10,80", "1 2", "1/2", "5 apples", "--5", "1.", "٣", "1e3", "nan"]
)
def test_gold_that_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match="not a number"):
        gsm8k.canonical(text)


MALFORMED = [
    ("{not json", "not JSON"),
    ("[1]", "a JSON list, not an object"),
    ("[" * 100_000, "nested too deeply"),
    ({"question": "How many?"}, "`answer` is missing; the row has question"),
    (record(None), "`answer` is None, not text"),
    (record("#### 1", " "), "`question` is ' ', not text"),
    (record("It is 5."), "`answer` has 0 `####`"),
    (record("5 #### 5 #### 5"), "`answer` has 2 `####`"),
    (record("So.\n#### five"), "'five' after `####` is not a number"),
]


@pytest.mark.parametrize(("line", "message"), MALFORMED)
def test_malformed_row_is_named_with_file_and_line(tmp_path, line, message):
    path = write_gsm8k(tmp_path, [record("So.\n#### 4"), "", line])
    with pytest.raises(DataError, match=rf"train\.jsonl:3: .*{re.escape(message)}.*data\.malformed=skip"):
        gsm8k.load(path, malformed="raise")


def test_malformed_rows_are_skipped_named_and_counted(tmp_path, caplog):
    path = write_gsm8k(tmp_path, [record("So.\n#### 4"), *(line for line, _ in MALFORMED)])
    train, _, skipped = gsm8k.load(path, malformed="skip")
    assert len(train) == 1 and skipped == len(MALFORMED)
    assert all(f"train.jsonl:{number}:" in caplog.text for number in range(2, 2 + len(MALFORMED)))


def test_bytes_that_are_not_utf8_are_a_malformed_row(tmp_path):
    path = write_gsm8k(tmp_path, [record("So.\n#### 4")])
    with (tmp_path / "train.jsonl").open("ab") as file:
        file.write(b'{"question": "\xff"}\n')
    with pytest.raises(DataError, match=r"train\.jsonl:2: not UTF-8"):
        gsm8k.load(path, malformed="raise")


def test_line_separators_inside_a_text_do_not_cut_it(tmp_path):
    odd = json.dumps(record("So.\n#### 4", "One\u2028two\x85?"), ensure_ascii=False)
    train, _, _ = gsm8k.load(write_gsm8k(tmp_path, ["\ufeff" + odd]), malformed="raise")
    assert train[0]["prompt"] == "One\u2028two\x85?"


def test_missing_and_empty_gsm8k_files_are_named(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        gsm8k.load(str(tmp_path / "nowhere"), malformed="raise")
    (tmp_path / "train.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"train\.jsonl has no rows"):
        gsm8k.load(str(tmp_path), malformed="raise")
    (tmp_path / "train.jsonl").write_text(json.dumps(record("#### 1")))
    with pytest.raises(DataError, match=r"test\.jsonl is not a file"):
        gsm8k.load(str(tmp_path), malformed="raise")


def test_without_datasets_the_message_says_to_pass_a_folder(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs `agent-tunix\[hub\]`.*data\.path=FOLDER"):
        gsm8k.load(None, malformed="raise")


def test_without_a_hub_the_message_says_to_pass_a_folder(monkeypatch):
    def load_dataset(name, config):
        raise ConnectionError("no route to host\nsecond line")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError, match=r"\(no route to host\); pass data\.path=FOLDER"):
        gsm8k.load(None, malformed="raise")


def test_rows_of_the_hub_are_read_and_malformed_ones_named(monkeypatch):
    splits = {"train": [record("So.\n#### -3"), record("none")], "test": [record("So.\n#### 0")]}
    module = types.SimpleNamespace(load_dataset=lambda name, config: splits)
    monkeypatch.setitem(sys.modules, "datasets", module)
    train, heldout, skipped = gsm8k.load(None, malformed="skip")
    assert ([row["answer"] for row in train], [row["answer"] for row in heldout], skipped) == (["-3"], ["0"], 1)
    with pytest.raises(DataError, match="openai/gsm8k train row 2"):
        gsm8k.load(None, malformed="raise")


def real_gsm8k():
    folder = os.environ.get("AGENT_TUNIX_GSM8K", "")
    if not folder or not (Path(folder) / "train.jsonl").is_file():
        pytest.skip("AGENT_TUNIX_GSM8K does not name a folder with train.jsonl and test.jsonl of GSM8K")
    return folder


def test_every_published_question_is_read():
    train, heldout, skipped = gsm8k.load(real_gsm8k(), malformed="raise")
    assert (len(train), len(heldout), skipped) == (7473, 1319, 0)
    golds = [row["answer"] for row in train + heldout]
    assert sum(gold.startswith("-") for gold in golds) == 5 and golds.count("0") == 1
    assert all(re.fullmatch(r"-?[0-9]+", gold) for gold in golds)
    assert not any("<<" in row["demonstration"] or "####" in row["demonstration"] for row in train + heldout)
    assert {row["prompt"] for row in train}.isdisjoint(row["prompt"] for row in heldout)
