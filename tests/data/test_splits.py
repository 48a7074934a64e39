"""Splits: disjoint, complete, stratified, nested, and a function of the seed alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geovq_jax.data.records import Examples
from geovq_jax.data.splits import partition, stratified_order

tables = st.lists(st.integers(0, 4), min_size=1, max_size=120).map(lambda labels: np.array(labels, np.int32))


@settings(max_examples=100, deadline=None)
@given(tables, st.integers(0, 2**32))
def test_order_is_a_permutation_with_every_stretch_stratified(labels, seed):
    order = stratified_order(labels, seed)
    n = len(labels)
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    classes, counts = np.unique(labels, return_counts=True)
    seen = np.cumsum(labels[order][:, None] == classes[None, :], axis=0)
    expected = np.arange(1, n + 1)[:, None] * counts[None, :] / n
    # Each class lies within 1/2 of n_c t at the cut t, hence the cut within C / 2 of m / n.
    bound = 0.5 + counts * len(classes) / (2 * n)
    assert np.all(np.abs(seen - expected) <= bound[None, :] + 1e-9)


def test_order_is_a_function_of_the_seed_and_random_within_a_class():
    labels = np.repeat(np.arange(5, dtype=np.int32), 40)
    first = stratified_order(labels, 3)
    np.testing.assert_array_equal(first, stratified_order(labels, 3))
    assert np.any(first != stratified_order(labels, 4))
    # Mean rank of a row over seeds: no row is favoured. 200 ranks of standard deviation 58 over 400 seeds.
    ranks = np.mean([np.argsort(stratified_order(labels, seed)) for seed in range(400)], axis=0)
    assert np.all(np.abs(ranks - 99.5) < 5 * 58 / np.sqrt(400))


def examples(labels):
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return Examples(np.broadcast_to(pixels, (len(labels), 2, 2, 1)).copy(), labels)


@settings(max_examples=50, deadline=None)
@given(tables.filter(lambda labels: len(labels) >= 3), st.integers(0, 9), st.data())
def test_partition_is_disjoint_and_keeps_rows_together(labels, seed, data):
    n = len(labels)
    first = data.draw(st.integers(1, n - 2))
    second = data.draw(st.integers(1, n - first - 1))
    sizes = (first, second, n - first - second)
    parts = partition(examples(labels), sizes, (None, None, None), seed)
    assert tuple(len(part.labels) for part in parts) == sizes
    np.testing.assert_array_equal(np.sort(np.concatenate([part.index for part in parts])), np.arange(n))
    for part in parts:
        assert np.all(np.diff(part.index) > 0)
        np.testing.assert_array_equal(part.labels, labels[part.index])
        np.testing.assert_array_equal(part.images[:, 0, 0, 0], part.index)


@pytest.mark.parametrize("which", [0, 1])
def test_limits_give_nested_stratified_subsets_and_leave_the_other_part_alone(which):
    table = examples(np.repeat(np.arange(4, dtype=np.int32), 50))
    whole = partition(table, (160, 40), (None, None), 7)
    previous: set[int] = set()
    for limit in (8, 20, 1000):
        limits = (limit, None) if which == 0 else (None, limit)
        parts = partition(table, (160, 40), limits, 7)
        np.testing.assert_array_equal(parts[1 - which].index, whole[1 - which].index)
        rows = set(parts[which].index.tolist())
        assert previous < rows <= set(whole[which].index.tolist())
        assert np.bincount(parts[which].labels).tolist() == [min(limit, len(whole[which].labels)) // 4] * 4
        previous = rows
