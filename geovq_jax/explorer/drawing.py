"""What the explorer draws: the scatter as plotly JSON, pictures as PNG addresses; no Dash here."""

from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from geovq_jax.explorer.space import Reach, Space, View, Way
from geovq_jax.figures.style import class_colours, code_colours
from geovq_jax.figures.style import png_address as png_address
from geovq_jax.geometry.curves import resample

COLOURINGS = ("class", "code", "distance", "volume")
WAY_COLOURS = {"straight": "#bd1f01", "graph": "#ffa90e", "continuous": "#3f90da"}
_FINE, _NEAR = 48, 6  # points at which a way is placed on a view, and nodes among which each stands


def colourings(space: Space) -> tuple[str, ...]:
    """Names of the colourings that a space allows."""
    return COLOURINGS if space.metrics is not None else COLOURINGS[:3]


def markers(space: Space, colouring: str, reach: Reach | None) -> dict[str, Any]:
    """Plotly's `marker` of all points; `reach`, the distances from the picked point, serves "distance".

    Raises ValueError for a colouring that the space does not allow.
    """
    if colouring not in colourings(space):
        raise ValueError(f"expected a colouring among {colourings(space)}, got {colouring!r}; choose one of them")
    size = float(np.clip(200.0 / np.sqrt(len(space.points)), 2.5, 6.0))
    base: dict[str, Any] = {"size": size, "opacity": 0.8, "showscale": False}
    if colouring == "class":
        ticks = list(range(space.num_classes)) if space.num_classes <= 20 else None
        return base | _steps(space.labels, class_colours(space.num_classes)) | _bar("class", tickvals=ticks)
    if colouring == "code":
        return base | _steps(space.codes, code_colours(len(space.code_pictures)))
    if colouring == "volume" and space.log_volume is not None:
        values, title = space.log_volume, "log10 volume"
    elif reach is not None:
        values, title = reach.distance, "geodesic distance"
    else:
        return base | {"color": "rgba(128,128,128,0.25)", "colorscale": None}
    finite = np.isfinite(values)
    low, high = np.quantile(values[finite], [0.0, 0.99])
    numbers = [value if np.isfinite(value) else None for value in np.round(values, 4).tolist()]
    limits = {"cmin": float(low), "cmax": float(max(high, low + 1e-9))}
    return base | {"color": numbers, "colorscale": "Cividis"} | limits | _bar(title)


def _steps(numbers: np.ndarray, colours: list[str]) -> dict[str, Any]:
    """A colour scale of constant steps for whole numbers."""
    count = len(colours)
    scale = [[edge / count, colour] for i, colour in enumerate(colours) for edge in (i, i + 1)]
    return {"color": numbers.tolist(), "colorscale": scale, "cmin": -0.5, "cmax": count - 0.5}


def _bar(title: str, **more: Any) -> dict[str, Any]:
    look = {"title": {"text": title, "side": "right"}, "thickness": 12, "outlinewidth": 0}
    return {"showscale": True, "colorbar": look | more}


def _layout(x: dict[str, Any], y: dict[str, Any], **more: Any) -> dict[str, Any]:
    axis = {"zeroline": False, "gridcolor": "rgba(128,128,128,0.18)"}
    clear = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
    return {"xaxis": axis | x, "yaxis": axis | y, "margin": {"l": 55, "r": 10, "t": 10, "b": 45}, **clear, **more}


def coordinates(view: View) -> tuple[list[float], list[float]]:
    """Both coordinates of every point of a view, short enough to send."""
    x, y = np.round(view.points.astype(np.float64), 4).T.tolist()
    return x, y


def scatter(space: Space, colouring: str) -> dict[str, Any]:
    """The plotly figure of all points: trace 0 the points, 1 to 3 empty for `WAY_COLOURS`, 4 for the picked points."""
    view = space.views[0]
    x, y = coordinates(view)
    points = {
        "type": "scattergl",
        "mode": "markers",
        "x": x,
        "y": y,
        "marker": markers(space, colouring, None),
        "hovertemplate": "point %{pointNumber}<extra></extra>",
        "showlegend": False,
    }
    empty = {"type": "scattergl", "x": [], "y": [], "hoverinfo": "skip"}
    lines = [
        empty | {"mode": "lines", "name": name, "line": {"color": colour, "width": 4}}
        for name, colour in WAY_COLOURS.items()
    ]
    ring = {"size": 15, "color": "rgba(0,0,0,0)", "line": {"color": "#e76300", "width": 3}}
    picked = empty | {"mode": "markers", "marker": ring, "showlegend": False}
    line = {"linecolor": "rgba(128,128,128,0.5)"}
    layout = _layout(
        line | {"title": {"text": view.axes[0]}},
        line | {"title": {"text": view.axes[1]}, "scaleanchor": "x"},
        clickmode="event",
        dragmode="pan",
        uirevision=view.name,
        legend={"orientation": "h", "x": 0, "y": 1.08},
        showlegend=True,
    )
    return {"data": [points, *lines, picked], "layout": layout}


def usage_bars(counts: np.ndarray, code: int | None) -> dict[str, Any]:
    """Points per code, most used first, the bar of `code` marked; `customdata` of a bar is its code."""
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
    y_axis = {"title": {"text": "points in the cell"}, "type": "log", "dtick": 1}
    layout = _layout({"title": {"text": "code, most used first"}}, y_axis, bargap=0.05)
    return {"data": [bars], "layout": layout}


def way_on_map(space: Space, view: View, way: Way) -> np.ndarray:
    """A curve in the coordinates of a view, [t, 2].

    An affine view maps every latent. In another view, a latent is placed among its nearest nodes, weighted by the
    inverse of their squared distances, so that a path of the graph passes through its nodes.
    """
    if not view.linear:
        curve = way.curve if way.name == "graph" else resample(way.curve, _FINE)
        distance, near = cKDTree(space.points).query(curve, k=min(_NEAR, len(space.points)))
        weight = 1.0 / (distance**2 + 1e-12 * space.points.var())
        weight /= weight.sum(axis=1, keepdims=True)
        return (weight[:, :, None] * view.points[near]).sum(axis=1)
    sample = np.linspace(0, len(space.points) - 1, min(2000, len(space.points))).astype(np.int64)
    affine, *_ = np.linalg.lstsq(_with_one(space.points[sample]), view.points[sample], rcond=None)
    return _with_one(way.curve) @ affine


def _with_one(points: np.ndarray) -> np.ndarray:
    return np.hstack([points, np.ones((len(points), 1))])
