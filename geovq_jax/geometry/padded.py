"""Graphs as rectangular arrays, the form that accelerators sweep."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from geovq_jax.geometry.components import Graph, check_graph


class PaddedGraph(NamedTuple):
    """A graph as rectangular arrays, for `relax` and `relax_nearest`.

    Rows below `num_nodes` are nodes. A node with more than w neighbours continues in overflow rows (those from
    `num_nodes` on), which its own row names as neighbours at length zero. Free slots hold the row's own number and
    length infinity.

    Attributes:
        neighbours: int32 [r, w].
        lengths: float64 [r, w].
        num_nodes: number of nodes n.
    """

    neighbours: Int[np.ndarray, "r w"]
    lengths: Float[np.ndarray, "r w"]
    num_nodes: int


def pad_graph(graph: Graph) -> PaddedGraph:
    """Lays out a graph as rectangular arrays, of the width that takes least memory.

    Degrees of union graphs are uneven (hubs hold ten times the mean), so nodes wider than w continue in overflow rows:
    with m of them a node has room for w - m + m w neighbours. One level suffices for w >= sqrt(largest degree).

    Raises:
        ValueError: as `check_graph`.
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
