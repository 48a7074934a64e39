"""Records that pass between the readers of data sets and their users."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt8


class Examples(NamedTuple):
    """Labelled images as a source stores them, in the source's own order.

    Attributes:
        images: pixels in 0..255, channels last, uint8 [n, H, W, C].
        labels: class of each image in 0..num_classes-1, int32 [n].
    """

    images: UInt8[np.ndarray, "n height width channels"]
    labels: Int32[np.ndarray, " n"]


class Split(NamedTuple):
    """One part of a data set, sorted by `index`.

    Attributes:
        images: pixels in 0..255, channels last, uint8 [n, H, W, C].
        labels: class of each image in 0..num_classes-1, int32 [n].
        index: row of each image in the source's original file, int64 [n].
    """

    images: UInt8[np.ndarray, "n height width channels"]
    labels: Int32[np.ndarray, " n"]
    index: Int64[np.ndarray, " n"]  # type: ignore[assignment]  # hides tuple.index, which no one needs here


class Dataset(NamedTuple):
    """A data set in three disjoint parts.

    Attributes:
        name: name it was loaded by.
        num_classes: number of classes; labels lie in 0..num_classes-1.
        train: the part that fits parameters.
        valid: the part that selects among fits.
        test: the part that only the evaluation reads.
        source: where the images came from (a folder, a file, or a package).
    """

    name: str
    num_classes: int
    train: Split
    valid: Split
    test: Split
    source: str
