"""Compare codebooks on one autoencoder, and with a joint VQ-VAE, at equal bits an image over several seeds.

    python -m geovq_jax.compare --config=configs/compare/fashion_mnist.py

Trains what is missing under --workdir, one cell a method and seed, and gathers <name>.json, <name>.npz (scores of every
image) and <name>.md (tables) in --output. Finished cells are kept; an interrupted comparison continues.
"""

from functools import cache, partial
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from geovq_jax import cli, pipeline
from geovq_jax.stages import comparison, comparison_report, methods
from geovq_jax.terminal import say

_OUTPUT = flags.DEFINE_string("output", "results", "Where the results go, e.g. --output=results.")


def compare(workdir: Path, config: ConfigDict) -> None:
    """Run every cell of every seed, then gather the results."""
    for seed in config.compare.seeds:
        own = config.copy_and_resolve_references()
        own.seed = seed
        directory = workdir / f"seed{seed}"
        for stage in ("vae", "latents", "graph", "codebook"):
            pipeline.run_stage(stage, directory, own)
        shared = cache(partial(methods.inputs_of, directory, own))
        for method in config.compare.methods:
            comparison.run_cell(method, directory, own, shared)
    say("compare", comparison_report.write_results(workdir, config, Path(_OUTPUT.value)))


if __name__ == "__main__":
    cli.main(compare, documentation=__doc__)
