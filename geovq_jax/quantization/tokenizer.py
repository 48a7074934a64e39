"""Held-out latents to codes: the geodesic distance to a medoid through the nearest nodes of the training graph.

For a new latent q with neighbours p among the nodes, the distance to the medoid of node p is taken along the path that
enters the graph at p:

    d(q) = min_p L(q, p) + d(p, medoid(p)),   L the edge length of the graph (endpoint rule); O(k) a latent.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from geovq_jax.geometry.knn import knn

_CHUNK = 4096


class Tokenizer(NamedTuple):
    """What encoding needs of the training graph; no images, no edges.

    Attributes:
        points: [n, d] float32, latents of the graph's nodes.
        metrics: [n, d, d] float32, pull-back metric at each node, or None where edges are Euclidean.
        labels: [n] int32, code of each node.
        distances: [n] float64, geodesic distance of each node to its medoid.
    """

    points: Float[np.ndarray, "n d"]
    metrics: Float[np.ndarray, "n d d"] | None
    labels: Int[np.ndarray, " n"]
    distances: Float[np.ndarray, " n"]


def encode(
    tokenizer: Tokenizer,
    latents: Float[np.ndarray, "m d"],
    metrics: Float[np.ndarray, "m d d"] | None,
    *,
    k: int,
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Codes of latents that are not nodes of the graph.

    Args:
        tokenizer: nodes with their codes and distances.
        latents: m latents.
        metrics: pull-back metric at each latent; None exactly where the tokenizer has none.
        k: neighbours through which a latent may enter the graph.

    Returns:
        codes [m] int32 in [0, K), and the geodesic distance [m] of each latent to its medoid.

    Raises:
        ValueError: metrics given to a Euclidean tokenizer or missing for a pull-back one, non-finite latents.
    """
    if (metrics is None) != (tokenizer.metrics is None):
        raise ValueError(
            f"expected {'no metrics' if tokenizer.metrics is None else 'a metric for each latent'} for this tokenizer, "
            f"got {'none' if metrics is None else 'some'}; measure the latents' lengths as the graph's edges were"
        )
    if not np.isfinite(latents).all():
        raise ValueError("expected finite latents, got NaN or infinity; check the encoder's output")
    neighbours = knn(tokenizer.points, min(k, len(tokenizer.points)), queries=latents)
    indices, distances = np.asarray(neighbours.indices), np.asarray(neighbours.distances)
    codes = np.empty(len(latents), np.int32)
    totals = np.empty(len(latents), np.float64)
    for start in range(0, len(latents), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        entry = indices[chunk]
        if tokenizer.metrics is None or metrics is None:
            lengths = distances[chunk].astype(np.float64)
        else:
            steps = tokenizer.points[entry] - latents[chunk][:, None, :]
            lengths = 0.5 * (_norms(metrics[chunk][:, None], steps) + _norms(tokenizer.metrics[entry], steps))
        through = lengths + tokenizer.distances[entry]
        best = through.argmin(axis=1)[:, None]
        totals[chunk] = np.take_along_axis(through, best, axis=1)[:, 0]
        codes[chunk] = tokenizer.labels[np.take_along_axis(entry, best, axis=1)[:, 0]]
    return codes, totals


def _norms(metrics: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """sqrt(v' G v) for steps [m, k, d] and metrics [m, 1 or k, d, d]."""
    squared = np.einsum("mkd,mkd->mk", np.matmul(steps[..., None, :], metrics)[..., 0, :], steps)
    return np.sqrt(np.maximum(squared, 0.0)).astype(np.float64)
