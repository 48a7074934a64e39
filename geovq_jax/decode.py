"""Images of codes under a finished run, by its fine-tuned decoder.

    python -m geovq_jax.decode --workdir=runs/mnist5k codes.npz --out=images/

The npz file holds the array `codes`, as `encode` writes it. The images go as PNG files into a folder, or as float32 in
[0, 1] into the array `images` of an npz file.
"""

from pathlib import Path

from absl import flags

from geovq_jax import cli

_OUT = flags.DEFINE_string("out", "images.npz", "Where the images go, an npz file or a folder, e.g. --out=images/.")


def decode(workdir: Path | None, files: list[str]) -> None:
    """See `codec.decode`, which is imported only once the command line is read."""
    from geovq_jax import codec

    codec.decode(workdir, files, Path(_OUT.value))


if __name__ == "__main__":
    cli.main_without_config(decode, documentation=__doc__, operands=True)
