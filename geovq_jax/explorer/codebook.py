"""Part of the page on the codebook: the decoded codes, their usage, and the members of each cell."""

from typing import Any

import numpy as np
from dash import ALL, Dash, Input, Output, ctx, html, no_update

from geovq_jax.explorer.drawing import png_address, usage_bars
from geovq_jax.explorer.guard import clicked, presses, whole
from geovq_jax.explorer.pieces import graph, picture
from geovq_jax.explorer.space import Space, class_title, code_counts, members

MAX_ATLAS = 256
_SHOWN_MEMBERS = 24


def part(space: Space) -> html.Div:
    """Atlas of the codes, with a placeholder for the members of one."""
    counts = code_counts(space)
    order = np.argsort(-counts, kind="stable")[:MAX_ATLAS]
    atlas = [
        html.Button(
            [html.Img(src=png_address(space.code_pictures[code]), alt=f"code {code}"), html.Span(f"{counts[code]:,}")],
            id={"code": int(code)},
            title=f"code {code}, {counts[code]:,} points",
            className="tile",
            type="button",
        )
        for code in order
    ]
    used = int((counts > 0).sum())
    shown = f", the {len(order)} most used" if len(order) < len(counts) else ""
    left = [
        html.H2(f"{used:,} of {len(counts):,} codes used{shown}"),
        html.P("Decoded codes with their number of points. Click one to see the members of its cell."),
        html.Div(atlas, className="atlas"),
    ]
    right = [graph("usage", usage_bars(counts, None), "bars"), html.Div(html.P("No code chosen."), id="members")]
    return html.Div([html.Section(left, className="card"), html.Section(right, className="card")], className="columns")


def connect(app: Dash, space: Space) -> None:
    """Register the callbacks of this part."""
    counts = code_counts(space)

    @app.callback(
        Output("code", "data"),
        Input({"code": ALL}, "n_clicks"),
        Input("usage", "clickData"),
        prevent_initial_call=True,
    )
    def choose(pressed: list[Any], click: Any) -> Any:
        for value in pressed:
            presses(value)
        bar = {} if click is None else clicked(click)
        if not ctx.triggered or not ctx.triggered[0]["value"]:
            return no_update
        code = bar.get("customdata") if ctx.triggered_id == "usage" else ctx.triggered_id["code"]
        return whole(code, 0, len(counts) - 1, "code")

    @app.callback(
        Output("members", "children"),
        Output("usage", "figure"),
        Input("code", "data"),
        prevent_initial_call=True,
    )
    def show_members(chosen: Any) -> tuple[Any, Any]:
        if chosen is None:
            return no_update, no_update
        code = whole(chosen, 0, len(counts) - 1, "code")
        found = members(space, code, _SHOWN_MEMBERS)
        pictures = [
            picture(image, class_title(space, space.labels[node]), f"point {node}", space.frames(int(node)))
            for node, image in zip(found, space.picture(found) if len(found) else [], strict=True)
        ]
        show = html.Button("show on the map", id={"show": "code"}, n_clicks=0, className="plain", type="button")
        note = "From the centre of the cell to its border." if pictures else "No point has this code."
        body = [
            html.H2(f"Code {code}: {counts[code]:,} points"),
            html.Div(picture(space.code_pictures[code], "the code", f"code {code}"), className="pictures large"),
            show,
            html.P(note),
            html.Div(pictures, className="pictures"),
        ]
        return body, usage_bars(counts, code)
