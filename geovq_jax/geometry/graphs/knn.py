"""Exact and approximate nearest neighbours with true distances for every back end."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Array, Float, Int

from geovq_jax.geometry.checks import (
    CHECK_ENCODER,
    check_choice,
    check_count,
    check_finite,
    check_form,
    check_ids,
    check_lengths,
)
from geovq_jax.geometry.graphs.indexes import (
    INDEXES,
    Metric,
    Neighbours,
    Searched,
    fastest,
    index_of,
    search_exactly,
    settle,
)

Backend = Literal["auto", "jax", "kdtree", "faiss", "faiss_hnsw", "faiss_ivf"]


def knn(
    points: Float[Array | np.ndarray, "n d"] | Searched,
    k: int,
    *,
    queries: Float[Array | np.ndarray, "m d"] | None = None,
    rows: Int[np.ndarray, " m"] | None = None,
    backend: Backend = "auto",
    metric: Metric = "euclidean",
) -> Neighbours:
    """Finds the k nearest neighbours of every point, or of every query among the points.

    A search proposes candidates; their distances are then computed anew in float64, and points at equal distances are
    taken in the order of their indices. The back ends "jax", "kdtree" and "faiss" are exact and return the same bits:
    a row in which rounding could have hidden a nearer point is searched again. "faiss_hnsw" and "faiss_ivf" are
    approximate; `recall` measures by how much.

    Args:
        points: the searched points, or `prepare_search` of them for many calls.
        k: number of neighbours, at most n - 1 without queries and n with them.
        queries: if given, the neighbours of queries [m, d] among the points, excluding nothing. Otherwise the
            neighbours of each point among the others: its own row is excluded, its duplicates are not.
        rows: without queries, find only the neighbours of these points; the result does not depend on the others.
        backend: "auto" takes the faster of "kdtree" and "jax", by the time that a few of the rows take.
        metric: "euclidean", or "cosine" for 1 - cos(x, y).

    Returns:
        Neighbours with m rows (n without queries and rows).

    Raises:
        ValueError: for k or rows out of range, points that are not finite or of another form, zero vectors under
            "cosine", unknown names.

    Example:
        >>> found = knn(np.array([[0.0], [1.0], [3.0]]), 1)
        >>> found.indices.ravel().tolist(), found.distances.ravel().tolist()
        ([1, 0, 1], [1.0, 1.0, 2.0])
    """
    points = points if isinstance(points, Searched) else prepare_search(points, metric)
    x, metric = points.x, points.metric
    (n, d), available = x.shape, len(x) - (queries is None)
    own = None  # of each query, the point that it is
    if queries is None:
        own = np.arange(n) if rows is None else check_ids("rows", rows, n)
        q = x[own]
    elif rows is not None:
        raise ValueError("expected queries or rows, got both; rows name points among those that are searched")
    else:
        q = prepare_points(queries, metric)
        if q.shape[1] != d:
            raise ValueError(f"expected queries of dimension {d}, got {q.shape[1]}; encode both with the same model")
        q = q - points.centre
    check_count("k", k, 1, available, f"of {n} points, no other can be found")
    check_choice("a backend", backend, ["auto", *INDEXES])
    search = fastest(points, q, k, own) if backend == "auto" else index_of(points, backend)
    indices, cutoff = search(q, k, own)
    found = settle(x, q, indices, k, own)
    if cutoff is not None:
        doubtful = np.flatnonzero(found.distances[:, -1] ** 2 >= cutoff)
        if len(doubtful):
            their = None if own is None else own[doubtful]
            again = search_exactly(x, q[doubtful], k, their)
            found.indices[doubtful], found.distances[doubtful] = settle(x, q[doubtful], again, k, their)
    return found if metric == "euclidean" else found._replace(distances=found.distances**2 / 2)


def rerank(neighbours: Neighbours, k: int, length_fn: Callable[[np.ndarray], Any]) -> Neighbours:
    """Keeps of each row of candidates, such as `knn(points, 3 * k)`, the k nearest by another length, in its order.

    `length_fn` gives the lengths [e] of edges int32 [e, 2] = (row, neighbour); they replace the distances. Raises
    ValueError for fewer than k candidates, and for lengths that are negative or not finite.
    """
    m, candidates = neighbours.indices.shape
    check_count("k", k, 1, candidates, "search more candidates first")
    rows = np.repeat(np.arange(m, dtype=np.int32), candidates)
    found = length_fn(np.stack([rows, neighbours.indices.ravel()], axis=1))
    lengths = np.asarray(check_lengths("lengths", found, str(len(rows))), np.float64).reshape(m, candidates)
    order = np.lexsort((neighbours.indices, lengths), axis=1)[:, :k]
    return Neighbours(np.take_along_axis(neighbours.indices, order, 1), np.take_along_axis(lengths, order, 1))


def recall(
    points: Float[Array | np.ndarray, "n d"],
    neighbours: Neighbours,
    *,
    metric: Metric = "euclidean",
    num_rows: int = 256,
    seed: int = 0,
) -> float:
    """Share of the true nearest neighbours that an approximate search has found, measured on a sample of the points.

    Args:
        points: the searched points.
        neighbours: of each point, as `knn(points, k, backend=...)` returned them.
        metric: of that search.
        num_rows: points in the sample; over 256 rows of k = 15 the standard error of a recall of 0.98 is about 0.003.
        seed: draws the sample.

    Returns:
        Mean over the sample of the share of neighbours that lie no farther than the true k-th one: 1 if all are right.

    Raises:
        ValueError: if there is not one row of neighbours per point, or as `knn`.

    Example:
        >>> points = np.array([[0.0], [1.0], [3.0]])
        >>> recall(points, Neighbours(np.array([[1], [2], [1]], np.int32), np.array([[1.0], [2.0], [2.0]])))
        0.6666666666666666
    """
    check_count("num_rows", num_rows)
    check_count("seed", seed, 0)
    (n, k), num_points = neighbours.indices.shape, len(points)
    if n != num_points:
        raise ValueError(f"expected one row of neighbours per point, got {n} for {num_points} points; pass all of them")
    rows = np.sort(np.random.default_rng(seed).choice(n, min(n, num_rows), replace=False))
    exact = knn(points, k, rows=rows, metric=metric)
    return float(np.mean(neighbours.distances[rows] <= exact.distances[:, -1:] * (1 + 1e-9)))


def prepare_search(points: Float[Array | np.ndarray, "n d"], metric: Metric = "euclidean") -> Searched:
    """Points for many calls of `knn`: checked and centred once, with indexes that are built once.

    Raises ValueError as `knn`.
    """
    x = prepare_points(points, metric)
    centre = x.mean(axis=0)
    return Searched(x - centre, centre, metric, {})


def prepare_points(points: Any, metric: Metric) -> np.ndarray:
    """Checks points and returns them in float64, scaled to length 1 under the cosine metric."""
    check_choice("metric", metric, get_args(Metric))
    check_form("points", points, "n d")
    x = np.asarray(points, np.float64)
    # The squared distance of two points must fit single precision.
    check_finite("points", x, CHECK_ENCODER, limit=float(np.sqrt(np.finfo(np.float32).max / x.shape[1])) / 8)
    if metric == "euclidean":
        return x
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    if not norms.all():
        raise ValueError("expected non-zero points under the cosine metric, got a zero vector; use metric='euclidean'")
    return x / norms  # on the unit sphere |u - v|^2 = 2 (1 - cos)
