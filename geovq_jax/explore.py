"""Show a run on a local page: its latent space, its codebook, its prior.

    geovq explore --workdir=runs/mnist5k
    geovq explore --workdir=runs/a --workdir=runs/b
    geovq explore --demo

The page is served on 127.0.0.1 only and loads nothing from the network. A second --workdir adds
a part that compares both runs on the same test images. --demo needs no run.
"""

import argparse
import logging
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from absl import flags

from geovq_jax import cli, staleness
from geovq_jax.terminal import console

_PORT = flags.DEFINE_integer("port", 8050, "Port on 127.0.0.1, e.g. --port=8051.", lower_bound=1, upper_bound=65535)
_DEMO = flags.DEFINE_bool("demo", False, "Show a built-in toy latent space instead of a run, e.g. --demo.")


def explore(workdir: Path | None, *, others: Sequence[Path] = ()) -> None:
    """Load a run (or the toy), print the address of the page, and serve it until interrupted.

    `others` holds at most one run, on the same images, that is compared with the first.

    Raises ValueError without a run or a free port, FileNotFoundError or ValueError for a run whose files are not those
    that its stages wrote, ImportError without the extra `explore`.
    """
    if not _DEMO.value and workdir is None:
        raise ValueError("expected --workdir=W of a finished run or --demo, got neither; give one")
    if len(others) > 1 or (_DEMO.value and others):
        raise ValueError("expected at most two --workdir, and none with --demo, got more; leave some out")
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
        for run in (workdir, *others):
            if not _DEMO.value and run is not None:
                staleness.check_run(run)
        with console.status("loading"):
            app = build_app(load_space(None if _DEMO.value else workdir, *others))
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line per request
        server = make_server(HOST, _PORT.value, app.server, threaded=True, fd=listener.fileno())
        console.print(f"explorer: http://{HOST}:{_PORT.value} (Ctrl-C ends it)")
        server.serve_forever()


def split_workdirs(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes all --workdir but the first off the arguments of a command line, since a flag has one value.

    Returns:
        The other arguments, and the values of the later --workdir.

    Example:
        >>> split_workdirs(["--workdir=a", "--workdir", "b", "--port=8051"])
        (['--port=8051', '--workdir=a'], ['b'])
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--workdir", action="append", nargs="?", const="", default=[])
    found, rest = parser.parse_known_args(arguments)
    return [*rest, *(f"--workdir={value}" for value in found.workdir[:1])], found.workdir[1:]


if __name__ == "__main__":
    given, later = split_workdirs(sys.argv[1:])
    work = partial(explore, others=[Path(value).absolute() for value in later])
    cli.main_without_config(work, documentation=__doc__, argv=[sys.argv[0], *given])
