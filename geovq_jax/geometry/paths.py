"""Shortest paths on symmetric sparse graphs: Dijkstra on the host, min-plus relaxation in JAX on any device.

Nodes that no source reaches have distance infinity and source -1: nothing is ever assigned to them in silence. Stored
zeros are edges of length zero (see `geovq_jax.geometry.graph`).
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import numba
import numpy as np
from jaxtyping import Array, Float, Int
from joblib import Parallel, delayed, effective_n_jobs
from scipy.sparse import csgraph

from geovq_jax import mesh
from geovq_jax.geometry.components import Graph, check_graph

Nodes = Int[np.ndarray, " s"] | Int[Array, " s"] | Sequence[int]


class Nearest(NamedTuple):
    """Nearest source of every node.

    Attributes:
        distance: float [n], infinity where no source reaches.
        source: int32 [n], the node id of the nearest source (an entry of `sources`), -1 where no source reaches.
    """

    distance: Float[np.ndarray, " n"] | Float[Array, " n"]
    source: Int[np.ndarray, " n"] | Int[Array, " n"]


def dijkstra(
    graph: Graph,
    sources: Nodes,
    *,
    limit: float = np.inf,
    unweighted: bool = False,
    return_predecessors: bool = False,
    num_jobs: int = 1,
) -> Float[np.ndarray, "s n"] | tuple[Float[np.ndarray, "s n"], Int[np.ndarray, "s n"]]:
    """Computes the shortest distances from each source to every node.

    Args:
        graph: symmetric graph.
        sources: node ids [s].
        limit: largest distance to look at; nodes further away count as unreached.
        unweighted: count edges instead of adding lengths.
        return_predecessors: also return the node before each on its path.
        num_jobs: processes among which the sources are divided (the search holds the interpreter's lock, so threads
            would not help); -1 for all cores. A `joblib.parallel_config` in force decides where they run.

    Returns:
        Distances [s, n], infinity where a source does not reach; with `return_predecessors` also int32 [s, n], -9999 at
        the source itself and where it does not reach.

    Raises:
        ValueError: without sources, for nodes out of range, or as `check_graph`.
    """
    check_graph(graph)
    nodes = _check_nodes(graph.shape[0], sources)
    search = partial(
        csgraph.dijkstra, graph, limit=limit, unweighted=unweighted, return_predecessors=return_predecessors
    )
    if num_jobs == 1:
        return search(indices=nodes)
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
        limit: largest distance to look at; nodes further away count as unreached.

    Returns:
        Nearest(distance[n], source[n]); `source` holds node ids, not positions in `sources`.

    Raises:
        ValueError: without sources, for nodes out of range, or as `check_graph`.
    """
    check_graph(graph)
    nodes = _check_nodes(graph.shape[0], sources)
    distance = csgraph.dijkstra(graph, indices=nodes, limit=limit, min_only=True)
    return Nearest(distance, _first_sources(graph.indptr, graph.indices, graph.data, distance, nodes))


def shortest_path(graph: Graph, a: int | np.integer, b: int | np.integer) -> Int[np.ndarray, " t"]:
    """Returns the node ids of a shortest path, a and b included.

    Args:
        graph: symmetric graph [n, n].
        a: first node.
        b: last node.

    Returns:
        Node ids [t].

    Raises:
        ValueError: for nodes out of range, if no path joins them, or as `check_graph`.

    Example:
        >>> from geovq_jax.geometry import graph_from_edges
        >>> ring = graph_from_edges(np.array([[0, 1], [1, 2], [2, 3], [3, 0]]), np.array([1.0, 1.0, 1.0, 5.0]), 4)
        >>> shortest_path(ring, 0, 3).tolist()
        [0, 1, 2, 3]
    """
    check_graph(graph)
    _check_nodes(graph.shape[0], np.array([a, b]))
    _, predecessors = csgraph.dijkstra(graph, indices=a, return_predecessors=True)
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
    targets: Int[np.ndarray, " t"] | Int[Array, " t"] | Sequence[int],
    *,
    batch_size: int = 256,
    num_jobs: int = 1,
) -> Float[np.ndarray, "s t"]:
    """Computes the shortest distance from every source to every target, in O(s t + batch_size n) memory.

    Args:
        graph: symmetric graph.
        sources: node ids [s].
        targets: node ids [t]. The search starts from the shorter of the two lists.
        batch_size: searches whose full rows are held at a time.
        num_jobs: processes, as in `dijkstra`.

    Returns:
        Distances [s, t], infinity between different components.

    Raises:
        ValueError: for an empty list, for nodes out of range, or as `check_graph`.
    """
    check_graph(graph)
    starts, ends = _check_nodes(graph.shape[0], sources), _check_nodes(graph.shape[0], targets)
    if len(ends) < len(starts):
        return distances_between(graph, ends, starts, batch_size=batch_size, num_jobs=num_jobs).T
    table = np.empty((len(starts), len(ends)))
    for first in range(0, len(starts), batch_size):
        part = slice(first, first + batch_size)
        table[part] = np.asarray(dijkstra(graph, starts[part], num_jobs=num_jobs))[:, ends]
    return table


def relax(
    neighbours: Int[np.ndarray, "r w"] | Int[Array, "r w"],
    lengths: Float[np.ndarray, "r w"] | Float[Array, "r w"],
    sources: Nodes,
    *,
    num_nodes: int | None = None,
    batch_size: int = 128,
) -> Float[Array, "s n"]:
    """Computes the distances of `dijkstra` on any device by min-plus sweeps, exact when no entry changes any more.

    d(v) <- min(d(v), min_j d(neighbours[v, j]) + lengths[v, j])

    Args:
        neighbours: nodes adjacent to each node, as `pad_graph` gives them; every edge stands in the rows of both ends.
        lengths: lengths >= 0, infinity in free slots.
        sources: node ids [s].
        num_nodes: number of nodes n if there are overflow rows; all r rows by default.
        batch_size: sources swept together, on each of the devices of `mesh.over`.

    Returns:
        Distances [s, n] in the device's default precision, infinity where a source does not reach.

    Raises:
        ValueError: without sources, or for nodes out of range.
    """
    n = len(neighbours) if num_nodes is None else num_nodes
    nodes = _check_nodes(n, sources)
    batch = min(batch_size, -(-len(nodes) // mesh.size()))
    padded = np.pad(nodes, (0, -len(nodes) % (batch * mesh.size())), mode="edge").reshape(-1, batch)

    def sweep_batches(starts: Int[Array, "batches b"], *graph: Array) -> Float[Array, "s n"]:
        return _relax_batches(*graph, starts, n)

    starts = jnp.asarray(padded, jnp.int32)
    table = mesh.over_rows(sweep_batches, starts, jnp.asarray(neighbours), _as_float(lengths))
    return table[: len(nodes)]


def relax_nearest(
    neighbours: Int[np.ndarray, "r w"] | Int[Array, "r w"],
    lengths: Float[np.ndarray, "r w"] | Float[Array, "r w"],
    sources: Nodes,
    *,
    num_nodes: int | None = None,
) -> Nearest:
    """Computes `nearest_source` on any device by min-plus sweeps that carry the source with the distance.

    Distance and source are ordered as a pair, so among sources at equal distances the first in the list wins. The nodes
    are split over the devices of `mesh.over`, which exchange distances and sources after each sweep.

    Args:
        neighbours: as in `relax`.
        lengths: as in `relax`.
        sources: node ids [s].
        num_nodes: as in `relax`.

    Returns:
        Nearest(distance[n], source[n]) on the device; `source` holds node ids.

    Raises:
        ValueError: without sources, or for nodes out of range.
    """
    n = len(neighbours) if num_nodes is None else num_nodes
    nodes = _check_nodes(n, sources)
    graph = jnp.asarray(neighbours), _as_float(lengths)
    parts = [jax.tree.map(_fill_rows, tuple(array[rows] for array in graph)) for rows in (slice(n), slice(n, None))]
    found = mesh.over_rows(partial(_relax_labels, n=n, num_devices=mesh.size()), parts, jnp.asarray(nodes, jnp.int32))
    return Nearest(found.distance[:n], found.source[:n])  # every device returned all nodes


def _check_nodes(num_nodes: int, nodes: Nodes) -> np.ndarray:
    ids = np.asarray(nodes)
    if ids.ndim != 1 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"expected a list of at least one node id, got {ids.dtype} of shape {ids.shape}")
    if ids.min() < 0 or ids.max() >= num_nodes:
        raise ValueError(f"expected node ids in [0, {num_nodes}), got [{ids.min()}, {ids.max()}]")
    return ids.astype(np.int64)


@numba.njit(cache=True, nogil=True)
@no_type_check
def _first_sources(indptr, indices, data, distance, sources):
    """First source in the list to attain each node's distance: a flood along tight edges, source by source."""
    source = np.full(len(distance), -1, np.int32)
    stack = np.empty(len(distance), np.int32)
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
                    source[v] = s
                    stack[height] = v
                    height += 1
    return source


def _as_float(lengths: Float[np.ndarray, "r w"] | Float[Array, "r w"]) -> Float[Array, "r w"]:
    return jnp.asarray(lengths, jnp.result_type(float))


@partial(jax.jit, static_argnames="n")
def _relax_batches(
    neighbours: Int[Array, "r w"], lengths: Float[Array, "r w"], sources: Int[Array, "batches b"], n: int
) -> Float[Array, "s n"]:
    columns, column_lengths = neighbours.T, lengths.T

    def pull(values: Float[Array, "m b"], rows: slice) -> Float[Array, "p b"]:
        def column(j: Int[Array, ""], best: Float[Array, "p b"]) -> Float[Array, "p b"]:
            return jnp.minimum(best, values[columns[j, rows]] + column_lengths[j, rows, None])

        shape = (columns[0, rows].shape[0], values.shape[1])
        return jax.lax.fori_loop(0, columns.shape[0], column, jnp.full(shape, jnp.inf, values.dtype))

    def sweep(state: tuple[Float[Array, "n b"], Array]) -> tuple[Float[Array, "n b"], Array]:
        old, _ = state
        overflow = pull(old, slice(n, None))
        new = jnp.minimum(old, pull(jnp.concatenate([old, overflow]), slice(0, n)))
        return new, (new < old).any()

    def one_batch(batch: Int[Array, " b"]) -> Float[Array, "b n"]:
        start = jnp.full((n, batch.shape[0]), jnp.inf, lengths.dtype).at[batch, jnp.arange(batch.shape[0])].set(0)
        distance, _ = jax.lax.while_loop(lambda state: state[1], sweep, (start, jnp.array(True)))
        return distance.T

    return jax.lax.map(one_batch, sources).reshape(-1, n)


def _fill_rows(rows: Array) -> Array:
    """The rows and free ones behind them, so many that `mesh.size()` divides their number."""
    free = jnp.inf if jnp.issubdtype(rows.dtype, jnp.floating) else 0
    return jnp.pad(rows, ((0, -len(rows) % mesh.size()), (0, 0)), constant_values=free)


@partial(jax.jit, static_argnames=("n", "num_devices"))
def _relax_labels(parts: list[tuple[Array, Array]], sources: Int[Array, " s"], n: int, num_devices: int) -> Nearest:
    """Sweeps of the nodes' rows and the overflow rows, both (neighbours, lengths), that are this device's own."""
    nodes, overflow = parts
    nobody = sources.shape[0]

    def pull(distance: Array, label: Array, neighbours: Array, lengths: Array) -> tuple[Array, Array]:
        candidates = distance[neighbours] + lengths
        best = candidates.min(axis=1)
        nearest = (candidates == best[:, None]) & jnp.isfinite(candidates)  # no label across a free slot
        found = best, jnp.where(nearest, label[neighbours], nobody).min(axis=1)
        return found if num_devices == 1 or not len(neighbours) else mesh.gathered(found)

    def sweep(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        distance, label, _ = state
        far, far_label = pull(distance, label, *overflow)
        new, new_label = pull(jnp.concatenate([distance, far]), jnp.concatenate([label, far_label]), *nodes)
        new, new_label = new[:n], new_label[:n]
        better = (new < distance) | ((new == distance) & (new_label < label))
        return jnp.where(better, new, distance), jnp.where(better, new_label, label), better.any()

    dtype = nodes[1].dtype
    distance = jnp.full(n, jnp.inf, dtype).at[sources].set(0)
    label = jnp.full(n, nobody, sources.dtype).at[sources].min(jnp.arange(nobody, dtype=sources.dtype))
    distance, label, _ = jax.lax.while_loop(lambda state: state[2], sweep, (distance, label, jnp.array(True)))
    return Nearest(distance, jnp.append(sources, -1)[label])
