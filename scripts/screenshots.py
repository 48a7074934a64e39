"""Pictures of a run's report and of the explorer for docs/images, by a headless browser.

    python scripts/screenshots.py runs/mnist5k

Needs chromium on the PATH and the extras `explore` and `test`.
"""

import io
import logging
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from scipy.spatial import cKDTree
from werkzeug.serving import make_server

from geovq_jax.explorer.app import HOST, build_app, load_space
from geovq_jax.explorer.space import Space

IMAGES = Path(__file__).parents[1] / "docs" / "images"
MOST_BYTES = 250_000  # of a picture; 256 colours serve where it would be more
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
TO_PIXELS = """node => {
  const plot = document.querySelector('#scatter .js-plotly-plot'), box = plot.getBoundingClientRect();
  const {xaxis, yaxis} = plot._fullLayout, points = plot._fullData[0];
  return [box.x + xaxis._offset + xaxis.l2p(points.x[node]), box.y + yaxis._offset + yaxis.l2p(points.y[node])];
}"""


def shoot(page: Page, name: str) -> None:
    page.wait_for_function("() => [...document.images].every(image => !image.src || image.complete)")
    page.wait_for_timeout(1500)
    page.evaluate("() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    picture = page.screenshot()
    if len(picture) > MOST_BYTES:
        few = Image.open(io.BytesIO(picture)).convert("RGB").quantize(256)
        few.save(IMAGES / f"{name}.png", optimize=True)
    else:
        (IMAGES / f"{name}.png").write_bytes(picture)
    print(IMAGES / f"{name}.png")


def two_points(space: Space) -> tuple[int, int]:
    """Two points far from each other that no other point covers on the map, where a step changes the image much."""
    where = space.views[0].points
    alone = cKDTree(where).query(where, k=2)[0][:, 1]
    if space.log_volume is not None:
        alone = np.where(space.log_volume > np.median(space.log_volume), alone, 0.0)
    shown = np.argsort(-alone)[:60]
    gaps = np.linalg.norm(where[shown][:, None] - where[shown][None], axis=2)
    first, second = np.unravel_index(gaps.argmax(), gaps.shape)
    return int(shown[first]), int(shown[second])


def explorer(page: Page, address: str, picked: tuple[int, int]) -> None:
    page.goto(address)
    page.wait_for_selector("#graph:has-text('k =')")
    page.wait_for_function("() => document.querySelector('#scatter .js-plotly-plot')?._fullData?.[0]?.x.length")
    page.wait_for_timeout(2000)
    for node in picked:
        page.mouse.click(*page.evaluate(TO_PIXELS, node))
        page.wait_for_selector(f"#details h2:has-text('Point {picked[0]},')")
        page.wait_for_timeout(1000)
    page.wait_for_selector("#curves .curve >> nth=2")
    page.get_by_role("button", name="distance", exact=True).click()
    shoot(page, "explorer")
    page.get_by_role("button", name="codebook").click()
    page.locator(".tile").nth(9).click()
    page.wait_for_selector("#members figure")
    shoot(page, "explorer_codebook")


def main(workdir: Path) -> None:
    shutil.copy(workdir / "report" / "figures" / "reconstructions.png", IMAGES)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    space = load_space(workdir)
    server = make_server(HOST, 0, build_app(space).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1366, "height": 900})
        page.set_default_timeout(120_000)
        explorer(page, f"http://{HOST}:{server.server_port}/", two_points(space))
        page = browser.new_page(viewport={"width": 1366, "height": 1024})
        page.goto((workdir / "report" / "index.html").absolute().as_uri())
        shoot(page, "report")
        page.evaluate("() => document.querySelector('section:has(#elbow)').scrollIntoView({behavior: 'instant'})")
        shoot(page, "report_codes")
        page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark", reduced_motion="reduce")
        page.goto((workdir / "report" / "index.html").absolute().as_uri())
        page.locator("figure#samples").scroll_into_view_if_needed()
        shoot(page, "report_phone")
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/mnist5k"))
