"""Eight simulated devices, and two processes, give what one device gives; a mesh that cannot be is refused."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from geovq_jax import mesh, processes

ROOT = Path(__file__).parents[1]


def start(num_devices: int, *arguments: str) -> subprocess.Popen:
    """The comparison, on simulated devices of a process of its own."""
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(Path(__file__).with_name("mesh_check.py")), *arguments]
    return subprocess.Popen(
        command, env={**os.environ, **flags}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@pytest.mark.slow
def test_two_processes_run_the_pipeline(tmp_path):
    """Every stage after the autoencoder's training, from the same autoencoder, against a run of one process."""
    one, two = tmp_path / "one", tmp_path / "two"
    run = [sys.executable, "-m", "geovq_jax.run", f"--config={ROOT}/configs/digits.py:smoke"]
    subprocess.run([*run, f"--workdir={one}"], cwd=ROOT, check=True, capture_output=True)
    two.mkdir()
    shutil.copytree(one / "vae", two / "vae")
    (two / "stages.json").write_text(json.dumps({"vae": json.loads((one / "stages.json").read_text())["vae"]}))
    place, flags = f"2@localhost:{free_port()}", [f"--workdir={two}", "--config.mesh.data=0"]
    started = [
        subprocess.Popen([*run, *flags, f"--processes={index}/{place}"], cwd=ROOT, stderr=subprocess.PIPE)
        for index in range(2)
    ]
    errors = [process.communicate(timeout=1200)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    subprocess.run([*run[:3], f"--workdir={two}", "--verify"], cwd=ROOT, check=True, capture_output=True)
    files = {path.relative_to(one).as_posix() for path in one.rglob("*.npz")}
    assert files == {path.relative_to(two).as_posix() for path in two.rglob("*.npz")}
    for file in sorted(files - {"samples.npz"}):  # these are drawn by a prior whose training has rounded otherwise
        expected, found = arrays(one / file), arrays(two / file)
        for name in expected:
            if expected[name].dtype.kind == "f":
                scale = 1e-6 + 1e-5 * np.abs(expected[name][np.isfinite(expected[name])]).max()
                np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=scale, err_msg=f"{file} {name}")
            elif name != "settings":
                np.testing.assert_array_equal(found[name], expected[name], err_msg=f"{file} {name}")
    losses = [
        {(line["stage"], line["step"]): line["valid/objective"] for line in map(json.loads, text.splitlines())}
        for text in ((workdir / "metrics.jsonl").read_text() for workdir in (one, two))
    ]
    assert {stage for stage, _ in losses[1]} == {"decoder", "prior", "classifier"}
    for place, value in losses[1].items():
        assert value == pytest.approx(losses[0][place], rel=1e-4), place


@pytest.mark.slow
def test_eight_devices_give_the_results_of_one(tmp_path):
    process = start(8, "8", str(tmp_path))
    output, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors
    assert output.strip().endswith("equal on 8 devices")


@pytest.mark.slow
def test_two_processes_give_the_results_of_one_device(tmp_path):
    port = free_port()
    both = [start(2, "4", str(tmp_path), f"{index}/2@localhost:{port}") for index in range(2)]
    ended = [process.communicate(timeout=1200) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert all(output.strip().endswith("equal on 4 devices") for output, _ in ended)


def test_without_a_mesh_nothing_is_moved():
    rows = np.zeros((5, 2))
    with mesh.use_devices(1):
        assert mesh.size() == 1
        assert mesh.round_up(5) == 5
        assert mesh.shard_rows(rows) is rows
        assert mesh.replicate(rows) is rows
        assert mesh.replicated() is None


def test_more_devices_than_there_are_is_refused():
    count = len(jax.devices())
    message = f"expected mesh.data at most the number of devices {count}, got {count + 1}; lower"
    with pytest.raises(ValueError, match=message), mesh.use_devices(count + 1):
        pass
    assert mesh.size() == 1


@pytest.mark.parametrize("text", ["", "2", "0/2", "2/2@localhost:99", "0/2@localhost", "x/2@localhost:99", "0/2@:99"])
def test_a_place_among_processes_that_cannot_be_is_refused(text):
    with pytest.raises(ValueError, match="expected --processes=auto or INDEX/COUNT@HOST:PORT with INDEX < COUNT, got"):
        processes.join(text)
    assert processes.is_main()
