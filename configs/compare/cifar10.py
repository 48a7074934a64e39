"""Codes against codes on CIFAR-10: 20,000 training images, a 4 x 4 grid of 256 codes (128 bits per image).

Variants: spatial (default), rate (curves at coded bits), rate,joint (the same after joint training of the autoencoder),
vanilla (one code per image), smoke (seconds).
"""

from ml_collections import ConfigDict

from geovq_jax.config import experiment
from geovq_jax.presets import COMPARE, COMPARE_JOINT, COMPARE_METHODS, COMPARE_RATE, COMPARE_SMOKE, COMPARE_VANILLA


def get_config(variants: str = "") -> ConfigDict:
    """Configuration of the comparison, with the variants named after the colon."""
    overrides = COMPARE | {
        "data.name": "cifar10",
        "compare.prior": (),
        "compare.methods": COMPARE_METHODS,
    }
    # Squared errors, summed over 3,072 values instead of 784, are larger than on the other data.
    rate = COMPARE_RATE | {"compare.rate_weights": (0.1, 0.25, 0.5)}
    known = {"spatial": {}, "rate": rate, "joint": COMPARE_JOINT}
    known |= {"vanilla": COMPARE_VANILLA, "smoke": COMPARE_SMOKE}
    return experiment("compare-cifar10", overrides, variants=variants, known_variants=known)
