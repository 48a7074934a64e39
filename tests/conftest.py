"""Strict settings for every test: no silent rank promotion. Programs compile without costly optimisations."""

import os
import signal
import sys
from pathlib import Path

# Nearly all of the suite's time is compilation; child processes inherit these settings.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "programs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import jaxtyping
import pytest

# The files that take longest come first, so that two processes end together.
_LONG = ("test_pipeline.py", "test_kmedoids.py", "test_trials.py", "test_notebooks.py", "test_documents.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: _LONG.index(item.path.name) if item.path.name in _LONG else len(_LONG))


@pytest.fixture(autouse=True, scope="session")
def _strict_jax():
    jax.config.update("jax_numpy_rank_promotion", "raise")


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
