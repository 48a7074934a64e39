"""Figures of the explorer: plotly figures as JSON, images as data URLs; independent of Dash."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from geovq_jax.explorer.space import Curve, Reach, Space, Versus
from geovq_jax.explorer.views import View
from geovq_jax.figures.style import class_colours, code_colours
from geovq_jax.figures.style import png_address as png_address
from geovq_jax.geometry.curves import resample

COLOURINGS = ("class", "code", "distance", "volume")
CURVE_COLOURS = {"straight": "#bd1f01", "graph": "#ffa90e", "continuous": "#3f90da"}
PICKED_TRACE, PLACED_TRACE = 1 + len(CURVE_COLOURS), 2 + len(CURVE_COLOURS)
_FINE, _NEAR = 48, 6  # points of a curve in a view, and neighbouring nodes that place each point
_MAX_NAMED = 20  # classes that are named beside the colour bar


def colourings(space: Space) -> tuple[str, ...]:
    """Names of the colourings that a space supports."""
    return COLOURINGS if space.metrics is not None else COLOURINGS[:3]


def first_colouring(space: Space) -> str:
    """Initial colouring: the cells of an image share its class, which says little about where they lie."""
    return "class" if space.frames(0) is None else "code"


def markers(space: Space, colouring: str, reach: Reach | None) -> dict[str, Any]:
    """Plotly's `marker` of all points; "distance" needs `reach`, the distances from the picked point.

    Raises ValueError for a colouring that the space does not support.
    """
    if colouring not in colourings(space):
        raise ValueError(f"expected a colouring among {colourings(space)}, got {colouring!r}; choose one of them")
    size = float(np.clip(200.0 / np.sqrt(len(space.points)), 2.5, 6.0))
    opacity = float(np.clip(0.8 * (3_000 / len(space.points)) ** 0.25, 0.3, 0.8))
    base: dict[str, Any] = {"size": size, "opacity": opacity, "showscale": False}
    if colouring == "class":
        count = len(space.class_names)
        named = {"tickvals": list(range(count)), "ticktext": space.class_names} if count <= _MAX_NAMED else {}
        return base | _steps(space.labels, class_colours(count)) | _bar("class", **named)
    if colouring == "code":
        return base | _steps(space.codes, code_colours(len(space.code_pictures)))
    if colouring == "volume" and space.log_volume is not None:
        values, title, clipped = space.log_volume, "log10 volume", [0.01, 0.99]
    elif reach is not None:
        values, title, clipped = reach.distance, "geodesic distance", [0.0, 0.99]
    else:
        return base | {"color": "rgba(128,128,128,0.25)", "colorscale": None}
    finite = np.isfinite(values)
    low, high = np.quantile(values[finite], clipped)
    numbers = [value if np.isfinite(value) else None for value in np.round(values, 4).tolist()]
    limits = {"cmin": float(low), "cmax": float(max(high, low + 1e-9))}
    return base | {"color": numbers, "colorscale": "Cividis"} | limits | _bar(title)


def _steps(numbers: np.ndarray, colours: list[str]) -> dict[str, Any]:
    """A stepwise constant colour scale for integers."""
    count = len(colours)
    scale = [[edge / count, colour] for i, colour in enumerate(colours) for edge in (i, i + 1)]
    return {"color": numbers.tolist(), "colorscale": scale, "cmin": -0.5, "cmax": count - 0.5}


def _bar(title: str, **more: Any) -> dict[str, Any]:
    look = {"title": {"text": title, "side": "right"}, "thickness": 12, "outlinewidth": 0}
    return {"showscale": True, "colorbar": look | more}


def _layout(x: dict[str, Any], y: dict[str, Any], **more: Any) -> dict[str, Any]:
    axis = {"zeroline": False, "gridcolor": "rgba(128,128,128,0.18)"}
    clear: dict[str, Any] = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
    clear["modebar"] = {"bgcolor": "rgba(0,0,0,0)"}
    return {"xaxis": axis | x, "yaxis": axis | y, "margin": {"l": 50, "r": 10, "t": 10, "b": 52}, **clear, **more}


def coordinates(view: View) -> tuple[list[float], list[float]]:
    """Both coordinates of every point of a view, rounded to keep the message short."""
    x, y = np.round(view.points.astype(np.float64), 4).T.tolist()
    return x, y


def scatter(space: Space, colouring: str) -> dict[str, Any]:
    """The plotly figure of all points.

    Trace 0 holds the points. Initially empty are 1 to 3 for `CURVE_COLOURS`, `PICKED_TRACE` for the picked points and
    `PLACED_TRACE` for the codes of samples.
    """
    view = space.views[0]
    x, y = coordinates(view)
    points = {
        "type": "scattergl",
        "mode": "markers",
        "x": x,
        "y": y,
        "marker": markers(space, colouring, None),
        "selected": {"marker": {"opacity": 0.9}},
        "unselected": {"marker": {"opacity": 0.08}},
        "hoverinfo": "none",
        "showlegend": False,
    }
    empty = {"type": "scattergl", "x": [], "y": [], "hoverinfo": "skip"}
    lines = [
        empty | {"mode": "lines", "name": name, "line": {"color": colour, "width": 4}}
        for name, colour in CURVE_COLOURS.items()
    ]
    ring = {"size": 15, "color": "rgba(0,0,0,0)", "line": {"color": "#e76300", "width": 3}}
    picked = empty | {"mode": "markers", "marker": ring, "showlegend": False}
    diamond = {"symbol": "diamond", "color": "#e76300", "line": {"color": "#ffffff", "width": 1}}
    placed = empty | {"mode": "markers", "marker": diamond, "name": "samples"}
    line = {"linecolor": "rgba(128,128,128,0.5)"}
    layout = _layout(
        line | {"title": {"text": view.axes[0]}},
        line | {"title": {"text": view.axes[1]}, "scaleanchor": "x"},
        clickmode="event",
        dragmode="pan",
        uirevision=view.name,
        selectionrevision="",
        newselection={"line": {"color": "#e76300", "width": 2}},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        showlegend=True,
    )
    layout["margin"] = layout["margin"] | {"t": 34}
    return {"data": [points, *lines, picked, placed], "layout": layout}


def draws_of(codes: list[int]) -> tuple[Int[np.ndarray, " m"], list[float]]:
    """Distinct codes of the samples, and marker diameters such that areas are proportional to the counts."""
    found, counts = np.unique(np.array(codes, np.int64), return_counts=True)
    return found, np.clip(6.0 * np.sqrt(counts), 8.0, 26.0).round(1).tolist()


def usage_bars(counts: np.ndarray, code: int | None) -> dict[str, Any]:
    """Points per code, most used first, with the bar of `code` highlighted; `customdata` holds the code of each bar."""
    order = np.argsort(-counts, kind="stable")
    colours = ["#e76300" if number == code else "#3f90da" for number in order.tolist()]
    bars = {
        "type": "bar",
        "x": list(range(1, len(order) + 1)),
        "y": counts[order].tolist(),
        "customdata": order.tolist(),
        "marker": {"color": colours, "line": {"width": 0}},
        "hovertemplate": "code %{customdata}: %{y} points<extra></extra>",
    }
    ticks = [first * 10**power for power in range(6) for first in (1, 2, 5)]
    y_axis: dict[str, Any] = {"title": {"text": "points in the cell"}, "type": "log"}
    y_axis |= {"tickvals": ticks, "ticktext": list(map(str, ticks))}
    layout = _layout({"title": {"text": "code, most used first"}}, y_axis, bargap=0.05)
    return {"data": [bars], "layout": layout}


def error_scatter(versus: Versus) -> dict[str, Any]:
    """Error of the second run against that of the first, one point per image, with the line of equal errors."""
    first, second = np.maximum(versus.errors, 1e-6).round(6)
    low, high = float(min(first.min(), second.min())), float(max(first.max(), second.max()))
    points = {
        "type": "scattergl",
        "mode": "markers",
        "x": first.tolist(),
        "y": second.tolist(),
        "customdata": versus.rows.tolist(),
        "marker": {"size": 5, "opacity": 0.5, "color": "#3f90da"},
        "hovertemplate": "test image %{customdata}: %{x} and %{y}<extra></extra>",
        "showlegend": False,
    }
    line = {
        "type": "scattergl",
        "mode": "lines",
        "x": [low, high],
        "y": [low, high],
        "line": {"color": "#e76300", "width": 2},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    axes = [{"title": {"text": f"error of {name}"}} for name in versus.names]
    return {"data": [points, line], "layout": _layout(*axes, clickmode="event", dragmode="pan")}


def on_map(space: Space, view: View, latents: Float[np.ndarray, "t d"]) -> Float[np.ndarray, "t 2"]:
    """Latents in the coordinates of a view.

    An affine view maps every latent. Otherwise a latent is placed at the mean of its nearest nodes, weighted by inverse
    squared distance, so that a node is mapped to itself.
    """
    if not view.linear:
        distance, near = cKDTree(space.points).query(latents, k=min(_NEAR, len(space.points)))
        weight = 1.0 / (distance**2 + 1e-12 * space.points.var())
        weight /= weight.sum(axis=1, keepdims=True)
        return (weight[:, :, None] * view.points[near]).sum(axis=1)
    sample = np.linspace(0, len(space.points) - 1, min(2000, len(space.points))).astype(np.int64)
    affine, *_ = np.linalg.lstsq(_with_one(space.points[sample]), view.points[sample], rcond=None)
    return _with_one(latents) @ affine


def curve_on_map(space: Space, view: View, curve: Curve) -> Float[np.ndarray, "t 2"]:
    """A curve in the coordinates of a view; a path of the graph passes through its nodes."""
    latents = curve.latents if view.linear or curve.name == "graph" else resample(curve.latents, _FINE)
    return on_map(space, view, latents)


def _with_one(points: np.ndarray) -> np.ndarray:
    return np.hstack([points, np.ones((len(points), 1))])
