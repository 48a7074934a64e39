"""A small convolutional classifier that a run trains on its own data: accuracy, features and class predictions."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from geovq_jax.geometry.batching import map_chunks
from geovq_jax.models.convolution import downsample
from geovq_jax.training.loop import Fit, fit
from geovq_jax.training.optimizer import make_optimizer
from geovq_jax.training.tracking import Writer

Images = UInt8[np.ndarray, "n H W C"] | Float[np.ndarray, "n H W C"]

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


class Predictions(NamedTuple):
    """Predictions of n images: `labels` [n], `confidences` [n] (probability of the label), `features` [n, f]."""

    labels: Int[np.ndarray, " n"]
    confidences: Float[np.ndarray, " n"]
    features: Float[np.ndarray, "n f"]


def _margins(arch: Architecture) -> tuple[tuple[int, int], ...]:
    """Zeros before and after each image axis that make the sides divisible by the total stride."""
    stride = 2 ** len(arch.channels)
    extra = [-side % stride for side in arch.image_shape[:2]]
    return (*((e // 2, e - e // 2) for e in extra), (0, 0))


def _unit(images: UInt8[Array, "b H W C"] | Float[Array, "b H W C"]) -> Float[Array, "b H W C"]:
    """Images in [0, 1], whatever their storage."""
    return images.astype(jnp.float32) / 255.0 if images.dtype == jnp.uint8 else images


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


@partial(jax.jit, static_argnums=1)
def _predict_batch(
    params: PyTree, arch: Architecture, images: UInt8[Array, "b H W C"] | Float[Array, "b H W C"]
) -> tuple[Float[Array, "b c"], Float[Array, "b f"]]:
    hidden = jax.vmap(partial(features, params, arch))(_unit(images))
    return jax.nn.log_softmax(jax.vmap(partial(logits, params))(hidden)), hidden


def log_probabilities(
    params: PyTree, arch: Architecture, images: Images, *, batch_size: int = 256
) -> tuple[Float[np.ndarray, "n c"], Float[np.ndarray, "n f"]]:
    """Log probabilities of the classes and features of n images.

    Args:
        params: parameters.
        arch: sizes.
        images: images [n, H, W, C], uint8 or float in [0, 1].
        batch_size: images at once.

    Returns:
        Log probabilities [n, C] in nats and features [n, f].

    Raises:
        ValueError: the images have another shape than the classifier's.
    """
    if images.shape[1:] != tuple(arch.image_shape):
        raise ValueError(f"expected images of shape {arch.image_shape}, got {images.shape[1:]}; use the run's data set")

    run = partial(_predict_batch, params, arch)
    table, hidden = map_chunks(run, (images,), batch_size=min(batch_size, len(images)))
    return np.asarray(table), np.asarray(hidden)


def predict(params: PyTree, arch: Architecture, images: Images, *, batch_size: int = 256) -> Predictions:
    """Most probable class, its probability, and the features of n images.

    Args:
        params: parameters.
        arch: sizes.
        images: images [n, H, W, C], uint8 or float in [0, 1].
        batch_size: images at once.

    Returns:
        The predictions, in order.
    """
    table, hidden = log_probabilities(params, arch, images, batch_size=batch_size)
    return Predictions(table.argmax(axis=1).astype(np.int32), np.exp(table.max(axis=1)), hidden)


def train(
    arch: Architecture,
    train_images: UInt8[np.ndarray, "n H W C"],
    train_labels: Int[np.ndarray, " n"],
    valid_images: UInt8[np.ndarray, "m H W C"],
    valid_labels: Int[np.ndarray, " m"],
    *,
    key: Key[Array, ""],
    indices_fn: Callable[[int], Int[np.ndarray, " b"]],
    num_steps: int = 1500,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
    augment_fn: Callable[[Key[Array, ""], Float[Array, "b H W C"]], Float[Array, "b H W C"]] | None = None,
    evaluate_every: int = 250,
    directory: str | Path | None = None,
    metadata: dict[str, Any] | None = None,
    log: Writer | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Train the classifier and keep the parameters with the lowest validation cross-entropy.

    Args:
        arch: sizes.
        train_images: training images.
        train_labels: their classes.
        valid_images: validation images.
        valid_labels: their classes.
        key: decides parameters, dropout and augmentation.
        indices_fn: step -> rows of its batch, on the host.
        num_steps: steps to take.
        learning_rate: peak of a cosine schedule.
        weight_decay: decoupled decay of the kernels.
        augment_fn: varies the images of a batch, (key, images) -> images.
        evaluate_every: steps between evaluations.
        directory: where checkpoints go, and where an interrupted training continues.
        metadata: JSON settings kept with the checkpoints; a training continues only under equal ones.
        log: receives the figures of each evaluation.
        progress: called with (steps done, num_steps).

    Returns:
        Parameters of the best evaluation and the history, whose `valid/accuracy` is a share in [0, 1].
    """
    init_key, fit_key = jax.random.split(key)

    def loss_fn(
        params: PyTree, step_key: Key[Array, ""], step: Int[Array, ""], batch: dict[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        augment_key, dropout_key = jax.random.split(step_key)
        images = _unit(batch["images"])
        if augment_fn is not None:
            images = augment_fn(augment_key, images)
        return loss(dropout_key, params, arch, images, batch["labels"])

    def evaluate_fn(params: PyTree) -> dict[str, Any]:
        table, _ = log_probabilities(params, arch, valid_images)
        nats = -table[np.arange(len(table)), valid_labels].mean()
        return {"objective": float(nats), "accuracy": float((table.argmax(axis=1) == valid_labels).mean())}

    return fit(
        loss_fn,
        init(init_key, arch),
        {"images": jnp.asarray(train_images), "labels": jnp.asarray(train_labels)},
        key=fit_key,
        optimizer=make_optimizer(learning_rate=learning_rate, num_steps=num_steps, weight_decay=weight_decay),
        num_steps=num_steps,
        indices_fn=indices_fn,
        evaluate_fn=evaluate_fn,
        evaluate_every=evaluate_every,
        directory=directory,
        metadata=metadata,
        log=log,
        progress=progress,
    )
