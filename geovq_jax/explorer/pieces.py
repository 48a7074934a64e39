"""Components that several parts of the page share: choices, numbers, captioned images, bars."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from dash import dcc, html

from geovq_jax.explorer.drawing import png_address

Number = int | float
Frame = tuple[float, float, float, float] | None
GRAPH: Any = {
    "displaylogo": False,
    "displayModeBar": True,
    "scrollZoom": True,
    # plotly 7.1 and later offer to upload the chart.
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["autoScale2d", "toImage", "sendChartToCloud"],
}


def aria(**attributes: str) -> Any:
    """ARIA attributes as keyword arguments of a component: `label` becomes aria-label."""
    return {f"aria-{name}": value for name, value in attributes.items()}


def choice_of(name: str, label: str, values: Sequence[Any], first: Any, texts: Sequence[str] | None = None) -> html.Div:
    """Buttons of which one is pressed; the script of the page writes its value into the store `name`."""
    buttons: list[Any] = [
        html.Button(
            text,
            id={"choose": name, "value": value},
            n_clicks=0,
            type="button",
            **aria(pressed=str(value == first).lower()),
        )
        for value, text in zip(values, texts or values, strict=True)
    ]
    group = html.Div(buttons, role="group", className="choice", **aria(label=label))
    return html.Div([html.Span(label, className="label"), group, dcc.Store(id=name, data=first)], className="control")


def number_input(name: str, label: str, low: Number, high: Number, first: Number, step: Number) -> html.Div:
    """A labelled number field, sent on blur or Enter."""
    field = dcc.Input(id=name, type="number", min=low, max=high, value=first, step=step, debounce=True)
    return html.Div([html.Label(label, htmlFor=name), field], className="control")


def graph(name: str, figure: dict[str, Any], size: str) -> html.Div:
    """A plotly figure that fills a box of CSS class `size`."""
    plot = dcc.Graph(
        id=name, figure=figure, config=GRAPH, responsive=True, clear_on_unhover=True, style={"height": "100%"}
    )
    return html.Div(plot, className=size)


def picture(image: np.ndarray, caption: str, title: str, frame: Frame = None) -> html.Figure:
    """An image with a caption, and optionally a frame around its cell."""
    parts: list[Any] = [html.Img(src=png_address(image), alt=title, title=title)]
    if frame is not None:
        top, left, height, width = (f"{100.0 * share:.2f}%" for share in frame)
        parts.append(html.I(className="frame", style={"top": top, "left": left, "height": height, "width": width}))
    return html.Figure([html.Div(parts, className="picture"), html.Figcaption(caption)])


def bars(names: Sequence[str], counts: Sequence[int]) -> html.Table:
    """Counts as horizontal bars; the longest fills the row."""
    longest = max(max(counts), 1)
    rows = [
        html.Tr(
            [
                html.Th(name, scope="row"),
                html.Td(html.Div(style={"width": f"{100.0 * count / longest:.1f}%"}), className="bar"),
                html.Td(f"{count:,}"),
            ]
        )
        for name, count in zip(names, counts, strict=True)
    ]
    return html.Table(html.Tbody(rows), className="counts")
