"""4x4 convolutions of stride 2, down and up, as one matrix product each.

Both views of the same linear map fold 2x2 blocks of pixels into channels, so a 4x4 kernel of stride 2 becomes a 2x2 kernel
of stride 1. Down gathers the four neighbouring blocks and multiplies once; up multiplies once and adds the four
overlapping pieces. Plain reshapes, slices and products: fast forward and backward on every device, and differentiable in
both modes, which the pull-back metric needs.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def _fold_kernel(kernel: Float[Array, "4 4 c o"]) -> Float[Array, "2 2 2 2 c o"]:
    """Kernel index 2 a + i as (block a, pixel i within the block), for rows and columns: axes (a, b, i, j, c, o)."""
    c, o = kernel.shape[2:]
    return kernel.reshape(2, 2, 2, 2, c, o).transpose(0, 2, 1, 3, 4, 5)


def downsample(x: Float[Array, "h w c"], kernel: Float[Array, "4 4 c o"]) -> Float[Array, "h//2 w//2 o"]:
    """Convolution with a 4x4 kernel, stride 2 and one pixel of zero padding.

    y[p, q] = sum_{i, j} x[2 p + i - 1, 2 q + j - 1] kernel[i, j]

    Args:
        x: image; h and w even.
        kernel: weights (row, column, channel in, channel out).

    Returns:
        Image of half the height and width.

    Raises:
        ValueError: if h or w is odd.
    """
    h, w, c = x.shape
    if h % 2 or w % 2:
        raise ValueError(f"expected an even height and width, got {h} x {w}; pad the image first")
    blocks = jnp.pad(x, ((1, 1), (1, 1), (0, 0))).reshape(h // 2 + 1, 2, w // 2 + 1, 2, c)
    blocks = blocks.transpose(0, 2, 1, 3, 4).reshape(h // 2 + 1, w // 2 + 1, 4 * c)
    patches = jnp.concatenate([blocks[:-1, :-1], blocks[:-1, 1:], blocks[1:, :-1], blocks[1:, 1:]], axis=-1)
    return patches @ _fold_kernel(kernel).reshape(16 * c, -1)


def upsample(x: Float[Array, "h w c"], kernel: Float[Array, "4 4 c o"]) -> Float[Array, "2*h 2*w o"]:
    """Transposed convolution with a 4x4 kernel, stride 2 and one pixel cropped: the adjoint of `downsample`.

    y[2 p + i - 1, 2 q + j - 1] += x[p, q] kernel[i, j]

    Args:
        x: image.
        kernel: weights (row, column, channel in, channel out).

    Returns:
        Image of twice the height and width.
    """
    h, w, c = x.shape
    o = kernel.shape[3]
    pieces = x @ _fold_kernel(kernel).transpose(4, 0, 1, 2, 3, 5).reshape(c, 16 * o)
    pieces = pieces.reshape(h, w, 4, 4 * o)
    blocks = sum(
        jnp.pad(pieces[:, :, 2 * a + b], ((a, 1 - a), (b, 1 - b), (0, 0))) for a in range(2) for b in range(2)
    )
    pixels = blocks.reshape(h + 1, w + 1, 2, 2, o).transpose(0, 2, 1, 3, 4).reshape(2 * h + 2, 2 * w + 2, o)
    return pixels[1:-1, 1:-1]
