"""Held-out latents to codes: the geodesic distance to a medoid through the nearest nodes of the graph.

For a new latent q with neighbours p among the nodes, the distance to the medoid of node p is taken along the path that
enters the graph at p:

    d(q) = min_p L(q, p) + d(p, medoid(p)),   L the edge length of the graph (endpoint rule); O(k) per latent.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from geovq_jax.geometry.batching import Progress
from geovq_jax.geometry.cells import measure_cells
from geovq_jax.geometry.checks import (
    CHECK_DECODER,
    CHECK_ENCODER,
    check_array,
    check_choice,
    check_count,
    check_finite,
    check_ids,
    check_latents,
    check_lengths,
)
from geovq_jax.geometry.graphs.indexes import Searched
from geovq_jax.geometry.graphs.knn import knn, prepare_search
from geovq_jax.geometry.metric import DecodeFn
from geovq_jax.geometry.nodes import measure_speeds
from geovq_jax.workdir import load_npz, save_npz

Latents = Float[np.ndarray, "n d"] | Float[np.ndarray, "n h w d"]

_CHUNK = 4096
_ASKED = 3  # entries evaluated at a time; most latents need no more
# Least assumed ratio of the speed at a latent to the speed in the mean metric of its entries. Of 200,000 edges of
# held-out latents (Fashion-MNIST, d = 16) one in ten thousand was below 0.6; the least was 0.48.
_LEAST_OWN = 0.5


class Tokenizer(NamedTuple):
    """The data of the training graph used for encoding: latent, code and distance to its medoid of each node.

    `metrics` are the pull-back metrics at the nodes, None where edges are Euclidean. Latents and metrics are float32.
    """

    points: Float[np.ndarray, "n d"]
    metrics: Float[np.ndarray, "n d d"] | None
    labels: Int[np.ndarray, " n"]
    distances: Float[np.ndarray, " n"]


class Encoded(NamedTuple):
    """Codes int32 of latents, [n] or [n, h, w], in [0, K), and the geodesic distance of each latent to its medoid."""

    codes: Int[np.ndarray, "n ..."]
    distances: Float[np.ndarray, "n ..."]


def save_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """Writes a tokenizer to an npz file, atomically; `load_tokenizer` reads it.

    Example:
        >>> import tempfile
        >>> tokenizer = Tokenizer(np.array([[0.0], [4.0]], np.float32), None, np.array([0, 1]), np.zeros(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_tokenizer(Path(folder) / "tokenizer.npz", tokenizer)
        ...     load_tokenizer(Path(folder) / "tokenizer.npz").labels.tolist()
        [0, 1]
    """
    save_npz(path, **{name: value for name, value in tokenizer._asdict().items() if value is not None})


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads the file that `save_tokenizer` wrote.

    Raises:
        FileNotFoundError: without the file.
        ValueError: for a damaged file, or one of other arrays.

    Example:
        >>> load_tokenizer(Path("absent.npz"))
        Traceback (most recent call last):
        FileNotFoundError: expected a tokenizer in absent.npz, got no file; write it by save_tokenizer
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected a tokenizer in {path}, got no file; write it by save_tokenizer")
    arrays = load_npz(path, stage="build_codebook")
    names = set(Tokenizer._fields)
    if not names - {"metrics"} <= arrays.keys() <= names:
        raise ValueError(
            f"expected the arrays {', '.join(Tokenizer._fields)} in {path}, got {', '.join(arrays)}; write it by "
            "save_tokenizer"
        )
    return Tokenizer(**{"metrics": None} | arrays)  # type: ignore[arg-type]


def encode(
    tokenizer: Tokenizer,
    latents: Latents,
    decode_fn: DecodeFn | None = None,
    *,
    k: int,
    context: str = "own",
    batch_size: int = 4096,
    nodes: Searched | None = None,
    progress: Progress | None = None,
) -> Encoded:
    """Codes of latents that are not nodes of the graph, in memory that does not grow with their number.

    Args:
        tokenizer: nodes with their codes and distances.
        latents: held-out latents or grids of them.
        decode_fn: decoder of one latent in whose metric the graph was measured; None if and only if it is Euclidean.
        k: neighbours through which a latent may enter the graph.
        context: of the cells of grids, as the graph was built: own or isolated.
        batch_size: images whose metrics are held at a time.
        nodes: `prepare_search` of the tokenizer's points, which lets several calls share an index.
        progress: called with (images done, n).

    Returns:
        Encoded, identical in every run. For vectors [n, d], an entry is skipped if it could be the best only with a
        speed at the latent below half of that in the mean metric of all entries.

    Raises:
        ValueError: a decoder given to a Euclidean tokenizer or missing for a pull-back one; latents of another form or
            not finite; a decoder or metrics with NaN or infinity, with the number of latents (or cells) concerned.

    Example:
        >>> tokenizer = Tokenizer(np.array([[0.0], [4.0]], np.float32), None, np.array([0, 1]), np.zeros(2))
        >>> found = encode(tokenizer, np.array([[1.0], [3.5]], np.float32), k=2)
        >>> found.codes.tolist(), found.distances.tolist()
        ([0, 1], [1.0, 0.5])
    """
    _check(tokenizer, decode_fn, "a decoder", k)
    grids = getattr(latents, "ndim", 0) == 4
    check_array("latents", latents, f"n*{' h w' * grids} {tokenizer.points.shape[1]}", CHECK_ENCODER)
    check_choice("context", context, ("own", "isolated"))
    check_count("batch_size", batch_size)
    if decode_fn is not None and len(latents):
        one = latents[:1, :1, :1] if grids and context == "isolated" else latents[:1]
        check_latents(decode_fn, one, "n h w d" if grids else "n d")
    nodes = nodes or prepare_search(tokenizer.points)
    codes, distances = np.empty(latents.shape[:-1], np.int32), np.empty(latents.shape[:-1], np.float64)
    for start in range(0, len(latents), batch_size):
        rows = slice(start, min(start + batch_size, len(latents)))
        part = latents[rows]
        if decode_fn is None:
            result = _encode_measured(tokenizer, nodes, part.reshape(-1, part.shape[-1]), None, k)
        elif grids:
            whole = part.reshape(-1, 1, 1, part.shape[-1]) if context == "isolated" else part
            metrics = np.asarray(measure_cells(decode_fn, whole), np.float32)
            result = _encode_measured(tokenizer, nodes, part.reshape(-1, part.shape[-1]), metrics, k)
        else:
            result = _encode_vectors(tokenizer, nodes, part, decode_fn, k)
        codes[rows], distances[rows] = (values.reshape(part.shape[:-1]) for values in result)
        if progress is not None:
            progress(rows.stop, len(latents))
    check_finite("lengths", distances.reshape(-1))
    return Encoded(codes, distances)


def encode_measured(
    tokenizer: Tokenizer,
    latents: Float[np.ndarray, "m d"],
    metrics: Float[np.ndarray, "m d d"] | None,
    *,
    k: int,
    nodes: Searched | None = None,
) -> Encoded:
    """Codes of single latents with known metrics.

    Args:
        tokenizer: nodes with their codes and distances.
        latents: latents, or cells of grids.
        metrics: pull-back metric at each latent; None if and only if the tokenizer has none.
        k: neighbours through which a latent may enter the graph.
        nodes: `prepare_search` of the tokenizer's points, which lets several calls share an index.

    Returns:
        Encoded; among equal distances the nearest entry wins.

    Raises:
        ValueError: metrics given to a Euclidean tokenizer or missing for a pull-back one; latents or metrics of another
            form, or not finite.

    Example:
        >>> ones = np.ones((2, 1, 1), np.float32)
        >>> tokenizer = Tokenizer(np.array([[0.0], [4.0]], np.float32), ones, np.array([0, 1]), np.array([0.0, 3.0]))
        >>> encode_measured(tokenizer, np.array([[3.0]], np.float32), ones[:1] * 4.0, k=2).codes.tolist()
        [1]
    """
    _check(tokenizer, metrics, "a metric for each latent", k)
    size = tokenizer.points.shape[1]
    check_array("latents", latents, f"n* {size}", CHECK_ENCODER)
    if metrics is not None:
        check_array("metrics", metrics, f"{len(latents)} {size} {size}", CHECK_DECODER)
    found = _encode_measured(tokenizer, nodes or prepare_search(tokenizer.points), latents, metrics, k)
    check_finite("lengths", found.distances)
    return found


def _encode_measured(
    tokenizer: Tokenizer, nodes: Searched, latents: np.ndarray, metrics: np.ndarray | None, k: int
) -> Encoded:
    indices, distances = knn(nodes, min(k, len(tokenizer.points)), queries=latents)
    codes, totals = np.empty(len(latents), np.int32), np.empty(len(latents), np.float64)
    for start in range(0, len(latents), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        entry = indices[chunk]
        if tokenizer.metrics is None or metrics is None:
            lengths = distances[chunk]
        else:
            steps = tokenizer.points[entry] - latents[chunk][:, None, :]
            lengths = 0.5 * (_norms(metrics[chunk][:, None], steps) + _norms(tokenizer.metrics[entry], steps))
        through = lengths + tokenizer.distances[entry]
        through[~np.isfinite(through).all(axis=1)] = np.nan
        best = through.argmin(axis=1)[:, None]
        totals[chunk] = np.take_along_axis(through, best, axis=1)[:, 0]
        codes[chunk] = tokenizer.labels[np.take_along_axis(entry, best, axis=1)[:, 0]]
    return Encoded(codes, totals)


def _encode_vectors(
    tokenizer: Tokenizer, nodes: Searched, latents: Float[np.ndarray, "m d"], decode_fn: DecodeFn, k: int
) -> Encoded:
    """As `encode_measured`, with the decoder evaluated only for entries that may be the best.

    Half of an edge's length follows from the metric at its entry. The other half, in the metric at the latent, is
    predicted by the mean metric of the entries and assumed to be at least `_LEAST_OWN` times the prediction. Entries
    are evaluated in the order of the predicted total until no other can be shorter than the best; the result is exact
    where the assumption holds.
    """
    assert tokenizer.metrics is not None
    entry = knn(nodes, min(k, len(tokenizer.points)), queries=latents).indices
    steps = tokenizer.points[entry] - latents[:, None, :]
    metrics = tokenizer.metrics[entry]
    known = 0.5 * _norms(metrics, steps) + tokenizer.distances[entry]
    expected = 0.5 * _norms(metrics.mean(axis=1, keepdims=True), steps)
    promise = np.argsort(known + expected, axis=1, kind="stable")
    entry, known, expected = (np.take_along_axis(values, promise, axis=1) for values in (entry, known, expected))
    steps = np.take_along_axis(steps, promise[:, :, None], axis=1)
    through, asked = np.full(known.shape, np.inf), np.zeros(known.shape, bool)
    rows = np.arange(len(latents))
    while True:
        best = through[rows].min(axis=1, keepdims=True)
        open_entries = ~asked[rows] & (known[rows] + _LEAST_OWN * expected[rows] < best)
        remain = open_entries.any(axis=1)
        rows, open_entries = rows[remain], open_entries[remain]
        if not len(rows):
            break
        chosen = rows[:, None], np.argsort(~open_entries, axis=1, kind="stable")[:, :_ASKED]
        own = np.asarray(measure_speeds(decode_fn, latents[rows], steps[chosen]), np.float64)
        through[chosen], asked[chosen] = known[chosen] + 0.5 * own, True
    through[(asked & ~np.isfinite(through)).any(axis=1)] = np.nan
    best = through.argmin(axis=1)[:, None]
    codes = tokenizer.labels[np.take_along_axis(entry, best, axis=1)[:, 0]]
    return Encoded(codes.astype(np.int32), np.take_along_axis(through, best, axis=1)[:, 0])


def _check(tokenizer: Tokenizer, measure: object, wanted: str, k: int) -> None:
    if (measure is None) != (tokenizer.metrics is None):
        raise ValueError(
            f"expected {'Euclidean edges' if tokenizer.metrics is None else wanted} for this tokenizer, got "
            f"{'none' if measure is None else wanted}; measure the latents' lengths as the graph's edges were"
        )
    check_array("points of the tokenizer", tokenizer.points, "n d", CHECK_ENCODER)
    size, d = tokenizer.points.shape
    if tokenizer.metrics is not None:
        check_array("metrics of the tokenizer", tokenizer.metrics, f"{size} {d} {d}", CHECK_DECODER)
    check_lengths("distances of the tokenizer", tokenizer.distances, str(size))
    check_ids("labels of the tokenizer", tokenizer.labels, size, str(size))
    check_count("k", k, advice="a latent enters the graph through its k nearest nodes")


def _norms(metrics: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """sqrt(v' G v) for steps [m, k, d] and metrics [m, 1 or k, d, d]."""
    with np.errstate(invalid="ignore", over="ignore"):  # the caller checks for values that are not finite
        squared = np.einsum("mkd,mkd->mk", np.matmul(steps[..., None, :], metrics)[..., 0, :], steps)
        return np.sqrt(np.maximum(squared, 0.0)).astype(np.float64)
