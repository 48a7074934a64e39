"""Selected points: outlined on the map, or found by class, code or image; described, summarised and exported as CSV.

A selection is text, so that it fits into the URL of a view: "class 3", "code 17", "image 40", or "outline plane
x y x y x y ..." with the corners of a polygon in the coordinates of a view.
"""

import csv
import io
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.path import Path as Polygon

from geovq_jax.explorer.space import Space, view_of

MAX_TEXT = 8_000  # characters of a selection
_SHOWN_CODES = 12
_CHUNK = 1_000  # images averaged per batch


class Summary(NamedTuple):
    """Summary of selected points.

    Attributes:
        classes: number of points per class.
        codes: the most frequent codes, at most 12.
        counts: number of points of each of `codes`.
        num_codes: number of distinct codes.
        mean_image: mean of the images of the points, with one image per point.
    """

    classes: Int[np.ndarray, " C"]
    codes: Int[np.ndarray, " m"]
    counts: Int[np.ndarray, " m"]
    num_codes: int
    mean_image: Float[np.ndarray, "height width channels"]


def selected(space: Space, text: str) -> Int[np.ndarray, " m"]:
    """Nodes of a selection in ascending order; none for empty text.

    Raises ValueError for text that is not a selection of this space.
    """
    kind, _, rest = text.partition(" ")
    if not text:
        return np.zeros(0, np.int64)
    if kind == "outline":
        return _outlined(space, rest)
    values = {"class": space.labels, "code": space.codes, "image": space.images}
    if kind not in values or not rest.isdecimal() or len(rest) > 9:
        raise ValueError(f"expected class N, code N or image N, got {text[:60]!r}; choose one of them")
    return np.flatnonzero(values[kind] == int(rest))


def _outlined(space: Space, text: str) -> Int[np.ndarray, " m"]:
    name, *numbers = text.split()
    try:
        corners = np.array(numbers, np.float64).reshape(-1, 2)
    except ValueError:
        corners = np.zeros((0, 2))
    if len(corners) < 3 or not np.isfinite(corners).all():
        raise ValueError(f"expected at least three corners x y of an outline, got {text[:60]!r}; draw one on the map")
    return np.flatnonzero(Polygon(corners).contains_points(view_of(space, name).points))


def find(space: Space, text: str) -> tuple[int | None, str]:
    """Find the point or the selection that a text names.

    Args:
        space: the space.
        text: "12" or "point 12", "class 3" or the name of a class, "code 7", "image 40".

    Returns:
        (node, "") for a point, or (None, selection) for a non-empty selection.

    Raises:
        ValueError: nothing has this name.
    """
    kind, _, rest = text.strip().lower().partition(" ")
    kind, rest = ("point", kind) if kind.isdecimal() and not rest else (kind, rest.strip())
    names = [name.lower() for name in space.class_names]
    for name in (text.strip().lower(), rest if kind == "class" else ""):
        if name in names:
            kind, rest = "class", str(names.index(name))
    if kind == "point":
        if not rest.isdecimal() or len(rest) > 9 or int(rest) >= len(space.points):
            raise ValueError(f"expected a point from 0 to {len(space.points) - 1}, got {rest[:20]!r}")
        return int(rest), ""
    if kind not in ("class", "code", "image"):
        raise ValueError(f"expected point 12, class 3, code 7 or image 40, got {text[:40]!r}")
    if not len(selected(space, f"{kind} {rest}")):
        raise ValueError(f"no point of {kind} {rest[:20]}")
    return None, f"{kind} {rest}"


def describe(space: Space, text: str) -> str:
    """Description of a selection."""
    kind, _, rest = text.partition(" ")
    if kind == "outline":
        return "Outlined points"
    return f"Class {space.class_names[int(rest)]}" if kind == "class" else f"{kind.capitalize()} {rest}"


def summarise(space: Space, nodes: Int[np.ndarray, " m"]) -> Summary:
    """Counts and mean image of one or more selected points."""
    counts = np.bincount(space.codes[nodes], minlength=len(space.code_pictures))
    order = np.argsort(-counts, kind="stable")[: min(_SHOWN_CODES, int((counts > 0).sum()))]
    chunks = [nodes[start : start + _CHUNK] for start in range(0, len(nodes), _CHUNK)]
    return Summary(
        classes=np.bincount(space.labels[nodes], minlength=len(space.class_names)),
        codes=order,
        counts=counts[order],
        num_codes=int((counts > 0).sum()),
        mean_image=sum(space.picture(chunk).sum(axis=0, dtype=np.float64) for chunk in chunks) / len(nodes),
    )


def ids_as_csv(space: Space, nodes: Int[np.ndarray, " m"]) -> str:
    """One line per point: its number, row of its training image, class, class name and code."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("point", "image", "class", "name", "code"))
    labels = space.labels[nodes].tolist()
    names = [space.class_names[label] for label in labels]
    writer.writerows(
        zip(nodes.tolist(), space.images[nodes].tolist(), labels, names, space.codes[nodes].tolist(), strict=True)
    )
    return file.getvalue()
