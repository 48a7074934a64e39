"""Two-dimensional views of the points of a latent space: along its axes, by graph distances, by UMAP."""

import warnings
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from geovq_jax import geometry
from geovq_jax.geometry.graphs.graph import components

_UMAP_NEIGHBOURS = 15


class View(NamedTuple):
    """A two-dimensional view: coordinates, axis labels, and whether it is affine in the latents."""

    name: str
    points: Float[np.ndarray, "n 2"]
    axes: tuple[str, str]
    linear: bool


def geodesic_view(graph: sparse.csr_array, nodes: Int[np.ndarray, " n"], *, seed: int) -> tuple[View, ...]:
    """The given nodes embedded by their distances along a graph; no view if the graph is not connected."""
    if components(graph).max() > 0:
        return ()
    laid = geometry.geodesic_map(graph, seed=seed)
    first, second = (f"geodesic axis {i + 1} ({100.0 * share:.0f} %)" for i, share in enumerate(laid.explained))
    return (View("geodesic", laid.points[nodes], (first, second), linear=False),)


def umap_view(
    points: Float[np.ndarray, "n d"],
    neighbours: Int[np.ndarray, "n k"],
    metrics: Float[np.ndarray, "n d d"] | None,
    *,
    seed: int,
) -> tuple[View, ...]:
    """The points embedded by UMAP from the lengths to their neighbours; no view without umap-learn or for few points.

    Lengths are those of straight lines, in the pull-back metric if given. UMAP runs in one thread, so that equal seeds
    give equal views; 24,000 points take about 15 seconds.

    Reference: McInnes, Healy and Melville, UMAP, arXiv:1802.03426.
    """
    count, k = len(points), min(_UMAP_NEIGHBOURS, neighbours.shape[1])
    if find_spec("umap") is None or count <= 2 * _UMAP_NEIGHBOURS:
        return ()
    edges = np.stack([np.repeat(np.arange(count), k), neighbours[:, :k].ravel()], axis=1)
    lengths = np.asarray(geometry.straight_lengths(points, edges, metrics)).reshape(count, k)
    order = np.argsort(lengths, axis=1, kind="stable")
    ids = np.take_along_axis(edges[:, 1].reshape(count, k), order, axis=1)
    lengths = np.take_along_axis(lengths, order, axis=1)
    # UMAP expects each point as its own first neighbour.
    ids = np.hstack([np.arange(count)[:, None], ids]).astype(np.int32)
    lengths = np.hstack([np.zeros((count, 1)), lengths]).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about TensorFlow and about new points, neither of which is used
        import umap

        model = umap.UMAP(n_neighbors=k + 1, precomputed_knn=(ids, lengths), init="pca", random_state=seed, n_jobs=1)
        laid = model.fit_transform(points)
    return (View("UMAP", np.asarray(laid, np.float64), ("UMAP axis 1", "UMAP axis 2"), linear=False),)
