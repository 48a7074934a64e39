"""Show a run on a local page: its latent space, its codebook, its prior.

    geovq explore --workdir=runs/mnist5k
    geovq explore --demo

The page is served on 127.0.0.1 only and loads nothing from the network. --demo needs no run.
"""

import logging
import socket
from pathlib import Path

from absl import flags

from geovq_jax import cli, pipeline
from geovq_jax.terminal import console

_PORT = flags.DEFINE_integer("port", 8050, "Port on 127.0.0.1, e.g. --port=8051.", lower_bound=1, upper_bound=65535)
_DEMO = flags.DEFINE_bool("demo", False, "Show a built-in toy latent space instead of a run, e.g. --demo.")


def explore(workdir: Path | None) -> None:
    """Load a run (or the toy), print the address of the page, and serve it until interrupted.

    Raises ValueError without a run or a free port, FileNotFoundError or ValueError for a run whose files are not those
    that its stages wrote, ImportError without the extra `explore`.
    """
    if not _DEMO.value and workdir is None:
        raise ValueError("expected --workdir=W of a finished run or --demo, got neither; give one")
    try:
        import dash  # noqa: F401
        import plotly  # noqa: F401
        from werkzeug.serving import make_server
    except ImportError as error:
        raise ImportError(
            f"expected the extra explore, got {error}; run pip install geovq-jax[explore] in this environment"
        ) from error
    from geovq_jax.explorer.app import HOST, build_app, load_space

    with socket.socket() as listener:  # before the run is loaded, and kept, since werkzeug would exit by itself
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, _PORT.value))
            listener.listen()
        except OSError as error:
            raise ValueError(f"expected a free port, got {_PORT.value} ({error.strerror}); give --port=...") from error
        if not _DEMO.value and workdir is not None:
            pipeline.check_run(workdir)
        with console.status("loading"):
            app = build_app(load_space(None if _DEMO.value else workdir))
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line per request
        server = make_server(HOST, _PORT.value, app.server, threaded=True, fd=listener.fileno())
        console.print(f"explorer: http://{HOST}:{_PORT.value} (Ctrl-C ends it)")
        server.serve_forever()


if __name__ == "__main__":
    cli.main_without_config(explore, documentation=__doc__)
