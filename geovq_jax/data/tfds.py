"""MNIST, Fashion-MNIST and CIFAR-10 through tensorflow-datasets, prepared and read without TensorFlow.

The builders of tensorflow-datasets extract archives and encode arrays with TensorFlow. The subclasses here inherit
URLs, checksums and features, but read the downloaded files with the raw readers and yield Pillow images; the official
builder can open the result. tensorflow-datasets is imported inside functions: it takes seconds.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from PIL import Image

from geovq_jax.data import raw
from geovq_jax.data.folder import one_line
from geovq_jax.data.records import Examples

_TIMEOUT_SECONDS = 5.0
_READ_BATCH = 4096
_CACHE_FILES = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")


def default_dir() -> Path:
    """Folder in which tensorflow-datasets keeps its data: $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _version_dir(name: str, data_dir: Path) -> Path | None:
    """Newest prepared version of a data set in array_record format; other formats need TensorFlow."""
    prepared = []
    for info in (data_dir / name).glob("*/dataset_info.json"):
        version = info.parent.name.split(".")
        splits = {path.name.split(".")[0] for path in info.parent.glob(f"{name}-*.array_record*")}
        if all(part.isdigit() for part in version) and {f"{name}-train", f"{name}-test"} <= splits:
            prepared.append(([int(part) for part in version], info.parent))
    return max(prepared)[1] if prepared else None


def is_prepared(name: str, data_dir: Path) -> bool:
    """Whether a folder of tensorflow-datasets holds a data set in array_record format."""
    return _version_dir(name, data_dir) is not None


def read(name: str, data_dir: Path) -> tuple[Examples, Examples]:
    """Read a prepared data set in the order of the original files, undoing the shuffle that preparing it applied.

    The decoded arrays are cached beside it in `geovq_jax_cache`, where the folder can be written. FileNotFoundError if
    it is not prepared there, ValueError if the content is not that of the original files.
    """
    folder = _version_dir(name, data_dir)
    if folder is None:
        raise FileNotFoundError(f"expected {name} prepared in {data_dir}, found none; run scripts/download_data.sh")
    # The name of the cache changes whenever a file of the prepared data set is written again.
    files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())
    fingerprint = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
    cache = data_dir / "geovq_jax_cache" / f"{name}-{fingerprint}"
    try:
        arrays = [np.load(cache / file, allow_pickle=False) for file in _CACHE_FILES]
        train, test = Examples(*arrays[:2]), Examples(*arrays[2:])
        _check_content(name, train, test, cache)
        return train, test
    except (OSError, EOFError, ValueError):
        pass  # No cache yet, or a damaged one: both are written anew.
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    train, test = (_read_split(builder, split) for split in ("train", "test"))
    _check_content(name, train, test, folder)
    _save_cache(cache, train, test)
    return train, test


def _read_split(builder: Any, split: str) -> Examples:
    import tensorflow_datasets as tfds

    # Pillow decodes here: the decoder of tensorflow-datasets logs a recommendation of OpenCV.
    decoders = {"image": tfds.decode.SkipDecoding()}
    source = builder.as_data_source(split, decoders=decoders, file_format="array_record")
    images, labels, rows = [], [], []
    for start in range(0, len(source), _READ_BATCH):
        for record in source.__getitems__(range(start, min(start + _READ_BATCH, len(source)))):
            with Image.open(io.BytesIO(record["image"]), formats=("PNG",)) as image:
                images.append(np.atleast_3d(np.asarray(image)))
            labels.append(record["label"])
            if "id" in record:
                rows.append(int(record["id"].decode().removeprefix(f"{split}_")))
    original_row = np.array(rows) if rows else shuffled_rows(split, len(source))
    inverse = np.argsort(original_row)
    return Examples(np.stack(images)[inverse], np.array(labels, np.int32)[inverse])


def shuffled_rows(split: str, num_examples: int) -> Int64[np.ndarray, " n"]:
    """Original row of each record of a prepared split whose keys are row numbers.

    tensorflow-datasets sorts the records of a split by md5(name of the split + key); a change of this order would
    be a new major version of every data set.
    """
    digests = [hashlib.md5(f"{split}{row}".encode(), usedforsecurity=False).digest() for row in range(num_examples)]
    return np.array(sorted(range(num_examples), key=digests.__getitem__), np.int64)


def _check_content(name: str, train: Examples, test: Examples, where: Path) -> None:
    """Compare pixels and labels with the checksums of the original IDX files, which include their headers."""
    if name not in raw.IDX_SHA256:
        return
    arrays = (train.images[..., 0], train.labels, test.images[..., 0], test.labels)
    for file_name, array in zip(raw.IDX_FILES, arrays, strict=True):
        digest = hashlib.sha256(bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes())
        digest.update(array.astype(np.uint8).tobytes())
        if digest.hexdigest() != raw.IDX_SHA256[name][file_name]:
            raise ValueError(
                f"expected the content of {file_name}, got another in {where}; remove this folder and prepare it again"
            )


def _save_cache(folder: Path, train: Examples, test: Examples) -> None:
    """Write all arrays to a temporary folder, then rename it, so that readers never see a partial result."""
    # A shared data folder is often read-only; reading then takes some seconds longer each time.
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as temporary:
            whole = Path(temporary) / folder.name
            whole.mkdir()
            for name, array in zip(_CACHE_FILES, (*train, *test), strict=True):
                np.save(whole / name, array, allow_pickle=False)
            if folder.exists():
                shutil.rmtree(folder)
            whole.rename(folder)


def prepare(name: str, data_dir: Path, *, show_progress: bool = False) -> None:
    """Download a data set and write it as an array_record folder that `tfds.builder(name)` opens.

    Files that lie in `data_dir` under their original names (`cifar-10-binary.tar.gz`), or in its download cache, are
    used in place of a download. tensorflow-datasets verifies size and SHA-256 of its downloads. FileNotFoundError if a
    file is neither local nor can be downloaded, ValueError if one has the wrong checksum or is damaged.
    """
    import tensorflow_datasets as tfds

    tfds.display_progress_bar(show_progress)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        builder = _builder_class(name)(data_dir=str(data_dir), file_format="array_record")
        missing = [url for url in _urls(builder).values() if not _is_local(name, url, data_dir)]
        if missing:
            _check_reachable(missing[0])
        config = tfds.download.DownloadConfig(
            manual_dir=str(data_dir), try_download_gcs=False, force_checksums_validation=True
        )
        with contextlib.redirect_stdout(sys.stderr if show_progress else io.StringIO()):
            builder.download_and_prepare(download_config=config)
    except tfds.core.download.download_manager.NonMatchingChecksumError as error:
        raise ValueError(
            f"expected the registered checksum, got another: {one_line(error)}; remove the file and run again"
        ) from error
    except (tfds.core.download.util.DownloadError, OSError) as error:
        files = "cifar-10-binary.tar.gz or cifar-10-batches-bin" if name == "cifar10" else "the four IDX files"
        raise FileNotFoundError(
            f"expected {name} in a local folder, or a network and space in {data_dir} to download it, got "
            f"{one_line(error)}; put {files} into a folder and name it by data_dir or $GEOVQ_DATA"
        ) from error
    if not is_prepared(name, data_dir):
        raise ValueError(
            f"expected {builder.data_dir} in array_record format, got another; remove that folder or name another one"
        )


def _urls(builder: Any) -> dict[str, str]:
    """Addresses that the official builder registers, by the name of the file."""
    if builder.name == "cifar10":
        return {"cifar-10-binary.tar.gz": builder._cifar_info.url}
    return {name: f"{builder.URL}{name}.gz" for name in raw.IDX_FILES}


def _is_local(name: str, url: str, data_dir: Path) -> bool:
    """Whether a file is in the folder or in its download cache."""
    from tensorflow_datasets.core.download import checksums, resource

    checksum = checksums.get_all_url_infos()[url].checksum
    cached = data_dir / "downloads" / name / resource.get_dl_fname(url, checksum)
    return (data_dir / url.rsplit("/", 1)[1]).is_file() or resource.is_locally_cached(cached)


def _check_reachable(url: str) -> None:
    """Request one address; the downloader itself would retry for minutes without a network."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):  # Some servers answer only to HEAD; the download itself will fail if so.
            raise


def _builder_class(name: str) -> Any:
    """Subclass of the official builder that reads its downloads without TensorFlow."""
    import tensorflow_datasets as tfds

    official: Any = tfds.builder_cls(name)

    def split_generators(self, dl_manager):
        paths = {file: Path(path) for file, path in dl_manager.download(_urls(self)).items()}
        if name == "cifar10":
            train, test, self.info.features["label"].names = _read_cifar10_archive(paths["cifar-10-binary.tar.gz"])
        else:
            train, test = raw.read_idx_files(paths, sha256=raw.IDX_SHA256[name])
        return {"train": self._generate_examples("train", train), "test": self._generate_examples("test", test)}

    def generate_examples(self, split, examples):
        for row, (image, label) in enumerate(zip(*examples, strict=True)):
            record = {"image": Image.fromarray(image.squeeze()), "label": int(label)}
            if "id" in self.info.features:
                record["id"] = f"{split}_{row:05d}"
            yield row, record

    members = {"name": name, "_split_generators": split_generators, "_generate_examples": generate_examples}
    with tfds.core.registered.skip_registration():
        return type(official.__name__, (official,), {**members, "__module__": __name__})


def _read_cifar10_archive(path: Path) -> tuple[Examples, Examples, list[str]]:
    """Read the members of the archive in memory: nothing is extracted, so no member can choose its destination."""
    try:
        with tarfile.open(path, "r:gz") as archive:

            def member(name: str) -> io.BufferedIOBase:
                file = archive.extractfile(f"cifar-10-batches-bin/{name}")
                if not isinstance(file, io.BufferedIOBase):
                    raise KeyError(f"{name} is not a file")
                return file

            parts = [raw.read_cifar10_file(member(name), f"{path}:{name}") for name in raw.CIFAR10_FILES]
            names = member("batches.meta.txt").read(4096).decode("ascii").split()
    except (tarfile.TarError, KeyError, EOFError, OSError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(
            f"expected CIFAR-10's binary archive, got a damaged one ({one_line(error)}): {path}; fetch it again"
        ) from error
    return raw.join(parts[:-1]), parts[-1], names
