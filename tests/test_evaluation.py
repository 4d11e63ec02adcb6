import itertools
import json
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix import evaluation
from agent_tunix.evaluation import Answered, bootstrap, majority, pass_at_k, wilson
from agent_tunix.types import Rollouts


def says(answer):
    return f"<answer>{answer}</answer>"


def answered(answers, right="7", row=None, formatted=None, truncated=None):
    """A prompt whose completions state `answers`; None states nothing."""
    texts = ["hm" if answer is None else says(answer) for answer in answers]
    return Answered(
        row=row or {},
        completions=texts,
        correct=[answer == right for answer in answers],
        formatted=formatted or [float(answer is not None) for answer in answers],
        truncated=truncated or [False] * len(answers),
        lengths=[3] * len(answers),
    )


# pass@k


@pytest.mark.parametrize(
    ("samples", "correct", "k", "expected"),
    [
        (4, 1, 1, 1 / 4),
        (4, 1, 2, 1 / 2),  # the right one is among two of four
        (5, 2, 3, 9 / 10),  # of ten triples one holds no right one
        (10, 3, 5, 11 / 12),  # 1 - C(7, 5) / C(10, 5) = 1 - 21 / 252
        (4, 0, 4, 0.0),
        (4, 1, 4, 1.0),
        (4, 4, 1, 1.0),
        (4, 3, 2, 1.0),  # fewer wrong ones than k
    ],
)
def test_pass_at_k_by_hand(samples, correct, k, expected):
    assert pass_at_k(samples, correct, k) == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_one(samples, data):
    correct, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    subsets = list(itertools.combinations([index < correct for index in range(samples)], k))
    assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


@pytest.mark.parametrize("k", [-1, 0, 5])
def test_pass_at_k_refuses_more_completions_than_were_drawn(k):
    with pytest.raises(ValueError, match=rf"pass@{k} needs between 1 and 4"):
        pass_at_k(4, 2, k)


# majority@k


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["7", "7", "3"], 1.0),
        (["3", "3", "7"], 0.0),
        (["7", "3"], 1 / 2),  # two winners share
        (["7", "3", "5"], 1 / 3),
        (["7", "7", "3", "3", "5"], 1 / 2),
        (["3", "5"], 0.0),
        (["7", None, None], 1.0),  # those that state nothing do not outvote
        ([None, None], 0.0),
    ],
)
def test_majority_by_hand(answers, expected):
    assert majority(answered(answers)) == pytest.approx(expected, abs=1e-12)


def test_votes_that_differ_in_spaces_are_one_vote():
    item = Answered(
        row={},
        completions=[says("1 2"), says(" 1   2 "), says("1\n2"), says("2 1"), says("2 1")],
        correct=[True, True, True, False, False],
        formatted=[1.0] * 5,
        truncated=[False] * 5,
        lengths=[1] * 5,
    )
    assert majority(item) == 1.0


def test_several_answers_can_be_right():
    item = Answered({}, [says("1+2"), says("2+1"), says("4")], [True, True, False], [1.0] * 3, [False] * 3, [1] * 3)
    assert majority(item) == pytest.approx(2 / 3, abs=1e-12)


# Wilson's interval


@pytest.mark.parametrize(
    ("successes", "low", "high"),
    [
        # z² = 3.841459; none of ten: z² / (10 + z²) = 0.277533
        (0, 0.0, 0.277533),
        (10, 0.722467, 1.0),
        # half: z / (1 + z² / 10) * sqrt(0.025 + z² / 400) = 1.415970 * 0.186020 = 0.263407
        (5, 0.236593, 0.763407),
    ],
)
def test_wilson_by_hand(successes, low, high):
    assert wilson(successes, 10) == pytest.approx((successes / 10, low, high), abs=2e-6)


@given(st.integers(1, 3000), st.data())
def test_wilson_holds_its_proportion_and_stays_in_range(total, data):
    successes = data.draw(st.one_of(st.just(0), st.just(total), st.integers(0, total)))
    interval = wilson(successes, total)
    assert 0.0 <= interval.low <= interval.value <= interval.high <= 1.0
    assert interval.high > interval.low


@given(st.integers(1, 500), st.data())
def test_wilson_is_symmetric(total, data):
    successes = data.draw(st.integers(0, total))
    there, back = wilson(successes, total), wilson(total - successes, total)
    assert there.low == pytest.approx(1 - back.high, abs=1e-12)


# bootstrap


def test_bootstrap_draws_the_same_every_time():
    values = np.random.default_rng(3).random(40)
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap(values, resamples=50) != bootstrap(values)


def test_bootstrap_agrees_with_the_normal_interval_of_many_values():
    values = np.random.default_rng(0).random(2000)
    half = 1.959964 * values.std() / math.sqrt(2000)
    interval = bootstrap(values)
    assert interval.value == pytest.approx(values.mean(), abs=1e-12)
    # A percentile of 1000 resampled means scatters by about 0.08 of their deviation.
    assert interval.low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.2 * half)


@pytest.mark.parametrize("mean", [0.05, 0.5, 0.998])
def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says(mean):
    random = np.random.default_rng(1)
    runs = [bootstrap(random.random(100) < mean, resamples=200) for _ in range(200)]
    covered = np.mean([interval.low <= mean <= interval.high for interval in runs])
    assert covered > 0.88


def test_equal_values_do_not_claim_certainty():
    assert bootstrap(np.ones(10)) == wilson(10, 10)
    assert bootstrap(np.zeros(10)) == wilson(0, 10)
    assert bootstrap(np.full(10, 0.5)) == wilson(5, 10)


# answer


ROWS = [{"prompt": str(number), "answer": str(number)} for number in range(5)]


class Recorder:
    """Samples "the prompt's own number" for member 0 and nothing for the rest, and records how it was called."""

    def __init__(self):
        self.calls = []

    def __call__(self, parameters, rows, group_size, key):
        self.calls.append((parameters, [row["prompt"] for row in rows], group_size, jax.random.key_data(key).tolist()))
        shape = (len(rows), group_size)
        mask = np.arange(4) <= np.arange(group_size)[:, None]
        empty = np.zeros((*shape, 4))
        return Rollouts(
            prompts=[row["prompt"] for row in rows],
            completions=[[says(row["answer"]), *["hm"] * (group_size - 1)] for row in rows],
            columns={},
            prompt_ids=np.zeros((len(rows), 1), int),
            prompt_mask=np.ones((len(rows), 1), bool),
            completion_ids=empty.astype(int),
            completion_mask=np.broadcast_to(mask, (*shape, 4)),
            truncated=np.broadcast_to(np.arange(group_size) > 0, shape),
            logprobs=empty,
            old_logprobs=empty,
        )


def answer(sample, rows=ROWS, **changes):
    settings = {"group_size": 2, "prompts_per_batch": 2, "key": jax.random.key(0)} | changes
    return evaluation.answer(
        sample,
        "parameters",
        rows,
        correct=lambda text, row: float(text == says(row["answer"])),
        formatted=lambda text: float("<answer>" in text),
        **settings,
    )


def test_the_last_batch_is_filled_up_and_the_filling_is_not_counted():
    sample = Recorder()
    items = answer(sample)
    assert [prompts for _, prompts, _, _ in sample.calls] == [["0", "1"], ["2", "3"], ["4", "4"]]
    assert [item.row["prompt"] for item in items] == ["0", "1", "2", "3", "4"]


def test_a_batch_larger_than_the_rows_is_filled_up_too():
    sample = Recorder()
    assert len(answer(sample, ROWS[:1], prompts_per_batch=3)) == 1
    assert sample.calls[0][1] == ["0", "0", "0"]


def test_batches_do_not_share_noise_but_repeat_for_the_same_key():
    first, second, other = Recorder(), Recorder(), Recorder()
    answer(first), answer(second), answer(other, key=jax.random.key(1))
    keys, again, different = ([tuple(call[3]) for call in recorder.calls] for recorder in (first, second, other))
    assert keys == again
    assert len({*keys, *different}) == 6


def test_completions_keep_their_grades_and_lengths():
    item = answer(Recorder(), group_size=3)[3]
    assert item.row is ROWS[3]
    assert item.completions == [says("3"), "hm", "hm"]
    assert item.correct == [True, False, False]
    assert item.formatted == [1.0, 0.0, 0.0]
    assert item.truncated == [False, True, True]
    assert item.lengths == [1, 2, 3]


# evaluation


def row(task=None, level=None):
    return {name: value for name, value in (("task", task), ("level", level)) if value is not None}


def names(*rows):
    return list(evaluation.evaluation([answered(["7"], row=row) for row in rows], split="test").slices)


def test_slices_are_left_out_where_they_say_nothing_new():
    assert names({}, {}) == ["all"]
    assert names(row("sum", 1), row("sum", 1)) == ["all"]
    assert names(row("sum", 1), row("sum", 2)) == ["all", "sum level 1", "sum level 2"]
    assert names(row("sum"), row("sort")) == ["all", "task sum", "task sort"]
    assert names(row("sum", 1), row("sort", 1)) == ["all", "task sum", "task sort"]
    assert names(row("sum", 1), row("sort", 1), row("sort", 2)) == [
        "all", "task sum", "task sort", "sort level 1", "sort level 2",
    ]  # fmt: skip


def test_slices_count_and_measure_their_own_prompts():
    greedy = [answered([said], row=row("sum", level)) for said, level in (("7", 1), ("7", 2), ("3", 2), (None, 2))]
    sampled = [
        answered(said, row=item.row) for said, item in zip((["7", "7"], ["7", "3"], ["3", "3"], [None] * 2), greedy)
    ]
    slices = evaluation.evaluation(greedy, sampled, split="test", samples=2).slices
    assert {name: count for name, (count, _) in slices.items()} == {"all": 4, "sum level 1": 1, "sum level 2": 3}
    hard = slices["sum level 2"][1]
    assert hard["accuracy"] == wilson(1, 3)
    assert hard["format"] == wilson(2, 3)
    assert hard["pass@1"].value == pytest.approx(1 / 6, abs=1e-12)
    assert hard["pass@2"].value == pytest.approx(1 / 3, abs=1e-12)
    assert hard["majority@2"].value == pytest.approx(1 / 6, abs=1e-12)
    assert hard["sampled_format"].value == pytest.approx(2 / 3, abs=1e-12)
    assert slices["all"][1]["accuracy"] == wilson(2, 4)


def test_a_partly_kept_format_is_not_kept():
    item = answered(["7", "7"], formatted=[0.9, 1.0], truncated=[True, False])
    metrics = evaluation.evaluation([item], [item], split="test", samples=2).slices["all"][1]
    assert metrics["format"].value == 0.0
    assert metrics["truncated_fraction"].value == 1.0
    assert metrics["sampled_format"].value == 0.5
    assert metrics["sampled_truncated_fraction"].value == 0.5


@pytest.mark.parametrize(("samples", "ks"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_pass_at_powers_of_two_and_at_all_samples(samples, ks):
    items = [answered(["7"] * samples), answered(["3"] * samples)]
    metrics = evaluation.evaluation(items, items, split="test", samples=samples).slices["all"][1]
    assert [name for name in metrics if name.startswith("pass@")] == [f"pass@{k}" for k in ks]
    assert [name for name in metrics if name.startswith("majority@")] == [f"majority@{samples}"]


def test_without_samples_only_greedy_metrics_are_given():
    metrics = evaluation.evaluation([answered(["7"])], split="test").slices["all"][1]
    assert list(metrics) == ["accuracy", "format", "truncated_fraction"]


def test_pass_never_falls_with_more_tries():
    random = np.random.default_rng(0)
    items = [answered([str(random.choice([3, 7])) for _ in range(8)]) for _ in range(20)]
    metrics = evaluation.evaluation(items, items, split="test", samples=8).slices["all"][1]
    values = [metrics[f"pass@{k}"].value for k in (1, 2, 4, 8)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(np.mean([np.mean(item.correct) for item in items]), abs=1e-12)


def test_table_has_one_line_per_slice_and_metric():
    items = [answered(["7"], row=row("sum", 1)), answered(["3"], row=row("sum", 2))]
    result = evaluation.evaluation(items, split="heldout")
    head, *lines = result.table().splitlines()
    assert head.split()[1:3] == ["2", "prompts"]
    # wilson(1, 2): centre 0.5, half 0.405470
    assert lines[0].split() == ["accuracy", "0.500", "[0.095,", "0.905]"]
    names, *slices = lines[4:]
    assert names.split() == ["slice", "prompts", "accuracy", "format", "truncated_fraction"]
    assert [" ".join(line.split()[:4]) for line in slices] == ["sum level 1 1", "sum level 2 1"]
    assert sum(float(line.split()[4]) for line in slices) == 1.0  # one of the two is right


def test_json_holds_every_number_of_the_table():
    items = [answered(["7", None]), answered(["3", "7"])]
    result = evaluation.evaluation(items, items, split="heldout", samples=2)
    read = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert read == result.to_json()
    assert (read["split"], read["samples"]) == ("heldout", 2)
    whole = read["slices"]["all"]
    assert whole.pop("prompts") == 2
    assert {name: evaluation.Interval(**value) for name, value in whole.items()} == result.slices["all"][1]
