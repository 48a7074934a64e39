"""Round trips bit for bit, the newest complete save, and one clear line for what cannot be loaded."""

import random
import resource
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax.training import checkpoint


class State(NamedTuple):
    weights: dict
    step: jax.Array
    key: jax.Array


def _state(seed=0, width=3):
    weights = {"a": jax.random.normal(jax.random.key(seed), (2, width)), "b": {"c": jnp.float16(0.1) * jnp.arange(4)}}
    return State(weights, jnp.int32(seed), jax.random.key(seed))


def _bits(tree):
    return [
        np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf).tobytes()
        for leaf in jax.tree.leaves(tree)
    ]


def test_round_trip(tmp_path):
    state, metadata = _state(7), {"name": "run", "values": [0.1, 1e-300, -3], "nested": {"none": None}}
    assert not checkpoint.exists(tmp_path / "latest")
    checkpoint.save(tmp_path / "latest", state, metadata)
    assert checkpoint.exists(tmp_path / "latest")
    loaded = checkpoint.load(tmp_path / "latest", jax.eval_shape(lambda: _state()))
    assert isinstance(loaded, State)
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    assert _bits(loaded) == _bits(state)
    assert checkpoint.load_metadata(tmp_path / "latest") == metadata


def test_newest_save_counts_and_older_ones_go(tmp_path):
    for seed in (1, 2, 3):
        checkpoint.save(tmp_path, _state(seed), {"seed": seed})
    assert checkpoint.load_metadata(tmp_path) == {"seed": 3}
    assert _bits(checkpoint.load(tmp_path, _state())) == _bits(_state(3))
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_a_save_that_was_cut_short_is_ignored_and_cleared(tmp_path):
    checkpoint.save(tmp_path, _state(1), {"seed": 1})
    (tmp_path / "1.orbax-checkpoint-tmp-17").mkdir()
    (tmp_path / "1.orbax-checkpoint-tmp-17" / "part").write_text("half")
    assert checkpoint.load_metadata(tmp_path) == {"seed": 1}
    checkpoint.save(tmp_path, _state(2), {"seed": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_what_cannot_be_loaded_is_named_in_one_line(tmp_path):
    checkpoint.save(tmp_path / "here", _state())
    message = r"expected \.weights\['a'\] float32\[2,5\], got float32\[2,3\] in checkpoint .*here"
    with pytest.raises(ValueError, match=message) as caught:
        checkpoint.load(tmp_path / "here", _state(width=5))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"expected \.key absent, got key<fry>\[\]"):
        checkpoint.load(tmp_path / "here", {"a": jnp.zeros((2, 3))})
    with pytest.raises(FileNotFoundError, match=r"expected a checkpoint in .*nowhere, found none"):
        checkpoint.load(tmp_path / "nowhere", _state())
    with pytest.raises(FileNotFoundError, match=r"expected a checkpoint in .*nowhere, found none"):
        checkpoint.load_metadata(tmp_path / "nowhere")


def test_a_flipped_bit_or_a_cut_file_is_refused(tmp_path):
    checkpoint.save(tmp_path / "here", _state(), {"history": [1, 2]})
    rng = random.Random(0)
    files = [path for path in sorted((tmp_path / "here").rglob("*")) if path.is_file() and path.stat().st_size]
    for path in files:
        whole = path.read_bytes()
        place = rng.randrange(len(whole))
        for damaged in (whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :], whole[: len(whole) // 2]):
            path.write_bytes(damaged)
            for call in (checkpoint.load_metadata, lambda directory: checkpoint.load(directory, _state())):
                with pytest.raises(ValueError, match="expected checkpoint .* as it was written, got other bytes in"):
                    call(tmp_path / "here")
        path.write_bytes(whole)
    assert _bits(checkpoint.load(tmp_path / "here", _state())) == _bits(_state())


def test_a_save_that_was_killed_before_its_hashes_counts(tmp_path):
    checkpoint.save(tmp_path, _state(1), {"seed": 1})
    (tmp_path / "0" / "checksums.json").unlink()
    assert _bits(checkpoint.load(tmp_path, _state())) == _bits(_state(1))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_keeps_the_earlier_save_and_nothing_else(tmp_path):
    checkpoint.save(tmp_path, _state(1), {"seed": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = {"weights": jax.random.normal(jax.random.key(0), (300, 300))}
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="expected to write checkpoint .*/1, got .*; free disk space"):
            checkpoint.save(tmp_path, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    assert _bits(checkpoint.load(tmp_path, _state())) == _bits(_state(1))
