"""Stage `codebook`: the code vectors of the run's method, and the code of each node of the graph."""

import json
import time
from pathlib import Path

import numpy as np

from geovq_jax import geometry, processes
from geovq_jax.geometry.clustering import kmedoids
from geovq_jax.quantization import methods
from geovq_jax.quantization.codebook import Codebook, save_codebook
from geovq_jax.stages.run import Run
from geovq_jax.terminal import progress_bar
from geovq_jax.workdir import hash_arrays, load_npz, remove, save_npz

SAVE_EVERY = 30.0  # seconds between two writes of the state of K-medoids


def build_codebook(run: Run) -> str:
    """Fit the codebook of the run's method to the nodes of the graph, into codebook.npz."""
    section, method = run.config.codebook, methods.METHODS[run.method]
    found = cluster(run) if method.on_graph else None
    clusters = None
    if found is not None:
        nearest = geometry.nearest_source(run.graph.graph, found.medoids)
        clusters = methods.Clusters(found.medoids, found.labels, np.asarray(nearest.distance))
    nodes = nodes_of(run, clusters)
    with progress_bar(f"codebook: {method.title}"):
        quantizer, encoded = methods.fit(run.method, nodes, section.num_clusters, seed=run.config.seed)
    reached = encoded.codes >= 0
    radii = np.zeros(section.num_clusters)
    np.maximum.at(radii, encoded.codes[reached], encoded.distances[reached])
    on_nodes = found is not None and quantizer.assignment == "graph" and run.method == "geodesic"
    medoids = found.medoids if found is not None and on_nodes else np.full(section.num_clusters, -1)
    save_codebook(
        run.workdir / "codebook.npz",
        Codebook(
            vectors=quantizer.vectors,
            medoids=np.asarray(medoids, np.int64),
            counts=np.bincount(encoded.codes[reached], minlength=section.num_clusters),
            radii=radii,
            settings=dict(section)
            | {"vae": run.vae_hash, "graph": run.graph.settings, "seed": run.config.seed, "method": run.method}
            | {"distance": run.distance},
        ),
        node_labels=np.asarray(encoded.codes, np.int32),
        node_distances=np.asarray(encoded.distances, np.float64),
        cost_history=np.asarray([] if found is None else found.history, np.float64),
        **({} if quantizer.transform is None else {"transform": quantizer.transform}),
    )
    remove(_saved_state(run))
    return f"{method.title}, K={section.num_clusters}" + _gain(found)


def _gain(found: geometry.KMedoids | None) -> str:
    if found is None:
        return ""
    if found.history[0] <= 0:
        return "; every node is its own medoid"
    return f"; K-medoids cost {found.cost:.4g}, {100 * (1 - found.cost / found.history[0]):.1f} % below its seeding"


def _saved_state(run: Run) -> Path:
    return run.workdir / "shards" / "codebook.npz"


def nodes_of(run: Run, clusters: methods.Clusters | None) -> methods.Nodes:
    """The training latents that codebooks are fitted to, with their metrics."""
    metrics = run.metrics("train")
    size = run.graph.points.shape[1]
    return methods.Nodes(
        decode_fn=run.metric_fn,
        latents=run.graph_latents,
        metrics=None if metrics is None else metrics[run.graph.rows].reshape(-1, size, size),
        clusters=clusters,
        graph_metrics=run.graph.metrics,
        distance=run.distance,
    )


def cluster(run: Run) -> geometry.KMedoids:
    """K-medoids of the graph; the state is saved every `SAVE_EVERY` seconds, and an interrupted search continues."""
    section, graph = run.config.codebook, run.graph.graph
    key = {
        "graph": hash_arrays({name: getattr(graph, name) for name in ("data", "indices", "indptr")}),
        "settings": {name: section[name] for name in ("num_clusters", "init", "algorithm", "rounds")},
        "seed": run.config.seed,
    }
    path, text = _saved_state(run), json.dumps(key, sort_keys=True)
    state = _load_state(path, text)
    if state is None:
        state = kmedoids.start(
            graph, section.num_clusters, seed=run.config.seed, init=section.init, algorithm=section.algorithm
        )
    saved = time.monotonic()
    with progress_bar("K-medoids") as progress:
        while not state.converged and len(state.history) <= section.rounds:
            state = kmedoids.step(graph, state)
            progress(len(state.history) - 1, section.rounds)
            if time.monotonic() - saved >= SAVE_EVERY:
                save_npz(path, key=text, **state._asdict())
                saved = time.monotonic()
    return kmedoids.result(graph, state)


def _load_state(path: Path, key: str) -> kmedoids.State | None:
    """The state saved under a key; None if there is none, or if the file is damaged or saved under another key."""
    try:
        arrays = load_npz(path, stage="run")
        state = kmedoids.load_state(arrays) if str(arrays.pop("key")) == key else None
    except (OSError, ValueError, KeyError):
        state = None
    processes.barrier(f"{path.name}: read")
    return state
