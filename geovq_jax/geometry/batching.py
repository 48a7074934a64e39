"""Long arrays in chunks of one size: one compilation, bounded memory, progress."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Progress = Callable[[int, int], None]


def map_chunks(
    function: Callable[..., Any], arrays: tuple, *, batch_size: int, progress: Progress | None = None
) -> Any:
    """Applies a batched function to consecutive chunks of rows and joins what it returns.

    The last chunk is filled up with copies of its last row, so that every call has the same shapes.

    Args:
        function: jitted map of arrays [batch_size, ...] to a pytree of arrays [batch_size, ...].
        arrays: arrays [n, ...] of the same n; host or device arrays, or tracers.
        batch_size: rows in a chunk; every chunk has this many.
        progress: called with (rows done, n) after each chunk.

    Returns:
        The pytree of arrays [n, ...].

    Raises:
        ValueError: if there are no rows or `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"expected batch_size >= 1, got {batch_size}; mend: leave it out for the default")
    num_rows = arrays[0].shape[0]
    if num_rows == 0:
        raise ValueError("expected at least one row, got none; mend: skip the call for empty input")
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((function, arrays)))
    rows = arrays if traced else tuple(np.asarray(array) for array in arrays)
    numpy = jnp if traced else np
    outputs = []
    for start in range(0, num_rows, batch_size):
        chunk = [array[start : start + batch_size] for array in rows]
        missing = batch_size - chunk[0].shape[0]
        if missing:
            chunk = [numpy.concatenate([part, numpy.repeat(part[-1:], missing, axis=0)]) for part in chunk]
        outputs.append(function(*chunk))
        if progress is not None:
            progress(min(start + batch_size, num_rows), num_rows)
    return jax.tree.map(lambda *parts: _join(parts)[:num_rows], *outputs)


def _join(parts: tuple) -> jax.Array:
    if any(isinstance(part, jax.core.Tracer) for part in parts):
        return jnp.concatenate(parts)
    return jnp.asarray(np.concatenate(jax.device_get(parts)))
