"""The update and the reference pass equal their plain twins: losses, statistics and gradients to 1e-5 in float32.

`tests/reference/grpo_step.py` computes every completion as a sequence of its own in one piece; the fast paths share
prompts, cut minibatches into length buckets and fuse the head. `test_fast_sampling.py` does the same for sampling.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agent_tunix import buckets, losses, models, optimizers, updates
from agent_tunix.models import _head
from agent_tunix.types import Rollouts, TokenBatch
from agent_tunix.updates import Minibatch
from tests.reference import grpo_step as twin
from tests.reference import losses as numpy_losses
from tests.reference.grpo_step import ARCHITECTURE

pytestmark = pytest.mark.usefixtures("quickly_compiled")

VOCAB, PROMPT_TOKENS, TOKENS = ARCHITECTURE.vocab_size, 6, 8
TEMPERATURE = 0.8
RANDOM = np.random.default_rng(0).integers(3, TOKENS + 1, (4, 4))


def with_empty(*place):
    lengths = RANDOM.copy()
    lengths[place] = 0
    return lengths


LENGTHS = {
    "fixed": np.full((4, 4), TOKENS),
    "ragged": RANDOM,
    "few long ones": np.array([[1, 8, 7, 1], [1, 1, 6, 1], [1, 1, 1, 1], [5, 1, 1, 1]]),
    "one empty completion": with_empty(1, 2),
    "an empty group": with_empty(2),
    "all end at the first token": np.ones((4, 4), int),
    "nothing at all": np.zeros((4, 4), int),
    "tokens without loss in between": RANDOM,
    "one prompt, one completion": np.array([[5]]),
}

LOSSES = {
    "token": losses.policy_loss(losses.clipped(epsilon_high=0.28)),
    "sequence, KL": losses.policy_loss(
        losses.clipped(ratio=losses.sequence_ratio), kl_coefficient=0.1, aggregation=losses.sequence_mean_token_mean
    ),
    "token, KL, entropy": losses.policy_loss(
        losses.truncated(), kl_coefficient=0.1, kl_estimator=losses.k2, entropy_coefficient=0.1,
        aggregation=losses.sequence_mean_token_mean, mask_truncated=True,
    ),
    "sequence, entropy": losses.policy_loss(
        losses.clipped(dual_clip=3.0, ratio=losses.sequence_ratio), entropy_coefficient=0.1, mismatch_cap=1.1,
        aggregation=losses.constant(2 * TOKENS),
    ),
}  # fmt: skip
"""Every pair of {token, sequence ratio}, {with, without KL} and {with, without entropy bonus}."""

RECORDER = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda gradient, state, params=None: (jax.tree.map(jnp.zeros_like, gradient), gradient),
)
"""Changes nothing; its state is the gradient, to the last bit."""

PARAMS = twin.params()
FULL = models.full(PARAMS)
POLICY = models.policy(ARCHITECTURE)
FORCED = twin.teacher_forced(twin.full(ARCHITECTURE), TEMPERATURE)


@functools.cache
def minibatch(case):
    """Random tokens, also where no completion is any more, and log-probabilities near those of the policy."""
    lengths, random = LENGTHS[case], np.random.default_rng(len(case))
    prompts, group = lengths.shape
    prompt_ids = random.integers(0, VOCAB, (prompts, PROMPT_TOKENS))
    shortest = np.array([6, 1, 3, 5])[:prompts] if case != "fixed" else np.full(prompts, PROMPT_TOKENS)
    prompt_mask = np.arange(PROMPT_TOKENS) >= PROMPT_TOKENS - shortest[:, None]
    completion_ids = random.integers(0, VOCAB, (prompts, group, TOKENS))
    mask = np.arange(TOKENS) < lengths[..., None]
    if "without loss" in case:
        mask &= random.random(mask.shape) < 0.6
    own = twin.logprobs(FORCED, PARAMS, prompt_ids, prompt_mask, completion_ids)

    def near():
        return np.where(mask, own + 0.3 * random.normal(size=own.shape), 0).astype(np.float32)

    return Minibatch(
        prompt_ids, prompt_mask, completion_ids, mask,
        truncated=random.random(lengths.shape) < 0.2, logprobs=near(), old_logprobs=near(), ref_logprobs=near(),
        advantages=np.broadcast_to(random.normal(size=(prompts, group, 1)), mask.shape).astype(np.float32),
    )  # fmt: skip


def fast(loss, parts, policy=POLICY, optimizer=RECORDER, streams=1):
    return updates.updater(
        policy, LOSSES[loss], optimizer, temperature=TEMPERATURE, microbatches=parts, streams=streams
    )


def plain(loss, logits=None, optimizer=RECORDER):
    return twin.updater(logits or twin.full(ARCHITECTURE), LOSSES[loss], optimizer, TEMPERATURE)


fast_of, plain_of = functools.cache(fast), functools.cache(plain)


def copied(tree):
    """Updates donate what they are given."""
    return jax.tree.map(jnp.copy, tree)


def gradient_of(update, parameters, batch):
    """The gradient and the statistics of the compiled update."""
    trainable, zeros = copied(parameters.trainable), RECORDER.init(parameters.trainable)
    kept, gradient, stats = update(dataclasses.replace(parameters, trainable=trainable), zeros, batch)
    assert_close(kept, parameters.trainable, atol=0)
    return gradient, stats


def plain_gradient_of(update, trainable, batch):
    _, gradient, stats = update(trainable, RECORDER.init(trainable), batch)
    return gradient, stats


def assert_close(got, expected, atol=1e-5):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, one), other in zip(jax.tree_util.tree_flatten_with_path(got)[0], jax.tree.leaves(expected)):
        np.testing.assert_allclose(one, other, rtol=atol, atol=atol, err_msg=jax.tree_util.keystr(path))


UPDATES = [
    *[("ragged", *way) for way in [("token", 1), ("sequence, KL", 2), ("token, KL, entropy", 4)]],
    *[("ragged", *way) for way in [("sequence, entropy", 8), ("token", 16)]],
    *[("fixed", *way) for way in [("token", 1), ("sequence, KL", 2), ("sequence, entropy", 8)]],
    *[("few long ones", *way) for way in [("sequence, KL", 2), ("token, KL, entropy", 4)]],
    *[("one empty completion", *way) for way in [("token", 1), ("token, KL, entropy", 4)]],
    *[("an empty group", *way) for way in [("sequence, KL", 2), ("sequence, entropy", 8)]],
    *[("all end at the first token", *way) for way in [("token, KL, entropy", 4), ("token", 16)]],
    *[("nothing at all", *way) for way in [("token", 1), ("sequence, KL", 2)]],
    *[("tokens without loss in between", *way) for way in [("sequence, KL", 2), ("token, KL, entropy", 4)]],
    ("one prompt, one completion", "token", 1),
]


@pytest.mark.parametrize(("case", "loss", "parts"), UPDATES)
def test_loss_statistics_and_gradient_equal_those_of_the_plain_update(case, loss, parts):
    batch = minibatch(case)
    gradient, stats = gradient_of(fast_of(loss, parts), FULL, batch)
    expected, wanted = plain_gradient_of(plain_of(loss), PARAMS, batch)
    assert_close(stats, wanted)
    assert_close(gradient, expected)
    assert (float(optax.tree.norm(expected)) > 0.05) == (case != "nothing at all")  # 1e-5 of something


def test_the_cases_cut_prompts_and_pack_completions_of_all_groups():
    cuts = {parts: updates.cut_of(minibatch("ragged"), parts) for parts in (1, 2, 4, 8, 16)}
    assert cuts == {1: (1, 1), 2: (1, 2), 4: (1, 4), 8: (2, 4), 16: (4, 4)}
    (chunk,) = buckets.chunks(minibatch("few long ones").completion_mask, cuts[4])
    assert len(set(chunk.buckets[0].prompts.tolist())) < 4 and len({bucket.tokens for bucket in chunk.buckets}) > 1
    assert all(bucket.packing is not None for bucket in chunk.buckets)
    (chunk,) = buckets.chunks(minibatch("fixed").completion_mask, cuts[4])
    assert all(bucket.prompts.tolist() == [0, 1, 2, 3] for bucket in chunk.buckets)


@pytest.mark.parametrize(("case", "loss", "parts"), [("few long ones", "sequence, KL", 1), ("ragged", "token", 16)])
def test_packed_tokens_give_the_plain_gradient(case, loss, parts, monkeypatch):
    """Wherever buckets could be packed, and in one program of a policy that goes through Tunix's module."""
    monkeypatch.setattr(buckets, "SHORTER", 10.0)
    batch = minibatch(case)
    chunks = list(buckets.chunks(batch.completion_mask, updates.cut_of(batch, parts)))
    assert all(bucket.packing is not None for chunk in chunks for bucket in chunk.buckets)
    expected = plain_gradient_of(plain_of(loss), PARAMS, batch)
    assert_close(gradient_of(fast(loss, parts), FULL, batch), expected)
    through_module, _ = models.module_policy(models.tunix_module(ARCHITECTURE, PARAMS))
    assert_close(gradient_of(fast(loss, parts, through_module), FULL, batch), expected)
    got = updates.reference_logprobs(POLICY, FULL, TEMPERATURE, parts)(rollouts_of(batch))
    wanted = twin.logprobs(FORCED, PARAMS, batch.prompt_ids, batch.prompt_mask, batch.completion_ids)
    np.testing.assert_allclose(got, np.where(batch.completion_mask, wanted, 0.0), atol=1e-5)


STREAMED = [("ragged", "token", 8, 2), ("few long ones", "token, KL, entropy", 4, 3), ("an empty group", "token", 1, 2)]


@pytest.mark.parametrize(("case", "loss", "parts", "streams"), STREAMED)
def test_streams_give_the_plain_gradient_and_reference(case, loss, parts, streams):
    batch = minibatch(case)
    got = gradient_of(fast(loss, parts, streams=streams), FULL, batch)
    assert_close(got, plain_gradient_of(plain_of(loss), PARAMS, batch))
    reference = updates.reference_logprobs(POLICY, FULL, TEMPERATURE, parts, streams=streams)(rollouts_of(batch))
    expected = twin.logprobs(FORCED, PARAMS, batch.prompt_ids, batch.prompt_mask, batch.completion_ids)
    np.testing.assert_allclose(reference, np.where(batch.completion_mask, expected, 0.0), atol=1e-5)


def test_streams_come_to_the_same_end_every_time():
    update, batch = fast("sequence, KL", 8, streams=2), minibatch("ragged")
    first, again = (gradient_of(update, FULL, batch) for _ in range(2))
    assert_close(first, again, atol=0)


def test_the_plain_loss_is_that_of_numpy():
    """Anchors the twin itself: the loss token by token in float64 from log-probabilities of Tunix's module."""
    batch = minibatch("ragged")
    prompts = batch.prompt_ids, batch.prompt_mask, batch.completion_ids
    every = FORCED(PARAMS, *prompts).astype(np.float64)
    tokens = TokenBatch(
        twin.logprobs(FORCED, PARAMS, *prompts), -(np.exp(every) * every).sum(-1), batch.old_logprobs, batch.logprobs,
        batch.ref_logprobs, batch.advantages, batch.completion_mask,
    )  # fmt: skip
    each, _ = numpy_losses.policy_loss(tokens, numpy_losses.clipped, sequence=True, kl_coefficient=0.1)
    weights = numpy_losses.weights("sequence_mean_token_mean", batch.completion_mask)
    _, stats = plain_gradient_of(plain_of("sequence, KL"), PARAMS, batch)
    np.testing.assert_allclose(stats["policy/loss"], (weights * each).sum(), atol=1e-6)


def test_activations_that_are_computed_again_give_the_plain_gradient():
    remat = models.policy(ARCHITECTURE, remat=True)
    got = gradient_of(fast("sequence, KL", 2, remat), FULL, minibatch("ragged"))
    assert_close(got, plain_gradient_of(plain_of("sequence, KL"), PARAMS, minibatch("ragged")))


@pytest.mark.parametrize("loss", ["token", "token, KL, entropy"])
def test_a_head_in_parts_gives_the_plain_gradient(loss, monkeypatch):
    in_parts, cut = _head._head_in_parts, []
    monkeypatch.setattr(_head, "_head_in_parts", lambda *args: cut.append(args[-1]) or in_parts(*args))
    monkeypatch.setattr(models, "token_logprobs", functools.partial(_head.token_logprobs, max_logits=8 * 4 * 4 * 6))
    got = gradient_of(fast(loss, 1), FULL, minibatch("ragged"))
    assert set(cut) == {4}  # of six tokens each
    assert_close(got, plain_gradient_of(plain_of(loss), PARAMS, minibatch("ragged")))


@functools.cache
def lora():
    """Low-rank factors that have moved: at the start half of them have no gradient."""
    parameters = models.lora(ARCHITECTURE, PARAMS, rank=2, alpha=4.0, seed=1)
    random = np.random.default_rng(1)

    def moved(leaf):
        return leaf + np.float32(0.1) * random.normal(size=leaf.shape).astype(np.float32)

    return dataclasses.replace(parameters, trainable=jax.tree.map(moved, parameters.trainable))


def test_low_rank_factors_get_the_gradient_that_qwix_gives_them():
    got = gradient_of(fast("sequence, KL", 2), lora(), minibatch("ragged"))
    logits = twin.lora(ARCHITECTURE, PARAMS, rank=2, alpha=4.0)
    assert_close(got, plain_gradient_of(plain("sequence, KL", logits), lora().trainable, minibatch("ragged")))


def rollouts_of(batch):
    texts = [[""] * batch.truncated.shape[1]] * len(batch.truncated)
    fields = {name: getattr(batch, name) for name in Minibatch._fields if name != "advantages"}
    return Rollouts([""] * len(texts), texts, {}, **fields)


@pytest.mark.parametrize(("loss", "parts"), [("sequence, KL", 2), ("token, KL, entropy", 4)])
def test_an_update_with_invalid_completions_is_one_without_them(loss, parts):
    """Without as in never sampled: the twin gets three completions a group."""
    batch, out = minibatch("ragged"), np.array([3, 0, 2, 1])
    valid = np.arange(4) != out[:, None]
    ((_, part),) = updates.portions(rollouts_of(batch), valid, batch.advantages, num_iterations=1, minibatches=1)
    shorter = batch._replace(
        **{
            name: getattr(batch, name)[valid].reshape(4, 3, *getattr(batch, name).shape[2:])
            for name in Minibatch._fields
            if not name.startswith("prompt")
        }
    )
    got = gradient_of(fast_of(loss, parts), FULL, part)
    assert_close(got, plain_gradient_of(plain_of(loss), PARAMS, shorter))


def test_three_updates_of_adamw_end_where_the_plain_ones_do():
    optimizer = optimizers.adamw(optax.constant_schedule(3e-3), weight_decay=0.1)
    ours, theirs = fast("sequence, KL", 2, optimizer=optimizer), plain("sequence, KL", optimizer=optimizer)
    trainable, expected = copied(PARAMS), PARAMS
    state, wanted = optimizer.init(trainable), optimizer.init(expected)
    for case in ("ragged", "few long ones", "fixed"):
        trainable, state, stats = ours(models.full(trainable), state, minibatch(case))
        expected, wanted, statistics = theirs(expected, wanted, minibatch(case))
        assert_close(stats, statistics)
    assert_close(trainable, expected)
    assert float(jnp.abs(expected["final_norm"]["w"] - PARAMS["final_norm"]["w"]).max()) > 5e-3


REFERENCES = [("ragged", 1), ("few long ones", 4), ("an empty group", 8), ("one prompt, one completion", 1)]


@pytest.mark.parametrize(("case", "parts"), REFERENCES)
def test_reference_logprobs_equal_those_of_whole_sequences(case, parts):
    batch = minibatch(case)
    expected = twin.logprobs(FORCED, PARAMS, batch.prompt_ids, batch.prompt_mask, batch.completion_ids)
    # The reference of low-rank factors is their backbone.
    parameters = lora() if case == "ragged" else FULL
    got = updates.reference_logprobs(POLICY, parameters, TEMPERATURE, parts)(rollouts_of(batch))
    np.testing.assert_allclose(got, np.where(batch.completion_mask, expected, 0.0), atol=1e-5)
