"""What shortest paths over cells of different images measure, on the graph of a finished spatial run.

    python benchmarks/cell_graph.py runs/compare-fashion_mnist/seed0

The metric of a cell depends on its image and place, not on its latent alone. A path over cells may therefore pass
through cells that hardly bear on their images, and be shorter than the straight way in the metric of either end. The
script clusters the graph's nodes by K-medoids with edges (a) between Euclidean neighbours in each cell's own metric,
(b) between neighbours in the mean metric, (c) the same with every metric replaced by the mean over the neighbours,
which makes it a function of the latent, and prints for each: the mean squared linearised error (c - z)'G(z)(c - z) of
the medoids under the labels of the graph and under labels by each cell's own metric, and the median of graph distance
over linearised distance. K-means in the mean metric and in each cell's own metric stand beside.
"""

import argparse
from pathlib import Path

import numpy as np

from geovq_jax.quantization.pullback_kmeans import assign_pullback, pullback_kmeans


def linearised(points: np.ndarray, metrics: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(c - z)' G (c - z) of each node and its vector."""
    gaps = vectors - points
    return np.maximum(np.einsum("ni,nij,nj->n", gaps, metrics, gaps), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--num-clusters", type=int, default=256)
    parser.add_argument("--k", type=int, default=15)
    arguments = parser.parse_args()

    from geovq_jax import geometry
    from geovq_jax.quantization import baselines

    with np.load(arguments.workdir / "graph.npz", allow_pickle=False) as stored:
        points, own = stored["points"], stored["metrics"]
    mean = own.mean(axis=0)
    eigenvalues, axes = np.linalg.eigh(mean)
    mapped = points @ (axes * np.sqrt(np.maximum(eigenvalues, 0.0))).astype(np.float32)
    near = np.asarray(geometry.knn(mapped, arguments.k).indices)
    smooth = own.copy()
    for column in near.T:
        smooth += own[column]
    smooth /= arguments.k + 1
    cases = {
        "Euclidean neighbours, own metrics": (points, own),
        "neighbours in the mean metric, own metrics": (mapped, own),
        "neighbours in the mean metric, mean over neighbours": (mapped, smooth),
    }
    print("nodes", len(points), "K", arguments.num_clusters)
    for name, (coordinates, metrics) in cases.items():
        edges = geometry.unique_edges(np.asarray(geometry.knn(coordinates, arguments.k).indices))
        lengths = np.asarray(geometry.lengths_from_metrics(points, metrics, edges), np.float64)
        graph = geometry.graph_from_edges(edges, lengths, len(points))
        bridges = geometry.bridges(coordinates, graph)
        if len(bridges):
            extra = np.asarray(geometry.lengths_from_metrics(points, metrics, bridges), np.float64)
            graph = geometry.add_edges(graph, bridges, extra)
        found = geometry.kmedoids(graph, arguments.num_clusters, seed=0)
        medoids = points[found.medoids]
        distance = geometry.nearest_source(graph, found.medoids).distance
        straight = np.sqrt(linearised(points, own, medoids[found.labels]))
        _, best = assign_pullback(points, own, medoids)
        print(
            f"{name}: error {np.mean(straight**2):.4f} by the graph, {np.mean(best):.4f} by own metric; "
            f"graph / linearised distance {np.median(distance[straight > 0] / straight[straight > 0]):.3f}",
            flush=True,
        )
    kmeans = baselines.mahalanobis(points, mean, arguments.num_clusters, seed=0)
    vectors = kmeans.vectors[baselines.encode(kmeans, points)]
    print(f"K-means in the mean metric: error {np.mean(linearised(points, own, vectors)):.4f}")
    local = pullback_kmeans(points, own, kmeans.vectors)
    print(f"K-means in each cell's own metric: error {local.cost:.4f}")


if __name__ == "__main__":
    main()
