"""Trials of a comparison, and their records on disk: one JSON and one npz file per trial and seed."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from geovq_jax.quantization.methods import METHODS
from geovq_jax.workdir import load_npz

SEARCHED = "_context"  # suffix of a method whose codes are searched in the context of the whole image

JOINT = {
    "vqvae": "joint VQ-VAE",
    "vqvae_tuned": "joint VQ-VAE, then decoder",
    "vqvae_context": "joint VQ-VAE, in context",
    "vqvae_longer_context": "joint VQ-VAE, longer, in context",
    "vqvae_double": "joint VQ-VAE, twice the steps",
    "geodesic_joint": "geodesic, refined, then joint",
}


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
        title = JOINT[self.method] if self.method in JOINT else METHODS[base].title
        title += ", in context" if self.method not in JOINT and base != self.method else ""
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


def read_cells(workdir: Path, config: ConfigDict) -> Cells:
    """Records of every trial of a comparison."""
    trials = itertools.product(trials_of(config), config.compare.seeds)
    cells: Cells = {}
    for trial, seed in trials:
        folder = workdir / f"seed{seed}" / "cells"
        rows = json.loads((folder / f"{trial.name}.json").read_text())["rows"]
        cells[trial, seed] = rows, load_npz(folder / f"{trial.name}.npz", stage="compare")
    return cells


def autoencoder_points(workdir: Path, config: ConfigDict) -> list[dict[str, float]]:
    """The autoencoder's own rate-distortion curve, means over the seeds; empty where no prior is trained."""
    if not config.compare.prior:
        return []
    paths = [workdir / f"seed{seed}" / "cells" / "autoencoder.json" for seed in config.compare.seeds]
    points = zip(*(json.loads(path.read_text()) for path in paths), strict=True)
    return [{part: float(np.mean([seed[part] for seed in point])) for part in point[0]} for point in points]
