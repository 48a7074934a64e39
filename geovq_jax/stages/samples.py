"""Stage `samples`: draw codes from the prior, complete given codes, decode both."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from matplotlib.figure import Figure

from geovq_jax import figures
from geovq_jax.config import given_codes
from geovq_jax.data.datasets import CLASS_NAMES
from geovq_jax.figures.style import class_title, figure_png
from geovq_jax.models.sampling import EVERY_CLASS, NO_CLASS, balanced_labels, complete, draw
from geovq_jax.stages.run import Run
from geovq_jax.terminal import progress_bar
from geovq_jax.workdir import save_npz, write_atomically

SETTINGS = ("temperature", "top_k", "top_p", "min_p", "guidance", "class_id", "seed")
NUM_COMPLETED = 10


class Given(NamedTuple):
    """Codes to complete, and which places of their grid are drawn anew."""

    codes: Int[np.ndarray, "n h w"]
    drawn: Bool[np.ndarray, "h w"]


def check_class(run: Run, class_id: int, *, completes: bool = False) -> None:
    """Raise ValueError for a class that the prior was not trained on, before earlier samples are removed."""
    classes = run.num_classes
    if class_id >= classes:
        raise ValueError(f"expected sample.class_id below {classes}, got {class_id}; -1 samples every class")
    without = class_id == NO_CLASS or (completes and class_id == EVERY_CLASS)
    if without and not run.config.prior.label_dropout:
        raise ValueError(
            "expected prior.label_dropout above 0 to draw without a class, got 0; retrain the prior or give --class_id"
        )


def generate(run: Run, settings: Mapping[str, Any] | None = None, given: Given | None = None) -> str:
    """Draw codes for every class (or one, or none), decode them, and write samples.npz and a grid, one row per class.

    Given codes, or the upper halves of some validation grids, are completed too, into the same npz and completions.png.
    `settings` of one call take the place of those of section `sample`, and are stored with the samples.
    """
    section: dict[str, Any] = dict(run.config.sample) | dict(settings or {})
    params, arch = run.prior
    check_class(run, section["class_id"], completes=given is not None)
    labels = balanced_labels(section["num_samples"], section["class_id"], arch.num_classes)
    sample_key, completion_key = jax.random.split(jax.random.key(section["seed"]))
    with progress_bar("drawing samples") as progress:
        codes, log_p = draw(sample_key, params, arch, labels, section, progress=progress)
    valid = run.codes("valid")
    codes = codes.reshape(len(labels), *valid.codes.shape[1:])
    drawn = {"codes": codes, "labels": labels, "log_probabilities": log_p}
    drawn |= {name: section[name] for name in SETTINGS}
    if given_codes(run.config):
        save_npz(run.workdir / "samples.npz", **drawn)
        return f"{len(labels)} rows of codes, {run.workdir / 'samples.npz'}"
    images = run.decode(codes)
    completed: dict[str, np.ndarray] = {}
    if given is not None:
        class_id = NO_CLASS if section["class_id"] == EVERY_CLASS else section["class_id"]
        one = balanced_labels(len(given.codes), class_id, arch.num_classes)
        completed = _complete(completion_key, run, section, given, one)
    elif arch.length > 1 and section["num_completions"] > 0:
        rows = np.linspace(0, len(valid.codes) - 1, min(NUM_COMPLETED, len(valid.codes)))  # some are sorted by class
        rows = rows.astype(np.int64)
        upper = Given(valid.codes[rows], lower_half(valid.codes.shape[1:]))
        completed = {"completion_rows": rows} | _complete(completion_key, run, section, upper, valid.label[rows])
    save_npz(run.workdir / "samples.npz", images=images, **drawn, **completed)
    names = CLASS_NAMES.get(run.config.data.name) or tuple(map(str, range(arch.num_classes)))
    picture = figure_png(figures.image_grid(*sample_rows(images, labels, names[: arch.num_classes])))
    write_atomically(run.workdir / "samples.png", lambda file: file.write(picture))
    if completed:
        strips = figure_png(completion_figure(completed))
        write_atomically(run.workdir / "completions.png", lambda file: file.write(strips))
    return f"{len(labels)} images, {run.workdir / 'samples.png'}"


def _complete(
    key: Key[Array, ""], run: Run, section: Mapping[str, Any], given: Given, labels: Int[np.ndarray, " n"]
) -> dict[str, np.ndarray]:
    """Several completions of each of some grids: codes and decoded images, the given ones first."""
    ways, (codes, places) = section["num_completions"], given
    drawn, log_p = complete(
        key,
        *run.prior,
        np.repeat(labels, ways),
        section,
        prompt=np.repeat(codes, ways, axis=0),
        kept=~places,
    )
    both = np.concatenate([codes[:, None], drawn.reshape(len(codes), ways, *codes.shape[1:])], axis=1)
    images = run.decode(both.reshape(-1, *codes.shape[1:]))
    return {
        "completion_codes": both,
        "completion_drawn": places,
        "completion_images": images.reshape(len(codes), 1 + ways, *images.shape[1:]),
        "completion_log_probabilities": log_p.reshape(len(codes), ways, -1),
    }


def lower_half(code_shape: tuple[int, ...]) -> Bool[np.ndarray, "h w"]:
    """Which codes of a grid are drawn, given its upper half: half of the rows, rounded down."""
    return np.broadcast_to(np.arange(code_shape[0])[:, None] >= -(-code_shape[0] // 2), code_shape)


def completion_figure(
    completed: dict[str, np.ndarray], originals: Float[np.ndarray, "r H W C"] | None = None
) -> Figure:
    """One row per image: the original (if given), its decoded codes, what is kept of it, completions."""
    images, places = completed["completion_images"][:NUM_COMPLETED], completed["completion_drawn"]
    height, width = images.shape[2:4]
    rows, columns = (np.arange(side) * cells // side for side, cells in zip((height, width), places.shape, strict=True))
    kept = np.where(places[rows[:, None], columns][..., None], 1.0, images[:, :1])
    shown = [images[:, :1], kept, images[:, 1:]]
    captions = ["codes", "kept", *(str(way + 1) for way in range(images.shape[1] - 1))]
    if originals is not None:
        shown, captions = [originals[:, None], *shown], ["image", *captions]
    return figures.image_grid(np.concatenate(shown, axis=1), [""] * len(images), column_captions=captions)


def sample_rows(
    images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], *, columns: int = 10
) -> tuple[np.ndarray, list[str]]:
    """Samples with one row per class, white where a class has too few, with captions; a single class fills all rows."""
    classes = np.unique(labels)
    if len(classes) == 1:
        count = min(len(images), columns**2)
        lines = -(-count // columns)
        rows = np.ones((lines * min(columns, count), *images.shape[1:]), np.float32)
        rows[:count] = images[:count]
        caption = class_title(class_names[classes[0]]) if classes[0] < len(class_names) else "no class"
        return rows.reshape(lines, -1, *images.shape[1:]), [caption, *[""] * (lines - 1)]
    rows = np.ones((len(classes), min(columns, int(np.bincount(labels).max())), *images.shape[1:]), np.float32)
    for row, label in zip(rows, classes, strict=True):
        chosen = images[labels == label][: len(row)]
        row[: len(chosen)] = chosen
    return rows, [class_title(class_names[label]) for label in classes]
