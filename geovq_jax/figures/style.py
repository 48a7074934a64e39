"""Style of all figures: colours that colour-blind readers can distinguish, fixed class colours, quiet axes."""

import base64
import colorsys
import io
import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib
import matplotlib.colors
import numpy as np
from cycler import cycler
from jaxtyping import Float, UInt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

P = ParamSpec("P")

# Ten colours chosen for distance under every common colour-vision deficiency (Petroff, arXiv:2107.02270).
CLASS_COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
INK = "#22262b"
MUTED = "#7a828c"
GRID = "#e7e9ec"
ACCENT = "#2f74b5"
CONTRAST = "#d9661f"
SEQUENTIAL = "cividis"  # larger is lighter in every figure

# Width of a full-width figure in inches, and the resolution at which figures are saved.
WIDTH = 8.0
DPI = 144

_SETTINGS: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=[ACCENT, CONTRAST, "#5b8a3c", "#832db6", MUTED, "#bd1f01"]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.0,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.0,
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a drawing function in the style of the package, independent of the matplotlib settings of the caller."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_SETTINGS)
            return draw(*args, **kwargs)

    return inner


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float = 4.0
) -> tuple[Figure, list[Axes]]:
    """A figure (sizes in inches) and its panels in raster order.

    It is not registered with pyplot, so that it is freed with its last reference.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def class_colours(count: int) -> list[str]:
    """Hexadecimal colours of classes 0..count-1; the first ten never change."""
    return [*CLASS_COLOURS[:count], *code_colours(max(count - len(CLASS_COLOURS), 0))]


def code_colours(count: int) -> list[str]:
    """Hexadecimal colours of codes 0..count-1: hues at golden-ratio steps with three alternating lightnesses.

    Neighbouring codes differ strongly; across hundreds of codes, colours only separate adjacent cells.
    """
    colours = []
    for index in range(count):
        rgb = colorsys.hls_to_rgb((index * 0.6180339887) % 1.0, (0.42, 0.56, 0.68)[index % 3], 0.55)
        colours.append(matplotlib.colors.to_hex(rgb))
    return colours


def class_title(name: str) -> str:
    """A class in a caption: its name, "class 3" where that is a number."""
    return f"class {name}" if name.isdecimal() else name


def even_decimals(values: Sequence[float] | Float[np.ndarray, " n"]) -> list[str]:
    """Format numbers with equally many decimals, so that their median has three significant digits.

    Example:
        >>> even_decimals([0.041, 0.0478, 0.123])
        ['0.0410', '0.0478', '0.1230']
    """
    middle = float(np.median(values)) if len(values) else 0.0
    decimals = max(0, 2 - math.floor(math.log10(middle))) if middle > 0 else 3
    return [f"{value:.{decimals}f}" for value in values]


def figure_png(figure: Figure, *, dpi: int = DPI) -> bytes:
    """A figure as PNG without time or version, so that equal figures give equal files; `dpi` is dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def as_picture(images: Float[np.ndarray, "*n h w c"] | UInt[np.ndarray, "*n h w c"]) -> Float[np.ndarray, "*n h v c2"]:
    """Images (floats in [0, 1] or integers) as floats with one or three channels; others are tiled in grey."""
    scale = np.iinfo(images.dtype).max if images.dtype.kind == "u" else 1.0
    *leading, height, width, channels = images.shape
    if channels not in (1, 3):
        images = np.moveaxis(images, -1, -2).reshape(*leading, height, channels * width, 1)
    return np.clip(images / scale, 0.0, 1.0)


def png_address(image: Float[np.ndarray, "height width channels"]) -> str:
    """An image in [0, 1] as "data:image/png;base64,...", see `as_picture`."""
    pixels = np.round(as_picture(image) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
