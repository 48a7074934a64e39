"""Coresets: a weighted sample of points on which every clustering costs about as much as on all of them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Float64, Int64

from geovq_jax.geometry.checks import CHECK_ENCODER, check_count, check_finite, check_form, check_ids
from geovq_jax.geometry.graphs.knn import Neighbours, knn

_CHUNK = 2**18


class Coreset(NamedTuple):
    """Rows of the points, ascending and distinct, and how many points each stands for (in the mean n in all)."""

    nodes: Int64[np.ndarray, " m"]
    weights: Float64[np.ndarray, " m"]


def coreset(points: Float[Array | np.ndarray, "n d"], size: int, *, seed: int) -> Coreset:
    """Draws a lightweight coreset: points by their squared distance to the mean, weighted by the inverse probability.

    Each of `size` independent draws takes point x with probability q(x), and the points drawn weigh

        q(x) = 1/(2 n) + |x - mean|^2 / (2 sum_y |y - mean|^2),    w(x) = (times drawn) / (size q(x)),

    so that sum w f over the coreset is an unbiased estimate of sum f over all points for every f, such as the squared
    distance to the nearest of some medoids; its standard error falls with the square root of `size`. Far points, which
    a uniform sample may miss, are drawn more often and weigh less.

    Args:
        points: n points, or a memory-mapped array of them.
        size: number of draws, at most n. A point that is drawn twice is one node of twice the weight. With n, all
            points, each of weight 1. Medoids of 100 draws per cluster cost 4 % more than those of all points on a 3-d
            manifold, mostly since they must be drawn points; `with_candidates` lifts that (docs/clustering.md).
        seed: of the draws.

    Returns:
        Coreset, for `kmedoids(knn_graph(points[nodes], k), K, node_weights=weights)`.

    Raises:
        ValueError: for a size out of range, or points that are not finite or of another form.

    Reference:
        Bachem, Lucic and Krause, Scalable k-means clustering via lightweight coresets (2018), algorithm 1.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(10_000, 2))
        >>> nodes, weights = coreset(points, 500, seed=0)
        >>> bool(abs((points[nodes] ** 2).sum(axis=1) @ weights / (points**2).sum() - 1) < 0.1)
        True
    """
    check_form("points", points, "n d")
    check_count("size", size, 1, len(points), "draw at most as many as there are points")
    check_count("seed", seed, 0)
    n = len(points)
    check_finite("points", points, CHECK_ENCODER)
    if size == n:
        return Coreset(np.arange(n), np.ones(n))
    parts = [slice(start, start + _CHUNK) for start in range(0, n, _CHUNK)]
    mean = sum(np.asarray(points[part]).sum(axis=0, dtype=np.float64) for part in parts) / n
    squares = np.concatenate([((np.asarray(points[part]) - mean) ** 2).sum(axis=1) for part in parts])
    total = squares.sum()
    shares = squares / total if total > 0 else 1 / n
    probability = 0.5 / n + 0.5 * shares + np.zeros(n)
    drawn = np.random.default_rng(seed).choice(n, size, p=probability)
    nodes, times = np.unique(drawn, return_counts=True)
    return Coreset(nodes, times / (size * probability[nodes]))


def with_candidates(
    points: Float[Array | np.ndarray, "n d"], found: Coreset, medoids: Int64[np.ndarray, " K"], count: int
) -> Coreset:
    """Adds the points nearest to each medoid to a coreset with weight 0, as candidates for better medoids.

    The best medoid of m nodes lies at a squared distance of order m^(-2/d) from the best point of all, on a set of d
    dimensions; the weights of a coreset cost only 1/m. Nodes of weight 0 may be medoids and cost nothing.

    Args:
        points: the points of the coreset.
        found: the coreset.
        medoids: rows of the points, such as `found.nodes[kmedoids(...).medoids]`.
        count: points per medoid, by Euclidean distance; those of the coreset are not added again.

    Returns:
        Coreset, for `kmedoids(knn_graph(points[nodes], k), K, init=np.searchsorted(nodes, medoids), ...)`.

    Raises:
        ValueError: for a count or medoids out of range, or as `knn`.

    Example:
        >>> points = np.arange(8.0)[:, None]
        >>> nodes, weights = with_candidates(points, Coreset(np.array([1, 6]), np.array([4.0, 4.0])), np.array([1]), 3)
        >>> nodes.tolist(), weights.tolist()
        ([0, 1, 2, 6], [0.0, 4.0, 0.0, 4.0])
    """
    check_form("points", points, "n d")
    rows = check_ids("medoids", medoids, len(points))
    check_count("count", count, 1, len(points), "ask for at most as many as there are points")
    queries = np.asarray(points[rows])
    best: Neighbours | None = None
    for start in range(0, len(points), _CHUNK):
        part = points[start : start + _CHUNK]
        found_here = knn(part, min(count, len(part)), queries=queries)
        near, distances = start + found_here.indices.astype(np.int64), found_here.distances
        if best is not None:
            near, distances = np.hstack([best.indices, near]), np.hstack([best.distances, distances])
        kept = np.argsort(distances, axis=1, kind="stable")[:, :count]
        best = Neighbours(np.take_along_axis(near, kept, axis=1), np.take_along_axis(distances, kept, axis=1))
    assert best is not None
    nodes = np.union1d(found.nodes, best.indices)
    weights = np.zeros(len(nodes))
    weights[np.searchsorted(nodes, found.nodes)] = found.weights
    return Coreset(nodes, weights)
