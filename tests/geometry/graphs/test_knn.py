"""Neighbours against brute force and scikit-learn."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from geovq_jax.geometry.graphs import indexes
from geovq_jax.geometry.graphs.knn import Neighbours, knn, prepare_search, recall, rerank

EXACT = ["auto", "jax", "kdtree", "faiss"]
APPROXIMATE = ["faiss_hnsw", "faiss_ivf"]


def need(backend):
    if backend.startswith("faiss"):
        pytest.importorskip("faiss", reason="faiss is an extra")


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("n", "d", "k"), [(900, 3, 7), (700, 24, 12)])
def test_exact_searches_equal_brute_force(backend, metric, n, d, k):
    need(backend)
    points = np.random.default_rng(n).normal(size=(n, d)).astype(np.float32)
    table = cdist(points.astype(np.float64), points.astype(np.float64), metric)
    np.fill_diagonal(table, np.inf)
    found = knn(points, k, backend=backend, metric=metric)
    np.testing.assert_allclose(found.distances, np.sort(table, axis=1)[:, :k], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found.indices, np.argsort(table, axis=1)[:, :k])
    assert found.indices.dtype == np.int32
    assert found.distances.dtype == np.float64


@pytest.mark.parametrize("backend", EXACT + APPROXIMATE)
def test_distances_are_those_of_the_indices_in_one_unit(backend):
    need(backend)
    points = 3.0 * np.random.default_rng(1).normal(size=(500, 6))
    found = knn(points, 9, backend=backend)
    expected = np.linalg.norm(points[found.indices] - points[:, None, :], axis=2)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-12)
    assert (np.diff(found.distances, axis=1) >= 0).all()
    assert (found.indices >= 0).all()
    assert (np.diff(np.sort(found.indices, axis=1), axis=1) > 0).all()  # nobody twice


@pytest.mark.parametrize("backend", APPROXIMATE)
def test_approximate_searches_recall_most_neighbours(backend):
    need(backend)
    points = np.random.default_rng(2).normal(size=(2000, 8))
    exact = NearestNeighbors(n_neighbors=11).fit(points).kneighbors(points, return_distance=False)[:, 1:]
    found = knn(points, 10, backend=backend).indices
    recall = np.mean([len(np.intersect1d(a, b)) for a, b in zip(exact, found, strict=True)]) / 10
    assert recall > 0.8


@pytest.mark.parametrize("backend", EXACT + APPROXIMATE)
def test_duplicates_are_neighbours_and_oneself_is_not(backend):
    need(backend)
    rng = np.random.default_rng(3)
    points = rng.normal(size=(400, 4))
    points[100:140] = points[7]  # forty rows at one place, more than k
    points[200] = points[11]
    found = knn(points, 5, backend=backend)
    assert not (found.indices == np.arange(400)[:, None]).any()
    if backend in EXACT:
        copies = np.array([7, *range(100, 140)])
        assert (found.distances[copies] == 0).all()
        assert np.isin(found.indices[copies], copies).all()
        assert found.indices[200, 0] == 11
        assert found.indices[11, 0] == 200


@pytest.mark.parametrize("backend", EXACT + APPROXIMATE)
def test_repeated_calls_agree(backend):
    need(backend)
    points = np.round(np.random.default_rng(4).normal(size=(600, 3)), 1)  # many ties
    first, second = knn(points, 8, backend=backend), knn(points.copy(), 8, backend=backend)
    np.testing.assert_array_equal(first.indices, second.indices)
    np.testing.assert_array_equal(first.distances, second.distances)


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("d", [2, 7])
def test_points_at_equal_distances_are_taken_by_index(backend, d):
    """A lattice with its mirror image, whose mean is exactly 0, and 50 copies of one point."""
    need(backend)
    half = np.random.default_rng(d).integers(-2, 3, size=(200, d)).astype(float)
    points = np.concatenate([half, -half, np.zeros((50, d))])
    squares = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.fill_diagonal(squares, np.inf)
    expected = np.argsort(squares, axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(knn(points, 6, backend=backend).indices, expected)
    asked = np.array([449, 3, 400])
    np.testing.assert_array_equal(knn(points, 6, rows=asked, backend=backend).indices, expected[asked])


@pytest.mark.parametrize("ticks", [[0, 9, 0, 99, 0, 1], [0, 1, 0, 99, 0, 9], [0, 0.01]])
def test_auto_takes_the_index_that_a_few_rows_find_faster(monkeypatch, ticks):
    """Seconds on the clock before and after: the tree, the products with their compilation, the products."""
    points = np.random.default_rng(0).normal(size=(1200, 3))
    rows = np.arange(1200)
    searched = prepare_search(points)
    assert "tree_index" in indexes.fastest(searched, points, 4, rows).__qualname__  # too small for a trial
    monkeypatch.setattr(indexes, "FEW_PAIRS", 0)
    monkeypatch.setattr(indexes, "QUICK", 2.0)
    clock = iter(ticks)
    monkeypatch.setattr(indexes.time, "perf_counter", lambda: next(clock))
    chosen = indexes.fastest(searched, points, 4, rows)
    assert next(clock, None) is None
    assert len(ticks) == 2 or indexes.fastest(searched, points, 4, rows) is chosen  # without another trial
    assert ("matmul_index" if ticks[1] == 9 else "tree_index") in chosen.__qualname__


def test_auto_does_not_build_a_tree_for_few_queries(monkeypatch):
    monkeypatch.setattr(indexes, "FEW_PAIRS", 0)
    monkeypatch.setitem(indexes.INDEXES, "kdtree", None)
    points = np.random.default_rng(1).normal(size=(300, 3))
    expected = np.argsort(cdist(points[:20], points), axis=1)[:, :5]
    np.testing.assert_array_equal(knn(points, 5, queries=points[:20]).indices, expected)


@pytest.mark.parametrize("backend", ["auto", "jax", "kdtree"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_prepared_points_are_searched_alike_and_indexed_once(backend, metric, monkeypatch):
    points = 5 + np.random.default_rng(1).normal(size=(400, 5))
    whole, asked = knn(points, 7, backend=backend, metric=metric), points[::9] + 0.1
    found, building = knn(points, 7, queries=asked, backend=backend, metric=metric), dict(indexes.INDEXES)
    built = []
    for name, build in building.items():
        monkeypatch.setitem(indexes.INDEXES, name, lambda x, name=name, build=build: built.append(name) or build(x))
    searched = prepare_search(points, metric)
    for rows in (np.arange(250), np.arange(250, 400)):
        part = knn(searched, 7, rows=rows, backend=backend)
        assert part.indices.tobytes() == whole.indices[rows].tobytes()
        assert part.distances.tobytes() == whole.distances[rows].tobytes()
    again = knn(searched, 7, queries=asked, backend=backend)
    assert again.indices.tobytes() == found.indices.tobytes()
    assert again.distances.tobytes() == found.distances.tobytes()
    assert len(built) == 1


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_recall_is_the_share_of_true_neighbours(metric):
    points = np.random.default_rng(8).normal(size=(400, 6))
    found = knn(points, 10, metric=metric)
    assert recall(points, found, metric=metric) == 1.0
    farther = knn(points, 17, metric=metric)
    spoiled = Neighbours(*(part[:, 7:] for part in farther))  # the seven nearest are missing
    assert recall(points, spoiled, metric=metric, num_rows=1000) == pytest.approx(0.3)


@pytest.mark.parametrize("backend", APPROXIMATE)
def test_recall_equals_that_by_brute_force(backend):
    need(backend)
    points = np.random.default_rng(9).normal(size=(3000, 12))
    found = knn(points, 10, backend=backend)
    exact = NearestNeighbors(n_neighbors=11, algorithm="brute").fit(points).kneighbors(points, return_distance=False)
    share = np.mean([len(np.intersect1d(a[1:], b)) for a, b in zip(exact, found.indices, strict=True)]) / 10
    assert recall(points, found, num_rows=3000) == pytest.approx(share, abs=1e-9)
    assert abs(recall(points, found, num_rows=500, seed=1) - share) < 0.03  # six standard errors at 0.9 and 500 rows


@pytest.mark.parametrize("backend", ["jax", "faiss"])
def test_float32_search_does_not_lose_tight_far_clusters(backend):
    """Clusters of width 1e-4, 200 apart: |x|^2 - 2 x.y + |y|^2 in float32 cannot tell their points apart."""
    need(backend)
    rng = np.random.default_rng(5)
    points = 100.0 * rng.choice([-1.0, 1.0], size=(300, 5)) + 1e-4 * rng.normal(size=(300, 5))
    table = cdist(points, points)
    np.fill_diagonal(table, np.inf)
    np.testing.assert_array_equal(knn(points, 4, backend=backend).indices, np.argsort(table, axis=1)[:, :4])


@pytest.mark.parametrize("backend", EXACT + APPROXIMATE)
def test_queries_exclude_nothing(backend):
    need(backend)
    rng = np.random.default_rng(6)
    points, others = rng.normal(size=(300, 5)), rng.normal(size=(37, 5))
    queries = np.concatenate([points[:3], others])
    found = knn(points, 6, queries=queries, backend=backend)
    assert found.indices.shape == (40, 6)
    np.testing.assert_array_equal(found.indices[:3, 0], [0, 1, 2])
    np.testing.assert_array_equal(found.distances[:3, 0], 0)
    if backend in EXACT:
        table = cdist(queries, points)
        np.testing.assert_allclose(found.distances, np.sort(table, axis=1)[:, :6], atol=1e-12)


@pytest.mark.parametrize("backend", EXACT + APPROXIMATE)
def test_the_smallest_sets(backend):
    need(backend)
    points = np.array([[0.0, 0.0], [3.0, 4.0]])
    found = knn(points, 1, backend=backend)
    np.testing.assert_array_equal(found.indices, [[1], [0]])
    np.testing.assert_array_equal(found.distances, [[5.0], [5.0]])
    alone = knn(points[:1], 1, queries=points, backend=backend)
    np.testing.assert_array_equal(alone.distances, [[0.0], [5.0]])


def test_device_arrays_are_welcome():
    points = jnp.arange(12.0).reshape(6, 2) ** 2
    np.testing.assert_array_equal(knn(points, 2).indices, knn(np.asarray(points), 2).indices)


def test_rerank_orders_candidates_by_the_other_length():
    rng = np.random.default_rng(7)
    points, scale = rng.normal(size=(120, 3)), np.array([1.0, 1.0, 20.0])

    def length_fn(edges):
        return np.linalg.norm((points[edges[:, 0]] - points[edges[:, 1]]) * scale, axis=1)

    found = rerank(knn(points, 119), 5, length_fn)  # with every candidate, the exact neighbours by that length
    expected = knn(points * scale, 5, backend="kdtree")
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.distances, expected.distances)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 10}, "1 <= k <= 9"),
        ({"k": 0}, "1 <= k"),
        ({"k": 2, "metric": "cosine"}, "zero vector"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    points = np.arange(20.0).reshape(10, 2)
    points[0] = 0
    with pytest.raises(ValueError, match=message):
        knn(points, **arguments)


def test_points_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        knn(np.array([[0.0], [np.nan], [1.0]]), 1)
    with pytest.raises(ValueError, match="candidates"):
        rerank(knn(np.arange(5.0)[:, None], 2), 3, lambda edges: edges[:, 0])
    with pytest.raises(ValueError, match="one row of neighbours per point"):
        recall(np.arange(6.0)[:, None], knn(np.arange(5.0)[:, None], 2))
