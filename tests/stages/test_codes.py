"""Searched codes that pay for their bits: whose tables they pay by, and what the weight buys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax.config import default_config
from geovq_jax.quantization.code_tables import code_lengths, fit_tables
from geovq_jax.stages import codes as stage
from geovq_jax.stages.records import Autoencoder
from geovq_jax.stages.run import Run

RNG = np.random.default_rng(0)
K, SIZES = 6, {"train": 120, "test": 40}
VECTORS = RNG.normal(size=(K, 2)).astype(np.float32)
MIX = RNG.normal(size=(8, 12)).astype(np.float32)
COMMON = RNG.integers(K, size=(3, 2, 2))


def decode(params, grid):
    return jnp.tanh(0.3 * grid.reshape(-1) @ params["mix"])


def grids(split):
    """Mostly one of three grids, else any, with noise on the latents."""
    n = SIZES[split]
    chosen = np.where(RNG.random((n, 2, 2)) < 0.8, COMMON[RNG.integers(3, size=n)], RNG.integers(K, size=(n, 2, 2)))
    return VECTORS[chosen] + 0.5 * RNG.normal(size=(n, 2, 2, 2)).astype(np.float32)


@pytest.fixture
def run(tmp_path, monkeypatch):
    config = default_config()
    with config.unlocked():
        config.codebook.num_clusters, config.codes.search = K, "context"
    latents = {split: grids(split) for split in SIZES}
    images = {split: np.asarray(jax.vmap(lambda z: decode({"mix": MIX}, z))(z)) for split, z in latents.items()}
    monkeypatch.setattr(stage, "decoder_of", lambda model: jax.tree_util.Partial(decode, model.params))
    monkeypatch.setattr(stage, "SEARCH_SHARD", 50)
    monkeypatch.setattr(Run, "images", lambda self, split: images[split])
    monkeypatch.setattr(Run, "latents", lambda self, split: latents[split])
    return Run(tmp_path, config)


def search(run, weight, **given):
    with run.config.unlocked():
        run.config.codes.rate_weight = weight
    nearest = lambda z: np.linalg.norm(z[..., None, :] - VECTORS, axis=-1).argmin(axis=-1).astype(np.int32)  # noqa: E731
    start = {split: nearest(run.latents(split)) for split in SIZES}
    start = {split: codes for split, codes in start.items() if split not in given.pop("without", ())}
    return stage.searched(run, Autoencoder({"mix": MIX}, "small"), VECTORS, start, f"w{weight}", **given)


def test_bits_fall_with_the_weight_and_shards_change_nothing(run, monkeypatch):
    found = {weight: search(run, weight) for weight in (0.0, 0.3, 3.0)}
    for split in SIZES:
        bits = [
            code_lengths(fit_tables(found[weight]["train"], K), found[weight][split]).mean()
            for weight in (0.0, 0.3, 3.0)
        ]
        assert bits[0] > bits[1] > bits[2]
    monkeypatch.setattr(stage, "SEARCH_SHARD", 1000)
    run.workdir = run.workdir / "whole"
    for split, codes in search(run, 0.3).items():
        np.testing.assert_array_equal(codes, found[0.3][split])


def test_training_images_pay_by_the_codes_of_others():
    seen = RNG.integers(K, size=(40, 2, 2))
    changed = seen.copy()
    changed[1::4] = 0
    before, after = (stage._tables(codes, K, 4) for codes in (seen, changed))
    for fold in range(4):
        held_out_only = np.array_equal(before[fold].place, after[fold].place)
        assert held_out_only == (fold == 1)
    assert len(stage._tables(seen, K, 1)) == 1


@pytest.mark.parametrize(("search", "searches", "folders"), [("none", 3, 1), ("context", 1, 2), ("context", 3, 4)])
def test_codes_are_searched_under_the_decoder_of_every_part(run, monkeypatch, search, searches, folders):
    monkeypatch.setattr(Run, "_load_autoencoder", lambda self, folder: Autoencoder({"from": folder}, "small"))
    with run.config.unlocked():
        run.config.codes.search, run.config.codes.searches = search, searches
    found = [model.params["from"] for model in run.searched_decoders]
    assert found == ["vae", *(f"decoder/part{part}" for part in range(searches - 1)), "decoder"][-folders:]
    assert run.seen_codes == [None] * folders  # without a rate weight


def test_other_splits_pay_by_the_training_codes_given(run):
    seen = np.zeros((80, 2, 2), np.int64)
    cheap = search(run, 50.0, seen=seen, without=("train",))["test"]
    assert (cheap == 0).mean() > 0.9
