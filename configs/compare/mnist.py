"""Codes against codes on MNIST: 10,000 training images, a 4 x 4 grid of 256 codes (128 bits per image).

Variants: spatial (default), rate (curves at coded bits), rate,joint (the same after joint training of the autoencoder),
vanilla (one code per image), smoke (seconds).
"""

from ml_collections import ConfigDict

from geovq_jax.config import experiment
from geovq_jax.presets import COMPARE, COMPARE_JOINT, COMPARE_METHODS, COMPARE_RATE, COMPARE_SMOKE, COMPARE_VANILLA


def get_config(variants: str = "") -> ConfigDict:
    """Configuration of the comparison, with the variants named after the colon."""
    overrides = COMPARE | {
        "data.name": "mnist",
        "data.max_train": 10_000,
        "compare.methods": (*COMPARE_METHODS, "geodesic_joint"),
    }
    known = {"spatial": {}, "rate": COMPARE_RATE, "joint": COMPARE_JOINT}
    known |= {"vanilla": COMPARE_VANILLA, "smoke": COMPARE_SMOKE}
    return experiment("compare-mnist", overrides, variants=variants, known_variants=known)
