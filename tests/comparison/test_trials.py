"""A comparison end to end on small digits, its tables from cells by hand, and the ladder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from geovq_jax.comparison import curves, tables, trials
from geovq_jax.comparison.cells import Trial, is_finished, read_cells, restore_cells, trial_settings, trials_of
from geovq_jax.config import experiment
from geovq_jax.data import Dataset, Split
from geovq_jax.models import vae
from geovq_jax.presets import COMPARE, COMPARE_SMOKE
from geovq_jax.quantization.assignment import measure, search
from geovq_jax.stages.finetune import finetune
from geovq_jax.stages.records import Autoencoder, decoder_of
from geovq_jax.stages.run import Run

ROOT = Path(__file__).parents[2]
SMALL = (
    "--config=configs/compare/mnist.py:smoke",
    "--config.data.name=digits",
    "--config.data.max_train=200",
    "--config.vae.channels=(4,8)",
    "--config.vae.num_steps=30",
    "--config.graph.num_images=100",
    "--config.compare.seeds=(0,)",
)


METHODS = ("kmeans", "vqvae")
EVERY = ("mean_metric", "geodesic_refined", "geodesic_refined_context", "vqvae_tuned", "geodesic_joint")
AFTER_JOINT_TRAINING = ("--config.vae.num_steps=20", "--config.vae.joint_steps=10")


def compare(tmp_path, methods, output, *changes):
    prior = tuple(method for method in methods if method == "mean_metric")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "geovq_jax.compare", *SMALL, f"--workdir={tmp_path / 'work'}"),
            *(f"--config.compare.methods={methods}", f"--config.compare.prior={prior}", *changes),
            f"--output={tmp_path / output}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs")},
    )
    assert done.returncode == 0, done.stderr
    return tmp_path / output / "mnist-smoke"


@pytest.mark.slow
@pytest.mark.parametrize(("methods", "changes"), [(METHODS, ()), (METHODS + EVERY, AFTER_JOINT_TRAINING)])
def test_a_comparison_reproduces_its_tables(tmp_path, methods, changes):
    first = compare(tmp_path, methods, "first", *changes)
    result = json.loads(first.with_suffix(".json").read_text())
    assert result["bits_per_image"] == 4 * 4.0
    rows = {(row["method"], row["rung"]): row for row in result["rows"]}
    assert {method for method, _ in rows} == set(methods)
    ends = {
        (method, rung) for method, rung in rows if rung in ("decoder", "codes") or method in ("vqvae", "geodesic_joint")
    }
    assert {rows[end]["steps"] for end in ends} == {50}
    assert {method for (method, _), row in rows.items() if "frechet_samples" in row} == {"mean_metric"} & set(methods)
    with np.load(first.with_suffix(".npz"), allow_pickle=False) as scores:
        for (method, rung), row in rows.items():
            np.testing.assert_allclose(scores[f"{method}/0/psnr_{rung}"].mean(dtype=np.float64), row["psnr"], atol=0.02)
    (tmp_path / "work" / "seed0" / "cells" / f"{methods[0]}.json").unlink()
    second = compare(tmp_path, methods, "second", *changes)
    for suffix in (".md", ".json"):
        assert first.with_suffix(suffix).read_text() == second.with_suffix(suffix).read_text()
    assert (tmp_path / "work" / "report" / "index.html").stat().st_size > 0


@pytest.mark.slow
def test_a_retrained_autoencoder_is_measured_anew(tmp_path):
    """One work directory, two budgets of the VAE: the metrics on disk are those of the decoder on disk."""
    for steps in (20, 40):
        changes = {
            "data.name": "digits",
            "data.max_train": 100,
            "vae.channels": (4, 8),
            "vae.num_steps": steps,
            "vae.cell_bits": 0.0,
            "graph.num_images": 60,
            "compare.methods": ("local_metrics",),
            "compare.prior": (),
            "compare.seeds": (0,),
        }
        config = experiment("compare-again", COMPARE | COMPARE_SMOKE | changes)
        trials.compare(tmp_path / "work", config, tmp_path / "out")
    own = config.copy_and_resolve_references()
    run = Run(tmp_path / "work" / "seed0", own)
    latents = run.latents("test").mean
    expected = measure(run.decode_fn, latents).reshape(run.metrics("test").shape)
    np.testing.assert_allclose(run.metrics("test"), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_geodesic_means_in_another_metric_are_other_codes_of_the_same_autoencoder(tmp_path):
    names = ("geodesic_means", *(f"geodesic_means_{metric}" for metric in ("bernoulli", "features", "uncertainty")))
    changes = {
        "data.name": "digits",
        "data.max_train": 100,
        "vae.kind": "vanilla",
        "vae.channels": (4, 8),
        "vae.cell_bits": 0.0,
        "vae.evaluate_every": 250,
        "vae.num_steps": 500,
        "graph.num_images": 60,
        "codebook.num_clusters": 8,
        "compare.methods": names,
        "compare.prior": (),
        "compare.seeds": (0,),
    }
    config = experiment("compare-metrics", COMPARE | COMPARE_SMOKE | changes)
    trials.compare(tmp_path / "work", config, tmp_path / "out")
    found = read_cells(tmp_path / "work", config)
    frozen = [found[Trial(name), 0][0][0] for name in names]
    assert len({row["continuous_psnr"] for row in frozen}) == 1
    assert len({row["psnr"] for row in frozen}) == len(names)
    assert "At coded bits" not in (tmp_path / "out" / "metrics.md").read_text()  # no prior was trained


def cells(workdir, config, rows, **columns):
    """Cells of two methods and two seeds with hand-made scores."""
    for seed in config.compare.seeds:
        for method, rung in rows:
            folder = workdir / f"seed{seed}" / "cells"
            folder.mkdir(parents=True, exist_ok=True)
            base = 20.0 + seed + (method == "vqvae")
            psnr = np.asarray([base - 1.0, base + 1.0], np.float32)
            row = {
                "rung": rung,
                "bits": 16.0,
                "cells": 4,
                "steps": 5,
                "images_seen": 10,
                "searches": 0,
                "search_gradients": 0,
            }
            row |= {"psnr": base, "ssim": 0.5, "used": 4, "perplexity": 3.0} | columns
            if rung == "frozen":
                row["units"] = {"latent": {"rms": 1.0 + seed}}
            (folder / f"{method}.json").write_text(json.dumps({"settings": {}, "rows": [row]}))
            np.savez(folder / f"{method}.npz", **{f"psnr_{rung}": psnr, "codes": np.zeros((2, 2, 2), np.int32)})


@pytest.fixture
def config():
    return experiment("compare-hand", {"compare.methods": ("kmeans", "vqvae"), "compare.seeds": (0, 1)})


def test_tables_by_hand(tmp_path, config):
    cells(tmp_path, config, [("kmeans", "frozen"), ("vqvae", "joint")])
    with config.unlocked():
        config.compare.prior = ()
    tables.write_results(tmp_path, config, tmp_path / "out")
    result = json.loads((tmp_path / "out" / "hand.json").read_text())
    rows = {row["method"]: row for row in result["rows"]}
    assert rows["kmeans"]["psnr"] == 20.5
    assert rows["kmeans"]["psnr_seeds"] == [20.0, 21.0]
    assert rows["vqvae"]["psnr"] == 21.5
    assert rows["kmeans"]["units"] == {"latent": 1.5}
    table = (tmp_path / "out" / "hand.md").read_text()
    (line,) = [line for line in table.splitlines() if line.startswith("| K-means | frozen | 20")]
    assert [float(cell) for cell in line.strip("| ").split(" | ")[2:]] == [20.5, 0.5, 4.0, 3.0]


def test_trials_are_taken_over_from_results(tmp_path, config):
    generation = {"frechet_real": 1.0, "frechet_reconstructions": 1.5, "frechet_samples": 2.0}
    generation |= {"consistency_real": 1.0, "consistency_reconstructions": 0.9, "consistency_samples": 0.8}
    cells(tmp_path, config, [("kmeans", "frozen"), ("vqvae", "joint")], prior=4.0, **generation)
    for seed in config.compare.seeds:
        (tmp_path / f"seed{seed}" / "cells" / "autoencoder.json").write_text('[{"bits": 50.0, "psnr": 21.0}]')
    with config.unlocked():
        config.compare.prior = ("another",)
    tables.write_results(tmp_path, config, tmp_path / "out")
    restore_cells(tmp_path / "new", config, tmp_path / "out" / "hand.json")
    before, after = read_cells(tmp_path, config), read_cells(tmp_path / "new", config)
    for trial, (rows, images) in before.items():
        assert after[trial][0] == rows
        (part,) = set(images) - {"codes"}
        np.testing.assert_allclose(after[trial][1][part], images[part], rtol=1e-3)
    tables.write_results(tmp_path / "new", config, tmp_path / "again")
    assert (tmp_path / "again" / "hand.json").read_text() == (tmp_path / "out" / "hand.json").read_text()


def test_a_trial_is_finished_under_its_own_settings(tmp_path, config):
    trial = Trial("kmeans_context", 0.25)
    stored = trial_settings(trial, config)
    assert stored["codes"]["rate_weight"] == 0.25
    assert not is_finished(trial, tmp_path, config)
    stored["codes"].pop("sweeps")  # a key that came later: it had its default
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / f"{trial.name}.json").write_text(json.dumps({"settings": stored, "rows": []}))
    assert is_finished(trial, tmp_path, config)
    with config.unlocked():
        config.codes.sweeps = 7
    assert not is_finished(trial, tmp_path, config)


def test_the_effort_of_the_search_matters_to_searched_codes_alone(tmp_path, config):
    trials = [Trial("kmeans"), Trial("kmeans_context", 0.25)]
    (tmp_path / "cells").mkdir()
    for trial in trials:
        stored = {"codes": config.codes.to_dict()} | trial_settings(trial, config)
        (tmp_path / "cells" / f"{trial.name}.json").write_text(json.dumps({"settings": stored, "rows": []}))
    with config.unlocked():
        config.codes.searches += 1
    assert [is_finished(trial, tmp_path, config) for trial in trials] == [True, False]


def test_methods_with_search_take_every_weight(config):
    with config.unlocked():
        config.compare.methods, config.compare.rate_weights = ("kmeans", "kmeans_context", "vqvae_context"), (0.0, 0.25)
    found = trials_of(config)
    names = ["kmeans", "kmeans_context", "kmeans_context@0.25", "vqvae_context", "vqvae_context@0.25"]
    assert [trial.name for trial in found] == names
    assert found[2].title == "K-means, in context, λ = 0.25"


@pytest.mark.parametrize(
    ("plain", "gain", "chosen"),
    [(1.25, 1.0 + np.log2(50 / 40), 0.2), (2.5, 2.0, 0.1)],  # at 50 bits, above 20 dB; at 80 bits, the curve's end
)
def test_curves_by_hand(plain, gain, chosen):
    """Curves whose rates differ by a known factor at every image, and a plain point below one of them."""
    rng, weights = np.random.default_rng(0), (0.1, 0.2)
    qualities, rates = {0.1: 22.0, 0.2: 21.0}, {0.1: 80.0, 0.2: 40.0}
    cells, rows = {}, []
    factors = {"kmeans_context": 1.1, "vqvae_context": 1.0, "mean_metric_context": 0.9, "vqvae": plain}
    trials = [Trial(method, weight) for method in factors if method != "vqvae" for weight in weights]
    for trial in (*trials, Trial("vqvae")):
        weight = trial.rate_weight or 0.2
        bits, psnr = factors[trial.method] * rates[weight], qualities[weight] - (trial.method == "vqvae")
        row = {"method": trial.method, "rate_weight": trial.rate_weight, "title": trial.title, "rung": "decoder"}
        row |= {"steps": 5, "cells": 4, "psnr": psnr}
        rows.append(row | {"prior": bits / 4, "valid_prior": bits / 4, "valid_psnr": psnr})
        for seed in (0, 1):
            noise = rng.normal(0.0, 0.01, (2, 400))
            images = {"bits": bits * (1 + noise[0]), "psnr_decoder": psnr + noise[1]}
            cells[trial, seed] = [row], images
    first, second, third = curves.compare_at_coded_bits(cells, rows, (0, 1))
    assert [entry["method"] for entry in (first, second, third)] == list(factors)[:3]
    assert first["bd_rate"]["value"] == pytest.approx(0.1, abs=2e-3)
    assert 0.098 < first["bd_rate"]["low"] < first["bd_rate"]["value"] < first["bd_rate"]["high"] < 0.102
    assert "bd_rate" not in second
    assert third["bd_rate"]["value"] == pytest.approx(-0.1, abs=2e-3)
    assert second["gain"]["value"] == pytest.approx(gain, abs=5e-3)
    assert (first["chosen"], second["chosen"]) == (chosen, chosen)
    points, distances = curves.coded_tables(rows, [first, second, third])
    assert len(points.rows) == 7
    assert [row[0] for row in distances.rows] == [entry["title"] for entry in (first, second, third)]
    assert {len(row) for row in distances.rows} == {len(distances.columns)} == {6}


def test_a_joint_model_alone_has_no_units(tmp_path, config):
    cells(tmp_path, config, [("vqvae", "joint")])
    with config.unlocked():
        config.compare.methods, config.compare.prior = ("vqvae",), ()
    tables.write_results(tmp_path, config, tmp_path / "out")
    table = (tmp_path / "out" / "hand.md").read_text()
    assert "joint VQ-VAE" in table
    assert "in every unit" not in table


def test_single_codes_are_searched_by_decoding_every_vector():
    rng = np.random.default_rng(0)
    arch = vae.Architecture(kind="vanilla", image_shape=(8, 8, 1), latent_dim=2, channels=(4,), norm="none")
    params = jax.jit(vae.init, static_argnums=1)(jax.random.key(0), arch)
    decode_fn = decoder_of(Autoencoder(params, arch))
    vectors = 5.0 * rng.normal(size=(6, 2)).astype(np.float32)
    known = np.asarray(jax.vmap(decode_fn)(vectors))
    images = known[rng.integers(0, 6, 30)] + 0.01 * rng.normal(size=(30, 8, 8, 1)).astype(np.float32)
    found = search(decode_fn, vectors, np.zeros(30, np.int32), images)
    errors = np.sum((images[:, None] - known[None]) ** 2, axis=(2, 3, 4))
    np.testing.assert_array_equal(found, np.argmin(errors, axis=1))
    assert len(np.unique(found)) > 1


def test_unequal_bits_share_no_table(tmp_path, config):
    cells(tmp_path, config, [("kmeans", "frozen"), ("vqvae", "joint")])
    path = tmp_path / "seed0" / "cells" / "vqvae.json"
    path.write_text(path.read_text().replace('"bits": 16.0', '"bits": 18.0'))
    with pytest.raises(ValueError, match="equal bits per image"):
        tables.write_results(tmp_path, config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fine_tuning_lowers_the_error_and_moves_what_it_names():
    rng = np.random.default_rng(0)
    arch = vae.Architecture(kind="spatial", image_shape=(8, 8, 1), latent_dim=2, channels=(4,), norm="none")
    params = jax.jit(vae.init, static_argnums=1)(jax.random.key(0), arch)
    codes = rng.integers(0, 3, (40, 4, 4)).astype(np.int32)
    images = np.kron(codes, np.ones((1, 2, 2), np.int64))[..., None].astype(np.uint8) * 100
    split = Split(images, np.zeros(40, np.int32), np.arange(40))
    vectors = rng.normal(size=(3, 2)).astype(np.float32)
    for trained in ("decoder", "codes"):
        tuned = finetune(
            None,
            Dataset("hand", 1, split, split, split, "hand"),
            {"train": codes, "valid": codes},
            params,
            arch,
            vectors,
            trained=trained,
            num_steps=40,
            learning_rate=1e-2,
            batch_size=20,
            seed=0,
        )
        assert tuned.error < 0.7 * tuned.frozen
        assert np.array_equal(tuned.vectors, vectors) == (trained == "decoder")
        same = jax.tree.map(np.array_equal, tuned.params["encoder"], params["encoder"])
        assert all(jax.tree.leaves(same))
