"""A flat map of a graph that keeps its shortest-path distances as well as a few dimensions can."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from geovq_jax.geometry.checks import check_array, check_count
from geovq_jax.geometry.graphs.graph import Graph, check_graph
from geovq_jax.geometry.graphs.paths import dijkstra


class GeodesicMap(NamedTuple):
    """Nodes of a graph on a flat map.

    Attributes:
        points: [n, q], in the unit of the edges' lengths; axes in the order of the spread along them.
        explained: [q], share of each axis in the spread of the landmarks (of the positive eigenvalues).
    """

    points: Float[np.ndarray, "n q"]
    explained: Float[np.ndarray, " q"]


def geodesic_map(graph: Graph, *, seed: int, num_dimensions: int = 2, num_landmarks: int = 128) -> GeodesicMap:
    """Lays the nodes out so that distances on the map follow those along the graph (landmark Isomap).

    Classical scaling of the landmarks, -1/2 H D^2 H = V diag(w) V', then every node by its distances d to them:

        x = -1/2 diag(w)^(-1/2) V' (d^2 - mean over landmarks of D^2).

    With all nodes as landmarks this is Isomap. Time and memory grow as num_landmarks n.

    Args:
        graph: symmetric connected graph [n, n], edges hold lengths >= 0.
        seed: chooses the landmarks.
        num_dimensions: q.
        num_landmarks: nodes from which distances are taken; all n where there are fewer.

    Returns:
        GeodesicMap; each axis has its largest entry positive, so that the map does not flip between runs.

    Raises:
        ValueError: the graph is not connected, or has too few nodes for the dimensions, or as `check_graph`.

    Reference:
        de Silva and Tenenbaum, Global versus local methods in nonlinear dimensionality reduction (2003); Tenenbaum, de
        Silva and Langford, A global geometric framework for nonlinear dimensionality reduction (2000).

    Example:
        >>> from geovq_jax.geometry import graph_from_edges
        >>> path = graph_from_edges(np.array([[0, 1], [1, 2]]), np.array([0.5, 2.0]), 3)
        >>> placed = geodesic_map(path, seed=0, num_dimensions=1)
        >>> sorted(np.abs(np.diff(placed.points[:, 0])).round(3).tolist())
        [0.5, 2.0]
    """
    check_graph(graph)
    check_count("num_dimensions", num_dimensions)
    check_count("num_landmarks", num_landmarks)
    size = graph.shape[0]
    if size <= num_dimensions:
        raise ValueError(
            f"expected more than {num_dimensions} nodes for as many dimensions, got {size}; lower num_dimensions"
        )
    landmarks = np.sort(np.random.default_rng(seed).permutation(size)[: max(num_landmarks, num_dimensions + 1)])
    squared = np.asarray(dijkstra(graph, landmarks), np.float64) ** 2
    if not np.isfinite(squared).all():
        raise ValueError("expected a connected graph, got nodes that no path reaches; join them by join_components")
    among = squared[:, landmarks]
    centre = among.mean(axis=1)
    values, vectors = np.linalg.eigh(-0.5 * (among - centre[:, None] - centre[None, :] + centre.mean()))
    values, vectors = values[::-1], vectors[:, ::-1]
    first = np.maximum(values[:num_dimensions], 0.0)
    scale = np.where(first > 0, 1.0 / np.sqrt(np.where(first > 0, first, 1.0)), 0.0)
    points = -0.5 * (squared - centre[:, None]).T @ (vectors[:, :num_dimensions] * scale[None, :])
    largest = points[np.abs(points).argmax(axis=0), np.arange(num_dimensions)]
    total = np.maximum(values, 0.0).sum()
    return GeodesicMap(points * np.where(largest < 0, -1.0, 1.0)[None, :], first / (total if total > 0 else 1.0))


class Plane(NamedTuple):
    """Plane of largest variance: `mean` [d], orthonormal `axes` [2, d], `explained` [2] shares of the variance."""

    mean: Float[np.ndarray, " d"]
    axes: Float[np.ndarray, "2 d"]
    explained: Float[np.ndarray, "2"]


def principal_plane(points: Float[np.ndarray, "n d"]) -> Plane:
    """First two principal axes of finite points, d >= 2 (else ValueError).

    Each axis has its largest entry positive, so that the map does not flip between runs.
    """
    check_array("points", points, "n d")
    if points.shape[1] < 2:
        raise ValueError(f"expected points of at least 2 dimensions, got {points.shape[1]}; draw a histogram instead")
    mean = points.mean(axis=0, dtype=np.float64)
    _, singular, axes = np.linalg.svd(np.linalg.qr(points - mean[None, :], mode="r"))
    variance, axes = singular**2, axes[:2]
    largest = axes[np.arange(2), np.abs(axes).argmax(axis=1)]
    total = variance.sum()
    explained = np.zeros(2)
    explained[: len(variance[:2])] = variance[:2] / (total if total > 0 else 1.0)
    return Plane(mean, axes * np.where(largest < 0, -1.0, 1.0)[:, None], explained)


def project(plane: Plane, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    """Coordinates of points in a plane: (x - mean) axes'."""
    return (points - plane.mean[None, :]) @ plane.axes.T
