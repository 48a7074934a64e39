"""Codes against codes on CIFAR-10: 5,000 training images, a 4 x 4 grid of 256 codes (128 bits an image).

Variants: spatial (default), vanilla (one code an image), smoke (seconds).
"""

from ml_collections import ConfigDict

from geovq_jax.config import COMPARE, COMPARE_SMOKE, COMPARE_VANILLA, experiment


def get_config(variants: str = "") -> ConfigDict:
    """Configuration of the comparison, with the variants named after the colon."""
    overrides = COMPARE | {
        "data.name": "cifar10",
        "data.max_train": 5_000,
        "data.max_valid": 1_000,
        "data.max_test": 2_000,
        "vae.num_steps": 1_200,
        "vae.evaluate_every": 400,
        "graph.num_images": 1_000,
        "codebook.finetune_steps": 400,
        "compare.prior": (),
        "compare.sweeps": 2,
        "compare.methods": ("kmeans", "mahalanobis", "geodesic_pullback", "geodesic_context", "vqvae"),
    }
    known = {"spatial": {}, "vanilla": COMPARE_VANILLA, "smoke": COMPARE_SMOKE}
    return experiment("compare-cifar10", overrides, variants=variants, known_variants=known)
