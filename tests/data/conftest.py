"""Hand-made files in the layouts of the public data sets."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from geovq_jax.data import raw


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of unsigned bytes as an uncompressed IDX file."""
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def idx_arrays() -> dict[str, np.ndarray]:
    """Contents of four small IDX files: 60 training and 20 test images of 28 x 28 pixels, four classes."""
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, 4 if "labels" in name else 256, shape, np.uint8)
        for name, shape in zip(raw.IDX_FILES, ((60, 28, 28), (60,), (20, 28, 28), (20,)), strict=True)
    }


@pytest.fixture
def idx_folder(tmp_path, idx_arrays) -> Path:
    """Folder of the four files, the training files compressed and the test files plain."""
    folder = tmp_path / "idx"
    folder.mkdir()
    for name, array in idx_arrays.items():
        if name.startswith("train"):
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
        else:
            (folder / name).write_bytes(idx_bytes(array))
    return folder


@pytest.fixture
def known_mnist(monkeypatch, idx_arrays) -> dict[str, str]:
    """Registers the hand-made files as the true MNIST and returns their checksums."""
    checksums = {name: hashlib.sha256(idx_bytes(array)).hexdigest() for name, array in idx_arrays.items()}
    monkeypatch.setattr(raw, "IDX_SHA256", {**raw.IDX_SHA256, "mnist": checksums})
    return checksums


@pytest.fixture
def cifar10_records(monkeypatch) -> dict[str, np.ndarray]:
    """Contents of the six files of a CIFAR-10 with 8 records a file."""
    monkeypatch.setattr(raw, "CIFAR10_RECORDS", 8)
    rng = np.random.default_rng(1)
    records = {name: rng.integers(0, 256, (8, 3073), np.uint8) for name in raw.CIFAR10_FILES}
    for array in records.values():
        array[:, 0] %= 10
    return records


@pytest.fixture
def cifar10_folder(tmp_path, cifar10_records) -> Path:
    """Folder `cifar-10-batches-bin` of the six files and the names of the classes."""
    folder = tmp_path / "cifar" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, array in cifar10_records.items():
        (folder / name).write_bytes(array.tobytes())
    (folder / "batches.meta.txt").write_text("".join(f"class{i}\n" for i in range(10)) + "\n")
    return folder


@pytest.fixture(autouse=True)
def _no_data_folders(monkeypatch, tmp_path):
    """Hides the data folders of the machine that runs the tests."""
    monkeypatch.delenv("GEOVQ_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no_tfds"))
