"""A finished run as a latent space to look at: its training nodes, images, decoder, codebook and prior."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from geovq_jax.explorer.space import MAX_POINTS, Draw, Space, View, geodesic_view, log_volumes, neighbour_table
from geovq_jax.geometry.graphs.embedding import Plane, principal_plane, project
from geovq_jax.models import vae
from geovq_jax.models.sampling import sample
from geovq_jax.quantization.codebook import load_codebook, lookup
from geovq_jax.stages.atlas import code_pictures
from geovq_jax.stages.codes import decoder_of, image_shape, load_codes, load_graph, load_latents, nodes_of
from geovq_jax.stages.prior import load_prior
from geovq_jax.stages.vae import load_data, load_params


def run_space(workdir: Path, config: ConfigDict, *, max_points: int = MAX_POINTS) -> Space:
    """Nodes of a run's graph, with everything the explorer shows of them.

    Where the graph has more than `max_points` nodes, whole images are left out at random, by the run's seed.

    Args:
        workdir: work directory with the stages up to `decoder` finished, and `prior` to draw samples.
        config: its configuration.
        max_points: most points shown.

    Returns:
        The space.

    Raises:
        FileNotFoundError: a stage is missing.
        ValueError: a file of the run is damaged.
    """
    lengths, graph = load_graph(workdir)
    latents, coded = load_latents(workdir, "train"), load_codes(workdir, "train")
    grid = latents["mean"].shape[1:-1]
    cells = int(np.prod(grid))
    rows = graph["rows"]
    if len(rows) * cells > max_points:
        rows = np.sort(np.random.default_rng(config.seed).choice(rows, max_points // cells, replace=False))
    position = np.searchsorted(graph["rows"], rows)  # rows of the graph file stand in ascending order
    nodes = (position[:, None] * cells + np.arange(cells)[None]).ravel()
    points = nodes_of(latents["mean"][rows])
    flat = points.shape[1] == 2
    plane = None if flat else principal_plane(points)
    images = load_data(config).train.images[rows]
    shown = np.full(len(graph["rows"]) * cells, -1)
    shown[nodes] = np.arange(len(nodes))
    medoids = load_codebook(workdir / "codebook.npz").medoids

    def decoder(node: int) -> Any:
        if not grid:
            return decode_fn
        where = jnp.asarray(np.unravel_index(node % cells, grid))
        return jax.tree_util.Partial(_decode_cell, decode_fn, jnp.asarray(latents["mean"][rows[node // cells]]), where)

    def frame(node: int) -> tuple[float, float, float, float] | None:
        if not grid:
            return None
        row, column = np.unravel_index(node % cells, grid)
        return float(row / grid[0]), float(column / grid[1]), 1.0 / grid[0], 1.0 / grid[1]

    decode_fn = decoder_of(workdir, config)
    metrics = graph["metrics"][nodes] if "metrics" in graph else None
    return Space(
        name=config.name if config.name == config.data.name else f"{config.name} ({config.data.name})",
        subject=(
            "a point is one cell of an image's grid of latents; ways replace that cell of the first image"
            if grid
            else "a point is the latent of one training image"
        ),
        points=points,
        views=(
            View("latents", points.astype(np.float64), ("latent 1", "latent 2"), linear=True)
            if plane is None
            else View("plane", np.asarray(project(plane, points), np.float64), _axis_labels(plane), linear=True),
            *geodesic_view(lengths, nodes, seed=config.seed),
        ),
        labels=np.repeat(latents["label"][rows], cells),
        codes=coded["codes"][rows].ravel(),
        metrics=metrics,
        log_volume=None if metrics is None else log_volumes(metrics),
        neighbours=neighbour_table(points),
        picture=lambda chosen: images[np.asarray(chosen) // cells] / np.float32(255),
        decoder=decoder,
        frames=frame,
        code_pictures=code_pictures(workdir, config),
        medoids=np.where(medoids < 0, -1, shown[medoids]),
        draw=_sampler(workdir, config, grid) if (workdir / "prior" / "best").is_dir() else None,
        num_classes=int(latents["label"].max()) + 1,
    )


def _axis_labels(plane: Plane) -> tuple[str, str]:
    first, second = (
        f"principal axis {i + 1} ({100.0 * share:.0f} % of variance)" for i, share in enumerate(plane.explained)
    )
    return first, second


def _decode_cell(
    decode_fn: Any, grid: Float[Array, "h w d"], where: Array, z: Float[Array | np.ndarray, " d"]
) -> Float[Array, "H W C"]:
    """The image of a grid whose cell `where` is replaced by z."""
    return decode_fn(grid.at[where[0], where[1]].set(z))


def _sampler(workdir: Path, config: ConfigDict, grid: tuple[int, ...]) -> Any:
    """What draws images from the run's prior."""
    params, arch = load_prior(workdir, config)
    decode_one = partial(vae.decode, *load_params(workdir / "decoder", config, image_shape(workdir)))
    decode = jax.jit(jax.vmap(decode_one))
    book = load_codebook(workdir / "codebook.npz")

    def draw(settings: Draw) -> tuple[np.ndarray, np.ndarray]:
        wanted = np.arange(arch.num_classes) if settings.label < 0 else np.array([settings.label])
        classes = np.resize(wanted, settings.number).astype(np.int32)
        drawn = sample(
            jax.random.key(settings.seed),
            params,
            arch,
            jnp.asarray(classes),
            temperature=settings.temperature,
            top_p=settings.top_p,
            guidance=settings.guidance,
        )
        codes = np.asarray(drawn.codes).reshape(settings.number, *grid)
        return np.clip(np.asarray(decode(lookup(book, codes))), 0.0, 1.0), classes

    return draw
