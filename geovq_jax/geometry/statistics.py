"""Statistics of latents in geodesic distance: Frechet mean and principal geodesic analysis.

Equation numbers refer to docs/geometry.md.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from geovq_jax.geometry.batching import map_chunks
from geovq_jax.geometry.checks import check_array, check_count, check_latents, check_lengths, check_number
from geovq_jax.geometry.curves import flat_output, inner, jacobian_columns
from geovq_jax.geometry.distances import (
    Points,
    decode_flat,
    geodesic_distances,
    interpolate,
    pairs_at_once,
    polynomials,
    solve_pairs,
)
from geovq_jax.geometry.metric import DecodeFn, as_pytree, pullback_metric, speed
from geovq_jax.geometry.tangent import orthonormal_frame

NUM_POINTS = (5, 9, 17)  # nodes of the curves, until their two lengths agree
AGREEMENT = 2e-2  # relative difference up to which the mean squares of the two lengths, (32) and (34), agree
MEMORY = 6  # steps from which the next one is extrapolated
CANDIDATES = 32  # given latents that are compared with the mean
Weights = Float[np.ndarray, " n"]


class FrechetMean(NamedTuple):
    """The latent of least mean squared geodesic distance to given ones, near where the search began.

    Attributes:
        point: the mean.
        variance: mean squared distance to it, in squared units of x.
        converged: whether the last step moved it by no more than the tolerance, and its curves have converged.
        iterations: Gauss-Newton steps tried.
    """

    point: Float[np.ndarray, " d"]
    variance: float
    converged: bool
    iterations: int


def frechet_mean(
    decode_fn: DecodeFn,
    points: Points,
    *,
    weights: Weights | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 100,
) -> FrechetMean:
    """Frechet mean of latents: argmin over m of sum_i w_i d(m, z_i)^2 / sum_i w_i, equation (39).

    The mean and the curves from it to all latents are one problem of least energy, solved by damped Gauss-Newton steps
    from the Euclidean mean. The search restarts from a given latent of smaller variance, if there is one among the 32
    with the least bounds.

    Args:
        decode_fn: map of one latent [d] to x.
        points: latents, [n, d].
        weights: w >= 0, not all 0; None for 1.
        tolerance: step of the mean, as a share of the standard deviation, that counts as none.
        max_iterations: most steps from one start with one number of nodes.

    Returns:
        FrechetMean.

    Raises:
        ValueError: for latents or weights of another form, or a decoder that gives NaN or infinity.

    Reference:
        Rygaard, Hauberg, Markvorsen, "Simultaneous optimization of geodesics and Fréchet means" (2025).

    Example:
        >>> cubic = lambda z: z**3
        >>> found = frechet_mean(cubic, np.array([[1.0], [2.0]], np.float32))
        >>> round(float(found.point[0]) ** 3, 3), round(found.variance, 3)
        (4.5, 12.25)
    """
    points, share = _sample(decode_fn, points, weights)
    check_number("tolerance", tolerance)
    check_count("max_iterations", max_iterations, 0)
    found = _descend(decode_fn, points, share, (share @ points).astype(points.dtype), tolerance, max_iterations)
    images = decode_flat(decode_fn, points)
    # No curve is shorter than the straight segment of its decoded ends.
    squares = np.sum(np.square(images - share @ images), axis=1)
    below = squares + share @ squares
    for i in np.argsort(below)[:CANDIDATES]:
        if below[i] >= found.variance:
            break
        own = geodesic_distances(decode_fn, np.broadcast_to(points[i], points.shape), points).length
        if share @ own**2 < found.variance:
            ahead = _descend(decode_fn, points, share, points[i], tolerance, max_iterations)
            found = ahead._replace(iterations=found.iterations + ahead.iterations)
    return found


def _sample(decode_fn: DecodeFn, points: Points, weights: Weights | None) -> tuple[np.ndarray, np.ndarray]:
    """Latents on the host, in the number type of JAX, and their normalised weights."""
    check_latents(decode_fn, points, "n d")
    points = np.asarray(points, jnp.result_type(float))
    share = np.ones(len(points)) if weights is None else np.asarray(check_lengths("weights", weights, str(len(points))))
    if not share.sum() > 0:
        raise ValueError("expected a positive weight, got none; omit them for equal weights")
    return points, share / share.sum()


def _descend(
    decode_fn: DecodeFn, points: np.ndarray, share: np.ndarray, mean: np.ndarray, tolerance: float, max_iterations: int
) -> FrechetMean:
    """The mean near one start, with more nodes until both lengths of the curves agree."""
    nodes = polynomials(NUM_POINTS[0]).nodes.astype(points.dtype)
    curves = mean + nodes[:, None] * (points - mean)[:, None]
    iterations, converged, variance = 0, False, 0.0
    for num_points in NUM_POINTS:
        found = _minimise(decode_fn, interpolate(curves, num_points), share, tolerance, max_iterations)
        curves, iterations, variance = found.curves, iterations + found.iterations, found.variance
        agree = found.above <= (1.0 + AGREEMENT) * variance
        converged = found.converged and agree
        if agree or not found.converged:
            break
    return FrechetMean(curves[0, 0], variance, converged, iterations)


class _Curves(NamedTuple):
    """Curves [n, t, d] that leave one point; their mean squared lengths by (32) and by (34)."""

    curves: np.ndarray
    variance: float
    above: float
    converged: bool
    iterations: int


def _minimise(
    decode_fn: DecodeFn, curves: np.ndarray, share: np.ndarray, tolerance: float, max_iterations: int
) -> _Curves:
    """Damped and extrapolated Gauss-Newton steps on the weighted energy of curves that leave one point, (39)."""
    n, num_points, d = curves.shape
    size = pairs_at_once(decode_fn, curves[:, 0], (num_points - 1) * d)

    def look(curves: np.ndarray, damping: float) -> _Step:
        function = partial(_look, as_pytree(decode_fn), curves[0, 0], np.asarray(damping, curves.dtype))
        return _Step(*map(np.asarray, map_chunks(function, (curves[:, 1:],), batch_size=size)))

    damping, rounding = 1e-3, 100.0 * float(np.finfo(curves.dtype).eps)
    step = look(curves, damping)
    energies: list[float] = []
    tried: list[tuple[np.ndarray, np.ndarray]] = []
    for iteration in range(max_iterations + 1):
        energies.append(float(share @ step.energy))
        system = np.tensordot(share, step.system, 1)
        shift = -np.linalg.lstsq(system[:, :d], system[:, d])[0]
        decrease = float(share @ step.decrease - system[:, d] @ shift)
        # A damped step promises less by about 1 + damping than the minimum holds.
        converged = (1.0 + damping) * decrease <= tolerance**2 * energies[-1]
        # Energies are known up to rounding, so they may stagnate before.
        converged |= energies[-1] >= (1.0 - rounding) * min(energies[: -2 * MEMORY], default=np.inf)
        if converged or iteration == max_iterations:
            break
        place = np.concatenate([curves[0, 0], curves[:, 1:-1].ravel()])
        inside = -(step.response @ np.append(shift, 1.0)).ravel()
        tried = [*tried[1 - MEMORY :], (place, np.concatenate([shift, inside]))]
        lower = max(0.1 * damping, rounding)
        for steps in (tried, tried[-1:])[len(tried) == 1 :]:
            change = _extrapolate(*map(np.stack, zip(*steps, strict=True))).astype(curves.dtype)
            moved = curves.copy()
            moved[:, 0] += change[:d]
            moved[:, 1:-1] += change[d:].reshape(n, -1, d)
            ahead = look(moved, lower)
            if share @ ahead.energy <= (1.0 + rounding) * energies[-1]:
                curves, step, damping, tried = moved, ahead, lower, steps
                break
        else:
            damping, tried = 10.0 * damping, []
            step = look(curves, damping)
    return _Curves(curves, energies[-1], float(share @ step.above), converged, iteration)


def _extrapolate(places: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Anderson's step, from the combination of the last iterates whose step is least if steps are affine."""
    changes = np.diff(steps, axis=0)
    if not len(changes):
        return steps[-1]
    weights = np.linalg.lstsq(changes.T, steps[-1])[0]
    return steps[-1] - weights @ (np.diff(places, axis=0) + changes)


class _Step(NamedTuple):
    """Terms of each curve in a Gauss-Newton step, its interior eliminated from the system (39).

    Squares of its lengths (32) and (34); `system` [d, d + 1], the Hessian and gradient of the mean; `response` of the
    interior to the mean and, last, to its own gradient; `decrease` of the energy by the latter.
    """

    energy: Any
    above: Any
    system: Any
    response: Any
    decrease: Any


@jax.jit
def _look(decode_fn: Any, mean: Array, damping: Array, rest: Array) -> _Step:
    """`rest` are the nodes of the curves without the first, which is the mean."""
    basis = jax.tree.map(lambda constant: jnp.asarray(constant, mean.dtype), polynomials(rest.shape[1] + 1))
    free = basis.stiffness[:-1, :-1]
    d, columns_of = mean.size, partial(jacobian_columns, decode_fn)
    x_mean, columns_mean = columns_of(mean)

    def one(nodes: Array) -> _Step:
        x_inside, columns_inside = jax.vmap(columns_of)(nodes[:-1])
        x_end = flat_output(decode_fn, nodes[-1])
        x = (
            jnp.concatenate([x_mean[None], x_inside, x_end[None]]) - x_end[None]
        )  # short curves far from 0 keep their digits
        columns = jnp.concatenate([columns_mean[None], columns_inside])
        gradient = inner("idp,ip->id", columns, inner("ij,jp->ip", basis.stiffness, x)[:-1]).reshape(-1)
        flat = columns.reshape(gradient.size, -1)
        hessian = jnp.kron(free, jnp.ones((d, d), mean.dtype)) * inner("ip,jp->ij", flat, flat)
        # As in (22): the damping is a flat latent metric of the same mean scale.
        scale = jnp.trace(hessian) / (jnp.trace(free) * d)
        plain = jnp.kron(free, jnp.eye(d, dtype=mean.dtype))
        damped = hessian + damping * jnp.where(scale > 0, scale, 1.0) * plain
        system = jnp.concatenate([damped[:, :d], gradient[:, None]], axis=1)
        response = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(damped[d:, d:]), True), system[d:])
        reduced = system[:d] - inner("ki,kj->ij", damped[d:, :d], response)
        energy = basis.weights @ jnp.sum(jnp.square(inner("qj,jp->qp", basis.derivatives, x)), axis=1)
        shifted = jnp.concatenate([mean[None], nodes]) - mean[None]
        points, velocities = mean[None] + basis.values @ shifted, basis.derivatives @ shifted
        speeds = jax.vmap(partial(speed, decode_fn))(points, velocities)
        return _Step(energy, (basis.weights @ speeds) ** 2, reduced, response, gradient[d:] @ response[:, -1])

    return jax.vmap(one)(rest)


class TangentPCA(NamedTuple):
    """Principal geodesic analysis of n latents: k axes at their mean, by decreasing variance.

    Attributes:
        mean: the latent at which the axes are taken.
        axes: velocities at the mean, orthonormal in its pull-back metric.
        variances: mean squared coordinate along each axis, in squared units of x.
        coordinates: of each latent, the projections of its logarithm on the axes: signed geodesic distances from the
            mean, up to curvature.
    """

    mean: Float[np.ndarray, " d"]
    axes: Float[np.ndarray, "k d"]
    variances: Float[np.ndarray, " k"]
    coordinates: Float[np.ndarray, "n k"]


def tangent_pca(
    decode_fn: DecodeFn,
    points: Points,
    *,
    num_components: int | None = None,
    weights: Weights | None = None,
    mean: Float[np.ndarray, " d"] | None = None,
) -> TangentPCA:
    """Principal geodesic analysis: principal axes of the logarithms at the Frechet mean, equation (40).

    `exp_map(decode_fn, mean, coordinates @ axes)` leads back to the latents; with the first columns and axes alone, to
    their approximations along the principal geodesics.

    Args:
        decode_fn: map of one latent [d] to x.
        points: latents, [n, d].
        num_components: k; all d by default.
        weights: w >= 0, not all 0; None for 1.
        mean: latent of the axes; by default the `frechet_mean`, for which the variances of all axes sum up to its
            variance.

    Returns:
        TangentPCA. Axes along directions that the decoder ignores are zero, with variance zero.

    Raises:
        ValueError: as `frechet_mean`, for a mean of another form, or more components than dimensions.

    Reference:
        Fletcher, Lu, Pizer, Joshi, "Principal geodesic analysis for the study of nonlinear statistics of shape" (2004).

    Example:
        >>> circle = lambda z: 2.0 * jnp.stack([jnp.cos(z[0]), jnp.sin(z[0])])
        >>> found = tangent_pca(circle, np.array([[0.0], [0.5], [1.0]], np.float32))
        >>> np.abs(found.coordinates[:, 0]).round(2).tolist(), float(found.variances[0].round(3))
        ([1.0, 0.0, 1.0], 0.667)
    """
    points, share = _sample(decode_fn, points, weights)
    d = points.shape[1]
    if num_components is not None:
        check_count("num_components", num_components, 1, d, "there is one axis per dimension")
    if mean is None:
        mean = frechet_mean(decode_fn, points, weights=weights).point
    mean = np.asarray(check_array("entries of the mean", mean, str(d)), points.dtype)
    velocity = solve_pairs(
        decode_fn, np.broadcast_to(mean, points.shape), points, num_points=9, tolerance=1e-6
    ).velocity
    metric = pullback_metric(decode_fn, mean)
    frame = np.asarray(orthonormal_frame(metric), np.float64)
    coordinates = velocity @ np.asarray(metric, np.float64) @ frame
    variances, axes = np.linalg.eigh(coordinates.T @ (share[:, None] * coordinates))
    order = np.argsort(-variances)[:num_components]
    return TangentPCA(mean, (frame @ axes[:, order]).T, np.maximum(variances[order], 0.0), coordinates @ axes[:, order])
