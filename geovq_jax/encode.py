"""Codes of images under a finished run, as it encodes its own.

    python -m geovq_jax.encode --workdir=runs/mnist5k digits/ 7.png more.npz --out=codes.npz

The images are image files, folders (with one sub-folder per class or without), and npz files with the array `images`.
--out holds `codes` int32 [n] or [n, h, w], and `names` of the images. Codes are searched if the run's are.
"""

from pathlib import Path

from absl import flags

from geovq_jax import cli

_OUT = flags.DEFINE_string("out", "codes.npz", "Where the codes go, e.g. --out=codes.npz.")


def encode(workdir: Path | None, places: list[str]) -> None:
    """See `codec.encode`, which is imported only once the command line is read."""
    from geovq_jax import codec

    codec.encode(workdir, places, Path(_OUT.value))


if __name__ == "__main__":
    cli.main_without_config(encode, documentation=__doc__, operands=True)
