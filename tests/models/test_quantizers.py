"""Quantizers against brute force, scikit-learn, finite sums and the rotation written as a matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from geovq_jax.models import quantizers
from geovq_jax.models.quantizers import Codebook


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_nearest_is_brute_force():
    points, vectors = _normal(50, 3), _normal(7, 3, seed=1)
    distances = np.linalg.norm(points[:, None] - vectors[None], axis=-1)
    np.testing.assert_array_equal(
        quantizers.nearest(jnp.asarray(points), jnp.asarray(vectors)), distances.argmin(axis=1)
    )


def test_kmeans_codebook_is_as_good_as_scikit_learn():
    points, _ = make_blobs(400, 3, centers=12, cluster_std=0.3, random_state=0)
    codebook = jax.jit(quantizers.kmeans_codebook, static_argnums=2)(
        jax.random.key(0), jnp.asarray(points, jnp.float32), 12
    )
    inertia = np.square(points[:, None] - np.asarray(codebook.vectors)[None]).sum(axis=-1).min(axis=1).sum()
    reference = KMeans(12, n_init=10, random_state=0).fit(points).inertia_
    assert inertia < 1.3 * reference
    np.testing.assert_allclose(codebook.sums, codebook.vectors * codebook.counts[:, None])


def test_kmeans_codebook_needs_enough_latents():
    with pytest.raises(ValueError, match="expected at least 9 latents to seed as many codes, got 8"):
        quantizers.kmeans_codebook(jax.random.key(0), jnp.zeros((8, 2)), 9)


def test_moving_averages_by_hand():
    codebook = Codebook(jnp.array([[1.0], [5.0]]), jnp.array([1.0, 0.5]), jnp.array([[1.0], [2.5]]))
    latents, codes = jnp.array([[2.0], [3.0], [4.0], [7.0]]), jnp.array([0, 0, 0, 1])
    moved = quantizers.moved_codebook(jax.random.key(0), codebook, latents, codes, decay=0.8, reseed=0.0)
    # An even share is 2 latents, so a batch counts (3, 1) / 2.
    np.testing.assert_allclose(moved.counts, [0.8 + 0.2 * 1.5, 0.4 + 0.2 * 0.5], rtol=1e-6)
    np.testing.assert_allclose(moved.sums[:, 0], [0.8 + 0.2 * 4.5, 2.0 + 0.2 * 3.5], rtol=1e-6)
    np.testing.assert_allclose(moved.vectors[:, 0], [1.7 / 1.1, 2.7 / 0.5], rtol=1e-6)


def test_moving_averages_converge_to_the_means_of_the_codes():
    latents, codes = jnp.asarray(_normal(60, 2)), jnp.asarray(np.arange(60) % 3)
    codebook = Codebook(jnp.zeros((3, 2)), jnp.ones(3), jnp.zeros((3, 2)))
    move = jax.jit(lambda c: quantizers.moved_codebook(jax.random.key(0), c, latents, codes, decay=0.5, reseed=0.0))
    for _ in range(30):
        codebook = move(codebook)
    np.testing.assert_allclose(codebook.vectors, np.asarray(latents).reshape(20, 3, 2).mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(codebook.counts, 1.0, atol=1e-6)


def test_dead_codes_and_no_others_move_to_latents():
    vectors = jnp.array([[0.0], [100.0], [1.0], [200.0]])
    codebook = Codebook(vectors, jnp.array([1.0, 0.05, 1.0, 0.05]), vectors * jnp.array([[1.0], [0.05], [1.0], [0.05]]))
    latents = jnp.array([[0.0], [1.0], [0.0], [1.0], [0.0], [1.0]])
    codes = jnp.array([0, 2, 0, 2, 0, 2])
    moved = quantizers.moved_codebook(jax.random.key(0), codebook, latents, codes, decay=0.9, reseed=0.1)
    np.testing.assert_allclose(moved.vectors[jnp.array([0, 2]), 0], [0.0, 1.0], atol=1e-6)
    assert set(np.asarray(moved.vectors)[[1, 3], 0]) <= {0.0, 1.0}
    np.testing.assert_allclose(moved.counts[jnp.array([1, 3])], 1.0)


def test_a_code_out_of_use_keeps_its_vector_without_reseeding():
    codebook = Codebook(jnp.array([[0.0], [9.0]]), jnp.ones(2), jnp.array([[0.0], [9.0]]))
    for _ in range(3):
        codebook = quantizers.moved_codebook(
            jax.random.key(0), codebook, jnp.zeros((4, 1)), jnp.zeros(4, jnp.int32), decay=0.5, reseed=0.0
        )
    np.testing.assert_allclose(codebook.vectors, [[0.0], [9.0]])


@pytest.mark.parametrize("gradient", quantizers.GRADIENTS)
def test_the_value_passed_on_is_the_quantized_one(gradient):
    z, q = jnp.asarray(_normal(2, 5, 3)), jnp.asarray(_normal(2, 5, 3, seed=1))
    z = z.at[0, 0].set(-2.0 * q[0, 0])  # opposite directions
    np.testing.assert_allclose(quantizers.pass_gradient(z, q, gradient), q, rtol=1e-4, atol=1e-5)


def test_straight_through_hands_the_gradient_on_unchanged():
    z, q, w = (jnp.asarray(_normal(4, 3, seed=seed)) for seed in range(3))
    gradient = jax.grad(lambda z: jnp.vdot(quantizers.pass_gradient(z, q, "straight_through"), w))(z)
    np.testing.assert_allclose(gradient, w)


def test_the_rotation_turns_the_gradient_with_the_latent():
    """The Jacobian is |q| / |z| times an orthogonal matrix that takes z to q and leaves what is normal to both."""
    with jax.enable_x64(True):
        z, q = (jnp.asarray(_normal(3, seed=seed), jnp.float64) for seed in (0, 1))
        jacobian = np.asarray(jax.jacrev(lambda z: quantizers.pass_gradient(z, q, "rotation"))(z))
        z, q = np.asarray(z), np.asarray(q)
    rotation = jacobian * np.linalg.norm(z) / np.linalg.norm(q)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0)
    np.testing.assert_allclose(jacobian @ z, q, atol=1e-12)
    normal = np.cross(z, q)
    np.testing.assert_allclose(rotation @ normal, normal, atol=1e-12)


def test_the_rotation_is_finite_at_zero():
    gradient = jax.grad(lambda z: jnp.sum(quantizers.pass_gradient(z, jnp.ones((1, 2)), "rotation")))(jnp.zeros((1, 2)))
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize("levels", [(2,), (3, 4), (5, 2, 3)])
def test_every_fsq_code_stands_for_its_vector_and_is_reached(levels):
    vectors = quantizers.fsq_vectors(levels)
    assert vectors.shape == (quantizers.fsq_size(levels), len(levels))
    for dimension, size in enumerate(levels):
        values = np.linspace(-1, 1, size)
        np.testing.assert_allclose(np.unique(np.asarray(vectors)[:, dimension]), values, atol=1e-6)
    # Latents whose tanh is well inside each level's interval come back as that level.
    quantized, codes = quantizers.fsq(jnp.arctanh(0.999 * vectors), levels)
    np.testing.assert_allclose(quantized, vectors, atol=1e-6)
    np.testing.assert_array_equal(codes, np.arange(len(vectors)))


def test_fsq_rounds_to_the_nearest_level_with_the_gradient_of_tanh():
    z, levels = jnp.asarray(_normal(40, 2)), (4, 5)
    quantized, _ = quantizers.fsq(z, levels)
    bounded = np.tanh(np.asarray(z))
    for dimension, size in enumerate(levels):
        grid = np.linspace(-1, 1, size)
        expected = grid[np.abs(bounded[:, dimension, None] - grid).argmin(axis=1)]
        np.testing.assert_allclose(np.asarray(quantized)[:, dimension], expected, atol=1e-6)
    gradient = jax.grad(lambda z: jnp.sum(quantizers.fsq(z, levels)[0]))(z)
    np.testing.assert_allclose(gradient, 1 - bounded**2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("counts", "by_hand"), [([3.0, 3.0, 3.0], 3.0), ([5.0, 0.0], 1.0), ([1.0, 1.0, 2.0], 2**1.5)])
def test_perplexity_by_hand(counts, by_hand):
    np.testing.assert_allclose(quantizers.perplexity(jnp.array(counts)), by_hand, rtol=1e-5)
