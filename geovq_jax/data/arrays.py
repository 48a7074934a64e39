"""A user's own images as arrays of an npz file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from geovq_jax.data.records import Examples

_DAMAGES = (ValueError, KeyError, EOFError, OSError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


def read_npz(path: str | Path) -> tuple[Examples, int]:
    """Examples of an npz file, in its order, and the number of classes; without `labels` there is one class.

    `images` is [n, H, W] or [n, H, W, C]: uint8, uint16, or floats in [0, 1], which are kept with 16 bits; `labels` [n]
    holds integers from 0. FileNotFoundError without the file, ValueError for other arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected the file {path}, found none; give the path of an npz file of images")
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"] if "labels" in archive.files else None
    except _DAMAGES as error:
        raise ValueError(
            f"expected an npz file with the array images in {path}, got {error}; write it again"
        ) from error
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise ValueError(f"expected images [n, H, W] or [n, H, W, C] in {path}, got {images.shape}; reshape them")
    images = images.reshape(*images.shape[:3], -1)
    if np.issubdtype(images.dtype, np.floating):
        if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
            raise ValueError(f"expected floats in [0, 1] as images of {path}, got others; scale them")
        images = np.rint(images * 65535.0).astype(np.uint16)
    if images.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"expected images of uint8, uint16 or floats in {path}, got {images.dtype}; convert them")
    if labels is None:
        labels = np.zeros(len(images), np.int32)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or labels.min() < 0:
        got = f"{labels.dtype} {labels.shape}"
        raise ValueError(f"expected labels [{len(images)}], integers from 0, in {path}, got {got}; give one per image")
    return Examples(images, labels.astype(np.int32)), int(labels.max()) + 1
