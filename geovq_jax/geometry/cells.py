"""Pull-back metric and edge lengths for the cells of spatial latents, each measured within its image.

A cell is one vector of a grid [h, w, d]; cell p of image i has the id i * h * w + p, rows first. Equation numbers refer
to docs/geometry.md.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from geovq_jax.geometry.batching import Progress, default_batch_size, map_chunks, map_rows
from geovq_jax.geometry.checks import check_choice, check_finite, check_form, check_ids, check_latents
from geovq_jax.geometry.curves import RULES
from geovq_jax.geometry.edges import Edges, lengths_by_rule, measure_lengths
from geovq_jax.geometry.metric import DecodeFn, as_pytree, gram, safe_norm, speed
from geovq_jax.geometry.windows import Window, product_flops, push_window

Grids = Float[Array | np.ndarray, "n h w d"]


def grid_metrics(decode_fn: DecodeFn, grid: Float[Array | np.ndarray, "h w d"]) -> Float[Array, "c d d"]:
    """Metric tensors of the cells of one grid, each with the other cells held, equation (15).

    G_p = J_p' J_p, J_p = df(grid) / d grid_p: the diagonal blocks of the metric of the whole grid, from a single
    linearisation.
    """
    grid = jnp.asarray(grid)
    _, push_forward = jax.linearize(decode_fn, grid)
    basis = jnp.eye(grid.size, dtype=grid.dtype).reshape(-1, grid.shape[-1], *grid.shape)
    # Cell by cell: the d tangents of one cell fit into the cache, those of the whole grid do not.
    return jax.lax.map(lambda directions: gram(jax.vmap(push_forward)(directions)), basis)


def windowed_grid_metrics(decode_fn: DecodeFn, grid: Float[Array | np.ndarray, "h w d"]) -> Float[Array, "c d d"]:
    """As `grid_metrics`, with each cell's tangents pushed only where they are not zero.

    One program per cell: less work where the decoder is local, as convolutions are, but longer to compile.
    """
    grid = jnp.asarray(grid)
    _, push_forward = jax.linearize(decode_fn, grid)

    def cell_metric(row: int, column: int) -> Array:
        def push(vector: Array) -> list[Array]:
            start = Window(vector[None, None, :], (row, column, 0), grid.shape)
            return [leaf.value for leaf in push_window(push_forward, start)]

        return gram(jax.vmap(push)(jnp.eye(grid.shape[-1], dtype=grid.dtype)))

    return jnp.stack([cell_metric(*cell) for cell in np.ndindex(grid.shape[:2])])


@partial(jax.jit, static_argnums=0)
def _metrics_chunk(measure: Callable[..., Array], decode_fn: Any, grids: Array) -> Array:
    return map_rows(partial(measure, decode_fn), (grids,), num_tangents=grids.shape[-1])


# Operations that a call must save before one program per cell is compiled. Compiling takes as long as eight times as
# many, but a search calls many times for a few hundred grids, and programs are kept on disk.
WINDOWS_COST = 5e10


def _windows_pay(decode_fn: Any, grids: Array) -> bool:
    """Whether pushing windows saves more operations than its compilation costs; never on accelerators."""
    if jax.default_backend() != "cpu" or grids.shape[1] * grids.shape[2] == 1:
        return False
    leaves, structure = jax.tree.flatten((decode_fn, grids[0]))
    forms = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)

    def flops(measure: Callable[..., Array]) -> float:
        return len(grids) * _flops_of_grid(measure, structure, forms)

    return (whole := flops(grid_metrics)) > WINDOWS_COST and whole - flops(windowed_grid_metrics) > WINDOWS_COST


@lru_cache  # tracing takes as long as the metrics of a hundred grids
def _flops_of_grid(measure: Callable[..., Array], structure: Any, forms: tuple[jax.ShapeDtypeStruct, ...]) -> float:
    """Operations for one grid, from the structure and the arrays' forms of a decoder and the grid."""
    return product_flops(jax.make_jaxpr(measure)(*jax.tree.unflatten(structure, forms)))


@jax.jit
def _interior_chunk(decode_fn: Any, grids: Array, nodes: Array, weights: Array, edges: Array) -> Array:
    def weighted_speed(edge: Array) -> Array:
        start, stop = _cell(grids, edge[0]), _cell(grids, edge[1])

        def blended_speed(t: Array) -> Array:
            value, velocity = start + t * (stop - start), stop - start

            def at(cell: Array) -> Array:
                return speed(lambda v: decode_fn(_with_cell(grids, cell, v)), value, velocity)

            return (1.0 - t) * at(edge[0]) + t * at(edge[1])

        return weights @ jax.vmap(blended_speed)(nodes)

    return map_rows(weighted_speed, (edges,), num_tangents=2 * len(weights))


@jax.jit
def _chord_chunk(decode_fn: Any, grids: Array, edges: Array) -> Array:
    def chord_within(cell: Array, start: Array, stop: Array) -> Array:
        images = [decode_fn(_with_cell(grids, cell, value)) for value in (start, stop)]
        return safe_norm(jax.tree.map(jnp.subtract, *images))

    def chord(edge: Array) -> Array:
        start, stop = _cell(grids, edge[0]), _cell(grids, edge[1])
        return 0.5 * (chord_within(edge[0], start, stop) + chord_within(edge[1], start, stop))

    return jax.vmap(chord)(edges)


def _in_context(decode_fn: Any, grids: Any, context: str) -> Array:
    """The grids to decode, [n, h, w, d], or every cell as a grid of its own, [n * h * w, 1, 1, d]."""
    check_choice("context", context, ("own", "isolated"))
    check_form("latents", grids, "n h w d")
    if context == "isolated":
        grids = grids.reshape(-1, 1, 1, grids.shape[-1])
    check_latents(decode_fn, grids, "n h w d")
    return jnp.asarray(grids)


def _cell(grids: Array, cell: Array) -> Array:
    return grids.reshape(-1, grids.shape[-1])[cell]


def _with_cell(grids: Array, cell: Array, value: Array) -> Array:
    """Grid of the image that contains the cell, with the cell's vector replaced, [h, w, d]."""
    height, width, d = grids.shape[1:]
    image, position = jnp.divmod(cell, height * width)
    return grids[image].reshape(height * width, d).at[position].set(value).reshape(height, width, d)


def cell_metrics(
    decode_fn: DecodeFn,
    grids: Grids,
    *,
    context: str = "own",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Float[Array, "cells d d"]:
    """Metric tensors of all cells of many grids, equation (15).

    On CPU, where a decoder is local and there are many grids, tangents are pushed as windows; the result is the same.

    Args:
        decode_fn: map of one grid [h, w, d] to x.
        grids: spatial latents, [n, h, w, d].
        context: own (the other cells of the image held) or isolated (the cell decoded alone as a 1 x 1 grid: another
            function, for comparison only).
        batch_size: grids decoded at once; the default suits the device.
        progress: called with (grids done, n).

    Returns:
        Metric tensors [n * h * w, d, d].

    Raises:
        ValueError: for an unknown context, metrics with NaN or infinity, or as `check_latents`.

    Example:
        >>> decode = lambda grid: jnp.stack([grid.sum(), grid[0, 0, 0]])  # both cells, then the first alone
        >>> cell_metrics(decode, np.zeros((1, 1, 2, 1), np.float32)).ravel().tolist()
        [2.0, 1.0]
    """
    grids = _in_context(decode_fn, grids, context)
    metrics = measure_cells(decode_fn, grids, batch_size=batch_size, progress=progress)
    return check_finite("metrics", metrics)


def measure_cells(
    decode_fn: DecodeFn, grids: Grids, *, batch_size: int | None = None, progress: Progress | None = None
) -> Float[Array, "cells d d"]:
    """As `cell_metrics`, without its checks: NaN where the decoder gives NaN."""
    decode, grids = as_pytree(decode_fn), jnp.asarray(grids)
    measure = windowed_grid_metrics if _windows_pay(decode, grids) else grid_metrics
    size = batch_size or default_batch_size(2 * grids.shape[3])
    metrics = map_chunks(partial(_metrics_chunk, measure, decode), (grids,), batch_size=size, progress=progress)
    return metrics.reshape(-1, *metrics.shape[2:])


def cell_edge_lengths(
    decode_fn: DecodeFn,
    grids: Grids,
    edges: Edges,
    *,
    context: str = "own",
    rule: str = "endpoints",
    order: int = 4,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Float[Array, " e"]:
    """Pull-back lengths of edges between cells of spatial latents, equations (16) and (17).

    endpoints: 1/2 (|J_{i,p} D| + |J_{j,q} D|), D = z_{j,q} - z_{i,p}, each end within its own image.

    Inside an edge the context passes linearly from one image to the other: the speed at t is (1 - t) times the speed
    within the first image plus t times the speed within the second.

    Args:
        decode_fn: map of one grid [h, w, d] to x.
        grids: spatial latents, [n, h, w, d].
        edges: pairs of cells, [e, 2], ids in [0, n * h * w).
        context: own, or isolated as in `cell_metrics`.
        rule: as in `edge_lengths`; chord is the mean over both images of |f(cell moved) - f(cell)|.
        order: number of nodes of the gauss rule.
        batch_size: grids decoded at once; the default suits the device.
        progress: called with (rows done, rows) in every pass over grids or edges.

    Returns:
        Lengths [e] in units of x; zero, with derivative zero, for an edge between coincident cells.

    Raises:
        ValueError: for an unknown rule or context, an edge that names a cell that does not exist, lengths with NaN or
            infinity, or as `check_latents`.

    Example:
        >>> decode = lambda grid: jnp.stack([grid[0, 0, 0], 3.0 * grid[0, 1, 0]])
        >>> grids = np.array([0.0, 1.0], np.float32).reshape(1, 1, 2, 1)
        >>> cell_edge_lengths(decode, grids, np.array([[0, 1]])).tolist()  # (1 + 3) / 2
        [2.0]
    """
    check_choice("a rule", rule, RULES)
    grids = _in_context(decode_fn, grids, context)
    cells = grids.reshape(-1, grids.shape[-1])
    ends, decode = check_ids("edges", edges, len(cells), "e* 2"), as_pytree(decode_fn)

    def mean_end_speeds() -> Array:
        return measure_lengths(cells, measure_cells(decode, grids, batch_size=batch_size, progress=progress), ends)

    parts = mean_end_speeds, partial(_interior_chunk, decode, grids), partial(_chord_chunk, decode, grids)
    return lengths_by_rule(rule, order, cells.dtype, ends, parts, 2, batch_size, progress)
