"""Distances of many pairs and nearest centres: closed forms, fine geodesics by brute force, bounds, certificates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax.geometry import edge_lengths, geodesic_distances, geodesics, nearest, nearest_geodesic


def sphere(u):
    """Inverse stereographic projection: a chart of the whole unit sphere but one point."""
    s = jnp.sum(u * u)
    return jnp.concatenate([2.0 * u, jnp.array([s - 1.0])]) / (1.0 + s)


def half_plane(z):
    """A surface of curvature -1, the pseudosphere, over coordinates (x, y) with y > 1: ds^2 = (dx^2 + dy^2) / y^2."""
    x, y = z
    return jnp.array([jnp.cos(x) / y, jnp.sin(x) / y, jnp.arccosh(y) - jnp.sqrt(1.0 - 1.0 / y**2)])


def curved(d, seed):
    """Two tanh layers of 32 units to 40 outputs, with weights that bend lengths by a tenth."""
    keys = jax.random.split(jax.random.key(seed), 3)
    a, b, c = (
        jax.random.normal(key, shape) * gain / np.sqrt(shape[1])
        for key, shape, gain in zip(keys, ((32, d), (32, 32), (40, 32)), (2.0, 2.0, 1.0), strict=True)
    )
    return lambda z: c @ jnp.tanh(b @ jnp.tanh(a @ z))


def latents(seed, n, d):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_sphere_has_great_circles():
    a, b = 0.7 * latents(0, 50, 2), 0.7 * latents(1, 50, 2)
    x, y = (np.asarray(jax.vmap(sphere)(z), np.float64) for z in (a, b))
    truth = np.arctan2(np.linalg.norm(np.cross(x, y), axis=1), np.sum(x * y, axis=1))
    found = geodesic_distances(sphere, a, b, tolerance=1e-3)
    assert found.converged.all()
    np.testing.assert_allclose(found.length, truth, rtol=1e-3)
    np.testing.assert_allclose(found.bound_below, 2.0 * np.sin(truth / 2.0), rtol=1e-4)
    assert (found.bound_above >= truth * (1.0 - 1e-4)).all()


def test_hyperbolic_plane():
    rng = np.random.default_rng(2)
    ends = [np.stack([rng.uniform(0, 1, 40), rng.uniform(2, 4, 40)], axis=1).astype(np.float32) for _ in range(2)]
    (x, y), (u, v) = (np.asarray(end, np.float64).T for end in ends)
    truth = np.arccosh(1.0 + ((u - x) ** 2 + (v - y) ** 2) / (2.0 * y * v))
    np.testing.assert_allclose(geodesic_distances(half_plane, *ends).length, truth, rtol=1e-3)


def test_torus():
    """A flat torus has the distances of its chart; one of revolution those of the solver that its equation holds."""

    def flat(z):
        return jnp.array([jnp.cos(z[0]), jnp.sin(z[0]), 2.0 * jnp.cos(z[1]), 2.0 * jnp.sin(z[1])])

    a, b = 0.5 * latents(6, 40, 2), 0.5 * latents(7, 40, 2)
    truth = np.linalg.norm((b - a) * np.array([1.0, 2.0]), axis=1)
    found = geodesic_distances(flat, a, b, tolerance=1e-3)
    np.testing.assert_allclose(found.length, truth, rtol=1e-3)
    nearest = nearest_geodesic(flat, a, b)
    table = np.linalg.norm((b[None] - a[:, None]) * np.array([1.0, 2.0]), axis=2)
    np.testing.assert_array_equal(nearest.index, table.argmin(axis=1))
    assert nearest.certified.mean() > 0.9

    def ring(z):
        radius = 2.0 + jnp.cos(z[0])
        return jnp.array([radius * jnp.cos(z[1]), radius * jnp.sin(z[1]), jnp.sin(z[0])])

    fine = geodesics(ring, a, b, num_points=96, tolerance=1e-7)
    np.testing.assert_allclose(geodesic_distances(ring, a, b, tolerance=1e-3).length, fine.length, rtol=5e-3)


def test_more_nodes_converge_exponentially():
    decode, a, b = curved(3, 0), latents(3, 30, 3), latents(4, 30, 3)
    truth = np.asarray(geodesics(decode, a, b, num_points=64, tolerance=1e-7).length)
    errors = [
        np.abs(geodesic_distances(decode, a, b, num_points=nodes, tolerance=1e9).length / truth - 1.0).mean()
        for nodes in (4, 6, 9)
    ]
    assert errors[1] < 0.35 * errors[0]
    assert errors[2] < 0.35 * errors[1]
    assert errors[2] < 4e-3


def test_refinement_reaches_the_tolerance_and_bounds_hold():
    decode, a, b = curved(4, 1), latents(5, 16, 4), latents(6, 16, 4)
    truth = np.asarray(geodesics(decode, a, b, num_points=64, tolerance=1e-7).length)
    found = geodesic_distances(decode, a, b)
    assert found.converged.mean() > 0.9
    np.testing.assert_allclose(found.length[found.converged], truth[found.converged], rtol=5e-3)
    assert (found.bound_below <= found.length * (1.0 + 1e-5)).all()
    assert (found.bound_above >= found.length * (1.0 - 3e-3)).all()


def test_linear_maps_are_certified_by_bounds_alone():
    matrix, z, centres = latents(7, 9, 5), latents(8, 60, 5), latents(9, 12, 5)
    found = nearest_geodesic(lambda point: matrix @ point, z, centres)
    truth = np.linalg.norm((z[:, None] - centres[None]) @ matrix.T, axis=2)
    np.testing.assert_array_equal(found.index, truth.argmin(axis=1))
    np.testing.assert_allclose(found.distance, truth.min(axis=1), rtol=1e-4)
    np.testing.assert_allclose(found.second, np.sort(truth, axis=1)[:, 1], rtol=1e-4)
    assert found.certified.all()


def test_nearest_agrees_with_brute_force():
    d = 6
    decode, z, centres = curved(d, d), latents(10, 40, d), latents(11, 8, d)
    rows, columns = np.divmod(np.arange(40 * 8), 8)
    length = geodesics(decode, z[rows], centres[columns], num_points=32, tolerance=1e-5).length
    truth = np.asarray(length).reshape(40, 8)
    found = nearest_geodesic(decode, z, centres)
    best = truth.min(axis=1)
    np.testing.assert_allclose(truth[np.arange(40), found.index], best, rtol=2e-3)
    assert (found.index == truth.argmin(axis=1)).mean() >= 0.95
    assert (found.index == truth.argmin(axis=1))[found.certified].all()
    assert found.certified.mean() > 0.5
    np.testing.assert_allclose(found.distance, best, rtol=2e-2)
    # Neither Euclidean nor decoded distance decides this.
    assert (np.linalg.norm(z[:, None] - centres[None], axis=2).argmin(axis=1) == truth.argmin(axis=1)).mean() < 0.9


def test_no_geodesic_where_the_bounds_decide():
    d = 6
    decode, z, centres = curved(d, d), latents(10, 40, d), latents(11, 8, d)
    full, short = nearest_geodesic(decode, z, centres), nearest_geodesic(decode, z, centres, only_undecided=True)
    np.testing.assert_array_equal(short.index, full.index)
    chords, lines = _bounds(decode, z, centres)
    decided = np.sort(chords + np.where(np.arange(8) == lines.argmin(axis=1)[:, None], np.inf, 0.0))[:, 0] >= lines.min(
        axis=1
    )
    assert np.isinf(short.second[decided]).all()
    assert 0.3 < decided.mean() < 1.0
    assert short.certified[decided].all()
    np.testing.assert_allclose(short.distance[~decided], full.distance[~decided], rtol=3e-2)
    middle = np.sqrt(chords * lines)[np.arange(40), full.index]
    np.testing.assert_allclose(short.distance[decided], middle[decided], rtol=1e-4)


def _bounds(decode, z, centres):
    rows, columns = np.divmod(np.arange(len(z) * len(centres)), len(centres))
    edges = np.stack([rows, len(z) + columns], axis=1)
    lines = np.asarray(edge_lengths(decode, np.concatenate([z, centres]), edges, rule="gauss"))
    chords = np.linalg.norm(jax.vmap(decode)(z)[:, None] - jax.vmap(decode)(centres)[None], axis=2)
    return chords, lines.reshape(len(z), len(centres))


def test_curves_to_the_nearest_are_those_of_the_pairs():
    decode, z, centres = curved(4, 2), latents(22, 60, 4), latents(23, 12, 4)
    index, found = nearest.geodesics_to_nearest(decode, z, centres, tolerance=1e-2)
    np.testing.assert_array_equal(index, nearest_geodesic(decode, z, centres, tolerance=1e-2).index)
    pairs = nearest.solve_refined(decode, centres[index], z, tolerance=1e-2)
    np.testing.assert_allclose(found.length, pairs.length, rtol=1e-2)
    np.testing.assert_allclose(found.velocity, pairs.velocity, atol=0.05 * np.abs(pairs.velocity).max())
    asked = np.flatnonzero(nearest_geodesic(decode, z, centres, only_undecided=True).second < np.inf)[:5]
    index, some = nearest.geodesics_to_nearest(decode, z[asked], centres, tolerance=0.5)  # every curve is known
    np.testing.assert_allclose(some.length, found.length[asked], rtol=2e-2)


def test_geodesics_known_exclude_centres_and_keep_the_index(monkeypatch):
    decode, z, centres = curved(8, 1), 1.5 * latents(21, 200, 8), 1.5 * latents(31, 64, 8)
    full = nearest_geodesic(decode, z, centres)
    counts = []
    solve = nearest.solve_pairs
    monkeypatch.setattr(
        nearest, "solve_pairs", lambda *given, **others: counts.append(len(given[1])) or solve(*given, **others)
    )
    short = nearest_geodesic(decode, z, centres, only_undecided=True)
    assert (short.index == full.index).mean() >= 0.99
    some = sum(counts)
    counts.clear()
    monkeypatch.setattr(nearest, "EXPONENTS", 10**9)
    exact = nearest_geodesic(decode, z, centres, only_undecided=True)
    assert (exact.index == full.index).mean() >= 0.99
    assert some < 0.9 * sum(counts)


def test_the_nearest_may_have_neither_of_the_two_shortest_straight_lines():
    decode, z, centres = curved(8, 1), latents(21, 150, 8)[[9, 12, 47, 50, 85, 99, 125, 146]], latents(31, 24, 8)
    rows, columns = np.divmod(np.arange(8 * 24), 24)
    truth = geodesic_distances(decode, z[rows], centres[columns], num_points=9).length.reshape(8, 24)
    _, straight = _bounds(decode, z, centres)
    found = nearest_geodesic(decode, z, centres).index
    assert (np.argsort(straight, axis=1)[:, :2] != truth.argmin(axis=1)[:, None]).all(axis=1).sum() >= 6
    np.testing.assert_allclose(truth[np.arange(8), found], truth.min(axis=1), rtol=2e-3)


def test_batches_change_nothing_but_rounding():
    decode, z, centres = curved(3, 5), latents(12, 10, 3), latents(13, 6, 3)
    whole, parts = nearest_geodesic(decode, z, centres), nearest_geodesic(decode, z, centres, batch_size=7)
    np.testing.assert_array_equal(whole.index, parts.index)
    np.testing.assert_allclose(whole.distance, parts.distance, rtol=1e-4)


def test_coincident_latents_and_ties():
    decode, z = curved(3, 6), latents(14, 5, 3)
    found = nearest_geodesic(decode, z, z)
    np.testing.assert_array_equal(found.index, np.arange(5))
    np.testing.assert_allclose(found.distance, 0.0, atol=2e-5)
    assert found.certified.all()
    twice = nearest_geodesic(decode, z, np.concatenate([z[:1] + 0.1, z[:1] + 0.1]))
    assert not twice.certified.any()
    np.testing.assert_allclose(twice.second, twice.distance, rtol=1e-3)
    alone = nearest_geodesic(decode, z, z[:1])
    assert np.isinf(alone.second).all()
    assert alone.certified.all()


def test_a_direction_that_the_decoder_ignores_changes_nothing():
    a, b = latents(15, 20, 3), latents(16, 20, 3)
    plain = geodesic_distances(lambda z: sphere(0.5 * z[:2]), a, b)
    flat = geodesic_distances(lambda z: sphere(0.5 * z), a[:, :2], b[:, :2])
    np.testing.assert_allclose(plain.length, flat.length, rtol=1e-3)
    assert plain.converged.all()


@pytest.mark.parametrize("broken", [lambda z: z / 0.0, lambda z: jnp.sqrt(z - 100.0), lambda z: 1.0 / (z - z[0])])
def test_a_broken_decoder_is_refused(broken):
    z = latents(17, 6, 2)
    with pytest.raises(ValueError, match="NaN or infinity in 6 of 6 rows, first row 0"):
        geodesic_distances(broken, z, z + 1.0)
    with pytest.raises(ValueError, match="NaN or infinity"):
        nearest_geodesic(broken, z, z[:2] + 1.0)
