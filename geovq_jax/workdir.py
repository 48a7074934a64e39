"""Files of a work directory: atomic npz and JSON, hashes, the manifest of finished stages, checksums, the lock.

Every file is written to a temporary name in its own folder and then renamed, so a killed stage leaves nothing
half-written.
"""

import contextlib
import hashlib
import json
import math
import os
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout

from geovq_jax import processes

# What reading a damaged npz raises: RuntimeError for a flag that claims encryption, MemoryError for a shape, ...
_DAMAGES = (ValueError, KeyError, EOFError, OSError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


MAPPED = 2**26  # bytes from which on arrays are mapped, not read


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write(file)` on a temporary binary file beside `path`, then rename it to `path`; only in the main process.

    An OSError (full disk, read-only folder) names `path`, which is left unchanged.
    """
    if not processes.is_main():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise


def save_npz(path: Path, **arrays: Any) -> None:
    """Write named arrays (strings and numbers become 0-d arrays) to an npz file, atomically."""
    write_atomically(path, lambda file: np.savez(file, **arrays))


def load_npz(path: Path, *, stage: str) -> dict[str, np.ndarray]:
    """Read every array of an npz file without pickle; errors name the entry point `stage` that writes it.

    Arrays of `MAPPED` bytes and more stay in the file, of which pages are read when they are used.

    Raises FileNotFoundError without the file, ValueError if it is truncated or not an npz file of plain arrays.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected {path}, found none; run python -m geovq_jax.{stage} first")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            mapped = map_arrays(path, archive)
            arrays = {name: mapped[name] if name in mapped else archive[name] for name in archive.files}
            file.seek(-12, os.SEEK_END)  # of the end record, where the number of entries stands
            if int.from_bytes(file.read(2), "little") != len(arrays):
                raise ValueError(f"only the arrays {', '.join(arrays)}")
            return arrays
    except _DAMAGES as error:
        raise ValueError(f"expected an npz file in {path}, got {error}; rerun python -m geovq_jax.{stage}") from error


def map_arrays(path: Path, archive: Any) -> dict[str, np.ndarray]:
    """Those arrays of an open npz file that are large and stored as they are, mapped read-only from the file."""
    found: dict[str, np.ndarray] = {}
    for entry in archive.zip.infolist():
        if entry.file_size < MAPPED or entry.compress_type != zipfile.ZIP_STORED:
            continue
        with archive.zip.open(entry) as member:
            version = np.lib.format.read_magic(member)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, fortran, dtype = read_header[version](member)
            header = member.tell()
        if dtype.hasobject:
            raise ValueError(f"an array of objects, {entry.filename}")
        with path.open("rb") as file:  # the name and an extra field follow the 30 bytes of the local header
            file.seek(entry.header_offset + 26)
            lengths = file.read(4)
        start = entry.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        order: Any = "F" if fortran else "C"
        array = np.memmap(path, dtype, "r", start + header, shape, order)
        found[entry.filename.removesuffix(".npy")] = array.view(np.ndarray)
    return found


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, atomically; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def file_hashes(workdir: Path, paths: Iterable[str]) -> dict[str, str]:
    """Name below the work directory -> sha256, of every file at or below some of its paths."""
    found = {}
    for path in (workdir / name for name in paths):
        for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
            with file.open("rb") as stream:
                found[file.relative_to(workdir).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def hash_arrays(arrays: Mapping[str, Any]) -> str:
    """sha256 of named arrays: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(array.data)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Lock the work directory until the main process ends; ValueError if another run has locked it."""
    if not processes.is_main():
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workdir / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(
            f"expected {workdir} to be free, but another run works in it; wait for it or choose another --workdir"
        ) from None
    try:
        for leftover in workdir.rglob(f".*.{8 * '[0-9a-f]'}.tmp"):  # left by interrupted writes
            leftover.unlink()
        yield
    finally:
        lock.release()


def remove(path: Path) -> None:
    """Delete a file or a folder if it exists; only in the main process."""
    if not processes.is_main():
        return
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def to_json(value: Any) -> Any:
    """Plain JSON values from numbers, arrays, records, mappings and sequences; ValueError for other types.

    Floats keep six significant digits; those that are not finite become None, since JSON cannot express them.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return to_json(value._asdict())
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    raise ValueError(
        f"expected numbers, strings, arrays, records, dicts or lists, got {type(value).__name__}; convert it"
    )
