"""Fashion-MNIST, the full training set.

Variants: spatial (default), vanilla, smoke (seconds).
"""

from ml_collections import ConfigDict

from geovq_jax.config import experiment
from geovq_jax.presets import SMOKE

VANILLA = {
    "vae.kind": "vanilla",
    "vae.channels": (32, 64, 128),
    "vae.latent_dim": 32,
    "vae.cell_bits": 0.0,
    "graph.num_images": 0,
    "codebook.method": "auto",
    "codes.search": "none",
    "codes.rate_weight": 0.0,
    "sample.temperature": 1.0,
    "evaluate.geodesic_pairs": 200,
}


def get_config(variants: str = "") -> ConfigDict:
    """Configuration of the experiment, with the variants named after the colon."""
    overrides = {
        "data.name": "fashion_mnist",
        "data.augment": "none",
        "data.batch_size": 128,
        "graph.num_images": 6_000,
        "evaluate.geodesic_pairs": 0,
        "vae.beta": 1.0,
        "vae.cell_bits": 10.6,  # log2 3K
        "codebook.num_clusters": 512,
        "codebook.method": "kmeans",
        "codes.search": "context",
        "codes.rate_weight": 0.05,
        "codes.sweeps": 4,
        "codes.searches": 4,
        "sample.temperature": 0.9,
    }
    return experiment(
        "fashion_mnist",
        overrides,
        variants=variants,
        known_variants={"spatial": {}, "vanilla": VANILLA, "smoke": SMOKE},
    )
