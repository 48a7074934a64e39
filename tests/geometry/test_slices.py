"""Cells in their slices of the decoder: brute force over all centres, linear maps, and a flat grid of one cell."""

import jax
import jax.numpy as jnp
import numpy as np

from geovq_jax.geometry import cell_metrics, geodesics, nearest_geodesic, nearest_in_slices


def latents(seed, n, d):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def curved(d, seed):
    """Two tanh layers of 32 units to 40 outputs, with weights that bend lengths by a tenth."""
    a, b, c = (
        gain * latents((seed, i), *shape) / np.sqrt(shape[1])
        for i, (gain, shape) in enumerate(zip((2.0, 2.0, 1.0), ((32, d), (32, 32), (40, 32)), strict=True))
    )
    return lambda z: c @ jnp.tanh(b @ jnp.tanh(a @ z))


def coupled(seed):
    """A decoder of 2 x 2 cells of 3 numbers that bends every cell, each in a way that depends on the others."""
    inner = curved(12, seed)
    return lambda grid: inner(0.6 * grid.reshape(-1))


def test_agrees_with_brute_force_over_all_centres():
    decode, grids, centres = coupled(1), latents(1, 40, 3).reshape(10, 2, 2, 3), latents(2, 6, 3)
    found = nearest_in_slices(decode, grids, centres, num_candidates=6)
    rows, columns = np.divmod(np.arange(40 * 6), 6)
    z, images = grids.reshape(40, 3), grids.reshape(10, 12)

    # One decoder for all: the cell, then what both ends have in common, in whose direction nothing may move.
    def of_all(point):
        others, place = jax.lax.stop_gradient(point[3:15]).reshape(4, 3), jax.lax.stop_gradient(point[15])
        return decode(jnp.where(jnp.arange(4)[:, None] == place, point[:3], others))

    def ends(values):
        return np.concatenate([values, images[rows // 4], (rows % 4)[:, None].astype(np.float32)], axis=1)

    ways = geodesics(of_all, ends(z[rows]), ends(centres[columns]), num_points=24, tolerance=1e-5)
    truth = np.asarray(ways.length).reshape(40, 6)
    best = truth.min(axis=1)
    np.testing.assert_allclose(truth[np.arange(40), found.index], best, rtol=2e-3)
    assert (found.index == truth.argmin(axis=1))[found.certified].all()
    assert found.certified.mean() > 0.9
    # Where bounds decide, the distance is their mean: never more than their gap away.
    np.testing.assert_allclose(found.distance, best, rtol=0.1)
    assert np.isfinite(found.second).any()
    # The metric at the cell alone decides otherwise for some.
    metrics = np.asarray(cell_metrics(decode, grids))
    gaps = centres[None] - grids.reshape(-1, 1, 3)
    linear = np.einsum("nki,nij,nkj->nk", gaps, metrics, gaps).argmin(axis=1)
    assert np.mean(linear == truth.argmin(axis=1)) < 0.95


def test_a_grid_of_one_cell_is_a_vector():
    decode, z, centres = curved(3, 4), latents(3, 60, 3), latents(4, 12, 3)
    vectors = nearest_geodesic(decode, z, centres)
    cells = nearest_in_slices(lambda grid: decode(grid[0, 0]), z[:, None, None], centres, num_candidates=12)
    both = vectors.certified & cells.certified
    assert both.mean() > 0.8
    np.testing.assert_array_equal(cells.index[both], vectors.index[both])


def test_linear_maps_are_decided_by_their_bounds():
    maps = latents(5, 20, 12)
    grids, centres = latents(6, 80, 3).reshape(20, 2, 2, 3), latents(7, 15, 3)
    found = nearest_in_slices(lambda grid: maps @ grid.reshape(-1), grids, centres, num_candidates=3)
    blocks = np.tile(maps.reshape(20, 4, 3).transpose(1, 0, 2), (20, 1, 1))
    gaps = centres[None] - grids.reshape(-1, 1, 3)
    truth = np.linalg.norm(np.einsum("npi,nki->nkp", blocks, gaps), axis=2)
    np.testing.assert_array_equal(found.index, truth.argmin(axis=1))
    np.testing.assert_allclose(found.distance, truth.min(axis=1), rtol=1e-4)
    assert found.certified.all()


def test_metrics_given_or_measured_give_the_same():
    decode, grids, centres = jax.tree_util.Partial(coupled(2)), latents(8, 8, 3).reshape(2, 2, 2, 3), latents(9, 9, 3)
    measured = nearest_in_slices(decode, grids, centres)
    given = nearest_in_slices(decode, grids, centres, metrics=np.asarray(cell_metrics(decode, grids)))
    np.testing.assert_array_equal(measured.index, given.index)
