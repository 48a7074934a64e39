"""Seeding of K-medoids on a graph: k-means++ and its relatives, aware of connected components.

Each method starts with one node in every connected component, since a component without a medoid costs infinity. After
that all distances are finite.
"""

import json
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Float64, Int, Int64
from scipy import sparse

from geovq_jax.geometry.checks import check_choice, check_count
from geovq_jax.geometry.clustering.kernels import compile_graph, extend_reductions, make_scratch, search_ball
from geovq_jax.geometry.graphs.graph import Graph, check_graph

Seeding = Literal["kmeans++", "greedy", "batched", "random", "farthest"]
NUM_ROUNDS = 16  # of batched seeding: with 16 draws its cost is within 1 % of one-at-a-time k-means++


def seed_medoids(
    graph: Graph,
    num_clusters: int,
    *,
    seed: int,
    method: Seeding = "kmeans++",
    weights: Float[np.ndarray, " n"] | None = None,
) -> Int64[np.ndarray, " K"]:
    """Chooses K distinct nodes to start K-medoids from, listed in the order of choice.

    "kmeans++" draws each next medoid with probability proportional to w d^2; "greedy" draws 2 + ln K such nodes and
    keeps the one that lowers the cost most; "batched" draws K / 16 at a time; "farthest" takes the node of the greatest
    distance; "random" ignores distance. Weights None stand for 1. Raises ValueError as `kmedoids`.

    Reference:
        Arthur and Vassilvitskii, k-means++: the advantages of careful seeding (2007); Gonzalez, Clustering to minimize
        the maximum intercluster distance (1985); Bahmani et al., Scalable k-means++ (2012), for drawing in batches.
    """
    check_graph(graph)
    n = graph.shape[0]
    weights = check_weights(weights, n)
    check_count("num_clusters", num_clusters)
    check_count("seed", seed, 0)
    check_choice("an init", method, get_args(Seeding))
    num_components, component = sparse.csgraph.connected_components(graph, directed=False)
    if not num_components <= num_clusters <= n:
        raise ValueError(
            f"expected num_clusters between the graph's {num_components} connected components and its {n} nodes, got "
            f"{num_clusters}; join the components (knn_graph(..., repair=True)) or change num_clusters"
        )
    rng = np.random.default_rng(seed)
    new = _one_per_component(rng, component, num_components, weights)
    if method == "random":
        others = np.setdiff1d(np.arange(n), new)
        return np.concatenate([new, rng.choice(others, num_clusters - len(new), replace=False)])

    compiled, scratch, distance = compile_graph(graph), make_scratch(n), np.full(n, np.inf)
    chosen: list[int] = []
    num_draws = 2 + int(np.log(num_clusters)) if method == "greedy" else 1
    batch_size = -(-num_clusters // NUM_ROUNDS)
    while True:
        for source in new:
            search_ball(compiled, source, scratch._replace(distance=distance))
        chosen.extend(new)
        if len(chosen) == num_clusters:
            return np.asarray(chosen, np.int64)
        if method == "farthest":
            new = np.array([np.argmax(distance)]) if distance.max() > 0 else new[:0]
        elif method == "batched":
            new = draw_distinct(rng, weights * distance**2, min(batch_size, num_clusters - len(chosen)))
        else:
            new = np.unique(_draw(weights * distance**2, rng.random(num_draws)))
        if new.size == 0:
            # All others are at distance 0 from a medoid or have no weight: the choice does not matter.
            new = rng.choice(np.setdiff1d(np.arange(n), chosen), 1)
        elif new.size > 1 and method == "greedy":
            reductions = np.empty(len(new))
            extend_reductions(compiled, new, distance, weights, scratch, reductions)
            new = new[[int(np.argmax(reductions))]]


def check_weights(weights: Any, num_nodes: int) -> Float64[np.ndarray, " n"]:
    """Weights of the nodes as float64, 1 for None; ValueError unless they are n finite numbers >= 0, not all 0."""
    if weights is None:
        return np.ones(num_nodes)
    given = np.asarray(weights)
    if given.dtype.kind not in "fiu" or given.shape != (num_nodes,):
        raise ValueError(
            f"expected {num_nodes} node weights, got {given.dtype} of shape {given.shape}; pass None for equal weights"
        )
    if not np.isfinite(given).all() or given.min() < 0 or given.max() == 0:
        raise ValueError(
            f"expected finite weights >= 0, not all 0, got {given.min()} to {given.max()}; pass None for equal weights"
        )
    return given.astype(np.float64)


def draw_distinct(rng: np.random.Generator, mass: Float[np.ndarray, " n"], count: int) -> Int[np.ndarray, " m"]:
    """Draws `count` distinct nodes in proportion to their mass (fewer where fewer have any)."""
    count = min(count, int(np.count_nonzero(mass)))
    # The smallest of independent Exp(1) / mass are a weighted draw without replacement.
    with np.errstate(divide="ignore"):
        race = rng.exponential(size=mass.size) / mass
    return np.argpartition(race, count - 1)[:count] if count else np.empty(0, np.int64)


def _one_per_component(rng, component, num_components, weights) -> np.ndarray:
    order = np.argsort(component, kind="stable")
    first = np.empty(num_components, np.int64)
    parts = np.split(order, np.searchsorted(component[order], np.arange(1, num_components)))
    for c, (nodes, uniform) in enumerate(zip(parts, rng.random(num_components), strict=True)):
        first[c] = nodes[next(iter(_draw(weights[nodes], uniform)), 0)]
    return first


def _draw(mass: Float[np.ndarray, " n"], uniforms: Float[np.ndarray, " m"] | float) -> Int[np.ndarray, " m"]:
    """Draws a node in proportion to its mass for each number of [0, 1); none where there is no mass."""
    total = np.cumsum(mass)
    if not total[-1] > 0.0:
        return np.empty(0, np.int64)
    marks = np.minimum(np.atleast_1d(uniforms) * total[-1], np.nextafter(total[-1], 0.0))
    return np.searchsorted(total, marks, "right")


def generator_state(rng: np.random.Generator) -> np.ndarray:
    """The state of a random generator as an array with one string, for files."""
    return np.asarray(json.dumps(rng.bit_generator.state))


def generator_from(state: np.ndarray) -> np.random.Generator:
    """The generator in the state that `generator_state` returned."""
    rng = np.random.default_rng(0)
    rng.bit_generator.state = json.loads(str(state))
    return rng
