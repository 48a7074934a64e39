"""Unevenness of decoded steps against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax.evaluation.interpolation import unevenness


def test_a_linear_decoder_moves_evenly():
    rng = np.random.default_rng(0)
    ends = rng.normal(size=(2, 5, 3)).astype(np.float32)
    weights = jnp.asarray(rng.normal(size=(7, 3)), jnp.float32)
    np.testing.assert_allclose(unevenness(lambda z: weights @ z, *ends), 0.0, atol=1e-5)


def test_steps_of_a_square_grow_as_odd_numbers():
    num_steps = 8
    steps = 2.0 * np.arange(num_steps) + 1.0
    found = unevenness(lambda z: z**2, np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32), num_steps=num_steps)
    np.testing.assert_allclose(found, steps.std() / steps.mean(), rtol=1e-5)


def test_one_jump_and_no_way():
    first, second = np.zeros((2, 2, 2, 1), np.float32), np.ones((2, 2, 2, 1), np.float32)
    second[1] = 0.0
    found = unevenness(lambda grid: jnp.where(grid > 0.53, 1.0, 0.0), first, second, num_steps=16)
    np.testing.assert_allclose(found, [np.sqrt(15.0), 0.0], rtol=1e-5)


def test_ends_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="two ends of one shape"):
        unevenness(lambda z: z, np.zeros((2, 3), np.float32), np.zeros((3, 3), np.float32))
