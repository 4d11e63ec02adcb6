"""Curves as text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix.sketch import BLOCKS, curve, number, sparkline

anything = st.lists(st.one_of(st.floats(), st.none()), max_size=60)


def test_a_ramp_climbs_through_all_blocks():
    assert sparkline(range(8)) == BLOCKS


def test_a_long_series_is_averaged_in_blocks_of_equal_length():
    # Halves 0 and 1, then quarters with means 0, 0.5, 1, 1.
    assert sparkline([0] * 50 + [1] * 50, 2) == "▁█"
    assert sparkline([0, 0, 0, 1, 1, 1, 1, 1], 4) == "▁▅██"


def test_missing_values_leave_a_blank_and_do_not_pull_the_mean_down():
    assert sparkline([0, math.nan, 1]) == "▁ █"
    assert sparkline([math.nan, 1, 0, 0], 2) == "█▁"


def test_a_level_line_stays_level_inside_given_bounds():
    assert sparkline([0.501, 0.499], bounds=(0, 1)) == "▅▄"


@given(anything, st.integers(1, 30))
def test_a_sparkline_never_exceeds_its_width(values, width):
    line = sparkline(values, width)
    assert len(line) == min(len(values), width)
    assert set(line) <= set(BLOCKS + " ")


@given(st.dictionaries(st.text("ab", max_size=2), anything, max_size=3), st.integers(4, 40), st.integers(1, 12))
def test_a_chart_has_the_rows_that_were_asked_for(series, width, height):
    lines = curve(series, width, height, steps=(0, 10)).split("\n")
    assert len([line for line in lines if "┤" in line or "│" in line]) == max(height, 2)
    assert sum("└" in line for line in lines) == 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(20, 80))
def test_a_chart_is_no_wider_than_asked(values, width):
    assert all(len(line) <= width for line in curve({"x": values}, width, 5).split("\n"))


def test_a_line_from_corner_to_corner():
    assert curve({"x": [0, 1, 2]}, width=6, height=3) == "2 ┤  ●\n  │ ●\n0 ┤●\n  └───"


def test_steep_parts_are_connected():
    # The second column starts right above the first one and reaches the top.
    assert curve({"x": [0, 4]}, width=5, height=5).split("\n")[:5] == ["4 ┤ ●", "  │ ●", "  │ ●", "  │ ●", "0 ┤●"]


def test_two_curves_have_their_own_marks_and_a_legend():
    chart = curve({"up": [0, 1], "down": [1, 0]}, width=12, height=4)
    assert chart.split("\n")[-1] == "● up  ○ down"
    assert chart.split("\n")[0].endswith("●")
    assert chart.split("\n")[0].startswith("1 ┤○")


def test_values_outside_of_the_bounds_are_drawn_at_the_edge():
    assert curve({"x": [-5, 5]}, width=5, height=2, bounds=(0, 1)) == "1 ┤ ●\n0 ┤●\n  └──"


def test_a_gap_stays_a_gap():
    row = curve({"x": [1, 1, math.nan, math.nan, math.nan, 1, 1]}, width=10, height=3).split("\n")[1]
    assert row == "1 ┤●●   ●●"


def test_first_and_last_step_stand_at_the_ends_of_the_axis():
    assert curve({"x": [0, 1]}, width=15, height=2, steps=(1, 500)).split("\n")[-1] == "   1        500"


def test_nothing_to_draw_is_an_empty_chart():
    assert "●" not in curve({}, 20, 4) + curve({"x": []}, 20, 4) + curve({"x": [math.nan, None]}, 20, 4)


def test_huge_values_do_not_overflow():
    assert sparkline([-1.7e308, 0, 1.7e308]) == "▁▅█"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.5, "0.5"),
        (-1.23456, "-1.23"),
        (999, "999"),
        (54321, "54321"),
        (1.5e6, "1.5e+06"),
        (math.inf, "inf"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text
