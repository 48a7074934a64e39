"""Which metric tensors [d, d] of latents a run keeps, and whether there is room for them."""

import os

from ml_collections import ConfigDict

from geovq_jax.quantization import methods

WIDE = 64  # dimensions of vectors from which on edges take less room, and no more time, than the tensors of all nodes


def distance_of(config: ConfigDict) -> methods.Distance:
    """Distance of geodesic codes of vectors: codebook.distance, but that of the graph where it is Euclidean."""
    return "graph" if config.graph.weights == "euclidean" else config.codebook.distance


def is_wide(config: ConfigDict, latent_shape: tuple[int, ...]) -> bool:
    """Whether edges are measured by the decoder one by one, without tensors of the nodes."""
    spatial = len(latent_shape) == 3
    method = methods.resolve(config.codebook.method, spatial=spatial)
    assignment = methods.assignment_of(method, spatial=spatial, distance=distance_of(config))
    return not spatial and latent_shape[-1] >= WIDE and assignment != "graph"


def are_read(config: ConfigDict, latent_shape: tuple[int, ...]) -> bool:
    """Whether the graph or the method reads the tensor of every latent."""
    spatial = len(latent_shape) == 3
    method = methods.resolve(config.codebook.method, spatial=spatial)
    measured = config.graph.weights == "pullback" and not is_wide(config, latent_shape)
    return measured or methods.METHODS[method].on_metrics


def check_memory(config: ConfigDict, num_nodes: int, latent_shape: tuple[int, ...]) -> None:
    """Refuse tensors of the graph's nodes, of which two copies do not fit in memory; ValueError says what would."""
    needed = 2 * 4 * num_nodes * latent_shape[-1] ** 2
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if are_read(config, latent_shape) and needed > memory:
        raise ValueError(
            f"expected memory for two copies of the metrics of {num_nodes:,} nodes, {needed / 2**30:.0f} GiB, got "
            f"{memory / 2**30:.0f} GiB; lower --config.graph.num_images, or set "
            "--config.codebook.method=kmeans and --config.graph.weights=euclidean"
        )
