"""Graphs against networkx, scipy and brute force."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csgraph
from scipy.spatial.distance import cdist
from sklearn.neighbors import kneighbors_graph

from geovq_jax.geometry.graphs.construction import bridges, knn_graph, subset_lengths
from geovq_jax.geometry.graphs.graph import (
    add_edges,
    components,
    connectivity,
    edges_of,
    graph_from_edges,
    unique_edges,
)
from geovq_jax.geometry.graphs.knn import knn
from geovq_jax.geometry.graphs.paths import dijkstra

NO_EDGES = np.zeros((0, 2), np.int32)


def blobs(rng, count, size, d, spread=0.2, extent=60.0):
    """Clusters far apart against their width, one point in a hundred doubled."""
    points = np.repeat(rng.uniform(-extent, extent, size=(count, d)), size, axis=0)
    points = points + spread * rng.normal(size=points.shape)
    doubled = rng.choice(len(points), len(points) // 100, replace=False)
    points[doubled] = points[(doubled + 1) % len(points)]
    return points


def spanning_weight(points, labels):
    """Weight of the minimum spanning tree over components by a dense table of single-linkage distances."""
    table, count = cdist(points, points), labels.max() + 1
    between = np.array([[table[np.ix_(labels == a, labels == b)].min() for b in range(count)] for a in range(count)])
    tree = nx.minimum_spanning_tree(nx.from_numpy_array(between + 1e-12))
    return tree.size(weight="weight")


@pytest.mark.parametrize("symmetry", ["union", "mutual"])
def test_unique_edges_equal_the_symmetrised_table(symmetry):
    points = np.random.default_rng(0).normal(size=(150, 3))
    table = kneighbors_graph(points, 6).toarray() > 0
    expected = table | table.T if symmetry == "union" else table & table.T
    edges = unique_edges(knn(points, 6).indices, symmetry=symmetry)
    np.testing.assert_array_equal(edges, np.argwhere(np.triu(expected)))


def test_graph_is_symmetric_and_counts_parallel_edges_once():
    edges = np.array([[0, 1], [1, 0], [2, 1], [3, 2], [2, 3]])
    graph = graph_from_edges(edges, np.array([2.0, 1.5, 0.0, 4.0, 4.0]), 5)
    expected = np.zeros((5, 5))
    for a, b, length in [(0, 1, 1.5), (1, 2, 0.0), (2, 3, 4.0)]:
        expected[a, b] = expected[b, a] = length
    np.testing.assert_array_equal(graph.toarray(), expected)
    assert graph.nnz == 6  # the zero is stored, both ways
    assert graph.has_sorted_indices
    assert graph.dtype == np.float64
    read, lengths = edges_of(graph)
    np.testing.assert_array_equal(read, [[0, 1], [1, 2], [2, 3]])
    np.testing.assert_array_equal(lengths, [1.5, 0.0, 4.0])


def test_zero_length_edges_connect():
    graph = graph_from_edges(np.array([[0, 1], [1, 2], [3, 4]]), np.array([0.0, 1.0, 0.0]), 6)
    np.testing.assert_array_equal(components(graph), [0, 0, 0, 1, 1, 2])
    np.testing.assert_array_equal(dijkstra(graph, [0]), [[0, 0, 1, np.inf, np.inf, np.inf]])
    joined = add_edges(graph, np.array([[2, 3]]), np.array([0.0]))
    np.testing.assert_array_equal(dijkstra(joined, [0]), [[0, 0, 1, 1, 1, np.inf]])
    assert connectivity(joined).num_edges == 4


def test_connectivity_equals_networkx():
    rng = np.random.default_rng(1)
    reference = nx.gnm_random_graph(80, 60, seed=1)
    graph = graph_from_edges(np.array(reference.edges), rng.choice([0.0, 1.0], size=60), 80)
    found, degrees = connectivity(graph), [degree for _, degree in reference.degree]
    parts = list(nx.connected_components(reference))
    assert found.num_nodes == 80
    assert found.num_edges == 60
    assert found.num_components == len(parts)
    assert found.largest_fraction == max(map(len, parts)) / 80
    assert (found.degree_min, found.degree_max) == (min(degrees), max(degrees))
    assert found.degree_mean == pytest.approx(np.mean(degrees))
    labels = components(graph)
    assert all(len(set(labels[list(part)])) == 1 for part in parts)
    assert (np.diff(np.bincount(labels)) <= 0).all()  # largest first


@pytest.mark.parametrize("d", [2, 9])
def test_repair_of_fifty_components_with_duplicates(d):
    rng = np.random.default_rng(d)
    points = blobs(rng, 50, 24, d)
    parts = knn_graph(points, 5, repair=False)
    assert connectivity(parts).num_components >= 50
    whole = knn_graph(points, 5)
    assert connectivity(whole).num_components == 1
    before, after = dijkstra(parts, range(0, len(points), 7)), dijkstra(whole, range(0, len(points), 7))
    assert np.isfinite(after).all()
    together = np.isfinite(before)
    assert 0 < together.mean() < 0.1
    assert (after[together] <= before[together]).all()
    np.testing.assert_array_equal(after[together], before[together])  # nor does any shrink
    joints = bridges(points, parts)
    assert len(joints) == connectivity(parts).num_components - 1
    weight = np.linalg.norm(points[joints[:, 0]] - points[joints[:, 1]], axis=1)
    assert weight.sum() == pytest.approx(spanning_weight(points, components(parts)))
    assert (np.diff(weight) >= -1e-12).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 3), st.booleans())
def test_bridges_are_the_minimum_spanning_tree(seed, n, d, lattice):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 4, size=(n, d)).astype(float) if lattice else rng.normal(size=(n, d))
    links = rng.integers(0, n, size=(rng.integers(0, n), 2))
    links = links[links[:, 0] != links[:, 1]]
    graph = graph_from_edges(links, np.ones(len(links)), n)
    joints = bridges(points, graph)
    weights = np.linalg.norm(points[joints[:, 0]] - points[joints[:, 1]], axis=1)
    assert connectivity(add_edges(graph, joints, weights)).num_components == 1
    assert len(joints) == connectivity(graph).num_components - 1
    assert weights.sum() == pytest.approx(spanning_weight(points, components(graph)), abs=1e-8)


def test_bridges_beyond_the_near_neighbours_and_in_many_dimensions(monkeypatch):
    """Three large clusters: the sixteen nearest points are all one's own, in either search."""
    rng = np.random.default_rng(3)
    points = blobs(rng, 3, 60, 30, spread=1.0, extent=10.0)
    graph = knn_graph(points, 8, repair=False)
    labels = components(graph)
    assert labels.max() >= 2
    for pays in (True, False):
        monkeypatch.setattr("geovq_jax.geometry.graphs.construction._tree_pays", lambda *shape, pays=pays: pays)
        joints = bridges(points, graph)
        weights = np.linalg.norm(points[joints[:, 0]] - points[joints[:, 1]], axis=1)
        assert weights.sum() == pytest.approx(spanning_weight(points, labels))


def test_no_bridges_for_a_connected_graph_and_all_for_an_empty_one():
    points = np.random.default_rng(4).normal(size=(30, 2))
    assert len(bridges(points, knn_graph(points, 29))) == 0
    joints = bridges(points, graph_from_edges(NO_EDGES, np.zeros(0), 30))
    tree = csgraph.minimum_spanning_tree(cdist(points, points))
    weights = np.linalg.norm(points[joints[:, 0]] - points[joints[:, 1]], axis=1)
    assert weights.sum() == pytest.approx(tree.sum())


def test_knn_graph_lengths():
    points = np.random.default_rng(5).normal(size=(60, 3)).astype(np.float32)
    plain = knn_graph(points, 5)
    edges, lengths = edges_of(plain)
    np.testing.assert_allclose(lengths, np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1), rtol=1e-6)
    assert abs(plain - plain.T).max() == 0
    np.testing.assert_array_equal(edges_of(knn_graph(points, 5, weights="connectivity"))[1], 1)
    np.testing.assert_allclose(edges_of(knn_graph(points, 5, length_fn=lambda e: e.sum(axis=1)))[1], edges.sum(axis=1))
    around = knn_graph(points, 5, metric="cosine")
    edges, lengths = edges_of(around)
    expected = [cdist(points[[a]], points[[b]], "cosine").item() for a, b in edges]
    np.testing.assert_allclose(lengths, expected, atol=1e-7)


def test_knn_graph_of_a_linear_decoder_measures_its_image():
    rng = np.random.default_rng(6)
    points, matrix = blobs(rng, 6, 20, 3).astype(np.float32), rng.normal(size=(7, 3)).astype(np.float32)
    graph = knn_graph(points, 4, decode_fn=lambda z: matrix @ z)
    assert connectivity(graph).num_components == 1  # bridges are measured like the other edges
    edges, lengths = edges_of(graph)
    images = points @ matrix.T
    expected = np.linalg.norm(images[edges[:, 0]] - images[edges[:, 1]], axis=1)
    np.testing.assert_allclose(lengths, expected, rtol=2e-3, atol=1e-5)
    assert (lengths == 0).any()  # coincident points


def test_subset_lengths_keep_one_unit():
    """With lengths seven times the distance, measured or estimated, every edge is seven times as long."""
    rng = np.random.default_rng(7)
    distances, asked = rng.exponential(size=400), []
    distances[:10] = 0
    edges = np.stack([np.arange(400), np.arange(400) + 1], axis=1)

    def length_fn(chosen):
        asked.append(len(chosen))
        return 7 * distances[chosen[:, 0]]

    np.testing.assert_allclose(subset_lengths(edges, distances, length_fn, 53), 7 * distances)
    assert asked == [53]
    np.testing.assert_allclose(subset_lengths(edges, distances, length_fn, None), 7 * distances)
    curved = subset_lengths(edges, distances, lambda chosen: distances[chosen[:, 0]] ** 2, 200)
    measured = np.isclose(curved, distances**2, rtol=1e-12)
    assert 200 <= measured.sum() < 400
    assert np.corrcoef(curved, distances**2)[0, 1] > 0.9
    with pytest.raises(ValueError, match="max_edges >= 5"):
        subset_lengths(edges, distances, length_fn, 3)


def test_wrong_arguments_are_refused():
    points = np.random.default_rng(8).normal(size=(20, 2))
    with pytest.raises(ValueError, match="self-loop"):
        graph_from_edges(np.array([[1, 1]]), np.ones(1), 3)
    with pytest.raises(ValueError, match=r"edges in \[0, 3\)"):
        graph_from_edges(np.array([[0, 3]]), np.ones(1), 3)
    for bad, message in ((-1.0, "lengths >= 0"), (np.nan, "finite lengths"), (np.inf, "finite lengths")):
        with pytest.raises(ValueError, match=message):
            graph_from_edges(np.array([[0, 1]]), np.array([bad]), 3)
    with pytest.raises(ValueError, match="neighbours in"):
        unique_edges(np.array([[5]]))
    with pytest.raises(ValueError, match="one point per node"):
        bridges(points[:5], knn_graph(points, 3))
    with pytest.raises(ValueError, match="got both"):
        knn_graph(points, 3, decode_fn=lambda z: z, length_fn=lambda e: e[:, 0])
    with pytest.raises(ValueError, match="got both"):
        knn_graph(points, 3, decode_fn=lambda z: z, weights="connectivity")
    with pytest.raises(ValueError, match="got neither"):
        knn_graph(points, 3, max_edges=10)
