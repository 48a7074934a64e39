"""Codebooks against the least distortion at high rate, docs/quantization.md, equation (9)."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import vonmises

from geovq_jax.geometry import log_volume, node_metrics
from geovq_jax.geometry.batching import decode_all
from geovq_jax.quantization import baselines

NUM_CODES = 200
HEXAGON = 5 / (36 * 3**0.5)  # least normalised second moment in two dimensions
SKEW = jnp.asarray([[1.0, 0.6, -0.4, 0.2], [0.1, -0.5, 0.8, 0.3]])


def linear(z):
    return z @ SKEW


def sphere(z):
    return jnp.stack([jnp.sin(z[0]) * jnp.cos(z[1]), jnp.sin(z[0]) * jnp.sin(z[1]), jnp.cos(z[0])])


def torus(z):
    radius = 2.0 + jnp.cos(z[0])
    return jnp.stack([radius * jnp.cos(z[1]), radius * jnp.sin(z[1]), jnp.sin(z[0])])


def data_on(name, rng, n):
    """Latents of the data, and their differential entropy in bits."""
    if name == "linear":
        return rng.normal(size=(n, 2)), np.log2(2 * np.pi * np.e)
    angles = rng.uniform(-np.pi, np.pi, n)
    if name == "sphere":  # von Mises-Fisher around the pole: density exp(3 cos) in volume, times sin in the chart
        heights = np.log(np.exp(-3.0) + rng.uniform(size=n) * 2 * np.sinh(3.0)) / 3.0
        density = 3.0 * np.exp(3.0 * heights) / (4 * np.pi * np.sinh(3.0)) * np.sqrt(1.0 - heights**2)
        return np.stack([np.arccos(heights), angles], axis=1), -np.mean(np.log2(density))
    law = vonmises(2.0)
    along = law.rvs(n, random_state=rng)
    return np.stack([angles, along], axis=1), np.log2(2 * np.pi) - np.mean(law.logpdf(along)) / np.log(2)


def volume_on(name, rng, n):
    """Latents of uniform density in pull-back volume: on the whole surface, or on a disc that holds all of the data."""
    along, angles = rng.uniform(-1.0, 1.0, n), rng.uniform(-np.pi, np.pi, n)
    if name == "linear":
        radius = 4.5 * np.sqrt(np.abs(along))
        return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    if name == "sphere":
        return np.stack([np.arccos(along), angles], axis=1)
    kept = rng.uniform(0.0, 3.0, n) < 2.0 + np.cos(angles)
    return np.stack([angles, np.pi * along], axis=1)[kept]


@pytest.mark.parametrize(("name", "decode_fn"), [("linear", linear), ("sphere", sphere), ("torus", torus)])
def test_cells_of_equal_volume_reach_the_law(name, decode_fn):
    """Within the loss of K-means with few points per cell, which cells fitted to the data exceed."""
    rng = np.random.default_rng(0)
    latents, entropy = data_on(name, rng, 30_000)
    latents = latents.astype(np.float32)
    images = decode_all(decode_fn, latents, batch_size=4_000)
    ceiling = entropy + float(jnp.mean(log_volume(node_metrics(decode_fn, latents)))) / np.log(2)

    def excess(points):
        """Distortion of entropy-coded nearest codes over that of the law at their rate."""
        decoded = decode_all(decode_fn, points.astype(np.float32), batch_size=4_000)
        book = baselines.kmeans(decoded, NUM_CODES, seed=0)
        codes = baselines.encode(book, images)
        shares = np.bincount(codes, minlength=NUM_CODES) / len(codes)
        shares = shares[shares > 0]
        rate = -np.sum(shares * np.log2(shares))
        distortion = np.mean(np.sum((images - book.vectors[codes]) ** 2, axis=1))
        return distortion / (2 * HEXAGON * 2 ** (ceiling - rate))

    equal, fitted = excess(volume_on(name, rng, 8_000)), excess(latents[:8_000])
    assert 0.98 < equal < 1.12 < fitted
