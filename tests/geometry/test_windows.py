"""Windowed evaluation of linear maps against the same maps on whole arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geovq_jax.geometry import cells
from geovq_jax.geometry.cells import cell_metrics
from geovq_jax.geometry.windows import Window, dense, product_flops, push_window
from geovq_jax.models import vae
from geovq_jax.stages.records import Autoencoder, decoder_of

SHAPE = (3, 4, 2)
RNG = np.random.default_rng(0)
WEIGHTS, FIELD = RNG.normal(size=(2, 5)).astype(np.float32), RNG.normal(size=SHAPE).astype(np.float32)

LINEAR_MAPS = {
    "scale": lambda x: -x * FIELD / 3.0,
    "add": lambda x: jnp.pad(x, ((0, 1), (1, 0), (0, 0))) + 2.0 * jnp.pad(x, ((1, 0), (0, 1), (0, 0))),
    "subtract": lambda x: x - x[::-1],
    "product": lambda x: x @ WEIGHTS,
    "product from the left": lambda x: jnp.einsum("hk,hwc->kwc", FIELD[:, 0], x),
    "batched product": lambda x: jnp.einsum("hwc,hwd->hcd", x, FIELD),
    "transpose": lambda x: jnp.transpose(x, (2, 0, 1)),
    "slice": lambda x: x[1:, :-1],
    "strided slice": lambda x: x[::2, 1::2],
    "split": lambda x: jnp.split(x, 2, axis=1),
    "concatenate": lambda x: jnp.concatenate([x, 2.0 * x], axis=1),
    "sums": lambda x: (x.sum(axis=1), x - x.mean(axis=(0, 1), keepdims=True)),
    "interleave": lambda x: jnp.repeat(x, 2, axis=0).reshape(3, 2, 4, 2).transpose(0, 2, 1, 3).reshape(12, 4),
    "merge": lambda x: x.reshape(3, 8) @ FIELD.reshape(8, 3),
    "dilate": lambda x: jax.lax.pad(x, 0.0, ((1, 1, 1), (-1, 0, 0), (0, 0, 0))),
    "cumulate": lambda x: jnp.cumsum(x, axis=1),
    "inner function": lambda x: jax.jit(lambda y: y[:, None] * 2.0)(x),
    "constant": lambda x: (0.0 * x, jnp.zeros(3)),
}


@pytest.mark.parametrize("name", LINEAR_MAPS)
@pytest.mark.parametrize("start", [(2, 3, 0), (1, 1, 1)])
def test_windows_hold_what_the_whole_map_gives(name, start):
    linear, block = LINEAR_MAPS[name], np.ones((1, 1, 1), np.float32)
    whole = np.zeros(SHAPE, np.float32)
    whole[start] = 1.0
    windows = push_window(linear, Window(jnp.asarray(block), start, SHAPE))
    leaves = jax.tree.leaves(linear(jnp.asarray(whole)))
    assert [window.shape for window in windows] == [leaf.shape for leaf in leaves]
    for window, leaf in zip(windows, leaves, strict=True):
        np.testing.assert_allclose(dense(window), leaf, atol=1e-6)


RESHAPES = [
    ((4, 6), (24,)),
    ((24,), (4, 6)),
    ((4, 6), (6, 4)),
    ((4, 6), (2, 12)),
    ((1, 6, 4), (6, 2, 2)),
    ((2, 3, 4), (6, 4)),
    ((4, 1, 6), (4, 6, 1)),
]


@given(
    shapes=st.sampled_from(
        [
            ((4, 6), (24,)),
            ((24,), (4, 6)),
            ((4, 6), (6, 4)),
            ((1, 6, 4), (6, 2, 2)),
            ((2, 3, 4), (6, 4)),
            ((4, 6), (2, 12)),
        ]
    ),
    corners=st.lists(st.tuples(st.integers(0, 23), st.integers(0, 23)), min_size=3, max_size=3),
)
@settings(max_examples=30, deadline=None)
def test_reshaped_windows_hold_the_reshaped_array(shapes, corners):
    old, new = shapes
    ends = [sorted((a % n, b % n)) for (a, b), n in zip(corners, old, strict=False)]
    box = tuple(slice(lo, hi + 1) for lo, hi in ends)
    whole = np.zeros(old, np.float32)
    whole[box] = 1.0 + np.arange(whole[box].size).reshape(whole[box].shape)
    window = Window(jnp.asarray(whole[box]), tuple(lo for lo, _ in ends), old)
    (result,) = push_window(lambda x: x.reshape(new), window)
    np.testing.assert_array_equal(dense(result), whole.reshape(new))


def test_a_convolutional_decoder_is_pushed_with_a_fraction_of_the_products():
    arch = vae.Architecture(kind="spatial", image_shape=(16, 16, 1), latent_dim=2, channels=(3, 4))
    params = vae.init(jax.random.key(0), arch)
    grid = jax.random.normal(jax.random.key(1), (4, 4, 2))
    _, push = jax.linearize(lambda z: vae.decode(params, arch, z), grid)

    def windowed(x):
        return [w.value for w in push_window(push, Window(x[None, None], (1, 2, 0), grid.shape))]

    vector = jnp.array([0.3, -0.8])
    (window,) = push_window(push, Window(vector[None, None], (1, 2, 0), grid.shape))
    np.testing.assert_allclose(dense(window), push(jnp.zeros_like(grid).at[1, 2].set(vector)), atol=1e-6)
    assert window.value.size < 0.5 * 16 * 16
    whole_flops, windowed_flops = (
        product_flops(jax.make_jaxpr(push)(grid)),
        product_flops(jax.make_jaxpr(windowed)(vector)),
    )
    assert windowed_flops < whole_flops


def test_flops_of_products():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert product_flops(jax.make_jaxpr(lambda a, b: jnp.tanh(a @ b))(a, b)) == 2 * 3 * 4 * 5
    looped = jax.make_jaxpr(lambda a, b: jax.lax.map(lambda row: row @ b, a))(a, b)
    assert product_flops(looped) == 2 * 3 * 4 * 5


def test_both_plans_give_the_same_cell_metrics(monkeypatch):
    arch = vae.Architecture(kind="spatial", image_shape=(8, 8, 1), latent_dim=2, channels=(3, 4))
    params = vae.init(jax.random.key(0), arch)
    decode_fn = jax.tree_util.Partial(lambda params, z: vae.decode(params, arch, z), params)
    grids = jax.random.normal(jax.random.key(1), (3, 2, 2, 2))
    whole = cell_metrics(decode_fn, grids)
    monkeypatch.setattr(cells, "WINDOWS_COST", 0.0)
    np.testing.assert_allclose(cell_metrics(decode_fn, grids), whole, rtol=1e-5, atol=1e-9)


def test_operations_are_counted_once_for_all_parameters(monkeypatch):
    monkeypatch.setattr(cells, "WINDOWS_COST", 0.0)
    arch = vae.Architecture(kind="spatial", image_shape=(8, 8, 1), latent_dim=3, channels=(3, 4))
    grids = np.zeros((2, 2, 2, 3), np.float32)
    counted = []
    for seed in (0, 1):
        params = vae.init(jax.random.key(seed), arch)
        cell_metrics(decoder_of(Autoencoder(params, arch)), grids)
        counted.append(cells._flops_of_grid.cache_info().misses)
    assert counted[0] == counted[1]
