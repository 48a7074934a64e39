"""A small convolutional classifier that a run trains on its own data: accuracy, features and class predictions."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from geovq_jax.models.convolution import downsample

DROPOUT = 0.3
LABEL_SMOOTHING = 0.05


class Architecture(NamedTuple):
    """Sizes of the classifier; hashable.

    Attributes:
        image_shape: (height, width, channels) of an image.
        num_classes: C.
        channels: one stride-2 convolution each.
        num_features: f, width of the layer before the logits.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    channels: tuple[int, ...] = (32, 64)
    num_features: int = 128


def _margins(arch: Architecture) -> tuple[tuple[int, int], ...]:
    """Zeros before and after each image axis that make the sides divisible by the total stride."""
    stride = 2 ** len(arch.channels)
    extra = [-side % stride for side in arch.image_shape[:2]]
    return (*((e // 2, e - e // 2) for e in extra), (0, 0))


def init(key: Key[Array, ""], arch: Architecture) -> PyTree:
    """Random parameters: He-normal kernels, zero biases.

    Args:
        key: typed PRNG key.
        arch: sizes.

    Returns:
        Dict of layers, each with `kernel` and `bias`.
    """
    stride = 2 ** len(arch.channels)
    height, width = (-(-side // stride) for side in arch.image_shape[:2])
    inputs = (arch.image_shape[2], *arch.channels[:-1])
    shapes: dict[str, tuple[int, ...]] = {
        f"conv{i}": (4, 4, *pair) for i, pair in enumerate(zip(inputs, arch.channels, strict=True))
    }
    shapes["features"] = (height * width * arch.channels[-1], arch.num_features)
    shapes["logits"] = (arch.num_features, arch.num_classes)
    normal = jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    keys = jax.random.split(key, len(shapes))
    return {
        name: {"kernel": normal(k, shape, jnp.float32), "bias": jnp.zeros(shape[-1], jnp.float32)}
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def features(params: PyTree, arch: Architecture, image: Float[Array, "H W C"]) -> Float[Array, " f"]:
    """Activations before the logits: the space in which samples are scored.

    Args:
        params: parameters.
        arch: sizes.
        image: one image in [0, 1].

    Returns:
        Features [f].
    """
    x = jnp.pad(image - 0.5, _margins(arch))
    for layer in range(len(arch.channels)):
        weights = params[f"conv{layer}"]
        x = jax.nn.silu(downsample(x, weights["kernel"]) + weights["bias"][None, None, :])
    return jax.nn.silu(x.reshape(-1) @ params["features"]["kernel"] + params["features"]["bias"])


def logits(params: PyTree, hidden: Float[Array, " f"]) -> Float[Array, " c"]:
    """Class logits from features: W h + b.

    Args:
        params: parameters.
        hidden: features [f].

    Returns:
        Logits [C].
    """
    return hidden @ params["logits"]["kernel"] + params["logits"]["bias"]


def loss(
    key: Key[Array, ""],
    params: PyTree,
    arch: Architecture,
    images: Float[Array, "b H W C"],
    labels: Int[Array, " b"],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean cross-entropy with smoothed labels and dropout on the features.

    Args:
        key: decides the dropout.
        params: parameters.
        arch: sizes.
        images: batch in [0, 1].
        labels: classes.

    Returns:
        Nats, and `loss` and `accuracy`.
    """
    hidden = jax.vmap(partial(features, params, arch))(images)
    kept = jax.random.bernoulli(key, 1.0 - DROPOUT, hidden.shape)
    scores = jax.vmap(partial(logits, params))(jnp.where(kept, hidden / (1.0 - DROPOUT), 0.0))
    targets = optax.smooth_labels(jax.nn.one_hot(labels, arch.num_classes), LABEL_SMOOTHING)
    value = optax.softmax_cross_entropy(scores, targets).mean()
    return value, {"loss": value, "accuracy": (scores.argmax(axis=1) == labels).mean()}
