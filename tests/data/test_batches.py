"""Batches against the definition of a permutation an epoch; augmentation against scipy and numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from geovq_jax.data import batches
from geovq_jax.data.batches import CROP_PADDING, augment, batch_indices, rotate, to_float


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 23), st.integers(1, 50))
def test_each_epoch_is_a_permutation_across_the_borders_of_batches(seed, num_examples, batch_size):
    num_epochs = 3
    num_steps = -(-num_epochs * num_examples // batch_size)
    stream = np.concatenate([batch_indices(seed, step, num_examples, batch_size) for step in range(num_steps)])
    for epoch in range(num_epochs):
        rows = stream[epoch * num_examples : (epoch + 1) * num_examples]
        np.testing.assert_array_equal(np.sort(rows), np.arange(num_examples))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.permutations(range(12)))
def test_a_batch_depends_on_seed_and_step_alone(seed, order):
    expected = [batch_indices(seed, step, 10, 4) for step in range(12)]
    batches._permutation.cache_clear()
    for step in order:
        again = batch_indices(seed, step, 10, 4)
        assert again.dtype == np.int32
        np.testing.assert_array_equal(again, expected[step])
        again[:] = -1  # The caller owns its batch: writing to it changes no later one.


def test_epochs_and_seeds_differ():
    epochs = [batch_indices(seed, step, 100, 100).tolist() for seed in (0, 1) for step in (0, 1, 2)]
    assert len({tuple(epoch) for epoch in epochs}) == 6


@pytest.mark.parametrize("arguments", [(-1, 0, 10, 2), (0, -1, 10, 2), (0, 0, 0, 2), (0, 0, 10, 0)])
def test_batch_indices_refuses_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match=r"expected .* got"):
        batch_indices(*arguments)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_to_float_maps_the_byte_range_to_the_unit_interval(array):
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    result = to_float(array(images))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, images / 255, rtol=2e-7)
    assert float(result.min()) == 0
    assert float(result.max()) == 1


@pytest.mark.parametrize("shape", [(6, 28, 28, 1), (6, 32, 32, 3), (6, 9, 14, 2)])
def test_rotate_equals_scipy(shape):
    images = np.random.default_rng(0).random(shape)
    degrees = np.array([-180.0, -10.0, -0.5, 0.0, 7.3, 45.0])
    with jax.enable_x64(True):
        result = rotate(jnp.asarray(images), jnp.asarray(degrees))
    expected = [
        scipy.ndimage.rotate(image, angle, reshape=False, order=1, mode="grid-constant")
        for image, angle in zip(images, degrees, strict=True)
    ]
    np.testing.assert_allclose(result, np.stack(expected), atol=1e-10)


def test_rotate_by_a_right_angle_is_rot90_in_float32():
    images = np.random.default_rng(1).random((1, 28, 28, 1), np.float32)
    result = rotate(jnp.asarray(images), jnp.array([90.0]))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result[0], np.rot90(images[0]), atol=1e-4)


def test_augment_rotate_draws_angles_over_the_whole_range():
    # On a ramp along the columns the slope at the centre is the direction of the image: (sin, cos) of the angle.
    images = jnp.broadcast_to(jnp.linspace(0, 1, 28)[None, None, :, None], (600, 28, 28, 1))
    result = np.asarray(augment(jax.random.key(0), images, "rotate"))[..., 0]
    slope_rows = result[:, 15, 13] - result[:, 12, 13]
    slope_columns = result[:, 13, 15] - result[:, 13, 12]
    angles = np.rad2deg(np.arctan2(slope_rows, slope_columns))
    assert np.all(np.abs(angles) <= 10.01)
    counts, _ = np.histogram(angles, bins=4, range=(-10.01, 10.01))
    assert np.all(np.abs(counts - 150) < 5 * np.sqrt(600 * 0.25 * 0.75))


def reference_crop_flip(image, offset, flip):
    """One image at a time: black where the crop leaves it, mirrored last."""
    result = np.zeros_like(image)
    height, width, _ = image.shape
    for row in range(height):
        for column in range(width):
            y, x = row + offset[0] - CROP_PADDING, column + offset[1] - CROP_PADDING
            if 0 <= y < height and 0 <= x < width:
                result[row, width - 1 - column if flip else column] = image[y, x]
    return result


def test_augment_crop_flip_draws_every_offset_and_mirror_alike():
    image = np.random.default_rng(3).random((10, 9, 3), np.float32)
    possible = {
        reference_crop_flip(image, (row, column), flip).tobytes(): (row, column, flip)
        for row in range(9)
        for column in range(9)
        for flip in (False, True)
    }
    result = np.asarray(augment(jax.random.key(1), jnp.broadcast_to(image, (3240, 10, 9, 3)), "crop_flip"))
    draws = np.array([possible[drawn.tobytes()] for drawn in result])
    for column, levels in ((0, 9), (1, 9), (2, 2)):
        counts = np.bincount(draws[:, column].astype(int), minlength=levels)
        assert len(counts) == levels
        assert np.all(np.abs(counts - 3240 / levels) < 5 * np.sqrt(3240 / levels))


@pytest.mark.parametrize("policy", ["rotate", "crop_flip"])
def test_augment_is_a_function_of_the_key_and_keeps_range_and_type(policy):
    images = jnp.asarray(np.random.default_rng(4).random((4, 8, 8, 1), np.float32))
    first, again, other = (augment(jax.random.key(seed), images, policy) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(np.asarray(first) != np.asarray(other))
    assert first.dtype == jnp.float32
    assert first.shape == images.shape
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1


def test_augment_none_changes_nothing_and_an_unknown_policy_is_refused():
    images = jnp.ones((2, 4, 4, 1))
    assert augment(jax.random.key(0), images, "none") is images
    with pytest.raises(ValueError, match="expected a policy among none, rotate, crop_flip, got 'flip'"):
        augment(jax.random.key(0), images, "flip")
