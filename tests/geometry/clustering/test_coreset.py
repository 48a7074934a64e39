"""Coresets: the closed form of their variance, and clusterings of all points through them."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from geovq_jax.geometry import coreset, kmedoids, knn_graph, nearest_source, with_candidates
from geovq_jax.quantization.tokenizer import Tokenizer, encode


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """Two thousand points near the origin and twenty far away."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(2000, 3)), 40.0 + rng.normal(size=(20, 3))])


def probabilities(points):
    squares = ((points - points.mean(axis=0)) ** 2).sum(axis=1)
    return 0.5 / len(points) + 0.5 * squares / squares.sum()


def test_weighted_costs_are_unbiased_and_their_error_is_the_closed_form_at_every_size(points):
    """Var = (sum f^2 / q - (sum f)^2) / size for independent draws: the error falls with the root of the size."""
    centres = points[[5, 900, 1500]]
    cost = cdist(points, centres).min(axis=1) ** 2
    draws = 400
    for size in (50, 200, 800):
        estimates = np.empty(draws)
        for seed in range(draws):
            nodes, weights = coreset(points, size, seed=seed)
            estimates[seed] = cost[nodes] @ weights
        deviation = np.sqrt((np.sum(cost**2 / probabilities(points)) - cost.sum() ** 2) / size)
        assert abs(estimates.mean() - cost.sum()) < 4 * deviation / np.sqrt(draws)
        assert estimates.std() == pytest.approx(deviation, rel=0.15)  # four standard errors of a normal one
        uniform = np.sqrt((len(points) * np.sum(cost**2) - cost.sum() ** 2) / size)
        assert estimates.std() < uniform / 3  # the far points, most of the cost, are seldom in a uniform sample


def test_weights_count_the_points(points):
    nodes, weights = coreset(points, 500, seed=1)
    assert (np.diff(nodes) > 0).all()
    assert len(nodes) <= 500
    times = weights * 500 * probabilities(points)[nodes]
    np.testing.assert_allclose(times, np.round(times), atol=1e-9)
    assert times.sum() == pytest.approx(500)
    again = coreset(points, 500, seed=1)
    np.testing.assert_array_equal(nodes, again.nodes)
    np.testing.assert_array_equal(weights, again.weights)


def test_limits(points):
    nodes, weights = coreset(points, len(points), seed=0)
    np.testing.assert_array_equal(nodes, np.arange(len(points)))
    assert (weights == 1).all()
    same = coreset(np.ones((30, 2)), 10, seed=0)  # at distance 0 of the mean, all alike
    assert same.weights.sum() == pytest.approx(30)
    for size, message in ((0, "1 <= size"), (len(points) + 1, "size <= 2020")):
        with pytest.raises(ValueError, match=message):
            coreset(points, size, seed=0)
    with pytest.raises(ValueError, match="finite"):
        coreset(np.array([[0.0], [np.inf], [1.0]]), 2, seed=0)


def test_medoids_of_a_coreset_serve_all_points():
    rng = np.random.default_rng(3)
    points = np.stack([rng.random(3000), rng.random(3000), np.zeros(3000)], axis=1).astype(np.float32)
    points[:, 2] = np.sin(4 * points[:, 0])
    graph = knn_graph(points, 10)
    full = kmedoids(graph, 12, seed=0, perturbations=0)
    nodes, weights = coreset(points, 1200, seed=0)
    sample = knn_graph(points[nodes], 10)
    found = kmedoids(sample, 12, seed=0, perturbations=0, node_weights=weights)
    true = nearest_source(graph, nodes[found.medoids])
    cost = np.mean(np.asarray(true.distance) ** 2)
    assert cost < 1.04 * full.cost
    assert found.cost == pytest.approx(cost, rel=0.1)  # the weighted mean estimates it
    distances = np.asarray(nearest_source(sample, found.medoids).distance)
    codes = encode(Tokenizer(points[nodes], None, found.labels, distances), points, k=10, batch_size=1000).codes
    assert np.mean(nodes[found.medoids][codes] == true.source) > 0.93


def test_candidates_are_the_nearest_points_across_chunks(points, monkeypatch):
    """By brute force; the coreset keeps its weights, and its own points are not added again."""
    monkeypatch.setattr("geovq_jax.geometry.clustering.coreset._CHUNK", 700)
    found = coreset(points, 100, seed=0)
    medoids = found.nodes[[3, 30, 60]]
    nodes, weights = with_candidates(points, found, medoids, 20)
    near = np.argsort(cdist(points[medoids], points), axis=1)[:, :20]
    np.testing.assert_array_equal(nodes, np.union1d(found.nodes, near))
    np.testing.assert_array_equal(weights[np.searchsorted(nodes, found.nodes)], found.weights)
    assert weights.sum() == pytest.approx(found.weights.sum())
    for count, message in ((0, "1 <= count"), (len(points) + 1, "count <= 2020")):
        with pytest.raises(ValueError, match=message):
            with_candidates(points, found, medoids, count)
    with pytest.raises(ValueError, match="medoids"):
        with_candidates(points, found, np.array([len(points)]), 3)


def test_candidates_lower_the_cost_on_all_points():
    """In a plane, the medoids of 25 draws per cluster are several per cent above those of all points."""
    points = np.random.default_rng(0).random((4000, 2))
    graph, costs = knn_graph(points, 12), []
    for seed in range(3):
        found = coreset(points, 400, seed=seed)
        first = kmedoids(knn_graph(points[found.nodes], 12), 16, seed=0, node_weights=found.weights, perturbations=0)
        medoids = found.nodes[first.medoids]
        nodes, weights = with_candidates(points, found, medoids, 40)
        start = np.searchsorted(nodes, medoids)
        again = kmedoids(knn_graph(points[nodes], 12), 16, seed=0, node_weights=weights, init=start, perturbations=0)
        costs.append([np.mean(nearest_source(graph, m).distance ** 2) for m in (medoids, nodes[again.medoids])])
    before, after = np.mean(costs, axis=0)
    assert after < 0.99 * before


def test_given_medoids_are_where_the_search_begins(points, unchecked):
    graph = knn_graph(points, 8)
    first = np.array([5, 900, 1500, 2010])
    found = kmedoids(graph, 4, seed=0, init=first, max_iterations=0)
    np.testing.assert_array_equal(found.medoids, first)
    assert kmedoids(graph, 4, seed=0, init=first, perturbations=0).cost < found.cost
    for wrong in (first[:3], np.array([5, 5, 900, 1500]), np.array([5, 900, 1500, 2020]), first + 0.5):
        with pytest.raises(ValueError, match="init"):
            kmedoids(graph, 4, seed=0, init=wrong)
    apart = knn_graph(points, 8, repair=False)
    with pytest.raises(ValueError, match="at least one in each of 2 components, as init, got 4 in 1"):
        kmedoids(apart, 4, seed=0, init=np.arange(4))
