"""Residual codes of one latent per image, post-hoc ones of a trained VAE against a joint RQ-VAE.

    python benchmarks/residual_codes.py [--data mnist] [--workdir runs/residual] [--core 0]

A latent of 64 dimensions is coded in 16 stages of 256 codes, 128 bits as on a 4 x 4 grid of one code each; every prefix
of the stages decodes. Networks, images, seed and gradient steps (2,000 and 800) as in configs/compare. Codebooks:

`Euclidean`        each stage quantizes what the stages before left of z.
`mean metric`      the same of R z, with R'R the mean pull-back metric.
`metric of stage 1`  stage 1 is K-means of decoded latents; the later stages share codebooks of R_k (z - c_k), with
                   R_k'R_k the metric at the first code c_k: the inverse exponential map, to first order.
`RQ-VAE`           encoder, decoder and 16 moving-average codebooks trained together (Lee et al. 2022, "Autoregressive
                   image generation using residual quantization"), for 2,800 steps, or for 2,000 with the decoder
                   fine-tuned for 800 like the others.

Codes of all are found alike: the 16 prefixes of least residual are kept at each stage, and of the last ones that whose
decoded image is nearest is taken ("greedy": one prefix). PSNR of test images by number of stages; with 16 prefixes also
the bits of the 16 codes under the prior of configs/compare/NAME.py:rate given the class.
"""

import argparse
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.cluster import KMeans

from geovq_jax import data, presets
from geovq_jax.config import experiment
from geovq_jax.evaluation.image_metrics import image_scores
from geovq_jax.geometry import node_metrics
from geovq_jax.geometry.batching import map_chunks
from geovq_jax.models import quantizers, vae, vqvae
from geovq_jax.pipeline import run_stage
from geovq_jax.quantization.baselines import decoded_kmeans, encode_decoded
from geovq_jax.stages.finetune import finetune
from geovq_jax.stages.prior import fit_prior
from geovq_jax.stages.records import Autoencoder, decode_images, decoder_of, log_probabilities
from geovq_jax.stages.run import Run
from geovq_jax.training import loop, optimizer

STAGES, CODES, WIDTH = 16, 256, 16
SHOWN = (4, 8, 12, 16)
SPLITS = ("train", "valid", "test")


class Book(NamedTuple):
    """First vectors [K1, d], their maps R [K1, d, d], and codebooks of R (z - first) of the later stages [s, K, d]."""

    first: np.ndarray
    roots: np.ndarray
    later: np.ndarray

    def latents(self, codes: np.ndarray, stages: int = STAGES) -> np.ndarray:
        """Latents of codes [n, s]; the first column chooses among the first vectors unless there is only one."""
        start = np.zeros(len(codes), int) if len(self.first) == 1 else codes[:, 0]
        own = codes if len(self.first) == 1 else codes[:, 1:]
        kept = stages if len(self.first) == 1 else stages - 1
        moved = sum((self.later[t][own[:, t]] for t in range(kept)), np.zeros((len(codes), self.first.shape[1])))
        inverse = np.linalg.inv(self.roots)
        return (self.first[start] + np.einsum("nij,nj->ni", inverse[start], moved)).astype(np.float32)


def fit_stages(points: np.ndarray, stages: int) -> np.ndarray:
    """K-means of what the stages before leave."""
    books, left = [], np.array(points)
    for stage in range(stages):
        found = KMeans(CODES, n_init=1, max_iter=30, random_state=stage).fit(left)
        books.append(found.cluster_centers_)
        left = left - books[-1][found.labels_]
    return np.stack(books)


def root_of(metric: np.ndarray, floor: float = 1e-3) -> np.ndarray:
    """Symmetric root, eigenvalues raised to `floor` times the largest."""
    values, axes = np.linalg.eigh(np.asarray(metric, np.float64))
    return (axes * np.sqrt(np.maximum(values, floor * values[-1]))) @ axes.T


@partial(jax.jit, static_argnames="width")
def beam(books: jax.Array, points: jax.Array, *, width: int) -> jax.Array:
    """Codes [n, width, s] of the prefixes that leave the least of each point [n, d], the best first."""

    def one(point: jax.Array) -> jax.Array:
        left, codes = point[None], jnp.zeros((1, 0), jnp.int32)
        for vectors in books:
            costs = quantizers.squared_distances(left, vectors)
            _, chosen = jax.lax.top_k(-costs.reshape(-1), min(width, costs.size))
            rows, added = chosen // len(vectors), chosen % len(vectors)
            left = left[rows] - vectors[added]
            codes = jnp.concatenate([codes[rows], added[:, None].astype(jnp.int32)], axis=1)
        return codes

    return jax.vmap(one)(points)


def encode(book: Book, decode_fn, latents: np.ndarray, images: np.ndarray, *, width: int) -> np.ndarray:
    """Codes [n, s] of latents; with more than one prefix kept, those whose decoded image is nearest."""
    start = np.zeros(len(latents), np.int32)
    if len(book.first) > 1:
        start = encode_decoded(decode_fn, book.first, decode_images(decode_fn, latents))
    points = np.einsum("nij,nj->ni", book.roots[start], latents - book.first[start]).astype(np.float32)
    search = partial(beam, jnp.asarray(book.later, jnp.float32), width=width)
    found = np.asarray(map_chunks(search, (points,), batch_size=200))
    if len(book.first) > 1:
        first = np.broadcast_to(start[:, None, None], (*found.shape[:2], 1))
        found = np.concatenate([first, found], axis=2)
    errors = []
    for rank in range(found.shape[1] if width > 1 else 1):
        decoded = decode_images(decode_fn, book.latents(found[:, rank]))
        errors.append(np.sum(np.square(decoded - images), axis=(1, 2, 3)))
    return found[np.arange(len(found)), np.argmin(errors, axis=0)]


def fit_rqvae(run: Run, arch: vae.Architecture, steps: int) -> dict:
    """Encoder, decoder and codebooks trained together; of the best validation error."""
    config, dataset = run.config, run.dataset
    init_key, book_key, fit_key = jax.random.split(jax.random.key(config.seed), 3)
    params = vae.init(init_key, arch)
    params["encoder"]["head"] = {name: leaf[..., : arch.latent_dim] for name, leaf in params["encoder"]["head"].items()}
    decay, reseed, commitment = (config.vqvae[name] for name in ("decay", "reseed", "commitment"))

    def encode_images(params, images):
        return jax.vmap(lambda image: vqvae.encode(params, arch, image))(images)

    left = encode_images(params, data.to_float(dataset.train.images[:2_000]))
    books = []
    for key in jax.random.split(book_key, STAGES):
        book = quantizers.kmeans_codebook(key, left, CODES)
        books.append(book)
        left = left - book.vectors[quantizers.nearest(left, book.vectors)]
    params["codebook"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *books)

    def quantize(params, z):
        def stage(left, vectors):
            codes = quantizers.nearest(left, vectors)
            return left - vectors[codes], (left, codes)

        last, found = jax.lax.scan(stage, z, params["codebook"].vectors)
        return z - last, found

    def loss_fn(params, key, step, batch):
        images = data.to_float(batch["images"])
        params = params | {"codebook": jax.lax.stop_gradient(params["codebook"])}
        z = encode_images(params, images)
        quantized, (left, codes) = quantize(params, jax.lax.stop_gradient(z))
        pixels = jax.vmap(partial(vae.decode, params, arch))(quantizers.pass_gradient(z, quantized, "straight_through"))
        error = jnp.sum(jnp.square(pixels - images)) / len(images)
        partial_sums = z[None] - jnp.concatenate([left[1:], (z - quantized)[None]])
        gaps = jnp.sum(jnp.square(z[None] - jax.lax.stop_gradient(partial_sums)), axis=-1)
        move = partial(quantizers.moved_codebook, decay=decay, reseed=reseed)
        moved = jax.vmap(move)(jax.random.split(key, STAGES), params["codebook"], left, codes)
        return error + commitment * jnp.mean(jnp.sum(gaps, axis=0)) / STAGES, ({"mse": error}, moved)

    @jax.jit
    def squared_errors(params, images):
        images = data.to_float(images)
        pixels = jax.vmap(partial(vae.decode, params, arch))(quantize(params, encode_images(params, images))[0])
        return jnp.mean(jnp.square(pixels - images), axis=(1, 2, 3))

    def evaluate_fn(params):
        errors = map_chunks(partial(squared_errors, params), (dataset.valid.images,), batch_size=250)
        return {"objective": float(np.mean(errors))}

    count, size = len(dataset.train.images), config.data.batch_size
    return loop.fit(
        loss_fn,
        params,
        {"images": dataset.train.images},
        key=fit_key,
        optimizer=optimizer.make_optimizer(
            learning_rate=config.vae.learning_rate, num_steps=steps, warmup_steps=config.vae.warmup_steps
        ),
        num_steps=steps,
        indices_fn=partial(data.batch_indices, config.seed, num_examples=count, batch_size=size),
        evaluate_fn=evaluate_fn,
        evaluate_every=config.vae.evaluate_every,
        update_fn=vqvae.replace_codebook,
    ).params


def show(run: Run, title: str, model: Autoencoder, book: Book, latents: dict, *, width: int, tune: bool) -> None:
    """Encode, fine-tune, encode again, and print what is known of the test images."""
    config, dataset, images = run.config, run.dataset, {split: run.images(split) for split in SPLITS}

    def codes_under(model):
        return {split: encode(book, decoder_of(model), latents[split], images[split], width=width) for split in SPLITS}

    codes = codes_under(model)
    if tune:
        rows = {
            "train": np.arange(len(latents["train"])),
            "valid": len(latents["train"]) + np.arange(len(latents["valid"])),
        }
        tuned = finetune(
            None,
            dataset,
            rows,
            model.params,
            model.arch,
            np.concatenate([book.latents(codes[split]) for split in ("train", "valid")]),
            trained="decoder",
            num_steps=config.codebook.finetune_steps,
            learning_rate=config.codebook.finetune_learning_rate,
            batch_size=config.data.batch_size,
            seed=config.seed,
        )
        model = Autoencoder(tuned.params, model.arch)
        codes = codes_under(model) if width > 1 else codes
    quality = [
        float(
            np.mean(image_scores(images["test"], decode_images(decoder_of(model), book.latents(codes["test"], s))).psnr)
        )
        for s in SHOWN
    ]
    stages = ", ".join(f"{s} stages {value:.2f} dB" for s, value in zip(SHOWN, quality, strict=True))
    if width == 1:
        print(f"{title}: {stages}", flush=True)
        return
    splits = {split: (codes[split][:, None], getattr(dataset, split).labels) for split in ("train", "valid")}
    prior, arch, _ = fit_prior(
        None, splits, num_codes=CODES, num_classes=dataset.num_classes, section=config.prior, seed=config.seed
    )
    bits = -log_probabilities(prior, arch, codes["test"][:, None], dataset.test.labels).sum(axis=1).mean() / np.log(2)
    print(f"{title}: {stages}; {bits:.1f} coded bits", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", choices=("mnist", "fashion_mnist"))
    parser.add_argument("--workdir", type=Path, default=Path("runs/residual"))
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {arguments.core})
    own = {"data.name": arguments.data, "vae.kind": "vanilla", "vae.latent_dim": 64, "vae.cell_bits": 112.0}
    config = experiment("residual", presets.COMPARE | presets.COMPARE_RATE | own)
    run = Run(arguments.workdir / arguments.data, config)
    for stage in ("vae", "latents"):
        run_stage(stage, run)
    latents = {split: np.asarray(run.latents(split).mean) for split in SPLITS}
    size = latents["train"].shape[1]
    quality = image_scores(run.images("test"), decode_images(run.decode_fn, latents["test"])).psnr
    print(f"continuous {float(np.mean(quality)):.2f} dB", flush=True)

    none, one = np.zeros((1, size)), np.eye(size)[None]
    mean_root = root_of(node_metrics(run.decode_fn, latents["train"][:500]).mean(axis=0))[None]
    first = decoded_kmeans(run.decode_fn, latents["train"], CODES, seed=0)[0].vectors
    roots = np.stack([root_of(metric) for metric in np.asarray(node_metrics(run.decode_fn, first))])
    nearest = encode_decoded(run.decode_fn, first, decode_images(run.decode_fn, latents["train"]))
    left = np.einsum("nij,nj->ni", roots[nearest], latents["train"] - first[nearest])
    books = {
        "Euclidean": Book(none, one, fit_stages(latents["train"], STAGES)),
        "mean metric": Book(none, mean_root, fit_stages(latents["train"] @ mean_root[0].T, STAGES)),
        "metric of stage 1": Book(first, roots, fit_stages(left, STAGES - 1)),
    }
    for title, book in books.items():
        for width in (1, WIDTH):
            show(run, f"{title}, {width} prefixes", run.autoencoder, book, latents, width=width, tune=True)

    arch = run.autoencoder.arch
    for steps, widths, tune in ((2_800, (1,), False), (2_000, (1, WIDTH), True)):
        params = fit_rqvae(run, arch, steps)
        vectors = np.asarray(params.pop("codebook").vectors)
        model = Autoencoder(params, arch)
        encoded = jax.jit(jax.vmap(partial(vqvae.encode, params, arch)))
        own = {split: np.asarray(map_chunks(encoded, (run.images(split),), batch_size=250)) for split in SPLITS}
        for width in widths:
            title = f"RQ-VAE, {steps:,} steps{', then decoder' if tune else ''}, {width} prefixes"
            show(run, title, model, Book(none, one, vectors), own, width=width, tune=tune)


if __name__ == "__main__":
    main()
