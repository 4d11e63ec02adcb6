"""Graders on right, wrong and hostile text; lifting functions to rewards; combining rewards."""

import functools
import math
import time
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix import rewards
from agent_tunix.errors import RewardError
from agent_tunix.rewards._answers.numbers import Quantity, normalized, quantity
from agent_tunix.types import Bounds, Failure, Outcome, Score
from tests.texts import TWO_BY_TWO, rollouts

# --- Numbers and exact answers ----------------------------------------------------------------------------------------

FORTY_TWO = r"""
42 | 42. | +42 | 042 | 42.0 | 42.00 | $42 | $42.00 | \$42 | US$42 | 42 USD | €42 | 42€ | 42 dollars | **42**
*42* | __42__ | `42` | "42" | “42” | \boxed{42} | $42$ | $$42$$ | \(42\) | \[42\] | $\$42$ | \text{42} | **42.**
**42**. | 42 cm^2 | 42 cm² | 42cm | 42 km/h | 42km/h | 42 miles per hour | 42 dollars per week | $42/hour
42\text{ cm} | 42^\circ | 42° | 42 °C | 42 apples | **42** apples | $42$ apples | 42 square feet
42 more apples | 4.2e1 | 4.2 \times 10^1 | 4.2 × 10^{1} | 4.2x10^1 | 420 * 10^{-1} | 84/2 | 84 / 2
\frac{84}{2} | \dfrac{84}{2} | $\frac{84}{2}$ | x = 42 | = 42 | The answer is 42 | Answer: 42 | **Answer:** 42
The final answer is: 42. | 42\ \text{cm}^2
"""
NOT_FORTY_TWO = r"""
41 | not 42 | 42 or 43 | 41, 42 | 42, 42 | {41,42} | (41, 42) | [42] | 42 million | 42 thousand dollars
42 dozen | 42k | 42 k | 42M | 42e3 | 42! | 42x | 42i | 42 x | > 42 | < 42 | ≥ 42 | \ne 42 | \geq 42 | 41-42
40–42 | 42 ± 1 | 42 +/- 1 | about 42 | ~42 | approximately 42 | 42-ish | 42ish | 42 maybe | 42 or so
at least 42 | 42 at most | 42 or more | 9*2=42 | 42=42 | 43=42 | lambda: 42 | 41<!-- 42 --> | 42% | 42 percent
42\% | 4 2 | -42 | −42 | - 42 | --42 | +-42 | 42^2 | 42² | 42 squared | 42 two | 42 hundred | 42 minus 1
42 mod 5 | half of 42 | 4,2 | 42,000 | 0,042 | 0x2a | ４２ | forty-two | 42? | 42.. | 42... | 42:00 | 42/0
42/1/1 | 9**9**9 | 2**3**4 | *42* or *43* | $42$ or $43$ | '42' '43' | 10^{10^8} | $9^{9^9}$ | (10^9)! | nan
inf | -inf | no answer | 42 wrong | 42 is wrong | the answer is not 42 | 41 42 | 41 1 | 42 2/2 | \frac{42}{0}
1e9999999 | 42e99999999999999999999
"""


def _strings(table):
    return [entry.strip() for line in table.strip().splitlines() for entry in line.split(" | ")]


@pytest.mark.parametrize("written", _strings(FORTY_TWO))
def test_one_number_is_read_whatever_its_notation(written):
    assert rewards.exact_answer(f"<answer>{written}</answer>", "42") == 1.0
    assert rewards.exact_answer(f"#### {written}", 42) == 1.0


@pytest.mark.parametrize("written", [*_strings(NOT_FORTY_TWO), "42\n43", "42\x00", "\u202e24", "\u200f42", "42\ud800"])
def test_hedges_lists_and_other_values_are_wrong(written):
    assert rewards.exact_answer(f"<answer>{written}</answer>", "42") == 0.0


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("5,600", 5600),
        ("1{,}000", 1000),
        (r"1,\!000", 1000),
        (r"1\,000", 1000),
        ("1\u2009000", 1000),
        ("1\u202f000\u202f000", 1_000_000),
        ("192,000,000", 192_000_000),
        ("1,234,567.50", Decimal("1234567.5")),
        ("−5", -5),
        ("-$5", -5),
        ("$-5", -5),
        ("-0", 0),
        (".5", Decimal("0.5")),
        ("1e3", 1000),
        ("1E-3", Decimal("0.001")),
        (r"4.2 \times 10^6", 4_200_000),
        (r"\frac12", Fraction(1, 2)),
        (r"-\frac{1}{3}", Fraction(-1, 3)),
        (r"\frac{-1}{3}", Fraction(-1, 3)),
        ("3 1/2", Fraction(7, 2)),
        (r"3\frac{1}{2}", Fraction(7, 2)),
        (r"-3 \frac{1}{2}", Fraction(-7, 2)),
        ("0.1", Fraction(1, 10)),
        ("123456789012345678901234567890.5", Decimal("123456789012345678901234567890.5")),
        ("-123456789012345678901234567890.5", Decimal("-123456789012345678901234567890.5")),
    ],
)
def test_values_are_exact(written, value):
    assert quantity(written) == Quantity(value, False)


def test_a_percentage_equals_only_the_same_percentage():
    assert rewards.answer_key("50%") == rewards.answer_key(r"50.0\%") == rewards.answer_key("50 percent")
    assert rewards.answer_key("50%") not in {rewards.answer_key("50"), rewards.answer_key("0.5")}


@pytest.mark.parametrize(
    ("response", "answer", "grade"),
    [
        ("<answer>1  1 3 4 5</answer>", "1 1 3 4 5", 1.0),
        ("<answer>1 1 3 4 5.</answer>", "1 1 3 4 5", 1.0),
        ("<answer>1 1 3 5 4</answer>", "1 1 3 4 5", 0.0),
        ("<answer>11345</answer>", "1 1 3 4 5", 0.0),
        ("<answer>**Paris**</answer>", "paris", 1.0),
        ("<answer>Paris or Rome</answer>", "Paris", 0.0),
        ("<answer>2*3+4</answer>", "2*3+4", 1.0),
        ("<answer></answer>", "", 0.0),
        ("<answer>1/3</answer>", Fraction(1, 3), 1.0),
        ("<answer>0.1</answer>", 0.1, 1.0),
        ("<answer>0.1000001</answer>", 0.1, 0.0),
        ("<answer>7</answer>", np.int64(7), 1.0),
        ("A: 3.5", "5", 0.0),
        ("A: 4.32", "32", 0.0),
        ("A: -200", "200", 0.0),
        ("A: -3", "-3", 1.0),
        ("... * 100% = -10%\nA: -10", "-10", 1.0),
        ("$4.0 - $0.2/minute = $3.8\nA: 3.8", "3.8", 1.0),
        ("25", "25", 0.0),
        ("3" * 5000, "3", 0.0),
    ],
)
def test_exact_answer_on_known_traps(response, answer, grade):
    assert rewards.exact_answer(response, answer) == grade


def test_graders_broadcast_like_universal_functions():
    one = rewards.exact_answer("#### 4", "4")
    assert isinstance(one, float) and one == 1.0
    np.testing.assert_array_equal(rewards.exact_answer(["#### 4", "#### 5"], "4"), [1, 0])
    np.testing.assert_array_equal(rewards.exact_answer("#### 4", ["4", 5]), [1, 0])
    grid = rewards.exact_answer([["#### 4", "#### 5"], ["#### 5", "#### 6"]], [["4"], ["5"]])
    np.testing.assert_array_equal(grid, [[1, 0], [1, 0]])
    assert rewards.exact_answer([], "4").shape == (0,)
    assert rewards.exact_answer(np.array(["#### 4"]), np.array([4])).tolist() == [1.0]
    assert rewards.tag_format(("<answer>4</answer>", "x<answer>4</answer>", "4")).tolist() == [1.0, 0.5, 0.0]
    assert rewards.tag_format("<answer>4</answer>" * 2) == 0.5


def test_wrong_kinds_of_arguments_are_named():
    with pytest.raises(TypeError, match=r"response has to be text, got 4 \(int\)"):
        rewards.exact_answer(4, "4")  # pyright: ignore
    with pytest.raises(TypeError, match=r"reference answer has to be text or a number, got None"):
        rewards.exact_answer("#### 4", None)  # pyright: ignore
    with pytest.raises(ValueError, match="broadcast"):
        rewards.exact_answer(["a", "b"], ["1", "2", "3"])


HOSTILE = {
    "open tags": "<answer>" * 4000,
    "nested tags": "<answer>" * 4000 + "42" + "</answer>" * 4000,
    "a million digits": "#### " + "1" * 1_000_000,
    "a million digits in a block": f"<answer>{'1' * 1_000_000}</answer>",
    "many numbers": f"<answer>{'1 ' * 500_000}</answer>",
    "periods": f"<answer>{'. ' * 500_000}</answer>",
    "some periods": f"<answer>{'. ' * 490}</answer>",
    "boxes": "\\boxed{" * 100_000,
    "nested boxes": f"<answer>{chr(92)}boxed{{{'{' * 150}{'}' * 150}}}</answer>",
    "nested fractions": "<answer>" + "\\frac{1}{" * 20 + "2" + "}" * 20 + "</answer>",
    "unit words": f"<answer>42 {'a ' * 98}</answer>",
    "spaces": f"<answer>4{' ' * 190}2</answer>",
    "comments": f"<answer>{'<!-- 42 -->' * 80_000}</answer>",
    "surrogates": f"<answer>{chr(0xD800) * 100}</answer>",
    "nulls": f"<answer>{chr(0) * 1_000_000}</answer>",
    "right-to-left": f"<answer>{chr(0x202E) * 1_000_000}</answer>",
    "unicode digits": f"<answer>{'٤٢' * 50}</answer>",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_text_is_wrong_at_once(case):
    response, seconds = HOSTILE[case], []
    for _ in range(3):
        start = time.process_time()
        grade = rewards.exact_answer(response, "42")
        rewards.tag_format(response)
        rewards.exact_answer(response, "word " * 190)
        seconds.append(time.process_time() - start)
    assert grade == (1.0 if case == "nested tags" else 0.0)
    assert min(seconds) < 2  # 0.05 s measured; anything but linear takes minutes


@given(st.text() | st.text(alphabet="0123456789.,-+*/$%\\{}()^ eEx×\u2009=<>answer"))
def test_no_text_raises_and_normal_forms_are_stable(text):
    assert rewards.exact_answer(f"<answer>{text}</answer>", "42") in (0.0, 1.0)
    assert normalized(normalized(text)) == normalized(text)
    hash(rewards.answer_key(text))


@given(
    st.integers(-(10**12), 10**12), st.integers(0, 999), st.sampled_from(["{:,}", "{}", "{:,}.0", "${:,}", "**{}**"])
)
def test_integers_equal_themselves_in_every_rendering_and_no_neighbour(number, offset, form):
    response = f"<answer>{form.format(number)}</answer>"
    assert rewards.exact_answer(response, number) == 1.0
    assert rewards.exact_answer(response, number + 1 + offset) == 0.0


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=6))
def test_decimals_equal_their_fraction(number):
    fraction = Fraction(number)
    written = f"{fraction.numerator}/{fraction.denominator}"
    assert rewards.exact_answer(f"#### {written}", number) == 1.0


# --- Lifting ----------------------------------------------------------------------------------------------------------


def test_graded_abstained_and_failed_stay_apart():
    def grader(completion, level):
        if completion == "bb":
            return None
        if completion == "ccc":
            raise KeyError("no such thing")
        return len(completion) * level

    reward = rewards.per_completion(grader, "level", bounds=(0, 10))
    score = reward(TWO_BY_TWO)
    np.testing.assert_array_equal(score.value, [[1, 0], [0, 8]])
    np.testing.assert_array_equal(score.valid, [[True, False], [False, True]])
    np.testing.assert_array_equal(score.parts["grader"], [[1, np.nan], [np.nan, 8]])
    graded, abstained, failed = Outcome.GRADED, Outcome.ABSTAINED, Outcome.FAILED
    np.testing.assert_array_equal(score.outcomes["grader"], [[graded, abstained], [failed, graded]])
    assert score.failures == (Failure("grader", 1, 0, "KeyError: 'no such thing'"),)
    assert reward.bounds == Bounds(0, 10)


def test_a_long_reason_is_cut():
    def grader(completion):
        raise RuntimeError("x" * 1000)

    assert {len(failure.reason) for failure in rewards.per_completion(grader)(TWO_BY_TWO).failures} == {200}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), 1e39, 10**400])
def test_values_that_are_no_finite_number_are_refused(value):
    reward = rewards.per_completion(lambda completion: value if completion == "ccc" else 0.0, name="odd")
    with pytest.raises(
        ValueError, match=r"reward `odd` returned .* for prompt 1, completion 0.*return None to abstain"
    ):
        reward(TWO_BY_TWO)


@pytest.mark.parametrize(
    "value", ["1", b"1", [1.0], [1.0, 2.0], np.array([1.0]), np.zeros(2), {}, 1j, np.str_("1"), ()]
)
def test_values_that_are_not_one_number_are_refused(value):
    reward = rewards.per_completion(lambda completion: value, name="odd")
    with pytest.raises(TypeError, match=r"reward `odd` returned .* for prompt 0, completion 0; return one number"):
        reward(TWO_BY_TWO)


@pytest.mark.parametrize("value", [True, 1, 1.0, np.bool_(True), np.float16(1), np.int8(1), np.array(1.0), Decimal(1)])
def test_one_number_of_any_kind_is_taken(value):
    score = rewards.per_completion(lambda completion: value)(TWO_BY_TWO)
    np.testing.assert_array_equal(score.value, np.ones((2, 2)))
    assert score.value.dtype == np.float32 and score.valid.all()


def test_a_value_out_of_bounds_is_refused():
    reward = rewards.per_completion(len, name="length", bounds=(0, 3))
    with pytest.raises(
        ValueError, match=r"`length` returned 4 for prompt 1, completion 1, outside its bounds \[0, 3\]"
    ):
        reward(TWO_BY_TWO)
    with pytest.raises(ValueError, match=r"bounds of reward `len` are \(1, 0\)"):
        rewards.per_completion(len, bounds=(1, 0))


def test_a_missing_column_is_named_with_the_nearest():
    reward = rewards.per_completion(rewards.exact_answer, "anwser")
    with pytest.raises(ValueError, match=r"needs the column `anwser`.*did you mean `answer`\?.*answer, level"):
        reward(TWO_BY_TWO)


def test_every_callable_has_a_name():
    class Judge:
        def __call__(self, completion):
            return 0.0

    assert rewards.per_completion(functools.partial(functools.partial(len))).name == "len"
    assert rewards.per_completion(Judge()).name == "Judge"
    assert rewards.per_completion(lambda completion: 0.0).name == "lambda"


def test_interrupts_are_not_failures():
    def grader(completion):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rewards.per_completion(grader)(TWO_BY_TWO)


def test_list_functions_get_the_flattened_batch():
    seen = {}

    def by_list(prompts, completions, level, unknown=3, **kwargs):
        seen.update(prompts=prompts, completions=completions, level=level, unknown=unknown, kwargs=kwargs)
        return [1, None, 2.5, np.float32(4)]

    score = rewards.from_lists(by_list)(TWO_BY_TWO)
    assert seen["prompts"] == ["question 0", "question 0", "question 1", "question 1"]
    assert seen["completions"] == ["a", "bb", "ccc", "dddd"]
    assert seen["level"] == [1, 1, 2, 2] and seen["unknown"] == 3
    assert seen["kwargs"] == {"answer": ["bb", "bb", "x", "x"]}
    np.testing.assert_array_equal(score.value, [[1, 0], [2.5, 4]])
    np.testing.assert_array_equal(score.valid, [[True, False], [True, True]])
    assert score.outcomes["by_list"][0, 1] == Outcome.ABSTAINED


def test_list_functions_get_no_column_they_do_not_name():
    score = rewards.from_lists(lambda completions: np.arange(len(completions)), name="rank")(TWO_BY_TWO)
    np.testing.assert_array_equal(score.parts["rank"], [[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ([1.0], ValueError, "returned 1 entries for 4 completions"),
        ([1.0] * 5, ValueError, "returned 5 entries for 4 completions"),
        ([], ValueError, "returned 0 entries for 4 completions"),
        (1.0, TypeError, r"returned 1.0 \(float\); return a list with 4 entries"),
        (np.array(1.0), TypeError, r"an array of shape \(\); return a list with 4"),
        (np.ones((2, 2)), TypeError, r"an array of shape \(2, 2\); return a list with 4"),
        (None, TypeError, "returned None"),
        ("0000", TypeError, "returned '0000'"),
        ([1, 2, math.nan, 3], ValueError, "returned nan for prompt 1, completion 0"),
        ([1, [2], 3, 4], TypeError, r"returned \[2\] \(list\) for prompt 0, completion 1"),
    ],
)
def test_lists_of_another_shape_are_refused(returned, error, message):
    reward = rewards.from_lists(lambda prompts, completions: returned, name="odd")
    with pytest.raises(error, match=message):
        reward(TWO_BY_TWO)


def test_a_failing_list_function_fails_the_batch_and_is_no_zero():
    def broken(prompts, completions):
        raise OSError("judge is down")

    score = rewards.from_lists(broken)(TWO_BY_TWO)
    assert not score.valid.any() and np.isnan(score.parts["broken"]).all()
    assert (score.outcomes["broken"] == Outcome.FAILED).all()
    assert [failure.reason for failure in score.failures] == ["OSError: judge is down"] * 4


def test_functions_are_told_apart_by_their_parameters():
    reward = rewards.per_completion(len)
    assert rewards.as_reward(reward) is reward

    def value(function):
        return rewards.as_reward(function)(TWO_BY_TWO).value.tolist()

    assert value(lambda prompts, completions: [0, 1, 2, 3]) == [[0, 1], [2, 3]]
    assert value(lambda response, ground_truth: response == ground_truth) == [[0, 1], [0, 0]]
    assert value(lambda response, prompt, metadata: metadata["level"] * int(prompt[-1])) == [[0, 0], [2, 2]]
    assert value(lambda completion, row: row["level"]) == [[1, 1], [2, 2]]
    assert value(lambda response, **columns: len(columns)) == [[2, 2], [2, 2]]
    assert value(lambda response, level, scale=10, answer="?": scale * level + (answer == "x")) == [[10, 10], [21, 21]]
    assert value(rewards.tag_format) == [[0, 0], [0, 0]]
    assert rewards.as_reward(rewards.exact_answer).name == "exact_answer"


@pytest.mark.parametrize("function", [lambda: 0.0, lambda text, truth: 0.0, lambda *args: 0.0])
def test_other_functions_are_refused(function):
    with pytest.raises(TypeError, match=r"reward `lambda` takes .*make it \(response, ground_truth\)"):
        rewards.as_reward(function)


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match=r"takes a function or a Reward, got 3 \(int\)"):
        rewards.as_reward(3)  # pyright: ignore


# --- Combining --------------------------------------------------------------------------------------------------------


def _fixed(values, name, bounds=None):
    return rewards.from_lists(lambda prompts, completions: values, name=name, bounds=bounds)


def test_the_default_reward_is_the_documented_combination():
    batch = rollouts(
        [["<answer>4</answer>", "<answer>5</answer>"], ["It is <answer>6</answer>", "#### 6"], ["seven", ""]],
        answer=["4", "6", "7"],
    )
    reward = rewards.default()
    score = reward(batch)
    np.testing.assert_array_equal(score.parts["format"], [[1, 1], [0.5, 0], [0, 0]])
    np.testing.assert_array_equal(score.parts["correctness"], [[1, 0], [1, 1], [0, 0]])
    expected = [[0.3 + 0.7, 0.3], [0.3 * 0.5 + 0.7, 0.7], [0, 0]]
    np.testing.assert_allclose(score.value, expected, atol=1e-6)
    assert list(score.parts) == ["format", "correctness"] == list(score.outcomes)
    assert reward.bounds == Bounds(0, 1)


def test_a_task_brings_its_own_checker():
    def is_correct(response, level):
        return len(response) == 2 * level

    score = rewards.default(0.25, 0.75, is_correct=is_correct)(TWO_BY_TWO)
    np.testing.assert_array_equal(score.value, [[0, 0.75], [0, 0.75]])
    assert set(score.parts) == {"format", "correctness"}


def test_a_sum_is_worked_out_by_hand_and_nests():
    first = _fixed([1, 2, 3, 4], "first", bounds=(0, 4))
    second = _fixed([1, 0, 1, 0], "second", bounds=(0, 1))
    inner = rewards.weighted_sum((2.0, first), (-1.0, second), name="inner")
    outer = rewards.weighted_sum((0.5, inner), (1.0, second), (0.0, _fixed([9, 9, 9, 9], "unused")))
    score = outer(TWO_BY_TWO)
    # inner = 2 * [1 2 3 4] - [1 0 1 0] = [1 4 5 8]; outer = half of it + [1 0 1 0]
    np.testing.assert_array_equal(score.value, [[1.5, 2], [3.5, 4]])
    assert list(score.parts) == ["inner/first", "inner/second", "second", "unused"]
    assert inner.bounds == Bounds(-1, 8) and outer.bounds == Bounds(-0.5, 5)
    np.testing.assert_array_equal(score.parts["inner/first"], [[1, 2], [3, 4]])


def test_an_entry_with_a_missing_part_has_no_value():
    some = _fixed([1, None, 1, 1], "some")
    penalty = _fixed([1, 1, None, 1], "penalty")
    ignored = _fixed([None, 1, 1, 1], "ignored")
    score = rewards.weighted_sum((1.0, some), (-2.0, penalty), (0.0, ignored))(TWO_BY_TWO)
    np.testing.assert_array_equal(score.valid, [[True, False], [False, True]])
    np.testing.assert_array_equal(score.value, [[-1, 0], [0, -1]])
    assert np.isnan(score.parts["some"][0, 1]) and score.parts["penalty"][0, 1] == 1


def test_failures_carry_the_path_of_their_part():
    def broken(completion):
        raise ValueError("no")

    inner = rewards.weighted_sum((1.0, rewards.per_completion(broken)), name="inner")
    score = rewards.weighted_sum((1.0, inner), (1.0, rewards.per_completion(len)))(TWO_BY_TWO)
    assert {failure.part for failure in score.failures} == {"inner/broken"}
    assert "inner/broken" in score.parts and not score.valid.any()


def test_senseless_sums_are_refused():
    length = rewards.per_completion(len)
    with pytest.raises(ValueError, match="no terms"):
        rewards.weighted_sum()
    with pytest.raises(ValueError, match="got `len` twice"):
        rewards.weighted_sum((1.0, length), (2.0, length))
    with pytest.raises(ValueError, match="weight of reward `len` is nan"):
        rewards.weighted_sum((math.nan, length))
    with pytest.raises(TypeError, match="lift functions with as_reward"):
        rewards.weighted_sum((1.0, len))  # pyright: ignore
    nested = rewards.weighted_sum((1.0, length), name="a")
    same_path = rewards.weighted_sum((1.0, nested), (1.0, rewards.per_completion(len, name="a/len")))
    with pytest.raises(ValueError, match=r"two parts .* are called `a/len`"):
        same_path(TWO_BY_TWO)


@given(
    st.lists(
        st.tuples(st.floats(-4, 4), st.lists(st.floats(-3, 3) | st.none(), min_size=4, max_size=4)),
        min_size=1,
        max_size=4,
    ),
    st.randoms(),
)
def test_sums_keep_their_bounds_and_ignore_the_order_of_their_terms(terms, shuffler):
    built = [(weight, _fixed(values, f"part{i}", bounds=(-3, 3))) for i, (weight, values) in enumerate(terms)]
    reward = rewards.weighted_sum(*built)
    shuffler.shuffle(built)
    score, shuffled = reward(TWO_BY_TWO), rewards.weighted_sum(*built)(TWO_BY_TWO)
    np.testing.assert_array_equal(score.valid, shuffled.valid)
    np.testing.assert_allclose(score.value, shuffled.value, atol=1e-5)
    valid = score.value[score.valid]
    assert ((valid >= np.float32(reward.bounds.low) - 1e-5) & (valid <= np.float32(reward.bounds.high) + 1e-5)).all()


def test_flat_groups_are_those_without_a_preference():
    nothing = np.full(3, 0.0)
    score = Score(
        value=np.array([[1.0, 1, 1], [1, 0, 1], [1, 0, 5], [1, 0, 0], nothing], np.float32),
        valid=np.array([[1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 0, 1], [0, 0, 0]], bool),
    )
    np.testing.assert_array_equal(rewards.flat_groups(score), [True, False, True, False, True])
    np.testing.assert_array_equal(rewards.mixed_groups(score), [False, True, False, True, False])


# --- Other frameworks -------------------------------------------------------------------------------------------------


def test_tunix_gets_a_plain_function():
    function = rewards.as_tunix(rewards.default())
    texts = ["<answer>4</answer>", "#### 5", "none", "#### 6"]
    answers = np.array(["4", "4", "6", "6"])
    result = function(["q"] * 4, texts, answer=answers, mode="train", trajectory_ids=[1, 2])
    assert result == pytest.approx([1.0, 0.0, 0.0, 0.7], abs=1e-6)
    assert all(type(value) is float for value in result)
    assert function.__name__ == "default"
    assert function.__code__.co_varnames[: function.__code__.co_argcount] == ("prompts", "completions")


def test_tunix_groups_reach_the_reward():
    shortest = rewards.from_lists(lambda prompts, completions: [len(prompts)] * len(completions), name="prompts")
    seen = []

    def score(batch):
        seen.append((batch.prompts, batch.completions, batch.columns["answer"]))
        return shortest(batch)

    function = rewards.as_tunix(type(shortest)("grouped", score), group_size=2)
    assert function(["p", "p", "q", "q"], ["a", "b", "c", "d"], answer=[1, 1, 2, 2]) == [4.0] * 4
    assert seen == [(["p", "q"], [["a", "b"], ["c", "d"]], [1, 2])]
    with pytest.raises(ValueError, match="got 3 prompts and 3 completions for group_size=2"):
        function(["p"] * 3, ["a"] * 3)


def test_tunix_never_gets_a_silent_zero():
    def grader(completion):
        if completion == "b":
            raise OSError("down")
        return None if completion == "c" else 1.0

    reward = rewards.per_completion(grader)
    with pytest.raises(
        ValueError, match=r"`grader` has no value for 2 of 3 .* completion 1 \(OSError: down\).*missing="
    ):
        rewards.as_tunix(reward)(["p"] * 3, ["a", "b", "c"])
    assert rewards.as_tunix(reward, missing=-1.0)(["p"] * 3, ["a", "b", "c"]) == [1.0, -1.0, -1.0]


# --- Rooms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["inline", "threads", "processes", "asynchronous"])
def test_a_reward_is_the_same_wherever_its_calls_run(place):
    def grader(response, answer):
        if response == "ccc":
            raise KeyError("no such thing")
        return None if response == "a" else float(len(response) == len(answer))

    def run():
        return {
            "inline": lambda: rewards.inline,
            "threads": lambda: rewards.threads(2),
            "processes": lambda: rewards.processes(1, timeout_s=30),
            "asynchronous": lambda: rewards.asynchronous(2),
        }[place]()

    score = rewards.per_completion(grader, "answer", run=run())(TWO_BY_TWO)
    graded, abstained, failed = Outcome.GRADED, Outcome.ABSTAINED, Outcome.FAILED
    np.testing.assert_array_equal(score.outcomes["grader"], [[abstained, graded], [failed, graded]])
    np.testing.assert_array_equal(score.value, [[0, 1], [0, 0]])
    assert score.failures == (Failure("grader", 1, 0, "KeyError: 'no such thing'"),)


def test_policies_for_failures_retry_and_raise():
    attempts = []

    def flaky(response):
        attempts.append(response)
        if attempts.count(response) < 3:
            raise ConnectionError("busy")
        return 1.0

    score = rewards.per_completion(flaky, on_failure=rewards.retry(2))(TWO_BY_TWO)
    assert score.valid.all() and len(attempts) == 12
    with pytest.raises(RewardError, match="grader call 0 of 4 failed: ConnectionError: down"):
        rewards.per_completion(_down, on_failure="raise")(TWO_BY_TWO)
    with pytest.raises(ValueError, match="did you mean `raise`"):
        rewards.per_completion(_down, on_failure="raises")


def _down(response):
    raise ConnectionError("down")


def test_a_grader_that_declares_its_bounds_gives_them_to_its_reward():
    assert rewards.per_completion(rewards.exact_answer, "answer").bounds == Bounds(0, 1)
    assert rewards.per_completion(functools.partial(rewards.repetition, n=2)).bounds == Bounds(-1, 0)
    assert rewards.as_reward(rewards.check_answer, bounds=(0, 2)).bounds == Bounds(0, 2)


async def _judged(response):
    return float(len(response))


@pytest.mark.parametrize("place", ["inline", "threads", "processes", "asynchronous"])
def test_coroutine_functions_run_anywhere(place):
    run = rewards.inline if place == "inline" else getattr(rewards, place)(2)
    np.testing.assert_array_equal(rewards.per_completion(_judged, run=run)(TWO_BY_TWO).value, [[1, 2], [3, 4]])


def test_a_grader_that_exits_is_a_failure_and_does_not_end_the_run():
    def leaves(response):
        raise SystemExit(0)

    score = rewards.per_completion(leaves)(TWO_BY_TWO)
    assert not score.valid.any() and score.failures[0].reason == "SystemExit: 0"


def test_what_a_list_function_names_has_to_be_there_also_beside_keywords():
    with pytest.raises(ValueError, match="needs the column `solution`"):
        rewards.from_lists(lambda completions, solution, **columns: [0.0] * 4, name="mine")(TWO_BY_TWO)
    with pytest.raises(ValueError, match="names `completion_ids`, which TRL passes; lift it with from_trl"):
        rewards.from_lists(lambda completions, completion_ids, **columns: [0.0] * 4, name="mine")(TWO_BY_TWO)


def test_prompts_of_other_trainers_are_found_by_graders_that_read_one():
    found = rewards.evaluate_relevance(prompts=["Count the red apples."], completions=["Three red apples."])
    assert found == [rewards.evaluate_relevance("Three red apples.", "Count the red apples.")]
