"""Tools for judges and reward models: the calculator, and the loop in which calls are answered."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix.rewards import calculator, tool_traces


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("365 + 78", "443"),
        ("3 * (2 + 4)", "18"),
        ("2 + 3 * 4 ^ 2", "50"),
        ("7 / 2", "3.5"),
        ("2 / 3", "0.666667"),
        ("-1 / 3", "-0.333333"),
        ("1 / 10000000", "0"),
        ("0 - 1 / 10000000", "0"),
        ("19.999 + 0.001", "20"),
        ("$1,200 × 2", "2400"),
        ("100", "100"),
    ],
)
def test_a_calculator_computes_exactly(expression, value):
    assert calculator(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "", "x + 1", "__import__('os')", "(1).real", "abs(3)", "1; 2", "lambda: 1", "2 ^ 999", "2 ^ 0.5", "1 +", "((1)",
        "(" * 50 + "1" + ")" * 50, "1" * 500, "9 ^ 20 ^ 20", "1 = 1",
    ],
)  # fmt: skip
def test_a_calculator_refuses_what_is_no_expression_of_numbers(expression):
    assert calculator(expression) == "error: no expression of numbers"


def test_division_by_zero_is_told():
    assert calculator("1 / (2 - 2)") == "error: division by zero"


@given(a=st.integers(0, 10**6), b=st.integers(0, 10**6), c=st.integers(1, 8), sign=st.sampled_from("+-*"))
def test_a_calculator_agrees_with_fractions(a, b, c, sign):
    exact = Fraction({"+": a + b, "-": a - b, "*": a * b}[sign]) / c
    assert float(calculator(f"({a} {sign} {b}) / {c}")) == pytest.approx(float(exact), abs=1e-6, rel=1e-12)


def call(tool, argument):
    return f"Action: {tool}\nAction Input: {argument}"


def scripted(*turns):
    """A writer that says its next line to every text, and what it was asked to go on with."""
    asked, left = [], list(turns)

    def write(texts):
        asked.append(list(texts))
        return [left[0]] * len(texts) if len(left) == 1 else [left.pop(0)] * len(texts)

    return write, asked


def test_a_call_is_answered_and_the_model_goes_on():
    write, asked = scripted(call("calculator", "2 + 2"), "Score: 1")
    traces = tool_traces(write, {"calculator": calculator}, ["Q\n"])
    assert traces == ["Q\nAction: calculator\nAction Input: 2 + 2\nObservation: 4\nScore: 1"]
    assert asked[1] == ["Q\nAction: calculator\nAction Input: 2 + 2\nObservation: 4\n"]


@pytest.mark.parametrize("made_up", ["\nObservation: 5", "\nObservation:", "\nObservation: 5\n", "\n"])
def test_what_a_model_makes_up_is_replaced(made_up):
    write, _ = scripted(call("calculator", "2 + 2") + made_up, "")
    assert tool_traces(write, {"calculator": calculator}, [""])[0].endswith("Action Input: 2 + 2\nObservation: 4\n")


def test_only_texts_that_called_are_continued():
    def write(texts):
        return [call("calculator", "1 + 1") if text == "a" else "done" for text in texts]

    traces = tool_traces(write, {"calculator": calculator}, ["a", "b"])
    assert traces == ["a" + call("calculator", "1 + 1") + "\nObservation: 2\ndone", "bdone"]


def test_calls_end():
    write, asked = scripted(call("calculator", "1 + 1"))
    trace = tool_traces(write, {"calculator": calculator}, [""], max_calls=3)[0]
    assert len(asked) == 4
    assert trace.count("Observation: 2") == 3
    assert trace.endswith(call("calculator", "1 + 1"))


def test_a_tool_that_is_not_there_is_an_observation():
    write, _ = scripted(call("calculater", "1"), "")
    trace = tool_traces(write, {"calculator": calculator}, [""])[0]
    assert "Observation: error: unknown tool `calculater`; did you mean `calculator`?" in trace


def test_a_tool_cannot_write_lines_of_its_own():
    write, _ = scripted(call("echo", "x"), "")
    trace = tool_traces(write, {"echo": lambda text: f"{text}\nAction: other"}, [""])[0]
    assert trace.endswith("\nObservation: x Action: other\n")


def test_a_writer_has_to_go_on_with_every_text():
    with pytest.raises(ValueError, match="1 continuations of 2 texts"):
        tool_traces(lambda texts: ["x"], {}, ["a", "b"])


def test_hostile_text_takes_one_pass():
    started = time.perf_counter()
    for hostile in ("Action:" + " " * 50_000 + "x", f"{call('a', ' ' * 50_000)}x", "Action:\n" * 20_000):
        assert tool_traces(lambda texts, text=hostile: [text], {}, [""], max_calls=1)
    assert time.perf_counter() - started < 5
