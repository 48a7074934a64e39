"""K-medoids on graphs: quality against FasterPAM, speed against the naive formulation, cost over time, a million nodes.

    python benchmarks/kmedoids.py dense | naive | anytime | million | ten-million | coreset [--data fashion|manifold]

`dense`    n = 4,000, K = 128 and 512, three seeds: cost over that of FasterPAM on the dense geodesic matrix.
`naive`    n = 60,000, K = 512: cost over that of the seeding, and CPU seconds beside k-means++ by K full searches with
           two assignments by K x n tables.
`anytime`  n = 60,000, K = 512: cost over CPU time against PyAMG's balanced_lloyd_cluster, drawn to --figure.
`million`  n = 1,000,000 on a 3-d manifold in 16 dimensions, k = 15, K = 1,024: neighbours, graph and clustering end to
           end on all cores, peak memory.
`ten-million`  10,000,000 points of the same manifold, mapped from a file of --workdir: coreset of --draws draws, graph,
           clustering with K = 1,024, codes of all points, on all cores; each step starts where a killed one ended.
`coreset`  the same manifold, K = n / 1,000: medoids of coresets of n / 40 to n / 5 draws, three seeds, by their cost on
           the graph of all nodes over that of clustering this graph; codes of all nodes through the coreset in chunks.

The data are the first n training images of Fashion-MNIST projected on their 16 leading principal components, or a 3-d
manifold, sines of random phases in 16 dimensions with noise of 0.01; graphs are 20-neighbour unions of Euclidean
lengths. All but `million`, `ten-million` and `coreset` run on one core and print CPU seconds.
"""

import argparse
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np


def fashion(n: int) -> np.ndarray:
    from geovq_jax.data import load

    images = load("fashion_mnist").train.images[:n].reshape(-1, 784).astype(np.float64) / 255
    if len(images) < n:
        images = np.concatenate([images, load("fashion_mnist").valid.images.reshape(-1, 784) / 255])[:n]
    images -= images.mean(axis=0)
    _, axes = np.linalg.eigh(images.T @ images)
    return images @ axes[:, ::-1][:, :16]


def manifold(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    frequencies, phases = 3.0 * rng.standard_normal((3, 16)), 6.0 * rng.random(16)
    return np.sin(rng.random((n, 3)) @ frequencies + phases) + 0.01 * rng.standard_normal((n, 16))


def make_graph(data: str, n: int, k: int = 20):
    from geovq_jax.geometry import knn_graph

    start = time.process_time()
    points = {"fashion": fashion, "manifold": manifold}[data](n)
    graph = knn_graph(points, k)
    print(f"{data}, {n} nodes, {graph.nnz // 2} edges: {time.process_time() - start:.1f} CPU-s", flush=True)
    return graph


def compile_kernels(graph) -> None:
    from geovq_jax.geometry import kmedoids

    kmedoids(graph, 16, seed=0, max_iterations=1)
    kmedoids(graph, 16, seed=0, max_iterations=1, algorithm="alternate")


def dense(data: str) -> None:
    # This file's folder comes first on the path and would hide the package of the same name.
    sys.path = [entry for entry in sys.path if os.path.realpath(entry) != os.path.dirname(os.path.realpath(__file__))]
    import kmedoids as peer
    from scipy.sparse.csgraph import dijkstra

    from geovq_jax.geometry import kmedoids

    graph = make_graph(data, 4_000)
    compile_kernels(graph)
    start = time.process_time()
    table = dijkstra(graph) ** 2
    print(f"matrix: {time.process_time() - start:.1f} CPU-s", flush=True)
    for num_clusters in (128, 512):
        for seed in range(3):
            start = time.process_time()
            ours = kmedoids(graph, num_clusters, seed=seed)
            middle = time.process_time()
            theirs = peer.fasterpam(table, num_clusters, random_state=seed, init="random", n_cpu=1).loss / len(table)
            end = time.process_time()
            descent = kmedoids(graph, num_clusters, seed=seed, perturbations=0)
            alone = time.process_time() - end
            alternate = kmedoids(graph, num_clusters, seed=seed, algorithm="alternate")
            first = ours.history[0]
            print(
                f"K={num_clusters} seed={seed}: over seeding: alternating {alternate.cost / first:.3f}, "
                f"swaps {ours.cost / first:.3f}, FasterPAM {theirs / first:.3f}; "
                f"over FasterPAM: swaps {ours.cost / theirs:.4f} in {middle - start:.2f} s, without perturbations "
                f"{descent.cost / theirs:.4f} in {alone:.2f} s, against {end - middle:.2f} s after the matrix",
                flush=True,
            )


def naive(data: str) -> None:
    from scipy.sparse.csgraph import dijkstra

    from geovq_jax.geometry import kmedoids

    graph = make_graph(data, 60_000)
    compile_kernels(graph)
    for algorithm in ("swap", "alternate"):
        start = time.process_time()
        found = kmedoids(graph, 512, seed=0, algorithm=algorithm)
        seconds = time.process_time() - start
        print(f"{algorithm}: cost x{found.cost / found.history[0]:.4f} of seeding, {seconds:.1f} CPU-s", flush=True)
    start, rng = time.process_time(), np.random.default_rng(0)
    medoids, distance = [int(rng.integers(graph.shape[0]))], np.full(graph.shape[0], np.inf)
    while len(medoids) < 512:
        np.minimum(distance, dijkstra(graph, directed=False, indices=medoids[-1]), out=distance)
        medoids.append(int(rng.choice(graph.shape[0], p=distance**2 / np.sum(distance**2))))
    seeded = time.process_time()
    for _ in range(2):
        table = dijkstra(graph, directed=False, indices=medoids)
        labels, cost = table.argmin(axis=0), np.mean(table.min(axis=0) ** 2)
        del table
    end = time.process_time()
    print(
        f"naive: seeding {seeded - start:.1f} CPU-s, two assignments {end - seeded:.1f} CPU-s, together "
        f"{end - start:.1f}, cost x{cost / found.history[0]:.4f}, {len(np.unique(labels))} cells"
    )


def anytime(data: str, figure: str) -> None:
    import matplotlib.pyplot as plt

    drawing, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for axis, n, num_clusters in zip(axes, (4_000, 60_000), (128, 512), strict=True):
        for name, (seconds, ratio) in curves(make_graph(data, n), num_clusters).items():
            print(n, name, *(f"{s:.2f}s:{c:.3f}" for s, c in zip(seconds, ratio, strict=True)), flush=True)
            axis.plot(seconds, ratio, ".-", label=name)
        axis.set(xscale="log", xlabel="CPU seconds, seeding included", title=f"{data}, n = {n:,}, K = {num_clusters}")
        axis.legend()
    axes[0].set_ylabel("cost / cost of k-means++")
    drawing.savefig(figure, dpi=100, bbox_inches="tight")


def curves(graph, num_clusters: int) -> dict[str, tuple[list[float], list[float]]]:
    """Algorithm -> CPU seconds and cost over the seeding's, after each round; all start from the same seeding."""
    import numpy as np
    import pyamg
    from scipy.sparse.csgraph import dijkstra

    from geovq_jax.geometry import kmedoids
    from geovq_jax.geometry.clustering.seeding import seed_medoids

    compile_kernels(graph)
    found = {}
    for algorithm in ("swap", "alternate"):
        times, start = [], time.process_time()
        clusters = kmedoids(
            graph,
            num_clusters,
            seed=0,
            algorithm=algorithm,
            tolerance=0.0 if algorithm == "alternate" else 1e-4,
            progress=lambda *_, times=times, start=start: times.append(time.process_time() - start),
        )
        found[algorithm] = times, list(clusters.history[1 : len(times) + 1] / clusters.history[0])
    start = time.process_time()
    first = seed_medoids(graph, num_clusters, seed=0).astype(np.int32)
    seeded, seeding = time.process_time() - start, np.mean(dijkstra(graph, indices=first, min_only=True) ** 2)
    peers = {"PyAMG lloyd_cluster": pyamg.graph.lloyd_cluster}
    if graph.shape[0] <= 4_000:  # at 60,000 nodes one round takes more than three minutes
        peers["PyAMG balanced_lloyd_cluster"] = pyamg.graph.balanced_lloyd_cluster
    for name, cluster in peers.items():
        times, costs = [], []
        for rounds in (1, 2, 4, 8, 16):
            start = time.process_time()
            centres = cluster(graph, first.copy(), maxiter=rounds)[1]
            times.append(seeded + time.process_time() - start)
            costs.append(float(np.mean(dijkstra(graph, indices=centres, min_only=True) ** 2) / seeding))
        found[name] = times, costs
    return found


def million(n: int) -> None:
    from geovq_jax.geometry import kmedoids

    wall = time.monotonic()
    graph = make_graph("manifold", n, k=15)
    built, start = time.monotonic(), time.process_time()

    def note(done: int, _: int) -> None:
        print(f"  round {done}: {time.monotonic() - built:.0f} s, {time.process_time() - start:.0f} CPU-s", flush=True)

    found = kmedoids(graph, 1024 * n // 1_000_000, seed=0, progress=note)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"cost x{found.cost / found.history[0]:.4f} of k-means++, converged {found.converged}; graph "
        f"{built - wall:.0f} s, clustering {time.monotonic() - built:.0f} s; in all {time.monotonic() - wall:.0f} s, "
        f"{time.process_time():.0f} CPU-s, peak {peak:.2f} GiB"
    )
    print("history", np.round(found.history / found.history[0], 4).tolist())


def coresets(n: int, candidates: int = 100) -> None:
    from geovq_jax.geometry import Coreset, coreset, kmedoids, knn_graph, nearest_source, with_candidates
    from geovq_jax.quantization.tokenizer import Tokenizer, encode

    points, num_clusters = manifold(n).astype(np.float32), max(16, n // 1_000)
    compile_kernels(knn_graph(points[:2_000], 15))
    start = time.process_time()
    graph = knn_graph(points, 15)
    built = time.process_time()
    full = kmedoids(graph, num_clusters, seed=0)
    clustered = time.process_time()
    print(
        f"all {n:,} nodes, K = {num_clusters}: graph {built - start:.1f}, clustering {clustered - built:.1f} CPU-s",
        flush=True,
    )
    for size in (n // 40, n // 20, n // 10, n // 5):
        ratios, better, seconds, more = [], [], [], []
        for seed in range(3):
            start = time.process_time()
            nodes, weights = coreset(points, size, seed=seed)
            sample = knn_graph(points[nodes], 15)
            found = kmedoids(sample, num_clusters, seed=seed, node_weights=weights)
            seconds.append(time.process_time() - start)
            medoids = nodes[found.medoids]
            wider, own = with_candidates(points, Coreset(nodes, weights), medoids, candidates)
            first = np.searchsorted(wider, medoids)
            again = kmedoids(
                knn_graph(points[wider], 15),
                num_clusters,
                seed=seed,
                init=first,
                node_weights=own,
                tolerance=1e-4,
                perturbations=0,
            )
            more.append(time.process_time() - start - seconds[-1])
            true = nearest_source(graph, medoids)
            ratios.append(float(np.mean(true.distance**2)) / full.cost)
            better.append(float(np.mean(nearest_source(graph, wider[again.medoids]).distance ** 2)) / full.cost)
        start = time.process_time()
        tokenizer = Tokenizer(points[nodes], None, found.labels, nearest_source(sample, found.medoids).distance)
        codes = encode(tokenizer, points, k=15, batch_size=65_536).codes
        print(
            f"coreset of {size:,} draws ({len(nodes):,} nodes): cost over that of all nodes "
            f"{', '.join(f'{ratio:.4f}' for ratio in ratios)}; {np.mean(seconds):.1f} CPU-s; with {candidates} "
            f"candidates per medoid {', '.join(f'{ratio:.4f}' for ratio in better)}; {np.mean(more):.1f} CPU-s more; "
            f"codes of all nodes {time.process_time() - start:.1f} CPU-s, "
            f"{np.mean(nodes[found.medoids][codes] == true.source):.4f} equal",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bar", choices=("dense", "naive", "anytime", "million", "coreset", "ten-million"))
    parser.add_argument("--data", choices=("fashion", "manifold"), default="fashion")
    parser.add_argument(
        "--core", type=int, default=0, help="core to run on, but for `million`, `coreset`, `ten-million`"
    )
    parser.add_argument("--nodes", type=int, help="of `million`, `coreset`, by default 10^6, and `ten-million`, 10^7")
    parser.add_argument("--draws", type=int, help="of `ten-million`; a tenth of the nodes by default")
    parser.add_argument("--workdir", type=Path, default=Path("runs/ten-million"), help="of `ten-million`")
    parser.add_argument("--figure", default="anytime.png", help="of `anytime`")
    arguments = parser.parse_args()
    if arguments.bar in ("million", "coreset"):
        {"million": million, "coreset": coresets}[arguments.bar](arguments.nodes or 1_000_000)
        return
    if arguments.bar == "ten-million":
        from ten_million import ten_million

        n = arguments.nodes or 10_000_000
        ten_million(n, arguments.draws or n // 10, max(16, 1024 * n // 10_000_000), arguments.workdir)
        return
    os.sched_setaffinity(0, {arguments.core})
    if arguments.bar == "anytime":
        anytime(arguments.data, arguments.figure)
    else:
        {"dense": dense, "naive": naive}[arguments.bar](arguments.data)


if __name__ == "__main__":
    main()
