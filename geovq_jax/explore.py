"""Show a run on a local page: its latent space, its codebook, its prior.

    python -m geovq_jax.explore --workdir=runs/mnist5k
    python -m geovq_jax.explore --demo

The page is served on 127.0.0.1 alone and asks nothing of any other place. --demo needs no run.
"""

import logging
from pathlib import Path

from absl import flags

from geovq_jax import cli
from geovq_jax.terminal import console

_PORT = flags.DEFINE_integer("port", 8050, "Port on 127.0.0.1, e.g. --port=8051.", lower_bound=1, upper_bound=65535)
_DEMO = flags.DEFINE_bool("demo", False, "Show a built-in toy latent space instead of a run, e.g. --demo.")


def explore(workdir: Path | None) -> None:
    """Load a run (or the toy), say where the page is, and serve it until interrupted."""
    if not _DEMO.value and workdir is None:
        raise ValueError("expected --workdir=W of a finished run or --demo, got neither; give one")
    from werkzeug.serving import make_server

    from geovq_jax.explorer.app import HOST, build_app, load_space

    with console.status("loading"):
        app = build_app(load_space(None if _DEMO.value else workdir))
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request says nothing to a reader
    server = make_server(HOST, _PORT.value, app.server, threaded=True)
    console.print(f"explorer: http://{HOST}:{_PORT.value} (Ctrl-C ends it)")
    server.serve_forever()


if __name__ == "__main__":
    cli.main_without_config(explore, documentation=__doc__)
