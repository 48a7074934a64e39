"""Strict settings for every test: no silent rank promotion. Programs compile without costly optimisations."""

import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

# Nearly all of the suite's time is compilation; child processes inherit these settings.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "programs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):  # whose older emitters compile in half the time
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

import jax
import jaxtyping
import pytest
from filelock import FileLock

# The files that take longest come first, so that two processes end together.
_LONG = ("test_pipeline.py", "test_kmedoids.py", "test_trials.py", "test_notebooks.py", "test_documents.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: _LONG.index(item.path.name) if item.path.name in _LONG else len(_LONG))


@pytest.fixture(autouse=True, scope="session")
def _strict_jax():
    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A finished `digits:smoke`, run once per session whatever the number of processes; tests must not change it."""
    base = tmp_path_factory.getbasetemp()
    workdir = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    command = [sys.executable, "-m", "geovq_jax.run", "--config=configs/digits.py:smoke", f"--workdir={workdir}"]
    with FileLock(f"{workdir}.lock"):
        if not (workdir / "report" / "index.html").exists():
            done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture
def front_door(monkeypatch, capsys):
    """Calls the command line in this process: (stage, *arguments) -> (exit code, standard error)."""
    from absl.testing import flagsaver

    from geovq_jax import cli

    def call(stage, *arguments: str, **settings) -> tuple[int, str]:
        argv = ["entry", *arguments]
        monkeypatch.setattr(sys, "argv", argv)  # ml_collections looks for overrides there
        saved, handler = flagsaver.save_flag_values(), signal.getsignal(signal.SIGTERM)
        code = 0
        try:
            cli.main(stage, documentation="", argv=argv, **settings)
        except SystemExit as ended:
            code = ended.code
        finally:
            flagsaver.restore_flag_values(saved)
            sys.modules.pop("config_config", None)
            signal.signal(signal.SIGTERM, handler)
        return code, capsys.readouterr().err

    return call


@pytest.fixture
def unchecked():
    """Without the shape checks of the test run, as a user calls: the front door itself must refuse."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
