"""Request validation: the server of the explorer answers only well-formed requests of its own page.

Other pages in the same browser can send requests to a local port, through a name of their own (DNS rebinding) or by
forms and scripts. Rejections are HTTP exceptions of werkzeug, which reach the client as 400 or 403 without traceback.
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
    """Reject foreign and malformed requests to an application, and restrict what its page may load.

    - A Host that is not loopback (DNS rebinding), or a POST with an Origin other than the page: 403.
    - A body above `MAX_BODY` bytes, or a callback unknown to the application: 400.
    - Scripts come only from this server or match a hash; images and styles from this server or the page itself.

    Args:
        app: the application, with its layout and all callbacks.
    """
    app.server.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    policy = "; ".join(
        (
            # plotly compiles the bindings of its GL shaders with Function(), hence 'unsafe-eval'.
            f"script-src 'self' 'unsafe-eval' {' '.join(app.csp_hashes())}",
            # Dash and plotly insert <style> elements and attributes that change, which hashes cannot cover.
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
    """Reject a request body that does not address a callback as the page would; values are not checked.

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
    """The id of a component as `changedPropIds` spells it."""
    return component if isinstance(component, str) else json.dumps(component, sort_keys=True, separators=(",", ":"))


def _addresses(entry: Any, pattern: Mapping[str, str]) -> bool:
    """Whether an entry of a request names the component, or a list of entries those of a wildcard."""
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
    """Check that a callback value is an integer in [low, high]; raises BadRequest."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BadRequest(f"expected {name} from {low} to {high}, got {reprlib.repr(value)}")
    return value


def number(value: Any, low: float, high: float, name: str) -> float:
    """Check that a callback value is a number in [low, high], up to rounding, and clip it; raises BadRequest."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not low - 1e-9 <= value <= high + 1e-9:
        raise BadRequest(f"expected {name} from {low:g} to {high:g}, got {reprlib.repr(value)}")
    return min(max(float(value), low), high)


def choice(value: Any, choices: Sequence[str], name: str) -> str:
    """Check that a callback value is one of the choices; raises BadRequest."""
    if not isinstance(value, str) or value not in choices:
        raise BadRequest(f"expected {name} among {', '.join(choices)}, got {reprlib.repr(value)}")
    return value


def nodes(value: Any, count: int) -> list[int]:
    """Check that a callback value lists at most two distinct points of `count`; raises BadRequest."""
    if not isinstance(value, list) or len(value) > 2:
        raise BadRequest(f"expected at most two points, got {reprlib.repr(value)}")
    picked = [whole(node, 0, count - 1, "point") for node in value]
    if len(set(picked)) < len(picked):
        raise BadRequest(f"expected two distinct points, got {picked}")
    return picked


def selection(space: Space, value: Any) -> tuple[str, Int[np.ndarray, " m"]]:
    """Check a selection, and return it with its points; raises BadRequest."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise BadRequest(f"expected a selection of at most {MAX_TEXT} characters, got {reprlib.repr(value)}")
    try:
        return value, selected(space, value)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def codes(value: Any, num_codes: int) -> list[int]:
    """Check that a callback value lists at most `MAX_CODES` codes; raises BadRequest."""
    if not isinstance(value, list) or len(value) > MAX_CODES:
        raise BadRequest(f"expected at most {MAX_CODES} codes, got {reprlib.repr(value)}")
    return [whole(code, 0, num_codes - 1, "code") for code in value]


def presses(value: Any) -> int:
    """Number of clicks on a button; 0 for None."""
    return 0 if value is None else whole(value, 0, 2**31 - 1, "presses")


def clicked(click: Any) -> dict[str, Any]:
    """The first point of plotly's `clickData`."""
    points = click.get("points") if isinstance(click, dict) else None
    if not isinstance(points, list) or not points or not isinstance(points[0], dict):
        raise BadRequest(f"expected a clicked point, got {reprlib.repr(click)}")
    return points[0]
