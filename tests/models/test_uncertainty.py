"""The precision network: closed forms, optimality of the fit, limits far away, and what it does to geodesics."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax.geometry import curve_length, pullback_metric
from geovq_jax.models.uncertainty import LEAST_VARIANCE, Precision, fit_precision, standard_deviation


def ring(n, seed=0):
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, n)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def test_by_hand_at_a_centre_and_far_away():
    precision = Precision(np.zeros((1, 2)), np.array([0.5]), np.array([[3.0, 8.0]]), np.asarray(1.0))
    np.testing.assert_allclose(standard_deviation(precision, jnp.zeros(2)), [1 / 2, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(standard_deviation(precision, jnp.array([20.0, 0.0])), 1.0, rtol=1e-6)
    middle = 1.0 / np.sqrt(3.0 * np.exp(-0.5) + 1.0)
    np.testing.assert_allclose(standard_deviation(precision, jnp.array([1.0, 0.0]))[0], middle, rtol=1e-6)


def test_coincident_latents_have_the_maximum_likelihood_variance():
    squares = np.abs(np.random.default_rng(1).normal(size=(50, 3))).astype(np.float32) / 10
    precision = fit_precision(np.zeros((50, 2), np.float32), squares, num_centres=1)
    expected = np.sqrt(squares.mean(axis=0) + LEAST_VARIANCE)
    np.testing.assert_allclose(standard_deviation(precision, jnp.zeros(2)), expected, rtol=1e-3)


def test_the_fit_is_a_stationary_point_of_the_likelihood():
    z = ring(400)
    squares = (0.01 + 0.05 * (z[:, :1] > 0)) * np.random.default_rng(2).chisquare(1, (400, 4)).astype(np.float32)
    precision = fit_precision(z, squares.astype(np.float32), num_centres=8)

    def loss(weights):
        sigma = jax.vmap(partial(standard_deviation, precision._replace(weights=weights)))(z)
        return jnp.mean((squares + LEAST_VARIANCE) / sigma**2 + 2.0 * jnp.log(sigma))

    best = loss(precision.weights)
    for factor in (0.8, 1.25):
        assert loss(precision.weights * factor) > best
    # The relative gradient W dL/dW vanishes, up to what is left after a fixed number of updates.
    relative = np.abs(precision.weights * jax.grad(loss)(jnp.asarray(precision.weights)))
    assert relative.sum() < 0.05
    # Residuals are larger on the right-hand side.
    left, right = (standard_deviation(precision, jnp.array([x, 0.0])).mean() for x in (-1.0, 1.0))
    assert right > 1.5 * left


def test_the_way_around_a_hole_in_the_data_is_shorter_than_across():
    z = ring(300)
    precision = fit_precision(z, np.full((300, 2), 1e-3, np.float32), num_centres=16)

    def decode(point):
        return jnp.concatenate([point, 10.0 * standard_deviation(precision, point)])

    angle = np.linspace(0.0, np.pi, 200)
    around = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    across = np.linspace(around[0], around[-1], 200, dtype=np.float32)
    lengths = [float(curve_length(decode, path, rule="chord")) for path in (around, across)]
    assert np.pi * 0.99 < lengths[0] < 0.5 * lengths[1]
    assert lengths[1] > 3.0 * 2.0  # without the standard deviation it is 2, and shorter than around


def test_the_metric_of_the_pair_is_the_sum():
    precision = fit_precision(ring(100), np.full((100, 2), 1e-3, np.float32), num_centres=4)
    point = jnp.array([0.6, 0.1])
    spread = pullback_metric(partial(standard_deviation, precision), point)
    both = pullback_metric(lambda z: (2.0 * z, standard_deviation(precision, z)), point)
    np.testing.assert_allclose(both, 4.0 * np.eye(2) + spread, rtol=1e-5)


def test_other_shapes_and_values_are_refused(unchecked):
    z = ring(10)
    with pytest.raises(ValueError, match=r"expected latents \[n, d\] and squares"):
        fit_precision(z, np.ones((9, 3), np.float32))
    with pytest.raises(ValueError, match="expected finite latents"):
        fit_precision(z, np.full((10, 3), np.nan, np.float32))
