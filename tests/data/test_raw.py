"""Readers of raw files against the arrays that the files were made from, and against damage."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geovq_jax.data import raw

ARRAY = np.random.default_rng(2).integers(0, 256, (5, 4, 3), np.uint8)
PLAIN = struct.pack(">4I", 0x0803, *ARRAY.shape) + ARRAY.tobytes()
SHA256 = hashlib.sha256(PLAIN).hexdigest()
GZIPPED = gzip.compress(PLAIN, mtime=0)
fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("content", [PLAIN, GZIPPED, gzip.compress(PLAIN, 1)], ids=["plain", "gzip", "gzip fast"])
@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_idx_content_decides_not_the_name(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    np.testing.assert_array_equal(raw.read_idx(tmp_path / name, sha256=SHA256), ARRAY)


@pytest.mark.parametrize(("content", "message"), [(PLAIN, "truncated"), (GZIPPED, r"truncated|expected an IDX file")])
def test_idx_every_truncation_is_refused(tmp_path, content, message):
    path = tmp_path / "a"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=message):
            raw.read_idx(path)


def read_or_message(path, **arguments):
    """The array, or the message of the ValueError; any other error fails the test."""
    try:
        return raw.read_idx(path, **arguments), ""
    except ValueError as error:
        return None, str(error)


@fuzz
@given(st.integers(0, len(GZIPPED) - 1), st.integers(1, 255), st.booleans())
def test_idx_a_changed_byte_is_refused_or_leaves_the_content_whole(tmp_path, position, change, compressed):
    content = bytearray(GZIPPED if compressed else PLAIN)
    content[position % len(content)] ^= change
    path = tmp_path / "a"
    path.write_bytes(bytes(content))
    result, message = read_or_message(path, sha256=SHA256)
    if result is None:
        assert "\n" not in message
        assert str(path) in message
    else:  # Fields of the gzip header such as the time of compression.
        assert compressed
        np.testing.assert_array_equal(result, ARRAY)


headers = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(
    lambda shape: struct.pack(f">{1 + len(shape)}I", 0x0800 + len(shape), *shape)
)


@fuzz
@given(st.binary(max_size=50) | st.builds(bytes.__add__, headers, st.binary(max_size=30)))
def test_idx_arbitrary_bytes_are_refused_or_have_the_size_of_their_header(tmp_path, content):
    path = tmp_path / "a"
    path.write_bytes(content)
    result, message = read_or_message(path)
    if result is None:
        assert "\n" not in message
    else:
        assert content[:4] == bytes((0, 0, 8, result.ndim))
        assert content[4:] == struct.pack(f">{result.ndim}I", *result.shape) + result.tobytes()


def test_idx_header_cannot_make_the_reader_take_memory(tmp_path):
    # A header that promises 2^96 bytes, plain and in a small gzip file, and one that hides a terabyte's shape.
    for dimensions in ((2**32 - 1,) * 3, (2**20, 2**20, 1)):
        content = b"\0\0\x08\x03" + struct.pack(">3I", *dimensions) + bytes(100)
        for path, written in ((tmp_path / "a", content), (tmp_path / "a.gz", gzip.compress(content))):
            path.write_bytes(written)
            with pytest.raises(ValueError, match="truncated file with 100"):
                raw.read_idx(path)


def test_idx_longer_than_its_header_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(PLAIN + b"\0")
    with pytest.raises(ValueError, match="longer"):
        raw.read_idx(tmp_path / "a")


def test_idx_of_another_type_and_a_pickle_are_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the reader unpickled a file",))

    for content in (b"\0\0\x0d\x01" + bytes(8), pickle.dumps(Bomb()), gzip.compress(pickle.dumps(Bomb()))):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(ValueError, match="expected an IDX file"):
            raw.read_idx(tmp_path / "a")


def test_idx_checksum_names_the_data_set_that_a_file_belongs_to(tmp_path, known_mnist, idx_folder):
    path = idx_folder / "t10k-labels-idx1-ubyte"
    with pytest.raises(ValueError, match=r"this is a file of mnist.*fetch it again"):
        raw.read_idx(path, sha256=SHA256)
    with pytest.raises(FileNotFoundError, match=r"expected a file .*absent"):
        raw.read_idx(tmp_path / "absent")


def test_idx_folder_returns_the_arrays_in_order(idx_folder, idx_arrays, known_mnist):
    for examples, names in zip(
        raw.read_idx_folder(idx_folder, sha256=known_mnist), (raw.IDX_FILES[:2], raw.IDX_FILES[2:]), strict=True
    ):
        np.testing.assert_array_equal(examples.images[..., 0], idx_arrays[names[0]])
        np.testing.assert_array_equal(examples.labels, idx_arrays[names[1]])
        assert examples.images.shape[1:] == (28, 28, 1)


@pytest.mark.parametrize("missing", raw.IDX_FILES)
def test_idx_folder_with_some_files_names_the_missing_one(idx_folder, missing):
    next(idx_folder.glob(f"{missing}*")).unlink()
    with pytest.raises(FileNotFoundError, match=f"missing: {missing} "):
        raw.read_idx_folder(idx_folder)


def test_idx_folder_without_files(tmp_path):
    assert raw.idx_paths(tmp_path) is None
    assert raw.identify(tmp_path) is None
    with pytest.raises(FileNotFoundError, match=r"found none; run scripts/download_data.sh"):
        raw.read_idx_folder(tmp_path)


def test_idx_folder_refuses_partners_that_do_not_fit(idx_folder):
    labels = idx_folder / "t10k-labels-idx1-ubyte"
    labels.write_bytes(struct.pack(">2I", 0x0801, 19) + bytes(19))
    with pytest.raises(ValueError, match=r"got \(20, 28, 28\) and \(19,\)"):
        raw.read_idx_folder(idx_folder)
    labels.write_bytes(struct.pack(">2I", 0x0801, 20) + bytes([10] * 20))
    with pytest.raises(ValueError, match="labels below 10, got 10"):
        raw.read_idx_folder(idx_folder)


def test_identify_tells_sets_with_the_same_file_names_apart(idx_folder, known_mnist):
    assert raw.identify(idx_folder) == "mnist"
    (idx_folder / "t10k-labels-idx1-ubyte").write_bytes(PLAIN)
    assert raw.identify(idx_folder) is None


def test_cifar10_pixels_sit_where_the_format_says(cifar10_folder, cifar10_records):
    train, test = raw.read_cifar10_folder(cifar10_folder)
    assert train.images.shape == (40, 32, 32, 3)
    assert test.images.shape == (8, 32, 32, 3)
    last = cifar10_records["data_batch_5.bin"][7]
    assert train.labels[39] == last[0]
    for row, column, channel in ((0, 0, 0), (3, 17, 1), (31, 31, 2)):
        assert train.images[39, row, column, channel] == last[1 + 1024 * channel + 32 * row + column]
    np.testing.assert_array_equal(test.labels, cifar10_records["test_batch.bin"][:, 0])


@pytest.mark.parametrize("missing", raw.CIFAR10_FILES)
def test_cifar10_folder_with_some_files_names_the_missing_one(cifar10_folder, missing):
    (cifar10_folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"missing: {missing};"):
        raw.read_cifar10_folder(cifar10_folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "truncated file with 24583"),
        (lambda content: content + b"\0", "longer file with 24585"),
        (lambda content: b"", "truncated file with 0"),
        (lambda content: b"\x0a" + content[1:], "labels below 10, got 10"),
    ],
)
def test_cifar10_damage_is_refused_with_the_name_of_the_file(cifar10_folder, change, message):
    path = cifar10_folder / "data_batch_3.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{message}.*data_batch_3.bin; fetch it again"):
        raw.read_cifar10_folder(cifar10_folder)
