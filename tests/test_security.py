"""No pickle, no evaluation of input, no unpacked archive: held by parsing every module."""

import ast
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest

PACKAGE = Path(__file__).parents[1] / "geovq_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))
SENDS_FUNCTIONS = PACKAGE / "workers.py"  # reads only what its own run wrote, see the test of other bytes
PICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "pickletools"}


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Dotted name and node of every call."""
    return [
        (ast.unparse(node.func), node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_input_becomes_code(path):
    tree = ast.parse(path.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert path == SENDS_FUNCTIONS or not {name.split(".")[0] for name in imported} & PICKLERS
    for name, call in calls(path):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert name not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "joblib.load"), name
        assert keywords.get("shell", "False") == "False", name
        if name in ("np.load", "numpy.load"):
            assert keywords.get("allow_pickle") == "False", ast.unparse(call)
        assert keywords.get("allow_pickle", "False") == "False", ast.unparse(call)
        assert not name.endswith((".extractall", ".extract", ".unpack_archive")), name


def test_a_worker_reads_no_other_bytes_than_its_run_wrote(tmp_path):
    from geovq_jax import workers

    path, digest = workers._pack(partial(int, "1"), tmp_path)
    assert workers._unpack(path, digest)() == 1
    workers._unpack.cache_clear()
    Path(path).write_bytes(pickle.dumps(_Touch(tmp_path / "touched")))
    with pytest.raises(ValueError, match="got other bytes"):
        workers._unpack(path, digest)
    assert not (tmp_path / "touched").exists()


class _Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_cifar10_of_pickles_is_not_read(tmp_path):
    from geovq_jax.data import raw

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (folder / name).write_bytes(b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.")
    assert raw.cifar10_paths(folder) is None
    with pytest.raises(FileNotFoundError, match="expected CIFAR-10 binary files"):
        raw.read_cifar10_folder(folder)


def test_an_npz_with_a_pickle_inside_is_refused_unread(tmp_path):
    from geovq_jax import workdir

    class Touch:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    np.savez(tmp_path / "x.npz", codes=np.array([Touch()], dtype=object))
    with pytest.raises(ValueError, match="expected an npz file"):
        workdir.load_npz(tmp_path / "x.npz", stage="train_vae")
    assert not (tmp_path / "owned").exists()
