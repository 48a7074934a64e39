"""Shortest paths on symmetric sparse graphs: Dijkstra on the host, min-plus relaxation in JAX on any device.

Nodes that no source reaches have distance infinity and source -1. Stored zeros are edges of length zero (see
`geovq_jax.geometry.graphs.graph`).
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int
from scipy import sparse

from geovq_jax.geometry.checks import check_count, check_ids, check_number
from geovq_jax.geometry.compilation import Kernel
from geovq_jax.geometry.graphs.graph import Graph, check_graph

Nodes = Int[np.ndarray | Array, " s"] | Sequence[int]


class Nearest(NamedTuple):
    """Distance to, and node id of, the nearest source of every node; infinity and -1 where no source reaches."""

    distance: Float[np.ndarray | Array, " n"]
    source: Int[np.ndarray | Array, " n"]


def dijkstra(
    graph: Graph,
    sources: Nodes,
    *,
    limit: float = np.inf,
    unweighted: bool = False,
    directed: bool = False,
    return_predecessors: bool = False,
    num_jobs: int = 1,
) -> Float[np.ndarray, "s n"] | tuple[Float[np.ndarray, "s n"], Int[np.ndarray, "s n"]]:
    """Computes the shortest distances from each source to every node.

    Args:
        graph: symmetric graph, or any with `directed`.
        sources: node ids [s].
        limit: largest distance; nodes farther away count as unreached.
        unweighted: count edges instead of adding lengths.
        directed: take the edge from row to column of each entry, for lengths that depend on the direction.
        return_predecessors: also return the node before each on its path.
        num_jobs: processes that share the sources (the search holds the interpreter's lock, so threads would not help);
            -1 for all cores. An active `joblib.parallel_config` determines where they run.

    Returns:
        Distances [s, n], infinity where a source does not reach; with `return_predecessors` also int32 [s, n], -9999 at
        the source itself and where it does not reach.

    Raises:
        ValueError: without sources, for nodes out of range, or as `check_graph`.

    Example:
        >>> from geovq_jax.geometry import graph_from_edges
        >>> path = graph_from_edges(np.array([[0, 1], [1, 2]]), np.array([0.5, 2.0]), 3)
        >>> dijkstra(path, [0]).tolist()
        [[0.0, 0.5, 2.5]]
    """
    check_graph(graph, symmetric=not directed)
    nodes = check_ids("sources", sources, graph.shape[0])
    check_number("limit", limit)
    options = {"limit": limit, "unweighted": unweighted, "return_predecessors": return_predecessors}
    search = partial(sparse.csgraph.dijkstra, graph, **options)
    if num_jobs == 1:
        return search(indices=nodes)
    from joblib import Parallel, delayed, effective_n_jobs

    parts = np.array_split(nodes, min(len(nodes), 4 * effective_n_jobs(num_jobs)))
    results = Parallel(n_jobs=num_jobs)(delayed(search)(indices=part) for part in parts)
    if return_predecessors:
        return np.concatenate([r[0] for r in results]), np.concatenate([r[1] for r in results])
    return np.concatenate(results)


def nearest_source(graph: Graph, sources: Nodes, *, limit: float = np.inf) -> Nearest:
    """Finds the nearest of the sources from every node, in O(n) memory.

    d(v) = min_s d(s, v). Equal to the minimum over the rows of `dijkstra`, without the s x n table.

    Args:
        graph: symmetric graph.
        sources: node ids [s]. Among sources at equal distances the first in this list wins.
        limit: as in `dijkstra`.

    Returns:
        Nearest(distance[n], source[n]); `source` holds node ids, not positions in `sources`.

    Raises:
        ValueError: without sources, for nodes out of range, or as `check_graph`.

    Example:
        >>> from geovq_jax.geometry import graph_from_edges
        >>> path = graph_from_edges(np.array([[0, 1], [1, 2]]), np.array([0.5, 2.0]), 3)
        >>> found = nearest_source(path, [0, 2])
        >>> found.distance.tolist(), found.source.tolist()
        ([0.0, 0.5, 0.0], [0, 0, 2])
    """
    check_graph(graph)
    nodes = check_ids("sources", sources, graph.shape[0]).astype(np.int64)
    check_number("limit", limit)
    distance = sparse.csgraph.dijkstra(graph, indices=nodes, limit=limit, min_only=True)
    return Nearest(distance, _first_sources(graph.indptr, graph.indices, graph.data, distance, nodes))


def shortest_path(graph: Graph, a: int | np.integer, b: int | np.integer) -> Int[np.ndarray, " t"]:
    """Returns the node ids of a shortest path, a and b included.

    Args:
        graph: symmetric graph [n, n].
        a, b: first and last node.

    Raises:
        ValueError: for nodes out of range, if no path joins them, or as `check_graph`.

    Example:
        >>> from geovq_jax.geometry import graph_from_edges
        >>> ring = graph_from_edges(np.array([[0, 1], [1, 2], [2, 3], [3, 0]]), np.array([1.0, 1.0, 1.0, 5.0]), 4)
        >>> shortest_path(ring, 0, 3).tolist()
        [0, 1, 2, 3]
    """
    check_graph(graph)
    check_ids("nodes", [a, b], graph.shape[0], "2")
    _, predecessors = sparse.csgraph.dijkstra(graph, indices=a, return_predecessors=True)
    if a != b and predecessors[b] < 0:
        raise ValueError(f"expected connected nodes, got {a} and {b} in different components; build with repair=True")
    return read_path(predecessors, b)


def read_path(predecessors: Int[np.ndarray, " n"], target: int | np.integer) -> Int[np.ndarray, " t"]:
    """Follows one row of predecessors back from the target and returns the node ids from its source to it."""
    path = [int(target)]
    while predecessors[path[-1]] >= 0:
        path.append(int(predecessors[path[-1]]))
    return np.array(path[::-1], np.int32)


def distances_between(
    graph: Graph,
    sources: Nodes,
    targets: Int[np.ndarray | Array, " t"] | Sequence[int],
    *,
    batch_size: int = 256,
    num_jobs: int = 1,
) -> Float[np.ndarray, "s t"]:
    """Computes the shortest distance from every source to every target, in O(s t + batch_size n) memory.

    Args:
        graph: symmetric graph.
        sources: node ids [s].
        targets: node ids [t]. The search starts from the shorter of the two lists.
        batch_size: searches whose full rows are in memory at a time.
        num_jobs: processes, as in `dijkstra`.

    Returns:
        Distances [s, t], infinity between different components.

    Raises:
        ValueError: for an empty list, for nodes out of range, or as `check_graph`.

    Example:
        >>> from geovq_jax.geometry import graph_from_edges
        >>> path = graph_from_edges(np.array([[0, 1], [1, 2]]), np.array([0.5, 2.0]), 3)
        >>> distances_between(path, [0], [1, 2]).tolist()
        [[0.5, 2.5]]
    """
    check_graph(graph)
    starts, ends = check_ids("sources", sources, graph.shape[0]), check_ids("targets", targets, graph.shape[0])
    check_count("batch_size", batch_size)
    if len(ends) < len(starts):
        return distances_between(graph, ends, starts, batch_size=batch_size, num_jobs=num_jobs).T
    batches = [starts[first : first + batch_size] for first in range(0, len(starts), batch_size)]
    return np.concatenate([np.asarray(dijkstra(graph, batch, num_jobs=num_jobs))[:, ends] for batch in batches])


@Kernel
def _first_sources(indptr, indices, data, distance, sources):
    """First source in the list to attain each node's distance: a flood along tight edges, source by source."""
    source, stack = np.full(len(distance), -1, np.int32), np.empty(len(distance), np.int32)
    for s in sources:
        if source[s] >= 0:
            continue
        source[s], stack[0], height = s, s, 1
        while height > 0:
            height -= 1
            u = stack[height]
            for e in range(indptr[u], indptr[u + 1]):
                v = indices[e]
                if source[v] < 0 and distance[u] + data[e] == distance[v]:
                    source[v], stack[height] = s, v
                    height += 1
    return source
