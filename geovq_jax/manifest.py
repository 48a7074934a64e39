"""Records of a run in its work directory: resolved configuration, finished stages, checksums of every file.

`stages.json` holds for each stage its settings and the hashes of what it read and wrote; `SHA256SUMS` and the hash of a
folder are derived from the same hashes of single files.
"""

import hashlib
import importlib.metadata
import json
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from geovq_jax import shards
from geovq_jax.config import plain
from geovq_jax.workdir import file_hashes, write_atomically, write_json

MANIFEST = "stages.json"
CHECKSUMS = "SHA256SUMS"
RECORDS = ("config.json", "metrics.jsonl", MANIFEST)


def describe(config: ConfigDict) -> dict[str, Any]:
    """The content of config.json: resolved configuration, versions of the numerical packages, git state, platform."""
    packages = ("geovq-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")
    return {
        "config": plain(config),
        "versions": {p: importlib.metadata.version(p) for p in packages} | {"python": platform.python_version()},
        "git": git_state(Path(__file__).parents[1]),
        "platform": platform.platform(),
    }


def git_state(checkout: Path) -> dict[str, Any] | None:
    """Commit of a checkout and whether its tracked files differ from it; None outside a checkout."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        if Path(ask("rev-parse", "--show-toplevel")) != checkout.resolve():
            return None
        changed = ask("status", "--porcelain", "--untracked-files=no")
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None


def differences(workdir: Path, paths: Iterable[str]) -> list[str]:
    """Files of `paths` and of the stored checksums that are changed, missing or not recorded, one entry per file.

    Raises FileNotFoundError if there are no checksums.
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


def read_manifest(workdir: Path) -> dict[str, Any]:
    """Stage name -> {"finished", "settings", "inputs", "outputs"}; empty for a new work directory.

    Raises ValueError if it is damaged.
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
    for stage, record in manifest.items():
        parts = record if isinstance(record, dict) else {"record": record}
        wrong = [name for name, part in parts.items() if not isinstance(part, dict)]
        if wrong:
            raise ValueError(
                f"expected JSON objects for stage {stage} in {path}, got {type(parts[wrong[0]]).__name__} as "
                f"{wrong[0]}; delete it to rerun every stage"
            )
    return manifest


def write_manifest(workdir: Path, manifest: Mapping[str, Any]) -> None:
    """Store the manifest."""
    write_json(workdir / MANIFEST, manifest)


def tree_hashes(paths: Iterable[str], files: Mapping[str, str]) -> dict[str, str]:
    """Hash of each file or folder among `paths` that exists, from the sha256 of every file (see `file_hashes`).

    The hash of a folder is computed from the names and hashes of its files, that of a file from its hash.
    """
    found = {}
    for path in paths:
        below = {name: digest for name, digest in files.items() if name == path or name.startswith(f"{path}/")}
        digest = hashlib.sha256()
        for name in sorted(below):
            if name != path:
                digest.update(name.removeprefix(f"{path}/").encode() + b"\0")
            digest.update(bytes.fromhex(below[name]))
        if below:
            found[path] = digest.hexdigest()
    return found


def store_checksums(workdir: Path, manifest: Mapping[str, Any]) -> None:
    """Write SHA256SUMS of the files of finished stages and of shards, as recorded then, and of the records."""
    hashes = file_hashes(workdir, RECORDS)
    for record in manifest.values():
        hashes |= record.get("files", {})
    hashes |= {f"shards/{name}": digest for name, digest in shards.recorded_hashes(workdir / "shards").items()}
    text = "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))
    write_atomically(workdir / CHECKSUMS, lambda file: file.write(text.encode()))


def store_config(workdir: Path, config: ConfigDict) -> None:
    """Write config.json of this call; the recorded devices of the last stage are kept."""
    earlier = read_record(workdir)
    devices = {"jax": earlier["jax"]} if "jax" in earlier else {}
    write_json(workdir / "config.json", describe(config) | devices)


def store_devices(workdir: Path) -> None:
    """Record backend and devices in config.json, only once a stage runs, since querying the devices claims them."""
    import jax

    devices = [str(device) for device in jax.devices()]
    record = read_record(workdir)
    if record:
        record["jax"] = {"backend": jax.default_backend(), "devices": devices, "processes": jax.process_count()}
        write_json(workdir / "config.json", record)


def read_record(workdir: Path) -> dict[str, Any]:
    """config.json as stored; empty where there is none or it is damaged."""
    try:
        return dict(json.loads((workdir / "config.json").read_text()))
    except (OSError, ValueError):
        return {}
