"""Notebooks run from top to bottom as plain scripts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.mark.parametrize(
    ("name", "printed"), [("1_geometry_on_your_own_decoder", ("'straight'", "all converged: True"))]
)
def test_notebook_runs(name, printed, tmp_path):
    # Outside of the checkout, so that nothing beside the notebook is found by chance.
    done = subprocess.run(
        [sys.executable, NOTEBOOKS / f"{name}.py"],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for text in printed:
        assert text in done.stdout
