"""Fetches a data set, or verifies the local copy: `python -m geovq_jax.data.download NAME [--data_dir DIR]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from geovq_jax.data.datasets import DOWNLOADED, find

ALIASES = {"fashion": "fashion_mnist"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Ensure that a data set is complete on disk; exit code 0, or 2 after one line on stderr with the remedy."""
    parser = argparse.ArgumentParser(prog="python -m geovq_jax.data.download", description=__doc__)
    parser.add_argument("name", help="mnist, fashion or cifar10")
    parser.add_argument("--data_dir", help="folder to look in and to download to (default: $GEOVQ_DATA, else TFDS's)")
    options = parser.parse_args(arguments)
    name = ALIASES.get(options.name, options.name)
    try:
        if name not in DOWNLOADED:
            raise ValueError(f"expected a data set among mnist, fashion, cifar10, got {options.name!r}; choose one")
        if options.data_dir:
            Path(options.data_dir).expanduser().mkdir(parents=True, exist_ok=True)
        train, test, source = find(name, options.data_dir, show_progress=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{name}: {len(train.labels)} training and {len(test.labels)} test images in {source}, checked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
