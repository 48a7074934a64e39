"""K-medoids: brute force over all medoid sets, FasterPAM on the dense matrix, networkx, and laws of the cost."""

from itertools import combinations

import kmedoids as dense_kmedoids
import networkx as nx
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

from geovq_jax.geometry import graph_from_edges, kmedoids, knn_graph
from geovq_jax.geometry.clustering import alternating, seeding, swaps
from geovq_jax.geometry.clustering.kmedoids import load_state, result, start, step
from geovq_jax.geometry.clustering.seeding import draw_distinct, seed_medoids

METHODS = ("kmeans++", "greedy", "batched", "random", "farthest")


@pytest.fixture(scope="module")
def sheet() -> sparse.csr_array:
    """600 points of a curved surface in space, k = 6."""
    uv = np.random.default_rng(0).random((600, 2))
    points = np.stack([np.cos(3 * uv[:, 0]), np.sin(3 * uv[:, 0]), 2 * uv[:, 1]], axis=1)
    return knn_graph(points, 6)


@pytest.fixture(scope="module")
def islands() -> sparse.csr_array:
    """Five separate blobs of very unequal size: 200, 40, 8, 2 and 1 nodes."""
    rng, sizes = np.random.default_rng(1), (200, 40, 8, 2, 1)
    rows, start = [], 0
    for size in sizes:
        chain = np.stack([np.arange(size - 1), np.arange(1, size)], 1)
        extra = rng.integers(0, size, (2 * size, 2))
        rows.append(start + np.concatenate([chain, extra[extra[:, 0] != extra[:, 1]]]))
        start += size
    edges = np.concatenate(rows).astype(np.int32)
    return graph_from_edges(edges, rng.exponential(size=len(edges)), start)


def mean_cost(graph, medoids, weights=None) -> float:
    return float(np.average(dijkstra(graph, indices=medoids).min(axis=0) ** 2, weights=weights))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 10), st.data())
def test_no_set_of_medoids_beats_the_best_of_restarts(seed, n, data):
    num_clusters = data.draw(st.integers(1, min(n, 5)))
    rng = np.random.default_rng(seed)
    edges = np.concatenate([np.stack([np.arange(n - 1), np.arange(1, n)], 1), rng.integers(0, n, (n, 2))])
    edges = edges[edges[:, 0] != edges[:, 1]].astype(np.int32)
    graph = graph_from_edges(edges, rng.exponential(size=len(edges)), n)
    weights = rng.random(n) + 0.1
    table = dijkstra(graph)
    best = min(table[list(m)].min(axis=0) ** 2 @ weights for m in combinations(range(n), num_clusters)) / weights.sum()
    arguments = dict(seed=0, init="random", tolerance=0.0, perturbations=0, node_weights=weights)
    for restart in range(12):  # none can end lower than the best set, so the first that reaches it decides
        state = start(graph, num_clusters, restart=restart, **arguments)
        while not state.converged:
            state = step(graph, state)
        cost = result(graph, state).cost
        assert cost >= best * (1 - 1e-9)
        if cost <= best * (1 + 1e-9) + 1e-12:
            break
    assert cost == pytest.approx(best, rel=1e-9, abs=1e-12)


@pytest.mark.slow
def test_cost_is_within_one_percent_of_fasterpam_on_the_dense_matrix(sheet):
    table = dijkstra(sheet) ** 2
    losses = [dense_kmedoids.fasterpam(table, 25, random_state=s, init="random", n_cpu=1).loss for s in range(6)]
    ours = [kmedoids(sheet, 25, seed=s).cost for s in range(6)]
    assert np.mean(ours) <= 1.01 * np.mean(losses) / table.shape[0]


@pytest.mark.parametrize("algorithm", ["swap", "alternate"])
def test_cost_falls_and_labels_are_the_nearest_medoids(sheet, algorithm):
    weights = np.random.default_rng(3).random(600)
    found = kmedoids(sheet, 20, seed=5, algorithm=algorithm, node_weights=weights)
    table = dijkstra(sheet, indices=found.medoids)
    assert len(set(found.medoids.tolist())) == 20
    np.testing.assert_array_equal(table[found.labels, np.arange(600)], table.min(axis=0))
    np.testing.assert_array_equal(found.labels[found.medoids], np.arange(20))
    assert found.cost == pytest.approx(mean_cost(sheet, found.medoids, weights), rel=1e-12)
    assert found.history[-1] == pytest.approx(found.cost, rel=1e-12)
    assert (np.diff(found.history) <= 0).all()
    assert found.history[-1] < 0.9 * found.history[0]


@pytest.mark.parametrize("algorithm", ["swap", "alternate"])
def test_seed_decides_everything(sheet, algorithm):
    first, again, other = (kmedoids(sheet, 15, seed=s, algorithm=algorithm) for s in (2, 2, 3))
    np.testing.assert_array_equal(first.medoids, again.medoids)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.cost == again.cost
    assert first.history[0] != other.history[0]  # two searches may end in one optimum, but not from one start


@pytest.mark.parametrize("algorithm", ["swap", "alternate"])
def test_whole_rows_of_distances_give_the_same_clustering(islands, algorithm, monkeypatch):
    ours = kmedoids(islands, 9, seed=1, algorithm=algorithm)
    monkeypatch.setattr(swaps, "WorkingMedoids", oracles.DenseMedoids)
    monkeypatch.setattr(alternating, "medoid_of_cell", oracles.medoid_of_cell)
    monkeypatch.setattr(seeding, "search_ball", oracles.search_ball)
    plain = kmedoids(islands, 9, seed=1, algorithm=algorithm)
    np.testing.assert_array_equal(ours.medoids, plain.medoids)
    np.testing.assert_array_equal(ours.labels, plain.labels)
    np.testing.assert_allclose(ours.history, plain.history, rtol=1e-12)


def test_alternating_reaches_the_medoid_of_every_cell(sheet):
    """The medoid by networkx distances: no member serves its cell better than the one chosen."""
    found = kmedoids(sheet, 12, seed=0, algorithm="alternate", tolerance=0.0)
    assert found.converged
    table = np.full((600, 600), np.inf)
    for source, row in nx.all_pairs_dijkstra_path_length(nx.from_scipy_sparse_array(sheet)):
        table[source, list(row)] = list(row.values())
    for k, medoid in enumerate(found.medoids):
        members = np.flatnonzero(found.labels == k)
        costs = (table[np.ix_(members, members)] ** 2).sum(axis=1)
        assert costs[members == medoid][0] <= costs.min() * (1 + 1e-9)


def test_pruned_medoid_search_equals_all_pairs(sheet):
    medoids = seed_medoids(sheet, 5, seed=0)
    weights = np.random.default_rng(0).random(600)
    state = alternating.init(sheet, medoids, weights=weights, seed=0, tolerance=0.0)
    assert np.bincount(state.labels).max() <= 256
    moved = alternating.best_members(sheet, state, np.random.default_rng(0))
    table = dijkstra(sheet)
    for k in range(5):
        members = np.flatnonzero(state.labels == k)
        assert moved[k] == members[np.argmin(table[np.ix_(members, members)] ** 2 @ weights[members])]


@pytest.mark.parametrize("method", METHODS)
def test_seeding_reaches_every_component_and_draws_distinct_nodes(islands, method):
    medoids = seed_medoids(islands, 12, seed=4, method=method)
    assert len(set(medoids.tolist())) == 12
    assert np.isfinite(mean_cost(islands, medoids))


@pytest.mark.parametrize("method", METHODS)
def test_seeding_by_whole_searches_chooses_the_same_nodes(sheet, method, monkeypatch):
    ours = seed_medoids(sheet, 30, seed=7, method=method)
    monkeypatch.setattr(seeding, "search_ball", oracles.search_ball)
    monkeypatch.setattr(seeding, "extend_reductions", oracles.extend_reductions)
    np.testing.assert_array_equal(ours, seed_medoids(sheet, 30, seed=7, method=method))


def test_farthest_first_takes_the_farthest_node(sheet):
    medoids = seed_medoids(sheet, 8, seed=0, method="farthest")
    table = dijkstra(sheet, indices=medoids)
    for t in range(1, 8):
        assert table[:t, medoids[t]].min() == table[:t].min(axis=0).max()


def test_kmeans_plus_plus_draws_in_proportion_to_squared_distance():
    """A star whose leaves lie at 1, 2 and 3 from the first medoid, which alone has weight when it is drawn."""
    graph = graph_from_edges(np.array([[0, 1], [0, 2], [0, 3]], np.int32), np.array([1.0, 2.0, 3.0]), 4)
    counts = np.zeros(4)
    for seed in range(1500):
        first, second = seed_medoids(graph, 2, seed=seed, weights=np.array([1e9, 1.0, 1.0, 1.0]))
        assert first == 0
        counts[second] += 1
    np.testing.assert_allclose(counts[1:] / 1500, np.array([1, 4, 9]) / 14, atol=0.04)


def test_better_seedings_cost_less(sheet):
    costs = {
        m: np.mean([mean_cost(sheet, seed_medoids(sheet, 40, seed=s, method=m)) for s in range(8)]) for m in METHODS
    }
    assert costs["greedy"] < costs["kmeans++"] < costs["random"]
    assert costs["batched"] < 1.1 * costs["kmeans++"]


def test_draws_without_replacement_follow_the_masses():
    rng, mass = np.random.default_rng(0), np.array([0.0, 1.0, 2.0, 0.0, 5.0])
    draws = np.array([draw_distinct(rng, mass, 1)[0] for _ in range(4000)])
    np.testing.assert_allclose(np.bincount(draws, minlength=5) / 4000, mass / 8, atol=0.03)
    assert sorted(draw_distinct(rng, mass, 5).tolist()) == [1, 2, 4]


@pytest.mark.parametrize("algorithm", ["swap", "alternate"])
def test_duplicates_at_distance_zero_waste_no_medoid(algorithm):
    """Each of four places holds five duplicates; four medoids suffice for a cost of 0, five must still be distinct."""
    place = np.repeat(np.arange(4.0), 5)
    pairs = np.array([(a, b) for a in range(20) for b in range(a)], np.int32)
    graph = graph_from_edges(pairs, np.abs(place[pairs[:, 0]] - place[pairs[:, 1]]), 20)
    for seed in range(5):
        for num_clusters in (4, 6):
            found = kmedoids(graph, num_clusters, seed=seed, algorithm=algorithm, init="random", tolerance=0.0)
            assert found.cost == 0.0
            assert len(set(found.medoids.tolist())) == num_clusters


def test_weight_counts_as_repetition():
    """Weights 3 at some nodes cost as much as three duplicates there, at the optimum, which two medoids do reach."""
    rng = np.random.default_rng(5)
    points = rng.random((40, 2))
    weights = np.where(np.arange(40) % 3 == 0, 3.0, 1.0)
    rows = np.repeat(np.arange(40), weights.astype(int))
    pairs = lambda n: np.array([(a, b) for a in range(n) for b in range(a)], np.int32)  # noqa: E731
    graphs = [
        graph_from_edges(p, np.linalg.norm(x[p[:, 0]] - x[p[:, 1]], axis=1), len(x))
        for x, p in ((points, pairs(40)), (points[rows], pairs(len(rows))))
    ]
    weighted = kmedoids(graphs[0], 2, seed=0, tolerance=0.0, restarts=6, node_weights=weights)
    repeated = kmedoids(graphs[1], 2, seed=0, tolerance=0.0, restarts=6)
    assert weighted.cost == pytest.approx(repeated.cost, rel=1e-9)


@pytest.mark.parametrize("algorithm", ["swap", "alternate"])
@pytest.mark.parametrize("init", METHODS)
def test_every_node_a_medoid_costs_nothing(islands, algorithm, init):
    """Without a warning, as pytest turns them into errors."""
    n = islands.shape[0]
    found = kmedoids(islands, n, seed=0, algorithm=algorithm, init=init)
    assert found.cost == 0.0
    assert (found.history == 0.0).all()
    assert found.converged
    np.testing.assert_array_equal(np.sort(found.medoids), np.arange(n))
    np.testing.assert_array_equal(found.medoids[found.labels], np.arange(n))


@pytest.mark.parametrize("algorithm", ["swap", "alternate"])
def test_a_spent_budget_keeps_the_seeding_and_says_so(sheet, algorithm):
    found = kmedoids(sheet, 20, seed=0, time_budget=0.0, tolerance=0.0, algorithm=algorithm)
    assert not found.converged
    assert len(found.history) == 1
    assert found.cost == pytest.approx(mean_cost(sheet, found.medoids), rel=1e-12)


def test_progress_counts_rounds_over_all_restarts(sheet):
    seen = []
    kmedoids(sheet, 20, seed=0, restarts=2, max_iterations=2, tolerance=0.0, progress=lambda a, b: seen.append((a, b)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def same(one, other) -> bool:
    """Whether two states agree in every bit."""
    pairs = list(zip(one, other, strict=True))
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.mark.parametrize(
    "settings",
    [{"tolerance": 0.0, "perturbations": 12}, {"perturbations": 3, "init": "random"}, {"algorithm": "alternate"}],
)
def test_a_search_stopped_after_any_round_goes_on_to_the_same_bits(sheet, tmp_path, settings):
    """Every state goes through a file, and the round after it must lead to the very state of the unbroken search."""
    weights = np.random.default_rng(3).random(600)
    states = [start(sheet, 40, seed=1, node_weights=weights, **settings)]
    while not states[-1].converged:
        states.append(step(sheet, states[-1]))
    for number, state in enumerate(states):
        np.savez(tmp_path / "state.npz", **state._asdict())
        with np.load(tmp_path / "state.npz", allow_pickle=False) as file:
            again = load_state({name: file[name] for name in file.files})
        assert same(again, state), number
        if number + 1 < len(states):
            assert same(step(sheet, again), states[number + 1]), number
            assert same(again, state), f"round {number} changed the state that it was given"
    whole = kmedoids(sheet, 40, seed=1, node_weights=weights, **settings)
    ended = result(sheet, states[-1])
    assert len(states) == len(whole.history) >= 3
    assert same([ended.medoids, ended.labels, ended.history], [whole.medoids, whole.labels, whole.history])
    assert (ended.cost, ended.converged) == (whole.cost, whole.converged)
    if settings.get("tolerance") == 0.0:  # the search passes through all of its phases
        phases = {(bool(s.perturbing), bool(s.first_pass), int(s.perturbations)) for s in states}
        assert {(False, True, 12), (False, False, 12), (True, False, 12), (False, False, 0)} <= phases


def test_the_best_of_the_restarts_is_kept(sheet):
    found = kmedoids(sheet, 20, seed=4, restarts=3, max_iterations=4, perturbations=0)
    runs = []
    for restart in range(3):
        state = start(sheet, 20, seed=4, restart=restart, perturbations=0)
        while not state.converged and len(state.history) <= 4:
            state = step(sheet, state)
        runs.append(state)
    assert len({run.history[-1] for run in runs}) == 3
    best = min(runs, key=lambda run: run.history[-1])
    np.testing.assert_array_equal(found.history, best.history)
    np.testing.assert_array_equal(found.medoids, result(sheet, best).medoids)


@pytest.mark.parametrize("change", [lambda arrays: arrays.pop("rng"), lambda arrays: arrays.update(key=np.zeros(1))])
def test_arrays_of_something_else_are_no_state(sheet, change):
    arrays = start(sheet, 5, seed=0)._asdict()
    change(arrays)
    with pytest.raises(ValueError, match="expected the arrays of a state of kmedoids, got"):
        load_state(arrays)


WRONG_WEIGHTS = [np.zeros(600), np.ones(599), np.ones((600, 1)), np.full(600, np.nan), -np.ones(600), ["1"] * 600]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *[({"num_clusters": k}, "expected an integer num_clusters >= 1") for k in (1.5, "3", None, True, 0, -1)],
        ({"num_clusters": 601}, "expected num_clusters between the graph's 1 connected components and its 600 nodes"),
        *[({"node_weights": weights}, "weight.*got.*; pass None for equal weights") for weights in WRONG_WEIGHTS],
        *[({"seed": seed}, "expected an integer seed >= 0") for seed in (-1, 0.5, None)],
        *[({"restarts": count}, "expected an integer restarts >= 1") for count in (0, 2.0)],
        *[({"max_iterations": count}, "expected an integer max_iterations >= 0") for count in (-1, None)],
        ({"perturbations": -1}, "expected an integer perturbations >= 0"),
        *[({"tolerance": value}, "expected a finite tolerance >= 0") for value in (-1e-3, np.nan, np.inf)],
        *[({"time_budget": value}, "expected time_budget in seconds >= 0") for value in (-1.0, np.nan)],
        ({"algorithm": "lloyd"}, "expected an algorithm among"),
        ({"init": "best"}, "expected an init among"),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(sheet, unchecked, change, message):
    with pytest.raises(ValueError, match=message):
        kmedoids(**({"graph": sheet, "num_clusters": 5, "seed": 0} | change))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda g: sparse.csr_array(sparse.triu(g)), "expected a symmetric graph"),
        (lambda g: -g, "expected edge lengths .*>= 0"),
        (lambda g: g * np.nan, "expected finite edge lengths"),
        (lambda g: g[:, :-1], "expected a square matrix"),
        (lambda g: g.toarray(), "expected a graph as scipy.sparse.csr_array"),
    ],
)
def test_wrong_graphs_are_refused_with_a_reason(sheet, unchecked, spoil, message):
    for function in (kmedoids, seed_medoids):
        with pytest.raises(ValueError, match=message):
            function(spoil(sheet), 5, seed=0)


@pytest.mark.parametrize("change", [{"num_clusters": 1.5}, {"weights": np.ones(3)}, {"seed": -1}, {"method": "best"}])
def test_seeding_checks_its_arguments_too(sheet, unchecked, change):
    with pytest.raises(ValueError, match="expected .*, got .*; "):
        seed_medoids(**({"graph": sheet, "num_clusters": 5, "seed": 0} | change))


def test_more_components_than_clusters_are_refused(islands):
    with pytest.raises(ValueError, match="5 connected components"):
        kmedoids(islands, 4, seed=0)
