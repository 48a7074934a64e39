"""Configurations: the table of keys, every file of configs/, variants, validation, storage."""

import ast
import importlib.util
import itertools
import typing
from pathlib import Path

import pytest

from geovq_jax import config as configuration
from geovq_jax import keys
from geovq_jax.comparison import cells
from geovq_jax.geometry.graphs import knn
from geovq_jax.keys import KEYS
from geovq_jax.manifest import describe
from geovq_jax.models import objective
from geovq_jax.quantization import methods
from geovq_jax.workdir import write_json

ROOT = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(ROOT.rglob("*.py"))


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


def variants_of(path: Path) -> list[str]:
    """Every variant that a file knows, as its message lists them, and every ordered pair."""
    with pytest.raises(ValueError, match="expected variants of") as refused:
        load(path)("?")
    known = ast.literal_eval(str(refused.value).split(" from ")[1].split(", got")[0])
    return ["", *known, *(",".join(pair) for pair in itertools.permutations(known, 2))]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_config_is_valid_in_every_variant(path):
    name = "-".join(path.relative_to(ROOT).with_suffix("").parts)
    for variants in variants_of(path):
        config = load(path)(variants)
        configuration.validate(config)
        assert config.name == "-".join([name, *filter(None, variants.split(","))])
        assert config.is_locked


def test_every_default_passes_its_own_check_and_every_key_is_one_line_of_help():
    configuration.validate(configuration.default_config())
    lines = [line for line in configuration.help_text().splitlines() if line]
    assert [line.split()[0] for line in lines] == list(KEYS) == list(configuration.flat(configuration.default_config()))
    columns = set()
    for line, key in zip(lines, KEYS.values(), strict=True):
        assert (str(key.default) or "''") in line
        columns |= {line.index(key.meaning)} if len(str(key.default)) < 17 else set()
    assert len(columns) == 1


def test_choices_are_those_of_the_library():
    assert KEYS["graph.backend"].check.expected == f"one of {', '.join(typing.get_args(knn.Backend))}"
    assert KEYS["graph.metric"].check.expected == f"one of {', '.join(typing.get_args(knn.Metric))}"
    assert tuple(methods.METHODS) == keys.METHODS
    assert tuple(cells.JOINT) == keys.JOINT
    assert KEYS["vae.loss"].check.expected == f"one of {', '.join(objective.RECONSTRUCTIONS)}"
    for mode in ("abs", "clipped"):
        objective.check(objective.Objective(capacity_mode=mode))
        assert KEYS["vae.capacity_mode"].check.holds(mode)


def test_variants_apply_in_order_and_unknown_ones_are_named():
    known = {"a": {"graph.k": 3}, "b": {"graph.k": 4}}
    assert configuration.experiment("x", {}, variants="a,b", known_variants=known).graph.k == 4
    assert configuration.experiment("x", {}, variants="b,a", known_variants=known).graph.k == 3
    with pytest.raises(ValueError, match="expected variants of x from .*got 'c'"):
        configuration.experiment("x", {}, variants="c", known_variants=known)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vae.kind", "round"),
        ("vae.beta", -0.1),
        ("vae.latent_dim", 0),
        ("vae.channels", ()),
        ("graph.k", -1),
        ("codebook.num_clusters", -5),
        ("prior.dropout", 1.5),
        ("prior.num_heads", 5),
        ("sample.top_p", -0.5),
        ("sample.top_p", 0.0),
        ("sample.class_id", -3),
        ("vae.capacity", -1.0),
        ("vae.capacity_mode", "relative"),
        ("graph.backend", "annoy"),
        ("graph.output_metric", "lpips"),
        ("codebook.method", "swap"),
        ("codebook.algorithm", "pam"),
        ("codes.search", "greedy"),
        ("codes.sweeps", 0),
        ("codes.searches", 0),
        ("compare.methods", ("geodesic_context", "mahalanobis")),
        ("compare.methods", ("auto",)),
        ("seed", -1),
    ],
)
def test_values_out_of_range_are_named(key, value):
    config = configuration.default_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=f"expected {key.replace('num_heads', 'embed_dim')}.* got"):
        configuration.validate(config)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"vae.output": "identity"}, ("vae.output=identity", "vae.loss=bernoulli")),
        ({"vae.capacity": 20.0, "vae.cell_bits": 7.0}, ("vae.capacity=20.0", "vae.cell_bits=7.0")),
        ({"graph.rerank": 14}, ("graph.rerank=14", "graph.k=0", "the 15 neighbours per node")),
        ({"codes.rate_weight": 0.1}, ("codes.search=none", "codebook.finetune_decoder=True")),
        ({"codebook.method": "kmeans_decoded"}, ("codebook.method=kmeans_decoded", "vae.kind=spatial")),
        ({"compare.methods": ("kmeans", "kmeans_decoded_context")}, ("kmeans_decoded_context", "vae.kind=spatial")),
        ({"compare.methods": ("geodesic_means_features",)}, ("geodesic_means_features", "vae.kind=spatial")),
        ({"vqvae.method": "fsq"}, ("vqvae.levels=()", "codebook.num_clusters=256")),
        ({"vqvae.method": "fsq", "vqvae.levels": (16, 15)}, ("vqvae.levels=(16, 15)", "codebook.num_clusters=256")),
        ({"prior.num_heads": 5}, ("prior.embed_dim=192", "prior.num_heads=5")),
    ],
)
def test_keys_that_do_not_fit_together_are_both_named(overrides, named):
    config = configuration.default_config()
    configuration.update(config, overrides)
    with pytest.raises(ValueError, match="^expected .* got ") as refused:
        configuration.validate(config)
    assert all(part in str(refused.value) for part in named)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
    [
        {"vae.output": "identity", "vae.loss": "mse"},
        {"vae.capacity": 20.0, "vae.capacity_steps": 100, "vae.capacity_mode": "clipped"},
        {"graph.rerank": 15},
        {"graph.rerank": 45, "graph.backend": "faiss_hnsw", "graph.output_metric": "features"},
        {"codebook.method": "kmeans_decoded", "vae.kind": "vanilla"},
        {"vqvae.method": "fsq", "vqvae.levels": (16, 16)},
        {"sample.top_p": 1.0},
        {"codes.search": "context", "codes.sweeps": 1, "codes.searches": 1},
        {"compare.methods": ("scalar_context", "vqvae_context"), "compare.prior": ()},
        {"vae.joint_steps": 101, "vae.warmup_steps": 100},
    ],
)
def test_keys_that_fit_together_are_accepted(overrides):
    config = configuration.default_config()
    configuration.update(config, overrides)
    configuration.validate(config)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("vae.latnt_dim", "vae.latent_dim"), ("vea.kind", "vae.kind"), ("latent_dim", "vae.latent_dim"), ("sed", "seed")],
)
def test_an_unknown_key_is_named_with_the_nearest_one(wrong, right):
    with pytest.raises(ValueError, match=f"unknown key {wrong}; did you mean {right}?"):
        configuration.experiment("x", {wrong: 1})


def test_an_unknown_or_missing_key_of_a_configuration_is_named():
    config = configuration.default_config()
    with config.unlocked():
        config.graph.neighbors = 3
        with pytest.raises(ValueError, match="unknown key graph.neighbors; did you mean"):
            configuration.validate(config)
        del config.graph.neighbors, config.graph.k
    with pytest.raises(ValueError, match="expected the key graph.k, got none"):
        configuration.validate(config)


def test_a_stored_configuration_reads_back(tmp_path):
    config = load(CONFIGS[0])("smoke")
    write_json(tmp_path / "config.json", describe(config))
    assert configuration.read_config(tmp_path / "config.json").to_dict() == config.to_dict()


@pytest.mark.parametrize("text", ["", "{}", '{"config": {"vae": 3}}', '{"config": {"unknown": 1}}'])
def test_a_damaged_configuration_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="expected a configuration in"):
        configuration.read_config(tmp_path / "config.json")
