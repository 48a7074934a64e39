"""Metrics and speeds at many latents, a chunk of them at a time.

Equation numbers refer to docs/geometry.md.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from geovq_jax.geometry.batching import Progress, default_batch_size, map_chunks, map_rows
from geovq_jax.geometry.checks import check_array, check_finite, check_latents
from geovq_jax.geometry.metric import DecodeFn, as_pytree, gram, safe_norm

Points = Float[Array | np.ndarray, "n d"]
Vectors = Float[Array | np.ndarray, "n w d"]


@jax.jit
def _metrics_chunk(decode_fn: Any, z: Array) -> Array:
    """Metric tensors [b, d, d]: all latents linearised together, a few directions pushed at a time.

    Work that does not depend on the latent, such as reordering weights for a product, is done once.
    """
    _, push_forward = jax.linearize(jax.vmap(decode_fn), z)

    def push(direction: Array) -> Any:
        return push_forward(jnp.broadcast_to(direction[None], z.shape))

    columns = map_rows(push, (jnp.eye(z.shape[1], dtype=z.dtype),), num_tangents=z.shape[0])
    return jax.vmap(gram, in_axes=1)(columns)


@jax.jit
def speeds_chunk(decode_fn: Any, z: Array, vectors: Array) -> Array:
    """Speeds [b, w] at each of the latents [b, d] along its vectors [b, w, d]."""
    _, push_forward = jax.linearize(jax.vmap(decode_fn), z)

    def push(directions: Array) -> Array:
        return jax.vmap(safe_norm)(push_forward(directions))

    return map_rows(push, (jnp.swapaxes(vectors, 0, 1),), num_tangents=z.shape[0]).T


def node_metrics(
    decode_fn: DecodeFn, z: Points, *, batch_size: int | None = None, progress: Progress | None = None
) -> Float[Array, "n d d"]:
    """Metric tensors of many latents, equation (1).

    Args:
        decode_fn: map of one latent [d] to x; a `jax.tree_util.Partial` that binds the parameters is compiled once for
            all parameters.
        z: latents, [n, d].
        batch_size: latents decoded at once; the default suits the device.
        progress: called with (latents done, n).

    Returns:
        Metric tensors [n, d, d].

    Raises:
        ValueError: for metrics with NaN or infinity, or as `check_latents`.

    Example:
        >>> stretch = lambda z: jnp.array([3.0 * z[0], 4.0 * z[1]])
        >>> node_metrics(stretch, np.zeros((5, 2), np.float32))[0].tolist()
        [[9.0, 0.0], [0.0, 16.0]]
    """
    check_latents(decode_fn, z, "n d")
    return check_finite("metrics", measure_metrics(as_pytree(decode_fn), z, batch_size, progress))


def measure_metrics(decode: Any, z: Points, batch_size: int | None, progress: Progress | None) -> Array:
    """As `node_metrics`, without its checks: NaN where the decoder gives NaN."""
    size = batch_size or default_batch_size(z.shape[1])
    return map_chunks(partial(_metrics_chunk, decode), (z,), batch_size=size, progress=progress)


def node_speeds(
    decode_fn: DecodeFn, z: Points, vectors: Vectors, *, batch_size: int | None = None, progress: Progress | None = None
) -> Float[Array, "n w"]:
    """Speeds of several velocities at each of many latents, equation (3), from one linearisation per latent.

    Args:
        decode_fn: map of one latent [d] to x.
        z: latents, [n, d].
        vectors: w velocities at each, [n, w, d]; cheaper than `node_metrics` for w < d.
        batch_size: latents decoded at once; the default suits the device.
        progress: called with (latents done, n).

    Returns:
        Speeds [n, w]; zero, with derivative zero, for a velocity of zero.

    Raises:
        ValueError: for velocities of another form, speeds with NaN or infinity, or as `check_latents`.

    Example:
        >>> stretch = lambda z: jnp.array([3.0 * z[0], 4.0 * z[1]])
        >>> vectors = np.array([[[1.0, 0.0], [1.0, 1.0]]], np.float32)
        >>> node_speeds(stretch, np.zeros((1, 2), np.float32), vectors).tolist()
        [[3.0, 5.0]]
    """
    check_latents(decode_fn, z, "n d")
    check_array("velocities", vectors, f"{len(z)} w {z.shape[1]}")
    return check_finite("speeds", measure_speeds(decode_fn, z, vectors, batch_size=batch_size, progress=progress))


def measure_speeds(
    decode_fn: DecodeFn, z: Points, vectors: Vectors, *, batch_size: int | None = None, progress: Progress | None = None
) -> Float[Array, "n w"]:
    """As `node_speeds`, without its checks: NaN where the decoder gives NaN."""
    function, size = partial(speeds_chunk, as_pytree(decode_fn)), batch_size or default_batch_size(vectors.shape[1])
    return map_chunks(function, (z, vectors), batch_size=size, progress=progress)
