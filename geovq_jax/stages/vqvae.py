"""Stage `vqvae`: a joint VQ-VAE with the autoencoder's networks, grid, number of codes, optimiser and budget.

The same training, from a VAE and a codebook of its latents, is the last part of stage `vae` (`vae.joint_steps`).
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer
from ml_collections import ConfigDict

from geovq_jax import data
from geovq_jax.config import settings
from geovq_jax.geometry import cell_metrics, node_metrics
from geovq_jax.geometry.batching import map_chunks
from geovq_jax.models import objective as objectives
from geovq_jax.models import quantizers, vae, vqvae
from geovq_jax.quantization import baselines
from geovq_jax.quantization.assignment import rows_of
from geovq_jax.stages.records import BATCH, Autoencoder, decoder_of, posterior, vae_architecture
from geovq_jax.stages.run import Run
from geovq_jax.terminal import progress_bar
from geovq_jax.training import loop, optimizer, tracking

_SEED_IMAGES = 2_000
_COMMITMENT = 4.0  # of training that starts from a codebook, with the squared error: docs/results.md


class Model(NamedTuple):
    """A trained VQ-VAE: parameters of encoder, decoder and, for "ema", codebook; sizes; settings of the quantizer."""

    params: Any
    arch: vae.Architecture
    quantizer: vqvae.Quantizer


def quantizer_of(config: ConfigDict) -> vqvae.Quantizer:
    """Settings of the quantizer: section `vqvae`, and K of the codebook it is compared with."""
    section = config.vqvae
    levels = tuple(section.levels)
    return vqvae.Quantizer(
        num_codes=quantizers.fsq_size(levels) if section.method == "fsq" else config.codebook.num_clusters,
        levels=levels,
        **{name: section[name] for name in ("method", "decay", "commitment", "gradient", "reseed")},
    )


def architecture_of(run: Run, quantizer: vqvae.Quantizer) -> vae.Architecture:
    """The VAE's sizes; for "fsq" with one latent dimension per level."""
    arch = vae_architecture(run.config.vae, run.dataset.train.images.shape[1:])
    return arch._replace(latent_dim=len(quantizer.levels)) if quantizer.method == "fsq" else arch


def autoencoder_steps(config: ConfigDict) -> int:
    """Steps of stage `vae`."""
    return config.vae.num_steps + config.vae.joint_steps


def num_steps(config: ConfigDict) -> int:
    """The total budget of the post-hoc method: the steps of its autoencoder and of the fine-tuning."""
    return autoencoder_steps(config) + config.codebook.finetune_steps * config.codebook.finetune_decoder


def train(run: Run) -> str:
    """Train the VQ-VAE into `vqvae/`, selected by the squared error of the validation split."""
    log = tracking.open_writer(run.workdir, "vqvae", run.config.tracker)
    model, fit = fit_vqvae(run, run.workdir / "vqvae", steps=num_steps(run.config), log=log)
    used = len(np.unique(encode(model, run.dataset.valid.images)))
    quality = -10 * np.log10(fit.best_value)
    return f"step {fit.best_step}: validation PSNR of the mean squared error {quality:.2f} dB, {used} codes used"


def continue_vae(run: Run, params: Any, directory: Path, *, log: tracking.Writer | None = None) -> tuple[Any, loop.Fit]:
    """Train a VAE for `vae.joint_steps` as a joint VQ-VAE; returns encoder, without variances, and decoder.

    The codebook starts as K-means in the mean pull-back metric. It is not kept: later stages fit one to the latents of
    the trained encoder.
    """
    config, num_codes = run.config, run.config.vae.joint_codes
    quantizer = vqvae.Quantizer(num_codes=num_codes)
    autoencoder = Autoencoder(params, architecture_of(run, quantizer))
    latents = np.asarray(posterior(autoencoder, run.dataset.train.images[: max(_SEED_IMAGES, num_codes)]).mean)
    measure = node_metrics if latents.ndim == 2 else cell_metrics
    parts = np.array_split(latents, -(-len(latents) // BATCH))
    metric = np.mean([np.mean(measure(decoder_of(autoencoder), part), axis=0) for part in parts], axis=0)
    vectors = baselines.mahalanobis(rows_of(latents), metric, num_codes, seed=config.seed).vectors
    start = vqvae.from_vae(params, jnp.asarray(vectors), jnp.asarray(metric))
    model, fit = fit_vqvae(run, directory, steps=config.vae.joint_steps, start=start, quantizer=quantizer, log=log)
    return {part: model.params[part] for part in ("encoder", "decoder")}, fit


def fit_vqvae(
    run: Run,
    directory: Path,
    *,
    steps: int,
    learning_rate: float | None = None,
    start: Any = None,
    quantizer: vqvae.Quantizer | None = None,
    log: tracking.Writer | None = None,
) -> tuple[Model, loop.Fit]:
    """Train, or continue, a VQ-VAE with checkpoints in a directory, selected by the validation squared error.

    The learning rate is by default that of the VAE, the quantizer that of section `vqvae`. `start` holds parameters to
    train further, with the squared error as in `finetune` and a commitment that keeps the latents near their codes;
    None trains fresh ones.
    """
    config, dataset = run.config, run.dataset
    quantizer, learning_rate = quantizer or quantizer_of(config), learning_rate or config.vae.learning_rate
    arch, objective = architecture_of(run, quantizer), objectives.Objective(loss=config.vqvae.loss)
    init_key, fit_key = jax.random.split(jax.random.key(config.seed))
    if start is not None:
        objective, quantizer = objective._replace(loss="mse"), quantizer._replace(commitment=_COMMITMENT)
    metadata = settings(config, "seed", "data", "vae") | {"quantizer": quantizer._asdict(), "loss": objective.loss}
    metadata |= {"steps": steps, "learning_rate": learning_rate}

    def loss_fn(params, key, step, batch):
        augment_key, loss_key = jax.random.split(key)
        images = data.augment(augment_key, data.to_float(batch["images"]), config.data.augment)
        return vqvae.loss(loss_key, params, arch, quantizer, objective, images)

    @jax.jit
    def squared_errors(params, images):
        images = data.to_float(images)
        pixels = jax.vmap(partial(vae.decode, params, arch))(_quantized(params, arch, quantizer, images)[0])
        return jnp.mean(jnp.square(pixels - images), axis=(1, 2, 3))

    def evaluate_fn(params):
        size = min(BATCH, len(dataset.valid.images))
        errors = map_chunks(partial(squared_errors, params), (dataset.valid.images,), batch_size=size)
        return {"objective": float(np.mean(errors)), "psnr": float(np.mean(-10.0 * np.log10(errors)))}

    if start is None:
        seeding = dataset.train.images[: max(_SEED_IMAGES, quantizer.num_codes)]
        start = vqvae.init(init_key, arch, quantizer, data.to_float(seeding))
    with progress_bar("training the VQ-VAE") as progress:
        fit = loop.fit(
            loss_fn,
            start,
            {"images": dataset.train.images},
            key=fit_key,
            optimizer=optimizer.make_optimizer(
                learning_rate=learning_rate,
                num_steps=steps,
                warmup_steps=config.vae.warmup_steps,
                weight_decay=config.vae.weight_decay,
                schedule=config.vae.schedule,
                clip_norm=config.vae.clip_norm or None,
            ),
            num_steps=steps,
            indices_fn=partial(
                data.batch_indices,
                config.seed,
                num_examples=len(dataset.train.images),
                batch_size=config.data.batch_size,
            ),
            evaluate_fn=evaluate_fn,
            evaluate_every=config.vae.evaluate_every,
            patience=config.vae.patience,
            directory=directory,
            metadata=metadata,
            log=log,
            progress=progress,
            update_fn=vqvae.replace_codebook,
        )
    return Model(fit.params, arch, quantizer), fit


def _quantized(params: Any, arch: vae.Architecture, quantizer: vqvae.Quantizer, images: jax.Array) -> tuple:
    latents = jax.vmap(partial(vqvae.encode, params, arch))(images)
    return vqvae.quantize(params, quantizer, latents)


def encode(model: Model, images: np.ndarray) -> Integer[np.ndarray, "n ..."]:
    """Codes of images, [n] or [n, h, w]."""
    quantize = jax.jit(lambda part: _quantized(model.params, model.arch, model.quantizer, data.to_float(part))[1])
    return np.asarray(map_chunks(quantize, (images,), batch_size=min(BATCH, len(images))), np.int32)


def vectors(model: Model) -> Float[np.ndarray, "K d"]:
    """Code vectors that the decoder reads."""
    return np.asarray(vqvae.codebook_vectors(model.params, model.quantizer))
