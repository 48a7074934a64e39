"""Seeding of K-medoids on a graph: k-means++ and its relatives, aware of connected components.

Each method starts with one node in every connected component, since a component without a medoid costs infinity. From
there on all distances are finite, and the far away are far by length, not by being cut off.
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Int64
from scipy.sparse.csgraph import connected_components
from scipy.sparse.csgraph import dijkstra as scipy_dijkstra

from geovq_jax.geometry.clustering.kernels import compile_graph, draw, extend_nearest, extend_reductions, make_scratch
from geovq_jax.geometry.graphs.graph import Graph

Seeding = Literal["kmeans++", "greedy", "batched", "random", "farthest"]
Backend = Literal["numba", "scipy"]
NUM_ROUNDS = 16  # of batched seeding: with 16 draws its cost is within 1 % of one-at-a-time k-means++

_Extend = Callable[[np.ndarray, np.ndarray], None]


def seed_medoids(
    graph: Graph,
    num_clusters: int,
    *,
    seed: int,
    method: Seeding = "kmeans++",
    weights: Float[np.ndarray, " n"] | None = None,
    backend: Backend = "numba",
) -> Int64[np.ndarray, " K"]:
    """Chooses K distinct nodes to start K-medoids from.

    "kmeans++" draws each next medoid with probability proportional to w d^2; "greedy" draws 2 + ln K nodes so and keeps
    the one that lowers the cost most; "batched" draws K / 16 at a time; "farthest" takes the node of the greatest
    distance; "random" ignores distance.

    Args:
        graph: symmetric graph of n nodes, edges hold lengths >= 0.
        num_clusters: K, between the number of connected components and n.
        seed: decides every draw.
        method: see above.
        weights: weight of each node in the cost; None for 1.
        backend: "numba" searches only where the new medoid is nearer; "scipy" searches the whole graph K times.

    Returns:
        Node ids, in the order in which they were chosen.

    Raises:
        ValueError: for more components than clusters, more clusters than nodes, or an unknown method.

    Reference:
        Arthur and Vassilvitskii, k-means++: the advantages of careful seeding (2007); Gonzalez, Clustering to minimize
        the maximum intercluster distance (1985); Bahmani et al., Scalable k-means++ (2012), for drawing in batches.
    """
    if method not in get_args(Seeding):
        raise ValueError(f"expected an init among {get_args(Seeding)}, got {method!r}")
    n = graph.shape[0]
    num_components, component = connected_components(graph, directed=False)
    if not num_components <= num_clusters <= n:
        raise ValueError(
            f"expected num_clusters between the graph's {num_components} connected components and its {n} nodes, got "
            f"{num_clusters}; join the components (knn_graph(..., repair=True)) or ask for more clusters"
        )
    weights = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    rng = np.random.default_rng(seed)
    medoids = _one_per_component(rng, component, num_components, weights)
    if method == "random":
        others = np.setdiff1d(np.arange(n), medoids)
        return np.concatenate([medoids, rng.choice(others, num_clusters - len(medoids), replace=False)])

    extend = _make_extend(graph, backend)
    distance = np.full(n, np.inf)
    extend(medoids, distance)
    chosen = list(medoids)
    num_draws = 2 + int(np.log(num_clusters)) if method == "greedy" else 1
    reductions = _make_reductions(graph, weights, backend) if method == "greedy" else None
    while len(chosen) < num_clusters:
        if method == "farthest":
            new = np.array([np.argmax(distance)]) if distance.max() > 0 else _unchosen(rng, n, chosen)
        elif method == "batched":
            new = draw_distinct(
                rng, weights * distance**2, min(-(-num_clusters // NUM_ROUNDS), num_clusters - len(chosen))
            )
        else:
            mass = weights * distance**2
            new = np.unique([draw(mass, u) for u in rng.random(num_draws)])
        if new.size == 0 or new[0] < 0:
            new = _unchosen(rng, n, chosen)
        if reductions is not None and new.size > 1:
            new = new[[int(np.argmax(reductions(new, distance)))]]
        extend(new, distance)
        chosen.extend(new)
    return np.asarray(chosen, np.int64)


def draw_distinct(rng: np.random.Generator, mass: Float[np.ndarray, " n"], count: int) -> Int[np.ndarray, " m"]:
    """Draws `count` distinct nodes in proportion to their mass (fewer where fewer have any)."""
    count = min(count, int(np.count_nonzero(mass)))
    # The smallest of independent Exp(1) / mass are a weighted draw without replacement.
    with np.errstate(divide="ignore"):
        race = rng.exponential(size=mass.size) / mass
    return np.argpartition(race, count - 1)[:count] if count else np.empty(0, np.int64)


def _one_per_component(rng, component, num_components, weights) -> np.ndarray:
    order = np.argsort(component, kind="stable")
    starts = np.searchsorted(component[order], np.arange(num_components + 1))
    first = np.empty(num_components, np.int64)
    for c, u in enumerate(rng.random(num_components)):
        nodes = order[starts[c] : starts[c + 1]]
        place = draw(np.ascontiguousarray(weights[nodes]), u)
        first[c] = nodes[max(place, 0)]
    return first


def _unchosen(rng, n, chosen) -> np.ndarray:
    """One node at distance zero from the medoids (a duplicate, or of no weight) that is not a medoid."""
    return rng.choice(np.setdiff1d(np.arange(n), chosen), 1)


def _make_extend(graph, backend) -> _Extend:
    """A function that adds sources to a nearest-source distance field in place."""
    if backend == "scipy":

        def extend(sources, distance):
            found = scipy_dijkstra(graph, directed=True, indices=sources, min_only=True)
            np.minimum(distance, found, out=distance)

        return extend
    compiled, scratch = compile_graph(graph), make_scratch(graph.shape[0])
    label = np.zeros(graph.shape[0], np.int32)

    def extend_pruned(sources, distance):
        for source in sources:
            extend_nearest(compiled, source, 0, distance, label, scratch)

    return extend_pruned


def _make_reductions(graph, weights, backend):
    """A function that says by how much each candidate would lower the cost."""
    if backend == "scipy":

        def reductions(candidates, distance):
            found = np.minimum(scipy_dijkstra(graph, directed=True, indices=candidates), distance)
            return (distance**2 - found**2) @ weights

        return reductions
    compiled, scratch = compile_graph(graph), make_scratch(graph.shape[0])

    def reductions_pruned(candidates, distance):
        out = np.empty(len(candidates))
        extend_reductions(compiled, candidates, distance, weights, scratch, out)
        return out

    return reductions_pruned
