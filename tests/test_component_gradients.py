"""Component gradients against exact ones, and the way along them against closed forms."""

import dataclasses
import math
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from agent_tunix import component_gradients as cg
from agent_tunix import models, sampling
from agent_tunix.component_gradients import Ray, Reading
from agent_tunix.models import Parameters, Policy
from agent_tunix.types import Rollouts, Score

PROMPTS, GROUP = 16, 256


@pytest.fixture(scope="module")
def sample(policy, tokenizer):
    """Completions of a single token, whose distribution can be written down."""
    return sampling.sampler(policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=1)


@pytest.fixture(scope="module")
def full(params):
    """Embeddings as large as trained ones: around the initial ones, of size 0.02, norms turn every step into a leap."""
    return models.full(params | {"embedder": jax.tree.map(lambda x: 10.0 * x, params["embedder"])})


@pytest.fixture(scope="module")
def rollouts(sample, full, rows):
    """Of one prompt over and over: gradients of different blocks then differ by noise alone."""
    return sample(full, rows[:1] * PROMPTS, GROUP, jax.random.key(0))


def parts(ids):
    """f: an even token; g: one below 40. They overlap."""
    return jnp.stack([ids % 2 == 0, ids < 40]).astype(jnp.float32)


def prompt_tokens(rollouts):
    return jnp.asarray(rollouts.prompt_ids), jnp.asarray(rollouts.prompt_mask)


def exact_gradients(policy, full, rollouts):
    """Gradients of E f and E g by the sum over the vocabulary."""

    def expected(trainable, index):
        hidden = policy.features(trainable, *prompt_tokens(rollouts), jnp.zeros((PROMPTS, 1, 1), jnp.int32))
        p = jax.nn.softmax(hidden @ policy.unembedding(trainable).T)
        return (p * parts(jnp.arange(p.shape[-1]))[index]).sum(-1).mean()

    gradient = jax.jit(jax.grad(expected))
    return [np.asarray(ravel_pytree(gradient(full.trainable, index))[0]) for index in (0, 1)]


@pytest.fixture(scope="module")
def blocks(policy, full, rollouts):
    return cg.block_gradients(policy, full, rollouts, np.asarray(parts(rollouts.completion_ids[..., 0])))


def test_sampled_gradients_point_where_the_exact_ones_do(policy, full, rollouts, blocks):
    assert blocks.shape[:2] == (2, PROMPTS)
    for found, exact in zip(blocks.mean(1), exact_gradients(policy, full, rollouts), strict=True):
        assert found @ exact / (exact @ exact) == pytest.approx(1.0, abs=0.15)  # 4096 completions


def test_noise_free_norms_and_cosine_are_those_of_the_exact_gradients(policy, full, rollouts, blocks):
    u, v = exact_gradients(policy, full, rollouts)
    found = cg.geometry(blocks[0], blocks[1], weight_first=4.0)
    raw = np.linalg.norm(blocks.mean(1), axis=-1)
    assert found.norm_first == pytest.approx(np.linalg.norm(u), rel=0.15) and found.norm_first < raw[0]
    assert found.norm_second == pytest.approx(np.linalg.norm(v), rel=0.15) and found.norm_second < raw[1]
    cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
    assert found.low < cosine < found.high and found.cosine == pytest.approx(cosine, abs=0.1)
    assert found.change_low < 4 * u @ v + v @ v < found.change_high
    assert found.threshold == pytest.approx(-np.linalg.norm(v) / (4 * np.linalg.norm(u)), rel=0.2)


def test_gradients_are_those_of_the_credited_likelihood_by_finite_differences(policy, full, rollouts, blocks):
    value = np.asarray(parts(rollouts.completion_ids[..., 0])[0])
    credit = (value - value.mean(-1, keepdims=True)) / (GROUP - 1)
    flat, restore = ravel_pytree(full.trainable)
    direction = blocks[0].mean(0) / np.linalg.norm(blocks[0].mean(0))

    @jax.jit
    def surrogate(distance):
        ids = *prompt_tokens(rollouts), jnp.asarray(rollouts.completion_ids)
        logprobs = policy.logprobs(restore(flat + distance * direction), *ids)[0][..., 0]
        return (credit * logprobs).sum() / PROMPTS

    step = 5e-3
    slope = float(surrogate(step) - surrogate(-step)) / (2 * step)
    assert blocks[0].mean(0) @ direction == pytest.approx(slope, rel=1e-2)


def test_only_what_trains_has_a_gradient(policy, architecture, params, rollouts):
    adapted = models.lora(architecture, params, rank=1, alpha=1.0, seed=0)
    size = ravel_pytree(adapted.trainable)[0].size
    values = np.asarray(parts(rollouts.completion_ids[..., 0]))
    found = cg.block_gradients(policy, adapted, rollouts, values, blocks=3)
    assert found.shape == (2, 3, size)  # 16 prompts: three blocks of five


# --- A policy whose gradients can be written down ---------------------------------------------------------------------


def dice_logits(params, prompt_ids):
    """Of three faces; the prompt, a number, pushes the first."""
    return params["bias"] + params["odds"] * prompt_ids * jnp.array([1.0, 0.0, 0.0])


@pytest.fixture
def dice():
    """So many prompts of eight throws, with two components: the first face, and the third with some noise."""
    policy = Policy(
        prefix=lambda params, prompt_ids, mask: prompt_ids,
        continued=lambda params, prompt_ids, ids, packing: jnp.broadcast_to(
            dice_logits(params, prompt_ids)[:, None, None], (*ids.shape, 3)
        ),
        unembedding=lambda params: jnp.eye(3),
        decoder=lambda *_: None,
        cache=lambda *_: None,
        grown=lambda *_: None,
    )

    def of(prompts):
        random = np.random.default_rng(prompts)
        ids, numbers = random.integers(0, 3, (prompts, 8)), random.integers(-1, 2, (prompts, 1))
        mask, zeros = np.ones((prompts, 8, 1), bool), np.zeros((prompts, 8, 1))
        rollouts = Rollouts(
            [""] * prompts, [[""] * 8] * prompts, {}, numbers, np.ones((prompts, 1), bool), ids[..., None], mask,
            np.zeros((prompts, 8), bool), zeros, zeros,
        )  # fmt: skip
        parameters = Parameters({"bias": jnp.array([0.1, -0.2, 0.3]), "odds": jnp.array(0.5)}, {})
        values = np.stack([ids == 0, (ids == 2) + 0.1 * random.random(ids.shape)]).astype(float)
        return policy, parameters, rollouts, values

    return of


def by_hand(rollouts, parameters, values):
    """Mean over the prompts that have values of the credited derivatives of the log-likelihood."""
    count, group = values.shape[1:]
    numbers, ids = rollouts.prompt_ids[:count], rollouts.completion_ids[:count, :, 0]
    p = np.asarray(jax.nn.softmax(dice_logits(parameters.trainable, numbers)))
    bias = np.eye(3)[ids] - p[:, None]
    both = np.concatenate([bias, numbers[:, None] * bias[..., :1]], -1)
    credit = (values - values.mean(-1, keepdims=True)) / (group - 1)
    return np.einsum("cpg,pgx->cx", credit, both) / count


@pytest.mark.parametrize(
    ("prompts", "count"), [(37, 18), (41, 20), (61, 30), (127, 21), (64, 32), (74, 24), (20, 20), (5, 5), (1, 1)]
)
def test_any_number_of_prompts_makes_blocks_and_loses_few_prompts(dice, prompts, count):
    found = cg.block_gradients(*dice(prompts))
    assert found.shape == (2, count, 4) and prompts - prompts // count * count <= 2


def test_prompts_over_whole_blocks_count_nothing(dice):
    policy, parameters, rollouts, values = dice(37)
    values[:, 36] = 1e6 * np.arange(8)
    blocks = cg.block_gradients(policy, parameters, rollouts, values)
    np.testing.assert_allclose(blocks.mean(1), by_hand(rollouts, parameters, values[:, :36]), rtol=1e-4, atol=1e-6)


def test_products_are_those_of_the_gradients_of_blocks(dice):
    policy, parameters, rollouts, values = dice(37)
    scale = {"bias": np.array([0.5, 2.0, 1.0]), "odds": np.array(3.0)}
    blocks = cg.block_gradients(policy, parameters, rollouts, values)
    found = cg.gradients(policy, parameters, rollouts, values, scale=scale)
    np.testing.assert_allclose(found.mean, blocks.mean(1), rtol=1e-5, atol=1e-7)
    root = np.sqrt(np.array([0.5, 2.0, 1.0, 3.0]))
    for products, stretched in ((found.plain, blocks), (found.scaled, blocks * root)):
        for one, other in ((0, 1), (1, 0)):
            expected = cg.geometry(stretched[one], stretched[other], 4.0, 1.0)
            assert cg.geometry_of(products, one, other, 4.0, 1.0) == pytest.approx(expected, rel=1e-3, nan_ok=True)
    assert found.plain.own.shape == (2, 2, 18)


def test_products_of_a_policy_are_those_of_its_gradients(policy, full, rollouts, blocks):
    values = np.asarray(parts(rollouts.completion_ids[..., 0]))
    found = cg.gradients(policy, full, rollouts, values)
    expected = cg.geometry(blocks[0], blocks[1], weight_first=4.0)
    assert found.scaled is None
    assert cg.geometry_of(found.plain, 0, 1, weight_first=4.0) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(found.mean, blocks.mean(1), atol=1e-6 * np.abs(blocks).max())


def test_gradients_of_single_blocks_are_not_kept(dice, monkeypatch):
    """Of a large model at most the sum and one block fit into memory."""
    alive, most, inner = [], 0, cg._inner

    def watched(first, second, scale):
        nonlocal most
        alive.extend(weakref.ref(leaf) for leaf in jax.tree.leaves(first))
        most = max(most, sum(leaf() is not None for leaf in alive))
        return inner(first, second, scale)

    monkeypatch.setattr(cg, "_inner", watched)
    cg.gradients(*dice(32))
    assert len(alive) == 128 and most <= 16


@pytest.mark.slow
def test_components_together_have_the_gradients_they_have_alone(policy, full, tokenizer, rows):
    """In one large batch: XLA's CPU backend once mixed up what was computed side by side."""
    longer = sampling.sampler(policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=16)
    batch = longer(full, (rows * 256)[:256], 16, jax.random.key(0))
    values = np.random.default_rng(0).random((2, 256, 16)).astype(np.float32)
    together = cg.block_gradients(policy, full, batch, values, blocks=8)
    for index in range(2):
        [alone] = cg.block_gradients(policy, full, batch, values[index : index + 1], blocks=8)
        np.testing.assert_allclose(together[index], alone, atol=1e-6 * np.abs(alone).max())


def test_a_completion_without_a_value_counts_nothing(policy, full, rollouts):
    value = np.asarray(parts(rollouts.completion_ids[..., 0]))[:1]
    holes = value.copy()
    holes[:, :, GROUP // 2 :] = np.nan
    half = dataclasses.replace(
        rollouts,
        completion_ids=rollouts.completion_ids[:, : GROUP // 2],
        completion_mask=rollouts.completion_mask[:, : GROUP // 2],
    )
    with_holes = cg.block_gradients(policy, full, rollouts, holes, blocks=1)
    without = cg.block_gradients(policy, full, half, value[:, :, : GROUP // 2], blocks=1)
    np.testing.assert_allclose(with_holes, without, atol=1e-6)


def test_noise_alone_has_no_cosine_or_one_that_may_be_anything():
    random = np.random.default_rng(0)
    u, v = random.normal(size=(2, 16, 500))
    found = cg.geometry(u, v)
    assert found.change_low < 0 < found.change_high
    assert math.isnan(found.cosine) or found.high - found.low > 0.5


def test_noise_hides_no_angle():
    # True gradients at 120 degrees under noise of five times their length.
    random = np.random.default_rng(1)
    u, v = np.zeros(4000), np.zeros(4000)
    u[0], v[0], v[1] = 1.0, -0.5, math.sqrt(0.75)
    u, v = (x + 5 / math.sqrt(4000) * random.normal(size=(32, 4000)) for x in (u, v))
    found = cg.geometry(u, v)
    assert found.cosine == pytest.approx(-0.5, abs=0.1) and found.low < -0.5 < found.high


def test_two_blocks_are_too_few():
    assert all(math.isnan(number) for number in cg.geometry(np.ones((2, 3)), np.ones((2, 3))))


def test_a_weight_of_zero_has_no_threshold():
    assert math.isnan(cg.geometry(np.ones((3, 2)), np.ones((3, 2)), 0.0).threshold)


# --- Along a direction ------------------------------------------------------------------------------------------------


def kl_of_dice(p, start):
    return p * np.log(p / start) + (1 - p) * np.log((1 - p) / (1 - start))


def coin(start):
    """Two prompts, each a coin whose log odds is the parameter: the gradient path is the path of least divergence."""

    def read(parameters):
        p = 1 / (1 + np.exp(-float(parameters.trainable["odds"][0])))
        kl = np.full(2, kl_of_dice(p, start))
        return Reading(np.array([[p - start] * 2]), kl, kl)

    return read, Parameters({"odds": jnp.array([math.log(start / (1 - start))])}, {})


@pytest.mark.parametrize(("start", "ratio"), [(0.1, 0.73), (0.3, 0.82), (0.5, 1.0), (0.7, 1.23), (0.9, 1.37)])
def test_raising_a_coin_is_dearer_than_lowering_it_exactly_above_one_half(start, ratio):
    # Half of the room there is, as far up as down.
    amount = min(start, 1 - start) / 2
    read, parameters = coin(start)
    rays = [
        cg.follow(read, parameters, np.ones(1), 0, change, first_step=0.02, growth=1.1, looks=80)
        for change in (amount, -amount)
    ]
    found = cg.asymmetry(*rays, resamples=20)
    assert found.up == pytest.approx(kl_of_dice(start + amount, start), rel=0.01)
    assert found.ratio == pytest.approx(ratio, abs=0.015)
    assert found.low == pytest.approx(found.ratio) and found.high == pytest.approx(found.ratio)
    assert found.up_k3 == pytest.approx(found.up)


def waves(parameters):
    """Goes up to 0.2 at distance 1, back to 0 at 2, and up again."""
    distance = abs(float(parameters.trainable["x"][0]))
    return Reading(np.full((1, 3), 0.2 * math.sin(math.pi * distance / 2) ** 2), *(np.full(3, distance**2),) * 2)


ORIGIN = Parameters({"x": jnp.zeros(1)}, {})


def test_the_first_crossing_is_found_where_the_way_turns_back():
    ray = cg.follow(waves, ORIGIN, np.ones(1), 0, 0.1, first_step=0.1, growth=1.4)
    assert cg.crossing(ray)[0] == pytest.approx(0.25, abs=0.03)  # at distance 1/2, not 3/2


def test_not_reachable_is_a_result():
    up = cg.follow(waves, ORIGIN, np.ones(1), 0, 0.1, first_step=0.1)
    down = cg.follow(waves, ORIGIN, np.ones(1), 0, -0.1, first_step=0.1)  # it only ever rises
    found = cg.asymmetry(up, down, resamples=20)
    assert found.down == math.inf and found.ratio == 0.0
    assert math.isnan(cg.asymmetry(down, down, resamples=20).ratio)
    assert down.kl.mean(-1)[-2] <= 5.0 < down.kl.mean(-1)[-1]  # it gave up behind five nats


def test_prompts_that_disagree_widen_the_interval():
    changes = np.array([[0.0, 0.0], [0.02, 0.08], [0.04, 0.16]])
    kl = np.array([[0.0, 0.0], [0.01, 0.01], [0.04, 0.04]])
    up = Ray(np.array([0.0, 1, 2]), changes, kl, kl, 0.05)
    found = cg.asymmetry(up, up._replace(changes=-changes[:, ::-1], amount=-0.05), resamples=200)
    assert found.ratio == pytest.approx(1.0) and found.low < 0.5 and found.high > 2


def test_random_directions_go_as_far_as_the_divergence():
    seen = []

    def read(parameters):
        distance = float(jnp.linalg.norm(parameters.trainable["x"]))
        seen.append(distance)
        return Reading(np.full((2, 4), -distance), np.full(4, distance**2 / 2), np.zeros(4))

    start = Parameters({"x": jnp.zeros(3)}, {})
    found = cg.random_changes(read, start, 0.02, directions=4, first_step=1.0)
    np.testing.assert_allclose(found, -0.2, atol=1e-5)  # 0.2^2 / 2 = 0.02
    assert len(seen) == 12


def test_divergence_is_exact_over_the_vocabulary(policy, full, sample, rows):
    size = ravel_pytree(full.trainable)[0].size
    other = cg.moved(full, np.random.default_rng(0).normal(size=size), 2.0)
    rollouts = sample(other, rows[:2], 2048, jax.random.key(1))
    kl, k3, ratio = (number.mean(-1) for number in cg.comparison(policy, full)(other, rollouts))
    ids = *prompt_tokens(rollouts), jnp.asarray(rollouts.completion_ids[:, :1])
    log_p, log_q = (
        jax.nn.log_softmax((policy.features(p.trainable, *ids) @ policy.unembedding(p.trainable).T)[:, 0, 0])
        for p in (other, full)
    )
    exact = (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
    np.testing.assert_allclose(kl, exact, rtol=1e-4)
    assert exact.min() > 0.01
    np.testing.assert_allclose(k3, exact, rtol=0.2)
    np.testing.assert_allclose(ratio, exact, rtol=0.3)
    assert np.abs(cg.comparison(policy, full)(full, rollouts)).max() < 1e-6


def test_the_same_policy_is_read_the_same_twice(policy, full, sample, rows):
    def score(rollouts):
        value = np.asarray(parts(rollouts.completion_ids[..., 0]))
        return Score(value.sum(0), np.ones(value.shape[1:], bool), {"even": value[0], "low": value[1]})

    key = jax.random.key(2)
    read = cg.reader(policy, full, sample, score, ("even", "low"), rows[:3], key, group_size=64)
    one, other = read(full), read(full)
    assert one.changes.shape == (2, 3) and (one.changes == other.changes).all()
    assert np.abs(one.changes).max() < 1e-6 and one.kl.max() < 1e-6


@pytest.mark.parametrize("distance", [0.01, 1.0])
def test_changes_of_means_are_those_of_the_exact_distributions(policy, full, sample, rows, distance):
    def score(rollouts):
        value = np.asarray(parts(rollouts.completion_ids[..., 0]))
        return Score(value.sum(0), np.ones(value.shape[1:], bool), {"even": value[0], "low": value[1]})

    def exact(parameters):
        ids = *prompt_tokens(rollouts), jnp.asarray(rollouts.completion_ids[:, :1])
        hidden = policy.features(parameters.trainable, *ids)[:, 0, 0]
        p = jax.nn.softmax(hidden @ policy.unembedding(parameters.trainable).T)
        return parts(jnp.arange(p.shape[-1])) @ p.T

    rollouts = sample(full, rows[:2], 1, jax.random.key(0))
    read = cg.reader(policy, full, sample, score, ("even", "low"), rows[:2], jax.random.key(4), group_size=2048)
    other = cg.moved(full, np.random.default_rng(1).normal(size=ravel_pytree(full.trainable)[0].size), distance)
    change = np.asarray(exact(other) - exact(full))
    # The difference of two means of 2048 would be off by 0.015; here the error shrinks with the step.
    np.testing.assert_allclose(read(other).changes, change, atol=0.02 * min(distance, 1.0))


def test_a_way_up_the_gradient_of_a_policy_raises_its_component(policy, full, sample, rows, blocks):
    def score(rollouts):
        value = np.asarray(parts(rollouts.completion_ids[..., 0]))[0]
        return Score(value, np.ones(value.shape, bool), {"even": value})

    read = cg.reader(policy, full, sample, score, ("even",), rows[:PROMPTS], jax.random.key(3), group_size=64)
    up = cg.follow(read, full, blocks[0].mean(0), 0, 0.05, first_step=0.005)
    down = cg.follow(read, full, blocks[0].mean(0), 0, -0.05, first_step=0.005)
    found = cg.asymmetry(up, down, resamples=50)
    assert 0 < found.up < 1 and 0 < found.down < 1 and found.low <= found.ratio <= found.high
