"""Back ends of the neighbour search: CPU seconds and recall on a 3-d manifold in 16 dimensions and on N(0, I).

    python benchmarks/neighbours.py [--nodes 20000] [--core 0]

k = 15, index and search of all points; compiled before. "auto" includes the time in which it chooses. The kd-tree is
left out on N(0, I), where it is slower than any other by one or two orders of magnitude.
"""

import argparse
import os
import time

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=20_000)
    parser.add_argument("--core", type=int, default=0)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    from kmedoids import manifold

    from geovq_jax.geometry.graphs import indexes
    from geovq_jax.geometry.graphs.knn import knn, prepare_search, recall

    n, k = arguments.nodes, 15
    data = {"manifold": manifold(n), "N(0, I)": np.random.default_rng(0).standard_normal((n, 16))}
    for name, points in data.items():
        for backend in ("auto", "kdtree", "jax", "faiss", "faiss_hnsw", "faiss_ivf"):
            if backend == "kdtree" and name == "N(0, I)":
                continue
            if backend in ("auto", "jax"):
                knn(points, k, backend=backend)
            start = time.process_time()
            found = knn(points, k, backend=backend)
            seconds = time.process_time() - start
            chosen = ""
            if backend == "auto":
                searched = prepare_search(points)
                chosen = f" ({indexes.fastest(searched, searched.x, k, np.arange(n)).__qualname__.split('.')[0]})"
            print(
                f"{name}, {n:,}: {backend}{chosen} {seconds:.2f} CPU-s, recall {recall(points, found):.4f}", flush=True
            )


if __name__ == "__main__":
    main()
