"""Rate-distortion over the size of the codebook: codes searched in context at one price of a bit.

    python benchmarks/codebook_sizes.py [--data mnist fashion_mnist cifar10] [--sizes 32 64 128 256 512 1024]

Seed 0 of configs/compare/DATA.py:rate with the middle one of its weights, for every size K, the autoencoder steered to
log2 3K bits per cell: K-means in the mean metric against the joint VQ-VAE. Prints coded bits per image and PSNR of the
test images, and the BD-rate of the curves over K, paired by image, with its 95 % interval. Finished trials in --workdir
are kept, and those of K = 256 are taken from results/.
"""

import argparse
import json
import math
import os
import runpy
import shutil
from pathlib import Path

import numpy as np

from geovq_jax.comparison.trials import compare
from geovq_jax.evaluation.rate_distortion import bd_rate, paired_interval

ROOT = Path(__file__).parents[1]
DATA = ("mnist", "fashion_mnist", "cifar10")
SIZES = (32, 64, 128, 256, 512, 1024)
METHODS = ("vqvae_context", "mean_metric_context")


def scores(name: str, num_codes: int, workdir: Path) -> dict[str, np.ndarray]:
    """Method -> bits and PSNR of every test image, [n, 2]."""
    config = runpy.run_path(str(ROOT / "configs" / "compare" / f"{name}.py"))["get_config"]("rate")
    weight = config.compare.rate_weights[1]
    with config.unlocked():
        config.codebook.num_clusters, config.vae.cell_bits = num_codes, round(math.log2(3 * num_codes), 1)
        config.compare.seeds, config.compare.rate_weights = (0,), (weight,)
        config.compare.methods = config.compare.prior = METHODS
    folder, file = workdir / f"{name}-{num_codes}", f"{name}-rate"
    if num_codes == 256 and not folder.exists():
        folder.mkdir(parents=True)
        for suffix in (".json", ".npz"):
            shutil.copy(ROOT / "results" / f"{file}{suffix}", folder)
    compare(folder, config, folder)
    titles = {row["method"]: row["title"] for row in json.loads((folder / f"{file}.json").read_text())["rows"]}
    found = {}
    with np.load(folder / f"{file}.npz") as images:
        for method in METHODS:
            own = f"{method}@{weight:g}/0"
            found[titles[method]] = np.stack([images[f"{own}/bits"], images[f"{own}/psnr_decoder"]], axis=1)
    return found


def gap(means: np.ndarray) -> float:
    """BD-rate of the first half of the points against the second, each bits and PSNR."""
    curve, reference = means.reshape(2, -1, 2)
    return bd_rate(tuple(curve.T), tuple(reference.T))


def study(name: str, sizes: list[int], workdir: Path) -> None:
    found = {size: scores(name, size, workdir) for size in sizes}
    titles = list(found[sizes[0]])
    print(f"{name}, coded bits per image and PSNR [dB]", flush=True)
    for size, points in found.items():
        print(f"  K = {size}", *(f"{t}: {p.mean(0)[0]:.1f}, {p.mean(0)[1]:.2f}" for t, p in points.items()), sep=" | ")
    curves = {title: np.concatenate([found[size][title] for size in sizes], axis=1) for title in titles}
    for title in titles[1:] if len(sizes) > 1 else ():
        value, low, high = paired_interval(np.concatenate([curves[title], curves[titles[0]]], axis=1), gap, seed=0)
        print(f"  {title}: BD-rate {100 * value:+.1f} % [{100 * low:.1f}, {100 * high:.1f}]", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--workdir", type=Path, default=Path("runs/codebook-sizes"))
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {arguments.core})
    for name in arguments.data:
        study(name, arguments.sizes, arguments.workdir)


if __name__ == "__main__":
    main()
