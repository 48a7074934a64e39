"""Dask workers against one process: metrics, neighbours and codes by shards, seconds and equality of files.

    python benchmarks/dask_workers.py [--workers 1 2] [--scale 1] [--weak]

One process on one core, then each number of workers, a core each, with the functions and shard sizes of the stages:
metrics of 60,000 latents (d = 16, decoder 16-128-784), 15 neighbours of 1,000,000 points of the manifold of
benchmarks/kmedoids.py, and codes of as many points through 200,000 nodes. Workers have computed a shard of each before.
`--scale` multiplies all sizes; with `--weak` also the number of workers does, and the nodes of the search stay.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from kmedoids import manifold

from geovq_jax import workers
from geovq_jax.geometry.graphs.knn import prepare_search
from geovq_jax.quantization.assignment import Quantizer
from geovq_jax.quantization.tokenizer import Tokenizer
from geovq_jax.shards import run_shards
from geovq_jax.stages import codes, graph

LATENTS, POINTS, NODES = 60_000, 1_000_000, 200_000


def decode(weights, z):
    return jax.nn.sigmoid(jax.nn.silu(z @ weights[0]) @ weights[1])


def parts(scale: float, factor: int) -> Iterator[tuple[str, int, int, Callable]]:
    """Name, rows, rows per shard and function of each part; `factor` multiplies rows, not what is searched."""
    points = manifold(int(scale * POINTS)).astype(np.float32)
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(rng.normal(size=size) / 10, jnp.float32) for size in ((16, 128), (128, 784))]
    decoder = jax.tree_util.Partial(decode, weights)
    latents = np.resize(points, (factor * int(scale * LATENTS), 16))
    yield "metrics", len(latents), graph.METRIC_SHARD, partial(graph._metrics_of_rows, decoder, latents, "own", None)
    asked = factor * len(points)
    nearest = partial(graph._neighbours_of_rows, prepare_search(points), 15, 15, "kdtree", None)
    yield "neighbours", asked, graph.NEIGHBOUR_SHARD, partial(repeated, nearest, len(points))
    nodes = points[:: POINTS // NODES]
    labels = rng.integers(1024, size=len(nodes))
    tokenizer = Tokenizer(nodes, None, labels, rng.random(len(nodes)))
    quantizer = Quantizer("geodesic", "graph", nodes[:1024], None, tokenizer)
    settings = {"neighbours": 15, "context": "own"}
    assigned = partial(codes._assigned_rows, quantizer, prepare_search(nodes), points, decoder, None, settings, None)
    yield "assignment", asked, codes.ASSIGN_SHARD, partial(repeated, assigned, len(points))


def repeated(compute: Callable, period: int, rows: slice) -> dict[str, np.ndarray]:
    """Rows beyond a period are those of the first: of weak scaling."""
    start = rows.start % period
    stop = start + rows.stop - rows.start
    if stop <= period:
        return compute(slice(start, stop))
    first, second = compute(slice(start, period)), compute(slice(0, stop - period))
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def measure(folder: Path, scale: float, factor: int) -> dict[str, tuple[float, float]]:
    """Seconds on the clock and CPU seconds of each part, without a first shard or two that compile."""
    seconds = {}
    for name, rows, shard_rows, compute in parts(scale, factor):
        run_shards(folder / f"first_{name}", {}, 4 * shard_rows, compute, shard_rows=shard_rows)
        wall, cpu = time.monotonic(), cpu_seconds()
        run_shards(folder / name, {}, rows, compute, shard_rows=shard_rows)
        seconds[name] = time.monotonic() - wall, cpu_seconds() - cpu
        print(f"  {name}: {rows:,} rows, {seconds[name][0]:.1f} s, {seconds[name][1]:.1f} CPU-s", flush=True)
    return seconds


def cpu_seconds() -> float:
    """CPU seconds of this process and of the workers so far."""
    client = workers._client.get()
    return time.process_time() + sum(client.run(time.process_time).values() if client else ())


def same(one: Path, other: Path) -> bool:
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--weak", action="store_true", help="rows in proportion to the number of workers")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        (arguments.alone / "seconds.json").write_text(json.dumps(measure(arguments.alone, arguments.scale, 1)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root, cores = Path(folder), workers._cores()
        (root / "alone").mkdir()
        command = [sys.executable, __file__, f"--scale={arguments.scale}", f"--alone={root / 'alone'}"]
        print("one process, one core", flush=True)
        subprocess.run(command, check=True, preexec_fn=lambda: os.sched_setaffinity(0, cores[:1]))
        alone = json.loads((root / "alone" / "seconds.json").read_text())
        (root / "alone" / "seconds.json").unlink()
        for count in arguments.workers:
            workers._cores = lambda count=count: cores[:count]
            start = time.monotonic()
            with workers.use_workers("local"):
                print(f"{count} workers, started in {time.monotonic() - start:.1f} s", flush=True)
                found = measure(root / "together", arguments.scale, count if arguments.weak else 1)
            for name, (wall, cpu) in found.items():
                equal = "" if arguments.weak else f", equal {same(root / 'alone' / name, root / 'together' / name)}"
                more = count if arguments.weak else 1
                print(
                    f"{name}: {alone[name][0]:.1f} s alone, {wall:.1f} s, {more * alone[name][0] / wall:.2f} times the "
                    f"speed, {cpu / more / alone[name][1]:.2f} times the CPU time{equal}",
                    flush=True,
                )
            shutil.rmtree(root / "together")


if __name__ == "__main__":
    from dask_workers import main as run  # workers find functions of a module by name, those of a script they do not

    run()
