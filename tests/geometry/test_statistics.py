"""Frechet means and principal geodesic analysis: spheres, linear decoders, brute force over the given latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA

from geovq_jax.geometry import exp_map, frechet_mean, geodesic_distances, pullback_metric, tangent_pca


def sphere(u):
    """Inverse stereographic projection: a chart of the unit sphere without its pole."""
    s = jnp.sum(u * u)
    return jnp.concatenate([2.0 * u, jnp.array([s - 1.0])]) / (1.0 + s)


def stereographic(x):
    return (x[..., :-1] / (1.0 - x[..., -1:])).astype(np.float32)


def around_the_south_pole(rng, n, d, radius):
    """Points of the sphere of dimension d at up to the radius from a point near the south pole."""
    centre = np.append(0.2 * rng.normal(size=d), -1.0)
    centre /= np.linalg.norm(centre)
    direction = rng.normal(size=(n, d + 1))
    direction -= np.outer(direction @ centre, centre)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    angle = radius * rng.uniform(size=(n, 1))
    return np.cos(angle) * centre + np.sin(angle) * direction


def mean_on_sphere(x, share):
    """The Frechet mean by the closed forms of logarithm and exponential, in double precision; and its variance."""
    mean = share @ x / np.linalg.norm(share @ x)
    for _ in range(300):
        angle = np.arccos(np.clip(x @ mean, -1.0, 1.0))
        logarithm = (x - np.outer(x @ mean, mean)) * (angle / np.sin(angle))[:, None]
        step = share @ logarithm
        mean = np.cos(np.linalg.norm(step)) * mean + np.sinc(np.linalg.norm(step) / np.pi) * step
    return mean, share @ angle**2


@pytest.mark.parametrize("radius", [0.5, 1.3])
@pytest.mark.parametrize("d", [2, 10])
def test_weighted_mean_on_a_sphere(d, radius):
    rng = np.random.default_rng(d)
    x, weights = around_the_south_pole(rng, 15, d, radius), rng.uniform(0.1, 1.0, 15)
    mean, variance = mean_on_sphere(x, weights / weights.sum())
    found = frechet_mean(sphere, stereographic(x), weights=weights)
    assert found.converged
    np.testing.assert_allclose(found.point, stereographic(mean), atol=1e-4)
    assert found.variance == pytest.approx(variance, rel=1e-4)


def hill(z):
    """A plane with a hill, around which geodesics go: from its top, the Euclidean mean, all is far."""
    return jnp.stack([z[0], z[1], 4.0 * jnp.exp(-2.0 * (z @ z))])


def test_variance_is_never_above_that_of_a_given_latent():
    rng = np.random.default_rng(0)
    for n in (3, 6, 9):
        angle = rng.uniform(0.0, 2.0 * np.pi, n)
        z = (1.2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)
        ends = np.repeat(z, n, axis=0), np.tile(z, (n, 1))
        least = (geodesic_distances(hill, *ends).length.reshape(n, n) ** 2).mean(axis=1).min()
        found = frechet_mean(hill, z)
        own = geodesic_distances(hill, np.broadcast_to(found.point, z.shape), z).length
        assert found.variance <= least * (1 + 1e-6)
        assert found.variance == pytest.approx(np.mean(own**2), rel=1e-2)


def test_mean_of_one_latent_and_of_equal_ones_is_that_latent():
    z = np.array([[0.3, -0.2]], np.float32)
    for points in (z, np.repeat(z, 4, axis=0)):
        found = frechet_mean(sphere, points)
        assert found.converged
        assert found.variance == pytest.approx(0.0, abs=1e-10)
        np.testing.assert_allclose(found.point, z[0], atol=1e-6)


def test_mean_needs_no_metric_in_directions_that_the_decoder_ignores():
    z = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)
    found = frechet_mean(lambda z: z[:2], z)
    np.testing.assert_allclose(found.point[:2], z[:, :2].mean(axis=0), atol=1e-5)


def test_a_linear_decoder_has_the_principal_components_of_its_images():
    rng = np.random.default_rng(2)
    z, matrix = rng.normal(size=(40, 4)).astype(np.float32), rng.normal(size=(9, 4)).astype(np.float32)
    found, truth = tangent_pca(lambda z: matrix @ z, z), PCA(4).fit(z @ matrix.T)
    np.testing.assert_allclose(found.variances, truth.explained_variance_ * 39 / 40, rtol=1e-4)
    np.testing.assert_allclose(found.mean, z.mean(axis=0), atol=1e-5)
    coordinates = truth.transform(z @ matrix.T)
    sign = np.sign(np.sum(found.coordinates * coordinates, axis=0))
    np.testing.assert_allclose(found.coordinates * sign, coordinates, atol=1e-3)


def test_principal_geodesic_of_a_sphere():
    """Along one great circle there is one axis, with the variance of the angles; all axes together have the mean's."""
    rng = np.random.default_rng(3)
    start, ahead = np.linalg.qr(rng.normal(size=(4, 2)))[0].T
    start, ahead = (start, ahead) if start[-1] < 0 else (-start, ahead)
    angles = np.linspace(-0.6, 0.6, 9)
    x = np.cos(angles)[:, None] * start + np.sin(angles)[:, None] * ahead
    found = tangent_pca(sphere, stereographic(x))
    np.testing.assert_allclose(found.variances, [np.mean(angles**2), 0.0, 0.0], atol=1e-4)
    np.testing.assert_allclose(np.abs(found.coordinates[:, 0]), np.abs(angles), atol=1e-3)
    np.testing.assert_allclose(found.axes @ pullback_metric(sphere, found.mean) @ found.axes.T, np.eye(3), atol=1e-4)


def test_coordinates_lead_back_to_the_latents():
    rng = np.random.default_rng(4)
    z, weights = stereographic(around_the_south_pole(rng, 12, 3, 1.0)), rng.uniform(0.1, 1.0, 12)
    found = tangent_pca(sphere, z, weights=weights)
    variance = frechet_mean(sphere, z, weights=weights).variance
    assert found.variances.sum() == pytest.approx(variance, rel=1e-3)
    velocities = (found.coordinates @ found.axes).astype(np.float32)
    ends = jax.vmap(lambda v: exp_map(sphere, jnp.asarray(found.mean), v))(velocities)
    np.testing.assert_allclose(ends, z, atol=2e-3)
    assert tangent_pca(sphere, z, weights=weights, num_components=2).axes.shape == (2, 3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_components": 4}, "1 <= num_components <= 3"),
        ({"mean": np.zeros(2)}, r"entries of the mean \[3\]"),
        ({"weights": -np.ones(5)}, "weights >= 0"),
    ],
)
def test_bad_arguments_are_refused(unchecked, settings, words):
    with pytest.raises(ValueError, match=words):
        tangent_pca(sphere, np.zeros((5, 3), np.float32), **settings)
