"""Vector and finite scalar quantizers of the joint VQ-VAE: nearest codes, gradients through them, moving codebooks."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

GRADIENTS = ("straight_through", "rotation")


class Codebook(NamedTuple):
    """Code vectors as ratios of moving averages.

    Attributes:
        vectors: sums / counts.
        counts: moving average of the latents assigned to each code, in units of an even share n / K.
        sums: moving average of their sum, in the same units.
    """

    vectors: Float[Array, "K d"]
    counts: Float[Array, " K"]
    sums: Float[Array, "K d"]


def squared_distances(points: Float[Array, "n d"], vectors: Float[Array, "K d"]) -> Float[Array, "n K"]:
    """|p|^2 - 2 p.v + |v|^2 for all pairs."""
    norms = jnp.sum(jnp.square(points), axis=1)[:, None] + jnp.sum(jnp.square(vectors), axis=1)[None]
    return norms - 2.0 * points @ vectors.T


def nearest(points: Float[Array, "n d"], vectors: Float[Array, "K d"]) -> Int[Array, " n"]:
    """Index of the vector nearest to each point."""
    return jnp.argmin(squared_distances(points, vectors), axis=1).astype(jnp.int32)


def kmeans_codebook(
    key: Key[Array, ""], latents: Float[Array, "n d"], num_codes: int, *, iterations: int = 10
) -> Codebook:
    """Codebook of k-means clusters, its counts even: k-means++ seeds, then Lloyd's iterations.

    Empty clusters keep their vector. ValueError if there are fewer latents than codes.
    Reference: Arthur & Vassilvitskii 2007, "k-means++: the advantages of careful seeding".
    """
    if latents.shape[0] < num_codes:
        raise ValueError(
            f"expected at least {num_codes} latents to seed as many codes, got {latents.shape[0]}; pass more"
        )

    def draw(state: tuple[Array, Array], key: Key[Array, ""]) -> tuple[tuple[Array, Array], Array]:
        newest, distances = state
        distances = jnp.minimum(distances, squared_distances(latents, newest[None])[:, 0])
        chosen = latents[jax.random.categorical(key, jnp.log(jnp.maximum(distances, 1e-30)))]
        return (chosen, distances), chosen

    first_key, *keys = jax.random.split(key, num_codes)
    first = latents[jax.random.randint(first_key, (), 0, latents.shape[0])]
    start = (first, jnp.full(latents.shape[0], jnp.inf, latents.dtype))
    _, others = jax.lax.scan(draw, start, jnp.stack(keys)) if keys else (start, latents[:0])

    def improve(_: Int[Array, ""] | int, vectors: Float[Array, "K d"]) -> Float[Array, "K d"]:
        counts, sums = _totals(latents, nearest(latents, vectors), num_codes)
        return jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts, 1.0)[:, None], vectors)

    vectors = jax.lax.fori_loop(0, iterations, improve, jnp.concatenate([first[None], others]))
    return Codebook(vectors, jnp.ones(num_codes, latents.dtype), vectors)


def _totals(
    latents: Float[Array, "n d"], codes: Int[Array, " n"], num_codes: int
) -> tuple[Float[Array, " K"], Float[Array, "K d"]]:
    """Number and sum of the latents of each code."""
    counts = jnp.zeros(num_codes, latents.dtype).at[codes].add(1.0)
    return counts, jnp.zeros((num_codes, latents.shape[1]), latents.dtype).at[codes].add(latents)


def moved_codebook(
    key: Key[Array, ""],
    codebook: Codebook,
    latents: Float[Array, "n d"],
    codes: Int[Array, " n"],
    *,
    decay: float,
    reseed: float,
) -> Codebook:
    """The codebook after one batch: averages move, unused codes restart at latents of the batch.

    With s = n / K, counts <- decay counts + (1 - decay) n_k / s, sums <- decay sums + (1 - decay) (sum of z of k) / s,
    vectors = sums / counts. A code with counts < reseed takes a random latent and the count 1; reseed 0 disables this.

    Reference: van den Oord et al. 2017, "Neural discrete representation learning", appendix A.1.
    """
    num_latents, num_codes = latents.shape[0], codebook.counts.shape[0]
    batch_counts, batch_sums = _totals(latents, codes, num_codes)
    weight = (1.0 - decay) * num_codes / num_latents
    counts = decay * codebook.counts + weight * batch_counts
    sums = decay * codebook.sums + weight * batch_sums
    fresh = latents[jax.random.choice(key, num_latents, (num_codes,), replace=num_latents < num_codes)]
    dead = counts < reseed
    counts = jnp.where(dead, 1.0, counts)
    sums = jnp.where(dead[:, None], fresh, sums)
    # A count that decays towards zero is floored before it is divided by; its sum decays with it.
    return Codebook(sums / jnp.maximum(counts, 1e-6)[:, None], counts, sums)


def pass_gradient(
    z: Float[Array, "*grid d"], quantized: Float[Array, "*grid d"], gradient: str
) -> Float[Array, "*grid d"]:
    """The quantized value with a gradient for z.

    "straight_through": z + sg(q - z), identity gradient. "rotation": sg(|q| / |z| R) z with R the rotation that takes
    the direction of z to that of q in their plane, R = I - 2 r r' + 2 q^ z^', r the unit vector along z^ + q^.

    Reference: Bengio et al. 2013, arXiv:1308.3432; Fifty et al. 2024, "Restructuring vector quantization with the
    rotation trick", section 4.2.
    """
    if gradient == "straight_through":
        return z + jax.lax.stop_gradient(quantized - z)
    length, target = (jnp.linalg.norm(jax.lax.stop_gradient(v), axis=-1, keepdims=True) for v in (z, quantized))
    tiny = jnp.finfo(z.dtype).tiny ** 0.5
    unit = jax.lax.stop_gradient(z) / jnp.maximum(length, tiny)
    target_unit = jax.lax.stop_gradient(quantized) / jnp.maximum(target, tiny)
    middle = unit + target_unit
    middle = middle / jnp.maximum(jnp.linalg.norm(middle, axis=-1, keepdims=True), tiny)
    along_middle, along_unit = (jnp.sum(v * z, axis=-1, keepdims=True) for v in (middle, unit))
    rotated = z - 2.0 * middle * along_middle + 2.0 * target_unit * along_unit
    return target / jnp.maximum(length, tiny) * rotated


def fsq_size(levels: tuple[int, ...]) -> int:
    """Number of codes, the product of the levels."""
    return math.prod(levels)


def fsq(z: Float[Array, "*grid d"], levels: tuple[int, ...]) -> tuple[Float[Array, "*grid d"], Int[Array, "*grid"]]:
    """Finite scalar quantization: each dimension bounded by tanh, rounded to its levels (at least 2), even in [-1, 1].

    An even number of levels rounds to half-integers, which keeps the levels symmetric about 0. The gradient passes
    straight through the rounding. Codes are digits of mixed radix, the first dimension least significant.

    Reference: Mentzer et al. 2023, "Finite scalar quantization: VQ-VAE made simple", section 3.1.
    """
    half = jnp.asarray(0.5 * (np.asarray(levels) - 1.0), z.dtype).reshape((1,) * (z.ndim - 1) + (-1,))
    bases = jnp.asarray(np.cumprod((1, *levels[:-1])), jnp.int32).reshape(half.shape)
    position = jnp.tanh(z) * half + half
    digits = jax.lax.stop_gradient(jnp.round(position))
    rounded = position + jax.lax.stop_gradient(digits - position)
    return rounded / half - 1.0, jnp.sum(digits.astype(jnp.int32) * bases, axis=-1)


def fsq_vectors(levels: tuple[int, ...]) -> Float[Array, "K d"]:
    """All vectors of `fsq`, in the order of their codes."""
    digits = np.stack(np.unravel_index(np.arange(fsq_size(levels)), levels, order="F"), axis=1)
    return jnp.asarray(digits / (0.5 * (np.asarray(levels) - 1.0)) - 1.0, float)


def perplexity(counts: Float[Array, " K"]) -> Float[Array, ""]:
    """exp of the entropy of the codes' frequencies: the number of evenly used codes with the same entropy."""
    frequencies = counts / jnp.maximum(jnp.sum(counts), 1.0)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(frequencies, frequencies)))
