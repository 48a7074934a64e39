"""How evenly decoded images change between two latents: a decoder trained on codes alone may jump between them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from geovq_jax.geometry.batching import map_chunks
from geovq_jax.geometry.metric import DecodeFn, as_pytree


def unevenness(
    decode_fn: DecodeFn,
    first: Float[np.ndarray, "n ..."],
    second: Float[np.ndarray, "m ..."],
    *,
    num_steps: int = 16,
    batch_size: int = 16,
) -> Float[np.ndarray, " n"]:
    """Coefficient of variation of the decoded steps along straight lines from `first[i]` to `second[i]`.

    With x_i = f(a + i/T (b - a)) and s_i = |x_i - x_(i-1)|, i = 1..T: the standard deviation of s over its mean; 0
    where the image changes at constant speed or not at all, sqrt(T - 1) where it changes in one jump.

    Args:
        decode_fn: f, map of one latent to an array; a `jax.tree_util.Partial` is compiled once for all parameters.
        num_steps: T.
        batch_size: lines decoded at a time.

    Raises:
        ValueError: the shapes differ or there are no latents.
    """
    if first.shape != second.shape:
        raise ValueError(f"expected two ends of one shape, got {first.shape} and {second.shape}; pair them")
    function = partial(_unevenness_chunk, as_pytree(decode_fn), jnp.linspace(0.0, 1.0, num_steps + 1))
    return np.asarray(map_chunks(function, (first, second), batch_size=min(batch_size, len(first))))


@jax.jit
def _unevenness_chunk(decode_fn: DecodeFn, times: Array, first: Array, second: Array) -> Array:
    def one(a: Array, b: Array) -> Array:
        images = jax.vmap(lambda t: jnp.ravel(decode_fn(a + t * (b - a))))(times)
        steps = jnp.linalg.norm(jnp.diff(images, axis=0), axis=1)
        mean = steps.mean()
        return jnp.where(mean > 0, steps.std() / jnp.where(mean > 0, mean, 1.0), 0.0)

    return jax.vmap(one)(first, second)
