"""An autoencoder of one's own in the pipeline: the example in flax, modules that offer less, and such as do not fit."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax import config as configuration
from geovq_jax import data, pipeline
from geovq_jax.stages import external
from geovq_jax.stages.run import Run

ROOT = Path(__file__).parents[2]
STAGES = ("vae", "latents", "metrics", "graph", "codebook", "decoder", "codes")
DECODER = """
import jax.numpy as jnp, numpy as np
MIX = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
def decode(z):
    return jnp.reshape(0.5 + 0.5 * jnp.tanh(z @ MIX), (8, 8, 1))
"""


def run_of(workdir: Path, overrides: dict, stages=STAGES) -> Run:
    """A run of the example's configuration in small, after some stages."""
    spec = importlib.util.spec_from_file_location("example", ROOT / "examples" / "flax_autoencoder" / "config.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    config = example.get_config("smoke")
    with config.unlocked():
        configuration.update(config, overrides)
    configuration.validate(config)
    run = Run(workdir, config)
    for name in stages:
        pipeline.run_stage(name, run)
    return run


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    """A copy of the example with a network trained for some steps."""
    folder = tmp_path_factory.mktemp("flax") / "example"
    shutil.copytree(ROOT / "examples" / "flax_autoencoder", folder, ignore=shutil.ignore_patterns("weights.*"))
    done = subprocess.run([sys.executable, folder / "flax_network.py", "200"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def finished(example, tmp_path_factory) -> Run:
    overrides = {"vae.module": str(example / "autoencoder.py"), "codebook.method": "local_metrics"}
    return run_of(tmp_path_factory.mktemp("run"), overrides)


def test_latents_metrics_and_codes_are_those_of_the_module(finished):
    own = external.load(finished.config.vae.module)
    images = np.asarray(data.to_float(finished.dataset.test.images))
    np.testing.assert_allclose(finished.latents("test").mean, own.encode(images), atol=1e-5)
    grid = jnp.asarray(finished.latents("test").mean[7])
    jacobian = jax.jacrev(lambda z: own.decode(own.params, z))(grid).reshape(64, 2, 2, 4)
    expected = jnp.einsum("xhwi,xhwj->hwij", jacobian, jacobian)
    np.testing.assert_allclose(finished.metrics("test")[7], expected, rtol=1e-3, atol=1e-5)
    gaps = finished.latents("test").mean[..., None, :] - finished.codebook.vectors
    squares = np.einsum("nhwki,nhwij,nhwkj->nhwk", gaps, finished.metrics("test"), gaps)
    chosen = np.take_along_axis(squares, finished.codes("test").codes[..., None], -1)[..., 0]
    np.testing.assert_allclose(chosen, squares.min(-1), rtol=1e-3, atol=1e-6)


def test_the_decoder_is_fine_tuned_from_the_parameters_of_the_module(finished):
    own = external.load(finished.config.vae.module)
    frozen, tuned = own.params, finished.tuned.params["own"]
    assert jax.tree.structure(frozen) == jax.tree.structure(tuned)
    truth = np.asarray(data.to_float(finished.dataset.train.images))
    vectors = finished.codebook.vectors[finished.codes("train").codes]
    decoded = [jax.vmap(lambda z, p=params: own.decode(p, z))(vectors) for params in (frozen, tuned)]
    before, after = (float(np.mean(np.square(images - truth))) for images in decoded)
    assert after < before
    np.testing.assert_allclose(finished.decode(finished.codes("train").codes), decoded[1], atol=1e-5)


def test_encode_and_tokenize_equal_the_codes_of_the_run_bit_for_bit(finished):
    codes = finished.codes("test").codes
    np.testing.assert_array_equal(finished.encode(finished.dataset.test.images), codes)
    np.testing.assert_array_equal(finished.tokenize(finished.latents("test").mean), codes)


@pytest.mark.parametrize("method", ["kmeans", "mean_metric", "geodesic", "geodesic_decoded"])
def test_a_decoder_alone_with_latents_is_enough(method, tmp_path):
    latents = np.random.default_rng(1).normal(size=(1797, 3)).astype(np.float32)
    np.save(tmp_path / "latents.npy", latents)
    file = tmp_path / "own.py"
    file.write_text(DECODER + "from pathlib import Path\nlatents = np.load(Path(__file__).with_name('latents.npy'))\n")
    overrides = {"vae.module": str(file), "codebook.method": method, "codebook.num_clusters": 12, "graph.k": 6}
    run = run_of(tmp_path / "run", overrides)
    np.testing.assert_array_equal(run.latents("test").mean, latents[run.dataset.test.index])
    codes = run.codes("test").codes
    assert codes.shape == (100,)
    np.testing.assert_array_equal(run.tokenize(run.latents("test").mean), codes)
    images = jax.vmap(external.load(str(file)).decode)(run.codebook.vectors[codes])
    np.testing.assert_allclose(run.decode(codes), images, atol=1e-6)
    assert not (tmp_path / "run" / "decoder").exists()
    with pytest.raises(ValueError, match="expected encode"):
        run.encode(run.dataset.test.images[:2])


@pytest.mark.parametrize("labels", ["", "\nlabels = np.arange(90) % 4"])
def test_latents_and_a_decoder_without_images_are_enough(labels, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(DECODER + "latents = np.random.default_rng(2).normal(size=(90, 3)).astype(np.float32)" + labels)
    overrides = {"vae.module": str(file), "data.name": "decoded", "codebook.num_clusters": 12, "graph.num_images": 0}
    run = run_of(tmp_path / "run", overrides | {"codebook.method": "kmeans"})
    own, test = external.load(str(file)), run.dataset.test
    np.testing.assert_array_equal(run.latents("test").mean, own.latents[test.index])
    images = jax.vmap(own.decode)(own.latents[test.index])
    np.testing.assert_allclose(data.to_float(test.images), images, atol=1e-5)
    np.testing.assert_array_equal(test.labels, test.index % 4 if labels else 0)
    nearest = np.linalg.norm(run.latents("test").mean[:, None] - run.codebook.vectors, axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(run.codes("test").codes, nearest)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encode = len", "expected a function decode"),
        ("decode = 3\nencode = len", "expected a function decode .* got int"),
        (DECODER, "either encode.* got neither"),
        (DECODER + "encode = len\nlatents = np.zeros((5, 3))", "either encode.* got both"),
        (DECODER + "latents = np.zeros((5, 3))", "at least 1[0-9]{3}, got 5"),
        (DECODER + "latents = np.zeros((1797, 3, 2))", r"shape \[n, d\] or \[n, h, w, d\], got \(1797, 3, 2\)"),
        (DECODER + "latents = np.full((1797, 3), np.nan)", "finite latents"),
        (DECODER + "latents = np.zeros((1797, 4))", "a decoder of one latent"),
        (DECODER + "def encode(x): return np.zeros((1, 3))", "expected 8 latents from encode .* got 1"),
        (DECODER + "def encode(x): return x @ x", "expected encode .* to take images .* ValueError"),
        ("def decode(z): return z[..., 0]\ndef encode(x): return x", r"images \[8, 8, 1\], got \[8, 8\]"),
        ("import absent_package", "to load, got ModuleNotFoundError"),
        ("1 +", "to load, got SyntaxError"),
    ],
)
def test_a_module_that_does_not_fit_is_refused_in_one_line(text, message, tmp_path):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ValueError, match=message) as refusal:
        run_of(tmp_path / "run", {"vae.module": str(tmp_path / "own.py")}, stages=("vae", "latents"))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run" / "vae").exists()


def test_a_decoder_with_other_weights_is_refused(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(DECODER + "def encode(x): return x.reshape(len(x), -1)[:, 20:23]\n")
    run = run_of(tmp_path / "run", {"vae.module": str(file)}, stages=("vae", "latents", "metrics"))
    # Of another size, or Python takes the bytecode of the same second.
    file.write_text(file.read_text().replace("default_rng(0)", "default_rng(50)"))
    external.load.cache_clear()
    with pytest.raises(ValueError, match="expected .* to decode as it did"):
        _ = Run(run.workdir, run.config).vae_hash


@pytest.mark.slow
def test_the_example_goes_through_every_stage_and_a_comparison(example, tmp_path):
    config, out = f"--config={example / 'config.py'}:smoke", tmp_path / "out"
    compare = (f"--workdir={tmp_path / 'compared'}", f"--output={out}", "--config.compare.seeds=(0,)")
    for entry, *arguments in (("run", f"--workdir={tmp_path / 'run'}"), ("compare", *compare)):
        command = [sys.executable, "-m", f"geovq_jax.{entry}", config, *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report" / "index.html").stat().st_size > 0
    assert "mean_metric" in (out / "flax_autoencoder-smoke.json").read_text()
