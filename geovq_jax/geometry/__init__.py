"""Pull-back geometry of a decoder: metric, geodesics, graphs, shortest paths, clustering."""

from geovq_jax.geometry.batching import decode_all
from geovq_jax.geometry.cells import cell_edge_lengths, cell_metrics
from geovq_jax.geometry.clustering.continuous import GeodesicClusters, geodesic_kmeans, geodesic_kmedoids
from geovq_jax.geometry.clustering.coreset import Coreset, coreset, with_candidates
from geovq_jax.geometry.clustering.kmedoids import KMedoids, kmedoids
from geovq_jax.geometry.curves import constant_speed, curve_energy, curve_length
from geovq_jax.geometry.distances import Lengths, geodesic_distances
from geovq_jax.geometry.edges import edge_length_errors, edge_lengths, lengths_from_metrics
from geovq_jax.geometry.exponential import exp_map, log_map
from geovq_jax.geometry.geodesic import Geodesic, geodesic
from geovq_jax.geometry.geodesics import geodesics, length_ratios, refine_path
from geovq_jax.geometry.graphs.construction import bridges, join_components, knn_graph, metric_graph, straight_lengths
from geovq_jax.geometry.graphs.embedding import GeodesicMap, geodesic_map
from geovq_jax.geometry.graphs.graph import (
    Connectivity,
    add_edges,
    connectivity,
    edges_of,
    graph_from_edges,
    unique_edges,
)
from geovq_jax.geometry.graphs.knn import Neighbours, knn
from geovq_jax.geometry.graphs.paths import dijkstra, distances_between, nearest_source, shortest_path
from geovq_jax.geometry.graphs.relaxation import pad_graph, relax, relax_nearest
from geovq_jax.geometry.metric import (
    bernoulli_map,
    condition_number,
    effective_rank,
    ensemble,
    log_volume,
    pullback_metric,
    speed,
    volume,
    with_output_metric,
)
from geovq_jax.geometry.nearest import Nearest, nearest_geodesic
from geovq_jax.geometry.nodes import node_metrics, node_speeds
from geovq_jax.geometry.slices import nearest_in_slices
from geovq_jax.geometry.statistics import FrechetMean, TangentPCA, frechet_mean, tangent_pca
from geovq_jax.geometry.tangent import parallel_transport, scalar_curvature, sectional_curvature

__all__ = [
    "Connectivity",
    "Coreset",
    "FrechetMean",
    "Geodesic",
    "GeodesicClusters",
    "GeodesicMap",
    "KMedoids",
    "Lengths",
    "Nearest",
    "Neighbours",
    "TangentPCA",
    "add_edges",
    "bernoulli_map",
    "bridges",
    "cell_edge_lengths",
    "cell_metrics",
    "condition_number",
    "connectivity",
    "constant_speed",
    "coreset",
    "curve_energy",
    "curve_length",
    "decode_all",
    "dijkstra",
    "distances_between",
    "edge_length_errors",
    "edge_lengths",
    "edges_of",
    "effective_rank",
    "ensemble",
    "exp_map",
    "frechet_mean",
    "geodesic",
    "geodesic_distances",
    "geodesic_kmeans",
    "geodesic_kmedoids",
    "geodesic_map",
    "geodesics",
    "graph_from_edges",
    "join_components",
    "kmedoids",
    "knn",
    "knn_graph",
    "length_ratios",
    "lengths_from_metrics",
    "log_map",
    "log_volume",
    "metric_graph",
    "nearest_geodesic",
    "nearest_in_slices",
    "nearest_source",
    "node_metrics",
    "node_speeds",
    "pad_graph",
    "parallel_transport",
    "pullback_metric",
    "refine_path",
    "relax",
    "relax_nearest",
    "scalar_curvature",
    "sectional_curvature",
    "shortest_path",
    "speed",
    "straight_lengths",
    "tangent_pca",
    "unique_edges",
    "volume",
    "with_candidates",
    "with_output_metric",
]
