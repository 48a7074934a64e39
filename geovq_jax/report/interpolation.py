"""Part of the report on paths between images: how long they are, and whether they stay on the data."""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from geovq_jax import figures, geometry
from geovq_jax.data import to_float
from geovq_jax.evaluation.memorisation import nearest_training_images
from geovq_jax.geometry.curves import resample
from geovq_jax.report.page import ReportFigure, Table
from geovq_jax.stages.classifier import predict
from geovq_jax.stages.records import decode_images
from geovq_jax.stages.run import Run
from geovq_jax.terminal import progress_bar

PAIRS = 6
_STEPS = 10  # images per path
_FINE = 96  # points at which a path is measured
POINTS = 16  # per curve between vanilla latents
GRID_POINTS = 8  # per curve between grids, where every step costs h w d tangents per point
_GRID_ITERATIONS = 10


class Paths(NamedTuple):
    """Decoded paths of several pairs of images.

    `numbers` holds, per kind of path, the mean `length` in the metric of the run, the mean `confidence` of the
    classifier and the mean `distance` (RMS) to the nearest training image, the last two over the interior images.
    """

    numbers: dict[str, Any]
    images: list[dict[str, np.ndarray]]
    lengths: list[dict[str, float]]


def flat_decoder(decode_fn: jax.tree_util.Partial, shape: tuple[int, ...]) -> jax.tree_util.Partial:
    """The decoder as a function of one flat vector that holds all cells of a grid."""
    return jax.tree_util.Partial(_of_flat(shape), decode_fn)


@cache
def _of_flat(shape: tuple[int, ...]) -> partial[Array]:
    """Cached per shape, since jax compiles once per function."""
    return partial(_decode_flat, shape)


def _decode_flat(shape: tuple[int, ...], decode_fn: Any, z: Array) -> Array:
    return decode_fn(z.reshape(shape))


def curves(run: Run, a: int, b: int) -> dict[str, np.ndarray]:
    """Paths between the latents of two images of the graph, by kind, each [t, d].

    The straight line, the path along the graph (vanilla latents only), the geodesic in pixel space, and the geodesic
    in the metric of the run if that is another one.
    """
    latents = run.graph_latents
    flat = latents.reshape(len(latents), -1)
    found = {"straight": flat[[a, b]]}
    if latents.ndim == 2:
        found["graph"] = flat[geometry.shortest_path(run.graph.graph, a, b)]
    effort = {"num_points": 2 * POINTS}
    if latents.ndim > 2:
        effort = {"num_points": GRID_POINTS, "max_iterations": _GRID_ITERATIONS}
    start = found.get("graph", found["straight"])
    metrics = {"pixel": run.decode_fn}
    if run.metric_name != "pixels":
        metrics[run.metric_name] = run.metric_fn
    for name, decode_fn in metrics.items():
        geodesic = geometry.refine_path(flat_decoder(decode_fn, latents.shape[1:]), start, **effort)
        found[f"{name} geodesic"] = np.asarray(geodesic.curve)
    return found


@jax.jit
def _even(measure_fn: Any, curve: Array) -> tuple[Array, Array]:
    """Points at equal arc length along a curve, and its length."""
    even = geometry.constant_speed(measure_fn, curve, num_points=_STEPS)
    return even, geometry.curve_length(measure_fn, curve, rule="chord")


def measure(run: Run) -> Paths:
    """Paths between random training images of different classes, decoded at equal steps in the metric of the run."""
    shape = run.graph_latents.shape[1:]
    labels = run.latents("train").label[run.graph.rows]
    rng, measure_fn = np.random.default_rng(run.config.seed), flat_decoder(run.metric_fn, shape)
    images: list[dict[str, np.ndarray]] = []
    lengths: list[dict[str, float]] = []
    with progress_bar("paths between images") as progress:
        for done, a in enumerate(rng.permutation(len(labels))[:PAIRS], 1):
            others = np.flatnonzero(labels != labels[a])
            b = rng.choice(others if len(others) else np.delete(np.arange(len(labels)), a))
            found = {name: _even(measure_fn, resample(c, _FINE)) for name, c in curves(run, int(a), int(b)).items()}
            images.append(
                {
                    name: decode_images(run.decode_fn, np.asarray(z).reshape(-1, *shape))
                    for name, (z, _) in found.items()
                }
            )
            lengths.append({name: float(length) for name, (_, length) in found.items()})
            progress(done, PAIRS)
    train = np.asarray(to_float(run.dataset.train.images))
    numbers = {}
    for name in images[0]:
        between = np.concatenate([pair[name][1:-1] for pair in images])
        numbers[name] = {
            "length": float(np.mean([pair[name] for pair in lengths])),
            "confidence": float(predict(*run.classifier, between).confidences.mean()),
            "distance": float(nearest_training_images(between, train).distances.mean()),
        }
    return Paths({"pairs": len(images), "paths": numbers}, images, lengths)


def table(numbers: dict[str, Any]) -> Table:
    """Length and scores of each kind of path, from `Paths.numbers`."""
    columns = ["path", "mean length", "classifier confidence", "distance to training (RMS)"]
    rows = [
        [name, *(row[part] for part in ("length", "confidence", "distance"))] for name, row in numbers["paths"].items()
    ]
    caption = f"Paths between {numbers['pairs']} pairs of images"
    return Table(caption, columns, rows, higher=columns[2:3], lower=columns[3:])


def figure(paths: Paths, finding: str) -> ReportFigure:
    """Strips of all pairs."""
    drawn = figures.interpolation_strips(paths.images, lengths=paths.lengths)
    words = "Paths between training images at constant speed, with lengths in the metric of the run."
    return ReportFigure(words, drawn, "interpolation", paths.numbers, finding)
