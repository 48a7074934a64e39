"""Export a finished run for programs that do not have this package.

    python -m geovq_jax.export --workdir=runs/mnist5k --out=mnist5k/

Writes safetensors files (codebook, codes of every split, parameters of decoder and prior), the decoder as StableHLO for
CPU, GPU and TPU, and description.json.
"""

from pathlib import Path

from absl import flags

from geovq_jax import cli

_OUT = flags.DEFINE_string("out", "export", "Folder that the files go into, e.g. --out=export/.")


def export(workdir: Path | None) -> None:
    """See `bundle.export`, which is imported only once the command line is read."""
    from geovq_jax import bundle

    bundle.export(workdir, Path(_OUT.value))


if __name__ == "__main__":
    cli.main_without_config(export, documentation=__doc__)
