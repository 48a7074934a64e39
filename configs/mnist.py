"""MNIST, the full training set.

Variants: spatial (default), vanilla, cpu (sizes and budgets for two CPU cores), smoke (seconds).
"""

from ml_collections import ConfigDict

from geovq_jax.config import experiment
from geovq_jax.presets import SMOKE

VANILLA = {
    "vae.kind": "vanilla",
    "vae.channels": (32, 64, 128),
    "vae.latent_dim": 32,
    "vae.cell_bits": 0.0,
    "graph.k": 0,
    "graph.num_images": 0,
    "codebook.method": "auto",
    "codes.search": "none",
    "codes.rate_weight": 0.0,
    "sample.temperature": 1.0,
    "evaluate.geodesic_pairs": 200,
}

CPU = {
    "data.augment": "none",
    "data.batch_size": 64,
    "vae.channels": (16, 32, 128),
    "vae.latent_dim": 8,
    "vae.cell_bits": 9.6,
    "vae.learning_rate": 2e-3,
    "vae.num_steps": 12_000,
    "graph.k": 10,
    "graph.num_images": 4_000,
    "codebook.num_clusters": 256,
    "codebook.finetune_steps": 4_000,
    "prior.embed_dim": 96,
    "prior.num_layers": 3,
    "prior.num_heads": 4,
    "prior.learning_rate": 2e-3,
    "prior.num_steps": 4_000,
    "prior.evaluate_every": 500,
    "classifier.learning_rate": 3e-3,
    "classifier.num_steps": 3_000,
}


def get_config(variants: str = "") -> ConfigDict:
    """Configuration of the experiment, with the variants named after the colon."""
    overrides = {
        "data.name": "mnist",
        "data.augment": "rotate",
        "data.batch_size": 128,
        "graph.num_images": 6_000,
        "evaluate.geodesic_pairs": 0,
        "vae.beta": 1.0,
        "vae.cell_bits": 10.6,  # log2 3K
        "codebook.num_clusters": 512,
        "codebook.method": "mean_metric",
        "codes.search": "context",
        "codes.rate_weight": 0.05,
        "codes.sweeps": 4,
        "codes.searches": 4,
        "sample.temperature": 0.8,
    }
    known = {"spatial": {}, "vanilla": VANILLA, "cpu": CPU, "smoke": SMOKE}
    return experiment("mnist", overrides, variants=variants, known_variants=known)
