"""Whether samples copy training images: nearest training images, and their distances against those of test images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from geovq_jax.evaluation.statistics import Interval, bootstrap_interval


class Nearest(NamedTuple):
    """Nearest training image of each query: root mean square pixel `distances` [n] and `indices` [n]."""

    distances: Float[np.ndarray, " n"]
    indices: Int[np.ndarray, " n"]


class Memorisation(NamedTuple):
    """Root mean square pixel distances to the nearest training image: medians of samples and of test images.

    `share_close` is the share of samples nearer than 95 % of the test images are: 0.05 in expectation where samples are
    as new as test images, near 1 for copies.
    """

    sample_median: float
    test_median: float
    share_close: Interval


def nearest_training_images(
    images: Float[np.ndarray, "n ..."], train: Float[np.ndarray, "m ..."], *, block: int = 512
) -> Nearest:
    """Nearest training image of each image in [0, 1] by root mean square pixel difference, `block` images at once.

    Memory is block x m float32. Raises ValueError for no training image and for images of another shape.
    """
    if len(train) == 0 or train.shape[1:] != images.shape[1:]:
        raise ValueError(f"expected training images of {images.shape[1:]}, got {train.shape}; pass the same data set")
    queries = images.reshape(len(images), -1).astype(np.float32)
    store = train.reshape(len(train), -1).astype(np.float32)
    squares = (store**2).sum(axis=1)
    parts = (queries[start : start + block] for start in range(0, len(queries), block))
    indices = np.concatenate([(squares[None, :] - 2.0 * part @ store.T).argmin(axis=1) for part in parts])
    # The expanded square suffers from cancellation for near copies, so the distance is computed from the difference.
    gaps = queries - store[indices]
    return Nearest(np.sqrt((gaps.astype(np.float64) ** 2).mean(axis=1)), indices)


def memorisation(
    sample_distances: Float[np.ndarray, " n"], test_distances: Float[np.ndarray, " m"], *, seed: int
) -> Memorisation:
    """Whether samples lie nearer to the training images than unseen real images do; `seed` is that of the bootstrap."""
    close = (sample_distances < np.quantile(test_distances, 0.05)).astype(np.float64)
    return Memorisation(
        float(np.median(sample_distances)), float(np.median(test_distances)), bootstrap_interval(close, seed=seed)
    )
