"""Experiment configurations: defaults, variants, validation and storage; the keys are in `keys`.

A file of `configs/` calls `experiment(...)` with what differs from the defaults below; `--config=mnist:spatial,smoke`
passes the text after the colon as `variants`. Library functions never receive a ConfigDict: the pipeline passes plain
values.
"""

import difflib
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from geovq_jax.keys import KEYS, METRIC_VARIANTS, OF_VECTORS

LENGTH = ("num_steps", "patience")  # keys of a section that end its training


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


def experiment_folder() -> Path:
    """Folder of the packaged experiments: `experiments/` of an installed package, `configs/` of the repository."""
    package = Path(__file__).parent
    installed = package / "experiments"
    return installed if installed.is_dir() else package.parent / "configs"


def experiment_files() -> dict[str, Path]:
    """File of every packaged experiment by its name, such as mnist5k or compare/mnist."""
    folder = experiment_folder()
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.py"))}


def find_experiment(name: str) -> Path:
    """The file named by --config: a path, or else a packaged experiment; FileNotFoundError if it is neither."""
    path, files = Path(name), experiment_files()
    if path.is_file() and os.access(path, os.R_OK):
        return path
    if name not in files:
        raise FileNotFoundError(
            f"expected a configuration file or one of {', '.join(files)}, found none to read at {name!r}; "
            "e.g. --config=mnist5k"
        )
    return files[name]


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
    """Conflicts between keys: what was expected, then the keys."""
    spatial = values["vae.kind"] == "spatial"
    if (values["vae.kind"] == "external") != bool(values["vae.module"]):
        yield "vae.module with vae.kind=external, and only there", "vae.module", "vae.kind"
    if values["data.name"] == "decoded" and values["vae.kind"] != "external":
        yield "vae.kind=external with data.name=decoded", "data.name", "vae.kind"
    for section in ("vae", "prior"):
        warmup, steps = (f"{section}.{name}" for name in ("warmup_steps", "num_steps"))
        if values[warmup] >= values[steps]:
            yield f"{warmup} below {steps}", warmup, steps
    if 0 < values["vae.joint_steps"] <= values["vae.warmup_steps"]:
        yield "vae.joint_steps to be 0 or above vae.warmup_steps", "vae.joint_steps", "vae.warmup_steps"
    if values["prior.embed_dim"] % values["prior.num_heads"]:
        yield "prior.embed_dim to be a multiple of prior.num_heads", "prior.embed_dim", "prior.num_heads"
    if values["vae.output"] == "identity" and values["vae.loss"] == "bernoulli":
        yield "vae.output to be sigmoid with vae.loss bernoulli", "vae.output", "vae.loss"
    if values["vae.uncertainty"] == "std" and values["vae.kind"] != "vanilla":
        yield "vae.kind=vanilla with vae.uncertainty=std", "vae.uncertainty", "vae.kind"
    if values["vae.uncertainty"] == "std" and values["graph.output_metric"] != "pixels":
        yield "graph.output_metric=pixels with vae.uncertainty=std", "vae.uncertainty", "graph.output_metric"
    if values["vae.capacity"] and values["vae.cell_bits"]:
        yield "at most one of vae.capacity and vae.cell_bits to be above 0", "vae.capacity", "vae.cell_bits"
    k = num_neighbours(values["graph.k"], values["vae.latent_dim"], spatial=spatial)
    if 0 < values["graph.rerank"] < k and values["vae.kind"] != "external":
        yield f"graph.rerank to be 0 or at least the {k} neighbours per node", "graph.rerank", "graph.k"
    if spatial and values["codebook.method"] in OF_VECTORS:
        yield (
            f"codebook.method other than {values['codebook.method']} for spatial latents",
            "codebook.method",
            "vae.kind",
        )
    of_vectors = (*OF_VECTORS, *METRIC_VARIANTS)
    if spatial and any(name.startswith(of_vectors) for name in values["compare.methods"]):
        yield f"compare.methods without {', '.join(of_vectors)} for spatial latents", "compare.methods", "vae.kind"
    if values["codebook.method"] == "geodesic_means" and values["codebook.distance"] == "graph":
        yield "codebook.distance=geodesic for geodesic_means", "codebook.method", "codebook.distance"
    if values["codebook.method"] == "geodesic_means" and values["graph.weights"] == "euclidean":
        yield "graph.weights=pullback for geodesic_means", "codebook.method", "graph.weights"
    if values["codes.rate_weight"] and (values["codes.search"] == "none" or not values["codebook.finetune_decoder"]):
        yield "search and fine-tuning with codes.rate_weight", "codes.search", "codebook.finetune_decoder"
    levels = values["vqvae.levels"]
    if values["vqvae.method"] == "fsq" and (not levels or math.prod(levels) != values["codebook.num_clusters"]):
        yield "the product of vqvae.levels to be codebook.num_clusters", "vqvae.levels", "codebook.num_clusters"


def num_neighbours(k: int, latent_dim: int, *, spatial: bool) -> int:
    """Neighbours per node of the graph: `graph.k`, or where that is 0 its default for the latents."""
    return k or (15 if spatial else min(max(15, 8 * latent_dim), 60))


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


def given_codes(config: ConfigDict) -> str | None:
    """The npz file of `data.name=codes:PATH`, where codes take the place of images; None for data sets of images."""
    prefix, _, path = config.data.name.partition(":")
    return path if prefix == "codes" and path else None


def settings(config: ConfigDict, *names: str) -> dict[str, Any]:
    """Sections, or single keys such as "graph.k", as plain JSON values, without the folder of the data."""
    resolved, values = plain(config), flat(config)
    resolved["data"].pop("dir")
    return {name: resolved[name] if name in resolved else values[name] for name in names}


def training_settings(config: ConfigDict, section: str, *names: str) -> dict[str, Any]:
    """`settings` on which the state of a training depends: those of its section but for its length, and others.

    A training whose length (`LENGTH`) has been raised continues from its last checkpoint.
    """
    found = settings(config, section, *names)
    return found | {section: {key: value for key, value in found[section].items() if key not in LENGTH}}


def read_config(path: Path) -> ConfigDict:
    """Configuration stored in a work directory's config.json; keys that it lacks have their defaults.

    Raises FileNotFoundError without the file, ValueError if it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected {path} of an earlier stage, found none; pass --config=NAME")
    config = default_config()
    try:
        stored = _flatten(json.loads(path.read_text())["config"])
        update(config, {name: _as_tuple(value) for name, value in stored.items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected a configuration in {path}, got {error}; pass --config=NAME") from error
    return config
