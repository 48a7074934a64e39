"""Edge lengths against closed forms, per-edge products and adaptive quadrature."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from geovq_jax.geometry import edges as edges_module
from geovq_jax.geometry.batching import map_chunks, map_rows
from geovq_jax.geometry.cells import cell_edge_lengths, cell_metrics
from geovq_jax.geometry.edges import RULES, edge_length_errors, edge_lengths, lengths_from_metrics
from geovq_jax.geometry.nodes import node_metrics


def network(weights, z):
    return jnp.tanh(jnp.tanh(z @ weights[0]) @ weights[1])


def make_case(d, num_nodes=40, num_edges=90, seed=0):
    rng = np.random.default_rng(seed)
    weights = [jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0])) for shape in ((d, 12), (12, 20))]
    edges = rng.integers(0, num_nodes, size=(num_edges, 2))
    return partial(network, weights), rng.normal(size=(num_nodes, d)), edges


def endpoint_lengths(jacobian, z, edges):
    """The definition, with the Jacobian by reverse mode."""
    a, b = z[edges[:, 0]], z[edges[:, 1]]
    jacobians = jax.jit(jax.vmap(jacobian))
    speeds = [np.linalg.norm(np.einsum("epd,ed->ep", jacobians(end), b - a), axis=1) for end in (a, b)]
    return 0.5 * (speeds[0] + speeds[1])


@pytest.mark.parametrize("rule", RULES)
def test_linear_decoder_is_exact_under_every_rule(rule):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        matrix, z, edges = rng.normal(size=(9, 5)), rng.normal(size=(20, 5)), rng.integers(0, 20, size=(50, 2))
        expected = np.linalg.norm((z[edges[:, 1]] - z[edges[:, 0]]) @ matrix.T, axis=1)
        lengths = edge_lengths(lambda z: jnp.asarray(matrix) @ z, z, edges, rule=rule)
        np.testing.assert_allclose(lengths, expected, rtol=1e-10, atol=1e-12)


def test_both_plans_equal_the_definition(monkeypatch):
    with jax.enable_x64(True):
        decode, z, edges = make_case(4)
        expected = endpoint_lengths(jax.jacrev(decode), z, edges)
        for primal_cost in (-1e9, 1e9):
            monkeypatch.setattr(edges_module, "PRIMAL_COST", primal_cost)
            np.testing.assert_allclose(edge_lengths(decode, z, edges), expected, rtol=1e-10, atol=1e-12)


def test_the_plan_with_fewer_tangents_is_chosen(monkeypatch):
    plans = []
    for name in ("measure_metrics", "_fan_chunk"):
        original = getattr(edges_module, name)

        def record(*args, name=name, original=original):
            plans.append(name)
            return original(*args)

        monkeypatch.setattr(edges_module, name, record)
    for d, num_edges, expected in ((2, 200, "measure_metrics"), (24, 30, "_fan_chunk")):
        plans.clear()
        decode, z, edges = make_case(d, num_nodes=20, num_edges=num_edges)
        edge_lengths(decode, z, edges)
        assert set(plans) == {expected}


def test_single_precision_agrees_to_five_digits():
    decode, z, edges = make_case(6)
    lengths = edge_lengths(decode, z.astype(np.float32), edges)
    with jax.enable_x64(True):
        decode, z, edges = make_case(6)
        expected = endpoint_lengths(jax.jacrev(decode), z, edges)
    np.testing.assert_allclose(lengths, expected, rtol=1e-5, atol=1e-5)


def test_order_of_convergence_of_the_rules():
    """Halving an edge divides the error of the trapezoid and midpoint by 8 = 2^3, of simpson by 32 = 2^5."""
    with jax.enable_x64(True):
        decode, z, _ = make_case(3)
        direction = np.array([0.9, -0.3, 0.4])
        points = np.stack([z[0], z[0] + 0.1 * direction, z[0] + 0.05 * direction])
        truth = np.asarray(edge_lengths(decode, points, np.array([[0, 1], [0, 2]]), rule="gauss", order=10))
        for rule, power in (("endpoints", 3), ("midpoint", 3), ("simpson", 5)):
            errors = np.abs(np.asarray(edge_lengths(decode, points, np.array([[0, 1], [0, 2]]), rule=rule)) - truth)
            np.testing.assert_allclose(np.log2(errors[0] / errors[1]), power, atol=0.3)


def test_gauss_equals_adaptive_quadrature():
    with jax.enable_x64(True):
        decode, z, _ = make_case(4)
        a, step = z[0], z[1] - z[0]
        jacobian = jax.jit(jax.jacrev(decode))
        expected, _ = quad(lambda t: np.linalg.norm(jacobian(a + t * step) @ step), 0.0, 1.0, epsabs=1e-12)
        length = edge_lengths(decode, z, np.array([[0, 1]]), rule="gauss", order=24)
        np.testing.assert_allclose(length, expected, rtol=1e-8)


@pytest.mark.parametrize("rule", ["endpoints", "gauss", "chord"])
def test_error_estimates_are_near_the_true_errors(rule):
    with jax.enable_x64(True):
        decode, z, edges = make_case(3, num_edges=30)
        z = 0.2 * z
        truth = edge_lengths(decode, z, edges, rule="gauss", order=16)
        error = np.abs(edge_lengths(decode, z, edges, rule=rule) - truth)
        estimate = edge_length_errors(decode, z, edges, rule=rule)
        assert 0.9 < estimate.sum() / error.sum() < 1.1


def test_scaled_decoder_scales_every_length():
    with jax.enable_x64(True):
        decode, z, edges = make_case(4)
        for rule in ("endpoints", "chord"):
            lengths = edge_lengths(decode, z, edges, rule=rule)
            np.testing.assert_allclose(edge_lengths(lambda z: 2.0 * decode(z), z, edges, rule=rule), 2 * lengths)


def test_metrics_give_the_lengths_and_chunks_do_not_matter():
    decode, z, edges = make_case(5)
    z = z.astype(np.float32)
    metrics = node_metrics(decode, z, batch_size=7)
    np.testing.assert_allclose(
        metrics, jax.vmap(lambda z: jax.jacrev(decode)(z).T @ jax.jacrev(decode)(z))(z), atol=1e-5
    )
    lengths = lengths_from_metrics(z, metrics, edges, batch_size=13)
    np.testing.assert_allclose(lengths, endpoint_lengths(jax.jacrev(decode), z, edges), rtol=1e-4, atol=1e-5)


def test_one_compilation_whatever_the_number_of_rows():
    traced = []

    def decode(z):
        traced.append(z)
        return jnp.sin(z)

    for num_nodes in (17, 30, 5):
        node_metrics(decode, np.ones((num_nodes, 3), np.float32), batch_size=8)
    assert len(traced) == 2  # checked once, compiled once


def test_new_parameters_need_no_compilation():
    traced = []

    def decode(scale, z):
        traced.append(z)
        return scale * z

    for scale in (1.0, 3.0):
        metrics = node_metrics(jax.tree_util.Partial(decode, scale), np.ones((4, 2), np.float32))
        np.testing.assert_allclose(metrics, np.broadcast_to(scale**2 * np.eye(2), (4, 2, 2)))
    assert len(traced) == 2


def test_progress_counts_the_rows():
    seen = []
    rows = np.arange(7.0, dtype=np.float32)
    negated = map_chunks(jnp.negative, (rows,), batch_size=3, progress=lambda *counts: seen.append(counts))
    np.testing.assert_array_equal(negated, -rows)
    assert seen == [(3, 7), (6, 7), (7, 7)]


@partial(jax.jit, static_argnums=0)
def value_and_derivatives(function, x):
    """Value, tangent along ones, cotangent of ones."""
    value, tangent = jax.jvp(function, (x,), (jnp.ones_like(x),))
    return value, tangent, jax.vjp(function, x)[1](jnp.ones_like(value))[0]


def test_coincident_points_have_zero_length_and_finite_derivatives():
    decode, z, _ = make_case(3)
    z = jnp.asarray(z[:3], jnp.float32).at[1].set(z[0].astype(np.float32))
    edges = np.array([[0, 1], [1, 2]])

    def all_rules(z):
        return jnp.stack([edge_lengths(decode, z, edges, rule=rule, order=1, batch_size=4) for rule in RULES])

    lengths, tangent, cotangent = value_and_derivatives(all_rules, z)
    np.testing.assert_array_equal(lengths[:, 0], 0.0)
    assert (lengths[:, 1] > 0.0).all()
    assert np.isfinite(tangent).all()
    assert np.isfinite(cotangent).all()


def test_lengths_are_differentiable_in_latents_and_parameters():
    with jax.enable_x64(True):
        _, z, edges = make_case(2, num_nodes=6, num_edges=8)
        z, bump = jnp.asarray(z), jnp.zeros((6, 2)).at[4, 1].set(1e-6)

        @jax.jit
        def total(scale, z):
            return jnp.sum(edge_lengths(lambda u: jnp.sin(scale * u), z, edges))

        for_scale, for_z = jax.grad(total, argnums=(0, 1))(1.3, z)
        np.testing.assert_allclose(for_scale, (total(1.3 + 1e-6, z) - total(1.3 - 1e-6, z)) / 2e-6, rtol=1e-6)
        np.testing.assert_allclose(for_z[4, 1], (total(1.3, z + bump) - total(1.3, z - bump)) / 2e-6, rtol=1e-6)


def test_refusals():
    decode, z, _ = make_case(3)
    with pytest.raises(ValueError, match="rule among"):
        edge_lengths(decode, z, np.array([[0, 1]]), rule="trapezoid")
    with pytest.raises(ValueError, match=r"edges in \[0, 40\)"):
        edge_lengths(decode, z, np.array([[0, 40]]))
    with pytest.raises(ValueError, match="order >= 1"):
        edge_lengths(decode, z, np.array([[0, 1]]), rule="gauss", order=0)
    with pytest.raises(ValueError, match="at least one entry"):
        node_metrics(decode, np.zeros((0, 3)))
    with pytest.raises(ValueError, match="batch_size >= 1"):
        node_metrics(decode, z, batch_size=-1)
    with pytest.raises(ValueError, match="own"):
        cell_metrics(decode, np.zeros((1, 2, 2, 3)), context="other")


def test_no_edges_have_no_lengths():
    decode, z, _ = make_case(3)
    assert edge_lengths(decode, z, np.zeros((0, 2), int)).shape == (0,)
    assert cell_edge_lengths(decode, z.reshape(10, 2, 2, 3), np.zeros((0, 2), int)).shape == (0,)


# Spatial latents ------------------------------------------------------------------------------------------------------

SHAPE = (3, 2, 2, 4)


def spatial_network(weights, grid):
    """A decoder of any grid: neighbouring cells interact through a sum over the grid."""
    hidden = jnp.tanh(grid @ weights[0]) + 0.5 * jnp.mean(jnp.tanh(grid @ weights[1]), axis=(0, 1), keepdims=True)
    return jnp.sin(hidden @ weights[2])


def make_spatial_case():
    rng = np.random.default_rng(2)
    weights = [jnp.asarray(rng.normal(size=shape)) for shape in ((4, 6), (4, 6), (6, 5))]
    return partial(spatial_network, weights), rng.normal(size=SHAPE), rng.integers(0, 12, size=(25, 2))


def cell_jacobians(decode, grids):
    """Blocks of the full Jacobian, [cells, p, d]."""
    jacobian = jax.jacrev(lambda flat: decode(flat.reshape(SHAPE[1:])).reshape(-1))
    full = jax.jit(jax.vmap(jacobian))(grids.reshape(SHAPE[0], -1))
    return np.moveaxis(np.asarray(full).reshape(SHAPE[0], -1, 4, 4), 2, 1).reshape(12, -1, 4)


def test_cell_metrics_are_the_diagonal_blocks_of_the_grids_metric():
    with jax.enable_x64(True):
        decode, grids, _ = make_spatial_case()
        jacobians = cell_jacobians(decode, grids)
        expected = np.einsum("cpi,cpj->cij", jacobians, jacobians)
        np.testing.assert_allclose(cell_metrics(decode, grids, batch_size=2), expected, rtol=1e-9, atol=1e-12)


def test_cell_edges_are_measured_within_their_own_images():
    with jax.enable_x64(True):
        decode, grids, edges = make_spatial_case()
        jacobians, cells = cell_jacobians(decode, grids), grids.reshape(12, 4)
        vectors = cells[edges[:, 1]] - cells[edges[:, 0]]
        ends = [np.linalg.norm(np.einsum("epd,ed->ep", jacobians[edges[:, side]], vectors), axis=1) for side in (0, 1)]
        lengths = cell_edge_lengths(decode, grids, edges, batch_size=4)
        np.testing.assert_allclose(lengths, 0.5 * (ends[0] + ends[1]), rtol=1e-9, atol=1e-12)


def test_isolated_cells_are_decoded_as_grids_of_one():
    with jax.enable_x64(True):
        decode, grids, edges = make_spatial_case()
        cells = grids.reshape(12, 4)
        alone = edge_lengths(lambda v: decode(v[None, None]), cells, edges)
        np.testing.assert_allclose(cell_edge_lengths(decode, grids, edges, context="isolated"), alone, rtol=1e-9)
        assert not np.allclose(cell_edge_lengths(decode, grids, edges), alone, rtol=0.05)


@pytest.mark.parametrize("rule", ["simpson", "chord"])
def test_cells_that_do_not_interact_are_measured_like_points(rule):
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        weights, edges = jnp.asarray(rng.normal(size=(4, 6))), rng.integers(0, 12, size=(25, 2))
        grids = rng.normal(size=SHAPE)

        def decode(z):
            return jnp.tanh(z @ weights)

        expected = edge_lengths(decode, grids.reshape(12, 4), edges, rule=rule)
        np.testing.assert_allclose(cell_edge_lengths(decode, grids, edges, rule=rule), expected, rtol=1e-9, atol=1e-12)


def test_coincident_cells_have_finite_derivatives():
    decode, grids, _ = make_spatial_case()
    grids = jnp.asarray(grids, jnp.float32).at[1, 0, 0].set(grids[0, 1, 1].astype(np.float32))
    edges = np.array([[3, 4], [0, 1]])

    lengths, tangent, cotangent = value_and_derivatives(lambda grids: cell_edge_lengths(decode, grids, edges), grids)
    assert lengths[0] == 0.0
    assert np.isfinite(tangent).all()
    assert np.isfinite(cotangent).all()


@pytest.mark.parametrize("num_tangents", [1, 3, 1000])
@pytest.mark.parametrize("num_rows", [1, 2, 5, 37])
def test_rows_in_groups_are_mapped_like_rows_one_by_one(num_rows, num_tangents):
    x, y = np.arange(2.0 * num_rows, dtype=np.float32).reshape(num_rows, 2), np.arange(num_rows)
    found = jax.jit(
        lambda x, y: map_rows(lambda a, b: {"sum": a.sum() + b, "row": a}, (x, y), num_tangents=num_tangents)
    )(x, y)
    np.testing.assert_array_equal(found["sum"], x.sum(axis=1) + y)
    np.testing.assert_array_equal(found["row"], x)
