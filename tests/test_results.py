"""The tables of docs/results.md and README.md against results/*.json, and those against the scores of every image."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SECTIONS = {
    "fashion_mnist": "### Fashion-MNIST",
    "mnist": "### MNIST",
    "cifar10": "### CIFAR-10",
    "fashion_mnist-vanilla": "### One code per image: Fashion-MNIST",
    "mnist-vanilla": "### One code per image: MNIST",
    "cifar10-vanilla": "### One code per image: CIFAR-10",
}


def result(name):
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def lines(name):
    """Table lines of a section of docs/results.md, split into cells."""
    text = (ROOT / "docs" / "results.md").read_text()
    section = re.split(r"\n(?=### |Errors in every)", text.split(f"\n{SECTIONS[name]}\n")[1])[0]
    return [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in section.splitlines() if line[:1] == "|"
    ]


@pytest.mark.parametrize("name", SECTIONS)
def test_the_tables_show_the_results(name):
    rows = {tuple(cells[:3]): cells for cells in lines(name)}
    for row in result(name)["rows"]:
        cells = rows[row["title"], row["rung"], f"{row['psnr']:.2f}"]
        assert cells[3:6] == [f"{row['ssim']:.3f}", f"{row['psnr_continuous']:.2f}", f"{row['perplexity']:.0f}"]
        assert cells[10] == f"{row['unevenness']:.2f}"
    for entry in result(name)["differences"]:
        shown = f"{entry['psnr']:+.2f} [{entry['low']:+.2f}, {entry['high']:+.2f}]"
        assert (entry["first"], entry["second"], shown) in rows


@pytest.mark.parametrize("name", SECTIONS)
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
