"""The documented rewards API: its graders, its design patterns, and every one of its examples, run as written."""

import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix import rewards
from tests.texts import rollouts

STATED, UNSTATED = "2 + 2 = 4. The answer is 4.", "2 plus 2 equals 4."
FORMAT = "The answer is [NUM]."


def run(*examples):
    """Runs code as a file that begins with a star import, and returns what it defines."""
    names = {}
    exec("\n".join(("from agent_tunix.rewards import *", *examples)), names)
    return names


# --- The examples -----------------------------------------------------------------------------------------------------

FORMAT_EXAMPLE = """
response = "The answer is 4."
expected_format = "The answer is [NUM]."
reward = match_format_exactly(response, expected_format)
"""
CORRECTNESS_EXAMPLE = """
response = "2 + 2 = 4. The answer is 4."
ground_truth = "4"
reward = check_answer(response, ground_truth)
"""
NUMBERS_EXAMPLE = """
response = "2 + 2 = 4. The answer is 4."
numbers = check_numbers(response, [4])
# Returns: {"extracted": [4], "matches": [True], "score": 1.0}
"""
COMBINED_EXAMPLE = """
alpha = 0.3  # Format importance
beta = 0.7   # Correctness importance
format_reward = match_format_exactly("2 + 2 = 4. The answer is 4.", "The answer is [NUM].")
correctness_reward = check_answer("2 + 2 = 4. The answer is 4.", "4")
total_reward = alpha * format_reward + beta * correctness_reward
"""
CUSTOM_EXAMPLE = '''
def custom_reward_function(response: str, prompt: str, metadata: dict) -> float:
    """
    Compute reward for a response.

    Args:
        response: Model-generated response
        prompt: Original input prompt
        metadata: Additional context (answer, format, etc.)

    Returns:
        Reward score (typically 0.0 to 1.0)
    """
    # Extract expected answer from metadata
    expected = metadata.get("answer", "")

    # Compute components
    format_score = evaluate_format(response, metadata.get("format"))
    correctness_score = evaluate_correctness(response, expected)
    completeness_score = evaluate_completeness(response)

    # Combine with weights
    reward = (
        0.3 * format_score +
        0.5 * correctness_score +
        0.2 * completeness_score
    )

    return reward
'''
BINARY_EXAMPLE = """
def binary_reward(response, ground_truth):
    return 1.0 if is_correct(response, ground_truth) else 0.0
"""
GRADUATED_EXAMPLE = """
def graduated_reward(response, ground_truth):
    if is_correct(response, ground_truth):
        return 1.0
    elif is_partially_correct(response, ground_truth):
        return 0.5
    else:
        return 0.0
"""
CONTINUOUS_EXAMPLE = """
def continuous_reward(response, ground_truth):
    error = abs(extract_number(response) - ground_truth)
    max_error = 100
    return max(0.0, 1.0 - (error / max_error))
"""
COMPOSITE_EXAMPLE = """
def composite_reward(response, prompt, ground_truth):
    # Evaluate different aspects
    relevance = evaluate_relevance(response, prompt)
    correctness = evaluate_correctness(response, ground_truth)
    clarity = evaluate_clarity(response)
    conciseness = evaluate_conciseness(response)

    # Weighted combination
    reward = (
        0.4 * correctness +
        0.3 * relevance +
        0.2 * clarity +
        0.1 * conciseness
    )
    return reward
"""
SHAPED_EXAMPLE = '''
def shaped_reward(response, ground_truth):
    """Add shaping to guide model behavior."""
    base_reward = check_correctness(response, ground_truth)

    # Shape 1: Penalize very long responses
    length_penalty = -0.1 * len(response.split()) / 100

    # Shape 2: Reward attempting reasoning steps
    reasoning_bonus = 0.1 if has_reasoning_steps(response) else 0.0

    # Shape 3: Penalize hallucination
    hallucination_penalty = -0.2 if has_hallucination(response) else 0.0

    return base_reward + length_penalty + reasoning_bonus + hallucination_penalty
'''
IMPROVED_EXAMPLE = """
def improved_reward(response, ground_truth):
    if exact_match(response, ground_truth):
        return 1.0
    elif close_match(response, ground_truth, tolerance=0.1):
        return 0.5
    else:
        return 0.0
"""
STABLE_EXAMPLE = """
def stable_reward(response, ground_truth):
    base = check_correctness(response, ground_truth)
    # Add minimum reward to avoid exact zeros
    return max(base, 0.1)
"""
ROBUST_EXAMPLE = """
def robust_reward(response, ground_truth):
    correctness = check_correctness(response, ground_truth)
    format_match = check_format(response, expected_format)

    # Both must be good
    if format_match < 0.8:
        return 0.0

    return correctness
"""
TESTING_EXAMPLE = """
from agent_tunix.rewards import check_answer, match_format_exactly

# Test data
test_cases = [
    {
        "response": "2 + 2 = 4. The answer is 4.",
        "ground_truth": "4",
        "expected_format": "The answer is [NUM].",
        "expected_reward": 1.0
    },
    {
        "response": "2 plus 2 equals 4.",
        "ground_truth": "4",
        "expected_format": "The answer is [NUM].",
        "expected_reward": 0.5  # Correct but wrong format
    }
]

# Evaluate
for case in test_cases:
    format_reward = match_format_exactly(
        case["response"],
        case["expected_format"]
    )
    correctness_reward = check_answer(
        case["response"],
        case["ground_truth"]
    )
    total = 0.3 * format_reward + 0.7 * correctness_reward
    print(f"Expected: {case['expected_reward']}, Got: {total}")
"""
PATTERN_EXAMPLES = {
    "binary_reward": BINARY_EXAMPLE,
    "graduated_reward": GRADUATED_EXAMPLE,
    "continuous_reward": CONTINUOUS_EXAMPLE,
    "shaped_reward": SHAPED_EXAMPLE,
    "improved_reward": IMPROVED_EXAMPLE,
    "stable_reward": STABLE_EXAMPLE,
    "robust_reward": FORMAT_EXAMPLE + ROBUST_EXAMPLE,
}


def test_the_format_example_gives_its_reward():
    assert run(FORMAT_EXAMPLE)["reward"] == 1.0


def test_the_correctness_example_gives_its_reward():
    assert run(CORRECTNESS_EXAMPLE)["reward"] == 1.0


def test_the_numbers_example_returns_what_it_says():
    assert run(NUMBERS_EXAMPLE)["numbers"] == {"extracted": [4], "matches": [True], "score": 1.0}


def test_the_combined_example_adds_up_to_one():
    assert run(COMBINED_EXAMPLE)["total_reward"] == 1.0


def test_the_testing_example_prints_what_it_expects(capsys):
    run(TESTING_EXAMPLE)
    assert capsys.readouterr().out == "Expected: 1.0, Got: 1.0\nExpected: 0.5, Got: 0.5\n"


@pytest.mark.parametrize(
    ("response", "expected"),
    # 0.3 * format + 0.5 * correctness + 0.2 * completeness
    [(STATED, 0.3 + 0.5 + 0.2), (UNSTATED, 0.15 + 0.25 + 0.1), ("no idea", 0.0)],
)
def test_the_custom_example_is_the_function_that_is_there(response, expected):
    arguments = response, "What is 2 + 2?", {"answer": "4", "format": FORMAT}
    assert run(CUSTOM_EXAMPLE)["custom_reward_function"](*arguments) == pytest.approx(expected)
    assert rewards.custom_reward_function(*arguments) == pytest.approx(expected)


def test_the_custom_example_takes_rows_without_a_format_or_an_answer():
    function = run(CUSTOM_EXAMPLE)["custom_reward_function"]
    assert function("<answer>4</answer>", "", {"answer": 4}) == pytest.approx(1.0)
    assert function("<answer>4</answer>", "", {}) == pytest.approx(0.3 + 0.2)


TABLE = [
    # response, ground truth, binary, graduated, continuous, shaped, improved, stable, robust
    # shaped: 1 - 0.1 * 9 / 100 + 0.1 for the calculation
    (STATED, 4, 1.0, 1.0, 1.0, 1.091, 1.0, 1.0, 1.0),
    # shaped: 0.5 - 0.1 * 5 / 100
    (UNSTATED, 4, 0.0, 0.5, 1.0, 0.495, 0.5, 0.5, 0.0),
    # shaped: 0.5 - 0.1 * 4 / 100
    ("The answer is 95.", 100, 0.0, 0.5, 0.95, 0.496, 0.5, 0.5, 0.5),
    # shaped: -0.1 * 9 / 100 + 0.1 - 0.2
    ("2 + 2 = 5. The answer is 5.", 4, 0.0, 0.0, 0.99, -0.109, 0.0, 0.1, 0.0),
    ("No idea", 4, 0.0, 0.0, 0.0, -0.002, 0.0, 0.1, 0.0),
    ("", 4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.0),
]
PATTERNS = ["binary", "graduated", "continuous", "shaped", "improved", "stable", "robust"]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
@pytest.mark.parametrize("column", range(len(PATTERNS)), ids=PATTERNS)
def test_every_pattern_gives_the_value_worked_out_by_hand_as_pasted_and_as_offered(row, column):
    response, truth, *expected = row
    name = f"{PATTERNS[column]}_reward"
    pasted, offered = run(PATTERN_EXAMPLES[name])[name], getattr(rewards, name)
    assert pasted(response, truth) == pytest.approx(expected[column], abs=1e-12)
    assert offered(response, truth) == pytest.approx(expected[column], abs=1e-12)
    assert offered(response, str(truth)) == pytest.approx(expected[column], abs=1e-12)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (STATED, 1.0),  # everything
        ("The answer is 5.", 0.2 + 0.1),  # clear and concise, nothing else: the prompt counts only `2`
        ("", 0.0),
    ],
)
def test_the_composite_pattern_gives_the_value_worked_out_by_hand(response, expected):
    arguments = response, "What is 2 + 2?", "4"
    assert run(COMPOSITE_EXAMPLE)["composite_reward"](*arguments) == pytest.approx(expected)
    assert rewards.composite_reward(*arguments) == pytest.approx(expected)


# --- Format -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response",
    [
        "The answer is 4.",
        "The answer is -1,234.5.",
        "The answer is −3.",
        "The answer is 3/4.",
        "The answer is 0.",
        "  The\tanswer  is 4. \n",
        "So it is.\nThe answer is 4.",
        "2 + 2\nThe answer is 4.",
        "Really? The answer is 4.",
        "<b>Sum</b>The answer is 4.",
        "The answer is 5. The answer is 4.",
    ],
)
def test_a_response_that_ends_in_the_template_has_the_format(response):
    assert rewards.match_format_exactly(response, FORMAT) == 1.0


@pytest.mark.parametrize(
    "response",
    [
        UNSTATED,
        "the answer is 4.",
        "The answer is 4",
        "The answer is 4. Bye.",
        "The answer is four.",
        "The answer is .",
        "The answer is -.",
        "The answer is 4 or 5.",
        "I doubt The answer is 4.",
        "The answer is [NUM].",
        "The answer is 4,0000.",
        "4",
    ],
)
def test_a_part_of_the_template_earns_half(response):
    assert rewards.match_format_exactly(response, FORMAT) == 0.5


@pytest.mark.parametrize("response", ["", " ", "No idea.", "Four.", "The", "Theanswer is four", "...", "x²"])
def test_nothing_of_the_template_earns_nothing(response):
    assert rewards.match_format_exactly(response, FORMAT) == 0.0


@pytest.mark.parametrize(
    ("template", "response", "expected"),
    [
        ("#### [NUM]", "6 * 7\n#### 42", 1.0),
        ("<answer>[NUM]</answer>", "<reasoning>6 * 7</reasoning><answer>42</answer>", 1.0),
        ("<reasoning>[TEXT]</reasoning><answer>[NUM]</answer>", "<reasoning>a\nb</reasoning><answer>4</answer>", 1.0),
        ("<reasoning>[TEXT]</reasoning><answer>[NUM]</answer>", "<reasoning></reasoning><answer>4</answer>", 0.5),
        ("[NUM] + [NUM] = [NUM]", "2 + 2 = 4", 1.0),
        ("[NUM] + [NUM] = [NUM]", "two", 0.0),
        ("[TEXT] is [NUM].", "This is why it is 4.", 1.0),  # the first ` is ` leads nowhere
        ("First, [TEXT]. The answer is [NUM].", "First, add. Then look. The answer is 4.", 1.0),
        ("[TEXT]", "anything", 1.0),
        ("[TEXT]!", "anything", 0.0),  # `!` is no element
        ("Yes", "Yes", 1.0),
        ("a.c [NUM]", "abc 4", 0.5),  # literal text is no regular expression
    ],
)
def test_templates_of_other_kinds(template, response, expected):
    assert rewards.match_format_exactly(response, template) == expected


@pytest.mark.parametrize("template", ["", "  ", "The answer is [NUMBER].", "[WORD]"])
def test_a_template_that_nothing_could_match_is_refused(template):
    with pytest.raises(ValueError, match=r"expected_format has .*; write a template with \[NUM\]"):
        rewards.match_format_exactly("4", template)


@given(st.lists(st.sampled_from(["[NUM]", "[TEXT]", " the answer is ", "x", ". ", "(", "$"]), min_size=1), st.data())
def test_a_response_made_from_a_template_has_its_format(pieces, data):
    number = st.one_of(st.integers(-(10**6), 10**6), st.decimals(-1000, 1000, places=2)).map(str)
    joined = [piece if piece not in ("[NUM]", "[TEXT]") else None for piece in pieces]
    # A literal in front of a number keeps two numbers, or a number and a digit, apart.
    template = "".join(f"<{piece}" for piece in pieces)
    fill = {"[NUM]": number, "[TEXT]": st.sampled_from(["a", "some text", "so 3 + 4 it is"])}
    written = "".join(
        f"<{literal if literal is not None else data.draw(fill[piece])}" for piece, literal in zip(pieces, joined)
    )
    assert rewards.match_format_exactly(written, template) == 1.0


# --- Correctness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "truth", "expected"),
    [
        ("The answer is 4.", 4, 1.0),
        ("The answer is 4.0.", "4", 1.0),
        ("#### $1,000", "1000", 1.0),
        ("<answer>-47</answer>", "-47", 1.0),
        ("<answer>0</answer>", 0, 1.0),
        ("4", "4", 1.0),  # nothing but the answer
        ("Paris", "paris", 1.0),
        ("The answer is Paris.", "Paris", 1.0),
        ("1 3 4 5", "1 3 4 5", 1.0),
        ("The answer is 110.", 100, 0.5),  # |110 - 100| = 10 = 10 % of 100
        ("The answer is 90.", 100, 0.5),
        ("95", 100, 0.5),
        ("The answer is -4.4.", -4, 0.5),
        ("So Tom has 4 apples", "4", 0.5),
        ("They end at -3", "-3", 0.5),
        ("a total of 0", "0", 0.5),
        ("The answer is 110.01.", 100, 0.0),
        ("The answer is 89.99.", 100, 0.0),
        ("The answer is 4.", -4, 0.0),
        ("The answer is 0.01.", 0, 0.0),
        ("The answer is -0.", 0, 1.0),
        ("it comes to 0.01", "0", 0.0),
        ("So Tom has 4 apples and 3 pears", "4", 0.0),  # 4 is not the last number
        ("So Tom has 39 apples", "40", 0.0),  # near, but neither stated nor right
        ("The answer is 4 or 5.", 4, 0.0),
        ("The answer is not 4.", 4, 0.0),
        ("The answer is 5. I mean 4", "4", 0.0),
        ("The answer is 50%.", 50, 0.0),
        ("<answer></answer>", "4", 0.0),
        ("The answer is London.", "Paris", 0.0),
        ("London", "Paris", 0.0),
        ("", "", 0.0),
        ("", "4", 0.0),
    ],
)
def test_answers_are_graded_in_full_by_half_or_not(response, truth, expected):
    assert rewards.check_answer(response, truth) == expected


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_half_credit_reaches_exactly_as_far_as_a_tenth_of_the_truth(answer, truth):
    near = abs(Fraction(answer) - truth) <= Fraction(abs(truth), 10)
    expected = 1.0 if answer == truth else 0.5 if near else 0.0
    assert rewards.check_answer(f"The answer is {answer}.", truth) == expected
    assert rewards.check_answer(f"<answer>{answer:,}</answer>", str(truth)) == expected


@given(st.text(), st.one_of(st.text(), st.integers()))
def test_whatever_exact_answer_accepts_earns_everything(response, truth):
    assert rewards.check_answer(response, truth) >= rewards.exact_answer(response, truth)
    assert rewards.is_correct(response, truth) <= rewards.is_partially_correct(response, truth)


# --- Numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "expected", "extracted", "matches", "score"),
    [
        ("2 + 2 = 4. The answer is 4.", [4], [4], [True], 1.0),
        ("The answer is 5.", [4], [5], [False], 0.0),
        ("Tom has 3, Ann has 5", [3, 5], [3, 5], [True, True], 1.0),
        ("Tom has 3, Ann has 5", [5, 3], [3, 5], [True, True], 1.0),  # in any order
        ("Tom has 3, Ann has 5", [5], [5], [True], 1.0),  # the last one
        ("Tom has 3", [3, 5], [3], [True, False], 0.5),
        ("The answer is 3, 4 or 5.", [4], [3, 4, 5], [True], 1 / 3),
        ("The answer is 4.", [4, 4], [4], [True, False], 0.5),  # each at most once
        ("#### -1,234.5", [-1234.5], [-1234.5], [True], 1.0),
        ("<answer>-3</answer>", [3], [-3], [False], 0.0),
        ("<answer>−5</answer>", [-5], [-5], [True], 1.0),
        ("<answer>0</answer>", [0], [0], [True], 1.0),
        ("<answer>4.0</answer>", [4], [4], [True], 1.0),
        ("<answer>0.1</answer>", [0.1], [0.1], [True], 1.0),  # as written, not as binary
        (r"\boxed{\frac{1}{2}}", [0.5], [0.5], [True], 1.0),
        ("$4.0 - $0.2 = $3.8", [3.8], [3.8], [True], 1.0),
        ("3-5", [3, 5], [3, 5], [True, True], 1.0),
        ("-$4 and (-3) and =-7", [-4, -3, -7], [-4, -3, -7], [True] * 3, 1.0),
        ("84/2 = 42", [42, 42], [42, 42], [True, True], 1.0),
        ("x2 and H2O", [2], [], [False], 0.0),
        ("none", [4], [], [False], 0.0),
        ("", [4], [], [False], 0.0),
        ("none", [], [], [], 1.0),
        ("The answer is 4.", [], [4], [], 0.0),
        ("It is 1,000", ["1000"], [1000], [True], 1.0),
        ("It is 7", 7, [7], [True], 1.0),
        ("It is " + "3" * 5000, [3], [], [False], 0.0),
        ("It is 1e9999999", [1], [], [False], 0.0),
    ],
)
def test_numbers_are_extracted_and_compared_exactly(response, expected, extracted, matches, score):
    found = rewards.check_numbers(response, expected)
    assert found == {"extracted": extracted, "matches": matches, "score": pytest.approx(score)}
    assert [type(number) for number in found["extracted"]] == [type(number) for number in extracted]


def test_numbers_of_many_responses_are_a_list_of_records():
    one = {"extracted": [4], "matches": [True], "score": 1.0}
    other = {"extracted": [5], "matches": [False], "score": 0.0}
    assert rewards.check_numbers(["It is 4", "It is 5"], [4]) == [one, other]
    assert rewards.check_numbers(["It is 4", "It is 5"], [[4], [4]]) == [one, other]
    completions = ["It is 4", [{"role": "assistant", "content": "It is 5"}]]
    assert rewards.check_numbers(prompts=["", ""], completions=completions, expected_numbers=[[4], 4]) == [one, other]
    assert rewards.check_numbers(prompts=["", ""], completions=completions, answer=["4", "4"]) == [one, other]


def test_expected_numbers_have_to_be_numbers_and_as_many_as_responses():
    with pytest.raises(ValueError, match="check_numbers expects 'four', which is no number"):
        rewards.check_numbers("4", ["four"])
    with pytest.raises(ValueError, match="3 lists of numbers for 2 responses"):
        rewards.check_numbers(["4", "5"], [[4], [5], [6]])
    with pytest.raises(TypeError, match="a response has to be text, got 4"):
        rewards.check_numbers.each(4, [4])


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=8), st.randoms())
def test_listed_numbers_match_in_any_order(numbers, random):
    shuffled = random.sample(numbers, len(numbers))
    found = rewards.check_numbers(" and ".join(f"{number:,}" for number in numbers), shuffled)
    assert found == {"extracted": numbers, "matches": [True] * len(numbers), "score": 1.0}


# --- Aspects ----------------------------------------------------------------------------------------------------------


def test_correctness_has_the_same_meaning_under_every_name():
    for response, truth in ((STATED, 4), (UNSTATED, 4), ("The answer is 5.", 4)):
        graded = rewards.check_answer(response, truth)
        assert rewards.check_correctness(response, truth) == rewards.evaluate_correctness(response, truth) == graded
        assert rewards.exact_match(response, truth) is rewards.is_correct(response, truth) is (graded == 1.0)
        assert rewards.is_partially_correct(response, truth) is (graded >= 0.5)


@pytest.mark.parametrize(
    ("response", "tolerance", "expected"),
    [
        ("The answer is 95.", 0.1, True),
        ("The answer is 95.", 0.05, True),
        ("The answer is 95.", 0.04, False),
        ("It comes to 95", 0.1, True),
        ("The answer is 90 or 95.", 0.1, False),
        ("The answer is -95.", 0.1, False),
        ("none", 0.1, False),
    ],
)
def test_a_close_match_is_within_the_tolerance(response, tolerance, expected):
    assert rewards.close_match(response, 100, tolerance=tolerance) is expected


def test_a_close_match_of_zero_or_of_text_is_an_exact_one():
    assert rewards.close_match("The answer is 0.", 0) is True
    assert rewards.close_match("The answer is 0.001.", 0) is False
    assert rewards.close_match("The answer is Paris.", "Paris") is True
    assert rewards.close_match("The answer is 4.", "Paris") is False


@pytest.mark.parametrize(
    ("response", "number"),
    [("The answer is -1,234.5.", -1234.5), ("first 3, then 4", 4), ("#### 3/4", 0.75), ("The answer is about 7.", 7)],
)
def test_the_number_of_a_response_is_the_stated_or_the_last_one(response, number):
    assert rewards.extract_number(response) == number


@pytest.mark.parametrize("response", ["", "none", "The answer is 3 or 4.", "The answer is four."])
def test_no_number_is_nan(response):
    assert math.isnan(rewards.extract_number(response))


def test_a_format_that_is_not_named_is_the_tagged_one():
    assert rewards.evaluate_format("<answer>4</answer>") == 1.0
    assert rewards.evaluate_format("<answer>4</answer>", None) == 1.0
    assert rewards.evaluate_format(STATED, None) == 0.0
    assert rewards.evaluate_format(STATED, FORMAT) == rewards.check_format(STATED, FORMAT) == 1.0


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("The answer is 4.", 1.0),
        ("<reasoning>2 + 2</reasoning><answer>4</answer>", 1.0),
        ("#### 4", 1.0),
        ("<reasoning>2 + 2<answer>4</answer>", 0.5),  # an open tag
        ("2 + 2 is 4.", 0.5),
        ("<answer> </answer>", 0.5),
        ("2 + 2 is", 0.0),
        ("", 0.0),
    ],
)
def test_completeness_is_an_answer_and_an_end(response, expected):
    assert rewards.evaluate_completeness(response) == expected


def test_relevance_is_the_share_of_words_used_and_half_of_them_is_enough():
    prompt = "Tom has 3 red apples and buys 4 green ones."  # tom 3 red apples buys 4 green ones: 8 words
    assert rewards.evaluate_relevance("apples", prompt) == 2 * 1 / 8
    assert rewards.evaluate_relevance("TOM bought 3", prompt) == 2 * 2 / 8
    assert rewards.evaluate_relevance("tom red apples green 3 4", prompt) == 1.0
    assert rewards.evaluate_relevance("the and has", prompt) == 0.0
    assert rewards.evaluate_relevance("apples " * 100, prompt) == 2 * 1 / 8


def test_a_copy_of_the_prompt_is_not_relevant():
    prompt = "Tom has 3 red apples."
    assert rewards.evaluate_relevance(prompt, prompt) == 0.0
    assert rewards.evaluate_relevance(f"{prompt} {prompt} So red", prompt) == 2 * 1 / 4


def test_a_prompt_without_words_asks_for_any():
    assert rewards.evaluate_relevance("4", "?") == 1.0
    assert rewards.evaluate_relevance("!", "?") == 0.0


def test_clarity_is_the_share_of_short_sentences_without_repetition():
    assert rewards.evaluate_clarity("Add. Look. Done.") == 1.0
    assert rewards.evaluate_clarity("Add. add. Done.") == pytest.approx(2 / 3)
    assert rewards.evaluate_clarity("Add. " + "so " * 25 + ".") == 1.0  # the final mark makes no word
    assert rewards.evaluate_clarity("Add.\n" + "so " * 26) == 0.5
    assert rewards.evaluate_clarity("Add.\n" + "so " * 26, longest=26) == 1.0
    assert rewards.evaluate_clarity("3.14 is one sentence") == 1.0
    assert rewards.evaluate_clarity("") == rewards.evaluate_clarity("... !") == 0.0


def test_conciseness_falls_in_a_straight_line():
    counts = [0, 1, 50, 140, 500, 501]
    expected = [0.0, 1.0, 1.0, (500 - 140) / 450, 0.0, 0.0]
    np.testing.assert_allclose(rewards.evaluate_conciseness(["so " * count for count in counts]), expected, atol=1e-12)
    assert rewards.evaluate_conciseness("so so so", enough=2, too_many=4) == 0.5
    with pytest.raises(ValueError, match="make too_many the greater"):
        rewards.evaluate_conciseness("so", enough=4, too_many=4)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("48 / 2 = 24", True),
        ("$5 * (2 + 1) = $15", True),
        ("Step 1: add. Step 2: look.", True),
        ("First, add. Then look.", True),
        ("1. add\n2. look", True),
        ("So it is.\n**Therefore** so it is", True),
        ("Then. Then. Then.", False),  # one marker
        ("the first and then the next", False),  # nothing opens a sentence
        ("The answer is 4.", False),
        ("2 + 2", False),
        ("= = =", False),
        ("", False),
    ],
)
def test_steps_are_calculations_or_different_markers(response, expected):
    assert rewards.has_reasoning_steps(response) is expected


def test_a_hallucination_is_a_false_equation():
    assert rewards.has_hallucination("48 / 2 = 24, and 48 + 24 = 73.") is True
    assert rewards.has_hallucination("48 / 2 = 24, and 48 + 24 = 72.") is False
    assert rewards.has_hallucination("The moon is made of cheese.") is False


def test_the_continuous_reward_needs_a_number_and_a_scale():
    assert rewards.continuous_reward("The answer is 8.", 4, max_error=8) == 0.5
    with pytest.raises(ValueError, match="'Paris', which is no number"):
        rewards.continuous_reward("4", "Paris")
    with pytest.raises(ValueError, match="max_error=0; give a positive one"):
        rewards.continuous_reward("4", 4, max_error=0)


def test_the_robust_reward_takes_other_formats():
    assert rewards.robust_reward("6 * 7\n#### 42", 42, "#### [NUM]") == 1.0
    assert rewards.robust_reward("6 * 7\n#### 42", 42) == 0.0


# --- Arrays and rewards -----------------------------------------------------------------------------------------------

OF_TRUTH = [
    "binary_reward", "check_answer", "check_correctness", "close_match", "continuous_reward", "evaluate_correctness",
    "exact_match", "graduated_reward", "improved_reward", "is_correct", "is_partially_correct", "robust_reward",
    "shaped_reward", "stable_reward",
]  # fmt: skip
OF_RESPONSE = [
    "evaluate_clarity", "evaluate_completeness", "evaluate_conciseness", "evaluate_format", "extract_number",
    "has_hallucination", "has_reasoning_steps",
]  # fmt: skip
RESPONSES = [STATED, UNSTATED, "The answer is 4.2.", "2 + 2 = 5", ""]


@pytest.mark.parametrize("name", OF_TRUTH)
def test_graders_against_a_truth_broadcast_as_numpy_does(name):
    grader = getattr(rewards, name)
    truths = np.array([[4], [5]])
    graded = grader(RESPONSES, truths)
    assert graded.shape == (2, 5)
    expected = [[float(grader(response, truth)) for response in RESPONSES] for truth in (4, 5)]
    np.testing.assert_array_equal(graded, expected)
    np.testing.assert_array_equal(grader(STATED, [4, "5"]), [float(grader(STATED, 4)), float(grader(STATED, 5))])


@pytest.mark.parametrize("name", OF_TRUTH)
def test_graders_take_the_columns_of_other_trainers(name):
    grader = getattr(rewards, name)
    graded = grader(prompts=["?"] * 5, completions=RESPONSES, answer=["4"] * 5, task=["sum"] * 5)
    assert graded == [float(grader(response, "4")) for response in RESPONSES]
    assert all(type(value) is float for value in graded)


@pytest.mark.parametrize("name", OF_RESPONSE)
def test_graders_of_a_response_alone_take_arrays(name):
    grader = getattr(rewards, name)
    np.testing.assert_array_equal(grader(RESPONSES), [float(grader(response)) for response in RESPONSES])


def test_formats_and_prompts_broadcast_too():
    np.testing.assert_array_equal(rewards.match_format_exactly([STATED, UNSTATED], FORMAT), [1.0, 0.5])
    np.testing.assert_array_equal(rewards.check_format(STATED, [FORMAT, "#### [NUM]"]), [1.0, 0.5])
    np.testing.assert_array_equal(rewards.evaluate_relevance(["a red hat", "4"], ["red hats", "4?"]), [1.0, 1.0])
    graded = rewards.composite_reward([STATED, ""], "What is 2 + 2?", 4)
    np.testing.assert_allclose(graded, [1.0, 0.0], atol=1e-12)


def test_the_documented_total_as_a_reward():
    batch = rollouts([[STATED, UNSTATED], [STATED, "No idea"]], answer=["4", "4"], expected_format=[FORMAT, FORMAT])
    total = rewards.weighted_sum(
        (0.3, rewards.as_reward(rewards.match_format_exactly, bounds=(0, 1))),
        (0.7, rewards.as_reward(rewards.check_answer, bounds=(0, 1))),
    )
    score = total(batch)
    np.testing.assert_allclose(score.value, [[1.0, 0.5], [1.0, 0.0]], atol=1e-6)
    np.testing.assert_array_equal(score.parts["check_answer"], [[1.0, 0.5], [1.0, 0.0]])


def test_a_custom_function_is_a_reward():
    batch = rollouts([[STATED, UNSTATED]], answer=["4"], format=[FORMAT])
    score = rewards.as_reward(rewards.custom_reward_function)(batch)
    np.testing.assert_allclose(score.value, [[1.0, 0.5]], atol=1e-6)
    assert list(score.parts) == ["custom_reward_function"]
    pasted = rewards.as_reward(run(CUSTOM_EXAMPLE)["custom_reward_function"])(batch)
    np.testing.assert_array_equal(pasted.value, score.value)


def test_pasted_patterns_are_rewards():
    batch = rollouts([[STATED, UNSTATED]], answer=["4"])
    for name in ("binary_reward", "graduated_reward", "improved_reward", "stable_reward", "robust_reward"):
        pasted = rewards.as_reward(run(PATTERN_EXAMPLES[name])[name])(batch)
        assert pasted.valid.all()
        np.testing.assert_array_equal(pasted.value, rewards.as_reward(getattr(rewards, name))(batch).value)


@pytest.mark.parametrize("name", [*OF_TRUTH, *OF_RESPONSE, "match_format_exactly", "evaluate_relevance"])
def test_a_response_that_is_no_text_is_refused(name):
    grader = getattr(rewards, name)
    further = [] if name in OF_RESPONSE else ["4"]
    with pytest.raises((TypeError, AttributeError)):
        grader(4, *further)


# --- Hostile text -----------------------------------------------------------------------------------------------------

HOSTILE = {
    "digits": "9" * 10**6,
    "numbers": "1 " * 500_000,
    "grouped": "1,111" * 200_000,
    "statements": "The answer is " * 70_000,
    "open tags": "<answer>" * 125_000,
    "long answer": "<answer>" + "1 " * 500_000 + "</answer>",
    "newlines": "\n" * 10**6,
    "lines of numbers": "\n1" * 500_000,
    "brackets": ">" * 10**6,
    "sentences": "a. " * 330_000,
    "minus": "-" * 10**6,
    "operators": "1+1=2 " * 160_000,
    "surrogates": "\ud800" * 10**6,
    "nulls": "\0" * 10**6,
    "powers": "9**9**9 = 1 " * 80_000,
    "exponents": "1e9999999 " * 100_000,
    "spaces": "." + " " * 10**6 + "then",
    "braces": "\\boxed{" * 140_000,
    "unicode digits": "４２ " * 300_000,
    "words": "so then " * 125_000,
}


LENIENT = {*OF_RESPONSE, "evaluate_relevance", "continuous_reward"}
"""Graders that do not ask for a right answer."""


def hostile_calls():
    """Every grader of this file on one text."""
    for name in OF_TRUTH:
        yield name, lambda text, name=name: getattr(rewards, name)(text, "4")
    for name in OF_RESPONSE:
        yield name, lambda text, name=name: getattr(rewards, name)(text)
    for template in (FORMAT, "<reasoning>[TEXT]</reasoning>[TEXT]<answer>[NUM]</answer>", "[TEXT][NUM][TEXT]!"):
        yield "match_format_exactly", lambda text, template=template: rewards.match_format_exactly(text, template)
    yield "check_numbers", lambda text: rewards.check_numbers(text, [4])["score"]
    yield "evaluate_relevance", lambda text: rewards.evaluate_relevance(text, "What is 2 + 2?")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_megabyte_of_hostile_text_earns_little_and_takes_no_time(text):
    for name, grade in hostile_calls():
        started = time.perf_counter()
        value = grade(text)
        assert time.perf_counter() - started < 1.0, name
        assert value <= 0.5 or name in LENIENT, name


@given(st.text(alphabet=st.characters(), max_size=200) | st.text("0123456789+-*/=.,<>[]{}$% \nanswer", max_size=200))
def test_no_text_raises_or_leaves_the_range(text):
    for name, grade in hostile_calls():
        value = grade(text)
        if name == "shaped_reward":
            assert value <= 1.1 + 1e-12
        elif name != "extract_number":
            assert 0.0 <= value <= 1.0


def test_check_numbers_takes_its_own_arguments_only():
    with pytest.raises(TypeError, match="takes response and expected_numbers, got expected"):
        rewards.check_numbers("A: 4", expected=[4])
    with pytest.raises(ValueError, match="needs the column `expected_numbers` or `answer`"):
        rewards.check_numbers(completions=["A: 4"], level=[1])
    graded = rewards.check_numbers(["A: 4", "A: 5"], np.array([[4], [6]]))
    assert [row["score"] for row in graded] == [1.0, 0.0]
