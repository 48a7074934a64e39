"""Parts of the report on the prior: code lengths, samples, completions, scores."""

from typing import Any, NamedTuple

import numpy as np

from geovq_jax import figures
from geovq_jax.evaluation.memorisation import Nearest, nearest_training_images
from geovq_jax.evaluation.statistics import Interval
from geovq_jax.figures.style import figure_png
from geovq_jax.report.page import Gallery, ReportFigure, Section, Table, Tile
from geovq_jax.stages.classifier import Predictions, predict
from geovq_jax.stages.prior import likelihoods
from geovq_jax.stages.run import Run
from geovq_jax.stages.samples import SETTINGS, completion_figure, sample_rows

MODELS = {
    "gpt": "prior given the class",
    "gpt_without_class": "prior without the class",
    "bigram": "bigram",
    "unigram": "unigram",
    "uniform": "uniform",
}
_DISTANCES = {
    "frechet": "Frechet distance",
    "kernel": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
_TILES = 120  # samples shown at most


def code_lengths(run: Run) -> dict[str, Any]:
    """Bits of the test codes under the prior, and under uniform, unigram and bigram models."""
    test, size = run.codes("test"), int(np.prod(run.image_shape))
    found = likelihoods(*run.prior, run.codes("train").codes, test.codes, test.label, num_dimensions=size)
    return {name: bits._asdict() for name, bits in found.items()}


def headline(scores: dict[str, Any]) -> dict[str, Any]:
    """The main scores: name with unit -> value with its 95 % interval."""
    if not scores:
        return {}
    sets = {name: row for name, row in scores["sets"].items() if name == "real" or name.startswith("samples")}
    return {
        **{f"Frechet distance, {name}": Interval(**row["frechet"]) for name, row in sets.items()},
        **{f"classified as their class [%], {name}": _percent(row["consistency"]) for name, row in sets.items()},
    }


def _percent(share: dict[str, float]) -> Interval:
    return Interval(*(100.0 * share[part] for part in Interval._fields))


def code_length_table(prior: dict[str, Any]) -> Table:
    """Table of the code lengths of the test codes, from `code_lengths`."""
    columns = ["model of the codes", "bits per code", "bits per image", "standard error", "bits per dimension"]
    parts = ("bits_per_code", "bits_per_image", "standard_error", "bits_per_dimension")
    rows = [[MODELS[name], *(bits[part] for part in parts)] for name, bits in prior.items()]
    return Table("Code length of the test codes", columns, rows, lower=(columns[1], columns[2], columns[4]))


def interval(bits: dict[str, float]) -> Interval:
    """Bits per code with a 95 % interval from the standard error over images, of width zero for a single image."""
    error = 1.96 * (bits["standard_error"] or 0.0) * bits["bits_per_code"] / bits["bits_per_image"]
    return Interval(bits["bits_per_code"], bits["bits_per_code"] - error, bits["bits_per_code"] + error)


class Readings(NamedTuple):
    """Predictions of the run's classifier for the samples, and the nearest training image of each."""

    predictions: Predictions
    nearest: Nearest


def read_samples(run: Run) -> Readings:
    """Classify every sample and find its nearest training image."""
    images = run.samples["images"]
    return Readings(predict(*run.classifier, images), nearest_training_images(images, run.images("train")))


def read_as_asked(run: Run, readings: Readings) -> dict[str, Any]:
    """How many samples are classified as their class, and how far they are from the training images."""
    labels = run.samples["labels"]
    asked = (labels == readings.predictions.labels) | (labels == run.num_classes)  # num_classes stands for no class
    return {
        "drawn": len(asked),
        "read_as_asked": int(asked.sum()),
        "nearest_distance_median": float(np.median(readings.nearest.distances)),
    }


def samples_section(run: Run, readings: Readings, metrics: dict[str, Any]) -> Section:
    """Samples with their predicted classes, completions of upper halves beside the originals, and scores."""
    drawn, scores = run.samples, metrics["scores"]
    shown, numbers = [], metrics["samples"]
    if "completion_rows" in drawn:
        originals = run.images("valid")[drawn["completion_rows"]]
        words = "Validation images, their decoded codes, the kept codes, and lower halves drawn from the prior."
        figure, settings = completion_figure(drawn, originals), {name: float(drawn[name]) for name in SETTINGS}
        shown.append(ReportFigure(words, figure, "completions", settings, _agreement(drawn)))
    finding = (
        f"{numbers['read_as_asked']} of {numbers['drawn']} are classified as requested; the others are framed. "
        f"The nearest training image (hover over a sample to see it) is {numbers['nearest_distance_median']:.3f} "
        "away (RMS, median)."
    )
    words = "Samples with their predicted class and its probability."
    gallery = Gallery(words, *_tiles(run, readings), finding=finding)
    text = "Codes drawn from the prior given the class, then decoded. " + (_scores_text(scores) if scores else "")
    return Section("Samples", text, tables=_score_tables(scores), figures=shown, gallery=gallery)


def _tiles(run: Run, readings: Readings) -> tuple[list[Tile], str, int]:
    """Tiles of the first samples of each class, the name of the gallery, and the number of tiles per row."""
    images, labels, train = run.samples["images"], run.samples["labels"], run.images("train")
    names = run.class_names
    classes = np.unique(labels)
    per_class = max(1, min(10 if len(classes) > 1 else _TILES, _TILES // len(classes)))
    chosen = np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in classes])[:_TILES]
    tiles = []
    for row in chosen:
        read, sure = readings.predictions.labels[row], 100.0 * readings.predictions.confidences[row]
        near = readings.nearest.indices[row]
        right = labels[row] in (read, run.num_classes)
        words = f"{names[read]}, {sure:.0f} %" if right else f"{names[labels[row]]} classified as {names[read]}"
        behind = f"training image {near}, RMS {readings.nearest.distances[row]:.2f}"
        tiles.append(Tile(images[row], words, train[near], behind, marked=not right))
    return tiles, "samples", min(10, max(5, per_class))


def sample_picture(run: Run) -> bytes:
    """Samples as a PNG, one row per class."""
    names = run.class_names[: run.num_classes]
    return figure_png(figures.image_grid(*sample_rows(run.samples["images"], run.samples["labels"], names)))


def _agreement(drawn: dict[str, np.ndarray]) -> str:
    """How often the drawn codes of the lower halves equal those of the image."""
    codes, places = drawn["completion_codes"], drawn["completion_drawn"]
    same = 100.0 * np.mean(codes[:, 1:, places] == codes[:, :1, places])
    return f"{same:.0f} % of the drawn codes equal those of the image."


def _scores_text(scores: dict[str, Any]) -> str:
    """Explanation of the score tables."""
    accuracy = 100.0 * scores["classifier_accuracy"]["value"]
    return f"""Features come from a classifier that this run trained on its own training split (test accuracy
        {accuracy:.2f} %): the distances are comparable only between runs with the same classifier, and are not the
        FID. Every set has {scores["num_items"]:,} images and is scored against as many other test images; `real` is
        a second set of test images, the best that samples can reach. Below each number is its 95 % interval.

        Consistency is the share of images that the classifier assigns to the requested class. Diversity is the mean
        distance between two images of a class. A set copies training images where more than 5 % of it is closer to
        one than 95 % of the test images are."""


def _score_tables(scores: dict[str, Any]) -> list[Table]:
    """Distances to real images; classes, diversity and memorisation; no tables if nothing was scored."""
    if not scores:
        return []
    sets = scores["sets"]
    distances = [[name, *(Interval(**row[part]) for part in _DISTANCES)] for name, row in sets.items()]
    classes = []
    for name, row in sets.items():
        near = row["memorisation"]
        share = Interval(**near["share_close"])
        classes.append([name, Interval(**row["consistency"]), row["diversity"], near["sample_median"], share])
    names = list(_DISTANCES.values())
    columns = ["images", "in its class", "diversity", "distance to training (RMS)", "closer than 95 % of test"]
    return [
        Table("Distance to real images", ["images", *names], distances, higher=names[2:], lower=names[:2]),
        Table("Classes, diversity, memorisation", columns, classes, higher=columns[1:3]),
    ]
