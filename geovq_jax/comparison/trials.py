"""Methods side by side: the same autoencoder, latents, number of codes and budget; one trial per method and seed.

A trial fits one codebook to training latents, encodes every split, scores the test split with the decoder as it is and
after fine-tuning, and leaves a record and the scores of every image. A finished trial is not run again.
"""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from geovq_jax import pipeline, processes
from geovq_jax.comparison.cells import (
    JOINT,
    SEARCHED,
    Trial,
    is_finished,
    restore_cells,
    trial_settings,
    trials_of,
)
from geovq_jax.comparison.starts import Coded, joint_codes, post_hoc_codes
from geovq_jax.comparison.tables import write_results
from geovq_jax.evaluation import likelihood
from geovq_jax.evaluation.clustering_scores import clustering_scores, linear_probe
from geovq_jax.evaluation.code_usage import code_usage, distortion
from geovq_jax.evaluation.image_metrics import image_scores
from geovq_jax.evaluation.interpolation import unevenness
from geovq_jax.evaluation.sample_scores import class_consistency, frechet_distance
from geovq_jax.models.sampling import draw
from geovq_jax.stages.classifier import predict
from geovq_jax.stages.codes import searched
from geovq_jax.stages.finetune import Trained, finetune_in_parts
from geovq_jax.stages.prior import fit_prior
from geovq_jax.stages.records import SPLITS, Autoencoder, decode_images, decoder_of, log_probabilities
from geovq_jax.stages.run import Run
from geovq_jax.stages.scores import real_images
from geovq_jax.terminal import progress_bar, say
from geovq_jax.workdir import save_npz, to_json, write_json

_PROBE_IMAGES = 5_000
_PAIRS = 256  # of test images, for the unevenness between their codes
_AS_IT_STARTS = ("gaussian", "scalar", "kmedoids", "vqvae", "vqvae_double", "geodesic_joint")  # not fine-tuned
_AT_START = {"geodesic_joint": "encoder"}  # what was trained last; by default the joint model, or nothing
_TRAINED: dict[str, tuple[Trained, ...]] = {"geodesic_refined": ("codes", "decoder")}
_WIDTHS = (1, 2, 4, 8, 16)  # of the posterior, times its variance, on the autoencoder's own curve

Scored = tuple[list[dict[str, Any]], dict[str, np.ndarray]]
"""Records of one trial, one per trained part, and scores of every image by name."""


def compare(workdir: Path, config: ConfigDict, output: Path) -> None:
    """Run every trial of a comparison that is not finished, one after the other, and gather the results.

    `workdir` holds a work directory `seed<k>` for each seed. Raises ValueError if several processes share the run.
    """
    if not processes.is_single():
        raise ValueError(
            "expected one process for a comparison, got several; start one per process, each with its own seeds"
        )
    joint = [name for name in config.compare.methods if name in JOINT]
    if config.vae.kind == "external" and joint:
        raise ValueError(
            f"expected compare.methods that keep the autoencoder for vae.kind=external, got {', '.join(joint)}; leave "
            "them out of --config.compare.methods"
        )
    restore_cells(workdir, config, output / f"{config.name.removeprefix('compare-')}.json")
    for seed in config.compare.seeds:
        own = config.copy_and_resolve_references()
        with own.unlocked():
            own.seed = seed
            own.codebook.method, own.codebook.distance = "geodesic", "graph"  # the start of the geodesic methods
        run = Run(workdir / f"seed{seed}", own)
        left = [trial for trial in trials_of(config) if not is_finished(trial, run.workdir, own)]
        if left:
            features = config.graph.output_metric == "features" or "geodesic_means_features" in config.compare.methods
            classifier = ("classifier",) if config.compare.prior or features else ()
            for stage in ("vae", "latents", *classifier, "metrics", "graph", "codebook"):
                pipeline.run_stage(stage, run)
            if config.compare.prior:
                write_json(run.workdir / "cells" / "autoencoder.json", to_json(autoencoder_curve(run)))
        for _, trials in itertools.groupby(left, key=lambda trial: trial.method):
            run_trials(list(trials), run)
    say("compare", write_results(workdir, config, output))


def run_trials(trials: list[Trial], run: Run) -> None:
    """Run trials of one method on one seed, from the same start."""
    method, config = trials[0].method, run.config
    start = (joint_codes if method in JOINT else post_hoc_codes)(method, run)
    for trial in trials:
        path, record = run.workdir / "cells" / f"{trial.name}.json", trial_settings(trial, config)
        run.config.codes.rate_weight = trial.rate_weight
        rows, images = score_trial(method, run, start)
        save_npz(path.with_suffix(".npz"), **images)
        write_json(path, {"settings": record, "rows": rows})
        say(trial.name, ", ".join(f"{row['rung']} {row['psnr']:.2f} dB" for row in rows))


def score_trial(name: str, run: Run, start: Coded) -> Scored:
    """Records and scores of every image of one trial: before training, if not searched, then after each fine-tuning."""
    rows: list[dict[str, Any]] = []
    images: dict[str, np.ndarray] = {}
    search, last = name.endswith(SEARCHED), start
    if not search:
        _add(rows, images, run, _AT_START.get(name, "joint" if name in JOINT else "frozen"), start)
    fixed = name in _AS_IT_STARTS or not start.model.params  # an external decoder may have no parameters
    for trained in () if fixed else _TRAINED.get(name, ("decoder",)):
        last = _tuned(run, start, trained=trained, search=search)
        _add(rows, images, run, trained, last, in_context=search)
    if name in run.config.compare.prior:
        record, images["bits"] = _generation(name, run, last)
        rows[-1] |= record
    images["codes"] = last.codes["test"]
    return rows, images


def _tuned(run: Run, found: Coded, *, trained: Trained, search: bool) -> Coded:
    """Decoder fine-tuned on the codes; with search of every split, all alike, before each part and at the end."""
    config = run.config
    tuned, codes, _ = finetune_in_parts(
        run,
        found.codes,
        found.vectors,
        search=search,
        trained=trained,
        autoencoder=found.model,
    )
    model = Autoencoder(tuned.params, found.model.arch)
    if search:
        codes = searched(run, model, tuned.vectors, codes, "trial")
    parts = config.codes.searches if search else 1
    steps = found.steps + config.codebook.finetune_steps // parts * parts
    return Coded(model, tuned.vectors, codes, steps)


def _codes_record(run: Run, codes: dict[str, np.ndarray]) -> dict[str, Any]:
    """What does not depend on the decoder: code usage, agreement with the classes, and code lengths."""
    num_codes = run.config.codebook.num_clusters
    labels = {split: getattr(run.dataset, split).labels for split in SPLITS}
    usage = code_usage(codes["test"], num_codes, labels["test"])
    probe = slice(_PROBE_IMAGES)
    cells = int(np.prod(codes["test"].shape[1:]))
    record = {
        "bits": float(np.log2(num_codes)) * cells,
        "cells": cells,
        **{part: usage[part] for part in ("used", "perplexity")},
        **clustering_scores(codes["test"], labels["test"])._asdict(),
        "probe": linear_probe(
            codes["train"][probe], labels["train"][probe], codes["test"], labels["test"], num_codes
        ).accuracy,
    }
    simple = {"unigram": likelihood.unigram_log_probabilities, "bigram": likelihood.bigram_log_probabilities}
    for model, function in simple.items():
        values = function(codes["train"], codes["test"], num_codes)
        record[model] = float(-values.mean() / np.log(2))
    return record


def _generation(name: str, run: Run, found: Coded) -> tuple[dict[str, Any], np.ndarray]:
    """Scores of a prior of the codes and of its samples, by the seed's classifier; bits of every test image."""
    config, dataset = run.config, run.dataset
    with progress_bar(f"{name}: prior") as progress:
        prior, arch, fit = fit_prior(
            None,
            {split: (found.codes[split], getattr(dataset, split).labels) for split in ("train", "valid")},
            num_codes=config.codebook.num_clusters,
            num_classes=dataset.num_classes,
            section=config.prior,
            seed=config.seed,
            progress=progress,
        )
    test = found.codes["test"]
    bits = log_probabilities(prior, arch, test, dataset.test.labels).sum(axis=1) / -np.log(2)
    cells, decode = test[0].size, partial(decode_images, decoder_of(found.model))
    real = real_images(dataset, num_items=config.scores.num_items, seed=config.seed)
    drawn, _ = draw(jax.random.key(config.sample.seed), prior, arch, real.labels, dict(config.sample))
    predictions = {
        images: predict(*run.classifier, pixels)
        for images, pixels in {
            "reference": real.reference,
            "real": real.floor,
            "reconstructions": decode(found.vectors[test[real.rows]]),
            "samples": decode(found.vectors[drawn.reshape(len(drawn), *test.shape[1:])]),
        }.items()
    }
    reference = predictions.pop("reference").features
    valid = image_scores(run.images("valid"), decode(found.vectors[found.codes["valid"]]))
    scores = {
        "prior": float(bits.mean()) / cells,
        "prior_steps": fit.best_step,
        "valid_prior": fit.best_value,
        "valid_psnr": float(np.mean(valid.psnr)),
    }
    for images, prediction in predictions.items():
        agreement = class_consistency(prediction.labels, real.labels, num_classes=dataset.num_classes, seed=config.seed)
        scores[f"frechet_{images}"] = frechet_distance(reference, prediction.features)
        scores[f"consistency_{images}"] = agreement.overall.value
    return scores, bits.astype(np.float32)


def autoencoder_curve(run: Run) -> list[dict[str, float]]:
    """Rate and distortion of the autoencoder itself on test images: its posterior with the variance times 1, 2, 4, ...

    "bits" per image are the divergence from N(0, I), which is what a code of the latents costs that is drawn from the
    posterior by relative entropy coding; "psnr" is that of one draw. Empty for a deterministic encoder.
    """
    latents, truth, key = run.latents("test"), run.images("test"), jax.random.key(run.config.seed)
    if np.isneginf(latents.log_variance).all():
        return []
    noise, points = np.asarray(jax.random.normal(key, latents.mean.shape)), []
    for scale in _WIDTHS:
        variance = scale * np.exp(latents.log_variance)
        divergence = 0.5 * (variance + np.square(latents.mean) - 1.0 - np.log(variance))
        images = decode_images(run.decode_fn, latents.mean + np.sqrt(variance) * noise)
        bits = float(divergence.reshape(len(truth), -1).sum(axis=1).mean() / np.log(2))
        points.append({"variance": scale, "bits": bits, "psnr": float(np.mean(image_scores(truth, images).psnr))})
    return points


def _add(
    rows: list[dict[str, Any]],
    images: dict[str, np.ndarray],
    run: Run,
    rung: str,
    found: Coded,
    *,
    in_context: bool = False,
) -> None:
    """Score the test images and append the record."""
    decode_fn = decoder_of(found.model)
    latents, truth = run.latents("test").mean, run.images("test")
    quantized_latents = found.vectors[found.codes["test"]]
    quantized, continuous = decode_images(decode_fn, quantized_latents), decode_images(run.decode_fn, latents)
    scores, against_continuous = image_scores(truth, quantized), image_scores(continuous, quantized)
    half = min(_PAIRS, len(quantized_latents) // 2)
    ends = quantized_latents[:half], quantized_latents[half : 2 * half]
    searches = (run.config.codes.searches + 1) * in_context
    record = _codes_record(run, found.codes) | {"steps": found.steps, "searches": searches}
    gradients = 4 * run.config.codes.sweeps + 1 if record["cells"] > 1 else 0
    record |= {
        "rung": rung,
        "unevenness": float(unevenness(decode_fn, *ends).mean()),
        "psnr": float(np.mean(scores.psnr)),
        "ssim": float(np.mean(scores.ssim)),
        "psnr_of_mean": float(-10 * np.log10(np.mean(np.square(truth - quantized)))),
        "psnr_continuous": float(np.mean(against_continuous.psnr)),
        "images_seen": found.steps * run.config.data.batch_size,
        "search_gradients": searches * len(run.dataset.train.images) * gradients,
    }
    if rung == "frozen":
        own_scores = image_scores(truth, continuous)
        decoded = {"decoded chord": quantized - continuous, "pixels against truth": quantized - truth}
        record |= {
            "units": _units(run, quantized_latents - latents, decoded),
            "continuous_psnr": float(np.mean(own_scores.psnr)),
            "continuous_ssim": float(np.mean(own_scores.ssim)),
        }
    rows.append(record)
    images[f"psnr_{rung}"] = np.asarray(scores.psnr, np.float32)
    images[f"ssim_{rung}"] = np.asarray(scores.ssim, np.float32)


def _units(run: Run, gaps: np.ndarray, decoded: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Error of quantization in every unit in which it can be measured."""
    gaps, metrics = gaps.reshape(-1, gaps.shape[-1]), run.metrics("test")
    units = {"latent": np.linalg.norm(gaps, axis=1)}
    if metrics is not None:
        squares = np.einsum("ni,nij,nj->n", gaps, metrics.reshape(-1, *metrics.shape[-2:]), gaps)
        units["pull-back"] = np.sqrt(np.maximum(squares, 0.0))
    units |= {name: np.linalg.norm(gap.reshape(len(gap), -1), axis=1) for name, gap in decoded.items()}
    return distortion(units)
