"""5,000 real MNIST digits shipped with the package: the default, minutes on two cores.

Variants: spatial (default), vanilla, smoke (seconds).
"""

from ml_collections import ConfigDict

from geovq_jax.config import experiment
from geovq_jax.presets import SMOKE

VANILLA = {
    "vae.kind": "vanilla",
    "vae.cell_bits": 0.0,
    "vae.num_steps": 1_350,
    "vae.joint_steps": 0,
    "graph.k": 0,
    "codebook.method": "auto",
    "codes.search": "none",
    "codes.rate_weight": 0.0,
    "evaluate.geodesic_pairs": 200,
}


def get_config(variants: str = "") -> ConfigDict:
    """Configuration of the experiment, with the variants named after the colon."""
    overrides = {
        "data.name": "mnist5k",
        "vae.channels": (16, 32, 128),
        "vae.latent_dim": 8,
        "vae.beta": 1.0,
        "vae.cell_bits": 9.6,  # log2 3K
        "vae.learning_rate": 2e-3,
        "vae.num_steps": 400,
        "vae.joint_steps": 700,
        "vae.evaluate_every": 150,
        "graph.k": 10,
        "graph.num_images": 1_500,
        "codebook.num_clusters": 256,
        "codebook.method": "mean_metric",  # the best with search at equal coded bits: docs/results.md
        "codebook.finetune_steps": 800,
        "codes.search": "context",
        "codes.rate_weight": 0.175,
        "codes.sweeps": 6,
        "codes.searches": 2,
        "prior.embed_dim": 64,
        "prior.num_layers": 2,
        "prior.num_heads": 4,
        "prior.dropout": 0.2,
        "prior.learning_rate": 6e-3,
        "prior.batch_size": 64,
        "prior.num_steps": 2_500,
        "prior.evaluate_every": 250,
        "sample.temperature": 0.8,
        "classifier.channels": (16, 32),
        "classifier.num_features": 64,
        "classifier.learning_rate": 4e-3,
        "classifier.num_steps": 600,
        "evaluate.geodesic_pairs": 0,
    }
    return experiment(
        "mnist5k", overrides, variants=variants, known_variants={"spatial": {}, "vanilla": VANILLA, "smoke": SMOKE}
    )
