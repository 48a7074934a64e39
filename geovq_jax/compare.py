"""Compare codebooks on one autoencoder, and with a joint VQ-VAE, at equal bits per image over several seeds.

    geovq compare --config=compare/fashion_mnist

Trains what is missing under --workdir, one trial per method and seed, and gathers <name>.json, <name>.npz (scores of
every image) and <name>.md (tables) in --output. Finished trials are kept; an interrupted comparison continues.
"""

from pathlib import Path

from absl import flags

from geovq_jax import cli
from geovq_jax.comparison import trials

_OUTPUT = flags.DEFINE_string("output", "results", "Where the results go, e.g. --output=results.")

if __name__ == "__main__":
    cli.main(
        lambda workdir, config: trials.compare(workdir, config, Path(_OUTPUT.value or "results")), documentation=__doc__
    )
