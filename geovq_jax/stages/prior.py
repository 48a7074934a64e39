"""Stage `prior`: train a prior over the codes, and score codes under it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Integer
from ml_collections import ConfigDict

from geovq_jax import data
from geovq_jax.config import training_settings
from geovq_jax.evaluation import likelihood
from geovq_jax.evaluation.likelihood import Likelihood
from geovq_jax.models import gpt
from geovq_jax.stages.records import log_probabilities, prior_architecture, raster
from geovq_jax.stages.run import Run
from geovq_jax.terminal import progress_bar
from geovq_jax.training import loop, optimizer, tracking

Codes = Integer[np.ndarray, "n ..."]
Labels = Integer[np.ndarray, " n"]


def fit_prior(
    directory: Path | None,
    splits: Mapping[str, tuple[Codes, Labels]],
    *,
    num_codes: int,
    num_classes: int,
    section: ConfigDict,
    seed: int,
    **options: Any,
) -> tuple[Any, gpt.Architecture, loop.Fit]:
    """Train a prior on any codes, selected by bits per code given the class on the validation split.

    `splits` has codes in [0, num_codes) and classes of "train" and "valid"; `section` is the configuration's `prior`;
    `directory` is the folder of checkpoints, from which an interrupted training resumes, None for none; `options` are
    passed to `training.loop.fit`. Returns best parameters, sizes, and the training.
    """
    codes, labels = splits["train"]
    valid_codes, valid_labels = splits["valid"]
    arch = prior_architecture(section, codes.shape[1:], num_codes=num_codes, num_classes=num_classes)
    init_key, fit_key = jax.random.split(jax.random.key(seed + 1))

    def loss_fn(params, key, step, batch):
        rates = {"label_smoothing": section.label_smoothing, "label_dropout": section.label_dropout}
        return gpt.loss(key, params, arch, batch["codes"], batch["labels"], **rates)

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
        **options,
    )
    return fit.params, arch, fit


def likelihoods(
    params: Any,
    arch: gpt.Architecture,
    train_codes: Integer[np.ndarray, "m ..."],
    codes: Codes,
    labels: Labels,
    *,
    num_dimensions: int,
) -> dict[str, Likelihood]:
    """Code length of held-out codes under a prior with and without the class, and under models of the training codes.

    `num_dimensions` is the number of values of one image, H * W * C.
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
            metadata=training_settings(config, "prior", "seed", "codebook"),
            log=tracking.open_writer(run.workdir, "prior", config.tracker),
            progress=progress,
        )
    bits = f"{fit.best_value:.3f} bits per code of {np.log2(arch.num_codes):.0f}"
    return f"step {fit.best_step}: validation {bits}{loop.why_stopped(fit, config.prior.num_steps)}"
