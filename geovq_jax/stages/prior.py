"""Stage `prior`: learn the distribution of codes, and score codes under it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Integer
from ml_collections import ConfigDict

from geovq_jax import data
from geovq_jax.config import settings
from geovq_jax.evaluation import likelihood
from geovq_jax.evaluation.likelihood import Likelihood
from geovq_jax.geometry.batching import map_chunks
from geovq_jax.models import gpt
from geovq_jax.stages.records import BATCH, prior_architecture
from geovq_jax.stages.run import Run
from geovq_jax.terminal import ProgressCallback, progress_bar
from geovq_jax.training import loop, optimizer, tracking

Codes = Integer[np.ndarray, "n ..."]
Labels = Integer[np.ndarray, " n"]

_score = jax.jit(gpt.log_probabilities, static_argnames="arch")


def raster(codes: Codes) -> Integer[np.ndarray, "n t"]:
    """Codes [n] or [n, h, w] as sequences [n, t]."""
    return codes.reshape(len(codes), -1)


def fit_prior(
    directory: Path | None,
    splits: Mapping[str, tuple[Codes, Labels]],
    *,
    num_codes: int,
    num_classes: int,
    section: ConfigDict,
    seed: int,
    metadata: dict[str, Any] | None = None,
    log: tracking.Writer | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[Any, gpt.Architecture, loop.Fit]:
    """Train a prior on any codes, selected by bits a code given the class on the validation split.

    Args:
        directory: where checkpoints go, and where an interrupted training continues; None keeps none.
        splits: "train" and "valid" -> codes [n], [n, t] or [n, h, w] in [0, num_codes), and classes [n].
        num_codes: K.
        num_classes: number of classes.
        section: the configuration's section `prior`.
        seed: of the parameters, of dropout and of the order of batches.
        metadata: JSON settings kept with the checkpoints; a training continues only under equal ones.
        log: receives the figures of each evaluation.
        progress: called with (steps done, steps).

    Returns:
        Best parameters, sizes, and the training's history.
    """
    codes, labels = splits["train"]
    valid_codes, valid_labels = splits["valid"]
    arch = prior_architecture(section, codes.shape[1:], num_codes=num_codes, num_classes=num_classes)
    init_key, fit_key = jax.random.split(jax.random.key(seed + 1))

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
        return {"objective": -float(log_probabilities(params, arch, valid_codes, valid_labels).mean()) / np.log(2)}

    fit = loop.fit(
        loss_fn,
        gpt.init(init_key, arch),
        {"codes": raster(codes), "labels": labels},
        key=fit_key,
        optimizer=optimizer.make_optimizer(
            learning_rate=section.learning_rate,
            num_steps=section.num_steps,
            warmup_steps=section.warmup_steps,
            weight_decay=section.weight_decay,
        ),
        num_steps=section.num_steps,
        indices_fn=partial(data.batch_indices, seed, num_examples=len(codes), batch_size=section.batch_size),
        evaluate_fn=evaluate_fn,
        evaluate_every=section.evaluate_every,
        patience=section.patience,
        directory=directory,
        metadata=metadata,
        log=log,
        progress=progress,
    )
    return fit.params, arch, fit


def log_probabilities(
    params: Any, arch: gpt.Architecture, codes: Codes, labels: Labels | None
) -> Float[np.ndarray, "n t"]:
    """log p(code | codes before it) in nats, [n, t]; without labels, of a prior that is not told the class."""
    if labels is None:
        labels = np.full(len(codes), arch.no_class, np.int32)
    score = partial(_score, params, arch)
    return np.asarray(map_chunks(score, (raster(codes), labels), batch_size=min(BATCH, len(codes))))


def likelihoods(
    params: Any,
    arch: gpt.Architecture,
    train_codes: Integer[np.ndarray, "m ..."],
    codes: Codes,
    labels: Labels,
    *,
    num_dimensions: int,
) -> dict[str, Likelihood]:
    """Code length of held-out codes under a prior with and without the class, and under simple models.

    Args:
        params: of the prior.
        arch: its sizes.
        train_codes: training codes, which the unigram and the bigram model count.
        codes: held-out codes, shaped alike.
        labels: their classes.
        num_dimensions: values of one image, H * W * C.

    Returns:
        "gpt", "gpt_without_class", "bigram", "unigram", "uniform" -> `Likelihood`.
    """
    table = {
        "gpt": log_probabilities(params, arch, codes, labels),
        "gpt_without_class": log_probabilities(params, arch, codes, None),
        "bigram": likelihood.bigram_log_probabilities(train_codes, codes, arch.num_codes),
        "unigram": likelihood.unigram_log_probabilities(train_codes, codes, arch.num_codes),
        "uniform": likelihood.uniform_log_probabilities(codes, arch.num_codes),
    }
    return {name: likelihood.likelihood(values, num_dimensions) for name, values in table.items()}


def train(run: Run) -> str:
    """Train the prior on the training codes, selected on the validation split, into `prior/`."""
    config, splits = run.config, {name: run.codes(name) for name in ("train", "valid")}
    with progress_bar("training the prior") as progress:
        _, arch, fit = fit_prior(
            run.workdir / "prior",
            {name: (found.codes, found.label) for name, found in splits.items()},
            num_codes=config.codebook.num_clusters,
            num_classes=run.num_classes,
            section=config.prior,
            seed=config.seed,
            metadata=settings(config, "seed", "codebook", "prior"),
            log=tracking.open_writer(run.workdir, "prior", config.tracker),
            progress=progress,
        )
    return f"step {fit.best_step}: validation {fit.best_value:.3f} bits per code of {np.log2(arch.num_codes):.0f}"
