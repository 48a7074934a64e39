"""Symmetric sparse graphs: neighbours to edges, edges to CSR, and the whole way from points to a connected graph.

A graph is a `scipy.sparse.csr_array` in float64, symmetric, without self-loops. Every stored entry is an edge, also one
that stores 0.0: coincident points are joined by an edge of length zero. `csgraph.dijkstra` and
`csgraph.connected_components` honour stored zeros; addition, `maximum` and `minimum_spanning_tree` lose them, so graphs
are built here from sorted parts and never by sparse arithmetic.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import sparse

from geovq_jax.geometry.components import Graph, bridges, check_graph
from geovq_jax.geometry.edges import edge_lengths
from geovq_jax.geometry.knn import Backend, Metric, knn, prepare_points

LengthFn = Callable[[np.ndarray], Any]
Symmetry = Literal["union", "mutual"]


def unique_edges(neighbours: Int[np.ndarray, "n k"], *, symmetry: Symmetry = "union") -> Int[np.ndarray, "e 2"]:
    """Lists each undirected edge of a neighbour table once, as (a, b) with a < b, in lexicographic order.

    Args:
        neighbours: indices [n, k], row i naming the neighbours of node i.
        symmetry: "union" keeps a pair if either names the other, "mutual" only if both do.

    Returns:
        int32 [e, 2].

    Raises:
        ValueError: for an unknown symmetry or indices outside [0, n).

    Example:
        >>> unique_edges(np.array([[1], [0], [1]])).tolist()
        [[0, 1], [1, 2]]
        >>> unique_edges(np.array([[1], [0], [1]]), symmetry="mutual").tolist()
        [[0, 1]]
    """
    n = len(neighbours)
    if neighbours.size and not (neighbours.min() >= 0 and neighbours.max() < n):
        raise ValueError(f"expected neighbours in [0, {n}), got [{neighbours.min()}, {neighbours.max()}]")
    if symmetry not in ("union", "mutual"):
        raise ValueError(f"expected symmetry 'union' or 'mutual', got {symmetry!r}")
    columns = np.sort(neighbours.astype(np.int64), axis=1)
    rows = np.broadcast_to(np.arange(n)[:, None], columns.shape)
    proper = rows != columns
    proper[:, 1:] &= columns[:, 1:] != columns[:, :-1]
    rows, columns = rows[proper], columns[proper]
    # Sorted, a pair that both ends name stands twice in a row. (numpy's unique hashes, ten times slower here.)
    pairs = np.sort(np.minimum(rows, columns) * n + np.maximum(rows, columns))
    again = pairs[1:] == pairs[:-1]
    pairs = pairs[1:][again] if symmetry == "mutual" else pairs[np.append(True, ~again)[: len(pairs)]]
    return np.stack([pairs // n, pairs % n], axis=1).astype(np.int32)


def graph_from_edges(
    edges: Int[np.ndarray, "e 2"], lengths: Float[np.ndarray, " e"] | Float[Array, " e"], num_nodes: int
) -> sparse.csr_array:
    """Builds the symmetric graph of a list of edges; of parallel edges the shortest counts.

    Args:
        edges: node pairs [e, 2], in either direction.
        lengths: lengths [e] >= 0; zeros are stored as edges.
        num_nodes: number of nodes n.

    Returns:
        csr_array [n, n] in float64 with sorted int32 indices, each edge stored in both directions.

    Raises:
        ValueError: for nodes out of range, self-loops, and lengths that are negative or not finite.

    Example:
        >>> graph_from_edges(np.array([[0, 1], [1, 2]]), np.array([0.5, 2.0]), 3).toarray().tolist()
        [[0.0, 0.5, 0.0], [0.5, 0.0, 2.0], [0.0, 2.0, 0.0]]
    """
    edges, values = np.asarray(edges, np.int64), np.asarray(lengths, np.float64)
    if len(edges) and not (edges.min() >= 0 and edges.max() < num_nodes):
        raise ValueError(f"expected nodes in [0, {num_nodes}), got [{edges.min()}, {edges.max()}]")
    if (edges[:, 0] == edges[:, 1]).any():
        raise ValueError("expected edges between different nodes, got a self-loop; drop edges with equal ends")
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("expected finite lengths >= 0, got negative, infinite or NaN; check the decoder's Jacobian")
    pairs = np.minimum(edges[:, 0], edges[:, 1]) * num_nodes + np.maximum(edges[:, 0], edges[:, 1])
    order = np.argsort(pairs, kind="stable")
    pairs, values = pairs[order], values[order]
    first = np.flatnonzero(np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)])
    pairs, values = pairs[first], np.minimum.reduceat(values, first) if len(first) else values
    low, high = pairs // num_nodes, pairs % num_nodes
    rows, columns = np.concatenate([low, high]), np.concatenate([high, low])
    order = np.argsort(rows * num_nodes + columns, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_nodes))])
    parts = (np.concatenate([values, values])[order], columns[order].astype(np.int32), starts.astype(np.int32))
    return sparse.csr_array(parts, shape=(num_nodes, num_nodes))


def edges_of(graph: Graph) -> tuple[Int[np.ndarray, "e 2"], Float[np.ndarray, " e"]]:
    """Lists the edges (a < b) of a symmetric graph [n, n] and their lengths: the inverse of `graph_from_edges`.

    Args:
        graph: symmetric graph.

    Returns:
        Node pairs int32 [e, 2] and lengths [e].

    Raises:
        ValueError: as `check_graph`.
    """
    check_graph(graph)
    rows = np.repeat(np.arange(graph.shape[0], dtype=np.int32), np.diff(graph.indptr))
    upper = rows < graph.indices
    return np.stack([rows[upper], graph.indices[upper].astype(np.int32)], axis=1), graph.data[upper].astype(np.float64)


def add_edges(
    graph: Graph, edges: Int[np.ndarray, "e 2"], lengths: Float[np.ndarray, " e"] | Float[Array, " e"]
) -> sparse.csr_array:
    """Adds edges to a symmetric graph; where an edge exists already, the shorter length counts.

    Args:
        graph: symmetric graph [n, n].
        edges: node pairs [e, 2].
        lengths: their lengths [e] >= 0.

    Returns:
        The larger graph [n, n].

    Raises:
        ValueError: as `graph_from_edges` and `check_graph`.
    """
    check_graph(graph)
    old_edges, old_lengths = edges_of(graph)
    all_lengths = np.concatenate([old_lengths, np.asarray(lengths, np.float64)])
    return graph_from_edges(np.concatenate([old_edges, edges]), all_lengths, graph.shape[0])


def knn_graph(
    points: Float[Array, "n d"] | Float[np.ndarray, "n d"],
    k: int,
    *,
    symmetry: Symmetry = "union",
    metric: Metric = "euclidean",
    backend: Backend = "auto",
    weights: Literal["distance", "connectivity"] = "distance",
    decode_fn: Callable[[Any], Any] | None = None,
    length_fn: LengthFn | None = None,
    rule: str = "endpoints",
    repair: bool = True,
    max_edges: int | None = None,
    seed: int = 0,
) -> sparse.csr_array:
    """Builds the symmetric k-nearest-neighbour graph of a set of points.

    Neighbours are found by `metric`; edges are as long as the pull-back metric of `decode_fn` says, or `length_fn`, or
    else the distance itself (`weights="connectivity"`: 1). Bridges that repair connects components with are measured in
    the same way as every other edge.

    Args:
        points: nodes [n, d].
        k: neighbours of each node, 1 <= k < n.
        symmetry: "union" keeps an edge if either end names the other, "mutual" only if both do.
        metric: distance of the neighbour search, "euclidean" or "cosine".
        backend: neighbour search, see `knn`.
        weights: lengths where neither decode_fn nor length_fn is given.
        decode_fn: decoder z[d] -> x; lengths are pull-back lengths.
        length_fn: any other lengths [e] of edges int32 [e, 2], such as those of the cells of spatial latents.
        rule: quadrature rule of the pull-back length, see `edge_lengths`.
        repair: join the components by their shortest bridges.
        max_edges: measure at most this many edges by decode_fn or length_fn, see `subset_lengths`.
        seed: draws the measured edges if max_edges is set.

    Returns:
        csr_array [n, n], symmetric, float64; stored zeros are edges.

    Raises:
        ValueError: for contradicting options, or as `knn` does.
    """
    if decode_fn is not None and length_fn is not None:
        raise ValueError("expected decode_fn or length_fn, got both; length_fn alone decides if it is given")
    if weights not in ("distance", "connectivity"):
        raise ValueError(f"expected weights 'distance' or 'connectivity', got {weights!r}")
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
        z = jnp.asarray(points)

        def length_fn(chosen: np.ndarray) -> Any:
            return edge_lengths(decode_fn, z, chosen, rule=rule)

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

    The edges are divided into equal bins by distance and the sample is drawn evenly from them. An edge that is not
    measured is as long as its distance times the bin's ratio, sum of lengths over sum of distances.

    Args:
        edges: node pairs [e, 2].
        distances: their Euclidean lengths [e].
        length_fn: lengths [m] of edges [m, 2]; called once.
        max_edges: number of edges to measure; None for all.
        seed: draws the sample.
        num_bins: number of bins.

    Returns:
        Lengths [e], measured or estimated, in the unit of length_fn.

    Raises:
        ValueError: for max_edges < num_bins.
    """
    if max_edges is None or max_edges >= len(edges):
        return np.asarray(length_fn(edges), np.float64)
    if max_edges < num_bins:
        raise ValueError(f"expected max_edges >= {num_bins}, an edge for every bin, got {max_edges}")
    rng = np.random.default_rng(seed)
    bins = np.array_split(np.argsort(distances, kind="stable"), num_bins)
    quotas = np.diff(np.linspace(0, max_edges, num_bins + 1).astype(int))
    samples = [rng.choice(members, quota, replace=False) for members, quota in zip(bins, quotas, strict=True)]
    chosen = np.concatenate(samples)
    lengths = np.zeros(len(edges))
    lengths[chosen] = np.asarray(length_fn(edges[chosen]), np.float64)
    for members, sample in zip(bins, samples, strict=True):
        others, total = np.setdiff1d(members, sample), distances[sample].sum()
        lengths[others] = distances[others] * (lengths[sample].sum() / total if total > 0 else 0.0)
    return lengths
