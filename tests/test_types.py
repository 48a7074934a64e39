"""Type checkers see what an installed geovq_jax returns."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """\
import jax
import jax.numpy as jnp
import numpy as np

import geovq_jax
from geovq_jax import geometry


def decode(z: jax.Array) -> jax.Array:
    return jnp.stack([z[0], z[1], z[0] ** 2 + z[1] ** 2])


points = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
clusters = geometry.kmedoids(geometry.knn_graph(points, 10, decode_fn=decode), 4, seed=0)
run = geovq_jax.load_run("runs/mnist5k")
reveal_type(geometry.pullback_metric(decode, jnp.zeros(2)))  # Array
reveal_type(geometry.geodesic(decode, jnp.zeros(2), jnp.ones(2), num_points=8).curve)  # Array
reveal_type(clusters)  # KMedoids
reveal_type(clusters.medoids)  # ndarray
reveal_type(clusters.converged)  # bool
reveal_type(run.codebook.vectors)  # ndarray
reveal_type(run.encode(run.dataset.test.images[:8]))  # ndarray
"""


@pytest.mark.slow
def test_a_program_under_mypy_strict_sees_records_and_arrays(tmp_path):
    pytest.importorskip("mypy", reason="the extra dev is not installed")
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # searched like site-packages: only packages with py.typed count
        capture_output=True,
        text=True,
    )
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    expected = re.findall(r"# (\w+)$", PROGRAM, re.MULTILINE)
    assert done.returncode == 0, done.stdout
    assert len(revealed) == len(expected)
    assert all(re.search(rf"\b{name}\b", shown) for name, shown in zip(expected, revealed, strict=True)), revealed
