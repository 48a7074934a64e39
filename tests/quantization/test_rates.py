"""Rates of codes: a prior's bits against its own likelihood, candidates against brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax.geometry import cell_metrics
from geovq_jax.models import gpt
from geovq_jax.quantization.assignment import search
from geovq_jax.quantization.context import encode_in_context
from geovq_jax.quantization.rates import rate_of_prior

ARCH = gpt.Architecture(4, 4, 0, embed_dim=8, num_layers=2, num_heads=2, dropout=0.0, grid=(2, 2))
EVERY = np.asarray(list(itertools.product(range(4), repeat=4)), np.int32).reshape(-1, 2, 2)


init = jax.jit(gpt.init, static_argnums=1)


def bits_of(rate, grids):
    return np.asarray(jax.jit(jax.vmap(rate.bits))(jnp.asarray(grids)))


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    start = init(jax.random.key(0), ARCH)
    return jax.tree.map(lambda leaf: leaf + 0.3 * jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), start)


def test_lengths_are_those_of_the_prior_and_of_a_code(params):
    bits = bits_of(rate_of_prior(params, ARCH), EVERY)
    own = jax.jit(gpt.log_probabilities, static_argnums=1)
    log_p = own(params, ARCH, jnp.asarray(EVERY.reshape(-1, 4)), jnp.zeros(len(EVERY), jnp.int32))
    np.testing.assert_allclose(bits, -np.asarray(log_p).sum(axis=1) / np.log(2), rtol=1e-5)
    assert np.sum(2.0**-bits) == pytest.approx(1.0, abs=1e-5)


def test_the_last_candidates_are_exact(params):
    """Nothing comes after the last place, so its candidates differ as the whole grids do."""
    rate = rate_of_prior(params, ARCH)
    found = np.asarray(jax.jit(rate.candidates)(jnp.asarray(EVERY[27]), jnp.array([3])))[0]
    changed = np.repeat(EVERY[27][None], 4, axis=0)
    changed[:, 1, 1] = np.arange(4)
    whole = bits_of(rate, changed)
    np.testing.assert_allclose(found - found[0], whole - whole[0], atol=1e-5)


def test_candidates_are_right_to_first_order(params):
    """The error in what later places cost falls with the square of the distance of two embeddings."""
    untied = ARCH._replace(tied=False)
    rng, codes = np.random.default_rng(1), jnp.asarray([[2, 0], [1, 3]])
    start = init(jax.random.key(1), untied)
    base = jax.tree.map(lambda leaf: leaf + 0.3 * jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), start)
    direction, errors = jnp.asarray(rng.normal(size=8), jnp.float32), []
    for distance in (0.2, 0.1):
        tokens = base["tokens"].at[1].set(base["tokens"][2] + distance * direction)
        rate = rate_of_prior(base | {"tokens": tokens}, untied)
        found = jax.jit(rate.candidates)(codes, jnp.array([0]))[0]
        exact = np.subtract(*bits_of(rate, [codes.at[0, 0].set(1), codes]))
        errors.append(abs(float(found[1] - found[2] - exact)))
    assert errors[0] > 1e-4
    assert errors[1] < 0.35 * errors[0]


def test_a_search_lowers_error_and_bits_together(params):
    rng = np.random.default_rng(2)
    vectors, mix = rng.normal(size=(4, 2)).astype(np.float32), jnp.asarray(rng.normal(size=(8, 12)), jnp.float32)
    decode_fn = jax.tree_util.Partial(lambda mix, grid: jnp.tanh(0.3 * grid.reshape(-1) @ mix), mix)
    latents = rng.normal(size=(30, 2, 2, 2)).astype(np.float32)
    targets, metrics = np.asarray(jax.vmap(decode_fn)(latents)), np.asarray(cell_metrics(decode_fn, latents))
    codes, rate = rng.integers(0, 4, (30, 2, 2)).astype(np.int32), rate_of_prior(params, ARCH)
    metrics = metrics.reshape(30, 2, 2, 2, 2)
    found = encode_in_context(decode_fn, vectors, codes, metrics, targets, sweeps=8, rate=rate, rate_weight=0.2)
    images = np.asarray(jax.vmap(decode_fn)(vectors[found.codes]))
    bits = bits_of(rate, found.codes)
    np.testing.assert_allclose(found.after, np.sum((images - targets) ** 2, axis=1) + 0.2 * bits, rtol=1e-4)
    known = np.asarray(jax.vmap(decode_fn)(vectors[EVERY]))
    every = np.sum((known[None] - targets[:, None]) ** 2, axis=2)
    every = every + 0.2 * bits_of(rate, EVERY)
    assert (found.after >= every.min(axis=1) - 1e-4).all()
    assert found.before.mean() - found.after.mean() > 0.8 * (found.before.mean() - every.min(axis=1).mean())


def test_single_codes_pay_exactly():
    """One code per image: the search is exhaustive, with the prior's own probabilities."""
    one = gpt.Architecture(5, 1, 0, embed_dim=8, num_layers=1, num_heads=2, dropout=0.0)
    params = jax.tree.map(lambda leaf: 3.0 * leaf, init(jax.random.key(3), one))
    rng = np.random.default_rng(3)
    vectors, images = rng.normal(size=(5, 2)).astype(np.float32), rng.normal(size=(40, 2)).astype(np.float32)
    rate = rate_of_prior(params, one)
    bits = bits_of(rate, np.arange(5)[:, None, None])
    costs = np.sum((images[:, None] - vectors[None]) ** 2, axis=2) + 2.0 * bits
    found = search(lambda z: z, vectors, np.zeros(40, np.int32), images, rate=rate, rate_weight=2.0)
    np.testing.assert_array_equal(found, costs.argmin(axis=1))
