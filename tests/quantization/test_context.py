"""Encoding in context against brute force over all codes of a small grid, and its guarantees."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax.geometry import cell_metrics
from geovq_jax.quantization import assignment
from geovq_jax.quantization.code_tables import code_lengths, fit_tables
from geovq_jax.quantization.context import encode_in_context
from geovq_jax.quantization.pullback_kmeans import assign_pullback
from geovq_jax.quantization.rates import rate_of_tables

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(5, 2)).astype(np.float32)
MIX = jnp.asarray(RNG.normal(size=(8, 12)).astype(np.float32))


def linear(grid):
    return grid.reshape(-1) @ MIX


def curved(grid):
    return jnp.tanh(0.3 * grid.reshape(-1) @ MIX)


def start(decode_fn, grids):
    metrics = np.asarray(cell_metrics(decode_fn, grids), np.float32)
    labels, _ = assign_pullback(grids.reshape(-1, 2), metrics, VECTORS)
    return metrics.reshape(*grids.shape[:3], 2, 2), labels.reshape(grids.shape[:3])


def errors(decode_fn, codes, targets):
    images = np.asarray(jax.vmap(decode_fn)(jnp.asarray(VECTORS[codes])))
    return np.sum((images - targets) ** 2, axis=1)


@pytest.mark.parametrize("decode_fn", [linear, curved])
def test_errors_fall_and_are_those_of_the_codes(decode_fn):
    grids = RNG.normal(size=(30, 2, 2, 2)).astype(np.float32)
    targets = np.asarray(jax.vmap(decode_fn)(grids)) + 0.3 * RNG.normal(size=(30, 12)).astype(np.float32)
    metrics, codes = start(decode_fn, grids)
    found = encode_in_context(decode_fn, VECTORS, codes, metrics, targets, sweeps=3, batch_size=8)
    np.testing.assert_allclose(found.before, errors(decode_fn, codes, targets), rtol=1e-4)
    np.testing.assert_allclose(found.after, errors(decode_fn, found.codes, targets), rtol=1e-4)
    assert (found.after <= found.before).all()
    assert found.after.sum() < 0.9 * found.before.sum()


def test_a_linear_decoder_ends_where_no_single_code_helps():
    grids = RNG.normal(size=(12, 2, 2, 2)).astype(np.float32)
    targets = np.asarray(jax.vmap(linear)(grids))
    metrics, codes = start(linear, grids)
    found = encode_in_context(linear, VECTORS, codes, metrics, targets, sweeps=8)
    for image in range(12):
        for row, column, code in itertools.product(range(2), range(2), range(5)):
            changed = found.codes[image].copy()
            changed[row, column] = code
            assert errors(linear, changed[None], targets[image][None])[0] >= found.after[image] * (1 - 1e-4)


def test_a_grid_of_one_cell_takes_the_best_of_all_codes():
    matrix = MIX[:2]

    def decode_fn(grid):
        return grid.reshape(-1) @ matrix

    targets = RNG.normal(size=(20, 12)).astype(np.float32)
    metrics = np.tile(np.asarray(matrix @ matrix.T), (20, 1, 1, 1, 1))
    found = encode_in_context(decode_fn, VECTORS, np.zeros((20, 1, 1), np.int32), metrics, targets, sweeps=10)
    table = np.sum((targets[:, None] - VECTORS[None] @ np.asarray(matrix)) ** 2, axis=2)
    np.testing.assert_array_equal(found.codes.ravel(), table.argmin(axis=1))


def test_cells_that_add_up_do_not_overshoot():
    # All sixteen cells bear on the same value: each of four that move together would make up for the whole gap.
    vectors = np.linspace(-1.0, 1.0, 33, dtype=np.float32)[:, None]
    targets = np.asarray([[3.0], [-5.0]], np.float32)
    ones = np.ones((2, 4, 4, 1, 1), np.float32)
    centre = np.full((2, 4, 4), 16, np.int32)
    found = encode_in_context(lambda grid: jnp.sum(grid)[None], vectors, centre, ones, targets, sweeps=4)
    np.testing.assert_allclose(found.after, 0.0, atol=1 / 16**2)


def test_bad_codes_are_refused():
    metrics = np.zeros((2, 2, 2, 2, 2), np.float32)
    with pytest.raises(ValueError, match="expected codes in"):
        encode_in_context(linear, VECTORS, np.full((2, 2, 2), 5, np.int32), metrics, np.zeros((2, 12), np.float32))


@pytest.fixture(scope="module")
def rated():
    """Targets with codes that a few common grids explain, so that tables tell cheap codes from dear ones."""
    rng = np.random.default_rng(5)
    common = rng.integers(5, size=(3, 2, 2))
    seen = np.where(rng.random((400, 2, 2)) < 0.8, common[rng.integers(3, size=400)], rng.integers(5, size=(400, 2, 2)))
    grids = VECTORS[seen[:40]] + 0.4 * rng.normal(size=(40, 2, 2, 2)).astype(np.float32)
    targets = np.asarray(jax.vmap(curved)(jnp.asarray(grids)))
    metrics, codes = start(curved, grids)
    return fit_tables(seen, 5), codes, metrics, targets


def objectives(tables, weight, codes, targets):
    return errors(curved, codes, targets) + weight * code_lengths(tables, codes).sum(axis=(1, 2))


def test_a_search_proposes_by_the_metrics_at_its_initial_code_vectors(rated):
    _, codes, latent_metrics, targets = rated
    jacobians = jax.vmap(jax.jacfwd(curved))(jnp.asarray(VECTORS[codes]))
    metrics = np.asarray(jnp.einsum("nxhwi,nxhwj->nhwij", jacobians, jacobians))
    expected = encode_in_context(curved, VECTORS, codes, metrics, targets, sweeps=1).codes
    found = assignment.search(curved, VECTORS, codes, targets, sweeps=1)
    np.testing.assert_array_equal(found, expected)
    others = encode_in_context(curved, VECTORS, codes, latent_metrics, targets, sweeps=1).codes
    assert not np.array_equal(found, others)


def test_with_weight_zero_tables_change_nothing(rated):
    tables, codes, metrics, targets = rated
    plain = encode_in_context(curved, VECTORS, codes, metrics, targets)
    found = encode_in_context(curved, VECTORS, codes, metrics, targets, rate=rate_of_tables(tables), rate_weight=0.0)
    for one, other in zip(plain, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_objective_is_error_and_bits_and_nearly_the_least_of_all(rated):
    tables, codes, metrics, targets = rated
    every = np.array(list(itertools.product(range(5), repeat=4))).reshape(-1, 2, 2)
    images = np.asarray(jax.vmap(curved)(jnp.asarray(VECTORS[every])))
    for weight in (0.05, 0.5):
        found = encode_in_context(
            curved, VECTORS, codes, metrics, targets, sweeps=8, rate=rate_of_tables(tables), rate_weight=weight
        )
        np.testing.assert_allclose(found.before, objectives(tables, weight, codes, targets), rtol=1e-5)
        np.testing.assert_allclose(found.after, objectives(tables, weight, found.codes, targets), rtol=1e-5)
        assert (found.after <= found.before).all()
        bits = weight * code_lengths(tables, every).sum(axis=(1, 2))
        least = (np.sum((images[None] - targets[:, None]) ** 2, axis=2) + bits).min(axis=1)
        assert (found.after >= least * (1 - 1e-4)).all()
        assert found.after.mean() < 1.05 * least.mean()
        assert found.before.mean() - found.after.mean() > 0.8 * (found.before.mean() - least.mean())


def test_bits_fall_and_errors_rise_with_the_weight(rated):
    tables, codes, metrics, targets = rated
    bits, distortions = [], []
    for weight in (0.0, 0.1, 1.0):
        found = encode_in_context(
            curved, VECTORS, codes, metrics, targets, sweeps=6, rate=rate_of_tables(tables), rate_weight=weight
        )
        bits.append(code_lengths(tables, found.codes).sum(axis=(1, 2)).mean())
        distortions.append(errors(curved, found.codes, targets).mean())
    assert bits[0] > bits[1] > bits[2]
    assert distortions[0] < distortions[1] < distortions[2]


def test_tables_of_other_grids_are_refused(rated):
    tables, codes, metrics, targets = rated
    more = np.concatenate([VECTORS, VECTORS[:1]])
    with pytest.raises(ValueError, match="rate of 4 cells and 6 codes"):
        encode_in_context(curved, more, codes, metrics, targets, rate=rate_of_tables(tables))
