"""The methods of the comparison: ways to make K code vectors and the codes of every image on one autoencoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from geovq_jax import data
from geovq_jax.models import vae
from geovq_jax.quantization import baselines, refinement
from geovq_jax.quantization.pullback_kmeans import assign_pullback, pullback_kmeans
from geovq_jax.quantization.tokenizer import encode_measured
from geovq_jax.stages.codes import latent_metrics, load_graph, load_latents, load_tokenizer, nodes_of
from geovq_jax.stages.vae import SPLITS, decoder, load_data, load_vae
from geovq_jax.terminal import progress_bar
from geovq_jax.workdir import load_npz, save_npz


class Inputs(NamedTuple):
    """What every method of one seed is given.

    Attributes:
        workdir: of the seed, with `vae/`, `latents/`, `graph.npz` and `codebook.npz`.
        config: of the seed.
        dataset: images and labels.
        params: of the autoencoder.
        arch: its sizes.
        latents: split -> [n, d] or [n, h, w, d].
        metrics: split -> pull-back metrics [n, d, d] or [n, h, w, d, d].
        rows: training images whose latents the codebooks are fitted to.
    """

    workdir: Path
    config: ConfigDict
    dataset: data.Dataset
    params: Any
    arch: vae.Architecture
    latents: dict[str, np.ndarray]
    metrics: dict[str, np.ndarray]
    rows: np.ndarray


class Codes(NamedTuple):
    """A codebook and what it makes of every image.

    Attributes:
        vectors: [K, d].
        codes: split -> int32 [n] or [n, h, w].
    """

    vectors: np.ndarray
    codes: dict[str, np.ndarray]


class Method(NamedTuple):
    """One way to make codes.

    Attributes:
        title: what tables call it.
        fit: its codebook and codes on the frozen autoencoder.
        in_context: codes are chosen in the context of the whole image, anew before each part of the fine-tuning.
        rungs: of the ladder, that are climbed from the frozen decoder.
    """

    title: str
    fit: Callable[[Inputs], Codes]
    in_context: bool = False
    rungs: tuple[str, ...] = ("decoder",)


def inputs_of(workdir: Path, config: ConfigDict) -> Inputs:
    """Everything that the methods of a seed share; metrics of all latents are computed once and kept."""
    dataset = load_data(config)
    params, arch = load_vae(workdir, config, dataset.train.images.shape[1:])
    latents = {split: load_latents(workdir, split)["mean"] for split in SPLITS}
    metrics = {}
    for split in SPLITS:
        path = workdir / "metrics" / f"{split}.npz"
        if not path.exists():
            with progress_bar(f"metrics of {split}") as progress:
                found = latent_metrics(workdir, config, latents[split], progress=progress)
            save_npz(path, metrics=found)
        shape = (*latents[split].shape, latents[split].shape[-1])
        metrics[split] = load_npz(path, stage="compare")["metrics"].reshape(shape)
    rows = load_graph(workdir)[1]["rows"]
    return Inputs(workdir, config, dataset, params, arch, latents, metrics, rows)


def _nodes(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Latents and metrics that codebooks are fitted to, one row a node."""
    latents = nodes_of(inputs.latents["train"][inputs.rows])
    size = latents.shape[1]
    return latents, inputs.metrics["train"][inputs.rows].reshape(-1, size, size)


def _baseline(fit: Callable[..., baselines.Baseline]) -> Callable[[Inputs], Codes]:
    def codes_of(inputs: Inputs) -> Codes:
        baseline = fit(*_nodes(inputs), inputs.config.codebook.num_clusters, inputs.config.seed)
        found = {split: baselines.encode(baseline, inputs.latents[split]) for split in SPLITS}
        return Codes(baseline.vectors, found)

    return codes_of


_mahalanobis = _baseline(lambda z, metrics, k, seed: baselines.mahalanobis(z, metrics.mean(axis=0), k, seed=seed))


def _geodesic(inputs: Inputs) -> Codes:
    nodes = load_npz(inputs.workdir / "codebook.npz", stage="build_codebook")
    tokenizer, neighbours = load_tokenizer(inputs.workdir), inputs.config.codebook.neighbours
    codes = {}
    for split in SPLITS:
        latents = inputs.latents[split]
        metrics = inputs.metrics[split].reshape(-1, *inputs.metrics[split].shape[-2:])
        found = encode_measured(tokenizer, nodes_of(latents), metrics, k=neighbours).codes
        codes[split] = np.asarray(found, np.int32).reshape(latents.shape[:-1])
    codes["train"][inputs.rows] = nodes["node_labels"].reshape(-1, *codes["train"].shape[1:])
    return Codes(nodes["vectors"], codes)


def _pullback(start: Callable[[Inputs], Codes]) -> Callable[[Inputs], Codes]:
    """Centres moved to the minimum of the linearised decoded error, and every latent assigned by its own metric."""

    def codes_of(inputs: Inputs) -> Codes:
        vectors = pullback_kmeans(*_nodes(inputs), start(inputs).vectors).centres
        codes = {}
        for split in SPLITS:
            latents, metrics = inputs.latents[split], inputs.metrics[split]
            labels, _ = assign_pullback(nodes_of(latents), metrics.reshape(-1, *metrics.shape[-2:]), vectors)
            codes[split] = labels.reshape(latents.shape[:-1])
        return Codes(vectors, codes)

    return codes_of


def _decoded(inputs: Inputs) -> Codes:
    """Geodesic medoids refined in decoded space; codes by distance to the decoded latent."""
    start = _geodesic(inputs)
    decode_fn = decoder(inputs.params, inputs.arch)
    latents, _ = _nodes(inputs)
    labels = start.codes["train"][inputs.rows]
    vectors = refinement.refine_centres(decode_fn, start.vectors, latents, labels).centres
    return Codes(vectors, _decoded_codes(inputs, vectors))


def _decoded_kmeans(inputs: Inputs) -> Codes:
    """K-means of decoded latents, each mean replaced by its nearest latent; codes as for `_decoded`."""
    latents, _ = _nodes(inputs)
    decode_fn, size = decoder(inputs.params, inputs.arch), inputs.config.codebook.num_clusters
    vectors = baselines.decoded_kmeans(decode_fn, latents, size, seed=inputs.config.seed)[0].vectors
    return Codes(vectors, _decoded_codes(inputs, vectors))


def _decoded_codes(inputs: Inputs, vectors: np.ndarray) -> dict[str, np.ndarray]:
    decode_fn = decoder(inputs.params, inputs.arch)
    return {
        split: baselines.encode_decoded(decode_fn, vectors, baselines.decoded(decode_fn, inputs.latents[split]))
        for split in SPLITS
    }


METHODS: dict[str, Method] = {
    "gaussian": Method(
        "random Gaussian", _baseline(lambda z, _, k, seed: baselines.gaussian(z, k, seed=seed)), rungs=()
    ),
    "scalar": Method(
        "scalar (FSQ after the fact)",
        _baseline(lambda z, _, k, seed: baselines.scalar(z, baselines.scalar_levels(k, z.shape[1]))),
        rungs=(),
    ),
    "kmeans": Method("K-means", _baseline(lambda z, _, k, seed: baselines.kmeans(z, k, seed=seed))),
    "kmedoids": Method("K-medoids", _baseline(lambda z, _, k, seed: baselines.kmedoids(z, k, seed=seed)), rungs=()),
    "kmeans_decoded": Method("K-means, decoded space", _decoded_kmeans),
    "mean_metric": Method("K-means, mean metric", _mahalanobis),
    "local_metrics": Method("K-means, local metrics", _pullback(_mahalanobis)),
    "geodesic": Method("geodesic K-medoids", _geodesic),
    "geodesic_refined": Method("geodesic, refined", _pullback(_geodesic), rungs=("decoder", "codes")),
    "geodesic_decoded": Method("geodesic, refined in decoded space", _decoded),
    "kmeans_context": Method(
        "K-means, in context",
        _baseline(lambda z, _, k, seed: baselines.kmeans(z, k, seed=seed)),
        in_context=True,
    ),
    "geodesic_refined_context": Method("geodesic, refined, in context", _pullback(_geodesic), in_context=True),
    "geodesic_decoded_context": Method("geodesic, refined in decoded space, in context", _decoded, in_context=True),
}
