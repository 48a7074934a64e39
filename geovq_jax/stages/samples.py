"""Stage `samples`: draw codes from the prior, complete given codes, decode both."""

import jax
import numpy as np
from jaxtyping import Array, Float, Key
from matplotlib.figure import Figure

from geovq_jax import figures
from geovq_jax.config import given_codes
from geovq_jax.figures.style import figure_png
from geovq_jax.models.sampling import balanced_labels, draw
from geovq_jax.stages.run import Run
from geovq_jax.terminal import progress_bar
from geovq_jax.workdir import save_npz, write_atomically

SETTINGS = ("temperature", "top_k", "top_p", "min_p", "guidance")
NUM_COMPLETED = 10


def check_class(run: Run) -> None:
    """Raise ValueError for a class that the prior was not trained on, before earlier samples are removed."""
    classes, class_id = run.num_classes, run.config.sample.class_id
    if class_id >= classes:
        raise ValueError(f"expected sample.class_id below {classes}, got {class_id}; -1 samples every class")


def generate(run: Run) -> str:
    """Draw codes for every class (or one), decode them, and write samples.npz and a grid with one row per class.

    The upper halves of some validation grids are completed too, into the same npz and completions.png.
    """
    section, (params, arch) = run.config.sample, run.prior
    check_class(run)
    labels = balanced_labels(section.num_samples, section.class_id, arch.num_classes)
    sample_key, completion_key = jax.random.split(jax.random.key(section.seed))
    with progress_bar("drawing samples") as progress:
        codes, log_p = draw(sample_key, params, arch, labels, dict(section), progress=progress)
    valid = run.codes("valid")
    codes = codes.reshape(len(labels), *valid.codes.shape[1:])
    drawn = {"codes": codes, "labels": labels, "log_probabilities": log_p}
    drawn |= {name: section[name] for name in SETTINGS}
    if given_codes(run.config):
        save_npz(run.workdir / "samples.npz", **drawn)
        return f"{len(labels)} rows of codes, {run.workdir / 'samples.npz'}"
    images = run.decode(codes)
    completed = _complete(completion_key, run) if arch.length > 1 and section.num_completions > 0 else {}
    save_npz(run.workdir / "samples.npz", images=images, **drawn, **completed)
    picture = figure_png(figures.image_grid(*sample_rows(images, labels)))
    write_atomically(run.workdir / "samples.png", lambda file: file.write(picture))
    if completed:
        strips = figure_png(completion_figure(completed))
        write_atomically(run.workdir / "completions.png", lambda file: file.write(strips))
    return f"{len(labels)} images, {run.workdir / 'samples.png'}"


def _complete(key: Key[Array, ""], run: Run) -> dict[str, np.ndarray]:
    """Several lower halves for the upper half of some images: their rows in the split, codes and decoded images."""
    valid, ways = run.codes("valid"), run.config.sample.num_completions
    count = min(NUM_COMPLETED, len(valid.codes))
    rows = np.linspace(0, len(valid.codes) - 1, count).astype(np.int64)  # some sources are sorted by class
    given = valid.codes[rows]
    drawn, log_p = draw(
        key,
        *run.prior,
        np.repeat(valid.label[rows], ways),
        dict(run.config.sample),
        prompt=np.repeat(given, ways, axis=0),
        prompt_length=prompt_length(given.shape[1:]),
    )
    codes = np.concatenate([given[:, None], drawn.reshape(count, ways, *given.shape[1:])], axis=1)
    images = run.decode(codes.reshape(-1, *given.shape[1:]))
    return {
        "completion_rows": rows,
        "completion_codes": codes,
        "completion_images": images.reshape(count, 1 + ways, *images.shape[1:]),
        "completion_log_probabilities": log_p.reshape(count, ways, -1),
    }


def prompt_length(code_shape: tuple[int, ...]) -> int:
    """Number of codes in the upper half of a grid, in raster order: half of its rows, rounded up."""
    return -(-code_shape[0] // 2) * int(np.prod(code_shape[1:]))


def completion_figure(
    completed: dict[str, np.ndarray], originals: Float[np.ndarray, "r H W C"] | None = None
) -> Figure:
    """One row per image: the original (if given), its decoded codes, the kept half, completions."""
    images = completed["completion_images"]
    code_shape = completed["completion_codes"].shape[2:]
    kept = images[:, :1].copy()
    share = prompt_length(code_shape) / np.prod(code_shape)
    kept[:, :, round(share * images.shape[2]) :] = 1.0
    columns = [images[:, :1], kept, images[:, 1:]]
    captions = ["codes", "kept", *(str(way + 1) for way in range(images.shape[1] - 1))]
    if originals is not None:
        columns, captions = [originals[:, None], *columns], ["image", *captions]
    return figures.image_grid(np.concatenate(columns, axis=1), [""] * len(images), column_captions=captions)


def sample_rows(images: np.ndarray, labels: np.ndarray, *, columns: int = 10) -> tuple[np.ndarray, list[str]]:
    """Samples with one row per class, white where a class has too few, with captions; a single class fills all rows."""
    classes = np.unique(labels)
    if len(classes) == 1:
        count = min(len(images), columns**2)
        lines = -(-count // columns)
        rows = np.ones((lines * min(columns, count), *images.shape[1:]), np.float32)
        rows[:count] = images[:count]
        return rows.reshape(lines, -1, *images.shape[1:]), [f"class {classes[0]}", *[""] * (lines - 1)]
    rows = np.ones((len(classes), min(columns, int(np.bincount(labels).max())), *images.shape[1:]), np.float32)
    for row, label in zip(rows, classes, strict=True):
        chosen = images[labels == label][: len(row)]
        row[: len(chosen)] = chosen
    return rows, [f"class {label}" for label in classes]
