"""Loads a data set by name from the first place that holds it, split by seed."""

import os
from pathlib import Path

from geovq_jax.data import builtin, raw, tfds
from geovq_jax.data.arrays import read_npz
from geovq_jax.data.folder import read_folder
from geovq_jax.data.records import Dataset, Examples
from geovq_jax.data.splits import partition, tenths

BUILTIN = ("mnist5k", "digits")
DOWNLOADED = ("mnist", "fashion_mnist", "cifar10")
CLASS_NAMES = {
    "fashion_mnist": ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
FOLDER_PREFIX, NPZ_PREFIX = "folder:", "npz:"
FOLDER_IMAGE_SIZE = (32, 32)
MAX_CHANNELS = 16
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
NUM_VALID = 5_000

# Sub-folders of a data folder in which the raw files of a data set may lie; "." is the folder itself.
_SUBFOLDERS = {
    "mnist": ("mnist", "."),
    "fashion_mnist": ("fashion_mnist", "fashion-mnist", "."),
    "cifar10": ("cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin", "."),
}


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    max_train: int | None = None,
    max_valid: int | None = None,
    max_test: int | None = None,
    image_size: tuple[int, int] | None = None,
    crop: str = "fit",
) -> Dataset:
    """Load a data set and split it.

    `mnist5k` is split 4,000/500/500 and `digits`, `folder:PATH` and `npz:PATH` 80/10/10 per cent; `mnist`,
    `fashion_mnist` and `cifar10` keep their original test file, and 5,000 rows of the training file are the validation
    split. All splits are stratified and a function of the seed. The latter three are looked for in `data_dir` and
    $GEOVQ_DATA (raw files, then a prepared TFDS folder), in TFDS's own folder, in Debian's folder, and are downloaded
    last.

    Args:
        name: mnist5k, digits, mnist, fashion_mnist, cifar10, `folder:PATH` with one sub-folder per class or images
            alone, or `npz:PATH` with arrays images and labels, see `arrays.read_npz`.
        data_dir: folder to look in first and to download to; None for $GEOVQ_DATA, else TFDS's own.
        max_train, max_valid, max_test: size of a stratified subset of each split; None for all rows.
        image_size: height and width to which `folder:PATH` brings images, by default 32 x 32; not for other names.
        crop: how it does so, see `folder.read_image`.

    Raises:
        ValueError: the name is unknown, an argument is out of range, or a file is damaged.
        FileNotFoundError: a file is missing, or the data set is not found and cannot be downloaded.
    """
    is_folder, is_npz = (name.startswith(prefix) and name != prefix for prefix in (FOLDER_PREFIX, NPZ_PREFIX))
    if not (is_folder or is_npz) and name not in BUILTIN + DOWNLOADED:
        known = (*BUILTIN, *DOWNLOADED, f"{FOLDER_PREFIX}PATH", f"{NPZ_PREFIX}PATH")
        raise ValueError(f"expected a data set among {', '.join(known)}, got {name!r}; choose one")
    if image_size is not None and not is_folder:
        raise ValueError(f"expected no image_size for {name}, got {image_size}; only {FOLDER_PREFIX}PATH is resized")
    if seed < 0:
        raise ValueError(f"expected seed >= 0, got {seed}; choose another")
    limits = (max_train, max_valid, max_test)
    for argument, limit in zip(("max_train", "max_valid", "max_test"), limits, strict=True):
        if limit is not None and limit < 1:
            raise ValueError(f"expected a positive {argument}, got {limit}; None keeps all rows")
    if name in DOWNLOADED:
        train, test, source = find(name, data_dir)
        fitted, valid = partition(train, (len(train.labels) - NUM_VALID, NUM_VALID), limits[:2], seed)
        (tested,) = partition(test, (len(test.labels),), limits[2:], seed)
        return Dataset(name, 10, fitted, valid, tested, source)
    num_classes = 10
    if name == "mnist5k":
        examples, source = builtin.mnist5k(), str(builtin.mnist5k_path())
    elif name == "digits":
        examples, source = builtin.digits(), str(builtin.digits_path())
    elif is_npz:
        source = str(Path(name.removeprefix(NPZ_PREFIX)).expanduser())
        examples, num_classes = read_npz(source)
    else:
        source = str(Path(name.removeprefix(FOLDER_PREFIX)).expanduser())
        examples, classes = read_folder(source, FOLDER_IMAGE_SIZE if image_size is None else image_size, crop)
        num_classes = len(classes)
    return split_examples(name, num_classes, examples, source, limits, seed)


def split_examples(
    name: str,
    num_classes: int,
    examples: Examples,
    source: str,
    limits: tuple[int | None, int | None, int | None],
    seed: int,
) -> Dataset:
    """A table of images as a data set of 80, 10 and 10 per cent; ValueError for too few, or more than 16 channels."""
    if not 1 <= (channels := examples.images.shape[-1]) <= MAX_CHANNELS:
        raise ValueError(f"expected images of 1 to {MAX_CHANNELS} channels, got {channels} in {source}; select some")
    fitted, valid, tested = partition(examples, tenths(len(examples.labels)), limits, seed)
    return Dataset(name, num_classes, fitted, valid, tested, source)


def _existing(folder: str | Path, origin: str) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"expected a folder, found none at {path}; create it or correct {origin}")
    return path


def _raw_folder(name: str, folder: Path) -> Path | None:
    """Folder that contains the raw files of a data set; raises for an incomplete set."""
    paths = raw.cifar10_paths if name == "cifar10" else raw.idx_paths
    return next((folder / sub for sub in _SUBFOLDERS[name] if paths(folder / sub) is not None), None)


def find(
    name: str, data_dir: str | Path | None = None, *, show_progress: bool = False
) -> tuple[Examples, Examples, str]:
    """Read mnist, fashion_mnist or cifar10 from the first place that holds it, downloading it last; see `load`.

    `show_progress` draws the progress of a download on stderr. Returns training and test examples in their original
    order, and where they were found.
    """
    named = _existing(data_dir, "data_dir") if data_dir else None
    variable = os.environ.get("GEOVQ_DATA")
    environment = _existing(variable, "$GEOVQ_DATA") if variable else None
    folders = [folder for folder in (named, environment) if folder is not None]
    for folder in folders:
        found = _raw_folder(name, folder)
        # MNIST and Fashion-MNIST share their file names. $GEOVQ_DATA is searched for every data set, so files of the
        # other one are skipped there; in a folder given for this data set they are a mistake, which the checksums
        # detect.
        if found is not None and (folder == named or name == "cifar10" or raw.identify(found) in (name, None)):
            return _read_raw(name, found)
    for folder in (*folders, tfds.default_dir()):
        if tfds.is_prepared(name, folder):
            return (*tfds.read(name, folder), str(folder / name))
    if name == "fashion_mnist" and _raw_folder(name, DEBIAN_FASHION_MNIST):
        return _read_raw(name, DEBIAN_FASHION_MNIST)
    target = folders[0] if folders else tfds.default_dir()
    tfds.prepare(name, target, show_progress=show_progress)
    return (*tfds.read(name, target), str(target / name))


def _read_raw(name: str, folder: Path) -> tuple[Examples, Examples, str]:
    cifar10 = name == "cifar10"
    read = raw.read_cifar10_folder(folder) if cifar10 else raw.read_idx_folder(folder, sha256=raw.IDX_SHA256[name])
    return (*read, str(folder))
