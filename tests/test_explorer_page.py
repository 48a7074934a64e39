"""The explorer and the report in a headless browser: pages load, clicks answer, and nothing is asked of another place.

The slow ones walk through the toy and through runs: those of $GEOVQ_RUN, paths with a colon between them, where it is
set, else a small spatial and a small vanilla one made here.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

BROWSER = os.environ.get("GEOVQ_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytest.importorskip("dash", reason="the extra explore is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")
if BROWSER is None:
    pytest.skip("no chromium on this machine", allow_module_level=True)

ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
TO_PIXELS = """node => {
  const plot = document.querySelector('#scatter .js-plotly-plot'), box = plot.getBoundingClientRect();
  const {xaxis, yaxis} = plot._fullLayout, points = plot._fullData[0];
  return [box.x + xaxis._offset + xaxis.l2p(points.x[node]), box.y + yaxis._offset + yaxis.l2p(points.y[node])];
}"""
HOSTILE = "</title><script>window.owned = true</script><img src=x onerror='window.owned = true'>"
INJECT = """() => {
  const script = document.createElement('script');
  script.textContent = 'window.owned = true';
  document.head.append(script);
}"""
PLOTS = """() => [...document.querySelectorAll('.js-plotly-plot')].map(plot => [
  plot._context.showSendToCloud, plot._context.plotlyServerURL,
  [...plot.querySelectorAll('.modebar-btn')].map(button => button.dataset.title)])"""
TRACE_LENGTHS = "() => document.querySelector('#scatter .js-plotly-plot').data.map(trace => trace.x.length)"


def installed_axe() -> Path | None:
    """axe-core as npm installs it: $GEOVQ_AXE, or the global folder of npm; None where there is none."""
    if "GEOVQ_AXE" in os.environ:
        return Path(os.environ["GEOVQ_AXE"])
    if shutil.which("npm") is None:
        return None
    root = subprocess.run(["npm", "root", "--global"], capture_output=True, text=True, check=False).stdout.strip()
    path = Path(root) / "axe-core" / "axe.min.js"
    return path if path.is_file() else None


AXE = installed_axe()


@contextmanager
def served(space):
    from werkzeug.serving import make_server

    from geovq_jax.explorer.app import HOST, build_app

    server = make_server(HOST, 0, build_app(space).server, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://{HOST}:{server.server_port}/"
    server.shutdown()
    thread.join()


GIVEN = os.environ["GEOVQ_RUN"].split(os.pathsep) if "GEOVQ_RUN" in os.environ else []


@pytest.fixture(scope="module", params=GIVEN or ["smoke", "vanilla,smoke"])
def run(request, tmp_path_factory) -> Path:
    if GIVEN:
        return Path(request.param)
    workdir = tmp_path_factory.mktemp("run") / "digits"
    flags = [f"--config=configs/digits.py:{request.param}", f"--config.name={HOSTILE}", f"--workdir={workdir}"]
    command = [sys.executable, "-m", "geovq_jax.run", *flags]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True)
    return workdir


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.requested, page.complaints = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.set_default_timeout(60_000)
    yield page
    page.close()


def click(page, node: int) -> None:
    where = page.evaluate(TO_PIXELS, node)
    page.mouse.move(*where)
    page.wait_for_timeout(200)  # a plot takes a click for the point under it when the mouse last moved
    page.mouse.click(*where)


@pytest.mark.slow
def test_the_toy_from_first_sight_to_samples(page):
    from geovq_jax.explorer.demo import demo_space

    space = demo_space(num_points=300)._replace(name=HOSTILE)
    with served(space) as address:
        walk(page, address, space, (7, 140))
        assert page.title() == HOSTILE
        assert page.inner_text("h1") == HOSTILE
        page.evaluate(INJECT)
        assert page.evaluate("() => window.owned") is None
        assert "Content Security Policy" in page.complaints.pop()


@pytest.mark.slow
def test_a_run_from_first_sight_to_samples(page, run):
    from geovq_jax.explorer.app import load_space

    space = load_space(run, run)  # compared with itself
    with served(space) as address:
        walk(page, address, space, apart(space.views[0].points))
        assert space.name in page.title()
        assert page.evaluate("() => window.owned") is None


@pytest.mark.slow
@pytest.mark.skipif(AXE is None, reason="axe-core is not installed; npm install --global axe-core")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1366, 768), (390, 844)])
def test_no_part_of_the_page_has_a_serious_violation(page, scheme, size):
    from geovq_jax.explorer.demo import demo_space

    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": size[0], "height": size[1]})
    with served(demo_space(num_points=300)) as address:
        page.goto(address)
        ready(page, 300)
        for name in (None, "codebook", "prior"):
            if name is not None:
                press(page, name)
            check_accessibility(page)
            assert page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def apart(points) -> tuple[int, int]:
    """Two points far from each other, each of which the page does not draw under others."""
    alone = np.argsort(-cKDTree(points).query(points, k=2)[0][:, 1])[:60]
    gaps = np.linalg.norm(points[alone][:, None] - points[alone][None], axis=2)
    first, second = np.unravel_index(gaps.argmax(), gaps.shape)
    return int(alone[first]), int(alone[second])


def ready(page, count: int) -> None:
    page.wait_for_function(
        f"() => document.querySelector('#scatter .js-plotly-plot')?._fullData?.[0]?.x.length === {count}"
    )
    page.wait_for_selector("#graph:has-text('k =')")


def press(page, name: str) -> None:
    """A button by its name, from the keyboard."""
    page.get_by_role("button", name=name, exact=True).press("Enter")


def search_for(page, text: str) -> None:
    page.fill("#find", text)
    page.press("#find", "Enter")


def check_accessibility(page) -> None:
    """No violation that axe-core calls serious or critical; nothing is checked where axe-core is not installed."""
    if AXE is not None:
        page.evaluate(AXE.read_text())
        found = page.evaluate("async () => (await axe.run(document)).violations")
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert not serious, [(one["id"], [node["html"] for node in one["nodes"]]) for one in serious]


def walk(page, address: str, space, picked: tuple[int, int]) -> None:
    page.goto(address)
    ready(page, len(space.points))
    assert page.get_attribute("html", "lang") == "en"
    box = page.locator("#scatter").bounding_box()
    assert box["y"] + box["height"] <= page.viewport_size["height"]  # the map is whole
    check_accessibility(page)
    walk_points(page, space, picked)
    walk_selections(page, space)
    walk_settings(page)
    walk_codebook(page)
    if space.draw is not None:
        walk_prior(page, space)
    if space.versus is not None:
        press(page, "compare")
        assert page.locator("#pairs .pair:not(.head)").count() == 12
        before = page.locator("#pairs").inner_html()
        press(page, "worst for both")  # another order even where both runs are one
        page.wait_for_function("before => document.querySelector('#pairs').innerHTML !== before", arg=before)
        check_accessibility(page)
    for shares, server, buttons in page.evaluate(PLOTS):
        assert not shares
        assert server == ""
        assert {"Reset axes", "Lasso Select", "Box Select"} <= set(buttons)
        assert not [button for button in buttons if "share" in button.lower() or "cloud" in button.lower()]
    assert all(url.startswith((address, "data:", "blob:")) for url in page.requested), page.requested
    assert page.complaints == []


def walk_points(page, space, picked: tuple[int, int]) -> None:
    from geovq_jax.explorer.space import class_title

    page.mouse.move(*page.evaluate(TO_PIXELS, picked[0]))
    page.wait_for_selector(".hover img")
    name = class_title(space, int(space.labels[picked[0]]))
    assert page.inner_text(".hover figcaption") == f"{name}, code {space.codes[picked[0]]}"

    click(page, picked[0])
    page.wait_for_timeout(100)
    click(page, picked[1])  # while the plot is drawn anew
    page.wait_for_selector("#curves .curve >> nth=2")
    page.wait_for_selector(f"#details h2:has-text('Point {picked[0]},')")
    assert page.locator("#picked-image img").count() == 2
    assert page.locator("#neighbours img").count() == 12
    assert page.evaluate("() => [...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.locator("#curves .curve b").all_inner_texts() == ["straight", "graph", "continuous"]
    page.wait_for_function(f"() => ({TRACE_LENGTHS})().slice(1, 4).every(length => length > 1)")
    lengths = [float(text.split()[1]) for text in page.locator("#curves .curve span").all_inner_texts()]
    assert lengths[2] <= min(lengths[:2]) * 1.001
    page.locator("#curves summary").press("Enter")
    assert "upper bound" in page.inner_text("#curves details")
    press(page, "graph path")
    page.wait_for_function("() => location.search.includes('from=graph')")

    address = page.url  # of the view, to be loaded again
    assert f"points={picked[0]}%2C{picked[1]}" in address
    page.goto(address)
    ready(page, len(space.points))
    page.wait_for_selector("#curves .curve >> nth=2")
    press(page, "clear")
    page.wait_for_selector("#curves .curve", state="detached")


def walk_selections(page, space) -> None:
    page.locator("#scatter .modebar-btn[data-title='Lasso Select']").click()
    page.wait_for_function("() => document.querySelector('#scatter .js-plotly-plot')._fullLayout.dragmode === 'lasso'")
    area = page.locator("#scatter .nsewdrag").bounding_box()
    corners = [(0.3, 0.3), (0.7, 0.3), (0.7, 0.7), (0.3, 0.7), (0.3, 0.32)]
    places = [(area["x"] + x * area["width"], area["y"] + y * area["height"]) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()
    page.wait_for_selector("#summary h2:has-text('Outlined')")
    count = int(page.inner_text("#summary h2").split(":")[1].split()[0].replace(",", ""))
    assert 0 < count < len(space.points)
    chosen = "() => document.querySelector('#scatter .js-plotly-plot').data[0].selectedpoints?.length"
    page.wait_for_function(f"() => ({chosen})() === {count}")
    assert page.locator("#summary .counts tr").count() <= len(space.class_names)
    check_accessibility(page)
    with page.expect_download() as download:
        press(page, "save ids as CSV")
    assert len(Path(download.value.path()).read_text().splitlines()) == count + 1

    search_for(page, space.class_names[1])
    count = (space.labels == 1).sum()
    page.wait_for_selector(f"#summary h2:has-text('Class {space.class_names[1]}: {count:,} points')")
    search_for(page, "rainbow")
    page.wait_for_selector("#found:has-text('Expected point 12')")
    press(page, "clear")
    page.wait_for_selector("#summary h2", state="detached")
    search_for(page, "point 7")
    page.wait_for_selector("#details h2:has-text('Point 7,')")


def walk_settings(page) -> None:
    before = page.inner_text("#graph")
    page.locator("#k").press("ArrowUp")
    page.locator("#k").press("Enter")
    page.wait_for_selector("#graph:has-text('k = 13')")
    assert before.split(":")[1] != page.inner_text("#graph").split(":")[1]
    press(page, "distance")
    page.wait_for_function(
        "() => document.querySelector('#scatter .js-plotly-plot').data[0].marker.colorbar?.title.text"
        " === 'geodesic distance'"
    )
    press(page, "geodesic")
    page.wait_for_function(
        "() => document.querySelector('#scatter .js-plotly-plot')._fullLayout.xaxis.title.text.startsWith('geodesic')"
    )


def walk_codebook(page) -> None:
    press(page, "codebook")
    page.wait_for_selector(".tile")  # hidden until then, where no key reaches it
    page.locator(".tile").first.press("Enter")
    page.wait_for_selector("#members figure")
    check_accessibility(page)
    press(page, "show on the map")
    page.wait_for_selector("#summary h2:has-text('Code')")


def walk_prior(page, space) -> None:
    press(page, "prior")
    assert float(page.input_value("#draw-temperature")) == space.sampling.temperature
    page.fill("#draw-number", "30")
    page.press("#draw-number", "Enter")
    press(page, "draw")
    page.wait_for_selector("#progress:has-text('30 images: temperature')")
    assert page.locator("#drawn figure").count() == 30
    check_accessibility(page)
    press(page, "place on the map")
    page.wait_for_function(f"() => ({TRACE_LENGTHS})()[5] > 0")


@pytest.mark.slow
def test_the_report_of_a_run_shows_every_figure_and_asks_for_nothing(page, run):
    path = (run / "report" / "index.html").absolute()
    page.goto(path.as_uri())
    assert json.loads((run / "config.json").read_text())["config"]["name"] in page.inner_text("h1")
    assert page.evaluate("() => window.owned") is None
    assert page.evaluate("() => [...document.images].every(image => !image.src || image.naturalWidth > 0)")
    names = page.evaluate("() => [...document.querySelectorAll('figure:has(> button)')].map(figure => figure.id)")
    assert sorted(names) == sorted(file.stem for file in (run / "report" / "figures").glob("*.png"))
    assert {"elbow", "rate-distortion", "code-usage", "latents-by-code", "interpolation", "code-atlas"} <= set(names)
    linked = page.evaluate("() => [...document.querySelectorAll('.findings a')].map(link => link.hash.slice(1))")
    assert 5 <= len(linked) <= 8
    assert page.evaluate("ids => ids.every(id => document.getElementById(id))", linked)
    tile = page.locator(".tile").first
    tile.hover()
    assert tile.locator("> div").is_visible()  # the nearest training image
    cut = "() => [...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth).length"
    assert page.evaluate(cut) == 0  # tables fit at 1366 px
    assert page.locator("nav").bounding_box()["height"] < 60  # on one line
    check_accessibility(page)
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("() => document.querySelector('.scroll[tabindex=\"0\"]')")
    check_accessibility(page)
    links = page.evaluate("() => [...document.querySelectorAll('.links a')].map(link => link.getAttribute('href'))")
    assert links
    assert all((path.parent / link).exists() for link in links)
    assert page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert all(url.startswith(("data:", path.as_uri())) for url in page.requested), page.requested
    assert page.complaints == []
