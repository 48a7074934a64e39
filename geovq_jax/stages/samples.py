"""Stage `samples`: draw codes from the prior, complete given ones, decode both."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Key
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from geovq_jax import figures
from geovq_jax.figures.style import figure_png
from geovq_jax.models import gpt
from geovq_jax.models.sampling import sample
from geovq_jax.stages.codes import load_codes
from geovq_jax.stages.prior import decode_codes, load_prior, num_classes, raster
from geovq_jax.workdir import save_npz, write_atomically

SETTINGS = ("temperature", "top_k", "top_p", "min_p", "guidance")
NUM_COMPLETED = 10
BATCH = 64


def draw(
    key: Key[Array, ""],
    params: Any,
    arch: gpt.Architecture,
    labels: Integer[np.ndarray, " n"],
    section: ConfigDict,
    *,
    guidance: float | None = None,
    prompt: Integer[np.ndarray, "n ..."] | None = None,
    prompt_length: int = 0,
) -> tuple[Int[np.ndarray, "n t"], Float[np.ndarray, "n t"]]:
    """Draw one code sequence a label under a configuration's sampling settings.

    The key of a sample depends on its place among the labels alone, so the size of a batch changes nothing.

    Args:
        key: decides the draws.
        params: of the prior.
        arch: its sizes.
        labels: class of each sample, or `arch.no_class`.
        section: the configuration's section `sample`: temperature, top_k, top_p, min_p, guidance.
        guidance: replaces the section's.
        prompt: codes to complete, of which the first `prompt_length` in raster order are kept.
        prompt_length: number of codes kept.

    Returns:
        Codes [n, t] (`reshape(n, *code_shape)` makes grids) and their log-probabilities [n, t] under the prior.
    """
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(labels)))
    given = np.zeros((len(labels), arch.length), np.int32) if prompt is None else raster(prompt)
    parts = []
    for start in range(0, len(labels), BATCH):
        # The last batch is filled up by copies of its last row: one compilation, whatever the number of samples.
        rows = np.minimum(np.arange(start, start + BATCH), len(labels) - 1)
        drawn = sample(
            keys[rows],
            params,
            arch,
            jnp.asarray(labels[rows]),
            temperature=section.temperature,
            top_k=section.top_k or None,
            top_p=section.top_p if section.top_p < 1.0 else None,
            min_p=section.min_p or None,
            guidance=section.guidance if guidance is None else guidance,
            prompt=jnp.asarray(given[rows]),
            prompt_length=prompt_length,
        )
        parts.append([np.asarray(array) for array in drawn])
    codes, log_p = (np.concatenate(arrays)[: len(labels)] for arrays in zip(*parts, strict=True))
    return codes, log_p


def check_class(workdir: Path, config: ConfigDict) -> None:
    """Refuse a class that the prior does not know, before earlier samples are removed.

    Raises:
        ValueError: the class is out of range.
    """
    classes, class_id = num_classes(workdir), config.sample.class_id
    if class_id >= classes:
        raise ValueError(f"expected sample.class_id below {classes}, got {class_id}; -1 samples every class")


def generate(workdir: Path, config: ConfigDict) -> str:
    """Draw codes for every class (or one), decode them, and write samples.npz and a grid with one row a class.

    Codes of a grid are completed too: the upper halves of some validation images continue in several ways, into the
    same npz and completions.png.
    """
    section = config.sample
    check_class(workdir, config)
    params, arch = load_prior(workdir, config)
    labels = balanced_labels(section.num_samples, section.class_id, arch.num_classes)
    sample_key, completion_key = jax.random.split(jax.random.key(section.seed))
    codes, log_p = draw(sample_key, params, arch, labels, section)
    valid = load_codes(workdir, "valid")
    codes = codes.reshape(len(labels), *valid["codes"].shape[1:])
    images = decode_codes(workdir, config, codes)
    completed = {}
    if arch.length > 1 and section.num_completions > 0:
        completed = _complete(completion_key, workdir, config, params, arch, valid)
    save_npz(
        workdir / "samples.npz",
        codes=codes,
        images=images,
        labels=labels,
        log_probabilities=log_p,
        **completed,
        **{name: section[name] for name in SETTINGS},
    )
    picture = figure_png(figures.image_grid(*sample_rows(images, labels)))
    write_atomically(workdir / "samples.png", lambda file: file.write(picture))
    if completed:
        strips = figure_png(completion_figure(completed))
        write_atomically(workdir / "completions.png", lambda file: file.write(strips))
    return f"{len(labels)} images, {workdir / 'samples.png'}"


def balanced_labels(num_samples: int, class_id: int, num_classes: int) -> Int[np.ndarray, " n"]:
    """Labels [num_samples], sorted: one class, or (class_id = -1) all classes as equally often as the number allows."""
    classes = np.asarray([class_id] if class_id >= 0 else range(num_classes), np.int32)
    return np.sort(np.resize(classes, num_samples))


def _complete(
    key: Key[Array, ""],
    workdir: Path,
    config: ConfigDict,
    params: Any,
    arch: gpt.Architecture,
    valid: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Several lower halves for the upper half of some images: their rows in the split, codes and decoded images."""
    count = min(NUM_COMPLETED, len(valid["codes"]))
    rows = np.linspace(0, len(valid["codes"]) - 1, count).astype(np.int64)  # some sources are sorted by class
    given, ways = valid["codes"][rows], config.sample.num_completions
    drawn, log_p = draw(
        key,
        params,
        arch,
        np.repeat(valid["label"][rows], ways),
        config.sample,
        prompt=np.repeat(given, ways, axis=0),
        prompt_length=prompt_length(given.shape[1:]),
    )
    codes = np.concatenate([given[:, None], drawn.reshape(count, ways, *given.shape[1:])], axis=1)
    images = decode_codes(workdir, config, codes.reshape(-1, *given.shape[1:]))
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
    """A row an image: the original [r, H, W, C] (if given), its codes decoded, the half that is kept, completions."""
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
    """Samples as rows of one class each, white where a class has too few, with their captions; one class fills rows."""
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
