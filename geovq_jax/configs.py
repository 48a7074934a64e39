"""List the packaged experiments, which --config=NAME finds from any directory.

geovq configs
"""

import ast
from pathlib import Path

from geovq_jax import cli
from geovq_jax.config import experiment_files, experiment_folder
from geovq_jax.terminal import console


def list_experiments(_: Path | None = None) -> None:
    """Print every packaged experiment with what its docstring says, and the folder of their files."""
    files = experiment_files()
    width = max(map(len, files))
    for name, path in files.items():
        documentation = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for line in filter(None, documentation.splitlines()):
            console.print(f"{name:<{width}}  {line}")
            name = ""
    console.print(f"\nfiles: {experiment_folder()}; a copy is run with --config=PATH")


if __name__ == "__main__":
    cli.main_without_config(list_experiments, documentation=__doc__)
