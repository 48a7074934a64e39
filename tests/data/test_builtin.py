"""Built-in sets against MNIST itself and scikit-learn's reader."""

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from geovq_jax.data import builtin, raw

GEOVQ_DATA = Path(os.environ.get("GEOVQ_DATA", "/nonexistent"))
MNIST5K_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"


def test_mnist5k_is_the_start_of_each_class_of_mnist():
    folder = next((folder for folder in (GEOVQ_DATA / "mnist", GEOVQ_DATA) if raw.idx_paths(folder)), None)
    if folder is None or raw.identify(folder) != "mnist":
        pytest.skip(f"no mnist in {GEOVQ_DATA}: set GEOVQ_DATA")
    train, _ = raw.read_idx_folder(folder)
    rows = np.concatenate([np.flatnonzero(train.labels == digit)[:500] for digit in range(10)])
    np.testing.assert_array_equal(builtin.mnist5k().images, train.images[rows])
    np.testing.assert_array_equal(builtin.mnist5k().labels, train.labels[rows])


def test_mnist5k_is_unchanged():
    text = gzip.decompress(builtin.mnist5k_path().read_bytes())
    assert hashlib.sha256(text).hexdigest() == MNIST5K_SHA256


def test_digits_equal_scikit_learn_up_to_their_scale():
    examples = builtin.digits()
    oracle = load_digits()
    np.testing.assert_array_equal(examples.labels, oracle.target)
    assert examples.images.max() == 255
    assert np.abs(examples.images[..., 0] * (16 / 255) - oracle.images).max() < 0.04


@pytest.mark.parametrize(
    "content",
    [b"", gzip.compress(b"1,2,3\n"), gzip.compress(b"300," * 64 + b"1\n"), gzip.compress(b"x" * 90)[:-9]],
    ids=["empty", "three columns", "above 16", "cut"],
)
@pytest.mark.filterwarnings("ignore:loadtxt. input contained no data")
def test_a_damaged_table_is_refused(monkeypatch, tmp_path, content):
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(content)
    monkeypatch.setattr(builtin, "digits_path", lambda: path)
    with pytest.raises(ValueError, match=r"expected .*digits.csv.gz; reinstall its package"):
        builtin.digits()


def test_a_missing_package_is_named():
    with pytest.raises(FileNotFoundError, match="expected the package no_such_package"):
        builtin._package_file("no_such_package", "a")
    with pytest.raises(FileNotFoundError, match="pip install --force-reinstall geovq_jax"):
        builtin._package_file("geovq_jax", "data", "absent")
