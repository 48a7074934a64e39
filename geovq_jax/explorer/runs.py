"""A finished run as a latent space to look at: its training nodes, images, decoder, codebook and prior."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from geovq_jax import data
from geovq_jax.explorer.space import MAX_POINTS, Draw, Space, View, geodesic_view, log_volumes, neighbour_table
from geovq_jax.figures.latents import on_plane
from geovq_jax.models.sampling import sample
from geovq_jax.stages.codes import code_pictures, representatives
from geovq_jax.stages.run import Run


def run_space(run: Run, *, max_points: int = MAX_POINTS) -> Space:
    """Nodes of a run's graph with everything the explorer shows of them; the stages up to `codes` must be finished.

    Where the graph has more than `max_points` nodes, whole images are left out at random, by the run's seed. Raises
    FileNotFoundError for a missing stage and ValueError for a damaged file.
    """
    config, graph, latents = run.config, run.graph, run.latents("train")
    grid = latents.mean.shape[1:-1]
    cells = int(np.prod(grid))
    rows = graph.rows
    if len(rows) * cells > max_points:
        rows = np.sort(np.random.default_rng(config.seed).choice(rows, max_points // cells, replace=False))
    position = np.searchsorted(graph.rows, rows)  # rows of the graph file stand in ascending order
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
    metrics = None if graph.metrics is None else graph.metrics[nodes]
    return Space(
        name=config.name if config.name == config.data.name else f"{config.name} ({config.data.name})",
        subject=(
            "a point is one cell of an image's grid of latents; ways replace that cell of the first image"
            if grid
            else "a point is the latent of one training image"
        ),
        points=points,
        views=(
            View(name, np.asarray(coordinates, np.float64), (axes[0], axes[1]), linear=True),
            *geodesic_view(graph.graph, nodes, seed=config.seed),
        ),
        labels=np.repeat(latents.label[rows], cells),
        codes=run.codes("train").codes[rows].ravel(),
        metrics=metrics,
        log_volume=None if metrics is None else log_volumes(metrics),
        neighbours=neighbour_table(points),
        picture=lambda chosen: np.asarray(data.to_float(images[np.asarray(chosen) // cells])),
        decoder=decoder,
        frames=frame,
        code_pictures=code_pictures(run),
        medoids=shown[representatives(run)],
        draw=_sampler(run, grid) if run.has_prior else None,
        num_classes=int(latents.label.max()) + 1,
    )


def _decode_cell(
    decode_fn: Any, grid: Float[Array, "h w d"], where: Array, z: Float[Array | np.ndarray, " d"]
) -> Float[Array, "H W C"]:
    """The image of a grid whose cell `where` is replaced by z."""
    return decode_fn(grid.at[where[0], where[1]].set(z))


def _sampler(run: Run, grid: tuple[int, ...]) -> Any:
    """What draws images from the run's prior."""
    params, arch = run.prior

    def draw(settings: Draw) -> tuple[np.ndarray, np.ndarray]:
        wanted = np.arange(arch.num_classes) if settings.label < 0 else np.array([settings.label])
        classes = np.resize(wanted, settings.number).astype(np.int32)
        dials: Any = {name: getattr(settings, name) for name in ("temperature", "top_p", "guidance")}
        drawn = sample(jax.random.key(settings.seed), params, arch, jnp.asarray(classes), **dials)
        return run.decode(np.asarray(drawn.codes).reshape(settings.number, *grid)), classes

    return draw
