"""Batches in parts: graded in the background while the next part is sampled, and nothing lost when that breaks."""

import threading

import jax
import numpy as np
import pytest

from agent_tunix import rewards
from agent_tunix.collecting import Clock, collect
from agent_tunix.errors import RewardError
from agent_tunix.types import Rollouts

ROWS = [{"prompt": f"{number}", "answer": str(number)} for number in range(4)]


class Endless:
    def __next__(self):
        return ROWS


def texts_of(rows, group_size):
    """Two completions per row: the right answer and a wrong one."""
    return [[f"#### {row['answer']}", "#### x"][:group_size] for row in rows]


def sample(parameters, rows, group_size, key):
    del parameters, key
    shape = (len(rows), group_size, 1)
    zeros, ones = np.zeros(shape, np.float32), np.ones(shape, bool)
    return Rollouts(
        prompts=[row["prompt"] for row in rows],
        completions=texts_of(rows, group_size),
        columns={"answer": [row["answer"] for row in rows]},
        prompt_ids=np.zeros((len(rows), 1), np.int32),
        prompt_mask=np.ones((len(rows), 1), bool),
        completion_ids=zeros.astype(np.int32),
        completion_mask=ones,
        truncated=np.zeros(shape[:2], bool),
        logprobs=zeros,
        old_logprobs=zeros,
    )


def collected(reward, parts, kept=None, sample=sample, clock=None):
    record = (lambda *item: None) if kept is None else lambda *item: kept.append(item)
    return collect(
        sample, reward, None, None, Endless(), jax.random.key(0), group_size=2, parts=parts, max_refills=0, batch=7,
        record=record, clock=clock or Clock(),
    )  # fmt: skip


CORRECT = rewards.per_completion(rewards.exact_answer, "answer", name="correctness", bounds=(0, 1))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_are_joined_to_the_batch_they_were(parts):
    rollouts, score, notes = collected(CORRECT, parts)
    assert rollouts.prompts == ["0", "1", "2", "3"] and notes == {}
    np.testing.assert_array_equal(score.value, [[1, 0]] * 4)
    assert score.seconds["correctness"].shape == (4, 2)


def test_one_part_is_graded_while_the_next_is_sampled():
    graded_first, order = threading.Event(), []

    def slow_sample(parameters, rows, group_size, key):
        if rows[0]["prompt"] == "2":  # the second part is not sampled before the first one is graded
            order.append(graded_first.wait(10))
        return sample(parameters, rows, group_size, key)

    def grade(response, answer):
        if answer == "1" and response == "#### x":
            graded_first.set()
        return 0.5

    collected(rewards.per_completion(grade, "answer"), 2, sample=slow_sample)
    assert order == [True]


def test_a_single_part_is_graded_in_the_main_thread():
    names = set()

    def grade(response):
        names.add(threading.current_thread() is threading.main_thread())
        return 0.0

    collected(rewards.per_completion(grade), 1)
    assert names == {True}


@pytest.mark.parametrize("parts", [1, 2])
def test_a_broken_reward_keeps_all_that_was_sampled_before_it_was_noticed(parts):
    kept = []
    with pytest.raises(RewardError, match=r"returned nan for prompt 0, completion 0.*\(batch 7;"):
        collected(rewards.per_completion(lambda response: float("nan")), parts, kept)
    (rollouts, score), *others = kept
    assert not others and score is None
    assert rollouts.prompts == ["0", "1", "2", "3"][: len(rollouts.prompts)] and len(rollouts.prompts) >= 4 // parts


@pytest.mark.parametrize("parts", [1, 2])
def test_a_batch_whose_graders_are_down_is_kept_with_its_reasons(parts, caplog):
    kept = []

    def grade(response, answer):
        if answer in "0123"[:3]:
            raise ConnectionError("no route")
        return 1.0

    with pytest.raises(RewardError, match=r"graders failed on 75% of batch 7.*ConnectionError: no route"):
        collected(rewards.per_completion(grade, "answer", name="judge"), parts, kept)
    rollouts, score = kept[0]
    assert len(rollouts.prompts) == 4
    assert [(failure.prompt_index, failure.completion_index) for failure in score.failures] == [
        (p, g) for p in range(3) for g in range(2)
    ]
    assert "6 grader calls gave no value" in caplog.text


def test_an_interrupted_sampler_keeps_the_parts_before_it():
    kept = []

    def interrupted(parameters, rows, group_size, key):
        if rows[0]["prompt"] == "2":
            raise KeyboardInterrupt
        return sample(parameters, rows, group_size, key)

    with pytest.raises(KeyboardInterrupt):
        collected(CORRECT, 2, kept, sample=interrupted)
    assert kept[0][0].prompts == ["0", "1"]


def test_latencies_are_timings_of_the_next_update():
    clock = Clock()
    rollouts, _, _ = collected(CORRECT, 2, clock=clock)
    row = clock.timing(1, rollouts)
    assert 0 <= row["reward/part/correctness/latency_p50_s"] <= row["reward/part/correctness/latency_p95_s"]
    assert "reward/part/correctness/latency_p50_s" not in clock.timing(2, rollouts)
