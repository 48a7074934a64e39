"""Figures of images, training and codes; each takes numpy arrays and returns a matplotlib figure."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter

from geovq_jax.evaluation.style import ACCENT, CONTRAST, GRID, MUTED, WIDTH, new_figure, styled

Curve = tuple[np.ndarray, np.ndarray]


def mosaic(
    images: Float[np.ndarray, "r c h w channels"] | UInt8[np.ndarray, "r c h w channels"], *, gap: int = 2
) -> Float[np.ndarray, "height width channels"]:
    """Images of a grid side by side in one picture, on white.

    Args:
        images: r rows of c images, float in [0, 1] or uint8; one or three channels.
        gap: white pixels between neighbours.

    Returns:
        Picture [r h + (r - 1) gap, c w + (c - 1) gap, channels], float in [0, 1].

    Raises:
        ValueError: not one or three channels.
    """
    rows, columns, height, width, channels = images.shape
    if channels not in (1, 3):
        raise ValueError(f"expected images with 1 or 3 channels, got {channels}; pass [rows, columns, h, w, channels]")
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    canvas = np.ones((rows, height + gap, columns, width + gap, channels))
    canvas[:, :height, :, :width] = np.clip(images.transpose(0, 2, 1, 3, 4) / scale, 0.0, 1.0)
    picture = canvas.reshape(rows * (height + gap), columns * (width + gap), channels)
    return picture[: picture.shape[0] - gap, : picture.shape[1] - gap]


def _bare(axes: Axes) -> None:
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _show(axes: Axes, picture: Float[np.ndarray, "h w c"]) -> None:
    axes.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0.0, vmax=1.0)
    _bare(axes)


@styled
def image_grid(
    images: Float[np.ndarray, "r c h w channels"] | UInt8[np.ndarray, "r c h w channels"],
    row_captions: Sequence[str],
    *,
    column_captions: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Rows of images with a caption a row: reconstructions in three rows, or samples with one row a class.

    Args:
        images: r rows of c images, float in [0, 1] or uint8.
        row_captions: one caption a row.
        column_captions: one caption a column.
        title: heading of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: the captions do not match the rows or columns.
    """
    rows, columns, height, width, _ = images.shape
    if len(row_captions) != rows:
        raise ValueError(f"expected {rows} row captions, got {len(row_captions)}; give one a row of images")
    if column_captions is not None and len(column_captions) != columns:
        raise ValueError(f"expected {columns} column captions, got {len(column_captions)}; give one a column of images")
    gap = max(1, width // 14)
    picture = mosaic(images, gap=gap)
    caption_inches = 0.3 + 0.075 * max(len(caption) for caption in row_captions)
    # A cell is at most 0.7 inch wide, so that a few images are not blown up to the full width.
    inches = min(WIDTH - caption_inches, 0.7 * columns)
    tall = (
        inches * picture.shape[0] / picture.shape[1] + 0.1 + (0.3 if title else 0.0) + (0.2 if column_captions else 0.0)
    )
    figure, (axes,) = new_figure(width=inches + caption_inches, height=tall)
    _show(axes, picture)
    axes.set_yticks(np.arange(rows) * (height + gap) + (height - 1) / 2.0, row_captions)
    axes.tick_params(length=0)
    if column_captions is not None:
        axes.set_xticks(np.arange(columns) * (width + gap) + (width - 1) / 2.0, column_captions)
        axes.xaxis.tick_top()
    if title:
        axes.set_title(title)
    return figure


@styled
def training_curves(
    panels: Mapping[str, Mapping[str, Curve]], *, best_step: int | None = None, log_scale: bool = False
) -> Figure:
    """Metrics against the training step, one panel a quantity.

    Args:
        panels: axis label with its unit ("PSNR [dB]") -> name of the line ("train", "valid") -> (steps, values).
        best_step: step whose weights were kept, marked by a dashed line.
        log_scale: logarithmic value axis.

    Returns:
        The figure.

    Raises:
        ValueError: no panel.
    """
    if not panels:
        raise ValueError("expected at least one panel of curves, got none; pass {label: {line: (steps, values)}}")
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, width=max(WIDTH * columns / 3.0, 4.5), height=2.5 * rows)
    for panel, (label, lines) in zip(axes, panels.items(), strict=False):
        for name, (steps, values) in lines.items():
            markers = "o" if len(steps) < 15 else ""
            panel.plot(steps, values, label=name, marker=markers, markersize=3.0)
        if best_step is not None:
            panel.axvline(best_step, color=MUTED, linestyle="--", linewidth=1.0, label="kept")
        panel.set_title(label)
        panel.set_xlabel("training step")
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if log_scale:
            panel.set_yscale("log")
    for panel in axes[len(panels) :]:
        panel.remove()
    axes[0].legend()
    return figure


@styled
def code_usage(counts: Int[np.ndarray, " K"]) -> Figure:
    """How often each code is used, most frequent first, against uniform use.

    Args:
        counts: times each code is used [K], not all zero.

    Returns:
        The figure.
    """
    share = np.sort(counts)[::-1] / counts.sum()
    size = len(counts)
    positive = share[share > 0]
    perplexity = float(np.exp(-(positive * np.log(positive)).sum()))
    figure, (bars, cumulative) = new_figure(1, 2, height=2.9)
    edges = np.arange(size + 1)
    bars.stairs(100.0 * share, edges, fill=True, color=ACCENT)
    bars.axhline(100.0 / size, color=CONTRAST, linestyle="--", linewidth=1.2, label=f"uniform ({100.0 / size:.2g} %)")
    bars.set(xlabel="code, most used first", ylabel="share of all codes [%]", xlim=(0, size))
    bars.set_title(f"{len(positive)} of {size} codes used, perplexity {perplexity:.0f}")
    bars.legend()
    cumulative.plot(edges, 100.0 * np.concatenate([[0.0], np.cumsum(share)]), color=ACCENT, label="this codebook")
    cumulative.plot([0, size], [0.0, 100.0], color=CONTRAST, linestyle="--", linewidth=1.2, label="uniform")
    cumulative.set(xlabel="codes, most used first", ylabel="cumulative share [%]", xlim=(0, size), ylim=(0, 101))
    cumulative.set_title("cumulative use")
    cumulative.legend()
    return figure


@styled
def code_atlas(
    images: Float[np.ndarray, "K h w channels"],
    counts: Int[np.ndarray, " K"],
    *,
    max_codes: int = 128,
    columns: int = 16,
) -> Figure:
    """Decoded codes, most used first, each with the number of its members.

    Args:
        images: one decoded picture a code, float in [0, 1].
        counts: times each code is used [K].
        max_codes: show at most so many.
        columns: pictures a row.

    Returns:
        The figure.

    Raises:
        ValueError: the counts do not match the pictures.
    """
    if len(images) != len(counts):
        raise ValueError(f"expected one count a code, got {len(counts)} counts for {len(images)} pictures; align them")
    order = np.argsort(-counts, kind="stable")[:max_codes]
    columns = min(columns, len(order))
    rows = -(-len(order) // columns)
    figure, axes = new_figure(rows, columns, width=WIDTH, height=WIDTH / columns * rows * 1.22 + 0.1)
    for panel in axes:
        _bare(panel)
    for panel, code in zip(axes, order, strict=False):
        _show(panel, images[code].astype(np.float64))
        panel.set_title(f"{counts[code]:,}", fontsize=6.5, pad=1.5, loc="center", fontweight="normal", color=MUTED)
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0)  # type: ignore[union-attr,call-arg]
    return figure


@styled
def rate_distortion(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    intervals: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    rate_label: str = "rate [bits an image]",
    quality_label: str = "PSNR [dB]",
) -> Figure:
    """Quality against rate, one line a codebook.

    Args:
        curves: name of the codebook -> (rates [m], qualities [m]).
        intervals: name -> (lower limits [m], upper limits [m]) of the qualities, in the order of the rates given.
        rate_label: label of the horizontal axis with its unit.
        quality_label: label of the vertical axis with its unit.

    Returns:
        The figure.
    """
    figure, (axes,) = new_figure(width=WIDTH * 0.75, height=3.8)
    for index, (name, (rates, qualities)) in enumerate(curves.items()):
        order = np.argsort(rates)
        rates, qualities = rates[order], qualities[order]
        (line,) = axes.plot(rates, qualities, marker="osD^vP"[index % 6], markersize=5.0, label=name)
        if intervals is not None and name in intervals:
            low, high = (limits[order] for limits in intervals[name])
            error = np.stack([qualities - low, high - qualities])
            axes.errorbar(rates, qualities, yerr=error, fmt="none", ecolor=line.get_color(), capsize=2.5, lw=1.0)
    axes.set(xlabel=rate_label, ylabel=quality_label)
    axes.legend()
    return figure


@styled
def interpolation_strips(
    strips: Mapping[str, Float[np.ndarray, "t h w channels"]], *, lengths: Mapping[str, float] | None = None
) -> Figure:
    """Decoded curves between two latents, one row a curve, steps from left to right.

    Args:
        strips: name of the curve ("straight", "graph", "continuous") -> decoded images [t, h, w, channels] in [0, 1].
        lengths: name -> pull-back length of the curve, written beside its name.

    Returns:
        The figure.

    Raises:
        ValueError: the curves have different numbers of images.
    """
    counts = {len(strip) for strip in strips.values()}
    if len(counts) != 1:
        raise ValueError(f"expected strips of one length, got {sorted(counts)} images; resample the curves")
    captions = [name if lengths is None else f"{name}\nlength {lengths[name]:.2f}" for name in strips]
    stacked = np.stack([np.asarray(strip, np.float64) for strip in strips.values()])
    return image_grid(stacked, captions)


@styled
def comparison(
    values: Mapping[str, float],
    label: str,
    *,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    reference: tuple[str, float] | None = None,
) -> Figure:
    """One row an approach: its value as a dot, its interval as a line.

    Args:
        values: name -> value, drawn from top to bottom.
        label: quantity with its unit.
        intervals: name -> (low, high).
        reference: name and value of a level to mark by a dashed line.

    Returns:
        The figure.
    """
    figure, (axes,) = new_figure(width=WIDTH * 0.75, height=1.0 + 0.34 * len(values))
    names = list(values)
    axes.plot([values[name] for name in names], names, "o", color=ACCENT, markersize=6.5)
    for row, name in enumerate(names):
        if intervals is not None and name in intervals:
            axes.plot(intervals[name], [row, row], color=ACCENT, linewidth=2.2, solid_capstyle="round")
    if reference is not None:
        axes.axvline(reference[1], color=CONTRAST, linestyle="--", linewidth=1.2, label=reference[0])
        figure.legend(loc="outside upper right")
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label)
    return figure


@styled
def elbow(
    num_clusters: Int[np.ndarray, " m"], costs: Mapping[str, Float[np.ndarray, " m"]], *, unit: str = "squared length"
) -> Figure:
    """Clustering cost against the number of codes, both logarithmic.

    Args:
        num_clusters: numbers of codes [m].
        costs: name of the method -> mean squared distance to the codebook at each number [m].
        unit: unit of the cost.

    Returns:
        The figure.
    """
    figure, (axes,) = new_figure(width=WIDTH * 0.65, height=3.4)
    for index, (name, cost) in enumerate(costs.items()):
        axes.plot(num_clusters, cost, marker="osD^vP"[index % 6], markersize=4.5, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(num_clusters, [str(count) for count in num_clusters])
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()
    axes.set(xlabel="number of codes K", ylabel=f"mean cost [{unit}]")
    axes.legend()
    return figure


@styled
def distance_histogram(
    distances: Mapping[str, Float[np.ndarray, " _"]], *, unit: str = "pull-back length", bins: int = 60
) -> Figure:
    """Distribution of distances, one outline a kind.

    Args:
        distances: name -> finite distances of any number.
        unit: unit of the distances.
        bins: number of bins over the common range.

    Returns:
        The figure.

    Raises:
        ValueError: no finite distance at all.
    """
    finite = {name: values[np.isfinite(values)] for name, values in distances.items()}
    everything = np.concatenate(list(finite.values()))
    if everything.size == 0:
        raise ValueError("expected finite distances, got none; the graph has no path between the chosen nodes")
    edges = np.linspace(min(0.0, everything.min()), everything.max() or 1.0, bins + 1)
    figure, (axes,) = new_figure(width=WIDTH * 0.75, height=3.0)
    for name, values in finite.items():
        share = np.histogram(values, edges)[0] / max(len(values), 1)
        patch = axes.stairs(100.0 * share, edges, fill=True, alpha=0.25)
        axes.stairs(
            100.0 * share, edges, color=patch.get_facecolor()[:3], linewidth=1.4, label=f"{name} ({len(values):,})"
        )
    axes.set(xlabel=f"distance [{unit}]", ylabel="share of pairs [%]")
    axes.grid(axis="x", color=GRID)
    axes.legend()
    return figure
