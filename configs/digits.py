"""1,797 real 8x8 digits shipped with scikit-learn: the smallest experiment, for tests and first steps.

Variants: spatial (default, a 2x2 grid), vanilla, smoke (seconds).
"""

from ml_collections import ConfigDict

from geovq_jax.config import experiment
from geovq_jax.presets import SMOKE


def get_config(variants: str = "") -> ConfigDict:
    """Configuration of the experiment, with the variants named after the colon."""
    overrides = {
        "data.name": "digits",
        "vae.channels": (32, 64),
        "vae.latent_dim": 8,
        "vae.num_steps": 2_000,
        "vae.evaluate_every": 200,
        "graph.k": 10,
        "codebook.num_clusters": 64,
        "codebook.finetune_steps": 800,
        "prior.embed_dim": 64,
        "prior.num_layers": 3,
        "prior.num_heads": 4,
        "prior.num_steps": 1_000,
        "prior.evaluate_every": 100,
        "classifier.channels": (16, 32),
        "classifier.num_features": 64,
        "classifier.learning_rate": 4e-3,
        "classifier.num_steps": 400,
    }
    known = {"spatial": {}, "vanilla": {"vae.kind": "vanilla"}, "smoke": SMOKE | {"vae.channels": (8, 16)}}
    return experiment("digits", overrides, variants=variants, known_variants=known)
