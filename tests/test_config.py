"""Configurations: every file of configs/, variants, validation, storage."""

import importlib.util
from pathlib import Path

import pytest

from geovq_jax import config as configuration
from geovq_jax.manifest import describe
from geovq_jax.workdir import write_json

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("variants", ["", "spatial", "vanilla", "smoke", "vanilla,smoke"])
def test_every_config_is_valid_in_every_variant(path, variants):
    if path.stem == "toy_2d" and variants not in ("", "smoke"):
        with pytest.raises(ValueError, match="expected variants of toy_2d"):
            load(path)(variants)
        return
    config = load(path)(variants)
    configuration.validate(config)
    assert config.name == "-".join([path.stem, *filter(None, variants.split(","))])
    assert config.is_locked


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
        ("graph.k", 0),
        ("codebook.num_clusters", -5),
        ("prior.dropout", 1.5),
        ("prior.num_heads", 5),
        ("sample.top_p", -0.5),
        ("seed", -1),
    ],
)
def test_values_out_of_range_are_named(key, value):
    config = configuration.default_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=f"expected {key.replace('num_heads', 'embed_dim')}.* got"):
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
