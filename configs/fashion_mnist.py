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
    "vae.beta": 1.0,
    "graph.num_images": 0,
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
        "codebook.num_clusters": 512,
    }
    return experiment(
        "fashion_mnist",
        overrides,
        variants=variants,
        known_variants={"spatial": {}, "vanilla": VANILLA, "smoke": SMOKE},
    )
