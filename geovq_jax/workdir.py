"""Files of a work directory: atomic npz and JSON, hashes, the manifest of finished stages, checksums, the lock.

Every file is written to a temporary name in its own folder and then renamed, so a killed stage leaves nothing
half-written.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from geovq_jax import processes

MANIFEST = "stages.json"
CHECKSUMS = "SHA256SUMS"
# What reading a damaged npz raises: RuntimeError for a flag that claims encryption, MemoryError for a shape, ...
_DAMAGES = (ValueError, KeyError, EOFError, OSError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write(file)` on a temporary binary file beside `path`, then rename it to `path`.

    Of the processes of a run only the first writes.

    Raises:
        OSError: the disk is full or the folder cannot be written; names `path`, which stays as it was.
    """
    if not processes.first():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def save_npz(path: Path, **arrays: Any) -> None:
    """Write named arrays (strings and numbers become 0-d arrays) to an npz file, atomically."""
    write_atomically(path, lambda file: np.savez(file, **arrays))


def load_npz(path: Path, *, stage: str) -> dict[str, np.ndarray]:
    """Read every array of an npz file without pickle.

    Args:
        path: the file.
        stage: the entry point that writes it, named in the error.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is truncated or not an npz file of plain arrays.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected {path}, found none; run python -m geovq_jax.{stage} first")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
            file.seek(-12, os.SEEK_END)  # of the end record, where the number of entries stands
            if int.from_bytes(file.read(2), "little") != len(arrays):
                raise ValueError(f"only the arrays {', '.join(arrays)}")
            return arrays
    except _DAMAGES as error:
        raise ValueError(f"expected an npz file in {path}, got {error}; rerun python -m geovq_jax.{stage}") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, atomically; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def hash_path(path: Path) -> str:
    """sha256 of a file, or of the relative names and contents of all files below a folder."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        if path.is_dir():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def file_hashes(workdir: Path, paths: Iterable[str]) -> dict[str, str]:
    """Name below the work directory -> sha256, of every file at or below some of its paths."""
    found = {}
    for path in (workdir / name for name in paths):
        for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
            with file.open("rb") as stream:
                found[file.relative_to(workdir).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def write_checksums(workdir: Path, hashes: Mapping[str, str]) -> None:
    """Store the sha256 of each file where `sha256sum -c SHA256SUMS` reads it."""
    text = "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))
    write_atomically(workdir / CHECKSUMS, lambda file: file.write(text.encode()))


def differences(workdir: Path, paths: Iterable[str]) -> list[str]:
    """What differs from the stored checksums, one entry a file: changed, missing, or not recorded.

    Args:
        workdir: a work directory.
        paths: files and folders in it of which every file should be recorded.

    Raises:
        FileNotFoundError: there are no checksums.
    """
    stored = workdir / CHECKSUMS
    if not stored.is_file():
        raise FileNotFoundError(f"expected {stored} of an earlier run, found none; run python -m geovq_jax.run first")
    lines = stored.read_bytes().decode(errors="replace").splitlines(keepends=True)
    entries = [re.fullmatch(r"([0-9a-f]{64})  ([^\r\n]+)\n", line) for line in lines]
    found = [f"{CHECKSUMS} (damaged)"] if not all(entries) else []
    recorded = {entry[2]: entry[1] for entry in entries if entry}
    present = file_hashes(workdir, {*paths, *recorded})
    for name in sorted(recorded.keys() | present.keys()):
        if name not in present:
            found.append(f"{name} (missing)")
        elif name not in recorded:
            found.append(f"{name} (not recorded)")
        elif present[name] != recorded[name]:
            found.append(f"{name} (changed)")
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
    """Hold the work directory for one run; the lock ends with its first process, however that ends.

    Raises:
        ValueError: another run holds it.
    """
    if not processes.first():
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"expected {workdir} to be free, but another run works in it; wait for it or choose another --workdir"
            ) from None
        yield


def read_manifest(workdir: Path) -> dict[str, Any]:
    """Stage name -> {"finished", "settings", "inputs", "outputs"}; empty for a new work directory.

    Raises:
        ValueError: a damaged manifest.
    """
    path = workdir / MANIFEST
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, got {error}; delete it to rerun every stage") from error
    if not isinstance(manifest, dict):
        raise ValueError(
            f"expected a JSON object in {path}, got {type(manifest).__name__}; delete it to rerun every stage"
        )
    return manifest


def write_manifest(workdir: Path, manifest: Mapping[str, Any]) -> None:
    """Store the manifest."""
    write_json(workdir / MANIFEST, manifest)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there; of several processes only the first does."""
    if not processes.first():
        return
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
