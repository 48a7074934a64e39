"""Continuous geodesics of the pull-back metric: curves of least energy.

`geodesic` treats one pair of latents, `geometry.geodesics` many. Equation numbers refer to docs/geometry.md.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from geovq_jax.geometry.checks import check_array, check_count, check_latents, check_number
from geovq_jax.geometry.curves import (
    Curve,
    Point,
    constant_speed,
    curve_energy,
    curve_length,
    flat_output,
    inner,
    jacobian_columns,
    straight_line,
)
from geovq_jax.geometry.metric import DecodeFn


class Geodesic(NamedTuple):
    """A curve of least energy between two latents; with a leading axis [n] from `geodesics`.

    Attributes:
        curve: latents along it, ends included, at constant speed.
        length: its pull-back length by decoded chords; short by a share (curvature * step)^2 / 24.
        energy: its energy; length^2 <= energy, with equality at constant speed.
        converged: whether the last step could lower the energy by less than the tolerance.
        iterations: Gauss-Newton steps tried.
    """

    curve: Float[Array, "*batch t d"]
    length: Float[Array, "*batch"]
    energy: Float[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    iterations: Int[Array, "*batch"]


def geodesic(
    decode_fn: DecodeFn,
    a: Point,
    b: Point,
    *,
    num_points: int = 32,
    initial: Curve | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 100,
) -> Geodesic:
    """Curve of least energy between two latents, equations (19) and (21) to (23).

    Damped Gauss-Newton on the decoded chords: every step solves one block-tridiagonal system of the metric tensors
    along the curve, and is taken only if the energy falls. Needs forward-mode derivatives alone. It finds a geodesic
    near the initial curve, which need not be the shortest of all.

    The result is differentiable, in both modes, in the ends and in whatever the decoder binds, by the implicit function
    theorem: at the price of one dense system of size num_points * d.

    Args:
        decode_fn: map of one latent [d] to x.
        a, b: first and last end, [d].
        num_points: points of the curve, ends included.
        initial: curve to start from, [any number, d], such as a path of the graph; the straight line by default.
        tolerance: relative decrease of the energy, as predicted by the step, that counts as none.
        max_iterations: most steps to try.

    Returns:
        The geodesic; where the decoder gives NaN along it, of length NaN and not converged.

    Raises:
        ValueError: for fewer than 3 points, ends or an initial curve of the wrong shape, or as `check_latents`.

    Example:
        >>> sphere = lambda z: jnp.stack([jnp.cos(z[0]) * jnp.sin(z[1]), jnp.sin(z[0]) * jnp.sin(z[1]), jnp.cos(z[1])])
        >>> found = geodesic(sphere, jnp.array([0.0, 1.0]), jnp.array([2.0, 1.0]))
        >>> round(float(found.length), 2), bool(found.converged)  # the straight line is 1.68 long
        (1.57, True)
    """
    check_settings(num_points, tolerance, max_iterations)
    check_latents(decode_fn, a, "d")
    check_latents(decode_fn, b, str(len(a)))
    a, b = jnp.asarray(a), jnp.asarray(b)
    start = straight_line(a, b, num_points)
    if initial is not None:
        check_array("points of the initial curve", initial, f"t {len(a)}")
        start = constant_speed(decode_fn, jnp.asarray(initial, a.dtype), num_points=num_points)

    def curve_of(interior: Array) -> Array:
        return jnp.concatenate([a[None], interior, b[None]])

    def gradient(interior: Array) -> Array:
        return jax.grad(lambda points: curve_energy(decode_fn, curve_of(points)))(interior)

    def solve(_: Any, interior: Array) -> tuple[Array, tuple[Array, Array]]:
        return _gauss_newton(decode_fn, curve_of, interior, tolerance, max_iterations)

    interior, (converged, iterations) = jax.lax.custom_root(
        gradient, jax.lax.stop_gradient(start[1:-1]), solve, _solve_densely, has_aux=True
    )
    curve = curve_of(interior)
    length, energy = curve_length(decode_fn, curve, rule="chord"), curve_energy(decode_fn, curve)
    return Geodesic(curve, length, energy, (converged > 0) & jnp.isfinite(energy), iterations.astype(jnp.int32))


def check_settings(num_points: int, tolerance: float, max_iterations: int) -> None:
    """Raises ValueError for fewer than 3 points, a negative tolerance or a negative number of steps."""
    check_count("num_points", num_points, 3, advice="32 suits most curves")
    check_number("tolerance", tolerance)
    check_count("max_iterations", max_iterations, 0)


class _State(NamedTuple):
    """State of the minimisation: interior points [t - 2, d], energy, damping, steps tried, and two flags."""

    interior: Array
    energy: Array
    damping: Array
    iterations: Array
    converged: Array
    stuck: Array


def _gauss_newton(
    decode_fn: DecodeFn, curve_of: Callable[[Array], Array], interior: Array, tolerance: float, max_iterations: int
) -> tuple[Array, tuple[Array, Array]]:
    """Minimises the energy over the interior points; returns them with (converged, iterations)."""
    dtype = interior.dtype
    least_damping = 10.0 * jnp.finfo(dtype).eps

    def proceed(state: _State) -> Array:
        return ~state.converged & ~state.stuck & (state.iterations < max_iterations)

    def step(state: _State) -> _State:
        gradient, diagonal, upper = _normal_equations(decode_fn, curve_of(state.interior))
        direction = _solve_block_tridiagonal(*_damped(diagonal, upper, state.damping), -gradient)
        decrease = -0.5 * jnp.sum(gradient * direction)
        candidate = state.interior + direction
        energy = curve_energy(decode_fn, curve_of(candidate))
        better = energy < state.energy
        # Nielsen's rule: the better the model predicted the decrease, the less damping for the next step.
        factor = jnp.maximum(0.1, 1.0 - (2.0 * (state.energy - energy) / decrease - 1.0) ** 3)
        # The predicted decrease of a damped step is smaller than that of the minimum by about 1 + damping.
        converged = (1.0 + state.damping) * decrease <= tolerance * state.energy
        return _State(
            jnp.where(better, candidate, state.interior),
            jnp.where(better, energy, state.energy),
            jnp.where(better, jnp.maximum(factor * state.damping, least_damping), 10.0 * state.damping),
            state.iterations + 1,
            converged,
            state.damping > 1e8,
        )

    energy, no = curve_energy(decode_fn, curve_of(interior)), jnp.asarray(False)
    start = _State(interior, energy, jnp.asarray(1e-3, dtype), jnp.asarray(0, jnp.int32), no, no)
    final = jax.lax.while_loop(proceed, step, start)
    # As floats: custom_root differentiates what it returns, and integers have no tangents there.
    return final.interior, (final.converged.astype(dtype), final.iterations.astype(dtype))


def _normal_equations(decode_fn: DecodeFn, curve: Array) -> tuple[Array, Array, Array]:
    """Gradient [t - 2, d] of the energy and its Gauss-Newton Hessian: diagonal blocks and blocks above them.

    Equation (21), in units of the energy.
    """
    inner_x, columns = jax.vmap(partial(jacobian_columns, decode_fn))(curve[1:-1])
    ends = jax.vmap(partial(flat_output, decode_fn))(curve[jnp.array([0, -1])])
    x = jnp.concatenate([ends[:1], inner_x, ends[1:]])
    scale = 2.0 * (curve.shape[0] - 1)
    gradient = -scale * inner("tip,tp->ti", columns, x[2:] - 2.0 * x[1:-1] + x[:-2])
    diagonal = 2.0 * scale * inner("tip,tjp->tij", columns, columns)
    upper = -scale * inner("tip,tjp->tij", columns[:-1], columns[1:])
    return gradient, diagonal, upper


def _damped(diagonal: Array, upper: Array, damping: Array) -> tuple[Array, Array]:
    """The Hessian plus that of a flat latent metric of the same mean scale, equation (22).

    It straightens the curve in directions that the decoder ignores, and slows long waves no more than short ones.
    """
    d = diagonal.shape[-1]
    scale = jnp.mean(jnp.trace(diagonal, axis1=1, axis2=2)) / (2.0 * d)
    flat = damping * jnp.where(scale > 0, scale, 1.0) * jnp.eye(d, dtype=diagonal.dtype)[None]
    return diagonal + 2.0 * flat, upper - flat


def _solve_block_tridiagonal(diagonal: Array, upper: Array, right: Array) -> Array:
    """Solution [m, d] of the symmetric positive definite system with blocks [m, d, d] and [m - 1, d, d].

    Block elimination, equation (23); NaN if the system is not positive definite.
    """
    d = diagonal.shape[-1]
    none = jnp.zeros((1, d, d), diagonal.dtype)
    above = jnp.concatenate([upper, none])
    below = jnp.swapaxes(jnp.concatenate([none, upper]), 1, 2)

    def eliminate(carry: tuple[Array, Array], block: tuple) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        (multiplier, reduced), (own, left, next_block, value) = carry, block
        factor = jax.scipy.linalg.cholesky(own - left @ multiplier, lower=True)
        both = jnp.concatenate([next_block, (value - left @ reduced)[:, None]], axis=1)
        solved = jax.scipy.linalg.cho_solve((factor, True), both)
        return (solved[:, :-1], solved[:, -1]), (solved[:, :-1], solved[:, -1])

    def substitute(following: Array, block: tuple[Array, Array]) -> tuple[Array, Array]:
        multiplier, reduced = block
        value = reduced - multiplier @ following
        return value, value

    nothing = jnp.zeros((d, d), diagonal.dtype), jnp.zeros(d, diagonal.dtype)
    _, blocks = jax.lax.scan(eliminate, nothing, (diagonal, below, above, right))
    _, solution = jax.lax.scan(substitute, nothing[1], blocks, reverse=True)
    return solution


def _solve_densely(linear: Callable[[Array], Array], right: Array) -> Array:
    """Solution of linear(x) = right for a symmetric, possibly singular map, by its ridged dense matrix."""
    size = right.size
    matrix = jax.jacfwd(linear)(jnp.zeros_like(right)).reshape(size, size)
    ridge = 100.0 * jnp.finfo(right.dtype).eps * jnp.mean(jnp.abs(jnp.diagonal(matrix)))
    ridged = matrix + jnp.where(ridge > 0, ridge, 1.0) * jnp.eye(size, dtype=right.dtype)
    return jnp.linalg.solve(ridged, right.reshape(size)).reshape(right.shape)
