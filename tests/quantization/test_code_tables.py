"""Code lengths of grids against their definition by loops, sums over all grids, and a source of known entropy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax.quantization.code_tables import (
    EXPONENTS,
    POOLED,
    SMOOTHING,
    candidate_bits,
    code_lengths,
    fit_tables,
    grid_bits,
)

K = 4
GRIDS = np.array(list(itertools.product(range(K), repeat=4))).reshape(-1, 2, 2)


def copies(n: int, height: int, width: int, num_codes: int, seed: int) -> np.ndarray:
    """Each code is that to its left with probability 0.9, else any; the first of a row is any."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(num_codes, size=(n, height, width))
    for column in range(1, width):
        kept = rng.random((n, height)) < 0.9
        codes[:, :, column] = np.where(kept, codes[:, :, column - 1], codes[:, :, column])
    return codes


def by_loops(codes: np.ndarray, smoothing: float, exponent: float, asked: np.ndarray) -> np.ndarray:
    """Bits of every cell of the grids asked for, from the definition."""
    n, height, width = codes.shape
    seen = [[[float(np.sum(codes[:, i, j] == c)) for c in range(K)] for j in range(width)] for i in range(height)]
    pooled = [(np.sum(codes == c) + 1.0) / (codes.size + K) for c in range(K)]

    def ratio(first: tuple[int, int], l: int, c: int) -> float:
        down, along = first
        together = expected = 0.0
        for i, j in itertools.product(range(down, height), range(along, width)):
            together += np.sum((codes[:, i - down, j - along] == l) & (codes[:, i, j] == c))
            expected += seen[i - down][j - along][l] * seen[i][j][c] / n
        return ((together + smoothing) / (expected + smoothing)) ** exponent

    left = [[ratio((0, 1), l, c) for c in range(K)] for l in range(K)] + [[1.0] * K]
    above = [[ratio((1, 0), u, c) for c in range(K)] for u in range(K)] + [[1.0] * K]
    bits = np.empty(asked.shape)
    for image, i, j in np.ndindex(asked.shape):
        l = asked[image, i, j - 1] if j else K
        u = asked[image, i - 1, j] if i else K
        weights = [(seen[i][j][c] + POOLED * pooled[c]) / (n + POOLED) * left[l][c] * above[u][c] for c in range(K)]
        bits[image, i, j] = -np.log2(weights[asked[image, i, j]] / sum(weights))
    return bits


@pytest.fixture(scope="module")
def tables():
    return fit_tables(copies(300, 2, 2, K, seed=0), K)


def test_lengths_are_those_of_a_code(tables):
    bits = code_lengths(tables, GRIDS).sum(axis=(1, 2))
    assert np.sum(2.0**-bits) == pytest.approx(1.0, abs=1e-5)


def test_lengths_by_definition():
    codes, held_out = copies(60, 2, 3, K, seed=1), copies(40, 2, 3, K, seed=2)
    found = code_lengths(fit_tables(codes, K, held_out=held_out), held_out)
    every = [by_loops(codes, s, a, held_out) for s, a in itertools.product(SMOOTHING, EXPONENTS)]
    np.testing.assert_allclose(found, every[int(np.argmin([bits.mean() for bits in every]))], rtol=1e-4)


def test_bits_are_those_of_the_source():
    codes = copies(2000, 3, 4, 8, seed=4)
    same = codes[:, :, 1:] == codes[:, :, :-1]
    truth = -np.log2(np.where(same, 0.9 + 0.1 / 8, 0.1 / 8)).mean(axis=(0, 1))
    bits = code_lengths(fit_tables(copies(4000, 3, 4, 8, seed=3), 8), codes).mean(axis=(0, 1))
    np.testing.assert_allclose(bits, [3.0, *truth], rtol=0.015)


def test_candidates_cost_what_the_grid_would(tables):
    for codes in GRIDS[::37]:
        found = np.asarray(jax.jit(candidate_bits)(tables, jnp.asarray(codes), jnp.arange(4))).reshape(2, 2, K)
        for row, column in np.ndindex(2, 2):
            changed = np.repeat(codes[None], K, axis=0)
            changed[:, row, column] = np.arange(K)
            whole = code_lengths(tables, changed).sum(axis=(1, 2))
            np.testing.assert_allclose(found[row, column] - found[row, column, 0], whole - whole[0], atol=1e-4)
            np.testing.assert_allclose(grid_bits(tables, jnp.asarray(changed[1])), whole[1], atol=1e-4)


def test_codes_that_were_never_seen_have_a_length():
    tables = fit_tables(np.zeros((5, 2, 2), int), K)
    assert np.isfinite(code_lengths(tables, GRIDS)).all()


@pytest.mark.parametrize(
    ("codes", "held_out", "message"),
    [
        (np.full((3, 2, 2), K), None, "codes"),
        (np.zeros((3, 2, 2), int), np.zeros((3, 2, 3), int), "held-out codes"),
    ],
)
def test_codes_of_another_form_are_refused(unchecked, codes, held_out, message):
    with pytest.raises(ValueError, match=f"expected {message}"):
        fit_tables(codes, K, held_out=held_out)


def test_grids_of_another_size_are_refused(tables):
    with pytest.raises(ValueError, match="grids of 4 cells"):
        code_lengths(tables, np.zeros((1, 3, 3), int))
