"""Methods side by side: the same autoencoder, latents, number of codes and budget; one trial per method and seed.

A trial fits one codebook to training latents, encodes every split, scores the test split with the decoder as it is and
after fine-tuning, and leaves a record and the scores of every image. A finished trial is not run again.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from geovq_jax import pipeline, processes
from geovq_jax.comparison.tables import JOINT, SEARCHED, write_results
from geovq_jax.config import settings
from geovq_jax.evaluation import likelihood
from geovq_jax.evaluation.clustering_scores import clustering_scores, linear_probe
from geovq_jax.evaluation.code_usage import code_usage, distortion
from geovq_jax.evaluation.image_metrics import image_scores
from geovq_jax.evaluation.interpolation import unevenness
from geovq_jax.evaluation.sample_scores import class_consistency, frechet_distance
from geovq_jax.models import vqvae as models
from geovq_jax.models.sampling import draw
from geovq_jax.quantization import methods
from geovq_jax.quantization.assignment import measure
from geovq_jax.stages import vqvae
from geovq_jax.stages.classifier import predict
from geovq_jax.stages.codebook import nodes_of
from geovq_jax.stages.codes import assigned, searched
from geovq_jax.stages.finetune import Trained, finetune_in_parts
from geovq_jax.stages.prior import fit_prior, likelihoods
from geovq_jax.stages.records import SPLITS, Autoencoder, decode_images, decoder_of
from geovq_jax.stages.run import Run
from geovq_jax.stages.scores import real_images
from geovq_jax.terminal import progress_bar, say
from geovq_jax.workdir import save_npz, write_json

_PROBE_IMAGES = 5_000
_PAIRS = 256  # of test images, between whose codes the decoder is seen to move
_FROZEN_ONLY = ("gaussian", "scalar", "kmedoids")
_TRAINED: dict[str, tuple[Trained, ...]] = {"geodesic_refined": ("decoder", "codes")}


class Coded(NamedTuple):
    """Code vectors [K, d], and split -> codes int32 [n] or [n, h, w]."""

    vectors: np.ndarray
    codes: dict[str, np.ndarray]


def compare(workdir: Path, config: ConfigDict, output: Path) -> None:
    """Run every trial of a comparison that is not finished, one after the other, and gather the results.

    `workdir` holds a work directory `seed<k>` for each seed. Raises ValueError if several processes share the run.
    """
    if not processes.alone():
        raise ValueError("expected one process for a comparison, got several; give each seeds of its own instead")
    joint = [name for name in config.compare.methods if name in JOINT]
    if config.vae.kind == "external" and joint:
        raise ValueError(
            f"expected compare.methods that keep the autoencoder for vae.kind=external, got {', '.join(joint)}; leave "
            "them out of --config.compare.methods"
        )
    for seed in config.compare.seeds:
        own = config.copy_and_resolve_references()
        with own.unlocked():
            own.seed = seed
            own.codebook.method, own.codebook.distance = "geodesic", "graph"  # what the geodesic methods start from
        run = Run(workdir / f"seed{seed}", own)
        classifier = ("classifier",) if config.compare.prior or config.graph.output_metric == "features" else ()
        for stage in ("vae", "latents", *classifier, "metrics", "graph", "codebook"):
            pipeline.run_stage(stage, run)
        for method in config.compare.methods:
            run_trial(method, run)
    say("compare", write_results(workdir, config, output))


def run_trial(name: str, run: Run) -> None:
    """Run one method on one seed, unless its record is there and was made under the same settings."""
    path, config = run.workdir / "cells" / f"{name}.json", run.config
    record = settings(config, "seed", "data", "vae", "graph", "codebook", "codes", "vqvae")
    if name in config.compare.prior:
        record |= settings(config, "prior", "sample", "classifier", "scores")
    if path.exists() and json.loads(path.read_text())["settings"] == record:
        say(name, "finished before")
        return
    rows, images = (joint_rows if name in JOINT else post_hoc_rows)(name, run)
    save_npz(run.workdir / "cells" / f"{name}.npz", **images)
    write_json(path, {"settings": record, "rows": rows})
    say(name, ", ".join(f"{row['rung']} {row['psnr']:.2f} dB" for row in rows))


def fit_codes(method: str, run: Run) -> Coded:
    """Code vectors of a method on the run's nodes, and the codes of every split without search."""
    config, nodes = run.config, nodes_of(run, run.clusters)
    if method == "geodesic_means":  # the row "geodesic" is K-medoids of the graph
        nodes = nodes._replace(distance="geodesic")
    quantizer, _ = methods.fit(method, nodes, config.codebook.num_clusters, seed=config.seed)
    return Coded(quantizer.vectors, {split: assigned(run, quantizer, split).codes for split in SPLITS})


def _searched(
    run: Run, model: Autoencoder, found: Coded, *, splits: tuple[str, ...] = SPLITS, own_metrics: Any = None
) -> Coded:
    codes = {split: found.codes[split] for split in splits}
    codes = searched(run, model, found.vectors, codes, "trial", own_metrics=own_metrics, seen=found.codes["train"])
    return Coded(found.vectors, found.codes | codes)


def post_hoc_rows(name: str, run: Run) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Records and scores of every image of one post-hoc method: frozen, then after each fine-tuning.

    With search, all codes are searched before each part of the fine-tuning, and the test codes after it.
    """
    method, config, in_context = name.removesuffix(SEARCHED), run.config, name.endswith(SEARCHED)
    found = fit_codes(method, run)
    first = _searched(run, run.autoencoder, found) if in_context else found
    rows: list[dict[str, Any]] = []
    images: dict[str, np.ndarray] = {}
    budget = {"steps": config.vae.num_steps, "searches": int(in_context)}
    _add(rows, images, run, "frozen", run.autoencoder, first, _codes_record(run, first.codes) | budget)
    model, last = run.autoencoder, first
    parts = config.codes.searches if in_context else 1
    frozen_only = method in _FROZEN_ONLY or not run.autoencoder.params
    for trained in () if frozen_only else _TRAINED.get(name, ("decoder",)):
        tuned, codes = finetune_in_parts(run, first.codes, first.vectors, search=in_context, trained=trained)
        model, last = Autoencoder(tuned.params, run.autoencoder.arch), Coded(tuned.vectors, codes)
        if in_context:
            last = _searched(run, model, last, splits=("test",))
        steps = config.vae.num_steps + config.codebook.finetune_steps // parts * parts
        record = _codes_record(run, last.codes) | {"steps": steps, "searches": parts * in_context}
        _add(rows, images, run, trained, model, last, record)
    rows[-1] |= _generation(name, run, model, last)
    images["codes"] = last.codes["test"]
    return rows, images


def joint_rows(name: str, run: Run) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Record and scores of every image of a jointly trained model, as trained or with codes searched in context.

    The `geodesic_joint` ones start from the autoencoder and the refined geodesic codebook and train everything for the
    steps of the fine-tuning; `vqvae` trains afresh for the whole budget, and `vqvae_double` for twice as many steps.
    """
    config, start, before, directory, times = run.config, None, 0, run.workdir / "vqvae", 1
    if name.startswith("geodesic_joint"):
        nodes = nodes_of(run, run.clusters)
        book = methods.fit("geodesic_refined", nodes, config.codebook.num_clusters, seed=config.seed)[0].vectors
        mean_metric = jnp.asarray(np.mean(np.asarray(nodes.metrics), axis=0))
        start = models.from_vae(run.autoencoder.params, jnp.asarray(book), mean_metric)
        before, directory = config.vae.num_steps, run.workdir / "geodesic_joint"
    if name == "vqvae_double":
        directory, times = run.workdir / name, 2
    model, fit = vqvae.fit_vqvae(run, directory, start=start, times=times)
    joint = Autoencoder(model.params, model.arch)
    codes = {split: vqvae.encode(model, getattr(run.dataset, split).images) for split in SPLITS}
    found = Coded(vqvae.vectors(model), codes)
    if name.endswith(SEARCHED):
        metrics, quantized = None, found.vectors[found.codes["test"]]
        if quantized.ndim > 2:
            measured = measure(decoder_of(joint), quantized)
            metrics = {"test": measured.reshape(*quantized.shape, quantized.shape[-1])}
        found = _searched(run, joint, found, splits=("test",), own_metrics=metrics)
    rows: list[dict[str, Any]] = []
    images: dict[str, np.ndarray] = {}
    record = _codes_record(run, found.codes) | {"steps": before + fit.last_step, "searches": 0}
    _add(rows, images, run, "encoder" if before else "joint", joint, found, record)
    rows[-1] |= _generation(name, run, joint, found)
    images["codes"] = found.codes["test"]
    return rows, images


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


def _generation(name: str, run: Run, model: Autoencoder, found: Coded) -> dict[str, Any]:
    """Bits of the test codes under a prior, and scores of its samples by the seed's classifier, where asked for."""
    config, dataset = run.config, run.dataset
    if name not in config.compare.prior:
        return {}
    with progress_bar(f"{name}: prior") as progress:
        prior, arch, _ = fit_prior(
            None,
            {split: (found.codes[split], getattr(dataset, split).labels) for split in ("train", "valid")},
            num_codes=config.codebook.num_clusters,
            num_classes=dataset.num_classes,
            section=config.prior,
            seed=config.seed,
            progress=progress,
        )
    size = dataset.test.images[0].size
    train, test = found.codes["train"], found.codes["test"]
    lengths = likelihoods(prior, arch, train, test, dataset.test.labels, num_dimensions=size)
    real = real_images(dataset, num_items=config.scores.num_items, seed=config.seed)
    drawn, _ = draw(jax.random.key(config.sample.seed), prior, arch, real.labels, dict(config.sample))
    decode = partial(decode_images, decoder_of(model))
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
    scores = {"prior": float(lengths["gpt"].bits_per_code)}
    for images, prediction in predictions.items():
        agreement = class_consistency(prediction.labels, real.labels, num_classes=dataset.num_classes, seed=config.seed)
        scores[f"frechet_{images}"] = frechet_distance(reference, prediction.features)
        scores[f"consistency_{images}"] = agreement.overall.value
    return scores


def _add(
    rows: list[dict[str, Any]],
    images: dict[str, np.ndarray],
    run: Run,
    trained: str,
    model: Autoencoder,
    found: Coded,
    record: dict[str, Any],
) -> None:
    """Score the test images under a decoder and append the record."""
    latents, truth, decode_fn = run.latents("test").mean, run.images("test"), decoder_of(model)
    quantized_latents = found.vectors[found.codes["test"]]
    quantized, continuous = decode_images(decode_fn, quantized_latents), decode_images(run.decode_fn, latents)
    scores, against_continuous = image_scores(truth, quantized), image_scores(continuous, quantized)
    half = min(_PAIRS, len(quantized_latents) // 2)
    ends = quantized_latents[:half], quantized_latents[half : 2 * half]
    gradients = 4 * run.config.codes.sweeps + 1 if record["cells"] > 1 else 0
    record = {
        "rung": trained,
        "unevenness": float(unevenness(decode_fn, *ends).mean()),
        "psnr": float(np.mean(scores.psnr)),
        "ssim": float(np.mean(scores.ssim)),
        "psnr_continuous": float(np.mean(against_continuous.psnr)),
        "images_seen": record["steps"] * run.config.data.batch_size,
        "search_gradients": record["searches"] * len(run.dataset.train.images) * gradients,
        **record,
    }
    if trained == "frozen":
        own_scores = image_scores(truth, continuous)
        decoded = {"decoded chord": quantized - continuous, "pixels against truth": quantized - truth}
        record |= {
            "units": _units(run, quantized_latents - latents, decoded),
            "continuous_psnr": float(np.mean(own_scores.psnr)),
            "continuous_ssim": float(np.mean(own_scores.ssim)),
        }
    rows.append(record)
    images[f"psnr_{trained}"] = np.asarray(scores.psnr, np.float32)
    images[f"ssim_{trained}"] = np.asarray(scores.ssim, np.float32)


def _units(run: Run, gaps: np.ndarray, decoded: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Error of quantization in every unit in which it can be measured."""
    gaps, metrics = gaps.reshape(-1, gaps.shape[-1]), run.metrics("test")
    units = {"latent": np.linalg.norm(gaps, axis=1)}
    if metrics is not None:
        squares = np.einsum("ni,nij,nj->n", gaps, metrics.reshape(-1, *metrics.shape[-2:]), gaps)
        units["pull-back"] = np.sqrt(np.maximum(squares, 0.0))
    units |= {name: np.linalg.norm(gap.reshape(len(gap), -1), axis=1) for name, gap in decoded.items()}
    return distortion(units)
