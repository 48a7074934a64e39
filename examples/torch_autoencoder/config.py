"""Codes of images of 64 x 64 x 3 under an autoencoder in PyTorch, after `python torch_network.py` in this folder.

Variants: smoke (minutes).
"""

from pathlib import Path

from ml_collections import ConfigDict

from geovq_jax.config import experiment
from geovq_jax.presets import SMOKE

HERE = Path(__file__).parent


def get_config(variants: str = "") -> ConfigDict:
    """Configuration of the experiment, with the variants named after the colon."""
    overrides = {
        "data.name": f"npz:{HERE / 'images.npz'}",
        "vae.kind": "external",
        "vae.module": str(HERE / "autoencoder.py"),
        "codebook.num_clusters": 128,
        "prior.embed_dim": 64,
        "prior.num_layers": 3,
        "prior.num_heads": 4,
        "prior.num_steps": 1_000,
        "prior.evaluate_every": 100,
        "classifier.num_steps": 400,
    }
    smoke = SMOKE | {"data.max_train": 48, "data.max_valid": 24, "data.max_test": 24, "graph.num_images": 24}
    return experiment("torch_autoencoder", overrides, variants=variants, known_variants={"smoke": smoke})
