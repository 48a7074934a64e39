"""Search for codes of spatial latents: each cell in the context of its whole quantized image.

Cells overlap in the image, so the nearest code of each cell alone is not the best set of codes. With v the code vectors
of an image's grid and x the image to match,

    |f(v + s) - x|^2 = |f(v) - x|^2 + g' s + s' G_p s + ...,   g the gradient with respect to cell p, G_p = J_p'J_p,

so a cell's best code under the pull-back metric minimises (1 + damping) (c - v_p)' G_p (c - v_p) + g' (c - v_p) over
all codes c. Of the cells a quarter, no two of which touch, moves at a time, and only where that lowers the true error.
The damping accounts for the interaction of cells that move together. As in the Levenberg-Marquardt method it doubles
where a move is rejected, so that the next is shorter, and falls to a quarter otherwise. See docs/quantization.md,
equations (3) and (4).

With a rate, the weighted bits of the codes are part of the objective, so that of two codes with similar images the
cheaper one is chosen. See docs/quantization.md, equation (7).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from geovq_jax.geometry.batching import Progress, map_chunks
from geovq_jax.geometry.checks import (
    CHECK_DECODER,
    check_array,
    check_count,
    check_finite,
    check_ids,
    check_images,
    check_number,
)
from geovq_jax.geometry.metric import DecodeFn, as_pytree
from geovq_jax.quantization.rates import Rate


class InContext(NamedTuple):
    """Codes after the search, and the objective of each image before and after, which never rises.

    The objective is the squared error summed over x, plus `rate_weight` times the bits where a rate is given.
    """

    codes: Int[np.ndarray, "n h w"]
    before: Float[np.ndarray, " n"]
    after: Float[np.ndarray, " n"]


def encode_in_context(
    decode_fn: DecodeFn,
    vectors: Float[np.ndarray, "K d"],
    codes: Int[np.ndarray, "n h w"],
    metrics: Float[np.ndarray, "n h w d d"],
    targets: Float[np.ndarray, "n ..."],
    *,
    sweeps: int = 3,
    rate: Rate | None = None,
    rate_weight: float = 0.0,
    batch_size: int = 100,
    progress: Progress | None = None,
) -> InContext:
    """Lower each image's error by changing codes, a quarter of the grid at a time, by the pull-back metric.

    With a `rate` it lowers the error plus `rate_weight` times the bits of the codes.

    Args:
        decode_fn: f, map of one grid [h, w, d] to an array x.
        vectors: code vectors.
        codes: initial codes, such as the tokenizer's.
        metrics: pull-back metric of every cell, at the unquantized latent or at its code vector.
        targets: the images to match, or decoded latents; of the shape of x.
        sweeps: passes over the grid, four decodes and gradients each.
        rate: code lengths, from a model that was not fitted to these codes; None for none.
        rate_weight: weight of a bit in squared error summed over x.
        batch_size: images at a time, at most; batches are of even size.
        progress: called with (images done, n).

    Raises:
        ValueError: codes outside [0, K), arrays of another form or not finite, a decoder that gives NaN or infinity
            for the initial codes, or as `check_latents`.

    Reference: for the closed loop, Gersho & Gray 1992, "Vector quantization and signal compression", chapter 12; for
    the damping, Marquardt 1963, "An algorithm for least-squares estimation of nonlinear parameters".

    Example:
        >>> decode = lambda grid: grid.sum(axis=(0, 1))  # one pixel, to which two cells add up
        >>> vectors, codes = np.array([[0.0], [1.0]], np.float32), np.zeros((1, 1, 2), np.int32)
        >>> metrics, image = np.ones((1, 1, 2, 1, 1), np.float32), np.ones((1, 1), np.float32)
        >>> found = encode_in_context(decode, vectors, codes, metrics, image)
        >>> int(found.codes.sum()), found.before.tolist(), found.after.tolist()
        (1, [1.0], [0.0])
    """
    check_array("code vectors", vectors, "K d")
    codes = check_ids("codes", codes, len(vectors), "n h w")
    size, form = vectors.shape[1], " ".join(map(str, codes.shape))
    check_array("metrics", metrics, f"{form} {size} {size}", CHECK_DECODER)
    shape = check_images(decode_fn, vectors[codes[:1]], "n h w d")
    check_array("targets", targets, " ".join(map(str, (len(codes), *shape))))
    check_count("sweeps", sweeps, 0)
    check_count("batch_size", batch_size)
    check_number("rate_weight", rate_weight)
    if rate is not None and (rate.num_cells, rate.num_codes) != (codes[0].size, len(vectors)):
        got = f"{rate.num_cells} cells and {rate.num_codes} codes"
        raise ValueError(f"expected a rate of {codes[0].size} cells and {len(vectors)} codes, got {got}; refit it")
    decode, book = as_pytree(decode_fn), jnp.asarray(vectors)
    num_batches = max(1, -(-len(codes) // batch_size))
    priced = None if rate is None else (rate.bits, rate.candidates, jnp.asarray(rate_weight, book.dtype))
    found = map_chunks(
        lambda *part: _descend(decode, book, sweeps, priced, *part),
        (codes, metrics, targets),
        batch_size=-(-len(codes) // num_batches),
        progress=progress,
    )
    check_finite("errors of the images", found[1])
    return InContext(*(np.asarray(part) for part in found))


@jax.jit
def _descend(
    decode_fn: Any, vectors: Array, sweeps: Array | int, priced: Any, codes: Array, metrics: Array, targets: Array
) -> tuple[Array, Array, Array]:
    outer = jnp.einsum("ki,kj->kij", vectors, vectors)
    quarters = _quarters(*codes.shape[1:])

    def one(codes: Array, metric: Array, target: Array) -> tuple[Array, Array, Array]:
        metric = metric.reshape(-1, *metric.shape[2:])

        def error(grid: Array) -> Array:
            return jnp.sum(jnp.square(decode_fn(grid) - target))

        def objective(codes: Array) -> tuple[Array, Array]:
            value, gradient = jax.value_and_grad(error)(vectors[codes])
            if priced is not None:
                bits, _, weight = priced
                value = value + weight * bits(codes)
            return value, gradient.reshape(codes.size, -1)

        squares = jnp.einsum("cij,kij->ck", metric, outer)
        before, gradient = objective(codes)

        def move(step: Array, state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            codes, lowest, gradient, damping = state
            quarter = step % len(quarters)
            cells, flat = jnp.asarray(quarters)[quarter], codes.reshape(-1)
            strength = 1.0 + damping[quarter]
            slope = gradient[cells] - 2.0 * strength * jnp.einsum("cij,cj->ci", metric[cells], vectors[flat[cells]])
            promise = strength * squares[cells] + slope @ vectors.T
            if priced is not None:
                _, candidates, weight = priced
                promise = promise + weight * candidates(codes, cells)
            best = jnp.argmin(promise, axis=-1)
            trial = flat.at[cells].set(best.astype(codes.dtype)).reshape(codes.shape)
            value, trial_gradient = objective(trial)
            better = value < lowest
            refused = ~better & jnp.any(trial != codes)
            return (
                jnp.where(better, trial, codes),
                jnp.where(better, value, lowest),
                jnp.where(better, trial_gradient, gradient),
                damping.at[quarter].multiply(jnp.where(refused, 2.0, 0.25)),
            )

        state = codes, before, gradient, jnp.ones(len(quarters), before.dtype)
        codes, after, *_ = jax.lax.fori_loop(0, len(quarters) * sweeps, move, state)
        return codes, before, after

    return jax.vmap(one)(codes, metrics, targets)


def _quarters(height: int, width: int) -> np.ndarray:
    """Cells [quarters, m] of which no two touch, in raster order; smaller quarters repeat a cell."""
    grid = np.arange(height * width).reshape(height, width)
    parts = [grid[row::2, column::2].ravel() for row in range(2) for column in range(2)]
    return np.stack([np.resize(part, parts[0].size) for part in parts if part.size])
