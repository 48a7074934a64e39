"""Records of the files of a work directory, and the models restored from them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Int32, Integer, UInt
from ml_collections import ConfigDict
from scipy import sparse

from geovq_jax import data
from geovq_jax.geometry import decode_all
from geovq_jax.geometry.batching import map_chunks
from geovq_jax.geometry.metric import bind_static
from geovq_jax.models import classifier as classifiers
from geovq_jax.models import gpt, vae
from geovq_jax.models.uncertainty import Precision, standard_deviation
from geovq_jax.stages import external
from geovq_jax.training import checkpoint
from geovq_jax.workdir import load_npz

SPLITS = ("train", "valid", "test")
SEEN = "seen.npz"  # in `decoder/`: the training codes before each search, and those after the last of them
BATCH = 250  # images at once

Record = TypeVar("Record")


class Latents(NamedTuple):
    """Posterior of every image of a split, in data-set order: vectors [n, d] or grids [n, h, w, d].

    `index` is the row of each image in the source's original file, `image_shape` (height, width, channels).
    """

    mean: Float[np.ndarray, "n ..."]
    log_variance: Float[np.ndarray, "n ..."]
    label: Int[np.ndarray, " n"]
    index: Int[np.ndarray, " n"]  # type: ignore[assignment]  # hides tuple.index, which no one needs here
    image_shape: Int[np.ndarray, "3"]


class Graph(NamedTuple):
    """Graph of the training latents: edge lengths, latents and metrics of the nodes (None where edges are Euclidean).

    `rows` are the training images whose latents are the nodes, in ascending order: n = m, or m h w cells of their
    grids. `components_before_repair` counts connected components before bridges joined them; `settings` is section
    `graph` as JSON.
    """

    graph: sparse.csr_array
    points: Float[np.ndarray, "n d"]
    rows: Int[np.ndarray, " m"]
    metrics: Float[np.ndarray, "n d d"] | None
    components_before_repair: int
    settings: str


class Codes(NamedTuple):
    """Codes of every image of a split, [n] or [n, h, w], and the distance of each latent to its code.

    Distances are in the unit of the assignment; `index` is the row of each image in the source's original file.
    """

    codes: Int32[np.ndarray, "n ..."]
    distance: Float[np.ndarray, "n ..."]
    label: Int[np.ndarray, " n"]
    index: Int[np.ndarray, " n"]  # type: ignore[assignment]  # hides tuple.index, which no one needs here


class Drawn(NamedTuple):
    """Samples of a prior: codes, decoded images in [0, 1], classes, and log probability of each code in nats."""

    codes: Int[np.ndarray, "n ..."]
    images: Float[np.ndarray, "n H W C"]
    labels: Int[np.ndarray, " n"]
    log_probabilities: Float[np.ndarray, "n t"]


class Autoencoder(NamedTuple):
    """Parameters and sizes of an autoencoder; those of a user's are {"own": ...}, or {} without `params`."""

    params: Any
    arch: vae.Architecture | external.External


class Prior(NamedTuple):
    """Parameters and sizes of a prior."""

    params: Any
    arch: gpt.Architecture


class Classifier(NamedTuple):
    """Parameters and sizes of a classifier."""

    params: Any
    arch: classifiers.Architecture


def read_record(path: Path, kind: Callable[..., Record], *, stage: str) -> Record:
    """An npz file as the record of its arrays; errors name the entry point `stage` that writes it.

    Raises FileNotFoundError without the file, ValueError if it is damaged or holds other arrays.
    """
    arrays = load_npz(path, stage=stage)
    try:
        return kind(**{field: arrays[field] for field in kind._fields})  # type: ignore[attr-defined]
    except KeyError as error:
        raise ValueError(
            f"expected the array {error} in {path}, found none; rerun python -m geovq_jax.{stage}"
        ) from error


def read_graph(path: Path) -> Graph:
    """The record of a graph.npz file; raises as `read_record`."""
    arrays = load_npz(path, stage="build_codebook")
    size = len(arrays["indptr"]) - 1
    return Graph(
        graph=sparse.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(size, size)),
        points=arrays["points"],
        rows=arrays["rows"],
        metrics=arrays.get("metrics"),
        components_before_repair=int(arrays["components_before_repair"]),
        settings=str(arrays["settings"]),
    )


def vae_architecture(section: ConfigDict, image_shape: tuple[int, ...]) -> vae.Architecture:
    """Sizes of the VAE under section `vae` of a configuration, for images of a shape."""
    if section.kind == "external":
        raise ValueError("expected vae.kind vanilla or spatial to train a model, got external; leave that method out")
    return vae.Architecture(
        kind=section.kind,
        image_shape=(image_shape[0], image_shape[1], image_shape[2]),
        latent_dim=section.latent_dim,
        channels=tuple(section.channels),
        norm=section.norm,
        output=section.output,
    )


def classifier_architecture(section: ConfigDict, dataset: data.Dataset) -> classifiers.Architecture:
    """Sizes of the classifier under section `classifier` of a configuration."""
    height, width, channels = dataset.train.images.shape[1:]
    return classifiers.Architecture(
        (height, width, channels), dataset.num_classes, tuple(section.channels), section.num_features
    )


def load_autoencoder(section: ConfigDict, image_shape: tuple[int, ...], directory: Path) -> Autoencoder:
    """The autoencoder under section `vae` of a configuration, with the best parameters of a training in `directory`.

    A user's autoencoder has those of its module if there are none in the directory.
    """
    if section.kind != "external":
        arch = vae_architecture(section, image_shape)
        init = jax.eval_shape(partial(vae.init, arch=arch), jax.random.key(0))
        if section.joint_steps:
            init = jax.eval_shape(partial(vae.drop_variances, arch=arch), init)
        return Autoencoder(checkpoint.load(directory / "best", init), arch)
    own = external.load(section.module)
    params = {} if own.params is None else {"own": own.params}
    if checkpoint.exists(directory / "best"):
        params = checkpoint.load(directory / "best", jax.tree.map(jnp.asarray, params))
    return Autoencoder(params, own)


def decoder_of(autoencoder: Autoencoder) -> jax.tree_util.Partial:
    """The map z -> x of one latent, with the parameters as leaves: compiled once for all parameters."""
    return bind_static(decode, autoencoder.arch, autoencoder.params)


def decode(arch: vae.Architecture | external.External, params: Any, z: jax.Array) -> jax.Array:
    """The image of one latent under the parameters of an autoencoder."""
    if isinstance(arch, vae.Architecture):
        return vae.decode(params, arch, z)
    return jnp.asarray(arch.decode(params["own"], z) if "own" in params else arch.decode(z))


def posterior(
    autoencoder: Autoencoder, images: UInt[np.ndarray, "n H W C"] | Float[np.ndarray, "n H W C"]
) -> vae.Posterior:
    """Posterior mean and log variance of images, integers or floats in [0, 1]; a user's encoder has no variance."""
    arch = autoencoder.arch
    encode = partial(_encode_own, arch) if isinstance(arch, external.External) else partial(_encode, *autoencoder[::-1])
    return jax.device_get(map_chunks(encode, (images,), batch_size=BATCH))


def without_variance(mean: Float[np.ndarray, "n ..."]) -> vae.Posterior:
    """The posterior of a deterministic encoder."""
    return vae.Posterior(jnp.asarray(mean), jnp.full(mean.shape, -jnp.inf, mean.dtype))


def _encode_own(own: external.External, images: Any) -> vae.Posterior:
    return without_variance(external.encode(own, np.asarray(data.to_float(images))))


@partial(jax.jit, static_argnums=0)
def _encode(arch: vae.Architecture, params: Any, images: jax.Array) -> vae.Posterior:
    return jax.vmap(partial(vae.encode, params, arch))(data.to_float(images))


def features_of(classifier: Classifier) -> jax.tree_util.Partial:
    """The map of one image to the features of a classifier."""
    return bind_static(_features, classifier.arch, classifier.params)


def _features(arch: classifiers.Architecture, params: Any, image: jax.Array) -> jax.Array:
    return classifiers.features(params, arch, image)


def mean_and_deviation(decode_fn: jax.tree_util.Partial, precision: Precision) -> jax.tree_util.Partial:
    """The map of one latent [d] to its decoded image and the standard deviation of each pixel, as one vector."""
    return jax.tree_util.Partial(_mean_and_deviation, decode_fn, precision)


def _mean_and_deviation(decode_fn: Any, precision: Any, z: jax.Array) -> jax.Array:
    return jnp.concatenate([decode_fn(z).reshape(-1), standard_deviation(precision, z)])


def decode_images(decode_fn: jax.tree_util.Partial, latents: Float[np.ndarray, "n ..."]) -> np.ndarray:
    """Images [n, H, W, C] in [0, 1] of latents [n, d] or [n, h, w, d]."""
    return np.clip(decode_all(decode_fn, latents, batch_size=BATCH), 0.0, 1.0)


def prior_architecture(
    section: ConfigDict, code_shape: tuple[int, ...], *, num_codes: int, num_classes: int
) -> gpt.Architecture:
    """Sizes of the prior for codes of a shape: () of a vanilla latent, (h, w) of a spatial one."""
    two_dimensional = section.positions == "2d" and len(code_shape) == 2
    return gpt.Architecture(
        num_codes=num_codes,
        length=int(np.prod(code_shape)),
        num_classes=num_classes,
        embed_dim=section.embed_dim,
        num_layers=section.num_layers,
        num_heads=section.num_heads,
        dropout=section.dropout,
        grid=(code_shape[0], code_shape[1]) if two_dimensional else None,
        tied=section.tied,
        bfloat16=section.bfloat16,
    )


def raster(codes: Integer[np.ndarray, "n ..."]) -> Integer[np.ndarray, "n t"]:
    """Codes [n] or [n, h, w] as sequences [n, t]."""
    return codes.reshape(len(codes), -1)


_score = jax.jit(gpt.log_probabilities, static_argnames="arch")


def log_probabilities(
    params: Any,
    arch: gpt.Architecture,
    codes: Integer[np.ndarray, "n ..."],
    labels: Integer[np.ndarray, " n"] | None,
) -> Float[np.ndarray, "n t"]:
    """log p(code | codes before it) in nats, [n, t]; without labels, unconditionally."""
    if labels is None:
        labels = np.full(len(codes), arch.no_class, np.int32)
    score = partial(_score, params, arch)
    return np.asarray(map_chunks(score, (raster(codes), labels), batch_size=min(BATCH, len(codes))))


def read_log(path: Path) -> list[dict[str, Any]]:
    """Metrics of every evaluation during training, one dict per line of metrics.jsonl; ValueError if malformed."""
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not {"stage", "step"} <= record.keys():
            raise ValueError(
                f"expected a JSON object with stage and step on line {number} of {path}, got {line[:60]!r}; "
                "delete that line"
            )
        found.append(record)
    return found
