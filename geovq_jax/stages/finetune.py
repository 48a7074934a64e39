"""What may learn once the codes exist, rung by rung: the decoder, then the code vectors too, then the encoder too.

The first two rungs minimise the squared error of images reconstructed from code vectors, and the codes themselves stay
those of the codebook. On the third the encoder moves: the whole is a joint VQ-VAE, under the loss of one, that starts
from the autoencoder and the codebook (`stages/vqvae.py`).
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from geovq_jax import data
from geovq_jax.geometry.batching import map_chunks
from geovq_jax.models import vae
from geovq_jax.stages.vae import BATCH
from geovq_jax.terminal import ProgressCallback
from geovq_jax.training import loop, optimizer, tracking

Rung = Literal["decoder", "codes"]


class Tuned(NamedTuple):
    """Outcome of one rung.

    Attributes:
        params: the autoencoder's parameters with the decoder that learnt.
        vectors: [K, d], the code vectors that it reads.
        frozen: validation error before, mean squared error a pixel.
        error: validation error after.
    """

    params: Any
    vectors: Float[np.ndarray, "K d"]
    frozen: float
    error: float


def finetune(
    directory: Path | None,
    dataset: data.Dataset,
    codes: Mapping[str, Integer[np.ndarray, "n ..."]],
    params: Any,
    arch: vae.Architecture,
    vectors: Float[np.ndarray, "K d"],
    *,
    rung: Rung,
    num_steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    metadata: dict[str, Any] | None = None,
    log: tracking.Writer | None = None,
    progress: ProgressCallback | None = None,
) -> Tuned:
    """Train what reads the codes to reconstruct the training images from them; the codes do not change.

    Args:
        directory: where checkpoints go and an interrupted training continues; None keeps none.
        dataset: images of the splits "train" and "valid".
        codes: "train" and "valid" -> codes [n] or [n, h, w] of these images.
        params: the autoencoder's parameters.
        arch: its sizes.
        vectors: code vectors to start from.
        rung: "decoder" trains the decoder alone, "codes" the code vectors with it.
        num_steps: gradient steps.
        learning_rate: peak of the cosine schedule.
        batch_size: images a step.
        seed: of the order of batches.
        metadata: JSON settings kept with the checkpoints.
        log: receives the figures of each evaluation.
        progress: called with (steps done, num_steps).

    Returns:
        Tuned, selected by the validation error.
    """
    fixed = jnp.asarray(vectors)
    start = params if rung == "decoder" else params | {"vectors": fixed}

    def squared_errors(learnt, codes, images):
        read = learnt.get("vectors", fixed)
        pixels = jax.vmap(partial(vae.decode, learnt, arch))(read[codes])
        return jnp.mean(jnp.square(pixels - data.to_float(images)), axis=(1, 2, 3))

    def loss_fn(learnt, key, step, batch):
        error = jnp.mean(squared_errors(learnt, batch["codes"], batch["images"]))
        # The mean over pixels is so small that Adam's epsilon would matter.
        return error * dataset.train.images[0].size, {"mse": error}

    valid_errors = jax.jit(squared_errors)

    def evaluate_fn(learnt):
        size = min(BATCH, len(codes["valid"]))
        errors = map_chunks(partial(valid_errors, learnt), (codes["valid"], dataset.valid.images), batch_size=size)
        return {"objective": float(np.mean(errors))}

    frozen = evaluate_fn(start)["objective"]
    fit = loop.fit(
        loss_fn,
        start,
        {"images": dataset.train.images, "codes": codes["train"]},
        key=jax.random.key(seed),
        optimizer=optimizer.make_optimizer(learning_rate=learning_rate, num_steps=num_steps),
        num_steps=num_steps,
        indices_fn=partial(data.batch_indices, seed, num_examples=len(dataset.train.images), batch_size=batch_size),
        evaluate_fn=evaluate_fn,
        evaluate_every=max(1, num_steps // 4),
        directory=directory,
        metadata=metadata,
        log=log,
        progress=progress,
    )
    learnt = dict(fit.params)
    tuned = np.asarray(learnt.pop("vectors", fixed))
    return Tuned(learnt, tuned, frozen, fit.best_value)
