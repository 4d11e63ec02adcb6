"""Where a completion states its answer, and whether it keeps the format."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix.text import (
    has_answer_block,
    is_tagged,
    one_line,
    printable,
    stated_answer,
    states_several,
    tag_counts,
)

MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("completion", "stated"),
    [
        ("<answer>72</answer>", "72"),
        ("<reasoning>r</reasoning>\n<answer>\n 72 \n</answer>\n", "72"),
        ("<answer>1</answer> no: <answer>2</answer>", "2"),
        ("<answer>1</answer> and <answer>2", "1"),
        ("<answer><answer>5</answer>", "5"),
        ("<answer>5</answer></answer>", "5"),
        ("<answer>1</answer> #### 2", "1"),
        ("<answer></answer> #### 2", ""),
        ("</answer>3<answer>", None),
        ("<ANSWER>3</ANSWER>", None),
        (r"so \boxed{3} or rather \boxed{4}", "4"),
        (r"\boxed{\frac{1}{2}} is it", r"\frac{1}{2}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{4} and \boxed{5", "4"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{4} #### 5", "4"),
        (r"\boxed{", None),
        ("some steps\n#### 1,234", "1,234"),
        ("#### 1\n#### 2\nand on", "2"),
        ("####5", "5"),
        ("#### 3\nA: 4", "3"),
        ("steps\nA: 12", "12"),
        ("A: 12\nand then", None),
        ("steps\n**Answer:** 12\n\n", "12"),
        ("**Answer: 12**", "12"),
        ("**Answer**: 12", "12"),
        ("## Answer: 12", "12"),
        ("2 + 2 = 4. The answer is 4.", "4."),
        ("So, the final answer is: 4", "4"),
        ("The answer is 3. The answer is 4", "4"),
        ("I doubt that the answer is 4", None),
        ("Nobody knows whether the answer is 4.", None),
        ("The answer is not 4.", "not 4."),
        ("Ans. 4", "4"),
        ("The answer is therefore 4", "4"),
        ("The final numerical answer is 4", "4"),
        ("The answer to this question is 4", "4"),
        ("The answer to another question is 4", None),
        ("The answer would be 4", None),
        ("it is 4", None),
        ("4", None),
        ("", None),
    ],
)
def test_stated_answer_is_found_in_its_order_of_precedence(completion, stated):
    assert stated_answer(completion) == stated


@pytest.mark.parametrize(
    ("completion", "exact", "block"),
    [
        ("<answer>4</answer>", True, True),
        ("<reasoning>r</reasoning><answer>4</answer>", True, True),
        (" \n<reasoning>r\nr</reasoning>\n\n<answer>4</answer>\n", True, True),
        ("<reasoning></reasoning><answer>4</answer>", True, True),
        ("<answer>4</answer>.", False, True),
        ("x <answer>4</answer>", False, True),
        ("<reasoning>r</reasoning> x <answer>4</answer>", False, True),
        ("<reasoning>r</reasoning><reasoning>r</reasoning><answer>4</answer>", False, True),
        ("<reasoning><reasoning>r</reasoning><answer>4</answer>", False, True),
        ("<reasoning>r</reasoning></reasoning><answer>4</answer>", False, True),
        ("<reasoning>r<answer>4</answer>", False, True),
        ("<reasoning><answer>4</answer></reasoning>", False, True),
        ("<answer>4</answer><answer>4</answer>", False, True),
        ("<answer><answer>4</answer>", False, True),
        ("<answer><reasoning>r</reasoning>4</answer>", False, True),
        ("<answer>4</answer><reasoning>r</reasoning>", False, True),
        ("<answer> </answer>", False, False),
        ("<answer>4", False, False),
        ("4</answer>", False, False),
        ("</answer><answer>", False, False),
        ("", False, False),
    ],
)
def test_format_is_exact_only_without_anything_else(completion, exact, block):
    assert is_tagged(completion) is exact
    assert has_answer_block(completion) is block


def test_tags_are_counted_one_by_one():
    assert tag_counts("<reasoning><answer>1</answer><answer>") == {
        "<reasoning>": 1,
        "</reasoning>": 0,
        "<answer>": 2,
        "</answer>": 1,
    }


FRAGMENTS = [
    "<answer>",
    "</answer>",
    "<reasoning>",
    "</reasoning>",
    "<answer>1</answer>",
    "<reasoning>x</reasoning>\n",
    "\\boxed{",
    "\\boxed{1}",
    "{",
    "}",
    "}\\boxed{",
    "\\{",
    "####",
    "#### 1\n",
    "\n",
    "A:",
    "the answer is ",
    "so, ",
    "*",
    "<!-- 1 -->",
    "\ud800",
    "\x00",
    "\u202e",
    "９",
    "9**",
    " ",
]


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=ascii)
def test_a_megabyte_of_anything_is_read_in_linear_time(fragment):
    body = fragment * (MEGABYTE // len(fragment))
    for text in (body, f"<answer>{body}</answer>", f"\\boxed{{{body}}}", f"Answer: {body}"):
        fastest = min(_seconds(text) for _ in range(3))
        assert fastest < 0.05


def _seconds(text: str) -> float:
    start = time.process_time()
    stated_answer(text)
    is_tagged(text)
    states_several(text, "4")
    return time.process_time() - start


@given(st.lists(st.sampled_from([*FRAGMENTS, "7", "."]), max_size=12).map("".join) | st.text())
def test_nothing_raises_and_what_is_stated_stands_in_the_text(completion):
    stated = stated_answer(completion)
    assert stated is None or stated in completion
    assert not is_tagged(completion) or has_answer_block(completion)


@given(st.text(alphabet=st.characters(exclude_characters="<"), min_size=1).filter(str.strip))
def test_a_tagged_answer_is_read_back(answer):
    completion = f"<reasoning>\nsteps\n</reasoning>\n<answer>{answer}</answer>"
    assert is_tagged(completion)
    assert stated_answer(completion) == answer.strip()


@pytest.mark.parametrize(
    ("completion", "reference", "several"),
    [
        ("<answer>3</answer>", "3", False),
        ("<answer>3</answer> and <answer>3 </answer>", "3", False),
        ("<answer>3</answer> or <answer>4</answer>", "3", True),
        ("<answer>3</answer> or <answer>4</answer>", "", True),
        ("<answer>3, 4, 5</answer>", "4", True),
        ("<answer>1 2 3</answer>", "1 2 3", False),
        ("<answer>1,234.5</answer>", "1234.5", False),
        ("so 3 + 4 = 7\n#### 7", "7", False),
        ("#### 7 8", "7", True),
        ("The answer is 3 or 4.", "3", True),
        ("3 4 5 6", "3", False),  # states nothing
        ("<answer>yes 1 2</answer>", "yes", False),  # a reference of no numbers
        ("<answer>3<answer>4<answer>6<answer>", "3", True),
        ("<answer>3<answer>3<answer>", "3", False),
        ("<answer>3<answer>4D<answer>6o<answer>7", "3", True),
        ("<answer>-<answer>3-<answer>6KS<answer></answer>-<answer>4", "3", True),
        ("<answer>3<answer>4", "3", False),  # a second attempt, not a collection
        ("<answer>3 pens<answer>4 pens<answer>5 pens", "3", False),
        ("", "3", False),
        # One answer with something around it.
        ("<answer>12 m^2</answer>", "12", False),
        ("<answer>$72.00 for 3 days</answer>", "72", False),
        ("The final answer is 3 x 4 = 12.", "12", False),
        ("use the <answer> tag: <answer>5</answer>", "5", False),
        ("in the form <answer>...</answer>, so <answer>5</answer>", "5", False),
        ("<answer>1 hour 30 minutes</answer>", "90", False),
        ("<answer>10:30</answer>", "10", False),
        ("<answer>(1 + 2) * 3</answer>", "9", False),
        ("<answer>12</answer> I mean <answer>\n12</answer>", "12", False),
        # One number of several runs of digits.
        ("<answer>1,234,567</answer>", "1234567", False),
        ("<answer>1 000</answer>", "1000", False),
        ("<answer>3,5</answer>", "3.5", False),
        ("<answer>3/4</answer>", "0.75", False),
        ("<answer>1 1/2</answer>", "1.5", False),
        ("<answer>5, 5</answer>", "5", False),
        # Lists.
        ("<answer>3,4,5</answer>", "4", True),
        ("<answer>$3, $4 and -$5.50</answer>", "4", True),
        ("<answer>[3; 4 | 5]</answer>", "4", True),
        ("<answer>3 -4</answer>", "4", True),
        ("<answer>1 2 3 4 5 6</answer>", "1 2 3 4 5", True),
    ],
)
def test_hedging_is_several_statements_or_more_numbers_than_the_reference(completion, reference, several):
    assert states_several(completion, reference) is several


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b]0;owned\x07b", r"a\x1b]0;owned\x07b"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("one\rtwo", r"one\rtwo"),
        ("lone \ud800", r"lone \ud800"),
        ("\u202eabc\u202c", r"\u202eabc\u202c"),
        ("line\n\tnext", "line\n\tnext"),
        ("é ü 中 😀 \u200f\\n", "é ü 中 😀 \u200f\\n"),
        (7, "7"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text, shown):
    assert printable(text) == shown


def test_a_line_stays_one_line():
    assert one_line("a\nb\tc\u2028d\x1b") == r"a\nb\tc\u2028d\x1b"


@given(st.text(alphabet=st.characters(codec=None)))
def test_shown_text_can_be_written_and_holds_no_control_character(text):
    shown = printable(text)
    assert shown.encode().decode() == shown
    assert not any((ord(sign) < 32 and sign not in "\n\t") or 127 <= ord(sign) < 160 for sign in shown)
    assert printable(shown) == shown
    assert len(one_line(text).splitlines()) <= 1
