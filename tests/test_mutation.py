"""The errors that `tests/mutation.py` introduces apply to the code as it is."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORMULAS = runpy.run_path(str(ROOT / "tests" / "mutation.py"))["FORMULAS"]


@pytest.mark.parametrize("name", FORMULAS)
def test_every_error_applies_once(name):
    files, mutants = FORMULAS[name]
    assert all((ROOT / "tests" / file).is_file() for file in files)
    for what, file, text, *_ in mutants:
        assert (ROOT / "geovq_jax" / file).read_text().count(text) == 1, what
