"""Codes of the digits under one's own autoencoder, after `python examples/flax_autoencoder/flax_network.py`.

Variants: smoke (seconds).
"""

from pathlib import Path

from ml_collections import ConfigDict

from geovq_jax.config import experiment
from geovq_jax.presets import SMOKE


def get_config(variants: str = "") -> ConfigDict:
    """Configuration of the experiment, with the variants named after the colon."""
    overrides = {
        "data.name": "digits",
        "vae.kind": "external",
        "vae.module": str(Path(__file__).with_name("autoencoder.py")),
        "codebook.num_clusters": 64,
        "codebook.finetune_steps": 800,
        "prior.embed_dim": 64,
        "prior.num_layers": 3,
        "prior.num_heads": 4,
        "prior.num_steps": 1_000,
        "prior.evaluate_every": 100,
        "classifier.channels": (16, 32),
        "classifier.num_features": 64,
        "classifier.num_steps": 400,
        "compare.methods": ("kmeans", "mean_metric", "geodesic_refined"),
        "compare.prior": (),
    }
    return experiment("flax_autoencoder", overrides, variants=variants, known_variants={"smoke": SMOKE})
