"""A run keeps no more after three hundred steps than after sixty."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from memory_flat import Mark, growth, marks

STEPS, WARM_UP = 300, 60


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [0, 1])
def test_three_hundred_steps_hold_no_more_than_sixty(tmp_path, ahead):
    grown = growth(marks(STEPS, ahead, tmp_path / "run"), WARM_UP)
    assert grown["arrays"] <= 0
    assert grown["rollouts"] <= 0
    assert grown["objects"] < (STEPS - WARM_UP) / 2  # not even one object for every second step
    assert grown["resident_mb"] < 8


def run_of(arrays, objects, resident):
    return [Mark(step, resident(step), arrays(step), objects(step), 1) for step in range(10, 401, 10)]


def test_what_is_never_let_go_is_seen_through_what_comes_and_goes():
    random = np.random.default_rng(0)
    found = run_of(
        lambda step: 50 + step // 10 + int(random.integers(0, 30)),
        lambda step: 1000 + step + int(random.integers(0, 100)),
        lambda step: 400 + 0.1 * step + random.random(),
    )
    grown = growth(found, 80)
    # 32 marks count, eight at each end; their middles are 240 steps apart.
    assert 15 <= grown["arrays"] <= 35
    assert 150 <= grown["objects"] <= 300
    assert grown["resident_mb"] == pytest.approx(24, abs=1)
    assert grown["rollouts"] == 0


def test_what_happens_in_the_warm_up_is_not_growth():
    found = run_of(lambda step: 50 if step > 80 else 0, lambda step: 7, lambda step: 500.0 if step > 80 else 100.0)
    assert growth(found, 80) == {"resident_mb": 0.0, "arrays": 0, "objects": 0, "rollouts": 0}
