"""Part of the report on rate: code lengths, coded bits against PSNR, clustering cost as K grows."""

from itertools import product
from typing import Any

import numpy as np
from scipy import sparse

from geovq_jax import figures, geometry
from geovq_jax.evaluation import image_metrics, likelihood
from geovq_jax.evaluation.code_usage import entropy_bits
from geovq_jax.evaluation.statistics import bootstrap_interval
from geovq_jax.quantization.assignment import measure as measure_metrics
from geovq_jax.quantization.tokenizer import Tokenizer, encode_measured
from geovq_jax.report import findings, generation
from geovq_jax.report.page import ReportFigure, Section
from geovq_jax.stages.records import decode_images
from geovq_jax.stages.run import Run
from geovq_jax.terminal import progress_bar

_NODES = 4_000
_IMAGES = 200
_SIZES = (16, 32, 64, 128, 256, 512)
_MEMBERS = 8  # least number of nodes per code
NAMES = {"pullback": "K-medoids, pull-back lengths", "euclidean": "K-medoids, Euclidean lengths"}


def measure(run: Run) -> dict[str, Any]:
    """Fit codebooks of several sizes to some images of the graph, and evaluate each on test images.

    K-medoids by swaps, under pull-back and Euclidean lengths of the same edges, with the decoder of the VAE before
    fine-tuning. Both costs are measured along the pull-back graph, so that they have the same unit. For each kind of
    lengths the result holds lists: `cost`, `entropy_bits` of the code usage by the nodes, `bits_per_image` of the
    codes of test images under unigram counts of the nodes, and `psnr` of these images with limits `psnr_low` and
    `psnr_high`.
    """
    config, stored = run.config, run.graph
    cells = len(stored.points) // len(stored.rows)
    rng = np.random.default_rng(config.seed)
    images = np.sort(rng.permutation(len(stored.rows))[: max(1, _NODES // cells)])
    chosen = (images[:, None] * cells + np.arange(cells)[None]).ravel()
    points = stored.points[chosen]
    own_metrics = run.metrics_at(chosen)
    metrics = {} if own_metrics is None else {"pullback": own_metrics}
    graphs = _graphs(points, {**metrics, "euclidean": None}, run.num_neighbours)

    latents = run.latents("test").mean
    tried = np.linspace(0, len(latents) - 1, min(_IMAGES, len(latents))).astype(np.int64)
    truth, latents = run.images("test")[tried], latents[tried]
    own = None
    if metrics:
        kept = run.metrics("test")
        own = measure_metrics(run.metric_fn, latents) if kept is None else np.asarray(kept[tried])
        own = own.reshape(-1, *2 * points.shape[1:])

    sizes = [size for size in _SIZES if size * _MEMBERS <= len(points)]
    rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in graphs}
    with progress_bar("codebooks of several sizes") as progress:
        for done, (size, kind) in enumerate(product(sizes, graphs), 1):
            found = geometry.kmedoids(
                graphs[kind], size, seed=config.seed, init=config.codebook.init, perturbations=0, tolerance=3e-3
            )
            distances, _ = geometry.nearest_source(graphs[kind], found.medoids)
            along, _ = geometry.nearest_source(next(iter(graphs.values())), found.medoids)
            codes, _ = encode_measured(
                Tokenizer(points, metrics.get(kind), found.labels, np.asarray(distances)),
                latents.reshape(-1, latents.shape[-1]),
                own if kind in metrics else None,
                k=config.codebook.neighbours,
            )
            quantized = decode_images(run.decode_fn, points[found.medoids][codes].reshape(latents.shape))
            psnr = bootstrap_interval(image_metrics.image_scores(truth, quantized).psnr, seed=config.seed)
            coded = likelihood.unigram_log_probabilities(
                found.labels.reshape(-1, cells), codes.reshape(-1, cells), size
            )
            row = {
                "cost": float(np.mean(np.asarray(along) ** 2)),
                "entropy_bits": entropy_bits(np.bincount(found.labels, minlength=size)),
                "bits_per_image": float(-coded.sum(axis=1).mean() / np.log(2)),
                **dict(zip(("psnr", "psnr_low", "psnr_high"), psnr, strict=True)),
            }
            rows[kind].append(row)
            progress(done, len(sizes) * len(graphs))
    columns = {kind: {name: [row[name] for row in found] for name in found[0]} for kind, found in rows.items()}
    return {"nodes": len(points), "images": len(tried), "sizes": sizes, **columns}


def _graphs(points: np.ndarray, metrics: dict[str, np.ndarray | None], k: int) -> dict[str, sparse.csr_array]:
    """One connected graph over the points per kind of lengths, all with the same edges."""
    neighbours = np.asarray(geometry.knn(points, min(k, len(points) - 1)).indices)
    edges, _ = geometry.edges_of(geometry.metric_graph(points, neighbours))
    return {
        kind: geometry.graph_from_edges(edges, geometry.straight_lengths(points, edges, own), len(points))
        for kind, own in metrics.items()
    }


def section(metrics: dict[str, Any]) -> Section:
    """Code length of the test codes, coded bits against PSNR, and the elbow, from report/metrics.json."""
    sweep, prior, quality = metrics["sizes"], metrics["prior"], metrics["images"]["truth-quantized"]
    kinds = [kind for kind in NAMES if kind in sweep]
    sizes = np.asarray(sweep["sizes"])

    def column(kind: str, name: str) -> np.ndarray:
        return np.asarray(sweep[kind][name])

    curves = {NAMES[kind]: (column(kind, "bits_per_image"), column(kind, "psnr")) for kind in kinds}
    limits = {NAMES[kind]: (column(kind, "psnr_low"), column(kind, "psnr_high")) for kind in kinds}
    for name, words in generation.MODELS.items():
        if name != "gpt_without_class":
            curves[f"this run, {words}"] = np.array([prior[name]["bits_per_image"]]), np.array([quality["psnr"]])
            limits[f"this run, {words}"] = np.array([quality["psnr_low"]]), np.array([quality["psnr_high"]])
    distortion = figures.rate_distortion(curves, intervals=limits, rate_label="coded bits per image")
    costs = {NAMES[kind]: column(kind, "cost") for kind in kinds}
    elbow = figures.elbow(sizes, costs, unit="squared pull-back length")
    pictures = [
        ReportFigure(
            "Coded bits and PSNR.", distortion, "rate_distortion", _points(curves), findings.metric_gain(metrics)
        ),
        ReportFigure(
            "Cost along the pull-back graph.", elbow, "elbow", sweep, _doublings(sizes, costs[NAMES[kinds[0]]])
        ),
    ]
    text = f"""Bits that an arithmetic coder spends on the codes of a test image under each model. The codes of this run
        are decoded by the fine-tuned decoder. Unigram and bigram are counts of the training codes. K-medoids: codebooks
        of {sizes[0]} to {sizes[-1]} codes on {sweep["nodes"]:,} nodes of the training graph, decoded by the VAE without
        fine-tuning, for {sweep["images"]:,} test images, coded by unigram counts."""
    return Section("Rate", text, tables=[generation.code_length_table(prior)], figures=pictures)


def _doublings(sizes: np.ndarray, cost: np.ndarray) -> str:
    """How much the first and the last doubling of K lower the cost."""
    if len(sizes) < 2:
        return ""
    first, last = (100.0 * (1.0 - cost[i + 1] / cost[i]) for i in (0, len(cost) - 2))
    return f"The first doubling of K lowers the cost by {first:.0f} %, the last, to K = {sizes[-1]}, by {last:.0f} %."


def _points(curves: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    return {name: {"bits": rates.tolist(), "psnr": values.tolist()} for name, (rates, values) in curves.items()}
