"""Pull-back geometry of a decoder: metric, geodesics, graphs, shortest paths, clustering."""

from geovq_jax.geometry.cells import cell_edge_lengths, cell_metrics
from geovq_jax.geometry.components import Connectivity, bridges, connectivity
from geovq_jax.geometry.edges import edge_lengths, lengths_from_metrics, node_metrics
from geovq_jax.geometry.graph import add_edges, edges_of, graph_from_edges, knn_graph, unique_edges
from geovq_jax.geometry.kmedoids import KMedoids, kmedoids
from geovq_jax.geometry.knn import Neighbours, knn
from geovq_jax.geometry.metric import pullback_metric, speed
from geovq_jax.geometry.paths import dijkstra, distances_between, nearest_source, shortest_path
