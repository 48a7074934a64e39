"""State of the page in its URL, so that a view can be reloaded and shared."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from dash import no_update
from werkzeug.exceptions import BadRequest

from geovq_jax.explorer.drawing import colourings
from geovq_jax.explorer.guard import choice, nodes, selection, whole
from geovq_jax.explorer.space import STARTS, Space, metrics_of

# Name in the URL -> id and property of the component that holds the value; the script of the page writes the URL.
PARTS = {
    "k": ("k", "value"),
    "tab": ("tab", "data"),
    "colour": ("colouring", "data"),
    "view": ("view", "data"),
    "metric": ("metric", "data"),
    "from": ("start-from", "data"),
    "points": ("picked", "data"),
    "select": ("selection", "data"),
    "code": ("code", "data"),
}
_MAX_LENGTH = 20_000


def read_address(space: Space, tabs: list[str], search: Any) -> list[Any]:
    """Values of `PARTS` in a URL; no_update for those that are absent or invalid for the space.

    Args:
        space: the space.
        tabs: names of the tabs.
        search: query string, "?name=value&...".
    """
    text = search if isinstance(search, str) and len(search) <= _MAX_LENGTH else ""
    given = dict(parse_qsl(text.removeprefix("?")))
    checks: dict[str, Callable[[str], Any]] = {
        "tab": lambda value: choice(value, tabs, "tab"),
        "colour": lambda value: choice(value, colourings(space), "colouring"),
        "view": lambda value: choice(value, [view.name for view in space.views], "view"),
        "metric": lambda value: choice(value, metrics_of(space), "metric"),
        "k": lambda value: whole(int(value), 1, space.neighbours.shape[1], "k"),
        "from": lambda value: choice(value, STARTS, "start"),
        "points": lambda value: nodes([int(node) for node in value.split(",")], len(space.points)),
        "select": lambda value: selection(space, value)[0],
        "code": lambda value: whole(int(value), 0, len(space.code_pictures) - 1, "code"),
    }
    return [_checked(checks[name], given.get(name)) for name in PARTS]


def _checked(check: Callable[[str], Any], value: str | None) -> Any:
    """The value, or no_update if it is absent or invalid."""
    if value is None:
        return no_update
    try:
        return check(value)
    except (ValueError, BadRequest):
        return no_update
