"""The benchmark of rollouts in a lower precision, and that of token rewards: their arithmetic, and that they run."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import low_precision
import token_rewards
from grpo_workloads import WORKLOADS
from low_precision_rollouts import AGAIN, CAP, PASS, benchmark, gradients, mismatch, workload_subject
from rollouts_ahead import Shape

from agent_tunix import models
from agent_tunix.models import _decoder


@pytest.fixture(scope="module")
def subject():
    return workload_subject(WORKLOADS["tiny"])


def test_every_channel_has_the_scale_that_its_largest_weight_needs():
    values, scales = low_precision.int8(jnp.array([[1.0, -4.0, 0.0], [-0.5, 1.0, 0.0]]), axis=0)
    np.testing.assert_array_equal(values, [[127, -127, 0], [-64, 32, 0]])  # 63.5 is rounded to even, 31.75 up
    np.testing.assert_allclose(scales[:2], [1 / 127, 4 / 127], rtol=1e-6)
    values, scales = low_precision.fp8(jnp.array([[2.0], [-1.0]]), axis=0)
    np.testing.assert_array_equal(values.astype(jnp.float32), [[448.0], [-224.0]])
    np.testing.assert_allclose(scales, [2 / 448], rtol=1e-6)


def test_products_in_8_bits_are_those_of_integers():
    rows, weights = jax.random.normal(jax.random.key(0), (2, 5, 16)), jax.random.normal(jax.random.key(1), (16, 7))
    (x, by_row), (w, by_channel) = low_precision.int8(rows, axis=2), low_precision.int8(weights, axis=0)
    expected = np.asarray(x, int) @ np.asarray(w, int) * np.asarray(by_row)[..., None] * np.asarray(by_channel)
    np.testing.assert_allclose(rows @ low_precision.int8_products(weights), expected, atol=1e-5)
    np.testing.assert_allclose(rows @ low_precision.int8_weights(weights), rows @ (w * by_channel), atol=1e-5)


def test_with_weights_as_they_are_the_decoder_is_the_packages_own(subject):
    own = models.policy(subject.architecture)
    sizes = subject.architecture
    shape = _decoder.Shape(sizes)
    same = own._replace(decoder=low_precision.decoder(lambda weights: weights, shape))
    drawn = [
        subject.sampler(policy)(models.full(subject.params), subject.batch(0), subject.group_size, jax.random.key(0))
        for policy in (own, same)
    ]
    np.testing.assert_array_equal(drawn[0].completion_ids, drawn[1].completion_ids)
    np.testing.assert_allclose(drawn[0].logprobs, drawn[1].logprobs, atol=1e-5)


def test_numbers_about_weights_by_hand():
    found = mismatch(np.log(np.array([1.0, 4.0], np.float32)))
    assert found["mean_abs"] == pytest.approx(np.log(4) / 2)
    assert found["mean_weight"] == pytest.approx(2.5)
    assert found["mean_capped_weight"] == pytest.approx((1 + CAP) / 2)
    assert found["effective_fraction"] == pytest.approx(25 / (2 * 17))
    assert found["above_cap"] == 0.5
    assert found["k3"] == pytest.approx((3 - np.log(4)) / 2)


@pytest.mark.slow
def test_float32_agrees_with_the_policy_and_lower_precisions_do_not(subject):
    found = benchmark(subject, rounds=1)
    precisions = found["precisions"]
    assert list(precisions) == list(low_precision.policies(subject.architecture))
    assert found["tokens"] == 2 * 16 * 12 and found[PASS]["seconds"] > 0
    assert precisions["float32"]["max_abs"] < 1e-4
    assert precisions["float32"]["speedup"]["wall"] == 1 > precisions["float32"]["speedup_with_pass"]["wall"]
    for name in ("bfloat16", "int8_products", "int8_weights", "fp8_weights"):
        assert 1e-4 < precisions[name]["mean_abs"] < 0.5, name
    assert precisions["int8_weights"]["mean_abs"] < precisions["fp8_weights"]["mean_abs"]  # 7 bits against 3


@pytest.mark.slow
def test_gradients_are_compared_with_those_of_float32(subject):
    compared = gradients(subject, batches=1)["compared"]
    assert compared["float32/uncorrected"] == pytest.approx({"cosine": 1.0, "norm_ratio": 1.0})
    assert compared["float32/corrected"]["cosine"] == pytest.approx(1.0, abs=1e-6)
    assert compared[f"{AGAIN}/uncorrected"]["cosine"] < 0.999


def test_token_rewards_are_compared_with_one_program():
    found = token_rewards.compared(Shape(prompts=2, group_size=4, tokens=6), count=4, rounds=1)
    assert set(found) == {"separate_ms", "one_program_ms", "reward_alone_ms"}
    assert all(value > 0 for value in found.values())
