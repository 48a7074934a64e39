"""Swaps of K-medoids on the graph itself: PAM without a distance matrix, one round at a time.

A swap replaces a medoid by a node. Its exact effect on the cost is computed on a ball around the node, pruned where the
second-nearest medoid is nearer, so no table of n x n or K x n distances exists.
"""

import numpy as np
from jaxtyping import Float64, Int64

from geovq_jax.geometry.clustering import swap_kernels as kernels
from geovq_jax.geometry.clustering.kernels import compile_graph, make_scratch
from geovq_jax.geometry.clustering.seeding import draw_distinct, generator_from, generator_state
from geovq_jax.geometry.clustering.swap_state import FALSE, TRUE, SwapState, WorkingMedoids
from geovq_jax.geometry.graphs.graph import Graph

CANDIDATES_PER_CLUSTER = 16  # tried in a round
RELOCATED, LEAST_RELOCATED = 16, 4  # a perturbation relocates K / 16 medoids, at least 4: fewer fall back
ROUNDING = 1e-12  # improvements below this share of the cost may be rounding errors and are ignored


def init(
    graph: Graph,
    medoids: Int64[np.ndarray, " K"],
    *,
    weights: Float64[np.ndarray, " n"],
    seed: int,
    tolerance: float,
    perturbations: int = 0,
) -> SwapState:
    """The state before the first round, from distinct medoids, at least one in each component of the graph.

    The seed decides the order of the first pass and the draws of perturbations.
    """
    n, num_clusters, rng = graph.shape[0], len(medoids), np.random.default_rng(seed)
    fields = kernels.empty_fields(n)
    kernels.fill_fields(compile_graph(graph), fields, medoids, make_scratch(n))
    order = np.lexsort((fields.distance1, fields.label1))
    fields = kernels.Fields(*(field[order] for field in fields))
    loss, orphans = np.empty(num_clusters + 1), np.empty(num_clusters + 1, np.int64)
    cost = kernels.removal_losses(fields, weights[order], num_clusters, loss, orphans)
    return SwapState(
        np.append(medoids, -1),
        order,
        *fields,
        weights,
        promise=np.full(n, -np.inf),
        queue=rng.permutation(n),
        history=np.array([cost / weights.sum()]),
        rng=generator_state(rng),  # after the queue was drawn
        tolerance=np.asarray(tolerance, np.float64),
        perturbations=np.asarray(perturbations, np.int64),
        first_pass=TRUE,
        **dict.fromkeys(("pass_improved", "perturbing", "perturbed", "converged"), FALSE),
    )


def swap_round(graph: Graph, state: SwapState) -> SwapState:
    """Tries 16 K candidates for swaps, or one perturbation of a local optimum.

    Candidates are tried in batches: all of a batch against the same medoids, in parallel, then the promising ones
    again, best first, each against the medoids at that time and taken if it still lowers the cost. The first pass over
    the nodes is in random order; later ones begin with the nodes that came nearest to an improvement when last tried,
    and end at their first round without improvement. When a pass begins with such a round, the
    descent has ended. A perturbation then moves a sixteenth of the medoids to nodes drawn in proportion to w d^2, tries
    the nodes whose nearest two medoids changed, and is kept if the cost has fallen. The cost never rises, and the
    result does not depend on the number of threads.

    Reference:
        Kaufman and Rousseeuw, Clustering by means of medoids (1987); Schubert and Rousseeuw, Fast and eager k-medoids
        clustering (2021), whose change formula this evaluates on balls; Lourenco et al., Iterated local search (2003).
    """
    search = _perturb if state.perturbing else _descend
    return SwapState(*map(np.asarray, search(WorkingMedoids(graph, state), state)))


def _descend(work: WorkingMedoids, state: SwapState) -> SwapState:
    size, before, promise = CANDIDATES_PER_CLUSTER * (len(state.medoids) - 1), work.cost, state.promise.copy()
    _try(work, state.queue[:size], promise)
    improved = before - work.cost > state.tolerance * before
    queue, pass_improved = state.queue[size:], state.pass_improved | improved
    history = np.append(state.history, work.cost / state.weights.sum())
    state = work.store(state)._replace(promise=promise, queue=queue, pass_improved=pass_improved, history=history)
    ended = len(queue) == 0
    if not improved and (ended or state.tolerance > 0) and (state.first_pass or not pass_improved):
        return _descended(state)
    return _begin_pass(state) if ended or (pass_improved and not improved) else state


def _begin_pass(state: SwapState) -> SwapState:
    """Queues all nodes, those that came nearest to an improvement first."""
    return state._replace(queue=np.argsort(state.promise, kind="stable"), first_pass=FALSE, pass_improved=FALSE)


def _descended(state: SwapState) -> SwapState:
    """At a local optimum: perturbs it, starts a new descent if a perturbation was kept, or ends."""
    if state.perturbations > 0:
        return state._replace(perturbing=TRUE)
    if state.perturbed and state.tolerance == 0:  # perturbations sweep only the nodes near what they changed
        return _begin_pass(state)._replace(perturbing=FALSE, perturbed=FALSE)
    return state._replace(converged=TRUE)


def _perturb(work: WorkingMedoids, state: SwapState) -> SwapState:
    """Relocates some medoids, improves the affected part by swaps, and keeps the result if the cost has fallen."""
    rng, promise, cost, fields = generator_from(state.rng), state.promise.copy(), work.cost, work.nearest_two()
    num_clusters = len(state.medoids) - 1
    for _ in range(min(num_clusters, max(LEAST_RELOCATED, num_clusters // RELOCATED))):
        drawn, removable = draw_distinct(rng, work.mass(), 1), work.removable()
        if len(drawn) and len(removable):
            work.swap(int(drawn[0]), int(rng.choice(removable)))
    improved = True
    while improved:
        before = work.cost
        changed = np.flatnonzero((work.nearest_two() != fields).any(axis=0))
        _try(work, rng.permutation(changed), promise)
        improved = before - work.cost > max(float(state.tolerance) / RELOCATED, ROUNDING) * before
    kept, mean = work.cost < (1.0 - ROUNDING) * cost, state.history[-1]
    if kept:
        state, mean = work.store(state)._replace(perturbed=TRUE), work.cost / state.weights.sum()
    state = state._replace(promise=promise, rng=generator_state(rng), history=np.append(state.history, mean))
    state = state._replace(perturbations=state.perturbations - 1)
    return state if state.perturbations > 0 else _descended(state)


def _try(work: WorkingMedoids, nodes: Int64[np.ndarray, " t"], promise: Float64[np.ndarray, " n"]) -> None:
    """Performs the swaps with these nodes that lower the cost, batch by batch, and records the promise of all."""
    batch_size = max(16, (len(work.medoids) - 1) // 8)
    for first in range(0, len(nodes), batch_size):
        held = np.zeros(len(promise) + 1, bool)
        held[work.medoids] = True  # the last entry is for the -1 of the free tag
        candidates = np.sort(nodes[first : first + batch_size])
        candidates = candidates[~held[candidates]]
        found = work.best_swaps(candidates)
        promise[candidates] = found.change
        taken = False
        for place in np.argsort(found.change, kind="stable"):
            change, partner = found.change[place], found.partner[place]
            if change >= -ROUNDING * work.cost:
                break
            if taken:  # the medoids are no longer those that the batch was evaluated against
                (change,), (partner,) = work.best_swaps(candidates[place : place + 1])
                promise[candidates[place]] = change
            if change < -ROUNDING * work.cost:
                work.swap(int(candidates[place]), int(partner))
                taken = True
