"""Panels beside the map: a point and its neighbours, curves between two points, a selection."""

from typing import Any

import numpy as np
from dash import html
from jaxtyping import Int

from geovq_jax.explorer.drawing import CURVE_COLOURS, png_address
from geovq_jax.explorer.pieces import bars, picture
from geovq_jax.explorer.selection import describe, summarise
from geovq_jax.explorer.space import Curve, Reach, Space, class_title, nearest
from geovq_jax.figures.style import even_decimals

_SHOWN_NEIGHBOURS = 12
_WHY_LONGER = (
    "A graph path goes from point to point, so its length is an upper bound on the geodesic distance. Where points are "
    "sparse it makes detours and can be longer than the straight line. The geodesic does not depend on the points; it "
    "is optimised from one of the other two curves, to a local minimum of length."
)


def details_of(space: Space, reach: Reach, metric: str) -> list[Any]:
    """The picked image and its nearest images along the graph."""
    near = nearest(reach, _SHOWN_NEIGHBOURS)
    images = space.picture(np.concatenate([[reach.start], near]).astype(np.int64))
    name, code = class_title(space, space.labels[reach.start]), space.codes[reach.start]
    figures = [
        picture(image, distance, f"point {node}, {class_title(space, space.labels[node])}", space.frames(int(node)))
        for node, image, distance in zip(near, images[1:], even_decimals(reach.distance[near]), strict=True)
    ]
    own = picture(images[0], f"{name}, code {code}", f"point {reach.start}", space.frames(reach.start))
    return [
        html.H2(f"Point {reach.start}, image {space.images[reach.start]}"),
        html.Div(
            [own, picture(space.code_pictures[code], f"its code {code}", f"code {code}")],
            className="pictures large",
            id="picked-image",
        ),
        html.H3(f"Nearest along the graph, {metric} distance"),
        html.Div(figures, className="pictures", id="neighbours"),
    ]


def strips(space: Space, found: list[Curve]) -> html.Div:
    """Decoded images along each curve, with the length of the curve."""
    rows: list[Any] = []
    for curve in found:
        notes = f"{curve.length:.3f}" + ("" if curve.converged else " (not converged)")
        pictures = [
            html.Img(src=png_address(image), alt=f"{curve.name}, step {i}") for i, image in enumerate(curve.pictures)
        ]
        name = html.B(curve.name, style={"borderColor": CURVE_COLOURS[curve.name]})
        rows.append(
            html.Div(
                [html.Div([name, html.Span(f"length {notes}")]), html.Div(pictures, className="strip")],
                className="curve",
            )
        )
    if len(found) < len(CURVE_COLOURS):
        rows.append(
            html.P("These points are not connected in the graph; a larger k may connect them.", className="note")
        )
    text = "Decoded at equal pull-back distances; lengths in units of the image."
    if space.frames(0) is not None:
        text += " Each curve changes only this cell of the first image."
    why = html.Details([html.Summary("Why a graph path can be the longest"), html.P(_WHY_LONGER)], className="note")
    return html.Div([html.H2("Three curves"), *rows, html.P(text, className="note"), why], className="card")


def summary_of(space: Space, text: str, inside: Int[np.ndarray, " m"], counts: Int[np.ndarray, " K"]) -> html.Div:
    """Class and code counts of a selection, its mean image, and a button to save its ids.

    Args:
        space: the space.
        text: the selection as text.
        inside: points of the selection.
        counts: number of points per code in the whole space.
    """
    title = html.H2(f"{describe(space, text)}: {len(inside):,} points")
    if not len(inside):
        return html.Div([title, html.P("No points are inside.")], className="card")
    summary = summarise(space, inside)
    tiles = [
        picture(space.code_pictures[code], f"{count:,} of {counts[code]:,}", f"code {code}")
        for code, count in zip(summary.codes, summary.counts, strict=True)
    ]
    some = np.flatnonzero(summary.classes)
    return html.Div(
        [
            title,
            html.Div(
                [
                    picture(summary.mean_image, "mean image", "mean image of the selected points"),
                    bars([space.class_names[i] for i in some], summary.classes[some].tolist()),
                ],
                className="beside",
            ),
            html.H3(f"{summary.num_codes:,} codes; the most frequent ones"),
            html.Div(tiles, className="pictures", id="selected-codes"),
            html.Button("save ids as CSV", id={"save": "csv"}, n_clicks=0, className="plain", type="button"),
        ],
        className="card",
    )
