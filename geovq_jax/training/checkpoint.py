"""Checkpoints of one pytree with JSON metadata; the only module that imports orbax.

A checkpoint directory holds numbered saves. A save is written under a temporary name, renamed, and only then are the
older ones removed, so a process killed at any moment leaves the newest complete save readable. Each save holds
the hashes of its files: a save whose bytes changed on disk is not loaded.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from geovq_jax import mesh

_CHECKSUMS = "checksums.json"


def _saves(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdigit() and path.is_dir())


def _describe(tree: PyTree) -> dict[str, str]:
    """Path of each leaf -> its dtype and shape, as "float32[3,4]"."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _hashes(path: Path) -> dict[str, str]:
    """Name -> sha256 of every file of a save but the hashes themselves."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file != path / _CHECKSUMS)
    return {file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _newest(directory: str | Path) -> Path:
    """The newest complete save, with its hashes written; raises if its files differ from them."""
    root = Path(directory).absolute()
    saves = _saves(root)
    if not saves:
        raise FileNotFoundError(f"expected a checkpoint in {root}, found none; run the training that writes it")
    path = root / str(saves[-1])
    stored = path / _CHECKSUMS
    if not stored.is_file():
        return path
    try:
        expected = json.loads(stored.read_text())
    except ValueError:
        expected = {_CHECKSUMS: "damaged"}
    found = _hashes(path)
    differing = [name for name in expected if found.get(name) != expected[name]] if isinstance(expected, dict) else []
    if differing or expected != found:
        raise ValueError(
            f"expected checkpoint {path} as it was written, got other bytes in {(differing or [_CHECKSUMS])[0]}; "
            f"remove {path.parent.parent} and rerun"
        )
    return path


def exists(directory: str | Path) -> bool:
    """Whether the directory holds a complete save."""
    return bool(_saves(Path(directory).absolute()))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the traceback that orbax's threads log for an error that `save` raises anyway."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def save(directory: str | Path, tree: PyTree, metadata: dict[str, Any] | None = None) -> None:
    """Write a pytree of arrays, typed PRNG keys and NamedTuples as the newest save, then remove the older ones.

    `metadata` holds JSON values. OSError if it cannot be written; the earlier save stays.
    """
    path = Path(directory).absolute()
    path.mkdir(parents=True, exist_ok=True)
    old = _saves(path)
    new = path / str(old[-1] + 1 if old else 0)
    try:
        with _quiet():
            ocp.save(new, tree, custom_metadata={"leaves": _describe(tree), "metadata": metadata})
        if jax.process_index() == 0:
            (path / _CHECKSUMS).write_text(json.dumps(_hashes(new)))
            os.replace(path / _CHECKSUMS, new / _CHECKSUMS)
    except Exception as error:  # the storage layers raise many types
        for part in path.glob(f"{new.name}*"):
            shutil.rmtree(part, ignore_errors=True)
        (path / _CHECKSUMS).unlink(missing_ok=True)
        full = os.strerror(errno.ENOSPC)
        reason = full if full in str(error) else str(error).partition("\n")[0][:200] or type(error).__name__
        raise OSError(f"expected to write checkpoint {new}, got {reason}; free disk space") from error
    if jax.process_index() == 0:
        for stale in path.iterdir():
            if stale != new:
                shutil.rmtree(stale, ignore_errors=True)


def load_metadata(directory: str | Path) -> dict[str, Any] | None:
    """Metadata of the newest save; FileNotFoundError if there is none, ValueError if it is damaged."""
    return ocp.metadata(_newest(directory)).custom_metadata["metadata"]


def load(directory: str | Path, abstract_state: PyTree) -> PyTree:
    """Read the newest save of a directory, bit for bit as saved.

    `abstract_state` holds arrays or jax.ShapeDtypeStruct in the expected structure; a leaf's sharding is kept, leaves
    without one go to the default device, or to every device of the mesh. FileNotFoundError if there is no save,
    ValueError if its leaves are not the expected ones, or it is damaged.
    """
    path = _newest(directory)
    stored, expected = ocp.metadata(path).custom_metadata["leaves"], _describe(abstract_state)
    for name in sorted(stored.keys() | expected.keys()):
        if stored.get(name) != expected.get(name):
            raise ValueError(
                f"expected {name} {expected.get(name, 'absent')}, got {stored.get(name, 'absent')} "
                f"in checkpoint {path}; load it with the settings that wrote it, or remove it"
            )
    device = mesh.replicated() or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def target(leaf: jax.Array | jax.ShapeDtypeStruct | np.ndarray) -> jax.ShapeDtypeStruct:
        sharding = getattr(leaf, "sharding", None) or device
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return ocp.load(path, jax.tree.map(target, abstract_state))
