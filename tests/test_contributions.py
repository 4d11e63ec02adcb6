"""Shares of components in a reward's mean and in its advantage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix.contributions import contributions

RIGHT = np.array([[1.0, 0.0], [1.0, 0.0]])
NEAT = np.array([[1.0, 1.0], [0.0, 0.0]])
ALL = np.ones((2, 2), bool)


def test_weights_and_shares_of_a_weighted_sum_are_found_again():
    # reward = 0.75 right + 0.25 neat: [[1, .25], [.75, 0]], mean 0.5, of which 0.375 and 0.125.
    found = contributions(0.75 * RIGHT + 0.25 * NEAT, ALL, {"right": RIGHT, "neat": NEAT})
    assert found.explained == pytest.approx(1.0)
    assert found.parts["right"].weight == pytest.approx(0.75) and found.parts["neat"].weight == pytest.approx(0.25)
    assert found.parts["right"].of_mean == pytest.approx(0.75) and found.parts["neat"].of_mean == pytest.approx(0.25)


def test_a_component_that_is_constant_within_groups_has_no_share_of_the_advantage():
    found = contributions(0.75 * RIGHT + 0.25 * NEAT, ALL, {"right": RIGHT, "neat": NEAT})
    assert found.parts["neat"].of_advantage == pytest.approx(0.0)  # it only tells prompts apart
    assert found.parts["right"].of_advantage == pytest.approx(1.0)


def test_what_is_no_weighted_sum_says_so():
    found = contributions(RIGHT * NEAT, ALL, {"right": RIGHT, "neat": NEAT})
    # Of [[1, 0], [0, 0]] with variance 3/16, 0.5 right + 0.5 neat explains 2/16.
    assert found.explained == pytest.approx(2 / 3)


def test_entries_without_a_value_are_left_out():
    parts = {"right": np.where(ALL, RIGHT, 0), "neat": np.array([[1.0, 1.0], [0.0, np.nan]])}
    value, valid = 0.5 * RIGHT + 0.5 * NEAT, np.array([[True, True], [True, False]])
    value[1, 1] = 99.0
    found = contributions(value, valid, parts)
    assert found.parts["right"].weight == pytest.approx(0.5) and found.explained == pytest.approx(1.0)


def test_weights_come_from_all_entries_and_shares_from_those_counted():
    counted = np.array([[True, True], [False, False]])  # where `neat` is constant
    found = contributions(0.75 * RIGHT + 0.25 * NEAT, ALL, {"right": RIGHT, "neat": NEAT}, counted=counted)
    assert found.parts["neat"].weight == pytest.approx(0.25) and found.parts["neat"].of_advantage == pytest.approx(0.0)
    assert found.parts["neat"].of_mean == pytest.approx(0.25 / 0.625)


def test_nothing_is_said_where_there_is_nothing_to_say():
    empty = contributions(RIGHT, np.zeros((2, 2), bool), {"right": RIGHT})
    assert math.isnan(empty.parts["right"].weight) and math.isnan(empty.explained)
    flat = contributions(NEAT, ALL, {"neat": NEAT})
    assert math.isnan(flat.parts["neat"].of_advantage)


@given(st.integers(0, 10_000), st.lists(st.floats(0.1, 2.0), min_size=2, max_size=4))
def test_shares_add_up_to_one_for_weighted_sums(seed, weights):
    random = np.random.default_rng(seed)
    parts = {f"p{index}": random.uniform(0.5, 1.0, (6, 5)) for index in range(len(weights))}
    value = sum(weight * part for weight, part in zip(weights, parts.values()))
    found = contributions(value, np.ones((6, 5), bool), parts)
    assert sum(part.of_mean for part in found.parts.values()) == pytest.approx(1.0)
    assert sum(part.of_advantage for part in found.parts.values()) == pytest.approx(1.0)
