"""What the explorer's server answers: its own page's requests, and nothing that is foreign, oversized or malformed."""

import base64
import hashlib
import json
import os
import random
import re
from functools import partial
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from geovq_jax.keys import METHODS, OF_VECTORS

pytest.importorskip("dash", reason="the extra explore is not installed")

ADDRESS = "/_dash-update-component"
GOING = [-1, 60, 1.0, 0, 0.9, 0.0, 1.5, 3]
NAME = "</title><script>document.title = 'owned'</script>{%scripts%}"
CODES = '{"code":["ALL"]}.n_clicks'
SAVES = '{"save":["ALL"]}.n_clicks'
VALUES = {
    "address.search": "?tab=codebook&points=3,7&k=9",
    "find.value": "class 3",
    "hovered.data": 7,
    "picked.data": [3],
    "selection.data": "class 3",
    "placed.data": [4, 4, 5],
    "colouring.data": "class",
    "view.data": "latents",
    "k.value": 12,
    "metric.data": "pull-back",
    "start-from.data": "graph path",
    SAVES: [{"id": {"save": "csv"}, "property": "n_clicks", "value": 1}],
    CODES: [{"id": {"code": code}, "property": "n_clicks", "value": None} for code in range(5)],
    "usage.clickData": {"points": [{"customdata": 4}]},
    "code.data": 2,
    "draw.n_clicks": 1,
    "drawing.data": {"settings": GOING, "done": 25},
    "label.data": -1,
    "draw-number.value": 30,
    "draw-temperature.value": 1.0,
    "draw-top_k.value": 0,
    "draw-top_p.value": 0.9,
    "draw-min_p.value": 0.0,
    "draw-guidance.value": 1.5,
    "draw-seed.value": 3,
    "order.data": "even",
    "errors.clickData": {"points": [{"curveNumber": 0, "pointNumber": 7}]},
}


@pytest.fixture(scope="module")
def app():
    from geovq_jax.explorer.app import build_app
    from geovq_jax.explorer.demo import demo_space
    from geovq_jax.explorer.space import Versus

    space = demo_space(num_points=120)
    images = space.picture(range(20))
    rows, pair = np.arange(20), (space.codes[:20], space.codes[20:40])
    versus = Versus(("a", "b"), rows, images, space.labels[:20], (images, images), pair, np.ones((2, 20)))
    return build_app(space._replace(name=NAME, versus=versus))


@pytest.fixture(scope="module")
def client(app):
    return app.server.test_client()


@pytest.fixture(scope="module")
def request_of(client):
    return partial(well_formed, client.get("/_dash-dependencies").get_json())


def well_formed(registered: list[dict], start: str, trigger: str | None = None, **changed) -> dict:
    """Body of a request as the page sends it.

    Args:
        registered: the callbacks, as `/_dash-dependencies` lists them.
        start: of the name of the output.
        trigger: what changed; the first input by default.
        changed: values other than `VALUES`, by id and property.
    """
    entry = next(one for one in registered if one["output"].strip(".").startswith(start))
    values = VALUES | changed

    def fill(one):
        key = f"{one['id']}.{one['property']}"
        return values[key] if one["id"].startswith("{") else {**one, "value": values[key]}

    names = [name.rsplit(".", 1) for name in entry["output"].strip(".").split("...")]
    outputs = [{"id": name, "property": prop.partition("@")[0]} for name, prop in names]
    return {
        "output": entry["output"],
        "outputs": outputs if entry["output"].startswith("..") else outputs[0],
        "inputs": [fill(one) for one in entry["inputs"]],
        "changedPropIds": [trigger or f"{entry['inputs'][0]['id']}.{entry['inputs'][0]['property']}"],
        "state": [fill(one) for one in entry["state"]],
    }


def test_well_formed_callbacks_are_answered(client, request_of):
    body = request_of("code.data", "usage.clickData")
    assert client.post(ADDRESS, json=body).get_json()["response"] == {"code": {"data": 4}}
    body = request_of("code.data", '{"code":3}.n_clicks', **{CODES: tile({"code": 3})})
    assert client.post(ADDRESS, json=body).get_json()["response"] == {"code": {"data": 3}}
    for start, trigger in (
        ("found.children", None),
        ("hover.children", None),
        ("graph.children", None),
        ("details.children", None),
        ("scatter.figure", None),
        ("scatter.figure", "selection.data"),
        ("scatter.figure", "placed.data"),
        ("scatter.figure@", None),
        ("summary.children", None),
        ("csv.data", '{"save":"csv"}.n_clicks'),
        ("members", None),
        ("drawn.children", None),
        ("drawn.children", "drawing.data"),
        ("pairs.children", None),
        ("pairs.children", "errors.clickData"),
    ):
        assert client.post(ADDRESS, json=request_of(start, trigger)).status_code == 200, start


def test_an_address_gives_what_it_names_and_ignores_what_is_wrong(client, request_of):
    def read(search) -> dict:
        response = client.post(ADDRESS, json=request_of("k.value@", **{"address.search": search}))
        return response.get_json()["response"] if response.status_code == 200 else {}

    assert read("?tab=codebook&points=3,7&k=9&select=class+3") == {
        "tab": {"data": "codebook"},
        "picked": {"data": [3, 7]},
        "k": {"value": 9},
        "selection": {"data": "class 3"},
    }
    assert read("?code=5&view=geodesic&colour=volume&metric=Euclidean&from=graph+path").keys() == (
        {"code", "view", "colouring", "metric", "start-from"}
    )
    for search in ("", None, 3, "?tab=x&points=3,3&k=99&code=-1", "?points=1,2,3&select=rainbow&k=" + "9" * 5_000):
        assert read(search) == {}, search


def test_the_script_of_the_page_names_the_parts_of_the_address_in_order():
    from geovq_jax.explorer import address

    script = (Path(address.__file__).parent / "assets" / "explorer.js").read_text()
    assert json.loads(re.search(r"PARTS = (\[.*?\])", script)[1]) == list(address.PARTS)


def test_a_draw_goes_on_until_all_images_are_there(client, request_of):
    response = client.post(ADDRESS, json=request_of("drawn.children")).get_json()["response"]
    assert len(response["drawn"]["children"]) == len(response["drawn-codes"]["data"]) == 25
    assert response["draw-next"]["data"]["done"] == 25
    assert response["progress"]["children"] == "25 of 30 images."
    body = request_of("drawn.children", "drawing.data", **{"drawing.data": response["draw-next"]["data"]})
    response = client.post(ADDRESS, json=body).get_json()["response"]
    assert response["draw-next"]["data"] is None
    assert response["progress"]["children"].startswith("30 images: temperature 1, ")
    body = request_of("drawn.children", **{"draw-temperature.value": None})
    response = client.post(ADDRESS, json=body).get_json()["response"]
    assert response == {"progress": {"children": "Expected temperature from 0 to 4."}}


def wrong_bodies(request_of) -> list[bytes]:
    """Bodies that the page never sends."""
    good = request_of("details.children")
    texts = [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"details.children"',
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"1" * 10_000,
        json.dumps(good).encode()[:-1],
    ]
    without = [
        {name: part for name, part in good.items() if name != missing} for missing in ("output", "outputs", "inputs")
    ]
    parts = [
        good | change
        for change in (
            {"output": "nothing.children"},
            {"output": '{"part":["ALL"]}.className'},
            {"output": None},
            {"output": ["details.children"]},
            {"output": {"id": "details"}},
            {"outputs": None},
            {"outputs": []},
            {"outputs": [good["outputs"]]},
            {"outputs": {"id": "ways", "property": "children"}},
            {"outputs": {"id": "details", "property": "style"}},
            {"inputs": {}},
            {"inputs": []},
            {"inputs": "picked"},
            {"inputs": good["inputs"][::-1]},
            {"inputs": good["inputs"][:2]},
            {"inputs": [*good["inputs"], good["inputs"][0]]},
            {"inputs": [[one] for one in good["inputs"]]},
            {"inputs": [None, None, None]},
            {"inputs": [good["inputs"][0], {"id": "k"}, good["inputs"][2]]},
            {"inputs": [good["inputs"][0], {"property": "value"}, good["inputs"][2]]},
            {"inputs": [good["inputs"][0], {"id": ["k"], "property": "value"}, good["inputs"][2]]},
            {"state": [good["inputs"][0]]},
            {"state": None},
            {"changedPropIds": "picked.data"},
            {"changedPropIds": ["code.data"]},
            {"changedPropIds": [["picked.data"]]},
            {"changedPropIds": {"picked.data": 1}},
        )
    ]
    nan = float("nan")
    values = [
        ("details.children", "picked.data", (None, 3, "3", [[3]], ["3"], [3.0], [True], [120], [-1], [2**70], [nan])),
        ("details.children", "picked.data", ([1, 1], [1, 2, 3], {})),
        ("graph.children", "k.value", ("12", 0, 31, 12.5, float("inf"), nan, 10**400, True, [12], {"k": 12})),
        ("graph.children", "metric.data", (None, 0, "cosine", ["pull-back"], {}, "")),
        ("scatter.figure", "colouring.data", (None, 1, "rainbow", ["class"])),
        ("scatter.figure", "selection.data", (None, 1, "rainbow 3", ["class 3"], "class x", "outline latents 0 0")),
        ("scatter.figure", "selection.data", ("outline latents " + "1 " * 5_000, "outline nowhere 0 0 1 1 0 1")),
        ("scatter.figure", "placed.data", (None, 3, [48], [-1], ["1"], [True], [0] * 100_001)),
        ("scatter.figure@", "view.data", (None, "rainbow", 3, ["latents"])),
        ("scatter.figure@", "start-from.data", (None, "rainbow", 3, ["graph path"])),
        ("summary.children", "selection.data", (None, {}, "rainbow 3", "x" * 10_000)),
        ("csv.data", SAVES, (None, {}, [3], [{"id": {"save": "csv"}, "property": "n_clicks", "value": "1"}])),
        ("hover.children", "hovered.data", ("7", 120, -1, [7], True, 7.5)),
        ("pairs.children", "order.data", (None, "rainbow", ["even"])),
        ("pairs.children", "errors.clickData", ([], {}, click(pointNumber=20), click(pointNumber="7"))),
        ("code.data", "usage.clickData", ([4], bar(None), bar("4"), bar(48), bar([4]))),
        (
            "code.data",
            CODES,
            (None, [], [3], {}, [{"id": {"code": 3}}], tile({"kode": 3}), tile(3), tile({"code": [3]})),
        ),
        ("code.data", CODES, (tile({"code": 99}), tile({"code": "3"}), tile({"code": 3}, "x"), tile({"code": None}))),
        ("members", "code.data", ("2", 48, -1, 2.5, [2], {}, False, 1e308)),
        ("drawn.children", "draw.n_clicks", ("1", -1, 1.5, 2**40, [], True)),
        ("drawn.children", "draw-number.value", ("1", 0, 401, 1.5, nan)),
        ("drawn.children", "draw-temperature.value", ("1", -0.1, 4.1, nan, float("-inf"), [1.0], {}, 1e400)),
        ("drawn.children", "draw-top_p.value", (0.0, 1.1, "x", nan)),
        ("drawn.children", "draw-guidance.value", (-1, 1e9, "x", nan)),
        ("drawn.children", "draw-seed.value", (-1, 2**31, 0.5, "0")),
        ("drawn.children", "label.data", (None, -2, 6, 0.0, "0", [0])),
    ]
    values += [
        ("drawn.children", "drawing.data", (3, {}, [], {"settings": 3, "done": 1}, {"done": 25})),
        ("drawn.children", "drawing.data", tuple(continued(settings, 25) for settings in ([], [-1] * 8, ["x"] * 8))),
        ("drawn.children", "drawing.data", tuple(continued(GOING, done) for done in (0, 60, -1, "1", None, 2.5))),
    ]
    filled = [
        request_of(start, trigger_of(key, value), **{key: value}) for start, key, tried in values for value in tried
    ]
    return texts + [json.dumps(body).encode() for body in (*without, *parts, *filled)]


def continued(settings, done) -> dict:
    return {"settings": settings, "done": done}


def click(**changed) -> dict:
    return {"points": [{"curveNumber": 0, "pointNumber": 7} | changed]}


def bar(code) -> dict:
    return {"points": [{"customdata": code}]}


def tile(component, value=1) -> list:
    return [{"id": component, "property": "n_clicks", "value": value}]


def trigger_of(key: str, value) -> str:
    """What the page names as changed; of a wildcard one component."""
    if key in (CODES, SAVES) and value and isinstance(value, list) and isinstance(value[0], dict):
        return f"{json.dumps(value[0]['id'], separators=(',', ':'))}.n_clicks"
    return key


def test_malformed_callbacks_are_refused_without_a_traceback(client, request_of, capfd):
    bodies = wrong_bodies(request_of)
    assert len(bodies) > 100
    for body in bodies:
        response = client.post(ADDRESS, data=body, content_type="application/json")
        assert response.status_code == 400, body[:300]
    assert (
        client.post(ADDRESS, data=json.dumps(request_of("details.children"))).status_code == 400
    )  # as a form sends it
    written = capfd.readouterr()
    assert written.err == ""
    assert written.out == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8050", "localhost:9000", "LOCALHOST", "[::1]:8050"])
def test_a_loopback_host_is_answered(client, request_of, host):
    assert client.get("/", headers={"Host": host}).status_code == 200
    own = {"Host": host, "Origin": f"http://{host}"}
    assert client.post(ADDRESS, json=request_of("details.children"), headers=own).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8050",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "127.0.0.1:x",
        "10.0.0.1",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/_dash-layout", "/assets/explorer.css", ADDRESS])
def test_a_foreign_host_is_refused(client, request_of, host, path):
    send = client.get if path != ADDRESS else partial(client.post, json=request_of("details.children"))
    assert send(path, headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000", "https://localhost", ""])
def test_a_post_of_another_origin_is_refused(client, request_of, origin):
    assert client.post(ADDRESS, json=request_of("details.children"), headers={"Origin": origin}).status_code == 403


def test_an_oversized_body_is_refused(client, request_of):
    from geovq_jax.explorer.guard import MAX_BODY

    body = json.dumps(request_of("details.children")).encode()
    fits = body + b" " * (MAX_BODY - len(body))
    assert client.post(ADDRESS, data=fits, content_type="application/json").status_code == 200
    response = client.post(ADDRESS, data=fits + b" ", content_type="application/json")
    assert response.status_code == 400
    assert "at most 1048576 bytes" in response.get_data(as_text=True)


@pytest.mark.parametrize(
    "path", ["/_dash-component-suites/os/path.js", "/_dash-component-suites/dash/no.js", "/assets/no"]
)
def test_an_unknown_file_is_not_found(client, path, capfd):
    assert client.get(path).status_code == 404
    assert capfd.readouterr().err == ""


def test_a_name_is_text_and_every_script_of_the_page_has_a_hash(client):
    response = client.get("/")
    page, policy = response.get_data(as_text=True), response.headers["Content-Security-Policy"]
    assert "document.title = &#x27;owned&#x27;&lt;/script&gt;&#123;%scripts%}</title>" in page
    scripts = re.findall(
        r"<script(?![^>]*(?:src=|application/json))[^>]*>(.*?)</script>", page.split("<footer>")[1], re.DOTALL
    )
    assert len(scripts) == 1
    allowed = policy.split(";")[0].split()
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in allowed
    assert "'unsafe-inline'" not in allowed
    assert allowed[0] == "script-src"


@pytest.mark.slow
def test_memory_stays_flat_over_several_hundred_callbacks():
    """60,000 points, each request in a thread of its own, two at a time, as the server does."""
    from geovq_jax.explorer.app import build_app
    from geovq_jax.explorer.demo import demo_space

    client = build_app(demo_space(num_points=60_000)).server.test_client
    registered = client().get("/_dash-dependencies").get_json()
    rng, post = random.Random(0), lambda body: client().post(ADDRESS, json=body).status_code
    starts = ("graph.children", "details.children", "scatter.figure", "scatter.figure@", "members", "drawn.children")

    def request(start: str) -> dict:
        changed = {
            "picked.data": rng.sample(range(60_000), 2),
            "colouring.data": rng.choice(["class", "code", "distance", "volume"]),
            "view.data": rng.choice(["latents", "geodesic"]),
            "k.value": rng.randint(1, 30),
            "metric.data": rng.choice(["pull-back", "Euclidean"]),
            "selection.data": f"class {rng.randrange(6)}",
            "code.data": rng.randrange(48),
            "draw-seed.value": rng.randint(1, 1000),
            "draw-temperature.value": rng.uniform(0.0, 2.0),
        }
        return well_formed(registered, start, "colouring.data" if start == "scatter.figure" else None, **changed)

    def answer(bodies: list[dict]) -> None:
        statuses = []
        threads = [Thread(target=lambda body=body: statuses.append(post(body))) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * len(bodies)

    for start in starts:
        answer([request(start)])
    before = resident()
    for _ in range(150):
        answer([request(rng.choice(starts)) for _ in range(2)])
    assert resident() < before + 150


@pytest.fixture(scope="module", params=["spatial", "vanilla"])
def encoded(request, tmp_path_factory):
    """Work directory of a small trained VAE, and its configuration."""
    from geovq_jax import pipeline
    from geovq_jax.config import experiment
    from geovq_jax.presets import SMOKE

    workdir = tmp_path_factory.mktemp("run")
    small = {"data.name": "digits", "vae.kind": request.param, "vae.channels": (8, 16), "codebook.finetune_steps": 2}
    config = experiment("digits", SMOKE | small)
    pipeline.entry("vae", "latents")(workdir, config)
    return workdir, config


@pytest.mark.slow
@pytest.mark.parametrize("method", [*METHODS, "geodesic along the graph"])
def test_codes_of_every_method_are_shown(encoded, method):
    from geovq_jax import load_run, pipeline
    from geovq_jax.explorer.app import build_app
    from geovq_jax.explorer.drawing import colourings
    from geovq_jax.explorer.runs import run_space

    workdir, config = encoded
    if config.vae.kind == "spatial" and method in OF_VECTORS:
        pytest.skip("of vectors only")
    config.codebook.method, _, graph = method.partition(" ")
    config.codebook.distance = "graph" if graph else "geodesic"
    pipeline.entry("metrics", "graph", "codebook", "decoder", "codes")(workdir, config)
    space = run_space(load_run(workdir))
    client = build_app(space).server.test_client()
    registered = client.get("/_dash-dependencies").get_json()

    def post(start: str, trigger: str | None = None, **changed) -> str:
        body = well_formed(registered, start, trigger, **{"view.data": space.views[0].name, "k.value": 6}, **changed)
        response = client.post(ADDRESS, json=body)
        assert response.status_code == 200, (start, response.get_data(as_text=True))
        return response.get_data(as_text=True)

    assert client.get("/_dash-layout").get_data(as_text=True).count("points in the cell") == 1
    for colouring in colourings(space):
        post("scatter.figure", "colouring.data", **{"colouring.data": colouring})
    code = int(space.codes[3])
    assert f"code {code}" in post("hover.children", **{"hovered.data": 3})
    assert f"its code {code}" in post("details.children")
    assert "continuous" in post("scatter.figure@", **{"picked.data": [3, 90]})
    assert f"Code {code}: {(space.codes == code).sum()}" in post("members", **{"code.data": code})
    assert f"Code {code}: {(space.codes == code).sum()}" in post("summary", **{"selection.data": f"code {code}"})


def resident() -> float:
    """Memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
