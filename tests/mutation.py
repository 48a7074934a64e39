"""Put an error into each of the core formulas and see that the tests fail: a sign, a factor and an index each.

    python tests/mutation.py

Every error is made in a temporary copy of the project, against which the named test files run; before that they must
pass unchanged. Prints a line an error, and ends with code 1 if one of them was not caught.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """An error: in a file of the package, one text in the place of another that stands there once."""

    name: str
    path: str
    right: str
    wrong: str


METRIC, NODES = "geometry/metric.py", "geometry/nodes.py"
EDGES, CURVES = "geometry/edges.py", "geometry/curves.py"
CHECKS, GEODESIC, CELLS = "geometry/checks.py", "geometry/geodesic.py", "geometry/cells.py"
DISTANCES, NEAREST, TABLES = "geometry/distances.py", "geometry/nearest.py", "quantization/code_tables.py"
GRAPH, CONTEXT, REFINEMENT = "geometry/graphs/graph.py", "quantization/context.py", "quantization/refinement.py"
SWAPS, ASSIGNMENT = "geometry/clustering/swap_kernels.py", "geometry/clustering/alternating.py"
TOKENIZER, BITS, FRECHET = "quantization/tokenizer.py", "evaluation/likelihood.py", "evaluation/sample_scores.py"
_GRAM = 'jnp.einsum("ip,jp->ij", leaf, leaf, precision'
_LOSS = "weights[node] * (fields.distance2[node] * fields.distance2[node] - near)"
_CHANGE = "saved[tag] -= weights[node] * (fields.distance2[node] * fields.distance2[node] - old)"
_FRECHET = "((mean_1 - mean_2) ** 2).sum() + (root_1**2).sum() + (root_2**2).sum() - 2.0 * shared"

# Formula -> test files that hold it, and its errors.
FORMULAS: dict[str, tuple[tuple[str, ...], tuple[Mutant, ...]]] = {
    "pull-back metric": (
        ("geometry/test_metric.py", "geometry/test_edges.py"),
        (
            Mutant("sign", METRIC, _GRAM, _GRAM.replace("jnp", "-jnp")),
            Mutant("factor", METRIC, _GRAM, _GRAM.replace("jnp", "2.0 * jnp")),
            Mutant("index", METRIC, "jnp.eye(z.shape[0], dtype=z.dtype)", "jnp.eye(z.shape[0], dtype=z.dtype)[::-1]"),
            Mutant("factor of a speed", METRIC, "return safe_norm(jax.jvp(", "return 0.5 * safe_norm(jax.jvp("),
            Mutant(
                "index of a batch",
                NODES,
                "jnp.eye(z.shape[1], dtype=z.dtype)",
                "jnp.eye(z.shape[1], dtype=z.dtype)[::-1]",
            ),
        ),
    ),
    "edge length": (
        ("geometry/test_edges.py",),
        (
            Mutant("sign", EDGES, "vectors = points[edges[:, 1]] - points", "vectors = points[edges[:, 1]] + points"),
            Mutant("factor", EDGES, "return 0.5 * jnp.sum(safe_sqrt", "return jnp.sum(safe_sqrt"),
            Mutant("index", EDGES, "vectors, metrics[edges], vectors", "vectors, metrics[edges[:, :1]], vectors"),
            Mutant("factor of the other plan", EDGES, "return 0.5 * jnp.sum(speeds", "return jnp.sum(speeds"),
            Mutant("index of the other plan", EDGES, "= ends[:, ::-1].ravel()", "= ends.ravel()"),
            Mutant("weight of a rule", CURVES, "1.0 / 6.0", "1.0 / 3.0"),
        ),
    ),
    "NaN and infinity": (
        ("geometry/test_not_finite.py", "geometry/graphs/test_bad_graphs.py"),
        (
            Mutant("root of NaN is zero", METRIC, "zero = (x <= 0) & jnp.isfinite(x)", "zero = ~(x > 0)"),
            Mutant("rank without NaN", METRIC, "unused = share <= 0", "unused = ~(share > 0)"),
            Mutant("nothing is refused", CHECKS, "    if not good.all():", "    if False:"),
            Mutant("infinity passes", CHECKS, "np.isfinite(values) if limit", "~np.isnan(values) if limit"),
            Mutant("large numbers pass", CHECKS, "np.abs(values) <= limit", "np.isfinite(values)"),
            Mutant("count of rows", CHECKS, ".all(axis=1))\n        found", ".any(axis=1))\n        found"),
            Mutant("metrics of nodes", NODES, 'return check_finite("metrics", measure', 'return ("metrics", measure'),
            Mutant("lengths of edges", EDGES, 'return check_finite("lengths", lengths)', "return lengths"),
            Mutant("metrics of cells", CELLS, 'return check_finite("metrics", metrics)', "return metrics"),
            Mutant("converged at infinity", GEODESIC, "(converged > 0) & jnp.isfinite(energy)", "converged > 0"),
            Mutant("parts of a graph", GRAPH, "    _check_parts(graph, remedy)\n", ""),
        ),
    ),
    "NaN and infinity in codes": (
        ("quantization/test_broken_decoders.py",),
        (
            Mutant("codes", TOKENIZER, '    check_finite("lengths", distances.reshape(-1))\n', ""),
            Mutant("one entry of a latent", TOKENIZER, "[~np.isfinite(through).all(axis=1)] = np.nan", "[:0] = np.nan"),
            Mutant("one speed of a latent", TOKENIZER, "(asked & ~np.isfinite(through)).any(axis=1)", "[]"),
            Mutant("images in context", CONTEXT, '    check_finite("errors of the images", found[1])\n', ""),
            Mutant("metrics at centres", REFINEMENT, '        check_finite("metrics at centres", scale)\n', ""),
            Mutant("gradients", REFINEMENT, '    check_finite("error gradients of centres", gradient)\n', ""),
        ),
    ),
    "gain of a swap": (
        ("geometry/clustering/test_swaps.py",),
        (
            Mutant("sign", SWAPS, "moved = weights[node] * (near - old)", "moved = weights[node] * (near + old)"),
            Mutant("sign of the second", SWAPS, _CHANGE, _CHANGE.replace("-=", "+=")),
            Mutant("factor", SWAPS, f"loss[tag] += {_LOSS}", f"loss[tag] += 2.0 * {_LOSS}"),
            Mutant("index", SWAPS, _LOSS, _LOSS.replace("distance2", "distance1", 1)),
            Mutant("index of the medoid", SWAPS, "partner[i] = tag", "partner[i] = tag - 1"),
            Mutant("gain left out", SWAPS, "change[i] = gain + best", "change[i] = best"),
        ),
    ),
    "geodesic distance": (
        ("geometry/test_distances.py",),
        (
            Mutant("sign", DISTANCES, "return -jax.scipy", "return jax.scipy"),
            Mutant("index of the second step", DISTANCES, "stiffness, x)[1:-1])[0]", "stiffness, x)[:-2])[0]"),
            Mutant("factor", DISTANCES, "derivatives = 2.0 * legendre", "derivatives = legendre"),
            Mutant("index", DISTANCES, "stiffness[1:-1, 1:-1], jnp.ones", "stiffness[:-2, 1:-1], jnp.ones"),
            Mutant("bound", NEAREST, "& (below < best)", "& (below > best)"),
            Mutant("certificate", NEAREST, "(at_least >= (distance", "(at_least <= (distance"),
            Mutant("exponent", NEAREST, "_between(below, above, exponents.least)", "_between(below, above, 1.0)"),
            Mutant("ends of curves", NEAREST, "(centres[columns], z[rows]), [", "(z[rows], centres[columns]), ["),
        ),
    ),
    "nearest medoid": (
        ("quantization/test_tokenizer.py", "geometry/clustering/test_kmedoids.py"),
        (
            Mutant("sign", TOKENIZER, "through = lengths + tokenizer", "through = lengths - tokenizer"),
            Mutant("factor", TOKENIZER, "lengths = 0.5 * (_norms", "lengths = (_norms"),
            Mutant(
                "index",
                TOKENIZER,
                "best = through.argmin(axis=1)[:, None]\n        totals",
                "best = lengths.argmin(axis=1)[:, None]\n        totals",
            ),
            Mutant("sign of the bound", TOKENIZER, "steps) + tokenizer.dist", "steps) - tokenizer.dist"),
            Mutant("factor of vectors", TOKENIZER, "+ 0.5 * own", "+ own"),
            Mutant("index of vectors", TOKENIZER, "np.take_along_axis(steps, promise[:, :, None], axis=1)", "steps"),
            Mutant("index of a cell", ASSIGNMENT, "labels = place[source]", "labels = np.roll(place[source], 1)"),
            Mutant("power of the cost", ASSIGNMENT, "float((distance**2) @ weights", "float(distance @ weights"),
        ),
    ),
    "codes by bits": (
        ("quantization/test_code_tables.py", "quantization/test_context.py"),
        (
            Mutant("sign", CONTEXT, "promise + weight * candidates", "promise - weight * candidates"),
            Mutant("factor of the objective", CONTEXT, "value + weight * bits", "value + 2.0 * weight * bits"),
            Mutant(
                "index of the cell below",
                TABLES,
                "tables.norm[cells + width, at(1, -1)]",
                "tables.norm[cells, at(1, -1)]",
            ),
            Mutant(
                "index of the cell to the right",
                TABLES,
                "tables.norm[cells + 1, :, at(-1, 1)]",
                "tables.norm[cells, :, at(-1, 1)]",
            ),
            Mutant(
                "norm left out",
                TABLES,
                "return tables.norm[places, left, above] - own",
                "return -own",
            ),
            Mutant(
                "places together", TABLES, "(counts.place + POOLED * pooled)", "(0.0 * counts.place + POOLED * pooled)"
            ),
        ),
    ),
    "bits of codes, distance of samples": (
        ("evaluation/test_likelihood.py", "evaluation/test_sample_scores.py"),
        (
            Mutant("sign", BITS, "bits = -log_prob", "bits = log_prob"),
            Mutant("factor", BITS, "/ np.log(2)", "/ np.log(10)"),
            Mutant("index", BITS, "Likelihood(per_image / t, per_image", "Likelihood(per_image / n, per_image"),
            Mutant("sign of a mean", FRECHET, "((mean_1 - mean_2) ** 2)", "((mean_1 + mean_2) ** 2)"),
            Mutant("factor of the shared part", FRECHET, "- 2.0 * shared, 0.0", "- shared, 0.0"),
            Mutant("index of a root", FRECHET, _FRECHET, _FRECHET.replace("root_2**2", "root_1**2")),
        ),
    ),
}


def passes(copy: Path, tests: tuple[str, ...]) -> bool:
    """Whether the test files pass in a copy of the project."""
    command = [sys.executable, "-m", "pytest", "-x", "-n0", "-m", "not slow", "-p", "no:cacheprovider"]
    files = [f"tests/{name}" for name in tests]
    done = subprocess.run([*command, *files], cwd=copy, env=os.environ, capture_output=True, text=True)
    if done.returncode > 1:  # a signal, such as a segmentation fault, is a failure as well
        raise SystemExit(f"expected the tests to run, got {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def copied(directory: Path) -> Path:
    """A copy of the project without compiled files: kernels are compiled anew, callers of a changed one too."""
    copy = directory / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    unwanted = shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc")
    for name in ("geovq_jax", "tests", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def main() -> None:
    """Make every error, run the tests, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formula", choices=FORMULAS, default=None, help="only this one")
    chosen = parser.parse_args().formula
    missed, total = 0, 0
    with tempfile.TemporaryDirectory() as directory:
        for formula, (tests, mutants) in FORMULAS.items():
            if chosen not in (None, formula):
                continue
            if not passes(copied(Path(directory)), tests):
                raise SystemExit(f"expected {', '.join(tests)} to pass unchanged, but they fail")
            for mutant in mutants:
                copy = copied(Path(directory))
                path = copy / "geovq_jax" / mutant.path
                text = path.read_text()
                if text.count(mutant.right) != 1:
                    raise SystemExit(
                        f"expected {mutant.right!r} once in {mutant.path}, got it otherwise; mend the list"
                    )
                path.write_text(text.replace(mutant.right, mutant.wrong))
                caught = not passes(copy, tests)
                missed, total = missed + (not caught), total + 1
                print(f"{formula}: {mutant.name}: {'caught' if caught else 'NOT CAUGHT'}", flush=True)
    print(f"{total - missed} of {total} errors caught")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
