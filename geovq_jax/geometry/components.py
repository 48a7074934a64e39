"""Connected components of a graph, and the shortest bridges that join them."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Array, Float, Int
from scipy import sparse
from scipy.sparse import csgraph
from scipy.spatial import cKDTree

from geovq_jax.geometry.knn import Neighbours, knn, prepare_points, tree_pays

Graph: TypeAlias = sparse.csr_array | sparse.csr_matrix
# Neighbours among which a bridge is sought before a search by components.
_LOOK_AROUND = 16


class Connectivity(NamedTuple):
    """Size and connectedness of a graph.

    Attributes:
        num_nodes: number of nodes.
        num_edges: number of undirected edges, those of length zero included.
        num_components: number of connected components.
        largest_fraction: share of the nodes in the largest component.
        degree_min: least number of edges at a node.
        degree_mean: mean number of edges at a node.
        degree_max: largest number of edges at a node.
    """

    num_nodes: int
    num_edges: int
    num_components: int
    largest_fraction: float
    degree_min: int
    degree_mean: float
    degree_max: int


def check_graph(graph: Any) -> None:
    """Refuses what is not a symmetric graph of lengths >= 0.

    Raises:
        ValueError: another type or shape, an entry twice, a self-loop, a length that is negative, infinite or NaN, or
            an edge without its equal in the other direction.
    """
    mend = "build it with graph_from_edges or knn_graph"
    if not isinstance(graph, sparse.csr_array | sparse.csr_matrix):
        raise ValueError(f"expected a graph as scipy.sparse.csr_array, got {type(graph).__name__}; {mend}")
    if graph.ndim != 2 or graph.shape[0] != graph.shape[1] or graph.shape[0] == 0:
        raise ValueError(f"expected a square matrix of edge lengths for at least one node, got shape {graph.shape}")
    if graph.dtype.kind not in "fiu":
        raise ValueError(f"expected real edge lengths, got {graph.dtype}; {mend}")
    if graph.nnz and not (np.isfinite(graph.data).all() and graph.data.min() >= 0):
        raise ValueError("expected finite edge lengths >= 0, got others; drop or mend these edges")
    # Sorted by row of the transpose, every list of neighbours comes out in ascending order.
    back = sparse.csr_array(graph.T)
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    here = graph if graph.has_sorted_indices else sparse.csr_array(back.T)
    if (rows == graph.indices).any():
        raise ValueError(f"expected edges between different nodes, got a self-loop; {mend}")
    if ((here.indices[1:] == here.indices[:-1]) & (rows[1:] == rows[:-1])).any():
        raise ValueError(f"expected every edge once in each direction, got one twice; {mend}")
    if not (
        np.array_equal(here.indptr, back.indptr)
        and np.array_equal(here.indices, back.indices)
        and np.array_equal(here.data, back.data)
    ):
        raise ValueError(f"expected a symmetric graph, got one that is not; {mend}")


def components(graph: Graph) -> Int[np.ndarray, " n"]:
    """Labels the connected components, the largest as 0 (ties by the least node)."""
    _, labels = csgraph.connected_components(graph, directed=False)
    order = np.argsort(-np.bincount(labels), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[labels].astype(np.int32)


def connectivity(graph: Graph) -> Connectivity:
    """Counts edges, components and degrees of a symmetric graph.

    Raises:
        ValueError: as `check_graph`.
    """
    check_graph(graph)
    n, degrees, labels = graph.shape[0], np.diff(graph.indptr), components(graph)
    return Connectivity(
        num_nodes=n,
        num_edges=int(graph.nnz) // 2,
        num_components=int(labels.max(initial=-1)) + 1,
        largest_fraction=float(np.mean(labels == 0)),
        degree_min=int(degrees.min()),
        degree_mean=float(degrees.mean()),
        degree_max=int(degrees.max()),
    )


def bridges(points: Float[Array, "n d"] | Float[np.ndarray, "n d"], graph: Graph) -> Int[np.ndarray, "b 2"]:
    """Finds the shortest bridges that join all components: the Euclidean minimum spanning tree over them.

    Boruvka's rounds: every component but the one of the largest names its shortest edge to another component, and the
    named edges that close no cycle are kept. Exact in the Euclidean distance of the points. A bridge joins what was
    separate, so it changes no distance inside a component, whatever length it is given.

    Args:
        points: nodes [n, d].
        graph: symmetric graph [n, n] on them.

    Returns:
        int32 [b, 2], b = number of components - 1, from the shortest to the longest.

    Raises:
        ValueError: if there is not one point a node, or as `check_graph`.

    Reference: O. Boruvka, 1926; the cut property of minimum spanning trees.
    """
    x = prepare_points(points, "euclidean")
    check_graph(graph)
    if len(x) != graph.shape[0]:
        raise ValueError(f"expected one point a node, got {len(x)} points and {graph.shape[0]} nodes")
    labels = components(graph)
    small = np.flatnonzero(labels > 0)
    if not len(small):
        return np.zeros((0, 2), np.int32)
    near = knn(x, min(len(x), _LOOK_AROUND), queries=x[small])
    found_edges, found_lengths = [], []
    while len(small):
        partner, length = _nearest_foreign(x, labels, small, near)
        order = np.lexsort((partner, small, length))
        candidates = order[np.unique(labels[small[order]], return_index=True)[1]]  # the shortest of each component
        candidates = candidates[np.lexsort((candidates, length[candidates]))]
        kept, merged = _forest(labels[small[candidates]], labels[partner[candidates]], int(labels.max()) + 1)
        found_edges.append(np.stack([small[candidates], partner[candidates]], axis=1)[kept])
        found_lengths.append(length[candidates][kept])
        labels = merged[labels]
        rest = labels[small] > 0
        small, near = small[rest], Neighbours(near.indices[rest], near.distances[rest])
    edges, lengths = np.sort(np.concatenate(found_edges), axis=1), np.concatenate(found_lengths)
    return edges[np.lexsort((edges[:, 1], edges[:, 0], lengths))].astype(np.int32)


def _nearest_foreign(
    x: np.ndarray, labels: np.ndarray, rows: np.ndarray, near: Neighbours
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest foreign point of each row; infinitely far where its component has a nearer pair elsewhere."""
    foreign = labels[near.indices] != labels[rows][:, None]
    first = foreign.argmax(axis=1)
    at = np.arange(len(rows))
    partner = near.indices[at, first].astype(np.int64)
    length = np.where(foreign[at, first], near.distances[at, first], np.inf)
    best = np.full(labels.max() + 1, np.inf)
    np.minimum.at(best, labels[rows], length)
    # A row whose near points are all its own can still win if they end before its component's best pair.
    open_rows = np.flatnonzero(np.isinf(length) & (near.distances[:, -1] < best[labels[rows]]))
    own = labels[rows[open_rows]]
    # Two different labels differ in some bit: per bit, search the rows of either value among the points of the other.
    splits = [(labels == 0, own > 0)]
    for bit in range(int(labels.max()).bit_length()):
        for value in (0, 1):
            splits.append(((labels > 0) & (labels >> bit & 1 == value), own >> bit & 1 != value))
    for among, asking in splits:
        targets, askers = np.flatnonzero(among), open_rows[asking]
        if len(targets) and len(askers):
            position, distance = _nearest(x[targets], x[rows[askers]])
            nearer = distance < length[askers]
            partner[askers[nearer]], length[askers[nearer]] = targets[position[nearer]], distance[nearer]
    return partner, length


def _nearest(x: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if tree_pays(len(x), len(queries), x.shape[1]):
        distance, position = cKDTree(x, balanced_tree=False).query(queries, workers=-1)
        return position, distance
    half_squares, step = (x**2).sum(axis=1) / 2, max(1, 2**24 // len(x))
    parts = [queries[start : start + step] for start in range(0, len(queries), step)]
    position = np.concatenate([np.argmin(half_squares - part @ x.T, axis=1) for part in parts])
    return position, np.linalg.norm(x[position] - queries, axis=1)


def _forest(a: np.ndarray, b: np.ndarray, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Kruskal: which pairs (a, b), in this order, close no cycle; and the new label of each old one (0 stays)."""
    parent = list(range(num_labels))

    def root(label: int) -> int:
        while parent[label] != label:
            parent[label] = label = parent[parent[label]]
        return label

    kept = np.zeros(len(a), bool)
    for i, (left, right) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        low, high = sorted((root(left), root(right)))
        kept[i] = low != high
        parent[high] = low
    return kept, np.unique([root(label) for label in range(num_labels)], return_inverse=True)[1]
