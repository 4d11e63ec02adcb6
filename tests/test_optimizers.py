import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix.optimizers import adamw, learning_rate_schedule


def rates(updates, **settings):
    """The learning rate of update 1, 2, ..."""
    schedule = learning_rate_schedule(**settings)
    return [float(schedule(count)) for count in range(1, updates + 1)]


def moved(schedule, updates, gradient=1.0, **settings):
    """How far each update moves a parameter whose gradient never changes; Adam's step is then the learning rate."""
    optimizer = adamw(schedule, **settings)
    params = {"w": jnp.zeros(())}
    state, steps = optimizer.init(params), []
    for _ in range(updates):
        step, state = optimizer.update({"w": jnp.asarray(gradient)}, state, params)
        steps.append(float(step["w"]))
    return steps


def test_warmup_rises_in_equal_parts_to_the_peak():
    assert rates(4, learning_rate=0.8, warmup_steps=4, steps=100) == pytest.approx([0.2, 0.4, 0.6, 0.8], abs=1e-6)


def test_cosine_by_hand():
    # Four updates of decay from 1 to 0.2: 0.2 + 0.8 * (1 + cos(pi * j / 4)) / 2.
    expected = [1.0] + [0.2 + 0.4 * (1 + math.cos(math.pi * j / 4)) for j in (1, 2, 3, 4)]
    assert rates(5, learning_rate=1.0, warmup_steps=1, steps=5, final_fraction=0.2) == pytest.approx(expected, abs=1e-6)


def test_constant_stays_at_the_peak():
    out = rates(50, learning_rate=0.3, warmup_steps=3, steps=50, schedule="constant")
    assert out[:3] == pytest.approx([0.1, 0.2, 0.3], abs=1e-6)
    assert out[3:] == pytest.approx([0.3] * 47, abs=1e-6)


@given(
    st.integers(0, 30), st.integers(1, 60), st.sampled_from(["cosine", "constant"]), st.floats(0.05, 1.0)
)  # fmt: skip
def test_every_update_of_any_run_has_a_rate_up_to_the_peak(warmup, steps, schedule, final):
    out = rates(steps, learning_rate=0.5, warmup_steps=warmup, steps=steps, schedule=schedule, final_fraction=final)
    assert min(out) > 0
    assert max(out) == pytest.approx(0.5, abs=1e-6)
    assert np.argmax(out) + 1 == max(1, min(warmup, steps))
    if schedule == "cosine" and warmup < steps and steps > 1:
        assert out[-1] == pytest.approx(0.5 * final, abs=1e-6)


def test_the_optimizer_takes_its_first_rate_at_its_first_update():
    schedule = learning_rate_schedule(learning_rate=0.08, warmup_steps=4, steps=8)
    expected = [-float(schedule(count)) for count in range(1, 9)]
    assert expected[0] == pytest.approx(-0.02, abs=1e-6)
    assert moved(schedule, 8) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("gradient", "clipped"), [([3.0, 4.0], [0.6, 0.8]), ([0.3, 0.4], [0.3, 0.4])])
def test_gradients_are_clipped_by_their_global_norm(gradient, clipped):
    optimizer = adamw(optax.constant_schedule(0.1), clip_norm=1.0)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    gradient = dict(zip("ab", jnp.asarray(gradient)[:, None]))
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    first_moment = optax.tree_utils.tree_get(state, "mu")  # (1 - b1) times what arrived behind the clip
    assert first_moment["a"][0] / 0.1 == pytest.approx(clipped[0], abs=1e-6)
    assert first_moment["b"][0] / 0.1 == pytest.approx(clipped[1], abs=1e-6)


def test_weight_decay_is_decoupled_from_the_gradient():
    optimizer = adamw(optax.constant_schedule(0.1), weight_decay=0.5)
    params = {"w": jnp.asarray(2.0)}
    step, _ = optimizer.update({"w": jnp.zeros(())}, optimizer.init(params), params)
    assert step["w"] == pytest.approx(-0.1 * 0.5 * 2.0, abs=1e-6)


def test_one_update_by_hand():
    optimizer = adamw(optax.constant_schedule(0.1), b1=0.5, b2=0.75, eps=1.0)
    params = {"w": jnp.zeros(())}
    state = optimizer.init(params)
    # First: both moments without bias are the gradient and its square: 0.5 / (0.5 + 1).
    step, state = optimizer.update({"w": jnp.asarray(0.5)}, state, params)
    assert step["w"] == pytest.approx(-0.1 * 0.5 / 1.5, abs=1e-7)
    # Second, gradient 0: m = 0.5 * 0.25 / 0.75 = 1/6; v = 0.75 * 0.0625 / 0.4375 = 3/28.
    step, _ = optimizer.update({"w": jnp.zeros(())}, state, params)
    assert step["w"] == pytest.approx(-0.1 * (1 / 6) / (math.sqrt(3 / 28) + 1), abs=1e-7)


def test_the_first_moment_alone_is_kept_in_fewer_bits():
    params = {"w": jnp.ones((3,))}
    ends = []
    for dtype in ("float32", "bfloat16"):
        optimizer = adamw(optax.constant_schedule(0.01), mu_dtype=dtype)
        state, weights = optimizer.init(params), params
        for number in range(20):
            updates, state = optimizer.update({"w": jnp.asarray([0.3, -0.7, 0.1 * number])}, state, weights)
            weights = optax.apply_updates(weights, updates)
        moments = state[1][0]
        assert (moments.mu["w"].dtype, moments.nu["w"].dtype) == (jnp.dtype(dtype), jnp.float32)
        ends.append(weights["w"])
    assert 0 < float(jnp.abs(ends[0] - ends[1]).max()) < 2e-3
