"""Work in shards: what a kill leaves is used, what a changed input touches is done again, nothing else."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geovq_jax import workdir as files
from geovq_jax.shards import MANIFEST, recorded_hashes, run_shards

TABLE = np.random.default_rng(0).normal(size=(23, 3))


class Work:
    """Counts the shards that it computes, and dies before one of them."""

    def __init__(self, dies_at=None):
        self.asked, self._dies_at = [], dies_at

    def __call__(self, rows):
        if rows.start == self._dies_at:
            raise KeyboardInterrupt
        self.asked.append(rows.start)
        return {"squares": TABLE[rows] ** 2, "row": np.arange(rows.start, rows.stop)}


def run(folder, work, **changes):
    settings = {"key": {"table": "a"}, "num_rows": 23, "shard_rows": 5} | changes
    return run_shards(folder, settings.pop("key"), settings.pop("num_rows"), work, **settings)


def test_shards_are_joined_in_order(tmp_path):
    seen = []
    found = run(tmp_path / "s", Work(), progress=lambda done, total: seen.append((done, total)))
    assert found["squares"].tobytes() == (TABLE**2).tobytes()
    np.testing.assert_array_equal(found["row"], np.arange(23))
    assert seen == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]


@pytest.mark.parametrize("dies_at", [0, 5, 10, 15, 20])
def test_a_killed_call_loses_only_the_shard_it_was_in(tmp_path, dies_at):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "s", Work(dies_at))
    again = Work()
    found = run(tmp_path / "s", again)
    assert again.asked == list(range(dies_at, 23, 5))
    assert found["squares"].tobytes() == (TABLE**2).tobytes()
    third = Work()
    run(tmp_path / "s", third)
    assert third.asked == []


@pytest.mark.parametrize("changes", [{"key": {"table": "b"}}, {"num_rows": 22}, {"shard_rows": 6}])
def test_another_input_or_setting_leaves_no_shard_in_use(tmp_path, changes):
    run(tmp_path / "s", Work())
    again = Work()
    run(tmp_path / "s", again, **changes)
    size = changes.get("shard_rows", 5)
    assert again.asked == list(range(0, 22, size))
    names = {path.name for path in (tmp_path / "s").iterdir()}
    assert names == {MANIFEST, *(f"{i:06d}.npz" for i in range(len(again.asked)))}


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_shard_alone_is_done_again(tmp_path, damage):
    run(tmp_path / "s", Work())
    path = tmp_path / "s" / "000002.npz"
    whole = path.read_bytes()
    changed = {"flip": whole[:99] + bytes([whole[99] ^ 1]) + whole[100:], "truncate": whole[:-1]}
    path.unlink() if damage == "remove" else path.write_bytes(changed[damage])
    again = Work()
    found = run(tmp_path / "s", again)
    assert again.asked == [10]
    assert found["squares"].tobytes() == (TABLE**2).tobytes()


@settings(max_examples=30, deadline=None)
@given(
    text=st.one_of(st.text(max_size=20), st.recursive(st.integers() | st.text(max_size=3), st.lists).map(json.dumps))
)
def test_a_damaged_manifest_means_to_begin_anew(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("s") / "s"
    folder.mkdir()
    (folder / MANIFEST).write_text(text)
    work = Work()
    run(folder, work)
    assert work.asked == [0, 5, 10, 15, 20]


def test_a_large_result_is_mapped_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAPPED", 1)

    def squares(rows):
        return {"squares": np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] ** [2, 3]}

    found = run_shards(tmp_path / "a", {}, 11, squares, shard_rows=4)["squares"]
    np.testing.assert_array_equal(found, np.arange(11, dtype=np.float32)[:, None] ** [2, 3])
    assert not found.flags.writeable
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        *(f"00000{shard}.npz" for shard in range(3)),
        "shards.json",
    ]


def test_no_rows_are_an_empty_array(tmp_path):
    assert run(tmp_path / "s", Work(), num_rows=0)["squares"].shape == (0, 3)


@pytest.mark.parametrize("sizes", [(23, 0), (23, -1), (-1, 5)])
def test_sizes_that_cannot_be_are_refused(tmp_path, sizes):
    with pytest.raises(ValueError, match="expected num_rows >= 0 and shard_rows >= 1"):
        run(tmp_path / "s", Work(), num_rows=sizes[0], shard_rows=sizes[1])
    assert not (tmp_path / "s").exists()


def test_a_shard_of_other_rows_than_asked_for_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected 5 rows in a shard"):
        run(tmp_path / "s", lambda rows: {"x": np.zeros(4)})
    assert not (tmp_path / "s").exists()


def test_recorded_hashes_are_those_of_the_files(tmp_path):
    run(tmp_path / "one", Work())
    run(tmp_path / "two", Work(), shard_rows=23)
    found = recorded_hashes(tmp_path)
    files = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert len(found) == 5 + 1 + 2
    (tmp_path / "one" / MANIFEST).write_text("[]")
    assert len(recorded_hashes(tmp_path)) == 1 + 2
