"""Rules about entropy, divergence, gradients, truncation and the sampler."""

import numpy as np
import pytest

from agent_tunix.diagnostics._intake import read_signals
from agent_tunix.diagnostics.rules import (
    entropy_collapse,
    entropy_explosion,
    grad_spike,
    kl_blowup,
    sampler_mismatch,
    truncation,
)

N = 200
T = np.linspace(0, 1, N)


def noise(size, seed=0):
    return np.random.default_rng(seed).normal(0, size, N)


def seen(**series):
    return read_signals(series, bounds=(0, 1))


@pytest.mark.parametrize("course", [0.2 * T, 0.2 * T**2, 0.4 * np.sqrt(T), 0.2 / (1 + np.exp(-(T - 0.5) / 0.1))])
def test_a_divergence_that_rises_smoothly_to_ordinary_values_is_fine(course):
    assert kl_blowup(seen(kl=course * np.exp(noise(0.1)) + 1e-4)) is None


@pytest.mark.parametrize("top", [0.8, 10.0])
def test_a_divergence_that_runs_away_is_found_where_it_bends(top):
    found = kl_blowup(seen(kl=0.02 + top * np.clip((T - 0.6) / 0.2, 0, 1) + noise(0.002)))
    assert found.level == "error"
    assert 118 <= found.steps[0] <= 135
    assert found.evidence["kl"] == pytest.approx(top + 0.02, rel=0.02)


def test_one_high_divergence_is_an_outlier():
    assert kl_blowup(seen(kl=np.where(np.arange(N) == 190, 50.0, 0.05))) is None


def test_entropy_that_is_gone_early_is_found():
    found = entropy_collapse(seen(entropy=1.5 * (0.05 + 0.95 * np.exp(-T / 0.05)), reward=0.2 + 0.3 * T))
    assert found.evidence["ratio_end"] == pytest.approx(
        0.05 / 0.95, abs=0.015
    )  # the start is a mean, a little below 1.5
    assert found.level == "warn"


def test_entropy_may_fall_to_a_third():
    assert entropy_collapse(seen(entropy=1.5 * (0.33 + 0.67 * np.exp(-T / 0.05)), reward=0.2 + 0.3 * T)) is None


def test_entropy_may_go_with_the_reward_that_is_left_to_gain():
    left = 0.04 + 0.96 * np.exp(-T / 0.15)
    assert entropy_collapse(seen(entropy=0.5 * left, reward=1 - 0.6 * left)) is None
    assert entropy_collapse(seen(entropy=0.5 * left, reward=0.4 + 0.1 * T)) is not None


def test_entropy_that_stays_doubled_is_an_explosion():
    found = entropy_explosion(seen(entropy=0.8 + 1.6 * (T > 0.5) + noise(0.02)))
    assert found.evidence["ratio"] == pytest.approx(3, rel=0.02)
    assert entropy_explosion(seen(entropy=0.8 + 0.3 * np.exp(-T / 0.2) + noise(0.02))) is None


def test_jumps_of_the_gradient_are_counted_as_events():
    norm = np.exp(noise(0.2))
    norm[[100, 140, 141, 180]] *= 20
    assert grad_spike(seen(grad_norm=norm)).evidence["jumps"] == 3


@pytest.mark.parametrize("at", [[], [100], [100, 101], [50, 150]])
def test_one_or_two_jumps_happen(at):
    norm = np.exp(noise(0.3))
    norm[at] *= 30
    assert grad_spike(seen(grad_norm=norm)) is None


def test_a_gradient_that_stays_high_is_found():
    assert grad_spike(seen(grad_norm=np.exp(noise(0.2)) * np.where(T > 0.6, 15, 1))).evidence["rise"] > 10


@pytest.mark.parametrize(
    ("cut", "ill"), [(0.05 + 0 * T, False), (0.03 + 0.4 * T, True), (0.5 + 0 * T, True), (0.25 - 0.25 * T, False)]
)
def test_truncation_counts_where_it_rose_or_is_common(cut, ill):
    assert (truncation(seen(clipped_ratio=cut + np.abs(noise(0.005)))) is not None) is ill


def test_a_library_that_counts_natural_ends_is_turned():
    assert truncation(seen(natural_termination_rate=0.97 - 0.5 * T)).evidence["share"] > 0.4


@pytest.mark.parametrize(
    ("name", "before", "after", "ill"),
    [
        ("gen_kl_error", 0.001, 0.001, False),
        ("gen_kl_error", 0.001, 0.05, True),
        ("sampler_is/weight_mean", 0.999, 0.9, True),
        ("sampler_is/weight_mean", 0.999, 0.995, False),
    ],
)
def test_mismatch_is_a_distance_from_zero_or_from_one(name, before, after, ill):
    values = np.where(T > 0.5, after, before) + noise(1e-4)
    assert (sampler_mismatch(seen(**{name: values})) is not None) is ill


def test_a_burst_is_a_spike_and_one_that_rings_is_none():
    norm = np.exp(noise(0.1))
    burst, ring = norm.copy(), norm.copy()
    burst[100:106] *= 40
    ring[100:103] *= [40, 12, 6]
    assert grad_spike(seen(grad_norm=burst)).evidence["jumps"] == 1
    assert grad_spike(seen(grad_norm=ring)) is None


def test_a_straight_or_flattening_divergence_is_none_however_high():
    assert kl_blowup(seen(kl=4 * T)) is None
    assert kl_blowup(seen(kl=4 * (1 - np.exp(-T / 0.3)))) is None
    assert kl_blowup(seen(kl=0.02 * T + 4 * np.clip(T - 0.5, 0, None) ** 2)) is not None
