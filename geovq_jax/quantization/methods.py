"""The methods: ways to fit K code vectors to latents. Arrays in, arrays out.

A row of `METHODS` says how the vectors are fitted and by which assignment a latent then gets its code, see
`assignment`. The pipeline, the comparison and the codec of an opened run all use this table.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32

from geovq_jax.geometry import geodesic_kmeans, geodesic_kmedoids
from geovq_jax.geometry.metric import DecodeFn
from geovq_jax.quantization import baselines, refinement
from geovq_jax.quantization.assignment import Assignment, Latents, Quantizer, assign, rows_of, tokenizer_of
from geovq_jax.quantization.pullback_kmeans import pullback_kmeans
from geovq_jax.quantization.tokenizer import Encoded

Distance = Literal["geodesic", "graph"]


class Clusters(NamedTuple):
    """K-medoids of the graph: node of each medoid, position in `medoids` and graph distance of each node's medoid."""

    medoids: Int[np.ndarray, " K"]
    labels: Int32[np.ndarray, " n"]
    distances: Float[np.ndarray, " n"]


class Nodes(NamedTuple):
    """Training latents that a codebook is fitted to; each vector, or each cell of a grid, is one of n nodes.

    `metrics` are needed by methods with `on_metrics`, `clusters` by those with `on_graph`; `graph_metrics` are the
    metrics of the graph's lengths, None for Euclidean lengths; `distance` is used by the geodesic methods.
    """

    decode_fn: DecodeFn
    latents: Latents
    metrics: Float[np.ndarray, "n d d"] | None = None
    clusters: Clusters | None = None
    graph_metrics: Float[np.ndarray, "n d d"] | None = None
    distance: Distance = "geodesic"


class Method(NamedTuple):
    """One way to make codes; `title` is its name in tables.

    `fit` maps (nodes, K, seed) to code vectors [K, d] and the linear map of the assignment "linear". `on_graph` is set
    if it starts from K-medoids of the graph, `on_metrics` if it needs the metric at each latent.
    """

    title: str
    fit: Callable[[Nodes, int, int], tuple[np.ndarray, np.ndarray | None]]
    assignment: Assignment
    on_graph: bool = False
    on_metrics: bool = False


def _metrics(nodes: Nodes) -> np.ndarray:
    if nodes.metrics is None:
        raise ValueError("expected the metric at each node for this method, got none; measure them with node_metrics")
    return nodes.metrics


def _clusters(nodes: Nodes) -> Clusters:
    if nodes.clusters is None:
        raise ValueError("expected K-medoids of the graph for this method, got none; cluster the graph first")
    return nodes.clusters


def _baseline(fit: Callable[..., baselines.Baseline]) -> Callable[[Nodes, int, int], tuple[np.ndarray, np.ndarray]]:
    def fitted(nodes: Nodes, num_codes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return tuple(fit(rows_of(nodes.latents), num_codes, seed=seed))  # type: ignore[return-value]

    return fitted


def _scalar(nodes: Nodes, num_codes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    latents = rows_of(nodes.latents)
    return tuple(baselines.scalar(latents, baselines.scalar_levels(num_codes, latents.shape[1])))  # type: ignore


def _mean_metric(nodes: Nodes, num_codes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    metric = _metrics(nodes).mean(axis=0)
    return tuple(baselines.mahalanobis(rows_of(nodes.latents), metric, num_codes, seed=seed))  # type: ignore


def _decoded_kmeans(nodes: Nodes, num_codes: int, seed: int) -> tuple[np.ndarray, None]:
    """K-means of the decoded latents, each mean replaced by its nearest latent."""
    if nodes.latents.ndim != 2:
        raise ValueError(
            f"expected latents [n, d] for kmeans_decoded, got {nodes.latents.shape}; choose another method"
        )
    return baselines.decoded_kmeans(nodes.decode_fn, nodes.latents, num_codes, seed=seed)[0].vectors, None


def _medoids(nodes: Nodes, num_codes: int, seed: int) -> tuple[np.ndarray, None]:
    return rows_of(nodes.latents)[_clusters(nodes).medoids], None


def _local(start: Callable[[Nodes, int, int], tuple[np.ndarray, Any]]) -> Callable[..., tuple[np.ndarray, None]]:
    """Centres moved to the minimum of the linearised decoded error, from the vectors of another method."""

    def fitted(nodes: Nodes, num_codes: int, seed: int) -> tuple[np.ndarray, None]:
        vectors, _ = start(nodes, num_codes, seed)
        return pullback_kmeans(rows_of(nodes.latents), _metrics(nodes), vectors).centres, None

    return fitted


def _decoded(nodes: Nodes, num_codes: int, seed: int) -> tuple[np.ndarray, None]:
    """Medoids refined in decoded space: single latents with new cells, cells of grids in the context of their image."""
    (vectors, _), labels = _medoids(nodes, num_codes, seed), _clusters(nodes).labels
    if nodes.latents.ndim == 2:
        return refinement.refine_centres(nodes.decode_fn, vectors, nodes.latents, labels).centres, None
    grid_labels = labels.reshape(nodes.latents.shape[:-1])
    return refinement.refine_cell_centres(nodes.decode_fn, vectors, nodes.latents, grid_labels).centres, None


def _geodesic_medoids(nodes: Nodes, num_codes: int, seed: int) -> tuple[np.ndarray, None]:
    """Medoids of the graph; those of vectors are moved by continuous geodesics unless distance="graph"."""
    if nodes.distance == "graph" or nodes.latents.ndim != 2:
        return _medoids(nodes, num_codes, seed)
    first = _clusters(nodes).medoids
    return geodesic_kmedoids(nodes.decode_fn, nodes.latents, num_codes, seed=seed, medoids=first).centres, None


def _geodesic_means(nodes: Nodes, num_codes: int, seed: int) -> tuple[np.ndarray, None]:
    """Frechet means of vectors; of cells, whose slices all differ, the minimum of the linearised decoded error."""
    if nodes.distance == "graph":
        raise ValueError(
            "expected codebook.distance=geodesic for geodesic_means, got graph distances; choose another method"
        )
    if nodes.latents.ndim != 2:
        return _local(_medoids)(nodes, num_codes, seed)
    first = _clusters(nodes).medoids
    return geodesic_kmeans(nodes.decode_fn, nodes.latents, num_codes, seed=seed, medoids=first).centres, None


METHODS: dict[str, Method] = {
    "gaussian": Method("random Gaussian", _baseline(baselines.gaussian), "linear"),
    "scalar": Method("scalar (FSQ after the fact)", _scalar, "linear"),
    "kmeans": Method("K-means", _baseline(baselines.kmeans), "linear"),
    "kmedoids": Method("K-medoids", _baseline(baselines.kmedoids), "linear"),
    "kmeans_decoded": Method("K-means, decoded space", _decoded_kmeans, "decoded"),
    "mean_metric": Method("K-means, mean metric", _mean_metric, "linear", on_metrics=True),
    "local_metrics": Method("K-means, local metrics", _local(_mean_metric), "local", on_metrics=True),
    "geodesic": Method("geodesic K-medoids", _geodesic_medoids, "geodesic", on_graph=True),
    "geodesic_means": Method("geodesic K-means", _geodesic_means, "geodesic", on_graph=True),
    "geodesic_refined": Method("geodesic, refined", _local(_medoids), "local", on_graph=True, on_metrics=True),
    "geodesic_decoded": Method("geodesic, refined in decoded space", _decoded, "decoded", on_graph=True),
}
# The best without search in results/*.json, for each kind of latent.
BEST = {"spatial": "geodesic_refined", "vanilla": "geodesic_decoded"}


def resolve(method: str, *, spatial: bool) -> str:
    """Name of a method; "auto" is the best one known for the kind of latent."""
    return BEST["spatial" if spatial else "vanilla"] if method == "auto" else method


def assignment_of(method: str, *, spatial: bool, distance: Distance) -> Assignment:
    """How a method assigns codes; a cell of a grid cannot be decoded alone and goes by its geodesics instead."""
    assignment = METHODS[method].assignment
    return distance if assignment == "geodesic" or (spatial and assignment == "decoded") else assignment


def fit(method: str, nodes: Nodes, num_codes: int, *, seed: int) -> tuple[Quantizer, Encoded]:
    """Fits a codebook.

    Args:
        method: name in `METHODS`.
        nodes: training latents, with metrics and clusters as the method needs them.
        num_codes: K.
        seed: random seed.

    Returns:
        The quantizer, and the code of each node with its distance in the unit of the assignment.

    Raises:
        ValueError: an unknown method, one whose metrics or clusters are missing, or as the method itself.

    Example:
        >>> import jax.numpy as jnp
        >>> z = np.array([[0.0], [0.1], [5.0], [5.1]], np.float32)
        >>> quantizer, encoded = fit("kmeans", Nodes(jnp.sin, z), 2, seed=0)
        >>> bool(encoded.codes[0] == encoded.codes[1] != encoded.codes[2] == encoded.codes[3])
        True
    """
    if method not in METHODS:
        raise ValueError(f"expected a method among {', '.join(METHODS)}, got {method!r}; choose one")
    spatial = nodes.latents.ndim == 4
    assignment = assignment_of(method, spatial=spatial, distance=nodes.distance)
    vectors, transform = METHODS[method].fit(nodes, num_codes, seed)
    quantizer = Quantizer(method, assignment, vectors, transform if assignment == "linear" else None)
    if assignment == "graph":
        _, labels, distances = _clusters(nodes)
        tokenizer = tokenizer_of(rows_of(nodes.latents), nodes.graph_metrics, labels, distances)
        return quantizer._replace(tokenizer=tokenizer), Encoded(labels, distances)
    encoded = assign(quantizer, nodes.latents, nodes.decode_fn, metrics=nodes.metrics)
    return quantizer, Encoded(encoded.codes.ravel(), encoded.distances.ravel())
