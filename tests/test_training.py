"""The loop on a policy small enough to compile in a second, with rewards that need no text."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agent_tunix import (
    advantages,
    buckets,
    checkpoints,
    data,
    losses,
    models,
    optimizers,
    rewards,
    runs,
    sampling,
    training,
    updates,
)
from agent_tunix.errors import RewardError, RunError
from agent_tunix.types import Bounds, Failure, Outcome, Recipe, Reward, Score, Shaping

GROUP, PROMPTS, TOKENS = 4, 4, 8


def count_ones(rollouts):
    """Share of a completion's tokens that are digits: dense, so that groups differ."""
    value = np.array([[np.mean([c.isdigit() for c in text] or [0]) for text in g] for g in rollouts.completions])
    value = value.astype(np.float32)
    return Score(value, np.ones_like(value, bool), {"digits": value}, {"digits": np.zeros(value.shape, np.int8)})


def running_mean():
    """A shaping with a state: subtracts the mean of the batches so far."""

    def update(score, state, rollouts):
        total, count = state["total"] + score.value.mean(), state["count"] + 1
        return dataclasses.replace(score, value=score.value - total / count), {"total": total, "count": count}

    return Shaping(lambda: {"total": np.float32(0), "count": np.int32(0)}, update)


def recipe(reward=count_ones, keep_group=None, **loss):
    return Recipe(
        Reward("digits", reward, Bounds(0, 1)),
        running_mean(),
        advantages.per_group(advantages.group_normalized),
        losses.policy_loss(**loss),
        keep_group,
    )


PLAN = training.Plan(
    steps=6, group_size=GROUP, num_iterations=1, minibatches=1, microbatches=1, rollout_microbatches=1, max_refills=0,
    temperature=1.0, evaluate_every=3, patience=0, checkpoint_every=2, seed=0,
)  # fmt: skip


class Lab:
    """Everything `fit` needs, in one folder."""

    def __init__(self, folder, policy, params, tokenizer, rows):
        self.folder, self.policy, self.params, self.rows = folder, policy, params, rows
        self.sample = sampling.sampler(policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=TOKENS)
        self.rate = optimizers.learning_rate_schedule(learning_rate=0.01, warmup_steps=2, steps=PLAN.steps)

    def fit(self, plan=PLAN, method=None, folder=None, **options):
        run = runs.open_run(folder or self.folder, config={"seed": plan.seed})
        manager = checkpoints.Checkpoints(run.path / "checkpoints", keep=2)
        options.setdefault("evaluate", lambda parameters, key: {"eval/accuracy": 0.5})
        options.setdefault("batches", data.batches(self.rows, size=PROMPTS, seed=plan.seed))
        try:
            return training.fit(
                self.policy, models.full(self.params), method or recipe(), optimizers.adamw(self.rate), self.rate,
                sample=self.sample, plan=plan, run=run, checkpoints=manager, **options,
            )  # fmt: skip
        finally:
            manager.close()
            run.close()

    def metrics(self, folder=None):
        return (folder or self.folder).joinpath("metrics.jsonl").read_bytes()


@pytest.fixture
def lab(tmp_path, policy, params, tokenizer, rows):
    return Lab(tmp_path / "run", policy, params, tokenizer, rows)


def sha(parameters):
    return models.params_sha256(parameters.trainable)


def test_the_reward_of_a_policy_rises(lab):
    plan = dataclasses.replace(PLAN, steps=25, checkpoint_every=0, evaluate_every=0)
    lab.rate = optax.constant_schedule(0.03)
    lab.fit(plan)
    rows = runs.read_metrics(lab.folder, "train")
    rewards = [row["reward/mean"] for row in rows]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.3
    assert [row["step"] for row in rows] == list(range(1, 26))


def test_every_program_of_the_update_is_compiled_once_for_a_length(lab, caplog):
    lab.params = jax.device_put(lab.params, jax.devices()[0])  # bound to a device, as a restored start is
    with jax.log_compiles():
        lab.fit()
    compiled = [record.getMessage() for record in caplog.records if "Compiling jit(" in record.getMessage()]
    for program in ("_prefixed", "_settled", "_applied"):
        assert sum(f"jit({program})" in message for message in compiled) == 1
    assert 1 <= sum("jit(_accumulated)" in message for message in compiled) <= buckets.RUNGS


def test_every_step_and_evaluation_is_a_row_and_every_rollout_a_sample(lab):
    _, progress = lab.fit()
    assert (progress.step, progress.batch, progress.reason) == (6, 6, "finished")
    assert [(r["kind"], r["step"]) for r in runs.read_metrics(lab.folder)] == [
        ("eval", 0), ("train", 1), ("train", 2), ("train", 3), ("eval", 3),
        ("train", 4), ("train", 5), ("train", 6), ("eval", 6),
    ]  # fmt: skip
    samples = list(runs.read_samples(lab.folder))
    assert len(samples) == 6 * PROMPTS * GROUP
    assert progress.tokens == sum(item["length"] for item in samples)
    assert {"prompt", "completion", "reward", "parts", "outcomes", "advantage", "truncated"} <= set(samples[0])


class Killed(BaseException):
    """Raised in the middle of a batch, after one of its updates. Real signals are in `invariant/test_resume.py`."""


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("iterations", [1, 2])
def test_a_run_that_is_cut_off_and_resumed_ends_bit_for_bit_like_one_that_is_not(lab, tmp_path, iterations, ahead):
    plan = dataclasses.replace(PLAN, steps=8, num_iterations=iterations, minibatches=2, rollouts_ahead=ahead)
    whole = tmp_path / "whole"
    expected, _ = lab.fit(plan, folder=whole)
    for stop in (1, 3, 4, 6):

        def die(row, timing, stop=stop):
            if row["kind"] == "train" and row["step"] == stop:
                raise Killed

        with pytest.raises(Killed):
            lab.fit(plan, show=die)
    resumed, progress = lab.fit(plan)
    assert progress.step == 8
    assert sha(resumed) == sha(expected)
    assert lab.metrics() == lab.metrics(whole)
    assert list(runs.read_samples(lab.folder)) == list(runs.read_samples(whole))


def test_every_kind_of_shaping_state_survives_a_checkpoint(lab, tmp_path):
    halves = {"digits": 0.5}
    shaping = rewards.chain(
        rewards.curriculum(rewards.Stage({"digits": 1.0}, batches=2), rewards.Stage(halves)),
        rewards.noise(0.3, seed=1),
        rewards.ema_weights(halves),
        rewards.standardize("running"),
        rewards.center("running"),
        rewards.anneal(optax.linear_schedule(1.0, 0.5, 4)),
    )
    method = recipe()._replace(shaping=shaping)
    expected, _ = lab.fit(method=method, folder=tmp_path / "whole")
    calls = iter([""] * 3 + ["interrupted"])
    lab.fit(method=method, should_stop=lambda: next(calls))
    resumed, progress = lab.fit(method=method)
    assert progress.reason == "finished"
    assert sha(resumed) == sha(expected)
    assert lab.metrics() == lab.metrics(tmp_path / "whole")


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_stop_request_saves_and_the_next_call_goes_on_to_the_same_end(lab, tmp_path, ahead):
    plan = dataclasses.replace(PLAN, rollouts_ahead=ahead)
    expected, _ = lab.fit(plan, folder=tmp_path / "whole")
    calls = iter(["", "", "interrupted"])
    _, progress = lab.fit(plan, should_stop=lambda: next(calls))
    assert (progress.step, progress.reason) == (2, "interrupted")
    resumed, progress = lab.fit(plan)
    assert progress.reason == "finished"
    assert sha(resumed) == sha(expected)
    assert lab.metrics() == lab.metrics(tmp_path / "whole")


class Counter:
    """An observer whose numbers depend on every row before."""

    def __init__(self):
        self.rows, self.replayed = [], 0

    def replay(self, rows):
        for row in rows:
            self.replayed += 1
            self.see(row)

    def see(self, row):
        self.rows.append((row["kind"], row["step"]))
        return {"health/rows": float(len(self.rows))}


def test_what_an_observer_adds_is_logged_and_survives_a_resume(lab, tmp_path):
    whole = Counter()
    lab.fit(folder=tmp_path / "whole", observer=whole)
    logged = runs.read_metrics(tmp_path / "whole")
    assert [row["health/rows"] for row in logged] == list(range(1, 10))
    assert whole.replayed == 0
    calls = iter(["", "", "", "unwell"])
    _, progress = lab.fit(should_stop=lambda: next(calls), observer=Counter())
    assert progress.reason == "unwell"
    second = Counter()
    lab.fit(observer=second)
    assert second.replayed == 5  # evaluations before and after, and three steps
    assert second.rows == whole.rows
    assert lab.metrics() == lab.metrics(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(lab):
    first, _ = lab.fit()
    before = lab.metrics()
    second, progress = lab.fit()
    assert sha(first) == sha(second)
    assert progress.step == 6
    assert lab.metrics() == before


def test_another_seed_is_another_run(lab, tmp_path):
    first, _ = lab.fit()
    second, _ = lab.fit(dataclasses.replace(PLAN, seed=1), folder=tmp_path / "other")
    assert sha(first) != sha(second)


def test_a_stop_for_lack_of_progress_is_clean(lab):
    accuracies = iter([0.5, 0.4, 0.5])
    plan = dataclasses.replace(PLAN, evaluate_every=1, patience=2)
    _, progress = lab.fit(plan, evaluate=lambda p, k: {"eval/accuracy": next(accuracies)})
    assert (progress.step, progress.reason, progress.best_accuracy, progress.best_step) == (2, "patience", 0.5, 0)


def minibatch(prompts=8, seed=0):
    random = np.random.default_rng(seed)
    shape = (prompts, GROUP, TOKENS)
    mask = np.arange(TOKENS) < random.integers(1, TOKENS + 1, shape[:2])[..., None]
    logprobs = -random.random(shape).astype(np.float32) - 3
    return updates.Minibatch(
        prompt_ids=random.integers(8, 100, (prompts, 16)),
        prompt_mask=np.arange(16) >= random.integers(0, 10, (prompts, 1)),
        completion_ids=random.integers(8, 100, shape),
        completion_mask=mask,
        truncated=random.random(shape[:2]) < 0.2,
        logprobs=logprobs,
        old_logprobs=logprobs,
        ref_logprobs=logprobs + 0.1,
        advantages=np.broadcast_to(random.normal(size=(*shape[:2], 1)), shape).astype(np.float32),
    )


@pytest.mark.parametrize(
    "aggregation",
    [losses.token_mean, losses.sequence_mean_token_mean, losses.constant(TOKENS)],
    ids=["token_mean", "sequence_mean_token_mean", "constant"],
)
def test_one_microbatch_of_eight_groups_equals_eight_of_one(policy, params, aggregation):
    loss = losses.policy_loss(
        aggregation=aggregation, kl_coefficient=0.1, entropy_coefficient=0.01, mask_truncated=True
    )
    optimizer = optax.sgd(1.0)
    outcomes = []
    for microbatches in (1, 8):
        update = updates.updater(policy, loss, optimizer, temperature=1.0, microbatches=microbatches)
        start = jax.tree.map(jnp.copy, params)
        trained, _, stats = update(models.full(start), optimizer.init(start), minibatch())
        outcomes.append((trained, {name: float(value) for name, value in stats.items()}))
    assert outcomes[0][1] == pytest.approx(outcomes[1][1], rel=1e-5, abs=1e-6)
    for one, other in zip(*(jax.tree.leaves(trained) for trained, _ in outcomes)):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_lora_updates_its_factors_and_nothing_else(policy, params, architecture):
    parameters = models.lora(architecture, params, rank=2, alpha=4.0, seed=0)
    before = models.params_sha256(parameters.frozen), sha(parameters)
    update = updates.updater(policy, losses.policy_loss(), optax.sgd(1.0), temperature=1.0, microbatches=1)
    trained, _, stats = update(parameters, optax.sgd(1.0).init(parameters.trainable), minibatch())
    assert models.params_sha256(parameters.frozen) == before[0]
    assert models.params_sha256(trained) != before[1]
    assert float(stats["policy/gradient_norm"]) > 0


def test_the_first_update_on_policy_has_ratio_one_at_any_temperature(lab, policy, tokenizer):
    lab.sample = sampling.sampler(
        policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=TOKENS,
        distribution=sampling.Distribution(temperature=0.5),
    )  # fmt: skip
    lab.fit(dataclasses.replace(PLAN, steps=1, temperature=0.5))
    row = runs.read_metrics(lab.folder, "train")[0]
    assert row["policy/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert row["policy/clip_fraction"] == 0


def test_a_reference_is_used_only_where_something_asks_for_it(lab, tmp_path):
    lab.fit(dataclasses.replace(PLAN, steps=3))
    assert "policy/kl" not in runs.read_metrics(lab.folder, "train")[0]
    lab.fit(dataclasses.replace(PLAN, steps=3), method=recipe(kl_coefficient=0.1), folder=tmp_path / "kl")
    divergences = [row["policy/kl"] for row in runs.read_metrics(tmp_path / "kl", "train")]
    assert divergences[0] == pytest.approx(0.0, abs=1e-6)
    assert divergences[-1] > 1e-4


def abstaining(rollouts):
    score = count_ones(rollouts)
    valid = np.zeros(score.value.shape, bool)
    return dataclasses.replace(score, valid=valid, value=np.zeros_like(score.value))


def test_a_batch_in_which_every_grader_abstains_changes_nothing(lab, params):
    parameters, progress = lab.fit(dataclasses.replace(PLAN, steps=2), method=recipe(abstaining))
    assert progress.step == 2
    assert sha(parameters) == models.params_sha256(params)
    assert runs.read_metrics(lab.folder, "train")[0]["reward/invalid_fraction"] == 1.0


def test_dynamic_sampling_refills_and_keeps_only_groups_that_differ(lab):
    def half_flat(rollouts):
        score = count_ones(rollouts)
        value = score.value.copy()
        value[::2] = 1.0
        return dataclasses.replace(score, value=value)

    keep = lambda score: score.value.max(1) > score.value.min(1)  # noqa: E731
    plan = dataclasses.replace(PLAN, steps=2, max_refills=5)
    lab.fit(plan, method=recipe(half_flat, keep))
    row = runs.read_metrics(lab.folder, "train")[0]
    assert row["group/flat_fraction"] == 0.0
    assert row["group/refills"] >= 1
    assert 0 < row["group/kept_fraction"] <= 0.5
    samples = [item for item in runs.read_samples(lab.folder) if item["batch"] == 0]
    assert len(samples) == (1 + row["group/refills"]) * PROMPTS * GROUP  # dropped rollouts are kept on disk
    assert sum("advantage" in item for item in samples) == PROMPTS * GROUP


def test_dynamic_sampling_that_finds_nothing_ends_its_batch_and_the_run(lab):
    plan = dataclasses.replace(PLAN, steps=2, max_refills=2)
    _, progress = lab.fit(plan, method=recipe(keep_group=lambda score: np.zeros(PROMPTS, bool)))
    row = runs.read_metrics(lab.folder, "train")[0]
    assert (progress.reason, row["group/refills"], row["group/kept_fraction"]) == ("finished", 2, 0.0)


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_reward_that_raises_loses_no_rollouts_and_no_state(lab, tmp_path, ahead):
    plan = dataclasses.replace(PLAN, rollouts_ahead=ahead)
    expected, _ = lab.fit(plan, folder=tmp_path / "whole")
    calls = []

    def fails_once(rollouts):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("the grader's server is gone")
        return count_ones(rollouts)

    with pytest.raises(RuntimeError, match="server is gone"):
        lab.fit(plan, method=recipe(fails_once))
    assert runs.read_metrics(lab.folder, "train")[-1]["step"] == 3  # the batches before it were trained on
    texts = [item for item in runs.read_samples(lab.folder) if item["batch"] == 3]
    assert len(texts) == PROMPTS * GROUP
    assert "reward" not in texts[0]
    resumed, _ = lab.fit(plan, method=recipe(fails_once))
    assert sha(resumed) == sha(expected)
    assert lab.metrics() == lab.metrics(tmp_path / "whole")


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_loss_that_is_not_finite_names_step_and_batch_and_keeps_the_last_good_state(lab, ahead):
    plan = dataclasses.replace(PLAN, checkpoint_every=0, rollouts_ahead=ahead)
    lab.fit(dataclasses.replace(plan, steps=2))
    exploding = losses.policy_loss()._replace(
        per_token=lambda tokens: (tokens.logprobs * jnp.where(tokens.old_logprobs.sum() < 0, jnp.nan, 1.0), {})
    )
    with pytest.raises(RunError, match=r"step 3, batch 2"):
        lab.fit(plan, method=recipe()._replace(loss=exploding))
    manager = checkpoints.Checkpoints(lab.folder / "checkpoints", keep=2)
    assert manager.steps()[-1] == 2
    manager.close()
    assert not math.isnan(runs.read_metrics(lab.folder, "train")[-1]["policy/loss"])


def test_nan_advantages_are_refused_by_name(lab):
    def broken(rollouts):
        score = count_ones(rollouts)
        value = score.value.copy()
        value[1, 2] = np.nan
        return dataclasses.replace(score, value=value)

    with pytest.raises(ValueError, match="prompt 1, completion 2"):
        lab.fit(method=recipe(broken))


def test_timings_live_apart_from_metrics(lab):
    lab.fit(dataclasses.replace(PLAN, steps=2))
    assert not any("time/" in key for row in runs.read_metrics(lab.folder) for key in row)
    timings = [json.loads(line) for line in (lab.folder / "timings.jsonl").read_text().splitlines()]
    assert [row["step"] for row in timings] == [1, 2]
    assert timings[0]["time/step_s"] >= timings[0]["time/rollout_s"] > 0


@pytest.mark.parametrize("ahead", [0, 1])
def test_graders_that_fail_on_most_of_a_batch_stop_the_run_with_its_state_saved(lab, tmp_path, ahead):
    plan = dataclasses.replace(PLAN, rollouts_ahead=ahead)
    expected, _ = lab.fit(plan, folder=tmp_path / "whole")
    calls = []

    def goes_down(rollouts):
        calls.append(1)
        score = count_ones(rollouts)
        if len(calls) != 3:
            return score
        shape = score.value.shape
        return dataclasses.replace(
            score,
            valid=np.zeros(shape, bool),
            outcomes={"digits": np.full(shape, Outcome.FAILED)},
            failures=[Failure("digits", 0, 1, "ConnectionError: refused")],
        )

    with pytest.raises(RewardError, match=r"100% of batch 2.*prompt 0, completion 1: ConnectionError: refused"):
        lab.fit(plan, method=recipe(goes_down))
    resumed, _ = lab.fit(plan, method=recipe(goes_down))
    assert sha(resumed) == sha(expected)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda prompts, completions: [1.0], "16"),
        (lambda prompts, completions: [0.5] * 15, "15"),
        (lambda prompts, completions: 1.0, "16"),
        (lambda prompts, completions: [float("nan")] * 16, "prompt 0, completion 0"),
        (lambda prompts, completions: ["good"] * 16, "good"),
    ],
)
def test_a_reward_that_breaks_its_contract_is_named_and_loses_no_rollouts(lab, function, said):
    method = recipe()._replace(reward=rewards.from_lists(function, name="mine"))
    with pytest.raises(RewardError, match=said) as caught:
        lab.fit(method=method)
    assert "mine" in str(caught.value)
    assert len(list(runs.read_samples(lab.folder))) == PROMPTS * GROUP
