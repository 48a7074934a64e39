"""What devices compute in float32 at highest precision, against the CPU: `pytest -m gpu` on a machine with one.

Where JAX finds no accelerator, both sides are the CPU, and the tests show only that they run.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax import geometry
from geovq_jax.models import gpt, vae, vqvae
from geovq_jax.models.objective import Objective
from geovq_jax.models.sampling import draw
from geovq_jax.quantization.code_tables import fit_tables
from geovq_jax.quantization.context import encode_in_context
from geovq_jax.quantization.rates import rate_of_tables
from geovq_jax.training.optimizer import make_optimizer

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

RNG = np.random.default_rng(0)
WEIGHTS = [RNG.normal(size=shape).astype(np.float32) for shape in ((4, 32), (32, 50))]
POINTS = RNG.normal(size=(120, 4)).astype(np.float32)
GRIDS = RNG.normal(size=(8, 3, 3, 4)).astype(np.float32)
IMAGES = RNG.random((16, 12, 12, 1), np.float32)
ARCH = vae.Architecture("spatial", (12, 12, 1), 4, (8, 16))


def decode(z):
    return jnp.tanh(jnp.tanh(z @ WEIGHTS[0] / 2) @ WEIGHTS[1] / 4)


@contextlib.contextmanager
def on(device):
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        yield


def on_both(function):
    """What a function returns on the first device and on the CPU."""
    found = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with on(device):
            found.append(jax.device_get(function()))
    return found


def assert_close(found, expected, *, rtol=1e-4):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        if one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * np.abs(other).max())
        else:
            assert np.mean(one == other) >= 0.99  # rounding decides ties


def image_decoder():
    params = vae.init(jax.random.key(0), ARCH)
    return jax.tree_util.Partial(lambda params, z: vae.decode(params, ARCH, z), params)


def test_metrics_and_lengths():
    edges = RNG.integers(0, len(POINTS), (300, 2)).astype(np.int32)
    edges = edges[edges[:, 0] != edges[:, 1]]

    def measured():
        cells = image_decoder()
        return {
            "metrics": geometry.node_metrics(decode, POINTS),
            "gauss": geometry.edge_lengths(decode, POINTS, edges, rule="gauss"),
            "cells": geometry.cell_metrics(cells, GRIDS),
            "of cells": geometry.cell_edge_lengths(cells, GRIDS, edges[:40] % (len(GRIDS) * 9)),
        }

    assert_close(*on_both(measured))


def test_geodesics_and_nearest_centres():
    def solved():
        curves = geometry.geodesics(decode, POINTS[:20], POINTS[20:40], num_points=8)
        nearest = geometry.nearest_geodesic(decode, POINTS, POINTS[:10])
        return curves.length, nearest.index, nearest.distance

    assert_close(*on_both(solved), rtol=1e-3)


def test_relaxation():
    graph = geometry.knn_graph(POINTS.astype(np.float64), 6)

    def relaxed():
        padded = geometry.pad_graph(graph)
        return geometry.relax(padded.neighbours, padded.lengths, [0, 5, 9], num_nodes=padded.num_nodes)

    assert_close(*on_both(relaxed))


@pytest.mark.parametrize("model", ["vae", "vqvae", "gpt"])
def test_training_steps(model):
    quantizer = vqvae.Quantizer(num_codes=8)
    sizes = gpt.Architecture(num_codes=8, length=9, num_classes=3, embed_dim=16, num_layers=2, num_heads=2, dropout=0.0)
    codes, labels = RNG.integers(0, 8, (16, 9)).astype(np.int32), RNG.integers(0, 3, 16).astype(np.int32)

    def trained():
        key, images = jax.random.key(1), jnp.asarray(IMAGES)
        if model == "vae":
            params = vae.init(key, ARCH)
            loss = lambda params: vae.loss(key, params, ARCH, Objective(), images, 0)[0]  # noqa: E731
        elif model == "vqvae":
            params = vqvae.init(key, ARCH, quantizer, images)
            loss = lambda params: vqvae.loss(key, params, ARCH, quantizer, Objective(), images)[0]  # noqa: E731
        else:
            params = gpt.init(key, sizes)
            loss = lambda params: gpt.loss(key, params, sizes, jnp.asarray(codes), jnp.asarray(labels))[0]  # noqa: E731
        optimizer = make_optimizer(learning_rate=1e-3, num_steps=4)
        state, losses = optimizer.init(params), []
        step = jax.jit(jax.value_and_grad(loss))
        for _ in range(3):
            value, gradient = step(params)
            updates, state = optimizer.update(gradient, state, params)
            params = jax.tree.map(jnp.add, params, updates)
            losses.append(value)
        return losses

    found, expected = on_both(trained)
    assert_close(found, expected)
    assert expected[2] < expected[0]


def test_sampling():
    sizes = gpt.Architecture(num_codes=8, length=9, num_classes=3, embed_dim=16, num_layers=2, num_heads=2)
    labels = np.arange(64, dtype=np.int32) % 3
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "guidance": 1.5}

    def drawn():
        return draw(jax.random.key(3), gpt.init(jax.random.key(2), sizes), sizes, labels, settings)[0]

    assert_close(*on_both(drawn))


def test_search_in_context():
    vectors = RNG.normal(size=(16, 4)).astype(np.float32)
    start = RNG.integers(0, 16, (8, 3, 3)).astype(np.int32)
    rate = rate_of_tables(fit_tables(np.concatenate([start] * 8), 16))

    def searched():
        decoder = image_decoder()
        found = encode_in_context(
            decoder,
            vectors,
            start,
            np.asarray(geometry.cell_metrics(decoder, vectors[start])).reshape(*start.shape, 4, 4),
            IMAGES[:8],
            sweeps=3,
            rate=rate,
            rate_weight=0.05,
        )
        return found.before, found.after

    found, expected = on_both(searched)
    assert_close(found, expected, rtol=1e-3)
    assert np.mean(expected[1]) < np.mean(expected[0])
