"""Cells of spatial latents in their slices of the decoder: bounds, agreement, CPU time, and PSNR of the codes.

    python benchmarks/slices.py --workdir=DIR [--train 600] [--measured 40] [--images 250] [--core 0]

DIR holds a VAE with spatial latents, such as `python -m geovq_jax.train_vae --config=mnist5k --workdir=DIR
--config.vae.cell_bits=0 --config.vae.beta=0.5 --config.vae.num_steps=1350 --config.vae.joint_steps=0` leaves. 256
vectors are fitted to cells of training images by K-means in the mean metric and then in the metric at each cell. The
cells of some validation images show what the bounds of `nearest_in_slices` decide; codes of more of them are compared
by the PSNR of the images that they decode to, without search or fine-tuning.
"""

import argparse
import os
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--train", type=int, default=600)
    parser.add_argument("--measured", type=int, default=40)
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--core", type=int, default=0)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})

    import numpy as np

    import geovq_jax
    from geovq_jax.geometry import cell_metrics, decode_all, nearest_in_slices
    from geovq_jax.quantization import baselines
    from geovq_jax.quantization.pullback_kmeans import assign_pullback, pullback_kmeans

    run = geovq_jax.load_run(arguments.workdir)
    decode, train = run.decode_fn, run.latents("train").mean[: arguments.train]
    grids, images = (of("valid")[: arguments.images] for of in (lambda split: run.latents(split).mean, run.images))
    d = train.shape[-1]
    metrics, own = np.asarray(cell_metrics(decode, train)), np.asarray(cell_metrics(decode, grids))
    linear = baselines.mahalanobis(train.reshape(-1, d), metrics.mean(axis=0), 256, seed=0)
    centres = pullback_kmeans(train.reshape(-1, d), metrics, linear.vectors).centres

    few, cells = grids[: arguments.measured], arguments.measured * grids.shape[1] * grids.shape[2]
    nearest_in_slices(decode, few, centres, metrics=own[:cells])  # compiles
    start = time.process_time()
    found = nearest_in_slices(decode, few, centres, metrics=own[:cells])
    seconds = time.process_time() - start
    wide = nearest_in_slices(decode, few, centres, metrics=own[:cells], num_candidates=64)
    local, _ = assign_pullback(few.reshape(-1, d), own[:cells], centres)
    print(
        f"{cells} cells: {1e3 * seconds / cells:.1f} CPU-ms each, bounds decide {np.isinf(found.second).mean():.1%}, "
        f"certified {found.certified.mean():.1%}; as with 64 candidates {np.mean(found.index == wide.index):.1%}, "
        f"as by the metric at the cell {np.mean(found.index == local):.1%}",
        flush=True,
    )

    def scored(name: str, codes: np.ndarray, vectors: np.ndarray) -> None:
        decoded = decode_all(decode, vectors[codes].reshape(grids.shape))
        psnr = np.mean(-10.0 * np.log10(np.mean(np.square(decoded - images), axis=(1, 2, 3))))
        share = np.bincount(codes, minlength=256)[np.unique(codes)] / len(codes)
        print(f"{name}: PSNR {psnr:.2f} dB, entropy {-np.sum(share * np.log2(share)):.2f} bits per code", flush=True)

    flat = grids.reshape(-1, d)
    scored("mean metric", baselines.encode(linear, flat), linear.vectors)
    scored("refined, metric at the cell", assign_pullback(flat, own, centres)[0], centres)
    scored("refined, slices", nearest_in_slices(decode, grids, centres, metrics=own).index, centres)


if __name__ == "__main__":
    main()
