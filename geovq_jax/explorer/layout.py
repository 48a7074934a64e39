"""Layout of the explorer: tabs, controls, and the placeholders that the callbacks fill."""

from typing import Any

from dash import dcc, html

from geovq_jax.explorer import codebook, prior, versus
from geovq_jax.explorer.drawing import colourings, first_colouring, scatter
from geovq_jax.explorer.pieces import aria, choice_of, graph, number_input
from geovq_jax.explorer.space import STARTS, Space, first_k, metrics_of

_HINT = (
    "Click a point to see its image and its nearest points along the graph. Click another for curves between the two. "
    "Outline points with the box or lasso tool above the map for a summary of them."
)


def tabs_of(space: Space) -> list[str]:
    """Names of the tabs of the page."""
    wanted = {"prior": space.draw is not None, "compare": space.versus is not None}
    return ["latents", "codebook", *(name for name, shown in wanted.items() if shown)]


def page(space: Space) -> html.Div:
    """The page of a space."""
    makers = {"latents": _latents, "codebook": codebook.part, "prior": prior.part, "compare": versus.part}
    tabs = tabs_of(space)
    head = html.Header(
        [
            html.Div([html.H1(space.name), html.P(f"{len(space.points):,} points, {space.subject}")]),
            html.Nav(choice_of("tab", "part of the page", tabs, tabs[0]), **aria(label="parts of the page")),
        ]
    )
    # All parts stay on the page, so that choices in one survive a visit to another.
    parts = [
        html.Div(makers[name](space), id={"part": name}, className="part" if name == tabs[0] else "part away")
        for name in tabs
    ]
    stores = [
        dcc.Location(id="address", refresh=False),
        dcc.Store(id="picked", data=[]),
        dcc.Store(id="selection", data=""),
        dcc.Store(id="code", data=None),
        dcc.Store(id="placed", data=[]),
        dcc.Store(id="hovered", data=None),
        dcc.Store(id="written", data=None),
    ]
    return html.Div([head, html.Main(parts), *stores], className="page")


def _latents(space: Space) -> html.Div:
    find = html.Div(
        [
            html.Label("find", htmlFor="find"),
            dcc.Input(id="find", type="text", debounce=True, placeholder="point 12, class 3, code 7", maxLength=80),
            html.P(id="found", className="note", role="status"),
        ],
        className="control",
    )
    buttons = html.Button("clear", id="clear", n_clicks=0, className="plain", type="button")
    controls = [
        find,
        choice_of("colouring", "colour", colourings(space), first_colouring(space)),
        choice_of("view", "view", [view.name for view in space.views], space.views[0].name),
        choice_of("metric", "metric of the graph", metrics_of(space), metrics_of(space)[0]),
        number_input("k", "neighbours k", 1, space.neighbours.shape[1], first_k(space), 1),
        html.P(id="graph", className="note"),
        choice_of("start-from", "geodesic started from the", STARTS, STARTS[0]),
        buttons,
    ]
    tooltip = dcc.Tooltip(id="hover", show=False, direction="right", className="hover", background_color="var(--paper)")
    results: list[Any] = [
        dcc.Loading(html.Div(id="curves"), type="dot", delay_show=300),
        html.Div(id="summary"),
        html.Div(html.P(_HINT), id="details", className="card"),
    ]
    return html.Div(
        [
            html.Section(controls, className="card controls", **aria(label="controls of the map")),
            html.Section(
                [graph("scatter", scatter(space, first_colouring(space)), "map"), tooltip],
                className="card around-map",
                **aria(label="map of the points"),
            ),
            html.Section(results, className="results", **aria(label="what was chosen", live="polite")),
            dcc.Download(id="csv"),
        ],
        className="three",
    )
