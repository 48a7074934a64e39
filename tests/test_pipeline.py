"""The pipeline end to end on real 8x8 digits: files, codes by brute force, skipping, staleness, bad input, resume."""

import collections
import doctest
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csgraph

import geovq_jax
from geovq_jax import manifest, pipeline, staleness
from geovq_jax.keys import METHODS, OF_VECTORS

ROOT = Path(__file__).parents[1]
CONFIG = "--config=configs/digits.py:smoke"


def call(entry: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"geovq_jax.{entry}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_every_file_of_the_contract_is_there_and_plain(finished):
    for name in (
        "config.json",
        "metrics.jsonl",
        "samples.png",
        "completions.png",
        "scores.json",
        "report/index.html",
        "report/metrics.json",
    ):
        assert (finished / name).stat().st_size > 0
    for folder in ("vae", "decoder", "prior", "classifier"):
        assert any((finished / folder).iterdir())
    for name in (
        "graph",
        "codebook",
        "samples",
        *(f"{d}/{s}" for d in ("latents", "metrics", "codes") for s in ("train", "valid", "test")),
    ):
        with np.load(finished / f"{name}.npz", allow_pickle=False) as archive:
            assert all(archive[key].dtype != object for key in archive.files)
    assert json.loads((finished / "config.json").read_text())["config"]["name"] == "digits-smoke"
    assert [p.name for p in finished.iterdir() if p.name.startswith(".")] == [".lock"]


def test_no_image_is_lost_and_every_code_is_in_range(finished):
    for split, size in (("train", 400), ("valid", 100), ("test", 100)):
        codes, latents = (np.load(finished / folder / f"{split}.npz") for folder in ("codes", "latents"))
        assert codes["codes"].shape == (size, 2, 2)
        assert codes["codes"].dtype == np.int32
        assert codes["codes"].min() >= 0
        assert codes["codes"].max() < 32
        np.testing.assert_array_equal(codes["index"], latents["index"])
        np.testing.assert_array_equal(codes["label"], latents["label"])
        assert np.isfinite(codes["distance"]).all()


def test_codes_are_the_nearest_vectors_in_the_metric_at_each_latent(finished):
    book = np.load(finished / "codebook.npz")
    for split in ("train", "valid", "test"):
        latents, codes = (np.load(finished / folder / f"{split}.npz") for folder in ("latents", "codes"))
        gaps = latents["mean"][..., None, :] - book["vectors"]
        metrics = np.load(finished / "metrics" / f"{split}.npz")["metrics"].reshape(*latents["mean"].shape, -1)
        squares = np.einsum("nhwkd,nhwde,nhwke->nhwk", gaps, metrics, gaps)
        chosen = np.take_along_axis(squares, codes["codes"][..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(chosen, squares.min(axis=-1), rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(codes["distance"], np.sqrt(np.maximum(chosen, 0.0)), rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_geodesic_codes_of_the_graph_are_the_nearest_medoids_by_dijkstra(copy):
    rebuilt = call("build_codebook", f"--workdir={copy}", "--config.codebook.method=geodesic")
    assert rebuilt.returncode == 0, rebuilt.stderr
    arrays, book = np.load(copy / "graph.npz"), np.load(copy / "codebook.npz")
    size = len(arrays["indptr"]) - 1
    dense = np.full((size, size), np.inf)
    rows = np.repeat(np.arange(size), np.diff(arrays["indptr"]))
    dense[rows, arrays["indices"]] = arrays["data"]
    np.testing.assert_array_equal(dense, dense.T)
    graph = csgraph.csgraph_from_dense(dense, null_value=np.inf)
    table = csgraph.dijkstra(graph, indices=book["medoids"])
    codes = np.load(copy / "codes" / "train.npz")["codes"][arrays["rows"]].ravel()
    np.testing.assert_allclose(table[codes, np.arange(size)], table.min(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(book["vectors"], arrays["points"][book["medoids"]])
    assert (np.diff(book["cost_history"]) <= 0).all()


def test_latents_come_from_the_stored_weights_in_order(finished):
    from geovq_jax.models import vae

    run = geovq_jax.load_run(finished)
    latents = np.load(finished / "latents" / "test.npz")
    for row in (0, 57, 99):
        image = jnp.asarray(run.dataset.test.images[row], jnp.float32) / 255.0
        np.testing.assert_allclose(latents["mean"][row], vae.encode(*run.autoencoder, image).mean, atol=1e-5)
    np.testing.assert_array_equal(latents["index"], run.dataset.test.index)


def test_the_codec_of_an_opened_run_agrees_with_its_files(finished):
    run = geovq_jax.load_run(finished)
    codes = run.encode(run.dataset.test.images)
    np.testing.assert_array_equal(codes, np.load(finished / "codes" / "test.npz")["codes"])
    np.testing.assert_array_equal(run.tokenize(run.latents("test").mean), codes)
    vectors = np.load(finished / "codebook.npz")["vectors"][codes]
    np.testing.assert_allclose(run.decode(codes), jax.vmap(run.tuned_decode_fn)(vectors), atol=1e-5)
    drawn = run.sample(7, class_id=3, seed=4)
    assert drawn.images.shape == (7, 8, 8, 1)
    assert drawn.labels.tolist() == [3] * 7
    np.testing.assert_array_equal(drawn.codes, run.sample(7, class_id=3, seed=4).codes)
    with pytest.raises(ValueError, match="expected images"):
        run.encode(run.dataset.test.images[:, :4])
    with pytest.raises(ValueError, match="expected class_id from -1 to 9, got 10"):
        run.sample(1, class_id=10)


def test_the_example_of_load_run_runs(finished):
    example = doctest.DocTestFinder().find(geovq_jax.load_run, globs={"load_run": geovq_jax.load_run})[0]
    for each in example.examples:
        each.source = each.source.replace("runs/mnist5k", str(finished))
    assert len(example.examples) == 5
    assert doctest.DocTestRunner().run(example).failed == 0


def test_the_codec_of_the_readme_runs(finished):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "load_run(" in block)
    found: dict = {}
    exec(block.replace("runs/mnist5k", str(finished)), found)
    assert found["codes"].shape == (8, 2, 2)
    assert found["images"].shape == (8, 8, 8, 1)


@pytest.mark.slow
def test_a_report_opens_every_file_once(copy, monkeypatch):
    """Within one stage: graph.npz read once, each decoder restored once, the data set parsed once."""
    from geovq_jax import data
    from geovq_jax.report import build
    from geovq_jax.stages import records
    from geovq_jax.stages import run as runs
    from geovq_jax.training import checkpoint

    opened = collections.Counter()

    def counted(module, name, key):
        function = getattr(module, name)

        def call(*arguments, **settings):
            opened[key(*arguments)] += 1
            return function(*arguments, **settings)

        monkeypatch.setattr(module, name, call)

    for module in (runs, records):
        counted(module, "load_npz", lambda path: path.relative_to(copy).as_posix())
    counted(checkpoint, "load", lambda path, _: path.relative_to(copy).as_posix())
    counted(data, "load", lambda name: name)
    build.write(geovq_jax.load_run(copy))
    assert {"graph.npz", "codebook.npz", "vae/best", "decoder/best", "prior/best", "digits"} <= opened.keys()
    assert set(opened.values()) == {1}, opened


def test_codebooks_of_several_sizes(finished):
    metrics = json.loads((finished / "report" / "metrics.json").read_text())
    sweep, page = metrics["sizes"], (finished / "report" / "index.html").read_text()
    assert sweep["sizes"] == [16, 32, 64]  # 8 members each of 800 nodes
    for kind in ("pullback", "euclidean"):
        assert (np.diff(sweep[kind]["cost"]) < 0).all()
        assert (np.array(sweep[kind]["entropy_bits"]) <= np.log2(sweep["sizes"])).all()
        assert (np.array(sweep[kind]["psnr_low"]) <= sweep[kind]["psnr"]).all()
        assert (np.array(sweep[kind]["psnr"]) <= sweep[kind]["psnr_high"]).all()
        nominal = 4 * np.log2(sweep["sizes"])
        assert (np.array(sweep[kind]["bits_per_image"]) > 0).all()
        assert (np.array(sweep[kind]["bits_per_image"]) < 1.2 * nominal).all()
    for name in ("elbow", "rate-distortion", "positions", "latents-by-volume", "interpolation"):
        assert f'<figure id="{name}"' in page
        assert (finished / "report" / "figures" / f"{name}.png").stat().st_size > 0


def test_the_conclusions_follow_from_metrics_json(finished):
    """Recomputed from the file alone, each linked to something on the page, and numbers are those of the run."""
    from geovq_jax.report.findings import findings, next_commands

    metrics = json.loads((finished / "report" / "metrics.json").read_text())
    page = (finished / "report" / "index.html").read_text()
    found = findings(metrics)
    assert [finding._asdict() for finding in found] == metrics["findings"]
    assert [entry._asdict() for entry in next_commands(metrics)] == metrics["next"]
    assert 5 <= len(found) <= 8
    for finding in found:
        assert f'id="{finding.anchor}"' in page
    said = {finding.topic: finding.sentence for finding in found}
    assert f"{metrics['prior']['gpt']['bits_per_image']:.1f} coded bits per image" in said["Quality"]
    assert f"{metrics['images']['truth-quantized']['psnr']:.2f} dB PSNR" in said["Quality"]
    assert f"{metrics['codes']['used']} of 32 codes" in said["Codes"]
    truth = geovq_jax.load_run(finished).dataset.test.images / 255.0
    run = geovq_jax.load_run(finished)
    error = np.mean((run.decode(run.codes("test").codes) - truth) ** 2)
    assert metrics["errors"]["quantized"] == pytest.approx(error, rel=1e-3)


def test_a_run_shows_its_headline_and_samples_in_a_notebook(finished, tmp_path):
    from geovq_jax.stages.run import Run

    run = geovq_jax.load_run(finished)
    shown = run._repr_html_()
    metrics = json.loads((finished / "report" / "metrics.json").read_text())
    assert all(name.split(" [")[0] in shown for rows in metrics["headline"].values() for name in rows)
    assert shown.count("data:image/png;base64,") == 1
    assert "No report yet" in Run(tmp_path, run.config)._repr_html_()


def test_a_run_says_what_it_will_do(finished, monkeypatch):
    run = geovq_jax.load_run(finished)
    assert pipeline._plan(pipeline._ALL, finished, run.config) == "every stage has finished"
    with run.config.unlocked():
        run.config.prior.num_steps = 41
    said = pipeline._plan(pipeline._ALL, finished, run.config)
    assert re.fullmatch(r"prior, samples, scores, report; \d+ min when they ran before", said)
    new = pipeline._plan(pipeline._ALL, finished / "new", run.config)
    assert new.startswith("vae, latents, ")
    assert re.search(r"training steps at most: vae \d+, classifier 40, prior 41$", new)


def test_a_second_run_skips_every_stage(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*.npz")}
    again = call("run", CONFIG, f"--workdir={finished}")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished before") == 12
    places = [again.stdout.index(f"│ {group} ") for group in ("quality", "rate", "samples", "codes", "geometry")]
    assert places == sorted(places)
    assert "95 % interval" in again.stdout
    assert re.findall(r"^(?:next|report) ", again.stdout, re.M) == ["report ", "next ", "next ", "report "]
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*.npz")}


@pytest.mark.slow
def test_a_changed_codebook_makes_the_prior_stale(copy):
    rebuilt = call("build_codebook", f"--workdir={copy}", "--config.codebook.num_clusters=24")
    assert rebuilt.returncode == 0, rebuilt.stderr
    stale = call("generate", f"--workdir={copy}")
    assert stale.returncode == 2
    assert "rerun python -m geovq_jax.train_prior" in stale.stderr
    assert len(stale.stderr.splitlines()) == 1


def test_generate_follows_its_flags(finished, copy):
    settings = {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "guidance": 1.5}
    flags = {"num_samples": 7, "class_id": 3, "num_completions": 3, "seed": 4} | settings
    done = call("generate", f"--workdir={copy}", *(f"--{name}={value}" for name, value in flags.items()))
    assert done.returncode == 0, done.stderr
    drawn = np.load(copy / "samples.npz")
    assert drawn["labels"].tolist() == [3] * 7
    assert drawn["codes"].shape == (7, 2, 2)
    assert drawn["images"].shape == (7, 8, 8, 1)
    assert drawn["log_probabilities"].shape == (7, 4)
    assert {name: float(drawn[name]) for name in settings} == settings
    given = np.load(copy / "codes" / "valid.npz")["codes"][drawn["completion_rows"]]
    assert drawn["completion_codes"].shape == (10, 4, 2, 2)
    np.testing.assert_array_equal(drawn["completion_codes"][:, 0], given)
    np.testing.assert_array_equal(drawn["completion_codes"][:, :, 0], np.repeat(given[:, None, 0], 4, axis=1))
    assert manifest.read_record(copy)["config"]["sample"] == manifest.read_record(finished)["config"]["sample"]
    assert manifest.read_manifest(copy)["samples"]["call"] == flags
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    for flag, expected in (
        ("--class_id=10", "expected sample.class_id below 10, got 10"),
        ("--top_p=0", "expected sample.top_p to be in (0, 1], got 0.0"),
    ):
        refused = call("generate", f"--workdir={copy}", flag)
        assert refused.returncode == 2
        assert expected in refused.stderr
        assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_generate_completes_images_by_a_mask_without_a_class(copy):
    run = geovq_jax.load_run(copy)
    images = run.dataset.test.images[:2]
    np.savez(copy.parent / "own.npz", images=images)
    np.save(copy.parent / "mask.npy", np.array([[0, 1], [0, 0]]))
    place, mask = (f"--{name}={copy.parent / file}" for name, file in (("complete", "own.npz"), ("mask", "mask.npy")))
    flags = ("--class_id=none", "--num_samples=3", "--num_completions=4")
    done = call("generate", f"--workdir={copy}", place, mask, *flags)
    assert done.returncode == 0, done.stderr
    drawn = np.load(copy / "samples.npz")
    codes = drawn["completion_codes"]
    assert drawn["labels"].tolist() == [10] * 3
    assert codes.shape == (2, 5, 2, 2)
    np.testing.assert_array_equal(codes[:, 0], run.encode(images))
    kept = ~drawn["completion_drawn"]
    np.testing.assert_array_equal(codes[:, 1:, kept], np.repeat(codes[:, :1, kept], 4, axis=1))
    again = call("evaluate", f"--workdir={copy}")
    assert again.returncode == 0, again.stderr
    for wrong in ((place,), (place, f"--mask={copy / 'config.json'}"), ("--class_id=x",)):
        refused = call("generate", f"--workdir={copy}", *wrong)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1), refused.stderr


@pytest.mark.slow
def test_training_continues_where_only_its_length_was_raised(copy):
    config = geovq_jax.load_run(copy).config
    steps = config.vae.num_steps

    def train(*overrides: str) -> tuple[str, list[int], dict]:
        done = call("train_vae", f"--workdir={copy}", *overrides)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
        taken = [line["step"] for line in lines if line["stage"] == "vae"]
        return done.stdout, taken, manifest.read_manifest(copy)["vae"]

    before = (copy / "metrics.jsonl").read_text().splitlines()[0]
    output, taken, record = train(f"--config.vae.num_steps={steps + 20}", "--config.vae.patience=9")
    assert taken == [20, 40, 60, 80]
    assert record["continued"] == {"after": [steps]}
    assert (copy / "metrics.jsonl").read_text().splitlines()[0] == before
    assert "SSIM" in output
    assert (copy / "vae" / "reconstructions.png").stat().st_size > 0
    assert "continued" not in train(f"--config.vae.num_steps={steps}")[2]
    assert "continued" not in train(f"--config.vae.num_steps={steps + 20}", "--config.vae.beta=0.25")[2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bernoulli", "features"])
def test_the_output_metric_reaches_metrics_and_codes(copy, kind):
    from geovq_jax.models import classifier

    rebuilt = call("build_codebook", f"--workdir={copy}", f"--config.graph.output_metric={kind}")
    assert rebuilt.returncode == 0, rebuilt.stderr
    run = geovq_jax.load_run(copy)
    grid = jnp.asarray(run.latents("test").mean[3])

    def output(z):
        image = run.decode_fn(grid.at[1, 0].set(z))
        return 2 * jnp.arcsin(jnp.sqrt(image)) if kind == "bernoulli" else classifier.features(*run.classifier, image)

    jacobian = jax.jacfwd(output)(grid[1, 0]).reshape(-1, grid.shape[-1])
    np.testing.assert_allclose(run.metrics("test")[3, 1, 0], jacobian.T @ jacobian, rtol=2e-2, atol=1e-6)
    np.testing.assert_array_equal(run.encode(run.dataset.test.images), run.codes("test").codes)


@pytest.mark.slow
def test_run_mends_what_is_stale(copy):
    mended = call("run", f"--workdir={copy}", "--config.codebook.num_clusters=24")
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout.count("finished before") == 5
    assert json.loads((copy / "report" / "metrics.json").read_text())["codes"]["num_codes"] == 24


@pytest.mark.slow
def test_the_plane_of_two_dimensional_latents(tmp_path):
    done = call("run", "--config=configs/toy_2d.py:smoke", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    for name in ("metric-ellipses", "volume-map", "voronoi-map", "code-atlas", "interpolation"):
        assert (tmp_path / "report" / "figures" / f"{name}.png").stat().st_size > 1000
    geodesics = json.loads((tmp_path / "report" / "metrics.json").read_text())["geometry"]["geodesics"]
    assert geodesics["straight_over_geodesic"] > 0.99


def test_a_flipped_byte_is_noticed(copy):
    path = copy / "codebook.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    refused = call("train_prior", f"--workdir={copy}")
    assert refused.returncode == 2
    assert "rerun python -m geovq_jax.build_codebook" in refused.stderr


def test_verify_finds_one_flipped_bit_in_every_file(copy):
    outputs = [path for stage in staleness.STAGES.values() for path in stage.outputs]
    pipeline.verify(copy)
    rng = random.Random(0)
    names = [p for p in sorted(copy.rglob("*")) if p.is_file() and p.name != ".lock"]
    assert {p.suffix for p in names} >= {".npz", ".json", ".jsonl", ".png", ".html", ".ocdbt"}
    for path in names:
        data = path.read_bytes()
        place, bit = (rng.randrange(len(data)), rng.randrange(8)) if data else (0, 0)
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :] if data else b"\0")
        found = manifest.differences(copy, outputs)
        name = path.relative_to(copy).as_posix()
        assert f"{name} (changed)" in found or (path.name == manifest.CHECKSUMS and found), name
        path.write_bytes(data)
    (copy / "report" / "metrics.json").unlink()
    (copy / "codes" / "new.npz").touch()
    refused = call("run", f"--workdir={copy}", "--verify")
    assert refused.returncode == 2
    assert refused.stdout.splitlines() == ["codes/new.npz (not recorded)", "report/metrics.json (missing)"]
    assert "but 2 differ, first codes/new.npz" in refused.stderr


@pytest.mark.parametrize("change", ["graph.npz", "codes/train.npz", "config.json"])
def test_the_explorer_refuses_files_that_no_stage_wrote(copy, change):
    path = copy / change
    if change == "config.json":
        record = json.loads(path.read_text())
        record["config"]["graph"]["k"] = "x"
        path.write_text(json.dumps(record))
    else:
        with np.load(path) as archive:
            np.savez(path, **{name: archive[name][:1] if archive[name].ndim else archive[name] for name in archive})
    refused = call("explore", f"--workdir={copy}", "--port=49151")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert refused.stderr.startswith("error: expected ")
    assert refused.stderr.count("\n") == 1


def test_config_json_names_commit_and_devices(finished):
    record = json.loads((finished / "config.json").read_text())
    assert record["jax"]["backend"] == jax.default_backend()
    assert record["jax"]["devices"] == [str(device) for device in jax.devices()]
    if record["git"] is not None:
        assert re.fullmatch("[0-9a-f]{40}", record["git"]["commit"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "expected --config=NAME or --workdir=W"),
        (("--config=configs/nothing.py",), "nothing.py"),
        (("--config=configs/digits.py:huge",), "expected variants of digits from"),
        ((CONFIG, "--config.vae.latentdim=3"), "latentdim"),
        ((CONFIG, "--config.vae.latent_dim=x"), "latent_dim"),
        ((CONFIG, "--config.vae.latent_dim=0"), "expected vae.latent_dim to be >= 1, got 0"),
        ((CONFIG, "--config.data.name=imagenet"), "imagenet"),
        ((CONFIG, "surplus"), "expected only --flags, got 'surplus'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, expected):
    where = () if not arguments else (f"--workdir={tmp_path / 'w'}",)
    done = call("train_vae", *arguments, *where)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_missing_stage_is_named(tmp_path):
    done = call("train_prior", CONFIG, f"--workdir={tmp_path}")
    assert done.returncode == 2
    assert "run python -m geovq_jax.build_codebook" in done.stderr


@pytest.mark.parametrize("entry", ["run", "generate"])
def test_help_explains_the_flags(entry):
    done = call(entry, "--help")
    assert done.returncode == 0
    assert "--workdir" in done.stdout
    assert ("--temperature" in done.stdout) == (entry == "generate")


def kill_during_training(entry: str, workdir: Path) -> None:
    command = [sys.executable, "-m", f"geovq_jax.{entry}", CONFIG, f"--workdir={workdir}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        log, deadline = workdir / "metrics.jsonl", time.monotonic() + 300
        while not (log.exists() and log.read_text().count("\n") >= 1) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (workdir / "latents").exists()


def assert_same_arrays(first: Path, second: Path) -> None:
    a, b = np.load(first), np.load(second)
    for key in a.files:
        np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.slow
def test_vae_training_killed_in_the_middle_ends_in_the_same_bits(finished, tmp_path):
    kill_during_training("train_vae", tmp_path)
    done = call("train_vae", CONFIG, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    for split in ("train", "valid", "test"):
        assert_same_arrays(tmp_path / "latents" / f"{split}.npz", finished / "latents" / f"{split}.npz")


@pytest.mark.slow
def test_a_run_killed_in_the_middle_ends_in_the_same_metrics(finished, tmp_path):
    kill_during_training("run", tmp_path)
    done = call("run", CONFIG, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "metrics.json").read_bytes() == (finished / "report" / "metrics.json").read_bytes()
    for name in ("codebook.npz", "codes/test.npz", "samples.npz", "latents/train.npz"):
        assert_same_arrays(tmp_path / name, finished / name)


def test_the_explorer_shows_the_nodes_of_a_run(finished):
    from geovq_jax.explorer.runs import run_space
    from geovq_jax.explorer.space import Draw

    run = geovq_jax.load_run(finished)
    space = run_space(run)
    graph, book = np.load(finished / "graph.npz"), np.load(finished / "codebook.npz")
    np.testing.assert_array_equal(space.points, graph["points"])
    np.testing.assert_array_equal(space.codes, book["node_labels"])
    assert (book["node_labels"][space.medoids] == np.arange(32)).all()
    assert space.frames(6) == (0.5, 0.0, 0.5, 0.5)  # cell 2 of the second image of 2 x 2 cells
    grid = np.load(finished / "latents" / "train.npz")["mean"][graph["rows"][1]]
    np.testing.assert_array_equal(grid[1, 0], space.points[6])
    moved = np.asarray(space.decoder(6)(jnp.asarray(space.points[6]) + 1.0) - space.decoder(6)(space.points[6]))
    assert np.abs(moved).max() > 0
    asked = Draw(label=3, number=4, temperature=1.0, top_k=0, top_p=0.9, min_p=0.0, guidance=1.0, seed=0)
    drawn = space.draw(asked, np.arange(4))
    assert drawn.images.shape == (4, 8, 8, 1)
    assert (drawn.labels == 3).all()
    few = run_space(run, max_points=100)
    assert few.points.shape == (100, space.points.shape[1])
    assert set(few.medoids[few.medoids >= 0]) <= set(range(100))


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name not in OF_VECTORS])
def test_every_method_goes_through_prior_samples_report_and_explorer(copy, method):
    from geovq_jax.explorer.runs import run_space

    done = call("run", f"--workdir={copy}", f"--config.codebook.method={method}")
    assert done.returncode == 0, done.stderr
    run = geovq_jax.load_run(copy)
    assert run.method == method
    assert run.samples["images"].shape == (20, 8, 8, 1)
    np.testing.assert_array_equal(run.encode(run.dataset.test.images), run.codes("test").codes)
    assert (copy / "report" / "index.html").stat().st_size > 0
    np.testing.assert_array_equal(run_space(run).points, run.graph.points)


def test_a_changed_key_is_named_with_the_command_that_helps(copy):
    refused = call("generate", f"--workdir={copy}", "--config.codebook.num_clusters=16")
    assert refused.returncode == 2
    assert "codebook.num_clusters changed; run python -m geovq_jax.run" in refused.stderr
    assert "--config.codebook.num_clusters=16, or ask" in refused.stderr


@pytest.mark.slow
def test_the_geometry_alone_needs_a_trained_vae_only(finished, tmp_path):
    for part in ("vae", "latents"):
        shutil.copytree(finished / part, tmp_path / "run" / part)
    record = manifest.read_manifest(finished)
    manifest.write_manifest(tmp_path / "run", {name: record[name] for name in ("vae", "latents")})
    shutil.copy(finished / "config.json", tmp_path / "run")
    done = call("geometry_report", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    found, whole = (
        json.loads((path / "metrics.json").read_text())["geometry"]
        for path in (tmp_path / "run" / "geometry", finished / "report")
    )
    assert found["connectivity"] == whole["connectivity"]
    assert (tmp_path / "run" / "geometry" / "index.html").stat().st_size > 0
    assert not (tmp_path / "run" / "codebook.npz").exists()
