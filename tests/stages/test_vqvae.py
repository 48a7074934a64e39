"""Joint training: a fresh VQ-VAE, and the last part of an autoencoder's training (`vae.joint_steps`)."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from geovq_jax import pipeline, presets, staleness
from geovq_jax.config import experiment, validate
from geovq_jax.manifest import read_manifest
from geovq_jax.models import vae
from geovq_jax.quantization import baselines
from geovq_jax.stages import vqvae
from geovq_jax.stages.records import posterior
from geovq_jax.stages.run import Run
from geovq_jax.stages.vae import check_sizes
from geovq_jax.training import checkpoint

JOINT = presets.SMOKE | {"data.name": "digits", "vae.joint_steps": 40, "vae.joint_codes": 32}


def test_the_codebook_begins_with_an_image_per_code(tmp_path, monkeypatch):
    monkeypatch.setattr(vqvae, "_SEED_IMAGES", 8)
    overrides = presets.SMOKE | {"data.name": "digits", "vae.kind": "vanilla", "codebook.num_clusters": 64}
    run = Run(tmp_path, experiment("digits", overrides))
    model, fit = vqvae.fit_vqvae(run, tmp_path / "vqvae", steps=6)
    assert fit.last_step == 6
    assert vqvae.vectors(model).shape == (64, run.config.vae.latent_dim)
    assert len(np.unique(vqvae.vectors(model), axis=0)) > 8


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """A run whose autoencoder was trained further as a joint VQ-VAE, up to its latents."""
    run = Run(tmp_path_factory.mktemp("joint"), experiment("digits", JOINT))
    for stage in ("vae", "latents"):
        pipeline.run_stage(stage, run)
    return run


def relative_error(latents, num_codes):
    """Squared distance of latents from the nearest of their K means, as a share of their variance."""
    rows = latents.reshape(-1, latents.shape[-1])
    book = baselines.kmeans(rows, num_codes, seed=0)
    gaps = rows - book.vectors[baselines.encode(book, rows)]
    return np.square(gaps).sum() / np.square(rows - rows.mean(axis=0)).sum()


def test_joint_training_leaves_latents_near_the_vectors_of_a_codebook(joint):
    num_codes = joint.config.vae.joint_codes
    images, arch = joint.dataset.train.images, joint.autoencoder.arch
    form = jax.eval_shape(lambda key: vae.init(key, arch), jax.random.key(0))
    before = joint.autoencoder._replace(params=checkpoint.load(joint.workdir / "vae" / "continuous" / "best", form))
    first = relative_error(np.asarray(posterior(before, images).mean), num_codes)
    assert relative_error(joint.latents("train").mean, num_codes) < 0.7 * first


def test_the_encoder_has_no_variance_and_encodes_what_is_stored(joint):
    for split in ("train", "test"):
        latents, found = joint.latents(split), posterior(joint.autoencoder, getattr(joint.dataset, split).images)
        np.testing.assert_array_equal(found.mean, latents.mean)
        assert np.isneginf(latents.log_variance).all()
    assert joint.autoencoder.params["encoder"]["head"]["bias"].shape == (joint.config.vae.latent_dim,)


def test_a_codebook_of_another_size_leaves_the_autoencoder(joint):
    config, earlier = joint.config.copy_and_resolve_references(), read_manifest(joint.workdir)["vae"]
    config.codebook.num_clusters = 16
    assert staleness.state_of("vae", joint.workdir, config, earlier).finished
    config.vae.joint_codes = 16
    assert not staleness.state_of("vae", joint.workdir, config, earlier).finished


def test_more_codes_than_training_latents_are_refused(tmp_path):
    overrides = JOINT | {"vae.joint_codes": 10_000}
    with pytest.raises(ValueError, match=r"expected vae\.joint_codes at most the number of training latents"):
        check_sizes(Run(tmp_path, experiment("digits", overrides)))


def test_a_longer_vae_starts_anew_where_joint_training_followed(joint):
    config, earlier = joint.config.copy_and_resolve_references(), read_manifest(joint.workdir)["vae"]
    config.vae.num_steps += 20
    record = staleness.state_of("vae", joint.workdir, config, earlier).record
    assert not staleness.is_longer("vae", joint.workdir, record, earlier)


def test_without_joint_training_no_record_of_an_earlier_one_is_left(tmp_path):
    config = experiment("digits", JOINT | {"vae.joint_steps": 0, "vae.num_steps": 10})
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"stage": "joint", "step": 40}\n')
    pipeline.run_stage("vae", Run(tmp_path, config))
    assert {json.loads(line)["stage"] for line in log.read_text().splitlines()} == {"vae"}


def test_joint_training_that_was_interrupted_goes_on(joint, tmp_path, monkeypatch):
    fit = vqvae.loop.fit

    def dies(loss_fn, params, *arguments, **settings):
        evaluate, calls = settings["evaluate_fn"], []

        def counted(values):
            calls.append(1)
            if len(calls) > 1:
                raise KeyboardInterrupt
            return evaluate(values)

        return fit(loss_fn, params, *arguments, **settings | {"evaluate_fn": counted})

    run = Run(tmp_path, joint.config)
    with monkeypatch.context() as patched:
        patched.setattr(vqvae, "loop", SimpleNamespace(fit=dies))
        with pytest.raises(KeyboardInterrupt):
            pipeline.run_stage("vae", run)
    pipeline.run_stage("vae", run)
    for found, expected in zip(*(jax.tree.leaves(one.autoencoder.params) for one in (run, joint)), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_joint_training_within_the_warm_up_is_refused():
    with pytest.raises(
        ValueError, match=r"expected vae\.joint_steps to be 0 or above vae\.warmup_steps, got vae\.joint_steps=5"
    ):
        validate(experiment("digits", JOINT | {"vae.joint_steps": 5}))
