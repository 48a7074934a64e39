"""Faults of machine and operator at the command line: one clear line, the promised exit code, nothing half-written."""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from geovq_jax import manifest as records
from geovq_jax import pipeline, staleness
from geovq_jax import workdir as files
from geovq_jax.training import checkpoint, tracking

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
CONFIG = f"--config={Path(__file__).parents[1]}/configs/digits.py:smoke"


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_two_runs_in_one_work_directory(front_door, tmp_path):
    with files.locked(tmp_path):
        code, message = front_door(pipeline.run_all, CONFIG, f"--workdir={tmp_path}")
    assert code == 2
    assert "another run works in it; wait for it or choose another --workdir" in message
    assert names(tmp_path) == {".lock"}


@pytest.mark.parametrize(("stage", "entry"), [("prior", "build_codebook"), ("samples", "train_prior")])
def test_a_missing_stage(front_door, tmp_path, stage, entry):
    code, message = front_door(pipeline.entry(stage), CONFIG, f"--workdir={tmp_path}")
    assert code == 2
    assert f"rerun python -m geovq_jax.{entry} --workdir={tmp_path}" in message
    assert names(tmp_path) == {".lock"}


@contextlib.contextmanager
def without_override():
    """Root may write anywhere; without the capability CAP_DAC_OVERRIDE, the bits of its own folders bind it too."""
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3, this thread
    if os.geteuid() == 0 and libc.capget(header, sets) != 0:
        pytest.skip("root without capabilities may write anywhere")
    effective = sets[0]
    sets[0] &= ~(1 << 1)
    libc.capset(header, sets)
    try:
        yield
    finally:
        sets[0] = effective
        libc.capset(header, sets)


@pytest.mark.skipif(sys.platform != "linux" and os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("below", ["", "new/run"])
def test_a_read_only_work_directory(front_door, tmp_path, below):
    tmp_path.chmod(0o555)
    try:
        with without_override() if os.geteuid() == 0 else contextlib.nullcontext():
            code, message = front_door(pipeline.run_all, CONFIG, f"--workdir={tmp_path / below}")
    finally:
        tmp_path.chmod(0o755)
    assert code == 2
    assert "Permission denied" in message
    assert str(tmp_path) in message
    assert message.count("\n") == 1
    assert names(tmp_path) == set()


def test_a_full_disk(front_door, tmp_path):
    files.save_npz(tmp_path / "graph.npz", points=np.zeros(3))
    earlier = (tmp_path / "graph.npz").read_bytes()

    def stage(workdir, config):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            files.save_npz(workdir / "graph.npz", points=np.zeros(100_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    code, message = front_door(stage, CONFIG, f"--workdir={tmp_path}")
    assert code == 2
    assert message == f"error: [Errno 27] File too large: '{tmp_path / 'graph.npz'}'\n"
    assert (tmp_path / "graph.npz").read_bytes() == earlier
    assert names(tmp_path) == {".lock", "graph.npz"}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def write_checkpoint(workdir):
    checkpoint.save(workdir / "vae" / "best", {"weights": np.random.default_rng(0).random(200_000)})


def write_report(workdir):
    from geovq_jax.report.page import Section, write_report

    write_report(workdir / "report.html", title="t", subtitle="s", sections=[Section("Part", "x" * 600_000)])


def write_checksums(workdir):
    records.store_checksums(workdir, {"vae": {"files": {f"vae/{number:0100d}": "0" * 64 for number in range(4000)}}})


def write_figures(workdir):
    tracking.open_writer(workdir, "vae").write(0, {"x" * 600_000: 1.0})


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_checkpoint, "vae/best/1"),
        (write_report, "report.html"),
        (write_checksums, "SHA256SUMS"),
        (write_figures, "metrics.jsonl"),
        (lambda workdir: files.write_json(workdir / "stages.json", ["x" * 600_000]), "stages.json"),
    ],
)
def test_a_full_file_system(front_door, small_disk, write, name):
    checkpoint.save(small_disk / "vae" / "best", {"weights": np.zeros(3)})
    before = names(small_disk) | {".lock"}
    code, message = front_door(lambda workdir, config: write(workdir), CONFIG, f"--workdir={small_disk}")
    assert code == 2
    assert str(small_disk / name) in message
    assert "No space left on device" in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert names(small_disk) - {"metrics.jsonl"} == before  # a log; resuming cuts its last line off
    assert checkpoint.load(small_disk / "vae" / "best", {"weights": np.zeros(3)})["weights"].shape == (3,)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_mode_that_the_umask_allows(tmp_path, umask, mode):
    earlier = os.umask(umask)
    try:
        files.write_json(tmp_path / "x.json", 1)
    finally:
        os.umask(earlier)
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == mode


def test_what_a_killed_write_left_is_removed_by_the_next_run(tmp_path):
    code = (
        "import os, pathlib, sys; from geovq_jax import workdir as files\n"
        "path = pathlib.Path(sys.argv[1]) / 'codes' / 'train.npz'\n"
        "files.write_atomically(path, lambda file: os.kill(os.getpid(), 9))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    others = {"codes/.hidden", ".settings.tmp", "codes/x.0123abcd.tmp"}
    for name in others:
        (tmp_path / name).touch()
    with files.locked(tmp_path):
        assert names(tmp_path) == {*others, ".lock"}


def test_sigterm_within_a_write_leaves_nothing_half_written(front_door, tmp_path):
    def stage(workdir, config):
        def write(file):
            file.write(b"half")
            os.kill(os.getpid(), signal.SIGTERM)

        files.write_atomically(workdir / "codes.npz", write)

    code, message = front_door(stage, CONFIG, f"--workdir={tmp_path}")
    assert code == 143
    assert message == "ended by SIGTERM; the same command continues from the last checkpoint\n"
    assert names(tmp_path) == {".lock"}


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (KeyboardInterrupt(), 130, "interrupted; the same command continues"),
        (MemoryError("Unable to allocate 9 TiB"), 2, "error: Unable to allocate 9 TiB"),
        (RuntimeError("RESOURCE_EXHAUSTED:\nout of memory"), 2, "error: RESOURCE_EXHAUSTED: out of memory"),
        (FloatingPointError("expected a finite loss"), 2, "error: expected a finite loss"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (ValueError(), 2, "error: ValueError"),
    ],
)
def test_what_a_stage_raises_is_one_line(front_door, tmp_path, error, code, expected):
    def stage(workdir, config):
        raise error

    ended, message = front_door(stage, CONFIG, f"--workdir={tmp_path}")
    assert ended == code
    assert message.startswith(expected) or expected in message
    assert message.count("\n") == 1


def test_every_flipped_byte_of_an_npz_is_refused_or_harmless(tmp_path):
    arrays = {"codes": np.arange(6, dtype=np.int32), "distance": np.linspace(0, 1, 6)}
    files.save_npz(tmp_path / "x.npz", **arrays)
    whole = (tmp_path / "x.npz").read_bytes()
    refused = 0
    for place in range(len(whole)):
        (tmp_path / "x.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        try:
            loaded = files.load_npz(tmp_path / "x.npz", stage="build_codebook")
        except ValueError:
            refused += 1
            continue
        assert loaded.keys() == arrays.keys()
        assert all(loaded[name].tobytes() == array.tobytes() for name, array in arrays.items()), place
    assert refused > len(whole) / 2


@pytest.mark.parametrize("stage", ["vae", "latents", "metrics", "graph", "codebook", "codes", "decoder", "prior"])
def test_other_bytes_than_a_stage_left_are_refused_by_what_reads_them(front_door, tmp_path, monkeypatch, stage):
    """Every stage recorded as finished; then one byte of one stage's first file changes."""
    from geovq_jax.config import settings

    recorded = {}

    def record(workdir, config):
        manifest = {}
        for name, each in staleness.STAGES.items():
            for path in each.outputs:
                file = workdir / path if "." in path else workdir / path / "0"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"{name} {path}")
        for name, each in staleness.STAGES.items():
            manifest[name] = {
                "settings": settings(config, *each.settings),
                "inputs": staleness.hashes(each.inputs, workdir),
                "outputs": staleness.hashes(each.outputs, workdir),
            }
        records.write_manifest(workdir, manifest)
        recorded.update(manifest)

    assert front_door(record, CONFIG, f"--workdir={tmp_path}")[0] == 0
    path = tmp_path / staleness.STAGES[stage].outputs[0]
    path = path / "0" if path.is_dir() else path
    path.write_bytes(b"X" + path.read_bytes()[1:])
    code, message = front_door(pipeline.entry("report"), CONFIG, f"--workdir={tmp_path}")
    assert code == 2
    assert f"as stage {stage} left them, got other bytes; rerun python -m geovq_jax." in message or "changed" in message
    assert records.read_manifest(tmp_path) == recorded
