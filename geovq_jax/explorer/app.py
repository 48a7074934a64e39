"""The explorer as a Dash application, in a browser or inline in a notebook; listens on 127.0.0.1 only."""

import contextlib
import ctypes
import html
from pathlib import Path
from typing import Any

from geovq_jax.explorer.space import Space, build_graph, curves_between, metrics_of, reach_from

HOST = "127.0.0.1"
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def build_app(space: Space) -> Any:
    """Build a Dash application that shows a space; its `server` is a WSGI application.

    Args:
        space: the space to show.

    Returns:
        The application, which does not serve yet.

    Raises:
        ValueError: Dash is not installed.
    """
    try:
        from dash import Dash
    except ImportError as error:
        raise ValueError("expected Dash for the explorer, got none; pip install 'geovq-jax[explore]'") from error
    from geovq_jax.explorer.callbacks import connect
    from geovq_jax.explorer.guard import guard
    from geovq_jax.explorer.layout import page

    # Dash inserts the title into its template unescaped and then searches it for placeholders {%...%}.
    title = html.escape(space.name).replace("{", "&#123;")
    app = Dash(__name__, title=title, serve_locally=True, update_title="", assets_folder="assets")
    app.index_string = app.index_string.replace("<html>", '<html lang="en">')
    app.layout = page(space)
    connect(app, space)
    guard(app)
    # Requests run in threads, glibc gives threads several heaps, and each heap keeps its largest size: 600 MB more with
    # 60,000 points. Memory outside the heaps is returned to the system. Other C libraries have no mallopt.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    return app


def load_space(workdir: str | Path | None, other: str | Path | None = None) -> Space:
    """Load the space of a finished run, or the built-in one, and compile what a click needs.

    Args:
        workdir: work directory; None for the built-in toy.
        other: work directory of a run on the same images to compare with.

    Returns:
        The space.

    Raises:
        FileNotFoundError: the run lacks a stage.
        ValueError: a file of the run is damaged, or the runs have different test images.
    """
    if workdir is None:
        from geovq_jax.explorer.demo import demo_space

        space = demo_space()
    else:
        from geovq_jax.explorer.runs import compare_runs, run_space
        from geovq_jax.stages.run import load_run

        run = load_run(workdir)
        space = run_space(run)
        if other is not None:
            space = space._replace(versus=compare_runs(run, load_run(other)))
    curves_between(space, reach_from(build_graph(space, 1, metrics_of(space)[-1]), 0), len(space.points) - 1)
    return space


def show(
    workdir: str | Path | None = None, other: str | Path | None = None, *, port: int = 8050, height: int = 900
) -> None:
    """Show a run in a notebook cell.

    Args:
        workdir: work directory of a finished run; None for the built-in toy.
        other: work directory of a run on the same images to compare with.
        port: port of the server.
        height: height of the cell in pixels.

    Raises:
        FileNotFoundError: the run lacks a stage.
        ValueError: Dash is missing, or a file of the run is damaged.
    """
    build_app(load_space(workdir, other)).run(
        host=HOST, port=port, debug=False, jupyter_mode="inline", jupyter_height=height
    )
