"""Comparison at coded bits: rate-distortion curves over the rate weight, and the distances between them.

The coded bits of an image are those that its codes cost under the prior given its class, which is trained on codes of
the same kind. A curve joins the trials of one method with search at every weight; differences are paired by image.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from geovq_jax import figures
from geovq_jax.comparison.cells import SEARCHED, Cells, Trial
from geovq_jax.evaluation.rate_distortion import bd_rate, paired_interval, quality_at
from geovq_jax.evaluation.statistics import Interval
from geovq_jax.report.page import ReportFigure, Table

REFERENCE = "vqvae_context"  # the joint model with the same search and the same steps
PLAIN = "vqvae"  # the joint model without search

_COLUMNS = {
    "psnr": "PSNR [dB]",
    "psnr_of_mean": "PSNR of the mean squared error [dB]",
    "frechet_reconstructions": "Frechet distance, reconstructions",
    "frechet_samples": "samples",
    "consistency_samples": "samples in their class",
    "perplexity": "perplexity",
}


def compare_at_coded_bits(cells: Cells, rows: list[dict[str, Any]], seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    """Curve of every method with search at several weights, its distance from the joint model, and the weight that
    is chosen on validation images.

    The chosen weight is the one of the highest validation PSNR among those whose validation bits are at most those of
    the plain joint model, or the largest. Empty where fewer than two weights have a prior.
    """
    scored = {Trial(row["method"], row["rate_weight"]): row for row in rows if "prior" in row}
    grouped: dict[str, list[Trial]] = {}
    for trial in scored:
        if trial.method.endswith(SEARCHED):
            grouped.setdefault(trial.method, []).append(trial)
    curves = {method: trials for method, trials in grouped.items() if len(trials) > 1}
    statements = []
    for method, trials in curves.items():
        statement: dict[str, Any] = {
            "method": method,
            "title": Trial(method).title,
            "rate_weights": [trial.rate_weight for trial in trials],
            "bits": [scored[trial]["prior"] * scored[trial]["cells"] for trial in trials],
            "psnr": [scored[trial]["psnr"] for trial in trials],
        }
        if REFERENCE in curves and method != REFERENCE:
            statement["bd_rate"] = _difference(_rate_of_both, cells, seeds, trials, curves[REFERENCE])
        if Trial(PLAIN) in scored:
            statement["gain"] = _difference(_gain, cells, seeds, trials, [Trial(PLAIN)])
            limit = scored[Trial(PLAIN)]["valid_prior"]
            cheap = [trial for trial in trials if scored[trial]["valid_prior"] <= limit]
            chosen = max(cheap, key=lambda t: scored[t]["valid_psnr"], default=max(trials, key=lambda t: t.rate_weight))
            statement["chosen"] = chosen.rate_weight
        statements.append(statement)
    return statements


def _rate_of_both(size: int, means: np.ndarray) -> float:
    return bd_rate(*_split(size, means))


def _gain(size: int, means: np.ndarray) -> float:
    """Quality of the first curve at the rate of the second, a single point, minus the quality of that point.

    Where the curve ends at a lower rate its end counts: it costs less and shows less than the curve would at that rate.
    """
    curve, (rates, qualities) = _split(size, means)
    return quality_at(min(rates[0], max(curve[0])), curve) - float(qualities[0])


def _split(size: int, means: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(rates, qualities) of the first `size` points and of the others, from bits and PSNR in turns."""
    points = means.reshape(-1, 2)
    return (points[:size, 0], points[:size, 1]), (points[size:, 0], points[size:, 1])


def _difference(
    statistic: Callable[[int, np.ndarray], float],
    cells: Cells,
    seeds: tuple[int, ...],
    first: list[Trial],
    second: list[Trial],
) -> dict[str, Any]:
    """A statistic of two sets of trials with its interval over the images of all seeds, and its value on each seed."""
    own = partial(statistic, len(first))
    scores = [np.stack([part for trial in first + second for part in _scores(cells[trial, s])], axis=1) for s in seeds]
    interval = paired_interval(np.concatenate(scores), own, seed=0)
    return interval._asdict() | {"seeds": [own(part.mean(axis=0)) for part in scores]}


def _scores(cell: tuple[list[dict[str, Any]], Mapping[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Bits and PSNR of every test image under the last row of a trial."""
    rows, images = cell
    return images["bits"].astype(np.float64), images[f"psnr_{rows[-1]['rung']}"].astype(np.float64)


def coded_tables(rows: list[dict[str, Any]], statements: list[dict[str, Any]]) -> list[Table]:
    """Every method at its coded bits, and the distances of the curves; no tables where no prior was trained."""
    scored = [row for row in rows if "prior" in row]
    if not scored:
        return []
    columns = [column for column in _COLUMNS if any(column in row for row in scored)]
    points = [
        [row["title"], row["rung"], row["steps"], row["prior"] * row["cells"], *(row.get(c) for c in columns)]
        for row in scored
    ]
    names = ["codes", "trained part", "steps", "coded bits per image", *(_COLUMNS[c] for c in columns)]
    distances = [
        [
            entry["title"],
            entry.get("chosen"),
            *(_interval(entry.get("gain"), 1.0)),
            *(_interval(entry.get("bd_rate"), 100.0)),
        ]
        for entry in statements
    ]
    caption = (
        "Curves over λ: PSNR above that of the plain joint VQ-VAE at its own coded bits, or at the end of a curve that "
        "ends at fewer [dB], and difference in bits at equal PSNR from a joint VQ-VAE with the same search [%], "
        "paired by image, 95 % bootstrap intervals"
    )
    tables = [Table("At coded bits: bits under the prior given the class, times the codes per image", names, points)]
    if distances:
        heads = ["codes", "λ chosen on validation images", "PSNR gain", "each seed"]
        heads += [f"BD-rate against {Trial(REFERENCE).title}", "each seed"]
        tables.append(Table(caption, heads, distances))
    return tables


def _interval(found: Mapping[str, Any] | None, scale: float) -> tuple[Interval | None, str]:
    """The interval and the value of each seed, times a factor; nothing where curves do not overlap."""
    if found is None or np.isnan(found["value"]):
        return None, "–"
    value = Interval(*(scale * found[part] for part in ("value", "low", "high")))
    return value, ", ".join(f"{scale * seed:+.2f}" for seed in found["seeds"])


def curves_figure(
    rows: list[dict[str, Any]], statements: list[dict[str, Any]], bound: list[dict[str, float]]
) -> ReportFigure:
    """PSNR against coded bits: curves over the weight, a point for each method without search, the autoencoder's."""
    curves = {
        f"{entry['title']}, over λ": (np.asarray(entry["bits"]), np.asarray(entry["psnr"])) for entry in statements
    }
    known = {entry["method"] for entry in statements}
    groups = {f"{entry['title']}, over λ": entry["method"].removesuffix(SEARCHED) for entry in statements}
    for row in rows:
        if "prior" in row and row["method"] not in known:
            name = f"{row['title']}, {row['rung']}"
            groups[name] = row["method"]
            curves[name] = np.asarray([row["prior"] * row["cells"]]), np.asarray([row["psnr"]])
    widest = 1.5 * max(rates.max() for rates, _ in curves.values())
    # A posterior wider than N(0, I) costs more and shows less: points that another one dominates are left out.
    best = [p for p in bound if not any(q["bits"] <= p["bits"] and q["psnr"] > p["psnr"] for q in bound)]
    own = [point for point in best if point["bits"] <= widest]
    if own:
        rates, qualities = (np.asarray([point[part] for point in own]) for part in ("bits", "psnr"))
        curves["autoencoder: divergence from N(0, I)"] = rates, qualities
    data = {name: {"bits": rates.tolist(), "psnr": quality.tolist()} for name, (rates, quality) in curves.items()}
    figure = figures.rate_distortion(curves, groups=groups, rate_label="coded bits per image")
    return ReportFigure("PSNR against coded bits, test images", figure, "coded_rate_distortion", data)
