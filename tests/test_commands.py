"""The command geovq: a table of the entry points; experiments by name from any directory."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from geovq_jax.__main__ import COMMANDS
from geovq_jax.config import experiment_files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "geovq_jax"
LOADS = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections loads files with it


def geovq(*arguments: str, module: str = "geovq_jax") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_entry_point_is_a_command():
    entries = {path.stem for path in PACKAGE.glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert {name.replace("-", "_") for name in COMMANDS} == entries - {"__main__"}
    assert len(set(COMMANDS)) == len(COMMANDS)


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_the_commands_are_listed_without_importing_a_framework(arguments):
    code = (
        "import sys, geovq_jax.__main__ as entry; entry.main(); "
        "print(sorted({'jax', 'numpy', 'absl', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    *listed, loaded = done.stdout.partition("commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert all(len(line.split()) > 3 for line in listed)
    assert loaded == "[]"


@pytest.mark.parametrize("name", ["generate", "build-codebook"])
def test_a_command_is_the_module(name):
    module = f"geovq_jax.{name.replace('-', '_')}"
    for arguments in (("--help",), ("--config=nothing",), ("--num_sample=3",)):
        ours, theirs = geovq(name, *arguments), geovq(*arguments, module=module)
        assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)


def test_an_unknown_command_is_refused_in_one_line():
    done = geovq("train_vea")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown command train_vea; did you mean train-vae? geovq --help lists all commands\n"


def test_configs_lists_every_experiment():
    lines = geovq("configs").stdout.splitlines()
    assert [line.split()[0] for line in lines if line[:1].strip() and "files:" not in line] == list(experiment_files())
    assert {"mnist5k", "digits", "compare/mnist"} <= experiment_files().keys()


@LOADS
@pytest.mark.parametrize("arguments", [("--config=digits:smoke",), ("--config", "digits:smoke")])
def test_an_experiment_is_found_by_name_from_any_directory(front_door, monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    given = []
    for option in (arguments, (f"--config={ROOT}/configs/digits.py:smoke",)):
        code, message = front_door(
            lambda workdir, config: given.append((workdir, config.to_json())), *option, "--config.seed=3"
        )
        assert (code, message) == (0, "")
    assert given[0] == given[1]
    assert given[0][0] == tmp_path / "runs" / "digits-smoke"
    assert '"seed": 3' in given[0][1]


@LOADS
def test_a_path_comes_before_a_name(front_door, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text((ROOT / "configs" / "mnist5k.py").read_text())
    given = []
    assert front_door(lambda _, config: given.append(config.name), "--config=digits")[0] == 0
    assert given == ["mnist5k"]


@LOADS
@pytest.mark.parametrize("named", [None, "", "elsewhere"])
def test_compiled_programs_are_kept_in_the_users_cache_unless_a_folder_is_named(
    front_door, tmp_path, monkeypatch, named
):
    names = ("compilation_cache_dir", "compilation_cache_max_size", "persistent_cache_min_compile_time_secs")
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    if named is not None:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", named)
    seen = []
    try:
        arguments = ("--config=configs/digits.py:smoke", f"--workdir={tmp_path / 'w'}")
        code, _ = front_door(lambda *_: seen.append(jax.config.jax_compilation_cache_dir), *arguments)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    own = str(tmp_path / "geovq_jax" / "programs")
    assert (code, seen) == (0, [own if named is None else before["jax_compilation_cache_dir"]])
