"""Figures of the latent space: maps, edge lengths, graph, cells and the metric."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from geovq_jax.evaluation.statistics import edge_agreement
from geovq_jax.figures.style import (
    ACCENT,
    CONTRAST,
    INK,
    SEQUENTIAL,
    WIDTH,
    class_colours,
    new_figure,
    styled,
)
from geovq_jax.geometry.graphs.embedding import Plane, principal_plane, project

_OUTSIDE = "#d5d8dc"  # points that are unreachable, or in no group
_CODES_SHOWN = 20  # more colours cannot be told apart


def on_plane(points: Float[np.ndarray, "n d"], plane: Plane | None, axis: str) -> tuple[np.ndarray, str, str]:
    """Points projected on a plane, by default the principal one, and its axis labels; 2-D points are unchanged."""
    if points.shape[1] == 2 and plane is None:
        return points, "latent 1", "latent 2"
    plane = principal_plane(points) if plane is None else plane
    first, second = (f"{axis} {i + 1} ({100.0 * share:.0f} % of variance)" for i, share in enumerate(plane.explained))
    return project(plane, points), first, second


def _marker_area(count: int) -> float:
    return float(np.clip(25_000.0 / max(count, 1), 1.5, 18.0))


@styled
def latent_map(
    latents: Float[np.ndarray, "n d"],
    *,
    classes: Int[np.ndarray, " n"] | None = None,
    class_names: Sequence[str] | None = None,
    codes: Int[np.ndarray, " n"] | None = None,
    values: Float[np.ndarray, " n"] | None = None,
    value_label: str = "",
    codebook: Float[np.ndarray, "K d"] | None = None,
    plane: Plane | None = None,
    axis: str = "principal axis",
) -> Figure:
    """Latents in their principal plane, coloured by class, by code (the most used ones) or by a value.

    Args:
        latents: those with two dimensions are drawn unprojected.
        classes, codes, values: at most one of these; infinite values, such as unreachable distances, are drawn in grey.
        value_label: name of the values, with their unit.
        codebook: codebook vectors, drawn as crosses.
        plane: plane to project on, so that figures can share one map; `axis` names its axes.

    Raises:
        ValueError: more than one colouring is given.
    """
    if sum(colouring is not None for colouring in (classes, codes, values)) > 1:
        raise ValueError("expected one of classes, codes and values, got several; draw one map each")
    if plane is None and latents.shape[1] > 2:
        plane = principal_plane(latents)  # the codebook uses the plane of the latents, too
    points, first, second = on_plane(latents, plane, axis)
    figure, (axes,) = new_figure(width=WIDTH * 0.75, height=WIDTH * 0.62)
    # A fixed shuffle: in the order of the data set, the last class would cover the others.
    order = np.random.default_rng(0).permutation(len(points))
    x, y = points[order, 0], points[order, 1]
    size = _marker_area(len(points))
    if classes is not None:
        count = int(classes.max()) + 1
        palette = np.array(class_colours(count))
        axes.scatter(x, y, s=size, c=palette[classes[order]], linewidths=0, alpha=0.8)
        for label in np.unique(classes):
            name = str(label) if class_names is None else class_names[label]
            axes.scatter([], [], s=28, color=palette[label], label=name)
        figure.legend(loc="outside right center", title="class", handletextpad=0.2)
        _name_classes(axes, points, classes, class_names)
    elif codes is not None:
        _scatter_codes(figure, axes, points[order], codes[order], size)
    elif values is not None:
        _scatter_values(figure, axes, points[order], values[order], value_label, size)
    else:
        axes.scatter(x, y, s=size, color=ACCENT, linewidths=0, alpha=0.6)
    if codebook is not None:
        centres = codebook if plane is None else project(plane, codebook)
        axes.scatter(centres[:, 0], centres[:, 1], s=16, marker="x", color=INK, linewidths=0.8)
    axes.set(xlabel=first, ylabel=second)
    axes.set_aspect("equal", adjustable="datalim")
    return figure


def _name_classes(axes: Axes, points: np.ndarray, classes: np.ndarray, names: Sequence[str] | None) -> None:
    """Write each class at its median unless it would overlap another: not every reader can distinguish the colours."""
    reach = 0.05 * np.ptp(points, axis=0).max()
    placed: list[np.ndarray] = []
    for label in np.unique(classes):
        middle = np.median(points[classes == label], axis=0)
        if any(np.linalg.norm(middle - other) < reach for other in placed):
            continue
        placed.append(middle)
        name = str(label) if names is None else names[label]
        words = axes.text(middle[0], middle[1], name, ha="center", va="center", fontsize=9.5, fontweight="bold")
        words.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _scatter_codes(figure: Figure, axes: Axes, points: np.ndarray, codes: np.ndarray, size: float) -> None:
    """Points in the colours of the most frequent codes, all others in grey."""
    counts = np.bincount(codes)
    shown = np.argsort(-counts, kind="stable")[: min(_CODES_SHOWN, np.count_nonzero(counts))]
    other = ~np.isin(codes, shown)
    if other.any():
        axes.scatter(points[other, 0], points[other, 1], s=size, color=_OUTSIDE, linewidths=0, label="others")
    palette = np.full(len(counts), _OUTSIDE)
    palette[shown] = class_colours(len(shown))
    inside = points[~other]
    axes.scatter(inside[:, 0], inside[:, 1], s=size, c=palette[codes[~other]], linewidths=0, alpha=0.9)
    for code in shown:
        axes.scatter([], [], s=28, color=palette[code], label=str(code))
    figure.legend(loc="outside right center", title="code", handletextpad=0.2)


def _scatter_values(
    figure: Figure, axes: Axes, points: np.ndarray, values: np.ndarray, label: str, size: float
) -> None:
    finite = np.isfinite(values)
    axes.scatter(points[~finite, 0], points[~finite, 1], s=size, color=_OUTSIDE, linewidths=0)
    drawn = axes.scatter(points[finite, 0], points[finite, 1], s=size, c=values[finite], cmap=SEQUENTIAL, linewidths=0)
    figure.colorbar(drawn, ax=axes, label=label, shrink=0.8)


@styled
def edge_scatter(euclidean: Float[np.ndarray, " e"], pullback: Float[np.ndarray, " e"]) -> Figure:
    """Pull-back [image units] against Euclidean [latent units] edge lengths, and the distribution of their ratio."""
    summary = edge_agreement(euclidean, pullback)
    figure, (axes, side) = new_figure(1, 2, width=1.12 * WIDTH, height=3.5)
    if len(euclidean) > 3000:
        drawn = axes.hexbin(euclidean, pullback, gridsize=55, cmap=SEQUENTIAL, norm=LogNorm(), mincnt=1, linewidths=0.1)
        figure.colorbar(drawn, ax=axes, label="edges", shrink=0.8)
    else:
        axes.scatter(euclidean, pullback, s=6, color=ACCENT, alpha=0.5, linewidths=0)
    reach = min(float(euclidean.max()), float(pullback.max()) / max(summary.ratio_median, 1e-30))
    line = [0.0, reach], [0.0, reach * summary.ratio_median]
    axes.plot(*line, color=CONTRAST, linestyle="--", lw=1.3, label="median ratio")
    axes.set(xlabel="Euclidean length [latent units]", ylabel="pull-back length [image units]")
    axes.set_title(f"{len(euclidean):,} edges, r {summary.correlation:.2f}, rank r {summary.rank_correlation:.2f}")
    axes.set_xlim(left=0.0)
    axes.set_ylim(bottom=0.0)
    axes.legend(loc="upper left")
    positive = euclidean > 0
    ratio = pullback[positive] / euclidean[positive]
    share, edges = np.histogram(ratio, 60, range=(0.0, float(np.quantile(ratio, 0.995)) or 1.0))
    side.stairs(100.0 * share / len(ratio), edges, fill=True, color=ACCENT, alpha=0.85)
    side.axvline(summary.ratio_median, color=CONTRAST, linestyle="--", linewidth=1.3)
    side.set(xlabel="pull-back / Euclidean length", ylabel="share of edges [%]", xlim=(0.0, edges[-1]))
    spread = f"[{summary.ratio_low:.3g}, {summary.ratio_high:.3g}]"
    side.set_title(f"median ratio {summary.ratio_median:.3g}, 5–95 % {spread}")
    return figure


@styled
def connectivity_bars(
    num_neighbours: Int[np.ndarray, " m"],
    num_components: Int[np.ndarray, " m"],
    largest_fraction: Float[np.ndarray, " m"],
) -> Figure:
    """Number of components, and share of nodes in the largest (in [0, 1]), by number of neighbours."""
    figure, (left, right) = new_figure(1, 2, height=2.7)
    names = [str(k) for k in num_neighbours]
    panels = (
        (left, num_components, "components", "{:,.0f}"),
        (right, 100.0 * largest_fraction, "largest [% of nodes]", "{:.1f}"),
    )
    for panel, heights, label, form in panels:
        bars = panel.bar(names, heights, color=ACCENT, width=0.62)
        panel.bar_label(bars, [form.format(height) for height in heights], padding=2, fontsize=8.0, color=INK)
        panel.set(xlabel="neighbours k", ylabel=label)
        panel.grid(axis="x", visible=False)
        panel.margins(y=0.14)
    return figure


@styled
def ball_map(
    latents: Float[np.ndarray, "n d"],
    geodesic: Float[np.ndarray, " n"],
    euclidean: Float[np.ndarray, " n"],
    *,
    share: float = 0.1,
    plane: Plane | None = None,
) -> Figure:
    """The `share` of latents nearest to one of them by geodesic and by Euclidean distance, and where the two differ.

    `geodesic` is zero at the centre. Latents of more than two dimensions are projected on `plane`, by default the
    principal one.
    """
    points, first, second = on_plane(latents, plane, "principal axis")
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
    size = _marker_area(len(latents))
    for name, (chosen, colour) in kinds.items():
        label = f"{name} ({int(chosen.sum()):,})"
        axes.scatter(points[chosen, 0], points[chosen, 1], s=size, color=colour, linewidths=0, label=label)
    centre = points[np.argmin(geodesic)]
    axes.scatter(centre[0], centre[1], s=90, marker="*", color="white", edgecolors=INK, linewidths=1.0)
    figure.legend(loc="outside upper left", ncols=4, markerscale=3.0, handletextpad=0.1)
    axes.set(xlabel=first, ylabel=second)
    axes.set_aspect("equal", adjustable="datalim")
    return figure
