"""Long row-wise computations in shards on disk: an interrupted computation repeats at most one shard.

A folder belongs to one computation. Its `shards.json` holds the key, hashes and settings on which every shard depends,
and the hash of each finished shard; under another key the folder is emptied. Folders may be deleted at any time.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from geovq_jax import processes, workers
from geovq_jax import workdir as files

MANIFEST = "shards.json"
Arrays = Mapping[str, np.ndarray]


def run_shards(
    folder: Path,
    key: Mapping[str, Any],
    num_rows: int,
    compute: Callable[[slice], Arrays],
    *,
    shard_rows: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Named arrays [num_rows, ...], computed shard by shard; finished shards on disk are read.

    Within `workers.use_workers` shards are computed by the workers. They do not depend on the number of workers.

    Args:
        folder: folder of this computation alone.
        key: JSON values that name everything the result depends on; hashes for arrays.
        num_rows: number of rows n.
        compute: rows -> arrays with one entry per row (ValueError otherwise), a function of the rows alone; for workers
            a function of a module, or `partial` of one.
        shard_rows: rows per shard; the last one may be shorter.
        progress: called with (rows done, n) after each new shard.
    """
    if num_rows < 0 or shard_rows < 1:
        raise ValueError(f"expected num_rows >= 0 and shard_rows >= 1, got {num_rows} and {shard_rows}; correct them")
    whole_key: dict[str, Any] = json.loads(json.dumps({**key, "rows": num_rows, "shard_rows": shard_rows}))
    processes.barrier(f"{folder.name}: before")
    done = _finished(folder, whole_key)
    processes.barrier(f"{folder.name}: read")
    if not done:
        files.remove(folder)
    parts = {
        f"{start // shard_rows:06d}.npz": slice(start, min(start + shard_rows, num_rows))
        for start in range(0, max(num_rows, 1), shard_rows)  # an empty shard still names the arrays
    }
    missing = [(name, rows) for name, rows in parts.items() if name not in done]
    finished = num_rows - sum(rows.stop - rows.start for _, rows in missing)
    for (name, rows), digest in workers.map_tasks(partial(_write_shard, folder, compute), missing, folder):
        if workers.are_used() and not (folder / name).is_file():
            raise ValueError(f"expected {name} in {folder} from a worker, found none; let workers share this folder")
        done = done | {name: digest}
        files.write_json(folder / MANIFEST, {"key": whole_key, "shards": done})
        finished += rows.stop - rows.start
        if progress is not None:
            progress(finished, num_rows)
    processes.barrier(f"{folder.name}: written")
    first = files.load_npz(folder / next(iter(parts)), stage="run")
    return {field: _joined(folder, list(parts), field, array, num_rows) for field, array in first.items()}


def _write_shard(folder: Path, compute: Callable[[slice], Arrays], name: str, rows: slice) -> str:
    """Computes and writes a shard; its hash, in the process that writes."""
    part = {field: np.asarray(array) for field, array in compute(rows).items()}
    lengths = {len(array) for array in part.values()}
    if lengths != {rows.stop - rows.start}:
        raise ValueError(
            f"expected {rows.stop - rows.start} rows in a shard of {folder}, got {lengths}; delete the folder"
        )
    files.save_npz(folder / name, **part)
    return files.file_hashes(folder, [name])[name] if processes.is_main() else ""


def _joined(folder: Path, names: Sequence[str], field: str, first: np.ndarray, num_rows: int) -> np.ndarray:
    """The rows of an array of all shards: in memory, or, of `workdir.MAPPED` bytes and more, mapped from a file."""
    parts = (files.load_npz(folder / name, stage="run")[field] for name in names)
    size = first.dtype.itemsize * num_rows * int(np.prod(first.shape[1:]))
    if size < files.MAPPED:
        return np.concatenate(list(parts))
    with tempfile.TemporaryFile(dir=folder) as file:  # the mapping outlives the file's name
        for part in parts:
            part.tofile(file)
        file.flush()
        return np.memmap(file, first.dtype, "r", shape=(num_rows, *first.shape[1:])).view(np.ndarray)


def _finished(folder: Path, key: dict[str, Any]) -> dict[str, str]:
    """Name -> hash of the shards that are on disk as they were written, under this key."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        shards = dict(manifest["shards"]) if manifest["key"] == key else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    found = files.file_hashes(folder, [name for name in shards if (folder / name).is_file()])
    return {name: digest for name, digest in found.items() if shards[name] == digest}


def recorded_hashes(root: Path) -> dict[str, str]:
    """Path below a folder -> sha256 of every shard, as recorded when it was written, and of the records themselves."""
    hashes: dict[str, str] = {}
    for manifest in root.rglob(MANIFEST):
        folder = manifest.parent.relative_to(root).as_posix()
        hashes |= files.file_hashes(root, [f"{folder}/{MANIFEST}"])
        try:
            shards = dict(json.loads(manifest.read_text())["shards"])
        except (ValueError, KeyError, TypeError):
            continue  # damaged: its shards will be computed again
        hashes |= {f"{folder}/{name}": digest for name, digest in shards.items()}
    return hashes
