"""The vanilla VAE on Fashion-MNIST, d = 16, that several benchmarks share: 20,000 images, a few minutes on one core."""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from geovq_jax.data import Dataset, load
from geovq_jax.data.batches import batch_indices, to_float
from geovq_jax.models import objective, vae
from geovq_jax.training.loop import fit
from geovq_jax.training.optimizer import make_optimizer

TRAIN_IMAGES = 20_000


class FashionVAE(NamedTuple):
    """A trained VAE and the data it belongs to.

    Attributes:
        dataset: all of Fashion-MNIST; the VAE saw the first 20,000 training images.
        decode: map of one latent [16] to an image [28, 28, 1], a pytree that binds the parameters.
        encode: map of images uint8 [b, 28, 28, 1] to mean latents [b, 16].
    """

    dataset: Dataset
    decode: jax.tree_util.Partial
    encode: Any


def train(workdir: str, *, steps: int = 1_500, beta: float = 1.0) -> FashionVAE:
    """Trains the VAE, or continues from the checkpoints in `workdir`, and prints what it reached."""
    dataset = load("fashion_mnist")
    images, valid = dataset.train.images[:TRAIN_IMAGES], to_float(jnp.asarray(dataset.valid.images[:2000]))
    arch = vae.Architecture("vanilla", (28, 28, 1), 16, (32, 64, 128))
    terms, key = objective.Objective(beta=beta), jax.random.key(0)

    @jax.jit
    def evaluate(params):
        _, metrics = vae.loss(jax.random.key(1), params, arch, terms, valid, 0)
        return {"objective": metrics["loss"], **metrics}

    start = time.process_time()
    fitted = fit(
        lambda params, key, step, batch: vae.loss(key, params, arch, terms, to_float(batch), step),
        vae.init(key, arch),
        images,
        key=key,
        optimizer=make_optimizer(learning_rate=1e-3, num_steps=steps, warmup_steps=50),
        num_steps=steps,
        indices_fn=lambda step: batch_indices(0, step, len(images), 128),
        evaluate_fn=evaluate,
        evaluate_every=250,
        directory=workdir,
    )
    figures = ", ".join(f"{name.split('/')[-1]} {fitted.history[-1][name]:.2f}" for name in ("valid/kl", "valid/psnr"))
    print(f"VAE after {fitted.last_step} steps, {time.process_time() - start:.0f} CPU-s: {figures}", flush=True)
    decode = jax.tree_util.Partial(partial(_decode, arch), fitted.params)
    encode = jax.jit(jax.vmap(lambda image: vae.encode(fitted.params, arch, to_float(image)).mean))
    return FashionVAE(dataset, decode, encode)


def _decode(arch: vae.Architecture, params: Any, z: jax.Array) -> jax.Array:
    return vae.decode(params, arch, z)


def by_parts(function: Any, rows: Any, size: int = 500) -> np.ndarray:
    """Applies a batched function to parts of the rows."""
    return np.concatenate([np.asarray(function(rows[i : i + size])) for i in range(0, len(rows), size)])
