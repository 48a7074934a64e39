"""Stage `classifier`: trains the classifier in whose features samples are scored; predictions over whole splits."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree, UInt

from geovq_jax import data
from geovq_jax.config import settings
from geovq_jax.geometry.batching import map_chunks
from geovq_jax.models import classifier
from geovq_jax.stages.records import classifier_architecture
from geovq_jax.stages.run import Run
from geovq_jax.terminal import progress_bar
from geovq_jax.training import tracking
from geovq_jax.training.loop import Fit, fit
from geovq_jax.training.optimizer import make_optimizer

Images = UInt[np.ndarray, "n H W C"] | Float[np.ndarray, "n H W C"]


class Predictions(NamedTuple):
    """Predictions of n images; a confidence is the probability of the label."""

    labels: Int[np.ndarray, " n"]
    confidences: Float[np.ndarray, " n"]
    features: Float[np.ndarray, "n f"]


@partial(jax.jit, static_argnums=1)
def _predict_batch(
    params: PyTree, arch: classifier.Architecture, images: UInt[Array, "b H W C"] | Float[Array, "b H W C"]
) -> tuple[Float[Array, "b c"], Float[Array, "b f"]]:
    hidden = jax.vmap(partial(classifier.features, params, arch))(data.to_float(images))
    return jax.nn.log_softmax(jax.vmap(partial(classifier.logits, params, arch))(hidden)), hidden


def log_probabilities(
    params: PyTree, arch: classifier.Architecture, images: Images, *, batch_size: int = 256
) -> tuple[Float[np.ndarray, "n c"], Float[np.ndarray, "n f"]]:
    """Log probabilities of the classes in nats, and features; ValueError for images of another shape."""
    if images.shape[1:] != tuple(arch.image_shape):
        raise ValueError(f"expected images of shape {arch.image_shape}, got {images.shape[1:]}; use the run's data set")
    predict_fn = partial(_predict_batch, params, arch)
    table, hidden = map_chunks(predict_fn, (images,), batch_size=min(batch_size, len(images)))
    return np.asarray(table), np.asarray(hidden)


def predict(params: PyTree, arch: classifier.Architecture, images: Images, *, batch_size: int = 256) -> Predictions:
    """Most probable class, its probability, and the features of images, integers or floats in [0, 1]."""
    table, hidden = log_probabilities(params, arch, images, batch_size=batch_size)
    return Predictions(table.argmax(axis=1).astype(np.int32), np.exp(table.max(axis=1)), hidden)


def fit_classifier(
    arch: classifier.Architecture,
    train_images: UInt[np.ndarray, "n H W C"],
    train_labels: Int[np.ndarray, " n"],
    valid_images: UInt[np.ndarray, "m H W C"],
    valid_labels: Int[np.ndarray, " m"],
    *,
    key: Key[Array, ""],
    num_steps: int = 1500,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
    augment_fn: Callable[[Key[Array, ""], Float[Array, "b H W C"]], Float[Array, "b H W C"]] | None = None,
    **options: Any,
) -> Fit:
    """Train the classifier and keep the parameters with the lowest validation cross-entropy.

    `learning_rate` is the peak of a cosine schedule, `weight_decay` that of the kernels, `augment_fn` a map (key,
    images) -> images of a batch; `options` go to `training.loop.fit`. The history's `valid/accuracy` is a share in [0,
    1].
    """
    init_key, fit_key = jax.random.split(key)

    def loss_fn(
        params: PyTree, step_key: Key[Array, ""], step: Int[Array, ""], batch: dict[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        augment_key, dropout_key = jax.random.split(step_key)
        images = data.to_float(batch["images"])
        if augment_fn is not None:
            images = augment_fn(augment_key, images)
        return classifier.loss(dropout_key, params, arch, images, batch["labels"])

    def evaluate_fn(params: PyTree) -> dict[str, Any]:
        table, _ = log_probabilities(params, arch, valid_images)
        nats = -table[np.arange(len(table)), valid_labels].mean()
        return {"objective": float(nats), "accuracy": float((table.argmax(axis=1) == valid_labels).mean())}

    return fit(
        loss_fn,
        classifier.init(init_key, arch),
        {"images": jnp.asarray(train_images), "labels": jnp.asarray(train_labels)},
        key=fit_key,
        optimizer=make_optimizer(learning_rate=learning_rate, num_steps=num_steps, weight_decay=weight_decay),
        num_steps=num_steps,
        evaluate_fn=evaluate_fn,
        **options,
    )


def train(run: Run) -> str:
    """Train the classifier on the training split, selected on the validation split, into `classifier/`."""
    config, section, dataset = run.config, run.config.classifier, run.dataset
    with progress_bar("training the classifier") as progress:
        found = fit_classifier(
            classifier_architecture(section, dataset),
            *(dataset.train.images, dataset.train.labels),
            *(dataset.valid.images, dataset.valid.labels),
            key=jax.random.key(config.seed),
            indices_fn=partial(
                data.batch_indices, config.seed, num_examples=len(dataset.train.images), batch_size=section.batch_size
            ),
            num_steps=section.num_steps,
            learning_rate=section.learning_rate,
            weight_decay=section.weight_decay,
            augment_fn=None if section.augment == "none" else partial(data.augment, policy=section.augment),
            evaluate_every=max(1, section.num_steps // 5),
            directory=run.workdir / "classifier",
            metadata=settings(config, "seed", "data", "classifier"),
            log=tracking.open_writer(run.workdir, "classifier", config.tracker),
            progress=progress,
        )
    best = next(record for record in found.history if record["step"] == found.best_step)
    return f"step {found.best_step}: validation accuracy {100 * best['valid/accuracy']:.2f} %"
