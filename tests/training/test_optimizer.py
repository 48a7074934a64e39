"""Schedules against their formulas, one update against the paper's."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from geovq_jax.training.optimizer import make_optimizer, make_schedule


def test_cosine_with_warm_up():
    schedule = make_schedule(learning_rate=0.4, num_steps=110, warmup_steps=10)
    np.testing.assert_allclose([schedule(step) for step in (0, 5, 10)], [0.0, 0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(schedule(35), 0.4 * 0.5 * (1 + math.cos(math.pi / 4)), rtol=1e-6)
    np.testing.assert_allclose(schedule(110), 0.0, atol=1e-9)


def test_step_and_constant():
    step = make_schedule(learning_rate=0.8, num_steps=90, schedule="step")
    np.testing.assert_allclose([step(s) for s in (0, 29, 30, 60, 89)], [0.8, 0.8, 0.4, 0.2, 0.2], rtol=1e-5)
    constant = make_schedule(learning_rate=0.8, num_steps=90, schedule="constant")
    assert float(constant(80)) == pytest.approx(0.8)


def test_first_update_is_adamw_by_hand():
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
    gradient = {"kernel": jnp.array([[0.5, -0.1]]), "bias": jnp.array([-4.0])}
    optimizer = make_optimizer(learning_rate=0.1, num_steps=10, schedule="constant", weight_decay=0.2, clip_norm=None)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    # Adam's first step is the sign of the gradient; the kernel alone decays.
    np.testing.assert_allclose(updates["kernel"], [[-0.1 - 0.02 * 1.0, 0.1 + 0.02 * 2.0]], rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], [0.1], rtol=1e-5)


def test_decay_mask_chooses_what_decays():
    params, zero = (
        {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(1)},
        {"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(1)},
    )
    mask = {"kernel": False, "bias": True}
    optimizer = make_optimizer(learning_rate=0.1, num_steps=10, schedule="constant", weight_decay=0.5, decay_mask=mask)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], 0.0)
    np.testing.assert_allclose(updates["bias"], -0.05, rtol=1e-6)


def test_gradients_are_clipped_by_their_global_norm():
    """Two gradients in one direction, both beyond the norm, leave Adam in the same state."""
    params = jnp.zeros((1, 2))
    optimizer = make_optimizer(learning_rate=0.1, num_steps=10, clip_norm=1.0)
    states = [
        optimizer.update(jnp.array([[3.0, 4.0]]) * scale, optimizer.init(params), params)[1] for scale in (1.0, 50.0)
    ]
    moments = [optax.tree.get(state, "mu") for state in states]
    np.testing.assert_allclose(moments[0], [[0.06, 0.08]], rtol=1e-5)
    np.testing.assert_allclose(moments[1], moments[0], rtol=1e-5)


def test_front_door():
    with pytest.raises(ValueError, match="expected schedule to be cosine, step or constant, got 'linear'"):
        make_optimizer(learning_rate=0.1, num_steps=10, schedule="linear")
    with pytest.raises(ValueError, match="expected 0 <= warmup_steps < num_steps = 10, got 10"):
        make_optimizer(learning_rate=0.1, num_steps=10, warmup_steps=10)
