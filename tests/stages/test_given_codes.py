"""Codes alone, without images or an autoencoder: prior, likelihoods and samples, against a known distribution."""

import numpy as np
import pytest

from geovq_jax import config as configuration
from geovq_jax import pipeline
from geovq_jax.config import experiment
from geovq_jax.presets import SMOKE
from geovq_jax.stages.run import Run

RNG = np.random.default_rng(0)
K, CLASSES, ROWS = 8, 2, 4000


def grids() -> tuple[np.ndarray, np.ndarray]:
    """Grids [n, 1, 3]: the first code is even or odd as the class is, each other one is its neighbour plus 0 or 1."""
    labels = RNG.integers(CLASSES, size=ROWS)
    codes = [2 * RNG.integers(K // 2, size=ROWS) + labels]
    for _ in range(2):
        codes.append((codes[-1] + RNG.integers(2, size=ROWS)) % K)
    return np.stack(codes, axis=1)[:, None], labels


def config_of(path, **overrides):
    prior = {"prior.num_steps": 250, "prior.evaluate_every": 50, "prior.dropout": 0.0, "prior.learning_rate": 3e-3}
    unlimited = dict.fromkeys(("data.max_train", "data.max_valid", "data.max_test"), 0)
    given = {"data.name": f"codes:{path}", "codebook.num_clusters": K, "sample.num_samples": 200}
    config = experiment("codes", SMOKE | prior | unlimited | given | overrides)
    configuration.validate(config)
    return config


@pytest.mark.slow
def test_the_prior_reaches_the_entropy_of_the_codes_and_samples_obey_their_rule(tmp_path):
    codes, labels = grids()
    np.savez(tmp_path / "codes.npz", codes=codes, labels=labels)
    config = config_of(tmp_path / "codes.npz")
    pipeline.run_all(tmp_path / "run", config)
    run = Run(tmp_path / "run", config)
    assert {path.name for path in run.workdir.iterdir()} >= {"codes", "prior", "samples.npz"}
    assert not (run.workdir / "vae").exists()
    rows = [run.codes(split) for split in ("train", "valid", "test")]
    assert sorted(np.concatenate([part.index for part in rows])) == list(range(ROWS))
    for part in rows:
        np.testing.assert_array_equal(part.codes, codes[part.index])
        np.testing.assert_array_equal(part.label, labels[part.index])
    bits = -run.log_prob(rows[2].codes, rows[2].label).mean() / np.log(2)
    assert 4.0 <= bits < 4.15  # log2 of 4 first codes, then one bit each
    drawn, classes, log_p = run.sample_codes(400, seed=3)
    steps = np.diff(drawn[:, 0], axis=1) % K
    assert np.mean((drawn[:, 0, 0] % 2 == classes) & (steps < 2).all(axis=1)) > 0.9
    np.testing.assert_allclose(run.log_prob(drawn, classes), log_p.sum(axis=1), atol=1e-3)
    stored = run.samples
    assert stored["codes"].shape == (200, 1, 3)
    assert "images" not in stored


@pytest.mark.slow
def test_single_codes_without_labels_are_a_categorical_distribution(tmp_path):
    codes = RNG.choice(K, size=2000, p=np.arange(1, K + 1) / 36)
    np.savez(tmp_path / "codes.npz", codes=codes)
    config = config_of(tmp_path / "codes.npz")
    pipeline.entry("prior")(tmp_path / "run", config)
    run = Run(tmp_path / "run", config)
    share = np.bincount(run.codes("train").codes, minlength=K) / len(run.codes("train").codes)
    np.testing.assert_allclose(np.exp(run.log_prob(np.arange(K))), share, atol=0.03)
    pipeline.entry("samples")(tmp_path / "run", config)
    assert run.samples["codes"].shape == (200,)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"numbers": np.zeros(5, int)}, r"codes \[n\] or \[n, h, w\] .* got none"),
        ({"codes": np.zeros((5, 2), int)}, r"got \(5, 2\)"),
        ({"codes": np.full(5, K)}, rf"\[0, {K}\)"),
        ({"codes": np.zeros(5)}, "as integers"),
        ({"codes": np.zeros(5, int), "labels": np.zeros(4, int)}, r"labels \[5\]"),
        ({"codes": np.zeros(2, int)}, "at least 3 rows"),
    ],
)
def test_other_arrays_are_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "codes.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        pipeline.run_all(tmp_path / "run", config_of(tmp_path / "codes.npz"))
    assert not (tmp_path / "run" / "codes").exists()
