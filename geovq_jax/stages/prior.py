"""Stages `prior` and `samples`: learn the codes' distribution, draw from it, decode."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from geovq_jax import data
from geovq_jax.config import settings
from geovq_jax.evaluation import figures
from geovq_jax.evaluation.report import figure_png
from geovq_jax.geometry.batching import map_chunks
from geovq_jax.models import gpt, vae
from geovq_jax.models.sampling import sample
from geovq_jax.quantization.codebook import load_codebook, lookup
from geovq_jax.stages.codes import image_shape, load_codes
from geovq_jax.stages.vae import BATCH, load_params
from geovq_jax.terminal import progress_bar
from geovq_jax.training import checkpoint, loop, optimizer, tracking
from geovq_jax.workdir import save_npz, write_atomically


def architecture(config: ConfigDict, code_shape: tuple[int, ...], num_classes: int) -> gpt.Architecture:
    """Sizes of the prior for codes of a shape: () of a vanilla latent, (h, w) of a spatial one."""
    section = config.prior
    return gpt.Architecture(
        num_codes=config.codebook.num_clusters,
        length=int(np.prod(code_shape)),
        num_classes=num_classes,
        embed_dim=section.embed_dim,
        num_layers=section.num_layers,
        num_heads=section.num_heads,
        dropout=section.dropout,
        grid=(code_shape[0], code_shape[1]) if len(code_shape) == 2 else None,
    )


def raster(codes: np.ndarray) -> np.ndarray:
    """Codes [n] or [n, h, w] as sequences [n, t]."""
    return codes.reshape(len(codes), -1)


def num_classes(workdir: Path) -> int:
    """Number of classes among the training labels."""
    return int(load_codes(workdir, "train")["label"].max()) + 1


def train(workdir: Path, config: ConfigDict) -> str:
    """Train the prior on the training codes, selected by bits a code on the validation split, into `prior/`."""
    section = config.prior
    splits = {name: load_codes(workdir, name) for name in ("train", "valid")}
    arch = architecture(config, splits["train"]["codes"].shape[1:], num_classes(workdir))
    init_key, fit_key = jax.random.split(jax.random.key(config.seed + 1))
    train_codes, valid_codes = (raster(splits[name]["codes"]) for name in ("train", "valid"))
    log_probabilities = jax.jit(partial(gpt.log_probabilities, arch=arch))

    def loss_fn(params, key, step, batch):
        return gpt.loss(
            key,
            params,
            arch,
            batch["codes"],
            batch["labels"],
            label_smoothing=section.label_smoothing,
            label_dropout=section.label_dropout,
        )

    def evaluate_fn(params):
        score = partial(_log_probabilities, log_probabilities, params)
        bits = -float(np.mean(map_chunks(score, (valid_codes, splits["valid"]["label"]), batch_size=BATCH))) / np.log(2)
        return {"objective": bits}

    with progress_bar("training the prior") as progress:
        fit = loop.fit(
            loss_fn,
            gpt.init(init_key, arch),
            {"codes": train_codes, "labels": splits["train"]["label"]},
            key=fit_key,
            optimizer=optimizer.make_optimizer(
                learning_rate=section.learning_rate,
                num_steps=section.num_steps,
                warmup_steps=section.warmup_steps,
                weight_decay=section.weight_decay,
            ),
            num_steps=section.num_steps,
            indices_fn=partial(
                data.batch_indices, config.seed, num_examples=len(train_codes), batch_size=section.batch_size
            ),
            evaluate_fn=evaluate_fn,
            evaluate_every=section.evaluate_every,
            patience=section.patience,
            directory=workdir / "prior",
            metadata=settings(config, "seed", "codebook", "prior"),
            log=tracking.JsonlWriter(workdir / "metrics.jsonl", "prior"),
            progress=progress,
        )
    return f"step {fit.best_step}: validation {fit.best_value:.3f} bits a code of {np.log2(arch.num_codes):.0f}"


def _log_probabilities(function: Any, params: Any, codes: jax.Array, labels: jax.Array) -> jax.Array:
    return function(params, codes=codes, labels=labels)


def load_prior(workdir: Path, config: ConfigDict) -> tuple[Any, gpt.Architecture]:
    """Best parameters of the prior and its sizes."""
    code_shape = load_codes(workdir, "train")["codes"].shape[1:]
    arch = architecture(config, code_shape, num_classes(workdir))
    abstract = jax.eval_shape(partial(gpt.init, arch=arch), jax.random.key(0))
    return checkpoint.load(workdir / "prior" / "best", abstract), arch


def code_log_probabilities(
    workdir: Path, config: ConfigDict, codes: np.ndarray, labels: np.ndarray | None
) -> np.ndarray:
    """log p(code | codes before it, label) in nats, [n, t]; without labels, of a prior that does not know the class."""
    params, arch = load_prior(workdir, config)
    if labels is None:
        labels = np.full(len(codes), arch.no_class, np.int32)
    score = jax.jit(partial(gpt.log_probabilities, params, arch))
    return np.asarray(map_chunks(score, (raster(codes), labels), batch_size=BATCH))


def decode_codes(workdir: Path, config: ConfigDict, codes: np.ndarray) -> np.ndarray:
    """Images [n, H, W, C] in [0, 1] of codes [n] or [n, h, w], by the fine-tuned decoder."""
    params, arch = load_params(workdir / "decoder", config, image_shape(workdir))
    latents = lookup(load_codebook(workdir / "codebook.npz"), codes)
    decode = jax.jit(jax.vmap(partial(vae.decode, params, arch)))
    return np.clip(np.asarray(map_chunks(decode, (latents,), batch_size=BATCH)), 0.0, 1.0)


def generate(workdir: Path, config: ConfigDict) -> str:
    """Draw codes for every class (or one), decode them, and write samples.npz and a grid with one row a class."""
    section = config.sample
    params, arch = load_prior(workdir, config)
    if section.class_id >= arch.num_classes:
        raise ValueError(
            f"expected sample.class_id below {arch.num_classes}, got {section.class_id}; -1 samples every class"
        )
    classes = [section.class_id] if section.class_id >= 0 else list(range(arch.num_classes))
    columns = -(-section.num_samples // len(classes))
    labels = np.repeat(np.asarray(classes, np.int32), columns)[: section.num_samples]
    drawn = sample(
        jax.random.key(config.seed + 2),
        params,
        arch,
        jnp.asarray(labels),
        temperature=section.temperature,
        top_k=section.top_k or None,
        top_p=section.top_p if section.top_p < 1.0 else None,
        guidance=section.guidance,
    )
    codes = np.asarray(drawn.codes).reshape(len(labels), *load_codes(workdir, "train")["codes"].shape[1:])
    images = decode_codes(workdir, config, codes)
    save_npz(
        workdir / "samples.npz",
        codes=codes,
        images=images,
        labels=labels,
        log_probabilities=np.asarray(drawn.log_probabilities),
        **{name: section[name] for name in ("temperature", "top_k", "top_p", "guidance")},
    )
    grid, captions = sample_rows(images, labels)
    picture = figure_png(figures.image_grid(grid, captions))
    write_atomically(workdir / "samples.png", lambda file: file.write(picture))
    return f"{len(labels)} images, {workdir / 'samples.png'}"


def sample_rows(images: np.ndarray, labels: np.ndarray, *, columns: int = 10) -> tuple[np.ndarray, list[str]]:
    """Samples as rows of one class each, white where a class has too few, with their captions."""
    classes = np.unique(labels)
    rows = np.ones((len(classes), min(columns, int(np.bincount(labels).max())), *images.shape[1:]), np.float32)
    for row, label in zip(rows, classes, strict=True):
        chosen = images[labels == label][: len(row)]
        row[: len(chosen)] = chosen
    return rows, [f"class {label}" for label in classes]
