"""The command that fetches data, and the two scripts."""

import shutil
import subprocess
from pathlib import Path

import pytest

from geovq_jax.data import datasets
from geovq_jax.data.download import main

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_a_local_copy_is_checked_and_named(idx_folder, known_mnist, capsys):
    assert main(["mnist", f"--data_dir={idx_folder}"]) == 0
    assert capsys.readouterr().out == f"mnist: 60 training and 20 test images in {idx_folder}, checked\n"


def test_the_short_name_of_fashion_mnist_is_known(idx_folder, known_mnist, monkeypatch, capsys):
    monkeypatch.setattr(datasets.raw, "IDX_SHA256", {"fashion_mnist": known_mnist})
    assert main(["fashion", f"--data_dir={idx_folder}"]) == 0
    assert capsys.readouterr().out.startswith("fashion_mnist: 60 training")


@pytest.mark.parametrize("name", ["mnist5k", "imagenet", "folder:x"])
def test_an_unknown_name_is_one_line_and_exit_code_2(name, capsys):
    assert main([name]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: expected a data set among mnist, fashion, cifar10, got {name!r}; choose one\n"


def test_a_damaged_or_missing_file_is_one_line_and_exit_code_2(idx_folder, known_mnist, capsys):
    (idx_folder / "t10k-labels-idx1-ubyte").write_bytes(b"\0")
    assert main(["mnist", f"--data_dir={idx_folder}"]) == 2
    (idx_folder / "t10k-labels-idx1-ubyte").unlink()
    assert main(["mnist", f"--data_dir={idx_folder}"]) == 2
    damaged, missing = capsys.readouterr().err.splitlines()
    assert "truncated" in damaged
    assert "missing: t10k-labels-idx1-ubyte" in missing


def test_the_folder_to_download_to_is_made(tmp_path, monkeypatch, capsys):
    def refuse(name, target, *, show_progress):
        raise FileNotFoundError(f"{name} {target} {show_progress}")

    monkeypatch.setattr(datasets.tfds, "prepare", refuse)
    assert main(["cifar10", f"--data_dir={tmp_path / 'new'}"]) == 2
    assert capsys.readouterr().err == f"error: cifar10 {tmp_path / 'new'} True\n"
    assert (tmp_path / "new").is_dir()


@pytest.fixture
def project(tmp_path):
    """Copy of the scripts in a project of their own, with the configs that they choose from."""
    root = tmp_path / "project"
    (root / "scripts").mkdir(parents=True)
    (root / "configs").mkdir()
    for name in ("download_data.sh", "select_dataset.sh"):
        shutil.copy(SCRIPTS / name, root / "scripts")
    (root / "scripts" / "setup_env.sh").write_text("exit 0\n")
    for name in ("mnist", "fashion_mnist", "cifar10", "mnist5k"):
        (root / "configs" / f"{name}.py").touch()
    return root


def run(project, script, *arguments):
    command = ["bash", str(project / "scripts" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("choice", "name"),
    [("mnist", "mnist"), ("fashion", "fashion_mnist"), ("fashion_mnist", "fashion_mnist"), ("cifar10", "cifar10")],
)
def test_select_dataset_writes_the_name_of_the_config(project, choice, name):
    result = run(project, "select_dataset.sh", choice)
    assert (result.returncode, result.stdout) == (0, f"selected configs/{name}.py\n")
    assert (project / ".dataset").read_text() == f"{name}\n"


@pytest.mark.parametrize("script", ["select_dataset.sh", "download_data.sh"])
def test_scripts_refuse_an_unknown_name_in_one_line(project, script):
    run(project, "select_dataset.sh", "cifar10")
    result = run(project, script, "imagenet")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: expected a data set among mnist, fashion, cifar10")
    assert result.stderr.count("\n") == 1
    assert (project / ".dataset").read_text() == "cifar10\n"


def test_select_dataset_without_a_name_or_config_is_an_error(project):
    assert run(project, "select_dataset.sh").returncode == 2
    (project / "configs" / "mnist.py").unlink()
    result = run(project, "select_dataset.sh", "mnist")
    assert result.returncode == 2
    assert "configs/mnist.py, found none" in result.stderr
    assert not (project / ".dataset").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "mnist\nfashion\ncifar10\n"),
        (("cifar10",), "cifar10\n"),
        (("fashion", "--data_dir", "a b"), "fashion --data_dir a b\n"),
        (("--data_dir=d",), "mnist --data_dir=d\nfashion --data_dir=d\ncifar10 --data_dir=d\n"),
    ],
)
def test_download_data_runs_the_command_for_each_name(project, arguments, expected):
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$1 $2" = "-m geovq_jax.data.download" ] && shift 2 && echo "$@"\n')
    python.chmod(0o755)
    result = run(project, "download_data.sh", *arguments)
    assert (result.returncode, result.stdout) == (0, expected)
    python.write_text("#!/bin/sh\nexit 2\n")
    assert run(project, "download_data.sh", *arguments).returncode == 2
