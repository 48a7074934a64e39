"""A small convolutional classifier, whose features score samples: functions of one example."""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

DROPOUT = 0.3
LABEL_SMOOTHING = 0.05


class Architecture(NamedTuple):
    """Sizes of the classifier; hashable.

    Attributes:
        image_shape: (height, width, channels).
        channels: one stride-2 convolution each.
        num_features: f, width of the layer before the logits.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    channels: tuple[int, ...] = (32, 64)
    num_features: int = 128


class Network(nn.Module):
    """Stride-2 convolutions and a dense layer to the features, then a linear head to the logits."""

    arch: Architecture

    def setup(self) -> None:
        kernel_init = nn.initializers.he_normal()
        self.convolutions = [nn.Conv(size, (4, 4), strides=2, kernel_init=kernel_init) for size in self.arch.channels]
        self.dense = nn.Dense(self.arch.num_features, kernel_init=kernel_init)
        self.head = nn.Dense(self.arch.num_classes, kernel_init=kernel_init)

    def features(self, image: Float[Array, "H W C"]) -> Float[Array, " f"]:
        x = image - 0.5
        for convolution in self.convolutions:
            x = nn.silu(convolution(x))
        return nn.silu(self.dense(x.reshape(-1)))

    def logits(self, hidden: Float[Array, " f"]) -> Float[Array, " c"]:
        return self.head(hidden)

    def __call__(self, image: Float[Array, "H W C"]) -> Float[Array, " c"]:
        return self.logits(self.features(image))


def init(key: Key[Array, ""], arch: Architecture) -> PyTree[Float[Array, "..."]]:
    """Random parameters: He-normal kernels, zero biases."""
    image = jax.ShapeDtypeStruct(arch.image_shape, jnp.float32)
    return Network(arch).lazy_init(key, image)["params"]


def features(params: PyTree, arch: Architecture, image: Float[Array, "H W C"]) -> Float[Array, " f"]:
    """Activations before the logits for one image in [0, 1]: the space in which samples are scored."""
    return jnp.asarray(Network(arch).apply({"params": params}, image, method="features"))


def logits(params: PyTree, arch: Architecture, hidden: Float[Array, " f"]) -> Float[Array, " c"]:
    """Class logits from features: W h + b."""
    return jnp.asarray(Network(arch).apply({"params": params}, hidden, method="logits"))


def loss(
    key: Key[Array, ""], params: PyTree, arch: Architecture, images: Float[Array, "b H W C"], labels: Int[Array, " b"]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean cross-entropy in nats with smoothed labels and dropout on the features; metrics `loss` and `accuracy`.

    The key is used for dropout; images are in [0, 1].
    """
    hidden = jax.vmap(partial(features, params, arch))(images)
    kept = jax.random.bernoulli(key, 1.0 - DROPOUT, hidden.shape)
    scores = jax.vmap(partial(logits, params, arch))(jnp.where(kept, hidden / (1.0 - DROPOUT), 0.0))
    targets = optax.smooth_labels(jax.nn.one_hot(labels, arch.num_classes), LABEL_SMOOTHING)
    value = optax.softmax_cross_entropy(scores, targets).mean()
    return value, {"loss": value, "accuracy": (scores.argmax(axis=1) == labels).mean()}
