"""Refinement of code vectors in decoded space, between the nodes of the graph.

A medoid is the best node for its cluster; the best latent lies between nodes. Both functions minimise the mean of
|f(q(z)) - f(z)|^2, where q replaces a latent by its centre, by Gauss-Newton steps that are damped until they lower the
cost: undamped steps overshoot in clusters larger than the region in which the decoder is nearly linear.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from geovq_jax.geometry.batching import Progress, decode_all, map_chunks
from geovq_jax.geometry.checks import (
    check_array,
    check_choice,
    check_count,
    check_finite,
    check_ids,
    check_images,
    check_number,
)
from geovq_jax.geometry.metric import DecodeFn, as_pytree

Assignment = Literal["given", "decoded"]
FIRST_DAMPING = 1e-2  # of the mean eigenvalue of J'J
TRIALS = 16  # attempts per step, each with four times the damping; the last is a millionth of a gradient step
CONJUGATE_STEPS = 12


class Refined(NamedTuple):
    """Centres, the centre of each latent ([n] or [n, h, w]), and the history of the iteration.

    `cost` is the mean over latents (vanilla) or images (spatial) of the squared distance in decoded space, summed over
    x; `history` is the cost before and after each iteration and never rises; `converged` if the last one lowered it by
    no more than the tolerance.
    """

    centres: Float[np.ndarray, "K d"]
    labels: Int32[np.ndarray, "..."]
    cost: float
    history: Float[np.ndarray, " t"]
    converged: bool


def refine_centres(
    decode_fn: DecodeFn,
    centres: Float[Array | np.ndarray, "K d"],
    latents: Float[Array | np.ndarray, "n d"],
    labels: Int[Array | np.ndarray, " n"],
    *,
    assignment: Assignment = "decoded",
    max_iterations: int = 50,
    tolerance: float = 1e-4,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Refined:
    """Moves each centre towards the latent that decodes to the mean image of its cluster.

    sum_(i in k) |f(c) - f(z_i)|^2 = N_k |f(c) - m_k|^2 + constant, with m_k the mean of f over the cell, so a step of
    the centre c solves (J'J + a I) s = J' (m_k - f(c)), the damping a of each centre growing fourfold until the step
    lowers its cost, and falling to a third afterwards.

    Args:
        decode_fn: f, map of one latent [d] to an array x of any shape.
        centres: initial centres, such as medoids.
        latents: the training latents; all decoded images are kept in memory.
        labels: centre of each latent, such as its geodesic cluster.
        assignment: "given" keeps the labels, "decoded" assigns anew by distance in decoded space at every iteration.
        max_iterations: limit of the iterations, one step of every centre each.
        tolerance: relative fall of the cost below which an iteration is the last.
        batch_size: latents decoded, or centres moved, at a time.
        progress: called with (iterations done, max_iterations).

    Returns:
        Refined; a centre without latents stays where it is.

    Raises:
        ValueError: labels outside [0, K), shapes that do not fit, a decoder that gives NaN or infinity, or as
            `check_latents`.

    Example:
        >>> z = np.array([[0.0], [1.0], [9.0]], np.float32)
        >>> found = refine_centres(lambda z: 2.0 * z, np.array([[0.0], [9.0]], np.float32), z, np.array([0, 0, 1]))
        >>> found.centres.ravel().round(2).tolist()
        [0.5, 9.0]
    """
    check_images(decode_fn, latents, "n d")
    z, labels = _check(centres, latents, labels, max_iterations, tolerance)
    check_choice("assignment", assignment, get_args(Assignment))
    decode, latents = as_pytree(decode_fn), np.asarray(latents)

    def decoded(rows: np.ndarray) -> np.ndarray:
        return decode_all(decode, rows, batch_size=batch_size).reshape(len(rows), -1)

    targets, images = check_finite("images of latents", decoded(latents)), check_finite("images of centres", decoded(z))
    damping = np.full(len(z), FIRST_DAMPING, z.dtype)
    history, converged = [_mean_square(images, targets, labels)], False
    for iteration in range(max_iterations):
        means = _cell_means(images, targets, labels)
        moved, new_damping, scale = map_chunks(
            lambda *part: _damped_steps(decode, *part), (z, means, damping), batch_size=batch_size
        )
        check_finite("metrics at centres", scale)
        moved, new_labels = np.asarray(moved), labels
        new_images = decoded(moved)
        if assignment == "decoded":
            new_labels = _nearest_rows(targets, new_images)
        cost = _mean_square(new_images, targets, new_labels)
        converged = history[-1] - cost <= tolerance * history[-1]
        if cost < history[-1]:
            z, labels, images, damping = moved, new_labels, new_images, np.asarray(new_damping)
        history.append(min(cost, history[-1]))
        if progress is not None:
            progress(iteration + 1, max_iterations)
        if converged:
            break
    return Refined(z, labels, history[-1], np.asarray(history), converged)


def _check(centres: Any, latents: Any, labels: Any, max_iterations: int, tolerance: float) -> tuple[np.ndarray, ...]:
    """The centres and labels as arrays; ValueError if they do not fit the latents."""
    check_array("centres", centres, f"K {latents.shape[-1]}")
    labels = check_ids("labels", labels, len(centres), " ".join(map(str, latents.shape[:-1])))
    check_count("max_iterations", max_iterations, 0)
    check_number("tolerance", tolerance)
    return np.asarray(centres), labels.astype(np.int32)


@jax.jit
def _damped_steps(decode_fn: Any, centres: Array, means: Array, damping: Array) -> tuple[Array, Array, Array]:
    """Centres after a step, damping for the next one, and the mean eigenvalue of the metric at each centre."""

    def step(z: Array, mean: Array, first: Array) -> tuple[Array, Array, Array]:
        def residual(z: Array) -> Array:
            return decode_fn(z).reshape(-1) - mean

        r, jacobian = residual(z), jax.jacfwd(residual)(z)
        metric, before = jacobian.T @ jacobian, jnp.sum(r**2)
        scale = jnp.trace(metric) / len(z) + jnp.finfo(z.dtype).tiny

        def shift(a: Array) -> Array:
            return jnp.linalg.solve(metric + a * scale * jnp.eye(len(z), dtype=z.dtype), -(jacobian.T @ r))

        def rejected(state: tuple[Array, Array, Array]) -> Array:
            _, cost, trials = state
            return ~(cost < before) & (trials < TRIALS)

        def trial(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            a, _, trials = state
            return 4.0 * a, jnp.sum(residual(z + shift(4.0 * a)) ** 2), trials + 1

        a, cost, _ = jax.lax.while_loop(rejected, trial, (first / 4.0, before, jnp.zeros((), jnp.int32)))
        better = cost < before
        return jnp.where(better, z + shift(a), z), jnp.where(better, jnp.maximum(a / 3.0, 1e-6), first), scale

    return jax.vmap(step)(centres, means, damping)


def _cell_means(images: np.ndarray, targets: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean target of each cell; the centre's own image in an empty one."""
    order = np.argsort(labels, kind="stable")
    cells, starts = np.unique(labels[order], return_index=True)
    means = images.copy()
    for k, part in zip(cells, np.split(order, starts[1:]), strict=True):
        means[k] = targets[part].mean(axis=0)
    return means


def _mean_square(images: np.ndarray, targets: np.ndarray, labels: np.ndarray, step: int = 4096) -> float:
    parts = (slice(start, start + step) for start in range(0, len(targets), step))
    squares = (np.sum((images[labels[part]] - targets[part]) ** 2, dtype=np.float64) for part in parts)
    return float(sum(squares)) / len(targets)


def _nearest_rows(targets: np.ndarray, images: np.ndarray, step: int = 4096) -> np.ndarray:
    """Nearest image of each target; a common shift keeps the expanded square precise."""
    centre = images.mean(axis=0)
    shifted = images - centre
    squares = np.sum(shifted**2, axis=1)
    parts = [
        np.argmin(squares - 2.0 * ((targets[start : start + step] - centre) @ shifted.T), axis=1)
        for start in range(0, len(targets), step)
    ]
    return np.concatenate(parts).astype(np.int32)


def refine_cell_centres(
    decode_fn: DecodeFn,
    centres: Float[Array | np.ndarray, "K d"],
    grids: Float[Array | np.ndarray, "n h w d"],
    labels: Int[Array | np.ndarray, "n h w"],
    *,
    max_iterations: int = 10,
    tolerance: float = 1e-3,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Refined:
    """Moves centres shared by cells of many images, each cell in the context of its whole quantized image.

    Minimises mean_i |f(c[labels_i]) - f(z_i)|^2 over all centres c at once. A step solves the Gauss-Newton equations
    (H + a h N) s = -g of all centres by conjugate gradients, N the number of cells of each centre and h their mean
    curvature; a product with H = sum_i J_i' J_i takes one jvp and one vjp per image, and no matrix is formed.

    Args:
        decode_fn: f, map of one grid [h, w, d] to an array of any shape.
        centres: initial centres, such as medoids.
        grids: latents of the images to fit; a few thousand suffice.
        labels: centre of each cell, kept.
        max_iterations: limit of the steps tried.
        tolerance: relative fall of the cost below which an accepted step is the last.
        batch_size: images at a time.
        progress: called with (steps tried, max_iterations).

    Returns:
        Refined; a centre without cells stays where it is.

    Raises:
        ValueError: for labels outside [0, K), shapes that do not fit, a decoder that gives NaN or infinity, or as
            `check_latents`.

    Example:
        >>> grids = np.array([0.0, 1.0, 9.0, 9.0], np.float32).reshape(2, 1, 2, 1)
        >>> labels = np.array([0, 0, 1, 1]).reshape(2, 1, 2)
        >>> found = refine_cell_centres(lambda grid: 2.0 * grid, np.array([[0.0], [9.0]], np.float32), grids, labels)
        >>> found.centres.ravel().round(2).tolist()
        [0.5, 9.0]
    """
    check_images(decode_fn, grids, "n h w d")
    c, labels = _check(centres, grids, labels, max_iterations, tolerance)
    check_count("batch_size", batch_size)
    grids = np.asarray(grids)
    decode, counts = as_pytree(decode_fn), np.bincount(labels.ravel(), minlength=len(c))[:, None]
    targets = decode_all(decode, grids, batch_size=batch_size).reshape(len(grids), -1)

    def total(function: Callable[..., Any], *fixed: np.ndarray) -> np.ndarray:
        return _sum_chunks(lambda *part: function(decode, *fixed, *part), (labels, targets), batch_size)

    probe = np.random.default_rng(0).standard_normal(c.shape).astype(c.dtype)
    curvature = np.sum(probe * total(_curvature_product, c, probe)) / np.sum(counts * probe**2)
    cost, gradient = total(_squared_error, c), total(_error_gradient, c)
    check_finite("error gradients of centres", gradient)
    history, damping, converged = [float(cost) / len(grids)], FIRST_DAMPING, False
    for iteration in range(max_iterations):
        ridge = damping * curvature * counts

        def product(direction: np.ndarray, ridge: np.ndarray = ridge, at: np.ndarray = c) -> np.ndarray:
            return total(_curvature_product, at, direction) + ridge * direction

        step = _conjugate_gradients(product, -gradient, np.maximum(counts, 1)).astype(c.dtype)
        new_cost = total(_squared_error, c + step)
        if new_cost < cost:
            converged = cost - new_cost <= tolerance * cost
            c, cost, damping = c + step, new_cost, damping / 3
            gradient = total(_error_gradient, c)
        else:
            damping *= 10
        history.append(float(cost) / len(grids))
        if progress is not None:
            progress(iteration + 1, max_iterations)
        if converged:
            break
    return Refined(c, labels, history[-1], np.asarray(history), bool(converged))


def _residuals(decode_fn: Any, labels: Array, targets: Array) -> Callable[[Array], Array]:
    return lambda centres: jax.vmap(lambda grid: decode_fn(grid).reshape(-1))(centres[labels]) - targets


@jax.jit
def _squared_error(decode_fn: Any, centres: Array, labels: Array, targets: Array, mask: Array) -> Array:
    return jnp.sum(mask[:, None] * _residuals(decode_fn, labels, targets)(centres) ** 2)


@jax.jit
def _error_gradient(decode_fn: Any, centres: Array, labels: Array, targets: Array, mask: Array) -> Array:
    residuals, pull_back = jax.vjp(_residuals(decode_fn, labels, targets), centres)
    return pull_back(mask[:, None] * residuals)[0]


@jax.jit
def _curvature_product(
    decode_fn: Any, centres: Array, direction: Array, labels: Array, targets: Array, mask: Array
) -> Array:
    function = _residuals(decode_fn, labels, targets)
    _, push_forward = jax.linearize(function, centres)
    pull_back = jax.linear_transpose(push_forward, centres)
    return pull_back(mask[:, None] * push_forward(direction))[0]


def _sum_chunks(function: Callable[..., Any], arrays: tuple[np.ndarray, ...], batch_size: int) -> np.ndarray:
    """Sum over chunks of rows in float64; padding rows of the last chunk are masked out."""
    num_rows = len(arrays[0])
    parts = []
    for start in range(0, num_rows, batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), num_rows - 1)
        mask = (np.arange(start, start + batch_size) < num_rows).astype(arrays[-1].dtype)
        parts.append(np.asarray(function(*(array[rows] for array in arrays), mask), np.float64))
    return np.asarray(np.sum(parts, axis=0))


def _conjugate_gradients(
    product: Callable[[np.ndarray], np.ndarray], rhs: np.ndarray, diagonal: np.ndarray
) -> np.ndarray:
    """A few steps of conjugate gradients, preconditioned by a diagonal; any number of steps is a descent direction."""
    solution, residual = np.zeros_like(rhs), rhs
    direction = scaled = residual / diagonal
    energy = np.sum(residual * scaled)
    for _ in range(CONJUGATE_STEPS):
        if not energy > 0.0:
            break
        image = product(direction)
        stride = energy / np.sum(direction * image)
        solution, residual = solution + stride * direction, residual - stride * image
        scaled = residual / diagonal
        energy, previous = np.sum(residual * scaled), energy
        direction = scaled + energy / previous * direction
    return solution
