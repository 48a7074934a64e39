"""The nearest of many centres for cells of spatial latents, each in its own slice of the decoder.

With the other cells of image i held, cell p is a point of a Riemannian manifold of its own, that of the map
f_{i,p}: R^d -> x, v -> f(z_i with v in cell p). Equation numbers refer to docs/geometry.md.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from geovq_jax.geometry.batching import Progress, map_chunks
from geovq_jax.geometry.cells import measure_cells
from geovq_jax.geometry.checks import check_array, check_count, check_finite, check_latents, check_number
from geovq_jax.geometry.metric import DecodeFn, as_pytree, safe_norm
from geovq_jax.geometry.nearest import LATENTS_AT_ONCE, Nearest, nearest_by_bounds

CANDIDATES = 8  # centres per cell whose decoded distances are measured
DECODED_AT_ONCE = 256  # images held in a chunk of decoded distances


def nearest_in_slices(
    decode_fn: DecodeFn,
    grids: Float[Array | np.ndarray, "n h w d"],
    centres: Float[Array | np.ndarray, "K d"],
    *,
    metrics: Float[np.ndarray, "cells d d"] | None = None,
    num_candidates: int = CANDIDATES,
    num_points: int = 5,
    tolerance: float = 1e-3,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Nearest:
    """The nearest of K centres to each cell of many grids, in geodesic distance within the slice of the cell.

    The linearised distances (c - z)' G (c - z) propose the candidates; decoded distances in the slice bound theirs from
    below and straight lines from above, equation (36), and geodesics decide the rest, as in `nearest_geodesic`.

    Args:
        decode_fn: map of one grid [h, w, d] to x.
        grids: spatial latents, [n, h, w, d].
        centres: K latents of a cell, such as a codebook.
        metrics: metric of each cell, [n * h * w, d, d]; measured if not given.
        num_candidates: centres per cell that are measured; K for all.
        num_points: nodes of a curve at first, ends included.
        tolerance: relative difference of two distances that may remain undecided.
        batch_size: curves treated at once; the default suits the device.
        progress: called with (grids done, n).

    Returns:
        Nearest of all cells, [n * h * w], rows of a grid first. Certificates are among the candidates; where the bounds
        decide, the distance is their geometric mean and the second distance is infinity.

    Raises:
        ValueError: for grids or centres of another form, or a decoder that gives NaN or infinity.

    Example:
        >>> pair = lambda grid: jnp.concatenate([jnp.cos(grid[0, 0]), jnp.sin(grid[0, 0]), grid[0, 1]])
        >>> grids = np.array([[[[0.1], [2.9]]]], np.float32)
        >>> nearest_in_slices(pair, grids, np.array([[0.0], [3.0]], np.float32)).index.tolist()
        [0, 1]
    """
    check_latents(decode_fn, grids, "n h w d")
    grids = np.asarray(grids)
    d, cells = grids.shape[-1], grids.shape[1] * grids.shape[2]
    check_array("centres", centres, f"K {d}")
    centres = np.asarray(centres, grids.dtype)
    if metrics is not None:
        check_array("metrics", metrics, f"{len(grids) * cells} {d} {d}")
    check_count("num_candidates", num_candidates)
    check_count("num_points", num_points, 3, advice="5 suit most curves")
    check_number("tolerance", tolerance)
    decode, parts, step = jax.tree_util.Partial(_in_slice, as_pytree(decode_fn)), [], max(1, LATENTS_AT_ONCE // cells)
    for start in range(0, len(grids), step):
        own = grids[start : start + step]
        if metrics is None:
            measured = np.asarray(measure_cells(decode_fn, own))
        else:
            measured = np.asarray(metrics[start * cells : (start + step) * cells])
        z = own.reshape(-1, d)
        context = np.repeat(own, cells, axis=0), np.tile(np.arange(cells, dtype=np.int32), len(own))
        below = _bounds(
            decode, z, centres, check_finite("metrics", measured), min(num_candidates, len(centres)), context
        )
        ends = z, centres, below, num_points, tolerance, batch_size, context
        parts.append(nearest_by_bounds(decode, *ends, only_undecided=True)[0])
        if progress is not None:
            progress(start + len(own), len(grids))
    return Nearest(*map(np.concatenate, zip(*parts, strict=True)))


def _in_slice(decode_fn: Any, value: Array, grid: Array, cell: Array) -> Any:
    """f_{i,p}(value)."""
    height, width, d = grid.shape
    moved = grid.reshape(height * width, d).at[cell].set(value).reshape(height, width, d)
    return decode_fn(moved)


def _bounds(
    decode_fn: Any,
    z: np.ndarray,
    centres: np.ndarray,
    metrics: np.ndarray,
    num_candidates: int,
    context: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Decoded distances [m, K] in the slices to the candidates of each cell, infinity for the other centres."""
    gaps = centres.astype(np.float64)
    outer = np.einsum("ki,kj->kij", gaps, gaps).reshape(len(gaps), -1)
    flat = metrics.astype(np.float64)
    linear = flat.reshape(len(z), -1) @ outer.T - 2.0 * np.einsum("nij,nj->ni", flat, z) @ gaps.T
    proposed = np.argpartition(linear, num_candidates - 1, axis=1)[:, :num_candidates]
    size = max(1, DECODED_AT_ONCE // num_candidates)
    found = map_chunks(partial(_chord_chunk, decode_fn), (z, centres[proposed], *context), batch_size=size)
    below = np.full((len(z), len(centres)), np.inf)
    np.put_along_axis(below, proposed, check_finite("decoded distances", np.asarray(found, np.float64)), axis=1)
    return below


@jax.jit
def _chord_chunk(decode_fn: Any, z: Array, candidates: Array, grids: Array, cells: Array) -> Array:
    def one(z: Array, candidates: Array, grid: Array, cell: Array) -> Array:
        own = decode_fn(z, grid, cell)
        return jax.vmap(lambda c: safe_norm(jax.tree.map(jnp.subtract, decode_fn(c, grid, cell), own)))(candidates)

    return jax.vmap(one)(z, candidates, grids, cells)
