"""Batches as a function of (seed, step), and augmentation."""

import functools
from collections.abc import Callable

import dm_pix as pix
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, PRNGKeyArray, Real

MAX_ANGLE = 10.0  # degrees
CROP_PADDING = 4  # black pixels per side


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_examples: int) -> Int32[np.ndarray, " n"]:
    permutation = np.random.default_rng((seed, epoch)).permutation(num_examples).astype(np.int32)
    permutation.flags.writeable = False
    return permutation


def batch_indices(seed: int, step: int, num_examples: int, batch_size: int) -> Int32[np.ndarray, " batch"]:
    """Draw the rows of one training batch on the host, a function of (seed, step) alone, so that runs can resume.

    Successive batches are consecutive slices of one sequence of permutations, one per epoch of `num_examples` rows; a
    batch may span the end of an epoch. ValueError for an argument out of range.
    """
    if seed < 0 or step < 0:
        raise ValueError(f"expected seed >= 0 and step >= 0, got {seed} and {step}; count both from 0")
    if num_examples < 1 or batch_size < 1:
        raise ValueError(
            f"expected positive num_examples and batch_size, got {num_examples} and {batch_size}; raise them"
        )
    first, last = step * batch_size, (step + 1) * batch_size
    epochs = range(first // num_examples, (last - 1) // num_examples + 1)
    stretch = np.concatenate([_permutation(seed, epoch, num_examples) for epoch in epochs])
    offset = first - epochs.start * num_examples
    return stretch[offset : offset + batch_size]


def to_float(
    images: Real[Array, "*batch height width channels"] | Real[np.ndarray, "*batch height width channels"],
) -> Float[Array, "*batch height width channels"]:
    """Pixels of 8 or 16 bits as float32 in [0, 1]; floats are returned unchanged."""
    if not jnp.issubdtype(images.dtype, jnp.integer):
        return jnp.asarray(images)
    return jnp.asarray(images, jnp.float32) / jnp.iinfo(images.dtype).max


def rotate(
    images: Float[Array, "batch height width channels"], degrees: Float[Array, " batch"]
) -> Float[Array, "batch height width channels"]:
    """Rotate each image counter-clockwise about its centre by bilinear interpolation; outside is black, 0.

    `dm_pix.rotate` interpolates over the channels as well, which takes 14 times as long on a CPU.
    """
    height, width = images.shape[1:3]
    y = jnp.arange(height, dtype=images.dtype)[:, None] - (height - 1) / 2
    x = jnp.arange(width, dtype=images.dtype)[None] - (width - 1) / 2

    def rotate_one(image, angle):
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        rows = cos * y + sin * x + (height - 1) / 2
        columns = -sin * y + cos * x + (width - 1) / 2
        sample = functools.partial(jax.scipy.ndimage.map_coordinates, coordinates=[rows, columns], order=1)
        return jax.vmap(sample, in_axes=2, out_axes=2)(image)

    return jax.vmap(rotate_one)(images, jnp.deg2rad(degrees).astype(images.dtype))


def _crop_flip(key: PRNGKeyArray, images: jax.Array) -> jax.Array:
    padded = jnp.pad(images, ((0, 0), (CROP_PADDING, CROP_PADDING), (CROP_PADDING, CROP_PADDING), (0, 0)))

    def crop_flip_one(key, image):
        crop_key, flip_key = jax.random.split(key)
        return pix.random_flip_left_right(flip_key, pix.random_crop(crop_key, image, images.shape[1:]))

    return jax.vmap(crop_flip_one)(jax.random.split(key, len(images)), padded)


POLICIES: dict[str, Callable[[PRNGKeyArray, jax.Array], jax.Array]] = {
    "none": lambda key, images: images,
    "rotate": lambda key, images: rotate(
        images, jax.random.uniform(key, images.shape[:1], images.dtype, -MAX_ANGLE, MAX_ANGLE)
    ),
    "crop_flip": _crop_flip,
}


def augment(
    key: PRNGKeyArray, images: Float[Array, "batch height width channels"], policy: str
) -> Float[Array, "batch height width channels"]:
    """Vary the images, in [0, 1], of a training batch; ValueError for an unknown policy.

    Policies: "none"; "rotate" by up to 10 degrees either way, for digits; "crop_flip", a crop after padding by 4 pixels
    and a mirror image half of the time, for natural images.
    """
    if policy not in POLICIES:
        raise ValueError(f"expected a policy among {', '.join(POLICIES)}, got {policy!r}; choose one")
    return POLICIES[policy](key, images)
