"""Geodesics between images in several metrics: whether they stay on the data.

    python benchmarks/interpolation.py --workdir=DIR [--config=configs/mnist5k.py] [--pairs 60]

Trains, or continues, the autoencoder of --config:vanilla with `vae.uncertainty=std` and a classifier in DIR. Between
random test images of different classes it computes the straight line and the geodesics in pixel space, of Bernoulli
pixels, in features of the classifier, and with the decoder's uncertainty, each decoded at ten points of equal speed in
its own metric. It prints the mean confidence of the classifier and the mean distance (RMS) to the nearest training
image, of the eight images inside a path, both with the change from the straight line and its standard error over pairs;
the length of the path in pixel space; and the share of geodesics that converged.
"""

import argparse
import os
import runpy
from pathlib import Path

STEPS, POINTS = 10, 32  # images of a path, points of a geodesic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--config", default="configs/mnist5k.py")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    arguments = parser.parse_args()
    # Before the imports: XLA sizes its thread pool by the cores it may use.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {arguments.core})

    import jax
    import numpy as np

    from geovq_jax import geometry, pipeline
    from geovq_jax.data import to_float
    from geovq_jax.evaluation.memorisation import nearest_training_images
    from geovq_jax.geometry.metric import as_pytree, bernoulli_map, with_output_metric
    from geovq_jax.stages.classifier import predict
    from geovq_jax.stages.records import decode_images, features_of
    from geovq_jax.stages.run import Run

    config = runpy.run_path(arguments.config)["get_config"]("vanilla")
    with config.unlocked():
        config.vae.uncertainty = "std"
    run = Run(arguments.workdir, config)
    for stage in ("vae", "latents", "classifier"):
        pipeline.run_stage(stage, run)
    decode_fn, latents = run.decode_fn, run.latents("test")
    metrics = {
        "pixels": decode_fn,
        "Bernoulli": as_pytree(with_output_metric(decode_fn, bernoulli_map)),
        "features": as_pytree(with_output_metric(decode_fn, features_of(run.classifier))),
        "uncertainty": run.metric_fn,
    }
    rng = np.random.default_rng(arguments.seed)
    pairs = rng.integers(len(latents.mean), size=(20 * arguments.pairs, 2))
    pairs = pairs[latents.label[pairs[:, 0]] != latents.label[pairs[:, 1]]][: arguments.pairs]
    a, b = latents.mean[pairs[:, 0]], latents.mean[pairs[:, 1]]
    train = np.asarray(to_float(run.dataset.train.images))
    speed = jax.jit(jax.vmap(lambda fn, curve: geometry.constant_speed(fn, curve, num_points=STEPS), (None, 0)))
    length = jax.jit(jax.vmap(geometry.curve_length, (None, 0)))

    def scores(metric_fn, curves) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        images = decode_images(decode_fn, np.asarray(speed(metric_fn, curves))[:, 1:-1].reshape(-1, a.shape[1]))
        confidence = predict(*run.classifier, images).confidences
        distance = nearest_training_images(images, train).distances
        both = (values.reshape(len(a), -1).mean(axis=1) for values in (confidence, distance))
        return *both, np.asarray(length(decode_fn, curves))

    share = np.linspace(0.0, 1.0, POINTS, dtype=a.dtype)[None, :, None]
    straight = scores(decode_fn, a[:, None] + share * (b - a)[:, None])
    real = nearest_training_images(run.images("test"), train).distances.mean()
    print(f"{len(a)} pairs; a test image itself lies {real:.3f} from the nearest training image")
    print(
        f"straight: confidence {straight[0].mean():.3f}, distance {straight[1].mean():.4f}, "
        f"length {straight[2].mean():.2f}"
    )
    for name, metric_fn in metrics.items():
        found = geometry.geodesics(metric_fn, a, b, num_points=POINTS)
        own = scores(metric_fn, found.curve)
        changes = [new - old for new, old in zip(own, straight, strict=True)]
        error = [change.std(ddof=1) / np.sqrt(len(a)) for change in changes]
        print(
            f"{name}: confidence {own[0].mean():.3f} ({changes[0].mean():+.3f} +- {error[0]:.3f}), "
            f"distance {own[1].mean():.4f} ({changes[1].mean():+.4f} +- {error[1]:.4f}), "
            f"length {own[2].mean():.2f}, converged {np.mean(found.converged):.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
