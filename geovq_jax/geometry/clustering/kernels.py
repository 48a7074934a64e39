"""Compiled kernels on sparse graphs: pruned Dijkstra searches that touch only what they change.

Kernels release the interpreter lock and are functions of their arguments alone: callers run many of them in threads and
get the same result for any number of threads. They carry no annotations, being compiled for int64 / int32 / float64
arrays; `compile_graph` and `make_scratch` make these.
"""

from typing import NamedTuple, no_type_check

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float64, Int32, Int64

kernel = numba.njit(cache=True, nogil=True)


class CompiledGraph(NamedTuple):
    """A symmetric graph in the fixed types of the kernels.

    Attributes:
        indptr: [n + 1] start of each node's list of neighbours.
        indices: [e] neighbours, e counting every edge in both directions.
        lengths: [e] lengths of the edges, non-negative.
    """

    indptr: Int64[np.ndarray, " n1"]
    indices: Int32[np.ndarray, " e"]
    lengths: Float64[np.ndarray, " e"]


class Scratch(NamedTuple):
    """Working memory of one search.

    `distance` holds a bound between searches and tentative distances during them: a search enters a node only at a
    distance below what is there, so one comparison both prunes and relaxes.

    Attributes:
        distance: [n] the bound (infinity where there is none).
        order: [n] the nodes that a search settled, nearest first.
        position: [2n] place of each slot in the heap, -1 outside.
        key: [2n] keys of the heap.
        slot: [2n] slots of the heap: a node, or a node and a rank.
    """

    distance: Float64[np.ndarray, " n"]
    order: Int32[np.ndarray, " n"]
    position: Int32[np.ndarray, " n2"]
    key: Float64[np.ndarray, " n2"]
    slot: Int32[np.ndarray, " n2"]


def compile_graph(graph: sp.csr_array | sp.csr_matrix) -> CompiledGraph:
    """Casts a CSR graph to the types of the kernels (no copy where the type is right)."""
    return CompiledGraph(
        np.ascontiguousarray(graph.indptr, np.int64),
        np.ascontiguousarray(graph.indices, np.int32),
        np.ascontiguousarray(graph.data, np.float64),
    )


def make_scratch(num_nodes: int) -> Scratch:
    """Allocates working memory without a bound for graphs of `num_nodes` nodes (44 bytes a node)."""
    slots = 2 * num_nodes
    return Scratch(
        np.full(num_nodes, np.inf),
        np.empty(num_nodes, np.int32),
        np.full(slots, -1, np.int32),
        np.empty(slots, np.float64),
        np.empty(slots, np.int32),
    )


@kernel
@no_type_check
def _sift_up(scratch, place, key, slot):
    while place > 0:
        parent = (place - 1) >> 2
        if scratch.key[parent] <= key:
            break
        scratch.key[place] = scratch.key[parent]
        scratch.slot[place] = scratch.slot[parent]
        scratch.position[scratch.slot[place]] = place
        place = parent
    scratch.key[place] = key
    scratch.slot[place] = slot
    scratch.position[slot] = place


@kernel
@no_type_check
def push(scratch, size, key, slot):
    """Inserts a slot or lowers its key; returns the new size of the heap."""
    place = scratch.position[slot]
    if place < 0:
        place = size
        size += 1
    _sift_up(scratch, place, key, slot)
    return size


@kernel
@no_type_check
def pop(scratch, size):
    """Removes the smallest slot; returns (key, slot, size)."""
    top_key, top = scratch.key[0], scratch.slot[0]
    scratch.position[top] = -1
    size -= 1
    if size > 0:
        key, slot = scratch.key[size], scratch.slot[size]
        place = 0
        while True:
            first = 4 * place + 1
            if first >= size:
                break
            child = first
            for other in range(first + 1, min(first + 4, size)):
                if scratch.key[other] < scratch.key[child]:
                    child = other
            if scratch.key[child] >= key:
                break
            scratch.key[place] = scratch.key[child]
            scratch.slot[place] = scratch.slot[child]
            scratch.position[scratch.slot[place]] = place
            place = child
        scratch.key[place] = key
        scratch.slot[place] = slot
        scratch.position[slot] = place
    return top_key, top, size


@kernel
@no_type_check
def search_ball(graph, source, scratch):
    """Settles every node u with d(source, u) < bound(u), a bound that is 1-Lipschitz along edges.

    Leaves these nodes in `scratch.order[:count]`, nearest first, and their distances in `scratch.distance`: the caller
    reads them and hands the memory back with `clear_ball`. Returns count.
    """
    if not scratch.distance[source] > 0.0:
        return 0
    scratch.distance[source] = 0.0
    size = push(scratch, 0, 0.0, source)
    count = 0
    while size > 0:
        key, node, size = pop(scratch, size)
        scratch.order[count] = node
        count += 1
        for edge in range(graph.indptr[node], graph.indptr[node + 1]):
            other = graph.indices[edge]
            distance = key + graph.lengths[edge]
            if distance < scratch.distance[other]:
                scratch.distance[other] = distance
                size = push(scratch, size, distance, other)
    return count


@kernel
@no_type_check
def clear_ball(scratch, bound, count):
    """Puts the bound back where `search_ball` left distances."""
    for place in range(count):
        node = scratch.order[place]
        scratch.distance[node] = bound[node]


@kernel
@no_type_check
def extend_nearest(graph, source, tag, distance, label, scratch):
    """Adds one source to a nearest-source field in place, stopping where the new source is not nearer."""
    if not distance[source] > 0.0:
        return
    distance[source] = 0.0
    label[source] = tag
    size = push(scratch, 0, 0.0, source)
    while size > 0:
        key, node, size = pop(scratch, size)
        for edge in range(graph.indptr[node], graph.indptr[node + 1]):
            other = graph.indices[edge]
            along = key + graph.lengths[edge]
            if along < distance[other]:
                distance[other] = along
                label[other] = tag
                size = push(scratch, size, along, other)


@kernel
@no_type_check
def extend_reductions(graph, candidates, distance, weights, scratch, out):
    """Writes by how much each candidate, added as a source, would lower sum w d^2."""
    scratch.distance[:] = distance
    for i in range(candidates.shape[0]):
        count = search_ball(graph, candidates[i], scratch)
        total = 0.0
        for place in range(count):
            node = scratch.order[place]
            near = scratch.distance[node]
            total += weights[node] * (distance[node] * distance[node] - near * near)
        clear_ball(scratch, distance, count)
        out[i] = total


@kernel
@no_type_check
def medoid_of_cell(graph, members, candidates, label, distance, weights, floor, scratch):
    """The candidate x of least S(x)^2 = sum over a cell's members of w d(x, u)^2, distances through the whole graph.

    By Minkowski's inequality |S(x) - S(y)| <= sqrt(W) d(x, y) with W the cell's weight, so each search rules out others
    unsearched; a search stops when what it settled, and the rest at the present distance, already costs the best.

    `members[0]` is the present medoid, `distance` holds every member's distance from it, `floor` (n, overwritten for
    the members) the lower bounds. Returns (best node, its cost); the present medoid wins ties.
    """
    cell = label[members[0]]
    total_weight = 0.0
    best_cost = 0.0
    for node in members:
        total_weight += weights[node]
        best_cost += weights[node] * distance[node] * distance[node]
    best = members[0]
    if not total_weight > 0.0:
        return best, best_cost
    root = np.sqrt(total_weight)
    for node in members:
        floor[node] = root * distance[node] - np.sqrt(best_cost)
    for candidate in candidates:
        # The margin keeps the rounding of the bounds from ruling out a candidate that is better.
        if candidate == members[0] or floor[candidate] > np.sqrt(best_cost) * (1.0 + 1e-9):
            continue
        scratch.distance[candidate] = 0.0
        size = push(scratch, 0, 0.0, candidate)
        count, found, cost, left = 0, 0, 0.0, total_weight
        while size > 0:
            key, node, size = pop(scratch, size)
            scratch.order[count] = node
            count += 1
            if label[node] == cell:
                found += 1
                cost += weights[node] * key * key
                left -= weights[node]
                if found == members.shape[0]:
                    left = 0.0
                    break
            if cost + max(left, 0.0) * key * key > best_cost * (1.0 + 1e-9):
                cost += max(left, 0.0) * key * key
                break
            for edge in range(graph.indptr[node], graph.indptr[node + 1]):
                other = graph.indices[edge]
                along = key + graph.lengths[edge]
                if along < scratch.distance[other]:
                    scratch.distance[other] = along
                    size = push(scratch, size, along, other)
        for place in range(count):
            node = scratch.order[place]
            if label[node] == cell:
                floor[node] = max(floor[node], np.sqrt(cost) - root * scratch.distance[node])
            scratch.distance[node] = np.inf
        for place in range(size):
            scratch.position[scratch.slot[place]] = -1
            scratch.distance[scratch.slot[place]] = np.inf
        if found == members.shape[0] and cost < best_cost:
            best, best_cost = candidate, cost
    return best, best_cost
