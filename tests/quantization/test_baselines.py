"""Baseline codebooks against scikit-learn, brute force, closed forms and the pull-back K-means of a linear decoder."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from geovq_jax.quantization import baselines
from geovq_jax.quantization.pullback_kmeans import assign_pullback, pullback_kmeans


@pytest.fixture(scope="module")
def latents():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(600, 3)) + 4.0 * rng.integers(0, 2, (600, 3))).astype(np.float32)


def brute_force(vectors, transform, latents):
    gaps = (latents[:, None, :].astype(np.float64) - vectors[None]) @ transform
    return np.argmin(np.sum(gaps**2, axis=2), axis=1)


def squared_error(baseline, latents):
    gaps = (latents - baseline.vectors[baselines.encode(baseline, latents)]) @ baseline.transform
    return np.sum(gaps**2)


def test_kmeans_is_that_of_scikit_learn(latents):
    ours = baselines.kmeans(latents, 12, seed=3)
    theirs = KMeans(12, n_init=3, random_state=3, max_iter=100).fit(latents)
    np.testing.assert_allclose(squared_error(ours, latents), theirs.inertia_, rtol=1e-4)
    np.testing.assert_array_equal(baselines.encode(ours, latents), theirs.predict(latents))


def test_grids_are_encoded_cell_by_cell(latents):
    baseline = baselines.kmeans(latents, 12, seed=0)
    grids = latents.reshape(150, 2, 2, 3)
    np.testing.assert_array_equal(baselines.encode(baseline, grids).ravel(), baselines.encode(baseline, latents))


def test_mahalanobis_cells_are_those_of_its_metric(latents):
    factor = np.random.default_rng(1).normal(size=(3, 3))
    metric = factor @ factor.T
    baseline = baselines.mahalanobis(latents, metric, 10, seed=0)
    np.testing.assert_allclose(baseline.transform @ baseline.transform.T, metric, rtol=1e-5, atol=1e-5)
    gaps = latents[:, None, :] - baseline.vectors[None]
    expected = np.argmin(np.einsum("nki,ij,nkj->nk", gaps, metric, gaps), axis=1)
    np.testing.assert_array_equal(baselines.encode(baseline, latents), expected)
    plain = baselines.mahalanobis(latents, np.eye(3), 10, seed=0)
    np.testing.assert_allclose(
        squared_error(plain, latents), squared_error(baselines.kmeans(latents, 10, seed=0), latents), rtol=1e-4
    )


def test_kmedoids_is_a_fixed_point_of_exact_alternation(latents):
    small = latents[:120]
    baseline = baselines.kmedoids(small, 7, seed=0)
    codes = brute_force(baseline.vectors, baseline.transform, small)
    np.testing.assert_array_equal(baselines.encode(baseline, small), codes)
    for code, vector in enumerate(baseline.vectors):
        members = small[codes == code]
        costs = np.sum((members[:, None] - members[None]) ** 2, axis=(1, 2))
        np.testing.assert_array_equal(members[np.argmin(costs)], vector)


def test_decoded_kmeans_of_an_orthogonal_decoder_is_kmeans(latents):
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 3)))[0].astype(np.float32)
    _, means, codes = baselines.decoded_kmeans(lambda z: rotation @ z, latents, 6, seed=0)
    centres = means @ rotation
    expected = KMeans(6, n_init=1, random_state=0, max_iter=100).fit(latents @ rotation.T).inertia_
    np.testing.assert_allclose(np.sum((latents - centres[codes]) ** 2), expected, rtol=1e-3)


def test_codes_of_images_are_those_whose_vectors_decode_nearest():
    rng = np.random.default_rng(3)
    vectors, images = rng.normal(size=(7, 2)), rng.uniform(size=(50, 3, 2))
    squares = np.stack([vectors[:, 0] ** 2, vectors[:, 1] ** 2, vectors.prod(axis=1)] * 2, axis=1).reshape(7, 3, 2)
    expected = np.argmin(np.sum((images[:, None] - squares[None]) ** 2, axis=(2, 3)), axis=1)

    def decode(z):
        return jnp.stack([z[0] ** 2, z[1] ** 2, z[0] * z[1]] * 2).reshape(3, 2)

    codes = baselines.encode_decoded(decode, vectors.astype(np.float32), images.astype(np.float32))
    np.testing.assert_array_equal(codes, expected)
    assert len(np.unique(codes)) > 1
    with pytest.raises(ValueError, match=r"images \[n, 6\]"):
        baselines.encode_decoded(decode, vectors.astype(np.float32), images[:, :2].astype(np.float32))


def test_codes_that_cost_are_taken_where_they_pay():
    rng = np.random.default_rng(4)
    vectors, images = rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=(50, 5)).astype(np.float32)
    mix, costs = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32), rng.uniform(0.0, 3.0, size=7)
    decode_fn = lambda z: z @ mix  # noqa: E731
    errors = np.sum((images[:, None] - np.asarray(vectors @ mix)[None]) ** 2, axis=2)
    found = baselines.encode_decoded(decode_fn, vectors, images, costs=costs)
    np.testing.assert_array_equal(found, (errors + costs).argmin(axis=1))
    assert (found != errors.argmin(axis=1)).any()
    with pytest.raises(ValueError, match="expected costs"):
        baselines.encode_decoded(decode_fn, vectors, images, costs=-costs)


def test_gaussian_vectors_have_the_moments_of_the_latents(latents):
    drawn = baselines.gaussian(latents, 60_000, seed=0).vectors
    np.testing.assert_allclose(drawn.mean(axis=0), latents.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(latents.T), atol=0.15)


def test_scalar_codes_are_a_product_of_levels(latents):
    baseline = baselines.scalar(latents, (4, 2))
    codes = baselines.encode(baseline, latents)
    mean = latents.mean(axis=0)
    _, _, axes = np.linalg.svd(latents - mean, full_matrices=False)
    for axis, levels in zip(axes, (4, 2), strict=False):
        values = np.unique(np.round((baseline.vectors - mean) @ axis, 3))
        assert len(values) == levels
        along, chosen = (latents - mean) @ axis, ((baseline.vectors - mean) @ axis)[codes]
        nearest = values[np.argmin(np.abs(along[:, None] - values[None]), axis=1)]
        np.testing.assert_allclose(chosen, nearest, atol=2e-3)


@pytest.mark.parametrize(
    ("codes", "dimensions", "expected"), [(256, 8, (4, 4, 4, 4)), (512, 3, (8, 8, 8)), (32, 8, (4, 4, 2))]
)
def test_scalar_levels_multiply_to_the_number_of_codes(codes, dimensions, expected):
    assert baselines.scalar_levels(codes, dimensions) == expected
    assert np.prod(expected) == codes


def test_bad_input_is_refused(latents):
    broken = latents.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="finite latents"):
        baselines.kmeans(broken, 4, seed=0)
    with pytest.raises(ValueError, match="1 <= num_clusters <= 600"):
        baselines.kmeans(latents, 601, seed=0)
    with pytest.raises(ValueError, match="power of two"):
        baselines.scalar_levels(100, 8)
    with pytest.raises(ValueError, match="positive semi-definite"):
        baselines.mahalanobis(latents, -np.eye(3), 4, seed=0)
    with pytest.raises(ValueError, match=r"expected latents \[n, 3\]"):
        baselines.encode(baselines.kmeans(latents, 4, seed=0), latents[:, :2])


def metrics_of(rng, n, d):
    factors = rng.normal(size=(n, d, d)).astype(np.float32)
    return factors @ np.swapaxes(factors, 1, 2)


def test_pullback_assignment_equals_brute_force(latents):
    rng = np.random.default_rng(4)
    metrics, centres = metrics_of(rng, 600, 3), latents[:40] + 0.1
    labels, squared = assign_pullback(latents, metrics, centres)
    gaps = centres[None].astype(np.float64) - latents[:, None]
    table = np.einsum("nki,nij,nkj->nk", gaps, metrics.astype(np.float64), gaps)
    np.testing.assert_allclose(table[np.arange(600), labels], table.min(axis=1), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(squared, table[np.arange(600), labels], rtol=1e-3, atol=1e-3)


def test_pullback_kmeans_with_one_metric_is_lloyds(latents):
    start = latents[::60].copy()
    found = pullback_kmeans(latents, np.tile(np.eye(3, dtype=np.float32), (600, 1, 1)), start, tolerance=0.0)
    theirs = KMeans(10, init=start, n_init=1, tol=0.0, max_iter=300, algorithm="lloyd").fit(latents)
    np.testing.assert_allclose(found.cost, theirs.inertia_ / 600, rtol=1e-3)


def test_pullback_kmeans_of_a_linear_decoder_is_kmeans_of_its_images(latents):
    matrix = np.random.default_rng(5).normal(size=(6, 3)).astype(np.float32)
    start = latents[::75].copy()
    found = pullback_kmeans(latents, np.tile(matrix.T @ matrix, (600, 1, 1)), start, tolerance=0.0, max_iterations=100)
    theirs = KMeans(8, init=start @ matrix.T, n_init=1, tol=0.0, max_iter=300).fit(latents @ matrix.T)
    np.testing.assert_allclose(found.cost, theirs.inertia_ / 600, rtol=1e-2)


def test_pullback_kmeans_falls_and_ends_where_no_centre_gains(latents):
    rng = np.random.default_rng(6)
    metrics = metrics_of(rng, 600, 3)
    found = pullback_kmeans(latents, metrics, latents[:15], tolerance=1e-6, max_iterations=200)
    assert found.converged
    assert (np.diff(found.history) <= 0.0).all()
    for code in range(15):
        cell = found.labels == code
        gradient = np.einsum("nij,nj->i", metrics[cell], found.centres[code] - latents[cell])
        assert np.abs(gradient).max() < 1e-2 * np.einsum("nii->", metrics[cell])


def test_a_direction_that_nothing_measures_does_not_move(latents):
    flat = np.tile(np.diag([1.0, 1.0, 0.0]).astype(np.float32), (600, 1, 1))
    start = latents[:5]
    found = pullback_kmeans(latents, flat, start)
    np.testing.assert_allclose(found.centres[:, 2], start[:, 2], atol=1e-5)


def test_pullback_input_is_refused(latents):
    broken = np.tile(np.eye(3, dtype=np.float32), (600, 1, 1))
    broken[0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="finite"):
        pullback_kmeans(latents, broken, latents[:3])
