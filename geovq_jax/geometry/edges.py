"""Pull-back lengths of edges between latents, and between cells of spatial latents.

An edge is the straight segment between two latents; its length is a quadrature of the speed along it. Equation numbers
refer to docs/geometry.md.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from geovq_jax.geometry.batching import Progress, default_batch_size, map_chunks, map_rows
from geovq_jax.geometry.checks import (
    CHECK_DECODER,
    check_array,
    check_choice,
    check_count,
    check_finite,
    check_ids,
    check_latents,
)
from geovq_jax.geometry.curves import RULES, quadrature
from geovq_jax.geometry.metric import DecodeFn, as_pytree, safe_norm, safe_sqrt, speed
from geovq_jax.geometry.nodes import Points, measure_metrics, speeds_chunk

NodeMetrics = Float[Array | np.ndarray, "n d d"]
Edges = Int[Array | np.ndarray, "e 2"]

MOST_NUMBERS = 2**28  # of metric tensors that are held at once, 1 GiB
PRIMAL_COST = 2.0  # of a linearisation, in pushed tangents


@jax.jit
def _fan_chunk(decode_fn: Any, points: Array, nodes: Array, partners: Array) -> Array:
    """Speeds at each node towards its partners, [b, w]; empty places are padded with the node itself."""
    return speeds_chunk(decode_fn, points[nodes], points[partners] - points[nodes][:, None])


@jax.jit
def _quadratic_chunk(points: Array, metrics: Array, edges: Array) -> Array:
    vectors = points[edges[:, 1]] - points[edges[:, 0]]
    squares = jnp.einsum("ei,esij,ej->es", vectors, metrics[edges], vectors, precision=jax.lax.Precision.HIGHEST)
    return 0.5 * jnp.sum(safe_sqrt(squares), axis=-1)


@jax.jit
def _interior_chunk(decode_fn: Any, points: Array, nodes: Array, weights: Array, edges: Array) -> Array:
    def weighted_speed(edge: Array) -> Array:
        start, vector = points[edge[0]], points[edge[1]] - points[edge[0]]
        return weights @ jax.vmap(lambda t: speed(decode_fn, start + t * vector, vector))(nodes)

    return map_rows(weighted_speed, (edges,), num_tangents=len(weights))


@jax.jit
def _chord_chunk(decode_fn: Any, points: Array, edges: Array) -> Array:
    def chord(edge: Array) -> Array:
        return safe_norm(jax.tree.map(jnp.subtract, decode_fn(points[edge[1]]), decode_fn(points[edge[0]])))

    return jax.vmap(chord)(edges)


def lengths_from_metrics(
    points: Points, metrics: NodeMetrics, edges: Edges, *, batch_size: int = 16384
) -> Float[Array, " e"]:
    """Lengths of edges by the endpoints rule from metric tensors at the nodes, equation (11).

    L = 1/2 (sqrt(D' G_a D) + sqrt(D' G_b D)), D = z_b - z_a.

    Args:
        points: latents, [n, d].
        metrics: metric tensors at the latents, [n, d, d].
        edges: pairs of rows of `points`, [e, 2].
        batch_size: edges measured at once.

    Returns:
        Lengths [e]; zero, with derivative zero, for an edge between coincident points.

    Raises:
        ValueError: for arrays of another form, values that are not finite, or an edge that names a row that does not
            exist.

    Example:
        >>> points, metrics = np.array([[0.0], [2.0]], np.float32), np.array([[[1.0]], [[9.0]]], np.float32)
        >>> lengths_from_metrics(points, metrics, np.array([[0, 1]])).tolist()  # (2 * 1 + 2 * 3) / 2
        [4.0]
    """
    check_array("points", points, "n d")
    check_array("metrics", metrics, f"{len(points)} {points.shape[1]} {points.shape[1]}", CHECK_DECODER)
    check_count("batch_size", batch_size)
    ends = check_ids("edges", edges, len(points), "e* 2")
    return check_finite("lengths", measure_lengths(points, metrics, ends, batch_size))


def measure_lengths(points: Points, metrics: NodeMetrics, ends: Edges, batch_size: int = 16384) -> Float[Array, " e"]:
    """As `lengths_from_metrics`, without its checks: NaN where a metric holds NaN."""
    if not len(ends):
        return jnp.zeros(0, jnp.asarray(points).dtype)
    function = partial(_quadratic_chunk, jnp.asarray(points), jnp.asarray(metrics))
    return map_chunks(function, (ends,), batch_size=min(batch_size, len(ends)))


def edge_lengths(
    decode_fn: DecodeFn,
    z: Points,
    edges: Edges,
    *,
    rule: str = "endpoints",
    order: int = 4,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Float[Array, " e"]:
    """Pull-back lengths of edges between latents, equations (11) to (13).

    endpoints: 1/2 (|J(a) D| + |J(b) D|), D = b - a.

    The ends are measured from metric tensors or from linearisations per node with its edges as tangents, whichever
    takes fewer tangents, but by the latter where the tensors would take more than 1 GiB; the two agree to rounding.

    Args:
        decode_fn: map of one latent [d] to x, an array of any shape or a pytree of arrays.
        z: latents, [n, d].
        edges: pairs of rows of `z`, [e, 2], concrete integers.
        rule: endpoints, midpoint, simpson, gauss (Gauss-Legendre with `order` nodes) or chord (|f(b) - f(a)|).
        order: number of nodes of the gauss rule.
        batch_size: latents decoded at once; the default suits the device.
        progress: called with (rows done, rows) in every pass over nodes or edges.

    Returns:
        Lengths [e] in units of x; zero, with derivative zero, for an edge between coincident latents.

    Raises:
        ValueError: for an unknown rule, an edge that names a row that does not exist, lengths with NaN or infinity, or
            as `check_latents`.

    Example:
        >>> square = lambda z: z**2
        >>> z, edges = np.array([[0.0], [2.0]], np.float32), np.array([[0, 1]])
        >>> [float(edge_lengths(square, z, edges, rule=rule)[0]) for rule in ("endpoints", "simpson", "chord")]
        [4.0, 4.0, 4.0]
    """
    check_latents(decode_fn, z, "n d")
    check_choice("a rule", rule, RULES)
    ends, points, decode = check_ids("edges", edges, len(z), "e* 2"), jnp.asarray(z), as_pytree(decode_fn)
    mean_end_speeds = partial(_mean_end_speeds, decode, points, ends, batch_size, progress)
    parts = mean_end_speeds, partial(_interior_chunk, decode, points), partial(_chord_chunk, decode, points)
    return lengths_by_rule(rule, order, points.dtype, ends, parts, 1, batch_size, progress)


def lengths_by_rule(
    rule: str,
    order: int,
    dtype: Any,
    ends: np.ndarray,
    parts: tuple[Callable[..., Array], ...],
    tangents: int,
    batch_size: int | None,
    progress: Progress | None,
) -> Float[Array, " e"]:
    """Lengths of edges between latents or cells by the parts that the rule needs.

    The parts are mean_end_speeds() of all edges, interior(nodes, weights, edges) and chord(edges) of a chunk of edges.
    One node of an edge pushes `tangents` tangents.
    """
    mean_end_speeds, interior, chord = parts

    def over_edges(chunk: Callable[..., Array], num_tangents: int) -> Array:
        size = batch_size or default_batch_size(num_tangents)
        return map_chunks(chunk, (ends,), batch_size=size, progress=progress)

    lengths = jnp.zeros(len(ends), dtype)
    if not len(ends):
        return lengths
    if rule == "chord":
        return check_finite("lengths", over_edges(chord, 2 * tangents))
    end_weight, nodes, weights = quadrature(rule, order)
    if end_weight:
        lengths = 2.0 * end_weight * mean_end_speeds()
    if len(nodes):
        function = partial(interior, jnp.asarray(nodes, dtype), jnp.asarray(weights, dtype))
        lengths = lengths + over_edges(function, tangents * len(nodes))
    return check_finite("lengths", lengths)


def edge_length_errors(
    decode_fn: DecodeFn,
    z: Points,
    edges: Edges,
    *,
    rule: str = "endpoints",
    order: int = 4,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Float[Array, " e"]:
    """Estimate of the quadrature error of every edge length, equation (14).

    |L_rule - L_finer|, where finer is simpson for endpoints and midpoint, gauss(4) for simpson, gauss(n + 2) for
    gauss(n). For chord, which is no quadrature, it is the excess of gauss(4) over it.

    Args:
        rule: the rule whose error is wanted.
        decode_fn, z, edges, order, batch_size, progress: as in `edge_lengths`.

    Returns:
        Absolute errors [e], in units of x.

    Raises:
        ValueError: as `edge_lengths`.

    Example:
        >>> z, edges = np.array([[0.0], [2.0]], np.float32), np.array([[0, 1]])
        >>> round(float(edge_length_errors(lambda z: z**3, z, edges, rule="endpoints")[0]), 3)  # 12 instead of 8
        4.0
    """
    finer = {"endpoints": ("simpson", 0), "midpoint": ("simpson", 0), "gauss": ("gauss", order + 2)}
    finer_rule, finer_order = finer.get(rule, ("gauss", 4))
    measure = partial(edge_lengths, decode_fn, z, edges, batch_size=batch_size, progress=progress)
    return jnp.abs(measure(rule=rule, order=order) - measure(rule=finer_rule, order=finer_order))


def _mean_end_speeds(
    decode: Any, points: Array, ends: np.ndarray, batch_size: int | None, progress: Progress | None
) -> Array:
    """1/2 (|J(a) D| + |J(b) D|) for every edge, by the cheaper of the two plans."""
    used, local = np.unique(ends, return_inverse=True)
    local, degree = local.reshape(ends.shape), np.bincount(local.ravel())
    # Tangents pushed from one linearisation such that all edges of all nodes take least work.
    width = min((1, 2, 4, 8, 16, 32, 64), key=partial(_fan_cost, degree))
    numbers, tangents = used.size * points.shape[1] ** 2, used.size * (PRIMAL_COST + points.shape[1])
    if numbers <= MOST_NUMBERS and tangents <= _fan_cost(degree, width):
        metrics = measure_metrics(decode, points[used], batch_size, progress)
        return measure_lengths(points[used], metrics, local)
    rows, partners, place = _fans(ends, used, local, degree, width)
    function, size = partial(_fan_chunk, decode, points), batch_size or default_batch_size(width)
    speeds = map_chunks(function, (rows, partners), batch_size=size, progress=progress)
    return 0.5 * jnp.sum(speeds.reshape(-1)[place], axis=-1)


def _fan_cost(degree: np.ndarray, width: int) -> float:
    return float(np.sum(-(-degree // width)) * (PRIMAL_COST + width))


def _fans(
    ends: np.ndarray, used: np.ndarray, local: np.ndarray, degree: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of at most `width` edges of one node: node [r], partners [r, width], place of every edge's ends [e, 2]."""
    rows_of_node = -(-degree // width)
    first_row = np.cumsum(rows_of_node) - rows_of_node
    order = np.argsort(local.ravel(), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size) - np.repeat(np.cumsum(degree) - degree, degree)
    place = first_row[local.ravel()] * width + rank
    rows = np.repeat(used, rows_of_node)
    partners = np.repeat(rows[:, None], width, axis=1)
    partners.reshape(-1)[place] = ends[:, ::-1].ravel()
    return rows, partners, place.reshape(ends.shape)
