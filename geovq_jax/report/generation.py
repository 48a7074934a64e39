"""The report's parts on the prior and what it draws: code length, samples, completions, scores."""

from typing import Any

import numpy as np

from geovq_jax import figures
from geovq_jax.evaluation.statistics import Interval
from geovq_jax.report.page import ReportFigure, Section, Table
from geovq_jax.stages.prior import likelihoods
from geovq_jax.stages.run import Run
from geovq_jax.stages.samples import SETTINGS, completion_figure, sample_rows

_MODELS = {
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


def code_lengths(run: Run) -> dict[str, Any]:
    """Bits of the test codes under the prior, and under uniform, unigram and bigram models."""
    test, size = run.codes("test"), int(np.prod(run.image_shape))
    found = likelihoods(*run.prior, run.codes("train").codes, test.codes, test.label, num_dimensions=size)
    return {name: bits._asdict() for name, bits in found.items()}


def headline(scores: dict[str, Any]) -> dict[str, Any]:
    """The scores that a reader wants first, name with unit -> value with its 95 % interval."""
    if not scores:
        return {}
    figures_of = {
        f"class consistency of {name} [%]": _percent(row["consistency"])
        for name, row in scores["sets"].items()
        if name.startswith("samples")
    }
    distances = {f"Frechet distance, {name}": Interval(**row["frechet"]) for name, row in scores["sets"].items()}
    return {"classifier accuracy [%]": _percent(scores["classifier_accuracy"]), **figures_of, **distances}


def _percent(share: dict[str, float]) -> Interval:
    return Interval(*(100.0 * share[part] for part in Interval._fields))


def prior_section(prior: dict[str, Any], quality: float) -> Section:
    """Code length of the test codes, of `code_lengths`; `quality` is the mean PSNR of the decoded codes in dB."""
    columns = ["model of the codes", "bits per code", "bits per image", "standard error", "bits per dimension"]
    parts = ("bits_per_code", "bits_per_image", "standard_error", "bits_per_dimension")
    rows = [[_MODELS[name], *(bits[part] for part in parts)] for name, bits in prior.items()]
    figure = figures.comparison(
        {_MODELS[name]: bits["bits_per_code"] for name, bits in prior.items()},
        "code length of the test codes [bits per code]",
        intervals={_MODELS[name]: interval(bits)[1:] for name, bits in prior.items()},
    )
    text = f"""With an arithmetic coder, each model of the codes would store an image in so many bits, from which it
        decodes at {quality:.2f} dB (mean over the test split). Unigram and bigram count the training codes."""
    shown = [ReportFigure("Bits per code by the model of the codes", figure, "code_lengths", prior)]
    return Section("Prior", text, tables=[Table("Code length of the test codes", columns, rows)], figures=shown)


def interval(bits: dict[str, float]) -> Interval:
    """Bits per code with their 95 % interval from the standard error over images; no width for a single image."""
    error = 1.96 * (bits["standard_error"] or 0.0) * bits["bits_per_code"] / bits["bits_per_image"]
    return Interval(bits["bits_per_code"], bits["bits_per_code"] - error, bits["bits_per_code"] + error)


def samples_section(run: Run) -> Section:
    """Samples, one row per class, and completions of upper halves beside the images that they come from."""
    drawn = run.samples
    settings = {name: float(drawn[name]) for name in SETTINGS}
    grid = figures.image_grid(*sample_rows(drawn["images"], drawn["labels"]))
    shown = [ReportFigure("One row per class", grid, "samples", settings)]
    if "completion_rows" in drawn:
        originals = run.images("valid")[drawn["completion_rows"]]
        words = "Validation images, their codes decoded, the codes kept, and lower halves drawn from the prior"
        shown.append(ReportFigure(words, completion_figure(drawn, originals), "completions", settings))
    return Section("Samples", "Codes drawn from the prior given the class, then decoded.", figures=shown)


def scores_section(scores: dict[str, Any]) -> list[Section]:
    """Tables of the sample scores; none where nothing was scored."""
    if not scores:
        return []
    sets = scores["sets"]
    distances = [[name, *(Interval(**row[part]) for part in _DISTANCES)] for name, row in sets.items()]
    classes = []
    for name, row in sets.items():
        near = row["memorisation"]
        share = Interval(**near["share_close"])
        classes.append([name, Interval(**row["consistency"]), row["diversity"], near["sample_median"], share])
    accuracy = 100.0 * scores["classifier_accuracy"]["value"]
    text = f"""Features of a classifier that this run trained on its own training split (test accuracy
        {accuracy:.2f} %): the distances compare with those of other runs only under the same classifier, and are no
        FID. Every set has {scores["num_items"]:,} images and is scored against as many other test images; `real` are
        test images again, the level that samples can reach. Brackets hold 95 % intervals.

        Consistency is the share of images that the classifier puts in the requested class. Diversity is the mean
        distance of two images of a class. A set is near the training images where more than 5 % of it lie nearer to
        one than 95 % of the test images do."""
    frechet = {name: row["frechet"] for name, row in sets.items()}
    figure = figures.comparison(
        {name: entry["value"] for name, entry in frechet.items()},
        "Frechet distance [squared feature units]",
        intervals={name: (entry["low"], entry["high"]) for name, entry in frechet.items()},
    )
    columns = ["images", "in its class", "diversity", "distance to training (RMS)", "nearer than 95 % of test"]
    tables = [
        Table("Distance to real images", ["images", *_DISTANCES.values()], distances),
        Table("Classes, diversity, memorisation", columns, classes),
    ]
    shown = [ReportFigure("Frechet distance to test images", figure, "frechet_distances", frechet)]
    return [Section("Scores of samples", text, tables=tables, figures=shown)]
