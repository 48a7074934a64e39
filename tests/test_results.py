"""The tables of results/*.md and README.md against results/*.json, and those against the scores of every image."""

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
NAMES = ["fashion_mnist", "mnist", "cifar10", "fashion_mnist-vanilla", "mnist-vanilla", "cifar10-vanilla"]


def result(name):
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_show_the_results(name):
    lines = (ROOT / "results" / f"{name}.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line[:2] == "| "]
    scores, header = {}, []
    for cells in rows:
        if "PSNR [dB]" in cells or len(cells) != len(header):
            header = cells
        elif "PSNR [dB]" in header:
            scores.setdefault(tuple(cells[:2]), cells[header.index("PSNR [dB]")])
    for row in result(name)["rows"]:
        assert abs(float(scores[row["title"], row["rung"]]) - row["psnr"]) <= 0.00501
    gaps = {tuple(cells[:2]): cells[3] for cells in rows if len(cells) == 4}
    for entry in result(name)["differences"]:
        assert gaps[entry["first"], entry["second"]] == ", ".join(f"{value:+.2f}" for value in entry["psnr_seeds"])


@pytest.mark.parametrize("name", NAMES)
def test_the_results_are_means_of_the_scores(name):
    found = result(name)
    assert len(found["seeds"]) == 3
    with np.load(ROOT / "results" / f"{name}.npz", allow_pickle=False) as scores:
        for row in found["rows"]:
            means = [
                scores[f"{row['method']}/{seed}/psnr_{row['rung']}"].mean(dtype=np.float64) for seed in found["seeds"]
            ]
            np.testing.assert_allclose(means, row["psnr_seeds"], atol=0.01)
            np.testing.assert_allclose(np.mean(means), row["psnr"], atol=0.01)


README = {
    "Euclidean K-means, decoder fine-tuned": ("kmeans", "decoder"),
    "geodesic K-medoids refined, decoder fine-tuned": ("geodesic_refined", "decoder"),
    "joint VQ-VAE": ("vqvae", "joint"),
    "K-means, codes searched, decoder fine-tuned": ("kmeans_context", "decoder"),
    "geodesic K-medoids refined, codes searched, decoder fine-tuned": ("geodesic_refined_context", "decoder"),
    "joint VQ-VAE, codes searched after its training": ("vqvae_context", "joint"),
}


@pytest.mark.parametrize("title", README)
def test_the_readme_shows_the_results(title):
    (line,) = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| {title} |")]
    shown = [cell.strip() for cell in line.strip("| ").split(" | ")[1:]]
    for name, value in zip(("fashion_mnist", "mnist", "cifar10"), shown, strict=True):
        (row,) = [row for row in result(name)["rows"] if (row["method"], row["rung"]) == README[title]]
        assert value == f"{row['psnr']:.2f}" + (f" ({row['prior']:.2f})" if row.get("prior") else "")
