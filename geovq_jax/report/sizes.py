"""The part of a run's report on the number of codes: clustering cost, rate and distortion as K grows."""

from itertools import product
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from scipy import sparse

from geovq_jax import figures, geometry
from geovq_jax.evaluation import image_metrics
from geovq_jax.evaluation.code_usage import entropy_bits
from geovq_jax.evaluation.statistics import bootstrap_interval
from geovq_jax.quantization.tokenizer import Tokenizer, encode_measured
from geovq_jax.report.page import ReportFigure, Section
from geovq_jax.stages.records import decode_images
from geovq_jax.stages.run import Run
from geovq_jax.terminal import progress_bar

_NODES = 4_000
_IMAGES = 200
_SIZES = (16, 32, 64, 128, 256, 512)
_MEMBERS = 8  # nodes a code at least
NAMES = {"pullback": "K-medoids, pull-back lengths", "euclidean": "K-medoids, Euclidean lengths"}


def measure(run: Run) -> dict[str, Any]:
    """Codebooks of several sizes on a part of the graph's images, each tried on test images.

    K-medoids by swaps, under pull-back and under Euclidean lengths of the same edges; the VAE's own decoder, not
    fine-tuned. Costs of both are taken along the pull-back graph, so that they have one unit. For each kind of lengths
    the result holds lists: `cost`, `entropy_bits` of the use of the codes by the nodes, and `psnr` of the test images
    with limits `psnr_low` and `psnr_high`.
    """
    config, stored = run.config, run.graph
    cells = len(stored.points) // len(stored.rows)
    rng = np.random.default_rng(config.seed)
    images = np.sort(rng.permutation(len(stored.rows))[: max(1, _NODES // cells)])
    chosen = (images[:, None] * cells + np.arange(cells)[None]).ravel()
    points = stored.points[chosen]
    metrics = {} if stored.metrics is None else {"pullback": stored.metrics[chosen]}
    graphs = _graphs(points, {**metrics, "euclidean": None}, run.num_neighbours)

    latents = run.latents("test").mean
    tried = np.linspace(0, len(latents) - 1, min(_IMAGES, len(latents))).astype(np.int64)
    truth, latents = run.images("test")[tried], latents[tried]
    own = np.asarray(run.metrics("test"))[tried].reshape(-1, *2 * points.shape[1:]) if metrics else None

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
            row = {
                "cost": float(np.mean(np.asarray(along) ** 2)),
                "entropy_bits": entropy_bits(np.bincount(found.labels, minlength=size)),
                **dict(zip(("psnr", "psnr_low", "psnr_high"), psnr, strict=True)),
            }
            rows[kind].append(row)
            progress(done, len(sizes) * len(graphs))
    columns = {kind: {name: [row[name] for row in found] for name in found[0]} for kind, found in rows.items()}
    return {"nodes": len(points), "images": len(tried), "sizes": sizes, **columns}


def _graphs(points: np.ndarray, metrics: dict[str, np.ndarray | None], k: int) -> dict[str, sparse.csr_array]:
    """One connected graph over the points for each kind of lengths, all of the same edges."""
    neighbours = np.asarray(geometry.knn(points, min(k, len(points) - 1)).indices)
    edges, _ = geometry.edges_of(geometry.metric_graph(points, neighbours))
    return {
        kind: geometry.graph_from_edges(edges, geometry.straight_lengths(points, edges, own), len(points))
        for kind, own in metrics.items()
    }


def section(sweep: dict[str, Any], metrics: dict[str, Any], config: ConfigDict) -> Section:
    """Elbow, rate against distortion, and entropy against distortion, from `measure` and report/metrics.json."""
    kinds = [kind for kind in NAMES if kind in sweep]
    sizes = np.asarray(sweep["sizes"])
    prior = metrics["prior"]
    cells = prior["gpt"]["bits_per_image"] / prior["gpt"]["bits_per_code"]
    quality = metrics["images"]["truth-quantized"]
    costs = {NAMES[kind]: np.asarray(sweep[kind]["cost"]) for kind in kinds}
    elbow = figures.elbow(sizes, costs, unit="squared pull-back length")

    def curves(rates: dict[str, np.ndarray], own: np.ndarray, words: str) -> tuple[dict[str, Any], dict[str, Any]]:
        lines = {NAMES[kind]: (rates[kind], np.asarray(sweep[kind]["psnr"])) for kind in kinds}
        limits = {
            NAMES[kind]: tuple(np.asarray(sweep[kind][f"psnr_{end}"]) for end in ("low", "high")) for kind in kinds
        }
        name = f"this run, K = {config.codebook.num_clusters}, {words}"
        lines[name] = (own, np.full(len(own), quality["psnr"]))
        limits[name] = tuple(np.full(len(own), quality[f"psnr_{end}"]) for end in ("low", "high"))
        return lines, limits

    models = np.asarray([prior[name]["bits_per_image"] for name in ("uniform", "unigram", "bigram", "gpt")])
    fixed = {kind: cells * np.log2(sizes) for kind in kinds}
    rate, limits = curves(fixed, models, "coded by prior, bigram, unigram, uniform")
    distortion = figures.rate_distortion(rate, intervals=limits)
    bits = {kind: np.asarray(sweep[kind]["entropy_bits"]) for kind in kinds}
    use, limits = curves(bits, np.asarray([metrics["codes"]["entropy_bits"]]), "its own decoder")
    label = "entropy of the use of the codes [bits per code]"
    entropy = figures.rate_distortion(use, intervals=limits, rate_label=label)
    pictures = [
        ReportFigure("Cost of the clustering, along the pull-back graph, against K", elbow, "elbow", sweep),
        ReportFigure("Rate and distortion", distortion, "rate_distortion", _points(rate)),
        ReportFigure("Entropy of the codes and distortion", entropy, "entropy_psnr", _points(use)),
    ]
    text = f"""Codebooks of several sizes on {sweep["nodes"]:,} nodes of the training graph, drawn by the decoder of the
        VAE, not fine-tuned, for {sweep["images"]:,} test images. The run's own point stands for its fine-tuned decoder
        on the whole test split. PSNR is of truth against quantized; bars are 95 % bootstrap intervals over images."""
    return Section("Number of codes", text, figures=pictures)


def _points(curves: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    return {name: {"bits": rates.tolist(), "psnr": values.tolist()} for name, (rates, values) in curves.items()}
