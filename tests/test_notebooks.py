"""Notebooks run from top to bottom as plain scripts, the later ones on what the earlier ones left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PRINTED = {
    "1_geometry_on_your_own_decoder": ("'straight'", "all converged: True"),
    "2_from_images_to_codes": ("codes of one image: [[", "perplexity"),
    "3_geodesic_against_euclidean_codebook": ("K-means ", "pull-back graph ", "Euclidean graph "),
    "4_neighbours_in_a_vae": ("Euclidean  same class: 0.", "pull-back  same class: 0."),
    "5_prior_and_generation": ("unigram ", "prior "),
    "6_reading_a_comparison": ("bits per image", "best "),
}
QUICK = ("6_reading_a_comparison",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Outside of the checkout, so that nothing beside a notebook is found by chance."""
    return tmp_path_factory.mktemp("notebooks")


def test_every_notebook_is_tried():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.py")) == sorted(PRINTED)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PRINTED]
)
def test_notebook_runs(name, folder):
    results = NOTEBOOKS.parent / "results"
    if name.startswith("6_") and not any(results.glob("*.json")):
        pytest.skip("no results of a comparison in results/; python -m geovq_jax.compare makes them")
    done = subprocess.run(
        [sys.executable, NOTEBOOKS / f"{name}.py"],
        cwd=folder,
        env={
            **os.environ,
            "MPLBACKEND": "Agg",
            "JAX_PLATFORMS": "cpu",
            "GEOVQ_SMOKE": "1",
            "GEOVQ_RESULTS": str(results),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    for text in PRINTED[name]:
        assert text in done.stdout
