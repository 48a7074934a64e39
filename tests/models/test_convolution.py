"""Both convolutions against PyTorch-style definitions written as loops, and against each other as adjoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax.models.convolution import downsample, upsample


def _arrays(*shapes):
    generator = np.random.default_rng(0)
    return [generator.normal(size=shape) for shape in shapes]


def _downsample_by_loops(x, kernel):
    h, w, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    y = np.zeros((h // 2, w // 2, kernel.shape[3]))
    for p, q in np.ndindex(h // 2, w // 2):
        y[p, q] = np.einsum("ijc,ijco->o", padded[2 * p : 2 * p + 4, 2 * q : 2 * q + 4], kernel)
    return y


def _upsample_by_loops(x, kernel):
    h, w, _ = x.shape
    y = np.zeros((2 * h + 2, 2 * w + 2, kernel.shape[3]))
    for p, q in np.ndindex(h, w):
        y[2 * p : 2 * p + 4, 2 * q : 2 * q + 4] += np.einsum("c,ijco->ijo", x[p, q], kernel)
    return y[1:-1, 1:-1]


@pytest.mark.parametrize("shape", [(4, 6, 3), (2, 2, 1)])
def test_downsample_is_the_strided_convolution(shape):
    x, kernel = _arrays(shape, (4, 4, shape[2], 5))
    with jax.enable_x64(True):
        np.testing.assert_allclose(downsample(jnp.asarray(x), jnp.asarray(kernel)), _downsample_by_loops(x, kernel))


@pytest.mark.parametrize("shape", [(3, 5, 2), (1, 1, 4)])
def test_upsample_is_the_transposed_convolution(shape):
    x, kernel = _arrays(shape, (4, 4, shape[2], 3))
    with jax.enable_x64(True):
        np.testing.assert_allclose(upsample(jnp.asarray(x), jnp.asarray(kernel)), _upsample_by_loops(x, kernel))


def test_upsample_is_the_adjoint_of_downsample():
    x, y, kernel = _arrays((8, 4, 3), (4, 2, 5), (4, 4, 3, 5))
    with jax.enable_x64(True):
        x, y, kernel = jnp.asarray(x), jnp.asarray(y), jnp.asarray(kernel)
        forward = jnp.vdot(downsample(x, kernel), y)
        backward = jnp.vdot(x, upsample(y, kernel.transpose(0, 1, 3, 2)))
    np.testing.assert_allclose(forward, backward, rtol=1e-12)


def test_kernel_gradient_of_upsample():
    # The map is bilinear, so a central difference of any width is exact.
    x, kernel, direction, weights = _arrays((3, 2, 2), (4, 4, 2, 3), (4, 4, 2, 3), (6, 4, 3))
    slope = np.vdot(_upsample_by_loops(x, direction), weights)
    with jax.enable_x64(True):
        gradient = jax.grad(lambda k: jnp.vdot(upsample(jnp.asarray(x), k), jnp.asarray(weights)))(jnp.asarray(kernel))
    np.testing.assert_allclose(np.vdot(gradient, direction), slope, rtol=1e-12)


def test_odd_sides_are_refused():
    with pytest.raises(ValueError, match=r"even height and width, got 7 x 4"):
        downsample(jnp.zeros((7, 4, 1)), jnp.zeros((4, 4, 1, 1)))
