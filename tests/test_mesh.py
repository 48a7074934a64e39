"""Eight simulated devices give what one gives; a mesh that cannot be is refused."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from geovq_jax import mesh


@pytest.mark.slow
def test_eight_devices_give_the_results_of_one():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(Path(__file__).with_name("mesh_check.py"))]
    done = subprocess.run(command, env={**os.environ, **flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("equal on 8 devices")


def test_without_a_mesh_nothing_is_moved():
    rows = np.zeros((5, 2))
    with mesh.over(1):
        assert mesh.size() == 1
        assert mesh.rounded(5) == 5
        assert mesh.split(rows) is rows
        assert mesh.replicate(rows) is rows
        assert mesh.replicated() is None


def test_more_devices_than_there_are_is_refused():
    count = len(jax.devices())
    message = f"expected mesh.data at most the number of devices {count}, got {count + 1}; lower"
    with pytest.raises(ValueError, match=message), mesh.over(count + 1):
        pass
    assert mesh.size() == 1
