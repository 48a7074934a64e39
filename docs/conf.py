"""Sphinx: `sphinx-build -W docs docs/_build` makes the documents; the tutorials run while it builds."""

import importlib
import inspect
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
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",  # MathJax among the built files, so that no page asks another host
]
exclude_patterns = ["_build", "_templates", "conf.py", "configuration.in.md"]
if not any((HERE.parent / "results").glob("*.json")):
    exclude_patterns.append("tutorials/6_*")  # reads the results of a comparison
html_theme = "sphinx_book_theme"
html_title = "geovq_jax"
html_theme_options = {"show_navbar_depth": 1, "home_page_in_toc": True}
templates_path = ["_templates"]
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository outside of docs/
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Links to other packages need inventories from the network; a build elsewhere needs no network and has no such links.
if os.environ.get("READTHEDOCS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "jax": ("https://docs.jax.dev/en/latest/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
    }

# Tutorials are the notebooks of the repository. GEOVQ_SMOKE=1 shrinks them to seconds; GEOVQ_NOTEBOOKS=off shows them
# without their results.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = os.environ.get("GEOVQ_NOTEBOOKS", "force")
nb_execution_raise_on_error = True
nb_execution_timeout = 1800
nb_merge_streams = True
os.environ.setdefault("GEOVQ_RUNS", str(HERE / "_build" / "runs"))
os.environ.setdefault("GEOVQ_RESULTS", str(HERE.parent / "results"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

autodoc_mock_imports = ["torch"]  # an extra of its own
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False

# Pages of the API reference: package and what its first line says. Names are those of `__all__`; where that lists
# modules, the names are the functions and records of each module.
API = {
    "geometry": "Geometry of a decoder: metric, lengths, geodesics, graphs, shortest paths, clustering, statistics.",
    "quantization": "Codebooks, assignment and search of codes, code lengths, refinement.",
    "models": "VAE, VQ-VAE, prior and classifier as pure functions: `from geovq_jax.models import vae`.",
    "data": "Data sets, splits and batches.",
    "training": "Training loop, optimizer, checkpoints and tracking: `from geovq_jax.training import loop`.",
    "evaluation": "Numbers about images, codes and samples: `from geovq_jax.evaluation import statistics`.",
    "figures": "Figures from arrays.",
    "explorer": "The local web page, from Python.",
}
TOP = (
    "load_run",
    "stages.run.Run",
    "config.experiment",
    "pipeline.entry",
    "pipeline.run_all",
    "pipeline.verify",
    "terminal.log_to_console",
    "torch.decode_fn_of",
)


def public_names(package):
    """Names of a package as users write them after `from geovq_jax import ...`, with their full names."""
    found = {}
    module = importlib.import_module(f"geovq_jax.{package}")
    for name in module.__all__:
        value = getattr(module, name, None) or importlib.import_module(f"{module.__name__}.{name}")
        if not inspect.ismodule(value):
            found[f"{package}.{name}"] = f"{module.__name__}.{name}"
            continue
        for own, member in vars(value).items():
            defined_here = getattr(member, "__module__", None) == value.__name__
            if defined_here and not own.startswith("_") and (inspect.isclass(member) or callable(member)):
                found[f"{name}.{own}"] = f"{value.__name__}.{own}"
    return found


PAGES = {package: public_names(package) for package in API} | {"top": {name: f"geovq_jax.{name}" for name in TOP}}
autosummary_generate = True
FULL_NAMES = [full for names in PAGES.values() for full in names.values()]
_lower = [full.lower() for full in FULL_NAMES]
# `Geodesic` and `geodesic` are one file name on some systems.
autosummary_filename_map = {
    full: f"{full}-record" for full in FULL_NAMES if _lower.count(full.lower()) > 1 and full.split(".")[-1][0].isupper()
}


def api_page(package, text, names):
    title = f"geovq_jax.{package}" if package in API else "geovq_jax"
    prefix = "geovq_jax" if all(full == f"geovq_jax.{name}" for name, full in names.items()) else title
    rows = "\n".join(f"   {name}" for name in names)
    return (
        f"# {title}\n\n{text}\n\n```{{eval-rst}}\n.. currentmodule:: {prefix}\n\n"
        f".. autosummary::\n   :toctree: names\n\n{rows}\n```\n"
    )


def write_pages(app, config):
    """The tutorials, tables of results, the table of configuration keys and the API reference, from the repository."""
    for path in (HERE.parent / "results").glob("*.md"):
        write(HERE / "tables" / path.name, f"---\norphan: true\n---\n\n# {path.stem}\n\n{path.read_text()}")
    notebooks = sorted((HERE.parent / "notebooks").glob("*.py"))
    for path in {*(HERE / "tutorials").glob("*.py")} - {HERE / "tutorials" / notebook.name for notebook in notebooks}:
        path.unlink()
    for notebook in notebooks:
        download = f"\n# %% [markdown]\n# Download with its outputs: {{nb-download}}`{notebook.stem}.ipynb`\n"
        write(HERE / "tutorials" / notebook.name, notebook.read_text().rstrip("\n") + "\n" + download)
    rows = "".join(
        f"| `{name}` | `{key.default or repr(key.default)}` | {key.meaning} | {accepted(name)} |\n"
        for name, key in KEYS.items()
    )
    table = f"| key | default | meaning | values |\n|---|---|---|---|\n{rows}"
    write(HERE / "configuration.md", (HERE / "configuration.in.md").read_text().replace("@TABLE@", table))
    top = "Opening a run, running one, and decoders in PyTorch."
    for package, names in PAGES.items():
        write(HERE / "api" / f"{package}.md", api_page(package, API.get(package, top), names))
    toctree = "\n".join(["top", *API])
    write(HERE / "api" / "index.md", f"# API\n\n```{{toctree}}\n:maxdepth: 1\n\n{toctree}\n```\n")
    for path in (HERE / "api" / "names").glob("*.rst"):
        if path.stem.removesuffix("-record") not in FULL_NAMES:
            path.unlink()


def write(path, text):
    """Only what changed, so that a second build is short."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def link_equations(app, docname, source):
    r"""Gives (11) of geometry.md, an equation with a \tag, the label geometry-11, and links each "(11)" of the text.

    Tables of results are pages here.
    """
    source[0] = re.sub(r"\]\(\.\./results/([^)]*\.md)\)", r"](tables/\1)", source[0])
    if r"\tag{" not in source[0]:
        return
    name = docname.replace("/", "-")
    text = re.sub(
        r"\$\$((?:(?!\$\$).)*?)\s*\\tag\{(\d+)\}\s*\$\$",
        lambda found: f"$${found[1]} $$ ({name}-{found[2]})",
        source[0],
        flags=re.DOTALL,
    )
    parts = re.split(r"(\$\$.*?\$\$|\$[^$]*\$|```.*?```|`[^`]*`)", text, flags=re.DOTALL)
    parts[::2] = [re.sub(r"(?<=[\s|,])\((\d+)\)", rf"{{eq}}`{name}-\1`", part) for part in parts[::2]]
    source[0] = "".join(parts)


def plain_docstring(app, what, name, obj, options, lines):
    """Formulas of docstrings hold signs that reStructuredText would read as markup: |J v|, a * b, x_, `name`.

    "equation (11)" and "equations (11) to (13)" link to the page of the package, such as geometry.md.
    """
    if what == "data":  # a table by name has the docstring of dict
        lines[:] = [f"By name: {', '.join(obj)}."]
        return
    page = name.split(".")[1] if "." in name else name
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", "\n".join(lines))
    parts = re.split(r"(``[^`]*``)", text)
    parts[::2] = [re.sub(r"([|*\\])", r"\\\1", re.sub(r"(\w)_(?!\w)", r"\1\\_", part)) for part in parts[::2]]
    text = "".join(parts)
    text = re.sub(
        r"quations?\s\(\d+\)(?:(?:,|\sand|\sto)\s\(\d+\))*",
        lambda found: re.sub(r"\((\d+)\)", rf":eq:`{page}-\1`", found[0]),
        text,
    )
    lines[:] = text.split("\n")


def skip_fields(app, what, name, obj, skip, options):
    """Fields of records stand under Attributes already."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("config-inited", write_pages)
    app.connect("source-read", link_equations)
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)
    app.connect("autodoc-skip-member", skip_fields)
