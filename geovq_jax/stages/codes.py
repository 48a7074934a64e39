"""Stage `codes`: codes of every image of every split."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from geovq_jax import workers
from geovq_jax.config import given_codes, settings
from geovq_jax.data.splits import split_rows, tenths
from geovq_jax.evaluation.code_usage import code_usage
from geovq_jax.geometry.batching import Progress
from geovq_jax.geometry.checks import check_ids
from geovq_jax.geometry.graphs.indexes import Searched
from geovq_jax.geometry.graphs.knn import prepare_search
from geovq_jax.geometry.metric import DecodeFn
from geovq_jax.quantization import assignment, baselines
from geovq_jax.quantization.code_tables import CodeTables, fit_tables
from geovq_jax.quantization.codebook import parameters_hash
from geovq_jax.quantization.rates import Rate, rate_of_prior, rate_of_tables
from geovq_jax.quantization.tokenizer import Encoded
from geovq_jax.shards import run_shards
from geovq_jax.stages.graph import decoder_key
from geovq_jax.stages.prior import fit_prior
from geovq_jax.stages.records import SPLITS, Autoencoder, decode_images, decoder_of
from geovq_jax.stages.run import Run
from geovq_jax.terminal import progress_bar
from geovq_jax.workdir import hash_arrays, load_npz, save_npz

SEARCH_SHARD = 1_000  # images whose search is repeated after an interruption, at most
ASSIGN_SHARD = 16 * assignment.CHUNK  # the same of assignment, of which that by geodesics takes a chunk
FOLDS = 4  # of training images; code lengths of each fold come from the tables of the others


def encode_splits(run: Run) -> str:
    """Codes of every image of every split into `codes/`.

    They are searched as those that the decoder was trained on: under every decoder of its training in turn, the one
    that will read them last.
    """
    if path := given_codes(run.config):
        return split_codes(run, Path(path))
    perplexity, rate = 0.0, _train_rate(run) if run.config.codes.rate == "prior" else None
    for split in SPLITS:
        latents = run.latents(split)
        found = assigned(run, run.quantizer, split)
        codes = found.codes
        if run.config.codes.search == "context":
            last = len(run.searched_decoders) - 1
            for part, (decoder, seen) in enumerate(zip(run.searched_decoders, run.seen_codes, strict=True)):
                codes = searched(
                    run,
                    decoder,
                    run.codebook.vectors,
                    {split: codes},
                    f"part{part}",
                    seen=seen,
                    rate=rate if part == last else None,
                )[split]
        save_npz(
            run.workdir / "codes" / f"{split}.npz",
            codes=codes,
            distance=found.distances,
            label=latents.label,
            index=latents.index,
        )
        perplexity = code_usage(codes, run.config.codebook.num_clusters)["perplexity"]
    return f"every image of every split; test perplexity {perplexity:.1f} of {run.config.codebook.num_clusters}"


def split_codes(run: Run, path: Path) -> str:
    """Codes of an npz file, `codes` [n] or [n, h, w] and optionally `labels` [n], split like images."""
    arrays, num_codes = load_npz(path, stage="encode"), run.config.codebook.num_clusters
    codes = arrays.get("codes")
    if codes is None or codes.ndim not in (1, 3) or 0 in codes.shape:
        got = "none" if codes is None else f"{codes.shape}"
        raise ValueError(f"expected codes [n] or [n, h, w] in {path}, got {got}; write the array codes")
    check_ids(f"codes in {path}", codes, num_codes, "...")
    labels = arrays.get("labels", np.zeros(len(codes), np.int32))
    if labels.shape != (len(codes),) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(f"expected labels [{len(codes)}], integers from 0, in {path}, got {labels.shape}; one per row")
    limits = tuple(run.config.data[f"max_{split}"] or None for split in SPLITS)
    parts = split_rows(labels, tenths(len(labels)), limits, run.config.seed)
    for split, rows in zip(SPLITS, parts, strict=True):
        save_npz(
            run.workdir / "codes" / f"{split}.npz",
            codes=codes[rows].astype(np.int32),
            distance=np.zeros(codes[rows].shape),
            label=labels[rows].astype(np.int32),
            index=rows,
        )
    return f"{len(codes)} rows of {path}"


def assigned(run: Run, quantizer: assignment.Quantizer, split: str) -> Encoded:
    """Codes of a split without search; nodes of the graph keep their codes."""
    config, latents, metrics = run.config, run.latents(split).mean, run.metrics(split)
    nodes = None if quantizer.tokenizer is None else prepare_search(quantizer.tokenizer.points)
    settings = {"neighbours": config.codebook.neighbours, "context": config.graph.context}
    tokenizer = {} if quantizer.tokenizer is None else quantizer.tokenizer._asdict()
    arrays = {"latents": latents, "metrics": metrics, "vectors": quantizer.vectors, "transform": quantizer.transform}
    known = {name: array for name, array in (tokenizer | arrays).items() if array is not None}
    key = settings | {"assignment": quantizer.assignment, "arrays": hash_arrays(known)} | decoder_key(run)
    with progress_bar(f"codes of {split}") as progress:
        inside = None if workers.are_used() else progress
        found = run_shards(
            run.workdir / "shards" / f"codes_{split}",
            key,
            len(latents),
            partial(_assigned_rows, quantizer, nodes, latents, run.metric_fn, metrics, settings, inside),
            shard_rows=assignment.CHUNK if quantizer.assignment == "geodesic" else ASSIGN_SHARD,
            progress=progress,
        )
    codes, distances = found["codes"], found["distances"]
    if split != "train" or quantizer.assignment != "graph":
        return Encoded(codes, distances)
    codes, distances = codes.copy(), distances.copy()  # the shards may be mapped
    rows, shape = run.graph.rows, codes[run.graph.rows].shape
    labels, own = run.clusters.labels.reshape(shape), run.clusters.distances.reshape(shape)
    reached = labels >= 0
    codes[rows] = np.where(reached, labels, codes[rows])
    distances[rows] = np.where(reached, own, distances[rows])
    return Encoded(codes, distances)


def _assigned_rows(
    quantizer: assignment.Quantizer,
    nodes: Searched | None,
    latents: np.ndarray,
    metric_fn: DecodeFn,
    metrics: np.ndarray | None,
    settings: Mapping[str, Any],
    progress: Progress | None,
    rows: slice,
) -> dict[str, np.ndarray]:
    report = None if progress is None else lambda done, _: progress(rows.start + done, len(latents))
    own = None if metrics is None else metrics[rows]
    found = assignment.assign(
        quantizer, latents[rows], metric_fn, metrics=own, nodes=nodes, progress=report, **settings
    )
    return found._asdict()


def searched(
    run: Run,
    autoencoder: Autoencoder,
    vectors: np.ndarray,
    codes: Mapping[str, np.ndarray],
    name: str,
    *,
    seen: np.ndarray | None = None,
    rate: Rate | None = None,
) -> dict[str, np.ndarray]:
    """Codes of some splits after a search under the decoder of an autoencoder, from initial codes [n] or [n, h, w].

    `name` is the folder of the shards, which are kept. With `codes.rate_weight` above 0 the code lengths come from
    tables fitted to `seen`, training codes, by default those given; for images of a fold of the training split, from
    the tables of the other folds. `rate` replaces the tables.
    """
    decode_fn, config = decoder_of(autoencoder), run.config
    searched_codes = {}
    for split, start in codes.items():
        images = run.images(split)
        rates: list[Rate | None] = [rate]
        if rate is None and config.codes.rate_weight:
            folds = FOLDS if split == "train" else 1
            seen_codes = codes["train"] if seen is None else seen
            rates = [rate_of_tables(tables) for tables in _tables(seen_codes, config.codebook.num_clusters, folds)]

        effort = {"sweeps": config.codes.sweeps, "rate_weight": config.codes.rate_weight}
        improved = partial(_searched_rows, decode_fn, vectors, start, images, rates, effort)
        key = {
            "decoder": parameters_hash(autoencoder.params),
            "arrays": hash_arrays({"vectors": vectors, "codes": start, "images": images}),
            "sweeps": config.codes.sweeps,
            "rate": [config.codes.rate_weight, *(parameters_hash(one.bits) for one in rates if one is not None)],
        }
        folder = run.workdir / "shards" / f"search_{name}_{split}"
        with progress_bar(f"search for codes of {split}") as progress:
            shards = run_shards(folder, key, len(start), improved, shard_rows=SEARCH_SHARD, progress=progress)
        searched_codes[split] = shards["codes"]
    return searched_codes


def _searched_rows(
    decode_fn: DecodeFn,
    vectors: np.ndarray,
    start: np.ndarray,
    images: np.ndarray,
    rates: Sequence[Rate | None],
    effort: Mapping[str, Any],
    rows: slice,
) -> dict[str, np.ndarray]:
    """Codes after a search; image i pays by rate i modulo the number of rates."""
    found, asked = np.empty(start[rows].shape, np.int32), np.arange(rows.start, rows.stop)
    for fold, rate in enumerate(rates):
        own = asked[asked % len(rates) == fold]
        found[own - rows.start] = assignment.search(decode_fn, vectors, start[own], images[own], rate=rate, **effort)
    return {"codes": found}


def _tables(seen: np.ndarray, num_codes: int, folds: int) -> list[CodeTables]:
    """Tables for the images of each fold, fitted to the codes of all other folds, or to all codes for a single fold."""
    if folds == 1:
        return [fit_tables(seen, num_codes)]
    fold = np.arange(len(seen)) % folds
    return [fit_tables(seen[fold != own], num_codes, held_out=seen[fold == own]) for own in range(folds)]


def _train_rate(run: Run) -> Rate | None:
    """A prior without classes of the codes that the decoder was trained on; None without a rate weight.

    It is stored in `codes/rate`. An eighth of the codes is held out for early stopping.
    """
    seen, config = run.seen_codes[-1], run.config
    if seen is None:
        return None
    held_out = np.arange(len(seen)) % 8 == 0
    with progress_bar("training the prior that counts bits") as progress:
        params, arch, _ = fit_prior(
            run.workdir / "codes" / "rate",
            {
                split: (seen[rows], np.zeros(rows.sum(), np.int32))
                for split, rows in (("train", ~held_out), ("valid", held_out))
            },
            num_codes=config.codebook.num_clusters,
            num_classes=0,
            section=config.prior,
            seed=config.seed,
            metadata=settings(config, "seed", "codebook", "codes", "prior"),
            progress=progress,
        )
    return rate_of_prior(params, arch)


def code_pictures(run: Run) -> Float[np.ndarray, "K height width channels"]:
    """One decoded picture per code, in [0, 1].

    A code of vanilla latents decodes to an image. A code of a grid replaces one cell of its representative's image; the
    picture is a crop of the decoded image around that cell, with a margin of half a cell, grey beyond the border.
    """
    vectors, mean = run.codebook.vectors, run.latents("train").mean
    if mean.ndim == 2:
        return decode_images(run.tuned_decode_fn, vectors)
    rows, columns = mean.shape[1:3]
    nodes = representatives(run)
    grids = run.graph_latents[nodes // (rows * columns)].copy()
    row, column = np.divmod(nodes % (rows * columns), columns)
    grids[np.arange(len(vectors)), row, column] = vectors
    images = decode_images(run.tuned_decode_fn, grids)
    height, width = images.shape[1] // rows, images.shape[2] // columns
    margin = (height // 2, width // 2)
    padded = np.pad(images, ((0, 0), (margin[0],) * 2, (margin[1],) * 2, (0, 0)), constant_values=0.6)
    windows = [
        picture[r * height : (r + 1) * height + 2 * margin[0], c * width : (c + 1) * width + 2 * margin[1]]
        for picture, r, c in zip(padded, row, column, strict=True)
    ]
    return np.stack(windows)


def representatives(run: Run) -> Int[np.ndarray, " K"]:
    """Node of the graph that stands for each code: its medoid, or the node of its cluster nearest to its vector."""
    medoids = run.codebook.medoids
    if (medoids >= 0).all():
        return medoids
    return baselines.nearest_members(run.graph.points, run.clusters.labels, run.codebook.vectors)
