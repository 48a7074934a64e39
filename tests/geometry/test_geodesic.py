"""Geodesics against closed forms (plane, sphere, swiss roll), a fine numerical solution (torus), and invariances."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_bvp

from geovq_jax.geometry.curves import (
    constant_speed,
    curve_energy,
    curve_length,
    initial_velocity,
    resample,
    straight_line,
)
from geovq_jax.geometry.exponential import exp_map, log_map
from geovq_jax.geometry.geodesic import geodesic
from geovq_jax.geometry.geodesics import geodesics, length_ratios, refine_path
from geovq_jax.geometry.graphs.construction import knn_graph
from geovq_jax.geometry.graphs.paths import dijkstra
from geovq_jax.geometry.metric import speed

find = jax.jit(geodesic, static_argnums=0, static_argnames=("num_points", "tolerance", "max_iterations"))


def sphere(u):
    """Inverse stereographic projection: a chart of the whole unit sphere but one point."""
    s = jnp.sum(u * u)
    return jnp.concatenate([2.0 * u, jnp.array([s - 1.0])]) / (1.0 + s)


def stereographic(x):
    return x[:, :2] / (1.0 - x[:, 2:])


def on_sphere(rng, n):
    x = rng.normal(size=(n, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def great_circle(x, y):
    return np.arctan2(np.linalg.norm(np.cross(x, y), axis=1), np.sum(x * y, axis=1))


def torus(z):
    ring = 2.0 + 0.5 * jnp.cos(z[1])
    return jnp.stack([ring * jnp.cos(z[0]), ring * jnp.sin(z[0]), 0.5 * jnp.sin(z[1])])


def swiss_roll(z):
    return jnp.stack([z[0] * jnp.cos(z[0]), z[1], z[0] * jnp.sin(z[0])])


def unrolled(z):
    """Isometry of the roll with the plane: arc length of the spiral r = t, and height."""
    t = z[:, 0]
    return np.stack([0.5 * (t * np.sqrt(1 + t**2) + np.arcsinh(t)), z[:, 1]], axis=1)


def test_linear_decoder_has_straight_geodesics():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        matrix, a, b = rng.normal(size=(8, 5)), rng.normal(size=5), rng.normal(size=5)
        bent = np.asarray(straight_line(a, b, 9)) + 0.3 * np.sin(np.linspace(0, np.pi, 9))[:, None]
        found = find(lambda z: jnp.asarray(matrix) @ z, a, b, initial=bent, num_points=12, tolerance=1e-14)
        np.testing.assert_allclose(found.curve, a + np.linspace(0, 1, 12)[:, None] * (b - a), atol=1e-6)
        np.testing.assert_allclose(found.length, np.linalg.norm(matrix @ (b - a)), rtol=1e-6)
        np.testing.assert_allclose(found.energy, found.length**2, rtol=1e-6)
        assert found.converged


def test_sphere_has_great_circles():
    with jax.enable_x64(True):
        x, y = np.split(on_sphere(np.random.default_rng(0), 400), 2)
        found = geodesics(sphere, stereographic(x), stereographic(y), num_points=64, tolerance=1e-8, batch_size=100)
        np.testing.assert_allclose(found.length, great_circle(x, y), rtol=1e-3)
        assert found.converged.sum() >= 198  # nearly opposite points converge slowly
        decoded = np.asarray(jax.vmap(jax.vmap(sphere))(found.curve))
        normal = np.cross(x, y) / np.linalg.norm(np.cross(x, y), axis=1, keepdims=True)
        off_plane = np.abs(np.einsum("ntx,nx->nt", decoded, normal)).max(axis=1)
        assert off_plane[np.asarray(found.converged)].max() < 2e-2
        steps = np.linalg.norm(np.diff(decoded, axis=1), axis=2)
        np.testing.assert_allclose(steps, np.broadcast_to(steps.mean(axis=1, keepdims=True), steps.shape), rtol=1e-2)


def test_directions_that_the_decoder_ignores_do_no_harm():
    """z / |z| has a metric of rank 2 in 3 dimensions, everywhere."""
    with jax.enable_x64(True):
        x, y = np.split(on_sphere(np.random.default_rng(1), 20), 2)
        found = geodesics(lambda z: z / jnp.linalg.norm(z), x, 2.0 * y, num_points=32, tolerance=1e-8)
        assert found.converged.all()
        np.testing.assert_allclose(found.length, great_circle(x, y), rtol=1e-3)


def test_swiss_roll_is_a_plane():
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        a, b = rng.uniform([4.0, 0.0], [12.0, 8.0], size=(2, 10, 2))
        found = geodesics(swiss_roll, a, b, num_points=96)
        assert found.converged.all()
        np.testing.assert_allclose(found.length, np.linalg.norm(unrolled(a) - unrolled(b), axis=1), rtol=1e-3)


def test_torus_agrees_with_its_boundary_value_problem():
    """u'' = 2 r sin v / R u' v', v'' = -R sin v / r u'^2 with R = 2 + r cos v, r = 1/2, by scipy's collocation."""
    with jax.enable_x64(True):
        a, b = np.array([0.2, -0.9]), np.array([1.5, 1.1])

        def equation(_, y):
            ring = 2.0 + 0.5 * np.cos(y[1])
            return np.stack([y[2], y[3], np.sin(y[1]) / ring * y[2] * y[3], -2.0 * ring * np.sin(y[1]) * y[2] ** 2])

        def ends(start, stop):
            return np.concatenate([start[:2] - a, stop[:2] - b])

        t = np.linspace(0, 1, 40)
        guess = np.concatenate([a[:, None] + t * (b - a)[:, None], np.repeat((b - a)[:, None], 40, axis=1)])
        solution = solve_bvp(equation, ends, t, guess, tol=1e-10, max_nodes=20000)
        assert solution.success
        y = solution.sol(t)
        expected = np.sqrt((2.0 + 0.5 * np.cos(y[1])) ** 2 * y[2] ** 2 + 0.25 * y[3] ** 2)
        found = find(torus, a, b, num_points=40, initial=straight_line(a, b, 3), tolerance=1e-9)
        np.testing.assert_allclose(found.length, expected.mean(), rtol=1e-3)
        np.testing.assert_allclose(found.curve, y[:2].T, atol=3e-3)


def charted_torus(scale, turn, warp, z):
    return scale * torus(turn @ ((1.0 - warp) * z + warp * jnp.arcsinh(z)))


def test_lengths_scale_with_the_decoder_and_ignore_the_chart():
    with jax.enable_x64(True):
        a, b = np.random.default_rng(3).normal(size=(2, 6, 2))
        straight, turn = np.eye(2), np.array([[0.6, -0.8], [0.8, 0.6]])

        def lengths(a, b, scale=1.0, turn=straight, warp=0.0):
            decode = jax.tree_util.Partial(charted_torus, scale, jnp.array(turn), warp)
            return geodesics(decode, a, b, num_points=64, tolerance=1e-9).length

        expected = lengths(a, b)
        np.testing.assert_allclose(lengths(a, b, scale=2.0), 2.0 * expected, rtol=1e-9)
        np.testing.assert_allclose(lengths(a @ turn, b @ turn, turn=turn), expected, rtol=1e-6)
        np.testing.assert_allclose(lengths(np.sinh(a), np.sinh(b), warp=1.0), expected, rtol=1e-3)


def test_graph_paths_approach_great_circles():
    x = on_sphere(np.random.default_rng(4), 20_000).astype(np.float32)
    graph = knn_graph(x, 20, decode_fn=lambda z: z / jnp.linalg.norm(z))
    targets = np.arange(1, 20_000, 97)
    exact = great_circle(np.broadcast_to(x[:1], (targets.size, 3)), x[targets])
    ratio = dijkstra(graph, [0])[0, targets] / exact
    assert ratio.min() > 0.999
    assert ratio.mean() < 1.03


def test_a_better_start_finds_the_shorter_way():
    """From the far side of the torus the straight line in the chart goes the long way round the ring."""
    with jax.enable_x64(True):
        a, b = np.array([0.0, 0.0]), np.array([0.0, 4.0])
        around = np.array([[0.0, 0.0], [0.0, -1.0], [0.0, 4.0 - 2.0 * np.pi]])
        long = find(torus, a, b, initial=straight_line(a, b, 3), num_points=40, tolerance=1e-9)
        short = find(torus, a, around[-1], initial=around, num_points=40, tolerance=1e-9)
        np.testing.assert_allclose([long.length, short.length], [2.0, np.pi - 2.0], rtol=1e-3)


def test_a_path_is_refined_unless_the_straight_line_is_shorter():
    def hill(z):
        return jnp.array([z[0], z[1], 3.0 * jnp.exp(-4.0 * jnp.sum(z**2))])

    ends = np.array([[-1.0, 0.0], [1.0, 0.0]], np.float32)
    around = np.array([ends[0], [0.0, 1.0], ends[1]])
    detour = np.array([ends[0], [0.0, 9.0], ends[1]])
    direct = geodesic(hill, *ends)
    short, over = refine_path(hill, around), refine_path(hill, detour)
    np.testing.assert_allclose(short.length, geodesic(hill, *ends, initial=around).length, rtol=1e-3)
    assert short.length < 0.6 * direct.length
    np.testing.assert_allclose(over.length, direct.length, rtol=1e-3)
    assert short.converged
    assert over.converged
    with pytest.raises(ValueError, match="at least 2 points"):
        refine_path(hill, ends[:1])


def test_resampled_points_lie_at_equal_steps():
    curve = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0]])
    np.testing.assert_allclose(resample(curve, 5), [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1]])


def test_batched_curves_equal_single_ones():
    with jax.enable_x64(True):
        a, b = np.random.default_rng(5).normal(size=(2, 5, 2))
        initial = np.stack([a, 0.4 * a + 0.5 * b, b], axis=1)
        many = geodesics(torus, a, b, num_points=40, tolerance=1e-9, batch_size=2, initial=initial)
        assert many.curve.shape == (5, 40, 2)
        for i in range(5):
            one = find(torus, a[i], b[i], initial=initial[i], num_points=40, tolerance=1e-9)
            np.testing.assert_allclose(many.curve[i], one.curve, atol=1e-8)
            np.testing.assert_allclose(many.length[i], one.length, rtol=1e-10)


def test_unfinished_curves_say_so():
    a, b = np.array([2.0, 0.1], np.float32), np.array([-1.0, 1.0], np.float32)
    found = find(sphere, a, b, num_points=6, max_iterations=1)
    assert not found.converged
    assert found.iterations == 1


def test_ratios_of_straight_lines_and_graph_paths():
    with jax.enable_x64(True):
        a, b = np.array([[4.0, 0.0], [5.0, 1.0]]), np.array([[12.0, 8.0], [5.0, 1.0]])
        exact = np.linalg.norm(unrolled(a) - unrolled(b), axis=1)
        straight, _ = quad(lambda s: 8.0 * np.sqrt(2.0 + (4.0 + 8.0 * s) ** 2), 0.0, 1.0)
        ratios = length_ratios(swiss_roll, a, b, graph_lengths=1.1 * exact, num_points=96)
        np.testing.assert_allclose(ratios.straight, [straight, 0.0], rtol=1e-3)
        np.testing.assert_allclose(ratios.straight_to_geodesic, [straight / exact[0], 1.0], rtol=1e-3)
        np.testing.assert_allclose(ratios.graph_to_geodesic, [1.1, 1.0], rtol=1e-3)


@pytest.mark.parametrize("rule", ["gauss", "simpson", "chord"])
def test_length_and_energy_of_a_circle_of_latitude(rule):
    with jax.enable_x64(True):
        curve = np.stack([np.linspace(0.0, np.pi, 200), np.full(200, 1.0)], axis=1)
        expected = np.pi * (2.0 + 0.5 * np.cos(1.0))
        measure = jax.jit(lambda curve: (curve_length(torus, curve, rule=rule), curve_energy(torus, curve)))
        np.testing.assert_allclose(measure(curve), [expected, expected**2], rtol=1e-4)


def test_constant_speed_keeps_the_way_and_evens_the_steps():
    with jax.enable_x64(True):
        curve = np.stack([np.pi * np.linspace(0.0, 1.0, 200) ** 2, np.full(200, 1.0)], axis=1)
        moved = jax.jit(lambda curve: constant_speed(torus, curve, num_points=21))(curve)
        np.testing.assert_allclose(moved[:, 0], np.linspace(0.0, np.pi, 21), atol=1e-3)
        np.testing.assert_allclose(moved[:, 1], 1.0)


def test_exponential_runs_along_great_circles():
    with jax.enable_x64(True):
        a, v = np.array([0.4, -0.2]), np.array([0.9, 0.5])
        x = sphere(a)
        tangent = jax.jvp(sphere, (jnp.asarray(a),), (jnp.asarray(v),))[1]
        length = np.linalg.norm(tangent)
        expected = np.cos(length) * x + np.sin(length) * tangent / length
        np.testing.assert_allclose(sphere(jax.jit(exp_map, static_argnums=0)(sphere, a, v)), expected, atol=1e-5)


def test_logarithm_inverts_the_exponential():
    with jax.enable_x64(True):
        a, b = np.array([0.4, -0.2]), np.array([-0.5, 0.7])
        v = jax.jit(partial(log_map, num_points=64, tolerance=1e-10), static_argnums=0)(sphere, a, b)
        np.testing.assert_allclose(jax.jit(exp_map, static_argnums=0)(sphere, a, v), b, atol=1e-3)
        exact = great_circle(np.asarray(sphere(a))[None], np.asarray(sphere(b))[None])[0]
        np.testing.assert_allclose(speed(sphere, a, v), exact, rtol=1e-3)


def test_logarithm_of_a_linear_decoder_is_the_difference():
    with jax.enable_x64(True):
        a, b = np.array([0.4, -0.2]), np.array([-0.5, 0.7])
        matrix = np.random.default_rng(6).normal(size=(4, 2))
        logarithm = jax.jit(partial(log_map, num_points=5), static_argnums=0)
        np.testing.assert_allclose(logarithm(lambda z: jnp.asarray(matrix) @ z, a, b), b - a, atol=1e-8)


def outputs(parameters):
    """Everything that depends on the ends and on a parameter of the decoder, as one vector; the length first."""
    a, b, scale = parameters

    def decode(z):
        return scale * torus(z)

    found = geodesic(decode, a, b, num_points=6, tolerance=1e-14)
    moved = constant_speed(decode, jnp.stack([a, b, b]))
    vectors = (found.curve[2], initial_velocity(found.curve), exp_map(decode, a, b - a, num_steps=1), moved[1])
    return jnp.concatenate([jnp.stack([found.length, found.energy, curve_length(decode, moved)]), *vectors])


@jax.jit
def outputs_and_derivatives(parameters, tangents):
    value, tangent = jax.jvp(outputs, (parameters,), (tangents,))
    return value, tangent, jax.vjp(outputs, parameters)[1](jnp.ones_like(value))[0]


def test_derivatives_of_geodesics():
    """By the implicit function theorem against central differences, and finite where the ends coincide."""
    with jax.enable_x64(True):
        a, b, scale = jnp.array([0.1, -0.6]), jnp.array([1.2, 0.9]), jnp.array(1.4)
        direction = (jnp.array([0.5, -0.3]), jnp.array([0.2, 0.7]), jnp.array(0.9))
        _, tangent, cotangent = outputs_and_derivatives((a, b, scale), direction)
        after = jax.tree.map(lambda x, dx: x + 1e-4 * dx, (a, b, scale), direction)
        before = jax.tree.map(lambda x, dx: x - 1e-4 * dx, (a, b, scale), direction)
        values = [outputs_and_derivatives(point, direction)[0] for point in (after, before)]
        np.testing.assert_allclose(tangent, (values[0] - values[1]) / 2e-4, rtol=1e-4, atol=1e-5)
        inner = sum(jnp.vdot(x, y) for x, y in zip(cotangent, direction, strict=True))
        np.testing.assert_allclose(inner, tangent.sum(), rtol=1e-8)

        value, tangent, cotangent = outputs_and_derivatives((a, a, scale), direction)
        np.testing.assert_allclose(value[:3], 0.0, atol=1e-12)
        assert np.isfinite(tangent).all()
        assert all(np.isfinite(part).all() for part in cotangent)


def test_single_precision_suffices():
    x, y = np.split(on_sphere(np.random.default_rng(7), 40).astype(np.float32), 2)
    found = geodesics(sphere, stereographic(x), stereographic(y), num_points=32)
    np.testing.assert_allclose(found.length, great_circle(x, y), rtol=2e-3)


def test_two_points_are_no_curve():
    with pytest.raises(ValueError, match="num_points >= 3"):
        geodesic(torus, np.zeros(2, np.float32), np.ones(2, np.float32), num_points=2)
