"""K-means in the linearised pull-back distance: every latent has its own metric.

The squared distance from a latent z to a centre c is (c - z)' G(z) (c - z), the decoded distance |f(c) - f(z)|^2 to
first order in c - z. It needs one metric per latent, no graph, and both halves of Lloyd's iteration are exact for it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from geovq_jax.geometry.batching import Progress, map_chunks
from geovq_jax.geometry.checks import CHECK_DECODER, CHECK_ENCODER, check_array, check_count, check_number

_PROXIMAL = 1e-4  # relative to the mean eigenvalue of a cluster's summed metric; unmeasured directions do not move


class PullbackKMeans(NamedTuple):
    """Centres, the nearest centre of each latent, and the history of the iteration.

    `cost` is the mean over latents of the squared linearised distance to their centre; `history` is the cost before the
    first and after each iteration and never rises; `converged` if the last one lowered it by no more than the
    tolerance.
    """

    centres: Float[np.ndarray, "K d"]
    labels: Int32[np.ndarray, " n"]
    cost: float
    history: Float[np.ndarray, " t"]
    converged: bool


def assign_pullback(
    latents: Float[np.ndarray, "n d"],
    metrics: Float[np.ndarray, "n d d"],
    centres: Float[np.ndarray, "K d"],
    *,
    batch_size: int = 4096,
) -> tuple[Int32[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Nearest centre of each latent in the metric at the latent.

    Args:
        latents, centres: z and c.
        metrics: G(z), symmetric and positive semi-definite.
        batch_size: latents at a time; memory is batch_size (d^2 + K) numbers.

    Returns:
        Labels and squared distances (c - z)' G(z) (c - z), in squared units of x.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.

    Example:
        >>> z, metrics = np.zeros((1, 2), np.float32), np.diag([1.0, 9.0]).astype(np.float32)[None]
        >>> labels, squares = assign_pullback(z, metrics, np.array([[2.0, 0.0], [0.0, 1.0]], np.float32))
        >>> labels.tolist(), squares.tolist()
        ([0], [4.0])
    """
    _check(latents, metrics, centres)
    return _assign(latents, metrics, centres, batch_size)


def _assign(
    latents: np.ndarray, metrics: np.ndarray, centres: np.ndarray, batch_size: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    # Distances do not change when both sides are shifted, and rounding falls with the size of the coordinates.
    origin = centres.mean(axis=0)
    shifted = centres - origin
    found = map_chunks(
        lambda z, metric: _nearest(z, metric, shifted), (latents - origin, metrics), batch_size=batch_size
    )
    return np.asarray(found[0]), np.asarray(found[1])


@jax.jit
def _nearest(z: Array, metric: Array, centres: Array) -> tuple[Array, Array]:
    # c'Gc is the inner product of G with cc', so all pairs are one matrix product.
    outer = jnp.einsum("ki,kj->kij", centres, centres).reshape(len(centres), -1)
    table = metric.reshape(len(z), -1) @ outer.T - 2.0 * jnp.einsum("nij,nj->ni", metric, z) @ centres.T
    labels = jnp.argmin(table, axis=1).astype(jnp.int32)
    gap = centres[labels] - z
    return labels, jnp.einsum("ni,nij,nj->n", gap, metric, gap)


def pullback_kmeans(
    latents: Float[np.ndarray, "n d"],
    metrics: Float[np.ndarray, "n d d"],
    centres: Float[np.ndarray, "K d"],
    *,
    max_iterations: int = 50,
    tolerance: float = 1e-3,
    progress: Progress | None = None,
) -> PullbackKMeans:
    """Lloyd's iteration for the cost mean_i min_k (c_k - z_i)' G_i (c_k - z_i), equation (2).

    A centre moves by the step s of (A + a I) s = sum_i G_i (z_i - c), A = sum_i G_i over its cluster: the minimum of
    the cluster's cost with a proximal term a |s|^2, so that the cost cannot rise and directions in which every metric
    of the cluster vanishes do not move.

    Args:
        latents, metrics: training latents and their pull-back metrics.
        centres: initial centres, such as the medoids of geodesic cells.
        max_iterations: limit of the iterations.
        tolerance: relative fall of the cost below which an iteration is the last.
        progress: called with (iterations done, max_iterations).

    Returns:
        PullbackKMeans; a centre without latents stays where it is.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.

    Example:
        >>> z = np.array([[0.0], [1.0], [9.0]], np.float32)
        >>> metrics = np.array([1.0, 3.0, 1.0], np.float32)[:, None, None]
        >>> found = pullback_kmeans(z, metrics, np.array([[0.0], [9.0]], np.float32))
        >>> found.centres.ravel().round(2).tolist(), found.labels.tolist()  # (1 * 0 + 3 * 1) / 4
        ([0.75, 9.0], [0, 0, 1])
    """
    _check(latents, metrics, centres)
    check_count("max_iterations", max_iterations, 0)
    check_number("tolerance", tolerance)
    c = np.array(centres, np.float64)
    labels, distances = _assign(latents, metrics, c.astype(latents.dtype))
    history, converged = [float(distances.mean(dtype=np.float64))], False
    for iteration in range(max_iterations):
        moved = _moved(c, latents, metrics, labels)
        new_labels, distances = _assign(latents, metrics, moved.astype(latents.dtype))
        cost = float(distances.mean(dtype=np.float64))
        converged = history[-1] - cost <= tolerance * history[-1]
        if cost < history[-1]:
            c, labels = moved, new_labels
        history.append(min(cost, history[-1]))
        if progress is not None:
            progress(iteration + 1, max_iterations)
        if converged:
            break
    return PullbackKMeans(c.astype(latents.dtype), labels, history[-1], np.asarray(history), converged)


def _moved(centres: np.ndarray, latents: np.ndarray, metrics: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Centres after a proximal step of each cell."""
    order = np.argsort(labels, kind="stable")
    cells, starts = np.unique(labels[order], return_index=True)
    pull = np.einsum("nij,nj->ni", metrics, latents - centres[labels])[order]
    totals = np.add.reduceat(metrics[order], starts, axis=0, dtype=np.float64)
    size = latents.shape[1]
    scale = np.trace(totals, axis1=1, axis2=2)[:, None, None] / size + np.finfo(np.float64).tiny
    steps = np.linalg.solve(
        totals + _PROXIMAL * scale * np.eye(size), np.add.reduceat(pull, starts, axis=0, dtype=np.float64)[..., None]
    )
    moved = centres.copy()
    moved[cells] += steps[..., 0]
    return moved


def _check(latents: np.ndarray, metrics: np.ndarray, centres: np.ndarray) -> None:
    check_array("latents", latents, "n d", CHECK_ENCODER)
    size = latents.shape[1]
    check_array("metrics", metrics, f"{len(latents)} {size} {size}", CHECK_DECODER)
    check_array("centres", centres, f"K {size}")
