"""Geodesic distances of many pairs of latents, with bounds from both sides.

A curve is the polynomial through a few nodes, and so is its decoded image. Equation numbers refer to docs/geometry.md.
`geodesic` computes one curve with many points; the functions here compute many lengths to a fraction of a percent.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from geovq_jax.geometry.batching import Progress, decode_all, map_chunks
from geovq_jax.geometry.checks import check_count, check_finite, check_latents, check_number
from geovq_jax.geometry.curves import flat_output, inner, jacobian_columns
from geovq_jax.geometry.metric import DecodeFn, as_pytree, speed

Points = Float[Array | np.ndarray, "n d"]

MAX_ITERATIONS = 20  # Gauss-Newton steps of a curve
STEPS = 2  # Gauss-Newton steps with the same Jacobians, between two checks for convergence
STEP_TOLERANCE = 5e-4  # relative decrease of the energy that is not worth a step
REFINEMENTS = 2  # times that the nodes of a curve may be doubled
NUMBERS_AT_ONCE, NUMBERS_IN_CACHE = 2**15, 2**17  # of decoded tangents
PAIRS_AT_ONCE = 8  # fewer do not hide the overhead of a call


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


class Polynomials(NamedTuple):
    """Polynomials through n nodes of [0, 1]: their nodes, stiffness (32), derivative at 0, and both at Gauss points."""

    nodes: np.ndarray
    stiffness: np.ndarray
    departure: np.ndarray
    values: np.ndarray
    derivatives: np.ndarray
    weights: np.ndarray


@cache
def polynomials(num_points: int) -> Polynomials:
    """Polynomials through the Legendre-Gauss-Lobatto nodes."""
    legendre, degree = np.polynomial.legendre, num_points - 1
    interior = legendre.Legendre.basis(degree).deriv().roots()
    nodes = np.concatenate([[-1.0], np.sort(interior.real), [1.0]])
    coefficients = np.linalg.inv(legendre.legvander(nodes, degree))
    points, weights = legendre.leggauss(num_points)
    values = legendre.legvander(points, degree) @ coefficients
    derivatives = 2.0 * legendre.legvander(points, degree - 1) @ legendre.legder(coefficients)
    stiffness = derivatives.T @ np.diag(0.5 * weights) @ derivatives
    departure = 2.0 * legendre.legvander(nodes[:1], degree - 1)[0] @ legendre.legder(coefficients)
    return Polynomials(0.5 * (nodes + 1.0), stiffness, departure, values, derivatives, 0.5 * weights)


def interpolate(curves: Float[np.ndarray, "m t d"], num_points: int) -> Float[np.ndarray, "m t2 d"]:
    """The same polynomials through another number of nodes, at least as many."""
    legendre, old, new = np.polynomial.legendre, polynomials(curves.shape[1]).nodes, polynomials(num_points).nodes
    degree = len(old) - 1
    values = legendre.legvander(2.0 * new - 1.0, degree) @ np.linalg.inv(legendre.legvander(2.0 * old - 1.0, degree))
    starts = curves[:, :1]  # short curves far from 0 keep their digits
    return (starts + np.einsum("st,mtd->msd", values, curves - starts)).astype(curves.dtype)


class _Curves(NamedTuple):
    """State of the minimisation of curves [m, t, d], with the results of the last steps."""

    curve: Any
    damping: Any
    energy: Any
    decrease: Any  # decrease of the energy that the model predicts for the next step
    above: Any


@jax.jit
def _descend_chunk(decode_fn: Any, curves: Array, damping: Array, *context: Array) -> _Curves:
    def one(curve: Array, damping: Array, *context: Array) -> _Curves:
        return _descend(lambda z: decode_fn(z, *context), curve, damping)

    return jax.vmap(one)(curves, damping, *context)


def _descend(decode_fn: Any, curve: Array, damping: Array) -> _Curves:
    """A few damped Gauss-Newton steps on the energy (32) of one curve, with its first Jacobians, equation (35)."""
    basis = jax.tree.map(lambda constant: jnp.asarray(constant, curve.dtype), polynomials(len(curve)))
    stiffness, interior = basis.stiffness, curve[1:-1]
    decode = jax.vmap(partial(flat_output, decode_fn))
    ends = decode(curve[jnp.array([0, -1])])

    def through(inner_x: Array) -> Array:
        return jnp.concatenate([ends[:1], inner_x, ends[1:]]) - ends[:1]  # short curves far from 0 keep their digits

    def energy_of(x: Array) -> Array:
        return basis.weights @ jnp.sum(jnp.square(inner("qj,jp->qp", basis.derivatives, x)), axis=1)

    def measure(interior: Array) -> tuple[Array, Array]:
        inner_x, pull_back = jax.vjp(decode, interior)
        x = through(inner_x)
        return energy_of(x), pull_back(inner("ij,jp->ip", stiffness, x)[1:-1])[0]

    inner_x, columns = jax.vmap(partial(jacobian_columns, decode_fn))(interior)
    x, flat = through(inner_x), columns.reshape(interior.size, -1)
    blocks = jnp.kron(stiffness[1:-1, 1:-1], jnp.ones((interior.shape[1],) * 2, curve.dtype))
    hessian = blocks * inner("ip,jp->ij", flat, flat)
    # As in (22): the damping is a flat latent metric of the same mean scale.
    scale = jnp.trace(hessian) / (jnp.trace(stiffness[1:-1, 1:-1]) * interior.shape[1])
    plain = jnp.kron(stiffness[1:-1, 1:-1], jnp.eye(interior.shape[1], dtype=curve.dtype))
    factor = jnp.linalg.cholesky(hessian + damping * jnp.where(scale > 0, scale, 1.0) * plain), True

    def direction(gradient: Array) -> Array:
        return -jax.scipy.linalg.cho_solve(factor, gradient.reshape(-1)).reshape(interior.shape)

    def step(_: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        interior, size, energy, gradient = state
        candidate = interior + size * direction(gradient)
        found, slope = measure(candidate)
        better = found < energy
        ahead, stay = (candidate, size, found, slope), (interior, 0.25 * size, energy, gradient)
        return tuple(jnp.where(better, new, old) for new, old in zip(ahead, stay, strict=True))

    gradient = inner("idp,ip->id", columns, inner("ij,jp->ip", stiffness, x)[1:-1])
    start = interior, jnp.ones((), curve.dtype), energy_of(x), gradient
    interior, size, energy, gradient = jax.lax.fori_loop(0, STEPS, step, start)
    curve = curve.at[1:-1].set(interior)
    above = basis.weights @ jax.vmap(partial(speed, decode_fn))(basis.values @ curve, basis.derivatives @ curve)
    decrease = -jnp.vdot(gradient, direction(gradient))
    return _Curves(curve, jnp.where(size == 1.0, 0.1, 10.0) * damping, energy, decrease, above)


class Solved(NamedTuple):
    """Host arrays of m pairs: sqrt of the least energy, its uncertainty, length of the curve, its velocity at a."""

    length: np.ndarray
    error: np.ndarray
    above: np.ndarray
    velocity: np.ndarray


def decode_flat(decode_fn: DecodeFn, z: Points) -> Float[np.ndarray, "n p"]:
    """Decoded latents, all leaves as one vector; raises ValueError for NaN or infinity, or as `check_latents`."""
    return decode_all(jax.tree_util.Partial(flat_output, as_pytree(decode_fn)), z)


def solve_pairs(
    decode_fn: DecodeFn,
    a: Points,
    b: Points,
    *,
    num_points: int = 5,
    tolerance: float = STEP_TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
    batch_size: int | None = None,
    context: Sequence[np.ndarray] = (),
) -> Solved:
    """Curves of least energy from a [m, d] to b [m, d] with one number of nodes.

    A curve drops out when a step promises a relative decrease of its energy of at most `tolerance`; its length falls by
    half of that. Rows of `context` are what the decoder takes after the latent, one of each array per pair.

    Raises ValueError for a decoder that gives NaN or infinity along a curve, or as `check_latents`.
    """
    first = first_of(decode_fn, context)
    check_latents(first, a, "n d")
    a, b = np.asarray(a), np.asarray(b)
    nodes = polynomials(num_points).nodes.astype(a.dtype)[None, :, None]
    straight, damping = a[:, None] + nodes * (b - a)[:, None], np.full(len(a), 1e-3, a.dtype)
    curves = _Curves(straight, damping, *np.zeros((3, len(a)), a.dtype))
    size = batch_size or pairs_at_once(first, a, (num_points - 2) * a.shape[1])
    active, function = np.arange(len(a)), partial(_descend_chunk, as_pytree(decode_fn))
    for _ in range(0, max_iterations, STEPS):
        rows = (curves.curve[active], curves.damping[active], *(array[active] for array in context))
        found = map_chunks(function, rows, batch_size=size)
        for kept, new in zip(curves, found, strict=True):
            kept[active] = new
        active = active[curves.decrease[active] > tolerance * curves.energy[active]]
        if not len(active):
            break
    length = np.sqrt(curves.energy)
    unfinished = 0.5 * curves.decrease / np.where(length > 0, length, 1.0)
    velocity = np.einsum("t,mtd->md", polynomials(num_points).departure, curves.curve)
    check_finite("geodesic distances", length + curves.above)
    return Solved(length, np.abs(curves.above - length) + unfinished, curves.above, velocity)


def solve_refined(
    decode_fn: DecodeFn,
    a: Points,
    b: Points,
    *,
    tolerance: float,
    num_points: int = 5,
    max_iterations: int = MAX_ITERATIONS,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Solved:
    """`solve_pairs` with twice as many nodes, `REFINEMENTS` times at most, where the error exceeds `tolerance`."""
    enough = min(STEP_TOLERANCE, 0.02 * tolerance)  # steps stop well below the tolerance: they converge linearly
    solve = partial(solve_pairs, decode_fn, tolerance=enough, max_iterations=max_iterations, batch_size=batch_size)
    result = solve(a, b, num_points=num_points)
    for level in range(1, REFINEMENTS + 1):
        active = np.flatnonzero(result.error > tolerance * result.length)
        if progress is not None:
            progress(len(a) - len(active), len(a))
        if not len(active):
            break
        finer = solve(a[active], b[active], num_points=(num_points - 1) * 2**level + 1)
        for kept, new in zip(result, finer, strict=True):
            kept[active] = new
    return result


def first_of(decode_fn: DecodeFn, context: Sequence[np.ndarray]) -> DecodeFn:
    """The decoder as a map of the latent alone, with the first row of its context."""
    if not context:
        return decode_fn
    return jax.tree_util.Partial(_with_context, decode_fn, *(array[0] for array in context))


def _with_context(decode_fn: DecodeFn, *arguments: Any) -> Any:
    *context, z = arguments
    return decode_fn(z, *context)


def pairs_at_once(decode_fn: DecodeFn, z: Points, num_tangents: int) -> int:
    """Pairs per chunk, given the tangents of each: enough to hide the overhead of a call, few enough for the cache.

    Chunks are kept small otherwise, since the last one is padded and calls for few pairs are frequent.
    """
    if jax.default_backend() != "cpu":
        return max(1, 65536 // num_tangents)
    num_outputs = sum(leaf.size for leaf in jax.tree.leaves(check_latents(decode_fn, z, "n d")))
    numbers = num_outputs * num_tangents
    return max(1, min(NUMBERS_IN_CACHE // numbers, max(PAIRS_AT_ONCE, NUMBERS_AT_ONCE // numbers)))


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
        decode_fn: map of one latent [d] to x, differentiable in forward and in reverse mode.
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
    below = np.linalg.norm(decode_flat(decode_fn, a) - decode_flat(decode_fn, b), axis=1)
    result = solve_refined(
        decode_fn,
        a,
        b,
        num_points=num_points,
        tolerance=tolerance,
        max_iterations=max_iterations,
        batch_size=batch_size,
        progress=progress,
    )
    return Lengths(result.length, result.error <= tolerance * result.length, below, result.above)
