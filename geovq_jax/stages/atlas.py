"""What each code draws: the pictures of a codebook's atlas."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from geovq_jax.geometry.batching import map_chunks
from geovq_jax.models import vae
from geovq_jax.quantization.codebook import load_codebook
from geovq_jax.stages.codes import image_shape, load_graph, load_latents
from geovq_jax.stages.prior import decode_codes
from geovq_jax.stages.vae import BATCH, load_params


def code_pictures(workdir: Path, config: ConfigDict) -> Float[np.ndarray, "K height width channels"]:
    """One decoded picture a code, in [0, 1].

    A code of vanilla latents is an image by itself. A code of a grid's cells draws only in company: it is set into the
    cell of its medoid's own image, and the picture is the part of the decoded image at that cell, with half a cell
    around it, white beyond the border.

    Args:
        workdir: work directory with the stages up to `decoder` finished.
        config: its configuration.

    Returns:
        Pictures [K, height, width, channels].
    """
    book = load_codebook(workdir / "codebook.npz")
    count = len(book.vectors)
    mean = load_latents(workdir, "train")["mean"]
    if mean.ndim == 2:
        return decode_codes(workdir, config, np.arange(count, dtype=np.int32))
    rows, columns = mean.shape[1:3]
    grids = mean[load_graph(workdir)[1]["rows"][book.medoids // (rows * columns)]].copy()
    row, column = np.divmod(book.medoids % (rows * columns), columns)
    grids[np.arange(count), row, column] = book.vectors
    params, arch = load_params(workdir / "decoder", config, image_shape(workdir))
    decode = jax.jit(jax.vmap(partial(vae.decode, params, arch)))
    images = np.clip(np.asarray(map_chunks(decode, (grids,), batch_size=BATCH)), 0.0, 1.0)
    height, width = images.shape[1] // rows, images.shape[2] // columns
    margin = (height // 2, width // 2)
    padded = np.pad(images, ((0, 0), (margin[0],) * 2, (margin[1],) * 2, (0, 0)), constant_values=1.0)
    windows = [
        picture[r * height : (r + 1) * height + 2 * margin[0], c * width : (c + 1) * width + 2 * margin[1]]
        for picture, r, c in zip(padded, row, column, strict=True)
    ]
    return np.stack(windows)
