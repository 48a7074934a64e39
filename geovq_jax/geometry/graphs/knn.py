"""Exact and approximate nearest neighbours with true distances for every back end."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Int

from geovq_jax import mesh
from geovq_jax.geometry.checks import (
    CHECK_ENCODER,
    check_choice,
    check_count,
    check_finite,
    check_form,
    check_ids,
    check_lengths,
)

Backend = Literal["auto", "jax", "kdtree", "faiss", "faiss_hnsw", "faiss_ivf"]
Metric = Literal["euclidean", "cosine"]

_SLACK = 8  # candidates beyond k that a float32 search returns, so that float64 can settle the order of near ties
_GROUPS = 32


class Neighbours(NamedTuple):
    """Neighbours of m queries, nearest first.

    Attributes:
        indices: int32 [m, k], rows of the searched points.
        distances: float64 [m, k], in the unit of the metric (never squared).
    """

    indices: Int[np.ndarray, "m k"]
    distances: Float[np.ndarray, "m k"]


def knn(
    points: Float[Array | np.ndarray, "n d"],
    k: int,
    *,
    queries: Float[Array | np.ndarray, "m d"] | None = None,
    rows: Int[np.ndarray, " m"] | None = None,
    backend: Backend = "auto",
    metric: Metric = "euclidean",
) -> Neighbours:
    """Finds the k nearest neighbours of every point, or of every query among the points.

    A search proposes candidates; their distances are then computed anew in float64, so that the unit and the order do
    not depend on the search. The back ends "jax", "kdtree" and "faiss" are exact: a row in which float32 could have
    hidden a nearer point is searched again in float64. "faiss_hnsw" and "faiss_ivf" are approximate. Among points at
    equal distances the back end determines the choice; those chosen are listed by index.

    Args:
        points: the searched points.
        k: number of neighbours, at most n - 1 without queries and n with them.
        queries: if given, the neighbours of queries [m, d] among the points, excluding nothing. Otherwise the
            neighbours of each point among the others: its own row is excluded, its duplicates are not.
        rows: without queries, find only the neighbours of these points; the result does not depend on the others.
        backend: "auto" takes "kdtree" on a CPU where `tree_pays`, and "jax" otherwise.
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
    x = prepare_points(points, metric)
    (n, d), available = x.shape, x.shape[0] - (queries is None)
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
    check_count("k", k, 1, available, f"of {n} points, no other can be found")
    check_choice("a backend", backend, ["auto", *_SEARCHES])
    if backend == "auto":
        m = n if queries is None else len(q)
        backend = "kdtree" if tree_pays(n, m, d) and jax.default_backend() == "cpu" else "jax"

    # A common shift does not change distances and avoids cancellation in the expansion |x|^2 - 2 x.y + |y|^2.
    centre = x.mean(axis=0)
    x, q = x - centre, q - centre
    indices, cutoff = _SEARCHES[backend](x, q, k, own)
    found = _settle(x, q, indices, k, own)
    if cutoff is not None:
        doubtful = np.flatnonzero(found.distances[:, -1] ** 2 > np.maximum(cutoff, 0.0))
        if len(doubtful):
            their = None if own is None else own[doubtful]
            again, _ = _search_kdtree(x, q[doubtful], k, their)
            mended = _settle(x, q[doubtful], again, k, their)
            found.indices[doubtful], found.distances[doubtful] = mended
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


def tree_pays(num_points: int, num_queries: int, dim: int) -> bool:
    """Whether a kd-tree beats brute force on a CPU: few pairs, or few dimensions (30 times slower at d = 16)."""
    return dim <= 6 or num_points * num_queries <= 2**23


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


def _settle(x: np.ndarray, q: np.ndarray, indices: np.ndarray, k: int, own: np.ndarray | None) -> Neighbours:
    """Distances of candidates in float64, own row and missing candidates (-1) last, ordered by distance then index."""
    distances = np.empty(indices.shape)
    step = max(1, 2**22 // (indices.shape[1] * x.shape[1]))
    for start in range(0, len(q), step):
        part = slice(start, start + step)
        distances[part] = np.sqrt(((x[indices[part]] - q[part, None, :]) ** 2).sum(axis=2))
    distances[indices < 0] = np.inf
    if own is not None:
        distances[indices == own[:, None]] = np.inf
    order = np.lexsort((indices, distances), axis=1)[:, :k]
    return Neighbours(np.take_along_axis(indices, order, 1).astype(np.int32), np.take_along_axis(distances, order, 1))


def _search_kdtree(x: np.ndarray, q: np.ndarray, k: int, own: np.ndarray | None) -> tuple[np.ndarray, None]:
    _, indices = scipy.spatial.cKDTree(x, balanced_tree=False).query(q, k + (own is not None), workers=-1)
    return indices.reshape(len(q), -1), None


def _float32_error(x: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Bound on the error of a float32 squared distance |x|^2 - 2 x.y + |y|^2, per row of q."""
    reach = np.linalg.norm(q, axis=1) + np.linalg.norm(x, axis=1).max()
    return (x.shape[1] + 4) * 2.0**-23 * reach**2


def _search_jax(x: np.ndarray, q: np.ndarray, k: int, own: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    n, available = len(x), len(x) - (own is not None)
    candidates = min(k + _SLACK, available)
    share = -(-len(q) // mesh.size())
    block = int(np.clip(2**26 // (4 * n), 1, min(share, 1024)))
    padded = np.pad(x.astype(np.float32), ((0, -n % _GROUPS), (0, 0)))
    squares = np.pad((x**2).sum(axis=1).astype(np.float32), (0, -n % _GROUPS), constant_values=np.inf)
    missing = -len(q) % (block * mesh.size())
    queries = np.pad(q.astype(np.float32), ((0, missing), (0, 0)))
    left_out = np.pad(np.full(len(q), -1) if own is None else own, (0, missing)).astype(np.int32)
    search = partial(_top_k, k=candidates, block=block)
    values, indices = jax.device_get(mesh.over_rows(search, (queries, left_out), padded, squares))
    values, indices = values[: len(q)], indices[: len(q)]
    if candidates == available:
        return indices, np.full(len(q), np.inf)  # nothing was left out
    return indices, values[:, -1] + (q**2).sum(axis=1) - _float32_error(x, q)


@partial(jax.jit, static_argnames=("k", "block"))
def _top_k(
    rows: tuple[Array, Array], points: Float[Array, "n d"], squares: Float[Array, " n"], k: int, block: int
) -> tuple[Float[Array, "m k"], Int[Array, "m k"]]:
    """The k least |x|^2 - 2 x.q of each query, in two stages: by the least of each group, then inside the best groups.

    At most k groups hold one of the k least values, and these are the k groups of least minima: exact, and the costly
    top_k processes n / 32 + 32 k values instead of n. Rows are queries [m, d] and the point [m] that each leaves out,
    or -1.
    """
    n, groups = points.shape[0], points.shape[0] // _GROUPS

    def one_block(part: tuple[Array, Array]) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
        q, own = part
        values = squares[None, :] - 2 * jnp.matmul(q, points.T, precision=jax.lax.Precision.HIGHEST)
        values = jnp.where(jnp.arange(n)[None, :] == own[:, None], jnp.inf, values)
        if groups <= k:
            best, indices = jax.lax.top_k(-values, k)
            return -best, indices
        grouped = values.reshape(block, _GROUPS, groups)  # group j holds j, j + groups, j + 2 groups, ...
        _, chosen = jax.lax.top_k(-grouped.min(axis=1), k)
        members = (chosen[:, None, :] + groups * jnp.arange(_GROUPS)[None, :, None]).reshape(block, _GROUPS * k)
        best, position = jax.lax.top_k(-jnp.take_along_axis(values, members, axis=1), k)
        return -best, jnp.take_along_axis(members, position, axis=1)

    best, indices = jax.lax.map(one_block, jax.tree.map(lambda x: x.reshape(-1, block, *x.shape[1:]), rows))
    return best.reshape(-1, k), indices.reshape(-1, k)


def _search_faiss(
    x: np.ndarray, q: np.ndarray, k: int, own: np.ndarray | None, kind: Literal["flat", "hnsw", "ivf"]
) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        import faiss
    except ImportError as error:
        raise ValueError("expected the package faiss, got none; pip install 'geovq-jax[knn]'") from error
    (n, d), wanted = x.shape, k + (own is not None)
    candidates = min(wanted + _SLACK, n)
    points, queries = x.astype(np.float32), q.astype(np.float32)
    index: Any = faiss.IndexFlatL2(d)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(d, 32)
        index.hnsw.efConstruction, index.hnsw.efSearch = 80, max(64, 4 * candidates)
    elif kind == "ivf":
        cells = max(1, min(int(4 * np.sqrt(n)), n // 40))
        index = faiss.IndexIVFFlat(index, d, cells)
        index.cp.min_points_per_centroid = 1
        index.nprobe = min(cells, max(16, cells // 16))
        index.train(points)
    threads = faiss.omp_get_max_threads()
    # Threads would insert into the HNSW graph in an order that changes from run to run.
    faiss.omp_set_num_threads(1 if kind == "hnsw" else threads)
    index.add(points)
    faiss.omp_set_num_threads(threads)
    squares, indices = index.search(queries, candidates)
    if kind == "flat":
        return indices, np.full(len(q), np.inf) if candidates == n else squares[:, -1] - _float32_error(x, q)
    # An approximate search may find too few: these rows are searched exactly.
    short = np.flatnonzero((indices >= 0).sum(axis=1) < wanted)
    if len(short):
        indices[short, :wanted], _ = _search_kdtree(x, q[short], k, None if own is None else own[short])
        indices[short, wanted:] = -1
    return indices, None


_SEARCHES: dict[str, Callable[..., tuple[np.ndarray, np.ndarray | None]]] = {
    "jax": _search_jax,
    "kdtree": _search_kdtree,
    "faiss": partial(_search_faiss, kind="flat"),
    "faiss_hnsw": partial(_search_faiss, kind="hnsw"),
    "faiss_ivf": partial(_search_faiss, kind="ivf"),
}
