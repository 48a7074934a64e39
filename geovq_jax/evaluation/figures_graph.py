"""Figures of distances along a graph: balls around a node."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from geovq_jax.evaluation.figures_geometry import Plane, principal_plane, project
from geovq_jax.evaluation.style import ACCENT, CONTRAST, INK, WIDTH, new_figure, styled

_OUTSIDE = "#d5d8dc"


@styled
def ball_map(
    latents: Float[np.ndarray, "n d"],
    geodesic: Float[np.ndarray, " n"],
    euclidean: Float[np.ndarray, " n"],
    *,
    share: float = 0.1,
    plane: Plane | None = None,
) -> Figure:
    """The nearest share of all latents by geodesic and by Euclidean distance from one of them, and where they differ.

    Args:
        latents: latents [n, d]; two-dimensional ones are drawn as they are.
        geodesic: distance of each along the graph [n], zero at the centre.
        euclidean: distance of each in latent space [n].
        share: part of all latents in each ball.
        plane: plane to project on; that of largest variance by default.

    Returns:
        The figure.
    """
    if latents.shape[1] > 2:
        points = project(principal_plane(latents) if plane is None else plane, latents)
    else:
        points = np.asarray(latents, np.float64)
    count = max(1, round(share * len(latents)))
    inside = np.zeros((2, len(latents)), bool)
    for row, distances in zip(inside, (geodesic, euclidean), strict=True):
        row[np.argsort(distances, kind="stable")[:count]] = True
    both = inside.all(axis=0)
    kinds = {
        "neither": (~inside.any(axis=0), _OUTSIDE),
        "Euclidean only": (inside[1] & ~both, CONTRAST),
        "geodesic only": (inside[0] & ~both, ACCENT),
        "both": (both, INK),
    }
    figure, (axes,) = new_figure(width=WIDTH * 0.75, height=WIDTH * 0.6)
    size = float(np.clip(25_000.0 / len(latents), 2.0, 18.0))
    for name, (chosen, colour) in kinds.items():
        label = f"{name} ({int(chosen.sum()):,})"
        axes.scatter(points[chosen, 0], points[chosen, 1], s=size, color=colour, linewidths=0, label=label)
    centre = points[np.argmin(geodesic)]
    axes.scatter(centre[0], centre[1], s=90, marker="*", color="white", edgecolors=INK, linewidths=1.0)
    figure.legend(loc="outside upper left", ncols=4, markerscale=3.0, handletextpad=0.1)
    names = ("latent", "latent") if latents.shape[1] == 2 else ("principal axis", "principal axis")
    axes.set(xlabel=f"{names[0]} 1", ylabel=f"{names[1]} 2")
    axes.set_aspect("equal", adjustable="datalim")
    return figure
