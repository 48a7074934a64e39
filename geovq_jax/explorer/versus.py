"""Part of the page that compares two runs on the same test images: codes and errors side by side."""

from typing import Any

import numpy as np
from dash import Dash, Input, Output, ctx, html
from jaxtyping import Int

from geovq_jax.explorer.drawing import error_scatter
from geovq_jax.explorer.guard import choice, clicked, whole
from geovq_jax.explorer.pieces import choice_of, graph, picture
from geovq_jax.explorer.space import Space, Versus, class_title
from geovq_jax.figures.style import even_decimals

_ROWS = 12
_ORDERS = ("first better", "second better", "even", "worst for both", "as in the split")


def part(space: Space) -> html.Div:
    """Overall errors of both runs, their scatter plot, and a placeholder for images."""
    versus = space.versus
    assert versus is not None
    left = [
        html.H2("Two runs on the same images"),
        _headline(versus),
        graph("errors", error_scatter(versus), "square"),
        html.P(
            "Each point is a test image; below the line, the second run is better. Click one to see it.",
            className="note",
        ),
    ]
    right = [
        choice_of("order", "images", _ORDERS, _ORDERS[0]),
        html.Div(pairs(space, shown(versus, _ORDERS[0])), id="pairs"),
    ]
    return html.Div([html.Section(left, className="card"), html.Section(right, className="card")], className="columns")


def _headline(versus: Versus) -> html.Table:
    """Mean squared error and PSNR of both runs, and how often each is better."""
    first, second = versus.errors
    wins = (first < second, second < first)
    rows = [
        html.Tr(
            [
                html.Th(name, scope="row"),
                html.Td(f"{errors.mean():.5f}"),
                html.Td(f"{-10.0 * np.log10(max(errors.mean(), 1e-12)):.2f} dB"),
                html.Td(f"{100.0 * won.mean():.0f} %"),
            ]
        )
        for name, errors, won in zip(versus.names, versus.errors, wins, strict=True)
    ]
    names = ("run", "mean squared error", "its PSNR", "images on which it is better")
    head = html.Thead(html.Tr([html.Th(name, scope="col") for name in names]))
    return html.Table([head, html.Tbody(rows)], className="table")


def shown(versus: Versus, order: str) -> np.ndarray:
    """Positions of the first images in an order."""
    first, second = versus.errors
    keys = dict(
        zip(
            _ORDERS,
            (first - second, second - first, np.abs(first - second), -(first + second), np.arange(len(first))),
            strict=True,
        )
    )
    return np.argsort(keys[order], kind="stable")[:_ROWS]


def pairs(space: Space, positions: np.ndarray) -> html.Div:
    """Per image: the original, and both decoded images with their errors and codes."""
    versus = space.versus
    assert versus is not None
    errors = [even_decimals(part) for part in versus.errors[:, positions]]
    rows: list[Any] = []
    for place, i in enumerate(positions.tolist()):
        name = f"test image {versus.rows[i]}"
        figures: list[Any] = [picture(versus.images[i], class_title(space, versus.labels[i]), name)]
        for run, decoded, codes, texts in zip(versus.names, versus.decoded, versus.codes, errors, strict=True):
            figures.append(picture(decoded[i], texts[place], f"{name} by {run}"))
            text = codes_as_text(np.atleast_2d(codes[i]))
            # A wide grid scrolls, also by keyboard.
            figures.append(html.Pre(text, title=f"codes of {name} by {run}", tabIndex=0 if len(text) > 80 else None))
        rows.append(html.Div(figures, className="pair"))
    names = ("image", versus.names[0], "its codes", versus.names[1], "its codes")
    head = html.Div([html.B(name) for name in names], className="pair head")
    return html.Div([head, *rows])


def codes_as_text(codes: Int[np.ndarray, "h w"]) -> str:
    """A grid of codes as lines of text."""
    width = len(str(codes.max()))
    return "\n".join(" ".join(f"{code:>{width}d}" for code in row) for row in codes.tolist())


def connect(app: Dash, space: Space) -> None:
    """Register the callbacks of this part."""
    versus = space.versus
    assert versus is not None

    @app.callback(
        Output("pairs", "children"), Input("order", "data"), Input("errors", "clickData"), prevent_initial_call=True
    )
    def show(order: Any, click: Any) -> Any:
        order = choice(order, _ORDERS, "order")
        position = None if click is None else whole(clicked(click).get("pointNumber"), 0, len(versus.rows) - 1, "image")
        if ctx.triggered_id == "errors" and position is not None:
            return pairs(space, np.array([position]))
        return pairs(space, shown(versus, order))
