"""Time and memory against the number of points, per step of benchmarks/ten_million.py, and exponents.

    python benchmarks/growth.py [--sizes 10000 ... 1000000] [--workdir runs/growth] [--large runs/ten-million]

Coresets of n/10 draws, K = 64 at every size, each step in a process of its own, on the cores that this process may use;
metrics of the nodes (decoder 16-128-784) besides. Steps that were measured before are not repeated. --large adds the
times of a finished `kmedoids.py ten-million`, whose K is 1,024; all its steps share a process, so that their memory is
left out. Exponents are least-squares slopes of log CPU seconds, and of log memory above that of the imports, from
300,000 points on, where compilation no longer matters.
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from geovq_jax.figures.style import MUTED, figure_png, new_figure, styled

CLUSTERS, STEPS = 64, ("points", "coreset", "metrics", "graph", "clustering", "codes")
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
LARGE = 300_000  # points from which on exponents are fitted
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
Spent = dict[str, dict[str, float]]


def write_metrics(path: Path, note) -> None:
    """Metrics of the nodes, in shards, in float32."""
    import jax
    import jax.numpy as jnp
    from dask_workers import decode
    from ten_million import load_nodes

    from geovq_jax.shards import run_shards
    from geovq_jax.stages import graph

    nodes, rng = load_nodes(path.parent), np.random.default_rng(0)
    weights = [jnp.asarray(rng.normal(size=size) / 10, jnp.float32) for size in ((16, 128), (128, 784))]
    compute = partial(graph._metrics_of_rows, jax.tree_util.Partial(decode, weights), nodes, "own", None)
    run_shards(path.parent / "metrics", {}, len(nodes), compute, shard_rows=graph.METRIC_SHARD, progress=note)
    path.touch()


def measure(n: int, step: str, workdir: Path) -> None:
    """One step in this process, into `measured.json` of the size's folder."""
    from ten_million import read_record, run_step, run_steps

    if step == "metrics":
        measured = read_record(workdir, {"nodes": n, "draws": n // 10, "clusters": CLUSTERS})
        run_step(workdir, measured, step, workdir / "metrics.done", write_metrics)
    else:
        run_steps(n, n // 10, CLUSTERS, workdir, [step])


def slope(sizes: np.ndarray, values: np.ndarray) -> float:
    """Exponent of a power law; NaN for fewer than two sizes."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0]) if len(sizes) > 1 else float("nan")


def series(found: dict[int, Spent], step: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Sizes at which a quantity of a step was measured, and its values."""
    sizes = [n for n, spent in found.items() if name in spent.get(step, {})]
    return np.array(sizes), np.array([found[n][step][name] for n in sizes])


def exponents(found: dict[int, Spent], step: str, base: float) -> tuple[float, ...]:
    """Of CPU seconds and of memory above that of the imports."""
    measured = [(*series(found, step, name), floor) for name, floor in (("cpu", 0.0), ("peak_gib", base))]
    return tuple(slope(sizes[sizes >= LARGE], values[sizes >= LARGE] - floor) for sizes, values, floor in measured)


def cell(spent: dict[str, float]) -> str:
    memory = f"; {spent['peak_gib']:.2f}" if "peak_gib" in spent else ""
    return f"{spent['cpu']:.1f}{memory}"


@styled
def draw(found: dict[int, Spent], base: float) -> Figure:
    """Both against n on logarithmic axes, a line per step, its exponent in the legend."""
    figure, axes = new_figure(1, 2, height=3.6)
    for step in STEPS:
        for axis, name, exponent in zip(axes, ("cpu", "peak_gib"), exponents(found, step, base), strict=True):
            label = step if np.isnan(exponent) else f"{step}, n^{exponent:.2f}"
            axis.plot(*series(found, step, name), ".-", label=label)
    axes[1].axhline(base, color=MUTED, linestyle=":", label="imports")
    for axis, title in zip(axes, ("CPU seconds", "peak memory, GiB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="points", title=title)
        axis.yaxis.set_major_formatter(PLAIN)
        axis.yaxis.set_minor_formatter(PLAIN if title.startswith("peak") else NullFormatter())
        axis.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--workdir", type=Path, default=Path("runs/growth"))
    parser.add_argument("--large", type=Path, help="work directory of a finished `kmedoids.py ten-million`")
    parser.add_argument("--figure", type=Path, default=Path("docs/images/growth.png"))
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        measure(arguments.sizes[0], arguments.step, arguments.workdir)
        return
    found: dict[int, Spent] = {}
    for n in arguments.sizes:
        folder = arguments.workdir / str(n)
        for step in STEPS:
            command = [sys.executable, __file__, f"--sizes={n}", f"--workdir={folder}", f"--step={step}"]
            subprocess.run(command, check=True)
        found[n] = json.loads((folder / "measured.json").read_text())["steps"]
    if arguments.large:
        measured = json.loads((arguments.large / "measured.json").read_text())
        found[measured["key"]["nodes"]] = {step: {"cpu": spent["cpu"]} for step, spent in measured["steps"].items()}
    base = min(spent["peak_gib"] for steps in found.values() for spent in steps.values() if "peak_gib" in spent)
    print(f"| step | {' | '.join(f'{n:,}' for n in found)} | n^ |\n|---|{(len(found) + 1) * '---|'}")
    for step in STEPS:
        cells = [spent.get(step) for spent in found.values()]
        text = " | ".join("" if one is None else cell(one) for one in cells)
        print(f"| {step} | {text} | {'; '.join(f'{value:.2f}' for value in exponents(found, step, base))} |")
    arguments.figure.write_bytes(figure_png(draw(found, base)))


if __name__ == "__main__":
    main()
