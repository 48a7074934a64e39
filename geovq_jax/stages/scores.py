"""Stage `scores`: scores of images in the features of a classifier that the run trains."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Integer, UInt

from geovq_jax import data
from geovq_jax.evaluation.memorisation import memorisation, nearest_training_images
from geovq_jax.evaluation.sample_scores import class_consistency, compare_samples, diversity
from geovq_jax.evaluation.statistics import bootstrap_interval
from geovq_jax.models.sampling import draw
from geovq_jax.stages.classifier import predict
from geovq_jax.stages.records import Classifier, decode_images
from geovq_jax.stages.run import Run
from geovq_jax.terminal import progress_bar
from geovq_jax.workdir import to_json, write_json

MIN_ITEMS = 12
"""Halves of smaller sets have too few neighbours to be scored."""


class Real(NamedTuple):
    """Real images that samples are scored against.

    `reference` is one half of the test split (or as many images as wanted), in [0, 1], `floor` as many other test
    images: their scores against the reference are what samples can reach. `labels` and `rows` are classes and places of
    `floor` in the test split; samples drawn for `labels` have its class balance. `train` holds the training images.
    """

    reference: Float[np.ndarray, "m H W C"]
    floor: Float[np.ndarray, "m H W C"]
    labels: Int[np.ndarray, " m"]
    rows: Int[np.ndarray, " m"]
    train: UInt[np.ndarray, "n H W C"]


def real_images(dataset: data.Dataset, *, num_items: int, seed: int) -> Real:
    """Two disjoint sets of test images of equal size, at most `num_items` each, and the training images."""
    order = np.random.default_rng(seed).permutation(len(dataset.test.images))
    size = min(num_items, len(order) // 2)
    first, second = np.sort(order[:size]), np.sort(order[size : 2 * size])
    images = partial(np.take, dataset.test.images, axis=0)
    return Real(
        np.asarray(data.to_float(images(first))),
        np.asarray(data.to_float(images(second))),
        dataset.test.labels[second],
        second,
        dataset.train.images,
    )


def score_samples(
    classifier: Classifier,
    images: Mapping[str, Float[np.ndarray, "_ H W C"]],
    labels: Mapping[str, Integer[np.ndarray, " _"]],
    real: Real,
    *,
    seed: int,
    resamples: int,
) -> dict[str, dict[str, Any]]:
    """Scores of sets of images in [0, 1] against real ones, in the features of the run's classifier.

    `labels` are the requested classes, or those of the reconstructed images; `real.floor` is scored as well, as "real".
    All sets are cut to the smallest; `resamples` are the halvings per interval of a distance. Returns for each set
    "frechet", "kernel", "precision", "recall", "density", "coverage" (see `SampleScores`) and "consistency" (share in
    the class asked for, by the classifier), each an `Interval`; "consistency_per_class"; "diversity" (mean within-class
    distance, None where no class has two images); "memorisation" (see `Memorisation`).
    """
    sets = {"real": real.floor, **images}
    asked = {"real": real.labels, **labels}
    predict_one = partial(predict, classifier.params, classifier.arch)
    predictions = {name: predict_one(pictures) for name, pictures in sets.items()}
    scores = compare_samples(
        predict_one(real.reference).features,
        {name: found.features for name, found in predictions.items()},
        seed=seed,
        max_items=len(real.reference),
        resamples=resamples,
    )
    store = np.asarray(data.to_float(real.train))
    distances = {name: nearest_training_images(pictures, store).distances for name, pictures in sets.items()}
    table: dict[str, dict[str, Any]] = {}
    for name, found in predictions.items():
        agreement = class_consistency(found.labels, asked[name], num_classes=classifier.arch.num_classes, seed=seed)
        repeated = np.bincount(asked[name]).max() > 1
        table[name] = {
            **scores[name]._asdict(),
            "consistency": agreement.overall,
            "consistency_per_class": agreement.per_class,
            "diversity": diversity(found.features, asked[name]) if repeated else None,
            "memorisation": memorisation(distances[name], distances["real"], seed=seed),
        }
    return table


def score(run: Run) -> str:
    """Scores of reconstructions, of samples with and without guidance, and of real images, into scores.json."""
    config, dataset, section = run.config, run.dataset, run.config.scores
    if len(dataset.test.images) < 2 * MIN_ITEMS:
        write_json(run.workdir / "scores.json", {})
        return f"none: fewer than {2 * MIN_ITEMS} test images"
    real = real_images(dataset, num_items=section.num_items, seed=config.seed)
    codes = run.codes("test").codes
    images = {
        "reconstructions, continuous": decode_images(run.decode_fn, run.latents("test").mean[real.rows]),
        "reconstructions, quantized": run.decode(codes[real.rows]),
    }
    key = jax.random.key(config.sample.seed)
    for guidance in sorted({1.0, float(config.sample.guidance), float(section.guidance)}):
        with progress_bar(f"drawing samples, guidance {guidance:g}") as progress:
            drawn, _ = draw(key, *run.prior, real.labels, dict(config.sample), guidance=guidance, progress=progress)
        images[f"samples, guidance {guidance:g}"] = run.decode(drawn.reshape(len(drawn), *codes.shape[1:]))
    labels = dict.fromkeys(images, real.labels)
    sets = score_samples(run.classifier, images, labels, real, seed=config.seed, resamples=section.resamples)
    hits = predict(*run.classifier, dataset.test.images).labels == dataset.test.labels
    accuracy = bootstrap_interval(hits.astype(np.float64), seed=config.seed)
    write_json(
        run.workdir / "scores.json",
        to_json({"num_items": len(real.floor), "classifier_accuracy": accuracy, "sets": sets}),
    )
    plain = sets["samples, guidance 1"]
    return (
        f"classifier {100 * accuracy.value:.2f} %; samples: class {100 * plain['consistency'].value:.1f} %, Frechet "
        f"distance {plain['frechet'].value:.3g} (real {sets['real']['frechet'].value:.3g})"
    )
