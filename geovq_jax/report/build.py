"""Stage `report`: measure a run on the test split, and write report/metrics.json and report/index.html."""

from typing import Any

import numpy as np

from geovq_jax import figures
from geovq_jax.evaluation import image_metrics
from geovq_jax.evaluation.clustering_scores import clustering_scores
from geovq_jax.evaluation.code_usage import code_usage
from geovq_jax.evaluation.statistics import Interval
from geovq_jax.geometry.graphs.embedding import principal_plane
from geovq_jax.report import generation, geometry, neighbours, overview, sizes
from geovq_jax.report.page import ReportFigure, Section, Table, write_report
from geovq_jax.stages.codes import code_pictures
from geovq_jax.stages.records import decode_images
from geovq_jax.stages.run import Run
from geovq_jax.workdir import to_json, write_json

_POSITION = {"perplexity": "perplexity", "information on the class [bits]": "mutual_information_bits"}
_DISTANCE = {
    "linear": "distance to the code vector, after the linear map of the method [latent units]",
    "local": "pull-back distance to the code vector, in the metric at the latent",
    "geodesic": "geodesic distance to the code vector",
    "graph": "geodesic distance to the medoid",
    "decoded": "distance between the decoded latent and the decoded code",
}


def write(run: Run) -> str:
    """Measure the run on the test split, write metrics, figures and page; returns the address of the page."""
    config, truth, codes = run.config, run.images("test"), run.codes("test")
    continuous = decode_images(run.decode_fn, run.latents("test").mean)
    quantized = run.decode(codes.codes)
    scores = image_metrics.reconstruction_scores(truth, continuous, quantized)
    num_codes = len(run.codebook.vectors)
    usage = code_usage(codes.codes, num_codes, codes.label)
    metrics = {
        "images": image_metrics.summarise(scores, seed=config.seed),
        "codes": {k: v for k, v in usage.items() if k != "cell_sizes"},
        "classes": clustering_scores(codes.codes, codes.label)._asdict(),
        "prior": generation.code_lengths(run),
        "scores": run.scores,
        "geometry": geometry.measure(run),
        "sizes": sizes.measure(run),
    }
    headline = overview.headline(metrics)
    plain = [(name, value.value if isinstance(value, Interval) else value) for name, value in headline.items()]
    metrics = to_json(metrics | {"headline": plain})
    write_json(run.workdir / "report" / "metrics.json", metrics)
    sections = [
        overview.section(run, headline),
        _reconstructions(truth, continuous, quantized, metrics),
        generation.prior_section(metrics["prior"], metrics["images"]["truth-quantized"]["psnr"]),
        generation.samples_section(run),
        *generation.scores_section(metrics["scores"]),
        _latent_space(run, usage),
        sizes.section(metrics["sizes"], metrics, config),
        geometry.section(run, metrics["geometry"]),
        neighbours.section(run),
        _training(run.training_records),
    ]
    page = write_report(
        run.workdir / "report" / "index.html",
        title=f"geovq_jax: {config.name}",
        subtitle=f"{config.data.name}, {config.vae.kind} latents, {run.method}, K = {num_codes}, seed {config.seed}",
        sections=sections,
    )
    return str(page)


def _reconstructions(
    truth: np.ndarray, continuous: np.ndarray, quantized: np.ndarray, metrics: dict[str, Any]
) -> Section:
    shown = np.linspace(0, len(truth) - 1, 12).astype(np.int64)  # some sources are sorted by class
    rows = np.stack([images[shown] for images in (truth, continuous, quantized)])
    table = [
        [pairing, *(row[name] for name in ("psnr", "psnr_low", "psnr_high", "ssim", "ssim_low", "ssim_high"))]
        for pairing, row in metrics["images"].items()
    ]
    columns = ["pair", "PSNR [dB]", "low", "high", "SSIM", "low", "high"]
    figure = figures.image_grid(rows, ["truth", "continuous", "quantized"])
    return Section(
        "Reconstructions",
        "Images spread over the test split; intervals are 95 % bootstrap intervals over images.",
        tables=[Table("Mean over the test split", columns, table)],
        figures=[ReportFigure("Truth, decoded latent, decoded code", figure, "reconstructions", metrics["images"])],
    )


def _latent_space(run: Run, usage: dict[str, Any]) -> Section:
    latents, codes = run.latents("test"), run.codes("test")
    points = latents.mean.reshape(-1, latents.mean.shape[-1])
    cells = len(points) // len(latents.label)
    chosen = np.linspace(0, len(points) - 1, min(5000, len(points))).astype(np.int64)
    plane = principal_plane(points)
    labels = np.repeat(latents.label, cells)[chosen]
    by_class = figures.latent_map(points[chosen], classes=labels, plane=plane)
    by_code = figures.latent_map(points[chosen], codes=codes.codes.ravel()[chosen], plane=plane)
    used = figures.code_usage(np.asarray(usage["cell_sizes"]))
    reach = figures.distance_histogram({"test latents": codes.distance.ravel()})
    atlas = figures.code_atlas(code_pictures(run), np.asarray(usage["cell_sizes"]))
    note = "" if latents.mean.ndim == 2 else ", each in the cell of an image of its cluster"
    unit = _DISTANCE[run.quantizer.assignment]
    pictures = [
        ReportFigure("Coloured by class", by_class, "latents_by_class", {"explained": to_json(plane.explained)}),
        ReportFigure("Coloured by code", by_code, "latents_by_code"),
        ReportFigure("Use of the codes on the test split", used, "code_usage", {"counts": usage["cell_sizes"]}),
        ReportFigure(unit.capitalize(), reach, "code_distances", _quantiles(codes.distance)),
        ReportFigure(f"Decoded codes{note}, and their use on the test split", atlas, "code_atlas"),
    ]
    if codes.codes.ndim == 3:
        grid = codes.codes.shape[1:]
        panels = {
            label: np.array([entry[name] for entry in usage["per_position"]]).reshape(grid)
            for label, name in _POSITION.items()
        }
        behind = {name: panels[label] for label, name in _POSITION.items()}
        maps = figures.position_maps(panels)
        pictures.append(ReportFigure("Codes at each cell of the grid", maps, "positions", behind))
    return Section(
        "Latents and codes",
        "Test latents (one point per cell of the grid) in the plane of their two largest variances. "
        "`python -m geovq_jax.explore --workdir=W` shows the training latents to click on.",
        tables=[_usage_table(usage, run.codebook.radii, unit)],
        figures=pictures,
    )


def _usage_table(usage: dict[str, Any], radii: np.ndarray, unit: str) -> Table:
    rows: list[list[Any]] = [
        ["codes used", usage["used"]],
        ["codes never used", usage["dead"]],
        ["entropy [bits per code]", usage["entropy_bits"]],
        ["perplexity", usage["perplexity"]],
        ["Gini coefficient of the use", usage["usage_gini"]],
        ["items of a code: median", usage["cell_size_median"]],
        ["items of a code: largest", usage["cell_size_max"]],
        [f"{unit}: median over the codes of the largest", float(np.median(radii))],
        [f"{unit}: largest", float(np.max(radii))],
        ["information on the class [bits per code]", usage["mutual_information_bits"]],
        ["entropy of the class [bits]", usage["label_entropy_bits"]],
    ]
    caption = f"{usage['num_codes']} codes on {usage['num_items']:,} items of the test split"
    return Table(caption, ["figure", "value"], rows)


def _quantiles(values: np.ndarray) -> dict[str, float]:
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    return {f"quantile {level}": float(np.quantile(values, level)) for level in levels} | {"mean": float(values.mean())}


def _training(records: list[dict[str, Any]]) -> Section:
    def curve(stage: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        own = [record for record in records if record["stage"] == stage]
        return np.asarray([record["step"] for record in own]), np.asarray([record[name] for record in own])

    panels = {
        "VAE objective [nats]": {"train": curve("vae", "train/loss"), "valid": curve("vae", "valid/objective")},
        "VAE PSNR [dB]": {"train": curve("vae", "train/psnr"), "valid": curve("vae", "valid/psnr")},
        "prior [bits per code]": {
            "train": curve("prior", "train/bits_per_code"),
            "valid": curve("prior", "valid/objective"),
        },
    }
    panels = {label: lines for label, lines in panels.items() if len(lines["valid"][0])}  # what this run trained
    curves = {label: {name: line[1].tolist() for name, line in lines.items()} for label, lines in panels.items()}
    return Section(
        "Training",
        figures=[ReportFigure("Training and validation", figures.training_curves(panels), "training_curves", curves)],
        links=[("every figure of training, one line per evaluation", "../metrics.jsonl")],
    )
