"""Metric tensors against closed forms: linear maps, surfaces, information geometry."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax.geometry.metric import (
    bernoulli_map,
    condition_number,
    effective_rank,
    ensemble,
    log_volume,
    pullback_metric,
    safe_norm,
    safe_sqrt,
    speed,
    volume,
    with_output_metric,
)


@partial(jax.jit, static_argnums=0)
def value_and_derivatives(function, x):
    """Value, tangent along ones, cotangent of ones."""
    value, tangent = jax.jvp(function, (x,), (jnp.ones_like(x),))
    return value, tangent, jax.vjp(function, x)[1](jnp.ones_like(value))[0]


RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(7, 4))


def linear(z):
    return jnp.asarray(MATRIX, z.dtype) @ z


def torus(z, major=2.0, minor=0.5):
    ring = major + minor * jnp.cos(z[1])
    return jnp.stack([ring * jnp.cos(z[0]), ring * jnp.sin(z[0]), minor * jnp.sin(z[1])])


def test_linear_decoder_has_constant_metric():
    with jax.enable_x64(True):
        z = RNG.normal(size=4)
        np.testing.assert_allclose(pullback_metric(linear, z), MATRIX.T @ MATRIX, rtol=1e-12)


def test_torus_has_its_first_fundamental_form():
    with jax.enable_x64(True):
        expected = np.diag([(2.0 + 0.5 * np.cos(1.3)) ** 2, 0.25])
        np.testing.assert_allclose(pullback_metric(torus, np.array([0.7, 1.3])), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(7,), (7, 1), (1, 7, 1)])
def test_output_shape_does_not_matter(shape):
    z = jnp.asarray(RNG.normal(size=4), jnp.float32)
    expected = MATRIX.T @ MATRIX
    np.testing.assert_allclose(pullback_metric(lambda z: linear(z).reshape(shape), z), expected, rtol=1e-5)


def test_speed_is_the_norm_of_a_finite_difference():
    with jax.enable_x64(True):
        z, v, h = np.array([0.3, -1.1]), np.array([0.4, 2.0]), 1e-6
        expected = np.linalg.norm(torus(z + h * v) - torus(z - h * v)) / (2 * h)
        np.testing.assert_allclose(speed(torus, z, v), expected, rtol=1e-8)


def test_figures_of_a_diagonal_metric():
    with jax.enable_x64(True):
        rotation, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
        metric = rotation @ np.diag([4.0, 1.0, 0.25]) @ rotation.T
        share = np.array([4.0, 1.0, 0.25]) / 5.25
        np.testing.assert_allclose(volume(metric), 1.0, rtol=1e-12)
        np.testing.assert_allclose(condition_number(metric), 16.0, rtol=1e-12)
        np.testing.assert_allclose(effective_rank(metric), np.exp(-np.sum(share * np.log(share))), rtol=1e-12)
        np.testing.assert_allclose(effective_rank(np.eye(5)), 5.0, rtol=1e-12)
        np.testing.assert_allclose(effective_rank(np.diag([1.0, 0.0, 0.0])), 1.0, rtol=1e-12)


def test_volume_is_the_determinant_and_keeps_the_batch():
    with jax.enable_x64(True):
        factors = RNG.normal(size=(2, 3, 6, 4))
        metrics = np.swapaxes(factors, -1, -2) @ factors
        np.testing.assert_allclose(volume(metrics), np.sqrt(np.linalg.det(metrics)), rtol=1e-10)
        np.testing.assert_allclose(condition_number(metrics), np.linalg.cond(metrics), rtol=1e-8)


def test_log_volume_survives_many_dimensions():
    metric = 1e-3 * jnp.eye(128)
    np.testing.assert_allclose(log_volume(metric), 64 * np.log(1e-3), rtol=1e-5)


@pytest.mark.parametrize("figure", [volume, condition_number, effective_rank])
@pytest.mark.parametrize("metric", [np.zeros((3, 3)), np.diag([2.0, 0.0, 0.0]), np.eye(3)])
def test_figures_and_their_derivatives_are_finite_at_singular_metrics(figure, metric):
    value, tangent, cotangent = value_and_derivatives(figure, jnp.asarray(metric, jnp.float32))
    assert np.isfinite([value, tangent]).all()
    assert np.isfinite(cotangent).all()


def test_bernoulli_map_gives_the_fisher_information_of_pixels():
    with jax.enable_x64(True):
        z = RNG.normal(size=4)
        p = jax.nn.sigmoid(linear(z))
        fisher = MATRIX.T @ np.diag(p * (1 - p)) @ MATRIX
        decode = with_output_metric(lambda z: jax.nn.sigmoid(linear(z)), bernoulli_map)
        np.testing.assert_allclose(pullback_metric(decode, z), fisher, rtol=1e-10)


def test_bernoulli_metric_is_the_curvature_of_the_divergence():
    """KL(p || q) = 1/2 D' G D + O(D^3) for the distributions at z and z + D."""

    def divergence(p, q):
        return float(jnp.sum(p * jnp.log(p / q) + (1 - p) * jnp.log((1 - p) / (1 - q))))

    with jax.enable_x64(True):
        z, step = RNG.normal(size=4), 1e-3 * RNG.normal(size=4)
        p, q = jax.nn.sigmoid(linear(z)), jax.nn.sigmoid(linear(z + step))
        decode = with_output_metric(lambda z: jax.nn.sigmoid(linear(z)), bernoulli_map)
        np.testing.assert_allclose(0.5 * speed(decode, z, step) ** 2, divergence(p, q), rtol=1e-2)


def test_saturated_pixels_have_finite_metric_and_derivatives():
    decode = with_output_metric(lambda z: jax.nn.sigmoid(100.0 * linear(z)), bernoulli_map)
    for array in value_and_derivatives(lambda z: pullback_metric(decode, z), jnp.ones(4)):
        assert np.isfinite(array).all()


def test_feature_metric_is_the_pull_back_through_the_features():
    with jax.enable_x64(True):
        features = RNG.normal(size=(3, 7))
        decode = with_output_metric(linear, lambda x: features @ x)
        expected = MATRIX.T @ features.T @ features @ MATRIX
        np.testing.assert_allclose(pullback_metric(decode, RNG.normal(size=4)), expected, rtol=1e-12)


def test_decoder_with_uncertainty_has_the_expected_metric():
    """E[J'J] of f = mean + std * noise, by the moments of the noise."""
    with jax.enable_x64(True):
        z = RNG.normal(size=4)

        def std(z):
            return jnp.exp(0.3 * z[:2])

        expected = MATRIX.T @ MATRIX + np.diag([*(0.09 * np.exp(0.6 * z[:2])), 0.0, 0.0])
        np.testing.assert_allclose(pullback_metric(lambda z: (linear(z), std(z)), z), expected, rtol=1e-12)


def test_ensemble_has_the_mean_metric():
    with jax.enable_x64(True):
        members = RNG.normal(size=(5, 7, 4))
        decode = ensemble(lambda weights, z: weights @ z, jnp.asarray(members))
        expected = np.mean(np.swapaxes(members, 1, 2) @ members, axis=0)
        np.testing.assert_allclose(pullback_metric(decode, RNG.normal(size=4)), expected, rtol=1e-12)


def test_ensemble_wants_stacked_parameters():
    with pytest.raises(ValueError, match="common first axis"):
        ensemble(lambda weights, z: z, {"a": jnp.zeros((3, 2)), "b": jnp.zeros((2, 2))})


def test_safe_roots_are_zero_with_zero_derivatives_at_zero():
    for function, x in ((safe_sqrt, jnp.array(0.0)), (safe_sqrt, jnp.array(-1e-9)), (safe_norm, jnp.zeros(3))):
        value, tangent, cotangent = value_and_derivatives(function, x)
        assert value == tangent == 0.0
        np.testing.assert_array_equal(cotangent, jnp.zeros_like(x))


def test_speed_at_rest_has_finite_derivatives():
    value, tangent, cotangent = value_and_derivatives(lambda v: speed(torus, jnp.array([0.3, 0.2]), v), jnp.zeros(2))
    assert value == tangent == 0.0
    np.testing.assert_array_equal(cotangent, jnp.zeros(2))
