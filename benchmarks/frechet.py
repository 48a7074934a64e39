"""Centres refined in decoded space against K-means there and K-means on the latents: a vanilla VAE, d = 16, K = 256.

    python benchmarks/frechet.py --workdir=DIR

Trains a small vanilla VAE on Fashion-MNIST (or continues from the checkpoints in --workdir), encodes its training
images and prints for each codebook the PSNR between decoded latents and decoded codes. A medoid is one of the training
images and has no error there, and neither has the only member of a cell: such images are counted apart, and all is
repeated on held-out images, assigned by distance in decoded space (K-means on latents: by distance of latents).
"""

import argparse
import os
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="where the VAE's checkpoints go")
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--codes", type=int, default=256)
    arguments = parser.parse_args()
    # Before the imports: XLA sizes its thread pool by the cores it may use.
    os.sched_setaffinity(0, {arguments.core})

    import fashion_vae
    import jax
    import numpy as np
    from sklearn.cluster import KMeans

    from geovq_jax.geometry import kmedoids, knn_graph
    from geovq_jax.quantization.refinement import refine_centres

    dataset, decode, encode = fashion_vae.train(arguments.workdir, steps=arguments.steps, beta=arguments.beta)
    images = dataset.train.images[: fashion_vae.TRAIN_IMAGES]
    by_parts, render = fashion_vae.by_parts, jax.jit(jax.vmap(lambda z: decode(z).reshape(-1)))
    latents, held_latents = by_parts(encode, images), by_parts(encode, dataset.valid.images)
    pixels, held_pixels = by_parts(render, latents), by_parts(render, held_latents)

    def nearest(points, centres):
        parts = range(0, len(points), 500)
        squares = np.sum(centres**2, axis=1)
        return np.concatenate([np.argmin(squares - 2 * points[i : i + 500] @ centres.T, axis=1) for i in parts])

    def errors(targets, codes, labels):
        parts = range(0, len(targets), 500)
        return np.concatenate([np.mean((targets[i : i + 500] - codes[labels[i : i + 500]]) ** 2, 1) for i in parts])

    print(
        f"{'':<38}{'training, dB of':>18}{'mean dB':>10}{'exact':>7}{'held out, dB of':>18}{'mean dB':>10}{'CPU-s':>8}"
    )
    print(f"{'':<38}{'mean error':>18}{'(inexact)':>10}{'':>7}{'mean error':>18}", flush=True)

    def report(name, seconds, codes, labels, held_labels, note=""):
        seen, held = errors(pixels, codes, labels), errors(held_pixels, codes, held_labels)
        exact = seen < 1e-9  # an image that is its own code has no decibels
        inexact = np.mean(-10 * np.log10(seen[~exact]))
        print(
            f"{name:<38}{-10 * np.log10(seen.mean()):>18.3f}{inexact:>10.3f}{exact.sum():>7}"
            f"{-10 * np.log10(held.mean()):>18.3f}{np.mean(-10 * np.log10(held)):>10.3f}{seconds:>8.1f}  {note}",
            flush=True,
        )

    def report_decoded(name, seconds, centres, labels, note=""):
        codes = by_parts(render, centres)
        report(name, seconds, codes, labels, nearest(held_pixels, codes), note)

    start = time.process_time()
    plain = KMeans(arguments.codes, n_init=1, random_state=0).fit(latents)
    seconds, codes = time.process_time() - start, by_parts(render, plain.cluster_centers_)
    report("K-means on latents", seconds, codes, plain.labels_, nearest(held_latents, plain.cluster_centers_))
    report("  same centres, decoded assignment", 0.0, codes, nearest(pixels, codes), nearest(held_pixels, codes))
    for seed in range(3):
        start = time.process_time()
        bound = KMeans(arguments.codes, n_init=1, random_state=seed).fit(pixels)
        seconds, codes = time.process_time() - start, bound.cluster_centers_
        report(f"K-means on decoded images, seed {seed}", seconds, codes, bound.labels_, nearest(held_pixels, codes))

    start = time.process_time()
    graph = knn_graph(latents, 20, decode_fn=decode)
    edges = time.process_time() - start
    start = time.process_time()
    found = kmedoids(graph, arguments.codes, seed=0)
    medoids, seconds = latents[found.medoids], time.process_time() - start
    report_decoded("geodesic K-medoids", seconds, medoids, found.labels, f"after {edges:.1f} s for the graph")
    starts = (
        ("  refined, assignment given", medoids, found.labels, "given"),
        ("  refined, assignment decoded", medoids, found.labels, "decoded"),
        ("K-means on latents, refined", plain.cluster_centers_, plain.labels_, "decoded"),
    )
    for name, centres, labels, assignment in starts:
        start = time.process_time()
        refined = refine_centres(decode, centres, latents, labels, assignment=assignment)
        assert (np.diff(refined.history) <= 0).all(), "the cost rose"
        seconds = time.process_time() - start
        note = f"{len(refined.history) - 1} iterations, cost x{refined.cost / refined.history[0]:.3f}"
        report_decoded(name, seconds, refined.centres, refined.labels, note)


if __name__ == "__main__":
    main()
