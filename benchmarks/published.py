"""Codes beside published figures: squared error at a few bits on MNIST, and 8 x 8 codes among 512.

    python benchmarks/published.py rate [--bits 8 12 17.92 28.68 35.85] [--steps 3000 0 1200]
    python benchmarks/published.py grid [--data mnist cifar10] [--steps 1600 2400 1600]

`rate`  MNIST at 32 x 32 pixels (bilinear): squared error summed over an image, at as many nominal bits as the
        compressors of Lei, Hassani and Saeedi Bidokhti 2022, "Neural estimation of the rate-distortion function with
        applications to operational source coding"; one code among 256 or 4,096, or 2 x 2 codes among 22, 144 or 499.
`grid`  8 x 8 codes among 512 (576 nominal bits), MNIST at 32 x 32 pixels and CIFAR-10: PSNR and perplexity beside those
        of Vuong et al. 2023, "Vector quantized Wasserstein auto-encoder", tables 1 to 3; 16 dimensions, there 64.

Each is a comparison of `geovq_jax.compare` on seed 0, in a folder of --workdir, of post-hoc codes and joint VQ-VAEs of
the same networks, with and without search in context; finished trials are kept. --steps are those of the autoencoder,
of its joint training (`vae.joint_steps`) and of the fine-tuning; a VQ-VAE takes all together. MNIST is split 80/10/10
per cent, CIFAR-10 as published; scores are those of 4,000 test images.
"""

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from geovq_jax import data, presets
from geovq_jax.comparison.trials import compare
from geovq_jax.config import experiment

SIDE = 32
ERRORS = {8.0: 30.15, 12.0: 20.54, 17.92: 13.80, 28.68: 7.51, 35.85: 5.46}  # published, by bits
PLACES = {8.0: (1, 256), 12.0: (1, 4_096), 17.92: (4, 22), 28.68: (4, 144), 35.85: (4, 499)}  # bits -> codes, K
GRIDS = {
    "mnist": "VQ-VAE 33.37 dB, 47; SQ-VAE 36.25 dB, 302; VQ-WAE 35.61 dB, 508",
    "cifar10": "VQ-VAE 23.14 dB, 70; SQ-VAE 26.11 dB, 435; VQ-WAE 25.93 dB, 505",
}
METHODS = {
    "vanilla": ("kmeans_context", "geodesic_decoded_context", "vqvae", "vqvae_context"),
    "spatial": ("mean_metric", "vqvae", "mean_metric_context", "vqvae_context"),
}


def write_mnist(path: Path) -> None:
    """All 70,000 images at 32 x 32 pixels."""
    found = data.load("mnist")
    splits = [found.train, found.valid, found.test]
    images = np.concatenate([split.images for split in splits])[..., 0]
    resized = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=np.stack(resized), labels=np.concatenate([split.labels for split in splits]))


def show(workdir: Path, title: str, name: str, steps: list[int], overrides: dict[str, Any], known: str) -> None:
    """Run one comparison and print its methods, each with the last part that was trained, beside what is known."""
    source = name
    if name == "mnist":
        source = f"npz:{workdir / 'mnist32.npz'}"
        if not (workdir / "mnist32.npz").is_file():
            write_mnist(workdir / "mnist32.npz")
    own = dict(zip(("vae.num_steps", "vae.joint_steps", "codebook.finetune_steps"), steps, strict=True))
    own |= {"data.name": source, "vae.joint_codes": overrides["codebook.num_clusters"], "compare.prior": ()}
    config = experiment("compare", presets.COMPARE | own | overrides | {"compare.seeds": (0,)})
    folder = workdir / title
    compare(folder, config, folder)
    results = json.loads((folder / "compare.json").read_text())
    pixels = math.prod(data.load(source, max_train=1, max_valid=1, max_test=1).train.images.shape[1:])
    print(f"{title}, {results['bits_per_image']:.2f} nominal bits, published: {known}", flush=True)
    for row in {row["title"]: row for row in results["rows"]}.values():
        error = pixels * 10 ** (-row["psnr_of_mean"] / 10)
        print(
            f"  {row['title']}: squared error {error:.2f}, {row['psnr_of_mean']:.2f} dB, "
            f"mean PSNR {row['psnr']:.2f} dB, perplexity {row['perplexity']:.0f}, {row['steps']:,} steps",
            flush=True,
        )


def rate(bits: float, workdir: Path, steps: list[int], max_train: int) -> None:
    places, num_codes = PLACES[bits]
    sizes = {"data.max_train": max_train, "vae.channels": (16, 32, 64, 128), "codebook.num_clusters": num_codes}
    spatial = {"vae.cell_bits": math.log2(num_codes) - 1, "compare.methods": METHODS["spatial"]}
    vanilla = {
        "vae.kind": "vanilla",
        "vae.latent_dim": 16,
        "vae.cell_bits": 0.0,
        "graph.num_images": max(2_000, 4 * num_codes),
        "compare.methods": METHODS["vanilla"],
    }
    kind = vanilla if places == 1 else spatial
    show(workdir, f"mnist-{bits:g}", "mnist", steps, sizes | kind, f"squared error {ERRORS[bits]:.2f}")


def grid(name: str, workdir: Path, steps: list[int], max_train: int) -> None:
    sizes = {"data.max_train": max_train, "vae.channels": (32, 128), "vae.latent_dim": 16, "vae.cell_bits": 8.0}
    own = {"codebook.num_clusters": 512, "graph.num_images": 1_000, "compare.methods": METHODS["spatial"]}
    show(workdir, f"grid-{name}", name, steps, sizes | own, GRIDS[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", choices=("rate", "grid"))
    parser.add_argument("--bits", type=float, nargs="+", choices=PLACES, default=list(PLACES))
    parser.add_argument("--data", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--steps", type=int, nargs=3, metavar=("VAE", "JOINT", "FINE"))
    parser.add_argument("--max-train", type=int, default=20_000, help="training images; 0 for all")
    parser.add_argument("--workdir", type=Path, default=Path("runs/published"))
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {arguments.core})
    if arguments.figures == "rate":
        for bits in arguments.bits:
            rate(bits, arguments.workdir, arguments.steps or [3_000, 0, 1_200], arguments.max_train)
    else:
        for name in arguments.data:
            grid(name, arguments.workdir, arguments.steps or [1_600, 2_400, 1_600], arguments.max_train)


if __name__ == "__main__":
    main()
