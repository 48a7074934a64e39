"""What the explorer's server answers: requests of its own page, well formed; everything else is refused.

Other pages of the same browser can send requests to a local port, by their own name (DNS rebinding) or by form and
script. Refusals are werkzeug's HTTP exceptions, which reach the client as 400 or 403 and leave no traceback.
"""

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dash import Dash
from dash.exceptions import DependencyException
from flask import Response, request
from jaxtyping import Int
from werkzeug.exceptions import BadRequest, Forbidden, RequestEntityTooLarge

from geovq_jax.explorer.selection import MAX_TEXT, selected
from geovq_jax.explorer.space import Space

MAX_BODY = 1 << 20  # bytes; the largest callback of the page sends `MAX_CODES` codes in some 500 kB
MAX_CODES = 100_000
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_CALLBACK = "/_dash-update-component"


def guard(app: Dash) -> None:
    """Refuses foreign and malformed requests of an application, and restricts what its page may load.

    - a Host that is not loopback (DNS rebinding), or a POST with another Origin than the page's: 403;
    - a body above `MAX_BODY` bytes, or a callback that is not one of the application's: 400;
    - scripts only from this server or by hash, pictures and styles from this server or the page itself.

    Args:
        app: the application, with its layout and all callbacks.
    """
    app.server.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    policy = "; ".join(
        (
            # plotly compiles its GL shaders' bindings with Function(), hence 'unsafe-eval'.
            f"script-src 'self' 'unsafe-eval' {' '.join(app.csp_hashes())}",
            # Dash's controls and plotly insert <style> elements and attributes that change: no hash can cover them.
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "default-src 'self'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )

    @app.server.before_request
    def _check_request() -> None:
        if not _LOOPBACK.fullmatch(request.host):
            raise Forbidden("expected a loopback address in Host, got another; open the address that explore printed")
        if request.method == "POST" and request.headers.get("Origin") not in (None, f"http://{request.host}"):
            raise Forbidden("expected a request of this page, got one of another origin")
        if request.path == _CALLBACK:
            check_callback(app.callback_map, _json_body())

    @app.server.after_request
    def _restrict(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        return response

    @app.server.errorhandler(RequestEntityTooLarge)
    def _oversized(_: Exception) -> tuple[str, int]:
        return f"expected a body of at most {MAX_BODY} bytes, got more", 400

    @app.server.errorhandler(DependencyException)
    def _unknown_file(_: Exception) -> tuple[str, int]:
        return "expected a file of this page, got another", 404


def _json_body() -> Any:
    if not request.is_json:
        raise BadRequest("expected JSON")
    try:
        return request.get_json()
    except RecursionError:
        raise BadRequest("expected JSON of a callback, got deeper nesting") from None


def check_callback(callbacks: Mapping[str, Mapping[str, Any]], body: Any) -> None:
    """Refuses the body of a request that does not address a callback as the page would; values are not looked at.

    Args:
        callbacks: `callback_map` of the application.
        body: decoded JSON.

    Raises:
        BadRequest: the output is unknown, or inputs, states, outputs or triggers are not those of its callback.
    """
    output = body.get("output") if isinstance(body, dict) else None
    callback = callbacks.get(output, {}) if isinstance(output, str) else {}
    if "callback" not in callback:
        raise BadRequest(f"expected an output of this page, got {reprlib.repr(output)}")
    outputs, registered = body.get("outputs"), callback["output"]
    if not isinstance(registered, list):
        outputs, registered = [outputs], [registered]
    for part, given, expected in (
        ("inputs", body.get("inputs"), callback["inputs"]),
        ("state", body.get("state", []), callback["state"]),
        ("outputs", outputs, [{"id": o.component_id_str(), "property": o.component_property} for o in registered]),
    ):
        if not isinstance(given, list) or len(given) != len(expected):
            raise BadRequest(f"expected {len(expected)} {part} of {output}, got {reprlib.repr(given)}")
        for entry, pattern in zip(given, expected, strict=True):
            if not _addresses(entry, pattern):
                raise BadRequest(f"expected {pattern} among the {part} of {output}, got {reprlib.repr(entry)}")
    flat = [entry for group in body["inputs"] for entry in (group if isinstance(group, list) else [group])]
    names = {f"{_name(entry['id'])}.{entry['property']}" for entry in flat}
    changed = body.get("changedPropIds", [])
    if not isinstance(changed, list) or not all(isinstance(name, str) and name in names for name in changed):
        raise BadRequest(f"expected changedPropIds among the inputs of {output}, got {reprlib.repr(changed)}")


def _name(component: str | dict[str, Any]) -> str:
    """A component's id as `changedPropIds` spells it."""
    return component if isinstance(component, str) else json.dumps(component, sort_keys=True, separators=(",", ":"))


def _addresses(entry: Any, pattern: Mapping[str, str]) -> bool:
    """Whether an entry of a request names the component, or a list of entries the components of a wildcard."""
    if not pattern["id"].startswith("{"):
        return _is_property(entry, pattern["property"]) and entry["id"] == pattern["id"]
    keys = json.loads(pattern["id"]).keys()
    return isinstance(entry, list) and all(
        _is_property(each, pattern["property"])
        and isinstance(each["id"], dict)
        and each["id"].keys() == keys
        and all(isinstance(value, int | str) for value in each["id"].values())
        for each in entry
    )


def _is_property(entry: Any, name: str) -> bool:
    # Outputs that several callbacks share carry a hash behind "@".
    return isinstance(entry, dict) and "id" in entry and str(entry.get("property")).partition("@")[0] == name


def whole(value: Any, low: int, high: int, name: str) -> int:
    """A whole number in [low, high] of a callback; anything else is a BadRequest."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BadRequest(f"expected {name} from {low} to {high}, got {reprlib.repr(value)}")
    return value


def number(value: Any, low: float, high: float, name: str) -> float:
    """A number in [low, high] of a callback, where the rounding of a slider is cut off."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not low - 1e-9 <= value <= high + 1e-9:
        raise BadRequest(f"expected {name} from {low:g} to {high:g}, got {reprlib.repr(value)}")
    return min(max(float(value), low), high)


def choice(value: Any, choices: Sequence[str], name: str) -> str:
    """One of some words of a callback."""
    if not isinstance(value, str) or value not in choices:
        raise BadRequest(f"expected {name} among {', '.join(choices)}, got {reprlib.repr(value)}")
    return value


def nodes(value: Any, count: int) -> list[int]:
    """The picked points of a callback: at most two different ones of `count`."""
    if not isinstance(value, list) or len(value) > 2:
        raise BadRequest(f"expected at most two points, got {reprlib.repr(value)}")
    picked = [whole(node, 0, count - 1, "point") for node in value]
    if len(set(picked)) < len(picked):
        raise BadRequest(f"expected two different points, got {picked}")
    return picked


def selection(space: Space, value: Any) -> tuple[str, Int[np.ndarray, " m"]]:
    """A selection of a callback, and its points."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise BadRequest(f"expected a selection of at most {MAX_TEXT} characters, got {reprlib.repr(value)}")
    try:
        return value, selected(space, value)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def codes(value: Any, num_codes: int) -> list[int]:
    """Codes of a callback that are to be placed on the map, at most `MAX_CODES`."""
    if not isinstance(value, list) or len(value) > MAX_CODES:
        raise BadRequest(f"expected at most {MAX_CODES} codes, got {reprlib.repr(value)}")
    return [whole(code, 0, num_codes - 1, "code") for code in value]


def presses(value: Any) -> int:
    """How often a button was pressed; 0 before the first time."""
    return 0 if value is None else whole(value, 0, 2**31 - 1, "presses")


def clicked(click: Any) -> dict[str, Any]:
    """The first point of plotly's `clickData`."""
    points = click.get("points") if isinstance(click, dict) else None
    if not isinstance(points, list) or not points or not isinstance(points[0], dict):
        raise BadRequest(f"expected a clicked point, got {reprlib.repr(click)}")
    return points[0]
