"""The ablation: every trick can be left out and put back, and its page is that of its result."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import ablation
import ablation_page
from ablation_tricks import TRICKS
from grpo_workloads import WORKLOADS

from agent_tunix import sampling


def test_a_trick_that_is_left_out_is_put_back():
    trick = next(one for one in TRICKS if one.name == "Inverse CDF")
    fast = sampling.draw
    with trick.left_out():
        assert sampling.draw is not fast
    assert sampling.draw is fast


def test_every_trick_has_a_name_of_its_own_and_a_workload():
    names = [trick.name for trick in TRICKS]
    assert len(set(names)) == len(names)
    assert all(set(trick.workloads) <= set(WORKLOADS) for trick in TRICKS)
    assert all(trick.patches or trick.settings for trick in TRICKS)


@pytest.mark.slow
def test_a_step_goes_through_without_any_one_trick():
    # Ragged completions are due by the row of a prompt and its member, which prompts of their own do not have.
    shared = [trick for trick in TRICKS if dict(trick.settings).get("shared") is not False]
    for name, tricks in (("tiny", TRICKS), ("tiny_ragged", shared)):
        found = ablation.timed(WORKLOADS[name], tricks, rounds=1)
        bases = {ablation.base_of(trick).name for trick in tricks}
        assert len(found) == len(tricks) + len(bases)
        assert all(min(one["seconds"].values()) > 0 for one in found.values())
        assert all(found[base]["ratio"] == {"median": 1.0, "min": 1.0, "max": 1.0} for base in bases)


def test_plain_steps_draw_what_fast_ones_draw():
    fast = ablation.Step(WORKLOADS["tiny_ragged"])._rollouts(3)
    for trick in TRICKS:
        if trick.name in ("Ended completions dropped", "Attention in decoding by batched products"):
            with trick.left_out():
                plain = ablation.Step(WORKLOADS["tiny_ragged"], **dict(trick.settings))._rollouts(3)
            np.testing.assert_array_equal(plain.completion_ids, fast.completion_ids)
            np.testing.assert_allclose(plain.logprobs, fast.logprobs, atol=1e-5)


def test_the_page_is_that_of_the_result_and_no_trick_is_idle():
    result = json.loads(ablation_page.RESULT.read_text(encoding="utf-8"))
    page = ablation_page.PAGE.read_text(encoding="utf-8")
    renewed = ablation_page.page_tables.renewed(page, ablation_page.tables(result))
    assert renewed == page, "stale: run python benchmarks/ablation_page.py"
    assert ablation_page.idle(result) == []
    measured = {name for one in result["workloads"].values() for name in one} - {
        ablation.base_of(trick).name for trick in TRICKS
    }
    assert measured == {trick.name for trick in TRICKS}


def test_a_trick_that_gains_too_little_everywhere_is_told():
    name, other = TRICKS[0].name, TRICKS[1].name

    def one(median):
        return {"ratio": {"median": median}}

    result = {"workloads": {"W1": {name: one(1.02), other: one(1.02)}, "W3": {name: one(0.9), other: one(1.04)}}}
    assert ablation_page.idle(result) == [name]
