"""From points to a connected graph: bridges between components, measured graphs, k-nearest-neighbour graphs."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Int
from scipy import sparse

from geovq_jax.geometry.checks import check_choice, check_count, check_lengths
from geovq_jax.geometry.edges import edge_lengths, lengths_from_metrics
from geovq_jax.geometry.graphs.graph import (
    Graph,
    Symmetry,
    add_edges,
    check_graph,
    components,
    graph_from_edges,
    unique_edges,
)
from geovq_jax.geometry.graphs.knn import Backend, Metric, Neighbours, knn, prepare_points

LengthFn = Callable[[np.ndarray], Any]
_LOOK_AROUND = 16  # neighbours searched for a bridge before a search by components


def bridges(points: Float[Array | np.ndarray, "n d"], graph: Graph) -> Int[np.ndarray, "b 2"]:
    """Finds the shortest bridges that join all components: the Euclidean minimum spanning tree over them.

    Boruvka's rounds: every component except the largest proposes its shortest edge to another component, and the
    proposals that close no cycle are kept. Exact in the Euclidean distance of the points. A bridge changes no distance
    inside a component, whatever length it is given.

    Args:
        points: nodes.
        graph: symmetric graph [n, n] on them.

    Returns:
        int32 [b, 2], b = number of components - 1, from the shortest to the longest.

    Raises:
        ValueError: if there is not one point per node, or as `check_graph`.

    Reference: O. Boruvka, 1926; the cut property of minimum spanning trees.

    Example:
        >>> from geovq_jax.geometry import graph_from_edges
        >>> points = np.array([[0.0], [1.0], [3.0], [4.0]])
        >>> graph = graph_from_edges(np.array([[0, 1], [2, 3]]), np.ones(2), 4)
        >>> bridges(points, graph).tolist()
        [[1, 2]]
    """
    x = prepare_points(points, "euclidean")
    check_graph(graph)
    if len(x) != graph.shape[0]:
        got = f"{len(x)} points and {graph.shape[0]} nodes"
        raise ValueError(f"expected one point per node, got {got}; pass the points of the graph")
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
        # Weighted by their order, the pairs that close no cycle are the spanning tree; label 0 stays 0.
        pairs, rank = (labels[small[candidates]], labels[partner[candidates]]), np.arange(1.0, len(candidates) + 1)
        tree = sparse.csgraph.minimum_spanning_tree(sparse.csr_array((rank, pairs), shape=2 * (labels.max() + 1,)))
        kept, merged = np.isin(rank, tree.data), sparse.csgraph.connected_components(tree, directed=False)[1]
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
    """Nearest point of another component of each row; infinite where its component has a nearer pair."""
    foreign = labels[near.indices] != labels[rows][:, None]
    first = np.arange(len(rows)), foreign.argmax(axis=1)
    partner = near.indices[first].astype(np.int64)
    length = np.where(foreign[first], near.distances[first], np.inf)
    best = np.full(labels.max() + 1, np.inf)
    np.minimum.at(best, labels[rows], length)
    # A row whose near points are all of its component can still win if they end before the component's best pair.
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
    if _tree_pays(len(x), len(queries), x.shape[1]):
        distance, position = scipy.spatial.cKDTree(x, balanced_tree=False).query(queries, workers=-1)
        return position, distance
    half_squares, step = (x**2).sum(axis=1) / 2, max(1, 2**24 // len(x))
    parts = [queries[start : start + step] for start in range(0, len(queries), step)]
    position = np.concatenate([np.argmin(half_squares - part @ x.T, axis=1) for part in parts])
    return position, np.linalg.norm(x[position] - queries, axis=1)


def _tree_pays(num_points: int, num_queries: int, dim: int) -> bool:
    return dim <= 6 or num_points * num_queries <= 2**23


def straight_lengths(
    points: Float[np.ndarray, "n d"], edges: Int[np.ndarray, "e 2"], metrics: Float[np.ndarray, "n d d"] | None = None
) -> Float[np.ndarray, " e"]:
    """Lengths of straight edges: by the endpoints rule of `lengths_from_metrics`, or Euclidean without metrics.

    Args:
        points: nodes.
        edges: node pairs.
        metrics: metric tensor at each node; None for Euclidean lengths.

    Raises:
        ValueError: as `lengths_from_metrics`.

    Example:
        >>> points, edges = np.array([[0.0], [2.0]]), np.array([[0, 1]])
        >>> straight_lengths(points, edges).tolist(), straight_lengths(points, edges, np.full((2, 1, 1), 4.0)).tolist()
        ([2.0], [4.0])
    """
    if metrics is None:
        return np.linalg.norm(points[edges[:, 0]].astype(np.float64) - points[edges[:, 1]], axis=1)
    return np.asarray(lengths_from_metrics(points, metrics, edges), np.float64)


def metric_graph(
    points: Float[np.ndarray, "n d"],
    neighbours: Int[np.ndarray, "n k"],
    metrics: Float[np.ndarray, "n d d"] | None = None,
    *,
    symmetry: Symmetry = "union",
    repair: bool = True,
    length_fn: LengthFn | None = None,
) -> sparse.csr_array:
    """Graph of a table of neighbours, with edges measured in the metric of their ends.

    Args:
        points: nodes.
        neighbours: row i names the neighbours of node i, as `knn` gives them.
        metrics: metric tensor at each node; None for Euclidean lengths.
        symmetry: "union" keeps an edge if either end names the other, "mutual" only if both do.
        repair: join the components by their shortest bridges, measured like every other edge.
        length_fn: computes the lengths [e] of the edges [e, 2] of the table in another way, such as in shards.

    Returns:
        Symmetric csr_array [n, n] in float64.

    Raises:
        ValueError: as `unique_edges`, `lengths_from_metrics` and `graph_from_edges`.

    Example:
        >>> points = np.array([[0.0], [1.0], [3.0]])
        >>> metric_graph(points, np.array([[1], [0], [1]]), np.full((3, 1, 1), 4.0)).data.tolist()
        [2.0, 2.0, 4.0, 4.0]
    """
    edges = unique_edges(neighbours, symmetry=symmetry)
    lengths = straight_lengths(points, edges, metrics) if length_fn is None else length_fn(edges)
    graph = graph_from_edges(edges, lengths, len(points))
    return join_components(points, graph, metrics) if repair else graph


def join_components(
    points: Float[np.ndarray, "n d"], graph: Graph, metrics: Float[np.ndarray, "n d d"] | None = None
) -> sparse.csr_array:
    """Joins the components of a graph into one by their shortest bridges, as long as `straight_lengths` says.

    Args:
        points: nodes.
        graph: symmetric graph [n, n] on them.
        metrics: metric tensor at each node; None for Euclidean lengths.

    Raises:
        ValueError: as `bridges`.

    Example:
        >>> from geovq_jax.geometry import graph_from_edges
        >>> points = np.array([[0.0], [1.0], [3.0], [4.0]])
        >>> graph = graph_from_edges(np.array([[0, 1], [2, 3]]), np.ones(2), 4)
        >>> float(join_components(points, graph)[1, 2])
        2.0
    """
    extra = bridges(points, graph)
    return add_edges(graph, extra, straight_lengths(points, extra, metrics)) if len(extra) else sparse.csr_array(graph)


def knn_graph(
    points: Float[Array | np.ndarray, "n d"],
    k: int,
    *,
    symmetry: Symmetry = "union",
    metric: Metric = "euclidean",
    backend: Backend = "auto",
    weights: Literal["distance", "connectivity"] = "distance",
    decode_fn: Callable[[Any], Any] | None = None,
    length_fn: LengthFn | None = None,
    rule: str = "simpson",
    repair: bool = True,
    max_edges: int | None = None,
    seed: int = 0,
) -> sparse.csr_array:
    """Builds the symmetric k-nearest-neighbour graph of a set of points.

    Neighbours are found by `metric`; lengths are those of the pull-back metric of `decode_fn`, those of `length_fn`, or
    else the distances themselves (`weights="connectivity"`: 1). Bridges are measured in the same way as every other
    edge.

    Args:
        points: nodes.
        k: neighbours of each node, 1 <= k < n. Paths over few neighbours zigzag: 8 for each dimension, from 15 to 60.
        symmetry: "union" keeps an edge if either end names the other, "mutual" only if both do.
        metric: distance of the neighbour search, "euclidean" or "cosine".
        backend: neighbour search, see `knn`.
        weights: lengths where neither decode_fn nor length_fn is given.
        decode_fn: decoder z[d] -> x; lengths are pull-back lengths.
        length_fn: any other lengths [e] of edges int32 [e, 2], such as those of the cells of spatial latents.
        rule: quadrature rule of the pull-back length, see `edge_lengths`; paths prefer edges that it makes too short.
        repair: join the components by their shortest bridges.
        max_edges: measure at most this many edges by decode_fn or length_fn, see `subset_lengths`.
        seed: draws the measured edges if max_edges is set.

    Returns:
        csr_array [n, n], symmetric, float64; stored zeros are edges.

    Raises:
        ValueError: for contradicting options, or as `knn` does.

    Example:
        >>> points = np.array([[0.0], [1.0], [3.0]], np.float32)
        >>> knn_graph(points, 1).toarray().tolist()  # Euclidean
        [[0.0, 1.0, 0.0], [1.0, 0.0, 2.0], [0.0, 2.0, 0.0]]
        >>> float(knn_graph(points, 1, decode_fn=lambda z: 5.0 * z)[0, 1])
        5.0
    """
    if decode_fn is not None and length_fn is not None:
        raise ValueError("expected decode_fn or length_fn, got both; length_fn alone decides if it is given")
    check_choice("weights", weights, ("distance", "connectivity"))
    measured = decode_fn is not None or length_fn is not None
    if weights == "connectivity" and measured:
        raise ValueError("expected unit weights or measured ones, got both; drop weights='connectivity'")
    if max_edges is not None and not measured:
        raise ValueError("expected decode_fn or length_fn beside max_edges, got neither; drop max_edges")
    x = prepare_points(points, metric)
    edges = unique_edges(knn(points, k, backend=backend, metric=metric).indices, symmetry=symmetry)
    if repair:
        edges = np.concatenate([edges, bridges(x, graph_from_edges(edges, np.ones(len(edges)), len(x)))])
    distances = np.linalg.norm(x[edges[:, 0]] - x[edges[:, 1]], axis=1)
    if decode_fn is not None:
        length_fn = partial(edge_lengths, decode_fn, jnp.asarray(points), rule=rule)
    if length_fn is not None:
        lengths = subset_lengths(edges, distances, length_fn, max_edges, seed=seed)
    elif weights == "connectivity":
        lengths = np.ones(len(edges))
    else:
        lengths = distances**2 / 2 if metric == "cosine" else distances
    return graph_from_edges(edges, lengths, len(x))


def subset_lengths(
    edges: Int[np.ndarray, "e 2"],
    distances: Float[np.ndarray, " e"],
    length_fn: LengthFn,
    max_edges: int | None,
    *,
    seed: int = 0,
    num_bins: int = 5,
) -> Float[np.ndarray, " e"]:
    """Measures a sample of the edges and estimates the others in the same unit.

    The edges are divided into equal bins by their Euclidean `distances`; `max_edges` (None for all) are drawn evenly
    from them and measured by one call of `length_fn`. Any other is as long as its distance times the bin's ratio, sum
    of lengths over sum of distances.

    Raises ValueError for max_edges < num_bins, or a length_fn that does not return one finite length >= 0 per edge.
    """

    def measure(chosen: np.ndarray) -> np.ndarray:
        return np.asarray(check_lengths("lengths", length_fn(chosen), str(len(chosen))), np.float64)

    if max_edges is not None:
        check_count("max_edges", max_edges, num_bins, advice="every bin needs an edge")
    if max_edges is None or max_edges >= len(edges):
        return measure(edges)
    rng = np.random.default_rng(seed)
    bins = np.array_split(np.argsort(distances, kind="stable"), num_bins)
    quotas = np.diff(np.linspace(0, max_edges, num_bins + 1).astype(int))
    samples = [rng.choice(members, quota, replace=False) for members, quota in zip(bins, quotas, strict=True)]
    chosen, lengths = np.concatenate(samples), np.zeros(len(edges))
    lengths[chosen] = measure(edges[chosen])
    for members, sample in zip(bins, samples, strict=True):
        others, total = np.setdiff1d(members, sample), distances[sample].sum()
        lengths[others] = distances[others] * (lengths[sample].sum() / total if total > 0 else 0.0)
    return lengths
