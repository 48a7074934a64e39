"""Centres refined in decoded space against K-means there and K-means on the latents: a vanilla VAE, d = 16, K = 256.

    python benchmarks/frechet.py --workdir=/tmp/frechet

Trains a small vanilla VAE on Fashion-MNIST (or continues from the checkpoints in --workdir), encodes its training
images and prints for each codebook the PSNR between decoded latents and decoded codes, the mean of the images' values.
"""

import argparse
import os
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="where the VAE's checkpoints go")
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--codes", type=int, default=256)
    arguments = parser.parse_args()
    # Before the imports: XLA sizes its thread pool by the cores it may use.
    os.sched_setaffinity(0, {arguments.core})

    from functools import partial

    import jax
    import jax.numpy as jnp
    import numpy as np
    from sklearn.cluster import KMeans

    from geovq_jax.data import load
    from geovq_jax.data.batches import batch_indices, to_float
    from geovq_jax.geometry import kmedoids, knn_graph
    from geovq_jax.geometry.frechet import refine_centres
    from geovq_jax.models import objective, vae
    from geovq_jax.training.loop import fit
    from geovq_jax.training.optimizer import make_optimizer

    dataset = load("fashion_mnist", max_train=arguments.images)
    images, valid = dataset.train.images, to_float(jnp.asarray(dataset.valid.images[:2000]))
    arch = vae.Architecture("vanilla", (28, 28, 1), 16, (32, 64, 128))
    terms, key = objective.Objective(beta=arguments.beta), jax.random.key(0)

    @jax.jit
    def evaluate(params):
        _, metrics = vae.loss(jax.random.key(1), params, arch, terms, valid, 0)
        return {"objective": metrics["loss"], **metrics}

    start = time.process_time()
    fitted = fit(
        lambda params, key, step, batch: vae.loss(key, params, arch, terms, to_float(batch), step),
        vae.init(key, arch),
        images,
        key=key,
        optimizer=make_optimizer(learning_rate=1e-3, num_steps=arguments.steps, warmup_steps=50),
        num_steps=arguments.steps,
        indices_fn=lambda step: batch_indices(0, step, len(images), 128),
        evaluate_fn=evaluate,
        evaluate_every=250,
        directory=arguments.workdir,
    )
    figures = ", ".join(f"{name.split('/')[-1]} {fitted.history[-1][name]:.2f}" for name in ("valid/kl", "valid/psnr"))
    print(f"VAE after {fitted.last_step} steps, {time.process_time() - start:.0f} CPU-s: {figures}", flush=True)

    decode = partial(vae.decode, fitted.params, arch)
    encode = jax.jit(jax.vmap(lambda image: vae.encode(fitted.params, arch, to_float(image)).mean))
    render = jax.jit(jax.vmap(lambda z: decode(z).reshape(-1)))

    def by_parts(function, rows):
        return np.concatenate([np.asarray(function(rows[i : i + 500])) for i in range(0, len(rows), 500)])

    latents = by_parts(encode, images)
    pixels = by_parts(render, latents)

    def report(name, seconds, codes, note=""):
        squared = np.concatenate(
            [np.mean((pixels[i : i + 500] - codes[i : i + 500]) ** 2, 1) for i in range(0, len(codes), 500)]
        )
        print(
            f"{name:<52}{np.mean(-10 * np.log10(np.maximum(squared, 1e-10))):>8.3f} dB{seconds:>9.1f} s  {note}",
            flush=True,
        )

    start = time.process_time()
    plain = KMeans(arguments.codes, n_init=1, random_state=0).fit(latents)
    report(
        "K-means on the latents", time.process_time() - start, by_parts(render, plain.cluster_centers_)[plain.labels_]
    )
    start = time.process_time()
    bound = KMeans(arguments.codes, n_init=1, random_state=0).fit(pixels)
    report("K-means on the decoded images", time.process_time() - start, bound.cluster_centers_[bound.labels_])

    start = time.process_time()
    graph = knn_graph(latents, 20, decode_fn=decode)
    edges = time.process_time() - start
    start = time.process_time()
    found = kmedoids(graph, arguments.codes, seed=0)
    medoids = latents[found.medoids]
    seconds = time.process_time() - start
    report("geodesic K-medoids", seconds, pixels[found.medoids][found.labels], f"after {edges:.1f} s for the graph")
    for assignment in ("given", "decoded"):
        start = time.process_time()
        refined = refine_centres(decode, medoids, latents, found.labels, assignment=assignment)
        assert (np.diff(refined.history) <= 0).all(), "the cost rose"
        seconds = time.process_time() - start
        codes = by_parts(render, refined.centres)[refined.labels]
        note = f"{len(refined.history) - 1} iterations, cost x{refined.cost / refined.history[0]:.3f}"
        report(f"  refined, assignment {assignment}", seconds, codes, note)
    start = time.process_time()
    refined = refine_centres(decode, plain.cluster_centers_, latents, plain.labels_)
    report(
        "K-means on the latents, refined",
        time.process_time() - start,
        by_parts(render, refined.centres)[refined.labels],
    )


if __name__ == "__main__":
    main()
