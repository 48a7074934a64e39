"""Frechet means and clustering in geodesic distance: isometric charts, brute force, monotone costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from geovq_jax.geometry import (
    frechet_mean,
    geodesic_distances,
    geodesic_kmeans,
    geodesic_kmedoids,
    graph_from_edges,
    kmedoids,
    nearest_geodesic,
)


def bent(z):
    """A sheet rolled up along a bent chart: its geodesics are straight lines of (z0 + z1^2, z1)."""
    u, v = z[0] + z[1] ** 2, z[1]
    return jnp.array([jnp.cos(u), jnp.sin(u), v])


def flat(z):
    return np.stack([z[:, 0] + z[:, 1] ** 2, z[:, 1]], axis=1)


def latents(seed, n):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, size=(n, 2)).astype(np.float32)


def test_frechet_mean_of_a_flat_sheet_is_the_mean_in_its_plane():
    z, weights = latents(0, 12), np.random.default_rng(1).uniform(0.2, 1.0, 12)
    found = frechet_mean(bent, z, weights=weights, tolerance=1e-7)
    truth = weights @ flat(z) / weights.sum()
    assert found.converged
    np.testing.assert_allclose(flat(found.point[None])[0], truth, atol=5e-3)
    spread = weights @ np.sum((flat(z) - truth) ** 2, axis=1) / weights.sum()
    assert found.variance == pytest.approx(spread, rel=1e-3)


def test_weights_count_as_repetition():
    z = latents(2, 6)
    once = frechet_mean(bent, z, weights=np.array([2.0, 1.0, 1.0, 0.0, 1.0, 1.0]))
    twice = frechet_mean(bent, np.concatenate([z[[0]], z[[0, 1, 2, 4, 5]]]))
    np.testing.assert_allclose(once.point, twice.point, atol=1e-3)


def test_kmeans_is_lloyd_in_the_plane_of_a_flat_sheet():
    z = latents(3, 90)
    found = geodesic_kmeans(bent, z, 5, seed=0, tolerance=1e-4)
    assert found.stopped == "converged"
    assert (np.diff(found.history) < 0).all()
    assert found.cost == found.history[-1]
    distances = np.linalg.norm(flat(z)[:, None] - flat(found.centres)[None], axis=2)
    np.testing.assert_allclose(distances[np.arange(90), found.labels], distances.min(axis=1), rtol=2e-3)
    np.testing.assert_allclose(found.distances, distances.min(axis=1), rtol=5e-3, atol=1e-4)
    means = np.stack([flat(z)[found.labels == k].mean(axis=0) for k in range(5)])
    np.testing.assert_allclose(flat(found.centres), means, atol=0.03)
    # The minimum of K-means++ with many restarts in the plane, where the mean is known.
    assert found.cost < 1.1 * KMeans(5, n_init=20, random_state=0).fit(flat(z)).inertia_ / 90


def test_one_cluster_is_the_frechet_mean():
    z = latents(4, 40)
    found = geodesic_kmeans(bent, z, 1, seed=0, tolerance=1e-6)
    assert found.cost == pytest.approx(frechet_mean(bent, z, tolerance=1e-6).variance, rel=2e-3)


def test_medoids_are_latents_and_improve_on_a_poor_start():
    z = latents(5, 60)
    order = np.argsort(z[:, 0])
    chain = graph_from_edges(np.stack([order[:-1], order[1:]], axis=1), np.ones(59), 60)  # misleads the first medoids
    first = kmedoids(chain, 4, seed=0).medoids
    found = geodesic_kmedoids(bent, z, 4, seed=0, medoids=first, tolerance=0.0)
    assert len(found.history) > 1
    assert (np.diff(found.history) < 0).all()
    np.testing.assert_array_equal(found.centres, z[found.medoids])
    np.testing.assert_array_equal(found.labels[found.medoids], np.arange(4))
    squares = geodesic_distances(bent, z, found.centres[found.labels]).length ** 2
    assert found.cost == pytest.approx(squares.mean(), rel=1e-2)


def test_medoids_move_round_after_round_until_none_is_better():
    z = latents(8, 60)
    found = geodesic_kmedoids(bent, z, 4, seed=0, medoids=np.argsort(z[:, 0])[:4], tolerance=0.0)
    assert len(found.history) > 3
    assert found.stopped == "converged"
    again = geodesic_kmedoids(bent, z, 4, seed=0, medoids=found.medoids, tolerance=0.0)
    np.testing.assert_array_equal(again.medoids, found.medoids)
    np.testing.assert_allclose(again.history, found.history[-1:], rtol=1e-6)


def test_as_many_clusters_as_latents_cost_nothing():
    z = latents(6, 8)
    found = geodesic_kmedoids(bent, z, 8, seed=0)
    np.testing.assert_array_equal(found.medoids, np.arange(8))
    assert found.cost < 1e-8


def test_clustering_in_curved_space_beats_euclidean_centres():
    keys = jax.random.split(jax.random.key(0), 2)
    a, b = jax.random.normal(keys[0], (24, 4)), jax.random.normal(keys[1], (30, 24)) / 5.0
    z = np.random.default_rng(7).normal(size=(80, 4)).astype(np.float32)

    def decode(point):
        return b @ jnp.tanh(a @ point)

    centres = KMeans(6, n_init=10, random_state=0).fit(z).cluster_centers_.astype(np.float32)
    euclidean = np.mean(nearest_geodesic(decode, z, centres).distance ** 2)
    means, medoids = geodesic_kmeans(decode, z, 6, seed=0), geodesic_kmedoids(decode, z, 6, seed=0)
    assert means.cost < 0.95 * euclidean
    assert means.cost < medoids.cost


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_clusters": 9}, "1 <= num_clusters <= 8"),
        ({"num_clusters": 1.5}, "num_clusters"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"max_iterations": -1}, "max_iterations"),
    ],
)
def test_bad_arguments_are_refused(unchecked, change, words):
    settings = {"num_clusters": 2, "seed": 0} | change
    for function in (geodesic_kmeans, geodesic_kmedoids):
        with pytest.raises(ValueError, match=words):
            function(bent, latents(8, 8), **settings)


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(ValueError, match="a positive weight"):
        frechet_mean(bent, latents(9, 3), weights=np.zeros(3))
