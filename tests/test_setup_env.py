"""scripts/setup_env.sh: which interpreter it takes, and that it recovers from a kill at any moment.

The quick tests put a stand-in for Python on the PATH, which logs what it is asked and needs no network.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = "bash cat chmod cut dirname find flock ls mkdir paste rm sha256sum sort touch"
# Answers what the script asks. $KILL kills the script at a step, after a part of the step's work.
STAND_IN = """#!/bin/bash
case "$*" in
  -c*version_info*) [ VERSION != 3.10.0 ] ;;
  -c*base_prefix*) echo "VERSION of /opt/VERSION" ;;
  -c*importlib.metadata*) cat .venv/lib/python3/site-packages/jax ;;
  "-m venv"*)
    mkdir -p .venv/bin
    cat "$0" > .venv/bin/python && chmod +x .venv/bin/python
    [ "${KILL:-}" != venv ] || kill -9 $PPID
    mkdir -p .venv/lib/python3/site-packages && touch .venv/lib/python3/site-packages/pip ;;
  "-m pip --version") [ -f .venv/lib/python3/site-packages/pip ] ;;
  "-m uv --version") [ -f .venv/lib/python3/site-packages/uv ] ;;
  "-m pip install"*)
    [ "${KILL:-}" != pip ] || kill -9 $PPID
    touch .venv/lib/python3/site-packages/uv ;;
  "-m uv pip install"*)
    echo "$@" >> installs
    [ -z "${OFFLINE:-}" ] || exit 3
    echo half > .venv/lib/python3/site-packages/jax
    [ "${KILL:-}" != uv ] || kill -9 $PPID
    [ -z "${FULL:-}" ] || exit 3
    echo 0.9 > .venv/lib/python3/site-packages/jax ;;
  *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout with the script and an empty PATH but for the tools that it uses and the stand-ins."""
    root, tools = tmp_path / "repo", tmp_path / "bin"
    (root / "scripts").mkdir(parents=True)
    tools.mkdir()
    for name in ("scripts/setup_env.sh", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, root / name)
    for name in TOOLS.split():
        found = shutil.which(name)
        if found:
            (tools / name).symlink_to(found)
    return root


def add_python(checkout: Path, name: str, version: str) -> Path:
    path = checkout.parent / "bin" / name
    path.write_text(STAND_IN.replace("VERSION", version))
    path.chmod(0o755)
    return path


def setup(checkout: Path, *extras: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "scripts/setup_env.sh", *extras],
        cwd=checkout,
        env={"PATH": str(checkout.parent / "bin"), **environment},
        capture_output=True,
        text=True,
    )


def assert_whole(checkout: Path) -> None:
    assert not (checkout / ".venv.unfinished").exists()
    assert (checkout / ".venv/lib/python3/site-packages/jax").read_text() == "0.9\n"


def test_the_users_python3_comes_first_and_is_named_with_the_version_of_jax(checkout):
    add_python(checkout, "python3", "3.12.1")
    add_python(checkout, "python3.11", "3.11.7")
    done = setup(checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "setting up .venv with Python 3.12.1 of /opt/3.12.1 (a minute or two)",
        ".venv: Python 3.12.1 of /opt/3.12.1, jax 0.9",
    ]
    assert_whole(checkout)


def test_another_python_where_python3_is_too_old(checkout):
    add_python(checkout, "python3", "3.10.0")
    refused = setup(checkout)
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: expected Python 3.11 or newer on the PATH, got 3.10.0 of /opt/3.10.0; install it or set PYTHON\n"
    )
    add_python(checkout, "python3.13", "3.13.0")
    assert "with Python 3.13.0 " in setup(checkout).stdout


def test_a_second_call_does_nothing_and_another_extra_installs(checkout):
    add_python(checkout, "python3", "3.12.1")
    for extras in ((), (), ("test",), ("test",), (), ("test", "dev"), ("dev", "test")):
        assert setup(checkout, *extras).returncode == 0
    installed = [line.split()[-1] for line in (checkout / "installs").read_text().splitlines()]
    assert installed == [".", ".[test]", ".[dev,test]"]
    (checkout / "requirements.lock").write_text("jax==1.0\n")
    assert setup(checkout, "test").returncode == 0
    assert len(list((checkout / ".venv").glob(".setup-*"))) == 1


@pytest.mark.parametrize("step", ["venv", "pip", "uv"])
def test_a_kill_in_a_step_is_recovered_from(checkout, step):
    add_python(checkout, "python3", "3.12.1")
    assert setup(checkout, KILL=step).returncode == -signal.SIGKILL
    assert (checkout / ".venv/bin/python").exists()
    done = setup(checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("removing an unfinished .venv\n")
    assert_whole(checkout)


def test_a_kill_while_an_extra_is_added_is_recovered_from_by_any_call(checkout):
    add_python(checkout, "python3", "3.12.1")
    assert setup(checkout).returncode == 0
    assert setup(checkout, "test", KILL="uv").returncode == -signal.SIGKILL
    assert setup(checkout).returncode == 0
    assert_whole(checkout)


def test_an_environment_without_pip_is_made_anew(checkout):
    """What the script left before it marked unfinished environments."""
    add_python(checkout, "python3", "3.12.1")
    assert setup(checkout, KILL="venv").returncode == -signal.SIGKILL
    (checkout / ".venv.unfinished").unlink()
    assert setup(checkout).returncode == 0
    assert_whole(checkout)


def test_a_failing_install_keeps_an_environment_that_it_did_not_change(checkout):
    add_python(checkout, "python3", "3.12.1")
    assert setup(checkout).returncode == 0
    assert setup(checkout, "test", OFFLINE="1").returncode == 3
    assert_whole(checkout)
    assert setup(checkout).stdout == ""
    (checkout / ".venv/lib/python3/site-packages/jax").unlink()  # the stand-in adds it again, then the disk is full
    assert setup(checkout, "test", FULL="1").returncode == 3
    assert setup(checkout, "test").stdout.startswith("removing an unfinished .venv\n")
    assert_whole(checkout)


def test_another_python_than_that_of_the_environment_is_refused(checkout):
    add_python(checkout, "python3", "3.12.1")
    other, old = add_python(checkout, "other", "3.13.0"), add_python(checkout, "old", "3.10.0")
    assert setup(checkout).returncode == 0
    for value, message in (
        (str(other), "expected .venv with Python 3.13.0 of /opt/3.13.0, got 3.12.1 of /opt/3.12.1; remove .venv or"),
        (str(old), "expected Python 3.11 or newer, got 3.10.0 of /opt/3.10.0; set PYTHON to another"),
        ("/nowhere", "expected Python 3.11 or newer, got /nowhere, which does not run; set PYTHON to another"),
    ):
        refused = setup(checkout, PYTHON=value)
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"error: {message}")
        assert refused.stderr.count("\n") == 1
    assert setup(checkout, PYTHON="python3").returncode == 0
    shutil.rmtree(checkout / ".venv")
    assert "with Python 3.13.0 " in setup(checkout, PYTHON=str(other)).stdout


@pytest.mark.slow
def test_real_kills(tmp_path):
    """With the real interpreter and the registry, some seconds after the start; the last call must succeed."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "repo")], check=True)
    environment = os.environ | {"PYTHON": sys.executable}
    command = ["bash", "scripts/setup_env.sh"]
    for seconds in (0.5, 3.0, 8.0, 20.0):
        process = subprocess.Popen(
            command, cwd=tmp_path / "repo", env=environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, cwd=tmp_path / "repo", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ", jax " in done.stdout.splitlines()[-1]
    check = [".venv/bin/python", "-c", "import jax, flax, optax, orbax.checkpoint, tensorflow_datasets, geovq_jax"]
    subprocess.run(check, cwd=tmp_path / "repo", check=True)
