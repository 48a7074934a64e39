"""Trials of a comparison, and their records on disk: one JSON and one npz file per trial and seed."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from geovq_jax.config import default_config, settings
from geovq_jax.quantization.methods import METHODS
from geovq_jax.workdir import load_npz, save_npz, write_json

SEARCHED = "_context"  # suffix of a method whose codes are searched in the context of the whole image

JOINT = {
    "vqvae": "joint VQ-VAE",
    "vqvae_tuned": "joint VQ-VAE, then decoder",
    "vqvae_context": "joint VQ-VAE, in context",
    "vqvae_double": "joint VQ-VAE, twice the steps",
    "geodesic_joint": "geodesic, refined, then joint",
}

METRIC_VARIANTS = {
    "geodesic_means_bernoulli": "geodesic K-means, Bernoulli pixels",
    "geodesic_means_features": "geodesic K-means, features",
    "geodesic_means_uncertainty": "geodesic K-means, uncertainty",
}

_TITLES = JOINT | METRIC_VARIANTS


class Trial(NamedTuple):
    """One method at one weight of the bits of its codes."""

    method: str
    rate_weight: float = 0.0

    @property
    def name(self) -> str:
        """Name of the trial in files: the method, followed by the rate weight if it is above 0."""
        return f"{self.method}@{self.rate_weight:g}" if self.rate_weight else self.method

    @property
    def title(self) -> str:
        """Title of the trial in tables."""
        base = self.method.removesuffix(SEARCHED)
        title = _TITLES[self.method] if self.method in _TITLES else METHODS[base].title
        title += ", in context" if self.method not in _TITLES and base != self.method else ""
        return f"{title}, λ = {self.rate_weight:g}" if self.rate_weight else title


Cells = dict[tuple[Trial, int], tuple[list[dict[str, Any]], Mapping[str, np.ndarray]]]
"""(trial, seed) -> its rows, one per trained part, and scores of every image by name."""


def trials_of(config: ConfigDict) -> list[Trial]:
    """Trials of one seed: every method, those with search at every weight of `compare.rate_weights`."""
    return [
        Trial(method, weight)
        for method in config.compare.methods
        for weight in (config.compare.rate_weights if method.endswith(SEARCHED) else (0.0,))
    ]


def trial_settings(trial: Trial, config: ConfigDict) -> dict[str, Any]:
    """Everything in a seed's configuration that a trial depends on.

    A joint model that starts afresh depends on the number of the autoencoder's steps, not on their parts.
    """
    own = config.copy_and_resolve_references()
    with own.unlocked():
        own.codes.rate_weight = trial.rate_weight
        if trial.method.startswith("vqvae"):
            own.vae.num_steps, own.vae.joint_steps = own.vae.num_steps + own.vae.joint_steps, 0
    found = settings(own, "seed", "data", "vae", "graph", "codebook", "vqvae")
    if trial.method.endswith(SEARCHED):
        found |= settings(own, "codes")
    if trial.method in config.compare.prior:
        found |= settings(own, "prior", "sample", "classifier", "scores")
    return found


def is_finished(trial: Trial, workdir: Path, config: ConfigDict) -> bool:
    """Whether a seed's work directory holds a trial's record of these settings; keys it lacks had their defaults.

    Settings on which the trial does not depend may be recorded too.
    """
    path, wanted = workdir / "cells" / f"{trial.name}.json", trial_settings(trial, config)
    if not path.is_file():
        return False
    stored, defaults = json.loads(path.read_text())["settings"], settings(default_config(), *wanted)
    return all(
        name in stored and (defaults[name] | stored[name] if isinstance(section, dict) else stored[name]) == section
        for name, section in wanted.items()
    )


def restore_cells(workdir: Path, config: ConfigDict, results: Path) -> None:
    """Records of trials that an earlier `write_results` left in `results`, into work directories that lack them."""
    if not results.is_file() or not results.with_suffix(".npz").is_file():
        return
    earlier, scores = json.loads(results.read_text()), load_npz(results.with_suffix(".npz"), stage="compare")
    for record in earlier.get("trials", []):
        folder, own = workdir / f"seed{record['seed']}" / "cells", f"{record['name']}/{record['seed']}/"
        if record["seed"] not in config.compare.seeds or (folder / f"{record['name']}.json").exists():
            continue
        images = {name.removeprefix(own): values for name, values in scores.items() if name.startswith(own)}
        save_npz(folder / f"{record['name']}.npz", **images)
        write_json(folder / f"{record['name']}.json", {"settings": record["settings"], "rows": record["rows"]})
    for seed, points in earlier.get("autoencoders", {}).items():
        path = workdir / f"seed{seed}" / "cells" / "autoencoder.json"
        if int(seed) in config.compare.seeds and not path.exists():
            write_json(path, points)


def read_cells(workdir: Path, config: ConfigDict) -> Cells:
    """Records of every trial of a comparison."""
    trials = itertools.product(trials_of(config), config.compare.seeds)
    cells: Cells = {}
    for trial, seed in trials:
        folder = workdir / f"seed{seed}" / "cells"
        rows = json.loads((folder / f"{trial.name}.json").read_text())["rows"]
        cells[trial, seed] = rows, load_npz(folder / f"{trial.name}.npz", stage="compare")
    return cells


def trial_records(workdir: Path, config: ConfigDict) -> list[dict[str, Any]]:
    """Settings and rows of every trial as `restore_cells` reads them."""
    return [
        {"name": trial.name, "seed": seed}
        | json.loads((workdir / f"seed{seed}" / "cells" / f"{trial.name}.json").read_text())
        for trial, seed in itertools.product(trials_of(config), config.compare.seeds)
    ]


def autoencoder_points(workdir: Path, config: ConfigDict) -> dict[int, list[dict[str, float]]]:
    """The autoencoder's own rate-distortion curve of each seed; empty where no prior is trained."""
    if not config.compare.prior:
        return {}
    paths = {seed: workdir / f"seed{seed}" / "cells" / "autoencoder.json" for seed in config.compare.seeds}
    return {seed: json.loads(path.read_text()) for seed, path in paths.items()}


def mean_curve(curves: list[list[dict[str, float]]]) -> list[dict[str, float]]:
    """Means over seeds of curves with the same points."""
    return [
        {part: float(np.mean([seed[part] for seed in point])) for part in point[0]}
        for point in zip(*curves, strict=True)
    ]
