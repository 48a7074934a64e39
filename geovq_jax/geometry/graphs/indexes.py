"""Indexes of points for the search of neighbours: each proposes candidates and says how far they can be trusted.

An index is built from the points x [n, d] and answers queries: `search(q, k, own)` returns candidates [m, c], -1 where
it found too few, and per query the squared distance below which no point is missing among them (None for approximate
indexes). `own` names the point that each query is, which is not its own neighbour; None for queries of another origin.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Int

from geovq_jax import mesh
from geovq_jax.geometry.batching import num_threads

Search: TypeAlias = Callable[
    [np.ndarray, int, np.ndarray | None], tuple[Int[np.ndarray, "m c"], Float[np.ndarray, " m"] | None]
]

Metric = Literal["euclidean", "cosine"]

_SLACK = 8  # candidates beyond k that a float32 search returns, so that float64 can settle the order of near ties
_GROUPS = 32
FEW_PAIRS = 2**23  # queries x points, below which a search takes less time than choosing how to search
TRIED = 16  # queries whose time chooses the index
QUICK = 1.0  # seconds for all queries, below which nothing else is tried


class Neighbours(NamedTuple):
    """Neighbours of m queries, nearest first.

    Attributes:
        indices: int32 [m, k], rows of the searched points.
        distances: float64 [m, k], in the unit of the metric (never squared).
    """

    indices: Int[np.ndarray, "m k"]
    distances: Float[np.ndarray, "m k"]


def settle(x: np.ndarray, q: np.ndarray, indices: np.ndarray, k: int, own: np.ndarray | None) -> Neighbours:
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


def search_exactly(x: np.ndarray, q: np.ndarray, k: int, own: np.ndarray | None) -> Int[np.ndarray, "m c"]:
    """The k nearest points, and those at equal distances in the order of their indices; with `own`, one more.

    A kd-tree in float64 is asked for more and more points until the last lies beyond the k-th. Queries at one place
    are searched once, so that thousands of copies of a point take no longer than one.
    """
    n, wanted = len(x), k + (own is not None)
    tree = scipy.spatial.cKDTree(x, balanced_tree=False)
    places, place = np.unique(q, axis=0, return_inverse=True)
    nearest = np.empty((len(places), wanted), np.int64)
    rest, count = np.arange(len(places)), min(wanted + _SLACK, n)
    while len(rest):
        still = []
        for part in np.array_split(rest, -(-len(rest) * count // 2**22)):
            indices = tree.query(places[part], count, workers=-1)[1].reshape(len(part), count)
            found = settle(x, places[part], indices, count, None)
            nearest[part] = found.indices[:, :wanted]
            # The tree's distances differ from these by rounding.
            tied = found.distances[:, -1] <= (1 + 1e-9) * found.distances[:, wanted - 1]
            still.append(part[tied & (count < n)])
        rest, count = np.concatenate(still), min(8 * count, n)
    return nearest[place.ravel()]


class Searched(NamedTuple):
    """Points prepared by `prepare_search` for many calls of `knn`, which share the indexes that they build.

    Attributes:
        x: the points, centred.
        centre: their mean, subtracted because a common shift avoids cancellation in |x|^2 - 2 x.y + |y|^2.
        metric: "euclidean" or "cosine".
        built: indexes by back end; "auto" is the one that a trial has chosen.
    """

    x: Float[np.ndarray, "n d"]
    centre: Float[np.ndarray, " d"]
    metric: Metric
    built: dict[str, Search]


def index_of(points: Searched, backend: str) -> Search:
    """The index of a back end, built at the first call."""
    if backend not in points.built:
        points.built[backend] = INDEXES[backend](points.x)
    return points.built[backend]


def fastest(points: Searched, q: np.ndarray, k: int, own: np.ndarray | None) -> Search:
    """The exact index that answers a few of the queries in the least time: a kd-tree or the search by matrix products.

    Which of them is faster depends on the dimension of the set near which the points lie, not on that of the space
    around it. Without a trial, a kd-tree takes small searches on a CPU, and matrix products take searches for few
    queries, on accelerators, and of several processes, which must agree on the choice and share their work.
    """
    if "auto" in points.built:
        return points.built["auto"]
    m, n = len(q), len(points.x)
    if jax.default_backend() == "cpu" and n * m <= FEW_PAIRS:
        return index_of(points, "kdtree")
    if jax.default_backend() != "cpu" or jax.process_count() > 1 or m <= 64 * TRIED:
        return index_of(points, "jax")
    rows = np.random.default_rng(0).choice(m, min(m, max(TRIED, 4 * num_threads())), replace=False)

    def seconds(search: Search) -> float:
        start = time.perf_counter()
        search(q[rows], k, None if own is None else own[rows])
        return (time.perf_counter() - start) * m / len(rows)

    tree = index_of(points, "kdtree")
    by_tree = seconds(tree)
    if by_tree <= QUICK:
        return tree
    products = index_of(points, "jax")
    seconds(products)  # compiles
    points.built["auto"] = tree if by_tree <= seconds(products) else products
    return points.built["auto"]


def tree_index(x: np.ndarray) -> Search:
    """A kd-tree in float64: time in proportion to log n where the points fill few dimensions, to n where many."""
    tree = scipy.spatial.cKDTree(x, balanced_tree=False)

    def search(q: np.ndarray, k: int, own: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        count = min(k + (own is not None) + 1, len(x))
        distances, indices = (part.reshape(len(q), -1) for part in tree.query(q, count, workers=-1))
        return indices, np.full(len(q), np.inf) if count == len(x) else (1 - 1e-9) * distances[:, -1] ** 2

    return search


def _float32_error(x: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Bound on the error of a float32 squared distance |x|^2 - 2 x.y + |y|^2, per row of q."""
    reach = np.linalg.norm(q, axis=1) + np.linalg.norm(x, axis=1).max()
    return (x.shape[1] + 4) * 2.0**-23 * reach**2


def matmul_index(x: np.ndarray) -> Search:
    """Distances to all points by matrix products in JAX, in float32; the queries are split over devices."""
    n = len(x)
    padded = np.pad(x.astype(np.float32), ((0, -n % _GROUPS), (0, 0)))
    squares = np.pad((x**2).sum(axis=1).astype(np.float32), (0, -n % _GROUPS), constant_values=np.inf)

    def search(q: np.ndarray, k: int, own: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        available = n - (own is not None)
        candidates, share = min(k + _SLACK, available), -(-len(q) // mesh.size())
        block = int(np.clip(2**26 // (4 * n), 1, min(share, 1024)))
        missing = -len(q) % (block * mesh.size())
        queries = np.pad(q.astype(np.float32), ((0, missing), (0, 0)))
        left_out = np.pad(np.full(len(q), -1) if own is None else own, (0, missing)).astype(np.int32)
        best = partial(_top_k, k=candidates, block=block)
        values, indices = jax.device_get(mesh.over_rows(best, (queries, left_out), padded, squares))
        values, indices = values[: len(q)], indices[: len(q)]
        if candidates == available:
            return indices, np.full(len(q), np.inf)  # nothing was left out
        return indices, values[:, -1] + (q**2).sum(axis=1) - _float32_error(x, q)

    return search


@partial(jax.jit, static_argnames=("k", "block"))
def _top_k(
    rows: tuple[Array, Array], points: Float[Array, "n d"], squares: Float[Array, " n"], k: int, block: int
) -> tuple[Float[Array, "m k"], Int[Array, "m k"]]:
    """The k least |x|^2 - 2 x.q of each query, in two stages: by the least of each group, then inside the best groups.

    At most k groups hold one of the k least values, and these are the k groups of least minima: exact, and the costly
    top_k sees n / 32 + 32 k values instead of n. Rows are queries [m, d] and the point [m] that each leaves out, or -1.
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


def faiss_index(x: np.ndarray, kind: Literal["flat", "hnsw", "ivf"]) -> Search:
    """An index of faiss: "flat" is exact, "hnsw" a navigable graph, "ivf" searches the nearest of 4 sqrt(n) cells."""
    try:
        import faiss
    except ImportError as error:
        raise ValueError("expected the package faiss, got none; pip install 'geovq-jax[knn]'") from error
    (n, d), points = x.shape, x.astype(np.float32)
    index: Any = faiss.IndexFlatL2(d)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(d, 32)
        index.hnsw.efConstruction = 80
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

    def search(q: np.ndarray, k: int, own: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        wanted = k + (own is not None)
        candidates = min(wanted + _SLACK, n)
        if kind == "hnsw":
            index.hnsw.efSearch = max(64, 4 * candidates)
        squares, indices = index.search(q.astype(np.float32), candidates)
        if kind == "flat":
            return indices, np.full(len(q), np.inf) if candidates == n else squares[:, -1] - _float32_error(x, q)
        # An approximate search may find too few: these rows are searched exactly.
        short = np.flatnonzero((indices >= 0).sum(axis=1) < wanted)
        if len(short):
            indices[short, :wanted] = search_exactly(x, q[short], k, None if own is None else own[short])
            indices[short, wanted:] = -1
        return indices, None

    return search


INDEXES: dict[str, Callable[[np.ndarray], Search]] = {
    "jax": matmul_index,
    "kdtree": tree_index,
    "faiss": partial(faiss_index, kind="flat"),
    "faiss_hnsw": partial(faiss_index, kind="hnsw"),
    "faiss_ivf": partial(faiss_index, kind="ivf"),
}
