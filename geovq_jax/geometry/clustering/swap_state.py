"""The state of a search by swaps, as arrays, and its working form, in which one round changes medoids in place."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int32, Int64

from geovq_jax.geometry.batching import num_threads
from geovq_jax.geometry.clustering import swap_kernels as kernels
from geovq_jax.geometry.clustering.kernels import compile_graph, make_scratch
from geovq_jax.geometry.graphs.graph import Graph

SERIAL_WORK = 200_000  # candidates x nodes per thread, below which starting threads costs more than it saves
TRUE, FALSE = np.asarray(True), np.asarray(False)


class SwapState(NamedTuple):
    """State of a search by swaps between two rounds; with the graph it determines the rest of the search.

    There are K + 1 tags for medoids, one of them free. The fields `distance1` to `label2` (see `swap_kernels.Fields`)
    are stored cluster by cluster, so that a ball occupies few pages of memory.

    Attributes:
        medoids: node of each tag, -1 at the free one.
        order: the nodes in the order of the four fields.
        weights: weight of each node in the cost.
        promise: change of the cost found when each node was last tried, -infinity before.
        queue: nodes still to be tried in this pass, in this order.
        history: weighted mean cost of the first medoids and after each round.
        rng: state of the random generator (`seeding.generator_state`).
        tolerance: share of the cost by which a round must lower it to count as an improvement.
        perturbations: attempts left to leave the local optimum.
        first_pass, pass_improved: the queue is of the first pass over all nodes; some round of this pass improved.
        perturbing, perturbed: the next round is a perturbation; one was kept since the last descent.
        converged: nothing is left to try.
    """

    medoids: Int64[np.ndarray, " K1"]
    order: Int64[np.ndarray, " n"]
    distance1: Float64[np.ndarray, " n"]
    label1: Int32[np.ndarray, " n"]
    distance2: Float64[np.ndarray, " n"]
    label2: Int32[np.ndarray, " n"]
    weights: Float64[np.ndarray, " n"]
    promise: Float64[np.ndarray, " n"]
    queue: Int64[np.ndarray, " q"]
    history: Float64[np.ndarray, " t"]
    rng: np.ndarray
    tolerance: Float64[np.ndarray, ""]
    perturbations: Int64[np.ndarray, ""]
    first_pass: Bool[np.ndarray, ""]
    pass_improved: Bool[np.ndarray, ""]
    perturbing: Bool[np.ndarray, ""]
    perturbed: Bool[np.ndarray, ""]
    converged: Bool[np.ndarray, ""]


class Changes(NamedTuple):
    """Best swap of each candidate: change of sum w d^2 (negative: better) and tag of the medoid replaced.

    Where no medoid can be removed, these are infinity and -1.
    """

    change: Float[np.ndarray, " c"]
    partner: Int[np.ndarray, " c"]


class WorkingMedoids:
    """The `medoids` of a state and their `cost`, sum w d^2, changed in place; nodes are named by the graph's ids."""

    def __init__(self, graph: Graph, state: SwapState) -> None:
        n, num_tags = graph.shape[0], len(state.medoids)
        self._place = np.empty(n, np.int64)
        self._place[state.order] = np.arange(n)
        self._graph = kernels.permute_graph(compile_graph(graph), state.order, self._place)
        self._weights = state.weights[state.order]
        self._fields = kernels.Fields(*(getattr(state, name).copy() for name in kernels.Fields._fields))
        self._scratch = [make_scratch(n) for _ in range(num_threads())]
        self._scratch[0].distance[:] = self._fields.distance2
        self._loss, self._orphans = np.empty(num_tags), np.empty(num_tags, np.int64)
        self.medoids = state.medoids.copy()
        self._free = int(np.flatnonzero(self.medoids < 0)[0])
        self.cost = self._losses()

    def _losses(self) -> float:
        return kernels.removal_losses(self._fields, self._weights, self._free, self._loss, self._orphans)

    def best_swaps(self, candidates: Int[np.ndarray, " c"]) -> Changes:
        """Computes the exact change of the cost if each candidate replaced its best partner."""
        places = self._place[candidates]
        found = Changes(np.empty(len(places)), np.empty(len(places), np.int64))
        parts = max(1, min(len(self._scratch), len(places), len(places) * len(self._weights) // SERIAL_WORK))
        search = partial(self._search, found, places, parts)
        if parts == 1:
            search(0)
        else:
            with ThreadPoolExecutor(parts) as pool:
                list(pool.map(search, range(parts)))
        return found

    def _search(self, found: Changes, places: Int[np.ndarray, " c"], parts: int, part: int) -> None:
        """Fills in one of the parts of the changes."""
        rows, scratch = slice(part * len(places) // parts, (part + 1) * len(places) // parts), self._scratch[part]
        if part:
            scratch.distance[:] = self._fields.distance2
        given = (self._graph, self._fields, self._weights, self._loss, self._orphans, places[rows])
        kernels.swap_changes(*given, scratch, found.change[rows], found.partner[rows])

    def swap(self, node: int, partner: int) -> None:
        """Replaces the medoid with the tag `partner` by a node."""
        kernels.add_medoid(self._graph, self._fields, self._place[node], self._free, self._scratch[0])
        kernels.remove_medoid(self._graph, self._fields, partner, self._scratch[0])
        self.medoids[self._free], self.medoids[partner], self._free = node, -1, partner
        self.cost = self._losses()

    def nearest_two(self) -> Float64[np.ndarray, "2 n"]:
        """Distances of every node to the two nearest medoids."""
        return np.stack([self._fields.distance1[self._place], self._fields.distance2[self._place]])

    def mass(self) -> Float64[np.ndarray, " n"]:
        """Every node's part w d^2 of the cost."""
        return (self._weights * self._fields.distance1**2)[self._place]

    def removable(self) -> Int64[np.ndarray, " r"]:
        """Tags of the medoids that can be removed without leaving a node unreachable."""
        return np.flatnonzero(self._orphans == 0)

    def store(self, state: SwapState) -> SwapState:
        """The state with these medoids and their fields."""
        return state._replace(medoids=self.medoids, **self._fields._asdict())
