"""Which rate of the VAE suits codes of a given size: quantized quality on validation images against beta.

    python benchmarks/vae_rate.py [--config configs/compare/fashion_mnist.py] [--betas 0.5,0.2,0.1] [--cell-bits 6,8]

Each VAE is trained as in the comparison, on fewer images; its latents are quantized by K-means, Euclidean and in the
metric at each latent (vanilla latents: in decoded space), the latter also in context, and the decoder is fine-tuned on
the codes. Printed are decibels of the mean squared error on the validation split: of the unquantized latents, and of
the codes before and after the fine-tuning. `--cell-bits` adds VAEs that are steered to so many bits at every cell of
the grid, instead of to a total.
"""

import argparse
import runpy
import tempfile
from pathlib import Path

import numpy as np


def decibels(error: float) -> float:
    return float(-10.0 * np.log10(error))


def measure(config, directory: Path) -> None:

    from geovq_jax import pipeline
    from geovq_jax.comparison.starts import post_hoc_codes
    from geovq_jax.quantization.methods import METHODS
    from geovq_jax.stages.finetune import finetune_in_parts
    from geovq_jax.stages.records import decode_images
    from geovq_jax.stages.run import Run
    from geovq_jax.training import checkpoint

    with config.unlocked():
        config.codebook.method, config.codes.searches = "geodesic", 1
    run = Run(directory, config)
    for stage in ("vae", "latents", "metrics", "graph", "codebook"):
        pipeline.run_stage(stage, run)
    continuous = decode_images(run.decode_fn, run.latents("valid").mean)
    rate = checkpoint.load_metadata(directory / "vae" / "best")["valid/kl"]
    line = f"rate {rate:6.1f} nats, continuous {decibels(np.mean((continuous - run.images('valid')) ** 2)):.2f} dB"
    own = "kmeans_decoded" if config.vae.kind == "vanilla" else "local_metrics"
    for name, title in (("kmeans", None), (own, None), (f"{own}_context", "in context")):
        found = post_hoc_codes(name, run)
        tuned = finetune_in_parts(run, found.codes, found.vectors, search=title is not None).tuned
        title = title or METHODS[name].title
        line += f"; {title} {decibels(tuned.frozen):.2f} -> {decibels(tuned.error):.2f} dB"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/compare/fashion_mnist.py")
    parser.add_argument("--data", default="", help="folder of the data set's files")
    parser.add_argument("--betas", default="0.5,0.2,0.1,0.05")
    parser.add_argument("--cell-bits", default="", help="bits per cell, by commas")
    parser.add_argument("--images", type=int, default=5_000)
    arguments = parser.parse_args()
    path, _, variants = arguments.config.partition(":")
    get_config = runpy.run_path(path)["get_config"]
    objectives = [{"vae.beta": float(beta)} for beta in filter(None, arguments.betas.split(","))]
    for bits in filter(None, arguments.cell_bits.split(",")):
        objectives.append({"vae.beta": 1.0, "vae.cell_bits": float(bits)})
    common = {
        "data.dir": arguments.data,
        "data.max_train": arguments.images,
        "data.max_valid": 1_000,
        "data.max_test": 100,
    }
    for objective in objectives:
        config = get_config(variants)
        config.update_from_flattened_dict(common | objective)
        config.graph.num_images = arguments.images if config.vae.kind == "vanilla" else 1_000
        print(objective, flush=True)
        with tempfile.TemporaryDirectory() as directory:
            measure(config, Path(directory))


if __name__ == "__main__":
    main()
