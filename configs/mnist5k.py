"""5,000 real MNIST digits shipped with a dependency: the built-in default, minutes on two cores.

Variants: spatial (default), vanilla, smoke (seconds).
"""

from ml_collections import ConfigDict

from geovq_jax.config import SMOKE, experiment

VANILLA = {"vae.kind": "vanilla", "vae.beta": 1.0, "evaluate.geodesic_pairs": 200}


def get_config(variants: str = "") -> ConfigDict:
    """Configuration of the experiment, with the variants named after the colon."""
    overrides = {
        "data.name": "mnist5k",
        "vae.channels": (32, 64, 128),
        "vae.num_steps": 900,
        "vae.evaluate_every": 100,
        "graph.k": 10,
        "codebook.num_clusters": 128,
        "codebook.finetune_steps": 800,
        "prior.num_steps": 2_000,
        "prior.evaluate_every": 200,
        "evaluate.geodesic_pairs": 4,
    }
    return experiment(
        "mnist5k", overrides, variants=variants, known_variants={"spatial": {}, "vanilla": VANILLA, "smoke": SMOKE}
    )
