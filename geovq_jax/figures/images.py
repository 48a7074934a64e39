"""Figures of images, training and codes; each takes numpy arrays and returns a matplotlib figure."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from geovq_jax.figures.style import (
    ACCENT,
    CONTRAST,
    INK,
    MUTED,
    SEQUENTIAL,
    WIDTH,
    as_picture,
    even_decimals,
    new_figure,
    styled,
)

Curve = tuple[np.ndarray, np.ndarray]


def mosaic(
    images: Float[np.ndarray, "r c h w channels"] | UInt[np.ndarray, "r c h w channels"], *, gap: int = 2
) -> Float[np.ndarray, "height width colours"]:
    """A grid of images (see `as_picture`) on white, `gap` pixels apart, as floats in [0, 1]."""
    pictures = as_picture(images)
    rows, columns, height, width, channels = pictures.shape
    canvas = np.ones((rows, height + gap, columns, width + gap, channels))
    canvas[:, :height, :, :width] = pictures.transpose(0, 2, 1, 3, 4)
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
    axes.set_anchor("W")  # centred, the room beside the picture would be taken for that of its row captions
    _bare(axes)


@styled
def image_grid(
    images: Float[np.ndarray, "r c h w channels"] | UInt[np.ndarray, "r c h w channels"],
    row_captions: Sequence[str],
    *,
    column_captions: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Rows of images, floats in [0, 1] or integers, with a caption per row and, if given, per column.

    Raises ValueError if the captions do not match the rows or columns.
    """
    images = as_picture(images)
    rows, columns, height, width, _ = images.shape
    if len(row_captions) != rows:
        raise ValueError(f"expected {rows} row captions, got {len(row_captions)}; give one per row")
    if column_captions is not None and len(column_captions) != columns:
        raise ValueError(f"expected {columns} column captions, got {len(column_captions)}; give one per column")
    gap = max(1, width // 14)
    picture = mosaic(images, gap=gap)
    caption_inches = 0.3 + 0.075 * max(len(caption) for caption in row_captions)
    # Images are at most 0.7 inches wide, so that a few of them are not enlarged to the full width.
    inches = min(WIDTH - caption_inches, 0.7 * columns)
    tall = inches * picture.shape[0] / picture.shape[1] + 0.1 + 0.3 * bool(title) + 0.2 * bool(column_captions)
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
    """Metrics against the training step, one panel per quantity.

    Args:
        panels: axis label with its unit ("PSNR [dB]") -> name of the line ("train", "valid") -> (steps, values).
        best_step: step whose weights were kept, marked by a dashed line.

    Raises:
        ValueError: there are no panels.
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
    """Usage of each code on a log scale, most used first, against uniform usage; some count must be positive."""
    share = np.sort(counts)[::-1] / counts.sum()
    size = len(counts)
    positive = share[share > 0]
    perplexity = float(np.exp(-(positive * np.log(positive)).sum()))
    figure, (bars,) = new_figure(width=WIDTH * 0.65, height=3.4)
    bars.stairs(100.0 * share, np.arange(size + 1), fill=True, color=ACCENT)
    bars.axhline(100.0 / size, color=CONTRAST, linestyle="--", linewidth=1.2, label=f"uniform ({100.0 / size:.2g} %)")
    bars.set_yscale("log")
    bars.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    bars.set(xlabel="code, most used first", ylabel="share of all codes [%]", xlim=(0, size))
    bars.set_ylim(50.0 * positive.min(), 200.0 * positive.max())
    bars.set_title(f"{len(positive)} of {size} codes used, perplexity {perplexity:.0f}")
    bars.legend()
    return figure


@styled
def position_maps(panels: Mapping[str, Float[np.ndarray, "h w"]]) -> Figure:
    """One map of the grid per quantity (label with unit), with the values written into the cells, row 0 at the top."""
    height, width = next(iter(panels.values())).shape
    wide = 0.75 * WIDTH
    figure, axes = new_figure(
        1, len(panels), width=wide, height=min(0.45 + wide / len(panels) * 0.8 * height / width, 4.5)
    )
    for panel, (label, values) in zip(axes, panels.items(), strict=True):
        drawn = panel.imshow(values, cmap=SEQUENTIAL, interpolation="nearest")
        low, high = drawn.get_clim()
        words = even_decimals(values.ravel())
        for ((row, column), value), word in zip(np.ndenumerate(values), words, strict=True):
            ink = "white" if value < low + 0.55 * (high - low) else INK
            panel.text(column, row, word, ha="center", va="center", color=ink, fontsize=min(9.0, 48.0 / width))
        _bare(panel)
        panel.set_title(label)
    return figure


@styled
def code_atlas(
    images: Float[np.ndarray, "K h w channels"],
    counts: Int[np.ndarray, " K"],
    *,
    max_codes: int = 128,
    columns: int = 16,
) -> Figure:
    """Decoded codes (floats in [0, 1]): the `max_codes` most used, in that order, each with its count.

    Raises ValueError if the numbers of counts and images differ.
    """
    if len(images) != len(counts):
        raise ValueError(f"expected one count per code, got {len(counts)} for {len(images)} images; align them")
    images = as_picture(images)
    order = np.argsort(-counts, kind="stable")[:max_codes]
    columns = min(columns, len(order))
    rows = -(-len(order) // columns)
    height, width, channels = images.shape[1:]
    gap, room = max(1, width // 10), max(1, round(0.2 * width))  # pixels between images, and above each for its count
    tiles = np.ones((rows * columns, height + room, width, channels))
    tiles[: len(order), room:] = images[order]
    picture = mosaic(tiles.reshape(rows, columns, height + room, width, channels), gap=gap)
    figure, (axes,) = new_figure(width=WIDTH, height=WIDTH * picture.shape[0] / picture.shape[1] + 0.1)
    _show(axes, picture)
    for place, code in enumerate(order):
        row, column = divmod(place, columns)
        x, y = column * (width + gap) + (width - 1) / 2.0, row * (height + room + gap) + room - 0.5
        axes.text(x, y, f"{counts[code]:,}", ha="center", va="bottom", fontsize=6.5, color=MUTED)
    return figure


@styled
def interpolation_strips(
    pairs: Sequence[Mapping[str, Float[np.ndarray, "t h w channels"]]], *, lengths: Sequence[Mapping[str, float]]
) -> Figure:
    """Decoded curves between pairs of latents, one block per pair and one row per curve, labelled with its length.

    Raises ValueError if the curves have different numbers of images.
    """
    counts = {len(strip) for strips in pairs for strip in strips.values()}
    if len(counts) != 1:
        raise ValueError(f"expected strips of one length, got {sorted(counts)} images; resample the curves")
    columns = min(2, len(pairs))
    width = 1.35 * WIDTH * columns / 2
    pictures = [np.stack([np.asarray(strip, np.float64) for strip in strips.values()]) for strips in pairs]
    cell = (width / columns - 1.6) / counts.pop()
    tall = sum(cell * len(block) * block.shape[2] / block.shape[3] + 0.15 for block in pictures[::columns])
    figure, panels = new_figure(-(-len(pairs) // columns), columns, width=width, height=tall + 0.1)
    for panel, block, own in zip(panels, pictures, lengths, strict=False):
        height, gap = block.shape[2], max(1, block.shape[3] // 14)
        _show(panel, mosaic(block, gap=gap))
        names = [" ".join(pair) for pair in zip(own, even_decimals(list(own.values())), strict=True)]
        panel.set_yticks(np.arange(len(block)) * (height + gap) + (height - 1) / 2.0, names)
        panel.tick_params(length=0)
    for panel in panels[len(pairs) :]:
        panel.remove()
    return figure
