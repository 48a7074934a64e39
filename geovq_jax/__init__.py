"""Geodesic vector quantization of generative latent spaces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geovq_jax.stages.run import Run

__version__ = "0.1.0"


def load_run(workdir: str | Path) -> Run:
    """Opens a finished run: its codebook, latents and models, and the codec between images and codes.

    Files are read, and models restored, when they are first asked for.

    Args:
        workdir: work directory of the run, such as runs/mnist5k.

    Returns:
        The run; `encode`, `decode` and `sample` are its codec, and `codebook`, `latents(split)`, `codes(split)`,
        `graph`, `decode_fn`, `prior` what it holds. See `geovq_jax.stages.run.Run`.

    Raises:
        FileNotFoundError: no run lies there.
        ValueError: its configuration is damaged.

    Example:
        >>> run = load_run("runs/mnist5k")
        >>> codes = run.encode(run.dataset.test.images[:8])
        >>> images = run.decode(codes)
        >>> latents, vectors = run.latents("test").mean, run.codebook.vectors
        >>> drawn = run.sample(10, seed=0)
    """
    from geovq_jax.stages.run import load_run

    return load_run(workdir)
