"""The nearest of many centres in geodesic distance, with certificates. Equation numbers refer to docs/geometry.md."""

from collections.abc import Iterator, Sequence
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
from geovq_jax.geometry.distances import (
    REFINEMENTS,
    Solved,
    decode_flat,
    first_of,
    pairs_at_once,
    solve_pairs,
    solve_refined,
)
from geovq_jax.geometry.metric import DecodeFn, as_pytree

Points = Float[Array | np.ndarray, "n d"]

LATENTS_AT_ONCE = 2048  # whose distances to all centres are held
GAUSS_NODES = 4  # of the quadrature of a straight line
DISTANCE_TOLERANCE = 0.02  # relative error of the distance to the nearest centre, as (33) and (34) differ
EXCESS_MARGIN = 0.5  # by which straight lines may exceed their geodesics more than those of the same latent known
EXPONENTS = 256  # geodesics known, as exponents of equation (37), before any centre is excluded by them
EXPONENT_MARGIN = 0.8  # of the least exponent known, which no other geodesic is expected to fall below


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
    are computed for the two centres of least decoded distance, and for others until none can be nearer if straight
    lines exceed their geodesics as much as those of the same latent that are known. Distances closer to each other than
    their errors are computed again with more nodes.

    Args:
        decode_fn: map of one latent [d] to x.
        z: latents, [n, d].
        centres: K latents, such as a codebook.
        num_points: nodes of a curve at first, ends included.
        tolerance: relative difference of two distances that may remain undecided.
        only_undecided: find the index alone. No curve is made finer for its length's sake, and no centre is tried whose
            geodesic would have to lie nearer to its lower bound than all known ones, equation (37). Where the bounds
            decide, no curve is computed and the distance is their geometric mean; `second` may be infinity.
        batch_size: curves treated at once; the default suits the device.
        progress: called with (latents done, n).

    Returns:
        Nearest; for equal distances the first centre.

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
    parts, done = [], 0
    for own, below in _with_bounds(decode_fn, z, centres):
        ends = own, centres, below, num_points, tolerance, batch_size
        parts.append(nearest_by_bounds(decode_fn, *ends, only_undecided=only_undecided)[0])
        done += len(own)
        if progress is not None:
            progress(done, len(z))
    return Nearest(*map(np.concatenate, zip(*parts, strict=True)))


def geodesics_to_nearest(
    decode_fn: DecodeFn, z: np.ndarray, centres: np.ndarray, *, tolerance: float
) -> tuple[Int[np.ndarray, " n"], Solved]:
    """The nearest centre of each latent and the geodesic from it, both up to a relative error of `tolerance`.

    As `nearest_geodesic` with `only_undecided`, whose curves are kept; others are computed where the bounds decided.
    """
    parts = []
    for own, below in _with_bounds(decode_fn, z, centres):
        nearest, found = nearest_by_bounds(decode_fn, own, centres, below, 5, tolerance, None, only_undecided=True)
        left = np.flatnonzero(~(found.error <= tolerance * found.length))
        if len(left):
            solved = solve_refined(decode_fn, centres[nearest.index[left]], own[left], tolerance=tolerance)
            for kept, new in zip(found, solved, strict=True):
                kept[left] = new
        parts.append((nearest.index, *found))
    index, *solutions = map(np.concatenate, zip(*parts, strict=True))
    return index, Solved(*solutions)


def _with_bounds(
    decode_fn: DecodeFn, z: np.ndarray, centres: np.ndarray
) -> Iterator[tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "m K"]]]:
    """Latents, as many as fit at once, and their decoded distances to all centres."""
    known = decode_flat(decode_fn, centres)
    for start in range(0, len(z), LATENTS_AT_ONCE):
        own = z[start : start + LATENTS_AT_ONCE]
        yield own, scipy.spatial.distance.cdist(decode_flat(decode_fn, own), known)


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
) -> tuple[Nearest, Solved]:
    """The nearest centre of each latent, given lower bounds [n, K] of all distances, infinity for those left out.

    Rows of `context`, one of each array per latent, are what the decoder takes after the latent; `only_undecided` is as
    for `nearest_geodesic`. Returned beside it: the curves from the nearest centres, NaN where none was computed.
    """
    above, length, error = np.full((3, *below.shape), np.inf)
    decided = np.zeros(len(z), bool)
    solved = Solved(*(np.full(shape, np.nan) for shape in (len(z), len(z), len(z), z.shape)))
    solved_for = np.full(len(z), -1)  # the centre that `solved` starts from

    def measure(wanted: np.ndarray) -> None:
        rows, columns = np.nonzero(wanted & np.isinf(above))
        if not len(rows):
            return
        pairs = (z[rows], centres[columns], *(array[rows] for array in context))
        size = batch_size or pairs_at_once(first_of(decode_fn, context), z, GAUSS_NODES)
        above[rows, columns] = map_chunks(partial(_straight_chunk, as_pytree(decode_fn)), pairs, batch_size=size)

    measure(_least(below, 2))
    if only_undecided:
        decided = _decide(below, above, length, error)

    def solve(wanted: np.ndarray, nodes: int) -> None:
        rows, columns = np.nonzero(wanted)
        if not len(rows):
            return
        ends, own = (centres[columns], z[rows]), [array[rows] for array in context]
        found = solve_pairs(decode_fn, *ends, num_points=nodes, batch_size=batch_size, context=own)
        length[rows, columns], error[rows, columns] = found.length, found.error
        least = length.argmin(axis=1)[rows] == columns
        solved_for[rows[least]] = columns[least]
        for kept, new in zip(solved, found, strict=True):
            kept[rows[least]] = new[least]

    # The most promising centres, then all that may be nearer, twice as many each time.
    exponents = _Exponents(0.0, 0.5 if only_undecided else 1.0)
    open_pairs, at_once, passes = np.isfinite(above) & ~decided[:, None], 1 if only_undecided else 2, 0
    while open_pairs.any():
        solve(_least(np.where(open_pairs, _between(below, above, exponents.middle), np.inf), at_once), num_points)
        best = length.min(axis=1, keepdims=True)
        nearer = np.isinf(length) & (below < best)
        measure(nearer)
        if only_undecided:
            exponents = _exponents(below, above, np.where(decided[:, None], np.inf, length))
            possible = _between(below, above, exponents.least) < best
        else:
            ratio = np.divide(above, length, out=np.ones_like(above), where=np.isfinite(length) & (length > 0))
            possible = above < (1.0 + EXCESS_MARGIN) * ratio.max(axis=1, keepdims=True) * best
        open_pairs, at_once, passes = nearer & possible, 2**passes, passes + 1
    for level in range(1, REFINEMENTS + 1):
        wanted = _contended(length, error, tolerance, only_undecided)
        solve(wanted & ~decided[:, None], (num_points - 1) * 2**level + 1)
    nearest = _result(below, length, error)
    for values in solved:
        values[solved_for != nearest.index] = np.nan
    return nearest, solved


def _decide(below: np.ndarray, above: np.ndarray, length: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Which latents the bounds decide; their lengths and errors are entered."""
    rows, first = np.arange(len(below)), above.argmin(axis=1)
    (low, high), others = (below[rows, first], above[rows, first]), below.copy()
    others[rows, first] = np.inf
    decided = others.min(axis=1) >= high
    at, middle = (rows[decided], first[decided]), np.sqrt(low * high)[decided]
    length[at], error[at] = middle, high[decided] - middle
    return decided


def _contended(length: np.ndarray, error: np.ndarray, tolerance: float, only_undecided: bool) -> np.ndarray:
    """Which geodesics to compute again: of centres that may all be nearest, and of distances that are too uncertain."""
    best = length.argmin(axis=1)[:, None]
    distance, doubt = (np.take_along_axis(values, best, axis=1) for values in (length, error))
    least = np.subtract(length, error, out=np.full_like(length, np.inf), where=np.isfinite(length))
    contended = least < distance + doubt
    undecided = (contended.sum(axis=1, keepdims=True) > 1) & (doubt > tolerance * distance)
    wanted = contended & undecided
    if not only_undecided:
        undecided |= doubt > DISTANCE_TOLERANCE * distance
    np.put_along_axis(wanted, best, undecided, axis=1)
    return wanted


def _least(values: np.ndarray, count: int) -> np.ndarray:
    """Which entries are among the `count` least of their rows; infinite ones never."""
    chosen = np.zeros(values.shape, bool)
    np.put_along_axis(chosen, np.argsort(values, axis=1, kind="stable")[:, :count], True, axis=1)
    return chosen & np.isfinite(values)


class _Exponents(NamedTuple):
    """Exponents s of l^(1-s) u^s between the bounds: one below all geodesics expected, and one near most of them."""

    least: float
    middle: float


def _exponents(below: np.ndarray, above: np.ndarray, length: np.ndarray) -> _Exponents:
    """Exponents of the geodesics known, equation (37); any is possible while few are."""
    known = np.isfinite(length) & (below > 0) & (above > 1.01 * below)
    if known.sum() < EXPONENTS:
        return _Exponents(0.0, 0.5)
    found = np.log(length[known] / below[known]) / np.log(above[known] / below[known])
    return _Exponents(EXPONENT_MARGIN * max(0.0, float(found.min())), float(np.median(found)))


def _between(below: np.ndarray, above: np.ndarray, exponent: float) -> np.ndarray:
    """l^(1-s) u^s, equation (37)."""
    return below ** (1.0 - exponent) * above**exponent


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


@jax.jit
def _straight_chunk(decode_fn: Any, a: Array, b: Array, *context: Array) -> Array:
    def one(a: Array, b: Array, *context: Array) -> Array:
        line = jnp.stack([a, b])
        return curve_length(lambda z: decode_fn(z, *context), line, rule="gauss", order=GAUSS_NODES)

    return jax.vmap(one)(a, b, *context)
