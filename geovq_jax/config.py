"""Experiment configurations: every key with its default, meaning and check; variants; validation; storage.

A file of `configs/` calls `experiment(...)` with what differs from the defaults below;
`--config=configs/mnist.py:spatial,smoke` passes what stands after the colon as `variants`. Library functions never see
a ConfigDict: the pipeline passes plain values.
"""

import difflib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from geovq_jax.checks import ANY, FRACTION, NOT_EMPTY, SEED, SHARE, SIZES, Check, above, at_least, each, one_of


class Key(NamedTuple):
    """One key of a configuration: default, meaning in one line, accepted values.

    The type of a key is that of its default; an empty default tuple holds integers.
    """

    default: Any
    meaning: str
    check: Check = ANY


AUGMENT = one_of("none", "rotate", "crop_flip")
LOSS = one_of("bernoulli", "mse", "l1", "calibrated")
BACKEND = one_of("auto", "jax", "kdtree", "faiss", "faiss_hnsw", "faiss_ivf")
OUTPUT_METRIC = one_of("pixels", "bernoulli", "features")
SEEDING = one_of("kmeans++", "greedy", "batched", "random", "farthest")

# A comparison takes each method also with the suffix _context (codes.search), and models that are trained jointly.
METHODS = (
    *("gaussian", "scalar", "kmeans", "kmedoids", "kmeans_decoded"),
    *("mean_metric", "local_metrics", "geodesic", "geodesic_means", "geodesic_refined", "geodesic_decoded"),
)
OF_VECTORS = ("kmeans_decoded", "geodesic_means")  # methods that grids of cells have no use for
JOINT = ("vqvae", "vqvae_context", "vqvae_double", "geodesic_joint", "geodesic_joint_context")
METHOD = one_of("auto", *METHODS)
COMPARED = Check(
    f"a method of codebook.method, with or without the suffix _context, or one of {', '.join(JOINT)}",
    {*METHODS, *(f"{name}_context" for name in METHODS), *JOINT}.__contains__,
)
COMPARISON = (
    *("gaussian", "scalar", "kmeans", "kmedoids", "mean_metric", "local_metrics", "geodesic", "geodesic_refined"),
    *("kmeans_context", "geodesic_refined_context", "vqvae", "vqvae_context", "geodesic_joint"),
)
WITH_PRIOR = ("kmeans", "geodesic_refined_context", "vqvae")

KEYS: dict[str, Key] = {
    "name": Key("default", "name of the experiment with its variants; the work directory is runs/NAME", NOT_EMPTY),
    "seed": Key(0, "seed of splits, initial weights, batches and clustering", SEED),
    "tracker": Key("none", "where training curves go besides metrics.jsonl", one_of("none", "tensorboard", "mlflow")),
    "data.name": Key("mnist5k", "stock data set, or folder:PATH with one sub-folder per class", NOT_EMPTY),
    "data.dir": Key("", "folder that is searched for data files first; empty for $GEOVQ_DATA"),
    "data.batch_size": Key(64, "images per training step of VAE, decoder and VQ-VAE", at_least(1)),
    "data.augment": Key("none", "augmentation of training images; rotate turns by at most 10 degrees", AUGMENT),
    "data.max_train": Key(0, "size of a stratified subset of the training images; 0 for all", at_least(0)),
    "data.max_valid": Key(0, "size of a stratified subset of the validation images; 0 for all", at_least(0)),
    "data.max_test": Key(0, "size of a stratified subset of the test images; 0 for all", at_least(0)),
    "vae.kind": Key("spatial", "latents per image: one vector, or a grid of vectors", one_of("vanilla", "spatial")),
    "vae.latent_dim": Key(16, "dimension of one latent vector", at_least(1)),
    "vae.channels": Key((64, 128, 256), "channels after each stride-2 convolution", SIZES),
    "vae.norm": Key("none", "normalisation between convolutions", one_of("none", "group", "layer")),
    "vae.output": Key("sigmoid", "output map of the decoder", one_of("sigmoid", "identity")),
    "vae.loss": Key("bernoulli", "reconstruction term; calibrated is the squared error at its optimal variance", LOSS),
    "vae.beta": Key(0.5, "weight of the rate", at_least(0)),
    "vae.beta_anneal_steps": Key(0, "steps over which the weight grows linearly from 0; 0 for none", at_least(0)),
    "vae.free_bits": Key(0.0, "nats per latent dimension that cost nothing", at_least(0)),
    "vae.cell_bits": Key(0.0, "bits per latent vector that the rate is steered to; 0 for none", at_least(0)),
    "vae.capacity": Key(0.0, "nats per image that the rate is steered to; 0 for none", at_least(0)),
    "vae.capacity_steps": Key(0, "steps over which the capacity grows linearly from 0; 0 for none", at_least(0)),
    "vae.capacity_mode": Key("abs", "penalise any gap to the capacity, or only an excess", one_of("abs", "clipped")),
    "vae.learning_rate": Key(1e-3, "peak learning rate of the cosine schedule", above(0)),
    "vae.weight_decay": Key(1e-4, "weight decay of AdamW", at_least(0)),
    "vae.warmup_steps": Key(100, "steps of linear warm-up", at_least(0)),
    "vae.num_steps": Key(20_000, "maximum number of training steps", at_least(1)),
    "vae.evaluate_every": Key(1_000, "training steps between evaluations on the validation split", at_least(1)),
    "vae.patience": Key(5, "evaluations without improvement after which training stops", at_least(1)),
    "graph.k": Key(0, "neighbours per node; 0: 15 for cells, 8 per dimension for vectors, from 15 to 60", at_least(0)),
    "graph.symmetry": Key("union", "keep edges that either end lists, or both", one_of("union", "mutual")),
    "graph.metric": Key("euclidean", "distance by which neighbours are searched", one_of("euclidean", "cosine")),
    "graph.backend": Key("auto", "neighbour search; faiss_hnsw and faiss_ivf are approximate", BACKEND),
    "graph.rerank": Key(0, "candidates per node that are re-ranked by pull-back length; 0 for none", at_least(0)),
    "graph.weights": Key("pullback", "edge lengths", one_of("pullback", "euclidean")),
    "graph.output_metric": Key("pixels", "metric of image space; features: of the run's classifier", OUTPUT_METRIC),
    "graph.context": Key("own", "Jacobian of a cell: in its own image, or alone", one_of("own", "isolated")),
    "graph.repair": Key(True, "whether connected components are joined by their shortest bridges"),
    "graph.num_images": Key(0, "images in the graph, a random subset; 0 for all", at_least(0)),
    "codebook.num_clusters": Key(256, "number of codes K", at_least(1)),
    "codebook.method": Key("auto", "codes; auto: geodesic_refined (spatial), geodesic_decoded (vanilla)", METHOD),
    "codebook.distance": Key("geodesic", "of geodesic codes of vanilla latents", one_of("geodesic", "graph")),
    "codebook.algorithm": Key("swap", "K-medoids; alternate is faster, at a higher cost", one_of("swap", "alternate")),
    "codebook.init": Key("kmeans++", "seeding of K-medoids", SEEDING),
    "codebook.rounds": Key(100, "maximum number of K-medoids rounds", at_least(1)),
    "codebook.neighbours": Key(15, "graph nodes that a held-out latent is connected to", at_least(1)),
    "codebook.finetune_decoder": Key(True, "whether the decoder is fine-tuned on code vectors"),
    "codebook.finetune_steps": Key(3_000, "training steps of the fine-tuning", at_least(1)),
    "codebook.finetune_learning_rate": Key(5e-4, "peak learning rate of the fine-tuning", above(0)),
    "codes.search": Key("none", "search for the codes that best match the whole image", one_of("none", "context")),
    "codes.rate_weight": Key(0.0, "squared error of an image that a bit of a searched code may cost", at_least(0)),
    "codes.sweeps": Key(3, "sweeps over the grid per search", at_least(1)),
    "codes.searches": Key(4, "searches of all codes, one before each equal part of the fine-tuning", at_least(1)),
    "vqvae.method": Key("ema", "quantizer of the joint model", one_of("ema", "fsq")),
    "vqvae.loss": Key("bernoulli", "reconstruction term of the joint model", LOSS),
    "vqvae.gradient": Key("straight_through", "gradient through the quantizer", one_of("straight_through", "rotation")),
    "vqvae.commitment": Key(0.25, "weight of the commitment term", above(0)),
    "vqvae.decay": Key(0.99, "decay of the moving averages", FRACTION),
    "vqvae.reseed": Key(0.1, "share of uniform usage below which a code is reset; 0 for never", FRACTION),
    "vqvae.levels": Key((), "levels per dimension, for fsq", each(at_least(2), minimum=0)),
    "prior.embed_dim": Key(192, "width of the transformer, a multiple of prior.num_heads", at_least(1)),
    "prior.num_layers": Key(6, "transformer blocks", at_least(1)),
    "prior.num_heads": Key(6, "attention heads per block", at_least(1)),
    "prior.positions": Key("2d", "position embeddings: one per place, or row plus column", one_of("1d", "2d")),
    "prior.tied": Key(True, "whether the output layer is the transposed code embedding"),
    "prior.bfloat16": Key(False, "whether matrix products run in bfloat16"),
    "prior.dropout": Key(0.1, "dropout rate", FRACTION),
    "prior.label_smoothing": Key(0.0, "probability mass of the target that is spread over all codes", FRACTION),
    "prior.label_dropout": Key(0.1, "share of images trained without their class, which guidance needs", FRACTION),
    "prior.learning_rate": Key(1e-3, "peak learning rate of the cosine schedule", above(0)),
    "prior.weight_decay": Key(0.05, "weight decay of AdamW", at_least(0)),
    "prior.warmup_steps": Key(200, "steps of linear warm-up", at_least(0)),
    "prior.batch_size": Key(64, "sequences per training step", at_least(1)),
    "prior.num_steps": Key(20_000, "maximum number of training steps", at_least(1)),
    "prior.evaluate_every": Key(500, "training steps between evaluations on the validation split", at_least(1)),
    "prior.patience": Key(6, "evaluations without improvement after which training stops", at_least(1)),
    "sample.num_samples": Key(100, "images to sample", at_least(1)),
    "sample.temperature": Key(1.0, "divisor of the logits; 0 takes the most likely code", at_least(0)),
    "sample.top_k": Key(0, "sample among the k most likely codes; 0 for all", at_least(0)),
    "sample.top_p": Key(1.0, "sample among the most likely codes of this total probability; 1 for all", SHARE),
    "sample.min_p": Key(0.0, "sample among codes with this fraction of the largest probability; 0 for all", FRACTION),
    "sample.guidance": Key(1.0, "scale of classifier-free guidance; 1 for none", at_least(0)),
    "sample.class_id": Key(-1, "class to sample; -1 for every class", at_least(-1)),
    "sample.num_completions": Key(6, "completions per image, given its upper half; 0 for none", at_least(0)),
    "sample.seed": Key(0, "seed of the samples", SEED),
    "classifier.channels": Key((32, 64), "channels of the classifier that scores samples", SIZES),
    "classifier.num_features": Key(128, "dimension of its feature vector", at_least(1)),
    "classifier.augment": Key("none", "augmentation of its training images", AUGMENT),
    "classifier.batch_size": Key(64, "images per training step", at_least(1)),
    "classifier.learning_rate": Key(2e-3, "peak learning rate", above(0)),
    "classifier.weight_decay": Key(1e-2, "weight decay of AdamW", at_least(0)),
    "classifier.num_steps": Key(4_000, "training steps", at_least(1)),
    "scores.num_items": Key(2_000, "images per scored set", at_least(1)),
    "scores.guidance": Key(2.0, "a second guidance scale at which samples are scored", at_least(0)),
    "scores.resamples": Key(40, "bootstrap resamples per interval", at_least(1)),
    "compare.seeds": Key((0, 1, 2), "seeds of a comparison", each(SEED, minimum=1)),
    "compare.methods": Key(COMPARISON, "methods of a comparison", each(COMPARED, minimum=1)),
    "compare.prior": Key(WITH_PRIOR, "methods for which a prior is trained", each(COMPARED, minimum=0)),
    "evaluate.geometry_pairs": Key(200, "targets of shortest paths in the report", at_least(1)),
    "evaluate.geodesic_pairs": Key(200, "pairs of images for which geodesics are computed; 0 for none", at_least(0)),
    "mesh.data": Key(1, "devices over which batches and chunks are sharded; 0 for all", at_least(0)),
    "mesh.shard_parameters": Key(False, "whether parameters and optimiser state are sharded during training"),
}


def default_config() -> ConfigDict:
    """Every section and key with its default, locked."""
    config = ConfigDict()
    for name, key in KEYS.items():
        section, _, entry = name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        (config[section] if section else config)[entry] = key.default
    return config.lock()


def accepted(name: str) -> str:
    """Accepted values of a key in a few words."""
    return KEYS[name].check.expected or _type_name(KEYS[name].default)


def help_text() -> str:
    """Every key with its default, meaning and accepted values: one line per key, an empty line between sections."""
    shown = {name: repr(key.default) if key.default == "" else str(key.default) for name, key in KEYS.items()}
    widths = max(map(len, KEYS)), max(len(text) for text in shown.values() if len(text) <= 20)
    lines, section = [], ""
    for name, key in KEYS.items():
        if name.rpartition(".")[0] != section:
            section = name.rpartition(".")[0]
            lines.append("")
        lines.append(f"{name:<{widths[0]}}  {shown[name]:<{widths[1]}}  {key.meaning} ({accepted(name)})")
    return "\n".join(lines)


def check_known(name: str) -> None:
    """Raise ValueError for a key that does not exist, naming the nearest."""
    if name not in KEYS:
        of_section = [key for key in KEYS if key.startswith(f"{name}.")]
        raise ValueError(f"unknown key {name}; did you mean {nearest(name, of_section or KEYS)}? see --help-config")


def nearest(name: str, names: Collection[str]) -> str:
    """The most similar of several names."""
    return difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]


def update(config: ConfigDict, overrides: Mapping[str, Any]) -> None:
    """Set several dotted keys in place; ValueError for an unknown key, TypeError for a value of another type."""
    for name in overrides:
        check_known(name)
    config.update_from_flattened_dict(dict(overrides))


def experiment(
    name: str,
    overrides: Mapping[str, Any],
    *,
    variants: str = "",
    known_variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> ConfigDict:
    """Default configuration with overrides and the variants of one call applied, locked.

    Args:
        name: name of the experiment; the variants are appended to it, so that `runs/<name>` differ.
        overrides: dotted key -> value, e.g. `{"vae.latent_dim": 8}`.
        variants: the text after the colon on the command line, e.g. "spatial,smoke"; ValueError if one is unknown.
        known_variants: variant -> its overrides, applied in the order in which the variants are given.
    """
    known = dict(known_variants or {})
    config = default_config()
    update(config, overrides)
    chosen = [v for v in variants.split(",") if v]
    for variant in chosen:
        if variant not in known:
            raise ValueError(
                f"expected variants of {name} from {sorted(known)}, got {variant!r}; write e.g. :{sorted(known)[0]}"
            )
        update(config, known[variant])
    config.name = "-".join([name, *chosen])
    return config


def validate(config: ConfigDict) -> None:
    """Check keys, types, values and conflicts; ValueError names the key, what was expected and the value."""
    values = {name: _as_tuple(value) for name, value in flat(config).items()}
    for name in sorted(values):
        check_known(name)
    for name, key in KEYS.items():
        if name not in values:
            raise ValueError(f"expected the key {name}, got none; start from geovq_jax.config.experiment(...)")
        value = values[name]
        right_type = _has_type_of(value, key.default)
        if not (right_type and key.check.holds(value)):
            expected = accepted(name) if right_type else _type_name(key.default)
            raise ValueError(f"expected {name} to be {expected}, got {value!r}; set --config.{name}=...")
    for expected, *names in _conflicts(values):
        got = ", ".join(f"{name}={values[name]}" for name in names)
        raise ValueError(f"expected {expected}, got {got}; set --config.{names[0]}=...")


def _conflicts(values: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Keys that do not fit together: what was expected, then the keys."""
    spatial = values["vae.kind"] == "spatial"
    if values["prior.embed_dim"] % values["prior.num_heads"]:
        yield "prior.embed_dim to be a multiple of prior.num_heads", "prior.embed_dim", "prior.num_heads"
    if values["vae.output"] == "identity" and values["vae.loss"] == "bernoulli":
        yield "vae.output to be sigmoid with vae.loss bernoulli", "vae.output", "vae.loss"
    if values["vae.capacity"] and values["vae.cell_bits"]:
        yield "at most one of vae.capacity and vae.cell_bits to be above 0", "vae.capacity", "vae.cell_bits"
    if 0 < values["graph.rerank"] < (k := num_neighbours(values)):
        yield f"graph.rerank to be 0 or at least the {k} neighbours per node", "graph.rerank", "graph.k"
    if spatial and values["codebook.method"] in OF_VECTORS:
        yield (
            f"codebook.method other than {values['codebook.method']} for spatial latents",
            "codebook.method",
            "vae.kind",
        )
    if spatial and any(name.startswith(OF_VECTORS) for name in values["compare.methods"]):
        yield f"compare.methods without {' and '.join(OF_VECTORS)} for spatial latents", "compare.methods", "vae.kind"
    if values["codebook.method"] == "geodesic_means" and values["codebook.distance"] == "graph":
        yield "codebook.distance=geodesic for geodesic_means", "codebook.method", "codebook.distance"
    if values["codebook.method"] == "geodesic_means" and values["graph.weights"] == "euclidean":
        yield "graph.weights=pullback for geodesic_means", "codebook.method", "graph.weights"
    if values["codes.rate_weight"] and (values["codes.search"] == "none" or not values["codebook.finetune_decoder"]):
        yield "search and fine-tuning with codes.rate_weight", "codes.search", "codebook.finetune_decoder"
    levels = values["vqvae.levels"]
    if values["vqvae.method"] == "fsq" and (not levels or math.prod(levels) != values["codebook.num_clusters"]):
        yield "the product of vqvae.levels to be codebook.num_clusters", "vqvae.levels", "codebook.num_clusters"


def num_neighbours(values: Mapping[str, Any]) -> int:
    """Neighbours per node of the graph, from `flat` keys: `graph.k`, or its default for the kind of latent."""
    of_vectors = min(max(15, 8 * values["vae.latent_dim"]), 60) if values["vae.kind"] == "vanilla" else 15
    return values["graph.k"] or of_vectors


def _has_type_of(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_has_type_of(entry, (*default, 0)[0]) for entry in value)
    if isinstance(default, bool) or isinstance(value, bool):  # a bool is an int to Python: 3 steps are not True steps
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, str):
        return isinstance(value, str)
    kinds = (int, float) if isinstance(default, float) else int
    return isinstance(value, kinds) and abs(value) < 1e15  # which NaN is not


def _type_name(default: Any) -> str:
    if isinstance(default, tuple):
        return f"a tuple, each entry {_type_name((*default, 0)[0])}"
    names = {bool: "True or False", int: "an integer of at most 15 digits", float: "a finite number", str: "text"}
    return names[type(default)]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def plain(config: ConfigDict) -> dict[str, Any]:
    """The resolved configuration as plain JSON values."""
    return json.loads(config.to_json_best_effort())


def flat(config: ConfigDict) -> dict[str, Any]:
    """The resolved configuration as dotted keys -> plain values."""
    return _flatten(plain(config))


def _flatten(resolved: Mapping[str, Any]) -> dict[str, Any]:
    sections = {key: value for key, value in resolved.items() if isinstance(value, dict)}
    single = {key: value for key, value in resolved.items() if key not in sections}
    return single | {f"{section}.{key}": value for section, part in sections.items() for key, value in part.items()}


def settings(config: ConfigDict, *names: str) -> dict[str, Any]:
    """Sections, or single keys such as "graph.k", as plain JSON values, without the folder of the data."""
    resolved, values = plain(config), flat(config)
    resolved["data"].pop("dir")
    return {name: resolved[name] if name in resolved else values[name] for name in names}


def read_config(path: Path) -> ConfigDict:
    """Configuration stored in a work directory's config.json; keys that it lacks have their defaults.

    Raises FileNotFoundError without the file, ValueError if it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected {path} of an earlier stage, found none; pass --config=configs/X.py")
    config = default_config()
    try:
        stored = _flatten(json.loads(path.read_text())["config"])
        update(config, {name: _as_tuple(value) for name, value in stored.items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected a configuration in {path}, got {error}; pass --config=configs/X.py") from error
    return config
