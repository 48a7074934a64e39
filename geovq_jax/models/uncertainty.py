"""How sure a decoder is of each pixel: a precision that decays away from the training latents.

    1 / sigma_j(z)^2 = sum_k W_kj exp(-lambda_k |z - c_k|^2) + floor,   W >= 0

A network's own estimate of its variance extrapolates arbitrarily; this one falls to the floor. The pair (mean, sigma)
has the metric J_mu' J_mu + J_sigma' J_sigma, equation (8) of docs/geometry.md, whose geodesics keep to the data.

Reference: Arvanitidis, Hansen & Hauberg 2018, "Latent space oddity", section 4.1.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from sklearn.cluster import KMeans

FLOOR = 1.0  # precision far from the data: a standard deviation of the whole range of a pixel
LEAST_VARIANCE = 1e-4  # of a pixel; those that never vary would have an infinite precision
WIDTH = 2.0  # of a kernel, in mean distances of the latents of its cluster to their centre
ITERATIONS = 30


class Precision(NamedTuple):
    """A radial basis function network: centres c, rates lambda, weights W and floor of the precision of p pixels."""

    centres: Float[Array | np.ndarray, "K d"]
    rates: Float[Array | np.ndarray, " K"]
    weights: Float[Array | np.ndarray, "K p"]
    floor: Float[Array | np.ndarray, ""]


def kernels(precision: Precision, z: Float[Array, " d"]) -> Float[Array, " K"]:
    """exp(-lambda_k |z - c_k|^2)."""
    return jnp.exp(-precision.rates * jnp.sum(jnp.square(z[None] - precision.centres), axis=1))


def standard_deviation(precision: Precision, z: Float[Array, " d"]) -> Float[Array, " p"]:
    """sigma(z) of each pixel."""
    return (kernels(precision, z) @ precision.weights + precision.floor) ** -0.5


def fit_precision(
    latents: Float[np.ndarray, "n d"],
    squares: Float[np.ndarray, "n p"],
    *,
    num_centres: int = 64,
    seed: int = 0,
) -> Precision:
    """Fits the weights by maximum likelihood, centres and rates by K-means of the latents.

    The negative log likelihood sum_i beta_j(z_i) r_ij^2 - log beta_j(z_i) is convex in W, and the updates
    W_kj <- W_kj sum_i v_ik / beta_ij / sum_i v_ik r_ij^2 of the expectation-maximisation algorithm never raise it.

    Args:
        latents: training latents z_i.
        squares: squared residuals r_ij^2 of their decoded images.
        num_centres: K, at most n.
        seed: of K-means.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, no latents.
    """
    if latents.ndim != 2 or squares.ndim != 2 or not 0 < len(latents) == len(squares):
        raise ValueError(
            f"expected latents [n, d] and squares [n, p], got {latents.shape} and {squares.shape}; reshape"
        )
    if not (np.isfinite(latents).all() and np.isfinite(squares).all()):
        raise ValueError("expected finite latents and squares, got NaN or infinity; check encoder and decoder")
    found = KMeans(min(num_centres, len(latents)), n_init=1, random_state=seed).fit(latents)
    centres, labels = found.cluster_centers_, found.labels_
    distances = np.linalg.norm(latents - centres[labels], axis=1)
    members = np.bincount(labels, minlength=len(centres))
    spread = np.bincount(labels, weights=distances, minlength=len(centres)) / np.maximum(members, 1)
    spread = np.maximum(spread, 0.1 * distances.mean() or 1.0)  # clusters of a single latent
    rates = 0.5 / np.square(WIDTH * spread)
    gaps = np.square(latents[:, None] - centres[None]).sum(axis=2)
    v = np.exp(-rates * gaps).astype(np.float32)
    variance = np.maximum(squares, 0.0).astype(np.float32) + np.float32(LEAST_VARIANCE)
    pull = v.T @ variance
    weights = (v.sum(axis=0)[:, None] / np.maximum(pull, np.finfo(np.float32).tiny)).astype(np.float32)
    weights /= np.maximum(v.sum(axis=1).mean(), np.finfo(np.float32).tiny)
    for _ in range(ITERATIONS):
        weights *= (v.T @ (1.0 / (v @ weights + FLOOR))) / np.maximum(pull, np.finfo(np.float32).tiny)
    dtype = latents.dtype
    return Precision(*(np.asarray(part, dtype) for part in (centres, rates, weights, FLOOR)))
