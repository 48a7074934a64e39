"""Shortest paths on graphs stored as rectangular arrays, for accelerators."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from geovq_jax import mesh
from geovq_jax.geometry.checks import check_count, check_ids, check_lengths, is_traced
from geovq_jax.geometry.graphs.graph import Graph, check_graph
from geovq_jax.geometry.graphs.paths import Nearest, Nodes

Table = Int[np.ndarray | Array, "r w"]
TableLengths = Float[np.ndarray | Array, "r w"]


class PaddedGraph(NamedTuple):
    """A graph as rectangular arrays, for `relax` and `relax_nearest`.

    Rows below `num_nodes` are nodes. A node with more than w neighbours continues in overflow rows (those from
    `num_nodes` on), which its own row names as neighbours at length zero. Free slots hold the row's own number and
    length infinity.
    """

    neighbours: Int[np.ndarray, "r w"]
    lengths: Float[np.ndarray, "r w"]
    num_nodes: int


def pad_graph(graph: Graph) -> PaddedGraph:
    """Lays out a symmetric graph as rectangular arrays, of the width that takes least memory.

    Degrees of union graphs are uneven (hubs hold ten times the mean), so nodes wider than w continue in overflow rows:
    with m of them a node has room for w - m + m w neighbours. One level suffices for w >= sqrt(largest degree).

    Raises:
        ValueError: as `check_graph`.

    Example:
        >>> from geovq_jax.geometry import graph_from_edges
        >>> path = graph_from_edges(np.array([[0, 1], [1, 2]]), np.array([0.5, 2.0]), 3)
        >>> padded = pad_graph(path)
        >>> padded.num_nodes, sorted(padded.neighbours[1].tolist())
        (3, [0, 2])
    """
    check_graph(graph)
    n, degrees = graph.shape[0], np.diff(graph.indptr)
    widest = max(int(degrees.max(initial=0)), 1)
    widths = np.unique(np.linspace(max(2, int(np.ceil(np.sqrt(widest)))), max(2, widest), 64).astype(int))
    w = min(widths.tolist(), key=lambda width: width * (n + _overflow_rows(degrees, width).sum()))
    extra = _overflow_rows(degrees, w)
    first_extra = n + np.concatenate([[0], np.cumsum(extra)])
    total = int(first_extra[-1])
    neighbours = np.tile(np.arange(total, dtype=np.int32)[:, None], (1, w))
    lengths = np.full((total, w), np.inf)

    direct = np.where(extra > 0, w - extra, w)  # slots of a node's own row that hold true neighbours
    rows = np.repeat(np.arange(n), degrees)
    rank = np.arange(len(rows)) - np.repeat(graph.indptr[:-1], degrees)
    beyond = rank - direct[rows]
    row = np.where(beyond < 0, rows, first_extra[rows] + beyond // w)
    slot = np.where(beyond < 0, rank, beyond % w)
    neighbours[row, slot], lengths[row, slot] = graph.indices, graph.data

    owner = np.repeat(np.arange(n), extra)
    order = np.arange(total - n) - (first_extra[owner] - n)
    neighbours[owner, direct[owner] + order], lengths[owner, direct[owner] + order] = np.arange(n, total), 0.0
    return PaddedGraph(neighbours, lengths, n)


def _overflow_rows(degrees: Int[np.ndarray, " n"], width: int) -> Int[np.ndarray, " n"]:
    """Overflow rows m of each node: the least with width - m + m width >= degree."""
    return np.maximum(0, -(-(degrees - width) // (width - 1)))


def relax(
    neighbours: Table, lengths: TableLengths, sources: Nodes, *, num_nodes: int | None = None, batch_size: int = 128
) -> Float[Array, "s n"]:
    """Computes the distances of `dijkstra` on any device by min-plus sweeps, exact when no entry changes any more.

    d(v) <- min(d(v), min_j d(neighbours[v, j]) + lengths[v, j])

    Args:
        neighbours: of each node, as `pad_graph` gives them; every edge is in the rows of both ends.
        lengths: of these edges, >= 0, infinity in free slots.
        sources: node ids [s].
        num_nodes: number of nodes n if there are overflow rows; all r rows by default.
        batch_size: sources swept together, on each of the devices of `mesh.use_devices`.

    Returns:
        Distances [s, n] in the device's default precision, infinity where a source does not reach.

    Raises:
        ValueError: without sources, for nodes out of range, or for arrays that `pad_graph` does not make.

    Example:
        >>> from geovq_jax.geometry import graph_from_edges
        >>> path = graph_from_edges(np.array([[0, 1], [1, 2]]), np.array([0.5, 2.0]), 3)
        >>> padded = pad_graph(path)
        >>> relax(padded.neighbours, padded.lengths, [0], num_nodes=padded.num_nodes).tolist()
        [[0.0, 0.5, 2.5]]
    """
    graph, n, nodes = _check(neighbours, lengths, sources, num_nodes)
    check_count("batch_size", batch_size)
    batch = min(batch_size, -(-len(nodes) // mesh.size()))
    padded = np.pad(nodes, (0, -len(nodes) % (batch * mesh.size())), mode="edge").reshape(-1, batch)
    return mesh.over_rows(partial(_relax_batches, n=n), jnp.asarray(padded, jnp.int32), *graph)[: len(nodes)]


def relax_nearest(neighbours: Table, lengths: TableLengths, sources: Nodes, *, num_nodes: int | None = None) -> Nearest:
    """Computes `nearest_source` on any device by min-plus sweeps that carry the source with the distance.

    Distance and source are ordered as a pair, so among sources at equal distances the first in the list wins. The nodes
    are split over the devices of `mesh.use_devices`, which exchange distances and sources after each sweep.

    Args and errors are those of `relax`.

    Returns:
        Nearest(distance[n], source[n]) on the device; `source` holds node ids.

    Example:
        >>> from geovq_jax.geometry import graph_from_edges
        >>> path = graph_from_edges(np.array([[0, 1], [1, 2]]), np.array([0.5, 2.0]), 3)
        >>> padded = pad_graph(path)
        >>> relax_nearest(padded.neighbours, padded.lengths, [0, 2], num_nodes=padded.num_nodes).source.tolist()
        [0, 0, 2]
    """
    graph, n, nodes = _check(neighbours, lengths, sources, num_nodes)
    parts = [jax.tree.map(_fill_rows, tuple(array[rows] for array in graph)) for rows in (slice(n), slice(n, None))]
    found = mesh.over_rows(partial(_relax_labels, n=n, num_devices=mesh.size()), parts, jnp.asarray(nodes, jnp.int32))
    return Nearest(found.distance[:n], found.source[:n])  # every device returned all nodes


def _check(neighbours: Any, lengths: Any, sources: Nodes, num_nodes: int | None) -> tuple[tuple, int, np.ndarray]:
    """(neighbours, lengths) on the device, n, and the sources; the values of traced arrays are not checked."""
    if not is_traced(neighbours):
        check_ids("neighbours", neighbours, None, "r w")
    check_lengths("lengths", lengths, " ".join(map(str, np.shape(neighbours))), infinite=True)
    n = len(neighbours) if num_nodes is None else num_nodes
    check_count("num_nodes", n, 1, len(neighbours), "the other rows are overflow rows")
    graph = jnp.asarray(neighbours), jnp.asarray(lengths, jnp.result_type(float))
    return graph, n, check_ids("sources", sources, n)


@partial(jax.jit, static_argnames="n")
def _relax_batches(
    sources: Int[Array, "batches b"], neighbours: Int[Array, "r w"], lengths: Float[Array, "r w"], n: int
) -> Float[Array, "s n"]:
    columns, column_lengths = neighbours.T, lengths.T

    def pull(values: Float[Array, "m b"], rows: slice) -> Float[Array, "p b"]:
        def column(j: Int[Array, ""], best: Float[Array, "p b"]) -> Float[Array, "p b"]:
            return jnp.minimum(best, values[columns[j, rows]] + column_lengths[j, rows, None])

        start = jnp.full((columns[0, rows].shape[0], values.shape[1]), jnp.inf, values.dtype)
        return jax.lax.fori_loop(0, columns.shape[0], column, start)

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
    """Appends free rows until `mesh.size()` divides the number of rows."""
    free = jnp.inf if jnp.issubdtype(rows.dtype, jnp.floating) else 0
    return jnp.pad(rows, ((0, -len(rows) % mesh.size()), (0, 0)), constant_values=free)


@partial(jax.jit, static_argnames=("n", "num_devices"))
def _relax_labels(parts: list[tuple[Array, Array]], sources: Int[Array, " s"], n: int, num_devices: int) -> Nearest:
    """Sweeps of this device's nodes and overflow rows, the two `parts`, both (neighbours, lengths)."""
    nodes, overflow = parts
    nobody = sources.shape[0]

    def pull(distance: Array, label: Array, neighbours: Array, lengths: Array) -> tuple[Array, Array]:
        candidates = distance[neighbours] + lengths
        best = candidates.min(axis=1)
        nearest = (candidates == best[:, None]) & jnp.isfinite(candidates)  # no label across a free slot
        found = best, jnp.where(nearest, label[neighbours], nobody).min(axis=1)
        return found if num_devices == 1 or not len(neighbours) else mesh.all_gather(found)

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
