"""K-medoids on a graph: nodes that represent all nodes nearest to them along shortest paths.

`kmedoids` is a loop over rounds of a search whose state is a NamedTuple of arrays. Your own loop can save the state and
resume from the file with bit-identical results:

    state = start(graph, 512, seed=0)
    while not state.converged:
        state = step(graph, state)
        np.savez("state.npz", **state._asdict())  # later: state = load_state(np.load("state.npz"))
    clusters = result(graph, state)
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from jaxtyping import Float, Int, Int32, Int64

from geovq_jax.geometry.checks import check_choice, check_count, check_ids
from geovq_jax.geometry.clustering import alternating, swaps
from geovq_jax.geometry.clustering.alternating import AlternateState
from geovq_jax.geometry.clustering.seeding import Seeding, check_weights, seed_medoids
from geovq_jax.geometry.clustering.swap_state import SwapState
from geovq_jax.geometry.graphs.graph import Graph, check_graph, components

Algorithm = Literal["swap", "alternate"]
State: TypeAlias = SwapState | AlternateState
PERTURBATIONS, SMALL_GRAPH = 32, 10_000  # by default; each relocates a sixteenth of the medoids


class KMedoids(NamedTuple):
    """A clustering of the nodes of a graph.

    Attributes:
        medoids: node ids, distinct.
        labels: the nearest medoid of every node, in [0, K); `labels[medoids[k]] == k`.
        cost: weighted mean over nodes of the squared geodesic distance to the medoid.
        history: the cost of the seeding and after each round; never rises.
        converged: no improvement (beyond the tolerance) was left before the rounds or the time budget ran out.
    """

    medoids: Int64[np.ndarray, " K"]
    labels: Int32[np.ndarray, " n"]
    cost: float
    history: Float[np.ndarray, " t"]
    converged: bool


def kmedoids(
    graph: Graph,
    num_clusters: int,
    *,
    seed: int,
    init: Seeding | Int[np.ndarray, " K"] = "kmeans++",
    algorithm: Algorithm = "swap",
    max_iterations: int = 200,
    tolerance: float = 1e-3,
    time_budget: float | None = None,
    node_weights: Float[np.ndarray, " n"] | None = None,
    restarts: int = 1,
    perturbations: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> KMedoids:
    """Chooses K nodes M to minimise sum_u w_u min_(m in M) d(m, u)^2 / sum_u w_u, d along shortest paths.

    "swap" exchanges single medoids for other nodes as long as that lowers the cost (PAM, evaluated exactly on balls of
    the graph); "alternate" moves every medoid to the best node of its Voronoi cell and assigns the nodes anew. Swaps
    end 16-22 % lower on graphs of latents. The result is a function of the arguments, whatever the number of threads,
    unless a time budget cuts it short.

    Args:
        graph: symmetric graph [n, n] of lengths >= 0; explicit zeros are edges of length 0.
        num_clusters: K, at least the number of connected components, at most n.
        seed: seed of all random draws.
        init: how to choose the first medoids, see `seed_medoids`; or K nodes, at least one in each component.
        max_iterations: largest number of rounds, per restart.
        tolerance: a round improves if it lowers the cost by more than this share of it. At 0 the result is a local
            optimum of the algorithm.
        time_budget: seconds for all restarts after which no further round begins; None for no limit.
        node_weights: weight w of each node, >= 0 and not all 0; None for 1.
        restarts: number of independent runs, the best of which is kept.
        perturbations: of "swap": attempts to leave a local optimum for a better one nearby; None for 32 on graphs of up
            to 10,000 nodes (where they cost a second or two and lower the cost by about 1 %) and none on larger ones.
        progress: called with (rounds done, rounds at most) after each round.

    Returns:
        KMedoids; every node has a label.

    Raises:
        ValueError: as `check_graph`, for a `num_clusters` out of range, or for other arguments of the wrong kind.

    Reference:
        Kaufman and Rousseeuw, Clustering by means of medoids (1987); Schubert and Rousseeuw, Fast and eager k-medoids
        clustering (2021).

    Example:
        >>> from geovq_jax.geometry import graph_from_edges
        >>> path = graph_from_edges(np.array([[0, 1], [1, 2], [2, 3], [3, 4]]), np.array([1.0, 1.0, 9.0, 1.0]), 5)
        >>> found = kmedoids(path, 2, seed=0, node_weights=np.array([1.0, 1.0, 1.0, 2.0, 1.0]))
        >>> sorted(found.medoids.tolist()), found.cost, found.converged
        ([1, 3], 0.5, True)
    """
    check_count("max_iterations", max_iterations, 0)
    check_count("restarts", restarts)
    if time_budget is not None and not time_budget >= 0:
        raise ValueError(f"expected time_budget in seconds >= 0, got {time_budget!r}; pass None for no limit")
    deadline = math.inf if time_budget is None else time.monotonic() + time_budget
    begin = partial(start, graph, num_clusters, seed=seed, init=init, algorithm=algorithm, tolerance=tolerance)
    best: State | None = None
    for restart in range(restarts):
        state = begin(node_weights=node_weights, perturbations=perturbations, restart=restart)
        for iteration in range(max_iterations):
            if state.converged or time.monotonic() > deadline:
                break
            state = step(graph, state)
            if progress is not None:
                progress(restart * max_iterations + iteration + 1, restarts * max_iterations)
        if best is None or state.history[-1] < best.history[-1]:
            best = state
        if time.monotonic() > deadline:
            break
    assert best is not None
    return result(graph, best)


def start(
    graph: Graph,
    num_clusters: int,
    *,
    seed: int,
    init: Seeding | Int[np.ndarray, " K"] = "kmeans++",
    algorithm: Algorithm = "swap",
    tolerance: float = 1e-3,
    node_weights: Float[np.ndarray, " n"] | None = None,
    perturbations: int | None = None,
    restart: int = 0,
) -> State:
    """Chooses the first medoids for the search of `kmedoids`, whose arguments these are; the state before round one.

    `restart` numbers the independent runs of a seed. Raises ValueError as `kmedoids`.
    """
    check_choice("an algorithm", algorithm, get_args(Algorithm))
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"expected a finite tolerance >= 0, got {tolerance!r}; 1e-3 is the default")
    for name, count in (("seed", seed), ("restart", restart), ("perturbations", perturbations or 0)):
        check_count(name, count, 0)
    seeds = [int(word) for word in np.random.SeedSequence([seed, restart]).generate_state(2)]
    if isinstance(init, str):
        medoids = seed_medoids(graph, num_clusters, seed=seeds[0], method=init, weights=node_weights)
    else:
        medoids = _check_medoids(graph, init, num_clusters)
    weights = check_weights(node_weights, graph.shape[0])
    if algorithm == "alternate":
        return alternating.init(graph, medoids, weights=weights, seed=seeds[1], tolerance=tolerance)
    if perturbations is None:
        perturbations = PERTURBATIONS if graph.shape[0] <= SMALL_GRAPH else 0
    return swaps.init(graph, medoids, weights=weights, seed=seeds[1], tolerance=tolerance, perturbations=perturbations)


def _check_medoids(graph: Graph, medoids: Any, num_clusters: int) -> Int64[np.ndarray, " K"]:
    """First medoids as int64; ValueError unless they are K distinct nodes, at least one in each component."""
    check_graph(graph)
    check_count("num_clusters", num_clusters, 1, graph.shape[0])
    nodes = check_ids("init", medoids, graph.shape[0], str(num_clusters)).astype(np.int64)
    labels = components(graph)
    reached, distinct = len(np.unique(labels[nodes])), len(np.unique(nodes))
    if distinct < num_clusters or reached <= labels.max():
        raise ValueError(
            f"expected {num_clusters} distinct nodes, at least one in each of {labels.max() + 1} components, as init, "
            f"got {distinct} in {reached}; name others"
        )
    return nodes


def step(graph: Graph, state: State) -> State:
    """One round of the search, `swap_round` or `alternate_round`; does not change the state that it is given."""
    if isinstance(state, SwapState):
        return swaps.swap_round(graph, state)
    return alternating.alternate_round(graph, state)


def load_state(arrays: Mapping[str, np.ndarray]) -> State:
    """The state whose arrays `np.savez(path, **state._asdict())` wrote; ValueError for names that are not a state's."""
    for kind in (SwapState, AlternateState):
        if set(arrays) == set(kind._fields):
            return kind(**{name: arrays[name] for name in kind._fields})
    raise ValueError(f"expected the arrays of a state of kmedoids, got {sorted(arrays)}; restart the search")


def result(graph: Graph, state: State) -> KMedoids:
    """The clustering that a search has reached, between any two rounds."""
    medoids = state.medoids[state.medoids >= 0]
    _, labels, cost = alternating.assign(graph, medoids, state.weights)
    return KMedoids(medoids, labels, cost, state.history, bool(state.converged))
