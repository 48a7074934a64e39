"""Callbacks of the map: each validates its input, evaluates the model and updates one part of the page."""

from typing import Any

import numpy as np
from dash import ALL, ClientsideFunction, Dash, Input, Output, Patch, State, ctx, html, no_update
from dash.exceptions import PreventUpdate

from geovq_jax.explorer import codebook, prior, versus
from geovq_jax.explorer.address import PARTS, read_address
from geovq_jax.explorer.drawing import (
    CURVE_COLOURS,
    PICKED_TRACE,
    PLACED_TRACE,
    colourings,
    coordinates,
    curve_on_map,
    draws_of,
    markers,
    on_map,
)
from geovq_jax.explorer.guard import choice, codes, nodes, presses, selection, whole
from geovq_jax.explorer.layout import tabs_of
from geovq_jax.explorer.pieces import picture
from geovq_jax.explorer.results import details_of, strips, summary_of
from geovq_jax.explorer.selection import find, ids_as_csv
from geovq_jax.explorer.space import (
    STARTS,
    Space,
    class_title,
    code_counts,
    curves_between,
    describe_graph,
    graphs_of,
    metrics_of,
    view_of,
)
from geovq_jax.explorer.views import View


def connect(app: Dash, space: Space) -> None:
    """Register every callback of the page.

    Args:
        app: the application, with the layout of `page`.
        space: the space that it shows.
    """
    graphs = graphs_of(space)
    _connect_script(app, space)
    _connect_address(app, space)
    _connect_find(app, space)
    _connect_graph(app, space, graphs.graph, graphs.reach)
    _connect_painting(app, space, graphs.reach)
    _connect_curves(app, space, graphs.reach)
    _connect_selection(app, space)
    codebook.connect(app, space)
    if space.draw is not None:
        prior.connect(app, space)
    if space.versus is not None:
        versus.connect(app, space)


def _connect_script(app: Dash, space: Space) -> None:
    """Callbacks that run in the browser (`assets/explorer.js`), so that a click does not wait for the server."""

    def script(name: str, *arguments: Any, initial: bool = False) -> None:
        function = ClientsideFunction("explorer", name)
        app.clientside_callback(function, *arguments, prevent_initial_call=not initial)

    choices = ["tab", "colouring", "view", "metric", "start-from"]
    choices += ["label"] * (space.draw is not None) + ["order"] * (space.versus is not None)
    for name in choices:
        buttons = {"choose": name, "value": ALL}
        script("choose", Output(name, "data", allow_duplicate=True), Input(buttons, "n_clicks"))
        script("press", Output(buttons, "aria-pressed"), Input(name, "data"), State(buttons, "id"))
    script("open", Output({"part": ALL}, "className"), Input("tab", "data"), State({"part": ALL}, "id"))
    script(
        "pick",
        Output("picked", "data", allow_duplicate=True),
        Output("scatter", "clickData"),
        Input("scatter", "clickData"),
        State("picked", "data"),
    )
    script(
        "clear",
        Output("picked", "data", allow_duplicate=True),
        Output("selection", "data", allow_duplicate=True),
        Output("placed", "data", allow_duplicate=True),
        Input("clear", "n_clicks"),
    )
    script(
        "outline",
        Output("selection", "data", allow_duplicate=True),
        Input("scatter", "selectedData"),
        State("view", "data"),
        State("selection", "data"),
    )
    script(
        "showCode",
        Output("selection", "data", allow_duplicate=True),
        Output("tab", "data", allow_duplicate=True),
        Input({"show": ALL}, "n_clicks"),
        State("code", "data"),
    )
    script(
        "hover",
        Output("hover", "show"),
        Output("hover", "bbox"),
        Output("hovered", "data"),
        Input("scatter", "hoverData"),
    )
    script("write", Output("written", "data"), *[Input(*part) for part in PARTS.values()])
    if space.draw is not None:
        script("drawOn", Input("draw-next", "data"))
        script(
            "place",
            Output("placed", "data", allow_duplicate=True),
            Output("tab", "data", allow_duplicate=True),
            Input("place", "n_clicks"),
            State("drawn-codes", "data"),
        )


def _connect_address(app: Dash, space: Space) -> None:
    @app.callback(
        *[Output(*part, allow_duplicate=True) for part in PARTS.values()],
        Input("address", "search"),
        prevent_initial_call="initial_duplicate",
    )
    def read(search: Any) -> list[Any]:
        return read_address(space, tabs_of(space), search)


def _connect_find(app: Dash, space: Space) -> None:
    @app.callback(
        Output("found", "children"),
        Output("picked", "data", allow_duplicate=True),
        Output("selection", "data", allow_duplicate=True),
        Input("find", "value"),
        prevent_initial_call=True,
    )
    def search(text: Any) -> tuple[Any, Any, Any]:
        if not isinstance(text, str) or not text.strip():
            return "", no_update, no_update
        try:
            node, found = find(space, text[:80])
        except ValueError as error:
            return str(error).capitalize() + ".", no_update, no_update
        return ("", no_update, found) if node is None else ("", [node], no_update)

    @app.callback(Output("hover", "children"), Input("hovered", "data"), prevent_initial_call=True)
    def show_hovered(hovered: Any) -> Any:
        if hovered is None:
            return no_update
        node = whole(hovered, 0, len(space.points) - 1, "point")
        name, code = class_title(space, space.labels[node]), space.codes[node]
        return picture(space.picture([node])[0], f"{name}, code {code}", f"point {node}", space.frames(node))


def _connect_graph(app: Dash, space: Space, graph: Any, reach: Any) -> None:
    @app.callback(Output("graph", "children"), Input("k", "value"), Input("metric", "data"))
    def describe_setting(k: Any, metric: Any) -> str:
        setting = _graph_setting(space, k, metric)
        return f"k = {k}, {metric} lengths: {describe_graph(graph(*setting))}"

    @app.callback(
        Output("details", "children"),
        Input("picked", "data"),
        Input("k", "value"),
        Input("metric", "data"),
        prevent_initial_call=True,
    )
    def show_details(picked: Any, k: Any, metric: Any) -> Any:
        chosen, setting = nodes(picked, len(space.points)), _graph_setting(space, k, metric)
        if not chosen:
            return html.P("Click a point.")
        return details_of(space, reach(*setting, chosen[0]), metric)


def _connect_painting(app: Dash, space: Space, reach: Any) -> None:
    @app.callback(
        Output("scatter", "figure"),
        Input("colouring", "data"),
        Input("view", "data"),
        Input("picked", "data"),
        Input("k", "value"),
        Input("metric", "data"),
        Input("selection", "data"),
        Input("placed", "data"),
        prevent_initial_call=True,
    )
    def paint(colouring: Any, name: Any, picked: Any, k: Any, metric: Any, text: Any, placed: Any) -> Any:
        chosen, setting = nodes(picked, len(space.points)), _graph_setting(space, k, metric)
        choice(colouring, colourings(space), "colouring")
        view, (text, inside) = _view(space, name), selection(space, text)
        drawn = codes(placed, len(space.vectors))
        changed = {entry["prop_id"].split(".")[0] for entry in ctx.triggered}
        if changed <= {"k", "metric"} and colouring != "distance":
            return no_update  # every update makes the browser redraw all points
        figure = Patch()
        if "view" in changed:
            _turn(figure, view)
        if "colouring" in changed or (colouring == "distance" and changed & {"picked", "k", "metric"}):
            figure["data"][0]["marker"] = markers(space, colouring, reach(*setting, chosen[0]) if chosen else None)
        if changed & {"picked", "view"}:
            _put(figure, PICKED_TRACE, view.points[np.array(chosen, np.int64)])
            if len(chosen) < 2:
                _draw_curves(figure, {})
        if changed & {"placed", "view"}:
            found, sizes = draws_of(drawn)
            _put(figure, PLACED_TRACE, on_map(space, view, space.vectors[found]) if drawn else np.zeros((0, 2)))
            figure["data"][PLACED_TRACE]["marker"]["size"] = sizes
        if "selection" in changed:
            figure["data"][0]["selectedpoints"] = inside.tolist() if text else None
            figure["layout"]["selections"] = []
            figure["layout"]["selectionrevision"] = text  # else the browser keeps the previous outline
        return figure


def _turn(figure: Patch, view: View) -> None:
    """Switch all points to another view."""
    figure["data"][0]["x"], figure["data"][0]["y"] = coordinates(view)
    for axis, label in zip(("xaxis", "yaxis"), view.axes, strict=True):
        figure["layout"][axis]["title"]["text"] = label
    figure["layout"]["uirevision"] = view.name  # a new view starts unzoomed


def _put(figure: Patch, trace: int, points: np.ndarray) -> None:
    figure["data"][trace]["x"] = points[:, 0].tolist()
    figure["data"][trace]["y"] = points[:, 1].tolist()


def _draw_curves(figure: Patch, lines: dict[str, np.ndarray]) -> None:
    """Draw the given curves on the map and remove all others."""
    for trace, name in enumerate(CURVE_COLOURS, 1):
        _put(figure, trace, lines.get(name, np.zeros((0, 2))))


def _graph_setting(space: Space, k: Any, metric: Any) -> tuple[int, str]:
    if k is None:  # the field is empty or out of range
        raise PreventUpdate
    return whole(k, 1, space.neighbours.shape[1], "k"), choice(metric, metrics_of(space), "metric")


def _view(space: Space, name: Any) -> View:
    return view_of(space, choice(name, [view.name for view in space.views], "view"))


def _connect_curves(app: Dash, space: Space, reach: Any) -> None:
    @app.callback(
        Output("scatter", "figure", allow_duplicate=True),
        Output("curves", "children"),
        Input("picked", "data"),
        Input("view", "data"),
        Input("k", "value"),
        Input("metric", "data"),
        Input("start-from", "data"),
        prevent_initial_call=True,
    )
    def show_curves(picked: Any, name: Any, k: Any, metric: Any, start_from: Any) -> tuple[Any, Any]:
        chosen, setting, view = nodes(picked, len(space.points)), _graph_setting(space, k, metric), _view(space, name)
        start = choice(start_from, STARTS, "start")
        if len(chosen) < 2:
            return no_update, None
        found = curves_between(space, reach(*setting, chosen[0]), chosen[1], start)
        figure = Patch()
        _draw_curves(figure, {curve.name: curve_on_map(space, view, curve) for curve in found})
        return figure, strips(space, found)


def _connect_selection(app: Dash, space: Space) -> None:
    counts = code_counts(space)

    @app.callback(Output("summary", "children"), Input("selection", "data"), prevent_initial_call=True)
    def show_summary(text: Any) -> Any:
        text, inside = selection(space, text)
        return summary_of(space, text, inside, counts) if text else None

    @app.callback(
        Output("csv", "data"), Input({"save": ALL}, "n_clicks"), State("selection", "data"), prevent_initial_call=True
    )
    def save(pressed: Any, text: Any) -> Any:
        text, inside = selection(space, text)
        if not any(presses(count) for count in pressed):
            return no_update
        return {"content": ids_as_csv(space, inside), "filename": "points.csv", "type": "text/csv", "base64": False}
