"""Neighbours and shortest paths on one core: the nearest of 512 sources in O(n) against the table of all distances.

    python benchmarks/paths.py

Prints CPU seconds on the 20-neighbour union graph of 60,000 points in 16 dimensions: the neighbour search, the graph,
`nearest_source` and `relax_nearest` against the minimum over the 512 x n Dijkstra table (`--full` computes all of it;
by default a sixteenth, times 16), and `relax` against Dijkstra for 64 sources.
"""

import argparse
import os
import time


def cpu_seconds(function, repeats: int):
    """Least CPU time of a call, after one to warm up, and what it returned."""
    result, times = function(), []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return min(times), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--sources", type=int, default=512)
    parser.add_argument("--full", action="store_true", help="compute the whole table of distances")
    arguments = parser.parse_args()
    # Before the imports: XLA sizes its thread pool by the cores it may use.
    os.sched_setaffinity(0, {arguments.core})

    import jax
    import numpy as np

    from geovq_jax.geometry.graphs.graph import connectivity, graph_from_edges, unique_edges
    from geovq_jax.geometry.graphs.knn import knn
    from geovq_jax.geometry.graphs.paths import dijkstra, nearest_source
    from geovq_jax.geometry.graphs.relaxation import pad_graph, relax, relax_nearest

    rng = np.random.default_rng(0)
    points = rng.normal(size=(arguments.nodes, arguments.dim))
    sources = rng.choice(arguments.nodes, arguments.sources, replace=False)

    def report(name: str, seconds: float, note: str = "") -> None:
        print(f"{name:<44}{seconds:>10.4f} s  {note}")

    start = time.process_time()
    neighbours = knn(points, 20, backend="jax")
    report("knn, k = 20, exact, compilation included", time.process_time() - start)
    start = time.process_time()
    edges = unique_edges(neighbours.indices)
    lengths = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    graph = graph_from_edges(edges, lengths, arguments.nodes)
    facts = connectivity(graph)
    report("edges and graph", time.process_time() - start, f"{facts.num_edges} edges, degrees to {facts.degree_max}")
    start = time.process_time()
    padded = pad_graph(graph)
    report("pad_graph", time.process_time() - start, "x".join(map(str, padded.neighbours.shape)))

    share = 1 if arguments.full else 16
    some = sources[::share]
    table_seconds, table = cpu_seconds(lambda: dijkstra(graph, some), 1)
    table_seconds *= share
    report(f"Dijkstra table, {len(sources)} x n", table_seconds, f"{len(sources) * arguments.nodes / 2**17:.0f} MiB")
    seconds, nearest = cpu_seconds(lambda: nearest_source(graph, sources), arguments.repeats)
    report("nearest_source", seconds, f"{table_seconds / seconds:.0f} times faster")
    adjacent, weights = jax.device_put((padded.neighbours, padded.lengths.astype(np.float32)))

    def swept():
        return jax.device_get(relax_nearest(adjacent, weights, sources, num_nodes=arguments.nodes))

    seconds, found = cpu_seconds(swept, arguments.repeats)
    report("relax_nearest", seconds, f"{table_seconds / seconds:.0f} times faster")
    print(
        f"    largest difference {np.abs(found.distance - nearest.distance).max():.1e}, "
        f"sources that differ {np.mean(found.source != nearest.source):.1e}"
    )
    few = nearest_source(graph, some)
    assert np.array_equal(few.distance, table.min(axis=0))
    assert np.array_equal(few.source, some[table.argmin(axis=0)])

    count = min(64, len(sources))
    seconds, rows = cpu_seconds(lambda: dijkstra(graph, sources[:count]), 1)
    report(f"Dijkstra, {count} sources", seconds)
    swept_seconds, relaxed = cpu_seconds(
        lambda: jax.device_get(relax(adjacent, weights, sources[:count], num_nodes=arguments.nodes)), 1
    )
    report(f"relax, {count} sources", swept_seconds, f"{seconds / swept_seconds:.2f} times faster")
    print(f"    largest difference {np.abs(relaxed - rows).max():.1e}")


if __name__ == "__main__":
    main()
