"""Compiled kernels on sparse graphs: pruned Dijkstra searches that visit only the nodes that they change.

Kernels release the interpreter lock and are functions of their arguments alone: callers run many of them in threads and
get the same result for any number of threads. They are compiled for the int64 / int32 / float64 arrays of
`compile_graph` and `make_scratch`, and so carry no annotations.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float64, Int32, Int64

from geovq_jax.geometry.compilation import Kernel


class CompiledGraph(NamedTuple):
    """A symmetric graph (CSR) in the fixed types of the kernels; e counts every edge in both directions."""

    indptr: Int64[np.ndarray, " n1"]
    indices: Int32[np.ndarray, " e"]
    lengths: Float64[np.ndarray, " e"]


class Scratch(NamedTuple):
    """Working memory of one search.

    `distance` holds a bound between searches (infinity for none) and tentative distances during them: a search enters a
    node only at a distance below what is there, so one comparison both prunes and relaxes. `order` lists the nodes that
    a search settled, nearest first. `key` and `slot` are the heap, whose slots are a node, or a node and a rank;
    `position` is the place of each slot in it, -1 outside.
    """

    distance: Float64[np.ndarray, " n"]
    order: Int32[np.ndarray, " n"]
    position: Int32[np.ndarray, " n2"]
    key: Float64[np.ndarray, " n2"]
    slot: Int32[np.ndarray, " n2"]


def compile_graph(graph: sp.csr_array | sp.csr_matrix) -> CompiledGraph:
    """Casts a CSR graph to the types of the kernels (no copy where the type is right)."""
    parts = (graph.indptr, np.int64), (graph.indices, np.int32), (graph.data, np.float64)
    return CompiledGraph(*(np.ascontiguousarray(part, dtype) for part, dtype in parts))


def make_scratch(num_nodes: int) -> Scratch:
    """Allocates working memory without a bound (44 bytes per node)."""
    distance, position = np.full(num_nodes, np.inf), np.full(2 * num_nodes, -1, np.int32)
    return Scratch(distance, np.empty(num_nodes, np.int32), position, np.empty(2 * num_nodes), np.empty_like(position))


@Kernel
def push(scratch, size, key, slot):
    """Inserts a slot or lowers its key; returns the new size of the heap."""
    place = scratch.position[slot]
    if place < 0:
        place = size
        size += 1
    while place > 0:
        parent = (place - 1) >> 2
        if scratch.key[parent] <= key:
            break
        scratch.key[place], scratch.slot[place] = scratch.key[parent], scratch.slot[parent]
        scratch.position[scratch.slot[place]] = place
        place = parent
    scratch.key[place], scratch.slot[place], scratch.position[slot] = key, slot, place
    return size


@Kernel
def pop(scratch, size):
    """Removes the smallest slot; returns (key, slot, size)."""
    top_key, top = scratch.key[0], scratch.slot[0]
    scratch.position[top] = -1
    size -= 1
    if size > 0:
        key, slot, place = scratch.key[size], scratch.slot[size], 0
        while 4 * place + 1 < size:
            child = 4 * place + 1
            for other in range(child + 1, min(child + 4, size)):
                if scratch.key[other] < scratch.key[child]:
                    child = other
            if scratch.key[child] >= key:
                break
            scratch.key[place], scratch.slot[place] = scratch.key[child], scratch.slot[child]
            scratch.position[scratch.slot[place]] = place
            place = child
        scratch.key[place], scratch.slot[place], scratch.position[slot] = key, slot, place
    return top_key, top, size


@Kernel
def search_ball(graph, source, scratch):
    """Settles every node u with d(source, u) < bound(u), a bound that is 1-Lipschitz along edges; returns their count.

    Leaves these nodes in `scratch.order[:count]`, nearest first, and their distances in `scratch.distance`, where
    `clear_ball` restores the bound. Kept, these are the bound that includes one more source.
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


@Kernel
def clear_ball(scratch, bound, count):
    """Restores the bound where `search_ball` left distances."""
    for place in range(count):
        node = scratch.order[place]
        scratch.distance[node] = bound[node]


@Kernel
def extend_reductions(graph, candidates, distance, weights, scratch, out):
    """Writes by how much each candidate, added as a source, would lower sum w d^2."""
    scratch.distance[:] = distance
    for i in range(candidates.shape[0]):
        count = search_ball(graph, candidates[i], scratch)
        total = 0.0
        for place in range(count):
            node = scratch.order[place]
            total += weights[node] * (distance[node] * distance[node] - scratch.distance[node] * scratch.distance[node])
        clear_ball(scratch, distance, count)
        out[i] = total


@Kernel
def medoid_of_cell(graph, members, candidates, label, distance, weights, floor, scratch):
    """The candidate x of least S(x)^2 = sum over a cell's members of w d(x, u)^2, distances through the whole graph.

    By Minkowski's inequality |S(x) - S(y)| <= sqrt(W) d(x, y) with W the cell's weight, so each search excludes other
    candidates; a search stops when the settled distances, with all others at the current distance, already reach the
    best cost. `members[0]` is the present medoid, which wins ties, `distance` holds every member's distance from it,
    `floor` [n] takes the lower bounds. Returns (best node, its cost).
    """
    cell = label[members[0]]
    best, best_cost, total_weight = members[0], 0.0, 0.0
    for node in members:
        total_weight += weights[node]
        best_cost += weights[node] * distance[node] * distance[node]
    if not total_weight > 0.0:
        return best, best_cost
    root = np.sqrt(total_weight)
    for node in members:
        floor[node] = root * distance[node] - np.sqrt(best_cost)
    for candidate in candidates:
        # The margin ensures that rounding of the bounds does not exclude a better candidate.
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
