"""Encodes images in files to codes of a finished run, and decodes codes to images in files."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from geovq_jax import data, staleness
from geovq_jax.data.arrays import read_npz
from geovq_jax.data.folder import is_deep, list_images, read_image
from geovq_jax.stages.run import CHUNK, Run, load_run
from geovq_jax.stages.samples import Given
from geovq_jax.terminal import progress_bar, say
from geovq_jax.workdir import load_npz, save_npz, write_atomically


class Place(NamedTuple):
    """Images of one file, folder or npz file: their names, and their files or, from npz, their pixels."""

    names: list[str]
    images: Sequence[Path] | np.ndarray


def encode(workdir: Path | None, places: Sequence[str], out: Path) -> None:
    """Codes of images in files, folders and npz files, as the run encodes its own, into an npz file.

    It holds `codes` int32 [n] or [n, h, w], and `names` [n] of the images: paths, PATH:ROW in an npz file. Images of
    files are brought to the run's size by data.crop.

    Raises:
        FileNotFoundError: a path without images, or a stage of the run that has not finished.
        ValueError: images that are damaged or of another shape, or a run that is damaged or stale.
    """
    if out.suffix != ".npz":
        raise ValueError(f"expected --out=NAME.npz, got {str(out)!r}; write e.g. --out=codes.npz")
    run, found = _open(workdir), [find(place) for place in places]
    names = [name for place in found for name in place.names]
    if not names:
        raise ValueError("expected images, folders or npz files after the flags, got none; name some")
    parts: list[np.ndarray] = []
    with progress_bar("encoding") as progress:
        for images in read(run, found):
            parts.append(run.encode(images))
            progress(sum(map(len, parts)), len(names))
    save_npz(out, codes=np.concatenate(parts), names=np.array(names))
    say("encode", f"{len(names)} images, {out}")


def decode(workdir: Path | None, files: Sequence[str], out: Path) -> None:
    """Images of the array `codes` of an npz file: into an npz file as float32 in [0, 1], or as PNG files into a folder.

    Raises:
        FileNotFoundError: no such file, or a stage of the run that has not finished.
        ValueError: codes that are not the run's, or a run that is damaged or stale.
    """
    if len(files) != 1:
        raise ValueError(f"expected one npz file of codes after the flags, got {len(files)}; name one")
    run, codes_file = _open(workdir), Path(files[0])
    codes = load_npz(codes_file, stage="encode").get("codes")
    shape = run.codes("train").codes.shape[1:]
    if codes is None or codes.shape[1:] != shape or not len(codes):
        got = "none" if codes is None else f"{codes.shape}"
        raise ValueError(
            f"expected codes [{', '.join(map(str, ('n', *shape)))}] in {codes_file}, got {got}; encode again"
        )
    if out.suffix != ".npz" and run.image_shape[2] not in (1, 3):
        raise ValueError(f"expected --out=NAME.npz for {run.image_shape[2]} channels, got {str(out)!r}; write that")
    parts: list[np.ndarray] = []
    with progress_bar("decoding") as progress:
        for start in range(0, len(codes), CHUNK):
            images = run.decode(codes[start : start + CHUNK])
            if out.suffix == ".npz":
                parts.append(images)
            else:
                _write_pictures(out, images, start)
            progress(min(start + CHUNK, len(codes)), len(codes))
    if parts:
        save_npz(out, images=np.concatenate(parts))
    say("decode", f"{len(codes)} images, {out}")


def _open(workdir: Path | None) -> Run:
    if workdir is None:
        raise ValueError("expected --workdir=W of a finished run, got none; give one")
    staleness.check_run(workdir)
    return load_run(workdir)


def to_complete(workdir: Path, place: str, mask: Path) -> Given:
    """Codes of the images of a file, folder or npz file, and which of them a mask marks.

    A black and white image, or a .npy array: white (not 0) places are drawn anew. It has one entry per code, or several
    in each direction, any of which marks its code.

    Raises:
        FileNotFoundError: no images, no mask, or a run of which a stage is missing.
        ValueError: a mask of another shape or that marks nothing, a run without grids of codes.
    """
    run, found = _open(workdir), find(place)
    codes = np.concatenate([run.encode(images) for images in read(run, [found])])
    if codes.ndim != 3:
        raise ValueError(
            "expected a run with grids of codes to complete, got one code per image; train vae.kind=spatial"
        )
    return Given(codes, _read_mask(mask, (codes.shape[1], codes.shape[2])))


def _read_mask(path: Path, grid: tuple[int, int]) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"expected an image or a .npy array at {path}, found none; correct --mask")
    try:
        marks = (
            np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.asarray(Image.open(path).convert("L"))
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"expected an image or a .npy array at {path}, got {error}; correct --mask") from error
    if marks.ndim != 2 or marks.shape[0] % grid[0] or marks.shape[1] % grid[1]:
        raise ValueError(
            f"expected a mask of a multiple of {grid[0]} x {grid[1]} in {path}, got {marks.shape}; resize it"
        )
    marked = (marks != 0) if path.suffix == ".npy" else (marks > 127)
    blocks = marked.reshape(grid[0], marks.shape[0] // grid[0], grid[1], marks.shape[1] // grid[1])
    places = np.asarray(blocks.any(axis=(1, 3)))
    if not places.any():
        raise ValueError(f"expected a mask with white places in {path}, got none; white is drawn anew, black is kept")
    return places


def _write_pictures(folder: Path, images: np.ndarray, first: int) -> None:
    for row, image in enumerate(images, first):
        pixels = np.rint(255 * image).astype(np.uint8)
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        write_atomically(folder / f"{row:06d}.png", partial(picture.save, format="PNG"))


def find(place: str) -> Place:
    """Images of an image file, of a folder (sorted by class and name) or of an npz file."""
    path = Path(place)
    if path.suffix == ".npz":
        images = read_npz(path)[0].images
        return Place([f"{path}:{row}" for row in range(len(images))], images)
    if not path.exists():
        raise FileNotFoundError(f"expected an image, a folder or an npz file, found none at {path}; correct the path")
    paths = list_images(path)[1] if path.is_dir() else [path]
    return Place([str(image) for image in paths], paths)


def read(run: Run, places: Sequence[Place]) -> Iterator[np.ndarray]:
    """Images of several paths in batches of at most `CHUNK`; images of files are resized to the run's shape."""
    for _, images in places:
        for start in range(0, len(images), CHUNK):
            batch = images[start : start + CHUNK]
            yield batch if isinstance(batch, np.ndarray) else np.stack([_read_file(run, path) for path in batch])


def _read_file(run: Run, path: Path) -> np.ndarray:
    height, width, channels = run.image_shape
    if channels not in (1, 3):
        raise ValueError(f"expected an npz file with images of {channels} channels, got {path}; put them into one")
    deep = channels == 1 and is_deep(path)
    pixels = read_image(path, (height, width), run.config.data.crop, grey=channels == 1, deep=deep)
    return np.asarray(data.to_float(pixels))
