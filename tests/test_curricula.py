"""Curricula: what is wanted, what is remembered, and runs that resume with all of it."""

import dataclasses
import json
import math
from collections import Counter

import numpy as np
import pytest

from agent_tunix import curricula, recipes, rewards, runs, sources
from agent_tunix.config import Config
from agent_tunix.curricula import Curriculum, easy_first, near_rate
from agent_tunix.errors import ConfigError, RunError
from agent_tunix.types import Bounds, Reward, Score
from tests.test_recipes import texts
from tests.test_training import GROUP, PLAN, PROMPTS, Killed, Lab, recipe

ROWS = [{"prompt": str(n), "answer": str(n), "level": 1 + n // 10} for n in range(40)]


def by_value(rollouts, score):
    return np.asarray(score.value, float)


def made(preference=None, rows=ROWS, size=8, **settings):
    settings = {"seed": 0, "memory": 0.5, "prior_rate": 0.5, **settings}
    return Curriculum(rows, preference or near_rate(0.5, 0.1), by_value, size=size, **settings)


def graded(curriculum, solve):
    """Draws a batch, solves every prompt at the rate `solve(row)` of four completions, and tells the curriculum."""
    rows = next(curriculum)
    value = np.array([[float(member < round(4 * solve(row))) for member in range(4)] for row in rows])
    rollouts = texts([[""] * 4] * len(rows), {"row_id": [row["row_id"] for row in rows]})
    return rows, curriculum.learn(rollouts, Score(value, np.ones(value.shape, bool)))


def ids(rows):
    return [row["row_id"] for row in rows]


# --- What is wanted


@pytest.mark.parametrize("target", [0.3, 0.5, 0.8])
def test_rows_at_the_target_are_wanted_most_and_solved_or_hopeless_ones_at_the_floor(target):
    rates = np.linspace(0, 1, 101)
    weights = near_rate(target, 0.2)(0, rates)
    assert rates[weights.argmax()] == pytest.approx(target, abs=1e-9) and weights.max() == pytest.approx(1.0)
    assert weights[0] == weights[-1] == 0.2 and (weights >= 0.2 - 1e-12).all()


def test_easy_levels_come_first_and_all_of_them_in_the_end():
    wanted = easy_first([3, 1, 2, 1], start=0.25, draws=10)
    shares = [math.sqrt(0.0625 + 0.9375 * draw / 10) for draw in range(11)]
    # Two of four rows have level 1, so they are alone until half of the rows are wanted: 0.0625 + 0.09375 d <= 0.25.
    assert [wanted(draw, None).tolist() for draw in (0, 2)] == [[0, 1, 0, 1]] * 2 and shares[2] == 0.5
    assert wanted(3, None).tolist() == [0, 1, 1, 1]
    assert wanted(10, None).tolist() == wanted(99, None).tolist() == [1, 1, 1, 1]


def test_draws_follow_the_weights():
    only = made(lambda draw, rates: np.where(np.arange(40) < 10, 1.0, 0.25), size=1)
    counts = Counter(next(only)[0]["row_id"] < 10 for _ in range(4000))
    # 10 of weight 1 against 30 of weight a quarter: 10 / 17.5; four standard errors are 0.031.
    assert counts[True] / 4000 == pytest.approx(10 / 17.5, abs=0.031)


def test_rows_of_a_batch_differ_and_others_fill_it_up_where_too_few_are_wanted():
    few = made(lambda draw, rates: (np.arange(40) < 5).astype(float))
    for _ in range(20):
        drawn = ids(next(few))
        assert len(set(drawn)) == 8 and set(drawn[:5]) == set(range(5))


def test_rows_of_weight_zero_are_never_drawn():
    base = np.where(np.arange(40) % 2, 1.0, 0.0)
    odd = made(weights=base)
    assert all(row["row_id"] % 2 for _ in range(10) for row in next(odd))
    with pytest.raises(ConfigError, match="a batch of 21 rows cannot be drawn from 20"):
        made(weights=base, size=21)


# --- What is remembered


def test_the_rate_of_a_row_starts_at_that_of_its_pool_and_moves_to_its_own():
    curriculum = made(size=1, memory=1.0)
    assert (curriculum.rates() == 0.5).all()  # nothing is known
    (row,), _ = graded(curriculum, lambda row: 1.0)
    rates, pool = curriculum.rates(), [n for n in range(40) if ROWS[n]["level"] == row["level"]]
    # Four completions of its own and four of its pool, all solved; the other pools know nothing yet.
    assert rates[pool].tolist() == [1.0] * 10 and (np.delete(rates, pool) == 0.5).all()
    other = next(n for n in pool if n != row["row_id"])
    rollouts = texts([[""] * 4], {"row_id": [other]})
    curriculum.learn(rollouts, Score(np.zeros((1, 4)), np.ones((1, 4), bool)))
    rates = curriculum.rates()
    # The pool: 4 of 8. Its own: (4 + 4 * 0.5) / 8, (0 + 4 * 0.5) / 8, and the pool's for the rest.
    assert (rates[row["row_id"]], rates[other]) == (0.75, 0.25)
    assert {rates[n] for n in pool} - {0.75, 0.25} == {0.5}


def test_older_completions_count_less():
    curriculum = made(size=1, rows=ROWS[:1], memory=0.5)
    for solve in (1.0, 0.0):
        graded(curriculum, lambda row, solve=solve: solve)
    # 0.5 * 4 of 0.5 * 4 + 4 completions, for the row as for its pool.
    assert curriculum.rates()[0] == pytest.approx(2 / 6)


def test_a_completion_without_a_verdict_counts_as_none():
    curriculum = made(size=1, rows=ROWS[:1], memory=1.0)
    rollouts = texts([[""] * 4], {"row_id": [0]})
    numbers = curriculum.learn(rollouts, Score(np.array([[1.0, np.nan, np.nan, 0.0]]), np.ones((1, 4), bool)))
    assert numbers["curriculum/solve_rate"] == curriculum.rates()[0] == 0.5
    before = curriculum.get_state()
    silent = curriculum.learn(rollouts, Score(np.full((1, 4), np.nan), np.ones((1, 4), bool)))
    assert math.isnan(silent["curriculum/solve_rate"]) and curriculum.get_state() == before


def test_a_row_sampled_twice_for_a_batch_counts_twice():
    curriculum = made(size=1, rows=ROWS[:1], memory=1.0)
    rollouts = texts([[""] * 4] * 2, {"row_id": [0, 0]})
    curriculum.learn(rollouts, Score(np.array([[1.0] * 4, [0.0] * 4]), np.ones((2, 4), bool)))
    assert curriculum.get_state()["own"] == [[4.0], [8.0]]


def test_prompts_that_are_sometimes_solved_come_more_often():
    curriculum = made(size=4, seed=1)
    solve = {1: 1.0, 2: 0.5, 3: 0.0, 4: 0.0}
    drawn = Counter()
    for number in range(200):
        rows, numbers = graded(curriculum, lambda row: solve[row["level"]])
        if number >= 50:
            drawn.update(row["level"] for row in rows)
    assert drawn[2] > 2 * max(drawn[1], drawn[3], drawn[4]) and min(drawn.values()) > 10
    assert numbers["curriculum/hard_fraction"] == 0.5 and numbers["curriculum/easy_fraction"] == 0.25
    assert numbers["curriculum/medium_fraction"] == 0.25 and numbers["curriculum/unseen_fraction"] == 0.0


@pytest.mark.parametrize("consumed", [0, 1, 7])
def test_a_restored_state_draws_what_would_have_followed(consumed):
    random = np.random.default_rng(0)
    chances = random.random(40)
    solve = lambda row: chances[row["row_id"]]  # noqa: E731
    original = made()
    for _ in range(consumed):
        graded(original, solve)
    state = json.loads(json.dumps(original.get_state()))
    following = [(ids(rows), numbers) for rows, numbers in (graded(original, solve) for _ in range(10))]
    fresh = made()
    graded(fresh, solve)  # whatever it knows is forgotten
    fresh.set_state(state)
    assert [(ids(rows), numbers) for rows, numbers in (graded(fresh, solve) for _ in range(10))] == following
    assert fresh.get_state() == original.get_state()


def test_a_state_of_other_rows_is_refused():
    with pytest.raises(RunError, match="the saved curriculum is of 40 rows in 4 pools, but the data have 20 in 2"):
        made(rows=ROWS[:20]).set_state(made().get_state())
    with pytest.raises(RunError, match="of None rows"):
        made().set_state({"next_index": 8})


# --- In a run


def digits_solved(rollouts, score):
    return (np.asarray(score.value) > 0.3).astype(float)


@pytest.fixture
def lab(tmp_path, policy, params, tokenizer, rows):
    return Lab(tmp_path / "run", policy, params, tokenizer, rows)


def fit(lab, plan, folder=None, **options):
    drawn = Curriculum(
        lab.rows, near_rate(0.5, 0.1), digits_solved, size=PROMPTS, seed=0, memory=0.5, prior_rate=0.5
    )  # fmt: skip
    return lab.fit(plan, folder=folder, batches=drawn, feedback=drawn.learn, **options)


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_run_that_is_cut_off_and_resumed_draws_what_it_would_have_drawn(lab, tmp_path, ahead):
    plan = dataclasses.replace(PLAN, rollouts_ahead=ahead)
    fit(lab, plan, folder=tmp_path / "whole")
    seen = []

    def kill(row, timing):
        seen.append(row["step"])
        if len(seen) == 6:  # after the fourth batch, whose state is saved
            raise Killed

    with pytest.raises(Killed):
        fit(lab, plan, show=kill)
    fit(lab, plan)
    assert lab.metrics() == lab.metrics(tmp_path / "whole")
    samples = [list(runs.read_samples(folder)) for folder in (lab.folder, tmp_path / "whole")]
    assert samples[0] == samples[1] and "row_id" in samples[0][0]["columns"]
    rows = runs.read_metrics(lab.folder, "train")
    assert all(0 <= row["curriculum/solve_rate"] <= 1 for row in rows)


def test_the_next_batch_is_drawn_when_the_one_before_is_graded_also_ahead(lab):
    order = []

    class Watched(Curriculum):
        def __next__(self):
            order.append("draw")
            return super().__next__()

        def learn(self, rollouts, score):
            order.append("learn")
            return super().learn(rollouts, score)

    drawn = Watched(lab.rows, near_rate(0.5, 0.1), digits_solved, size=PROMPTS, seed=0, memory=0.5, prior_rate=0.5)
    lab.fit(dataclasses.replace(PLAN, rollouts_ahead=1), batches=drawn, feedback=drawn.learn)
    assert order == ["draw", "learn"] * 6


def test_all_that_is_sampled_to_refill_a_batch_is_told_at_once(lab):
    told = []

    def feedback(rollouts, score):
        told.append(len(rollouts.prompts))
        return {"curriculum/level": 1.0}

    def nothing(score):
        return np.zeros(len(score.value), bool)

    plan = dataclasses.replace(PLAN, steps=1, max_refills=2)
    lab.fit(plan, method=recipe(keep_group=nothing), feedback=feedback)
    assert told == [3 * PROMPTS]
    row = runs.read_metrics(lab.folder, "train")[0]
    assert (row["curriculum/level"], row["group/refills"]) == (1.0, 2.0)
    assert GROUP == 4


# --- From the config


def configured(**chosen):
    config = Config()
    small = dataclasses.replace(
        config.data, train_size=40, heldout_size=4, curriculum=dataclasses.replace(config.data.curriculum, **chosen)
    )
    training = dataclasses.replace(config.training, prompts_per_batch=8, steps=20)
    return dataclasses.replace(config, data=small, training=training)


def drawn_of(config):
    rows = sources.dataset(config).train
    return sources.batches(config, rows, recipes.solved(config, recipes.reward(config)))


def test_without_a_curriculum_batches_are_those_of_grain():
    batches, _ = drawn_of(configured())
    assert batches.get_state() == {"next_index": 0} and "row_id" not in next(batches)[0]


@pytest.mark.parametrize("by", ["solve_rate", "difficulty"])
def test_a_curriculum_is_chosen_by_name(by):
    batches, feedback = drawn_of(configured(by=by))
    assert isinstance(batches, Curriculum) and feedback == batches.learn


def test_in_a_mixture_sources_have_their_shares_and_easy_levels_come_first():
    given = {
        "easy": {"task": "sorting", "level": 1},
        "hard": {"task": "sorting", "level": 3, "weight": 3},
    }
    config = configured(by="solve_rate", floor=1.0)  # all are wanted equally, so only the weights count
    mixture = dataclasses.replace(config.data, task="mixture", sources=given)
    batches, _ = drawn_of(dataclasses.replace(config, data=mixture))
    counts = Counter(row["source"] for _ in range(200) for row in next(batches))
    # Without replacement a batch of 8 has a little less than three quarters of the heavier source.
    assert 0.66 < counts["hard"] / counts.total() < 0.77
    paced = dataclasses.replace(
        mixture, curriculum=dataclasses.replace(config.data.curriculum, by="difficulty", pace=1.0)
    )
    batches, _ = drawn_of(dataclasses.replace(config, data=paced))
    levels = [{row["level"] for row in next(batches)} for _ in range(21)]
    # Half of the rows are easy: from 0.2 ** 2 to 0.5 ** 2 in 20 * 0.21 / 0.96 = 4.4 draws.
    assert levels[:5] == [{1}] * 5 and all(3 in found for found in levels[6:])


def test_the_share_of_the_reward_may_stand_for_what_is_solved():
    config = configured(solved="reward")
    reward = Reward("half", lambda rollouts: None, Bounds(-1, 3))
    score = Score(np.array([[-1.0, 1.0, 3.0, 0.0]]), np.array([[True, True, True, False]]))
    np.testing.assert_array_equal(recipes.solved(config, reward)(None, score), [[0.0, 0.5, 1.0, np.nan]])
    unbounded = rewards.per_completion(lambda response: 0.0, name="free")
    with pytest.raises(ConfigError, match="needs the range of `free`, which is -inf to inf"):
        recipes.solved(config, unbounded)


def test_every_name_that_is_logged_is_that_of_one_family():
    _, numbers = graded(made(), lambda row: 0.5)
    assert {name.partition("/")[0] for name in numbers} == {"curriculum"} and curricula.HARD < curricula.EASY
