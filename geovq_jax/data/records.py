"""Records that pass between the readers of data sets and their users."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt


class Examples(NamedTuple):
    """Labelled images as a source stores them, in the source's own order.

    Pixels lie in 0..255 (uint8) or 0..65535 (uint16), channels last; labels in 0..num_classes-1.
    """

    images: UInt[np.ndarray, "n height width channels"]
    labels: Int32[np.ndarray, " n"]


class Split(NamedTuple):
    """Part of a data set, sorted by `index`, the row of each image in the source's original file; see `Examples`."""

    images: UInt[np.ndarray, "n height width channels"]
    labels: Int32[np.ndarray, " n"]
    index: Int64[np.ndarray, " n"]  # type: ignore[assignment]  # hides tuple.index, which no one needs here


class Dataset(NamedTuple):
    """A data set in three disjoint parts: training, selection among fits, and final evaluation.

    `source` says where the images came from (a folder, a file, or a package).
    """

    name: str
    num_classes: int
    train: Split
    valid: Split
    test: Split
    source: str
