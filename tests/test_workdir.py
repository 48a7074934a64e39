"""Files of a work directory: atomic writes, hashes, damaged files, the lock."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from geovq_jax import manifest
from geovq_jax import workdir as files
from geovq_jax.config import default_config
from geovq_jax.stages.run import Run


def test_npz_round_trips_without_pickle(tmp_path):
    files.save_npz(tmp_path / "a" / "x.npz", codes=np.arange(3, dtype=np.int32), settings="{}")
    loaded = files.load_npz(tmp_path / "a" / "x.npz", stage="train_vae")
    np.testing.assert_array_equal(loaded["codes"], [0, 1, 2])
    assert loaded["codes"].dtype == np.int32
    assert str(loaded["settings"]) == "{}"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.npz"]


def test_large_arrays_are_mapped_and_equal(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAPPED", 1_000)
    arrays = {
        "large": np.arange(600, dtype=np.float32).reshape(20, 30),
        "column_order": np.asfortranarray(np.arange(600.0).reshape(20, 30)),
        "small": np.arange(3),
    }
    files.save_npz(tmp_path / "a.npz", **arrays)
    found = files.load_npz(tmp_path / "a.npz", stage="run")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert found[name].flags.writeable == (name == "small")
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="expected an npz file"):
        files.load_npz(tmp_path / "a.npz", stage="run")


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, {"a": float("nan")})

    def break_off(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, break_off)
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keep", [0, 1, 100, 300])
def test_a_truncated_npz_is_one_clear_line(tmp_path, keep):
    path = tmp_path / "x.npz"
    files.save_npz(path, values=np.arange(100.0))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="expected an npz file in .*rerun python -m geovq_jax.build_codebook"):
        files.load_npz(path, stage="build_codebook")


def test_a_pickled_npz_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", values=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="expected an npz file"):
        files.load_npz(tmp_path / "x.npz", stage="train_vae")


def test_a_missing_npz_names_the_stage(tmp_path):
    with pytest.raises(FileNotFoundError, match="run python -m geovq_jax.train_vae first"):
        files.load_npz(tmp_path / "x.npz", stage="train_vae")


def tree_hash(folder):
    return manifest.tree_hashes(["d"], files.file_hashes(folder, ["d"]))["d"]


def test_hash_of_a_folder_depends_on_names_and_bytes(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"1")
    assert files.file_hashes(tmp_path, ["d"]) == {"d/a": hashlib.sha256(b"1").hexdigest()}
    first = tree_hash(tmp_path)
    (tmp_path / "d" / "a").rename(tmp_path / "d" / "b")
    renamed = tree_hash(tmp_path)
    (tmp_path / "d" / "b").write_bytes(b"2")
    assert len({first, renamed, tree_hash(tmp_path)}) == 3


def test_hash_of_arrays_sees_name_type_shape_and_content():
    base = np.arange(4, dtype=np.int32)
    variants = [
        {"a": base},
        {"b": base},
        {"a": base.astype(np.int64)},
        {"a": base.reshape(2, 2)},
        {"a": base[::-1]},
        {"a": base.view(np.float32)},
    ]
    assert len({files.hash_arrays(v) for v in variants}) == len(variants)
    assert files.hash_arrays({"a": base[::-1]}) == files.hash_arrays({"a": np.array([3, 2, 1, 0], np.int32)})


def test_two_processes_cannot_hold_one_work_directory(tmp_path):
    code = f"from pathlib import Path; from geovq_jax.workdir import locked\nwith locked(Path({str(tmp_path)!r})): pass"
    with files.locked(tmp_path):
        busy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    free = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert busy.returncode == 1
    assert "another run works in it" in busy.stderr
    assert free.returncode == 0


def test_the_lock_ends_with_a_killed_process_although_its_child_lives_on(tmp_path):
    code = f"""
import subprocess, time
from pathlib import Path
from geovq_jax.workdir import locked
with locked(Path({str(tmp_path)!r})):
    print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        child = int(run.stdout.readline())
        with pytest.raises(ValueError, match="another run works in it"), files.locked(tmp_path):
            pass
        run.kill()
        run.wait()
    with files.locked(tmp_path):
        os.kill(child, signal.SIGKILL)  # ProcessLookupError where it has ended already
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_damaged_manifest_is_refused(tmp_path, text):
    (tmp_path / manifest.MANIFEST).write_text(text)
    with pytest.raises(ValueError, match="delete it to rerun every stage"):
        manifest.read_manifest(tmp_path)


@pytest.mark.parametrize("value", [[], None, 3, "x", {"inputs": []}, {"outputs": None}, {"settings": 1}])
def test_an_edited_record_of_a_stage_is_refused(tmp_path, value):
    (tmp_path / "stages.json").write_text(json.dumps({"vae": value}))
    with pytest.raises(ValueError, match=r"expected JSON objects for stage vae in .*; delete it to rerun every stage"):
        manifest.read_manifest(tmp_path)


@pytest.mark.parametrize("line", ["{}", "[]", "null", "3", '{"stage": "vae"}', '{"stage": "vae", "st', "\x00"])
def test_an_edited_line_of_figures_is_refused(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"stage": "vae", "step": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"with stage and step on line 2 of .*metrics.jsonl, got .*; delete that line"):
        Run(tmp_path, default_config()).training_records  # noqa: B018
