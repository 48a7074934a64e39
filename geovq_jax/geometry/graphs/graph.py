"""Symmetric sparse graphs: neighbours to edges, edges to CSR, checks and connected components.

A graph is a `scipy.sparse.csr_array` in float64, symmetric, without self-loops. Every stored entry is an edge, also one
that stores 0.0: coincident points are joined by an edge of length zero. `csgraph.dijkstra` and
`csgraph.connected_components` honour stored zeros; addition, `maximum` and `minimum_spanning_tree` lose them, so graphs
are built here from sorted parts and never by sparse arithmetic.
"""

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from jaxtyping import Array, Float, Int
from scipy import sparse

from geovq_jax.geometry.checks import check_choice, check_count, check_ids, check_lengths

Graph: TypeAlias = sparse.csr_array | sparse.csr_matrix
Symmetry = Literal["union", "mutual"]


def unique_edges(neighbours: Int[np.ndarray, "n k"], *, symmetry: Symmetry = "union") -> Int[np.ndarray, "e 2"]:
    """Lists each undirected edge of a neighbour table once, as (a, b) with a < b, in lexicographic order.

    Args:
        neighbours: row i names the neighbours of node i.
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
    check_choice("symmetry", symmetry, get_args(Symmetry))
    neighbours = check_ids("neighbours", neighbours, None, "n* k*")
    n = len(neighbours)
    columns = np.sort(neighbours.astype(np.int64), axis=1)
    rows = np.broadcast_to(np.arange(n)[:, None], columns.shape)
    proper = rows != columns
    proper[:, 1:] &= columns[:, 1:] != columns[:, :-1]
    rows, columns = rows[proper], columns[proper]
    # After sorting, a pair named by both ends occurs twice in succession. (numpy's unique hashes, ten times slower
    # here.)
    pairs = np.sort(np.minimum(rows, columns) * n + np.maximum(rows, columns))
    again = pairs[1:] == pairs[:-1]
    pairs = pairs[1:][again] if symmetry == "mutual" else pairs[np.append(True, ~again)[: len(pairs)]]
    return np.stack([pairs // n, pairs % n], axis=1).astype(np.int32)


def graph_from_edges(
    edges: Int[np.ndarray, "e 2"], lengths: Float[np.ndarray | Array, " e"], num_nodes: int
) -> sparse.csr_array:
    """Builds the symmetric graph of a list of edges; of parallel edges the shortest counts.

    Args:
        edges: node pairs, in either direction.
        lengths: >= 0; zeros are stored as edges.
        num_nodes: number of nodes n.

    Returns:
        csr_array [n, n] in float64 with sorted int32 indices, each edge stored in both directions.

    Raises:
        ValueError: for edges that are not pairs of different nodes, or not one finite length >= 0 per edge.

    Example:
        >>> graph_from_edges(np.array([[0, 1], [1, 2]]), np.array([0.5, 2.0]), 3).toarray().tolist()
        [[0.0, 0.5, 0.0], [0.5, 0.0, 2.0], [0.0, 2.0, 0.0]]
    """
    check_count("num_nodes", num_nodes)
    edges = check_ids("edges", edges, num_nodes, "e* 2").astype(np.int64)
    values = np.asarray(check_lengths("lengths", lengths, str(len(edges))), np.float64)
    if (edges[:, 0] == edges[:, 1]).any():
        raise ValueError("expected edges between different nodes, got a self-loop; drop edges with equal ends")
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

    Raises:
        ValueError: as `check_graph`.

    Example:
        >>> graph = graph_from_edges(np.array([[0, 1], [1, 2]]), np.array([0.5, 2.0]), 3)
        >>> edges, lengths = edges_of(graph)
        >>> edges.tolist(), lengths.tolist()
        ([[0, 1], [1, 2]], [0.5, 2.0])
    """
    check_graph(graph)
    rows = np.repeat(np.arange(graph.shape[0], dtype=np.int32), np.diff(graph.indptr))
    upper = rows < graph.indices
    return np.stack([rows[upper], graph.indices[upper].astype(np.int32)], axis=1), graph.data[upper].astype(np.float64)


def add_edges(
    graph: Graph, edges: Int[np.ndarray, "e 2"], lengths: Float[np.ndarray | Array, " e"]
) -> sparse.csr_array:
    """Adds edges of given lengths >= 0 to a symmetric graph; where an edge exists already, the shorter length counts.

    Raises:
        ValueError: as `graph_from_edges` and `check_graph`.

    Example:
        >>> graph = graph_from_edges(np.array([[0, 1], [1, 2]]), np.array([0.5, 2.0]), 3)
        >>> float(add_edges(graph, np.array([[0, 2]]), np.array([1.0]))[2, 0])
        1.0
    """
    old_edges, old_lengths = edges_of(graph)
    edges = np.concatenate([old_edges, check_ids("edges", edges, graph.shape[0], "e* 2")])
    new_lengths = check_lengths("lengths", lengths, str(len(edges) - len(old_edges)))
    return graph_from_edges(edges, np.concatenate([old_lengths, new_lengths]), graph.shape[0])


class Connectivity(NamedTuple):
    """Size and connectivity of a graph.

    Attributes:
        num_edges: number of undirected edges, those of length zero included.
        largest_fraction: share of the nodes in the largest component.
        degree_min, degree_mean, degree_max: of the numbers of edges per node.
    """

    num_nodes: int
    num_edges: int
    num_components: int
    largest_fraction: float
    degree_min: int
    degree_mean: float
    degree_max: int


def check_graph(graph: Any, *, symmetric: bool = True) -> None:
    """Raises ValueError for anything but a graph of lengths >= 0, symmetric unless told otherwise.

    Raises ValueError for another type or shape, parts that do not fit together, an entry twice, a self-loop, a length
    that is negative, infinite or NaN, or an edge without its equal in the other direction.
    """
    remedy = "build it with graph_from_edges or knn_graph"
    if not isinstance(graph, sparse.csr_array | sparse.csr_matrix):
        raise ValueError(f"expected a graph as scipy.sparse.csr_array, got {type(graph).__name__}; {remedy}")
    if graph.ndim != 2 or graph.shape[0] != graph.shape[1] or graph.shape[0] == 0:
        raise ValueError(f"expected a square matrix of lengths of at least one node, got shape {graph.shape}; {remedy}")
    _check_parts(graph, remedy)
    check_lengths("edge lengths", graph.data, "e*")
    # Sorted by row of the transpose, every list of neighbours comes out in ascending order.
    back = sparse.csr_array(graph.T)
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    here = graph if graph.has_sorted_indices else sparse.csr_array(back.T)
    if (rows == graph.indices).any():
        raise ValueError(f"expected edges between different nodes, got a self-loop; {remedy}")
    if ((here.indices[1:] == here.indices[:-1]) & (rows[1:] == rows[:-1])).any():
        raise ValueError(f"expected every edge once in each direction, got one twice; {remedy}")
    parts = ("indptr", "indices", "data") if symmetric else ()
    if not all(np.array_equal(getattr(here, part), getattr(back, part)) for part in parts):
        raise ValueError(f"expected a symmetric graph, got one that is not; {remedy}")


def _check_parts(graph: Graph, remedy: str) -> None:
    """Raises ValueError for an invalid CSR matrix: SciPy and compiled loops would read out of bounds."""
    for name, kinds in (("indptr", "i"), ("indices", "i"), ("data", "fiu")):
        part = getattr(graph, name, None)
        if not isinstance(part, np.ndarray) or part.ndim != 1 or part.dtype.kind not in kinds or part.itemsize < 4:
            found = f"{part.dtype} {list(part.shape)}" if isinstance(part, np.ndarray) else type(part).__name__
            numbers = "integers" if kinds == "i" else "real numbers"
            raise ValueError(f"expected {name} of the graph as {numbers} of 32 or 64 bits, got {found}; {remedy}")
    size, indptr, lengths = graph.shape[0], graph.indptr, (len(graph.indices), len(graph.data))
    if len(indptr) != size + 1 or indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
        raise ValueError(f"expected indptr as {size + 1} non-decreasing integers from 0, got others; {remedy}")
    if lengths != (indptr[-1], indptr[-1]):
        raise ValueError(f"expected {indptr[-1]} indices and edge lengths, as indptr says, got {lengths}; {remedy}")
    check_ids("indices of the graph", graph.indices, size, "e*")


def components(graph: Graph) -> Int[np.ndarray, " n"]:
    """Labels the connected components, the largest as 0 (ties by the least node)."""
    _, labels = sparse.csgraph.connected_components(graph, directed=False)
    order = np.argsort(-np.bincount(labels), kind="stable")
    return np.argsort(order)[labels].astype(np.int32)


def connectivity(graph: Graph) -> Connectivity:
    """Counts edges, components and degrees of a symmetric graph.

    Raises:
        ValueError: as `check_graph`.

    Example:
        >>> graph = graph_from_edges(np.array([[0, 1], [1, 2]]), np.array([0.5, 2.0]), 4)
        >>> found = connectivity(graph)
        >>> found.num_edges, found.num_components, found.largest_fraction
        (2, 2, 0.75)
    """
    check_graph(graph)
    degrees, labels = np.diff(graph.indptr), components(graph)
    num_components, largest_fraction = int(labels.max()) + 1, float(np.mean(labels == 0))
    spread = int(degrees.min()), float(degrees.mean()), int(degrees.max())
    return Connectivity(graph.shape[0], int(graph.nnz) // 2, num_components, largest_fraction, *spread)
