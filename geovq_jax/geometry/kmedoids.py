"""K-medoids on a graph: nodes that stand for all nodes nearest to them along shortest paths."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int64

from geovq_jax.geometry.graph_kernels import CompiledGraph, compile_graph, make_scratch, medoid_of_cell, num_threads
from geovq_jax.geometry.paths import nearest_source
from geovq_jax.geometry.seeding import Seeding, seed_medoids

Progress = Callable[[int, int], None]
MAX_CANDIDATES = 512  # cells larger than this try a sample of their members as medoids


class KMedoids(NamedTuple):
    """A clustering of the nodes of a graph.

    Attributes:
        medoids: int64 [K], node ids, distinct.
        labels: int32 [n], entries in [0, K): the nearest medoid; `labels[medoids[k]] == k`.
        cost: weighted mean over nodes of the squared geodesic distance to the medoid.
        history: [t], the cost of the seeding and after every improvement, falling.
        converged: no improvement was left to the method (within tolerance), not only out of iterations or time.
    """

    medoids: Int64[np.ndarray, " K"]
    labels: np.ndarray
    cost: float
    history: Float[np.ndarray, " t"]
    converged: bool


def kmedoids(
    graph: sp.csr_array,
    num_clusters: int,
    *,
    seed: int,
    init: Seeding = "kmeans++",
    method: Literal["swap", "alternate"] = "swap",
    max_iterations: int = 100,
    tolerance: float = 1e-4,
    time_budget: float | None = None,
    node_weights: Float[np.ndarray, " n"] | None = None,
    restarts: int = 1,
    progress: Progress | None = None,
) -> KMedoids:
    """Clusters the nodes of a graph around K of them, by shortest paths: min over M of mean_u w_u min_(m in M) d(m, u)^2."""
    weights = np.ones(graph.shape[0]) if node_weights is None else np.asarray(node_weights, np.float64)
    deadline = None if time_budget is None else time.monotonic() + time_budget
    best: KMedoids | None = None
    for restart in range(restarts):
        run = np.random.SeedSequence([seed, restart]).generate_state(2)
        medoids = seed_medoids(graph, num_clusters, seed=int(run[0]), method=init, weights=weights)
        found = _alternate(graph, medoids, weights, int(run[1]), max_iterations, tolerance, deadline, progress)
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    return best


def _assign(graph, medoids, weights) -> tuple[np.ndarray, np.ndarray, float]:
    """Distances, labels and cost; a medoid belongs to itself even where another lies at distance zero."""
    distance, source = nearest_source(graph, medoids)
    index = np.full(graph.shape[0], -1, np.int32)
    index[medoids] = np.arange(len(medoids), dtype=np.int32)
    label = index[source]
    label[medoids] = np.arange(len(medoids), dtype=np.int32)
    return distance, label, float(np.average(distance**2, weights=weights))


def _alternate(graph, medoids, weights, seed, max_iterations, tolerance, deadline, progress) -> KMedoids:
    rng = np.random.default_rng(seed)
    compiled = compile_graph(graph)
    medoids = medoids.copy()
    changed = np.ones(len(medoids), bool)
    distance, label, cost = _assign(graph, medoids, weights)
    history, converged = [cost], False
    for iteration in range(max_iterations):
        moved = update_medoids(compiled, medoids, label, distance, weights, np.flatnonzero(changed), rng)
        distance, new_label, cost = _assign(graph, moved, weights)
        gone = label != new_label
        changed = np.zeros(len(medoids), bool)
        changed[label[gone]] = True
        changed[new_label[gone]] = True
        still = np.array_equal(moved, medoids)
        if cost >= history[-1] * (1 - tolerance) or still:
            converged = True
        if cost < history[-1]:
            history.append(cost)
            medoids, label = moved, new_label
        if progress is not None:
            progress(iteration + 1, max_iterations)
        if converged or (deadline is not None and time.monotonic() > deadline):
            break
    distance, label, cost = _assign(graph, medoids, weights)
    return KMedoids(medoids, label, cost, np.asarray(history), converged)


def update_medoids(compiled: CompiledGraph, medoids, label, distance, weights, cells, rng) -> np.ndarray:
    """Moves the medoid of each given cell to the cell's member of least cost."""
    moved = medoids.copy()
    order = np.lexsort((distance, label))
    starts = np.searchsorted(label[order], np.arange(len(medoids) + 1))
    floor = np.empty(len(label))
    offsets = rng.random(len(medoids))
    threads = min(num_threads(), max(len(cells), 1))

    def work(part):
        scratch = make_scratch(len(label))
        for k in cells[part::threads]:
            members = order[starts[k] : starts[k + 1]]
            members = np.concatenate([[medoids[k]], members[members != medoids[k]]])
            candidates = members
            if len(members) > MAX_CANDIDATES:
                step = len(members) / MAX_CANDIDATES
                candidates = members[((np.arange(MAX_CANDIDATES) + offsets[k]) * step).astype(np.int64)]
            moved[k], _ = medoid_of_cell(compiled, members, candidates, label, distance, weights, floor, scratch)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return moved
