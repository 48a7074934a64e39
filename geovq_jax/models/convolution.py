"""4x4 convolutions of stride 2, down and up, in the forms that train fast on a CPU as well.

Down is XLA's strided convolution. Its adjoint as XLA's transposed convolution has a slow backward pass on CPUs, so up
is written as one matrix product whose overlapping pieces are added. Both are plain operations that admit forward and
reverse differentiation, which the pull-back metric needs.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def downsample(x: Float[Array, "h w c"], kernel: Float[Array, "4 4 c o"]) -> Float[Array, "h//2 w//2 o"]:
    """Convolution with a 4x4 kernel, stride 2 and one pixel of zero padding; ValueError for odd h or w.

    y[p, q] = sum_{i, j} x[2 p + i - 1, 2 q + j - 1] kernel[i, j]
    """
    if x.shape[0] % 2 or x.shape[1] % 2:
        raise ValueError(f"expected an even height and width, got {x.shape[0]} x {x.shape[1]}; pad the image first")
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x[None], kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=layout)[0]


def upsample(x: Float[Array, "h w c"], kernel: Float[Array, "4 4 c o"]) -> Float[Array, "2*h 2*w o"]:
    """Transposed convolution with a 4x4 kernel, stride 2 and one pixel cropped; the adjoint of `downsample` in x.

    y[2 p + i - 1, 2 q + j - 1] += x[p, q] kernel[i, j]

    With i = 2 a + r and j = 2 b + s, (a, b) shifts the 2x2 blocks of output pixels and (r, s) is the pixel within its
    block. The two column shifts are gathered from neighbours before one product with [2 c, 8 o] weights; the two row
    shifts are added after it.
    """
    h, w, c = x.shape
    o = kernel.shape[3]
    weights = kernel.reshape(2, 2, 2, 2, c, o).transpose(2, 4, 0, 1, 3, 5).reshape(2 * c, 8 * o)
    pairs = jnp.concatenate([jnp.pad(x, ((0, 0), (b, 1 - b), (0, 0))) for b in range(2)], axis=-1)
    # A split, because its transpose is one concatenation; slices would transpose to padded arrays.
    pieces = jnp.split(pairs @ weights, 2, axis=-1)
    upper, lower = (jnp.pad(piece, ((a, 1 - a), (0, 0), (0, 0))) for a, piece in enumerate(pieces))
    pixels = (upper + lower).reshape(h + 1, w + 1, 2, 2, o).transpose(0, 2, 1, 3, 4).reshape(2 * h + 2, 2 * w + 2, o)
    return pixels[1:-1, 1:-1]
