"""PSNR and windowed SSIM of image pairs, and the three pairings of a quantized autoencoder."""

from collections.abc import Callable
from typing import NamedTuple

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from geovq_jax.evaluation.statistics import bootstrap_interval
from geovq_jax.geometry.batching import map_chunks

ImageBatch = Float[Array, "b h w c"] | Float[np.ndarray, "b h w c"]

PAIRINGS = ("truth-continuous", "truth-quantized", "continuous-quantized")


class ImageScores(NamedTuple):
    """Scores of n image pairs: `psnr` [n] in decibels, `ssim` [n] in [-1, 1]."""

    psnr: Float[np.ndarray, " n"]
    ssim: Float[np.ndarray, " n"]


def _check_pair(first: ImageBatch, second: ImageBatch) -> None:
    if first.shape != second.shape:
        raise ValueError(f"expected two image batches of one shape, got {first.shape} and {second.shape}; align them")
    if not (jnp.issubdtype(first.dtype, jnp.floating) and jnp.issubdtype(second.dtype, jnp.floating)):
        raise ValueError(f"expected float images in [0, 1], got {first.dtype} and {second.dtype}; divide uint8 by 255")


def psnr(first: ImageBatch, second: ImageBatch) -> Float[Array, " b"]:
    """Peak signal-to-noise ratio in dB of each pair of images in [0, 1]; average it rather than the squared errors.

    PSNR(x, y) = -10 log10( mean (x - y)^2 ), infinite for equal images. Raises ValueError where the batches differ in
    shape or are not floats.
    """
    _check_pair(first, second)
    error = jnp.mean(jnp.square(jnp.asarray(first) - jnp.asarray(second)), axis=(1, 2, 3))
    return -10.0 * jnp.log10(error)


def ssim(first: ImageBatch, second: ImageBatch) -> Float[Array, " b"]:
    """Structural similarity of each pair of images in [0, 1], with an 11 x 11 Gaussian window of sigma 1.5.

    SSIM = mean over windows and channels of
    (2 m_x m_y + C1)(2 s_xy + C2) / ((m_x^2 + m_y^2 + C1)(s_x^2 + s_y^2 + C2)), C1 = 0.01^2, C2 = 0.03^2,
    over the windows that lie inside the image. A side below 11 pixels takes the largest odd window that fits.

    Raises:
        ValueError: the two batches differ in shape or are not floats.

    Reference:
        Wang, Bovik, Sheikh and Simoncelli, Image quality assessment: from error visibility to structural similarity,
        IEEE Transactions on Image Processing 13(4), 2004, equation 13.
    """
    _check_pair(first, second)
    shortest = min(first.shape[1:3])
    window = min(11, shortest - 1 + shortest % 2)
    return dm_pix.ssim(jnp.asarray(first), jnp.asarray(second), max_val=1.0, filter_size=window, filter_sigma=1.5)


@jax.jit
def _score_batch(first: ImageBatch, second: ImageBatch) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    return psnr(first, second), ssim(first, second)


def image_scores(
    first: Float[np.ndarray, "n h w c"],
    second: Float[np.ndarray, "n h w c"],
    *,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> ImageScores:
    """PSNR and SSIM of n pairs of images in [0, 1], in batches of one compiled shape.

    `progress` is called with (pairs done, n) after each batch. Raises ValueError where the shapes differ or n is 0.
    """
    _check_pair(first, second)
    if len(first) == 0:
        raise ValueError("expected at least one image pair, got none; check the split")
    size = min(batch_size, len(first))
    return ImageScores(*jax.device_get(map_chunks(_score_batch, (first, second), batch_size=size, progress=progress)))


def reconstruction_scores(
    truth: Float[np.ndarray, "n h w c"],
    continuous: Float[np.ndarray, "n h w c"],
    quantized: Float[np.ndarray, "n h w c"],
) -> dict[str, ImageScores]:
    """Scores of the three pairings of a quantized autoencoder, by the names in `PAIRINGS`; images are in [0, 1].

    truth-continuous measures the autoencoder, truth-quantized the images decoded from codes, continuous-quantized the
    effect of quantization alone. Only the first two measure the quality of the images.
    """
    pairs = ((truth, continuous), (truth, quantized), (continuous, quantized))
    return {name: image_scores(*pair) for name, pair in zip(PAIRINGS, pairs, strict=True)}


def summarise(scores: dict[str, ImageScores], *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Mean `psnr` (dB) and `ssim` of each pairing, with limits `_low` and `_high` of 95 % bootstrap intervals."""
    table: dict[str, dict[str, float]] = {pairing: {} for pairing in scores}
    for pairing, values in scores.items():
        for metric, column in values._asdict().items():
            value, low, high = bootstrap_interval(column, seed=seed)
            table[pairing] |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
    return table
