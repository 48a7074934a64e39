"""Two-dimensional latents of 5,000 real digits: the experiment to look at the metric itself.

The report draws metric ellipses, the volume element with geodesics against straight lines, and the codebook's cells.
Variants: smoke (seconds).
"""

from ml_collections import ConfigDict

from geovq_jax.config import experiment
from geovq_jax.presets import SMOKE


def get_config(variants: str = "") -> ConfigDict:
    """Configuration of the experiment, with the variants named after the colon."""
    overrides = {
        "data.name": "mnist5k",
        "vae.kind": "vanilla",
        "vae.latent_dim": 2,
        "vae.channels": (16, 32, 64),
        "vae.beta": 1.0,
        "vae.num_steps": 2_000,
        "vae.evaluate_every": 200,
        "graph.k": 10,
        "codebook.num_clusters": 64,
        "codebook.finetune_steps": 800,
        "prior.embed_dim": 32,
        "prior.num_layers": 1,
        "prior.num_heads": 2,
        "prior.num_steps": 500,
        "prior.evaluate_every": 100,
        "classifier.channels": (16, 32),
        "classifier.num_features": 64,
        "classifier.learning_rate": 4e-3,
        "classifier.num_steps": 600,
    }
    smoke = SMOKE | {"vae.latent_dim": 2}
    return experiment("toy_2d", overrides, variants=variants, known_variants={"smoke": smoke})
