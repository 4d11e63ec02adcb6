"""Rollouts one batch ahead: which parameters sample what, what overlaps, and what an end leaves behind."""

import dataclasses
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agent_tunix import checkpoints, models, runs
from agent_tunix.ahead import Ahead, InLine
from agent_tunix.collecting import Clock
from tests.test_training import GROUP, PLAN, PROMPTS, Lab, count_ones, recipe, sha

PLAN = dataclasses.replace(PLAN, rollouts_ahead=1)


@pytest.fixture
def lab(tmp_path, policy, params, tokenizer, rows):
    return Lab(tmp_path / "run", policy, params, tokenizer, rows)


# --- In a run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_batch_is_sampled_by_the_parameters_from_before_the_last_update(lab, ahead):
    sampled, after, sample = [], [], lab.sample

    def watched(parameters, *arguments):
        sampled.append(sha(parameters))
        return sample(parameters, *arguments)

    def evaluate(parameters, key):
        after.append(sha(parameters))
        return {"eval/accuracy": 0.5}

    lab.sample = watched
    lab.fit(dataclasses.replace(PLAN, evaluate_every=1, rollouts_ahead=ahead), evaluate=evaluate)
    assert len(set(after)) == 7  # at the start and after each of the six batches
    assert sampled == [after[max(batch - ahead, 0)] for batch in range(6)]


def test_what_the_loss_corrects_for_is_in_the_metrics(lab, tmp_path):
    lab.fit()
    lab.fit(PLAN, folder=tmp_path / "ahead")
    in_line, ahead = (runs.read_metrics(folder, "train") for folder in (lab.folder, tmp_path / "ahead"))
    # The first batch is that of the policy itself, and so is its gradient.
    assert {**ahead[0]} == {**in_line[0]}
    assert all(row["policy/old_kl"] < 1e-9 for row in (*in_line, ahead[0]))
    assert all(row["policy/old_kl"] > 1e-7 for row in ahead[1:])


def test_neither_slow_graders_nor_slow_updates_change_a_run(lab, tmp_path):
    lab.fit(PLAN, folder=tmp_path / "quick")
    random = np.random.default_rng(0)

    def slow(rollouts):
        time.sleep(0.1 * random.random())
        return count_ones(rollouts)

    pauses = iter(0.1 * np.random.default_rng(1).random(100))
    lab.fit(PLAN, method=recipe(slow), show=lambda row, timing: time.sleep(next(pauses)))
    assert lab.metrics() == lab.metrics(tmp_path / "quick")
    assert list(runs.read_samples(lab.folder)) == list(runs.read_samples(tmp_path / "quick"))


def test_the_next_batch_is_graded_while_one_is_trained_on(lab):
    graded, overlapped = [threading.Event() for _ in range(6)], []

    def grade(rollouts):
        next(event for event in graded if not event.is_set()).set()
        return count_ones(rollouts)

    def show(row, timing):
        if row["kind"] == "train" and row["step"] < 6:  # this batch is not over before the next one is graded
            overlapped.append(graded[row["step"]].wait(60))

    lab.fit(PLAN, method=recipe(grade), show=show)
    assert overlapped == [True] * 5


def test_nothing_is_sampled_that_will_not_be_trained_on(lab):
    calls, sample = [], lab.sample

    def counted(*arguments):
        calls.append(1)
        return sample(*arguments)

    lab.sample = counted
    lab.fit(dataclasses.replace(PLAN, steps=5, num_iterations=2))  # two updates per batch
    assert len(calls) == 3


def test_dropped_rollouts_stand_before_those_of_their_batch_and_after_those_of_the_one_before(lab):
    def half_flat(rollouts):
        score = count_ones(rollouts)
        value = score.value.copy()
        value[::2] = 1.0
        return dataclasses.replace(score, value=value)

    keep = lambda score: score.value.max(1) > score.value.min(1)  # noqa: E731
    lab.fit(dataclasses.replace(PLAN, steps=4, max_refills=5), method=recipe(half_flat, keep))
    samples = list(runs.read_samples(lab.folder))
    assert [item["batch"] for item in samples] == sorted(item["batch"] for item in samples)
    assert {(item["batch"], item["step"]) for item in samples} == {(0, 0), (1, 1), (2, 2), (3, 3)}
    assert len(samples) > 4 * PROMPTS * GROUP


def test_parts_of_a_batch_are_graded_in_the_background_of_the_background(lab, tmp_path):
    plan = dataclasses.replace(PLAN, rollout_microbatches=2)
    first, _ = lab.fit(plan)
    second, _ = lab.fit(plan, folder=tmp_path / "again")
    assert sha(first) == sha(second)
    assert lab.metrics() == lab.metrics(tmp_path / "again")


def test_an_interrupt_of_a_grader_stops_the_run_at_its_batch(lab, tmp_path):
    expected, _ = lab.fit(PLAN, folder=tmp_path / "whole")
    calls = iter([None, None, None, KeyboardInterrupt, *[None] * 9])

    def grade(rollouts):
        if (error := next(calls)) is not None:
            raise error
        return count_ones(rollouts)

    with pytest.raises(KeyboardInterrupt):
        lab.fit(PLAN, method=recipe(grade))
    assert runs.read_metrics(lab.folder, "train")[-1]["step"] == 3
    resumed, _ = lab.fit(PLAN, method=recipe(grade))
    assert sha(resumed) == sha(expected)
    assert lab.metrics() == lab.metrics(tmp_path / "whole")


def test_a_finished_run_that_is_given_more_steps_is_the_longer_run(lab, tmp_path):
    lab.rate = optax.constant_schedule(0.01)
    plan = dataclasses.replace(PLAN, evaluate_every=0)
    expected, _ = lab.fit(plan, folder=tmp_path / "whole")
    lab.fit(dataclasses.replace(plan, steps=4))
    resumed, _ = lab.fit(plan)
    assert sha(resumed) == sha(expected)
    rows = [runs.read_metrics(folder, "train") for folder in (lab.folder, tmp_path / "whole")]
    assert rows[0] == rows[1]


def test_a_run_can_change_to_rollouts_ahead_and_back(lab):
    steps = []
    for plan in (PLAN, dataclasses.replace(PLAN, rollouts_ahead=0), PLAN):
        steps.append(2 + len(steps) * 2)
        _, progress = lab.fit(dataclasses.replace(plan, steps=steps[-1]))
        assert progress.step == steps[-1]
    divergences = [row["policy/old_kl"] > 1e-7 for row in runs.read_metrics(lab.folder, "train")]
    # Two steps ahead, two in line, two ahead: the first of each round of rollouts ahead is on its own policy.
    assert divergences == [False, True, False, False, False, True]


@pytest.mark.parametrize("ahead", [0, 1])
def test_timings_say_how_long_a_step_waited(lab, ahead):
    def slow(rollouts):
        time.sleep(0.2)
        return count_ones(rollouts)

    timings = []
    lab.fit(
        dataclasses.replace(PLAN, rollouts_ahead=ahead),
        method=recipe(slow),
        show=lambda row, timing: timings.append(timing),
    )
    trained = [timing for timing in timings if timing]
    assert all(timing["time/reward_s"] >= 0.2 and timing["time/rollout_s"] > 0 for timing in trained)
    assert all(("time/wait_s" in timing) == bool(ahead) for timing in trained)
    assert all(timing.get("time/wait_s", 0.2) <= timing["time/step_s"] for timing in trained)


# --- By itself --------------------------------------------------------------------------------------------------------


class Counter:
    """Rows that are numbers, with the state that data pipelines have."""

    def __init__(self):
        self.next = 0

    def __next__(self):
        self.next += 1
        return self.next - 1

    def get_state(self):
        return {"next": self.next}


def weights(value):
    return models.full({"w": jnp.full(2, float(value))})


def gather_into(batches, seen):
    """Stands for `collect`: draws a row and notes which parameters sampled it."""

    def gather(sample, parameters, batch, record, clock):
        row = next(batches)
        sample(parameters, row, 1, None)
        clock.lap("rollout")
        record(f"dropped of {batch}", None)
        seen.append((batch, row, float(parameters.trainable["w"][0])))
        return f"batch {batch}", None, {}

    return gather


def test_batches_come_in_order_and_what_they_kept_before_them():
    batches, seen, kept = Counter(), [], []
    rounds = Ahead(lambda *arguments: None, gather_into(batches, seen), batches)
    for batch in range(3):
        kept.append(rounds.take(weights(batch), batch, lambda *item: kept.append(item[0]), Clock(), last=batch == 2)[0])
    assert seen == [(0, 0, 0.0), (1, 1, 0.0), (2, 2, 1.0)]
    assert kept == ["dropped of 0", "batch 0", "dropped of 1", "batch 1", "dropped of 2", "batch 2"]


def test_the_position_is_that_before_the_batch_under_way():
    batches = Counter()
    rounds = Ahead(lambda *arguments: None, gather_into(batches, []), batches)
    assert rounds.position() == {"next": 0}
    rounds.take(weights(0), 0, lambda *item: None, Clock(), last=False)
    assert rounds.position() == {"next": 1}
    rounds.take(weights(1), 1, lambda *item: None, Clock(), last=True)
    assert rounds.position() == {"next": 2} == batches.get_state()


def test_parameters_of_a_checkpoint_sample_the_first_batch():
    batches, seen = Counter(), []
    rounds = Ahead(lambda *arguments: None, gather_into(batches, seen), batches, {"w": jnp.full(2, 7.0)})
    rounds.take(weights(8), 0, lambda *item: None, Clock(), last=False)
    rounds.take(weights(9), 1, lambda *item: None, Clock(), last=True)
    assert [value for *_, value in seen] == [7.0, 8.0]
    assert rounds.behind["w"].tolist() == [9.0, 9.0]


def test_parameters_that_sample_survive_the_donation_of_the_trained_ones():
    batches, seen = Counter(), []
    begin = threading.Event()

    def sample(*arguments):
        assert batches.next == 1 or begin.wait(60)

    rounds = Ahead(sample, gather_into(batches, seen), batches)
    parameters = weights(3)
    rounds.take(parameters, 0, lambda *item: None, Clock(), last=False)
    jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)(parameters.trainable)
    assert parameters.trainable["w"].is_deleted()
    begin.set()
    rounds.take(weights(4), 1, lambda *item: None, Clock(), last=True)
    assert seen == [(0, 0, 3.0), (1, 1, 3.0)]


def test_close_waits_for_decoding_and_begins_no_more_of_it():
    batches, decoding, let_go, done = Counter(), threading.Event(), threading.Event(), []

    def sample(parameters, row, *arguments):
        if row == 1:
            decoding.set()
            let_go.wait(60)
        done.append(row)

    def gather(sample, parameters, batch, record, clock):
        row = next(batches)
        sample(parameters, row)
        sample(parameters, f"part of {row}") if row == 1 else None
        return None, None, {}

    rounds = Ahead(sample, gather, batches)
    rounds.take(weights(0), 0, lambda *item: None, Clock(), last=False)
    assert decoding.wait(60)
    threading.Timer(0.05, let_go.set).start()
    rounds.close()
    assert done == [0, 1]
    pending = next((thread for thread in threading.enumerate() if thread.name == "rollouts"), None)
    assert pending is None or (pending.join(60), pending.is_alive()) == (None, False)
    assert done == [0, 1]


def test_close_does_not_wait_for_a_grader_that_hangs():
    batches, hangs, never = Counter(), threading.Event(), threading.Event()

    def gather(sample, parameters, batch, record, clock):
        if next(batches) == 1:
            hangs.set()
            never.wait(60)
        return None, None, {}

    rounds = Ahead(lambda *arguments: None, gather, batches)
    rounds.take(weights(0), 0, lambda *item: None, Clock(), last=False)
    assert hangs.wait(60)
    rounds.close()
    assert any(thread.name == "rollouts" for thread in threading.enumerate())  # it is left behind
    never.set()


def test_in_line_a_batch_is_gathered_where_it_is_taken():
    batches, seen, kept = Counter(), [], []
    rounds = InLine(lambda *arguments: None, gather_into(batches, seen), batches)
    for batch in range(2):
        rounds.take(weights(batch), batch, lambda *item: kept.append(item[0]), Clock(), last=False)
        assert rounds.position() == {"next": batch + 1}
    rounds.close()
    assert seen == [(0, 0, 0.0), (1, 1, 1.0)]
    assert kept == ["dropped of 0", "dropped of 1"]
    assert rounds.behind is None


def test_a_checkpoint_has_parameters_that_sample_only_where_they_are_others(tmp_path):
    tree, other = {"w": jnp.arange(3.0)}, {"w": jnp.arange(3.0) / 7}
    manager = checkpoints.Checkpoints(tmp_path / "checkpoints", keep=5)
    assert manager.restore_behind(tree) is None
    manager.save(1, tree, {}, accuracy=0.0, wait=True)
    assert manager.restore_behind(tree) is None
    manager.save(2, tree, {}, accuracy=0.0, behind=other, wait=True)
    assert manager.restore_behind(tree)["w"].tolist() == other["w"].tolist()
    manager.save(3, tree, {}, accuracy=0.0, wait=True)
    assert manager.restore_behind(tree) is None  # the newest one counts
    assert [manager.restore(tree, step)[0]["w"].tolist() for step in (1, 2, 3)] == [[0.0, 1.0, 2.0]] * 3
    manager.close()
