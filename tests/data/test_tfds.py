"""tensorflow-datasets without TensorFlow: hand-made downloads are prepared, read back, and opened by it."""

import contextlib
import io
import json
import shutil
import tarfile
import urllib.error

import numpy as np
import pytest

from geovq_jax.data import datasets, load, raw, tfds


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Fails at once where the network would be asked."""

    def refuse(request, timeout):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(tfds.urllib.request, "urlopen", refuse)


def place(data_dir, name, url, content):
    """Puts a file into the download cache as if it had been fetched from its address."""
    from tensorflow_datasets.core.download import checksums, resource

    checksum = checksums.get_all_url_infos()[url].checksum
    path = data_dir / "downloads" / name / resource.get_dl_fname(url, checksum)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    info = path.with_name(f"{path.name}.INFO")
    info.write_text(json.dumps({"original_fname": url.rsplit("/", 1)[1]}))
    return path


MNIST_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


@pytest.fixture
def mnist_downloads(tmp_path, known_mnist, idx_folder):
    """Folder of tensorflow-datasets whose cache holds the four hand-made files, and the paths of these."""
    data_dir = tmp_path / "tfds"
    paths = {
        name: place(data_dir, "mnist", f"{MNIST_URL}{name}.gz", path.read_bytes())
        for name, path in raw.idx_paths(idx_folder).items()
    }
    return data_dir, paths


def archive(folder):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        tar.add(folder, "cifar-10-batches-bin")
    return content.getvalue()


def test_mnist_comes_back_in_the_order_of_the_files(mnist_downloads, idx_folder, known_mnist, capfd):
    data_dir, _ = mnist_downloads
    assert not tfds.is_prepared("mnist", data_dir)
    tfds.prepare("mnist", data_dir)
    assert tfds.is_prepared("mnist", data_dir)
    assert capfd.readouterr().out == ""
    expected = raw.read_idx_folder(idx_folder, sha256=known_mnist)
    for _ in ("decoded", "from the cache"):
        for result, oracle in zip(tfds.read("mnist", data_dir), expected, strict=True):
            np.testing.assert_array_equal(result.images, oracle.images)
            np.testing.assert_array_equal(result.labels, oracle.labels)
            assert result.labels.dtype == np.int32
    assert len(list((data_dir / "geovq_jax_cache").iterdir())) == 1


def test_the_official_builder_opens_the_result(mnist_downloads, idx_arrays):
    import tensorflow_datasets

    data_dir, _ = mnist_downloads
    tfds.prepare("mnist", data_dir)
    source = tensorflow_datasets.builder("mnist", data_dir=str(data_dir)).as_data_source("train")
    assert len(source) == 60
    keys = np.argsort([tensorflow_datasets.core.hashing.Hasher("train").hash_key(row) for row in range(60)])
    np.testing.assert_array_equal(tfds.shuffled_rows("train", 60), keys)
    for position in (0, 17, 59):
        row = keys[position]
        np.testing.assert_array_equal(source[position]["image"][..., 0], idx_arrays["train-images-idx3-ubyte"][row])
        assert source[position]["label"] == idx_arrays["train-labels-idx1-ubyte"][row]


def test_load_gives_the_same_splits_from_both_kinds_of_folder(mnist_downloads, idx_folder, monkeypatch):
    monkeypatch.setattr(datasets, "NUM_VALID", 20)
    data_dir, _ = mnist_downloads
    first = load("mnist", data_dir=data_dir, seed=2)  # Prepares it from the download cache.
    assert first.source == str(data_dir / "mnist")
    shutil.rmtree(data_dir / "downloads")
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    for other in (load("mnist", data_dir=idx_folder, seed=2), load("mnist", seed=2)):
        for split in ("train", "valid", "test"):
            for array, oracle in zip(getattr(first, split), getattr(other, split), strict=True):
                np.testing.assert_array_equal(array, oracle)


def test_a_damaged_cache_of_arrays_is_written_anew(mnist_downloads):
    data_dir, _ = mnist_downloads
    tfds.prepare("mnist", data_dir)
    train, _ = tfds.read("mnist", data_dir)
    (cache,) = (data_dir / "geovq_jax_cache").iterdir()
    path = cache / "train_images.npy"
    whole = path.read_bytes()
    for damaged in (whole[:-1], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(tfds.read("mnist", data_dir)[0].images, train.images)
        assert path.read_bytes() == whole


def test_a_prepared_folder_of_other_images_is_refused(mnist_downloads, monkeypatch):
    data_dir, _ = mnist_downloads
    tfds.prepare("mnist", data_dir)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="expected the content of train-images-idx3-ubyte, got another"):
        tfds.read("mnist", data_dir)


@pytest.mark.parametrize("length", [0, 10, -5])
def test_a_truncated_download_is_refused_and_leaves_nothing_prepared(mnist_downloads, length):
    data_dir, paths = mnist_downloads
    path = paths["train-images-idx3-ubyte"]
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="truncated") as caught:
        tfds.prepare("mnist", data_dir)
    assert "\n" not in str(caught.value)
    assert not tfds.is_prepared("mnist", data_dir)


def test_cifar10_comes_back_in_the_order_of_the_files(tmp_path, cifar10_folder):
    place(tmp_path, "cifar10", CIFAR10_URL, archive(cifar10_folder))
    tfds.prepare("cifar10", tmp_path)
    for result, oracle in zip(tfds.read("cifar10", tmp_path), raw.read_cifar10_folder(cifar10_folder), strict=True):
        np.testing.assert_array_equal(result.images, oracle.images)
        np.testing.assert_array_equal(result.labels, oracle.labels)
    labels = next((tmp_path / "cifar10").glob("*/label.labels.txt"))
    assert labels.read_text().split() == [f"class{i}" for i in range(10)]


def test_a_damaged_archive_is_refused_by_name(tmp_path, cifar10_folder):
    whole = archive(cifar10_folder)
    (cifar10_folder / "test_batch.bin").unlink()
    lacking = archive(cifar10_folder)
    (cifar10_folder / "test_batch.bin").mkdir()
    folder_inside = archive(cifar10_folder)
    for content, message in (
        (whole[: len(whole) // 2], "damaged one"),
        (b"no archive", "damaged one"),
        (lacking, "test_batch.bin"),
        (folder_inside, "test_batch.bin is not a file"),
    ):
        place(tmp_path, "cifar10", CIFAR10_URL, content)
        with pytest.raises(ValueError, match=message) as caught:
            tfds.prepare("cifar10", tmp_path)
        assert "\n" not in str(caught.value)


def test_a_file_under_its_original_name_must_have_the_registered_checksum(tmp_path, cifar10_folder):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(archive(cifar10_folder))
    with pytest.raises(ValueError, match=r"expected the registered checksum.*cifar-10-binary.tar.gz") as caught:
        tfds.prepare("cifar10", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", datasets.DOWNLOADED)
def test_without_a_network_one_line_says_what_to_do(tmp_path, monkeypatch, name):
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "absent")
    message = rf"expected {name} in a local folder, or a network.*no network in tests.*\$GEOVQ_DATA"
    with pytest.raises(FileNotFoundError, match=message) as caught:
        load(name, data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_prepared_in_another_format_is_named(mnist_downloads):
    data_dir, _ = mnist_downloads
    tfds.prepare("mnist", data_dir)
    for path in (data_dir / "mnist" / "3.0.1").glob("*.array_record*"):
        path.rename(str(path).replace("array_record", "tfrecord"))
    assert not tfds.is_prepared("mnist", data_dir)
    with pytest.raises(ValueError, match=r"expected .*mnist/3.0.1 in array_record format"):
        tfds.prepare("mnist", data_dir)
    with pytest.raises(FileNotFoundError, match="expected mnist prepared in"):
        tfds.read("mnist", data_dir)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FileNotFoundError, match=r"space in .*file/tfds to download it, got .*Not a directory"):
        tfds.prepare("mnist", tmp_path / "file" / "tfds")


@pytest.mark.parametrize(("code", "raises"), [(404, True), (403, False)])
def test_an_address_that_is_gone_is_told_apart_from_a_server_that_dislikes_the_question(monkeypatch, code, raises):
    def answer(request, timeout):
        assert request.get_method() == "HEAD"
        raise urllib.error.HTTPError(request.full_url, code, "answer", {}, None)

    monkeypatch.setattr(tfds.urllib.request, "urlopen", answer)
    expectation = pytest.raises(urllib.error.HTTPError) if raises else contextlib.nullcontext()
    with expectation:
        tfds._check_reachable(MNIST_URL)
