"""Raw image files: IDX (MNIST, Fashion-MNIST) and the binary layout of CIFAR-10.

Every size is checked against the header or the format before memory is allocated, IDX content is checked
against a known SHA-256, and nothing is unpickled.
"""

import contextlib
import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from geovq_jax.data.records import Examples

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# SHA-256 of the uncompressed content: a recompressed file still passes.
IDX_SHA256: Mapping[str, Mapping[str, str]] = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}

CIFAR10_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
CIFAR10_RECORDS = 10_000
_CIFAR10_SHAPE = (3, 32, 32)
_CIFAR10_RECORD_BYTES = 1 + math.prod(_CIFAR10_SHAPE)

_CHUNK = 1 << 20


def _read_up_to(stream: io.BufferedIOBase, size: int) -> bytes:
    """Read at most `size` bytes; memory grows with the actual content, not with the size in the header."""
    parts = []
    while size > 0 and (part := stream.read(min(size, _CHUNK))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _parse_idx(stream: io.BufferedIOBase, path: Path) -> tuple[tuple[int, ...], bytes, str]:
    """Shape, data and SHA-256 of one uncompressed IDX stream of unsigned bytes."""
    magic = _read_up_to(stream, 4)
    if len(magic) == 4 and (magic[:3] != b"\x00\x00\x08" or not 1 <= magic[3] <= 4):
        raise ValueError(
            f"expected an IDX file of unsigned bytes with 1 to 4 axes, got first bytes {magic.hex()} in {path}; "
            "fetch the file again"
        )
    header = _read_up_to(stream, 4 * magic[3]) if len(magic) == 4 else b""
    if len(magic) < 4 or len(header) < 4 * magic[3]:
        raise ValueError(f"expected a complete IDX header, got a truncated file {path}; fetch the file again")
    shape = tuple(int(s) for s in np.frombuffer(header, ">u4"))
    size = math.prod(shape)
    data = _read_up_to(stream, size)
    if len(data) < size:
        raise ValueError(
            f"expected {size} bytes for shape {shape}, got a truncated file with {len(data)}: {path}; "
            "fetch the file again"
        )
    if stream.read(1):
        raise ValueError(f"expected {size} bytes for shape {shape}, got a longer file: {path}; fetch the file again")
    digest = hashlib.sha256(magic + header)
    digest.update(data)
    return shape, data, digest.hexdigest()


def read_idx(path: str | Path, *, sha256: str | None = None) -> UInt8[np.ndarray, "..."]:
    """Read one IDX file of unsigned bytes, plain or gzip-compressed: recognised by content, not by name.

    `sha256` is that of the uncompressed file; None skips this check. ValueError if the file is truncated, too long, not
    IDX, or its content is not the expected one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a file {path}, found none; run scripts/download_data.sh or copy it there")
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if compressed else path.open("rb") as stream:
            shape, data, digest = _parse_idx(stream, path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = str(error).rstrip(".")
        raise ValueError(
            f"expected a complete gzip file, got a truncated or damaged one ({reason}): {path}; fetch the file again"
        ) from error
    if sha256 is not None and digest != sha256:
        whose = [f" (this is a file of {name})" for name, files in IDX_SHA256.items() if digest in files.values()]
        raise ValueError(
            f"expected content with sha256 {sha256[:12]}..., got {digest[:12]}... in {path}{''.join(whose)}; "
            "the file is damaged or of another data set: fetch it again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def idx_paths(folder: str | Path) -> dict[str, Path] | None:
    """File name without `.gz` -> path of the IDX files in a folder, `NAME` before `NAME.gz`; None if there are none.

    FileNotFoundError if some of the four are there and others are not.
    """
    folder = Path(folder)
    candidates = [(name, folder / f"{name}{suffix}") for name in IDX_FILES for suffix in (".gz", "")]
    found = {name: path for name, path in candidates if path.is_file()}
    return _all_or_none(folder, IDX_FILES, found, " (plain or .gz)")


def identify(folder: str | Path) -> str | None:
    """ "mnist" or "fashion_mnist", which share their file names, by the smallest file; None for neither."""
    paths = idx_paths(folder)
    if paths is None:
        return None
    for name, files in IDX_SHA256.items():
        with contextlib.suppress(ValueError):
            read_idx(paths[IDX_FILES[3]], sha256=files[IDX_FILES[3]])
            return name
    return None


def _all_or_none(
    folder: Path, names: tuple[str, ...], found: dict[str, Path], remark: str = ""
) -> dict[str, Path] | None:
    missing = [name for name in names if name not in found]
    if found and missing:
        raise FileNotFoundError(
            f"expected {len(names)} files in {folder}, missing: {', '.join(missing)}{remark}; "
            "copy the missing ones there or remove the others"
        )
    return found or None


def read_idx_folder(folder: str | Path, *, sha256: Mapping[str, str] | None = None) -> tuple[Examples, Examples]:
    """Training and test examples from the four IDX files in a folder; see `read_idx_files`."""
    paths = idx_paths(folder)
    if paths is None:
        raise FileNotFoundError(f"expected IDX files in {folder}, found none; run scripts/download_data.sh")
    return read_idx_files(paths, sha256=sha256)


def read_idx_files(paths: Mapping[str, Path], *, sha256: Mapping[str, str] | None = None) -> tuple[Examples, Examples]:
    """Training and test examples from four IDX files, given by their names without `.gz`, in the order of the files.

    `sha256` holds the checksum of each file's uncompressed content; None skips this check. ValueError if a file is
    damaged, has the wrong checksum, or does not fit its partner.
    """
    arrays = {name: read_idx(path, sha256=sha256[name] if sha256 else None) for name, path in paths.items()}
    examples = []
    for images_name, labels_name in (IDX_FILES[:2], IDX_FILES[2:]):
        images, labels, where = arrays[images_name], arrays[labels_name], paths[images_name]
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(images):
            raise ValueError(
                f"expected images [n, H, W] and labels [n] with n > 0, got {images.shape} and {labels.shape} "
                f"in {where}; fetch the files again"
            )
        if labels.max() > 9:
            raise ValueError(f"expected labels below 10, got {labels.max()} in {where}; fetch the files again")
        examples.append(Examples(images[..., None], labels.astype(np.int32)))
    return examples[0], examples[1]


def cifar10_paths(folder: str | Path) -> dict[str, Path] | None:
    """File name -> path of the six binary files of CIFAR-10 in a folder; None if there are none.

    FileNotFoundError if some of the six are there and others are not.
    """
    folder = Path(folder)
    found = {name: folder / name for name in CIFAR10_FILES if (folder / name).is_file()}
    return _all_or_none(folder, CIFAR10_FILES, found)


def read_cifar10_file(file: io.BufferedIOBase, where: str | Path) -> Examples:
    """CIFAR-10's binary records: one label byte, then the R, G and B planes of 32 x 32 bytes.

    Reads no more of the open file than a valid one holds. `where` names it in error messages. ValueError if the size
    or a label is wrong.
    """
    expected = CIFAR10_RECORDS * _CIFAR10_RECORD_BYTES
    content = _read_up_to(file, expected + 1)
    if len(content) != expected:
        kind = "truncated" if len(content) < expected else "longer"
        raise ValueError(f"expected {expected} bytes, got a {kind} file with {len(content)}: {where}; fetch it again")
    records = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR10_RECORD_BYTES)
    labels = records[:, 0].astype(np.int32)
    if labels.max() > 9:
        raise ValueError(f"expected labels below 10, got {labels.max()} in {where}; fetch it again")
    planes = records[:, 1:].reshape(-1, *_CIFAR10_SHAPE)
    return Examples(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)


def read_cifar10_folder(folder: str | Path) -> tuple[Examples, Examples]:
    """Training and test examples of a folder `cifar-10-batches-bin`, in the order of the files."""
    paths = cifar10_paths(folder)
    if paths is None:
        raise FileNotFoundError(f"expected CIFAR-10 binary files in {folder}, found none; run scripts/download_data.sh")
    parts = []
    for name in CIFAR10_FILES:
        with paths[name].open("rb") as file:
            parts.append(read_cifar10_file(file, paths[name]))
    return join(parts[:-1]), parts[-1]


def join(parts: list[Examples]) -> Examples:
    """Concatenate tables of examples."""
    return Examples(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))
