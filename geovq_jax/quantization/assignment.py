"""Codes of latents under a fitted codebook. Arrays in, arrays out.

A codebook's *assignment* says how a latent gets its code:

    linear    the nearest vector after a linear map of latent space
    local     the nearest vector in the pull-back metric at the latent, (c - z)' G(z) (c - z)
    geodesic  the nearest vector in geodesic distance; of a cell, in its slice of the decoder, see `nearest_in_slices`
    graph     the nearest medoid along the graph of the training latents, see `tokenizer`
    decoded   the vector that decodes nearest to the decoded latent

`search` improves codes further by comparing with the images themselves.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Int32

from geovq_jax.geometry import cell_metrics, decode_all, knn, nearest_geodesic, nearest_in_slices, node_metrics
from geovq_jax.geometry.batching import Progress
from geovq_jax.geometry.graphs.indexes import Searched
from geovq_jax.geometry.graphs.knn import prepare_search
from geovq_jax.geometry.metric import DecodeFn
from geovq_jax.quantization import baselines
from geovq_jax.quantization.context import encode_in_context
from geovq_jax.quantization.pullback_kmeans import assign_pullback
from geovq_jax.quantization.rates import Rate
from geovq_jax.quantization.tokenizer import Encoded, Tokenizer, encode_measured
from geovq_jax.quantization.tokenizer import encode as encode_on_graph

Assignment = Literal["linear", "local", "geodesic", "graph", "decoded"]
Latents = Float[np.ndarray, "n d"] | Float[np.ndarray, "n h w d"]
Vectors = Float[np.ndarray, "K d"]

CHUNK = 4096  # latents, or images of grids, whose metrics or decoded images are in memory at once


class Quantizer(NamedTuple):
    """A fitted codebook with everything needed to assign codes; `method` is a name in `METHODS`.

    `vectors` are the code vectors, latents; `transform` is the linear map of the assignment "linear",
    `tokenizer` the coded nodes of the graph of the assignment "graph".
    """

    method: str
    assignment: Assignment
    vectors: Vectors
    transform: Float[np.ndarray, "d m"] | None = None
    tokenizer: Tokenizer | None = None


def rows_of(latents: np.ndarray) -> np.ndarray:
    """One row per node: [n, d] stays, [n, h, w, d] becomes [n h w, d]."""
    return latents.reshape(-1, latents.shape[-1])


def tokenizer_of(
    points: Float[np.ndarray, "n d"],
    metrics: Float[np.ndarray, "n d d"] | None,
    labels: Int[np.ndarray, " n"],
    distances: Float[np.ndarray, " n"],
) -> Tokenizer:
    """Tokenizer over the nodes of a graph that some medoid reaches (label >= 0)."""
    reached = labels >= 0
    return Tokenizer(
        points=points[reached],
        metrics=None if metrics is None else metrics[reached],
        labels=labels[reached],
        distances=distances[reached],
    )


def assign(
    quantizer: Quantizer,
    latents: Latents,
    decode_fn: DecodeFn,
    *,
    metrics: Float[np.ndarray, "..."] | None = None,
    neighbours: int = 15,
    context: str = "own",
    nodes: Searched | None = None,
    progress: Progress | None = None,
) -> Encoded:
    """Chooses the code of each latent by the assignment of a quantizer, in bounded memory.

    Args:
        quantizer: fitted codebook.
        latents: vectors or grids.
        decode_fn: the decoder whose metric the quantizer was fitted in.
        metrics: pull-back metric of each latent or cell, with any leading shape; computed if needed and not given.
        neighbours: graph nodes through which a latent may reach a medoid, of the assignment "graph".
        context: of the metrics of cells: own or isolated, see `cell_metrics`.
        nodes: `prepare_search` of the tokenizer's points, which lets several calls share an index.
        progress: called with (latents done, n).

    Returns:
        Codes int32 in [0, K), [n] or [n, h, w], and distances in the unit of the assignment.

    Raises:
        ValueError: latents of another dimension, or not finite.

    Example:
        >>> quantizer = Quantizer("kmeans", "linear", np.array([[0.0], [5.0]], np.float32))
        >>> assign(quantizer, np.array([[1.0], [4.0]], np.float32), lambda z: z).codes.tolist()
        [0, 1]
    """
    d = quantizer.vectors.shape[1]
    if latents.ndim not in (2, 4) or latents.shape[-1] != d or not len(latents):
        raise ValueError(f"expected latents [n, {d}] or [n, h, w, {d}], got {latents.shape}; encode with this codebook")
    cells = int(np.prod(latents.shape[1:-1]))
    if metrics is not None:
        metrics = np.asarray(metrics).reshape(len(latents), cells, d, d)
    chosen = partial(_ASSIGNMENTS[quantizer.assignment], quantizer, decode_fn, neighbours, context)
    if quantizer.tokenizer is not None:
        chosen = partial(chosen, nodes=nodes or prepare_search(quantizer.tokenizer.points))
    parts = []
    for start in range(0, len(latents), CHUNK):
        rows = slice(start, start + CHUNK)
        own = None if metrics is None else metrics[rows].reshape(-1, d, d)
        parts.append(chosen(latents[rows], own))
        if progress is not None:
            progress(min(rows.stop, len(latents)), len(latents))
    codes, distances = (np.concatenate(part).reshape(latents.shape[:-1]) for part in zip(*parts, strict=True))
    return Encoded(codes.astype(np.int32), distances.astype(np.float64))


def measure(decode_fn: DecodeFn, latents: Latents, context: str = "own") -> Float[np.ndarray, "m d d"]:
    """Pull-back metric float32 of each vector, or of each cell in the context of its grid.

    Example:
        >>> measure(lambda z: 3.0 * z, np.zeros((2, 1), np.float32)).ravel().tolist()
        [9.0, 9.0]
    """
    found = node_metrics(decode_fn, latents) if latents.ndim == 2 else cell_metrics(decode_fn, latents, context=context)
    return np.asarray(found, np.float32).reshape(-1, *2 * latents.shape[-1:])


def _assign_linear(quantizer, decode_fn, neighbours, context, latents, metrics):
    transform = np.eye(latents.shape[-1]) if quantizer.transform is None else quantizer.transform
    found = knn(quantizer.vectors @ transform, 1, queries=rows_of(latents) @ transform)
    return found.indices[:, 0], found.distances[:, 0]


def _assign_local(quantizer, decode_fn, neighbours, context, latents, metrics):
    metrics = measure(decode_fn, latents, context) if metrics is None else metrics
    labels, squares = assign_pullback(rows_of(latents), metrics, quantizer.vectors)
    return labels, np.sqrt(np.maximum(squares, 0.0))


def _assign_geodesic(quantizer, decode_fn, neighbours, context, latents, metrics):
    if latents.ndim == 2:
        found = nearest_geodesic(decode_fn, latents, quantizer.vectors, only_undecided=True)
    else:
        grids = latents.reshape(-1, 1, 1, latents.shape[-1]) if context == "isolated" else latents
        found = nearest_in_slices(decode_fn, grids, quantizer.vectors, metrics=metrics)
    return found.index, found.distance


def _assign_on_graph(quantizer, decode_fn, neighbours, context, latents, metrics, *, nodes):
    on_metrics = quantizer.tokenizer.metrics is not None
    if on_metrics and metrics is None:
        found = encode_on_graph(quantizer.tokenizer, latents, decode_fn, k=neighbours, context=context, nodes=nodes)
        return found.codes.ravel(), found.distances.ravel()
    own = metrics if on_metrics else None
    return encode_measured(quantizer.tokenizer, rows_of(latents), own, k=neighbours, nodes=nodes)


def _assign_decoded(quantizer, decode_fn, neighbours, context, latents, metrics):
    images, known = (decode_all(decode_fn, part).reshape(len(part), -1) for part in (latents, quantizer.vectors))
    found = knn(known, 1, queries=images)
    return found.indices[:, 0], found.distances[:, 0]


_ASSIGNMENTS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "linear": _assign_linear,
    "local": _assign_local,
    "geodesic": _assign_geodesic,
    "graph": _assign_on_graph,
    "decoded": _assign_decoded,
}


def search(
    decode_fn: DecodeFn,
    vectors: Vectors,
    codes: Int[np.ndarray, "n ..."],
    images: Float[np.ndarray, "n ..."],
    *,
    sweeps: int = 3,
    rate: Rate | None = None,
    rate_weight: float = 0.0,
    progress: Progress | None = None,
) -> Int32[np.ndarray, "n ..."]:
    """Improves codes by comparing with the images: grids in context, single codes by decoding every code vector.

    The metrics that propose moves of a grid are those at the code vectors of its initial codes.

    Args:
        decode_fn: decoder that will read the codes.
        vectors: code vectors.
        codes: initial codes, [n] or [n, h, w].
        images: targets of the decoder, in [0, 1].
        sweeps: passes over a grid, see `encode_in_context`.
        rate: code lengths in bits; a single vector counts as a grid of one cell.
        rate_weight: weight of a bit in squared error summed over an image.
        progress: called with (images done, n).

    Returns:
        Codes int32 of the same shape; no image's squared error plus weighted bits increases.

    Raises:
        ValueError: as `encode_in_context` and `baselines.encode_decoded`.

    Example:
        >>> vectors, images = np.array([[0.0], [0.5]], np.float32), np.array([[0.9]], np.float32)
        >>> search(lambda z: 2.0 * z, vectors, np.array([0]), images).tolist()
        [1]
    """
    if codes.ndim == 1:
        one = jnp.zeros((1, 1), jnp.int32)
        costs = None if rate is None else rate_weight * np.asarray(rate.candidates(one, one[0]), np.float64).ravel()
        return baselines.encode_decoded(decode_fn, vectors, images, costs=costs)
    parts = []
    for start in range(0, len(codes), CHUNK):
        rows = slice(start, start + CHUNK)
        metrics = measure(decode_fn, vectors[codes[rows]]).reshape(*codes[rows].shape, *2 * vectors.shape[1:])
        found = encode_in_context(
            decode_fn,
            vectors,
            codes[rows],
            metrics,
            images[rows],
            sweeps=sweeps,
            rate=rate,
            rate_weight=rate_weight,
        )
        parts.append(found.codes)
        if progress is not None:
            progress(min(rows.stop, len(codes)), len(codes))
    return np.concatenate(parts)
