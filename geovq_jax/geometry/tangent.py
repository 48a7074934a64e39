"""Tangent spaces of the decoded surface: parallel transport and curvature.

The decoder immerses latent space in x-space, so its connection and its curvature are computed there, without
Christoffel symbols. Equation numbers refer to docs/geometry.md.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from geovq_jax.geometry.checks import check_array, check_latents
from geovq_jax.geometry.curves import Curve, Point, flat_output, inner, jacobian_columns
from geovq_jax.geometry.metric import DecodeFn

Frame = Float[Array | np.ndarray, "d d"]


class _Tangent(NamedTuple):
    """Orthonormal basis of a tangent space, in x-space [d, p], and the latent velocities that it is the image of."""

    basis: Array
    frame: Array


def orthonormal_frame(metric: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Columns are eigenvectors of the metric of unit pull-back length; zero for directions that the decoder ignores."""
    eigenvalues, vectors = jnp.linalg.eigh(metric)
    used = eigenvalues > 100.0 * jnp.finfo(metric.dtype).eps * eigenvalues[-1]
    return vectors * jnp.where(used, jax.lax.rsqrt(jnp.where(used, eigenvalues, 1.0)), 0.0)[None]


def _tangent(decode_fn: DecodeFn, z: Array) -> _Tangent:
    _, columns = jacobian_columns(decode_fn, z)
    frame = orthonormal_frame(inner("ip,jp->ij", columns, columns))
    return _Tangent(inner("ik,ip->kp", frame, columns), frame)


def parallel_transport(decode_fn: DecodeFn, curve: Curve, v: Point) -> Float[Array, "t d"]:
    """Carries a velocity along a curve without turning it, by the Levi-Civita connection, equation (41).

    From point to point, the vector keeps its coordinates up to the rotation that is nearest to the projection of one
    tangent space of the decoded surface onto the next. Lengths and angles are kept, the inverse is the transport along
    the reversed curve, and the error falls with the square of the step. For several vectors, use `jax.vmap`.

    Args:
        decode_fn: map of one latent [d] to x.
        curve: latents along the curve, [t, d], such as those of a `geodesic`.
        v: velocity at the first of them, [d].

    Returns:
        The velocity at every point of the curve, [t, d]. Components along directions that the decoder ignores are lost.

    Raises:
        ValueError: for a curve or a velocity of another form, or as `check_latents`.

    Example:
        A vector carried around the parallel of 60 degrees of a sphere comes back turned by half a turn.

        >>> sphere = lambda z: jnp.stack([jnp.cos(z[0]) * jnp.sin(z[1]), jnp.sin(z[0]) * jnp.sin(z[1]), jnp.cos(z[1])])
        >>> around = jnp.linspace(0.0, 2.0 * jnp.pi, 200)
        >>> parallel = jnp.stack([around, jnp.full(200, jnp.pi / 3.0)], axis=1)
        >>> parallel_transport(sphere, parallel, jnp.array([0.0, 1.0]))[-1].round(2).tolist()
        [0.0, -1.0]
    """
    check_latents(decode_fn, curve, "n d")
    check_array("entries of the velocity", v, str(curve.shape[1]))
    curve = jnp.asarray(curve)
    tangents = jax.lax.map(partial(_tangent, decode_fn), curve)
    start = jax.tree.map(lambda part: part[0], tangents)
    _, columns = jacobian_columns(decode_fn, curve[0])
    coordinates = inner("kp,p->k", start.basis, inner("ip,i->p", columns, jnp.asarray(v, curve.dtype)))

    def advance(state: tuple[Array, Array], basis: Array) -> tuple[tuple[Array, Array], Array]:
        behind, coordinates = state
        left, _, right = jnp.linalg.svd(inner("kp,lp->kl", basis, behind))
        turned = inner("km,ml,l->k", left, right, coordinates)
        return (basis, turned), turned

    _, carried = jax.lax.scan(advance, (start.basis, coordinates), tangents.basis)
    return inner("tik,tk->ti", tangents.frame, carried)


def sectional_curvature(decode_fn: DecodeFn, z: Point, u: Point, v: Point) -> Float[Array, ""]:
    """Sectional curvature of the plane of two velocities, equation (43).

    Args:
        decode_fn: map of one latent [d] to x, twice differentiable.
        z: the latent, [d].
        u, v: velocities that span the plane, [d].

    Returns:
        Curvature in inverse squared units of x: 1 / r^2 on a sphere of radius r, 0 for d = 1 or a flat surface; NaN for
        velocities that span no plane.

    Raises:
        ValueError: for velocities of another form, or as `check_latents`.

    Example:
        >>> sphere = lambda z: 2.0 * jnp.stack([z[0], z[1], jnp.sqrt(1.0 - z @ z)])
        >>> z, u, v = jnp.array([0.1, 0.2]), jnp.array([1.0, 0.0]), jnp.array([0.5, 1.0])
        >>> float(sectional_curvature(sphere, z, u, v).round(3))
        0.25
    """
    check_latents(decode_fn, z, "d")
    z = jnp.asarray(z)
    for velocity in (u, v):
        check_array("entries of the velocity", velocity, str(len(z)))
    u, v = jnp.asarray(u, z.dtype), jnp.asarray(v, z.dtype)
    tangent = _tangent(decode_fn, z)
    # Orthonormal velocities of the same plane: the curvature does not depend on their lengths and their angle.
    pushed = jnp.stack([jax.jvp(partial(flat_output, decode_fn), (z,), (w,))[1] for w in (u, v)])
    plane, scale = jnp.linalg.qr(inner("kp,wp->kw", tangent.basis, pushed))
    first, second = inner("ik,kw->wi", tangent.frame, plane)
    bend = partial(_second_form, decode_fn, z, tangent.basis)
    uu, vv, uv = bend(first, first), bend(second, second), bend(first, second)
    curvature = inner("p,p->", uu, vv) - inner("p,p->", uv, uv)
    spread = jnp.abs(jnp.diagonal(scale))
    return jnp.where(spread.min() > 10.0 * jnp.finfo(z.dtype).eps * spread.max(), curvature, jnp.nan)


def scalar_curvature(decode_fn: DecodeFn, z: Point) -> Float[Array, ""]:
    """Sum of the sectional curvatures of all ordered pairs of orthonormal directions, equation (44).

    Takes d (d + 1) / 2 second derivatives of the decoder: for small d.

    Args:
        decode_fn: map of one latent [d] to x, twice differentiable.
        z: the latent, [d].

    Returns:
        Curvature in inverse squared units of x: d (d - 1) / r^2 on a sphere of radius r, twice the Gaussian curvature
        for d = 2, 0 for d = 1.

    Raises:
        ValueError: as `check_latents`.

    Example:
        >>> sphere = lambda z: 2.0 * jnp.stack([z[0], z[1], jnp.sqrt(1.0 - z @ z)])
        >>> round(float(scalar_curvature(sphere, jnp.array([0.1, 0.2]))), 3)
        0.5
    """
    check_latents(decode_fn, z, "d")
    z = jnp.asarray(z)
    tangent = _tangent(decode_fn, z)
    first, second = jnp.triu_indices(len(z))
    pairs = tangent.frame.T[first], tangent.frame.T[second]
    bends = jax.lax.map(lambda pair: _second_form(decode_fn, z, tangent.basis, *pair), pairs)
    twice = jnp.where(first == second, 1.0, 2.0)
    mean = jnp.sum(jnp.where((first == second)[:, None], bends, 0.0), axis=0)
    return inner("p,p->", mean, mean) - inner("b,bp,bp->", twice, bends, bends)


def _second_form(decode_fn: DecodeFn, z: Array, basis: Array, u: Array, v: Array) -> Array:
    """Second fundamental form: the part of the second derivative that is normal to the tangent space, equation (42)."""

    def push(point: Array) -> Array:
        return jax.jvp(partial(flat_output, decode_fn), (point,), (u,))[1]

    bend = jax.jvp(push, (z,), (v,))[1]
    return bend - inner("kp,k->p", basis, inner("kp,p->k", basis, bend))
