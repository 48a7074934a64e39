"""What happens on the explorer's page: each callback checks its input, asks the model, and fills a place."""

from typing import Any

import numpy as np
from dash import ALL, Dash, Input, Output, Patch, State, ctx, html, no_update

from geovq_jax.explorer.drawing import (
    WAY_COLOURS,
    colourings,
    coordinates,
    markers,
    png_address,
    usage_bars,
    way_on_map,
)
from geovq_jax.explorer.guard import choice, clicked, nodes, number, presses, whole
from geovq_jax.explorer.layout import SLIDERS
from geovq_jax.explorer.space import (
    Draw,
    Reach,
    Space,
    View,
    Way,
    code_counts,
    describe_graph,
    graphs_of,
    members,
    metrics_of,
    nearest,
    pick,
    view_of,
    ways,
)

_SHOWN_NEIGHBOURS = 12
_SHOWN_MEMBERS = 24
_SAMPLES = 40
_PICKED_TRACE = 1 + len(WAY_COLOURS)


def connect(app: Dash, space: Space) -> None:
    """Register every callback of the page.

    Args:
        app: the application, its layout from `page`.
        space: the space it shows.
    """
    graphs = graphs_of(space)
    _connect_selection(app, space)
    _connect_graph(app, space, graphs.graph, graphs.reach)
    _connect_ways(app, space, graphs.reach)
    _connect_codebook(app, space)
    if space.draw is not None:
        _connect_prior(app, space)


def _connect_selection(app: Dash, space: Space) -> None:
    app.clientside_callback(
        "(tab, ids) => ids.map(id => id.part === tab ? 'part' : 'part away')",
        Output({"part": ALL}, "className"),
        Input("tab", "value"),
        State({"part": ALL}, "id"),
    )

    @app.callback(
        Output("picked", "data"),
        Output("scatter", "clickData"),
        Input("scatter", "clickData"),
        Input("clear", "n_clicks"),
        State("picked", "data"),
        prevent_initial_call=True,
    )
    def select(click: Any, clears: Any, picked: Any) -> tuple[Any, Any]:
        presses(clears)
        before, point = nodes(picked, len(space.points)), None if click is None else clicked(click)
        if ctx.triggered_id == "clear":
            return [], None
        if point is None or whole(point.get("curveNumber"), 0, _PICKED_TRACE, "curve") != 0:
            return no_update, no_update
        return pick(before, whole(point.get("pointNumber"), 0, len(space.points) - 1, "point")), None


def _connect_graph(app: Dash, space: Space, graph: Any, reach: Any) -> None:
    @app.callback(Output("graph", "children"), Input("k", "value"), Input("metric", "value"))
    def describe(k: Any, metric: Any) -> str:
        setting = _graph_setting(space, k, metric)
        return f"k = {k}, {metric} lengths: {describe_graph(graph(*setting))}"

    @app.callback(
        Output("details", "children"),
        Input("picked", "data"),
        Input("k", "value"),
        Input("metric", "value"),
        prevent_initial_call=True,
    )
    def show_details(picked: Any, k: Any, metric: Any) -> Any:
        chosen, setting = nodes(picked, len(space.points)), _graph_setting(space, k, metric)
        if not chosen:
            return html.P("Click a point.")
        return _details(space, reach(*setting, chosen[0]), metric)

    @app.callback(
        Output("scatter", "figure"),
        Input("colouring", "value"),
        Input("view", "value"),
        Input("picked", "data"),
        Input("k", "value"),
        Input("metric", "value"),
        prevent_initial_call=True,
    )
    def paint(colouring: Any, name: Any, picked: Any, k: Any, metric: Any) -> Any:
        chosen, setting = nodes(picked, len(space.points)), _graph_setting(space, k, metric)
        choice(colouring, colourings(space), "colouring")
        view = _view(space, name)
        if ctx.triggered_id in ("k", "metric") and colouring != "distance":
            return no_update  # the browser draws all points anew with every change
        figure = Patch()
        if ctx.triggered_id == "view":
            figure["data"][0]["x"], figure["data"][0]["y"] = coordinates(view)
            for axis, label in zip(("xaxis", "yaxis"), view.axes, strict=True):
                figure["layout"][axis]["title"]["text"] = label
            figure["layout"]["uirevision"] = name  # another view starts unzoomed
        if ctx.triggered_id == "colouring" or colouring == "distance":
            start = reach(*setting, chosen[0]) if chosen else None
            figure["data"][0]["marker"] = markers(space, colouring, start)
        marked = view.points[np.array(chosen, np.int64)]
        figure["data"][_PICKED_TRACE]["x"] = marked[:, 0].tolist()
        figure["data"][_PICKED_TRACE]["y"] = marked[:, 1].tolist()
        if len(chosen) < 2:
            _draw_ways(figure, {})
        return figure


def _graph_setting(space: Space, k: Any, metric: Any) -> tuple[int, str]:
    return whole(k, 1, space.neighbours.shape[1], "k"), choice(metric, metrics_of(space), "metric")


def _view(space: Space, name: Any) -> View:
    return view_of(space, choice(name, [view.name for view in space.views], "view"))


def _details(space: Space, reach: Reach, metric: str) -> list[Any]:
    """The picked image, and the images nearest to it along the graph."""
    near = nearest(reach, _SHOWN_NEIGHBOURS)
    nodes = np.concatenate([[reach.start], near]).astype(np.int64)
    images = space.picture(nodes)
    label, code = space.labels[reach.start], space.codes[reach.start]
    figures = [
        _picture(
            image, f"{reach.distance[node]:.3g}", f"point {node}, class {space.labels[node]}", space.frames(int(node))
        )
        for node, image in zip(nodes[1:], images[1:], strict=True)
    ]
    return [
        html.H2(f"Point {reach.start}"),
        html.Div(
            [
                _picture(images[0], f"class {label}, code {code}", f"point {reach.start}", space.frames(reach.start)),
                _picture(space.code_pictures[code], f"its code {code}", f"code {code}", None),
            ],
            className="pictures large",
            id="picked-image",
        ),
        html.H3(f"Nearest along the graph, {metric} distance"),
        html.Div(figures, className="pictures", id="neighbours"),
    ]


def _picture(
    image: np.ndarray, caption: str, title: str, frame: tuple[float, float, float, float] | None
) -> html.Figure:
    """An image with its caption, and a box around its cell."""
    parts: list[Any] = [html.Img(src=png_address(image), alt=title, title=title)]
    if frame is not None:
        top, left, height, width = (f"{100.0 * share:.2f}%" for share in frame)
        parts.append(html.I(className="frame", style={"top": top, "left": left, "height": height, "width": width}))
    return html.Figure([html.Div(parts, className="picture"), html.Figcaption(caption)])


def _connect_ways(app: Dash, space: Space, reach: Any) -> None:
    @app.callback(
        Output("scatter", "figure", allow_duplicate=True),
        Output("ways", "children"),
        Input("picked", "data"),
        Input("view", "value"),
        Input("k", "value"),
        Input("metric", "value"),
        prevent_initial_call=True,
    )
    def show_ways(picked: Any, name: Any, k: Any, metric: Any) -> tuple[Any, Any]:
        chosen, setting, view = nodes(picked, len(space.points)), _graph_setting(space, k, metric), _view(space, name)
        if len(chosen) < 2:
            return no_update, None
        found = ways(space, reach(*setting, chosen[0]), chosen[1])
        figure = Patch()
        _draw_ways(figure, {way.name: way_on_map(space, view, way) for way in found})
        return figure, _strips(found)


def _draw_ways(figure: Patch, lines: dict[str, np.ndarray]) -> None:
    """Put curves on the map, and take off those that are not given."""
    for trace, name in enumerate(WAY_COLOURS, 1):
        line = lines.get(name, np.zeros((0, 2)))
        figure["data"][trace]["x"] = line[:, 0].tolist()
        figure["data"][trace]["y"] = line[:, 1].tolist()


def _strips(found: list[Way]) -> html.Div:
    rows: list[Any] = []
    for way in found:
        notes = f"{way.length:.3f}" + ("" if way.converged else " (not converged)")
        pictures = [
            html.Img(src=png_address(image), alt=f"{way.name}, step {i}") for i, image in enumerate(way.pictures)
        ]
        head = html.Div([html.B(way.name, style={"borderColor": WAY_COLOURS[way.name]}), html.Span(f"length {notes}")])
        rows.append(html.Div([head, html.Div(pictures, className="strip")], className="way"))
    if len(found) < len(WAY_COLOURS):
        rows.append(html.P("No path of the graph joins these points; a larger k may.", className="note"))
    text = "Decoded at equal pull-back distances along each way; lengths in units of the image."
    return html.Div([html.H2("Three ways"), html.P(text), *rows], className="card")


def _connect_codebook(app: Dash, space: Space) -> None:
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
            _picture(image, f"class {space.labels[node]}", f"point {node}", space.frames(int(node)))
            for node, image in zip(found, space.picture(found) if len(found) else [], strict=True)
        ]
        title = html.H2(f"Code {code}: {counts[code]:,} points")
        note = html.P("From the middle of the cell to its border." if pictures else "No point has this code.")
        own = html.Div(
            _picture(space.code_pictures[code], "the code", f"code {code}", None), className="pictures large"
        )
        return [title, own, note, html.Div(pictures, className="pictures")], usage_bars(counts, code)


def _connect_prior(app: Dash, space: Space) -> None:
    @app.callback(
        Output("drawn", "children"),
        Input("draw", "n_clicks"),
        State("temperature", "value"),
        State("top-p", "value"),
        State("guidance", "value"),
        State("label", "value"),
        prevent_initial_call=True,
    )
    def show_samples(clicks: Any, temperature: Any, top_p: Any, guidance: Any, label: Any) -> Any:
        values = {"temperature": temperature, "top-p": top_p, "guidance": guidance}
        temperature, top_p, guidance = (number(values[name], *SLIDERS[name][:2], name) for name in values)
        settings = Draw(
            label=whole(label, -1, space.num_classes - 1, "class"),
            number=_SAMPLES,
            temperature=temperature,
            top_p=top_p,
            guidance=guidance,
            seed=presses(clicks),
        )
        if settings.seed == 0:
            return no_update
        assert space.draw is not None
        images, classes = space.draw(settings)
        order = np.argsort(classes, kind="stable")
        pictures = [_picture(images[i], f"class {classes[i]}", f"sample {i}", None) for i in order]
        return html.Div(pictures, className="pictures")
