"""Gather the trials of a comparison: results as JSON, tables in Markdown, scores of every image, and a report page."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from geovq_jax import figures
from geovq_jax.comparison.cells import (
    METRIC_VARIANTS,
    Cells,
    Trial,
    autoencoder_points,
    mean_curve,
    read_cells,
    trial_records,
    trials_of,
)
from geovq_jax.comparison.curves import coded_tables, compare_at_coded_bits, curves_figure
from geovq_jax.evaluation.statistics import Interval, paired_difference
from geovq_jax.figures.style import figure_png
from geovq_jax.manifest import describe
from geovq_jax.report.page import ReportFigure, Section, Table, format_cell, write_report
from geovq_jax.workdir import save_npz, to_json, write_atomically, write_json

_COLUMNS = {
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "psnr_continuous": "PSNR to continuous [dB]",
    "used": "codes used",
    "perplexity": "perplexity",
    "nmi": "NMI",
    "purity": "purity",
    "probe": "probe",
    "unigram": "unigram [bits]",
    "bigram": "bigram [bits]",
    "unevenness": "unevenness between codes",
}
_GENERATION = {
    "prior": "prior [bits]",
    "frechet_real": "Frechet distance, real",
    "frechet_reconstructions": "reconstructions",
    "frechet_samples": "samples",
    "consistency_real": "in their class, real",
    "consistency_reconstructions": "reconstructions",
    "consistency_samples": "samples",
}
# Recorded beside the tables.
_BESIDE = ("psnr_of_mean", "valid_psnr", "valid_prior", "prior_steps", "continuous_psnr", "continuous_ssim")
# Pairs whose difference is reported: (first, second), each a method and its trained part.
_QUESTIONS = (
    (("geodesic_refined_context", "decoder"), ("vqvae", "joint")),
    (("geodesic_refined_context", "decoder"), ("kmeans", "decoder")),
    (("geodesic_refined", "decoder"), ("vqvae", "joint")),
    (("geodesic_refined", "decoder"), ("kmeans", "decoder")),
    (("geodesic_refined", "decoder"), ("mean_metric", "decoder")),
    (("geodesic_refined", "decoder"), ("local_metrics", "decoder")),
    (("geodesic", "decoder"), ("kmeans", "decoder")),
    (("geodesic", "frozen"), ("kmedoids", "frozen")),
    (("geodesic_means", "decoder"), ("kmeans", "decoder")),
    (("geodesic_means", "decoder"), ("kmeans_decoded", "decoder")),
    (("geodesic_means", "decoder"), ("mean_metric", "decoder")),
    (("geodesic_means", "decoder"), ("vqvae", "joint")),
    *(((name, "decoder"), ("geodesic_means", "decoder")) for name in METRIC_VARIANTS),
    (("geodesic_decoded", "decoder"), ("geodesic_means", "decoder")),
    (("geodesic_decoded", "decoder"), ("kmeans", "decoder")),
    (("geodesic_decoded", "decoder"), ("vqvae", "joint")),
    (("geodesic_decoded", "decoder"), ("kmeans_decoded", "decoder")),
    (("geodesic_decoded_context", "decoder"), ("vqvae", "joint")),
    (("geodesic_decoded_context", "decoder"), ("kmeans", "decoder")),
    (("geodesic_decoded_context", "decoder"), ("kmeans_context", "decoder")),
    (("geodesic_decoded_context", "decoder"), ("vqvae_context", "decoder")),
    (("geodesic_refined_context", "decoder"), ("kmeans_context", "decoder")),
    (("geodesic_refined_context", "decoder"), ("vqvae_double", "joint")),
    (("geodesic_refined_context", "decoder"), ("vqvae_context", "decoder")),
    (("geodesic_refined", "codes"), ("geodesic_refined", "decoder")),
    (("geodesic_joint", "encoder"), ("vqvae", "joint")),
)


def write_results(workdir: Path, config: ConfigDict, output: Path) -> str:
    """Gather the trials below a work directory into `output`/<name>.json, .npz, .md and .png (curves), and a report.

    Raises ValueError if methods differ in bits per image: such a table would compare unequal rates.
    """
    name = config.name.removeprefix("compare-")
    cells = read_cells(workdir, config)
    rows = [_row(trial, rung, records) for (trial, rung), records in _by_row(cells).items()]
    if len({row["bits"] for row in rows}) > 1:
        raise ValueError(
            "expected equal bits per image for all methods, got "
            + ", ".join(f"{row['method']} {row['bits']:.0f}" for row in rows)
            + "; compare codebooks of one size"
        )
    scores = {
        f"{trial.name}/{seed}/{part}": values.astype(np.float32 if part == "bits" else np.float16)
        for (trial, seed), (_, images) in cells.items()
        for part, values in images.items()
        if part != "codes"
    }
    differences, curves = _differences(cells, config), compare_at_coded_bits(cells, rows, config.compare.seeds)
    seeds = list(config.compare.seeds)
    record = describe(config)
    record["config"]["data"].pop("dir")
    record |= {"name": name, "seeds": seeds, "bits_per_image": rows[0]["bits"]}
    each = autoencoder_points(workdir, config)
    own = mean_curve(list(each.values()))
    record |= {"rows": rows, "differences": differences, "curves": curves, "autoencoder": own}
    # Trials take hours: another machine may go on from them.
    record |= {"trials": trial_records(workdir, config), "autoencoders": each}
    result = to_json(record)
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / f"{name}.json", result)
    save_npz(output / f"{name}.npz", **scores)
    tables = [*coded_tables(rows, curves), *_tables(rows, differences, config)]
    pictures = _figures(rows, differences)
    if config.compare.prior:
        pictures = [curves_figure(rows, curves, own), *pictures]
        picture = figure_png(pictures[0].figure)
        write_atomically(output / f"{name}.png", lambda file: file.write(picture))
    text = "\n\n".join(_markdown(table) for table in tables) + "\n"
    write_atomically(output / f"{name}.md", lambda file: file.write(text.encode()))
    write_report(
        workdir / "report" / "index.html",
        title=f"geovq_jax: comparison on {name}",
        subtitle=f"{rows[0]['bits']:.0f} bits per image, seeds {', '.join(map(str, seeds))}",
        sections=[Section("Codes against codes", tables=tables, figures=pictures)],
    )
    return f"{output / name}.json, {workdir / 'report' / 'index.html'}"


def _by_row(cells: Cells) -> dict[tuple[Trial, str], list[dict[str, Any]]]:
    table: dict[tuple[Trial, str], list[dict[str, Any]]] = {}
    for (trial, _), (rows, _) in cells.items():
        for row in rows:
            table.setdefault((trial, row["rung"]), []).append(row)
    return table


def _row(trial: Trial, rung: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and the value of each seed."""
    first = records[0]
    row: dict[str, Any] = {"method": trial.method, "rate_weight": trial.rate_weight, "title": trial.title, "rung": rung}
    row |= {part: first[part] for part in ("bits", "cells", "steps", "images_seen", "searches", "search_gradients")}
    for column in (*_COLUMNS, *_GENERATION, *_BESIDE):
        values = [record[column] for record in records if column in record]
        if values:
            row |= {column: float(np.mean(values)), f"{column}_seeds": values}
    if "units" in first:
        row["units"] = {unit: float(np.mean([r["units"][unit]["rms"] for r in records])) for unit in first["units"]}
    return row


def _differences(cells: Cells, config: ConfigDict) -> list[dict[str, Any]]:
    """Paired differences in PSNR over the images of all seeds, and the mean of each seed."""
    differences, known = [], trials_of(config)
    for (first_method, first_rung), (second_method, second_rung) in _QUESTIONS:
        first, second = Trial(first_method), Trial(second_method)
        if first not in known or second not in known:
            continue
        sides = {first: first_rung, second: second_rung}
        if any(f"psnr_{rung}" not in cells[trial, config.compare.seeds[0]][1] for trial, rung in sides.items()):
            continue  # a decoder that cannot be fine-tuned
        pairs = [
            (cells[first, seed][1][f"psnr_{first_rung}"], cells[second, seed][1][f"psnr_{second_rung}"])
            for seed in config.compare.seeds
        ]
        interval = paired_difference(*(np.concatenate(side) for side in zip(*pairs, strict=True)), seed=0)
        titles = {"first": f"{first.title}, {first_rung}", "second": f"{second.title}, {second_rung}"}
        difference = {"psnr": interval.value, "low": interval.low, "high": interval.high}
        seeds = [float(np.mean(a.astype(np.float64) - b)) for a, b in pairs]
        differences.append(titles | difference | {"psnr_seeds": seeds})
    return differences


def _tables(rows: list[dict[str, Any]], differences: list[dict[str, Any]], config: ConfigDict) -> list[Table]:
    count = len(config.compare.seeds)
    over = f"means over {count} seeds" if count > 1 else "one seed"
    columns = [column for column in _COLUMNS if any(column in row for row in rows)]
    scores = [[row["title"], row["rung"], *(row.get(column) for column in columns)] for row in rows]
    units = list(next((row["units"] for row in rows if "units" in row), {}))  # of frozen decoders only
    errors = [[row["title"], *(row["units"][unit] for unit in units)] for row in rows if "units" in row]
    budget = ("steps", "images_seen", "searches", "search_gradients")
    cost = [[row["title"], row["rung"], *(row[part] for part in budget)] for row in rows]
    caption, gaps = "Differences in PSNR [dB], paired by image, 95 % bootstrap intervals", []
    for entry in differences:
        interval = Interval(entry["psnr"], entry["low"], entry["high"])
        each = ", ".join(f"{value:+.2f}" for value in entry["psnr_seeds"])
        gaps.append([entry["first"], entry["second"], interval, each])
    tables = [
        Table(f"Test split, {over}", ["codes", "trained part", *(_COLUMNS[c] for c in columns)], scores),
        *([Table(caption, ["first", "second", "first - second", "each seed"], gaps)] if gaps else []),
        *([Table("Root mean square error in every unit, frozen decoder", ["codes", *units], errors)] if errors else []),
        Table(
            "Budget: gradient steps, images seen by them, searches of all codes in context, their decoder gradients",
            ["codes", "trained part", "steps", "images seen", "searches", "decoder gradients"],
            cost,
        ),
    ]
    generated = [[row["title"], row["rung"], *(row[c] for c in _GENERATION)] for row in rows if "prior" in row]
    if generated:
        caption = f"The same prior on each codebook's codes, and its samples in features of a classifier, {over}"
        tables.append(Table(caption, ["codes", "trained part", *_GENERATION.values()], generated))
    return tables


def _figures(rows: list[dict[str, Any]], differences: list[dict[str, Any]]) -> list[ReportFigure]:
    quality = {f"{row['title']}, {row['rung']}": row["psnr"] for row in rows}
    spread = {f"{row['title']}, {row['rung']}": (min(row["psnr_seeds"]), max(row["psnr_seeds"])) for row in rows}
    gaps = {f"{entry['first']} - {entry['second']}": entry["psnr"] for entry in differences}
    limits = {f"{entry['first']} - {entry['second']}": (entry["low"], entry["high"]) for entry in differences}
    figure = figures.comparison(quality, "PSNR [dB]", intervals=spread)
    pictures = [ReportFigure("Test PSNR, mean and range over seeds", figure, "psnr", quality)]
    if gaps:
        two_lines = {name: name.replace(" - ", "\n- ") for name in gaps}
        figure = figures.comparison(
            {two_lines[name]: gap for name, gap in gaps.items()},
            "difference in PSNR [dB]",
            intervals={two_lines[name]: limit for name, limit in limits.items()},
            reference=("equal", 0.0),
        )
        pictures.append(ReportFigure("Paired differences with 95 % intervals", figure, "differences", gaps))
    return pictures


def _markdown(table: Table) -> str:
    lines = [f"**{table.caption}**", "", "| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(format_cell(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join(lines)
