"""The map of a graph: against Isomap of scikit-learn, and on surfaces that can be laid out flat."""

import numpy as np
import pytest
from scipy.spatial import procrustes
from sklearn.manifold import Isomap

from geovq_jax import geometry

RNG = np.random.default_rng(0)


def euclidean_graph(points, k):
    edges = geometry.unique_edges(geometry.knn(points.astype(np.float32), k).indices)
    return geometry.graph_from_edges(
        edges, np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1), len(points)
    )


def test_with_all_nodes_as_landmarks_it_is_isomap():
    points = RNG.normal(size=(60, 3))
    found = geometry.geodesic_map(euclidean_graph(points, 8), seed=0, num_landmarks=60)
    table = geometry.dijkstra(euclidean_graph(points, 8), np.arange(60))
    expected = Isomap(n_neighbors=59, n_components=2, metric="precomputed").fit_transform(table)
    for axis in range(2):
        sign = np.sign(found.points[:, axis] @ expected[:, axis])
        np.testing.assert_allclose(found.points[:, axis], sign * expected[:, axis], atol=1e-6)


def test_a_rolled_sheet_is_laid_flat():
    angle, height = 1.5 * np.pi * (1 + RNG.uniform(size=1500)), RNG.uniform(0, 15, 1500)
    rolled = np.stack([angle * np.cos(angle), height, angle * np.sin(angle)], axis=1)
    arc = 0.5 * (angle * np.sqrt(1 + angle**2) + np.arcsinh(angle))
    found = geometry.geodesic_map(euclidean_graph(rolled, 10), seed=0, num_landmarks=100)
    _, _, disparity = procrustes(np.stack([arc, height], axis=1), found.points)
    assert disparity < 0.01
    _, _, flat = procrustes(np.stack([arc, height], axis=1), rolled[:, [0, 2]])
    assert flat > 0.3
    assert found.explained.sum() > 0.95


def test_points_of_a_plane_keep_their_distances_up_to_the_sign_of_the_axes():
    points = RNG.normal(size=(40, 2)) * np.array([3.0, 1.0])
    edges = np.stack(np.triu_indices(40, 1), axis=1)
    graph = geometry.graph_from_edges(edges, np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1), 40)
    found = geometry.geodesic_map(graph, seed=3, num_landmarks=7)
    gaps = np.linalg.norm(found.points[edges[:, 0]] - found.points[edges[:, 1]], axis=1)
    np.testing.assert_allclose(gaps, np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.explained.sum(), 1.0, rtol=1e-6)


def test_refusals():
    apart = geometry.graph_from_edges(np.array([[0, 1], [2, 3]]), np.ones(2), 4)
    with pytest.raises(ValueError, match="connected"):
        geometry.geodesic_map(apart, seed=0)
    with pytest.raises(ValueError, match="more than 2 nodes"):
        geometry.geodesic_map(apart[:2, :2], seed=0)
