"""Codes of 10,000 held-out latents against a joint graph solved by Dijkstra: a vanilla VAE on Fashion-MNIST, d = 16.

    python benchmarks/tokenizer.py --workdir=DIR

Trains the VAE of benchmarks/fashion_vae.py (or continues from the checkpoints in --workdir), clusters the pull-back
graph of training latents, and encodes the latents of the test images. The joint graph holds the training nodes with
their edges and the held-out latents, each with edges to its k nearest training nodes; in it, held-out latents are also
ways between training nodes, which the tokenizer does not take. The second comparison makes these edges one-way. Times
are CPU seconds on one core, after a warm-up on 512 other latents.
"""

import argparse
import os
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="where the VAE's checkpoints go")
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    parser.add_argument("--nodes", type=int, default=40_000, help="training latents in the graph")
    parser.add_argument("--neighbours", type=int, nargs="+", default=[20, 10, 5], help="entries of a held-out latent")
    parser.add_argument("--codes", type=int, default=512)
    arguments = parser.parse_args()
    # Before the imports: XLA sizes its thread pool by the cores it may use.
    os.sched_setaffinity(0, {arguments.core})

    import fashion_vae
    import numpy as np
    from scipy import sparse
    from scipy.sparse.csgraph import dijkstra

    from geovq_jax import geometry
    from geovq_jax.quantization.tokenizer import Tokenizer, encode

    dataset, decode, encode_images = fashion_vae.train(arguments.workdir)
    points = fashion_vae.by_parts(encode_images, dataset.train.images[: arguments.nodes])
    held = fashion_vae.by_parts(encode_images, dataset.test.images)
    num_nodes = len(points)

    start = time.process_time()
    metrics = np.asarray(geometry.node_metrics(decode, points))
    edges = geometry.unique_edges(geometry.knn(points, 20).indices)
    lengths = np.asarray(geometry.lengths_from_metrics(points, metrics, edges), np.float64)
    graph = geometry.graph_from_edges(edges, lengths, num_nodes)
    bridges = geometry.bridges(points, graph)
    if len(bridges):
        graph = geometry.add_edges(graph, bridges, geometry.lengths_from_metrics(points, metrics, bridges))
    clusters = geometry.kmedoids(graph, arguments.codes, seed=0)
    distances = np.asarray(geometry.nearest_source(graph, clusters.medoids).distance)
    tokenizer = Tokenizer(points, metrics, clusters.labels, distances)
    print(
        f"{num_nodes} nodes, {graph.nnz // 2} edges, K = {arguments.codes}: {time.process_time() - start:.0f} CPU-s",
        flush=True,
    )

    held_metrics = np.asarray(geometry.node_metrics(decode, held))
    everything, all_metrics = np.concatenate([points, held]), np.concatenate([metrics, held_metrics])
    place = np.empty(num_nodes, np.int64)
    place[clusters.medoids] = np.arange(arguments.codes)
    for k in arguments.neighbours:
        encode(tokenizer, points[:512], decode, k=k)
        start = time.process_time()
        entries = geometry.knn(points, k, queries=held).indices
        searched = time.process_time() - start
        start = time.process_time()
        found = encode(tokenizer, held, decode, k=k)
        seconds = time.process_time() - start
        again = encode(tokenizer, held, decode, k=k)
        same = np.array_equal(found.codes, again.codes) and np.array_equal(found.distances, again.distances)

        rows = num_nodes + np.repeat(np.arange(len(held)), k)
        new = np.stack([rows, entries.ravel()], axis=1)
        new_lengths = np.asarray(geometry.lengths_from_metrics(everything, all_metrics, new), np.float64)
        old_edges, old_lengths = geometry.edges_of(graph)
        joint = geometry.graph_from_edges(
            np.concatenate([old_edges, new]), np.concatenate([old_lengths, new_lengths]), len(everything)
        )
        nearest = geometry.nearest_source(joint, clusters.medoids)
        codes = place[np.asarray(nearest.source)[num_nodes:]]
        excess = found.distances / np.asarray(nearest.distance)[num_nodes:] - 1

        parts = [graph.tocoo(), sparse.coo_array((new_lengths, (new[:, 1], new[:, 0])), shape=joint.shape)]
        row, column, data = (np.concatenate([getattr(p, name) for p in parts]) for name in ("row", "col", "data"))
        one_way = sparse.csr_array((data, (row, column)), shape=joint.shape)
        _, _, sources = dijkstra(one_way, indices=clusters.medoids, min_only=True, return_predecessors=True)
        leaves = place[sources[num_nodes:]]
        print(
            f"k = {k}: {np.mean(found.codes == codes):.2%} of {len(held)} codes as in the joint graph (distances "
            f"{np.mean(excess):.2%} longer on average), {np.mean(found.codes == leaves):.2%} as with one-way edges; "
            f"{seconds:.1f} CPU-s with the neighbour search, which takes {searched:.1f}; the same bits again: {same}",
            flush=True,
        )


if __name__ == "__main__":
    main()
