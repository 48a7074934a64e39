"""Stages `metrics` and `graph`: the metric at every latent, and the graph of the training latents."""

import json
from functools import partial
from typing import Any

import numpy as np

from geovq_jax import geometry, workers
from geovq_jax.geometry.batching import Progress
from geovq_jax.geometry.graphs.construction import LengthFn
from geovq_jax.geometry.graphs.graph import add_edges
from geovq_jax.geometry.graphs.indexes import Searched
from geovq_jax.geometry.graphs.knn import Backend, prepare_search, rerank
from geovq_jax.geometry.metric import DecodeFn
from geovq_jax.quantization.codebook import parameters_hash
from geovq_jax.shards import run_shards
from geovq_jax.stages.records import SPLITS
from geovq_jax.stages.run import Run
from geovq_jax.terminal import progress_bar
from geovq_jax.workdir import hash_arrays, save_npz

# Rows per shard (images, nodes, edges): the most that is recomputed after an interruption.
METRIC_SHARD, NEIGHBOUR_SHARD, EDGE_SHARD = 4096, 65536, 2**22


def measure_metrics(run: Run) -> str:
    """Metric at every latent of every split into `metrics/`, where the graph, the method or the search reads it."""
    if not run.needs_metrics:
        return "not needed"
    for split in SPLITS:
        save_npz(run.workdir / "metrics" / f"{split}.npz", metrics=_metrics(run, split))
    return f"{sum(len(run.latents(split).mean) for split in SPLITS)} images"


def _metrics(run: Run, split: str) -> np.ndarray:
    """Metrics [nodes, d, d] of the latents of a split, spatial cells in the context of their own image."""
    latents, context = run.latents(split).mean, run.config.graph.context
    d = latents.shape[-1]
    key = decoder_key(run) | {"latents": hash_arrays({"latents": latents}), "context": context}
    folder = run.workdir / "shards" / f"metrics_{split}"
    with progress_bar(f"metric at each latent of {split}") as progress:
        inside = None if workers.are_used() else progress
        metrics_of = partial(_metrics_of_rows, run.metric_fn, latents, context, inside)
        found = run_shards(folder, key, len(latents), metrics_of, shard_rows=METRIC_SHARD, progress=progress)
    return found["metrics"].reshape(-1, d, d)


def _metrics_of_rows(
    metric_fn: DecodeFn, latents: np.ndarray, context: str, progress: Progress | None, rows: slice
) -> dict[str, np.ndarray]:
    part, d = latents[rows], latents.shape[-1]
    report = None if progress is None else lambda done, _: progress(rows.start + done, len(latents))
    if latents.ndim == 2:
        found = geometry.node_metrics(metric_fn, part, progress=report)
    else:
        found = geometry.cell_metrics(metric_fn, part, context=context, progress=report)
    return {"metrics": np.asarray(found, np.float32).reshape(len(part), -1, d, d)}


def decoder_key(run: Run) -> dict[str, str]:
    """What the run's metric depends on besides the latents."""
    kind = run.metric_name
    output = kind if kind != "features" else f"features of {parameters_hash(run.classifier.params)}"
    return {"vae": run.vae_hash, "arch": str(run.autoencoder.arch), "output": output}


def build_graph(run: Run) -> str:
    """Symmetric k-NN graph of training latents with edges measured in the run's metric, into graph.npz."""
    config, section = run.config, run.config.graph
    latents = run.latents("train").mean
    rows = np.arange(len(latents))
    if 0 < section.num_images < len(latents):
        rows = np.sort(np.random.default_rng(config.seed).choice(len(latents), section.num_images, replace=False))
    points = latents[rows].reshape(-1, latents.shape[-1])
    if (k := run.num_neighbours) >= len(points):
        raise ValueError(f"expected graph.k below the number of nodes {len(points)}, got {k}; lower --config.graph.k")
    decoded = section.weights == "pullback" and run.wide
    metrics: np.ndarray | None = None
    if section.weights == "pullback" and not decoded:
        kept: Any = run.metrics("train")
        metrics = (kept if len(rows) == len(latents) else np.asarray(kept)[rows]).reshape(-1, *2 * points.shape[1:])

    length_fn = partial(_lengths, run.metric_fn if decoded else None, points, metrics)
    known = {"points": points} | ({} if metrics is None else {"metrics": metrics})
    key = {"measured": hash_arrays(known)} | (decoder_key(run) if decoded else {})

    def lengths_of(edges: np.ndarray) -> np.ndarray:
        with progress_bar("lengths of edges") as progress:
            return run_shards(
                run.workdir / "shards" / "edges",
                key | {"edges": hash_arrays({"edges": edges})},
                len(edges),
                partial(_lengths_of_rows, length_fn, edges),
                shard_rows=EDGE_SHARD // 4 if decoded else EDGE_SHARD,
                progress=progress,
            )["lengths"]

    neighbours = _neighbours(run, points, length_fn, key)
    graph = geometry.metric_graph(
        points, neighbours, metrics, symmetry=section.symmetry, repair=False, length_fn=lengths_of
    )
    before = geometry.connectivity(graph).num_components
    if section.repair and before > 1:
        extra = geometry.bridges(points, graph)
        graph = add_edges(graph, extra, length_fn(extra))
    save_npz(
        run.workdir / "graph.npz",
        data=graph.data,
        indices=graph.indices,
        indptr=graph.indptr,
        rows=rows,
        points=points,
        **({} if metrics is None else {"metrics": metrics}),
        components_before_repair=before,
        settings=json.dumps(dict(section), sort_keys=True),
    )
    return f"{graph.shape[0]} nodes, {graph.nnz // 2} edges, {before} components before repair"


def _neighbours(run: Run, points: np.ndarray, length_fn: LengthFn, measured: dict[str, str]) -> np.ndarray:
    """Indices [n, k] of the neighbours of every node, re-ranked by the length of edges where graph.rerank asks for it.

    `measured` names what these lengths depend on.
    """
    section, k = run.config.graph, run.num_neighbours
    candidates = min(max(k, section.rerank), len(points) - 1)
    searched = prepare_search(points, section.metric)
    nearest = partial(_neighbours_of_rows, searched, candidates, k, section.backend, length_fn)
    key = {"points": hash_arrays({"points": points}), "k": k, "metric": section.metric}
    key |= {"backend": section.backend, "rerank": section.rerank} | (measured if section.rerank else {})
    with progress_bar("neighbours") as progress:
        return run_shards(
            run.workdir / "shards" / "neighbours",
            key,
            len(points),
            nearest,
            shard_rows=NEIGHBOUR_SHARD,
            progress=progress,
        )["indices"]


def _neighbours_of_rows(
    searched: Searched, candidates: int, k: int, backend: Backend, length_fn: LengthFn, rows: slice
) -> dict[str, np.ndarray]:
    asked = np.arange(rows.start, rows.stop)
    found = geometry.knn(searched, candidates, rows=asked, backend=backend)
    if candidates > k:
        found = rerank(found, k, lambda edges: length_fn(np.stack([asked[edges[:, 0]], edges[:, 1]], axis=1)))
    return {"indices": found.indices}


def _lengths(
    decode_fn: DecodeFn | None, points: np.ndarray, metrics: np.ndarray | None, edges: np.ndarray
) -> np.ndarray:
    """Lengths of edges, by the decoder or, without one, from the metrics at the nodes."""
    if decode_fn is not None:
        return np.asarray(geometry.edge_lengths(decode_fn, points, edges), np.float64)
    return geometry.straight_lengths(points, edges, metrics)


def _lengths_of_rows(length_fn: LengthFn, edges: np.ndarray, rows: slice) -> dict[str, np.ndarray]:
    return {"lengths": length_fn(edges[rows])}
