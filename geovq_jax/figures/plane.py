"""Figures of two-dimensional latents: cells, the metric as ellipses and volume, curves."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from scipy.spatial import cKDTree

from geovq_jax.figures.style import (
    ACCENT,
    CONTRAST,
    INK,
    MUTED,
    SEQUENTIAL,
    WIDTH,
    class_colours,
    code_colours,
    new_figure,
    styled,
)


def _bounds(points: Float[np.ndarray, "n 2"], margin: float = 0.04) -> tuple[float, float, float, float]:
    low, high = points.min(axis=0), points.max(axis=0)
    pad = margin * (high - low).max()
    return float(low[0] - pad), float(high[0] + pad), float(low[1] - pad), float(high[1] + pad)


def _canvas(bounds: tuple[float, float, float, float], *, colour_bar: bool = False) -> tuple[Figure, Axes]:
    """Axes with equal units that fill a figure of the aspect ratio of the map."""
    left, right, bottom, top = bounds
    width = WIDTH * 0.75
    height = np.clip((width - (1.4 if colour_bar else 0.6)) * (top - bottom) / (right - left), 1.5, 1.3 * width) + 0.5
    figure, (axes,) = new_figure(width=width, height=float(height))
    axes.set(xlabel="latent 1", ylabel="latent 2", xlim=(left, right), ylim=(bottom, top))
    axes.set_aspect("equal", adjustable="box")
    axes.grid(False)
    return figure, axes


@styled
def voronoi_map(
    latents: Float[np.ndarray, "n 2"],
    codes: Int[np.ndarray, " n"],
    codebook: Float[np.ndarray, "K 2"],
    *,
    resolution: int = 500,
) -> Figure:
    """Cells of a codebook over the latent plane: each point of the plane takes the code of the nearest latent.

    Regions farther from any latent than three times the median spacing stay white, as no codes were computed there.
    `resolution` is the number of pixels along the longer side. Raises ValueError for 8 latents or fewer.
    """
    if len(latents) <= 8:
        raise ValueError(f"expected more than 8 latents, got {len(latents)}; draw the map from more latents")
    bounds = left, right, bottom, top = _bounds(latents)
    step = max(right - left, top - bottom) / resolution
    x, y = np.arange(left, right, step) + step / 2.0, np.arange(bottom, top, step) + step / 2.0
    pixels = np.stack(np.meshgrid(x, y), axis=-1)
    tree = cKDTree(latents)
    distance, nearest = tree.query(pixels)
    spacing = float(np.median(tree.query(latents, k=9)[0][:, -1]))
    label = codes[nearest]
    colours = np.array([to_rgb(colour) for colour in code_colours(len(codebook))])
    picture = 0.45 + 0.55 * colours[label]
    border = np.zeros(label.shape, bool)
    border[:, 1:] |= label[:, 1:] != label[:, :-1]
    border[1:] |= label[1:] != label[:-1]
    picture[border] = 1.0
    picture[distance > 3.0 * spacing] = 1.0
    figure, axes = _canvas(bounds)
    axes.imshow(picture, extent=bounds, origin="lower", interpolation="bilinear")
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.scatter(latents[:, 0], latents[:, 1], s=min(2.5, 8000.0 / len(latents)), color=INK, alpha=0.35, linewidths=0)
    axes.scatter(codebook[:, 0], codebook[:, 1], s=26, color=INK, edgecolors="white", linewidths=0.9)
    return figure


@styled
def metric_ellipses(
    points: Float[np.ndarray, "m 2"],
    metrics: Float[np.ndarray, "m 2 2"],
    *,
    latents: Float[np.ndarray, "n 2"] | None = None,
    classes: Int[np.ndarray, " n"] | None = None,
) -> Figure:
    """The metric as ellipses of constant pull-back length: long where a step changes the image little.

    {p + v : v'G(p)v = r^2}, with one r chosen so that the larger ellipses just fit the spacing of the points. `latents`
    are drawn behind, coloured by `classes`.
    """
    eigenvalues, vectors = np.linalg.eigh(metrics)
    radii = 1.0 / np.sqrt(np.maximum(eigenvalues, 1e-12 * eigenvalues.max()))
    bounds = left, right, bottom, top = _bounds(points)
    spacing = np.sqrt((right - left) * (top - bottom) / len(points))
    # The 90 % quantile fits; where the decoder is nearly flat, the ellipse is clipped.
    diameters = np.minimum(radii * 0.9 * spacing / np.quantile(radii[:, 0], 0.9), 1.5 * spacing)
    angles = np.degrees(np.arctan2(vectors[:, 1, 0], vectors[:, 0, 0]))
    figure, axes = _canvas(bounds)
    if latents is not None:
        colours = MUTED if classes is None else np.array(class_colours(int(classes.max()) + 1))[classes]
        axes.scatter(latents[:, 0], latents[:, 1], s=3, c=colours, linewidths=0, alpha=0.5)
    place: Any = {"units": "xy", "offsets": points, "offset_transform": axes.transData}
    look: Any = {"facecolors": (*to_rgb(ACCENT), 0.18), "edgecolors": ACCENT, "linewidths": 0.9}
    axes.add_collection(EllipseCollection(diameters[:, 0], diameters[:, 1], angles, **place, **look))
    return figure


@styled
def volume_map(
    x: Float[np.ndarray, " w"],
    y: Float[np.ndarray, " h"],
    volume: Float[np.ndarray, "h w"],
    *,
    latents: Float[np.ndarray, "n 2"] | None = None,
    curves: Mapping[str, Float[np.ndarray, "_ 2"]] | None = None,
) -> Figure:
    """Volume density sqrt(det G) over the latent plane, with latents as dots and named curves on top.

    `x` and `y` are the latent coordinates of the columns and rows. Raises ValueError unless the density is positive.
    """
    if not (volume > 0).all():
        raise ValueError(f"expected a positive volume density, got a minimum of {volume.min():.3g}; add a small floor")
    figure, axes = _canvas((float(x.min()), float(x.max()), float(y.min()), float(y.max())), colour_bar=True)
    drawn = axes.pcolormesh(x, y, volume, cmap=SEQUENTIAL, norm=LogNorm(), shading="nearest", rasterized=True)
    figure.colorbar(drawn, ax=axes, label="volume density [image units² / latent units²]", shrink=0.8)
    if latents is not None:
        axes.scatter(latents[:, 0], latents[:, 1], s=2, color="white", linewidths=0, alpha=0.6)
    looks = (("--", "#ffffff"), ("-.", "#ffd27a"), ("-", CONTRAST), (":", MUTED))
    for index, (name, curve) in enumerate((curves or {}).items()):
        dash, colour = looks[index % len(looks)]
        axes.plot(curve[:, 0], curve[:, 1], dash, color=INK, linewidth=3.4)
        axes.plot(curve[:, 0], curve[:, 1], dash, color=colour, linewidth=1.8, label=name)
    if curves:
        axes.legend(facecolor="#8a8f96", framealpha=0.9, frameon=True, labelcolor="white")
    return figure
