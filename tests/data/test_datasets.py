"""Loading by name: splits, the order of the search, and errors."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from geovq_jax.data import datasets, load, raw

GEOVQ_DATA = os.environ.get("GEOVQ_DATA")


@pytest.fixture
def small(monkeypatch):
    """Sets 20 rows of a hand-made training file aside for validation."""
    monkeypatch.setattr(datasets, "NUM_VALID", 20)


@pytest.fixture
def offline(monkeypatch):
    """Makes the attempt to download fail at once."""

    def refuse(name, target, *, show_progress):
        raise FileNotFoundError(f"download of {name} to {target}")

    monkeypatch.setattr(datasets.tfds, "prepare", refuse)
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", datasets.Path("/nonexistent"))


def rows(dataset):
    return [split.index.tolist() for split in (dataset.train, dataset.valid, dataset.test)]


def test_mnist5k_is_split_by_seed_with_equal_classes():
    dataset = load("mnist5k", seed=3)
    parts = (dataset.train, dataset.valid, dataset.test)
    assert [len(split.labels) for split in parts] == [4000, 500, 500]
    for split in parts:
        assert len(set(np.bincount(split.labels, minlength=10))) == 1
    np.testing.assert_array_equal(np.sort(np.concatenate([split.index for split in parts])), np.arange(5000))
    assert rows(load("mnist5k", seed=3)) == rows(dataset)
    assert all(first != other for first, other in zip(rows(load("mnist5k", seed=4)), rows(dataset), strict=True))
    subset = load("mnist5k", seed=3, max_train=100, max_valid=50, max_test=10)
    for split, whole, size in zip((subset.train, subset.valid, subset.test), parts, (10, 5, 1), strict=True):
        assert np.bincount(split.labels).tolist() == [size] * 10
        assert set(split.index) <= set(whole.index)


def test_digits_are_split_80_10_10():
    dataset = load("digits")
    assert [len(split.labels) for split in (dataset.train, dataset.valid, dataset.test)] == [1437, 180, 180]
    assert dataset.train.images.shape[1:] == (8, 8, 1)
    assert dataset.num_classes == 10


def test_mnist_takes_valid_from_the_training_file_and_keeps_the_test_file(small, known_mnist, idx_folder, idx_arrays):
    dataset = load("mnist", data_dir=idx_folder, seed=1)
    assert dataset.source == str(idx_folder)
    images = idx_arrays["train-images-idx3-ubyte"]
    for split, size in ((dataset.train, 40), (dataset.valid, 20)):
        assert len(split.index) == size
        np.testing.assert_array_equal(split.images[..., 0], images[split.index])
    assert not set(dataset.train.index) & set(dataset.valid.index)
    np.testing.assert_array_equal(dataset.test.index, np.arange(20))
    np.testing.assert_array_equal(dataset.test.images[..., 0], idx_arrays["t10k-images-idx3-ubyte"])


def test_cifar10_is_found_beside_or_inside_its_folder(small, cifar10_folder):
    expected = load("cifar10", data_dir=cifar10_folder)
    assert expected.train.images.shape == (20, 32, 32, 3)
    assert expected.source == str(cifar10_folder)
    assert load("cifar10", data_dir=cifar10_folder.parent).source == str(cifar10_folder)


def test_named_folder_goes_before_the_environment(small, known_mnist, idx_folder, tmp_path, monkeypatch):
    shutil.copytree(idx_folder, tmp_path / "data" / "mnist")
    monkeypatch.setenv("GEOVQ_DATA", str(tmp_path / "data"))
    assert load("mnist").source == str(tmp_path / "data" / "mnist")
    assert load("mnist", data_dir=idx_folder).source == str(idx_folder)
    (tmp_path / "empty").mkdir()
    assert load("mnist", data_dir=tmp_path / "empty").source == str(tmp_path / "data" / "mnist")


def test_debian_folder_serves_fashion_mnist_alone(small, known_mnist, idx_folder, offline, monkeypatch):
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", idx_folder)
    monkeypatch.setattr(raw, "IDX_SHA256", {"fashion_mnist": known_mnist, "mnist": known_mnist})
    assert load("fashion_mnist").source == str(idx_folder)
    with pytest.raises(FileNotFoundError, match="download of mnist"):
        load("mnist")


def test_another_set_of_the_same_file_names_is_an_error_if_named_and_passed_over_in_the_environment(
    small, known_mnist, idx_folder, offline, monkeypatch
):
    with pytest.raises(ValueError, match="this is a file of mnist"):
        load("fashion_mnist", data_dir=idx_folder)
    monkeypatch.setenv("GEOVQ_DATA", str(idx_folder))
    with pytest.raises(FileNotFoundError, match="download of fashion_mnist"):
        load("fashion_mnist")
    (idx_folder / "t10k-labels-idx1-ubyte").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="expected content with sha256"):
        load("fashion_mnist")


def test_a_partly_filled_folder_is_an_error_even_where_another_holds_all(known_mnist, idx_folder, tmp_path):
    shutil.copytree(idx_folder, tmp_path / "part")
    (tmp_path / "part" / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="missing: t10k-images-idx3-ubyte"):
        load("mnist", data_dir=tmp_path / "part")


@pytest.mark.parametrize("name", ["", "MNIST", "fashion", "cifar100", "folder:", "../mnist"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="expected a data set among mnist5k, digits, mnist, fashion_mnist, cifar10"):
        load(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "expected seed >= 0, got -1"),
        ({"max_train": 0}, "expected a positive max_train, got 0"),
        ({"max_test": -5}, "expected a positive max_test, got -5"),
        ({"image_size": (32, 32)}, "expected no image_size for digits"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **arguments)


def test_named_folders_that_do_not_exist_are_errors(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found none at .*absent; create it or correct data_dir"):
        load("mnist", data_dir=tmp_path / "absent")
    monkeypatch.setenv("GEOVQ_DATA", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"gone; create it or correct \$GEOVQ_DATA"):
        load("mnist")


def test_importing_data_loads_no_tfds_and_touches_no_device():
    code = (
        "import sys, jax, geovq_jax.data\n"
        "from jax._src import xla_bridge\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        "assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "folder", "train_counts"),
    [
        ("fashion_mnist", datasets.DEBIAN_FASHION_MNIST, [5500] * 10),
        (
            "mnist",
            datasets.Path(GEOVQ_DATA or "/nonexistent") / "mnist",
            # 5,923 zeros, 6,742 ones, ... of the original training file, less the twelfth part of each.
            [5430, 6180, 5462, 5620, 5355, 4969, 5425, 5743, 5363, 5453],
        ),
        ("cifar10", datasets.Path(GEOVQ_DATA or "/nonexistent") / "cifar-10-batches-bin", [4500] * 10),
    ],
)
def test_real_files_have_the_known_shapes_and_label_counts(name, folder, train_counts):
    if not folder.is_dir():
        pytest.skip(f"no {name} in {folder}: install dataset-fashion-mnist or set GEOVQ_DATA")
    dataset = load(name, data_dir=folder)
    assert len(dataset.valid.labels) == 5000
    assert len(dataset.test.labels) == 10000
    assert np.abs(np.bincount(dataset.train.labels) - train_counts).max() <= 1
