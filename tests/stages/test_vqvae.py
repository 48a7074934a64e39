"""Stage `vqvae`: a joint model with one code per image begins with as many images as it has codes."""

import numpy as np

from geovq_jax import presets
from geovq_jax.config import experiment
from geovq_jax.stages import vqvae
from geovq_jax.stages.run import Run


def test_the_codebook_begins_with_an_image_per_code(tmp_path, monkeypatch):
    monkeypatch.setattr(vqvae, "_SEED_IMAGES", 8)
    overrides = presets.SMOKE | {"data.name": "digits", "vae.kind": "vanilla", "codebook.num_clusters": 64}
    run = Run(tmp_path, experiment("digits", overrides))
    model, fit = vqvae.fit_vqvae(run, tmp_path / "vqvae", steps=6)
    assert fit.last_step == 6
    assert vqvae.vectors(model).shape == (64, run.config.vae.latent_dim)
    assert len(np.unique(vqvae.vectors(model), axis=0)) > 8
