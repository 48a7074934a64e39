"""Part of the page on the prior: draws samples, with the settings of the run as defaults."""

from typing import Any, NamedTuple

import numpy as np
from dash import Dash, Input, Output, Patch, State, ctx, dcc, html, no_update

from geovq_jax.explorer.guard import number, presses, whole
from geovq_jax.explorer.pieces import aria, choice_of, number_input, picture
from geovq_jax.explorer.space import Draw, Space, class_title

MAX_SAMPLES = 400
_CHUNK = 25  # images between two progress updates
_MAX_SEED = 2**31 - 1


class _Setting(NamedTuple):
    label: str
    low: int | float
    high: int | float
    step: int | float


# Number fields of the form, in the order of `Draw` after the class.
SETTINGS = {
    "number": _Setting("images", 1, MAX_SAMPLES, 1),
    "temperature": _Setting("temperature", 0.0, 4.0, 0.05),
    "top_k": _Setting("top-k (0: all codes)", 0, 1 << 20, 1),
    "top_p": _Setting("top-p", 0.01, 1.0, 0.01),
    "min_p": _Setting("min-p", 0.0, 0.99, 0.01),
    "guidance": _Setting("guidance", 0.0, 20.0, 0.1),
    "seed": _Setting("seed", 0, _MAX_SEED, 1),
}
_WHOLE = ("number", "top_k", "seed")


def part(space: Space) -> html.Div:
    """The form, filled with the settings of the run, and a placeholder for samples."""
    first = space.sampling._asdict() | {"number": min(space.sampling.number, MAX_SAMPLES)}
    fields = [
        number_input(f"draw-{name}", text, low, high, first[name], step)
        for name, (text, low, high, step) in SETTINGS.items()
    ]
    classes = [-1, *range(len(space.class_names))]
    controls = [
        *fields,
        choice_of("label", "class", classes, space.sampling.label, ["every class", *space.class_names]),
        html.Button("draw", id="draw", n_clicks=0, className="strong", type="button"),
        html.Button("place on the map", id="place", n_clicks=0, className="plain", type="button", disabled=True),
    ]
    samples = [
        html.P(
            "The settings are those of the run. Press draw to sample codes and decode them.",
            id="progress",
            className="note",
            role="status",
        ),
        html.Div(id="drawn", className="samples"),
        dcc.Store(id="drawing", data=None),
        dcc.Store(id="draw-next", data=None),
        dcc.Store(id="drawn-codes", data=[]),
    ]
    return html.Div(
        [
            html.Section(controls, className="card controls", **aria(label="settings of the samples")),
            html.Section(samples, className="card", **aria(label="samples")),
        ],
        className="two",
    )


def connect(app: Dash, space: Space) -> None:
    """Register the callbacks of this part.

    Each response draws a chunk of images and sets `draw-next`, which the script of the page copies to `drawing` to
    request the next chunk.
    """

    @app.callback(
        Output("drawn", "children"),
        Output("drawn-codes", "data"),
        Output("progress", "children"),
        Output("draw-next", "data"),
        Output("place", "disabled"),
        Input("draw", "n_clicks"),
        Input("drawing", "data"),
        State("label", "data"),
        *[State(f"draw-{name}", "value") for name in SETTINGS],
        prevent_initial_call=True,
    )
    def show_samples(clicks: Any, going: Any, label: Any, *values: Any) -> tuple[Any, ...]:
        presses(clicks)
        nothing = (no_update,) * 5
        if ctx.triggered_id == "draw":
            if None in values:  # a field that is empty or out of range
                wrong = next(one for one, value in zip(SETTINGS.values(), values, strict=True) if value is None)
                return *nothing[:2], f"Expected {wrong.label} from {wrong.low:g} to {wrong.high:g}.", *nothing[3:]
            settings = _checked(space, label, dict(zip(SETTINGS, values, strict=True)))
            start, fresh = 0, True
        elif going is None:
            return nothing
        else:
            settings, start = _continued(space, going)
            fresh = False
        rows = np.arange(start, start + _CHUNK)
        assert space.draw is not None
        # All chunks have the same size, so that there is one compilation.
        drawn = space.draw(settings, np.minimum(rows, settings.number - 1))
        count = min(_CHUNK, settings.number - start)
        figures = [
            picture(drawn.images[i], class_title(space, drawn.labels[i]), f"sample {rows[i]}") for i in range(count)
        ]
        codes = drawn.codes[:count].ravel().tolist()
        done = start + count
        more = None if done == settings.number else {"settings": list(settings), "done": done}
        text = f"{done} of {settings.number} images." if more else _finished(settings)
        if fresh:
            return figures, codes, text, more, False
        grid, kept = Patch(), Patch()
        grid.extend(figures)
        kept.extend(codes)
        return grid, kept, text, more, False


def _finished(settings: Draw) -> str:
    names = ("temperature", "top_k", "top_p", "min_p", "guidance", "seed")
    figures = ", ".join(f"{name.replace('_', '-')} {getattr(settings, name):g}" for name in names)
    return f"{settings.number} images: {figures}."


def _checked(space: Space, label: Any, values: dict[str, Any]) -> Draw:
    checked: dict[str, Any] = {}
    for name, (text, low, high, _) in SETTINGS.items():
        checked[name] = (
            whole(values[name], int(low), int(high), text) if name in _WHOLE else number(values[name], low, high, text)
        )
    return Draw(label=whole(label, -1, len(space.class_names) - 1, "class"), **checked)


def _continued(space: Space, going: Any) -> tuple[Draw, int]:
    """Settings and number of finished images of a draw in progress, as the page returns them."""
    going = going if isinstance(going, dict) else {}
    given = going.get("settings")
    given = given if isinstance(given, list) and len(given) == len(Draw._fields) else [None] * len(Draw._fields)
    values = dict(zip(Draw._fields, given, strict=True))
    settings = _checked(space, values.pop("label"), values)
    return settings, whole(going.get("done"), 1, settings.number - 1, "images drawn")
