"""Experiment configurations: the default sections, variants, validation, storage.

A file of `configs/` calls `experiment(...)` with what differs from the defaults below;
`--config=configs/mnist.py:spatial,smoke` passes what stands after the colon as `variants`. Library functions never see
a ConfigDict: the pipeline hands them plain values.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

_CHOICES = {
    "tracker": ("none", "tensorboard", "mlflow"),
    "data.augment": ("none", "rotate", "crop_flip"),
    "classifier.augment": ("none", "rotate", "crop_flip"),
    "vae.kind": ("vanilla", "spatial"),
    "vae.norm": ("none", "group", "layer"),
    "vae.loss": ("bernoulli", "mse", "l1", "calibrated"),
    "vae.output": ("sigmoid", "identity"),
    "graph.symmetry": ("union", "mutual"),
    "graph.metric": ("euclidean", "cosine"),
    "graph.weights": ("pullback", "euclidean"),
    "graph.context": ("own", "isolated"),
    "codebook.algorithm": ("alternate", "swap"),
    "prior.positions": ("1d", "2d"),
    "vqvae.method": ("ema", "fsq"),
    "vqvae.gradient": ("straight_through", "rotation"),
    "vqvae.loss": ("bernoulli", "mse", "l1", "calibrated"),
    "codebook.init": ("kmeans++", "greedy", "batched", "random", "farthest"),
}
_POSITIVE = [
    "data.batch_size",
    "vae.latent_dim",
    "vae.learning_rate",
    "vae.num_steps",
    "vae.evaluate_every",
    "vae.patience",
    "graph.k",
    "codebook.num_clusters",
    "codebook.rounds",
    "codebook.neighbours",
    "codebook.finetune_steps",
    "codebook.finetune_learning_rate",
    "vqvae.commitment",
    "prior.embed_dim",
    "prior.num_layers",
    "prior.num_heads",
    "prior.learning_rate",
    "prior.num_steps",
    "prior.batch_size",
    "prior.evaluate_every",
    "prior.patience",
    "sample.num_samples",
    "classifier.num_features",
    "classifier.batch_size",
    "classifier.num_steps",
    "classifier.learning_rate",
    "scores.num_items",
    "scores.resamples",
    "evaluate.geometry_pairs",
]
_FRACTIONS = [
    "vqvae.decay",
    "vqvae.reseed",
    "prior.dropout",
    "prior.label_smoothing",
    "prior.label_dropout",
    "sample.top_p",
    "sample.min_p",
]
_NOT_NEGATIVE = [
    "vae.beta",
    "vae.beta_anneal_steps",
    "vae.free_bits",
    "vae.cell_bits",
    "vae.weight_decay",
    "vae.warmup_steps",
    "prior.weight_decay",
    "prior.warmup_steps",
    "graph.num_images",
    "evaluate.geodesic_pairs",
    "sample.temperature",
    "sample.top_k",
    "sample.guidance",
    "sample.seed",
    "sample.num_completions",
    "classifier.weight_decay",
    "scores.guidance",
    "mesh.data",
    "data.max_train",
    "data.max_valid",
    "data.max_test",
    "seed",
]


def default_config() -> ConfigDict:
    """Every section and key with its default, locked; 0 in a `max_*` or `num_images` key means all."""
    config = ConfigDict()
    config.name = "default"
    config.seed = 0
    config.tracker = "none"
    config.data = ConfigDict(
        dict(name="mnist5k", dir="", batch_size=64, augment="none", max_train=0, max_valid=0, max_test=0)
    )
    config.vae = ConfigDict(
        dict(
            kind="spatial",
            latent_dim=16,
            channels=(64, 128, 256),
            norm="none",
            output="sigmoid",
            loss="bernoulli",
            beta=0.5,
            beta_anneal_steps=0,
            free_bits=0.0,
            cell_bits=0.0,
            capacity=0.0,
            capacity_steps=0,
            capacity_mode="abs",
            learning_rate=1e-3,
            weight_decay=1e-4,
            warmup_steps=100,
            num_steps=20_000,
            evaluate_every=1_000,
            patience=5,
        )
    )
    config.graph = ConfigDict(
        dict(
            k=15,
            symmetry="union",
            metric="euclidean",
            weights="pullback",
            context="own",
            repair=True,
            num_images=0,
            backend="auto",
            output_metric="pixels",
            rerank=0,
        )
    )
    config.codebook = ConfigDict(
        dict(
            num_clusters=256,
            init="kmeans++",
            method="auto",
            algorithm="swap",
            rounds=100,
            neighbours=15,
            finetune_decoder=True,
            finetune_steps=3_000,
            finetune_learning_rate=5e-4,
        )
    )
    config.codes = ConfigDict(dict(search="none", sweeps=3, searches=4))
    config.vqvae = ConfigDict(
        dict(
            method="ema",
            loss="bernoulli",
            gradient="straight_through",
            commitment=0.25,
            decay=0.99,
            reseed=0.1,
            levels=(),
        )
    )
    config.prior = ConfigDict(
        dict(
            embed_dim=192,
            num_layers=6,
            num_heads=6,
            positions="2d",
            tied=True,
            bfloat16=False,
            dropout=0.1,
            label_smoothing=0.0,
            label_dropout=0.1,
            learning_rate=1e-3,
            weight_decay=0.05,
            warmup_steps=200,
            batch_size=64,
            num_steps=20_000,
            evaluate_every=500,
            patience=6,
        )
    )
    config.sample = ConfigDict(
        dict(
            num_samples=100,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_p=0.0,
            guidance=1.0,
            class_id=-1,
            num_completions=6,
            seed=0,
        )
    )
    config.classifier = ConfigDict(
        dict(
            channels=(32, 64),
            num_features=128,
            augment="none",
            batch_size=64,
            learning_rate=2e-3,
            weight_decay=1e-2,
            num_steps=4_000,
        )
    )
    config.scores = ConfigDict(dict(num_items=2_000, guidance=2.0, resamples=40))
    config.compare = ConfigDict(
        dict(
            seeds=(0, 1, 2),
            methods=(
                "gaussian",
                "scalar",
                "kmeans",
                "kmedoids",
                "mean_metric",
                "local_metrics",
                "geodesic",
                "geodesic_refined",
                "kmeans_context",
                "geodesic_refined_context",
                "vqvae",
                "vqvae_context",
                "geodesic_joint",
            ),
            prior=("kmeans", "geodesic_refined_context", "vqvae"),
        )
    )
    config.evaluate = ConfigDict(dict(geometry_pairs=200, geodesic_pairs=200))
    config.mesh = ConfigDict(dict(data=1, shard_parameters=False))
    return config.lock()


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
        variants: what stood after the colon on the command line, joined by commas, e.g. "spatial,smoke".
        known_variants: variant -> its overrides; each call applies them in the order given.

    Raises:
        ValueError: a variant that the experiment does not know.
    """
    known = dict(known_variants or {})
    config = default_config()
    config.update_from_flattened_dict(dict(overrides))
    chosen = [v for v in variants.split(",") if v]
    for variant in chosen:
        if variant not in known:
            raise ValueError(
                f"expected variants of {name} from {sorted(known)}, got {variant!r}; write e.g. :{sorted(known)[0]}"
            )
        config.update_from_flattened_dict(dict(known[variant]))
    config.name = "-".join([name, *chosen])
    return config


def validate(config: ConfigDict) -> None:
    """Check ranges and choices, and what must fit together.

    Raises:
        ValueError: the key, what was expected and what came.
    """

    def value(key: str) -> Any:
        node: Any = config
        for part in key.split("."):
            node = node[part]
        return node

    def expect(holds: bool, key: str, expected: str) -> None:
        if not holds:
            raise ValueError(f"expected {key} {expected}, got {value(key)!r}; set --config.{key}=...")

    defaults = flat(default_config())
    for key in sorted(defaults.keys() ^ flat(config).keys()):
        raise ValueError(f"expected the keys of the default configuration, got {key} missing or unknown; compare them")
    for key, default in defaults.items():
        entries, kind = (value(key), type(default)) if isinstance(default, list) else ((value(key),), type(default))
        if kind is list:
            kind = type((default or [0])[0])
            expect(isinstance(entries, tuple | list), key, "to be a tuple")
        kinds = (int, float) if kind is float else kind
        # A bool is an int to Python: 3 steps are not True steps.
        fits = [isinstance(entry, kinds) and (kind is bool or not isinstance(entry, bool)) for entry in entries]
        expect(all(fits), key, f"of type {kind.__name__}")
        expect(all(abs(entry) < 1e15 for entry in entries if kind in (int, float)), key, "to be finite and below 1e15")
    for key, choices in _CHOICES.items():
        expect(value(key) in choices, key, f"to be one of {', '.join(choices)}")
    for key in _POSITIVE:
        expect(value(key) > 0, key, "> 0")
    for key in _NOT_NEGATIVE:
        expect(value(key) >= 0, key, ">= 0")
    for key in _FRACTIONS:
        expect(0.0 <= value(key) <= 1.0, key, "between 0 and 1")
    for key in ("vae.channels", "classifier.channels"):
        expect(len(value(key)) > 0 and min(value(key)) > 0, key, "to be positive sizes")
    for key in ("seed", "sample.seed"):
        expect(value(key) < 2**32, key, "below 2^32")
    for key in ("name", "data.name"):
        expect(bool(value(key).strip()), key, "not to be empty")
    expect(value("sample.class_id") >= -1, "sample.class_id", "to be a class, or -1 for all")
    expect(min(value("vqvae.levels"), default=2) >= 2, "vqvae.levels", "to be at least 2 levels each")
    expect(value("vqvae.method") != "fsq" or len(value("vqvae.levels")) > 0, "vqvae.levels", "to be given with fsq")
    seeds = value("compare.seeds")
    expect(
        len(seeds) > 0 and all(0 <= seed < 2**32 for seed in seeds), "compare.seeds", "to be seeds from 0 to 2^32 - 1"
    )
    expect(len(value("compare.methods")) > 0, "compare.methods", "to be at least one")
    if config.prior.embed_dim % config.prior.num_heads:
        raise ValueError(
            f"expected prior.embed_dim to be a multiple of prior.num_heads, got {config.prior.embed_dim} and "
            f"{config.prior.num_heads}; set --config.prior.embed_dim=..."
        )


def plain(config: ConfigDict) -> dict[str, Any]:
    """The resolved configuration as plain JSON values."""
    return json.loads(config.to_json_best_effort())


def flat(config: ConfigDict) -> dict[str, Any]:
    """The resolved configuration as dotted keys -> plain values."""
    resolved = plain(config)
    sections = {key: value for key, value in resolved.items() if isinstance(value, dict)}
    single = {key: value for key, value in resolved.items() if key not in sections}
    return single | {f"{section}.{key}": value for section, part in sections.items() for key, value in part.items()}


def settings(config: ConfigDict, *names: str) -> dict[str, Any]:
    """Sections, or single keys, as plain JSON values: what a result depends on; where the data lie on disk is left out.

    Args:
        config: the configuration.
        names: sections ("vae"), or keys ("graph.context").

    Returns:
        Section -> its keys and values, or key -> value.
    """
    resolved, values = plain(config), flat(config)
    resolved["data"].pop("dir")
    return {name: resolved[name] if name in resolved else values[name] for name in names}


def read_config(path: Path) -> ConfigDict:
    """Configuration stored in a work directory's config.json.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is not such a configuration.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected {path} of an earlier stage, found none; pass --config=configs/X.py")
    try:
        stored = json.loads(path.read_text())["config"]
        config = default_config()
        for section, entries in stored.items():
            for key, entry in entries.items() if isinstance(entries, dict) else ():
                if isinstance(entry, list):
                    stored[section][key] = tuple(entry)
        config.update(stored)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected a configuration in {path}, got {error}; pass --config=configs/X.py") from error
    return config
