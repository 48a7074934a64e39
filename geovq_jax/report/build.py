"""Stage `report`: measures a run on the test split and writes report/metrics.json and report/index.html."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from geovq_jax import figures
from geovq_jax.evaluation import image_metrics
from geovq_jax.evaluation.clustering_scores import clustering_scores
from geovq_jax.evaluation.code_usage import code_usage
from geovq_jax.evaluation.statistics import Interval
from geovq_jax.geometry.graphs.embedding import principal_plane
from geovq_jax.report import generation, geometry, interpolation, neighbours, overview, sizes
from geovq_jax.report.findings import Suggestion, code_use, error_share, findings, next_commands
from geovq_jax.report.page import Finding, ReportFigure, Section, Table, write_report, write_summary
from geovq_jax.stages.codes import code_pictures
from geovq_jax.stages.records import decode_images
from geovq_jax.stages.run import Run
from geovq_jax.workdir import to_json, write_json

_POSITION = {"perplexity": "perplexity", "mutual information with the class [bits]": "mutual_information_bits"}
_UNEVEN = 1.25  # ratio of the largest to the smallest perplexity above which cells differ
_DISTANCE = {
    "linear": "distance to the code vector, after the linear map of the method [latent units]",
    "local": "pull-back distance to the code vector, in the metric at the latent",
    "geodesic": "geodesic distance to the code vector",
    "graph": "geodesic distance to the medoid",
    "decoded": "distance between the decoded latent and the decoded code",
}


def write_geometry(run: Run) -> str:
    """Measure only the graph and the metric, without codes, into geometry/; returns the path of the page."""
    metrics = to_json({"geometry": geometry.measure(run)})
    write_json(run.workdir / "geometry" / "metrics.json", metrics)
    page = write_report(
        run.workdir / "geometry" / "index.html",
        title=f"geovq_jax: {run.config.name}, geometry",
        subtitle=f"{run.config.data.name}, {run.config.vae.kind} latents, seed {run.config.seed}",
        sections=[geometry.section(run, metrics, None, with_codes=False), neighbours.section(run)],
    )
    return str(page)


def write(run: Run) -> str:
    """Measure the run on the test split and write metrics, figures, page and summary; returns the path of the page."""
    config, truth, codes = run.config, run.images("test"), run.codes("test")
    continuous = decode_images(run.decode_fn, run.latents("test").mean)
    quantized = run.decode(codes.codes)
    scores = image_metrics.reconstruction_scores(truth, continuous, quantized)
    num_codes = len(run.codebook.vectors)
    usage = code_usage(codes.codes, num_codes, codes.label)
    unused = num_codes - len(np.unique(run.codes("train").codes))
    readings, paths = generation.read_samples(run), interpolation.measure(run)
    measured = {
        "run": overview.facts(run),
        "images": image_metrics.summarise(scores, seed=config.seed),
        "errors": {
            "mean image": _squared_error(truth, run.images("train").mean(axis=0, dtype=np.float64, keepdims=True)),
            "continuous": _squared_error(truth, continuous),
            "quantized": _squared_error(truth, quantized),
        },
        "codes": {k: v for k, v in usage.items() if k != "cell_sizes"} | {"unused_in_training": unused},
        "classes": clustering_scores(codes.codes, codes.label)._asdict(),
        "prior": generation.code_lengths(run),
        "scores": run.scores,
        "samples": generation.read_as_asked(run, readings),
        "geometry": geometry.measure(run),
        "interpolation": paths.numbers,
        "sizes": sizes.measure(run),
    }
    headline, metrics = overview.headline(measured), to_json(measured)
    found, commands = findings(metrics), next_commands(metrics)
    plain = {group: {name: _value(value) for name, value in rows.items()} for group, rows in headline.items()}
    metrics |= to_json({"headline": plain, "findings": _records(found), "next": _records(commands)})
    write_json(run.workdir / "report" / "metrics.json", metrics)
    sections = [
        overview.findings_section(found),
        overview.figures_section(run, headline, commands),
        _reconstructions(truth, continuous, quantized, metrics),
        sizes.section(metrics),
        generation.samples_section(run, readings, metrics),
        _latent_space(run, usage, metrics),
        geometry.section(run, metrics, paths),
        neighbours.section(run),
        _training(run.training_records),
        overview.settings_section(run),
    ]
    title = f"geovq_jax: {config.name}"
    page = write_report(
        run.workdir / "report" / "index.html",
        title=title,
        subtitle=f"{config.data.name}, {config.vae.kind} latents, {run.method}, K = {num_codes}, seed {config.seed}",
        sections=sections,
    )
    write_summary(run.workdir / "report" / "summary.html", title, headline, generation.sample_picture(run))
    return str(page)


def _value(value: Any) -> Any:
    return value.value if isinstance(value, Interval) else value


def _records(entries: Sequence[Finding | Suggestion]) -> list[dict[str, str]]:
    return [entry._asdict() for entry in entries]


def _squared_error(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared difference of two sets of images over all pixels."""
    return float(np.mean((first.astype(np.float64) - second) ** 2))


def _reconstructions(
    truth: np.ndarray, continuous: np.ndarray, quantized: np.ndarray, metrics: dict[str, Any]
) -> Section:
    shown = np.linspace(0, len(truth) - 1, 12).astype(np.int64)  # some sources are sorted by class
    rows = np.stack([images[shown] for images in (truth, continuous, quantized)])
    table = [
        [pairing, *(Interval(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in ("psnr", "ssim"))]
        for pairing, row in metrics["images"].items()
    ]
    figure = figures.image_grid(rows, ["truth", "continuous", "quantized"])
    data, finding = metrics["images"] | {"squared errors": metrics["errors"]}, error_share(metrics)
    columns = ["pair", "PSNR [dB]", "SSIM"]
    return Section(
        "Images",
        "Images spread evenly over the test split; intervals are 95 % bootstrap intervals over images.",
        tables=[Table("Mean over the test split", columns, table, higher=columns[1:])],
        figures=[ReportFigure("Truth, decoded latent, decoded code.", figure, "reconstructions", data, finding)],
    )


def _latent_space(run: Run, usage: dict[str, Any], metrics: dict[str, Any]) -> Section:
    latents, codes, sizes = run.latents("test"), run.codes("test"), np.asarray(usage["cell_sizes"])
    points = latents.mean.reshape(-1, latents.mean.shape[-1])
    chosen = np.linspace(0, len(points) - 1, min(5000, len(points))).astype(np.int64)
    plane = None if points.shape[1] == 2 else principal_plane(points)
    ordered = np.sort(sizes)[::-1]
    half = int(np.searchsorted(np.cumsum(ordered), 0.5 * sizes.sum())) + 1
    by_code = figures.latent_map(points[chosen], codes=codes.codes.ravel()[chosen], plane=plane)
    atlas = figures.code_atlas(code_pictures(run), sizes)
    note = "" if latents.mean.ndim == 2 else ", each in the cell of an image of its cluster"
    shown = "" if latents.mean.ndim == 2 else ", one point per cell of the grid,"
    shown += "" if plane is None else " in the plane of their two largest variances"
    pictures = [
        ReportFigure(
            "Code usage on the test split.",
            figures.code_usage(sizes),
            "code_usage",
            {"counts": usage["cell_sizes"]},
            code_use(metrics),
        ),
        ReportFigure(
            "Test latents by code.",
            by_code,
            "latents_by_code",
            None if plane is None else {"explained": to_json(plane.explained)},
            f"The coloured codes, at most 20, cover {100 * ordered[:20].sum() / sizes.sum():.0f} % of the latents.",
        ),
    ]
    if latents.mean.ndim == 2:
        by_class = figures.latent_map(
            points[chosen], classes=latents.label[chosen], class_names=run.class_names, plane=plane
        )
        shared, whole = usage["mutual_information_bits"], usage["label_entropy_bits"]
        known = f"A code carries {shared:.2f} of the {whole:.2f} bits of the class."
        pictures.append(ReportFigure("Test latents by class.", by_class, "latents_by_class", None, known))
    else:
        pictures.append(_positions(usage, codes.codes.shape[1:]))
    most_used = f"{half} of {len(sizes)} codes account for half of the usage."
    pictures.append(
        ReportFigure(f"Decoded codes{note}, with their counts on the test split.", atlas, "code_atlas", None, most_used)
    )
    return Section(
        "Codes",
        f"Latents{shown}. `python -m geovq_jax.explore --workdir=W` shows the training latents interactively.",
        tables=[_usage_table(usage, codes.distance, run.codebook.radii, _DISTANCE[run.quantizer.assignment])],
        figures=pictures,
    )


def _positions(usage: dict[str, Any], grid: tuple[int, ...]) -> ReportFigure:
    """Perplexity, and mutual information with the class, of each cell of the grid."""
    panels = {
        label: np.array([entry[name] for entry in usage["per_position"]]).reshape(grid)
        for label, name in _POSITION.items()
    }
    data = {name: panels[label] for label, name in _POSITION.items()}
    perplexity = data["perplexity"]
    low, high = perplexity.min(), perplexity.max()
    verdict = "cells carry unequal amounts" if high > _UNEVEN * low else "all cells carry about the same amount"
    finding = f"Perplexity ranges from {low:.3g} to {high:.3g}: {verdict}."
    return ReportFigure("Codes by cell of the grid.", figures.position_maps(panels), "positions", data, finding)


def _usage_table(usage: dict[str, Any], distances: np.ndarray, radii: np.ndarray, unit: str) -> Table:
    middle, high = np.quantile(distances, [0.5, 0.95])
    rows: list[list[Any]] = [
        ["codes used", usage["used"]],
        ["codes not used", usage["dead"]],
        ["entropy [bits per code]", usage["entropy_bits"]],
        ["perplexity", usage["perplexity"]],
        ["Gini coefficient of the usage", usage["usage_gini"]],
        ["items per code: median", usage["cell_size_median"]],
        ["items per code: largest", usage["cell_size_max"]],
        ["distance, test items: median", float(middle)],
        ["distance, test items: 95 %", float(high)],
        ["distance, clusters: median radius", float(np.median(radii))],
        ["mutual information with the class [bits per code]", usage["mutual_information_bits"]],
        ["entropy of the class [bits]", usage["label_entropy_bits"]],
    ]
    caption = f"{usage['num_codes']} codes on {usage['num_items']:,} items of the test split; distance: {unit}"
    return Table(caption, ["quantity", "value"], rows, mixed=True)


def _training(records: list[dict[str, Any]]) -> Section:
    def curve(stage: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        own = [record for record in records if record["stage"] == stage]
        return np.asarray([record["step"] for record in own]), np.asarray([record[name] for record in own])

    panels = {
        "VAE objective [nats]": {"train": curve("vae", "train/loss"), "valid": curve("vae", "valid/objective")},
        "VAE PSNR [dB]": {"train": curve("vae", "train/psnr"), "valid": curve("vae", "valid/psnr")},
        "joint training, PSNR [dB]": {"train": curve("joint", "train/psnr"), "valid": curve("joint", "valid/psnr")},
        "prior [bits per code]": {
            "train": curve("prior", "train/bits_per_code"),
            "valid": curve("prior", "valid/objective"),
        },
    }
    panels = {label: lines for label, lines in panels.items() if len(lines["valid"][0])}  # what this run trained
    curves = {label: {name: line[1].tolist() for name, line in lines.items()} for label, lines in panels.items()}
    figure = figures.training_curves(panels)
    kept = [f"the {name} of step {best:,} of {last:,}" for name, (best, last) in overview.kept(records).items()]
    finding = f"Selected by the validation objective: {', '.join(kept)}."
    return Section(
        "Training",
        figures=[ReportFigure("Training and validation.", figure, "training_curves", curves, finding)],
        links=[("training metrics, one line per evaluation", "../metrics.jsonl")],
    )
