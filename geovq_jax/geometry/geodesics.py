"""Continuous geodesics of many pairs of latents, and from paths: batches and comparisons around `geodesic`."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from geovq_jax.geometry.batching import Progress, default_batch_size, map_chunks
from geovq_jax.geometry.checks import check_array, check_form, check_latents, check_lengths
from geovq_jax.geometry.curves import curve_length, resample, straight_line
from geovq_jax.geometry.geodesic import Geodesic, check_settings, geodesic
from geovq_jax.geometry.metric import DecodeFn, as_pytree

Points = Float[Array | np.ndarray, "n d"]

_FINE = 4  # points of a path to refine for each point of the curve found
TANGENTS_AT_ONCE = 4096  # bounds the memory of the Jacobians along all curves of a chunk


class LengthRatios(NamedTuple):
    """Pull-back lengths of the straight line and of the geodesic found from it, for each of n pairs of latents.

    Their ratio is at least 1 up to the tolerance, and 1 for coincident pairs; `graph_to_geodesic` is the ratio of the
    given graph lengths, or None; `converged` says whether each geodesic converged.
    """

    straight: Float[Array, " n"]
    geodesic: Float[Array, " n"]
    straight_to_geodesic: Float[Array, " n"]
    graph_to_geodesic: Float[Array, " n"] | None
    converged: Bool[Array, " n"]


@partial(jax.jit, static_argnames=("num_points", "tolerance", "max_iterations"))
def _geodesics_chunk(decode_fn: Any, a: Array, b: Array, *initial: Array, **settings: Any) -> Geodesic:
    def one(a: Array, b: Array, initial: Array | None = None) -> Geodesic:
        return geodesic(decode_fn, a, b, initial=initial, **settings)

    return jax.vmap(one)(a, b, *initial)


def geodesics(
    decode_fn: DecodeFn,
    a: Points,
    b: Points,
    *,
    num_points: int = 32,
    initial: Float[Array | np.ndarray, "n s d"] | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 100,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Geodesic:
    """Curves of least energy between many pairs of latents, all under one compilation.

    Args:
        decode_fn: map of one latent [d] to x.
        a, b: first and last ends, [n, d].
        num_points: points of each curve, ends included.
        initial: curves to start from, [n, s, d]; straight lines by default.
        tolerance, max_iterations: as in `geodesic`.
        batch_size: curves minimised at once; the default suits the device.
        progress: called with (curves done, n).

    Returns:
        Geodesics, every field with a leading axis [n].

    Raises:
        ValueError: as `geodesic`.

    Example:
        >>> stretch = lambda z: jnp.array([3.0 * z[0], 4.0 * z[1]])
        >>> found = geodesics(stretch, np.zeros((2, 2), np.float32), np.array([[1.0, 1.0], [1.0, 0.0]], np.float32))
        >>> np.asarray(found.length, float).round(3).tolist(), found.curve.shape
        ([5.0, 3.0], (2, 32, 2))
    """
    check_settings(num_points, tolerance, max_iterations)
    check_latents(decode_fn, a, "n d")
    check_latents(decode_fn, b, f"{len(a)} {a.shape[1]}")
    if initial is not None:
        check_array("initial curves", initial, f"{len(a)} t {a.shape[1]}")
    settings = {"num_points": num_points, "tolerance": tolerance, "max_iterations": max_iterations}
    function = partial(_geodesics_chunk, as_pytree(decode_fn), **settings)
    size = batch_size or max(1, TANGENTS_AT_ONCE // (num_points * a.shape[1]))
    return map_chunks(function, (a, b) if initial is None else (a, b, initial), batch_size=size, progress=progress)


@partial(jax.jit, static_argnames=("num_points", "tolerance", "max_iterations"))
def _refine(decode_fn: Any, starts: Array, **settings: Any) -> Geodesic:
    start = starts[jax.vmap(partial(curve_length, decode_fn, rule="chord"))(starts).argmin()]
    return geodesic(decode_fn, start[0], start[-1], initial=start, **settings)


def refine_path(
    decode_fn: DecodeFn,
    path: Float[np.ndarray, "t d"],
    *,
    num_points: int = 32,
    tolerance: float = 1e-5,
    max_iterations: int = 100,
) -> Geodesic:
    """Geodesic found from a path, or from the straight line between its ends where that is shorter.

    Paths of different numbers of points share one compilation.

    Args:
        decode_fn: map of one latent [d] to x.
        path: latents, such as `points[shortest_path(graph, a, b)]`.
        num_points, tolerance, max_iterations: as in `geodesic`.

    Returns:
        The geodesic.

    Raises:
        ValueError: for a path of fewer than 2 points, or as `geodesic`.

    Example:
        >>> hill = lambda z: jnp.array([z[0], z[1], 3.0 * jnp.exp(-4.0 * jnp.sum(z**2))])
        >>> path = np.array([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
        >>> over, around = geodesic(hill, path[0], path[-1]), refine_path(hill, path)
        >>> round(float(over.length), 1), round(float(around.length), 1)
        (4.6, 2.7)
    """
    check_settings(num_points, tolerance, max_iterations)
    check_latents(decode_fn, path, "t d")
    path = np.asarray(path)
    if len(path) < 2:
        raise ValueError(f"expected a path of at least 2 points, got {len(path)}; give both ends")
    starts = np.stack([resample(curve, _FINE * num_points) for curve in (path, path[[0, -1]])])
    settings = {"num_points": num_points, "tolerance": tolerance, "max_iterations": max_iterations}
    return _refine(as_pytree(decode_fn), starts, **settings)


@partial(jax.jit, static_argnames="num_points")
def _straight_lengths_chunk(decode_fn: Any, a: Array, b: Array, num_points: int) -> Array:
    return jax.vmap(lambda a, b: curve_length(decode_fn, straight_line(a, b, num_points), rule="chord"))(a, b)


def length_ratios(
    decode_fn: DecodeFn,
    a: Points,
    b: Points,
    *,
    graph_lengths: Float[Array | np.ndarray, " n"] | None = None,
    num_points: int = 32,
    initial: Float[Array | np.ndarray, "n s d"] | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> LengthRatios:
    """How much longer than the geodesic the straight line and the graph's shortest path are.

    Args:
        decode_fn: map of one latent [d] to x.
        a, b: first and last ends, [n, d].
        graph_lengths: lengths of the shortest paths of a graph between the pairs, [n].
        num_points: points of each curve.
        initial: curves from which the geodesics start, [n, s, d]; straight lines by default.
        batch_size: curves treated at once.
        progress: called with (curves done, n) while geodesics are sought.

    Returns:
        Lengths and ratios, NaN where the decoder gives NaN.

    Raises:
        ValueError: as `geodesic`.

    Example:
        >>> hill = lambda z: jnp.array([z[0], z[1], jnp.exp(-4.0 * jnp.sum(z**2))])
        >>> ratios = length_ratios(hill, np.array([[-1.0, 0.1]], np.float32), np.array([[1.0, 0.1]], np.float32))
        >>> bool(ratios.straight_to_geodesic[0] > 1.02), bool(ratios.converged[0])
        (True, True)
    """
    if graph_lengths is not None:
        check_form("latents", a, "n d")
        check_lengths("graph lengths", graph_lengths, str(len(a)), infinite=True)
    found = geodesics(decode_fn, a, b, num_points=num_points, initial=initial, batch_size=batch_size, progress=progress)
    measure = partial(_straight_lengths_chunk, as_pytree(decode_fn), num_points=num_points)
    straight = map_chunks(measure, (a, b), batch_size=batch_size or default_batch_size(1))
    coincident = found.length <= 0

    def ratio(lengths: Array) -> Array:
        return jnp.where(coincident, 1.0, lengths / jnp.where(coincident, 1.0, found.length))

    graph_ratio = None if graph_lengths is None else ratio(jnp.asarray(graph_lengths, found.length.dtype))
    return LengthRatios(straight, found.length, ratio(straight), graph_ratio, found.converged)
