"""The documents hold: examples give what they say, code in them runs, every key and public name is explained."""

import ast
import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from geovq_jax.keys import KEYS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "geovq_jax"
SCRIPTS = sorted(path for folder in ("benchmarks", "examples", "scripts") for path in (ROOT / folder).rglob("*.py"))
WITH_CODE = [ROOT / "README.md", ROOT / "docs" / "howto" / "decoder.md"]


def name_of(path: Path) -> str:
    return ".".join(("geovq_jax", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def with_examples() -> list[str]:
    """Modules with examples; that of `geovq_jax.load_run` needs a run, see tests/test_pipeline.py."""
    modules = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or path.stem != "__init__"]
    return [name_of(path) for path in modules if ">>> " in path.read_text()]


@pytest.mark.parametrize("name", with_examples())
def test_examples_of_docstrings(name):
    if name == "geovq_jax.torch":
        pytest.importorskip("torch", reason="needs the extra torch")
    module = importlib.import_module(name)
    failed, tried = doctest.testmod(module)
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize("path", WITH_CODE, ids=lambda path: path.name)
def test_code_of_the_documents_runs(path):
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    blocks = [block for block in blocks if "load_run(" not in block]  # needs a run, see tests/test_pipeline.py
    assert blocks
    exec(compile("\n".join(blocks), str(path), "exec"), {})


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_script_imports_exists(path):
    """Benchmarks run for minutes and are not run here; names that they import may not go unnoticed."""
    nodes, modules = list(ast.walk(ast.parse(path.read_text()))), {}
    for node in nodes:
        if not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("geovq_jax")):
            continue
        if node.module == "geovq_jax.torch":
            pytest.importorskip("torch", reason="needs the extra torch")
        module = importlib.import_module(node.module)
        for alias in node.names:
            found = getattr(module, alias.name, None) or importlib.import_module(f"{node.module}.{alias.name}")
            if inspect.ismodule(found):
                modules[alias.asname or alias.name] = found
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr}"


def test_every_key_of_a_configuration_is_explained():
    assert [name for name, key in KEYS.items() if len(key.meaning.split()) < 2] == []


def public_functions() -> list[tuple[str, object]]:
    geometry = importlib.import_module("geovq_jax.geometry")
    found = [(f"geometry.{name}", getattr(geometry, name)) for name in geometry.__all__]
    for package in (
        "models",
        "quantization",
        "evaluation",
        "figures",
        "data",
        "training",
        "stages",
        "report",
        "explorer",
    ):
        for path in sorted((PACKAGE / package).glob("*.py")):
            module = importlib.import_module(name_of(path))
            for name, value in vars(module).items():
                own = getattr(value, "__module__", None) == module.__name__
                if own and not name.startswith("_") and inspect.isfunction(inspect.unwrap(value)):
                    found.append((f"{module.__name__}.{name}", value))
    return found


def test_every_public_function_has_a_docstring():
    assert [name for name, value in public_functions() if not inspect.getdoc(value)] == []


@pytest.mark.parametrize("package", ["geometry", "quantization"])
def test_every_public_function_has_an_example(package):
    module = importlib.import_module(f"geovq_jax.{package}")
    values = [inspect.unwrap(getattr(module, name)) for name in module.__all__]
    functions = [value for value in values if inspect.isfunction(value)]
    assert len(functions) > 10
    assert [function.__name__ for function in functions if ">>> " not in function.__doc__] == []


def test_equations_are_numbered_in_order():
    """Sphinx counts the equations of a page; docstrings cite the numbers of the sources."""
    for page in ("geometry", "quantization"):
        numbers = re.findall(r"\\tag\{(\d+)\}", (ROOT / "docs" / f"{page}.md").read_text())
        assert len(numbers) > 1
        assert numbers == [str(number + 1) for number in range(len(numbers))]


@pytest.mark.slow
def test_the_documents_build_without_a_warning(tmp_path):
    pytest.importorskip("myst_nb", reason="the extra docs is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", ROOT / "docs", tmp_path],
        env={**os.environ, "GEOVQ_NOTEBOOKS": "off"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = [page for page in tmp_path.rglob("*.html") if "_static" not in page.parts]
    assert len(pages) > 100
    loaded = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(?:https?:)?//")
    assert [page.name for page in pages if loaded.search(page.read_text())] == []
