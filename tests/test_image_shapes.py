"""Images of any shape, depth and number of channels through every stage, the report and the explorer."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import geovq_jax

ROOT = Path(__file__).parents[1]
SMALL = (
    "data.max_train=150",
    "data.max_valid=24",
    "data.max_test=24",
    "graph.num_images=30",
    "codebook.num_clusters=16",
)


def blobs(shape: tuple[int, int, int], num_images: int = 240) -> np.ndarray:
    """Images [n, *shape] in [0, 1] of one bright spot, of a colour of its own, whose size is one of three."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: shape[0], : shape[1]][:, None] / np.reshape(shape[:2], (2, 1, 1, 1)) - rng.random(
        (2, num_images, 1, 1)
    )
    width = 0.05 * (1 + np.arange(num_images) % 3)[:, None, None]
    return np.exp(-(x**2 + y**2) / width)[..., None] * rng.random((num_images, 1, 1, shape[2]))


def pictures(folder: Path) -> str:
    """A folder of colour files, one sub-folder per class, larger than what is read."""
    for row, image in enumerate(blobs((80, 70, 3))):
        path = folder / "pictures" / f"class{row % 3}" / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * image).astype(np.uint8)).save(path)
    return f"folder:{folder / 'pictures'}"


def arrays(shape: tuple[int, int, int], dtype: type, *, labels: bool):
    def write(folder: Path) -> str:
        images = np.rint(np.iinfo(dtype).max * blobs(shape)).astype(dtype)
        np.savez(folder / "a.npz", images=images, **({"labels": np.arange(len(images)) % 3} if labels else {}))
        return f"npz:{folder / 'a.npz'}"

    return write


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "shape", "settings"),
    [
        (pictures, (64, 64, 3), ("data.image_size=(64,64)",)),
        (arrays((128, 96, 1), np.uint8, labels=True), (128, 96, 1), ("vae.channels=(4,8,8,16)",)),
        (arrays((21, 34, 5), np.uint16, labels=False), (21, 34, 5), ("vae.loss=mse",)),
        (
            arrays((9, 40, 2), np.uint8, labels=False),
            (9, 40, 2),
            ("vae.kind=vanilla", "vae.channels=(4,8)", "graph.num_images=0"),
        ),
    ],
    ids=["colour files 64x64", "grey 128x96", "five channels of 16 bits 21x34", "two channels 9x40, vanilla"],
)
def test_every_stage_takes_images_of_any_shape(source, shape, settings, tmp_path):
    workdir = tmp_path / "run"
    keys = (f"data.name={source(tmp_path)}", *SMALL, *settings)
    command = [
        sys.executable,
        "-m",
        "geovq_jax.run",
        f"--config={ROOT}/configs/cifar10.py:smoke",
        f"--workdir={workdir}",
    ]
    done = subprocess.run([*command, *(f"--config.{key}" for key in keys)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = geovq_jax.load_run(workdir)
    assert run.image_shape == shape
    np.testing.assert_array_equal(run.encode(run.dataset.test.images), run.codes("test").codes)
    assert run.decode(run.codes("test").codes).shape == (24, *shape)
    assert (workdir / "report" / "index.html").stat().st_size > 0
    from geovq_jax.explorer.drawing import png_address
    from geovq_jax.explorer.runs import run_space

    space = run_space(run)
    assert png_address(space.picture([0])[0]).startswith("data:image/png")
    assert png_address(space.code_pictures[0]).startswith("data:image/png")
