"""Swaps: fields and changes against whole tables of distances, bit for bit where lengths are integers."""

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

from geovq_jax.geometry import graph_from_edges
from geovq_jax.geometry.clustering import swap_kernels, swap_state, swaps
from geovq_jax.geometry.clustering.kernels import compile_graph, make_scratch


def random_graph(seed: int, n: int, *, whole: bool, parts: int = 1) -> sparse.csr_array:
    """A path in every part, so that it is connected, and 2n random edges inside parts."""
    rng = np.random.default_rng(seed)
    part = np.arange(n) * parts // n
    pairs = np.concatenate([np.stack([np.arange(n - 1), np.arange(1, n)], 1), rng.integers(0, n, (2 * n, 2))])
    pairs = pairs[(part[pairs[:, 0]] == part[pairs[:, 1]]) & (pairs[:, 0] != pairs[:, 1])]
    lengths = rng.integers(0, 9, len(pairs)).astype(float) if whole else rng.exponential(size=len(pairs))
    return graph_from_edges(pairs.astype(np.int32), lengths, n)


def search(graph, medoids, *, max_iterations: int, weights=None, seed=0, tolerance=0.0, perturbations=0):
    """The state of a search by swaps after its last round."""
    weights = np.ones(graph.shape[0]) if weights is None else weights
    state = swaps.init(graph, medoids, weights=weights, seed=seed, tolerance=tolerance, perturbations=perturbations)
    while not state.converged and len(state.history) <= max_iterations:
        state = swaps.swap_round(graph, state)
    return state


def best_swaps(graph, medoids, candidates, weights, *, working=swap_state.WorkingMedoids):
    return working(graph, search(graph, medoids, weights=weights, max_iterations=0)).best_swaps(candidates)


def held(state) -> np.ndarray:
    return state.medoids[state.medoids >= 0]


def cost_of(table: np.ndarray, medoids, weights: np.ndarray) -> float:
    return float(np.min(table[np.asarray(medoids)], axis=0) ** 2 @ weights)


def check_fields(fields, table: np.ndarray, medoids: np.ndarray) -> None:
    """Values must be the two smallest of the table; labels must stand for these values and differ."""
    rows = np.sort(table[medoids], axis=0)
    np.testing.assert_array_equal(fields.distance1, rows[0])
    np.testing.assert_array_equal(fields.distance2, rows[1])
    nodes = np.arange(table.shape[1])
    np.testing.assert_array_equal(table[medoids][fields.label1, nodes], rows[0])
    reached = np.isfinite(rows[1])
    np.testing.assert_array_equal(table[medoids][fields.label2, nodes][reached], rows[1][reached])
    assert (fields.label2[~reached] == -1).all()
    assert (fields.label1 != fields.label2).all()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("parts", [1, 4])
def test_fields_are_the_two_smallest_distances_bit_for_bit(whole, parts):
    graph = random_graph(3, 120, whole=whole, parts=parts)
    table = dijkstra(graph)
    medoids = np.array([0, 31, 61, 95, 7, 118])
    fields = swap_kernels.empty_fields(120)
    swap_kernels.fill_fields(compile_graph(graph), fields, medoids, make_scratch(120))
    check_fields(fields, table, medoids)


@pytest.mark.parametrize("whole", [True, False])
def test_repaired_fields_equal_new_ones_after_many_swaps(whole):
    graph, n, num_clusters = random_graph(5, 150, whole=whole), 150, 9
    table, rng = dijkstra(graph), np.random.default_rng(0)
    compiled, scratch, fields = compile_graph(graph), make_scratch(n), swap_kernels.empty_fields(n)
    medoids = np.append(rng.choice(n, num_clusters, replace=False), -1)
    swap_kernels.fill_fields(compiled, fields, medoids[:-1], scratch)
    for _ in range(40):
        free = int(np.flatnonzero(medoids < 0)[0])
        node = int(rng.choice(np.setdiff1d(np.arange(n), medoids)))
        partner = int(rng.choice(np.flatnonzero(medoids >= 0)))
        swap_kernels.add_medoid(compiled, fields, node, free, scratch)
        medoids[free] = node
        check_fields(fields, table, medoids)
        swap_kernels.remove_medoid(compiled, fields, partner, scratch)
        medoids[partner] = -1
        kept = np.flatnonzero(medoids >= 0)
        place = np.full(num_clusters + 1, -1, np.int32)
        place[kept] = np.arange(num_clusters)
        check_fields(fields._replace(label1=place[fields.label1], label2=place[fields.label2]), table, medoids[kept])
        np.testing.assert_array_equal(scratch.distance, fields.distance2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 30), st.integers(1, 4), st.integers(1, 3))
def test_changes_equal_full_recomputation_exactly(seed, n, num_clusters, parts):
    """Lengths and weights are integers, so every sum is exact and equality means equality."""
    graph = random_graph(seed, n, whole=True, parts=parts)
    table, rng = dijkstra(graph), np.random.default_rng(seed)
    first = [int(np.flatnonzero(np.arange(n) * parts // n == p)[0]) for p in range(parts)]
    others = rng.permutation(np.setdiff1d(np.arange(n), first))
    medoids = np.concatenate([first, others[: num_clusters - 1]]).astype(np.int64)
    candidates = others[num_clusters - 1 :]
    weights = rng.integers(0, 5, n).astype(float)
    weights[0] = 1.0
    found = best_swaps(graph, medoids, candidates, weights)
    now = cost_of(table, medoids, weights)
    with np.errstate(invalid="ignore"):  # 0 x infinity where a node of no weight is cut off
        changes = np.array(
            [
                [cost_of(table, np.append(np.delete(medoids, q), x), weights) for q in range(len(medoids))]
                for x in candidates
            ]
        )
    reachable = np.array(
        [
            [np.isfinite(table[np.append(np.delete(medoids, q), x)].min(axis=0)).all() for q in range(len(medoids))]
            for x in candidates
        ]
    )
    changes = np.where(reachable, changes - now, np.inf)
    np.testing.assert_array_equal(found.change, changes.min(axis=1))
    chosen = np.where(found.partner >= 0, changes[np.arange(len(candidates)), found.partner], np.inf)
    np.testing.assert_array_equal(chosen, changes.min(axis=1))


def test_changes_of_real_lengths_match_whole_rows_of_distances():
    graph, rng = random_graph(11, 200, whole=False), np.random.default_rng(2)
    nodes = rng.permutation(200)
    weights = rng.random(200)
    ours = best_swaps(graph, nodes[:12], nodes[12:60], weights)
    plain = best_swaps(graph, nodes[:12], nodes[12:60], weights, working=oracles.DenseMedoids)
    np.testing.assert_allclose(ours.change, plain.change, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(ours.partner, plain.partner)


def test_a_search_by_whole_rows_of_distances_takes_the_same_swaps(monkeypatch):
    graph = random_graph(4, 160, whole=False)
    arguments = dict(seed=1, max_iterations=50, perturbations=6)
    ours = search(graph, np.arange(0, 160, 20), **arguments)
    monkeypatch.setattr(swaps, "WorkingMedoids", oracles.DenseMedoids)
    plain = search(graph, np.arange(0, 160, 20), **arguments)
    np.testing.assert_array_equal(ours.medoids, plain.medoids)
    np.testing.assert_allclose(ours.history, plain.history, rtol=1e-12)


@pytest.mark.parametrize("perturbations", [0, 8])
def test_a_converged_search_is_a_local_optimum_by_exhaustion(perturbations):
    graph, n = random_graph(8, 80, whole=False), 80
    found = search(graph, np.arange(6), max_iterations=100, perturbations=perturbations)
    assert found.converged
    table, medoids = dijkstra(graph), held(found)
    best = min(
        cost_of(table, np.append(np.delete(medoids, q), x), np.ones(n))
        for q in range(6)
        for x in np.setdiff1d(np.arange(n), medoids)
    )
    assert best >= found.history[-1] * n * (1 - 1e-9)
    assert (np.diff(found.history) <= 0).all()
    assert found.history[-1] < 0.9 * found.history[0]


def test_number_of_threads_does_not_change_the_result(monkeypatch):
    graph, start = random_graph(9, 400, whole=False), np.arange(0, 400, 20)
    runs = []
    for threads in (1, 3):
        monkeypatch.setattr(swap_state, "num_threads", lambda t=threads: t)
        monkeypatch.setattr(swap_state, "SERIAL_WORK", 1)
        runs.append(search(graph, start, max_iterations=5))
    np.testing.assert_array_equal(runs[0].medoids, runs[1].medoids)
    np.testing.assert_array_equal(runs[0].history, runs[1].history)


def test_perturbations_leave_local_optima_and_keep_every_component_served():
    graph, n, before, after = random_graph(3, 150, whole=False, parts=3), 150, [], []
    for seed in range(3):
        others = np.random.default_rng(seed).choice(np.setdiff1d(np.arange(n), [0, 50, 100]), 12)
        start = np.append([0, 50, 100], others)
        plain, shaken = (
            search(graph, start, seed=seed, max_iterations=200, tolerance=1e-3, perturbations=count)
            for count in (0, 20)
        )
        assert len(shaken.history) == len(plain.history) + 20
        np.testing.assert_array_equal(shaken.history[: len(plain.history)], plain.history)
        assert (np.diff(shaken.history) <= 0).all()
        assert shaken.history[-1] == pytest.approx(cost_of(dijkstra(graph), held(shaken), np.ones(n)) / n, rel=1e-9)
        before.append(plain.history[-1])
        after.append(shaken.history[-1])
    assert np.mean(after) < np.mean(before)


def test_perturbations_stop_with_the_rounds_and_say_so():
    graph = random_graph(3, 120, whole=False)
    found = search(graph, np.arange(0, 120, 10), max_iterations=7, tolerance=1e-3, perturbations=50)
    assert len(found.history) == 8
    assert not found.converged
