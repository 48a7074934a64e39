"""Clustering by whole rows of distances from scipy: the same methods as the compiled, pruned searches, without pruning.

Tests put these in the place of the package's own (`monkeypatch.setattr`); the results must not change.
"""

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

from geovq_jax.geometry.clustering.swap_state import Changes, WorkingMedoids


class DenseMedoids(WorkingMedoids):
    """Every method of `WorkingMedoids` by a table of K + 1 rows."""

    def __init__(self, graph, state):
        self._graph, self._weights, self._order = graph, state.weights, state.order
        self.medoids = state.medoids.copy()
        self._table = np.full((len(self.medoids), graph.shape[0]), np.inf)
        held = self.medoids >= 0
        self._table[held] = dijkstra(graph, directed=True, indices=self.medoids[held])
        self.cost = self._cost(self._table)

    def _cost(self, table):
        return float((table.min(axis=0) ** 2) @ self._weights)

    def best_swaps(self, candidates):
        found = Changes(np.full(len(candidates), np.inf), np.full(len(candidates), -1))
        for i, row in enumerate(dijkstra(self._graph, directed=True, indices=candidates)):
            for partner in np.flatnonzero(self.medoids >= 0):
                table = self._table.copy()
                table[partner] = row
                change = self._cost(table) - self.cost
                if change < found.change[i]:
                    found.change[i], found.partner[i] = change, partner
        return found

    def swap(self, node, partner):
        free = int(np.flatnonzero(self.medoids < 0)[0])
        self._table[free] = dijkstra(self._graph, directed=True, indices=node)
        self._table[partner] = np.inf
        self.medoids[free], self.medoids[partner] = node, -1
        self.cost = self._cost(self._table)

    def nearest_two(self):
        return np.sort(self._table, axis=0)[:2]

    def mass(self):
        return self._weights * self._table.min(axis=0) ** 2

    def removable(self):
        alone = np.isinf(self.nearest_two()[1])
        return np.setdiff1d(np.flatnonzero(self.medoids >= 0), self._table.argmin(axis=0)[alone])

    def store(self, state):
        return state._replace(medoids=self.medoids)  # the fields stay behind: nothing here reads them


def search_ball(graph, source, scratch):
    """`kernels.search_ball` by a search of the whole graph; only the distances are right."""
    row = dijkstra(_matrix(graph), directed=True, indices=source)
    np.minimum(scratch.distance, row, out=scratch.distance)


def extend_reductions(graph, candidates, distance, weights, scratch, out):
    """`kernels.extend_reductions` by searches of the whole graph."""
    found = np.minimum(dijkstra(_matrix(graph), directed=True, indices=candidates), distance)
    out[:] = (distance**2 - found**2) @ weights


def medoid_of_cell(graph, members, candidates, label, distance, weights, floor, scratch):
    """`kernels.medoid_of_cell` by the rows of all candidates."""
    rows = dijkstra(_matrix(graph), directed=True, indices=candidates)[:, members]
    costs, present = rows**2 @ weights[members], distance[members] ** 2 @ weights[members]
    best = int(np.argmin(costs))
    return (candidates[best], costs[best]) if costs[best] < present else (members[0], present)


def _matrix(graph):
    size = len(graph.indptr) - 1
    return sparse.csr_array((graph.lengths, graph.indices, graph.indptr), shape=(size, size))
