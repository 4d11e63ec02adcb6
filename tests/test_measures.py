import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix import measures
from agent_tunix.plain import json_line
from agent_tunix.rewards import flat_groups
from agent_tunix.types import Failure, Outcome, Rollouts, Score

NAN = float("nan")


def score(value, valid=None, parts=None, outcomes=None, failures=()):
    value = np.asarray(value, np.float32)
    valid = np.ones(value.shape, bool) if valid is None else np.asarray(valid, bool)
    parts = {name: np.asarray(part, np.float32) for name, part in (parts or {}).items()}
    outcomes = {name: np.asarray(codes, np.int8) for name, codes in (outcomes or {}).items()}
    return Score(value, valid, parts, outcomes, failures=failures)


def rollouts(lengths, truncated=None, columns=None):
    lengths = np.asarray(lengths)
    prompts, group = lengths.shape
    mask = np.arange(lengths.max()) < lengths[..., None]
    return Rollouts(
        prompts=[f"prompt {p}" for p in range(prompts)],
        completions=[[f"text {p} {g}" for g in range(group)] for p in range(prompts)],
        columns=columns or {},
        prompt_ids=np.zeros((prompts, 1), np.int32),
        prompt_mask=np.ones((prompts, 1), bool),
        completion_ids=np.zeros(mask.shape, np.int32),
        completion_mask=mask,
        truncated=np.zeros(lengths.shape, bool) if truncated is None else np.asarray(truncated),
        logprobs=np.zeros(mask.shape, np.float32),
        old_logprobs=np.zeros(mask.shape, np.float32),
    )


# reward


def test_reward_statistics_by_hand():
    out = measures.reward_measures(score([[0, 1], [2, 5]]))
    assert out["reward/mean"] == 2.0
    assert out["reward/std"] == pytest.approx(math.sqrt(14 / 4), abs=1e-6)  # 4 + 1 + 0 + 9 over 4
    assert (out["reward/min"], out["reward/max"]) == (0.0, 5.0)
    assert out["reward/invalid_fraction"] == 0.0


def test_reward_quantiles_by_hand():
    out = measures.reward_measures(score([list(range(11)), [99] * 11], valid=[[True] * 11, [False] * 11]))
    assert (out["reward/p10"], out["reward/p50"], out["reward/p90"]) == (1.0, 5.0, 9.0)


def test_entries_without_a_value_enter_no_statistic():
    out = measures.reward_measures(score([[1, 99], [3, -99]], valid=[[True, False], [True, False]]))
    assert (out["reward/mean"], out["reward/min"], out["reward/max"]) == (2.0, 1.0, 3.0)
    assert out["reward/invalid_fraction"] == 0.5


def test_what_became_of_grader_calls_is_kept_apart():
    part = [[1, NAN, NAN, NAN], [0, 1, NAN, NAN]]
    codes = [
        [Outcome.GRADED, Outcome.ABSTAINED, Outcome.FAILED, Outcome.TIMED_OUT],
        [Outcome.GRADED, Outcome.GRADED, Outcome.FAILED, Outcome.FAILED],
    ]
    out = measures.reward_measures(score(np.nan_to_num(part), ~np.isnan(part), {"a/b": part}, {"a/b": codes}))
    assert out["reward/part/a/b/abstained_fraction"] == 1 / 8
    assert out["reward/part/a/b/failed_fraction"] == 3 / 8
    assert out["reward/part/a/b/timed_out_fraction"] == 1 / 8
    assert out["reward/invalid_fraction"] == 5 / 8
    assert out["reward/part/a/b"] == pytest.approx(2 / 3, abs=1e-6)
    assert out["reward/part/a/b/std"] == pytest.approx(math.sqrt(2) / 3, abs=1e-6)


def test_a_part_without_outcomes_counts_as_graded():
    out = measures.reward_measures(score([[1, 0]], parts={"format": [[1, 0]]}))
    assert out["reward/part/format"] == 0.5
    assert out["reward/part/format/failed_fraction"] == 0.0


def test_statistics_over_nothing_are_nan():
    nothing = np.full((1, 2), NAN)
    out = measures.reward_measures(score([[0, 0]], [[False, False]], {"a": nothing}, {"a": [[1, 1]]}))
    for name in (
        "reward/mean",
        "reward/std",
        "reward/min",
        "reward/max",
        "reward/p50",
        "reward/part/a",
        "reward/part/a/std",
    ):
        assert math.isnan(out[name]), name
    assert out["reward/invalid_fraction"] == 1.0
    assert out["reward/part/a/abstained_fraction"] == 1.0


def test_the_keys_do_not_depend_on_the_values():
    good = score([[1, 0]], parts={"a": [[1, 0]]}, outcomes={"a": [[0, 0]]})
    bad = score([[0, 0]], [[False, False]], {"a": [[NAN, NAN]]}, {"a": [[2, 3]]})
    assert measures.reward_measures(good).keys() == measures.reward_measures(bad).keys()


# groups


@pytest.mark.parametrize(
    ("value", "valid", "expected"),
    [
        ([0.1, 0.1, 0.1], [1, 1, 1], True),
        ([0, 1, 0], [1, 1, 1], False),
        ([0, 1, 0], [1, 0, 1], True),  # the one that differs has no value
        ([0, 1, 0], [1, 1, 0], False),
        ([0, 1, 0], [0, 1, 0], True),  # one alone has nothing to differ from
        ([0, 1, 0], [0, 0, 0], True),
        ([1e6, 1e6 + 0.0625, 1e6], [1, 1, 1], False),
    ],
)
def test_flat_by_hand(value, valid, expected):
    flat = flat_groups(Score(np.array([value], np.float32), np.array([valid], bool)))
    assert flat.tolist() == [expected]


@given(st.lists(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=3, max_size=3), min_size=1, max_size=4))
def test_flat_groups_have_fewer_than_two_different_valid_rewards(groups):
    value = np.array([[reward for reward, _ in group] for group in groups], np.float32)
    valid = np.array([[keep for _, keep in group] for group in groups])
    expected = [len({reward for reward, keep in group if keep}) < 2 for group in groups]
    assert flat_groups(Score(value, valid)).tolist() == expected


def test_group_measures_by_hand():
    value = [[0, 2, 50], [1, 1, 1], [4, 9, 9]]
    valid = [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    out = measures.group_measures(score(value, valid))
    assert out["group/flat_fraction"] == pytest.approx(2 / 3, abs=1e-12)
    assert out["group/std"] == pytest.approx(math.sqrt(2) / 2, abs=1e-6)  # sqrt(2), 0, and a group of one left out


def test_group_measures_without_any_pair():
    out = measures.group_measures(score([[1, 2]], [[True, False]]))
    assert out["group/flat_fraction"] == 1.0
    assert math.isnan(out["group/std"])


# completions and sources


def test_completion_measures_by_hand():
    out = measures.completion_measures(rollouts([[1, 4], [3, 4]], truncated=[[False, True], [False, True]]))
    assert out == {
        "completion/length": 3.0,
        "completion/length_min": 1.0,
        "completion/length_max": 4.0,
        "completion/length_ended": 2.0,
        "completion/truncated_fraction": 0.5,
        "completion/several_answers_fraction": 0.0,
        "completion/empty_fraction": 0.0,
        "completion/repetition": 0.0,  # the two of four tokens hold one 4-gram each
    }


def test_hedging_and_empty_completions_are_shares_of_all():
    batch = rollouts([[4, 4], [4, 4]], columns={"answer": ["7", "1 2"]})
    texts = [["<answer>7, 8</answer>", "<answer>7</answer>"], ["<answer>1 2</answer>", " "]]
    out = measures.completion_measures(dataclasses.replace(batch, completions=texts))
    assert out["completion/several_answers_fraction"] == 0.25
    assert out["completion/empty_fraction"] == 0.25


def test_repetition_counts_ngrams_that_came_before():
    ids = np.array([[[1, 2, 1, 2, 1, 2], [1, 2, 3, 4, 5, 6], [1, 1, 1, 9, 9, 9]]])
    mask = np.array([[[True] * 6, [True] * 6, [True, True, True, False, False, False]]])
    # 12 21 12 21 12: 3 of 5 repeat; none of 5; 11 11: 1 of 2
    assert measures.repetition(ids, mask, n=2) == pytest.approx((3 / 5 + 0 + 1 / 2) / 3)


def test_repetition_is_nan_where_every_completion_is_too_short():
    assert math.isnan(measures.repetition(np.ones((1, 2, 3), int), np.ones((1, 2, 3), bool)))
    assert math.isnan(measures.repetition(np.ones((1, 1, 5), int), np.array([[[True, True, False, False, False]]])))


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=12), min_size=1, max_size=5))
def test_repetition_equals_a_count_by_sets(completions):
    width = max(map(len, completions))
    ids = np.array([[row + [7] * (width - len(row)) for row in completions]])
    mask = np.array([[[True] * len(row) + [False] * (width - len(row)) for row in completions]])
    grams = [[tuple(row[i : i + 4]) for i in range(len(row) - 3)] for row in completions]
    expected = np.mean([1 - len(set(row)) / len(row) for row in grams])
    assert measures.repetition(ids, mask) == pytest.approx(expected)


def test_the_length_of_ended_completions_is_nan_where_none_ended():
    out = measures.completion_measures(rollouts([[2, 2]], truncated=[[True, True]]))
    assert math.isnan(out["completion/length_ended"])
    assert out["completion/truncated_fraction"] == 1.0


def test_tasks_of_a_mixture_are_measured_apart():
    three = score([[1, 0], [5, 7], [0, 99]], valid=[[1, 1], [1, 1], [1, 0]])
    batch = rollouts(np.ones((3, 2), int), columns={"task": ["sum", "sort", "sum"]})
    assert measures.source_measures(batch, three) == {
        "reward/task/sort": 6.0,
        "reward/task/sum": pytest.approx(1 / 3, abs=1e-6),
    }


@pytest.mark.parametrize("columns", [{}, {"task": ["sum", "sum"]}])
def test_a_single_source_adds_nothing(columns):
    batch = rollouts([[1, 1], [1, 1]], columns=columns)
    assert measures.source_measures(batch, score([[1, 0], [0, 1]])) == {}


# records


def scored():
    return score(
        [[1, 0], [0, 0]],
        [[True, False], [True, False]],
        {"format": [[1, 1], [0, 0]], "answer": [[1, NAN], [0, NAN]]},
        {"format": np.zeros((2, 2)), "answer": [[0, 2], [0, 3]]},
        [Failure("answer", 0, 1, "ValueError: no number"), Failure("answer", 1, 1, "took over 2 s")],
    )


def test_a_record_holds_what_happened_to_one_completion():
    raw = scored()
    shaped = score([[0.5, 0], [-0.5, 0]], raw.valid)
    credit = np.zeros((2, 2, 3), np.float32)
    credit[0, 0] = 0.75
    batch = rollouts([[3, 2], [1, 1]], [[True, False], [False, False]], {"answer": ["7", "8"]})
    records = measures.rollout_records(batch, raw, shaped, credit, step=4, batch=2)
    assert [(record["prompt_index"], record["completion_index"]) for record in records] == [
        (0, 0), (0, 1), (1, 0), (1, 1),
    ]  # fmt: skip
    assert records[0] == {
        "step": 4,
        "batch": 2,
        "prompt_index": 0,
        "completion_index": 0,
        "prompt": "prompt 0",
        "completion": "text 0 0",
        "columns": {"answer": "7"},
        "length": 3,
        "truncated": True,
        "reward": 1.0,
        "parts": {"format": 1.0, "answer": 1.0},
        "outcomes": {"format": "graded", "answer": "graded"},
        "shaped": 0.5,
        "advantage": 0.75,
    }
    assert records[1]["reward"] is None and records[1]["shaped"] is None
    assert records[1]["parts"] == {"format": 1.0, "answer": None}
    assert records[1]["outcomes"]["answer"] == "failed"
    assert records[1]["failures"] == {"answer": "ValueError: no number"}
    assert records[3]["outcomes"]["answer"] == "timed_out"
    assert records[3]["failures"] == {"answer": "took over 2 s"}
    assert records[3]["columns"] == {"answer": "8"}
    assert "failures" not in records[2]


def test_several_parts_of_one_completion_can_fail():
    both = score([[0]], [[False]], failures=[Failure("a", 0, 0, "one"), Failure("b", 0, 0, "two")])
    (record,) = measures.rollout_records(rollouts([[1]]), both, None, None, step=0, batch=0)
    assert record["failures"] == {"a": "one", "b": "two"}


def test_rollouts_whose_reward_failed_are_recorded_without_scores():
    records = measures.rollout_records(rollouts([[1, 2]]), None, None, None, step=0, batch=0)
    assert [record["completion"] for record in records] == ["text 0 0", "text 0 1"]
    assert {"reward", "parts", "outcomes", "shaped", "advantage", "failures"}.isdisjoint(records[0])


def test_groups_that_were_not_trained_on_have_no_advantage():
    (record,) = measures.rollout_records(rollouts([[1]]), score([[1]]), None, None, step=0, batch=0)
    assert record["reward"] == 1.0
    assert {"shaped", "advantage"}.isdisjoint(record)


def test_records_of_numpy_and_jax_scores_are_the_same_json():
    raw, credit = scored(), np.ones((2, 2, 3), np.float32)
    batch = rollouts([[3, 2], [1, 1]], columns={"answer": np.array([7, 8]), "numbers": [[1, 2], [3]]})
    on_device = jax.tree.map(jnp.asarray, raw)
    lines = [
        [json_line(record) for record in measures.rollout_records(batch, raw, shaped, credit, step=1, batch=0)]
        for shaped in (raw, on_device)
    ]
    assert lines[0] == lines[1]
    read = json.loads(lines[0][2])
    assert read["columns"] == {"answer": 8, "numbers": [3]}
    assert read["reward"] == 0.0
