"""The codebook: K vectors of latent space with their origin and the hash of their VAE."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from geovq_jax.geometry.checks import check_ids
from geovq_jax.workdir import hash_arrays, save_npz


class Codebook(NamedTuple):
    """Code vectors (latents) and statistics of their clusters.

    `medoids` are graph nodes, -1 for a vector that is not a node; `counts` and `radii` the number of graph nodes of
    each cell and their largest geodesic distance to the medoid; `settings` how it was built, with the hash of the VAE's
    parameters as "vae".
    """

    vectors: Float[np.ndarray, "K d"]
    medoids: Int[np.ndarray, " K"]
    counts: Int[np.ndarray, " K"]
    radii: Float[np.ndarray, " K"]
    settings: Mapping[str, Any]


def parameters_hash(params: Any) -> str:
    """sha256 over all leaves of a parameter tree: paths, types, shapes and bytes."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return hash_arrays({jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})


def save_codebook(path: Path, codebook: Codebook, **nodes: np.ndarray) -> None:
    """Write a codebook to an npz file, settings as JSON text, with further arrays such as the code of each node."""
    arrays = codebook._asdict() | {"settings": json.dumps(dict(codebook.settings), sort_keys=True)}
    save_npz(path, **arrays, **nodes)


def codebook_of(arrays: Mapping[str, np.ndarray], path: Path) -> Codebook:
    """The codebook among the arrays of the npz file `path`; ValueError if arrays are missing or damaged."""
    try:
        settings = json.loads(str(arrays["settings"]))
        return Codebook(arrays["vectors"], arrays["medoids"], arrays["counts"], arrays["radii"], settings)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"expected a codebook in {path}, got {error}; rerun python -m geovq_jax.build_codebook"
        ) from error


def lookup(codebook: Codebook, codes: Int[np.ndarray, "..."]) -> Float[np.ndarray, "... d"]:
    """Code vectors of codes of any shape.

    Raises:
        ValueError: codes that are not integers in [0, K).

    Example:
        >>> codebook = Codebook(np.array([[0.0], [5.0]]), np.array([-1, -1]), np.ones(2, int), np.zeros(2), {})
        >>> lookup(codebook, np.array([[1, 0]])).tolist()
        [[[5.0], [0.0]]]
    """
    return codebook.vectors[check_ids("codes", codes, len(codebook.vectors), "...")]
