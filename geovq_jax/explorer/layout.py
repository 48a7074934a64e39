"""The page of the explorer: tabs, controls and empty places that the callbacks fill."""

from typing import Any

import numpy as np
from dash import dcc, html

from geovq_jax.explorer.drawing import colourings, png_address, scatter, usage_bars
from geovq_jax.explorer.space import Space, code_counts, first_k, metrics_of

MAX_ATLAS = 256
# Sliders of the prior: lowest, highest, first value and step.
SLIDERS = {"temperature": (0.0, 2.0, 1.0, 0.05), "top-p": (0.05, 1.0, 1.0, 0.05), "guidance": (0.0, 4.0, 1.0, 0.1)}
_GRAPH: Any = {
    "displaylogo": False,
    "scrollZoom": True,
    # plotly 7.1 and later offer to upload the chart.
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "toImage", "sendChartToCloud"],
}


def page(space: Space) -> html.Div:
    """The whole page of one space."""
    parts = {"latents": _latents(space), "codebook": _codebook(space)}
    if space.draw is not None:
        parts["prior"] = _prior(space)
    tabs = [dcc.Tab(label=name.capitalize(), value=name, id=f"open-{name}") for name in parts]
    return html.Div(
        [
            html.Header([html.H1(space.name), html.P(f"{len(space.points):,} points: {space.subject}.")]),
            dcc.Store(id="picked", data=[]),
            dcc.Store(id="code", data=None),
            dcc.Tabs(tabs, value="latents", id="tab", mobile_breakpoint=0),
            # All parts stay on the page: what was chosen in one is still there after a look at another.
            *[
                html.Div(part, id={"part": name}, className="part" if name == "latents" else "part away")
                for name, part in parts.items()
            ],
        ],
        className="page",
    )


def _control(label: str, control: Any) -> html.Div:
    return html.Div([html.Label(label), control], className="control")


def _graph(name: str, figure: dict[str, Any], size: str) -> html.Div:
    graph = dcc.Graph(id=name, figure=figure, config=_GRAPH, responsive=True, style={"height": "100%"})
    return html.Div(graph, className=size)


def _radio(name: str, choices: tuple[str, ...]) -> dcc.RadioItems:
    return dcc.RadioItems([*choices], choices[0], id=name, inline=True, className="radio")


def _columns(left: list[Any], right: list[Any]) -> html.Div:
    return html.Div([html.Div(left, className="card"), html.Div(right, className="card")], className="columns")


def _latents(space: Space) -> html.Div:
    most = space.neighbours.shape[1]
    marks = {k: str(k) for k in (1, 5, 10, 15, 20, 25, 30) if k <= most}
    controls = [
        _control("colour", _radio("colouring", colourings(space))),
        _control("view", _radio("view", tuple(view.name for view in space.views))),
        _control("metric", _radio("metric", metrics_of(space))),
        _control("neighbours k", dcc.Slider(1, most, 1, value=first_k(space), id="k", marks=marks)),
    ]
    left = [
        html.Div(controls, className="controls"),
        html.P(id="graph", className="note"),
        _graph("scatter", scatter(space, colourings(space)[0]), "map"),
    ]
    hint = html.P("Click a point: its image, and the points nearest to it along the graph. Click another: three ways.")
    right = [html.Div([hint], id="details"), html.Button("clear", id="clear", n_clicks=0, className="plain")]
    return html.Div([_columns(left, right), dcc.Loading(html.Div(id="ways"), type="dot", delay_show=300)])


def _codebook(space: Space) -> html.Div:
    counts = code_counts(space)
    order = np.argsort(-counts, kind="stable")[:MAX_ATLAS]
    atlas = [
        html.Button(
            [html.Img(src=png_address(space.code_pictures[code]), alt=f"code {code}"), html.Span(f"{counts[code]:,}")],
            id={"code": int(code)},
            title=f"code {code}, {counts[code]:,} points",
            className="tile",
        )
        for code in order
    ]
    used = int((counts > 0).sum())
    shown = f", the {len(order)} most used" if len(order) < len(counts) else ""
    left = [
        html.H2(f"{used:,} of {len(counts):,} codes used{shown}"),
        html.P("What each code draws, and the number of its points. Click one for the members of its cell."),
        html.Div(atlas, className="atlas"),
    ]
    right = [_graph("usage", usage_bars(counts, None), "bars"), html.Div(html.P("No code chosen."), id="members")]
    return _columns(left, right)


def _prior(space: Space) -> html.Div:
    classes = [{"label": "every class", "value": -1}]
    classes += [{"label": f"class {number}", "value": number} for number in range(space.num_classes)]
    sliders = [
        _control(name, dcc.Slider(low, high, step, value=value, id=name, marks={low: f"{low:g}", high: f"{high:g}"}))
        for name, (low, high, value, step) in SLIDERS.items()
    ]
    controls = [
        *sliders,
        _control("class", dcc.Dropdown(classes, -1, id="label", clearable=False, searchable=False)),
        html.Button("draw", id="draw", n_clicks=0, className="strong"),
    ]
    hint = html.P("Press draw for images of sampled codes.")
    body = [html.Div(controls, className="controls"), dcc.Loading(html.Div(hint, id="drawn"), type="dot")]
    return html.Div(body, className="card")
