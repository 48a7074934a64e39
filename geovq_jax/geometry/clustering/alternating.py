"""Alternating K-medoids on a graph, one round at a time: every medoid moves to the best node of its Voronoi cell."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int32, Int64
from scipy import sparse

from geovq_jax.geometry.batching import num_threads
from geovq_jax.geometry.clustering.kernels import compile_graph, make_scratch, medoid_of_cell
from geovq_jax.geometry.clustering.seeding import draw_distinct, generator_from, generator_state
from geovq_jax.geometry.graphs.graph import Graph
from geovq_jax.geometry.graphs.paths import nearest_source

MAX_CANDIDATES = 256  # members tried as medoid of a cell; a sample of larger cells


class AlternateState(NamedTuple):
    """State of an alternating search between two rounds; with the graph it determines the rest of the search.

    `labels` and `distance` are the place among the medoids of every node's nearest one, and the distance to it; `stale`
    marks cells that may have a better medoid than theirs. `converged`: the last round lowered the cost by no more than
    the share `tolerance` of it. `weights`, `history` and `rng` are as in `SwapState`.
    """

    medoids: Int64[np.ndarray, " K"]
    labels: Int32[np.ndarray, " n"]
    distance: Float64[np.ndarray, " n"]
    weights: Float64[np.ndarray, " n"]
    stale: Bool[np.ndarray, " K"]
    history: Float64[np.ndarray, " t"]
    rng: np.ndarray
    tolerance: Float64[np.ndarray, ""]
    converged: Bool[np.ndarray, ""]


class Assignment(NamedTuple):
    """Voronoi cells: distance to the nearest medoid, its place among the medoids, and the weighted mean cost."""

    distance: Float[np.ndarray, " n"]
    labels: Int32[np.ndarray, " n"]
    cost: float


def assign(graph: Graph, medoids: Int64[np.ndarray, " K"], weights: Float[np.ndarray, " n"]) -> Assignment:
    """Voronoi cells of the medoids; a medoid belongs to itself even where another lies at distance 0."""
    distance, source = map(np.asarray, nearest_source(graph, medoids))
    place = np.full(graph.shape[0], -1, np.int32)
    place[medoids] = np.arange(len(medoids), dtype=np.int32)
    labels = place[source]
    labels[medoids] = place[medoids]
    return Assignment(distance, labels, float((distance**2) @ weights / weights.sum()))


def init(
    graph: Graph, medoids: Int64[np.ndarray, " K"], *, weights: Float64[np.ndarray, " n"], seed: int, tolerance: float
) -> AlternateState:
    """The state before the first round, from distinct medoids, at least one in each component of the graph.

    The seed determines which members of large cells are tried and how redundant medoids are redrawn.
    """
    distance, labels, cost = assign(graph, medoids, weights)
    stale, history, rng = np.ones(len(medoids), bool), np.array([cost]), generator_state(np.random.default_rng(seed))
    limit, converged = np.asarray(tolerance, np.float64), np.asarray(False)
    return AlternateState(medoids, labels, distance, weights, stale, history, rng, limit, converged)


def alternate_round(graph: Graph, state: AlternateState) -> AlternateState:
    """Moves each medoid to the best node of its cell and assigns the nodes anew.

    Cells whose members did not change keep their medoid. A medoid at distance 0 of another is redundant and drawn
    again, with probability proportional to w d^2. A round that does not lower the cost is undone. The result does not
    depend on the number of threads.
    """
    rng, cost = generator_from(state.rng), state.history[-1]
    moved = _redraw_wasted(graph, state, best_members(graph, state, rng), rng)
    after = assign(graph, moved, state.weights)
    if after.cost < cost:
        changed = np.flatnonzero(after.labels != state.labels)
        # Other members of a large cell are tried each time, so it may improve although no member has changed.
        stale = np.bincount(state.labels, minlength=len(moved)) > MAX_CANDIDATES
        stale[state.labels[changed]] = stale[after.labels[changed]] = True
        state = state._replace(medoids=moved, labels=after.labels, distance=after.distance, stale=stale)
    return state._replace(
        history=np.append(state.history, min(after.cost, cost)),
        rng=generator_state(rng),
        converged=np.asarray(cost - after.cost <= state.tolerance * cost),
    )


def _redraw_wasted(
    graph: Graph, state: AlternateState, medoids: Int64[np.ndarray, " K"], rng: np.random.Generator
) -> Int64[np.ndarray, " K"]:
    """Draws anew, in proportion to w d^2, all medoids but the first of those that lie at distance 0 of each other."""
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    zero = graph.data == 0
    same = sparse.csr_array((np.ones(zero.sum()), (rows[zero], graph.indices[zero])), shape=graph.shape)
    coincident = sparse.csgraph.connected_components(same, directed=False)[1]
    wasted = np.setdiff1d(np.arange(len(medoids)), np.unique(coincident[medoids], return_index=True)[1])
    mass = state.weights * state.distance**2
    mass[medoids] = 0.0
    drawn = draw_distinct(rng, mass, len(wasted))
    medoids[wasted[: len(drawn)]] = drawn
    return medoids


def best_members(graph: Graph, state: AlternateState, rng: np.random.Generator) -> Int64[np.ndarray, " K"]:
    """The member of least cost of each stale cell, distances through the whole graph; the medoids of the others.

    Exact in cells of up to 256 members; in larger ones 256 are tried, evenly spread over the distance from the current
    medoid.
    """
    order = np.lexsort((state.distance, state.labels))
    starts = np.searchsorted(state.labels[order], np.arange(1, len(state.medoids)))
    members_of, offsets = np.split(order, starts), rng.random(len(state.medoids))
    compiled, moved, floor = compile_graph(graph), state.medoids.copy(), np.empty(len(order))

    def move(cells: Int64[np.ndarray, " c"]) -> None:
        scratch = make_scratch(len(order))
        for k in cells:
            medoid, members = state.medoids[k], members_of[k]
            members = np.append(medoid, members[members != medoid])
            step = max(1.0, len(members) / MAX_CANDIDATES)
            tried = members[((np.arange(min(len(members), MAX_CANDIDATES)) + offsets[k]) * step).astype(np.int64)]
            cell = (members, tried, state.labels, state.distance, state.weights)
            moved[k], _ = medoid_of_cell(compiled, *cell, floor, scratch)

    cells = np.flatnonzero(state.stale)
    threads = min(num_threads(), max(len(cells), 1))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(move, (cells[thread::threads] for thread in range(threads))))
    return moved
