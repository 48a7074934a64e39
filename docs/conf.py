"""Sphinx: `sphinx-build -W docs docs/_build` makes the documents; the tutorials run while it builds."""

import os
import re
from pathlib import Path

from geovq_jax import __version__
from geovq_jax.config import accepted
from geovq_jax.keys import KEYS

HERE = Path(__file__).parent

project = "geovq_jax"
copyright = "the authors of geovq_jax"
release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "conf.py", "configuration.in.md"]
if not any((HERE.parent / "results").glob("*.json")):
    exclude_patterns.append("tutorials/6_*")  # reads the results of a comparison
html_theme = "sphinx_book_theme"
html_title = "geovq_jax"
html_theme_options = {"show_navbar_depth": 1, "home_page_in_toc": True}
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository outside of docs/

# Tutorials are the notebooks of the repository. GEOVQ_SMOKE=1 shrinks them to seconds; GEOVQ_NOTEBOOKS=off shows them
# without their results.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = os.environ.get("GEOVQ_NOTEBOOKS", "force")
nb_execution_raise_on_error = True
nb_execution_timeout = 1800
nb_merge_streams = True
os.environ.setdefault("GEOVQ_RUNS", str(HERE / "_build" / "runs"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False


def plain_docstring(app, what, name, obj, options, lines):
    """Formulas of docstrings hold signs that reStructuredText would read as markup: |J v|, a * b, x_, `name`."""
    for index, line in enumerate(lines):
        line = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line)
        parts = re.split(r"(``[^`]*``)", line)
        parts[::2] = [re.sub(r"([|*\\])", r"\\\1", re.sub(r"(\w)_(?!\w)", r"\1\\_", part)) for part in parts[::2]]
        lines[index] = "".join(parts)


PACKAGES = {
    "geometry": "Pull-back metric, graphs, shortest paths, geodesics, clustering.",
    "models": "VAE, VQ-VAE and prior as pure functions.",
    "quantization": "Codebook, tokenizer, health of codes, baselines.",
    "training": "Loop, optimiser, checkpoints, tracking.",
    "data": "Data sets, splits, batches.",
    "evaluation": "Metrics, scores, statistics, figures, report.",
    "stages": "What each stage of a run does.",
    "explorer": "The local page.",
}
TOP = ("pipeline", "config", "workdir", "terminal", "cli")


def write_reference(app):
    """The tutorials, the table of configuration keys and one page per package, from the code itself."""
    notebooks = sorted((HERE.parent / "notebooks").glob("*.py"))
    for path in {*(HERE / "tutorials").glob("*.py")} - {HERE / "tutorials" / notebook.name for notebook in notebooks}:
        path.unlink()
    for notebook in notebooks:
        write(HERE / "tutorials" / notebook.name, notebook.read_text())
    rows = "".join(
        f"| `{name}` | `{key.default or repr(key.default)}` | {key.meaning} | {accepted(name)} |\n"
        for name, key in KEYS.items()
    )
    table = f"| key | default | meaning | values |\n|---|---|---|---|\n{rows}"
    write(HERE / "configuration.md", (HERE / "configuration.in.md").read_text().replace("@TABLE@", table))
    package = HERE.parent / "geovq_jax"
    pages = {
        name: (text, sorted(path.stem for path in (package / name).glob("*.py") if path.stem != "__init__"))
        for name, text in PACKAGES.items()
    }
    for name, (text, modules) in pages.items():
        write(HERE / "api" / f"{name}.md", api_page(name, text, [f"geovq_jax.{name}.{module}" for module in modules]))
    write(
        HERE / "api" / "top.md",
        api_page("package", "Order of the stages, configurations, files.", [f"geovq_jax.{m}" for m in TOP]),
    )

    names = "\n".join(["top", *PACKAGES])
    write(HERE / "api" / "index.md", f"# API\n\n```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n")


def api_page(title, text, modules):
    parts = [f"## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n```\n" for module in modules]
    return f"# {title}\n\n{text}\n\n" + "\n".join(parts)


def write(path, text):
    """Only what changed, so that a second build is short."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def skip_fields(app, what, name, obj, skip, options):
    """Fields of records stand under Attributes already."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("builder-inited", write_reference)
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)
    app.connect("autodoc-skip-member", skip_fields)
