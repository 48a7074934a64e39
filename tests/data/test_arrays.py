"""Images of an npz file: types, shapes, labels, and arrays that must be refused."""

import numpy as np
import pytest

from geovq_jax.data import load, to_float
from geovq_jax.data.arrays import read_npz

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (12, 6, 9, 5), np.uint16)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (DEEP, DEEP),
        (DEEP[..., 0], DEEP[..., :1]),
        ((DEEP // 256).astype(np.uint8), DEEP // 256),
        (DEEP / 65535, DEEP),
        ((DEEP / 65535).astype(np.float32), DEEP),
    ],
)
def test_images_are_kept_with_8_or_16_bits(tmp_path, images, expected):
    np.savez(tmp_path / "a.npz", images=images)
    examples, num_classes = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(examples.images, expected)
    assert num_classes == 1
    scale = 255 if images.dtype == np.uint8 else 65535
    np.testing.assert_allclose(to_float(examples.images), expected / scale, atol=1e-6)


def test_load_splits_an_npz_file_in_its_order(tmp_path):
    labels = np.arange(12) % 3
    np.savez(tmp_path / "a.npz", images=DEEP, labels=labels)
    dataset = load(f"npz:{tmp_path / 'a.npz'}")
    assert dataset.num_classes == 3
    for split, size in ((dataset.train, 10), (dataset.valid, 1), (dataset.test, 1)):
        assert len(split.images) == size
        np.testing.assert_array_equal(split.images, DEEP[split.index])
        np.testing.assert_array_equal(split.labels, labels[split.index])
    with pytest.raises(ValueError, match="expected no image_size"):
        load(f"npz:{tmp_path / 'a.npz'}", image_size=(4, 4))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": DEEP}, "the array images"),
        ({"images": DEEP[0, 0]}, r"images \[n, H, W\]"),
        ({"images": DEEP[:0]}, r"images \[n, H, W\]"),
        ({"images": DEEP.astype(np.int64)}, "got int64"),
        ({"images": DEEP.astype(float)}, r"floats in \[0, 1\]"),
        ({"images": np.full((4, 2, 2), np.nan)}, r"floats in \[0, 1\]"),
        ({"images": DEEP, "labels": np.zeros(11, int)}, r"labels \[12\]"),
        ({"images": DEEP, "labels": np.full(12, -1)}, r"labels \[12\]"),
        ({"images": DEEP, "labels": np.zeros(12)}, r"labels \[12\]"),
        ({"images": np.zeros((5, 4, 4, 17), np.uint8)}, "1 to 16 channels, got 17"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load(f"npz:{tmp_path / 'a.npz'}")


def test_a_file_that_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected the file .*absent.npz"):
        load(f"npz:{tmp_path / 'absent.npz'}")
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="expected an npz file"):
        load(f"npz:{tmp_path / 'bad.npz'}")
