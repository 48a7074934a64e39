"""The nearest of many centres in geodesic distance, with certificates. Equation numbers refer to docs/geometry.md."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Bool, Float, Int

from geovq_jax.geometry.batching import Progress, map_chunks
from geovq_jax.geometry.checks import check_array, check_count, check_latents, check_number
from geovq_jax.geometry.curves import curve_length
from geovq_jax.geometry.distances import REFINEMENTS, decode_flat, first_of, pairs_at_once, solve_pairs
from geovq_jax.geometry.metric import DecodeFn, as_pytree

Points = Float[Array | np.ndarray, "n d"]

LATENTS_AT_ONCE = 2048  # whose distances to all centres are held
STRAIGHT_AT_ONCE = 4  # straight lines per latent measured before the bounds are compared again
GAUSS_NODES = 4  # of the quadrature of a straight line
DISTANCE_TOLERANCE = 0.02  # relative error of the distance to the nearest centre, as (33) and (34) differ
EXCESS_MARGIN = 0.5  # by which straight lines may exceed their geodesics more than those of the same latent known
EXCESS_FACTOR = (
    2.0  # of the largest excess of any latent, beyond which no geodesic is tried where only the index counts
)


class Nearest(NamedTuple):
    """The nearest of K centres in geodesic distance, for each of n latents.

    Attributes:
        index: the centre, in [0, K).
        distance: geodesic distance to it, in units of x.
        second: geodesic distance to the second nearest centre; infinity for K = 1.
        certified: every other centre is farther by its decoded distance, or by a geodesic that is longer by more than
            the errors of both. Geodesics are those near straight lines, as in `geodesic_distances`.
    """

    index: Int[np.ndarray, " n"]  # type: ignore[assignment]
    distance: Float[np.ndarray, " n"]
    second: Float[np.ndarray, " n"]
    certified: Bool[np.ndarray, " n"]


def nearest_geodesic(
    decode_fn: DecodeFn,
    z: Points,
    centres: Float[Array | np.ndarray, "K d"],
    *,
    num_points: int = 5,
    tolerance: float = 1e-3,
    only_undecided: bool = False,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Nearest:
    """The nearest of K centres in geodesic distance.

    Decoded distance <= geodesic distance <= length of the straight line, equation (36), decides most pairs. Geodesics
    are computed for the centres whose straight lines are shortest, and for others until none can be nearer if straight
    lines exceed their geodesics as much as those of the same latent that are known. Distances closer to each other than
    their errors are computed again with more nodes.

    Args:
        decode_fn: map of one latent [d] to x.
        z: latents, [n, d].
        centres: K latents, such as a codebook.
        num_points: nodes of a curve at first, ends included.
        tolerance: relative difference of two distances that may remain undecided.
        only_undecided: find the index alone. No curve is made finer for its length's sake, and no centre is tried whose
            straight line exceeds the least distance by more than twice the largest excess known of any latent. Where
            the bounds decide, no curve is computed: the distance is their geometric mean, the second one infinity.
        batch_size: curves treated at once; the default suits the device.
        progress: called with (latents done, n).

    Returns:
        Nearest; for equal distances the first centre in the order of straight lines.

    Raises:
        ValueError: for latents or centres of another form, or a decoder that gives NaN or infinity.

    Example:
        >>> circle = lambda z: jnp.stack([jnp.cos(z[0]), jnp.sin(z[0])])
        >>> found = nearest_geodesic(circle, np.array([[0.1], [2.9]], np.float32), np.array([[0.0], [3.0]], np.float32))
        >>> found.index.tolist(), found.certified.tolist()
        ([0, 1], [True, True])
    """
    check_latents(decode_fn, z, "n d")
    check_array("centres", centres, f"K {z.shape[1]}")
    check_count("num_points", num_points, 3, advice="5 suit most curves")
    check_number("tolerance", tolerance)
    z, centres = np.asarray(z), np.asarray(centres, z.dtype)
    known, parts = decode_flat(decode_fn, centres), []
    for start in range(0, len(z), LATENTS_AT_ONCE):
        own = z[start : start + LATENTS_AT_ONCE]
        below = scipy.spatial.distance.cdist(decode_flat(decode_fn, own), known)
        ends = own, centres, below, num_points, tolerance, batch_size
        parts.append(nearest_by_bounds(decode_fn, *ends, only_undecided=only_undecided))
        if progress is not None:
            progress(start + len(own), len(z))
    return Nearest(*map(np.concatenate, zip(*parts, strict=True)))


def nearest_by_bounds(
    decode_fn: DecodeFn,
    z: np.ndarray,
    centres: np.ndarray,
    below: np.ndarray,
    num_points: int,
    tolerance: float,
    batch_size: int | None,
    context: Sequence[np.ndarray] = (),
    only_undecided: bool = False,
) -> Nearest:
    """The nearest centre of each latent, given lower bounds [n, K] of all distances, infinity for those left out.

    Rows of `context`, one of each array per latent, are what the decoder takes after the latent; `only_undecided` is as
    for `nearest_geodesic`.
    """
    at_once = 1 if only_undecided else STRAIGHT_AT_ONCE
    above = _straight_lines(decode_fn, z, centres, below, at_once, batch_size, context)
    length, error = np.full(below.shape, np.inf), np.full(below.shape, np.inf)
    decided = np.zeros(len(z), bool)
    if only_undecided:
        rows, first = np.arange(len(z)), above.argmin(axis=1)
        bounds, others = (below[rows, first], above[rows, first]), below.copy()
        others[rows, first] = np.inf
        decided = others.min(axis=1) >= bounds[1]
        middle = np.sqrt(bounds[0] * bounds[1])
        length[rows[decided], first[decided]] = middle[decided]
        error[rows[decided], first[decided]] = (bounds[1] - middle)[decided]

    def solve(wanted: np.ndarray, nodes: int) -> None:
        rows, columns = np.nonzero(wanted)
        if len(rows):
            ends, own = (z[rows], centres[columns]), [array[rows] for array in context]
            found = solve_pairs(decode_fn, *ends, num_points=nodes, batch_size=batch_size, context=own)
            length[rows, columns], error[rows, columns] = found.length, found.error

    # The two centres with the shortest straight lines, then all that may be nearer, twice as many each time.
    order = np.argsort(above, axis=1, kind="stable")
    wanted = np.zeros(below.shape, bool)
    np.put_along_axis(wanted, order[:, :2], True, axis=1)
    wanted &= np.isfinite(below) & ~decided[:, None]
    at_once = 1
    while wanted.any():
        solve(wanted, num_points)
        best = length.min(axis=1, keepdims=True)
        ratio = np.divide(above, length, out=np.ones_like(above), where=np.isfinite(length) & (length > 0))
        excess = (1.0 + EXCESS_MARGIN) * ratio.max(axis=1, keepdims=True)
        if only_undecided:
            excess = np.minimum(excess, 1.0 + EXCESS_FACTOR * (ratio.max() - 1.0))
        open_pairs = np.isinf(length) & (below < best) & (above < excess * best)
        promise = np.where(open_pairs, above, np.inf)
        wanted = np.zeros(below.shape, bool)
        np.put_along_axis(wanted, np.argsort(promise, axis=1)[:, :at_once], True, axis=1)
        wanted &= open_pairs
        at_once *= 2
    for level in range(1, REFINEMENTS + 1):
        best = length.argmin(axis=1)[:, None]
        distance, doubt = (np.take_along_axis(values, best, axis=1) for values in (length, error))
        least = np.subtract(length, error, out=np.full_like(length, np.inf), where=np.isfinite(length))
        contended = least < distance + doubt
        undecided = (contended.sum(axis=1, keepdims=True) > 1) & (doubt > tolerance * distance)
        wanted = contended & undecided
        if not only_undecided:
            undecided |= doubt > DISTANCE_TOLERANCE * distance
        np.put_along_axis(wanted, best, undecided, axis=1)
        wanted &= ~decided[:, None]
        solve(wanted, (num_points - 1) * 2**level + 1)
    return _result(below, length, error)


def _result(below: np.ndarray, length: np.ndarray, error: np.ndarray) -> Nearest:
    rows, index = np.arange(len(length)), length.argmin(axis=1)
    distance = length[rows, index]
    solved = np.isfinite(length)
    at_least = np.maximum(below, np.subtract(length, error, out=np.zeros_like(length), where=solved))
    at_least[rows, index] = np.inf
    second = length.copy()
    second[rows, index] = np.inf
    certified = (at_least >= (distance + error[rows, index])[:, None]).all(axis=1)
    return Nearest(index, distance, second.min(axis=1), certified)


def _straight_lines(
    decode_fn: DecodeFn,
    z: np.ndarray,
    centres: np.ndarray,
    below: np.ndarray,
    at_once: int,
    batch_size: int | None,
    context: Sequence[np.ndarray],
) -> np.ndarray:
    """Lengths [n, K] of the straight lines to all centres that may be nearest, infinity for the others."""
    above, order = np.full(below.shape, np.inf), np.argsort(below, axis=1, kind="stable")
    size = batch_size or pairs_at_once(first_of(decode_fn, context), z, GAUSS_NODES)
    function = partial(_straight_chunk, as_pytree(decode_fn))
    for first in range(0, below.shape[1], at_once):
        columns = order[:, first : first + at_once]
        least = np.take_along_axis(below, columns, axis=1)
        rows, place = np.nonzero(least <= above.min(axis=1, keepdims=True))
        if not len(rows):
            break
        columns = columns[rows, place]
        pairs = (z[rows], centres[columns], *(array[rows] for array in context))
        above[rows, columns] = np.asarray(map_chunks(function, pairs, batch_size=size))
    return above


@jax.jit
def _straight_chunk(decode_fn: Any, a: Array, b: Array, *context: Array) -> Array:
    def one(a: Array, b: Array, *context: Array) -> Array:
        line = jnp.stack([a, b])
        return curve_length(lambda z: decode_fn(z, *context), line, rule="gauss", order=GAUSS_NODES)

    return jax.vmap(one)(a, b, *context)
