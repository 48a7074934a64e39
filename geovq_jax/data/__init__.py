"""Data sets as disjoint splits of images of 8 or 16 bits, and batches of them."""

from geovq_jax.data.batches import augment, batch_indices, to_float
from geovq_jax.data.datasets import load, split_examples
from geovq_jax.data.records import Dataset, Examples, Split

__all__ = ["Dataset", "Examples", "Split", "augment", "batch_indices", "load", "split_examples", "to_float"]
