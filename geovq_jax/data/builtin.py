"""Data sets that come with this package and with scikit-learn."""

import importlib.util
import zlib
from pathlib import Path

import numpy as np

from geovq_jax.data.records import Examples


def _package_file(package: str, *parts: str) -> Path:
    """Path of a file in an installed package, without importing the package, which would take seconds."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"expected the package {package}, found none; pip install it again")
    path = Path(spec.origin).parent.joinpath(*parts)
    if not path.is_file():
        raise FileNotFoundError(f"expected {path}, found none; pip install --force-reinstall {package}")
    return path


def mnist5k_path() -> Path:
    """The table of 5,000 MNIST digits, see MNIST.txt beside it; FileNotFoundError if the package lacks it."""
    return _package_file("geovq_jax", "data", "mnist5k.csv.gz")


def digits_path() -> Path:
    """scikit-learn's table of 1,797 small digits; FileNotFoundError if the package lacks it."""
    return _package_file("sklearn", "datasets", "data", "digits.csv.gz")


def _read_table(path: Path, rows: int, side: int) -> Examples:
    try:
        table = np.loadtxt(path, np.uint8, delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"expected a table of digits, got a damaged file {path}; reinstall its package") from error
    if table.shape != (rows, side**2 + 1) or table[:, -1].max() > 9:
        raise ValueError(
            f"expected {rows} rows of {side**2} pixels and a digit, got {table.shape} in {path}; reinstall its package"
        )
    return Examples(table[:, :-1].reshape(-1, side, side, 1), table[:, -1].astype(np.int32))


def mnist5k() -> Examples:
    """5,000 real 28 x 28 digits of MNIST: the first 500 of each class of its training set, class after class."""
    return _read_table(mnist5k_path(), 5_000, 28)


def digits() -> Examples:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, rescaled from 0..16 to 0..255, in the order of the file."""
    examples = _read_table(digits_path(), 1_797, 8)
    return examples._replace(images=np.rint(examples.images * (255 / 16)).astype(np.uint8))
