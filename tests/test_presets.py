"""Presets: the reward of the public demonstrations, on its scales and without its faults."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix import rewards
from agent_tunix.rewards.presets import reasoning_tags
from agent_tunix.types import Bounds
from tests.texts import rollouts

WHOLE = "<reasoning>48 + 24</reasoning>\n<answer>72</answer>"


def one(function, completion, answer=None):
    further = {} if answer is None else {"answer": [answer]}
    return function(prompts=["?"], completions=[completion], task=["sum"], **further)[0]


def test_the_preset_is_in_the_public_namespace():
    assert rewards.presets.reasoning_tags is reasoning_tags


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (WHOLE, 3.0),
        (f"\n{WHOLE}\n", 3.0),
        ("<answer>72</answer>", 0.0),  # the demonstrations ask for reasoning
        ("<reasoning> </reasoning><answer>72</answer>", 0.0),
        ("<reasoning>48</reasoning><answer> </answer>", 0.0),
        ("<reasoning>48</reasoning><answer>72", 0.0),
        (f"Well: {WHOLE}", 0.0),
        (f"{WHOLE} done", 0.0),
        (WHOLE * 2, 0.0),
        ("", 0.0),
    ],
)
def test_the_exact_format_pays_three(completion, expected):
    assert one(reasoning_tags.match_format_exactly, completion) == expected


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (WHOLE, 2.0),
        ("<answer>72</answer>", 0.0),  # 2 * 0.5 - 2 * 0.5
        ("</answer><answer></reasoning><reasoning>", 2.0),  # only counts
        (WHOLE + "<answer>", 1.0),  # 3 * 0.5 - 0.5
        ("<reasoning>" * 9, -2.0),
        ("", -2.0),
    ],
)
def test_each_tag_that_stands_once_pays_a_half(completion, expected):
    assert one(reasoning_tags.match_format_approximately, completion) == expected


@pytest.mark.parametrize(
    ("inner", "answer", "expected"),
    [
        ("72", "72", 3.0),
        ("72", 72, 3.0),
        ("1,000", "1000", 3.0),
        ("1000", "1,000", 3.0),
        ("72.0", "72", 3.0),
        ("-47", "-47", 3.0),
        ("0", "0", 3.0),
        ("Paris", "Paris", 3.0),
        (" 72\n", "72", 1.5),
        ("$72", "72", 1.5),
        ("72 clips", "72", 1.5),
        ("**72**", "72", 1.5),
        ("paris", "Paris", 1.5),
        ("79.2", "72", 0.5),  # 72 * 1.1
        ("64.8", "72", 0.5),  # 72 * 0.9
        ("-45", "-47", 0.5),
        ("79.3", "72", 0.25),
        ("86.4", "72", 0.25),  # 72 * 1.2
        ("86.5", "72", -1.0),
        ("-72", "72", -1.0),
        ("47", "-47", -1.0),
        ("1", "0", -1.0),
        ("72%", "72", -1.0),
        ("72 or 73", "72", -0.5),
        ("seventy-two", "72", -0.5),
        ("London", "Paris", -0.5),
        ("", "72", 0.0),
        (" ", "72", 0.0),
    ],
)
def test_answers_are_paid_on_the_scale_of_the_demonstrations(inner, answer, expected):
    assert one(reasoning_tags.check_answer, f"<reasoning>so</reasoning><answer>{inner}</answer>", answer) == expected


@pytest.mark.parametrize("completion", ["", "72", "#### 72", r"\boxed{72}", "<answer>72", "The answer is 72."])
def test_without_an_answer_block_nothing_is_paid_or_taken(completion):
    assert one(reasoning_tags.check_answer, completion, "72") == 0.0


def test_the_last_answer_block_counts():
    assert one(reasoning_tags.check_answer, "<answer>72</answer><answer>1</answer>", "72") == -1.0
    assert one(reasoning_tags.check_answer, "<answer>1</answer><answer>72</answer>", "72") == 3.0


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        ("<answer>72</answer>", "72", 1.5),
        ("<answer>It is 72 clips</answer>", "72", 1.5),
        ("<answer>It is 72", "72", 1.5),
        ("<answer>-5</answer>", "-5", 1.5),
        ("<answer>1,000 dollars and 5 cents</answer>", "1000", 1.5),
        ("<answer>0</answer>", 0, 1.5),
        ("<answer>5</answer>", "-5", 0.0),
        ("<answer>-5</answer>", "5", 0.0),
        ("<answer>1 72</answer>", "72", 0.0),
        ("<answer>72</answer><answer>1", "72", 0.0),
        ("<answer>none</answer> 72", "72", 0.0),
        ("72", "72", 0.0),
        ("<answer>...</answer>", "72", 0.0),
        ("<answer>Paris</answer>", "Paris", 0.0),
        ("", "72", 0.0),
    ],
)
def test_the_first_number_of_the_answer_pays_once(completion, answer, expected):
    assert one(reasoning_tags.check_numbers, completion, answer) == expected


def test_chat_messages_are_read():
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": WHOLE}]
    assert one(reasoning_tags.match_format_exactly, messages) == 3.0
    assert one(reasoning_tags.check_answer, messages, "72") == 3.0


def test_answers_have_to_be_as_many_as_completions():
    for function in (reasoning_tags.check_answer, reasoning_tags.check_numbers):
        with pytest.raises(ValueError, match="shorter"):
            function(["?"] * 2, [WHOLE] * 2, ["72"])


def test_the_reward_counts_an_answer_once():
    batch = rollouts([[WHOLE, "<answer>72</answer>"], [WHOLE, "72"]], answer=["72", "71"])
    reward = reasoning_tags.reward()
    score = reward(batch)
    # 3 + 2 + 3; 0 + 0 + 3; 3 + 2 + 0.5; 0 - 2 + 0
    np.testing.assert_array_equal(score.value, [[8.0, 3.0], [5.5, -2.0]])
    np.testing.assert_array_equal(score.parts["check_numbers"], [[1.5, 1.5], [0.0, 0.0]])
    assert reward.name == "reasoning_tags"
    assert reward.bounds == Bounds(-3.0, 8.0)
    assert list(score.parts) == ["match_format_exactly", "match_format_approximately", "check_answer", "check_numbers"]


def test_the_reward_counts_an_answer_twice_where_asked():
    reward = reasoning_tags.reward(double_count=True)
    np.testing.assert_array_equal(reward(rollouts([[WHOLE, ""]], answer=["72"])).value, [[9.5, -2.0]])
    assert reward.bounds == Bounds(-3.0, 9.5)


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_integers_are_paid_by_their_distance(number, truth):
    distance = abs(number - truth)
    near = 0.5 if 10 * distance <= abs(truth) else 0.25 if 5 * distance <= abs(truth) else -1.0
    for written in (str(number), f"{number:,}"):
        expected = 3.0 if number == truth else near
        assert one(reasoning_tags.check_answer, f"<answer>{written}</answer>", str(truth)) == expected
        assert one(reasoning_tags.check_numbers, f"<answer>{written}</answer>", f"{truth:,}") == 1.5 * (number == truth)


@given(st.text("0123456789.,-+$% \n<>/\0answer", max_size=100), st.sampled_from(["0", "-7", "Paris", ""]))
def test_no_text_raises_or_leaves_the_bounds(text, answer):
    completions = [text, f"<answer>{text}</answer>", f"<reasoning>{text}</reasoning><answer>{text}"]
    for reward in (reasoning_tags.reward(), reasoning_tags.reward(double_count=True)):
        score = reward(rollouts([completions], answer=[answer]))
        assert score.valid.all()
        assert (score.value >= reward.bounds.low).all() and (score.value <= reward.bounds.high).all()


@pytest.mark.parametrize(
    "text",
    [
        "<reasoning>x</reasoning>\n" * 40_000,
        "<reasoning>x</reasoning>\n" * 20_000 + "<answer>1 " * 50_000,
        "<answer>" * 125_000,
        "<answer>" + "1" * 10**6 + "</answer>",
        "<answer>" + "1," * 500_000 + "</answer>",
        "\n" * 10**6,
        "<answer>" + "\ud800" * 10**6 + "</answer>",
    ],
    ids=["blocks", "blocks and answers", "open tags", "digits", "commas", "newlines", "surrogates"],
)
def test_hostile_text_takes_no_time(text):
    for function in (
        reasoning_tags.match_format_exactly,
        reasoning_tags.match_format_approximately,
        reasoning_tags.check_answer,
        reasoning_tags.check_numbers,
    ):
        started = time.perf_counter()
        assert one(function, text, "72") <= 0.0
        assert time.perf_counter() - started < 1.0
