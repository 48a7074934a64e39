"""The tables of results/*.md and README.md against results/*.json, and those against the scores of every image."""

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
NAMES = ["fashion_mnist", "mnist", "cifar10", "fashion_mnist-vanilla", "mnist-vanilla", "cifar10-vanilla"]

RATES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
LATER = "after joint training: "


def result(name):
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def with_interval(found, scale, digits):
    value = f"{scale * found['value']:+.{digits}f}"
    if found["low"] is None:
        return value
    return f"{value} [{scale * found['low']:.{digits}f}, {scale * found['high']:.{digits}f}]"


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


@pytest.mark.parametrize("name", RATES)
def test_the_table_of_one_code_per_image(name):
    text = (ROOT / "docs" / "results.md").read_text().split("### One code per image")[1].split("\n## ")[0]
    shown = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:2] == "| "]
    assert len(shown) == 10
    last = {row["title"]: row for row in result(f"{name}-vanilla")["rows"]}
    for title, *values in shown[1:]:
        row, cell = last[title], values[shown[0].index(RATES[name]) - 1]
        scores = f"{row['psnr']:.2f}, {row['nmi']:.3f}, {100 * row['probe']:.1f} %"
        assert cell == f"{scores}, {row['unigram']:.2f}, {row['unevenness']:.2f}"


def test_the_readme_shows_the_results():
    lines = README.split("## Results")[1].split("## ")[0].splitlines()
    shown = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line.count(" | ") == 4][1:]
    found = {row["title"]: row for row in result("mnist-rate")["rows"] if "prior" in row}
    found |= {f"{LATER}{row['title']}": row for row in result("mnist-rate-joint")["rows"] if "prior" in row}
    assert len(shown) == 7
    for title, *values in shown:
        row = found[title]
        bits, score = row["prior"] * row["cells"], 100 * row["consistency_samples"]
        assert values == [f"{bits:.1f}", f"{row['psnr']:.2f}", f"{row['frechet_samples']:.2f}", f"{score:.1f} %"]


@pytest.mark.parametrize("name", RATES)
def test_statements_about_coded_bits(name):
    """Gain and BD-rate with intervals in docs/results.md, and the BD-rates of the README."""
    text = (ROOT / "docs" / "results.md").read_text().split("## At coded bits")[1].split("## Comparisons")[0]
    for entry in result(f"{name}-rate")["curves"]:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {RATES[name]} | {entry['title']} |")]
        assert line.split(" | ")[2] == f"{entry['chosen']:g}"
        for part, scale, digits in (("gain", 1.0, 2), ("bd_rate", 100.0, 1)):
            if entry.get(part, {}).get("value") is not None:
                found = entry[part]
                value = with_interval(found, scale, digits)
                assert f" {value.replace('-', '−')} |" in line
        if "bd_rate" in entry:
            (line,) = [line for line in README.splitlines() if line.startswith(f"| {entry['title']} |")]
            shown = line.strip("| ").split(" | ")[1 + list(RATES).index(name)]
            assert shown == f"{100 * entry['bd_rate']['value']:+.1f} %".replace("-", "−")


def test_the_readme_says_how_far_post_hoc_codes_are_ahead_of_a_vqvae_without_search():
    curves = [result(f"{name}-rate")["curves"] for name in RATES]
    best = [max(c["gain"]["value"] or 0.0 for c in found if c["method"] != "vqvae_context") for found in curves]
    first, second, third = (f"{gain:.2f}" for gain in best)
    assert f"{first}, {second} and {third} dB ahead" in " ".join(README.split())


def test_the_table_over_the_size_of_the_codebook():
    text = (ROOT / "docs" / "results.md").read_text().split("  | K | ")[1].split("\n\n")[0]
    shown = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines()[2:]]
    with np.load(ROOT / "results" / "codebook-sizes.npz", allow_pickle=False) as points:
        assert {int(size.replace(",", "")) for size, *_ in shown} == {int(name.split("/")[1]) for name in points}
        for size, *values in shown:
            found = [points[f"mnist/{size.replace(',', '')}/{own}_context"] for own in ("mean_metric", "vqvae")]
            means = [scores.mean(axis=0, dtype=np.float64) for scores in found]
            assert values == [cell for bits, psnr in means for cell in (f"{bits:.1f}", f"{psnr:.2f}")]


@pytest.mark.parametrize("name", RATES)
def test_the_tables_after_joint_training(name):
    text = (ROOT / "docs" / "results.md").read_text()
    text = text.split("### Joint training before the search")[1].split("\n### ")[0]
    found = result(f"{name}-rate-joint")
    (own,) = (entry for entry in found["curves"] if entry["method"] == "mean_metric_context")
    gain, rate = with_interval(own["gain"], 1.0, 2), with_interval(own["bd_rate"], 100.0, 1)
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {RATES[name]} | {found['seeds'][0]}"))
    seeds = ", ".join(f"{100 * value:+.1f}" for value in own["bd_rate"]["seeds"])
    shown = [cell.strip().replace("−", "-") for cell in line.strip("| ").split(" | ")]
    assert shown[1:5] == [", ".join(map(str, found["seeds"])), gain, rate, seeds]
    (line,) = (line for line in README.splitlines() if line.startswith(f"| {LATER}{own['title']} |"))
    in_readme = line.strip("| ").split(" | ")[1 + list(RATES).index(name)]
    assert in_readme.replace("−", "-") == f"{100 * own['bd_rate']['value']:+.1f} %"
    rows = text.split(f"| {RATES[name]} | coded bits | PSNR [dB] |")[1].split("\n\n")[0]
    for row in (row for row in found["rows"] if "prior" in row):
        bits, share = row["prior"] * row["cells"], 100 * row["consistency_samples"]
        scores = f"{bits:.1f} | {row['psnr']:.2f} | {row['frechet_samples']:.2f} | {share:.1f} %"
        assert f"| {row['title']} | {scores} |" in rows
