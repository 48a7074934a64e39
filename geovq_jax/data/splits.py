"""Disjoint, stratified parts of a table of examples as a function of the seed."""

import numpy as np
from jaxtyping import Int, Int64

from geovq_jax.data.records import Examples, Split


def stratified_order(labels: Int[np.ndarray, " n"], seed: int) -> Int64[np.ndarray, " n"]:
    """Order rows at random so that every contiguous stretch holds the classes in their overall proportions.

    Row i, the r-th of the n_c rows of its class in a random order, is placed at (r + 1/2) / n_c; ties are broken
    at random. A stretch of length m then holds m n_c / n rows of class c up to a rounding of about one row per class,
    so prefixes of an order are nested stratified subsets.
    """
    draw = np.random.default_rng(seed).random(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        place[rows[np.argsort(draw[rows], kind="stable")]] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.lexsort((draw, place)).astype(np.int64)


def partition(
    examples: Examples, sizes: tuple[int, ...], limits: tuple[int | None, ...], seed: int
) -> tuple[Split, ...]:
    """Cut a table into disjoint stratified splits, each sorted by row; a function of labels, sizes and seed.

    Each split holds at most its limit of rows, a stratified subset that grows with the limit; None keeps all. Splits do
    not change when the limit of another does.
    """
    order = stratified_order(examples.labels, seed)
    bounds = zip(np.cumsum(sizes), sizes, limits, strict=True)
    parts = [np.sort(order[end - size : end][:limit]) for end, size, limit in bounds]
    return tuple(Split(examples.images[rows], examples.labels[rows], rows) for rows in parts)
