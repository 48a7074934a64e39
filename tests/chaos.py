"""Kill the smoke pipeline at random moments, let it continue, and compare its figures with those of an unbroken run.

    python tests/chaos.py --kills=100

Every fourth kill is a SIGTERM, the others are SIGKILLs. After each, every npz and JSON file of the work directory must
be whole; whenever a run comes to its end, report/metrics.json must hold the bits of the unbroken run and --verify must
find every file as it was written. Compiled programs are cached on disk, so that a run is short and kills fall
everywhere. Exit code 1 and one line at the first difference. A later call with the same --directory uses its unbroken
run again.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]


def command(workdir: Path, *flags: str) -> list[str]:
    """The smoke pipeline in a work directory."""
    return [sys.executable, "-m", "geovq_jax.run", f"--workdir={workdir}", *flags]


def environment(directory: Path) -> dict[str, str]:
    """Compiled programs are kept in the directory, however small."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(directory / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return {**os.environ, **cache, "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


def check_whole(workdir: Path) -> None:
    """Read every array and every JSON file that stands under its own name."""
    for path in workdir.rglob("*"):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                for name in archive.files:
                    archive[name]
        elif path.suffix == ".json" and path.parent in (workdir, workdir / "report"):
            json.loads(path.read_text())


def compare(workdir: Path, unbroken: Path, settings: dict[str, str]) -> None:
    """Figures bit for bit, arrays value for value, every file as it was written."""
    names = ["report/metrics.json", "scores.json"]
    for name in names:
        if (workdir / name).read_bytes() != (unbroken / name).read_bytes():
            raise SystemExit(f"expected the bits of the unbroken run, got others in {workdir / name}")
    for path in sorted(unbroken.rglob("*.npz")):
        with np.load(path) as one, np.load(workdir / path.relative_to(unbroken)) as other:
            if any(one[name].tobytes() != other[name].tobytes() for name in one.files):
                raise SystemExit(f"expected the arrays of {path}, got others in {workdir}")
    subprocess.run(command(workdir, "--verify"), cwd=ROOT, env=settings, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Kill, continue, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after so many, with fewer kills")
    parser.add_argument("--config", default="configs/digits.py:smoke")
    parser.add_argument("--directory", type=Path, default=None, help="where to work; a temporary folder by default")
    options = parser.parse_args()
    directory = (options.directory or Path(tempfile.mkdtemp())).absolute()
    settings, config = environment(directory), f"--config={options.config}"
    unbroken, workdir = directory / "unbroken", directory / "killed"
    started = time.monotonic()
    subprocess.run(command(unbroken, config), cwd=ROOT, env=settings, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(workdir, ignore_errors=True)
    rng, kills, whole, longest = random.Random(options.seed), 0, 0, 60.0
    while kills < options.kills and time.monotonic() - started < 60 * options.minutes:
        begun, ended = time.monotonic(), None
        process = subprocess.Popen(
            command(workdir, config), cwd=ROOT, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            process.wait(rng.uniform(0.0, longest))
        except subprocess.TimeoutExpired:
            ended = signal.SIGTERM if kills % 4 == 3 else signal.SIGKILL
            process.send_signal(ended)
        message = (process.communicate()[1] or b"").decode()
        if process.returncode == 0:
            compare(workdir, unbroken, settings)
            whole, longest = whole + 1, max(2.0, min(longest, time.monotonic() - begun))
            shutil.rmtree(workdir)
            continue
        if ended is None or process.returncode not in (-ended, 143 if ended == signal.SIGTERM else -ended):
            raise SystemExit(f"expected the end of the run or of its process, got {process.returncode}: {message}")
        kills += 1
        check_whole(workdir)
    subprocess.run(command(workdir, config), cwd=ROOT, env=settings, check=True, stdout=subprocess.DEVNULL)
    compare(workdir, unbroken, settings)
    minutes = (time.monotonic() - started) / 60
    print(f"{kills} kills, {whole + 1} runs came to their end, all in the bits of the unbroken run; {minutes:.0f} min")


if __name__ == "__main__":
    main()
