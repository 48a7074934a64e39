"""Refinement of centres: closed forms of linear decoders, scipy's least squares, scikit-learn's K-means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares
from sklearn.cluster import KMeans

from geovq_jax.quantization.refinement import refine_cell_centres, refine_centres


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def latents_and_labels(n: int, d: int, num_codes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, d)), rng.integers(0, num_codes, n)


def bend(z):
    """An invertible map of the plane: a shear of a monotone map."""
    u = z + 0.6 * jnp.sin(z)
    return jnp.stack([u[0] + 0.5 * u[1], u[1] - 0.3 * u[0]])


def test_under_a_linear_decoder_centres_are_cell_means():
    z, labels = latents_and_labels(60, 3, 5)
    matrix = jnp.asarray(np.random.default_rng(1).standard_normal((8, 3)))
    start = np.zeros((6, 3))
    found = refine_centres(lambda v: matrix @ v, start, z, labels, assignment="given", tolerance=1e-12)
    means = np.stack([z[labels == k].mean(axis=0) for k in range(5)])
    np.testing.assert_allclose(found.centres[:5], means, atol=1e-6)
    np.testing.assert_array_equal(found.centres[5], start[5])
    np.testing.assert_array_equal(found.labels, labels)
    expected = np.mean(np.sum(((z - means[labels]) @ np.asarray(matrix).T) ** 2, axis=1))
    assert found.cost == pytest.approx(expected, rel=1e-9)
    assert found.converged


def test_given_cells_reach_the_least_squares_solution_of_scipy():
    z, labels = latents_and_labels(80, 2, 3)
    mix = jnp.asarray(np.random.default_rng(2).standard_normal((2, 6)))

    def decode(v):
        return jnp.tanh(v @ mix).reshape(2, 3)

    start = np.stack([z[labels == k][0] for k in range(3)])
    found = refine_centres(decode, start, z, labels, assignment="given", tolerance=1e-10, max_iterations=100)
    images = np.tanh(z @ np.asarray(mix))
    best = 0.0
    for k in range(3):
        mean = images[labels == k].mean(axis=0)
        centre = least_squares(lambda c, m=mean: np.tanh(c @ np.asarray(mix)) - m, start[k]).x
        best += np.sum((images[labels == k] - np.tanh(centre @ np.asarray(mix))) ** 2)
    assert found.cost == pytest.approx(best / len(z), rel=1e-5)
    assert (np.diff(found.history) <= 0).all()


def test_decoded_assignment_is_kmeans_in_decoded_space():
    """Where every point of decoded space has a latent, both descend to the same centres from the same start."""
    z, _ = latents_and_labels(300, 2, 1)
    images = np.asarray(jax.vmap(bend)(z))
    start = z[:7]
    lloyd = KMeans(7, init=images[:7], n_init=1, tol=0.0, max_iter=300, algorithm="lloyd").fit(images)
    labels = np.argmin(((images[:, None] - images[None, :7]) ** 2).sum(-1), axis=1)
    found = refine_centres(bend, start, z, labels, tolerance=1e-9, max_iterations=300)
    assert found.cost == pytest.approx(lloyd.inertia_ / 300, rel=1e-3)
    nearest = np.argmin(((images[:, None] - np.asarray(jax.vmap(bend)(found.centres))[None]) ** 2).sum(-1), axis=1)
    np.testing.assert_array_equal(found.labels, nearest)


def test_damping_holds_where_an_undamped_step_overshoots():
    """On a curve that saturates, the plain Gauss-Newton step from the flat part lands far outside and costs more."""

    def decode(v):
        return jnp.tanh(2.0 * v)

    z, labels = np.array([[-0.2], [0.1], [0.2]]), np.zeros(3, np.int32)
    start = np.array([[1.5]])
    mean = np.tanh(2.0 * z).mean()
    slope = 2.0 * (1.0 - np.tanh(3.0) ** 2)
    plain = start + (mean - np.tanh(3.0)) / slope
    cost = lambda c: np.mean((np.tanh(2.0 * z) - np.tanh(2.0 * c)) ** 2)  # noqa: E731
    assert cost(plain) > cost(start)
    found = refine_centres(decode, start, z, labels, assignment="given", tolerance=1e-9)
    assert (np.diff(found.history) <= 0).all()
    np.testing.assert_allclose(np.tanh(2.0 * found.centres[0, 0]), mean, atol=1e-4)


def test_shared_cells_of_a_linear_decoder_solve_the_normal_equations():
    """The decoder mixes all cells of a grid, so the context matters and the centres' equations are coupled."""
    rng = np.random.default_rng(3)
    grids, labels = rng.standard_normal((11, 2, 2, 2)), rng.integers(0, 4, (11, 2, 2))
    matrix = rng.standard_normal((9, 8))

    def decode(grid):
        return jnp.asarray(matrix) @ grid.reshape(-1)

    design = np.zeros((11, 9, 4, 2))
    for i in range(11):
        for p, k in enumerate(labels[i].ravel()):
            design[i, :, k] += matrix.reshape(9, 4, 2)[:, p]
    targets = grids.reshape(11, 8) @ matrix.T
    solution, *_ = np.linalg.lstsq(design.reshape(99, 8), targets.ravel(), rcond=None)
    found = refine_cell_centres(
        decode, np.zeros((5, 2)), grids, labels, batch_size=4, tolerance=1e-14, max_iterations=40
    )
    np.testing.assert_allclose(found.centres[:4], solution.reshape(4, 2), atol=1e-5)
    np.testing.assert_array_equal(found.centres[4], 0.0)
    residual = design.reshape(99, 8) @ solution - targets.ravel()
    assert found.cost == pytest.approx(np.sum(residual**2) / 11, rel=1e-9)


def test_shared_cells_of_a_curved_decoder_never_cost_more():
    rng = np.random.default_rng(4)
    grids, labels = 2.0 * rng.standard_normal((20, 2, 2, 3)), rng.integers(0, 6, (20, 2, 2))
    mix = jnp.asarray(rng.standard_normal((12, 15)))

    def decode(grid):
        return jnp.sin(grid.reshape(-1) @ mix)

    start = np.stack([grids[labels == k][0] for k in range(6)])
    seen = []
    found = refine_cell_centres(
        decode, start, grids, labels, batch_size=8, max_iterations=8, progress=lambda a, b: seen.append((a, b))
    )
    assert (np.diff(found.history) <= 0).all()
    assert found.cost < 0.9 * found.history[0]
    images = np.sin(grids.reshape(20, 12) @ np.asarray(mix))
    coded = np.sin(found.centres[labels].reshape(20, 12) @ np.asarray(mix))
    assert found.cost == pytest.approx(np.mean(np.sum((images - coded) ** 2, axis=1)), rel=1e-9)
    assert seen[0] == (1, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.full(10, 3)}, r"\[0, 3\)"),
        ({"labels": np.full(10, -1)}, r"\[0, 3\)"),
        ({"assignment": "nearest"}, "assignment"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    arguments = {"centres": np.zeros((3, 2)), "latents": np.zeros((10, 2)), "labels": np.zeros(10, np.int32)} | change
    with pytest.raises((ValueError, TypeError), match=message):
        refine_centres(bend, **arguments)
