"""Geodesic distances of many pairs of latents, and the nearest of many centres, with bounds.

A curve is the polynomial through a few nodes, and so is its decoded image. Equation numbers refer to docs/geometry.md.
`geodesic` finds a single curve finely; the functions here find many lengths to a fraction of a percent.
"""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.spatial.distance import cdist

from geovq_jax.geometry.batching import Progress, map_chunks
from geovq_jax.geometry.checks import check_array, check_count, check_finite, check_latents, check_number
from geovq_jax.geometry.curves import flat_output, inner, jacobian_columns
from geovq_jax.geometry.metric import DecodeFn, as_pytree, safe_norm

Points = Float[Array | np.ndarray, "n d"]

MAX_ITERATIONS = 20  # Gauss-Newton steps of a curve
STEPS = 2  # Gauss-Newton steps between two looks at which curves have converged
REFINEMENTS = 2  # times that the nodes of a curve may be doubled
LATENTS_AT_ONCE = 2048  # whose distances to all centres are held
STRAIGHT_AT_ONCE = 4  # straight lines of a latent measured before the bounds are compared again
NUMBERS_IN_CACHE = 2**17  # of decoded tangents; a call with four times as many takes a third longer for each
DISTANCE_TOLERANCE = 0.02  # relative error of the distance to the nearest centre, as (33) and (34) differ
EXCESS_MARGIN = 0.1  # by which straight lines may exceed their geodesics more than those of the same latent known


class Lengths(NamedTuple):
    """Geodesic distances of m pairs of latents, in units of x.

    Attributes:
        length: the distance, sqrt of the least energy found, equation (33).
        converged: whether no step lowers the energy further and the two lengths of the curve, (33) and (34), agree.
        bound_below: |f(b) - f(a)|; no curve is shorter.
        bound_above: length of the curve found, equation (34); no geodesic is longer, up to the quadrature.
    """

    length: Float[np.ndarray, " m"]
    converged: Bool[np.ndarray, " m"]
    bound_below: Float[np.ndarray, " m"]
    bound_above: Float[np.ndarray, " m"]


class Nearest(NamedTuple):
    """The nearest of K centres in geodesic distance, for each of n latents.

    Attributes:
        index: the centre, in [0, K).
        distance: geodesic distance to it, in units of x.
        second: geodesic distance to the second nearest centre; infinity for K = 1.
        certified: every other centre is farther by its decoded distance, or by a converged geodesic that is longer by
            more than the errors of both.
    """

    index: Int[np.ndarray, " n"]  # type: ignore[assignment]
    distance: Float[np.ndarray, " n"]
    second: Float[np.ndarray, " n"]
    certified: Bool[np.ndarray, " n"]


class _Basis(NamedTuple):
    """Polynomials through n nodes of [0, 1]: their nodes, stiffness (32), derivative at 0, and both at Gauss points."""

    nodes: np.ndarray
    stiffness: np.ndarray
    departure: np.ndarray
    values: np.ndarray
    derivatives: np.ndarray
    weights: np.ndarray


@cache
def _basis(num_points: int) -> _Basis:
    legendre, degree = np.polynomial.legendre, num_points - 1
    interior = legendre.Legendre.basis(degree).deriv().roots()
    nodes = np.concatenate([[-1.0], np.sort(interior.real), [1.0]])
    coefficients = np.linalg.inv(legendre.legvander(nodes, degree))
    points, weights = legendre.leggauss(num_points)
    values = legendre.legvander(points, degree) @ coefficients
    derivatives = 2.0 * legendre.legvander(points, degree - 1) @ legendre.legder(coefficients)
    stiffness = derivatives.T @ np.diag(0.5 * weights) @ derivatives
    departure = 2.0 * legendre.legvander(nodes[:1], degree - 1)[0] @ legendre.legder(coefficients)
    return _Basis(0.5 * (nodes + 1.0), stiffness, departure, values, derivatives, 0.5 * weights)


class _Curves(NamedTuple):
    """Curves [m, t, d] on their way to least energy, with what the last steps found of each."""

    curve: Any
    damping: Any
    energy: Any
    decrease: Any  # by which the model expected the last step to lower the energy
    above: Any


@jax.jit
def _descend_chunk(decode_fn: Any, curves: Array, damping: Array, *contexts: Array) -> _Curves:
    return jax.vmap(partial(_descend, decode_fn))(curves, damping, *contexts)


def _descend(decode_fn: Any, curve: Array, damping: Array, *context: Array) -> _Curves:
    """A few damped Gauss-Newton steps on the energy (32) of one curve, equation (35)."""
    basis = jax.tree.map(lambda constant: jnp.asarray(constant, curve.dtype), _basis(len(curve)))
    stiffness = basis.stiffness
    decode = partial(decode_fn, *context)
    ends = jax.vmap(partial(flat_output, decode))(curve[jnp.array([0, -1])])

    def through(inner_x: Array) -> Array:
        return jnp.concatenate([ends[:1], inner_x, ends[1:]]) - ends[:1]  # short curves far from 0 keep their digits

    def energy_of(x: Array) -> Array:
        return basis.weights @ jnp.sum(jnp.square(inner("qj,jp->qp", basis.derivatives, x)), axis=1)

    def step(_: Array, state: _Curves) -> _Curves:
        interior = state.curve[1:-1]
        inner_x, columns = jax.vmap(partial(jacobian_columns, decode))(interior)
        x = through(inner_x)
        energy = energy_of(x)
        gradient = inner("idp,ip->id", columns, inner("ij,jp->ip", stiffness, x)[1:-1]).reshape(-1)
        flat = columns.reshape(gradient.size, -1)
        blocks = jnp.kron(stiffness[1:-1, 1:-1], jnp.ones((interior.shape[1],) * 2, curve.dtype))
        hessian = blocks * inner("ip,jp->ij", flat, flat)
        # As in (22): the damping is a flat latent metric of the same mean scale.
        scale = jnp.trace(hessian) / (jnp.trace(stiffness[1:-1, 1:-1]) * interior.shape[1])
        plain = jnp.kron(stiffness[1:-1, 1:-1], jnp.eye(interior.shape[1], dtype=curve.dtype))
        damped = hessian + state.damping * jnp.where(scale > 0, scale, 1.0) * plain
        direction = -jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(damped), True), gradient)
        decrease = -jnp.dot(gradient, direction)
        candidate = interior + direction.reshape(interior.shape)
        found = energy_of(through(jax.vmap(partial(flat_output, decode))(candidate)))
        better = found < energy
        return _Curves(
            state.curve.at[1:-1].set(jnp.where(better, candidate, interior)),
            jnp.where(better, 0.1, 10.0) * state.damping,
            jnp.where(better, found, energy),
            decrease,
            state.above,
        )

    zero = jnp.zeros((), curve.dtype)
    state = jax.lax.fori_loop(0, STEPS, step, _Curves(curve, damping, zero, zero, zero))
    points, velocities = basis.values @ state.curve, basis.derivatives @ state.curve
    speeds = jax.vmap(lambda z, v: safe_norm(jax.jvp(partial(flat_output, decode), (z,), (v,))[1]))(points, velocities)
    return state._replace(above=basis.weights @ speeds)


@partial(jax.jit, static_argnames="order")
def _straight_chunk(decode_fn: Any, a: Array, b: Array, *contexts: Array, order: int) -> Array:
    points, weights = np.polynomial.legendre.leggauss(order)

    def length(a: Array, b: Array, *context: Array) -> Array:
        decode = partial(flat_output, partial(decode_fn, *context))

        def speed_at(t: Array) -> Array:
            return safe_norm(jax.jvp(decode, (a + t * (b - a),), (b - a,))[1])

        return jnp.asarray(0.5 * weights, a.dtype) @ jax.vmap(speed_at)(jnp.asarray(0.5 * (points + 1.0), a.dtype))

    return jax.vmap(length)(a, b, *contexts)


@jax.jit
def _flat_chunk(decode_fn: Any, z: Array) -> Array:
    return jax.vmap(partial(flat_output, decode_fn))(z)


class Solved(NamedTuple):
    """Host arrays of m pairs: sqrt of the least energy, its uncertainty, length of the curve, its velocity at a."""

    length: np.ndarray
    error: np.ndarray
    above: np.ndarray
    velocity: np.ndarray


class _Problem(NamedTuple):
    """How pairs are measured: decoder of (*context, z), size of its output, and context of each row of `a`."""

    decode_fn: Any
    num_outputs: int
    contexts: tuple
    max_iterations: int
    batch_size: int | None


def _solve(problem: _Problem, rows: np.ndarray, a: np.ndarray, b: np.ndarray, num_points: int) -> Solved:
    """Curves of least energy from a [m, d] to b [m, d], in the contexts of `rows`; those that converge drop out."""
    nodes = _basis(num_points).nodes.astype(a.dtype)[None, :, None]
    curves = _Curves(
        a[:, None] + nodes * (b - a)[:, None], np.full(len(a), 1e-3, a.dtype), *np.zeros((3, len(a)), a.dtype)
    )
    size = _batch_size(problem, (num_points - 2) * a.shape[1])
    active = np.arange(len(a))
    for _ in range(0, problem.max_iterations, STEPS):
        contexts = tuple(context[rows[active]] for context in problem.contexts)
        function = partial(_descend_chunk, problem.decode_fn)
        found = map_chunks(function, (curves.curve[active], curves.damping[active], *contexts), batch_size=size)
        for kept, new in zip(curves, found, strict=True):
            kept[active] = new
        # To first order sqrt(E) falls by half of the relative decrease of E.
        active = active[curves.decrease[active] > 2e-3 * curves.energy[active]]
        if not len(active):
            break
    length = np.sqrt(curves.energy)
    unfinished = 0.5 * curves.decrease / np.where(length > 0, length, 1.0)
    velocity = np.einsum("t,mtd->md", _basis(num_points).departure, curves.curve)
    return Solved(length, np.abs(curves.above - length) + unfinished, curves.above, velocity)


def _batch_size(problem: _Problem, num_tangents: int) -> int:
    """Pairs treated at once, each with so many tangents: they hide the overhead of a call, and stay in the cache."""
    tangents = NUMBERS_IN_CACHE // problem.num_outputs if jax.default_backend() == "cpu" else 65536
    return problem.batch_size or max(1, tangents // num_tangents)


def geodesic_distances(
    decode_fn: DecodeFn,
    a: Points,
    b: Points,
    *,
    num_points: int = 5,
    tolerance: float = 1e-2,
    max_iterations: int = MAX_ITERATIONS,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Lengths:
    """Geodesic distances between many pairs of latents, equations (32) to (35).

    Each curve is a polynomial in latent space whose decoded image is taken as the polynomial through its decoded nodes,
    so that few nodes suffice for smooth decoders; where the two disagree, their number is doubled, twice at most. Like
    `geodesic`, it finds the geodesic near the straight line, which need not be the shortest of all.

    Args:
        decode_fn: map of one latent [d] to x.
        a, b: first and last ends, [m, d].
        num_points: nodes of a curve at first, ends included.
        tolerance: relative difference of the two lengths of a curve, (33) and (34), up to which it has converged. The
            error of `length` is a few times smaller.
        max_iterations: most Gauss-Newton steps for each number of nodes.
        batch_size: curves treated at once; the default suits the device.
        progress: called with (pairs done, m) after each number of nodes.

    Returns:
        Lengths, on the host.

    Raises:
        ValueError: for latents of another form, or a decoder that gives NaN or infinity along a curve.

    Example:
        >>> circle = lambda z: jnp.stack([jnp.cos(z[0]), jnp.sin(z[0])])
        >>> found = geodesic_distances(circle, np.array([[0.0]], np.float32), np.array([[1.0]], np.float32))
        >>> round(float(found.length[0]), 3), round(float(found.bound_below[0]), 3)
        (1.0, 0.959)
    """
    check_latents(decode_fn, a, "n d")
    check_latents(decode_fn, b, f"{len(a)} {a.shape[1]}")
    check_count("num_points", num_points, 3, advice="5 suit most curves")
    check_number("tolerance", tolerance)
    check_count("max_iterations", max_iterations)
    a, b = np.asarray(a), np.asarray(b)
    images = [decode_flat(decode_fn, ends) for ends in (a, b)]
    problem = _Problem(as_pytree(decode_fn), images[0].shape[1], (), max_iterations, batch_size)
    infinite = np.full((3, len(a)), np.inf)
    result = Solved(infinite[0], infinite[1], infinite[2], np.zeros(a.shape))
    active = np.arange(len(a))
    for level in range(REFINEMENTS + 1):
        found = _solve(problem, active, a[active], b[active], (num_points - 1) * 2**level + 1)
        for kept, new in zip(result, found, strict=True):
            kept[active] = new
        active = np.flatnonzero(result.error > tolerance * result.length)
        if progress is not None:
            progress(len(a) - len(active), len(a))
        if not len(active):
            break
    check_finite("geodesic distances", result.above)
    below = np.linalg.norm(images[0] - images[1], axis=1)
    return Lengths(result.length, result.error <= tolerance * result.length, below, result.above)


def decode_flat(decode_fn: DecodeFn, z: Points) -> np.ndarray:
    """Decoded latents [n, p], all leaves as one vector; ValueError for NaN or infinity."""
    images = map_chunks(partial(_flat_chunk, as_pytree(decode_fn)), (z,), batch_size=256)
    return check_finite("decoded latents", np.asarray(images))


def solve_pairs(decode_fn: DecodeFn, a: Points, b: Points, *, num_points: int = 5) -> Solved:
    """Curves of least energy from a [m, d] to b [m, d] with one number of nodes, on the host."""
    shapes = jax.tree.leaves(check_latents(decode_fn, a, "n d"))
    problem = _Problem(as_pytree(decode_fn), sum(leaf.size for leaf in shapes), (), MAX_ITERATIONS, None)
    found = _solve(problem, np.arange(len(a)), np.asarray(a), np.asarray(b), num_points)
    check_finite("geodesic distances", found.length)
    return found


def nearest_geodesic(
    decode_fn: DecodeFn,
    z: Points,
    centres: Float[Array | np.ndarray, "K d"],
    *,
    num_points: int = 5,
    tolerance: float = 1e-3,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Nearest:
    """The nearest of K centres in geodesic distance.

    Decoded distance <= geodesic distance <= length of the straight line, equation (36), decides most pairs. Geodesics
    are computed for the centres whose straight lines are shortest, and for others until none can be nearer if straight
    lines exceed their geodesics as much as those of the same latent that are known. Contenders closer to each other
    than the errors of their lengths are computed again with more nodes.

    Args:
        decode_fn: map of one latent [d] to x.
        z: latents, [n, d].
        centres: K latents, such as a codebook.
        num_points: nodes of a curve at first, ends included.
        tolerance: relative difference of two distances that may remain undecided.
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
    known = decode_flat(decode_fn, centres)
    problem = _Problem(as_pytree(decode_fn), known.shape[1], (), MAX_ITERATIONS, batch_size)
    parts = []
    for start in range(0, len(z), LATENTS_AT_ONCE):
        own = z[start : start + LATENTS_AT_ONCE]
        below = cdist(decode_flat(decode_fn, own), known)
        parts.append(_nearest(problem, own, centres, below, num_points, tolerance))
        if progress is not None:
            progress(start + len(own), len(z))
    return Nearest(*map(np.concatenate, zip(*parts, strict=True)))


def _nearest(
    problem: _Problem, z: np.ndarray, centres: np.ndarray, below: np.ndarray, num_points: int, tolerance: float
) -> Nearest:
    """The nearest centre of each latent, given lower bounds [n, K] of all distances."""
    above = _straight_lines(problem, z, centres, below)
    length, error = np.full(below.shape, np.inf), np.full(below.shape, np.inf)

    def solve(wanted: np.ndarray, nodes: int) -> None:
        rows, columns = np.nonzero(wanted)
        if len(rows):
            found = _solve(problem, rows, z[rows], centres[columns], nodes)
            length[rows, columns], error[rows, columns] = found.length, found.error

    # The two of the shortest straight lines, then whatever may be nearer.
    order = np.argsort(above, axis=1, kind="stable")
    wanted = np.zeros(below.shape, bool)
    np.put_along_axis(wanted, order[:, :2], True, axis=1)
    while wanted.any():
        solve(wanted, num_points)
        best = length.min(axis=1, keepdims=True)
        ratio = np.divide(above, length, out=np.ones_like(above), where=np.isfinite(length) & (length > 0))
        excess = ratio.max(axis=1, keepdims=True)
        open_pairs = np.isinf(length) & (below < best) & (above < (1.0 + EXCESS_MARGIN) * excess * best)
        promise = np.where(open_pairs, above, np.inf)
        wanted = np.zeros(below.shape, bool)
        np.put_along_axis(wanted, promise.argmin(axis=1)[:, None], True, axis=1)
        wanted &= open_pairs
    for level in range(1, REFINEMENTS + 1):
        best = length.argmin(axis=1)[:, None]
        distance, doubt = (np.take_along_axis(values, best, axis=1) for values in (length, error))
        least = np.subtract(length, error, out=np.full_like(length, np.inf), where=np.isfinite(length))
        contended = least < distance + doubt
        undecided = (contended.sum(axis=1, keepdims=True) > 1) & (doubt > tolerance * distance)
        wanted = contended & undecided
        np.put_along_axis(wanted, best, undecided | (doubt > DISTANCE_TOLERANCE * distance), axis=1)
        solve(wanted, (num_points - 1) * 2**level + 1)
    return _result(below, length, error)


def _result(below: np.ndarray, length: np.ndarray, error: np.ndarray) -> Nearest:
    check_finite("geodesic distances", length.min(axis=1))
    rows, index = np.arange(len(length)), length.argmin(axis=1)
    distance = length[rows, index]
    solved = np.isfinite(length)
    at_least = np.maximum(below, np.subtract(length, error, out=np.zeros_like(length), where=solved))
    at_least[rows, index] = np.inf
    second = length.copy()
    second[rows, index] = np.inf
    certified = (at_least >= (distance + error[rows, index])[:, None]).all(axis=1)
    return Nearest(index, distance, second.min(axis=1), certified)


def _straight_lines(problem: _Problem, z: np.ndarray, centres: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Lengths [n, K] of the straight lines to all centres that may be nearest, infinity for the others."""
    above = np.full(below.shape, np.inf)
    order = np.argsort(below, axis=1, kind="stable")
    for first in range(0, below.shape[1], STRAIGHT_AT_ONCE):
        columns = order[:, first : first + STRAIGHT_AT_ONCE]
        least = np.take_along_axis(below, columns, axis=1)
        rows, place = np.nonzero(least <= above.min(axis=1, keepdims=True))
        if not len(rows):
            break
        columns = columns[rows, place]
        function = partial(_straight_chunk, problem.decode_fn, order=4)
        pairs = (z[rows], centres[columns], *(context[rows] for context in problem.contexts))
        above[rows, columns] = np.asarray(map_chunks(function, pairs, batch_size=_batch_size(problem, 4)))
    return above
