"""Clustering in continuous geodesic distances: K-medoids, and K-means with Frechet means.

The graph is used only to propose the first medoids; costs and labels come from geodesics, see `nearest_geodesic`.
Equation numbers refer to docs/geometry.md.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from geovq_jax.geometry.batching import Progress
from geovq_jax.geometry.checks import check_count, check_ids, check_latents, check_number
from geovq_jax.geometry.clustering.kmedoids import kmedoids
from geovq_jax.geometry.distances import decode_flat, solve_pairs, solve_refined
from geovq_jax.geometry.edges import edge_lengths
from geovq_jax.geometry.graphs.construction import knn_graph
from geovq_jax.geometry.graphs.graph import Graph
from geovq_jax.geometry.metric import DecodeFn
from geovq_jax.geometry.nearest import geodesics_to_nearest

Points = Float[Array | np.ndarray, "n d"]

NEIGHBOURS = 60  # of the graph that proposes the first medoids
SAMPLE = 256  # edges whose geodesics calibrate the interpolation between the bounds
TOLERANCE = 5e-2  # of distances, and of the differences between them that decide labels
CANDIDATES = 3  # members of a cluster that may become its medoid in one round


Stopped = Literal["converged", "max_iterations"]


class GeodesicClusters(NamedTuple):
    """Centres of n latents in geodesic distance.

    Attributes:
        centres: K latents, [K, d].
        medoids: rows of the latents that are the centres; -1 for Frechet means.
        labels: the nearest centre of each latent; of centres whose distances differ by less than 5 %, any.
        distances: geodesic distance to it.
        cost: mean squared distance.
        history: cost of the first centres and after each round; never rises.
        stopped: why it ended: "converged" (a round lowered the cost by no more than the tolerance) or "max_iterations".
    """

    centres: Float[np.ndarray, "K d"]
    medoids: Int[np.ndarray, " K"]
    labels: Int[np.ndarray, " n"]
    distances: Float[np.ndarray, " n"]
    cost: float
    history: Float[np.ndarray, " t"]
    stopped: Stopped


def geodesic_kmeans(
    decode_fn: DecodeFn,
    z: Points,
    num_clusters: int,
    *,
    seed: int,
    medoids: Int[np.ndarray, " K"] | None = None,
    max_iterations: int = 20,
    tolerance: float = 5e-3,
    progress: Progress | None = None,
) -> GeodesicClusters:
    """K-means in geodesic distance: centres move towards Frechet means, equation (38).

    Lloyd's iteration: every centre moves by the mean of the logarithms of its latents, and every latent goes to the
    nearest centre. Steps are halved when the cost would rise.

    Args:
        decode_fn: map of one latent [d] to x.
        z: latents, [n, d].
        num_clusters: K.
        seed: of the first medoids.
        medoids: rows of `z` that are the first centres; by default K-medoids of a graph of decoded neighbours.
        max_iterations: most rounds.
        tolerance: relative decrease of the cost that counts as none.
        progress: called with (rounds done, rounds at most).

    Returns:
        GeodesicClusters.

    Raises:
        ValueError: as `kmedoids` and `nearest_geodesic`.

    Example:
        >>> z = np.array([[0.0], [0.1], [0.2], [2.0], [2.1], [2.2]], np.float32)
        >>> found = geodesic_kmeans(lambda z: 3.0 * z, z, 2, seed=0)
        >>> sorted(np.asarray(found.centres.ravel(), float).round(2).tolist())
        [0.1, 2.1]
    """
    medoids = _first_medoids(decode_fn, z, num_clusters, seed, medoids, max_iterations, tolerance)
    z = np.asarray(z)
    centres, step = z[medoids], 1.0
    found = _assigned(decode_fn, z, centres)
    history = [found.cost]
    stopped: Stopped = "max_iterations"
    for iteration in range(max_iterations):
        direction = _mean_velocities(found, num_clusters)
        while step >= 1e-2:
            candidate = (centres + step * direction).astype(z.dtype)
            ahead = _assigned(decode_fn, z, candidate)
            if ahead.cost < history[-1]:
                break
            step *= 0.5
        else:
            stopped = "converged"
            break
        centres, found = candidate, ahead
        history.append(found.cost)
        if progress is not None:
            progress(iteration + 1, max_iterations)
        if history[-2] - history[-1] <= tolerance * history[-2]:
            stopped = "converged"
            break
    labels, distances, cost, _ = found
    none = np.full(num_clusters, -1)
    return GeodesicClusters(centres, none, labels, distances, cost, np.array(history), stopped)


def geodesic_kmedoids(
    decode_fn: DecodeFn,
    z: Points,
    num_clusters: int,
    *,
    seed: int,
    medoids: Int[np.ndarray, " K"] | None = None,
    max_iterations: int = 20,
    tolerance: float = 5e-3,
    progress: Progress | None = None,
) -> GeodesicClusters:
    """K-medoids in geodesic distance: centres are latents of the data.

    In every round the members of a cluster nearest to its Frechet mean are tried as its medoid, by the exact sum of
    squared distances, and every latent goes to the nearest medoid.

    Args:
        decode_fn, z, num_clusters, seed, medoids, max_iterations, tolerance, progress: as in `geodesic_kmeans`.

    Returns:
        GeodesicClusters.

    Raises:
        ValueError: as `kmedoids` and `nearest_geodesic`.

    Example:
        >>> z = np.array([[0.0], [0.1], [0.2], [2.0], [2.1], [2.2]], np.float32)
        >>> sorted(geodesic_kmedoids(lambda z: 3.0 * z, z, 2, seed=0).medoids.tolist())
        [1, 4]
    """
    medoids = _first_medoids(decode_fn, z, num_clusters, seed, medoids, max_iterations, tolerance)
    z = np.asarray(z)
    found = _assigned(decode_fn, z, z[medoids])
    history = [found.cost]
    stopped: Stopped = "max_iterations"
    for iteration in range(max_iterations):
        moved = _better_medoids(decode_fn, z, medoids, found)
        ahead = _assigned(decode_fn, z, z[moved])
        if progress is not None:
            progress(iteration + 1, max_iterations)
        if ahead.cost < history[-1]:
            medoids, found = moved, ahead
            history.append(ahead.cost)
        if ahead is not found or history[-2] - history[-1] <= tolerance * history[-2]:
            stopped = "converged"
            break
    labels, distances, cost, _ = found
    return GeodesicClusters(z[medoids], medoids, labels, distances, cost, np.array(history), stopped)


class _Assigned(NamedTuple):
    """The nearest centre of each of n latents; `velocity` is that of the geodesic at the centre."""

    labels: np.ndarray
    distances: np.ndarray
    cost: float
    velocity: np.ndarray


def _assigned(decode_fn: DecodeFn, z: np.ndarray, centres: np.ndarray) -> _Assigned:
    labels, found = geodesics_to_nearest(decode_fn, z, centres, tolerance=TOLERANCE)
    return _Assigned(labels, found.length, float(np.mean(found.length**2)), found.velocity)


def _mean_velocities(found: _Assigned, num_clusters: int) -> np.ndarray:
    """Mean of the logarithms of each centre's latents, [K, d]; 0 for a centre without any."""
    sums, counts = np.zeros((num_clusters, found.velocity.shape[1])), np.bincount(found.labels, minlength=num_clusters)
    np.add.at(sums, found.labels, found.velocity)
    return sums / np.maximum(counts, 1)[:, None]


def _first_medoids(
    decode_fn: DecodeFn,
    z: Points,
    num_clusters: int,
    seed: int,
    medoids: np.ndarray | None,
    max_iterations: int,
    tolerance: float,
) -> np.ndarray:
    check_latents(decode_fn, z, "n d")
    check_count("num_clusters", num_clusters, 1, len(z), "at most one cluster per latent")
    check_count("max_iterations", max_iterations, 0)
    check_number("tolerance", tolerance)
    if medoids is not None:
        return check_ids("medoids", medoids, len(z), str(num_clusters))
    if num_clusters == len(z):
        return np.arange(len(z))
    return np.asarray(kmedoids(_proposal_graph(decode_fn, np.asarray(z), seed), num_clusters, seed=seed).medoids)


def _proposal_graph(decode_fn: DecodeFn, z: np.ndarray, seed: int) -> Graph:
    """Graph of decoded neighbours with lengths interpolated between their bounds, equation (37)."""
    images = decode_flat(decode_fn, z)

    def lengths(edges: np.ndarray) -> np.ndarray:
        a, b = edges.T
        below = np.linalg.norm(images[a] - images[b], axis=1).astype(np.float64)
        above = np.asarray(edge_lengths(decode_fn, z, edges, rule="gauss", order=2), np.float64)
        logarithm = np.log(np.divide(above, below, out=np.ones_like(above), where=(below > 0) & (above > below)))
        tried = np.random.default_rng(seed).choice(len(edges), min(SAMPLE, len(edges)), replace=False)
        found = solve_pairs(decode_fn, z[a[tried]], z[b[tried]]).length
        excess = np.log(np.divide(found, below[tried], out=np.ones_like(found), where=(below[tried] > 0) & (found > 0)))
        total = float(np.sum(logarithm[tried] ** 2))
        share = float(np.sum(excess * logarithm[tried])) / total if total > 0 else 0.0
        return below * np.exp(np.clip(share, 0.0, 1.0) * logarithm)

    return knn_graph(images, min(NEIGHBOURS, len(images) - 1), length_fn=lengths)


def _better_medoids(decode_fn: DecodeFn, z: np.ndarray, medoids: np.ndarray, found: _Assigned) -> np.ndarray:
    """The best of a few members of each cluster, by the sum of squared distances to its members."""
    labels, counts = found.labels, np.bincount(found.labels, minlength=len(medoids))
    means = (z[medoids] + _mean_velocities(found, len(medoids))).astype(z.dtype)
    to_mean = np.linalg.norm(decode_flat(decode_fn, z) - decode_flat(decode_fn, means)[labels], axis=1)
    best = medoids.copy()
    least = np.bincount(labels, weights=found.distances**2, minlength=len(medoids))
    order = np.lexsort((to_mean, labels))
    starts = np.searchsorted(labels[order], np.arange(len(medoids)))
    for rank in range(CANDIDATES):
        places = starts + rank
        exists = rank < counts
        candidates = np.where(exists, order[np.minimum(places, len(order) - 1)], medoids)
        asked = np.flatnonzero((candidates != medoids)[labels])
        if not len(asked):
            continue
        ends = z[candidates[labels[asked]]], z[asked]
        squares = solve_refined(decode_fn, *ends, tolerance=TOLERANCE).length ** 2
        total = np.bincount(labels[asked], weights=squares, minlength=len(medoids))
        better = (candidates != medoids) & (total < least)
        best[better], least[better] = candidates[better], total[better]
    return best
