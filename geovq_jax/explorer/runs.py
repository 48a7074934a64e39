"""The space of a finished run: training nodes, images, decoder, codebook and prior."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from geovq_jax import data
from geovq_jax.explorer.space import (
    MAX_POINTS,
    Draw,
    Drawn,
    Space,
    Versus,
    log_volumes,
    neighbour_table,
)
from geovq_jax.explorer.views import View, geodesic_view, umap_view
from geovq_jax.figures.latents import on_plane
from geovq_jax.models.sampling import balanced_labels, sample
from geovq_jax.stages.codes import code_pictures, representatives
from geovq_jax.stages.run import Run

MAX_COMPARED = 2_000  # test images used to compare two runs


def run_space(run: Run, *, max_points: int = MAX_POINTS) -> Space:
    """Build the space of a run from the nodes of its graph; the stages up to `codes` must have finished.

    If the graph has more than `max_points` nodes, a random subset of its images is kept, by the seed of the run. Raises
    FileNotFoundError for a missing stage and ValueError for a damaged file.
    """
    config, graph, latents = run.config, run.graph, run.latents("train")
    grid = latents.mean.shape[1:-1]
    cells = int(np.prod(grid))
    rows = graph.rows
    if len(rows) * cells > max_points:
        rows = np.sort(np.random.default_rng(config.seed).choice(rows, max_points // cells, replace=False))
    position = np.searchsorted(graph.rows, rows)  # rows of the graph are in ascending order
    nodes = (position[:, None] * cells + np.arange(cells)[None]).ravel()
    points = latents.mean[rows].reshape(-1, latents.mean.shape[-1])
    coordinates, *axes = on_plane(points, None, "principal axis")
    name = "latents" if points.shape[1] == 2 else "plane"
    images = run.dataset.train.images[rows]
    shown = np.full(len(graph.points), -1)
    shown[nodes] = np.arange(len(nodes))

    def decoder(node: int) -> Any:
        if not grid:
            return decode_fn
        where = jnp.asarray(np.unravel_index(node % cells, grid))
        return jax.tree_util.Partial(_decode_cell, decode_fn, jnp.asarray(latents.mean[rows[node // cells]]), where)

    def frame(node: int) -> tuple[float, float, float, float] | None:
        if not grid:
            return None
        row, column = np.unravel_index(node % cells, grid)
        return float(row / grid[0]), float(column / grid[1]), 1.0 / grid[0], 1.0 / grid[1]

    decode_fn = run.decode_fn
    metrics = run.metrics_at(nodes)
    neighbours = neighbour_table(points)
    return Space(
        name=config.name if config.name == config.data.name else f"{config.name} ({config.data.name})",
        subject=(
            "each is one cell of an image's grid of latents" if grid else "each is the latent of one training image"
        ),
        points=points,
        views=(
            View(name, np.asarray(coordinates, np.float64), (axes[0], axes[1]), linear=True),
            *geodesic_view(graph.graph, nodes, seed=config.seed),
            *umap_view(points, neighbours, metrics, seed=config.seed),
        ),
        labels=np.repeat(latents.label[rows], cells),
        codes=run.codes("train").codes[rows].ravel(),
        images=np.repeat(rows, cells),
        class_names=run.class_names,
        metrics=metrics,
        log_volume=None if metrics is None else log_volumes(metrics),
        neighbours=neighbours,
        picture=lambda chosen: np.asarray(data.to_float(images[np.asarray(chosen) // cells])),
        decoder=decoder,
        frames=frame,
        code_pictures=code_pictures(run),
        vectors=run.codebook.vectors,
        medoids=shown[representatives(run)],
        draw=_sampler(run, grid) if run.has_prior else None,
        sampling=Draw(
            label=config.sample.class_id,
            number=config.sample.num_samples,
            **{name: config.sample[name] for name in Draw._fields[2:]},
        ),
    )


def compare_runs(run: Run, other: Run, *, max_images: int = MAX_COMPARED) -> Versus:
    """Test images of two runs, the images that each decodes from its codes, and the errors.

    Raises ValueError if the test images differ, and FileNotFoundError for a run without codes.
    """
    ours, theirs = run.dataset.test, other.dataset.test
    if not np.array_equal(ours.images, theirs.images):
        raise ValueError(
            f"expected two runs of the same test images, got {run.workdir} of {run.config.data.name} and "
            f"{other.workdir} of {other.config.data.name}; give runs of one data set, seed and data.max_test"
        )
    count = len(ours.labels)
    rows = np.linspace(0, count - 1, min(count, max_images)).astype(np.int64)  # some sources are sorted by class
    images = run.images("test")[rows]
    codes = (run.codes("test").codes[rows], other.codes("test").codes[rows])
    decoded = (run.decode(codes[0]), other.decode(codes[1]))
    names = (run.config.name, other.config.name)
    if names[0] == names[1]:
        names = (run.workdir.name, other.workdir.name)
    if names[0] == names[1]:
        names = (str(run.workdir), str(other.workdir))
    return Versus(
        names=names,
        rows=rows,
        images=images,
        labels=ours.labels[rows],
        decoded=decoded,
        codes=codes,
        errors=np.stack([np.mean((part - images) ** 2, axis=(1, 2, 3)) for part in decoded]),
    )


def _decode_cell(
    decode_fn: Any, grid: Float[Array, "h w d"], where: Array, z: Float[Array | np.ndarray, " d"]
) -> Float[Array, "H W C"]:
    """The decoded image of a grid with its cell `where` replaced by z."""
    return decode_fn(grid.at[where[0], where[1]].set(z))


def _sampler(run: Run, grid: tuple[int, ...]) -> Any:
    """The function that draws samples from the prior of the run."""
    params, arch = run.prior

    def draw(settings: Draw, rows: np.ndarray) -> Drawn:
        """Rows of the samples that `run.sample` draws with these settings."""
        labels = balanced_labels(settings.number, settings.label, arch.num_classes)[rows]
        drawn = sample(
            jax.vmap(partial(jax.random.fold_in, jax.random.key(settings.seed)))(jnp.asarray(rows)),
            params,
            arch,
            jnp.asarray(labels),
            temperature=settings.temperature,
            top_k=settings.top_k or None,
            top_p=settings.top_p if settings.top_p < 1.0 else None,
            min_p=settings.min_p or None,
            guidance=settings.guidance,
        )
        codes = np.asarray(drawn.codes).reshape(len(rows), *grid)
        return Drawn(codes, run.decode(codes), labels)

    return draw
