"""Stages `vae` and `latents`: train the autoencoder, then encode every split in order with the weights that decode."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from geovq_jax import data
from geovq_jax.config import settings
from geovq_jax.geometry.batching import map_chunks
from geovq_jax.models import objective as objectives
from geovq_jax.models import vae
from geovq_jax.quantization.codebook import parameters_hash
from geovq_jax.shards import run_shards
from geovq_jax.terminal import progress_bar
from geovq_jax.training import checkpoint, loop, optimizer, tracking
from geovq_jax.workdir import hash_arrays, save_npz

SPLITS = ("train", "valid", "test")
BATCH = 250
SHARD = 64 * BATCH  # images; half a minute or so of encoding


def load_data(config: ConfigDict) -> data.Dataset:
    """The experiment's data set."""
    section = config.data
    return data.load(
        section.name,
        data_dir=section.dir or None,
        seed=config.seed,
        max_train=section.max_train or None,
        max_valid=section.max_valid or None,
        max_test=section.max_test or None,
    )


def check_sizes(config: ConfigDict) -> None:
    """Refuse, before anything is trained, what cannot fit the data: a class, neighbours or codes that are not there.

    Raises:
        ValueError: the key, what was expected and what came.
    """
    dataset = load_data(config)
    arch = architecture(config, dataset.train.images.shape[1:])
    images = min(config.graph.num_images or len(dataset.train.images), len(dataset.train.images))
    nodes = images if arch.kind == "vanilla" else images * int(np.prod(vae.grid_shape(arch)))
    k, num_clusters = config.graph.k, config.codebook.num_clusters
    if k >= nodes:
        raise ValueError(f"expected graph.k below the number of nodes {nodes}, got {k}; lower --config.graph.k")
    if num_clusters > nodes:
        raise ValueError(
            f"expected codebook.num_clusters at most the number of nodes {nodes}, got {num_clusters}; "
            "lower --config.codebook.num_clusters"
        )
    num_classes, class_id = dataset.num_classes, config.sample.class_id
    if class_id >= num_classes:
        raise ValueError(f"expected sample.class_id below {num_classes}, got {class_id}; -1 samples every class")


def architecture(config: ConfigDict, image_shape: tuple[int, ...]) -> vae.Architecture:
    """Sizes of the VAE for images of a shape."""
    section = config.vae
    return vae.Architecture(
        kind=section.kind,
        image_shape=(image_shape[0], image_shape[1], image_shape[2]),
        latent_dim=section.latent_dim,
        channels=tuple(section.channels),
        norm=section.norm,
        output=section.output,
    )


def train(workdir: Path, config: ConfigDict) -> str:
    """Train the VAE into `vae/`; select by the un-annealed objective on the validation split."""
    section = config.vae
    dataset = load_data(config)
    arch = architecture(config, dataset.train.images.shape[1:])
    objective = objectives.Objective(
        loss=section.loss,
        beta=section.beta,
        anneal_steps=section.beta_anneal_steps,
        free_bits=section.free_bits,
        cell_bits=section.cell_bits or None,
    )
    init_key, fit_key, valid_key = jax.random.split(jax.random.key(config.seed), 3)

    def loss_fn(params, key, step, batch):
        augment_key, loss_key = jax.random.split(key)
        images = data.augment(augment_key, data.to_float(batch["images"]), config.data.augment)
        return vae.loss(loss_key, params, arch, objective, images, step)

    @jax.jit
    def valid_metrics(params, images):
        return vae.loss(valid_key, params, arch, objectives.without_annealing(objective), data.to_float(images), 0)[1]

    def evaluate_fn(params):
        metrics = mean_over_batches(partial(valid_metrics, params), dataset.valid.images)
        return metrics | {"objective": metrics["loss"]}

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
            directory=workdir / "vae",
            metadata=settings(config, "seed", "data", "vae"),
            log=tracking.open_writer(workdir, "vae", config.tracker),
            progress=progress,
        )
    best = evaluate_fn(fit.params)
    return f"step {fit.best_step}: validation {best['psnr']:.2f} dB, rate {best['kl']:.1f} nats an image"


def mean_over_batches(metrics_fn: Any, images: np.ndarray) -> dict[str, float]:
    """Mean of a batch function's metrics over equal batches of a split; the rest of the division is left out."""
    size = min(BATCH, len(images))
    batches = [metrics_fn(images[start : start + size]) for start in range(0, len(images) - size + 1, size)]
    gathered = jax.device_get(batches)
    return {name: float(np.mean([batch[name] for batch in gathered])) for name in gathered[0]}


def load_vae(workdir: Path, config: ConfigDict, image_shape: tuple[int, ...]) -> tuple[Any, vae.Architecture]:
    """Best parameters of the VAE and its sizes."""
    return load_params(workdir / "vae", config, image_shape)


def _decode(arch: vae.Architecture, params: Any, z: jax.Array) -> jax.Array:
    return vae.decode(params, arch, z)


def decoder(params: Any, arch: vae.Architecture) -> jax.tree_util.Partial:
    """The map z -> x of one latent, with the parameters as leaves: compiled once for all parameters."""
    return jax.tree_util.Partial(partial(_decode, arch), params)


def load_params(directory: Path, config: ConfigDict, image_shape: tuple[int, ...]) -> tuple[Any, vae.Architecture]:
    """Best VAE-shaped parameters of a checkpoint folder (`vae/` or `decoder/`) and their sizes."""
    arch = architecture(config, image_shape)
    abstract = jax.eval_shape(partial(vae.init, arch=arch), jax.random.key(0))
    return checkpoint.load(directory / "best", abstract), arch


def extract_latents(workdir: Path, config: ConfigDict) -> str:
    """Posterior mean and log variance of every image, in data-set order, into `latents/`."""
    dataset = load_data(config)
    params, arch = load_vae(workdir, config, dataset.train.images.shape[1:])
    encode = jax.jit(jax.vmap(lambda image: vae.encode(params, arch, data.to_float(image))))
    for name in SPLITS:
        split = getattr(dataset, name)

        def posteriors(rows: slice, images: np.ndarray = split.images) -> dict[str, np.ndarray]:
            return jax.device_get(map_chunks(encode, (images[rows],), batch_size=BATCH))._asdict()

        key = {"vae": parameters_hash(params), "images": hash_arrays({"images": split.images}), "arch": str(arch)}
        found = run_shards(workdir / "shards" / f"latents_{name}", key, len(split.images), posteriors, shard_rows=SHARD)
        if not np.isfinite(found["mean"]).all():
            raise ValueError(
                f"expected finite latents of split {name}, got NaN or infinity; lower vae.learning_rate and retrain"
            )
        save_npz(
            workdir / "latents" / f"{name}.npz",
            mean=found["mean"],
            log_variance=found["log_variance"],
            label=split.labels,
            index=split.index,
            image_shape=np.asarray(split.images.shape[1:]),
        )
    return f"{', '.join(str(len(getattr(dataset, name).images)) for name in SPLITS)} images"
