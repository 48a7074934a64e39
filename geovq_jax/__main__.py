"""Geodesic vector quantization of generative latent spaces.

    geovq COMMAND [--FLAG=VALUE ...]

`geovq COMMAND --help` explains a command; `geovq train-vae` is the same as `python -m geovq_jax.train_vae`.
"""

import ast
import difflib
import re
import runpy
import sys
from pathlib import Path

# Each is a module of this package, with an underscore for the hyphen; its docstring begins with what it does.
COMMANDS = (
    "run",
    "train-vae",
    "build-codebook",
    "train-prior",
    "generate",
    "evaluate",
    "geometry-report",
    "compare",
    "train-vqvae",
    "explore",
    "encode",
    "decode",
    "export",
    "configs",
)


def main() -> None:
    """Run the module of a command as a script, or print the commands."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(_usage())
        return
    name = arguments[0]
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.0)[0]
        print(
            f"error: unknown command {name}; did you mean {nearest}? geovq --help lists all commands", file=sys.stderr
        )
        sys.exit(2)
    sys.argv = arguments  # runpy puts the module in the first place
    runpy.run_module(f"geovq_jax.{_module(name)}", run_name="__main__", alter_sys=True)


def _usage() -> str:
    """The module's docstring and one line per command, read from the modules without importing them."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {_summary(name)}" for name in COMMANDS]
    return "\n".join([(__doc__ or "").strip(), "", "commands:", *lines])


def _summary(name: str) -> str:
    source = Path(__file__).with_name(f"{_module(name)}.py").read_text(encoding="utf-8")
    paragraph = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0]
    return re.split("[.;:]", " ".join(paragraph.split()))[0]


def _module(name: str) -> str:
    return name.replace("-", "_")


if __name__ == "__main__":
    main()
