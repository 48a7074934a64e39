"""A user's own images: a folder with one sub-folder per class."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from geovq_jax.data.records import Examples

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
# Only decoders of still pixel images: Pillow would otherwise also try formats that start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
_GREY_MODES = frozenset({"1", "L", "LA"})
_COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


def list_images(folder: str | Path) -> tuple[list[str], list[Path], list[int]]:
    """Names of the classes (sub-folders), paths of the images sorted by class and name, and the class of each image.

    Hidden entries and other kinds of file are ignored. FileNotFoundError without folder, sub-folder, or images in one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"expected a folder {folder}, found none; give the path of a folder of images")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise FileNotFoundError(f"expected one sub-folder per class in {folder}, found none; sort the images so")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = sorted(
            entry
            for entry in (folder / name).iterdir()
            if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".") and entry.is_file()
        )
        if not images:
            raise FileNotFoundError(
                f"expected images ({', '.join(sorted(SUFFIXES))}) in {folder / name}, found none; add some or remove it"
            )
        paths += images
        labels += [label] * len(images)
    return classes, paths, labels


def _open(path: Path) -> Image.Image:
    """Open an image lazily and refuse what would be read wrongly or is not an image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=_FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombWarning, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"expected an image of usual size, got {path}: {one_line(error)}; remove it") from error
    if image.mode not in _GREY_MODES | _COLOUR_MODES:
        image.close()
        raise ValueError(f"expected 8 bits per channel, got mode {image.mode} in {path}; convert the image to 8 bits")
    return image


def one_line(error: BaseException) -> str:
    """Message of an error without line breaks."""
    return " ".join(str(error).split())


def read_folder(folder: str | Path, size: int) -> tuple[Examples, list[str]]:
    """Examples of a folder, sorted by class and name, each cut to its central square and resized; and the classes.

    Images become grey if all of them are grey, otherwise RGB. Transparency is dropped. FileNotFoundError without
    images, ValueError for a file that is not a readable image.
    """
    if size < 1:
        raise ValueError(f"expected a positive image size, got {size}; 28 or 32 suit the default models")
    classes, paths, labels = list_images(folder)
    modes = set()
    for path in paths:
        with _open(path) as image:
            modes.add(image.mode)
    grey = modes <= _GREY_MODES
    images = np.empty((len(paths), size, size, 1 if grey else 3), np.uint8)
    for row, path in enumerate(paths):
        with _open(path) as image:
            try:
                upright = ImageOps.exif_transpose(image).convert("L" if grey else "RGB")
            except (OSError, SyntaxError, ValueError) as error:
                raise ValueError(f"expected a whole image, got {path}: {one_line(error)}; remove it") from error
        images[row] = np.asarray(ImageOps.fit(upright, (size, size))).reshape(images.shape[1:])
    return Examples(images, np.asarray(labels, np.int32)), classes
