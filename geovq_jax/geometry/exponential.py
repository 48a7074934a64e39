"""Exponential and logarithm of the pull-back metric. Equation numbers refer to docs/geometry.md."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from geovq_jax.geometry.checks import check_array, check_count, check_latents
from geovq_jax.geometry.curves import Point, flat_output, initial_velocity, inner, jacobian_columns
from geovq_jax.geometry.geodesic import geodesic
from geovq_jax.geometry.metric import DecodeFn


def exp_map(decode_fn: DecodeFn, z: Point, v: Point, *, num_steps: int = 32) -> Float[Array, " d"]:
    """End of the geodesic that leaves a latent with a given velocity and runs for one unit of time, equation (24).

    z'' = -G^+ J' (d^2 f)[z', z'], by the classical Runge-Kutta method; forward-mode derivatives alone.

    Args:
        decode_fn: map of one latent [d] to x, twice differentiable.
        z, v: start and velocity there, [d].
        num_steps: steps of the integration.

    Returns:
        The latent reached, [d]; NaN where the decoder gives NaN on the way.

    Raises:
        ValueError: for a velocity that is not finite or of another dimension, no steps, or as `check_latents`.

    Example:
        >>> bowl = lambda z: jnp.stack([jnp.sin(z[0]), jnp.cos(z[0])])  # a circle by its angle
        >>> round(float(exp_map(bowl, jnp.array([0.2]), jnp.array([1.0]))[0]), 4)
        1.2
    """
    check_latents(decode_fn, z, "d")
    check_array("entries of the velocity", v, str(len(z)))
    check_count("num_steps", num_steps)
    z, step = jnp.asarray(z), 1.0 / num_steps
    decode = partial(flat_output, decode_fn)

    def acceleration(point: Array, velocity: Array) -> Array:
        def push(p: Array) -> Array:
            return jax.jvp(decode, (p,), (velocity,))[1]

        _, columns = jacobian_columns(decode_fn, point)
        metric = inner("ip,jp->ij", columns, columns)
        bend = inner("ip,p->i", columns, jax.jvp(push, (point,), (velocity,))[1])
        # Directions that the decoder ignores have no acceleration: a ridge at the rounding level ensures this smoothly.
        ridge = 100.0 * jnp.finfo(z.dtype).eps * jnp.trace(metric) / z.shape[0]
        ridged = metric + jnp.where(ridge > 0, ridge, 1.0) * jnp.eye(z.shape[0], dtype=z.dtype)
        return -jax.scipy.linalg.solve(ridged, bend, assume_a="pos")

    def advance(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        def slope(state: tuple[Array, Array]) -> tuple[Array, Array]:
            return state[1], acceleration(*state)

        def along(slope_: tuple[Array, Array], amount: float) -> tuple[Array, Array]:
            return state[0] + amount * slope_[0], state[1] + amount * slope_[1]

        k1 = slope(state)
        k2 = slope(along(k1, 0.5 * step))
        k3 = slope(along(k2, 0.5 * step))
        k4 = slope(along(k3, step))
        mean = jax.tree.map(lambda a, b, c, d: (a + 2.0 * b + 2.0 * c + d) / 6.0, k1, k2, k3, k4)
        return along(mean, step), None

    (end, _), _ = jax.lax.scan(advance, (z, jnp.asarray(v, z.dtype)), None, length=num_steps)
    return end


def log_map(
    decode_fn: DecodeFn, a: Point, b: Point, *, num_points: int = 32, tolerance: float = 1e-5, max_iterations: int = 100
) -> Float[Array, " d"]:
    """Velocity at one latent of the geodesic that reaches another after one unit of time, equation (25).

    The inverse of `exp_map`, accurate to second order in 1 / num_points. To see whether the geodesic converged, call
    `geodesic` and `initial_velocity`.

    Args:
        decode_fn: map of one latent [d] to x.
        a, b: start and latent to reach, [d].
        num_points, tolerance, max_iterations: as in `geodesic`.

    Returns:
        Velocity at `a`, [d]; its pull-back speed is the length of the geodesic.

    Raises:
        ValueError: as `geodesic`.

    Example:
        >>> stretch = lambda z: jnp.array([3.0 * z[0], 4.0 * z[1]])  # straight lines are geodesics
        >>> [round(float(x), 3) for x in log_map(stretch, jnp.zeros(2), jnp.array([1.0, 2.0]))]
        [1.0, 2.0]
    """
    found = geodesic(decode_fn, a, b, num_points=num_points, tolerance=tolerance, max_iterations=max_iterations)
    return initial_velocity(found.curve)
