"""Discretised curves of latents: length, energy, constant speed.

A curve is an array [t, d] of latents at equal steps of its parameter from 0 to 1. Equation numbers refer to
docs/geometry.md.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from geovq_jax.geometry.checks import check_choice, check_count
from geovq_jax.geometry.metric import DecodeFn, safe_norm, speed

Point = Float[Array | np.ndarray, " d"]
Curve = Float[Array | np.ndarray, "t d"]

RULES = ("endpoints", "midpoint", "simpson", "gauss", "chord")


class Quadrature(NamedTuple):
    """Quadrature along an edge over [0, 1]: weight of each of the two ends, and interior points with their weights.

    All weights together sum to 1.
    """

    end_weight: float
    points: np.ndarray
    weights: np.ndarray


def quadrature(rule: str, order: int = 4) -> Quadrature:
    """Endpoints (trapezoid), midpoint, simpson or the Gauss-Legendre rule with `order` nodes, equation (12)."""
    check_choice("a rule", rule, RULES[:-1])
    if rule == "gauss":
        check_count("order", order, advice="4 nodes are exact to degree 7")
        points, weights = np.polynomial.legendre.leggauss(order)
        return Quadrature(0.0, 0.5 * (points + 1.0), 0.5 * weights)
    if rule == "endpoints":
        return Quadrature(0.5, np.zeros(0), np.zeros(0))
    end_weight, middle_weight = (0.0, 1.0) if rule == "midpoint" else (1.0 / 6.0, 2.0 / 3.0)
    return Quadrature(end_weight, np.array([0.5]), np.array([middle_weight]))


# On accelerators the default precision rounds inputs to 10 bits.
inner = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def flat_output(decode_fn: DecodeFn, z: Float[Array, " d"]) -> Float[Array, " p"]:
    """All leaves that the decoder returns for one latent, as one vector."""
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(decode_fn(z))])


def jacobian_columns(decode_fn: DecodeFn, z: Float[Array, " d"]) -> tuple[Float[Array, " p"], Float[Array, "d p"]]:
    """Decoded latent as one vector, and the columns of the Jacobian there, by forward mode."""
    x, push_forward = jax.linearize(partial(flat_output, decode_fn), z)
    return x, jax.vmap(push_forward)(jnp.eye(z.shape[0], dtype=z.dtype))


def curve_length(decode_fn: DecodeFn, curve: Curve, *, rule: str = "gauss", order: int = 2) -> Float[Array, ""]:
    """Pull-back length of a curve, equation (18).

    Args:
        decode_fn: map of one latent [d] to x.
        curve: latents, [t, d].
        rule: gauss, midpoint, simpson or endpoints measure the polyline through the latents by a quadrature of its
            speed; chord measures the polygon through their decoded points, whatever the latents between them.
        order: nodes of the gauss rule in each segment.

    Returns:
        Length in units of x; coincident points add zero, with derivative zero.

    Raises:
        ValueError: for an unknown rule.

    Example:
        >>> circle = lambda z: jnp.stack([jnp.cos(z[0]), jnp.sin(z[0])])
        >>> half = jnp.linspace(0.0, jnp.pi, 9)[:, None]
        >>> [round(float(curve_length(circle, half, rule=rule)), 4) for rule in ("gauss", "chord")]
        [3.1416, 3.1214]
    """
    check_choice("a rule", rule, RULES)
    curve = jnp.asarray(curve)
    if rule == "chord":
        return jnp.sum(_chords(decode_fn, curve))
    end_weight, interior, interior_weights = quadrature(rule, order)
    ends = [0.0, 1.0] if end_weight else []
    nodes = jnp.asarray([*ends, *interior], curve.dtype)
    weights = jnp.asarray([*(end_weight for _ in ends), *interior_weights], curve.dtype)

    def segment(start: Array, step: Array) -> Array:
        return weights @ jax.vmap(lambda t: speed(decode_fn, start + t * step, step))(nodes)

    return jnp.sum(jax.vmap(segment)(curve[:-1], curve[1:] - curve[:-1]))


def curve_energy(decode_fn: DecodeFn, curve: Curve) -> Float[Array, ""]:
    """Energy of a curve by the chords between its decoded points, equation (19).

    E = (t - 1) sum_i |f(c_{i+1}) - f(c_i)|^2, the discrete integral of the squared speed over [0, 1].

    Args:
        decode_fn: map of one latent [d] to x.
        curve: latents, [t, d].

    Returns:
        Energy in squared units of x.

    Reference:
        Shao, Kumar, Fletcher, "The Riemannian geometry of deep generative models" (2018), equation 4.

    Example:
        >>> line = jnp.linspace(0.0, 3.0, 5)[:, None]
        >>> float(curve_energy(lambda z: z, line))  # length squared, at constant speed
        9.0
    """
    x = jax.vmap(partial(flat_output, decode_fn))(jnp.asarray(curve))
    return (x.shape[0] - 1) * jnp.sum(jnp.square(x[1:] - x[:-1]))


def constant_speed(decode_fn: DecodeFn, curve: Curve, *, num_points: int | None = None) -> Float[Array, "t2 d"]:
    """The same polyline, with its points at equal distances along the decoded curve, equation (20).

    Args:
        decode_fn: map of one latent [d] to x.
        curve: latents, [t, d].
        num_points: points of the new curve; as many as before by default.

    Returns:
        Latents [num_points, d], on the segments of the old curve, with the same ends.

    Example:
        >>> curve = jnp.array([[0.0], [1.0], [4.0]])
        >>> constant_speed(lambda z: z, curve).tolist()
        [[0.0], [2.0], [4.0]]
    """
    curve = jnp.asarray(curve)
    travelled = jnp.concatenate([jnp.zeros(1, curve.dtype), jnp.cumsum(_chords(decode_fn, curve))])
    targets = jnp.linspace(0.0, 1.0, num_points or curve.shape[0], dtype=curve.dtype) * travelled[-1]
    moved = jax.vmap(lambda values: jnp.interp(targets, travelled, values), in_axes=1, out_axes=1)(curve)
    return moved.at[0].set(curve[0]).at[-1].set(curve[-1])


def initial_velocity(curve: Curve) -> Float[Array, " d"]:
    """Derivative of a curve of at least 3 points at its start, by a second-order difference, equation (25)."""
    return 0.5 * (curve.shape[0] - 1) * (4.0 * curve[1] - 3.0 * curve[0] - curve[2])


def straight_line(a: Point, b: Point, num_points: int) -> Float[Array, "t d"]:
    """Latents at equal steps from `a` to `b`, ends included."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    parameter = jnp.linspace(0.0, 1.0, num_points, dtype=a.dtype)[:, None]
    return (a[None] + parameter * (b - a)[None]).at[-1].set(b)


def resample(curve: Float[np.ndarray, "t d"], count: int) -> Float[np.ndarray, "t2 d"]:
    """`count` points at equal Euclidean steps along a polyline, with the same ends; on the host."""
    travelled = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    where = np.linspace(0.0, travelled[-1], count)
    return np.stack([np.interp(where, travelled, column) for column in curve.T], axis=1).astype(curve.dtype)


def _chords(decode_fn: DecodeFn, curve: Array) -> Array:
    """Distances between consecutive decoded points, [t - 1]."""
    x = jax.vmap(partial(flat_output, decode_fn))(curve)
    return jax.vmap(safe_norm)(x[1:] - x[:-1])
