"""Decoders and metrics with NaN or infinity: NaN through traceable functions, a refusal that counts rows elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geovq_jax import geometry
from geovq_jax.geometry import cells
from geovq_jax.geometry.checks import check_finite
from geovq_jax.geometry.edges import RULES
from geovq_jax.geometry.metric import safe_norm, safe_sqrt

pytestmark = pytest.mark.usefixtures("unchecked")
MATRIX = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
CHAIN = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]])
BAD = {"nan": np.nan, "inf": np.inf, "overflow of a square": 1e30}


def latents():
    """Six latents, of which numbers 2 and 4 lie where the decoders below are broken."""
    z = np.random.default_rng(1).uniform(0.5, 1.0, (6, 2)).astype(np.float32)
    z[[2, 4], 0] = 40.0
    return z


def _spoilt(value, z):
    return (z @ MATRIX) * jnp.where(jnp.max(z) > 10, value, 1.0)


def spoilt(value):
    """Linear, but for latents (or grids that hold one) with an entry above 10; one compilation for all values."""
    return jax.tree_util.Partial(_spoilt, value)


def graph(**settings):
    return geometry.knn_graph(latents(), 2, **settings)


DOORS = {
    "node_metrics": (lambda f: geometry.node_metrics(f, latents()), "metrics", "2 of 6 rows, first row 2"),
    "node_speeds": (
        lambda f: geometry.node_speeds(f, latents(), np.ones((6, 3, 2), np.float32)),
        "speeds",
        "2 of 6 rows, first row 2",
    ),
    "cell_metrics": (
        lambda f: geometry.cell_metrics(f, latents().reshape(6, 1, 1, 2)),
        "metrics",
        "2 of 6 rows, first row 2",
    ),
    "cells beside a bad one": (
        lambda f: geometry.cell_metrics(f, latents().reshape(3, 2, 1, 2)),
        "metrics",
        "4 of 6 rows, first row 2",
    ),
    "isolated cells": (
        lambda f: geometry.cell_metrics(f, latents().reshape(3, 2, 1, 2), context="isolated"),
        "metrics",
        "2 of 6 rows, first row 2",
    ),
    "edge_length_errors": (lambda f: geometry.edge_length_errors(f, latents(), CHAIN), "lengths", "4 of 5 rows"),
    "knn_graph": (lambda f: graph(decode_fn=f), "lengths", "rows, first row"),
    "knn_graph of a sample": (lambda f: graph(decode_fn=f, max_edges=5), "lengths", "rows, first row"),
}
for _rule in RULES:
    DOORS[f"edges, {_rule}"] = (
        lambda f, rule=_rule: geometry.edge_lengths(f, latents(), CHAIN, rule=rule),
        "lengths",
        "4 of 5 rows, first row 1",
    )
    DOORS[f"cell edges, {_rule}"] = (
        lambda f, rule=_rule: geometry.cell_edge_lengths(f, latents().reshape(6, 1, 1, 2), CHAIN, rule=rule),
        "lengths",
        "4 of 5 rows, first row 1",
    )


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_decoders_that_are_broken_at_some_latents_are_refused(door, value):
    call, what, rows = DOORS[door]
    with pytest.raises(
        ValueError, match=rf"^expected finite {what}, got NaN or infinity in .*{rows}.*; check the decoder$"
    ):
        call(spoilt(value))


@pytest.mark.parametrize("door", DOORS)
def test_where_the_decoder_is_sound_nothing_is_refused(door):
    found = DOORS[door][0](spoilt(2.0))
    assert np.isfinite(found.data if "graph" in door else np.asarray(found)).all()


def test_a_derivative_that_is_infinite_at_a_finite_image_is_refused():
    z = np.array([[1.0], [0.0], [2.0]], np.float32)
    for call in (
        lambda: geometry.node_metrics(jnp.sqrt, z),
        lambda: geometry.edge_lengths(jnp.sqrt, z, np.array([[0, 2], [0, 1]])),
    ):
        with pytest.raises(ValueError, match="in 1 of . rows, first row 1"):
            call()


def test_both_plans_of_end_speeds_refuse():
    """One edge is measured by its tangent, the edges of all pairs by metric tensors."""
    pairs = np.stack(np.triu_indices(6, 1), axis=1)
    bad = np.isin(pairs, [2, 4]).any(axis=1)
    for edges, expected in ((CHAIN[1:2], "1 of 1 rows, first row 0"), (pairs, f"{bad.sum()} of 15 rows, first row 1")):
        with pytest.raises(ValueError, match=expected):
            geometry.edge_lengths(spoilt(np.nan), latents(), edges)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_metrics_that_are_not_finite_are_refused(value):
    metrics = np.tile(np.eye(2, dtype=np.float32), (6, 1, 1))
    metrics[3:, 0, 1] = value
    message = "expected finite metrics, got NaN or infinity in 3 of 6 rows, first row 3; check the decoder"
    with pytest.raises(ValueError, match=message):
        geometry.lengths_from_metrics(latents(), metrics, CHAIN)
    lengths = jax.jit(lambda m: geometry.lengths_from_metrics(latents(), m, CHAIN))(metrics)
    np.testing.assert_array_equal(np.isfinite(lengths), [True, True, False, False, False])
    assert not (np.asarray(lengths) == 0).any()


def test_no_length_fails_to_be_finite_in_silence_when_it_is_traced():
    for measure, z in (
        (geometry.edge_lengths, latents()),
        (geometry.cell_edge_lengths, latents().reshape(6, 1, 1, 2)),
    ):
        for rule in ("endpoints", "midpoint", "chord"):
            lengths = jax.jit(lambda z, measure=measure, rule=rule: measure(spoilt(np.nan), z, CHAIN, rule=rule))(z)
            np.testing.assert_array_equal(np.isnan(lengths), [False, True, True, True, True])


def test_graphs_of_lengths_that_are_not_finite_are_refused():
    points = np.random.default_rng(2).normal(size=(30, 2))

    def length_fn(edges):
        return np.where(edges[:, 0] == 0, np.nan, 1.0)

    for max_edges in (None, 25):
        with pytest.raises(ValueError, match="expected finite lengths, got NaN or infinity in .* rows, first row"):
            geometry.knn_graph(points, 4, length_fn=length_fn, max_edges=max_edges)
    with pytest.raises(ValueError, match="in 1 of 2 rows, first row 1"):
        geometry.graph_from_edges(CHAIN[:2], np.array([1.0, np.nan]), 3)
    sound = geometry.graph_from_edges(CHAIN, np.ones(5), 6)
    with pytest.raises(ValueError, match="in 1 of 1 rows, first row 0"):
        geometry.add_edges(sound, np.array([[0, 3]]), np.array([np.inf]))
    sound.data[[2, 5]] = np.nan
    with pytest.raises(
        ValueError, match="expected finite edge lengths, got NaN or infinity in 2 of 10 rows, first row 2"
    ):
        geometry.connectivity(sound)


Z, V = jnp.array([20.0, 0.5]), jnp.array([1.0, 0.5])
NAN = spoilt(np.nan)
PURE = {
    "pullback_metric": lambda: geometry.pullback_metric(NAN, Z),
    "speed": lambda: geometry.speed(NAN, Z, V),
    "speed at rest": lambda: geometry.speed(NAN, Z, 0 * V),
    "curve_energy": lambda: geometry.curve_energy(NAN, jnp.stack([V, Z, V])),
    "grid_metrics": lambda: cells.grid_metrics(NAN, Z[None, None]),
    "windowed_grid_metrics": lambda: cells.windowed_grid_metrics(NAN, Z[None, None]),
    "exp_map": lambda: geometry.exp_map(NAN, V, 20 * V),
    "geodesic": lambda: geometry.geodesic(NAN, V, Z, num_points=5).length,
    "geodesic of infinite images": lambda: 0 * geometry.geodesic(spoilt(1e30), V, Z, num_points=5).length,
    "safe_norm": lambda: safe_norm({"a": jnp.ones(2), "b": jnp.array([0.0, jnp.nan])}),
    "safe_sqrt": lambda: safe_sqrt(jnp.array([jnp.nan, -jnp.inf])),
}
for _rule in RULES:
    PURE[f"curve_length, {_rule}"] = lambda rule=_rule: geometry.curve_length(NAN, jnp.stack([V, Z, V]), rule=rule)
for _name in ("volume", "log_volume", "effective_rank", "condition_number"):
    for _value in (np.nan, np.inf, -np.inf):
        PURE[f"{_name} of {_value}"] = lambda name=_name, value=_value: getattr(geometry, name)(
            jnp.stack([jnp.array([[value, 0.0], [0.0, 1.0]]), jnp.array([[1.0, value], [value, 1.0]])])
        )


@pytest.mark.parametrize("function", PURE)
def test_what_is_not_finite_passes_through_traceable_functions_as_nan(function):
    for result in (PURE[function](), jax.jit(PURE[function])()):
        assert np.isnan(np.asarray(result)).all()


def test_a_batch_with_one_bad_metric_keeps_the_others():
    metrics = jnp.stack([jnp.eye(3), jnp.full((3, 3), jnp.nan), jnp.diag(jnp.array([1.0, 1.0, 0.0]))])
    np.testing.assert_allclose(geometry.effective_rank(metrics), [3.0, np.nan, 2.0], rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(geometry.volume(metrics)), [False, True, False])


@pytest.mark.parametrize("value", [np.nan, 1e30])
def test_geodesics_through_broken_latents_have_not_converged(value):
    a, b = latents()[:3], latents()[3:]
    found = geometry.geodesics(spoilt(value), a, b, num_points=5)
    np.testing.assert_array_equal(np.isfinite(found.length), [True, False, False])
    np.testing.assert_array_equal(found.converged, [True, False, False])
    ratios = geometry.length_ratios(spoilt(value), a, b, num_points=5)
    np.testing.assert_array_equal(np.isnan(ratios.straight_to_geodesic), [False, True, True])


def test_an_energy_that_overflows_has_not_converged():
    """The Hessian is finite here, and any decrease is small against an infinite energy."""
    found = geometry.geodesic(lambda z: 1e20 * jnp.sin(z / 100.0) @ MATRIX, 100 * V, 50 * V, num_points=5)
    assert np.isinf(found.energy)
    assert not found.converged


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(0, 3))
def test_bad_rows_are_counted(seed, num_rows, ndim):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num_rows, *(2,) * ndim))
    bad = rng.random(num_rows) < 0.4
    for row in np.flatnonzero(bad):
        rows[row].reshape(-1)[rng.integers(rows[row].size)] = 0  # one entry, in place where the row is an array
        rows.reshape(num_rows, -1)[row, rng.integers(rows[row].size)] = rng.choice([np.nan, np.inf, -np.inf])
    if not bad.any():
        assert check_finite("rows", rows) is rows
        return
    message = (
        f"^expected finite rows, got NaN or infinity in {bad.sum()} of {num_rows} rows, first row {bad.argmax()}; do$"
    )
    with pytest.raises(ValueError, match=message):
        check_finite("rows", rows, "do")
    with pytest.raises(ValueError, match=message):
        check_finite("rows", jnp.asarray(rows, jnp.float32), "do")


def test_numbers_beyond_single_precision_are_told_apart_from_infinity():
    rows = np.array([[1.0], [1e200]])
    with pytest.raises(ValueError, match=r"got numbers above 3.4e\+38 in 1 of 2 rows, first row 1"):
        check_finite("rows", rows)
    with jax.enable_x64(True):
        check_finite("rows", rows)
