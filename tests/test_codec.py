"""Encode and decode from the command line against the run's own codes, images and likelihoods."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geovq_jax import codec, pipeline
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


@pytest.fixture(scope="module", params=[{}, pytest.param(SEARCHED, marks=pytest.mark.slow)])
def run(request, tmp_path_factory) -> Run:
    overrides = {
        "data.name": "digits",
        "vae.channels": (8, 16),
        "codebook.method": "local_metrics",
        "codes.searches": 1,
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
