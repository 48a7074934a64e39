"""Codes of the experiments on full data sets: their defaults and earlier ones, on validation images and small networks.

    python benchmarks/defaults.py [--data mnist fashion_mnist cifar10]

configs/DATA.py with the sizes, steps and prior of configs/compare/DATA.py:rate, 10,000 training and 4,000 validation
images, seed 0, through the stages of the pipeline: first refined geodesic codes without search, of an autoencoder with
beta = 0.5, the earlier default, then the codes of the configuration. Prints PSNR, bits per code under the prior given
the class, and at each temperature the Frechet distance of 2,000 samples to 2,000 images and the share of samples in
their class, all on validation images. Finished stages are kept in --workdir.
"""

import argparse
import os
import runpy
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from geovq_jax import pipeline
from geovq_jax.evaluation.image_metrics import image_scores
from geovq_jax.evaluation.sample_scores import frechet_distance
from geovq_jax.models.sampling import draw
from geovq_jax.stages.classifier import predict
from geovq_jax.stages.records import log_probabilities
from geovq_jax.stages.run import Run

ROOT = Path(__file__).parents[1]
DATA = ("mnist", "fashion_mnist", "cifar10")
EARLIER = {
    "vae.cell_bits": 0.0,
    "vae.beta": 0.5,
    "codebook.method": "geodesic_refined",
    "codes.search": "none",
    "codes.rate_weight": 0.0,
}
SIZES = ("data.batch_size", "data.max_train", "vae.channels", "vae.latent_dim", "vae.learning_rate", "vae.num_steps")
SIZES += ("vae.evaluate_every", "graph.num_images", "codebook.finetune_steps", "codebook.finetune_learning_rate")


def configured(name: str) -> ConfigDict:
    """The experiment with sizes and prior of the comparison."""
    config, small = (
        runpy.run_path(str(ROOT / "configs" / folder / f"{name}.py"))["get_config"](variant)
        for folder, variant in ((".", ""), ("compare", "rate"))
    )
    with config.unlocked():
        config.update_from_flattened_dict({"data.max_valid": 4_000, "data.max_test": 100})
        for key in SIZES:
            section, part = key.split(".")
            config[section][part] = small[section][part]
        config.prior, config.classifier = small.prior, small.classifier
    return config


def measure(title: str, config: ConfigDict, workdir: Path, temperatures: list[float]) -> None:
    run = Run(workdir, config)
    for stage in ("vae", "latents", "classifier", "metrics", "graph", "codebook", "decoder", "codes", "prior"):
        pipeline.run_stage(stage, run)
    images, labels, codes = run.images("valid"), run.dataset.valid.labels, run.codes("valid").codes
    psnr = image_scores(images, run.decode(codes)).psnr.mean()
    bits = -log_probabilities(*run.prior, codes, labels).mean() / np.log(2)
    half = len(images) // 2
    reference = predict(*run.classifier, images[:half]).features
    line = f"{title}: {psnr:.2f} dB, {bits:.3f} bits per code"
    for temperature in temperatures:
        section = dict(config.sample) | {"temperature": temperature}
        drawn, _ = draw(jax.random.key(config.seed), *run.prior, labels[half:], section)
        found = predict(*run.classifier, run.decode(drawn.reshape(len(drawn), *codes.shape[1:])))
        share = np.mean(found.labels == labels[half:])
        line += f"; T = {temperature:g}: {frechet_distance(reference, found.features):.2f}, {100 * share:.1f} %"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.9, 0.8])
    parser.add_argument("--workdir", type=Path, default=Path("runs/defaults"))
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {arguments.core})
    for name in arguments.data:
        earlier, config = configured(name), configured(name)
        earlier.update_from_flattened_dict(EARLIER)
        measure(f"{name}, earlier", earlier, arguments.workdir / f"{name}-earlier", arguments.temperatures)
        title = f"{name}, {config.codebook.method}, weight {config.codes.rate_weight:g}"
        measure(title, config, arguments.workdir / name, arguments.temperatures)


if __name__ == "__main__":
    main()
