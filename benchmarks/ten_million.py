"""The bar `ten-million` of benchmarks/kmedoids.py: coreset, graph, clustering and codes of points in a mapped file.

Every step writes a file of the work directory; a rerun skips the steps whose files exist. Neighbours and codes are
written in shards, the state of the search for medoids twice a minute.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scipy import sparse

from geovq_jax.geometry import coreset, kmedoids, knn, knn_graph, metric_graph, nearest_source
from geovq_jax.geometry.clustering import kmedoids as search
from geovq_jax.geometry.graphs.knn import prepare_search
from geovq_jax.quantization.tokenizer import Tokenizer, encode, load_tokenizer, save_tokenizer
from geovq_jax.shards import run_shards
from geovq_jax.workdir import load_npz, save_npz, write_json

NEIGHBOURS, PART, SAMPLE = 15, 2**18, 200  # points per part; sampled points per cluster of the last comparison
NAMES = ("points", "coreset", "graph", "clustering", "codes")
Note = Callable[..., None]


def ten_million(n: int, draws: int, num_clusters: int, workdir: Path) -> None:
    """Runs what is left of the steps and prints time and memory of all of them."""
    measured = run_steps(n, draws, num_clusters, workdir, NAMES)
    report(workdir, measured)


def run_steps(n: int, draws: int, num_clusters: int, workdir: Path, names: Sequence[str]) -> dict:
    """Runs those of the named steps, in their order, that are not done; returns seconds and memory of all steps."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the seconds of a step are recorded
    key = {"nodes": n, "draws": draws, "clusters": num_clusters}
    workdir.mkdir(parents=True, exist_ok=True)
    measured = read_record(workdir, key)
    work: dict[str, tuple[str, Callable[[Path, Note], None]]] = {
        "points": ("points.npy", partial(write_points, n)),
        "coreset": ("coreset.npz", partial(write_coreset, draws)),
        "graph": ("graph.npz", partial(write_graph, key)),
        "clustering": ("tokenizer.npz", partial(write_medoids, num_clusters)),
        "codes": ("codes.npz", partial(write_codes, key)),
    }
    for name in names:
        file, write = work[name]
        run_step(workdir, measured, name, workdir / file, write)
    return measured


def load_points(workdir: Path) -> np.ndarray:
    return np.load(workdir / "points.npy", mmap_mode="r").view(np.ndarray)


def load_nodes(workdir: Path) -> np.ndarray:
    return load_points(workdir)[load_npz(workdir / "coreset.npz", stage="run")["nodes"]]


def read_record(workdir: Path, key: dict[str, int]) -> dict:
    """Seconds and memory of the steps of earlier calls; ends the process where they had other sizes."""
    record = workdir / "measured.json"
    measured = json.loads(record.read_text()) if record.is_file() else {"key": key, "steps": {}}
    if measured["key"] != key:
        raise SystemExit(f"error: expected {workdir} of {key}, got {measured['key']}; choose another --workdir")
    return measured


def run_step(workdir: Path, measured: dict, name: str, path: Path, work: Callable[[Path, Note], None]) -> None:
    """Does the work unless its file exists; the seconds of an interrupted call are added to those of the next."""
    before = measured["steps"].get(name, {"seconds": 0.0, "cpu": 0.0, "peak_gib": 0.0})
    wall, cpu = time.monotonic(), time.process_time()

    def note(*_: object) -> None:
        seconds, used = before["seconds"] + time.monotonic() - wall, before["cpu"] + time.process_time() - cpu
        peak = max(before["peak_gib"], peak_memory())
        measured["steps"][name] = {"seconds": seconds, "cpu": used, "peak_gib": peak}
        write_json(workdir / "measured.json", measured)

    earlier = path.exists()
    if not earlier:
        try:
            work(path, note)
        finally:
            note()
    spent = measured["steps"][name]
    print(
        f"{name:<10} {spent['seconds']:7.1f} s {spent['cpu']:8.1f} CPU-s, peak {spent['peak_gib']:.2f} GiB"
        + earlier * ", done before",
        flush=True,
    )


def peak_memory() -> float:
    """Largest resident memory of this process, plus that of its largest child, in GiB; mapped pages count as well."""
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 2**20


def write_points(n: int, path: Path, note: Note) -> None:
    """The manifold of `kmedoids.manifold` in float32, in parts of independent random numbers."""
    temporary, rng = path.with_suffix(".part"), np.random.default_rng(0)
    points = np.lib.format.open_memmap(temporary, "w+", np.float32, (n, 16))
    frequencies, phases = 3.0 * rng.standard_normal((3, 16)), 6.0 * rng.random(16)
    for start in range(0, n, PART):
        rng, rows = np.random.default_rng([1, start // PART]), min(PART, n - start)
        clean = np.sin(rng.random((rows, 3)) @ frequencies + phases)
        points[start : start + rows] = clean + 0.01 * rng.standard_normal((rows, 16))
    points.flush()
    os.replace(temporary, path)


def write_coreset(draws: int, path: Path, note: Note) -> None:
    save_npz(path, **coreset(load_points(path.parent), draws, seed=0)._asdict())


def write_graph(key: dict[str, int], path: Path, note: Note) -> None:
    nodes = load_nodes(path.parent)
    searched = prepare_search(nodes)

    def neighbours_of(rows: slice) -> dict[str, np.ndarray]:
        return {"indices": knn(searched, NEIGHBOURS, rows=np.arange(rows.start, rows.stop)).indices}

    folder = path.parent / "neighbours"
    found = run_shards(folder, key, len(nodes), neighbours_of, shard_rows=PART // 4, progress=note)["indices"]
    graph = metric_graph(nodes, found)
    save_npz(path, data=graph.data, indices=graph.indices, indptr=graph.indptr)


def write_medoids(num_clusters: int, path: Path, note: Note) -> None:
    nodes = load_nodes(path.parent)
    arrays = load_npz(path.parent / "graph.npz", stage="run")
    graph = sparse.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=2 * (len(nodes),))
    weights = load_npz(path.parent / "coreset.npz", stage="run")["weights"]
    saved, now = path.parent / "state.npz", time.monotonic()
    if saved.is_file():
        state = search.load_state(load_npz(saved, stage="run"))
    else:
        state = search.start(graph, num_clusters, seed=0, node_weights=weights)
    while not state.converged:
        state = search.step(graph, state)
        print(f"  round {len(state.history) - 1}: cost x{state.history[-1] / state.history[0]:.4f}", flush=True)
        if time.monotonic() - now > 30:
            save_npz(saved, **state._asdict())
            now = time.monotonic()
            note()
    found = search.result(graph, state)
    save_npz(path.parent / "medoids.npz", medoids=found.medoids, history=found.history)
    distances = np.asarray(nearest_source(graph, found.medoids).distance)
    save_tokenizer(path, Tokenizer(nodes, None, found.labels, distances))


def write_codes(key: dict[str, int], path: Path, note: Note) -> None:
    points = load_points(path.parent)
    tokenizer = load_tokenizer(path.parent / "tokenizer.npz")
    entries = prepare_search(tokenizer.points)

    def codes_of(rows: slice) -> dict[str, np.ndarray]:
        return encode(tokenizer, points[rows], k=NEIGHBOURS, batch_size=PART // 4, nodes=entries)._asdict()

    found = run_shards(path.parent / "codes", key, len(points), codes_of, shard_rows=PART, progress=note)
    save_npz(path, **found)


def report(workdir: Path, measured: dict) -> None:
    """Time and memory in all, and the cost against that of medoids fitted to a uniform sample of the points."""
    points, nodes = load_points(workdir), load_nodes(workdir)
    codes, found = (load_npz(workdir / f"{name}.npz", stage="run") for name in ("codes", "medoids"))
    spent, history = [measured["steps"][name] for name in NAMES], found["history"]
    print(
        f"{len(points):,} points, {len(nodes):,} nodes: {sum(one['seconds'] for one in spent):.0f} s, "
        f"{sum(one['cpu'] for one in spent):.0f} CPU-s, peak {max(one['peak_gib'] for one in spent):.2f} GiB; "
        f"cost x{history[-1] / history[0]:.4f} of k-means++ after {len(history) - 1} rounds; mean squared distance of "
        f"all points over the nodes' {np.mean(codes['distances'] ** 2) / history[-1]:.4f}; "
        f"{len(np.unique(codes['codes'])):,} of {len(found['medoids']):,} codes in use",
        flush=True,
    )
    start, medoids = time.monotonic(), nodes[found["medoids"]]
    ratio, size = sample_ratio(points, medoids)
    print(
        f"on the graph of {size:,} other points: cost {ratio:.4f} of that of medoids fitted to {size:,} points "
        f"({time.monotonic() - start:.0f} s, not counted)"
    )


def sample_ratio(points: np.ndarray, medoids: np.ndarray) -> tuple[float, int]:
    """Cost of medoids over that of as many medoids fitted to a sample, both on the graph of another sample; its size.

    Below 1 where the medoids are better than those that a uniform sample of `SAMPLE` points per cluster gives.
    """
    k, size = len(medoids), min(len(points) // 2, SAMPLE * len(medoids))
    first, second = np.random.default_rng(1).choice(len(points), (2, size), replace=False)
    own = points[first][kmedoids(knn_graph(points[first], NEIGHBOURS), k, seed=0).medoids]
    graph = knn_graph(np.concatenate([points[second], medoids, own]), NEIGHBOURS)
    ours, theirs = (
        float(np.mean(nearest_source(graph, np.arange(start, start + k)).distance[:size] ** 2))
        for start in (size, size + k)
    )
    return ours / theirs, size
