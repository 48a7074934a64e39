"""Decoders and metrics with NaN or infinity are refused where codes and centres are made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax.geometry import decode_all
from geovq_jax.quantization import assign_pullback, baselines, codebook, context, pullback_kmeans, refinement, tokenizer

pytestmark = pytest.mark.usefixtures("unchecked")
MATRIX = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
BAD = {"nan": np.nan, "inf": np.inf, "overflow of a square": 1e30}


def latents():
    """Six latents, of which numbers 2 and 4 lie where the decoders below are broken."""
    z = np.random.default_rng(1).uniform(0.5, 1.0, (6, 2)).astype(np.float32)
    z[[2, 4], 0] = 40.0
    return z


def _spoilt(value, z):
    return (z @ MATRIX) * jnp.where(jnp.max(z) > 10, value, 1.0)


def spoilt(value):
    """Linear, but for latents (or grids that hold one) with an entry above 10."""
    return jax.tree_util.Partial(_spoilt, value)


POINTS = np.random.default_rng(2).uniform(0.0, 1.0, (20, 2)).astype(np.float32)
EYES = np.tile(np.eye(2, dtype=np.float32), (20, 1, 1))
NODES = tokenizer.Tokenizer(POINTS, EYES, np.arange(20, dtype=np.int32) % 2, np.linspace(0.0, 1.0, 20))
CENTRES = latents()[:2]
LABELS = np.array([0, 1, 0, 1, 0, 1])
BOOK = codebook.Codebook(latents(), np.zeros(6, int), np.zeros(6, int), np.zeros(6), {})

DOORS = {
    "encode": lambda f: tokenizer.encode(NODES, latents(), f, k=5),
    "encode in chunks": lambda f: tokenizer.encode(NODES, latents(), f, k=5, batch_size=2),
    "encode grids": lambda f: tokenizer.encode(NODES, latents().reshape(6, 1, 1, 2), f, k=5, batch_size=4),
    "encode isolated cells": lambda f: tokenizer.encode(
        NODES, latents().reshape(3, 2, 1, 2), f, k=5, context="isolated", batch_size=2
    ),
    "decode_all": lambda f: decode_all(f, codebook.lookup(BOOK, np.arange(6))),
    "decoded_kmeans": lambda f: baselines.decoded_kmeans(f, latents(), 2, seed=0),
    "encode_decoded": lambda f: baselines.encode_decoded(f, latents(), np.ones((3, 5), np.float32)),
    "refine_centres": lambda f: refinement.refine_centres(f, CENTRES, latents(), LABELS, max_iterations=1),
    "refine_cell_centres": lambda f: refinement.refine_cell_centres(
        f, CENTRES, latents().reshape(6, 1, 1, 2), LABELS.reshape(6, 1, 1), max_iterations=1
    ),
    "encode_in_context": lambda f: context.encode_in_context(
        f,
        latents(),
        np.arange(6, dtype=np.int32).reshape(6, 1, 1),
        EYES[:6].reshape(6, 1, 1, 2, 2),
        np.ones((6, 1, 1, 5), np.float32),
    ),
}
# These decode and take no square: only what they decode can be infinite.
IMAGES_ALONE = {"decode_all", "decoded_kmeans", "encode_decoded", "refine_centres", "refine_cell_centres"}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_decoders_that_are_broken_at_some_latents_are_refused(door, value):
    if np.isfinite(value) and door in IMAGES_ALONE:
        return
    message = "^expected finite .*, got NaN or infinity in 2 of 6 rows, first row 2; check the decoder$"
    with pytest.raises(ValueError, match=message):
        DOORS[door](spoilt(value))


@pytest.mark.parametrize("door", DOORS)
def test_where_the_decoder_is_sound_nothing_is_refused(door):
    DOORS[door](spoilt(2.0))


def test_centres_at_which_the_decoder_is_broken_are_refused():
    sound = np.delete(latents(), [2, 4], axis=0)
    centres, labels = latents()[1:3], LABELS[:4]
    with pytest.raises(ValueError, match="decoded latents, got NaN or infinity in 1 of 2 rows, first row 1"):
        refinement.refine_centres(spoilt(np.nan), centres, sound, labels)
    with pytest.raises(ValueError, match="of centres, got NaN or infinity in 1 of 2 rows, first row 1"):
        refinement.refine_cell_centres(
            spoilt(np.nan), centres, sound.reshape(4, 1, 1, 2), labels.reshape(4, 1, 1), max_iterations=1
        )


def test_centres_at_which_only_the_derivative_is_infinite_are_refused():
    z, centres = np.array([[1.0], [2.0], [3.0]], np.float32), np.array([[1.5], [0.0]], np.float32)
    with pytest.raises(ValueError, match="metrics at centres, got NaN or infinity in 1 of 2 rows, first row 1"):
        refinement.refine_centres(jnp.sqrt, centres, z, np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="error gradients of centres, got NaN or infinity in 1 of 2 rows, first row 1"):
        refinement.refine_cell_centres(jnp.sqrt, centres, z.reshape(3, 1, 1, 1), np.array([0, 1, 1]).reshape(3, 1, 1))


def test_one_infinite_speed_among_sound_ones_is_refused():
    """From the second latent, |J v| overflows towards the last two nodes and is 1/2 towards the first."""
    points = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]], np.float32)
    nodes = tokenizer.Tokenizer(points, EYES[:3], np.arange(3, dtype=np.int32), np.zeros(3))

    def decode(z):
        return jnp.stack([z[0] * jnp.where(z[1] < 0.7, 1e30, 1.0), z[1]])

    with pytest.raises(ValueError, match="expected finite lengths, got NaN or infinity in 1 of 2 rows, first row 1"):
        tokenizer.encode(nodes, np.array([[1.0, 1.0], [0.0, 0.5]], np.float32), decode, k=3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_metrics_that_are_not_finite_are_refused(value):
    spoilt_metrics = EYES.copy()
    spoilt_metrics[[3, 7, 8], 1, 0] = value
    message = "got NaN or infinity in 3 of 20 rows, first row 3; check the decoder"
    for call in (
        lambda: tokenizer.encode_measured(NODES, POINTS, spoilt_metrics, k=3),
        lambda: tokenizer.encode_measured(NODES._replace(metrics=spoilt_metrics), POINTS, EYES, k=3),
        lambda: tokenizer.encode(NODES._replace(metrics=spoilt_metrics), POINTS, spoilt(2.0), k=3),
        lambda: pullback_kmeans(POINTS, spoilt_metrics, POINTS[:2]),
        lambda: assign_pullback(POINTS, spoilt_metrics, POINTS[:2]),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="expected finite entries of the metric, got NaN or infinity"):
        baselines.mahalanobis(POINTS, spoilt_metrics[3], 2, seed=0)


def test_a_metric_that_overflows_in_all_lengths_but_one_is_refused():
    """Each latent is a node, whose own length is zero: it would be coded by that one alone."""
    large = EYES.copy()
    large[5] *= 3e38
    with pytest.raises(ValueError, match="expected finite lengths, got NaN or infinity in 1 of 20 rows, first row 5"):
        tokenizer.encode_measured(NODES._replace(points=POINTS * 10), POINTS * 10, large, k=3)
