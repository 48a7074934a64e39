"""Codebooks side by side: the same autoencoder, latents, number of codes and budget; one cell a method and seed.

A cell fits one codebook to training latents, encodes every split, scores the test split with the decoder as it is and
after each rung of the ladder, and leaves a record and the scores of every image. A finished cell is not run again.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from geovq_jax import data, geometry
from geovq_jax.config import settings
from geovq_jax.evaluation import likelihood
from geovq_jax.evaluation.clustering_scores import clustering_scores, linear_probe
from geovq_jax.evaluation.code_usage import code_usage, distortion
from geovq_jax.evaluation.image_metrics import image_scores
from geovq_jax.evaluation.interpolation import unevenness
from geovq_jax.evaluation.sample_scores import class_consistency, frechet_distance
from geovq_jax.geometry.batching import map_chunks
from geovq_jax.models import vae
from geovq_jax.models import vqvae as models
from geovq_jax.quantization.baselines import encode_decoded
from geovq_jax.quantization.context import encode_in_context
from geovq_jax.quantization.methods import METHODS, Codes, Inputs
from geovq_jax.stages import vqvae
from geovq_jax.stages.classifier import load_classifier, predict
from geovq_jax.stages.codes import nodes_of
from geovq_jax.stages.finetune import finetune
from geovq_jax.stages.prior import decode_latents, fit_prior, likelihoods
from geovq_jax.stages.samples import draw
from geovq_jax.stages.scores import real_images
from geovq_jax.stages.vae import BATCH, SPLITS, decoder
from geovq_jax.terminal import progress_bar, say
from geovq_jax.workdir import save_npz, write_json

_PROBE_IMAGES = 5_000
_PAIRS = 256  # of test images, between whose codes the decoder is seen to move


JOINT = {
    "vqvae": "joint VQ-VAE",
    "vqvae_context": "joint VQ-VAE, in context",
    "vqvae_double": "joint VQ-VAE, twice the steps",
    "geodesic_joint": "geodesic, refined, then joint",
    "geodesic_joint_context": "geodesic, refined, then joint, in context",
}


def run_cell(name: str, workdir: Path, config: ConfigDict, shared: Callable[[], Inputs]) -> None:
    """Run one method on one seed, unless its record is there and was made under the same settings."""
    path = workdir / "cells" / f"{name}.json"
    record = settings(config, "seed", "data", "vae", "graph", "codebook", "vqvae", "compare")
    if name in config.compare.prior:
        record |= settings(config, "prior", "sample", "classifier", "scores")
    record["compare"].pop("prior")
    record["compare"].pop("methods")
    record["compare"].pop("seeds")
    if path.exists() and json.loads(path.read_text())["settings"] == record:
        say(name, "finished before")
        return
    rows, images = (joint_rows if name in JOINT else post_hoc_rows)(name, shared())
    save_npz(workdir / "cells" / f"{name}.npz", **images)
    write_json(path, {"settings": record, "rows": rows})
    say(name, ", ".join(f"{row['rung']} {row['psnr']:.2f} dB" for row in rows))


def post_hoc_rows(name: str, inputs: Inputs) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Records and scores of every image of one post-hoc method: frozen, then each rung.

    Methods in context search all codes before each part of the fine-tuning, and the test codes after it.
    """
    method, config = METHODS[name], inputs.config
    found = method.fit(inputs)
    parts = config.compare.searches if method.in_context else 1
    if method.in_context:
        found = search(inputs, inputs.params, found)
    rows: list[dict[str, Any]] = []
    images: dict[str, np.ndarray] = {}
    budget = {"steps": config.vae.num_steps, "searches": int(method.in_context)}
    _add(rows, images, inputs, "frozen", inputs.params, found, _codes_record(inputs, found.codes) | budget)
    params, last = inputs.params, found
    for rung in method.rungs:
        params, now = inputs.params, found
        for part in range(parts):
            if part:
                now = search(inputs, params, now)
            with progress_bar(f"{name}: {rung}") as progress:
                tuned = finetune(
                    None,
                    inputs.dataset,
                    now.codes,
                    params,
                    inputs.arch,
                    now.vectors,
                    rung=rung,  # type: ignore[arg-type]
                    num_steps=config.codebook.finetune_steps // parts,
                    learning_rate=config.codebook.finetune_learning_rate,
                    batch_size=config.data.batch_size,
                    seed=config.seed + part,
                    progress=progress,
                )
            params, now = tuned.params, Codes(tuned.vectors, now.codes)
        if method.in_context:
            now = search(inputs, params, now, splits=("test",))
        budget = {
            "steps": config.vae.num_steps + config.codebook.finetune_steps // parts * parts,
            "searches": parts * method.in_context,
        }
        _add(rows, images, inputs, rung, params, now, _codes_record(inputs, now.codes) | budget)
        last = now
    rows[-1] |= _generation(name, inputs, params, last)
    images["codes"] = last.codes["test"]
    return rows, images


def joint_rows(name: str, inputs: Inputs) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Record and scores of every image of a jointly trained model, as trained or with codes searched in context.

    The `geodesic_joint` ones are the last rung of the ladder: they start from the autoencoder and the refined geodesic
    codebook and train everything for the steps of the fine-tuning; `vqvae` trains afresh for the whole budget, and
    `vqvae_double` for twice as many steps.
    """
    config, start, before, directory = inputs.config, None, 0, inputs.workdir / "vqvae"
    if name.startswith("geodesic_joint"):
        metrics = inputs.metrics["train"][inputs.rows].reshape(-1, *inputs.metrics["train"].shape[-2:])
        book = METHODS["geodesic_pullback"].fit(inputs).vectors
        start = models.from_vae(inputs.params, jnp.asarray(book), jnp.asarray(metrics.mean(axis=0)))
        before, directory = config.vae.num_steps, inputs.workdir / "geodesic_joint"
    times = 1
    if name == "vqvae_double":
        directory, times = inputs.workdir / name, 2
    model, fit = vqvae.fit_vqvae(directory, inputs.dataset, config, start=start, times=times)
    found = Codes(
        vqvae.vectors(model), {split: vqvae.encode(model, getattr(inputs.dataset, split).images) for split in SPLITS}
    )
    if name.endswith("_context"):
        quantized = found.vectors[found.codes["test"]]
        if quantized.ndim > 2:
            metrics = np.asarray(geometry.cell_metrics(decoder(model.params, model.arch), quantized), np.float32)
            inputs = inputs._replace(metrics={"test": metrics.reshape(*quantized.shape, quantized.shape[-1])})
        found = search(inputs, model.params, found, splits=("test",))
    rows: list[dict[str, Any]] = []
    images: dict[str, np.ndarray] = {}
    record = _codes_record(inputs, found.codes) | {"steps": before + fit.last_step, "searches": 0}
    _add(rows, images, inputs, "encoder" if before else "joint", model.params, found, record)
    rows[-1] |= _generation(name, inputs, model.params, found)
    images["codes"] = found.codes["test"]
    return rows, images


def search(inputs: Inputs, params: Any, found: Codes, splits: tuple[str, ...] = SPLITS) -> Codes:
    """Codes chosen to match the images themselves: of a grid in its context, of a vector by decoding every code."""
    decode_fn = decoder(params, inputs.arch)
    codes = dict(found.codes)
    for split in splits:
        images = np.asarray(data.to_float(getattr(inputs.dataset, split).images))
        if codes[split].ndim == 1:
            codes[split] = encode_decoded(decode_fn, found.vectors, images)
            continue
        with progress_bar(f"codes of {split} in context") as progress:
            codes[split] = encode_in_context(
                decode_fn,
                found.vectors,
                codes[split],
                inputs.metrics[split],
                images,
                sweeps=inputs.config.compare.sweeps,
                progress=progress,
            ).codes
    return Codes(found.vectors, codes)


def _codes_record(inputs: Inputs, codes: dict[str, np.ndarray]) -> dict[str, Any]:
    """What does not depend on the decoder: use, agreement with the classes, and code lengths."""
    num_codes = inputs.config.codebook.num_clusters
    labels = {split: getattr(inputs.dataset, split).labels for split in SPLITS}
    usage = code_usage(codes["test"], num_codes, labels["test"])
    probe = slice(_PROBE_IMAGES)
    cells = int(np.prod(codes["test"].shape[1:]))
    record = {
        "bits": float(np.log2(num_codes)) * cells,
        "cells": cells,
        "used": usage["used"],
        "perplexity": usage["perplexity"],
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


def _generation(name: str, inputs: Inputs, params: Any, found: Codes) -> dict[str, Any]:
    """Bits of the test codes under a prior, and scores of its samples by the seed's classifier, where asked for."""
    config, dataset = inputs.config, inputs.dataset
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
    lengths = likelihoods(
        prior, arch, found.codes["train"], found.codes["test"], dataset.test.labels, num_dimensions=size
    )
    real = real_images(dataset, num_items=config.scores.num_items, seed=config.seed)
    drawn, _ = draw(jax.random.key(config.sample.seed), prior, arch, real.labels, config.sample)
    decode = partial(decode_latents, decoder(params, inputs.arch))
    predictions = {
        images: predict(*load_classifier(inputs.workdir, config, dataset), pixels)
        for images, pixels in {
            "reference": real.reference,
            "real": real.floor,
            "reconstructions": decode(found.vectors[found.codes["test"][real.rows]]),
            "samples": decode(found.vectors[drawn.reshape(len(drawn), *found.codes["test"].shape[1:])]),
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
    inputs: Inputs,
    rung: str,
    params: Any,
    found: Codes,
    record: dict[str, Any],
) -> None:
    """Score the test images under a decoder and append the record."""
    decode = jax.jit(jax.vmap(partial(vae.decode, params, inputs.arch)))
    own = jax.jit(jax.vmap(partial(vae.decode, inputs.params, inputs.arch)))
    quantized_latents = found.vectors[found.codes["test"]]
    quantized = np.clip(np.asarray(map_chunks(decode, (quantized_latents,), batch_size=BATCH)), 0.0, 1.0)
    continuous = np.clip(np.asarray(map_chunks(own, (inputs.latents["test"],), batch_size=BATCH)), 0.0, 1.0)
    truth = np.asarray(data.to_float(inputs.dataset.test.images))
    scores, against_continuous = image_scores(truth, quantized), image_scores(continuous, quantized)
    half = min(_PAIRS, len(quantized_latents) // 2)
    ends = quantized_latents[:half], quantized_latents[half : 2 * half]
    record = {
        "rung": rung,
        "unevenness": float(unevenness(decoder(params, inputs.arch), *ends).mean()),
        "psnr": float(np.mean(scores.psnr)),
        "ssim": float(np.mean(scores.ssim)),
        "psnr_continuous": float(np.mean(against_continuous.psnr)),
        "images_seen": record["steps"] * inputs.config.data.batch_size,
        "search_gradients": record["searches"]
        * len(inputs.dataset.train.images)
        * (4 * inputs.config.compare.sweeps + 1 if record["cells"] > 1 else 0),
        **record,
    }
    if rung == "frozen":
        gaps = nodes_of(quantized_latents) - nodes_of(inputs.latents["test"])
        metrics = inputs.metrics["test"].reshape(-1, *inputs.metrics["test"].shape[-2:])
        record["units"] = distortion(
            {
                "latent": np.linalg.norm(gaps, axis=1),
                "pull-back": np.sqrt(np.maximum(np.einsum("ni,nij,nj->n", gaps, metrics, gaps), 0.0)),
                "decoded chord": np.linalg.norm((quantized - continuous).reshape(len(truth), -1), axis=1),
                "pixels against truth": np.linalg.norm((quantized - truth).reshape(len(truth), -1), axis=1),
            }
        )
        own_scores = image_scores(truth, continuous)
        record |= {
            "continuous_psnr": float(np.mean(own_scores.psnr)),
            "continuous_ssim": float(np.mean(own_scores.ssim)),
        }
    rows.append(record)
    images[f"psnr_{rung}"] = np.asarray(scores.psnr, np.float32)
    images[f"ssim_{rung}"] = np.asarray(scores.ssim, np.float32)
