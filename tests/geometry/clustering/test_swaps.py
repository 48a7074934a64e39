"""Swaps: fields and changes against whole tables of distances, bit for bit where lengths are integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

from geovq_jax.geometry import graph_from_edges, kmedoids
from geovq_jax.geometry.clustering import swap_kernels, swap_state
from geovq_jax.geometry.clustering.kernels import compile_graph, make_scratch
from geovq_jax.geometry.clustering.swaps import best_swaps, improve_by_swaps


def random_graph(seed: int, n: int, *, whole: bool, parts: int = 1) -> sparse.csr_array:
    """A path in every part, so that it is connected, and 2n random edges inside parts."""
    rng = np.random.default_rng(seed)
    part = np.arange(n) * parts // n
    pairs = np.concatenate([np.stack([np.arange(n - 1), np.arange(1, n)], 1), rng.integers(0, n, (2 * n, 2))])
    pairs = pairs[(part[pairs[:, 0]] == part[pairs[:, 1]]) & (pairs[:, 0] != pairs[:, 1])]
    lengths = rng.integers(0, 9, len(pairs)).astype(float) if whole else rng.exponential(size=len(pairs))
    return graph_from_edges(pairs.astype(np.int32), lengths, n)


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
    found = best_swaps(graph, medoids, candidates, weights=weights)
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
    total = weights.sum()
    np.testing.assert_array_equal(found.change, changes.min(axis=1) / total)
    chosen = np.where(found.partner >= 0, changes[np.arange(len(candidates)), found.partner], np.inf)
    np.testing.assert_array_equal(chosen, changes.min(axis=1))


def test_changes_of_real_lengths_match_the_scipy_form():
    graph, rng = random_graph(11, 200, whole=False), np.random.default_rng(2)
    nodes = rng.permutation(200)
    weights = rng.random(200)
    ours = best_swaps(graph, nodes[:12], nodes[12:60], weights=weights)
    plain = best_swaps(graph, nodes[:12], nodes[12:60], weights=weights, backend="scipy")
    np.testing.assert_allclose(ours.change, plain.change, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(ours.partner, plain.partner)


def test_both_forms_of_the_search_take_the_same_swaps():
    graph = random_graph(4, 160, whole=False)
    start = np.arange(0, 160, 20)
    runs = [
        improve_by_swaps(
            graph,
            start,
            weights=np.ones(160),
            seed=1,
            max_iterations=50,
            tolerance=0.0,
            perturbations=6,
            backend=backend,
        )
        for backend in ("numba", "scipy")
    ]
    np.testing.assert_array_equal(runs[0].medoids, runs[1].medoids)
    np.testing.assert_allclose(runs[0].history, runs[1].history, rtol=1e-12)


@pytest.mark.parametrize("perturbations", [0, 8])
def test_a_converged_search_is_a_local_optimum_by_exhaustion(perturbations):
    graph, n = random_graph(8, 80, whole=False), 80
    found = improve_by_swaps(
        graph, np.arange(6), weights=np.ones(n), seed=0, max_iterations=100, tolerance=0.0, perturbations=perturbations
    )
    assert found.converged
    table = dijkstra(graph)
    best = min(
        cost_of(table, np.append(np.delete(found.medoids, q), x), np.ones(n))
        for q in range(6)
        for x in np.setdiff1d(np.arange(n), found.medoids)
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
        runs.append(improve_by_swaps(graph, start, weights=np.ones(400), seed=0, max_iterations=5, tolerance=0.0))
    np.testing.assert_array_equal(runs[0].medoids, runs[1].medoids)
    np.testing.assert_array_equal(runs[0].history, runs[1].history)


@pytest.mark.parametrize("backend", ["numba", "scipy"])
def test_perturbations_leave_local_optima_and_keep_every_component_served(backend):
    graph, n, before, after = random_graph(3, 150, whole=False, parts=3), 150, [], []
    for seed in range(3):
        start = np.append(
            [0, 50, 100], np.random.default_rng(seed).choice(np.setdiff1d(np.arange(n), [0, 50, 100]), 12)
        )
        plain, shaken = (
            improve_by_swaps(
                graph, start, weights=np.ones(n), seed=seed, max_iterations=200, tolerance=1e-3,
                perturbations=count, backend=backend,
            )
            for count in (0, 20)
        )  # fmt: skip
        assert len(shaken.history) == len(plain.history) + 20
        np.testing.assert_array_equal(shaken.history[: len(plain.history)], plain.history)
        assert (np.diff(shaken.history) <= 0).all()
        assert shaken.history[-1] == pytest.approx(cost_of(dijkstra(graph), shaken.medoids, np.ones(n)) / n, rel=1e-9)
        before.append(plain.history[-1])
        after.append(shaken.history[-1])
    assert np.mean(after) < np.mean(before)


def test_perturbations_stop_with_the_rounds_and_say_so():
    graph = random_graph(3, 120, whole=False)
    found = improve_by_swaps(
        graph, np.arange(0, 120, 10), weights=np.ones(120), seed=0, max_iterations=7, tolerance=1e-3, perturbations=50
    )
    assert len(found.history) == 8
    assert not found.converged


@pytest.mark.parametrize(
    "changes",
    [{"tolerance": 0.0, "perturbations": 5}, {"tolerance": 1e-3, "perturbations": 3}, {"method": "alternate"}],
)
def test_a_search_goes_on_from_wherever_it_was_cut(tmp_path, changes):
    """Every round of an unbroken search is one that a kill may precede; what is kept goes through a file."""
    graph = random_graph(3, 260, whole=False)
    arguments = dict(seed=1, init="random", **changes)
    kept = []
    whole = kmedoids(graph, 12, **arguments, remember=kept.append)
    assert len(kept) == len(whole.history) - 1 >= 3
    if "method" not in changes:
        assert {str(arrays["part"]) for arrays in kept} >= {"descent", "perturbations"}
    for number, arrays in enumerate(kept):
        np.savez(tmp_path / "standing.npz", **arrays)
        with np.load(tmp_path / "standing.npz", allow_pickle=False) as file:
            again = kmedoids(graph, 12, **arguments, resume={name: file[name] for name in file.files})
        assert again.history.tobytes() == whole.history.tobytes(), number
        np.testing.assert_array_equal(again.medoids, whole.medoids)
        np.testing.assert_array_equal(again.labels, whole.labels)
        assert again.converged == whole.converged


@pytest.mark.parametrize("change", [{"restarts": 2}, {"backend": "scipy"}])
def test_what_cannot_be_remembered_is_refused(change):
    graph = random_graph(3, 60, whole=False)
    with pytest.raises(ValueError, match="expected .* to remember"):
        kmedoids(graph, 5, seed=0, remember=lambda arrays: None, **change)
