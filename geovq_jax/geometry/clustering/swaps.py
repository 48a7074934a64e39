"""Swaps of K-medoids on the graph itself: PAM without a distance matrix.

A swap puts a node in the place of a medoid. Its exact effect on the cost is read from a ball around the node, pruned
where the second-nearest medoid is nearer, so no table of n x n or K x n distances exists.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from geovq_jax.geometry.clustering.seeding import Backend, draw_distinct
from geovq_jax.geometry.clustering.swap_kernels import Fields
from geovq_jax.geometry.clustering.swap_state import Changes, CompiledState, DenseState, make_state
from geovq_jax.geometry.graphs.graph import Graph

Standing = Mapping[str, np.ndarray]  # all that a search needs to go on, as arrays

CANDIDATES_PER_CLUSTER = 16  # tried in a round
RELOCATED = 16  # a perturbation relocates one medoid of so many,
LEAST_RELOCATED = 4  # but so many at least: fewer fall back into the same optimum
ROUNDING = 1e-12  # improvements below this share of the cost may be rounding, and are left


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
    found = make_state(graph, medoids, weights, backend).best_swaps(np.asarray(candidates, np.int64))
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
    perturbations: int = 0,
    backend: Backend = "numba",
    progress: Callable[[int, int], None] | None = None,
    remember: Callable[[Standing], None] | None = None,
    resume: Standing | None = None,
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
        seed: decides the order of the first pass and what perturbations draw.
        max_iterations: largest number of rounds.
        tolerance: a round improves if it lowers the cost by more than this share of it. At 0 the result is a local
            optimum: no swap of any node lowers the cost.
        deadline: value of `time.monotonic` after which to stop.
        perturbations: attempts, rounds themselves, to leave the optimum that was found: a sixteenth of the medoids move
            to nodes drawn in proportion to w d^2, the nodes whose nearest two changed are swept for swaps, and the
            outcome is kept if it costs less.
        backend: see `best_swaps`.
        progress: called with (rounds done, max_iterations).
        remember: called before each round with where the search stands; of the compiled back end only.
        resume: what `remember` was given by an interrupted call with the same arguments, which goes on from there; the
            medoids to start from are in it.

    Returns:
        Improved; the history falls monotonically. The same bits with and without an interruption.

    Reference:
        Kaufman and Rousseeuw, Clustering by means of medoids (1987); Schubert and Rousseeuw, Fast and eager k-medoids
        clustering (2021), whose change formula this evaluates on balls; Lourenco et al., Iterated local search (2003).
    """
    start = np.asarray(medoids, np.int64) if resume is None else resume["start"]
    state = make_state(graph, start, weights, backend)
    search = _Search(start, graph.shape[0], state.cost, np.random.default_rng(seed))
    if resume is not None:
        search.unpack(resume, state)
    num_clusters = len(start)
    batch, history = max(16, num_clusters // 8), search.history

    def late() -> bool:
        return deadline is not None and time.monotonic() > deadline

    def begin_round() -> None:
        if remember is not None:
            remember(search.pack(state))

    def end_round() -> None:
        history.append(state.cost)
        if progress is not None:
            progress(len(history) - 1, max_iterations)

    def descend() -> bool:
        round_size = CANDIDATES_PER_CLUSTER * num_clusters
        while len(history) <= max_iterations:
            begin_round()
            before, trial, search.queue = state.cost, search.queue[:round_size], search.queue[round_size:]
            for first in range(0, len(trial), batch):
                _try_batch(state, np.setdiff1d(trial[first : first + batch], state.medoids), search.promise)
                if late():
                    break
            improved, ended = before - state.cost > tolerance * before, len(search.queue) == 0
            search.pass_improved |= improved
            end_round()
            if late():
                return False
            if not improved and (ended or tolerance > 0) and (search.first_pass or not search.pass_improved):
                return True
            if ended or (search.pass_improved and not improved):
                search.begin_pass()
        return False

    converged = True
    if search.part == "descent":
        converged, search.part = descend(), "perturbations"
    while converged and search.part == "perturbations" and search.perturbed < perturbations:
        if late() or len(history) > max_iterations:
            converged = False
            break
        begin_round()
        search.moved |= _perturb(state, search.rng, search.promise, batch, tolerance / RELOCATED)
        search.perturbed += 1
        end_round()
    if converged and search.moved and tolerance == 0:
        if search.part == "perturbations":
            search.part = "last descent"
            search.begin_pass()
        converged = descend()
    return Improved(state.medoids[state.medoids >= 0], np.asarray(history) / weights.sum(), converged)


class _Search:
    """Where a search stands between two rounds, beside the state of its medoids."""

    def __init__(self, start: np.ndarray, num_nodes: int, cost: float, rng: np.random.Generator) -> None:
        self.start, self.rng, self.history = start, rng, [cost]
        self.promise = np.full(num_nodes, -np.inf)  # change found when the node was last tried
        self.queue = rng.permutation(num_nodes)
        self.first_pass, self.pass_improved, self.moved = True, False, False
        self.part, self.perturbed = "descent", 0

    def begin_pass(self) -> None:
        """The nodes anew, those that came nearest to an improvement first."""
        self.queue, self.first_pass, self.pass_improved = np.argsort(self.promise, kind="stable"), False, False

    def pack(self, state: CompiledState | DenseState) -> dict[str, np.ndarray]:
        """As arrays, together with the medoids."""
        if not isinstance(state, CompiledState):
            raise ValueError("expected backend='numba' to remember a search, got 'scipy'; leave remember out")
        fields, medoids, free = state.snapshot()
        flags = [self.first_pass, self.pass_improved, self.moved]
        return {
            "start": self.start,
            "history": np.asarray(self.history),
            "promise": self.promise.copy(),
            "queue": self.queue,
            "counts": np.array([*flags, self.perturbed, free]),
            "part": np.asarray(self.part),
            "rng": np.asarray(json.dumps(self.rng.bit_generator.state)),
            "medoids": medoids,
            **fields._asdict(),
        }

    def unpack(self, arrays: Standing, state: CompiledState | DenseState) -> None:
        """Take up what `pack` gave."""
        self.history.extend(arrays["history"][1:].tolist())
        self.promise, self.queue, self.part = arrays["promise"].copy(), arrays["queue"], str(arrays["part"])
        self.first_pass, self.pass_improved, self.moved = (bool(flag) for flag in arrays["counts"][:3])
        self.perturbed = int(arrays["counts"][3])
        self.rng.bit_generator.state = json.loads(str(arrays["rng"]))
        fields = Fields(*(arrays[name].copy() for name in Fields._fields))
        state.restore((fields, arrays["medoids"].copy(), int(arrays["counts"][4])))


def _perturb(
    state: CompiledState | DenseState, rng: np.random.Generator, promise: np.ndarray, batch: int, tolerance: float
) -> bool:
    """Relocates some medoids, mends the parts that changed by swaps, and takes it all back unless it helps."""
    saved, cost, fields = state.snapshot(), state.cost, state.nearest_two()
    num_clusters = len(state.medoids) - 1
    for _ in range(min(num_clusters, max(LEAST_RELOCATED, num_clusters // RELOCATED))):
        drawn, removable = draw_distinct(rng, state.mass(), 1), state.removable()
        if len(drawn) and len(removable):
            state.swap(int(drawn[0]), int(rng.choice(removable)))
    improved = True
    while improved:
        before = state.cost
        changed = rng.permutation(np.flatnonzero((state.nearest_two() != fields).any(axis=0)))
        for start in range(0, len(changed), batch):
            _try_batch(state, np.setdiff1d(changed[start : start + batch], state.medoids), promise)
        improved = before - state.cost > max(tolerance, ROUNDING) * before
    if state.cost < (1.0 - ROUNDING) * cost:
        return True
    state.restore(saved)
    return False


def _try_batch(state: CompiledState | DenseState, candidates: np.ndarray, promise: np.ndarray) -> None:
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
