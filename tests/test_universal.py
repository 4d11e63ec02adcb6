"""Graders over arrays, and called as list-style functions."""

import numpy as np
import pytest

from agent_tunix.rewards._universal import content, universal


@universal
def overlap(response, ground_truth, *, ignore_case=False):
    """Share of the characters of the truth that the response holds."""
    if ignore_case:
        response, ground_truth = response.lower(), ground_truth.lower()
    return sum(character in response for character in ground_truth) / len(ground_truth)


def test_scalars_give_a_float_and_arrays_an_array():
    assert overlap("abc", "ab") == 1.0
    np.testing.assert_array_equal(overlap(["abc", "b"], "ab"), [1.0, 0.5])
    np.testing.assert_array_equal(overlap("b", ["ab", "b"]), [0.5, 1.0])
    np.testing.assert_array_equal(overlap([["a"], ["b"]], ["a", "b"]), [[1, 0], [0, 1]])
    assert overlap(np.array("abc"), "ab") == 1.0


def test_settings_do_not_broadcast_and_arguments_may_be_named():
    np.testing.assert_array_equal(overlap(["AB", "B"], ground_truth="ab", ignore_case=True), [1.0, 0.5])
    assert overlap(response="abc", ground_truth="ab") == 1.0


def test_columns_of_other_trainers_are_picked_by_name():
    assert overlap(prompts=["p", "q"], completions=["ab", "b"], answer=["ab", "ab"], level=[1, 2]) == [1.0, 0.5]
    assert overlap(prompts=["p"], completions=["ab"], ground_truth=["b"], answer=["zz"]) == [1.0]
    chat = [[{"role": "assistant", "content": "ab"}]]
    assert overlap(prompts=["p"], completions=chat, answer=["ab"]) == [1.0]
    assert content([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]) == "a"


def test_a_missing_column_and_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="`overlap` needs the column `answer`, got completions, prompts"):
        overlap(prompts=["p"], completions=["a"])
    with pytest.raises(ValueError, match="broadcast"):
        overlap(["a", "b"], ["a", "b", "c"])
    with pytest.raises(TypeError):
        overlap("a")


def test_it_keeps_its_name_documentation_and_scalar_self():
    assert overlap.__name__ == "overlap" and overlap.__doc__.startswith("Share") and overlap.each("ab", "b") == 1.0
