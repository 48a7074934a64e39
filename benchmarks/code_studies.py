"""Ideas for better codes that did not pay, measured on validation images of a comparison's seed.

    python benchmarks/code_studies.py plane | volume | prior [--config configs/compare/mnist.py:rate]
        [--workdir runs/compare-mnist-rate/seed0] [--core 0]
    python benchmarks/code_studies.py sampled --workdir runs/mnist5k [--core 0]

`plane`    Search of the whole grid by the nearest plane (Babai) in the linearised decoder, with the bits of the code
           tables in a beam, against more sweeps of coordinate descent: objective and CPU seconds.
`volume`   K-means in the mean metric with latents weighted by r^p, r the distance to the 16th neighbour, which flattens
           the density of the codes: decibels and bits by tables after two searches under the frozen decoder.
`prior`    A prior that knows the metric: its code embeddings start from the code vectors, its targets are smoothed over
           near codes, or a group of near codes is predicted first. Bits per code on the validation split.
`sampled`  The decoder trained further to show the image from codes of which the prior drew a share, given the true
           codes before them (as in RobusTok, arXiv 2509.12474, without its other losses). PSNR of validation images,
           and Frechet distance and share in class of the same samples, against validation images.

The work directory is that of one seed of `geovq_jax.compare`, with the mean metric among its methods; for `sampled`
that of a finished run.
"""

import argparse
import os
import runpy
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import geovq_jax

NEIGHBOUR = 16  # whose distance stands for the density, of `volume`
GROUPS = 16  # of codes, of `prior`


def open_run(name: str, workdir: Path):
    from geovq_jax.stages.run import Run

    path, _, variants = name.partition(":")
    config = runpy.run_path(path)["get_config"](variants)
    with config.unlocked():
        config.codebook.method, config.codebook.distance = "geodesic", "graph"
    return Run(workdir, config)


def plane(run, weight: float = 0.1, num_images: int = 400) -> None:
    from geovq_jax.comparison.starts import post_hoc_codes
    from geovq_jax.quantization.code_tables import fit_tables, grid_bits
    from geovq_jax.quantization.context import encode_in_context
    from geovq_jax.quantization.rates import rate_of_tables

    start = post_hoc_codes("mean_metric_context", run)
    decode, vectors = run.decode_fn, jnp.asarray(start.vectors)
    images, metrics = run.images("valid")[:num_images], run.metrics("valid")[:num_images]
    tables = fit_tables(start.codes["train"], len(vectors))
    on_device = jax.tree.map(jnp.asarray, tables)

    @jax.jit
    def objective(codes, images):
        def one(grid, image):
            return jnp.sum(jnp.square(decode(vectors[grid]) - image)) + weight * grid_bits(on_device, grid)

        return jax.vmap(one)(codes, images)

    def descend(codes, sweeps):
        return encode_in_context(
            decode,
            start.vectors,
            np.asarray(codes),
            metrics,
            images,
            sweeps=sweeps,
            rate=rate_of_tables(tables),
            rate_weight=weight,
        ).codes

    beam = jax.jit(partial(nearest_plane, decode, vectors, on_device, weight), static_argnames="width")

    def improve(codes, damping, width):
        """The best of the beam's first four grids where it is better than the codes."""
        found = jax.lax.map(lambda pair: beam(*pair, damping, width=width), (jnp.asarray(codes), images), batch_size=50)
        tried = jnp.concatenate([jnp.asarray(codes)[:, None], found[:, :4]], axis=1)
        values = jnp.stack([objective(tried[:, j], images) for j in range(tried.shape[1])], axis=1)
        best = jnp.argmin(values, axis=1)[:, None, None, None]
        return jnp.take_along_axis(tried, best, axis=1)[:, 0]

    def show(name, function):
        function()  # compiles
        begin = time.process_time()
        codes = jax.block_until_ready(function())
        seconds = time.process_time() - begin
        print(f"{name}: objective {float(objective(jnp.asarray(codes), images).mean()):.3f}, {seconds:.1f} CPU-s")
        return codes

    codes = start.codes["valid"][:num_images]
    for sweeps in (4, 8, 16):
        show(f"{sweeps} sweeps", lambda sweeps=sweeps: descend(codes, sweeps))
    first = descend(codes, 4)
    for width in (1, 16):
        for damping in (0.1, 0.3, 1.0):
            show(
                f"4 sweeps, plane of {width} prefixes, damping {damping}, 2 sweeps",
                lambda width=width, damping=damping: descend(improve(descend(codes, 4), damping, width), 2),
            )
    show("plane of 16 prefixes alone, damping 0.3, from 4 sweeps", lambda: improve(first, 0.3, 16))


def nearest_plane(decode, vectors, tables, weight, codes, image, damping, *, width):
    """Grids [width, h, w] that nearly minimise the linearised error plus weighted bits, the best first.

    With u the damped Gauss-Newton target of the whole grid and R'R its matrix, R lower triangular by cells, the error
    of codes c is sum_t |R_tt (c_t - u_t) + sum_{s<t} R_ts (c_s - u_s)|^2, whose terms come in raster order as the bits
    do.
    """
    (height, columns), (num_codes, d) = codes.shape, vectors.shape
    cells = height * columns
    v = vectors[codes].reshape(-1)

    def residual(flat):
        return (decode(flat.reshape(height, columns, d)) - image).reshape(-1)

    jacobian = jax.jacfwd(residual)(v)
    matrix = jacobian.T @ jacobian
    scale = jnp.diag(matrix)
    matrix = matrix + jnp.diag(damping * scale + 1e-4 * jnp.mean(scale))
    target = (v - jnp.linalg.solve(matrix, jacobian.T @ residual(v))).reshape(cells, d)
    factor = jnp.linalg.cholesky(matrix[::-1, ::-1])[::-1, ::-1].T.reshape(cells, d, cells, d)
    costs, prefixes = jnp.zeros(1), jnp.full((1, cells), num_codes, jnp.int32)
    for t in range(cells):
        known = (jnp.arange(cells) < t)[None, :, None]
        gaps = jnp.where(known, vectors[jnp.minimum(prefixes, num_codes - 1)] - target[None], 0.0)
        offsets = jnp.einsum("isj,bsj->bi", factor[t], gaps)
        own = (vectors - target[t]) @ factor[t, :, t].T
        missing = jnp.full(len(prefixes), num_codes)
        left = prefixes[:, t - 1] if t % columns else missing
        above = prefixes[:, t - columns] if t >= columns else missing
        bits = tables.norm[t, left, above][:, None] - (tables.place[t] + tables.left[left] + tables.above[above])
        totals = costs[:, None] + jnp.sum(jnp.square(own[None] + offsets[:, None]), axis=-1) + weight * bits
        negative, chosen = jax.lax.top_k(-totals.reshape(-1), min(width, totals.size))
        costs = -negative
        prefixes = prefixes[chosen // num_codes].at[:, t].set((chosen % num_codes).astype(jnp.int32))
    return prefixes.reshape(-1, height, columns)


def volume(run, weights: tuple[float, ...] = (0.07, 0.18), num_train: int = 4_000, num_valid: int = 500) -> None:
    from scipy.spatial import cKDTree
    from sklearn.cluster import KMeans

    from geovq_jax.evaluation.rate_distortion import bd_rate
    from geovq_jax.quantization.code_tables import code_lengths, fit_tables
    from geovq_jax.quantization.context import encode_in_context
    from geovq_jax.quantization.rates import rate_of_tables

    sizes = {"train": num_train, "valid": num_valid}
    latents, metrics, images = (
        {split: array(split)[:size] for split, size in sizes.items()}
        for array in (lambda split: run.latents(split).mean, run.metrics, run.images)
    )
    d = latents["train"].shape[-1]
    root = np.linalg.cholesky(metrics["train"][:2_000].reshape(-1, d, d).mean(axis=0))
    mapped = {split: part @ root for split, part in latents.items()}
    rows = mapped["train"][:2_000].reshape(-1, d)
    radii = cKDTree(rows).query(rows, NEIGHBOUR + 1)[0][:, -1]

    def curve(num_codes: int, power: float, seed: int) -> np.ndarray:
        own = np.minimum(radii**power, np.quantile(radii**power, 0.99))
        centres = KMeans(num_codes, n_init=1, random_state=seed).fit(rows, sample_weight=own).cluster_centers_
        vectors = (centres @ np.linalg.inv(root)).astype(np.float32)
        tree, points = cKDTree(centres), []
        for weight in weights:
            codes = {
                split: tree.query(part.reshape(-1, d))[1].reshape(part.shape[:-1]).astype(np.int32)
                for split, part in mapped.items()
            }

            def search(split, rows, tables, sweeps, codes=codes, weight=weight):
                return encode_in_context(
                    run.decode_fn,
                    vectors,
                    codes[split][rows],
                    metrics[split][rows],
                    images[split][rows],
                    sweeps=sweeps,
                    rate=rate_of_tables(tables),
                    rate_weight=weight,
                )

            half = np.arange(num_train) % 2 == 0
            for _ in range(2):
                found = np.empty_like(codes["train"])
                for own_half in (half, ~half):
                    tables = fit_tables(codes["train"][~own_half], num_codes, held_out=codes["train"][own_half])
                    found[own_half] = search("train", own_half, tables, 3).codes
                codes["train"] = found
            tables = fit_tables(codes["train"], num_codes)
            last = search("valid", slice(None), tables, 6)
            bits = code_lengths(tables, last.codes).sum(axis=(1, 2)).mean()
            error = (last.after.mean() - weight * bits) / images["valid"][0].size
            points.append((bits, -10 * np.log10(error)))
        return np.asarray(points)

    reference = curve(256, 0.0, 0)
    for num_codes, power, seed in (
        (256, 0, 0),
        (256, 0, 1),
        (256, 2, 0),
        (256, 4, 0),
        (256, 8, 0),
        (128, 0, 0),
        (512, 0, 0),
    ):
        points = curve(num_codes, power, seed)
        print(
            f"K = {num_codes}, p = {power}, seed {seed}: "
            + ", ".join(f"{decibels:.2f} dB at {bits:.1f} bits" for bits, decibels in points)
            + f"; BD-rate {100 * bd_rate((points[:, 0], points[:, 1]), (reference[:, 0], reference[:, 1])):+.1f} %",
            flush=True,
        )


def prior(run, num_steps: int = 1_500, smoothing: float = 0.1) -> None:
    from sklearn.cluster import KMeans

    from geovq_jax import data
    from geovq_jax.comparison.starts import post_hoc_codes
    from geovq_jax.models import gpt
    from geovq_jax.models.transformer import Transformer
    from geovq_jax.stages.records import prior_architecture, raster
    from geovq_jax.training import loop, optimizer

    start, section = post_hoc_codes("mean_metric", run), run.config.prior
    d, num_codes = start.vectors.shape[1], len(start.vectors)
    root = np.linalg.cholesky(run.metrics("train")[:2_000].reshape(-1, d, d).mean(axis=0))
    mapped = (start.vectors - start.vectors.mean(axis=0)) @ root
    squares = np.sum(np.square(mapped[:, None] - mapped[None]), axis=-1)
    nearest = np.mean(np.min(squares + np.where(np.eye(num_codes), np.inf, 0.0), axis=1))
    near = np.exp(-squares / nearest) * (1 - np.eye(num_codes))
    near = jnp.asarray(near / near.sum(axis=1, keepdims=True))
    members = jnp.asarray(np.eye(GROUPS)[KMeans(GROUPS, n_init=3, random_state=0).fit(mapped).labels_].T)
    codes = {split: raster(start.codes[split]) for split in ("train", "valid")}
    labels = {split: getattr(run.dataset, split).labels for split in codes}
    arch = prior_architecture(section, start.codes["train"].shape[1:], num_codes=num_codes, num_classes=10)

    def log_p(params, codes, labels, key, grouped):
        own = {name: leaf for name, leaf in params.items() if name != "groups"}
        tokens = jnp.pad(codes, ((0, 0), (1, 0)), constant_values=arch.bos)[:, :-1]
        rngs = {} if key is None else {"dropout": key}
        found = Transformer(arch).apply({"params": own}, tokens, labels, key is None, rngs=rngs)
        if not grouped:
            return jax.nn.log_softmax(found)
        peak = found.max(axis=-1, keepdims=True)
        sums = jnp.log(jnp.einsum("btk,gk->btg", jnp.exp(found - peak), members)) + peak
        mean = jnp.einsum("btk,kd->btd", jax.nn.softmax(found), own["tokens"][:num_codes])
        groups = jax.nn.log_softmax(sums + jnp.einsum("btd,gd->btg", mean, params["groups"]))
        return found + jnp.einsum("btg,gk->btk", groups - sums, members)

    def train(name, *, embedded=False, smoothed=False, grouped=False):
        init_key, fit_key = jax.random.split(jax.random.key(1))
        params = gpt.init(init_key, arch)
        if embedded:  # nine tenths of the variance from the code vectors
            axes = np.linalg.qr(np.random.default_rng(0).normal(size=(arch.embed_dim, d)))[0].T
            known = 0.02 * np.sqrt(arch.embed_dim / d) / mapped.std() * mapped @ axes
            tokens = params["tokens"]
            params["tokens"] = tokens.at[:num_codes].set(0.1**0.5 * tokens[:num_codes] + 0.9**0.5 * known)
        if grouped:
            params["groups"] = 0.02 * jax.random.normal(jax.random.key(2), (GROUPS, arch.embed_dim))

        def loss_fn(params, key, step, batch):
            dropout_key, label_key = jax.random.split(key)
            dropped = jax.random.bernoulli(label_key, section.label_dropout, batch["labels"].shape)
            values = log_p(
                params, batch["codes"], jnp.where(dropped, arch.no_class, batch["labels"]), dropout_key, grouped
            )
            loss = -jnp.take_along_axis(values, batch["codes"][..., None], axis=-1).mean()
            if smoothed:
                smooth = -jnp.sum(near[batch["codes"]] * values, axis=-1).mean()
                loss = (1 - smoothing) * loss + smoothing * smooth
            return loss, {}

        @jax.jit
        def bits(params):
            values = log_p(params, codes["valid"], labels["valid"], None, grouped)
            return -jnp.take_along_axis(values, codes["valid"][..., None], axis=-1).mean() / np.log(2)

        fit = loop.fit(
            loss_fn,
            params,
            {"codes": codes["train"], "labels": labels["train"]},
            key=fit_key,
            optimizer=optimizer.make_optimizer(
                learning_rate=section.learning_rate,
                num_steps=num_steps,
                warmup_steps=section.warmup_steps,
                weight_decay=section.weight_decay,
            ),
            num_steps=num_steps,
            indices_fn=partial(data.batch_indices, 0, num_examples=len(codes["train"]), batch_size=section.batch_size),
            evaluate_fn=lambda params: {"objective": float(bits(params))},
            evaluate_every=250,
            patience=num_steps,
            directory=None,
        )
        print(f"{name}: {fit.best_value:.3f} bits per code after {fit.best_step} steps", flush=True)

    train("as it is")
    train("embeddings from the code vectors", embedded=True)
    train("targets smoothed over near codes", smoothed=True)
    train("groups first", grouped=True)


def sampled(run, num_steps: int = 400, num_samples: int = 2_000, copies: int = 4) -> None:
    from geovq_jax.evaluation.image_metrics import image_scores
    from geovq_jax.evaluation.sample_scores import class_consistency, frechet_distance
    from geovq_jax.geometry.batching import map_chunks
    from geovq_jax.models import gpt
    from geovq_jax.models.sampling import balanced_labels, draw
    from geovq_jax.stages.classifier import predict
    from geovq_jax.stages.finetune import finetune
    from geovq_jax.stages.records import Autoencoder, decode_images, decoder_of

    config, dataset, vectors, (params, arch) = run.config, run.dataset, run.codebook.vectors, run.prior
    codes = {split: run.codes(split).codes for split in ("train", "valid")}
    labels = balanced_labels(num_samples, -1, arch.num_classes)
    drawn, _ = draw(jax.random.key(1), params, arch, labels, dict(config.sample))
    drawn = drawn.reshape(num_samples, *codes["valid"].shape[1:])
    real = predict(*run.classifier, run.images("valid")).features
    logits = jax.jit(lambda codes, labels: jax.vmap(partial(gpt.logits, params, arch))(codes, labels))

    def show(title, model):
        decode_fn = decoder_of(model)
        seen = predict(*run.classifier, decode_images(decode_fn, vectors[drawn]))
        inside = class_consistency(seen.labels, labels, num_classes=arch.num_classes, seed=0).overall.value
        quality = np.mean(image_scores(run.images("valid"), decode_images(decode_fn, vectors[codes["valid"]])).psnr)
        distance = frechet_distance(real, seen.features)
        print(f"{title}: {quality:.2f} dB; samples {distance:.3f}, {100 * inside:.1f} % in class", flush=True)

    def mixed(split, share, seed):
        """Codes of which the prior drew a share of the places, in half of the images."""
        flat, own = codes[split].reshape(len(codes[split]), -1), getattr(dataset, split).labels
        values = np.asarray(map_chunks(logits, (flat, own), batch_size=250)) / config.sample.temperature
        rng = np.random.default_rng(seed)
        proposed = np.argmax(values + rng.gumbel(size=values.shape), axis=-1)
        replaced = (rng.random(flat.shape) < share) & (rng.random((len(flat), 1)) < 0.5)
        return np.where(replaced, proposed, flat).reshape(codes[split].shape).astype(np.int32)

    start = Autoencoder(run.searched_decoders[-1].params, run.autoencoder.arch)
    show("decoder of the run", start)
    own = dataset.train
    repeated = own._replace(**{name: np.concatenate([value] * copies) for name, value in own._asdict().items()})
    for share in (0.0, 0.1, 0.3, 1.0):
        found = finetune(
            None,
            dataset._replace(train=repeated),
            {
                "train": np.concatenate([mixed("train", share, seed) for seed in range(copies)]),
                "valid": mixed("valid", share, copies),
            },
            start.params,
            start.arch,
            vectors,
            trained="decoder",
            num_steps=num_steps,
            learning_rate=config.codebook.finetune_learning_rate,
            batch_size=config.data.batch_size,
            seed=config.seed,
        )
        show(
            f"{num_steps} steps, the prior drew {share:.0%} of half of the images",
            Autoencoder(found.params, start.arch),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("plane", "volume", "prior", "sampled"))
    parser.add_argument("--config", default="configs/compare/mnist.py:rate")
    parser.add_argument("--workdir", type=Path, default=Path("runs/compare-mnist-rate/seed0"))
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {arguments.core})
    if arguments.study == "sampled":
        sampled(geovq_jax.load_run(arguments.workdir))
    else:
        study = {"plane": plane, "volume": volume, "prior": prior}[arguments.study]
        study(open_run(arguments.config, arguments.workdir))


if __name__ == "__main__":
    main()
