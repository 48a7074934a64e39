"""Stages `graph`, `codebook`, `codes` and `decoder`: from latents to codes and to the decoder that reads them."""

import json
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy import sparse

from geovq_jax import geometry, processes
from geovq_jax.config import settings
from geovq_jax.evaluation.code_usage import code_usage
from geovq_jax.geometry.clustering import kmedoids
from geovq_jax.quantization import refinement
from geovq_jax.quantization import tokenizer as tokenizing
from geovq_jax.quantization.codebook import Codebook, load_codebook, parameters_hash, save_codebook
from geovq_jax.quantization.tokenizer import Tokenizer
from geovq_jax.shards import run_shards
from geovq_jax.stages.finetune import finetune
from geovq_jax.stages.vae import SPLITS, decoder, load_data, load_vae
from geovq_jax.terminal import ProgressCallback, progress_bar
from geovq_jax.training import checkpoint, tracking
from geovq_jax.workdir import hash_arrays, load_npz, remove, save_npz

# Rows in a shard: images whose metrics, nodes whose neighbours, edges whose lengths are lost to a kill at most.
METRIC_SHARD, NEIGHBOUR_SHARD, EDGE_SHARD = 4096, 65536, 2**22
SAVE_EVERY = 30.0  # seconds between two writes of the state of K-medoids


def image_shape(workdir: Path) -> tuple[int, ...]:
    """Shape of the images that the latents were made from."""
    return tuple(int(side) for side in load_latents(workdir, "train")["image_shape"])


def load_latents(workdir: Path, split: str) -> dict[str, np.ndarray]:
    """Arrays of latents/<split>.npz."""
    return load_npz(workdir / "latents" / f"{split}.npz", stage="train_vae")


def load_graph(workdir: Path) -> tuple[sparse.csr_array, dict[str, np.ndarray]]:
    """The graph of graph.npz, and all arrays of the file."""
    arrays = load_npz(workdir / "graph.npz", stage="build_codebook")
    size = len(arrays["indptr"]) - 1
    return sparse.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(size, size)), arrays


def load_codes(workdir: Path, split: str) -> dict[str, np.ndarray]:
    """Arrays of codes/<split>.npz: codes int32 [n] or [n, h, w], distance, label, index."""
    return load_npz(workdir / "codes" / f"{split}.npz", stage="build_codebook")


def decoder_of(workdir: Path, config: ConfigDict) -> jax.tree_util.Partial:
    """The trained decoder z -> x of one latent: the map whose metric the graph uses."""
    return decoder(*load_vae(workdir, config, image_shape(workdir)))


def latent_metrics(
    workdir: Path,
    config: ConfigDict,
    latents: np.ndarray,
    *,
    folder: Path | None = None,
    progress: ProgressCallback | None = None,
) -> np.ndarray | None:
    """Pull-back metric of the trained decoder at every node of some latents [n, d] or [n, h, w, d].

    Args:
        workdir: holds the decoder.
        config: of the run.
        latents: of n images.
        folder: where finished shards are kept, for the next call; None keeps none.
        progress: called with (images done, n).

    Returns:
        [nodes, d, d] float32, spatial cells in the context of their own image; None where graph.weights is euclidean.
    """
    if config.graph.weights == "euclidean":
        return None
    params, arch = load_vae(workdir, config, image_shape(workdir))
    decode_fn, d = decoder(params, arch), latents.shape[-1]

    def metrics_of(rows: slice) -> dict[str, np.ndarray]:
        part, report = latents[rows], None
        if progress is not None:
            report = lambda done, _: progress(rows.start + done, len(latents))  # noqa: E731
        if latents.ndim == 2:
            found = geometry.node_metrics(decode_fn, part, progress=report)
        else:
            found = geometry.cell_metrics(decode_fn, part, context=config.graph.context, progress=report)
        return {"metrics": np.asarray(found, np.float32).reshape(len(part), -1, d, d)}

    if folder is None:
        return metrics_of(slice(0, len(latents)))["metrics"].reshape(-1, d, d)
    key = {
        "vae": parameters_hash(params),
        "arch": str(arch),
        "latents": hash_arrays({"latents": latents}),
        "context": config.graph.context,
    }
    found = run_shards(folder, key, len(latents), metrics_of, shard_rows=METRIC_SHARD)
    return found["metrics"].reshape(-1, d, d)


def nodes_of(latents: np.ndarray) -> np.ndarray:
    """Latents as one row a node: [n, d] stays, [n, h, w, d] becomes [n h w, d]."""
    return latents.reshape(-1, latents.shape[-1])


def edge_lengths(points: np.ndarray, metrics: np.ndarray | None, edges: np.ndarray) -> np.ndarray:
    """Lengths [e] of edges between nodes [n, d] in the metrics of their ends [n, d, d], Euclidean without metrics."""
    if metrics is None:
        return np.linalg.norm(points[edges[:, 0]].astype(np.float64) - points[edges[:, 1]], axis=1)
    return np.asarray(geometry.lengths_from_metrics(points, metrics, edges), np.float64)


def build_graph(workdir: Path, config: ConfigDict) -> str:
    """Symmetric k-NN graph of training latents with pull-back edge lengths, one component, into graph.npz."""
    section = config.graph
    latents = load_latents(workdir, "train")["mean"]
    rows = np.arange(len(latents))
    if 0 < section.num_images < len(latents):
        rows = np.sort(np.random.default_rng(config.seed).choice(len(latents), section.num_images, replace=False))
    latents = latents[rows]
    points = nodes_of(latents)
    if section.k >= len(points):
        raise ValueError(
            f"expected graph.k below the number of nodes {len(points)}, got {section.k}; lower --config.graph.k"
        )
    with progress_bar("metric at each node") as progress:
        metrics = latent_metrics(workdir, config, latents, folder=workdir / "shards" / "metrics", progress=progress)
    edges = geometry.unique_edges(_neighbours(workdir, config, points), symmetry=section.symmetry)
    measured = {"points": points, "edges": edges} | ({} if metrics is None else {"metrics": metrics})
    lengths = run_shards(
        workdir / "shards" / "edges",
        {"measured": hash_arrays(measured)},
        len(edges),
        lambda rows: {"lengths": edge_lengths(points, metrics, edges[rows])},
        shard_rows=EDGE_SHARD,
    )["lengths"]
    graph = geometry.graph_from_edges(edges, lengths, len(points))
    before = geometry.connectivity(graph)
    if section.repair and before.num_components > 1:
        bridges = geometry.bridges(points, graph)
        graph = geometry.add_edges(graph, bridges, edge_lengths(points, metrics, bridges))
    save_npz(
        workdir / "graph.npz",
        data=graph.data,
        indices=graph.indices,
        indptr=graph.indptr,
        rows=rows,
        points=points,
        **({} if metrics is None else {"metrics": metrics}),
        components_before_repair=before.num_components,
        settings=json.dumps(dict(section), sort_keys=True),
    )
    return f"{graph.shape[0]} nodes, {graph.nnz // 2} edges, {before.num_components} components before repair"


def _neighbours(workdir: Path, config: ConfigDict, points: np.ndarray) -> np.ndarray:
    """Indices [n, k] of the neighbours of every node."""
    section = config.graph

    def search(rows: slice) -> dict[str, np.ndarray]:
        asked = np.arange(rows.start, rows.stop)
        return {"indices": geometry.knn(points, section.k, rows=asked, metric=section.metric).indices}

    with progress_bar("neighbours") as progress:
        return run_shards(
            workdir / "shards" / "neighbours",
            {"points": hash_arrays({"points": points}), "k": section.k, "metric": section.metric},
            len(points),
            search,
            shard_rows=NEIGHBOUR_SHARD,
            progress=progress,
        )["indices"]


def build_codebook(workdir: Path, config: ConfigDict) -> str:
    """K-medoids on the graph, into codebook.npz with the code and the distance of every node."""
    section = config.codebook
    graph, arrays = load_graph(workdir)
    if section.num_clusters > graph.shape[0]:
        raise ValueError(
            f"expected codebook.num_clusters at most the number of nodes {graph.shape[0]}, got {section.num_clusters}; "
            "lower --config.codebook.num_clusters"
        )
    key = {
        "graph": hash_arrays({name: arrays[name] for name in ("data", "indices", "indptr")}),
        "settings": {name: section[name] for name in ("num_clusters", "init", "method", "rounds")},
        "seed": config.seed,
    }
    saved_state = workdir / "shards" / "codebook.npz"
    with progress_bar("K-medoids") as progress:
        clusters = _clusters(saved_state, json.dumps(key, sort_keys=True), graph, config, progress)
    distances, _ = geometry.nearest_source(graph, clusters.medoids)
    params, _ = load_vae(workdir, config, image_shape(workdir))
    radii = np.zeros(section.num_clusters)
    reached = clusters.labels >= 0
    np.maximum.at(radii, clusters.labels[reached], distances[reached])
    vectors = arrays["points"][clusters.medoids]
    if section.refine:
        vectors = _refined(workdir, config, vectors, clusters.labels)
    codebook = Codebook(
        vectors=vectors,
        medoids=np.asarray(clusters.medoids, np.int64),
        counts=np.bincount(clusters.labels[reached], minlength=section.num_clusters),
        radii=radii,
        settings={
            "vae": parameters_hash(params),
            "graph": str(arrays["settings"]),
            "seed": config.seed,
            **dict(section),
        },
    )
    save_codebook(
        workdir / "codebook.npz",
        codebook,
        node_labels=np.asarray(clusters.labels, np.int32),
        node_distances=np.asarray(distances, np.float64),
        cost_history=np.asarray(clusters.history, np.float64),
    )
    remove(saved_state)
    gain = 1.0 - clusters.cost / clusters.history[0]
    return f"K={section.num_clusters}, cost {clusters.cost:.4g}, {100 * gain:.1f} % below its seeding"


def _clusters(
    path: Path, key: str, graph: sparse.csr_array, config: ConfigDict, progress: ProgressCallback
) -> geometry.KMedoids:
    """K-medoids of a graph; its state is saved to a file, from which an interrupted call under the same key goes on."""
    section = config.codebook
    state = _load_state(path, key)
    if state is None:
        state = kmedoids.start(
            graph, section.num_clusters, seed=config.seed, init=section.init, algorithm=section.method
        )
    saved = time.monotonic()
    while not state.converged and len(state.history) <= section.rounds:
        state = kmedoids.step(graph, state)
        progress(len(state.history) - 1, section.rounds)
        if time.monotonic() - saved >= SAVE_EVERY:
            save_npz(path, key=key, **state._asdict())
            saved = time.monotonic()
    return kmedoids.result(graph, state)


def _load_state(path: Path, key: str) -> kmedoids.State | None:
    """The state that was saved under a key; None without one, or if the file is damaged or of another key."""
    try:
        arrays = load_npz(path, stage="run")
        state = kmedoids.load_state(arrays) if str(arrays.pop("key")) == key else None
    except (OSError, ValueError, KeyError):
        state = None
    processes.wait(f"{path.name}: read")
    return state


def _refined(workdir: Path, config: ConfigDict, vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Centres that lower the decoded error of the geodesic cells, starting from the medoids."""
    latents = load_latents(workdir, "train")["mean"][load_graph(workdir)[1]["rows"]]
    decode_fn = decoder_of(workdir, config)
    with progress_bar("refining centres") as progress:
        if latents.ndim == 2:
            refined = refinement.refine_centres(
                decode_fn, vectors, latents, labels, assignment="given", progress=progress
            )
        else:
            refined = refinement.refine_cell_centres(
                decode_fn, vectors, latents, labels.reshape(latents.shape[:3]), progress=progress
            )
    return refined.centres


def load_tokenizer(workdir: Path) -> Tokenizer:
    """The tokenizer of a codebook: the graph's nodes that some medoid reaches."""
    _, graph = load_graph(workdir)
    nodes = load_npz(workdir / "codebook.npz", stage="build_codebook")
    reached = nodes["node_labels"] >= 0
    return Tokenizer(
        points=graph["points"][reached],
        metrics=graph["metrics"][reached] if "metrics" in graph else None,
        labels=nodes["node_labels"][reached],
        distances=nodes["node_distances"][reached],
    )


def encode_splits(workdir: Path, config: ConfigDict) -> str:
    """Codes of every image of every split into `codes/`: nodes of the graph keep theirs, all others are tokenized."""
    params, _ = load_vae(workdir, config, image_shape(workdir))
    load_codebook(workdir / "codebook.npz", vae_hash=parameters_hash(params))
    tokenizer = load_tokenizer(workdir)
    _, graph = load_graph(workdir)
    nodes = load_npz(workdir / "codebook.npz", stage="build_codebook")
    perplexity = 0.0
    for split in SPLITS:
        latents = load_latents(workdir, split)
        mean = latents["mean"]
        cells = int(np.prod(mean.shape[1:-1]))
        codes = np.full((len(mean), cells), -1, np.int32)
        distance = np.full((len(mean), cells), np.inf)
        if split == "train":
            codes[graph["rows"]] = nodes["node_labels"].reshape(-1, cells)
            distance[graph["rows"]] = nodes["node_distances"].reshape(-1, cells)
        rest = np.flatnonzero((codes < 0).any(axis=1))
        if rest.size:
            with progress_bar(f"encoding {split}") as progress:
                found = tokenizing.encode(
                    tokenizer,
                    mean[rest],
                    None if tokenizer.metrics is None else decoder_of(workdir, config),
                    k=config.codebook.neighbours,
                    context=config.graph.context,
                    progress=progress,
                )
            codes[rest], distance[rest] = (part.reshape(len(rest), cells) for part in found)
        save_npz(
            workdir / "codes" / f"{split}.npz",
            codes=codes.reshape(mean.shape[:-1]),
            distance=distance.reshape(mean.shape[:-1]),
            label=latents["label"],
            index=latents["index"],
        )
        perplexity = code_usage(codes, config.codebook.num_clusters)["perplexity"]
    return f"every image of every split; test perplexity {perplexity:.1f} of {config.codebook.num_clusters}"


def finetune_decoder(workdir: Path, config: ConfigDict) -> str:
    """Train the decoder alone to reconstruct images from their code vectors (squared error), into `decoder/`.

    With codebook.finetune_decoder off, `decoder/` holds the VAE's own weights.
    """
    section = config.codebook
    dataset = load_data(config)
    params, arch = load_vae(workdir, config, dataset.train.images.shape[1:])
    codebook = load_codebook(workdir / "codebook.npz", vae_hash=parameters_hash(params))
    record = settings(config, "seed", "data", "vae", "codebook")
    if not section.finetune_decoder:
        checkpoint.save(workdir / "decoder" / "best", params, {"settings": record})
        return "not fine-tuned"
    with progress_bar("fine-tuning the decoder") as progress:
        tuned = finetune(
            workdir / "decoder",
            dataset,
            {split: load_codes(workdir, split)["codes"] for split in ("train", "valid")},
            params,
            arch,
            codebook.vectors,
            rung="decoder",
            num_steps=section.finetune_steps,
            learning_rate=section.finetune_learning_rate,
            batch_size=config.data.batch_size,
            seed=config.seed,
            metadata=record,
            log=tracking.open_writer(workdir, "decoder", config.tracker),
            progress=progress,
        )
    before, after = (-10 * np.log10(error) for error in (tuned.frozen, tuned.error))
    return f"validation error {before:.2f} dB frozen, {after:.2f} dB fine-tuned"
