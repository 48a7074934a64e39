"""A user's own images: a folder with one sub-folder per class, or of images without classes."""

import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt
from PIL import Image, ImageOps, UnidentifiedImageError

from geovq_jax.data.records import Examples

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
# Only decoders of still pixel images: Pillow would otherwise also try formats that start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
_GREY_MODES = frozenset({"1", "L", "LA"})
_COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
_DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})  # grey of 16 bits
CROPS = ("fit", "pad", "centre")


def _images_in(folder: Path) -> list[Path]:
    """Images directly in a folder, by name; hidden files and other kinds of files are skipped."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    )


def list_images(folder: str | Path) -> tuple[list[str], list[Path], list[int]]:
    """Names of the classes (sub-folders), paths of the images sorted by class and name, and the class of each image.

    A folder without sub-folders is one class. FileNotFoundError without folder, or without images in a class.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"expected a folder {folder}, found none; give the path of a folder of images")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes or [folder.name]):
        images = _images_in(folder / name if classes else folder)
        if not images:
            raise FileNotFoundError(
                f"expected images ({', '.join(sorted(SUFFIXES))}) in {folder / name if classes else folder}, found "
                "none; add some or remove it"
            )
        paths += images
        labels += [label] * len(images)
    return classes or [folder.name], paths, labels


def _open(path: Path) -> Image.Image:
    """Open an image lazily; raises for a file that is not an image or would be misread."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=_FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombWarning, Image.DecompressionBombError, OSError) as error:
        raise ValueError(
            f"expected an image that can be read, below Pillow's size limit, got {path}: {one_line(error)}; remove it"
        ) from error
    if image.mode not in _GREY_MODES | _COLOUR_MODES | _DEEP_MODES:
        image.close()
        raise ValueError(
            f"expected 8 bits per channel, or 16-bit grey, got mode {image.mode} in {path}; convert the image"
        )
    return image


def is_deep(path: Path) -> bool:
    """Whether an image is greyscale with 16 bits; ValueError for a file that is not an image."""
    with _open(path) as image:
        return image.mode in _DEEP_MODES


def one_line(error: BaseException) -> str:
    """Message of an error without line breaks."""
    return " ".join(str(error).split())


def read_folder(folder: str | Path, size: tuple[int, int], crop: str = "fit") -> tuple[Examples, list[str]]:
    """Examples of a folder, sorted by class and name, each brought to (height, width) by `crop`; and the classes.

    Images become grey if all of them are grey, otherwise RGB; grey ones have 16 bits if any has. Transparency is
    dropped. FileNotFoundError without images, ValueError for a file that is not a readable image.
    """
    classes, paths, labels = list_images(folder)
    modes = {}
    for path in paths:
        with _open(path) as image:
            modes[image.mode] = path
    deep = [path for mode, path in modes.items() if mode in _DEEP_MODES]
    grey = modes.keys() <= _GREY_MODES | _DEEP_MODES
    if deep and not grey:
        raise ValueError(f"expected 16 bits in grey images only, got {deep[0]} among colour images; convert it")
    images = np.stack([read_image(path, size, crop, grey=grey, deep=bool(deep)) for path in paths])
    return Examples(images, np.asarray(labels, np.int32)), classes


def read_image(
    path: Path, size: tuple[int, int], crop: str = "fit", *, grey: bool, deep: bool = False
) -> UInt[np.ndarray, "height width channels"]:
    """One image brought to (height, width): grey or RGB of 8 bits, or grey of 16 bits.

    Args:
        path: file of the image.
        size: height and width.
        crop: "fit" resizes the largest central part of the same proportions, "pad" the whole image, on black; "centre"
            cuts the central part without resizing, on black where the image is smaller.
        grey: one channel, not three.
        deep: 16 bits; for grey images.

    Raises:
        ValueError: a size or crop that does not exist, or a file that is not a readable image.
    """
    if min(size) < 1 or crop not in CROPS:
        raise ValueError(
            f"expected a positive image size and a crop among {', '.join(CROPS)}, got {size} and {crop!r}; correct one"
        )
    with _open(path) as image:
        try:
            upright = ImageOps.exif_transpose(image)
            if deep:  # Pillow resizes floats, but no integers of 16 bits
                scale = 1.0 if image.mode in _DEEP_MODES else 257.0
                pixels = np.asarray(upright if scale == 1.0 else upright.convert("L"), np.float32)
                upright = Image.fromarray(scale * pixels)
            else:
                upright = upright.convert("L" if grey else "RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"expected a complete image, got {path}: {one_line(error)}; remove it") from error
    height, width = size
    if crop == "centre":
        left, top = (upright.width - width) // 2, (upright.height - height) // 2
        shown = upright.crop((left, top, left + width, top + height))
    else:
        shown = (ImageOps.fit if crop == "fit" else ImageOps.pad)(upright, (width, height))
    array = np.asarray(shown).reshape(height, width, 1 if grey else 3)
    return np.rint(np.clip(array, 0, 65535)).astype(np.uint16) if deep else array
