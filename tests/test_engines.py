"""`engine=tunix` beside ours, and every fault of Tunix 0.1.7 that it works around beside Tunix as it stands."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tunix.rl import reward_manager, rl_cluster
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rollout import base_rollout
from tunix.sft import metrics_logger

from agent_tunix import (
    advantages,
    checkpoints,
    data,
    engines,
    losses,
    models,
    optimizers,
    overrides,
    recipes,
    rewards,
    runs,
    training,
    updates,
    workshop,
)
from agent_tunix.data import DataError
from agent_tunix.drawing import Distribution
from agent_tunix.engines import _cluster, _loss, _modules, _rollouts
from agent_tunix.errors import ConfigError, ModelError, RewardError, RunError
from agent_tunix.types import Bounds, Recipe, Reward, Rollouts, Score, Shaping

PROMPTS, GROUP, WIDTH, TOKENS = 4, 4, 16, 8
ROWS = PROMPTS * GROUP
PLAN = training.Plan(
    steps=6, group_size=GROUP, num_iterations=1, minibatches=1, microbatches=1, rollout_microbatches=1, max_refills=0,
    temperature=1.0, evaluate_every=3, patience=0, checkpoint_every=2, seed=0,
)  # fmt: skip
REUSED = dataclasses.replace(PLAN, steps=7, num_iterations=2, minibatches=2, microbatches=2)
RATE = optimizers.learning_rate_schedule(learning_rate=0.01, warmup_steps=2, steps=6)
ROLLOUT = engines.Rollout(max_prompt_tokens=WIDTH, max_completion_tokens=TOKENS)

pytestmark = [pytest.mark.filterwarnings("ignore:Using deprecated _init_cache")]


@pytest.fixture(scope="module")
def architecture(tokenizer):
    return models.tiny(tokenizer.vocab_size, layers=1, width=16, heads=2, kv_heads=2, head_dim=8, mlp=32)


@pytest.fixture(scope="module")
def params(architecture):
    return models.initial_params(architecture, seed=0)


def digits(rollouts):
    """Share of a completion's characters that are digits: dense, so that groups differ."""
    value = np.array([[np.mean([c.isdigit() for c in text] or [0]) for text in g] for g in rollouts.completions])
    value = value.astype(np.float32)
    return Score(value, np.ones_like(value, bool), {"digits": value}, {"digits": np.zeros(value.shape, np.int8)})


def running_mean():
    """A shaping with a state, which a checkpoint has to keep."""

    def update(score, state, rollouts):
        total, count = state["total"] + score.value.mean(), state["count"] + 1
        return dataclasses.replace(score, value=score.value - total / count), {"total": total, "count": count}

    return Shaping(lambda: {"total": np.float32(0), "count": np.int32(0)}, update)


def method_of(reward=digits, keep_group=None, **loss):
    return Recipe(
        Reward("digits", reward, Bounds(0, 1)),
        running_mean(),
        advantages.per_group(advantages.group_normalized),
        losses.policy_loss(**loss),
        keep_group,
    )


def stop_after(batches):
    asked = iter([""] * batches)
    return lambda: next(asked, "interrupted")


def sha(parameters):
    return models.params_sha256(jax.device_get(parameters.trainable))


# --- The same loss and gradients --------------------------------------------------------------------------------------


def made_up(tokenizer, needs_reference, seed=0):
    """Rollouts whose ratios, masks, lengths and prompts all differ, with two completions that have no score."""
    random = np.random.default_rng(seed)
    shape = (PROMPTS, GROUP, TOKENS)
    lengths, begin = random.integers(1, TOKENS + 1, shape[:2]), random.integers(0, WIDTH // 2, PROMPTS)
    mask = np.arange(TOKENS) < lengths[..., None]
    logprobs = [random.normal(-4.6, 0.3, shape).astype(np.float32) for _ in range(3)]
    rollouts = Rollouts(
        prompts=["?"] * PROMPTS,
        completions=[["?"] * GROUP] * PROMPTS,
        columns={},
        prompt_ids=random.integers(4, tokenizer.vocab_size, (PROMPTS, WIDTH)).astype(np.int32),
        prompt_mask=np.arange(WIDTH) >= begin[:, None],
        # Padding may be drawn as any other token, and then carries loss.
        completion_ids=np.where(mask, random.integers(0, tokenizer.vocab_size, shape), 0).astype(np.int32),
        completion_mask=mask,
        truncated=lengths == TOKENS,
        logprobs=logprobs[0],
        old_logprobs=logprobs[1],
        ref_logprobs=logprobs[2] if needs_reference else None,
    )
    valid = np.ones(shape[:2], bool)
    valid[0, 1] = valid[2, 3] = False
    credit = np.where(mask & valid[..., None], random.normal(size=(*shape[:2], 1)), 0.0).astype(np.float32)
    return rollouts, valid, credit


def ours(architecture, params, loss, rollouts, valid, credit):
    """Loss, statistics and gradient of our engine: what a step of size 1 against it takes off."""
    optimizer = optax.sgd(1.0)
    update = updates.updater(models.policy(architecture), loss, optimizer, temperature=0.7, microbatches=1)
    ((_, minibatch),) = updates.portions(rollouts, valid, credit, 1, 1)
    start = jax.tree.map(jnp.copy, params)
    after, _, numbers = update(models.full(start), optimizer.init(start), minibatch)
    return numbers, jax.tree.map(jnp.subtract, params, after)


def theirs(architecture, params, loss, rollouts, valid, credit, microbatches):
    """The same through Tunix's module, as Tunix's trainer asks for it."""
    algorithm = _loss.Algorithm(num_generations=GROUP, policy_loss=loss, microbatches=microbatches, temperature=0.7)
    example = jax.tree.map(jnp.asarray, _loss.example_of(rollouts, valid, credit, loss, minibatches=1))
    module = models.tunix_module(architecture, params)

    @nnx.jit
    def found(module, example):
        gradient = nnx.value_and_grad(lambda m, e: _loss.policy_loss(m, e, algorithm, 0, 2), has_aux=True)
        return gradient(module, example)

    (value, numbers), gradient = found(module, example)
    return {f"policy/{name}": number for name, number in numbers.items()} | {"policy/loss": value}, gradient


LOSSES = {
    "GRPO": {},
    "a divergence": {"kl_coefficient": 0.1, "aggregation": losses.sequence_mean_token_mean},
    "clip-higher and entropy": {
        "surrogate": losses.clipped(0.2, 0.28, 3.0), "mask_truncated": True, "entropy_coefficient": 0.01,
        "mismatch_cap": 2.0,
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "microbatches"), [("GRPO", 1), ("a divergence", 1), ("clip-higher and entropy", 2)])
def test_both_engines_give_the_same_loss_and_gradient(name, microbatches, architecture, params, tokenizer):
    loss = losses.policy_loss(**LOSSES[name])
    batch = made_up(tokenizer, loss.needs_reference)
    numbers, gradient = ours(architecture, params, loss, *batch)
    got, their_gradient = theirs(architecture, params, loss, *batch, microbatches)
    assert abs(float(numbers["policy/loss"])) > 1e-3
    for key in got:
        np.testing.assert_allclose(got[key], numbers[key], atol=1e-4, rtol=1e-4, err_msg=key)
    leaves = jax.tree.leaves(gradient)
    assert max(float(jnp.abs(leaf).max()) for leaf in leaves) > 1e-2
    for mine, other in zip(leaves, jax.tree.leaves(nnx.to_pure_dict(their_gradient)), strict=True):
        np.testing.assert_allclose(other, mine, atol=1e-4)


# --- Whole runs -------------------------------------------------------------------------------------------------------


class Lab:
    """Everything `fit` needs."""

    def __init__(self, architecture, params, tokenizer, rows):
        self.architecture, self.params, self.tokenizer, self.rows = architecture, params, tokenizer, rows

    def fit(self, folder, plan=PLAN, method=None, parameters=None, rollout=ROLLOUT, **options):
        run = runs.open_run(folder, config={"seed": plan.seed})
        manager = checkpoints.Checkpoints(run.path / "checkpoints", keep=2)
        options.setdefault("evaluate", lambda parameters, key: {"eval/accuracy": 0.5})
        try:
            return engines.fit(
                self.architecture, parameters or models.full(self.params), method or method_of(),
                optimizers.adamw(RATE), RATE, tokenizer=self.tokenizer, rollout=rollout,
                batches=data.batches(self.rows, size=PROMPTS, seed=plan.seed), plan=plan, run=run, checkpoints=manager,
                **options,
            )  # fmt: skip
        finally:
            manager.close()
            run.close()


@pytest.fixture(scope="module")
def lab(architecture, params, tokenizer, rows):
    return Lab(architecture, params, tokenizer, rows)


def metrics(folder):
    return (folder / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def reused(lab, tmp_path_factory):
    """A run of seven steps, four to a batch, so that the last batch ends early."""
    folder = tmp_path_factory.mktemp("reused") / "run"
    parameters, progress = lab.fit(folder, REUSED, method_of(kl_coefficient=0.04))
    return folder, sha(parameters), progress


def test_a_run_that_is_stopped_and_resumed_is_the_run_that_was_not(lab, reused, tmp_path):
    folder, whole, progress = reused
    method = method_of(kl_coefficient=0.04)
    _, stopped = lab.fit(tmp_path / "run", REUSED, method, should_stop=stop_after(1))
    assert (stopped.step, stopped.batch, stopped.reason) == (4, 1, "interrupted")
    parameters, resumed = lab.fit(tmp_path / "run", REUSED, method)
    assert sha(parameters) == whole
    assert metrics(tmp_path / "run") == metrics(folder)  # also the data: Tunix skips some where a batch is used twice
    assert list(runs.read_samples(tmp_path / "run")) == list(runs.read_samples(folder))
    assert dataclasses.replace(resumed, seconds=0) == dataclasses.replace(progress, seconds=0)


def test_a_finished_run_makes_no_further_step(lab, reused):
    folder, whole, _ = reused
    before = metrics(folder)
    parameters, again = lab.fit(folder, REUSED, method_of(kl_coefficient=0.04))
    assert (sha(parameters), again.step, metrics(folder)) == (whole, 7, before)


def test_rows_say_what_those_of_our_engine_say(reused):
    rows = runs.read_metrics(reused[0], "train")
    assert [(row["step"], row["batch"], row["iteration"]) for row in rows] == [
        (1, 0, 0), (2, 0, 0), (3, 0, 1), (4, 0, 1), (5, 1, 0), (6, 1, 0), (7, 1, 1),
    ]  # fmt: skip
    first, second = rows[:2]
    assert first["policy/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert first["policy/kl"] == pytest.approx(0.0, abs=1e-8) != second["policy/kl"]
    for name in (
        "policy/loss", "policy/entropy", "policy/gradient_norm", "policy/learning_rate", "policy/old_kl",
        "policy/clip_fraction", "reward/mean", "reward/std", "reward/part/digits", "group/std", "group/flat_fraction",
        "completion/length", "completion/truncated_fraction", "advantage/abs_mean",
    ):  # fmt: skip
        assert np.isfinite(first[name]), name


def test_low_rank_factors_train_beside_a_backbone_that_the_reference_shares(lab, params, tmp_path):
    start = models.lora(lab.architecture, params, rank=2, alpha=4.0, seed=0)
    plan = dataclasses.replace(PLAN, steps=2, checkpoint_every=0)
    trained, _ = lab.fit(tmp_path / "run", plan, method_of(kl_coefficient=0.04), parameters=start)
    rows = runs.read_metrics(tmp_path / "run", "train")
    assert rows[0]["policy/kl"] == pytest.approx(0.0, abs=1e-8)
    assert rows[0]["policy/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert jax.tree.structure(trained.trainable) == jax.tree.structure(start.trainable)
    moved = [float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (trained.trainable, start.trainable)))]
    assert max(moved) > 1e-3
    policy = _modules.actor(lab.architecture, start, _modules.mesh("fsdp1"))
    reference = _modules.reference(lab.architecture, policy)
    backbone = nnx.state(policy, lambda path, variable: not isinstance(variable, nnx.LoRAParam))
    shared = zip(jax.tree.leaves(backbone), jax.tree.leaves(nnx.state(reference)), strict=True)
    assert all(one is other for one, other in shared)


def test_groups_without_a_preference_are_refilled(lab, tmp_path):
    plan = dataclasses.replace(PLAN, steps=1, max_refills=2, checkpoint_every=0)
    lab.fit(tmp_path / "run", plan, method_of(keep_group=lambda score: np.arange(len(score.value)) < 2))
    (row,) = runs.read_metrics(tmp_path / "run", "train")
    assert (row["group/refills"], row["group/kept_fraction"]) == (1, 0.5)


def test_a_completion_without_a_score_gets_no_credit_and_enters_no_statistic(lab, tmp_path):
    def abstaining(rollouts):
        score = digits(rollouts)
        valid = np.ones_like(score.valid)
        valid[:, 0] = False
        return dataclasses.replace(score, value=np.where(valid, score.value, 0), valid=valid)

    plan = dataclasses.replace(PLAN, steps=1, checkpoint_every=0)
    lab.fit(tmp_path / "run", plan, method_of(abstaining))
    (row,) = runs.read_metrics(tmp_path / "run", "train")
    samples = list(runs.read_samples(tmp_path / "run"))
    counted = [sample["reward"] for sample in samples if sample["reward"] is not None]
    assert row["reward/invalid_fraction"] == 0.25
    assert row["reward/mean"] == pytest.approx(np.mean(counted))
    assert all(sample["advantage"] == 0 for sample in samples if sample["reward"] is None)
    assert row["policy/entropy"] > 1  # averaged over the tokens that count


# --- Errors -----------------------------------------------------------------------------------------------------------


def test_an_error_in_a_reward_loses_nothing(lab, tmp_path):
    """Tunix would lose everything since its last checkpoint, and the completions."""
    calls = []

    def breaks(rollouts):
        calls.append(1)
        if len(calls) == 4:
            raise ValueError("no such answer")
        return digits(rollouts)

    with pytest.raises(RewardError, match="no such answer"):
        lab.fit(tmp_path / "run", method=method_of(breaks))
    rows = runs.read_metrics(tmp_path / "run", "train")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert len(list(runs.read_samples(tmp_path / "run"))) == 4 * ROWS
    parameters, progress = lab.fit(tmp_path / "run")
    assert (progress.step, progress.reason) == (6, "finished")
    assert sha(parameters) == sha(lab.fit(tmp_path / "whole")[0])


def test_a_loss_that_is_not_finite_changes_nothing_and_stops_the_run(lab, params, tmp_path):
    broken = losses.policy_loss(lambda tokens: (tokens.logprobs * jnp.inf, {}))
    with pytest.raises(RunError, match="the update was not applied"):
        lab.fit(tmp_path / "run", REUSED, method_of()._replace(loss=broken))
    like = training.TrainState(params, optimizers.adamw(RATE).init(params), running_mean().init())
    manager = checkpoints.Checkpoints(tmp_path / "run" / "checkpoints", keep=2)
    arrays, record = manager.restore(like)
    manager.close()
    assert record["progress"]["step"] == 0
    assert models.params_sha256(training.TrainState(*arrays).trainable) == models.params_sha256(params)


# --- What Tunix gets wrong --------------------------------------------------------------------------------------------


def built(lab, rollout=ROLLOUT, needs_reference=False):
    return _cluster.build(
        lab.architecture, models.full(lab.params), optimizers.adamw(RATE), lab.tokenizer, rollout, steps=6,
        needs_reference=needs_reference,
    )  # fmt: skip


HOT = dataclasses.replace(ROLLOUT, distribution=Distribution(temperature=0.5))


@pytest.fixture(scope="module")
def cluster(lab):
    return built(lab, HOT)


def bare_cluster(lab, **settings):
    """Tunix as it stands."""
    mesh = _modules.mesh("fsdp1")
    training_config = rl_cluster.RLTrainingConfig(
        actor_optimizer=optimizers.adamw(RATE), eval_every_n_steps=10, max_steps=1
    )
    cluster = rl_cluster.RLCluster(
        actor=_modules.actor(lab.architecture, models.full(lab.params), mesh),
        tokenizer=lab.tokenizer,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(rl_cluster.Role, mesh),
            training_config=training_config,
            rollout_config=base_rollout.RolloutConfig(
                max_prompt_length=WIDTH, max_tokens_to_generate=TOKENS, kv_cache_size=WIDTH + TOKENS, **settings
            ),
        ),
    )
    sampler = cluster.rollout._sampler  # other tests of this process go on compiling
    sampler.init_sample_state = _rollouts.comparable(sampler.init_sample_state)
    return cluster


def test_what_programs_are_compiled_for_can_be_compared(cluster):
    begin = cluster.rollout._sampler.init_sample_state
    settings = {"include_logits": False, "forbidden_token_ids": None, "temperature": 1.0, "top_p": 1.0, "top_k": None}
    state = begin(jnp.ones((1, 4), jnp.int32), 8, seed=jax.random.key(0), beam_size=None, **settings)
    assert type(state.num_input_tokens) is int and state.num_input_tokens == 4


@pytest.fixture(scope="module")
def bare(lab):
    return bare_cluster(lab, temperature=0.5)


TEXTS = ["sort 3 1 2"] * ROWS


def drawn(output):
    return [list(map(int, tokens)) for tokens in output.tokens]


def test_noise_differs_between_batches_and_not_between_runs(cluster, bare):
    keys = [jax.random.fold_in(jax.random.key(0), batch) for batch in (0, 1)]
    first, second, again = (drawn(cluster.draw(TEXTS, key)) for key in (*keys, keys[0]))
    assert first == again != second
    assert drawn(bare.generate(TEXTS)) == drawn(bare.generate(TEXTS))  # the same completions in every batch


def test_the_stop_token_belongs_to_a_completion(cluster, bare, lab):
    output = cluster.draw(TEXTS * 4, jax.random.key(3))
    stopped = [tokens for tokens in drawn(output) if len(tokens) < TOKENS]
    assert stopped
    assert all(tokens[-1] == lab.tokenizer.eos_id() for tokens in stopped)
    assert all(lab.tokenizer.eos_id() not in tokens for tokens in drawn(bare.generate(TEXTS * 4)))


def test_padding_that_is_drawn_is_a_token_like_any_other(cluster):
    assert cluster.rollout.pad_id() == _rollouts.PAD < 0


def rollouts_of(lab, cluster, key):
    return _rollouts.sampler(cluster.draw, lab.tokenizer, HOT)(None, lab.rows[:PROMPTS], GROUP, key)


def test_log_probabilities_of_the_policy_that_sampled_are_at_the_temperature_of_sampling(lab, cluster, bare):
    rollouts = rollouts_of(lab, cluster, jax.random.key(1))
    recomputed = cluster.logprobs(_cluster.Role.ACTOR, rollouts, parts=2)
    np.testing.assert_allclose(recomputed, rollouts.old_logprobs, atol=1e-5)
    with bare.cluster_config.role_to_mesh[rl_cluster.Role.ROLLOUT]:
        prompts = jnp.repeat(jnp.asarray(rollouts.prompt_ids), GROUP, 0)
        wrong = bare.rollout.get_per_token_logps(prompts, jnp.asarray(rollouts.completion_ids.reshape(ROWS, TOKENS)))
    off = np.where(rollouts.completion_mask, np.asarray(wrong).reshape(recomputed.shape) - rollouts.old_logprobs, 0)
    assert np.abs(off).max() > 1e-2  # Tunix's ratios would not begin at 1


def test_long_prompts_are_refused_or_cut_before_tunix_sees_them(lab, cluster, bare):
    long = [{"prompt": "sort " + "1 " * WIDTH, "answer": "1"}] * PROMPTS
    with pytest.raises(DataError, match="set data"):
        _rollouts.sampler(cluster.draw, lab.tokenizer, HOT)(None, long, GROUP, jax.random.key(0))
    shorter = dataclasses.replace(ROLLOUT, overlong_prompts="truncate")
    ids = _rollouts.PromptTokenizer(lab.tokenizer, shorter).encode(long[0]["prompt"])
    assert (len(ids), ids[0]) == (WIDTH, lab.tokenizer.bos_id())
    with pytest.raises(ValueError, match="must be less than the cache size"):
        bare.generate([row["prompt"] for row in long])  # neither cut nor refused by its width


def test_padding_that_ends_completions_is_refused(lab):
    class Confused(type(lab.tokenizer)):
        def pad_id(self):
            return self.eos_id()

    with pytest.raises(ConfigError, match="is padding and ends completions"):
        _rollouts.config(ROLLOUT, Confused())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distribution": Distribution(temperature=0.0)}, "sampling.temperature is 0"),
        ({"distribution": Distribution(min_p=0.1)}, "sampling.min_p is 0.1"),
        ({"settings": {"top_p": None}}, "top_p is decided by data and sampling"),  # Tunix would be greedy
        ({"settings": {"rollout_vllm_hbm_utilisation": 0.5}}, "did you mean `rollout_vllm_hbm_utilization`"),
        ({"engine": "vlm"}, "did you mean `vllm`"),
        ({"engine": "vllm"}, "rollout_vllm_model_version is not set"),
    ],
)
def test_what_tunix_would_get_wrong_in_sampling_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        engines.check(dataclasses.replace(ROLLOUT, **changes))


def test_settings_of_other_engines_reach_tunix(tokenizer):
    settings = {"rollout_vllm_model_version": "Qwen/Qwen3-0.6B", "rollout_vllm_hbm_utilization": 0.4}
    settings["rollout_vllm_sampling_kwargs"] = {"min_tokens": 2}
    vllm = _rollouts.config(
        dataclasses.replace(ROLLOUT, engine="vllm", settings=settings, stop=("</answer>",)), tokenizer
    )
    assert (vllm.rollout_vllm_model_version, vllm.rollout_vllm_hbm_utilization) == ("Qwen/Qwen3-0.6B", 0.4)
    # Tunix itself tells vLLM of the end of sequence alone.
    stops = [tokenizer.eos_id(), tokenizer.token_id("</answer>")]
    assert vllm.rollout_vllm_sampling_kwargs == {"stop_token_ids": stops, "min_tokens": 2}
    settings = {"rollout_sglang_jax_model_version": "Qwen/Qwen3-0.6B", "rollout_sglang_jax_page_size": 64}
    sglang = _rollouts.config(dataclasses.replace(ROLLOUT, engine="sglang_jax", settings=settings), tokenizer)
    assert (sglang.rollout_sglang_jax_page_size, sglang.return_logprobs) == (64, False)


def test_completions_of_any_engine_are_whole(tokenizer):
    eos, pad = tokenizer.eos_id(), _rollouts.PAD
    tokens = [[10, eos, 11], [10, 11, pad], [10, 0, 12, 13], [pad] * 4]
    output = base_rollout.RolloutOutput(
        text=[], logits=[], left_padded_prompt_tokens=np.zeros(0), tokens=tokens, logprobs=[[-1.0] * 4] * 3 + [[]]
    )
    found = _rollouts.completions_of(output, (2, 2, 4), (eos,), tokenizer)
    ids, mask = found["completion_ids"].reshape(4, 4), found["completion_mask"].reshape(4, 4)
    assert [row[keep].tolist() for row, keep in zip(ids, mask)] == [[10, eos], [10, 11, eos], [10, 0, 12, 13], [eos]]
    assert found["truncated"].ravel().tolist() == [False, False, True, False]
    assert np.isnan(found["logprobs"].reshape(4, 4)[3, 0])  # not known: recomputed by the trainer


def test_listeners_of_others_hear_nothing_and_stay(lab, tmp_path):
    heard = []
    listener = lambda event, value, **_: heard.append(event)  # noqa: E731
    jax.monitoring.register_scalar_listener(listener)
    try:
        lab.fit(tmp_path / "run", dataclasses.replace(PLAN, steps=1, checkpoint_every=0))
        assert [event for event in heard if "/train/" in event] == []
        jax.monitoring.record_scalar("mine", 1.0)
        assert heard[-1] == "mine"
        theirs = metrics_logger.MetricsLogger(None)
        theirs.log("actor", "loss", 1.0, "train", 1)
        assert heard[-1] == "actor/train/loss"  # to everybody, and kept for ever
        assert len(theirs.get_metric_history("actor", "loss", "train")) == 1
    finally:
        jax.monitoring.unregister_scalar_listener(listener)


def test_nothing_is_kept_or_sent_by_tunix_itself(cluster):
    assert isinstance(cluster.actor_trainer.metrics_logger, _cluster.Quiet)
    cluster.buffer_metrics({"prompts": (TEXTS, None)})
    assert cluster._buffered_train_metrics == []
    training_config = cluster.cluster_config.training_config
    assert training_config.metrics_logging_options is None  # else a run of wandb would begin
    assert training_config.checkpoint_root_directory is None
    assert training_config.max_steps == 6  # None fails after the first step
    assert cluster._anchor_policy_state is None


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"rotary": models.Rotary(5_000_000.0)}, "rotates with a base of 1,000,000"),
        ({"family": "llama3", "rotary": models.Rotary(500_000.0)}, "rotates with a base of 1,000,000"),
        ({"family": "gemma3", "window": 5, "local": (True, False)}, "a pattern of five to one"),
        ({"family": "qwen2", "rotary": models.Rotary(1e6, factor=2.0)}, "does not scale rotary positions"),
    ],
)
def test_models_that_tunix_computes_wrongly_are_refused(changes, what):
    with pytest.raises(ModelError, match=what):
        _modules.check(models.Architecture(40, **changes))
    _modules.check(models.Architecture(40))


# --- Tunix's own learner with our rewards and advantages --------------------------------------------------------------


def manager(*functions, kind=engines.RewardManager, **settings):
    return kind(reward_fns=list(functions), algo_config=GRPOConfig(num_generations=2, **settings))


def asked(made, **columns):
    return made(prompts=["a", "a", "b", "b"], completions=["1", "22", "333", "4444"], mode="train", **columns)[
        "rewards"
    ]


bare_manager = functools.partial(manager, kind=reward_manager.SequenceRewardManager)


def one_value(completions, **kwargs):
    return np.array([1.0])


def not_a_number(completions, **kwargs):
    return [1.0, float("nan"), 0.0, 1.0]


def of_beta(completions, beta=7.0, **kwargs):
    return [beta] * len(completions)


def test_a_single_number_is_not_the_reward_of_all():
    assert asked(bare_manager(one_value)).tolist() == [1.0] * 4  # and all advantages 0
    with pytest.raises(RewardError):
        asked(manager(one_value))


@pytest.mark.filterwarnings("ignore:Mean of empty slice")  # by Tunix
def test_a_nan_is_refused_and_none_is_no_value():
    assert asked(bare_manager(not_a_number)).tolist() == [1.0, 0.0, 0.0, 1.0]
    with pytest.raises(RewardError, match="nan"):
        asked(manager(not_a_number))
    found = asked(manager(lambda completions, **_: [1.0, None, 0.0, 1.0]))
    np.testing.assert_array_equal(found, [1.0, np.nan, 0.0, 1.0])
    credit = engines.estimator(advantages.per_group(advantages.centered))(rewards=found, num_generations=2)
    np.testing.assert_allclose(credit, [0, 0, -0.5, 0.5])


def test_a_partial_needs_no_name_and_settings_fill_no_parameter():
    nameless = functools.partial(of_beta)
    with pytest.raises(AttributeError, match="__name__"):
        asked(bare_manager(nameless))
    assert asked(manager(nameless)).tolist() == [7.0] * 4
    assert asked(bare_manager(of_beta, beta=0.04)).tolist() == [0.04] * 4
    assert asked(manager(of_beta, beta=0.04)).tolist() == [7.0] * 4


def test_rewards_are_weighed_and_their_parts_logged():
    length = rewards.per_completion(lambda response: float(len(response)), name="length")
    right = rewards.per_completion(lambda response, answer: float(response == answer), "answer", name="right")
    made = manager(rewards.weighted_sum((1.0, right), (-0.5, length)))
    info = made(
        prompts=["a", "a"], completions=["1", "22"], mode="train", trajectory_ids=["0_0", "0_1"],
        answer=np.array(["1", "1"]),
    )  # fmt: skip
    np.testing.assert_allclose(info["rewards"], [0.5, -1.0])
    logged = {name: value for name, (value, _) in info["log_metrics"].items()}
    assert (logged["reward/part/length"], logged["reward/part/right"]) == (1.5, 0.5)
    assert logged["reward/std"] == pytest.approx(0.75)
    assert logged["group/std"] == pytest.approx(1.5 / np.sqrt(2))


def test_tunix_finds_them_by_name(lab):
    engines.register_advantages({"leave_one_out": advantages.per_group(advantages.leave_one_out)})
    seen = {}

    def look(prompts, completions, rewards, advantages, **_):
        seen.update(rewards=rewards, advantages=advantages)
        return {}

    config = GRPOConfig(
        num_generations=GROUP, beta=0.0, reward_manager="agent_tunix", advantage_estimator="agent_tunix/leave_one_out"
    )
    grade = rewards.per_completion(
        lambda response, answer: None if "a" in response else float(len(response)), "answer", name="n"
    )
    learner = GRPOLearner(bare_cluster(lab), config, reward_fns=[grade], metric_fns=[look])
    learner.train([{"prompts": np.array(TEXTS[:PROMPTS]), "answer": np.array(["1"] * PROMPTS)}])
    assert seen["rewards"].shape == (ROWS,)
    value = seen["rewards"].reshape(PROMPTS, GROUP)
    expected = advantages.per_group(advantages.leave_one_out)(
        Score(np.nan_to_num(value).astype(np.float32), ~np.isnan(value))
    )
    np.testing.assert_allclose(seen["advantages"].reshape(value.shape), expected, atol=1e-6)
    assert np.isnan(value).any()


# --- Several devices --------------------------------------------------------------------------------------------------

MESHES = """
import json, sys
from pathlib import Path
from tests import test_engines as t
from agent_tunix import engines, models, runs, tasks
from agent_tunix.tokenizers import CharacterTokenizer
import dataclasses, jax, numpy as np
tokenizer = CharacterTokenizer()
small = models.tiny(tokenizer.vocab_size, layers=1, width=16, heads=2, kv_heads=2, head_dim=8, mlp=32)
lab = t.Lab(small, models.initial_params(small, seed=0), tokenizer, tasks.generate(
    "sorting", level=1, size=64, split="train", seed=0))
out = {}
for train, rollout in json.loads(sys.argv[1]):
    chosen = dataclasses.replace(t.ROLLOUT, train_mesh=train, rollout_mesh=rollout)
    folder = Path(sys.argv[2], f"{train}-{rollout}")
    parameters, _ = lab.fit(folder, dataclasses.replace(t.PLAN, steps=3), rollout=chosen)
    devices = {device.id for leaf in jax.tree.leaves(parameters.trainable) for device in leaf.devices()}
    flat = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(parameters.trainable)])
    out[f"{train}-{rollout}"] = [sorted(devices), flat.tolist()]
print(json.dumps(out))
"""


@pytest.mark.slow
def test_training_is_sharded_and_sampling_has_devices_of_its_own(tmp_path):
    root = Path(__file__).parents[1]
    meshes = [["fsdp1", None], ["fsdp1", "fsdp1"], ["fsdp2", None], ["tp2", None], ["data2", "fsdp2"]]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")]),
    }  # fmt: skip
    command = [sys.executable, "-c", MESHES, json.dumps(meshes), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    alone = np.array(found.pop("fsdp1-None")[1])
    assert found["fsdp1-fsdp1"][1] == alone.tolist()
    assert {name: devices for name, (devices, _) in found.items()} == {
        "fsdp1-fsdp1": [0], "fsdp2-None": [0, 1], "tp2-None": [0, 1], "data2-fsdp2": [0, 1],
    }  # fmt: skip
    for name, (_, flat) in found.items():
        np.testing.assert_allclose(flat, alone, atol=1e-4, err_msg=name)


def test_too_few_devices_are_said():
    with pytest.raises(ConfigError, match="fsdp64 needs 64 devices behind 0 others"):
        _modules.mesh("fsdp64")


# --- Settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["tunix.rollout=vllm"], "engine is jax; add engine=tunix"),
        (["engine=tunyx"], "did you mean `tunix`"),
        (["engine=tunix", "mesh=data2"], "set tunix.train_mesh"),
        (["engine=tunix", "training.rollouts_ahead=1"], "rollouts_ahead is 1"),
        (["engine=tunix", "training.streams=2"], "threads of engine=jax"),
        (["engine=tunix", "sampling.min_p=0.1"], "min_p is 0.1"),
        (["engine=tunix", "model.dtype=bfloat16"], "model.dtype is bfloat16"),
        (["engine=tunix", "sampling.top_k=5", "loss.mismatch_cap=2"], "mismatch_cap needs the distribution"),
        (["engine=tunix", "training.microbatches=3"], "does not divide 64 prompts of a minibatch"),
        (["engine=tunix", "tunix.train_mesh=fsdp3"], "does not divide 512 completions"),
        (["engine=tunix", "tunix.rollout_mesh=devices2"], "mesh is `devices2`"),
    ],
)
def test_settings_that_an_engine_does_not_have_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        recipes.validate(overrides.load(settings))


def test_settings_become_those_of_tunix():
    config = overrides.load(
        ["engine=tunix", "tunix.rollout=vllm", "tunix.settings.rollout_vllm_hbm_utilization=0.4", "sampling.top_k=5",
         "model.weights=hf:Qwen/Qwen3-0.6B", "tunix.train_mesh=fsdp2", "tunix.rollout_mesh=tp2"]
    )  # fmt: skip
    recipes.validate(config)
    rollout = workshop.rollout(config)
    assert (rollout.engine, rollout.train_mesh, rollout.rollout_mesh) == ("vllm", "fsdp2", "tp2")
    assert rollout.settings == {
        "rollout_vllm_model_version": "Qwen/Qwen3-0.6B", "rollout_vllm_hbm_utilization": 0.4,
    }  # fmt: skip
    assert rollout.distribution.top_k == 5
    with pytest.raises(ConfigError, match="unknown key of tunix"):
        workshop.rollout(overrides.load(["engine=tunix", "tunix.settings.rollout_vlm=1"]))
