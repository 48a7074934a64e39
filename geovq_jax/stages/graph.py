"""Stages `metrics` and `graph`: the metric at every latent, and the graph of the training latents."""

import json

import numpy as np

from geovq_jax import geometry
from geovq_jax.geometry.graphs.knn import rerank
from geovq_jax.quantization.codebook import parameters_hash
from geovq_jax.shards import run_shards
from geovq_jax.stages.records import SPLITS
from geovq_jax.stages.run import Run
from geovq_jax.terminal import progress_bar
from geovq_jax.workdir import hash_arrays, save_npz

# Rows per shard: images whose metrics, nodes whose neighbours and edges whose lengths an interruption loses at most.
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
    d, kind = latents.shape[-1], run.metric_name
    with progress_bar(f"metric at each latent of {split}") as progress:

        def metrics_of(rows: slice) -> dict[str, np.ndarray]:
            part = latents[rows]
            report = lambda done, _: progress(rows.start + done, len(latents))  # noqa: E731
            if latents.ndim == 2:
                found = geometry.node_metrics(run.metric_fn, part, progress=report)
            else:
                found = geometry.cell_metrics(run.metric_fn, part, context=context, progress=report)
            return {"metrics": np.asarray(found, np.float32).reshape(len(part), -1, d, d)}

        key = {
            "vae": run.vae_hash,
            "arch": str(run.autoencoder.arch),
            "latents": hash_arrays({"latents": latents}),
            "context": context,
            "output": kind if kind != "features" else f"features of {parameters_hash(run.classifier.params)}",
        }
        folder = run.workdir / "shards" / f"metrics_{split}"
        found = run_shards(folder, key, len(latents), metrics_of, shard_rows=METRIC_SHARD)
    return found["metrics"].reshape(-1, d, d)


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
    metrics = None
    if section.weights == "pullback":
        metrics = np.asarray(run.metrics("train"))[rows].reshape(-1, *2 * points.shape[1:])
    measured = {"points": points} | ({} if metrics is None else {"metrics": metrics})

    def lengths_of(edges: np.ndarray) -> np.ndarray:
        return run_shards(
            run.workdir / "shards" / "edges",
            {"measured": hash_arrays(measured | {"edges": edges})},
            len(edges),
            lambda part: {"lengths": geometry.straight_lengths(points, edges[part], metrics)},
            shard_rows=EDGE_SHARD,
        )["lengths"]

    neighbours = _neighbours(run, points, metrics)
    separate = geometry.metric_graph(
        points, neighbours, metrics, symmetry=section.symmetry, repair=False, length_fn=lengths_of
    )
    before = geometry.connectivity(separate).num_components
    graph = geometry.join_components(points, separate, metrics) if section.repair and before > 1 else separate
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


def _neighbours(run: Run, points: np.ndarray, metrics: np.ndarray | None) -> np.ndarray:
    """Indices [n, k] of the neighbours of every node, re-ranked by pull-back length where graph.rerank asks for it."""
    section, k = run.config.graph, run.num_neighbours
    candidates = min(max(k, section.rerank), len(points) - 1)

    def nearest(rows: slice) -> dict[str, np.ndarray]:
        asked = np.arange(rows.start, rows.stop)
        found = geometry.knn(points, candidates, rows=asked, metric=section.metric, backend=section.backend)

        def length_fn(edges: np.ndarray) -> np.ndarray:
            return geometry.straight_lengths(points, np.stack([asked[edges[:, 0]], edges[:, 1]], axis=1), metrics)

        return {"indices": (rerank(found, k, length_fn) if candidates > k else found).indices}

    key = {"points": hash_arrays({"points": points}), "k": k, "metric": section.metric}
    key |= {"backend": section.backend, "rerank": section.rerank}
    if section.rerank and metrics is not None:
        key["metrics"] = hash_arrays({"metrics": metrics})
    with progress_bar("neighbours") as progress:
        return run_shards(
            run.workdir / "shards" / "neighbours",
            key,
            len(points),
            nearest,
            shard_rows=NEIGHBOUR_SHARD,
            progress=progress,
        )["indices"]
