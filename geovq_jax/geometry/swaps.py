"""Swaps of K-medoids on the graph itself: PAM without a distance matrix.

A swap puts a node in the place of a medoid. Its exact effect on the cost is read from a ball around the node, pruned
where the second-nearest medoid is nearer, so no table of n x n or K x n distances exists.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse.csgraph import dijkstra as scipy_dijkstra

from geovq_jax.geometry import swap_kernels as kernels
from geovq_jax.geometry.components import Graph
from geovq_jax.geometry.graph_kernels import compile_graph, make_scratch, num_threads
from geovq_jax.geometry.seeding import Backend

CANDIDATES_PER_CLUSTER = 16  # tried in a round
SERIAL_WORK = 10_000  # candidates x nodes a thread, below which starting threads costs more than it saves
ROUNDING = 1e-12  # improvements below this share of the cost may be rounding, and are left


class Changes(NamedTuple):
    """What the best swap of each candidate would do.

    Attributes:
        change: [c] change of the cost (negative: better), infinity where no medoid can be given up.
        partner: int64 [c] place among the medoids of the one to give up, -1 where none can be.
    """

    change: Float[np.ndarray, " c"]
    partner: Int[np.ndarray, " c"]


class Improved(NamedTuple):
    """Medoids after a local search.

    Attributes:
        medoids: int64 [K].
        history: [t] cost at the start and after each round that lowered it.
        converged: whether the search ended by itself.
    """

    medoids: Int[np.ndarray, " K"]
    history: Float[np.ndarray, " t"]
    converged: bool


def best_swaps(
    graph: Graph,
    medoids: Int[np.ndarray, " K"],
    candidates: Int[np.ndarray, " c"],
    *,
    weights: Float[np.ndarray, " n"] | None = None,
    backend: Backend = "numba",
) -> Changes:
    """Computes exactly how the cost would change if each candidate took the place of its best partner.

    Args:
        graph: symmetric graph of n nodes, every component of which holds a medoid.
        medoids: K distinct nodes.
        candidates: nodes that are not medoids.
        weights: weight of each node; None for 1.
        backend: "numba" searches pruned balls, "scipy" whole rows of distances.

    Returns:
        Changes of the weighted mean squared distance.
    """
    weights = np.ones(graph.shape[0]) if weights is None else weights
    found = _make_state(graph, medoids, weights, backend).best_swaps(np.asarray(candidates, np.int64))
    return Changes(found.change / weights.sum(), found.partner)


def improve_by_swaps(
    graph: Graph,
    medoids: Int[np.ndarray, " K"],
    *,
    weights: Float[np.ndarray, " n"],
    seed: int,
    max_iterations: int,
    tolerance: float,
    deadline: float | None = None,
    backend: Backend = "numba",
    progress: Callable[[int, int], None] | None = None,
) -> Improved:
    """Lowers the cost by swaps until none is found that would.

    A round tries 16 K candidates in batches: all of a batch against one state, in parallel, then the promising ones
    again, best first, each against the state that it meets and taken if it still lowers the cost. The first pass
    over the nodes is in random order; later ones begin with the nodes that came nearest to an improvement when last
    tried, and give way to the next pass at their first round without improvement.

    Args:
        graph: symmetric graph of n nodes.
        medoids: K distinct nodes, at least one in each component.
        weights: weight of each node.
        seed: decides the order of the first pass.
        max_iterations: largest number of rounds.
        tolerance: a round improves if it lowers the cost by more than this share of it. At 0 the result is a local
            optimum: no swap of any node lowers the cost.
        deadline: value of `time.monotonic` after which to stop.
        backend: see `best_swaps`.
        progress: called with (rounds done, max_iterations).

    Returns:
        Improved; the history falls monotonically.

    Reference:
        Kaufman and Rousseeuw, Clustering by means of medoids (1987); Schubert and Rousseeuw, Fast and eager k-medoids
        clustering (2021), whose change formula this evaluates on balls.
    """
    n, num_clusters = graph.shape[0], len(medoids)
    batch = max(16, num_clusters // 8)
    round_size = min(n, CANDIDATES_PER_CLUSTER * num_clusters)
    rng = np.random.default_rng(seed)
    promise = np.full(n, -np.inf)  # change found when the node was last tried
    queue, first_pass, pass_improved, converged = rng.permutation(n), True, False, False
    state = _make_state(graph, medoids, weights, backend)
    history = [state.cost]
    for iteration in range(max_iterations):
        before, trial, queue = state.cost, queue[:round_size], queue[round_size:]
        for start in range(0, len(trial), batch):
            _try_batch(state, np.setdiff1d(trial[start : start + batch], state.medoids), promise)
            late = deadline is not None and time.monotonic() > deadline
            if late:
                break
        improved = before - state.cost > tolerance * before
        pass_improved |= improved
        history.append(state.cost)
        if progress is not None:
            progress(iteration + 1, max_iterations)
        if late:
            break
        if not improved and (len(queue) == 0 or tolerance > 0) and (first_pass or not pass_improved):
            converged = True
            break
        if len(queue) == 0 or (pass_improved and not improved):
            queue, first_pass, pass_improved = np.argsort(promise, kind="stable"), False, False
    return Improved(state.medoids[state.medoids >= 0], np.asarray(history) / weights.sum(), converged)


def _try_batch(state: "_CompiledState | _DenseState", candidates: np.ndarray, promise: np.ndarray) -> None:
    found = state.best_swaps(candidates)
    promise[candidates] = found.change
    for place in np.argsort(found.change, kind="stable"):
        if found.change[place] >= -ROUNDING * state.cost:
            break
        candidate = candidates[place : place + 1]
        again = state.best_swaps(candidate)
        promise[candidate] = again.change
        if again.change[0] < -ROUNDING * state.cost:
            state.swap(int(candidate[0]), int(again.partner[0]))


def _make_state(graph, medoids, weights, backend) -> "_CompiledState | _DenseState":
    weights = np.asarray(weights, np.float64)
    return (_DenseState if backend == "scipy" else _CompiledState)(graph, np.asarray(medoids, np.int64), weights)


class _CompiledState:
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

    def swap(self, node: int, partner: int) -> None:
        place = self._place[node]
        kernels.add_medoid(self._graph, self._fields, place, self._free, self._scratch[0])
        kernels.remove_medoid(self._graph, self._fields, partner, self._scratch[0])
        self.medoids[self._free], self.medoids[partner], self._free = node, -1, partner
        self.cost = self._losses()


class _DenseState:
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

    def swap(self, node: int, partner: int) -> None:
        self._table[self._free] = scipy_dijkstra(self._graph, directed=True, indices=node)
        self._table[partner] = np.inf
        self.medoids[self._free], self.medoids[partner], self._free = node, -1, partner
        self.cost = self._cost(self._table)
