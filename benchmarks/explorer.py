"""Seconds of the explorer in a headless browser: first paint, a click, an outline of a third of the points.

    python benchmarks/explorer.py [NUM_POINTS]

The built-in toy with 60,000 points by default; chromium on the PATH, and the extras `explore` and `test`. Beside wall
seconds stand CPU seconds of server and browser together, which say more on a machine with other work. Linux only.
"""

import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from playwright.sync_api import Page, sync_playwright
from werkzeug.serving import make_server

from geovq_jax.explorer.app import HOST, build_app
from geovq_jax.explorer.demo import demo_space
from geovq_jax.explorer.drawing import markers
from geovq_jax.explorer.space import first_k, graphs_of, metrics_of, nearest

ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
TO_PIXELS = """node => {
  const plot = document.querySelector('#scatter .js-plotly-plot'), box = plot.getBoundingClientRect();
  const {xaxis, yaxis} = plot._fullLayout, points = plot._fullData[0];
  return [box.x + xaxis._offset + xaxis.l2p(points.x[node]), box.y + yaxis._offset + yaxis.l2p(points.y[node])];
}"""

# Corners in pixels of a box that holds a third of the disc of radius 1.
INNER_BOX = """() => {
  const plot = document.querySelector('#scatter .js-plotly-plot'), box = plot.getBoundingClientRect();
  const {xaxis, yaxis} = plot._fullLayout, x = v => box.x + xaxis._offset + xaxis.l2p(v);
  const y = v => box.y + yaxis._offset + yaxis.l2p(v);
  return [x(-0.51), y(0.51), x(0.51), y(-0.51)];
}"""
TICKS = os.sysconf("SC_CLK_TCK")
CHOSEN = "() => document.querySelector('#scatter .js-plotly-plot').data[0].selectedpoints?.length"
FRAME = "() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))"


class Cost(NamedTuple):
    """Wall seconds, and CPU seconds of this process and of all below it, which are the server's and the browser's."""

    wall: float
    cpu: float


def cost_of(action: Callable[[], None]) -> Cost:
    """What an action takes."""
    wall, cpu = time.monotonic(), cpu_seconds()
    action()
    return Cost(time.monotonic() - wall, cpu_seconds() - cpu)


def cpu_seconds() -> float:
    """CPU seconds until now of this process and of the living ones below it."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents[int(path.parent.name)], ticks[int(path.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])

    def ours(process: int) -> bool:
        return process == os.getpid() or (process in parents and ours(parents[process]))

    return sum(count for process, count in ticks.items() if ours(process)) / TICKS


def main(num_points: int) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    space = demo_space(num_points=num_points)
    print(f"{num_points:,} points ready after {time.process_time():.1f} CPU s")
    graphs = graphs_of(space)
    for node in (5, num_points // 2):
        graphs.graph(first_k(space), metrics_of(space)[0])
        start = time.process_time()
        reach = graphs.reach(first_k(space), metrics_of(space)[0], node)
        space.picture(nearest(reach, 13))
        json.dumps(markers(space, "distance", reach))
        print(f"answer to a click, server's part: {time.process_time() - start:.2f} CPU s")
    server = make_server(HOST, 0, build_app(space).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        page.set_default_timeout(120_000)
        _say("first paint", [cost_of(lambda: _open(page, f"http://{HOST}:{server.server_port}/"))], 4.0)
        page.wait_for_selector("#graph:has-text('k = 12')")
        time.sleep(3)
        nodes = np.random.default_rng(0).integers(num_points, size=10).tolist()
        _say("click", [_click(page, node) for node in nodes], 1.0)
        page.locator("#scatter .modebar-btn[data-title='Box Select']").click()
        time.sleep(2)
        costs = [_outline(page) for _ in range(5)]
        _say(f"box around {page.inner_text('#summary h2')}", costs, 1.5)
        browser.close()
    server.shutdown()


def _say(name: str, costs: list[Cost], limit: float) -> None:
    wall, cpu = np.median(costs, axis=0)
    longest = max(cost.wall for cost in costs)
    print(f"{name}: {wall:.2f} s (longest {longest:.2f}, at most {limit:g}), {cpu:.2f} CPU s")


def _open(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_function("() => document.querySelector('#scatter .js-plotly-plot')?._fullData?.[0]?.x.length")
    page.evaluate(FRAME)


def _click(page: Page, node: int) -> Cost:
    """Cost until the image and the neighbours of a point are there, and the plot is drawn anew."""
    page.locator("#clear").click()
    page.wait_for_selector("#details h2", state="detached")
    time.sleep(0.5)
    place = page.evaluate(TO_PIXELS, node)

    def click() -> None:
        page.mouse.click(*place)
        page.wait_for_selector("#details h2")
        page.wait_for_function("() => [...document.images].every(image => image.complete)")
        page.evaluate(FRAME)

    return cost_of(click)


def _outline(page: Page) -> Cost:
    """Cost until the summary of a third of the points is there, and the others are dimmed."""
    page.locator("#clear").click()
    page.wait_for_selector("#summary h2", state="detached")
    time.sleep(0.5)
    box = page.evaluate(INNER_BOX)
    page.mouse.move(box[0], box[1])
    page.mouse.down()
    page.mouse.move(box[2], box[3], steps=3)

    def release() -> None:
        page.mouse.up()
        page.wait_for_selector("#summary h2")
        page.wait_for_function(
            "() => document.querySelector('#scatter .js-plotly-plot').data[0].selectedpoints?.length"
        )
        page.evaluate(FRAME)

    return cost_of(release)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60_000)
