"""What a search by swaps keeps of its medoids: for every node the nearest two, in compiled or in dense form."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse.csgraph import dijkstra as scipy_dijkstra

from geovq_jax.geometry.batching import num_threads
from geovq_jax.geometry.clustering import swap_kernels as kernels
from geovq_jax.geometry.clustering.kernels import compile_graph, make_scratch
from geovq_jax.geometry.clustering.seeding import Backend
from geovq_jax.geometry.graphs.graph import Graph

SERIAL_WORK = 10_000  # candidates x nodes a thread, below which starting threads costs more than it saves


class Changes(NamedTuple):
    """What the best swap of each candidate would do.

    Attributes:
        change: [c] change of the cost (negative: better), infinity where no medoid can be given up.
        partner: int64 [c] place among the medoids of the one to give up, -1 where none can be.
    """

    change: Float[np.ndarray, " c"]
    partner: Int[np.ndarray, " c"]


def make_state(
    graph: Graph, medoids: Int[np.ndarray, " K"], weights: Float[np.ndarray, " n"], backend: Backend
) -> "CompiledState | DenseState":
    """State of a search from these medoids."""
    kind = DenseState if backend == "scipy" else CompiledState
    return kind(graph, np.asarray(medoids, np.int64), np.asarray(weights, np.float64))


class CompiledState:
    """Medoids with their two-nearest fields.

    There are K + 1 tags, one of them free: `medoids` is -1 there. Nodes are stored cell after cell, so that a ball lies
    in few pages of memory; the ids that come in and go out are the graph's own.
    """

    def __init__(self, graph: Graph, medoids: np.ndarray, weights: np.ndarray) -> None:
        n, num_tags = graph.shape[0], len(medoids) + 1
        self._fields = kernels.empty_fields(n)
        self._scratch = [make_scratch(n) for _ in range(num_threads())]
        kernels.fill_fields(compile_graph(graph), self._fields, medoids, self._scratch[0])
        order = np.lexsort((self._fields.distance1, self._fields.label1))
        self._place = np.empty(n, np.int64)
        self._place[order] = np.arange(n)
        self._graph = compile_graph(graph[order][:, order])
        self._weights = weights[order]
        self._fields = kernels.Fields(*(field[order] for field in self._fields))
        self._scratch[0].distance[:] = self._fields.distance2
        self.medoids = np.append(medoids, -1)
        self._loss, self._orphans = np.empty(num_tags), np.empty(num_tags, np.int64)
        self._free = num_tags - 1
        self.cost = self._losses()

    def _losses(self) -> float:
        return kernels.removal_losses(self._fields, self._weights, self._free, self._loss, self._orphans)

    def best_swaps(self, candidates: np.ndarray) -> Changes:
        places = self._place[candidates]
        found = Changes(np.empty(len(places)), np.empty(len(places), np.int64))

        def work(thread: int, parts: int) -> None:
            scratch = self._scratch[thread]
            if thread:
                scratch.distance[:] = self._fields.distance2
            part = slice(thread * len(places) // parts, (thread + 1) * len(places) // parts)
            kernels.swap_changes(
                self._graph, self._fields, self._weights, self._loss, self._orphans, places[part], scratch,
                found.change[part], found.partner[part],
            )  # fmt: skip

        parts = min(len(self._scratch), max(1, len(places) * len(self._weights) // SERIAL_WORK))
        if parts > 1:
            with ThreadPoolExecutor(parts) as pool:
                list(pool.map(work, range(parts), [parts] * parts))
        else:
            work(0, 1)
        return found

    def nearest_two(self) -> np.ndarray:
        """Distances [2, n] to the two nearest medoids."""
        return np.stack([self._fields.distance1[self._place], self._fields.distance2[self._place]])

    def mass(self) -> np.ndarray:
        """What every node adds to the cost, [n]."""
        return (self._weights * self._fields.distance1**2)[self._place]

    def removable(self) -> np.ndarray:
        """Places of the medoids without which every node still has one."""
        return np.flatnonzero(self._orphans == 0)

    def snapshot(self) -> tuple:
        return kernels.Fields(*(field.copy() for field in self._fields)), self.medoids.copy(), self._free

    def restore(self, snapshot: tuple) -> None:
        self._fields, self.medoids, self._free = snapshot
        self._scratch[0].distance[:] = self._fields.distance2
        self.cost = self._losses()

    def swap(self, node: int, partner: int) -> None:
        place = self._place[node]
        kernels.add_medoid(self._graph, self._fields, place, self._free, self._scratch[0])
        kernels.remove_medoid(self._graph, self._fields, partner, self._scratch[0])
        self.medoids[self._free], self.medoids[partner], self._free = node, -1, partner
        self.cost = self._losses()


class DenseState:
    """The same by whole rows of distances: O(K n) memory, for small graphs and as a check."""

    def __init__(self, graph: Graph, medoids: np.ndarray, weights: np.ndarray) -> None:
        self._graph, self._weights = graph, weights
        self.medoids = np.append(medoids, -1)
        self._free = len(medoids)
        self._table = np.full((len(medoids) + 1, graph.shape[0]), np.inf)
        self._table[:-1] = scipy_dijkstra(graph, directed=True, indices=medoids)
        self.cost = self._cost(self._table)

    def _cost(self, table: np.ndarray) -> float:
        return float((table.min(axis=0) ** 2) @ self._weights)

    def best_swaps(self, candidates: np.ndarray) -> Changes:
        found = Changes(np.full(len(candidates), np.inf), np.full(len(candidates), -1))
        for i, row in enumerate(scipy_dijkstra(self._graph, directed=True, indices=candidates)):
            for partner in np.flatnonzero(self.medoids >= 0):
                table = self._table.copy()
                table[partner] = row
                change = self._cost(table) - self.cost
                if change < found.change[i]:
                    found.change[i], found.partner[i] = change, partner
        return found

    def nearest_two(self) -> np.ndarray:
        return np.sort(self._table, axis=0)[:2]

    def mass(self) -> np.ndarray:
        return self._weights * self._table.min(axis=0) ** 2

    def removable(self) -> np.ndarray:
        alone = np.isinf(self.nearest_two()[1])
        return np.setdiff1d(np.flatnonzero(self.medoids >= 0), self._table.argmin(axis=0)[alone])

    def snapshot(self) -> tuple:
        return self._table.copy(), self.medoids.copy(), self._free

    def restore(self, snapshot: tuple) -> None:
        self._table, self.medoids, self._free = snapshot
        self.cost = self._cost(self._table)

    def swap(self, node: int, partner: int) -> None:
        self._table[self._free] = scipy_dijkstra(self._graph, directed=True, indices=node)
        self._table[partner] = np.inf
        self.medoids[self._free], self.medoids[partner], self._free = node, -1, partner
        self.cost = self._cost(self._table)
