"""Disjoint, stratified parts of a table of examples as a function of the seed."""

import numpy as np
from jaxtyping import Int, Int64

from geovq_jax.data.records import Examples, Split


def stratified_order(labels: Int[np.ndarray, " n"], seed: int) -> Int64[np.ndarray, " n"]:
    """Orders rows at random so that every contiguous stretch holds the classes in their overall proportions.

    Row i, the r-th of the n_c rows of its class in a random order, is placed at (r + 1/2) / n_c; ties are broken
    at random. A stretch of length m then holds m n_c / n rows of class c up to a rounding of about one row a class,
    so prefixes of an order are nested stratified subsets.

    Args:
        labels: class of each row [n].
        seed: not negative; the order is a function of labels and seed.

    Returns:
        A permutation [n] of 0..n-1.
    """
    draw = np.random.default_rng(seed).random(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        place[rows[np.argsort(draw[rows], kind="stable")]] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.lexsort((draw, place)).astype(np.int64)


def take(examples: Examples, rows: Int64[np.ndarray, " m"]) -> Split:
    """Picks rows [m] of a table, sorted, as a split that remembers where they came from."""
    rows = np.sort(rows)
    return Split(examples.images[rows], examples.labels[rows], rows)


def partition(
    examples: Examples, sizes: tuple[int, ...], limits: tuple[int | None, ...], seed: int
) -> tuple[Split, ...]:
    """Cuts a table into disjoint stratified splits.

    Args:
        examples: n rows.
        sizes: rows of each split, together at most n. The first splits do not change when a limit does.
        limits: at most so many rows of each split, a stratified subset that grows with the limit; None keeps all.
        seed: the splits are a function of labels, sizes and seed.

    Returns:
        One split for each size, each sorted by row.
    """
    order = stratified_order(examples.labels, seed)
    ends = np.cumsum(sizes)
    return tuple(
        take(examples, order[end - size : end][:limit]) for end, size, limit in zip(ends, sizes, limits, strict=True)
    )
