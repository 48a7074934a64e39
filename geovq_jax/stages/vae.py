"""Stages `vae` and `latents`: train the autoencoder, then encode every split in order with the weights that decode.

The autoencoder is a VAE; with `vae.joint_steps` it is then trained further as a joint VQ-VAE, so that its latents lie
near the vectors of a codebook.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from geovq_jax import data, figures
from geovq_jax.config import num_neighbours, training_settings
from geovq_jax.evaluation.image_metrics import ssim
from geovq_jax.figures.style import figure_png
from geovq_jax.keys import OF_VECTORS
from geovq_jax.models import objective as objectives
from geovq_jax.models import uncertainty, vae
from geovq_jax.shards import run_shards
from geovq_jax.stages import external, tensors
from geovq_jax.stages.external import External
from geovq_jax.stages.records import (
    BATCH,
    SPLITS,
    Autoencoder,
    decode_images,
    posterior,
    vae_architecture,
    without_variance,
)
from geovq_jax.stages.run import Run
from geovq_jax.stages.vqvae import continue_vae
from geovq_jax.terminal import progress_bar
from geovq_jax.training import checkpoint, loop, optimizer, tracking
from geovq_jax.workdir import hash_arrays, save_npz, write_atomically

SHARD = 64 * BATCH  # images; about half a minute of encoding
SHOWN = 10  # validation images in reconstructions.png
UNCERTAINTY_IMAGES = 5_000  # largest number of images whose residuals are fitted


def check_sizes(run: Run) -> None:
    """Raise ValueError, before training, naming the key of a size that the data cannot provide."""
    config, dataset = run.config, run.dataset
    if config.vae.kind == "external":
        shape = external.check(external.load(config.vae.module), dataset)
    else:
        shape = vae.latent_shape(vae_architecture(config.vae, dataset.train.images.shape[1:]))
    spatial = len(shape) == 3
    images = min(config.graph.num_images or len(dataset.train.images), len(dataset.train.images))
    nodes = images * int(np.prod(shape[:-1]))
    k, num_clusters = num_neighbours(config.graph.k, shape[-1], spatial=spatial), config.codebook.num_clusters
    if spatial and (method := config.codebook.method) in OF_VECTORS:
        raise ValueError(f"expected a codebook.method for grids of latents, got {method}; choose another")
    if k >= nodes:
        raise ValueError(f"expected graph.k below the number of nodes {nodes}, got {k}; lower --config.graph.k")
    tensors.check_memory(config, nodes, shape)
    if num_clusters > nodes:
        raise ValueError(
            f"expected codebook.num_clusters at most the number of nodes {nodes}, got {num_clusters}; "
            "lower --config.codebook.num_clusters"
        )
    cells, joint_codes = len(dataset.train.images) * int(np.prod(shape[:-1])), config.vae.joint_codes
    if config.vae.joint_steps and config.vae.kind != "external" and joint_codes > cells:
        raise ValueError(
            f"expected vae.joint_codes at most the number of training latents {cells}, got {joint_codes}; "
            "lower --config.vae.joint_codes"
        )
    num_classes, class_id = dataset.num_classes, config.sample.class_id
    if class_id >= num_classes:
        raise ValueError(f"expected sample.class_id below {num_classes}, got {class_id}; -1 samples every class")


def train(run: Run) -> str:
    """Train the autoencoder into `vae/`; the VAE is selected by the un-annealed objective on the validation split."""
    config, dataset = run.config, run.dataset
    section = config.vae
    if section.kind == "external":
        return external.adopt(external.load(section.module), dataset, run.workdir / "vae")
    arch = vae_architecture(run.config.vae, dataset.train.images.shape[1:])
    objective = objectives.Objective(
        loss=section.loss,
        beta=section.beta,
        anneal_steps=section.beta_anneal_steps,
        free_bits=section.free_bits,
        cell_bits=section.cell_bits or None,
        capacity=section.capacity or None,
        capacity_steps=section.capacity_steps,
        capacity_mode=section.capacity_mode,
    )
    init_key, fit_key, valid_key = jax.random.split(jax.random.key(config.seed), 3)

    def loss_fn(params, key, step, batch):
        augment_key, loss_key = jax.random.split(key)
        images = data.augment(augment_key, data.to_float(batch["images"]), config.data.augment)
        return vae.loss(loss_key, params, arch, objective, images, step)

    @jax.jit
    def valid_metrics(params, images):
        images = data.to_float(images)
        metrics = vae.loss(valid_key, params, arch, objectives.without_annealing(objective), images, 0)[1]
        return metrics | {"ssim": jnp.mean(ssim(images, _reconstructed(params, arch, images)))}

    def evaluate_fn(params):
        metrics = mean_over_batches(partial(valid_metrics, params), dataset.valid.images)
        return metrics | {"objective": metrics["loss"]}

    directory = run.workdir / "vae"
    with progress_bar("training the VAE") as progress:
        fit = loop.fit(
            loss_fn,
            vae.init(init_key, arch),
            {"images": dataset.train.images},
            key=fit_key,
            optimizer=optimizer.make_optimizer(
                learning_rate=section.learning_rate,
                num_steps=section.num_steps,
                warmup_steps=section.warmup_steps,
                weight_decay=section.weight_decay,
                schedule=section.schedule,
                clip_norm=section.clip_norm or None,
            ),
            num_steps=section.num_steps,
            indices_fn=partial(
                data.batch_indices,
                config.seed,
                num_examples=len(dataset.train.images),
                batch_size=config.data.batch_size,
            ),
            evaluate_fn=evaluate_fn,
            evaluate_every=section.evaluate_every,
            patience=section.patience,
            directory=directory / "continuous" if section.joint_steps else directory,
            metadata=training_settings(config, "vae", "seed", "data"),
            log=tracking.open_writer(run.workdir, "vae", config.tracker),
            progress=progress,
        )
    best, params, joint = evaluate_fn(fit.params), fit.params, ""
    if section.joint_steps:
        log = tracking.open_writer(run.workdir, "joint", config.tracker)
        params, last = continue_vae(run, params, directory / "joint", log=log)
        checkpoint.save(directory / "best", params, {"settings": training_settings(config, "vae", "seed", "data")})
        joint = f"; quantized {-10 * np.log10(last.best_value):.2f} dB after step {last.best_step} of joint training"
    else:
        tracking.open_writer(run.workdir, "joint").rewind(0)  # no lines of an earlier training under other settings
    _write_reconstructions(run, params, arch)
    if section.uncertainty == "std":
        fit_uncertainty(run)
    quality = f"PSNR {best['psnr']:.2f} dB, SSIM {best['ssim']:.3f}, rate {best['kl']:.1f} nats per image"
    return f"step {fit.best_step}: validation {quality}{loop.why_stopped(fit, section.num_steps)}{joint}"


def _reconstructed(params: Any, arch: vae.Architecture, images: jax.Array) -> jax.Array:
    """Images decoded from the posterior means of images."""
    return jax.vmap(lambda image: vae.decode(params, arch, vae.encode(params, arch, image).mean))(images)


def _write_reconstructions(run: Run, params: Any, arch: vae.Architecture) -> None:
    """Some validation images above what the VAE makes of them, as vae/reconstructions.png."""
    images = data.to_float(run.dataset.valid.images[:SHOWN])
    rows = np.stack([images, _reconstructed(params, arch, images)])
    picture = figure_png(figures.image_grid(rows, ["image", "reconstruction"]))
    write_atomically(run.workdir / "vae" / "reconstructions.png", lambda file: file.write(picture))


def fit_uncertainty(run: Run) -> None:
    """Fit the precision of each pixel to the residuals of some training images, into `vae/uncertainty.npz`."""
    images = run.dataset.train.images
    rows = np.sort(np.random.default_rng(run.config.seed).permutation(len(images))[:UNCERTAINTY_IMAGES])
    latents = np.asarray(posterior(run.autoencoder, images[rows]).mean)
    residuals = decode_images(run.decode_fn, latents) - np.asarray(data.to_float(images[rows]))
    squares = np.square(residuals).reshape(len(rows), -1)
    found = uncertainty.fit_precision(latents, squares, seed=run.config.seed)
    save_npz(run.workdir / "vae" / "uncertainty.npz", **found._asdict())


def mean_over_batches(metrics_fn: Any, images: np.ndarray) -> dict[str, float]:
    """Mean of a batch function's metrics over equal batches of a split; the incomplete last batch is left out."""
    size = min(BATCH, len(images))
    starts = range(0, len(images) - size + 1, size)
    batches = jax.device_get([metrics_fn(images[start : start + size]) for start in starts])
    return {name: float(np.mean([batch[name] for batch in batches])) for name in batches[0]}


def extract_latents(run: Run) -> str:
    """Posterior mean and log variance of every image, in data-set order, into `latents/`."""
    dataset = run.dataset
    for name in SPLITS:
        split = getattr(dataset, name)
        posteriors = partial(_posteriors_of_rows, run.autoencoder, split)
        key = {"vae": run.vae_hash, "images": hash_arrays({"images": split.images}), "arch": str(run.autoencoder.arch)}
        folder = run.workdir / "shards" / f"latents_{name}"
        with progress_bar(f"latents of {name}") as progress:
            found = run_shards(folder, key, len(split.images), posteriors, shard_rows=SHARD, progress=progress)
        if not np.isfinite(found["mean"]).all():
            raise ValueError(
                f"expected finite latents of split {name}, got NaN or infinity; lower vae.learning_rate and retrain"
            )
        save_npz(
            run.workdir / "latents" / f"{name}.npz",
            mean=found["mean"],
            log_variance=found["log_variance"],
            label=split.labels,
            index=split.index,
            image_shape=np.asarray(split.images.shape[1:]),
        )
    return f"{', '.join(str(len(getattr(dataset, name).images)) for name in SPLITS)} images"


def _posteriors_of_rows(autoencoder: Autoencoder, split: data.Split, rows: slice) -> dict[str, np.ndarray]:
    own = autoencoder.arch
    if isinstance(own, External) and own.latents is not None:
        return jax.device_get(without_variance(own.latents[split.index[rows]]))._asdict()
    return posterior(autoencoder, split.images[rows])._asdict()
