"""The import table of docs/architecture.md, held by parsing every module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "geovq_jax"
ENTRY = {
    f"geovq_jax.{name}"
    for name in ("cli", "pipeline", "staleness", "comparison", "explorer", "codec", "bundle", "terminal")
}
BASE = {f"geovq_jax.{name}" for name in ("processes", "workers", "mesh", "terminal", "keys", "config", "presets")}
FILES = {f"geovq_jax.{name}" for name in ("workdir", "shards", "manifest", "staleness")}
LIBRARY = {
    f"geovq_jax.{name}" for name in ("geometry", "data", "models", "training", "quantization", "evaluation", "figures")
}
ALLOWED = {
    "geovq_jax.__init__": {"geovq_jax.stages"},
    "geovq_jax.processes": set(),
    "geovq_jax.mesh": set(),
    "geovq_jax.terminal": set(),
    "geovq_jax.checks": set(),
    "geovq_jax.keys": {"geovq_jax.checks"},
    "geovq_jax.config": {"geovq_jax.checks", "geovq_jax.keys"},
    "geovq_jax.presets": set(),
    "geovq_jax.workdir": {"geovq_jax.processes"},
    "geovq_jax.workers": {"geovq_jax.processes"},
    "geovq_jax.shards": {"geovq_jax.processes", "geovq_jax.workdir", "geovq_jax.workers"},
    "geovq_jax.manifest": {"geovq_jax.config", "geovq_jax.shards", "geovq_jax.workdir"},
    "geovq_jax.staleness": {"geovq_jax.config", "geovq_jax.manifest", "geovq_jax.workdir"},
    "geovq_jax.torch": set(),
    "geovq_jax.geometry": {"geovq_jax.mesh"},
    "geovq_jax.data": set(),
    "geovq_jax.models": set(),
    "geovq_jax.training": {"geovq_jax.mesh", "geovq_jax.processes"},
    "geovq_jax.quantization": {"geovq_jax.geometry", "geovq_jax.models", "geovq_jax.workdir"},
    "geovq_jax.evaluation": {"geovq_jax.geometry", "geovq_jax.models", "geovq_jax.quantization"},
    "geovq_jax.figures": {"geovq_jax.geometry", "geovq_jax.evaluation"},
    "geovq_jax.stages": {*BASE, *FILES, *LIBRARY},
    "geovq_jax.report": {*BASE, *FILES, *LIBRARY, "geovq_jax.stages"},
    "geovq_jax.explorer": {*BASE, *FILES, *LIBRARY, "geovq_jax.stages"},
    "geovq_jax.pipeline": {*BASE, *FILES, *LIBRARY, "geovq_jax.stages", "geovq_jax.report"},
    "geovq_jax.codec": {*BASE, *FILES, *LIBRARY, "geovq_jax.stages"},
    "geovq_jax.bundle": {*BASE, *FILES, *LIBRARY, "geovq_jax.stages"},
    "geovq_jax.comparison": {*BASE, *FILES, *LIBRARY, "geovq_jax.stages", "geovq_jax.report", "geovq_jax.pipeline"},
    "geovq_jax.cli": {*BASE, *FILES},
    "geovq_jax.configs": {"geovq_jax.cli", "geovq_jax.config", "geovq_jax.terminal"},
}
LIBRARIES_OF_GEOMETRY = {"jax", "numpy", "scipy", "numba", "joblib", "jaxtyping", "faiss"} | set(
    sys.stdlib_module_names
)


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer_of(name: str) -> str:
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_module_imports_only_from_its_layer_or_below(path):
    own = layer_of(".".join(("geovq_jax", *path.relative_to(PACKAGE).with_suffix("").parts)))
    used = {layer_of(name) for name in imports_of(path) if name.startswith("geovq_jax.")} - {
        own,
        "geovq_jax.__version__",
    }
    assert used <= ALLOWED.get(own, ENTRY)  # entry points know no mathematics


def test_geometry_knows_only_numerical_libraries():
    for path in (PACKAGE / "geometry").rglob("*.py"):
        outside = {name.split(".")[0] for name in imports_of(path)} - {"geovq_jax"}
        assert outside <= LIBRARIES_OF_GEOMETRY, path


def test_only_the_checkpoint_module_imports_orbax():
    users = [path for path in modules() if any(name.split(".")[0] == "orbax" for name in imports_of(path))]
    assert users == [PACKAGE / "training" / "checkpoint.py"]


def test_only_entry_points_and_what_they_call_print():
    printers = set()
    for path in modules():
        called = {
            ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        }
        if called & {"print", "console.print", "sys.stdout.write", "sys.stderr.write"}:
            printers.add(path.relative_to(PACKAGE).with_suffix("").as_posix())
    assert printers == {"__main__", "cli", "configs", "data/download", "explore", "pipeline", "terminal"}


def test_the_import_graph_has_no_circles():
    names = {".".join(("geovq_jax", *p.relative_to(PACKAGE).with_suffix("").parts)): p for p in modules()}
    targets = {}
    for name, path in names.items():
        used = imports_of(path)
        parents = {".".join(u.split(".")[:depth]) for u in used for depth in range(1, u.count(".") + 2)}
        targets[name] = (parents & names.keys()) - {name}
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in finished:
            for other in targets[name]:
                visit(other, (*trail, name))
            finished.add(name)

    for name in names:
        visit(name, ())


def test_importing_the_package_loads_no_framework():
    code = (
        "import sys, geovq_jax; print([m for m in ('flax', 'orbax', 'tensorflow_datasets', 'jax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_geometry_initialises_no_device():
    code = (
        "import sys, geovq_jax.geometry; from jax._src import xla_bridge; "
        "print(len(xla_bridge._backends), [m for m in ('flax', 'orbax', 'tensorflow_datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 []"


def test_geometry_loads_numba_joblib_and_parts_of_scipy_when_they_are_first_used():
    code = """if True:
        import sys
        import numpy as np
        from geovq_jax import geometry
        late = ("numba", "joblib", "sklearn", "scipy.spatial", "scipy.sparse.linalg")
        print([name for name in late if name in sys.modules])
        ring = geometry.graph_from_edges(np.array([[0, 1], [1, 2], [2, 0]]), np.ones(3), 3)
        print(geometry.nearest_source(ring, [2]).source.tolist(), "numba" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[2, 2, 2] True"]
