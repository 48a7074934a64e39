"""Decoders and latents that cannot be measured are refused in one line; what a decoder raises is told."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geovq_jax import geometry
from geovq_jax.quantization import refinement

EDGES = np.array([[0, 1], [1, 2]])
LABELS = np.array([0, 1, 1])


def raw(function):
    """As users call it: without the run-time type checks of the tests."""
    return inspect.unwrap(function)


VECTOR_DOORS = {
    "edge_lengths": lambda decode, z: raw(geometry.edge_lengths)(decode, z, EDGES),
    "chords": lambda decode, z: raw(geometry.edge_lengths)(decode, z, EDGES, rule="chord"),
    "node_metrics": lambda decode, z: raw(geometry.node_metrics)(decode, z),
    "node_speeds": lambda decode, z: raw(geometry.node_speeds)(decode, z, np.ones((3, 2, 2), np.float32)),
    "refine_centres": lambda decode, z: raw(refinement.refine_centres)(decode, z[:2], z, LABELS),
    "geodesics": lambda decode, z: raw(geometry.geodesics)(decode, z, z[::-1]),
    "geodesic": lambda decode, z: raw(geometry.geodesic)(decode, z[0], z[-1]),
    "exp_map": lambda decode, z: raw(geometry.exp_map)(decode, z[-1], z[0]),
}
GRID_DOORS = {
    "cell_metrics": lambda decode, z: raw(geometry.cell_metrics)(decode, z),
    "isolated": lambda decode, z: raw(geometry.cell_metrics)(decode, z, context="isolated"),
    "cell_edge_lengths": lambda decode, z: raw(geometry.cell_edge_lengths)(decode, z, EDGES),
    "refine_cell_centres": lambda decode, z: raw(refinement.refine_cell_centres)(
        decode, np.ones((2, 2), np.float32), z, np.zeros((3, 1, 1), int)
    ),
}
WEIGHTS = np.ones((2, 5), np.float32)


def broken(z):
    raise RuntimeError("the decoder\nhas a reason")


DECODERS = {
    "other dimension": (lambda z: z @ np.ones((3, 5), np.float32), "expected a decoder of one latent"),
    "integers": (lambda z: jnp.round(z @ WEIGHTS).astype(jnp.int32), r"real numbers, got \['int32'\]"),
    "booleans": (lambda z: z > 0, r"real numbers, got \['bool'\]"),
    "complex": (lambda z: jnp.exp(1j * z), r"real numbers, got \['complex64'\]"),
    "nothing": (lambda z: None, "real numbers, got nothing"),
    "partly integers": (lambda z: (z, jnp.argmax(z)), r"real numbers, got \['float32', 'int32'\]"),
    "numpy": (lambda z: np.tanh(np.asarray(z)), "expected a decoder of one latent"),
    "text": (lambda z: "image", "expected a decoder of one latent"),
    "none at all": (None, "expected a decoder of one latent"),
    "broken": (broken, "got from it: the decoder; correct it"),
    "batched": (lambda z: jnp.einsum("nd,dp->np", z, WEIGHTS), "expected a decoder of one latent"),
    "branches": (lambda z: z if z.ravel()[0] > 0 else -z, "expected a decoder of one latent"),
}


def vectors(value=0.5):
    z = np.arange(6, dtype=np.float32).reshape(3, 2)
    z[2, 1] = value
    return z


def assert_refused(door, decode, latents, message):
    with pytest.raises(ValueError, match=message) as refused:
        door(decode, latents)
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize("door", VECTOR_DOORS | GRID_DOORS)
def test_every_door_refuses_decoders_that_cannot_be_measured(door):
    z = vectors() if door in VECTOR_DOORS else vectors().reshape(3, 1, 1, 2)
    for name, (decode, message) in DECODERS.items():
        if name != "batched" or door in VECTOR_DOORS:
            assert_refused((VECTOR_DOORS | GRID_DOORS)[door], decode, z, message)


@pytest.mark.parametrize("door", VECTOR_DOORS | GRID_DOORS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_every_door_refuses_latents_that_are_not_finite(door, value):
    z = vectors(value) if door in VECTOR_DOORS else vectors(value).reshape(3, 1, 1, 2)
    assert_refused((VECTOR_DOORS | GRID_DOORS)[door], jnp.sin, z, "expected finite latents, got NaN or infinity")


@pytest.mark.parametrize("door", VECTOR_DOORS | GRID_DOORS)
def test_every_door_refuses_latents_of_other_axes_and_types(door):
    function, z = (VECTOR_DOORS | GRID_DOORS)[door], vectors()
    right = z if door in VECTOR_DOORS else z.reshape(3, 1, 1, 2)
    assert_refused(function, jnp.sin, right.astype(int), "real numbers, got int64|int32")
    assert_refused(function, jnp.sin, right[None], "expected (latents|ends)")
    if door in VECTOR_DOORS.keys() - {"geodesic", "exp_map"}:
        assert_refused(function, jnp.sin, z.ravel(), r"expected latents \[n, d\], got shape \(6,\)")


@pytest.mark.parametrize("edges", [np.zeros((2, 3), int), np.zeros(4, int), np.zeros((2, 2)), np.array([[0, 9]])])
def test_edges_of_another_form_are_refused(edges):
    for measure in (geometry.edge_lengths, geometry.cell_edge_lengths):
        z = vectors() if measure is geometry.edge_lengths else vectors().reshape(3, 1, 1, 2)
        with pytest.raises(ValueError, match="expected edges"):
            raw(measure)(jnp.sin, z, edges)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5), st.integers(1, 3))
def test_points_with_one_entry_that_is_no_number_are_refused_by_the_search(seed, n, d):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, d))
    points.ravel()[rng.integers(points.size)] = rng.choice([np.nan, np.inf, -np.inf])
    for call in (
        lambda: geometry.knn(points, 1),
        lambda: geometry.knn(rng.normal(size=(4, d)), 1, queries=points),
        lambda: geometry.knn_graph(points, 1),
    ):
        with pytest.raises(ValueError, match="expected finite points, got NaN or infinity"):
            call()


def test_traced_latents_pass():
    length = jax.jit(lambda z: geometry.edge_lengths(jnp.sin, z, EDGES).sum())
    assert np.isfinite(length(jnp.asarray(vectors())))
