"""The explorer and the report in a headless browser: pages load, clicks answer, and nothing is asked of another place.

The slow ones walk through the toy and through a run: $GEOVQ_RUN where it is set, else a small one made here.
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


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    if "GEOVQ_RUN" in os.environ:
        return Path(os.environ["GEOVQ_RUN"])
    workdir = tmp_path_factory.mktemp("run") / "digits"
    flags = ["--config=configs/digits.py:smoke", f"--config.name={HOSTILE}", f"--workdir={workdir}"]
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
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.requested, page.complaints = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.set_default_timeout(60_000)
    yield page
    page.close()


def click(page, node: int) -> None:
    page.mouse.click(*page.evaluate(TO_PIXELS, node))


@pytest.mark.slow
def test_the_toy_from_first_sight_to_samples(page):
    from geovq_jax.explorer.demo import demo_space

    with served(demo_space(num_points=300)._replace(name=HOSTILE)) as address:
        walk(page, address, 300, (7, 140))
        assert page.title() == HOSTILE
        assert page.inner_text("h1") == HOSTILE
        page.evaluate(INJECT)
        assert page.evaluate("() => window.owned") is None
        assert "Content Security Policy" in page.complaints.pop()


@pytest.mark.slow
def test_a_run_from_first_sight_to_samples(page, run):
    from geovq_jax.explorer.app import load_space

    space = load_space(run)
    with served(space) as address:
        walk(page, address, len(space.points), apart(space.views[0].points))
        assert space.name in page.title()
        assert page.evaluate("() => window.owned") is None


def apart(points) -> tuple[int, int]:
    """Two points far from each other, each of which the page does not draw under others."""
    alone = np.argsort(-cKDTree(points).query(points, k=2)[0][:, 1])[:60]
    gaps = np.linalg.norm(points[alone][:, None] - points[alone][None], axis=2)
    first, second = np.unravel_index(gaps.argmax(), gaps.shape)
    return int(alone[first]), int(alone[second])


def walk(page, address: str, count: int, picked: tuple[int, int]) -> None:
    page.goto(address)
    page.wait_for_function(
        f"() => document.querySelector('#scatter .js-plotly-plot')?._fullData?.[0]?.x.length === {count}"
    )
    page.wait_for_selector("#graph:has-text('k = 12')")

    click(page, picked[0])
    page.wait_for_selector(f"#details h2:has-text('Point {picked[0]}')")
    assert page.locator("#picked-image img").count() == 2
    assert page.locator("#neighbours img").count() == 12
    assert page.evaluate("() => [...document.images].every(image => image.complete && image.naturalWidth > 0)")

    page.wait_for_function(f"() => ({TRACE_LENGTHS})()[4] === 1")
    page.wait_for_timeout(1_000)  # a click while the plot is drawn anew is lost
    click(page, picked[1])
    page.wait_for_selector("#ways .way >> nth=2")
    assert page.locator("#ways .way b").all_inner_texts() == ["straight", "graph", "continuous"]
    page.wait_for_function(f"() => ({TRACE_LENGTHS})().slice(1, 4).every(length => length > 1)")
    lengths = [float(text.split()[1]) for text in page.locator("#ways .way span").all_inner_texts()]
    assert lengths[2] <= min(lengths[:2]) * 1.001

    before = page.inner_text("#graph")
    page.locator("#k .dash-slider-thumb, #k [role=slider]").first.press("ArrowRight")
    page.wait_for_selector("#graph:has-text('k = 13')")
    assert before.split(":")[1] != page.inner_text("#graph").split(":")[1]

    page.get_by_role("radio", name="distance", exact=True).check()
    page.wait_for_function(
        "() => document.querySelector('#scatter .js-plotly-plot').data[0].marker.colorbar?.title.text"
        " === 'geodesic distance'"
    )

    page.get_by_role("radio", name="geodesic", exact=True).check()
    page.wait_for_function(
        "() => document.querySelector('#scatter .js-plotly-plot')._fullLayout.xaxis.title.text.startsWith('geodesic')"
    )
    page.wait_for_function(f"() => ({TRACE_LENGTHS})().slice(1, 4).every(length => length > 1)")

    page.locator("#open-codebook").click()
    page.locator(".tile").first.click()
    page.wait_for_selector("#members figure")

    for shares, server, buttons in page.evaluate(PLOTS):
        assert not shares
        assert server == ""
        assert "Reset axes" in buttons
        assert not [button for button in buttons if "share" in button.lower() or "cloud" in button.lower()]

    page.locator("#open-prior").click()
    page.get_by_role("button", name="draw").click()
    page.wait_for_selector("#drawn figure >> nth=39")

    assert all(url.startswith((address, "data:", "blob:")) for url in page.requested), page.requested
    assert page.complaints == []


def test_the_report_page_asks_for_nothing(page, tmp_path):
    from geovq_jax import figures
    from geovq_jax.report.page import ReportFigure, Section, write_report

    picture = figures.image_grid(np.zeros((1, 3, 8, 8, 1)), ["nothing"])
    section = Section("Part", "Text.", figures=[ReportFigure("A figure", picture, "one", {"value": 1.0})])
    path: Path = write_report(tmp_path / "index.html", title="Report", subtitle="of nothing", sections=[section])
    page.goto(path.as_uri())
    page.get_by_role("button", name="Enlarge: A figure").click()
    assert page.locator("dialog img").is_visible()
    assert page.evaluate("() => [...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert all(url.startswith(("data:", path.as_uri())) for url in page.requested)
    assert page.complaints == []


@pytest.mark.slow
def test_the_report_of_a_run_shows_every_figure_and_asks_for_nothing(page, run):
    path = (run / "report" / "index.html").absolute()
    page.goto(path.as_uri())
    assert json.loads((run / "config.json").read_text())["config"]["name"] in page.inner_text("h1")
    assert page.evaluate("() => window.owned") is None
    assert page.evaluate("() => [...document.images].every(image => !image.src || image.naturalWidth > 0)")
    names = page.evaluate("() => [...document.querySelectorAll('figure')].map(figure => figure.id)")
    assert sorted(names) == sorted(file.stem for file in (run / "report" / "figures").glob("*.png"))
    assert {"elbow", "rate-distortion", "entropy-psnr", "latents-by-class", "interpolation", "code-atlas"} <= set(names)
    links = page.evaluate("() => [...document.querySelectorAll('.links a')].map(link => link.getAttribute('href'))")
    assert links
    assert all((path.parent / link).exists() for link in links)
    assert page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert all(url.startswith(("data:", path.as_uri())) for url in page.requested), page.requested
    assert page.complaints == []
