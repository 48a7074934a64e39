"""Compiled kernels of the swap search: fields of the two nearest medoids, their repair, exact changes under swaps.

All are exact in floating point: a distance is the least rounded sum over all paths and rounding is monotone, so a
pruned search is bit-identical to an unpruned one.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32

from geovq_jax.geometry.clustering.kernels import CompiledGraph, clear_ball, pop, push, search_ball
from geovq_jax.geometry.compilation import Kernel


class Fields(NamedTuple):
    """Distance to the nearest and to the nearest other medoid of every node, and their tags: infinity, -1 for none."""

    distance1: Float64[np.ndarray, " n"]
    label1: Int32[np.ndarray, " n"]
    distance2: Float64[np.ndarray, " n"]
    label2: Int32[np.ndarray, " n"]


def empty_fields(num_nodes: int) -> Fields:
    """Fields without any medoid."""
    distance, label = np.full(num_nodes, np.inf), np.full(num_nodes, -1, np.int32)
    return Fields(distance, label, distance.copy(), label.copy())


@Kernel
def permute_graph(graph, order, place):
    """The graph whose node i is `order[i]` of this one; `place` is the inverse of `order`."""
    indptr = np.zeros_like(graph.indptr)
    indices, lengths = np.empty_like(graph.indices), np.empty_like(graph.lengths)
    count = 0
    for i in range(order.shape[0]):
        for edge in range(graph.indptr[order[i]], graph.indptr[order[i] + 1]):
            indices[count] = place[graph.indices[edge]]
            lengths[count] = graph.lengths[edge]
            count += 1
        indptr[i + 1] = count
    return CompiledGraph(indptr, indices, lengths)


@Kernel
def _offer(fields, node, distance, tag, scratch, size):
    """Updates the two nearest medoids of a node, which must differ, with the medoid `tag`; keeps the bound at d2."""
    if tag == fields.label1[node]:
        if distance < fields.distance1[node]:
            fields.distance1[node] = distance
            size = push(scratch, size, distance, 2 * node)
    elif distance < fields.distance1[node]:
        fields.distance2[node] = fields.distance1[node]
        fields.label2[node] = fields.label1[node]
        fields.distance1[node] = distance
        fields.label1[node] = tag
        if fields.label2[node] >= 0:
            size = push(scratch, size, fields.distance2[node], 2 * node + 1)
        size = push(scratch, size, distance, 2 * node)
        scratch.distance[node] = fields.distance2[node]
    elif distance < fields.distance2[node]:
        fields.distance2[node] = distance
        fields.label2[node] = tag
        size = push(scratch, size, distance, 2 * node + 1)
        scratch.distance[node] = distance
    return size


@Kernel
def _settle(graph, fields, scratch, size):
    """Two-label Dijkstra from a heap of pending labels: each node propagates its two labels, of different medoids."""
    while size > 0:
        key, slot, size = pop(scratch, size)
        node = slot >> 1
        tag = fields.label1[node] if slot & 1 == 0 else fields.label2[node]
        for edge in range(graph.indptr[node], graph.indptr[node + 1]):
            other = graph.indices[edge]
            distance = key + graph.lengths[edge]
            if distance < fields.distance2[other]:
                size = _offer(fields, other, distance, tag, scratch, size)


@Kernel
def fill_fields(graph, fields, medoids, scratch):
    """Finds the two nearest medoids of all nodes, from empty fields; tags are places in `medoids`.

    Leaves `scratch.distance` equal to `distance2`; `add_medoid` and `remove_medoid` need this and keep it so.
    """
    scratch.distance[:] = np.inf
    size = 0
    for tag in range(medoids.shape[0]):
        size = _offer(fields, medoids[tag], 0.0, np.int32(tag), scratch, size)
    _settle(graph, fields, scratch, size)


@Kernel
def add_medoid(graph, fields, node, tag, scratch):
    """Adds a medoid in place, searching only where it is among the nearest two."""
    _settle(graph, fields, scratch, _offer(fields, node, 0.0, np.int32(tag), scratch, 0))


@Kernel
def remove_medoid(graph, fields, tag, scratch):
    """Removes a medoid in place.

    Where it was nearest, the second becomes the nearest; the second of every affected node is then recomputed from the
    labels of its neighbours.
    """
    count = 0
    for node in range(fields.label1.shape[0]):
        if fields.label1[node] == tag:
            fields.distance1[node] = fields.distance2[node]
            fields.label1[node] = fields.label2[node]
        elif fields.label2[node] != tag:
            continue
        fields.distance2[node] = np.inf
        fields.label2[node] = -1
        scratch.distance[node] = np.inf
        scratch.order[count] = node
        count += 1
    size = 0
    for place in range(count):
        node = scratch.order[place]
        for edge in range(graph.indptr[node], graph.indptr[node + 1]):
            other, length = graph.indices[edge], graph.lengths[edge]
            if fields.label1[other] >= 0:
                size = _offer(fields, node, fields.distance1[other] + length, fields.label1[other], scratch, size)
            if fields.label2[other] >= 0:
                size = _offer(fields, node, fields.distance2[other] + length, fields.label2[other], scratch, size)
    _settle(graph, fields, scratch, size)


@Kernel
def removal_losses(fields, weights, free, loss, orphans):
    """Writes what removing each medoid would cost and how many nodes it would leave without any; returns sum w d1^2.

    The unused tag `free` gets one orphan that no candidate covers, so that it is never chosen.
    """
    loss[:], orphans[:], cost = 0.0, 0, 0.0
    for node in range(weights.shape[0]):
        near = fields.distance1[node] * fields.distance1[node]
        tag = fields.label1[node]
        cost += weights[node] * near
        if fields.label2[node] >= 0:
            loss[tag] += weights[node] * (fields.distance2[node] * fields.distance2[node] - near)
        else:
            orphans[tag] += 1
    orphans[free] = 1
    return cost


@Kernel
def swap_changes(graph, fields, weights, loss, orphans, candidates, scratch, change, partner):
    """Writes the change of sum w d^2 under each candidate's best swap, and the tag that it would replace.

    Removing `tag` sends each of its nodes to the candidate or to their second medoid, whichever is nearer. Only nodes
    with d(candidate, u) < d2(u) differ from plain removal, and d2 is 1-Lipschitz along edges, so the ball that is
    pruned there holds them all. `loss` and `orphans` come from `removal_losses`; `scratch.distance` equals d2.
    """
    saved, adopted = np.zeros(loss.shape[0]), np.zeros(loss.shape[0], np.int64)
    for i in range(candidates.shape[0]):
        count = search_ball(graph, candidates[i], scratch)
        gain = 0.0
        for place in range(count):
            node = scratch.order[place]
            near = scratch.distance[node] * scratch.distance[node]
            old = fields.distance1[node] * fields.distance1[node]
            tag = fields.label1[node]
            moved = weights[node] * (near - old)
            if near < old:
                gain += moved
                moved = 0.0
            saved[tag] += moved
            if fields.label2[node] >= 0:
                saved[tag] -= weights[node] * (fields.distance2[node] * fields.distance2[node] - old)
            else:
                adopted[tag] += 1
        clear_ball(scratch, fields.distance2, count)
        best, partner[i] = np.inf, -1
        for tag in range(loss.shape[0]):
            if orphans[tag] == adopted[tag] and loss[tag] + saved[tag] < best:
                best = loss[tag] + saved[tag]
                partner[i] = tag
        saved[:], adopted[:] = 0.0, 0
        change[i] = gain + best
