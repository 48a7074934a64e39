"""Pull-back geometry of a decoder: metric, geodesics, graphs, shortest paths, clustering."""

from geovq_jax.geometry.cells import cell_edge_lengths, cell_metrics
from geovq_jax.geometry.components import Connectivity, bridges, connectivity
from geovq_jax.geometry.curves import constant_speed, curve_energy, curve_length
from geovq_jax.geometry.edges import edge_length_errors, edge_lengths, lengths_from_metrics, node_metrics, node_speeds
from geovq_jax.geometry.embedding import GeodesicMap, geodesic_map
from geovq_jax.geometry.exponential import exp_map, log_map
from geovq_jax.geometry.frechet import Refined, refine_cell_centres, refine_centres
from geovq_jax.geometry.geodesic import Geodesic, geodesic, geodesics, length_ratios
from geovq_jax.geometry.graph import add_edges, edges_of, graph_from_edges, knn_graph, unique_edges
from geovq_jax.geometry.kmedoids import KMedoids, kmedoids
from geovq_jax.geometry.knn import Neighbours, knn
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
from geovq_jax.geometry.padded import pad_graph
from geovq_jax.geometry.paths import (
    dijkstra,
    distances_between,
    nearest_source,
    relax,
    relax_nearest,
    shortest_path,
)
from geovq_jax.geometry.pullback_kmeans import PullbackKMeans, assign_pullback, pullback_kmeans

__all__ = [
    "Connectivity",
    "Geodesic",
    "GeodesicMap",
    "KMedoids",
    "Neighbours",
    "PullbackKMeans",
    "Refined",
    "add_edges",
    "assign_pullback",
    "bernoulli_map",
    "bridges",
    "cell_edge_lengths",
    "cell_metrics",
    "condition_number",
    "connectivity",
    "constant_speed",
    "curve_energy",
    "curve_length",
    "dijkstra",
    "distances_between",
    "edge_length_errors",
    "edge_lengths",
    "edges_of",
    "effective_rank",
    "ensemble",
    "exp_map",
    "geodesic",
    "geodesic_map",
    "geodesics",
    "graph_from_edges",
    "kmedoids",
    "knn",
    "knn_graph",
    "length_ratios",
    "lengths_from_metrics",
    "log_map",
    "log_volume",
    "nearest_source",
    "node_metrics",
    "node_speeds",
    "pad_graph",
    "pullback_kmeans",
    "pullback_metric",
    "refine_cell_centres",
    "refine_centres",
    "relax",
    "relax_nearest",
    "shortest_path",
    "speed",
    "unique_edges",
    "volume",
    "with_output_metric",
]
