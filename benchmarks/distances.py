"""Geodesic distances, nearest centres and clustering: accuracy and CPU time.

    python benchmarks/distances.py smooth [--core 0]
    python benchmarks/distances.py run --workdir=DIR [--latents 200] [--core 0]
    python benchmarks/distances.py fashion --workdir=DIR [--latents 10000] [--core 0]

`smooth`  decoders R^d -> R^100 of two tanh layers of 64 units, weights N(0, 4 / fan-in), latents N(0, I), 2,000 nodes,
          K = 64, d = 2, 4, 8, 16: lengths over geodesic, nearest centres, and the cost of clusterings beside FasterPAM
          on squared decoded distances and on squared geodesic distances (extra test). The judge is `geodesics`, 48
          points.
`run`     the decoder of a run with vanilla latents: CPU milliseconds per curve beside `geodesics` with 8 points, errors
          against 64 points, and held-out latents to 256 centres: what decoded distances leave, and agreement with
          geodesics to all centres that they leave (50 latents); graphs of the training latents beside geodesics.
`fashion` the same for a VAE on 20,000 images of Fashion-MNIST, d = 16, trained in DIR, and 256 medoids; 500 latents are
          checked.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

ROUNDS = 3  # of functions timed in turns


def clock(function, *arguments, **settings):
    start = time.process_time()
    found = function(*arguments, **settings)
    return found, time.process_time() - start


def smooth() -> None:
    import jax
    from scipy.spatial.distance import cdist

    from geovq_jax import geometry

    sys.path.remove(str(Path(__file__).parent))  # a benchmark there is called kmedoids too
    import kmedoids as peer

    for d in (2, 4, 8, 16):
        keys = jax.random.split(jax.random.key(d), 4)
        shapes, gains = ((64, d), (64, 64), (100, 64)), (2.0, 2.0, 1.0)
        a, b, c = (
            gain * jax.random.normal(key, shape) / np.sqrt(shape[1])
            for key, shape, gain in zip(keys, shapes, gains, strict=False)
        )
        decode = jax.tree_util.Partial(lambda weights, z: _tanh(weights, z), (a, b, c))
        z = np.asarray(jax.random.normal(keys[3], (2000, d)))
        images = np.asarray(jax.vmap(decode)(z), np.float64)

        def geodesic_lengths(ends, others, decode=decode):
            return np.asarray(geometry.geodesics(decode, ends, others, num_points=48, tolerance=1e-6).length)

        pairs = z[:200], z[200:400]
        truth = geodesic_lengths(*pairs)
        found, seconds = clock(geometry.geodesic_distances, decode, *pairs)
        edges = np.stack([np.arange(200), np.arange(200, 400)], axis=1)
        straight = np.asarray(geometry.edge_lengths(decode, z, edges, rule="gauss"))
        error = np.mean(np.abs(found.length / truth - 1))
        print(
            f"d = {d}, 200 pairs: straight over geodesic {np.mean(straight / truth):.3f}, decoded "
            f"{np.mean(found.bound_below / truth):.3f}; geodesic_distances: error {error:.1e}, "
            f"{found.converged.mean():.1%} converged, {seconds:.1f} s with compilation",
            flush=True,
        )
        latents, centres = z[:400], z[400:464]
        nearest, seconds = clock(geometry.nearest_geodesic, decode, latents, centres)
        decoded = cdist(images[:400], images[400:464])
        shortlist = np.argsort(decoded, axis=1)[:, :8]
        rows = np.repeat(np.arange(400), 8)
        lengths = geodesic_lengths(latents[rows], centres[shortlist.ravel()]).reshape(400, 8)
        best = shortlist[np.arange(400), lengths.argmin(axis=1)]
        euclidean = cdist(latents, centres).argmin(axis=1)
        regret = np.mean(geodesic_lengths(latents, centres[nearest.index]) / lengths.min(axis=1) - 1)
        print(
            f"  nearest of 64: agreement {np.mean(nearest.index == best):.1%}, regret {regret:.1e} "
            f"(Euclidean {np.mean(euclidean == best):.1%}, decoded {np.mean(decoded.argmin(axis=1) == best):.1%}), "
            f"certified {nearest.certified.mean():.1%}, "
            f"{seconds:.1f} s with compilation",
            flush=True,
        )

        def cost(centres, decode=decode, z=z):
            return np.mean(geometry.nearest_geodesic(decode, z, centres, tolerance=3e-4).distance ** 2)

        chords = np.square(cdist(images, images)).astype(np.float32)
        rivals = [peer.fasterpam(chords, 64, random_state=seed, n_cpu=1).medoids for seed in range(3)]
        print(f"  K = 64, FasterPAM on decoded distances: {[round(float(cost(z[m])), 3) for m in rivals]}", flush=True)
        exact = geodesic_squares(decode, z, images)
        best = [peer.fasterpam(exact, 64, random_state=seed, n_cpu=1).medoids for seed in range(60)]
        values = np.array([exact[medoids].min(axis=0).mean() for medoids in best])
        print(
            f"  on geodesic distances, 60 seeds: mean {values.mean():.3f}, least {values.min():.3f}, by the judge "
            f"{cost(z[best[values.argmin()]]):.3f}",
            flush=True,
        )
        for function in (geometry.geodesic_kmedoids, geometry.geodesic_kmeans):
            found = [clock(function, decode, z, 64, seed=seed) for seed in range(3)]
            costs = [round(float(cost(clusters.centres)), 3) for clusters, _ in found]
            print(f"  {function.__name__}: {costs} in {[round(seconds, 1) for _, seconds in found]} CPU-s", flush=True)


def geodesic_squares(decode, z, images):
    """Squared geodesic distances of every point to its 150 nearest in decoded distance; far pairs are extrapolated."""
    from scipy.spatial.distance import cdist

    from geovq_jax import geometry

    lengths = cdist(images, images)
    near = np.argsort(lengths, axis=1)[:, 1:151]
    a, b = np.unique(np.sort(np.stack([np.repeat(np.arange(len(z)), 150), near.ravel()], axis=1), axis=1), axis=0).T
    found = np.asarray(geometry.geodesic_distances(decode, z[a], z[b]).length)
    lengths *= np.quantile(found / lengths[a, b], 0.9)
    lengths[a, b] = lengths[b, a] = found
    return np.square(lengths).astype(np.float32)


def _tanh(weights, z):
    import jax.numpy as jnp

    a, b, c = weights
    return c @ jnp.tanh(b @ jnp.tanh(a @ z))


def of_run(workdir: Path, num_latents: int) -> None:
    import geovq_jax
    from geovq_jax import geometry

    run = geovq_jax.load_run(workdir)
    decode, train = run.decode_fn, run.latents("train").mean
    centres = train[np.random.default_rng(0).choice(len(train), 256, replace=False)]
    latents = run.latents("test").mean[:num_latents]
    a, b = latents[:64], centres[:64]
    truth = np.asarray(geometry.geodesics(decode, a, b, num_points=64, tolerance=1e-6).length)
    functions = {"geodesics, 8 points": lambda: geometry.geodesics(decode, a, b, num_points=8)} | {
        f"geodesic_distances, tolerance {t}": lambda t=t: geometry.geodesic_distances(decode, a, b, tolerance=t)
        for t in (0.2, 0.05, 0.01)
    }
    first = {name: clock(function)[1] for name, function in functions.items()}
    rounds = [{name: clock(function) for name, function in functions.items()} for _ in range(ROUNDS)]
    seconds = {name: np.array([found[name][1] for found in rounds]) for name in functions}
    reference = seconds["geodesics, 8 points"]
    for name, (found, _) in rounds[0].items():
        error = np.abs(np.asarray(found.length) / truth - 1).mean()
        print(
            f"{name}: {1e3 * np.median(seconds[name]) / 64:.1f} CPU-ms per curve, "
            f"`geodesics` {np.median(reference / seconds[name]):.1f} times that, first call {first[name]:.1f} s, "
            f"error {error:.2%}",
            flush=True,
        )
    held_out(decode, latents, centres, checked=50)
    graphs(decode, train)


def graphs(decode, latents) -> None:
    """Paths of graphs against geodesics: their lengths, and the nearest of 64 nodes."""
    from geovq_jax import geometry

    rng = np.random.default_rng(0)
    centres, asked = (rng.choice(len(latents), number, replace=False) for number in (64, 150))
    a, b = rng.choice(len(latents), (2, 60))
    truth = geometry.nearest_geodesic(decode, latents[asked], latents[centres]).index
    lengths = geometry.geodesic_distances(decode, latents[a], latents[b]).length
    for k in (15, 30, 60):
        for rule in ("endpoints", "simpson"):
            graph, seconds = clock(geometry.knn_graph, latents, k, decode_fn=decode, rule=rule)
            nearest = geometry.distances_between(graph, centres, asked).argmin(axis=0)
            along = geometry.distances_between(graph, a, b).diagonal()
            ratio, same = np.mean(along[lengths > 0] / lengths[lengths > 0]), np.mean(nearest == truth)
            print(
                f"graph, k = {k}, {rule}: {seconds:.1f} CPU-s, paths {ratio:.2f} times as long as geodesics, "
                f"nearest of 64 nodes as by geodesics {same:.0%}",
                flush=True,
            )


def of_fashion(workdir: Path, num_latents: int) -> None:
    from fashion_vae import train

    from geovq_jax import geometry
    from geovq_jax.geometry.distances import decode_flat

    vae = train(str(workdir))

    def encoded(images):
        return np.concatenate([np.asarray(vae.encode(images[i : i + 500])) for i in range(0, len(images), 500)])

    latents = encoded(vae.dataset.train.images[:20_000])
    graph = geometry.knn_graph(decode_flat(vae.decode, latents), 30)
    centres = latents[geometry.kmedoids(graph, 256, seed=0).medoids]
    held_out(vae.decode, encoded(vae.dataset.test.images[:num_latents]), centres, checked=500)


def held_out(decode, latents, centres, *, checked: int) -> None:
    """Held-out latents to centres, and some of them against geodesics to all centres that the bounds leave."""
    from scipy.spatial.distance import cdist

    from geovq_jax import geometry
    from geovq_jax.geometry.distances import decode_flat, solve_pairs

    geometry.nearest_geodesic(decode, latents[:50], centres)  # compiles
    found, seconds = clock(geometry.nearest_geodesic, decode, latents, centres)
    decoded = cdist(decode_flat(decode, latents), decode_flat(decode, centres))
    left = decoded < found.distance[:, None]
    print(
        f"{len(latents)} latents, {len(centres)} centres: {1e3 * seconds / len(latents):.0f} CPU-ms per latent, "
        f"certified {found.certified.mean():.1%}; decoded distances leave {left.sum(axis=1).mean():.2f} centres",
        flush=True,
    )
    tried = np.random.default_rng(1).permutation(len(latents))[:checked]
    rows, columns = np.nonzero(decoded[tried] <= 1.001 * found.distance[tried, None])
    lengths = np.full((len(tried), len(centres)), np.inf)
    lengths[rows, columns] = solve_pairs(decode, latents[tried[rows]], centres[columns], num_points=9).length
    euclidean = cdist(latents, centres)
    for name, index in (
        ("nearest_geodesic", found.index),
        ("decoded distance", decoded.argmin(axis=1)),
        ("Euclidean distance", euclidean.argmin(axis=1)),
    ):
        same = np.mean(lengths.argmin(axis=1) == index[tried])
        print(f"{name}: {same:.1%} of {len(tried)} as by geodesics to all centres that the bounds leave")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("smooth", "run", "fashion"))
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--latents", type=int)
    parser.add_argument("--core", type=int, default=0)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    if arguments.part == "smooth":
        smooth()
    elif arguments.part == "run":
        of_run(arguments.workdir, arguments.latents or 200)
    else:
        of_fashion(arguments.workdir, arguments.latents or 10_000)
