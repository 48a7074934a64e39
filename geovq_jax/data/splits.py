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


def split_rows(
    labels: Int[np.ndarray, " n"], sizes: tuple[int, ...], limits: tuple[int | None, ...], seed: int
) -> list[Int64[np.ndarray, " _"]]:
    """Rows of disjoint stratified splits of a table, each in ascending order; a function of labels, sizes and seed.

    Each split holds at most its limit of rows, a stratified subset that grows with the limit; None keeps all. A split
    does not depend on the limits of the others.
    """
    order = stratified_order(labels, seed)
    bounds = zip(np.cumsum(sizes), sizes, limits, strict=True)
    return [np.sort(order[end - size : end][:limit]) for end, size, limit in bounds]


def partition(
    examples: Examples, sizes: tuple[int, ...], limits: tuple[int | None, ...], seed: int
) -> tuple[Split, ...]:
    """Cut a table of images into the splits of `split_rows`."""
    parts = split_rows(examples.labels, sizes, limits, seed)
    return tuple(Split(examples.images[rows], examples.labels[rows], rows) for rows in parts)


def tenths(num_rows: int) -> tuple[int, int, int]:
    """Sizes of train, valid and test as 80, 10 and 10 per cent; ValueError for fewer than 3 rows."""
    if num_rows < 3:
        raise ValueError(f"expected at least 3 rows for train, valid and test, got {num_rows}; add some")
    tenth = max(1, round(num_rows / 10))
    return num_rows - 2 * tenth, tenth, tenth
