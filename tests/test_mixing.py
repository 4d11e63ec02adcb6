"""Mixtures: rows side by side, exact shares, batches that resume, rewards and numbers of every source."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from agent_tunix import data, evaluation, measures, mixing, overrides, recipes, sources
from agent_tunix.config import Config
from agent_tunix.errors import ConfigError
from agent_tunix.types import Outcome, Score
from tests.test_recipes import texts


def rows_of(name, count, **columns):
    return [{"prompt": f"{name}{n}", "answer": str(n), **columns} for n in range(count)]


def dataset(name, train, heldout=2, **columns):
    rows = rows_of(name, train + heldout, **columns)
    return data.Dataset(rows[heldout:], rows[:heldout])


JOINED = mixing.joined({"a": dataset("a", 30), "b": dataset("b", 10, topic="x")})
WEIGHTS = {"a": 3.0, "b": 1.0}


def taken(batches, count):
    return [[row["prompt"] for row in next(batches)] for _ in range(count)]


def flat(batches, count):
    return [prompt for batch in taken(batches, count) for prompt in batch]


def mixture(**given):
    small = replace(Config().data, task="mixture", sources=given, train_size=30, heldout_size=8)
    return replace(Config(), data=small)


# --- Rows


def test_rows_say_where_they_are_from_take_turns_and_have_one_set_of_columns():
    assert [row["source"] for row in JOINED.train[:4]] == ["a", "b", "a", "b"]
    assert Counter(row["source"] for row in JOINED.train) == {"a": 30, "b": 10}
    assert [row["prompt"] for row in JOINED.heldout] == ["a0", "b0", "a1", "b1"]
    assert {frozenset(row) for row in [*JOINED.train, *JOINED.heldout]} == {
        frozenset(("prompt", "answer", "source", "topic"))
    }


def test_a_prompt_that_one_source_holds_out_is_trained_on_by_none():
    one, other = dataset("a", 5), dataset("a", 4, heldout=4)
    whole = mixing.joined({"one": one, "other": other})
    assert {row["prompt"] for row in whole.train}.isdisjoint(row["prompt"] for row in whole.heldout)
    assert whole.overlapping == 2  # a2 and a3 of `one`


def test_a_column_of_that_name_is_kept_under_another():
    whole = mixing.joined({"mine": dataset("a", 3, source="textbook")})
    assert {(row["source"], row["own_source"]) for row in whole.train} == {("mine", "textbook")}


# --- Batches


def test_every_stretch_of_rows_has_the_shares_of_the_weights():
    drawn = [
        prompt[0] for batch in taken(mixing.batches(JOINED.train, WEIGHTS, size=7, seed=0), 40) for prompt in batch
    ]
    counts = np.cumsum([name == "a" for name in drawn])
    assert (np.abs(counts - 0.75 * np.arange(1, len(drawn) + 1)) <= 1).all()


def test_each_source_is_seen_whole_before_any_row_of_it_comes_again():
    drawn = flat(mixing.batches(JOINED.train, WEIGHTS, size=8, seed=0), 20)
    of_b = [prompt for prompt in drawn if prompt[0] == "b"]
    assert len(set(of_b[:10])) == len(set(of_b[10:20])) == 10 and of_b[:10] != of_b[10:20]


def test_the_order_of_a_source_depends_neither_on_the_others_nor_on_their_weights():
    alone = flat(mixing.batches(JOINED.train, {"b": 1.0, "a": 0.0}, size=4, seed=5), 5)
    among = flat(mixing.batches(JOINED.train, WEIGHTS, size=4, seed=5), 30)
    assert alone == [prompt for prompt in among if prompt[0] == "b"][:20]
    other = flat(mixing.batches(JOINED.train, {"b": 1.0}, size=4, seed=6), 5)
    assert other != alone


@pytest.mark.parametrize("consumed", [0, 1, 3, 10, 41])
def test_a_restored_state_gives_the_batches_that_would_have_followed(consumed):
    original = mixing.batches(JOINED.train, WEIGHTS, size=5, seed=1)
    taken(original, consumed)
    state = json.loads(json.dumps(original.get_state()))
    following = taken(original, 12)
    fresh = mixing.batches(JOINED.train, WEIGHTS, size=5, seed=1)
    fresh.set_state(state)
    assert taken(fresh, 12) == following


def test_a_source_with_too_few_rows_for_its_share_is_named():
    with pytest.raises(ConfigError, match="source b has 10 training rows, but its weight asks for 21 of the 32 rows"):
        mixing.batches(JOINED.train, {"a": 1.0, "b": 2.0}, size=32, seed=0)


# --- Settings


def test_settings_of_sources_come_from_the_command_line():
    config = overrides.load(
        ["data=mixture", "data.sources.sums.task=arithmetic", "data.sources.sums.level=2", "data.sources.sorting={}",
         "data.sources.puzzles={task: gym, gym: gcd, gym_arguments: {max_value: 9}, weight: 0.5}", "data.train_size=77"]
    )  # fmt: skip
    found = sources.sources(config)
    assert list(found) == ["sums", "sorting", "puzzles"]
    assert (found["sums"].settings.task, found["sums"].settings.level, found["sums"].weight) == ("arithmetic", 2, 1.0)
    assert (found["sorting"].settings.task, found["sorting"].settings.train_size) == ("sorting", 77)
    assert found["puzzles"].settings.gym_arguments == {"max_value": 9} and found["puzzles"].weight == 0.5
    recipes.validate(config)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "data.sources has no source to train on"),
        ({"sorting": {"weight": 0}}, "no source to train on"),
        ({"sortin": {}}, "unknown data.sources.sortin.task `sortin`; did you mean `sorting`"),
        ({"a": {"task": "mixture"}}, "unknown data.sources.a.task `mixture`"),
        ({"sorting": {"levle": 2}}, "unknown key in data.sources.sorting `levle`; did you mean `level`"),
        ({"sorting": {"level": "two"}}, "data.sources.sorting.level is 'two', which does not fit"),
        ({"sorting": {"level": True}}, "does not fit"),
        ({"sorting": {"level": 0}}, "source sorting: data.level is 0"),
        ({"sorting": {"weight": -1}}, "weight is -1.0; it must be at least 0"),
        ({"sorting": 2}, "data.sources.sorting is 2; give its settings"),
        ({"a/b": {"task": "sorting"}}, "has the name `a/b`"),
        ({"mine": {"task": "file"}}, "source mine: data.path is not set"),
        ({"mine": {"task": "gym"}}, "source mine: data.gym is not set"),
    ],
)
def test_a_source_that_cannot_mean_anything_is_named(given, words):
    with pytest.raises(ConfigError) as caught:
        recipes.validate(mixture(**given))
    assert words in str(caught.value)


def test_sources_without_a_mixture_are_refused():
    config = replace(Config(), data=replace(Config().data, sources={"sorting": {}}))
    with pytest.raises(ConfigError, match=r"data\.task is sorting; choose data=mixture"):
        recipes.validate(config)


def test_a_source_of_weight_zero_is_only_evaluated():
    found = sources.dataset(mixture(sorting={}, arithmetic={"weight": 0}))
    assert {row["source"] for row in found.train} == {"sorting"}
    assert {row["source"] for row in found.heldout} == {"sorting", "arithmetic"}


# --- Rewards


MINE = {"task": "comparison", "reward_function": "tag_format"}


def graded(config):
    columns = {"source": ["sorting", "mine"], "answer": ["1 2", "9"], "task": ["sorting", "comparison"]}
    right = [["<answer>1 2</answer>", "<answer>2 1</answer>"], ["<answer>4</answer>", "9"]]
    return recipes.reward(config), texts(right, columns)


def test_a_source_may_bring_a_reward_of_its_own():
    reward, rollouts = graded(mixture(sorting={}, mine=MINE))
    score = reward(rollouts)
    # 0.3 * format + 0.7 * correctness for sorting, the format alone for the other.
    np.testing.assert_allclose(score.value, [[1.0, 0.3], [1.0, 0.0]], atol=1e-6)
    assert set(score.parts) == {"default/format", "default/correctness", "tag_format"}
    assert (np.asarray(score.outcomes["tag_format"])[0] == Outcome.ABSTAINED).all()


def test_without_one_all_sources_share_the_reward_of_the_run():
    reward, rollouts = graded(mixture(sorting={}, mine={"task": "comparison"}))
    np.testing.assert_allclose(reward(rollouts).value, [[1.0, 0.3], [0.3, 0.0]], atol=1e-6)


def test_parts_of_one_reward_cannot_be_weighed_where_there_are_several():
    config = mixture(sorting={}, mine=MINE)
    config = replace(config, advantage=replace(config.advantage, estimator="decoupled"))
    with pytest.raises(ConfigError, match="source mine has its own"):
        recipes.validate(config)


def test_solved_is_what_the_strict_grader_says_whatever_the_reward():
    for config in (mixture(sorting={}, mine=MINE), mixture(sorting={}, mine={"task": "comparison"})):
        reward, rollouts = graded(config)
        verdicts = recipes.solved(config, reward)(rollouts, reward(rollouts))
        np.testing.assert_array_equal(verdicts, [[1, 0], [0, 0]])


# --- Numbers


def test_every_source_is_measured_by_itself():
    score = Score(np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 9.0]]), np.array([[True] * 2, [True] * 2, [True, False]]))
    rollouts = texts([["", ""]] * 3, {"source": ["a", "b", "a"]})
    solved = np.array([[1.0, 0.0], [1.0, np.nan], [0.0, 0.0]])
    found = measures.mixture_measures(rollouts, score, solved)
    expected = {
        "source/a/share": 2 / 3,
        "source/a/reward_mean": 1 / 3,  # 1, 0 and 0; the last has no value
        "source/a/solve_rate": 0.25,
        "source/a/group_std": np.sqrt(0.5),
        "source/a/flat_fraction": 0.5,
        "source/b/share": 1 / 3,
        "source/b/reward_mean": 0.5,
        "source/b/solve_rate": 1.0,
        "source/b/group_std": 0.0,
        "source/b/flat_fraction": 1.0,
    }
    assert found == pytest.approx(expected)


def test_sources_are_told_of_every_batch_in_the_loop():
    config = mixture(sorting={}, comparison={"weight": 3})
    config = replace(config, training=replace(config.training, prompts_per_batch=8))
    batches, feedback = sources.batches(
        config, sources.dataset(config).train, recipes.solved(config, recipes.reward(config))
    )
    rows = next(batches)
    rollouts = texts([[row["demonstration"]] for row in rows], {name: [row[name] for row in rows] for name in rows[0]})
    found = feedback(rollouts, recipes.reward(config)(rollouts))
    assert (found["source/sorting/share"], found["source/comparison/share"]) == (0.25, 0.75)
    assert found["source/sorting/solve_rate"] == found["source/comparison/reward_mean"] == 1.0


def answered(source, correct):
    row = {"task": "t", "level": 1, **({"source": source} if source else {})}
    return evaluation.Answered(row, ["x"], [correct], [1.0], [False], [1])


def test_held_out_accuracy_is_told_by_source():
    items = [answered("a", True), answered("b", False), answered("a", False)]
    assert evaluation.accuracy_by_source(items) == {"a": 0.5, "b": 0.0}
    assert evaluation.accuracy_by_source([answered(None, True)]) == {}
    assert {"source a", "source b"} <= set(evaluation.evaluation(items, split="heldout").slices)
