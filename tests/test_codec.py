"""Encode and decode from the command line against the run's own codes, images and likelihoods."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from geovq_jax import codec, load_run, pipeline
from geovq_jax import config as configuration
from geovq_jax.config import experiment
from geovq_jax.presets import SMOKE
from geovq_jax.stages.run import Run

ROOT = Path(__file__).parents[1]
STAGES = ("vae", "latents", "metrics", "graph", "codebook", "decoder", "codes", "prior")


def call(entry: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"geovq_jax.{entry}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


SEARCHED = {"codes.search": "context", "codes.rate_weight": 0.01}


SLOW = [pytest.param(SEARCHED | {"codes.rate": rate}, marks=pytest.mark.slow) for rate in ("tables", "prior")]


@pytest.fixture(scope="module", params=[None, *SLOW])
def run(request, tmp_path_factory) -> Run:
    if request.param is None:
        return load_run(request.getfixturevalue("finished"))
    overrides = {
        "data.name": "digits",
        "vae.channels": (8, 16),
        "codebook.method": "local_metrics",
        "codes.searches": 2,
    }
    config = experiment("digits", SMOKE | overrides | request.param)
    configuration.validate(config)
    run = Run(tmp_path_factory.mktemp("run"), config)
    pipeline.records.store_config(run.workdir, config)
    for name in STAGES:
        pipeline.run_stage(name, run)
    return run


def test_files_and_arrays_encode_to_the_codes_of_the_run_and_decode_to_its_images(run, tmp_path):
    test, codes = run.dataset.test, run.codes("test").codes
    np.savez(tmp_path / "half.npz", images=test.images[:50])
    for row, image in enumerate(test.images[50:]):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).save(tmp_path / "pictures" / f"{row:03d}.png")
    places = (tmp_path / "half.npz", tmp_path / "pictures")
    done = call("encode", f"--workdir={run.workdir}", *places, f"--out={tmp_path / 'codes.npz'}")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "codes.npz") as found:
        np.testing.assert_array_equal(found["codes"], codes)
        assert found["names"][[0, 50]].tolist() == [f"{places[0]}:0", str(places[1] / "000.png")]
    decode = ("decode", f"--workdir={run.workdir}", tmp_path / "codes.npz")
    for out in ("images.npz", "images"):
        done = call(*decode, f"--out={tmp_path / out}")
        assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "images.npz") as found:
        np.testing.assert_array_equal(found["images"], run.decode(codes))
        picture = np.asarray(Image.open(tmp_path / "images" / "000099.png"))
        np.testing.assert_array_equal(picture, np.rint(255 * found["images"][99, ..., 0]))


def test_log_prob_is_what_the_report_counts(run):
    from geovq_jax.report.generation import code_lengths

    test, lengths = run.codes("test"), code_lengths(run)
    for name, labels in (("gpt", test.label), ("gpt_without_class", None)):
        bits = -run.log_prob(test.codes, labels).mean() / np.log(2)
        assert bits == pytest.approx(lengths[name]["bits_per_image"], rel=1e-5)
    with pytest.raises(ValueError, match=r"codes in \[0, 32\)"):
        run.log_prob(test.codes + 32)
    with pytest.raises(ValueError, match=r"labels in \[0, 10\)"):
        run.log_prob(test.codes, test.label + 10)


def test_bad_operands_are_refused_in_one_line_and_nothing_is_written(run, tmp_path):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "wide.npz", images=np.zeros((2, 8, 9), np.uint8))
    np.savez(tmp_path / "codes.npz", codes=np.full((3, 2, 2), 32))
    np.savez(tmp_path / "vectors.npz", codes=np.zeros(3, int))
    before = sorted(tmp_path.rglob("*"))
    for work, operands, message in (
        (codec.encode, (), "expected images, folders or npz files"),
        (codec.encode, ("absent.png",), "found none at"),
        (codec.encode, ("empty",), "expected images"),
        (codec.encode, ("wide.npz",), r"expected images \[n, 8, 8, 1\], got \(2, 8, 9, 1\)"),
        (codec.decode, ("codes.npz",), r"codes in \[0, 32\)"),
        (codec.decode, ("vectors.npz",), r"expected codes \[n, 2, 2\]"),
        (codec.decode, ("wide.npz",), "got none"),
        (codec.decode, (), "expected one npz file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as refusal:
            work(run.workdir, [str(tmp_path / name) for name in operands], tmp_path / "out.npz")
        assert "\n" not in str(refusal.value)
    for arguments in ([tmp_path / "wide.npz"], [f"--workdir={tmp_path}", tmp_path / "wide.npz"]):
        done = call("encode", *arguments, f"--out={tmp_path / 'out.npz'}")
        assert done.returncode == 2
        assert re.fullmatch("error: expected .*; .*\n", done.stderr)
    assert sorted(tmp_path.rglob("*")) == before


ELSEWHERE = """
import sys
sys.modules.update(dict.fromkeys(("geovq_jax", "flax", "orbax", "optax"), None))  # cannot be imported
import numpy as np
from jax import export
from safetensors.numpy import load_file
vectors = load_file("codebook.safetensors")["vectors"]
decoder = export.deserialize(bytearray(open("decoder.stablehlo", "rb").read()))
for size in (1, 16):
    images = decoder.call(vectors[load_file("codes.safetensors")["test"][:size]])
np.save("images.npy", images)
"""


def test_an_export_decodes_in_a_process_without_this_package(run, tmp_path):
    load_file = pytest.importorskip("safetensors.numpy", reason="needs the extra export").load_file
    done = call("export", f"--workdir={run.workdir}", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = run.decode(run.codes("test").codes[:16])
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), expected, atol=1e-5)
    for name, params in (("decoder", run.tuned.params["decoder"]), ("prior", run.prior.params)):
        stored = load_file(tmp_path / f"{name}.safetensors")
        assert len(stored) == len(jax.tree.leaves(params))
        sizes = [sorted(leaf.size for leaf in leaves) for leaves in (stored.values(), jax.tree.leaves(params))]
        assert sizes[0] == sizes[1]
    for split in ("train", "valid", "test"):
        np.testing.assert_array_equal(load_file(tmp_path / "codes.safetensors")[split], run.codes(split).codes)
    described = json.loads((tmp_path / "description.json").read_text())
    assert described["images"]["shape"] == ["n", 8, 8, 1]
    assert described["run"]["config"]["name"] == run.config.name
