"""Turns of a policy between the words of an environment, from sampling to an update."""

import os
import string
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agent_tunix import (
    advantages,
    batching,
    checkpoints,
    conversations,
    data,
    losses,
    measures,
    models,
    rewards,
    runs,
    sampling,
    training,
    updates,
)
from agent_tunix.conversations import Environment, Reply
from agent_tunix.errors import ModelError
from agent_tunix.types import Recipe

pytestmark = pytest.mark.usefixtures("quickly_compiled")

GROUP, PROMPTS, TURNS, TURN_TOKENS, OBSERVED = 4, 4, 3, 8, 6
STOP = tuple(string.ascii_lowercase)
"""A policy that draws at random says one of these every few tokens."""


def counting(turns=TURNS):
    """Says how long each turn was, and pays for turns of a single token; done after some turns, or at a `z`."""

    def step(turn, said):
        return turn + 1, Reply(f"<{len(said)}>\n", float(len(said) == 1), turn + 1 == turns or said.endswith("z"))

    return Environment(lambda row: 0, step)


def sampler(policy, tokenizer, environment, **changed):
    settings = {
        "max_prompt_tokens": 16, "max_turns": TURNS, "max_turn_tokens": TURN_TOKENS,
        "max_observation_tokens": OBSERVED, "stop": STOP,
    }  # fmt: skip
    return conversations.sampler(policy, tokenizer, environment, **settings | changed)


@pytest.fixture(scope="module")
def sample(policy, tokenizer):
    return sampler(policy, tokenizer, counting())


@pytest.fixture(scope="module")
def rollouts(sample, params, rows):
    return sample(models.full(params), rows[:PROMPTS], GROUP, jax.random.key(0))


def spans(rollouts, p, g):
    """First and last place of every turn, by the mask alone."""
    edges = np.diff(np.pad(rollouts.completion_mask[p, g].astype(int), 1))
    return list(zip(np.flatnonzero(edges == 1).tolist(), (np.flatnonzero(edges == -1) - 1).tolist()))


def test_the_mask_is_true_on_turns_alone_and_observations_lie_between_them(rollouts, tokenizer):
    counts = set()
    for p, g in np.ndindex(*rollouts.shape):
        found, ids = spans(rollouts, p, g), rollouts.completion_ids[p, g]
        said = [tokenizer.decode(ids[first : last + 1]) for first, last in found]
        assert [last for _, last in found] == rollouts.columns["turn_ends"][p][g]
        assert "\n".join(said) == rollouts.completions[p][g]
        assert rollouts.columns["observations"][p][g] == [f"<{len(text)}>\n" for text in said]
        assert rollouts.columns["turn_rewards"][p][g] == [float(len(text) == 1) for text in said]
        for observation, (_, last), (first, _) in zip(rollouts.columns["observations"][p][g], found, found[1:]):
            assert ids[last + 1 : first].tolist() == tokenizer.encode(observation)
        assert (ids[found[-1][1] + 1 :] == tokenizer.pad_id()).all()  # what is said last is not shown
        counts.add(len(found))
    assert {1, TURNS} <= counts
    assert rollouts.lengths.tolist() == rollouts.completion_mask.sum(-1).tolist()


def test_logprobs_of_turns_equal_a_teacher_forced_pass_over_the_interleaved_tokens(rollouts, policy, params):
    tokens = map(jnp.asarray, (rollouts.prompt_ids, rollouts.prompt_mask, rollouts.completion_ids))
    expected, _ = policy.logprobs(params, *tokens)
    mask = rollouts.completion_mask
    np.testing.assert_allclose(rollouts.old_logprobs[mask], np.asarray(expected)[mask], atol=1e-5)
    np.testing.assert_array_equal(rollouts.logprobs, rollouts.old_logprobs)
    assert (rollouts.old_logprobs[~mask] == 0).all()


def test_one_turn_is_what_the_plain_sampler_draws_to_the_last_bit(policy, tokenizer, params, rows):
    ending = Environment(lambda row: None, lambda state, said: (state, Reply(done=True)))
    got = sampler(policy, tokenizer, ending, max_turns=1)(models.full(params), rows[:PROMPTS], GROUP, jax.random.key(3))
    plain = sampling.sampler(policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=TURN_TOKENS, stop=STOP)
    wanted = plain(models.full(params), rows[:PROMPTS], GROUP, jax.random.key(3))
    assert got.completions == wanted.completions
    for field in ("prompt_ids", "completion_ids", "completion_mask", "truncated", "logprobs", "old_logprobs"):
        np.testing.assert_array_equal(getattr(got, field), getattr(wanted, field), err_msg=field)
    assert got.truncated.any() and not got.truncated.all()


def test_same_key_same_rollouts_and_different_key_different_ones(sample, params, rows, rollouts):
    again = sample(models.full(params), rows[:PROMPTS], GROUP, jax.random.key(0))
    other = sample(models.full(params), rows[:PROMPTS], GROUP, jax.random.key(1))
    np.testing.assert_array_equal(again.completion_ids, rollouts.completion_ids)
    np.testing.assert_array_equal(again.old_logprobs, rollouts.old_logprobs)
    assert again.columns == rollouts.columns
    assert (other.completion_ids != rollouts.completion_ids).any()


def test_turns_of_a_conversation_do_not_share_noise(policy, tokenizer, params, rows):
    # One token a turn, nothing observed, and equal prompts: with noise shared over turns most turns would be equal.
    silent = Environment(lambda row: None, lambda state, said: (state, Reply()))
    everything = tuple(map(chr, range(32, 127)))
    sample = sampler(
        policy, tokenizer, silent, max_turns=4, max_turn_tokens=1, max_observation_tokens=0, stop=everything
    )
    drawn = sample(models.full(params), [rows[0]] * PROMPTS, GROUP, jax.random.key(0))
    ids = drawn.completion_ids.reshape(-1, 4)
    assert len({tuple(row) for row in ids.tolist()}) == len(ids)
    assert (ids[:, 0] != ids[:, 1]).mean() > 0.8


def test_every_conversation_has_a_world_of_its_own_that_starts_from_its_row(policy, tokenizer, params, rows):
    heard = []

    def step(state, said):
        heard.append((state["answer"], state["turns"], said))
        return {**state, "turns": state["turns"] + 1}, Reply("\n")

    world = Environment(lambda row: {"answer": row["answer"], "turns": 0}, step)
    drawn = sampler(policy, tokenizer, world)(models.full(params), rows[:PROMPTS], GROUP, jax.random.key(0))
    expected = []
    for p, g in np.ndindex(*drawn.shape):
        ids = drawn.completion_ids[p, g]
        turns = [tokenizer.decode(ids[first : last + 1]) for first, last in spans(drawn, p, g)]
        expected += [(rows[p]["answer"], turn, said) for turn, said in enumerate(turns)]
    assert sorted(heard, key=str) == sorted(expected, key=str)


def test_an_episode_is_truncated_where_a_budget_and_not_the_environment_ends_it(policy, tokenizer, params, rows):
    def drawn(environment):
        return sampler(policy, tokenizer, environment)(models.full(params), rows[:PROMPTS], GROUP, jax.random.key(0))

    def cut_off(rollouts):
        """Whether the newest turn has no stop token."""
        ends = [[own[-1] for own in group] for group in rollouts.columns["turn_ends"]]
        last = np.take_along_axis(rollouts.completion_ids, np.asarray(ends)[..., None], -1)[..., 0]
        return ~np.isin(last, [tokenizer.eos_id(), *map(tokenizer.token_id, STOP)])

    endless, ending = drawn(counting(turns=99)), drawn(counting())
    said_z = np.array([[text.endswith("z") for text in group] for group in endless.completions])
    np.testing.assert_array_equal(endless.truncated, ~said_z)
    np.testing.assert_array_equal(ending.truncated, cut_off(ending))
    assert ending.truncated.any() and not ending.truncated.all()
    turns = np.array([[len(own) for own in group] for group in endless.columns["turn_ends"]])
    assert (turns[~cut_off(endless) & ~said_z] == TURNS).all()


def test_places_that_only_fill_up_a_batch_draw_nothing(policy, tokenizer, params, rows):
    decoded = sampling.decoding(policy, max_tokens=4, stop_ids=(2,), pad_id=0)
    encoded = data.encode_prompts(tokenizer, [row["prompt"] for row in rows[:2]], max_tokens=16, overlong="raise")
    arguments = models.full(params), encoded.ids, encoded.mask, 1, jax.random.key(0)
    whole, one = decoded(*arguments), decoded(*arguments, np.array([[0], [2]], np.int32))
    np.testing.assert_array_equal(one["completion_ids"][0], whole["completion_ids"][0])
    assert not one["completion_mask"][1].any()
    assert whole["completion_mask"][1].any()


ON_DEVICES = """
import os
os.environ.update(JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_force_host_platform_device_count=2")
import jax, numpy as np
from agent_tunix import devices, models, tasks
from agent_tunix.tokenizers import CharacterTokenizer
from tests.test_conversations import counting, sampler

tokenizer = CharacterTokenizer()
architecture = models.tiny(tokenizer.vocab_size, layers=1, width=16, heads=2, kv_heads=1, head_dim=8, mlp=32)
policy, params = models.policy(architecture), models.full(models.initial_params(architecture, seed=0))
rows, key = tasks.generate("sorting", level=1, size=4, split="train", seed=0), jax.random.key(0)
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
one = sampler(policy, tokenizer, counting())(params, rows, 4, key)
two = sampler(policy, tokenizer, counting(), mesh=mesh)(devices.everywhere(mesh, params), rows, 4, key)
assert one.columns == two.columns and one.completions == two.completions
np.testing.assert_array_equal(one.completion_ids, two.completion_ids)
np.testing.assert_allclose(one.old_logprobs, two.old_logprobs, atol=1e-5)
"""


@pytest.mark.slow
def test_devices_draw_what_one_draws():
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    done = subprocess.run(
        [sys.executable, "-c", ON_DEVICES], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_observation_beyond_its_budget_is_refused(policy, tokenizer, params, rows):
    wordy = Environment(lambda row: None, lambda state, said: (state, Reply("a long story")))
    with pytest.raises(data.DataError, match=r"12 tokens .* max_observation_tokens is 6"):
        sampler(policy, tokenizer, wordy)(models.full(params), rows[:PROMPTS], GROUP, jax.random.key(0))


@pytest.mark.parametrize("wrong", [{"max_turns": 0}, {"max_turn_tokens": 0}, {"max_observation_tokens": -1}])
def test_budgets_that_leave_nothing_to_say_are_refused(policy, tokenizer, wrong):
    with pytest.raises(ValueError, match="at least one turn of one token"):
        sampler(policy, tokenizer, counting(), **wrong)


class Chatty:
    """A tokenizer of characters whose template writes `[role content;` and whose answers end with `;`."""

    has_chat_template = True

    def encode(self, text):
        return [ord(character) for character in text]

    def stop_ids(self):
        return (ord(";"),)

    def chat(self, messages):
        return "".join(f"[{message['role']} {message['content']};" for message in messages) + "[assistant "


class Forgetful(Chatty):
    def chat(self, messages):
        return f"[user {messages[-1]['content']};[assistant "


def test_an_observation_in_a_chat_is_a_message_behind_the_end_that_the_policy_said():
    encode = conversations.as_chat(Chatty())
    assert "".join(map(chr, encode("wall"))) == "[user wall;[assistant "


def test_templates_that_cannot_go_on_with_a_chat_are_refused(tokenizer):
    with pytest.raises(ModelError, match="need a tokenizer with a chat template"):
        conversations.as_chat(tokenizer)
    with pytest.raises(ModelError, match="does not write out earlier answers"):
        conversations.as_chat(Forgetful())


def test_how_observations_are_encoded_is_a_choice(policy, tokenizer, params, rows):
    bracketed = sampler(policy, tokenizer, counting(), encode=lambda text: tokenizer.encode(f"[{text[1]}]"))
    drawn = bracketed(models.full(params), rows[:PROMPTS], GROUP, jax.random.key(0))
    p, g = next((p, g) for p, g in np.ndindex(*drawn.shape) if len(drawn.columns["turn_ends"][p][g]) > 1)
    (first, last), (after, _), *_ = spans(drawn, p, g)
    assert tokenizer.decode(drawn.completion_ids[p, g, last + 1 : after]) == f"[{last - first + 1}]"


# --- Learning from them -----------------------------------------------------------------------------------------------


def minibatch(rollouts, credit):
    return next(updates.portions(rollouts, np.ones(rollouts.shape, bool), credit, 1, 1))[1]


def updated(policy, params, batch):
    step = updates.updater(policy, losses.policy_loss(), optax.sgd(1.0), temperature=1.0, microbatches=1)
    copied = jax.tree.map(jnp.copy, params)
    trainable, _, stats = step(models.full(copied), optax.sgd(1.0).init(copied), batch)
    return trainable, stats


def test_the_update_is_the_policy_gradient_over_turns_alone(rollouts, policy, params):
    credit = np.random.default_rng(0).normal(size=rollouts.completion_ids.shape).astype(np.float32)
    batch = minibatch(rollouts, updates.per_token(credit, rollouts))
    weights = losses.policy_loss().weights(jnp.asarray(batch.completion_mask), jnp.asarray(batch.truncated))

    def surrogate(params):
        tokens = map(jnp.asarray, (rollouts.prompt_ids, rollouts.prompt_mask, rollouts.completion_ids))
        logprobs, _ = policy.logprobs(params, *tokens)
        return -jnp.sum(jnp.where(rollouts.completion_mask, weights * credit * logprobs, 0.0))

    trainable, _ = updated(policy, params, batch)
    wanted = jax.tree.map(jnp.subtract, params, jax.jit(jax.grad(surrogate))(params))
    for got, expected in zip(jax.tree.leaves(trainable), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_nothing_that_is_said_of_observations_changes_the_update(rollouts, policy, params):
    batch = minibatch(rollouts, updates.per_token(rollouts.old_logprobs, rollouts))
    elsewhere = np.where(rollouts.completion_mask, 0.0, 3.0).astype(np.float32)
    names = ("logprobs", "old_logprobs", "advantages")
    other = batch._replace(**{name: getattr(batch, name) + elsewhere for name in names})
    one, two = updated(policy, params, batch), updated(policy, params, other)
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_records_of_samples_hold_the_turns(rollouts):
    record = measures.rollout_records(rollouts, None, None, None, step=0, batch=0)[0]
    assert record["columns"]["turn_ends"] == rollouts.columns["turn_ends"][0]
    half = batching.take(rollouts, [2, 0])
    assert half.columns["turn_rewards"] == [rollouts.columns["turn_rewards"][p] for p in (2, 0)]


def fit(folder, policy, params, sample, rows, steps):
    plan = training.Plan(
        steps=steps, group_size=GROUP, num_iterations=1, minibatches=1, microbatches=1, rollout_microbatches=1,
        max_refills=0, temperature=1.0, evaluate_every=0, patience=0, checkpoint_every=1, seed=0,
    )  # fmt: skip
    rate = optax.constant_schedule(0.03)
    recipe = Recipe(rewards.turn_rewards(), rewards.turn_credit(), advantages.as_given, losses.policy_loss())
    run = runs.open_run(folder, config={"seed": plan.seed})
    manager = checkpoints.Checkpoints(run.path / "checkpoints", keep=1)
    try:
        return training.fit(
            policy, models.full(params), recipe, optax.adam(rate), rate, sample=sample, plan=plan, run=run,
            checkpoints=manager, batches=data.batches(rows, size=PROMPTS, seed=0),
            evaluate=lambda parameters, key: {"eval/accuracy": 0.0},
        )  # fmt: skip
    finally:
        manager.close()
        run.close()


def test_the_loop_trains_on_conversations_and_goes_on_where_it_was_cut_off(sample, policy, params, rows, tmp_path):
    whole, progress = fit(tmp_path / "whole", policy, params, sample, rows, 2)
    fit(tmp_path / "parts", policy, params, sample, rows, 1)
    resumed, _ = fit(tmp_path / "parts", policy, params, sample, rows, 2)
    assert progress.step == 2
    assert models.params_sha256(whole.trainable) == models.params_sha256(resumed.trainable)
    assert models.params_sha256(whole.trainable) != models.params_sha256(params)
    rows = runs.read_metrics(tmp_path / "whole", "train")
    assert len(rows) == 2
    assert all(np.isfinite(row["policy/loss"]) and row["policy/gradient_norm"] > 0 for row in rows)
    samples = list(runs.read_samples(tmp_path / "whole"))
    mine = [sum(item["columns"]["turn_rewards"][item["completion_index"]]) for item in samples]
    assert [item["reward"] for item in samples] == mine


def test_single_token_turns_are_learned_from_their_own_rewards(sample, policy, params, rows, tmp_path):
    fit(tmp_path, policy, params, sample, rows, 25)
    means = [row["reward/mean"] for row in runs.read_metrics(tmp_path, "train")]
    assert np.mean(means[-5:]) > np.mean(means[:5]) + 0.5
