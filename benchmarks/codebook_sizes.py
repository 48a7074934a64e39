"""Rate-distortion over the size of the codebook: codes searched in context at one price of a bit.

    python benchmarks/codebook_sizes.py [--data mnist fashion_mnist cifar10] [--sizes 32 64 128 256 512 1024]

Seed 0 of configs/compare/DATA.py:rate with the middle one of its weights, for every size K, the autoencoder steered to
log2 3K bits per cell: K-means in the mean metric against the joint VQ-VAE. Prints coded bits per image and PSNR of the
test images, and the BD-rate of the curves over K, paired by image, with its 95 % interval. Neither points in --output,
which holds bits and PSNR of every image, nor finished trials in --workdir are run again; K = 256 is taken from the
curves in results/.
"""

import argparse
import math
import os
import runpy
from pathlib import Path

import numpy as np

from geovq_jax.comparison.cells import Trial
from geovq_jax.comparison.trials import compare
from geovq_jax.evaluation.rate_distortion import bd_rate, paired_interval
from geovq_jax.workdir import save_npz

ROOT = Path(__file__).parents[1]
DATA = ("mnist", "fashion_mnist", "cifar10")
SIZES = (32, 64, 128, 256, 512, 1024)
METHODS = ("mean_metric_context", "vqvae_context")


def scores(name: str, num_codes: int, workdir: Path) -> dict[str, np.ndarray]:
    """Method -> bits and PSNR of every test image, [n, 2]."""
    config = runpy.run_path(str(ROOT / "configs" / "compare" / f"{name}.py"))["get_config"]("rate")
    weight, folder = config.compare.rate_weights[1], ROOT / "results"
    if num_codes != config.codebook.num_clusters:
        folder = workdir / f"{name}-{num_codes}"
        with config.unlocked():
            config.codebook.num_clusters, config.vae.cell_bits = num_codes, round(math.log2(3 * num_codes), 1)
            config.compare.seeds, config.compare.rate_weights = (0,), (weight,)
            config.compare.methods = config.compare.prior = METHODS
        compare(folder, config, folder)
    with np.load(folder / f"{name}-rate.npz") as images:
        parts = [[images[f"{method}@{weight:g}/0/{part}"] for part in ("bits", "psnr_decoder")] for method in METHODS]
    return {method: np.stack(pair, axis=1) for method, pair in zip(METHODS, parts, strict=True)}


def gap(means: np.ndarray) -> float:
    """BD-rate of the first half of the points against the second, each bits and PSNR."""
    curve, reference = means.reshape(2, -1, 2)
    return bd_rate(tuple(curve.T), tuple(reference.T))


def study(name: str, sizes: list[int], workdir: Path, output: Path) -> None:
    points = dict(np.load(output)) if output.exists() else {}
    for size in sizes:
        if f"{name}/{size}/vqvae_context" not in points:
            points |= {f"{name}/{size}/{method}": found for method, found in scores(name, size, workdir).items()}
            save_npz(output, **points)
        means = {Trial(method).title: points[f"{name}/{size}/{method}"].mean(axis=0) for method in METHODS}
        columns = [f"{title}: {bits:.1f} bits, {psnr:.2f} dB" for title, (bits, psnr) in means.items()]
        print(f"{name}, K = {size}", *columns, sep=" | ", flush=True)
    if len(sizes) > 1:
        curves = [points[f"{name}/{size}/{method}"] for method in METHODS for size in sizes]
        value, low, high = paired_interval(np.concatenate(curves, axis=1), gap, seed=0)
        print(
            f"{name}, BD-rate of {Trial(METHODS[0]).title}: {100 * value:+.1f} % [{100 * low:.1f}, {100 * high:.1f}]",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--workdir", type=Path, default=Path("runs/codebook-sizes"))
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "codebook-sizes.npz")
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {arguments.core})
    for name in arguments.data:
        study(name, arguments.sizes, arguments.workdir, arguments.output)


if __name__ == "__main__":
    main()
