"""Swaps of K-medoids on the graph itself: PAM without a distance matrix.

A swap puts a node in the place of a medoid. Its exact effect on the cost is read from a ball around the node, pruned
where the second-nearest medoid is nearer, so no table of n x n or K x n distances exists.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from geovq_jax.geometry.components import Graph
from geovq_jax.geometry.seeding import Backend, draw_distinct
from geovq_jax.geometry.swap_state import Changes, CompiledState, DenseState, make_state

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

    Returns:
        Improved; the history falls monotonically.

    Reference:
        Kaufman and Rousseeuw, Clustering by means of medoids (1987); Schubert and Rousseeuw, Fast and eager k-medoids
        clustering (2021), whose change formula this evaluates on balls; Lourenco et al., Iterated local search (2003).
    """
    rng, num_clusters = np.random.default_rng(seed), len(medoids)
    state = make_state(graph, medoids, weights, backend)
    promise = np.full(graph.shape[0], -np.inf)  # change found when the node was last tried
    history, batch = [state.cost], max(16, num_clusters // 8)

    def late() -> bool:
        return deadline is not None and time.monotonic() > deadline

    def end_round() -> None:
        history.append(state.cost)
        if progress is not None:
            progress(len(history) - 1, max_iterations)

    def descend(queue: np.ndarray, first_pass: bool) -> bool:
        pass_improved, round_size = False, CANDIDATES_PER_CLUSTER * num_clusters
        while len(history) <= max_iterations:
            before, trial, queue = state.cost, queue[:round_size], queue[round_size:]
            for start in range(0, len(trial), batch):
                _try_batch(state, np.setdiff1d(trial[start : start + batch], state.medoids), promise)
                if late():
                    break
            improved = before - state.cost > tolerance * before
            pass_improved |= improved
            end_round()
            if late():
                return False
            if not improved and (len(queue) == 0 or tolerance > 0) and (first_pass or not pass_improved):
                return True
            if len(queue) == 0 or (pass_improved and not improved):
                queue, first_pass, pass_improved = np.argsort(promise, kind="stable"), False, False
        return False

    converged, moved = descend(rng.permutation(graph.shape[0]), first_pass=True), False
    for _ in range(perturbations if converged else 0):
        if late() or len(history) > max_iterations:
            converged = False
            break
        moved |= _perturb(state, rng, promise, batch, tolerance / RELOCATED)
        end_round()
    if converged and moved and tolerance == 0:
        converged = descend(np.argsort(promise, kind="stable"), first_pass=False)
    return Improved(state.medoids[state.medoids >= 0], np.asarray(history) / weights.sum(), converged)


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
