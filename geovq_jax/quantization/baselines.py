"""Codebooks that know no geodesics, fitted to the same latents as the geodesic one and read through the same interface.

Each function returns a `Baseline`: K vectors, and a linear map under which a latent's code is its nearest vector.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.cluster import KMeans

from geovq_jax.geometry.batching import decode_all
from geovq_jax.geometry.checks import CHECK_DECODER, CHECK_ENCODER, check_array, check_count, check_form
from geovq_jax.geometry.graphs.knn import knn
from geovq_jax.geometry.metric import DecodeFn

Latents = Float[np.ndarray, "n d"]
_RESTARTS = 3
_ITERATIONS = 100


class Baseline(NamedTuple):
    """A codebook whose cells are Voronoi cells under a linear map of latent space.

    Attributes:
        vectors: [K, d], the latents that stand for the codes.
        transform: [d, m]; distances are Euclidean after it. The identity for Euclidean cells.
    """

    vectors: Float[np.ndarray, "K d"]
    transform: Float[np.ndarray, "d m"]


def encode(baseline: Baseline, latents: Float[np.ndarray, "*n d"]) -> Int[np.ndarray, "*n"]:
    """Code of each latent: the nearest vector after the baseline's linear map.

    Args:
        baseline: from one of the functions below.
        latents: [n, d] or grids [n, h, w, d].

    Returns:
        Codes int32 of shape [n] or [n, h, w], every entry in [0, K).

    Raises:
        ValueError: latents of another form or dimension, or not finite.
    """
    check_array("code vectors", baseline.vectors, "K d")
    size = baseline.vectors.shape[1]
    check_array("transform", baseline.transform, f"{size} m")
    check_array("latents", latents, f"n h w {size}" if getattr(latents, "ndim", 0) == 4 else f"n {size}", CHECK_ENCODER)
    rows = latents.reshape(-1, size)
    found = knn(baseline.vectors @ baseline.transform, 1, queries=rows @ baseline.transform)
    return np.asarray(found.indices, np.int32).reshape(latents.shape[:-1])


def kmeans(latents: Latents, num_clusters: int, *, seed: int) -> Baseline:
    """Euclidean K-means, the best of three starts.

    Args:
        latents: [n, d] training latents.
        num_clusters: K.
        seed: of the starts.

    Returns:
        Baseline with Euclidean cells.

    Raises:
        ValueError: fewer latents than clusters, or latents that are not finite.
    """
    _check(latents, num_clusters)
    return Baseline(_kmeans(latents, num_clusters, seed), np.eye(latents.shape[1], dtype=latents.dtype))


def mahalanobis(latents: Latents, metric: Float[np.ndarray, "d d"], num_clusters: int, *, seed: int) -> Baseline:
    """K-means in one constant metric, such as the mean pull-back metric E[J'J] over the training latents.

    With metric = A A', distances are Euclidean after z -> A' z; the centres are means of latents.

    Args:
        latents: [n, d] training latents.
        metric: symmetric, positive semi-definite.
        num_clusters: K.
        seed: of the starts.

    Returns:
        Baseline whose map is the square root of the metric.

    Raises:
        ValueError: as `kmeans`, or a metric of another size or with a negative eigenvalue.
    """
    _check(latents, num_clusters)
    size = latents.shape[1]
    check_array("entries of the metric", metric, f"{size} {size}", CHECK_DECODER)
    eigenvalues, axes = np.linalg.eigh(np.asarray(metric, np.float64))
    if eigenvalues[0] < -1e-6 * abs(eigenvalues[-1]):
        raise ValueError(
            f"expected a positive semi-definite metric, got the eigenvalue {eigenvalues[0]:.3g}; {CHECK_DECODER}"
        )
    transform = (axes * np.sqrt(np.maximum(eigenvalues, 0.0))).astype(latents.dtype)
    nearest = encode(Baseline(_kmeans(latents @ transform, num_clusters, seed), np.eye(size, dtype=latents.dtype)),
                     latents @ transform)  # fmt: skip
    return Baseline(cell_means(latents, nearest, num_clusters), transform)


def kmedoids(latents: Latents, num_clusters: int, *, seed: int) -> Baseline:
    """Euclidean K-medoids of squared distances, by alternation from K-means centres.

    The member that minimises the squared distances to its cell is the one nearest to the cell's mean, since the sum is
    N |z - mean|^2 + constant; so both halves of an iteration are exact and O(n K).

    Args:
        latents: [n, d] training latents.
        num_clusters: K.
        seed: of the K-means starts.

    Returns:
        Baseline whose vectors are latents.

    Raises:
        ValueError: as `kmeans`.
    """
    _check(latents, num_clusters)
    identity = np.eye(latents.shape[1], dtype=latents.dtype)
    vectors = _kmeans(latents, num_clusters, seed)
    medoids = np.full(num_clusters, -1)
    for _ in range(_ITERATIONS):
        codes = encode(Baseline(vectors, identity), latents)
        moved = nearest_members(latents, codes, cell_means(latents, codes, num_clusters))
        if np.array_equal(moved, medoids):
            break
        medoids, vectors = moved, latents[moved]
    return Baseline(vectors, identity)


def decoded_kmeans(
    decode_fn: DecodeFn, latents: Latents, num_clusters: int, *, seed: int, batch_size: int = 256
) -> tuple[Baseline, Float[np.ndarray, "K p"], Int[np.ndarray, " n"]]:
    """K-means of the decoded images: the bound for codebooks of vanilla latents in continuous-quantized error.

    Its centres are means of images, which no latent need decode to, and its cells are cut in image space.

    Args:
        decode_fn: map of one latent [d] to an image.
        latents: [n, d] training latents; the images of all of them are held in memory.
        num_clusters: K.
        seed: of the start.
        batch_size: latents decoded at a time.

    Returns:
        Baseline with the latent of each cell whose image is nearest to the cell's mean image; the mean images, flat
        [K, p]; codes of the training latents [n].

    Raises:
        ValueError: as `kmeans`.
    """
    _check(latents, num_clusters)
    images = decode_all(decode_fn, latents, batch_size=batch_size).reshape(len(latents), -1)
    means = _kmeans(images, num_clusters, seed, restarts=1)
    codes = np.asarray(knn(means, 1, queries=images).indices[:, 0], np.int32)
    members = nearest_members(images, codes, means)
    return Baseline(latents[members], np.eye(latents.shape[1], dtype=latents.dtype)), means, codes


def encode_decoded(
    decode_fn: DecodeFn, vectors: Float[np.ndarray, "K d"], images: Float[np.ndarray, "n ..."]
) -> Int[np.ndarray, " n"]:
    """Code of each image: the one whose vector decodes nearest to it.

    The assignment for codebooks of vanilla latents: K images are decoded, so the search is exact.

    Args:
        decode_fn: map of one latent [d] to an image.
        vectors: code vectors.
        images: of the shape that is decoded, or flat.

    Returns:
        Codes int32 [n], every entry in [0, K).

    Raises:
        ValueError: images of another size than the decoded ones.
    """
    known = decode_all(decode_fn, vectors).reshape(len(vectors), -1)
    check_form("images", images, " ".join("n" * getattr(images, "ndim", 1)))
    queries = check_array("images", images.reshape(len(images), -1), f"n {known.shape[1]}")
    return np.asarray(knn(known, 1, queries=queries).indices[:, 0], np.int32)


def gaussian(latents: Latents, num_clusters: int, *, seed: int) -> Baseline:
    """Vectors drawn from the normal distribution with the latents' mean and covariance: a codebook without learning.

    Args:
        latents: [n, d] training latents.
        num_clusters: K.
        seed: of the draw.

    Returns:
        Baseline with Euclidean cells.

    Raises:
        ValueError: as `kmeans`.
    """
    check_array("latents", latents, "n d", CHECK_ENCODER)
    check_count("the number of latents", len(latents), 2, advice="one latent has no covariance")
    check_count("num_clusters", num_clusters)
    rng = np.random.default_rng(seed)
    drawn = rng.multivariate_normal(latents.mean(axis=0), np.cov(latents.T).reshape(2 * latents.shape[1:]),
                                    num_clusters, method="cholesky", check_valid="ignore")  # fmt: skip
    return Baseline(drawn.astype(latents.dtype), np.eye(latents.shape[1], dtype=latents.dtype))


def scalar(latents: Latents, levels: tuple[int, ...]) -> Baseline:
    """Finite scalar quantization after the fact: a grid of quantiles along the leading principal axes.

    Axis i carries levels[i] values, the means of equally filled bins; the other axes stay at the mean.

    Args:
        latents: [n, d] training latents.
        levels: values along each axis, at most d of them; their product is K. See `scalar_levels`.

    Returns:
        Baseline whose map keeps the principal axes in use, so that the nearest vector is the nearest level of each.

    Raises:
        ValueError: more levels than dimensions or latents, or latents that are not finite.

    Reference: Mentzer et al. 2023, "Finite scalar quantization: VQ-VAE made simple".
    """
    check_array("latents", latents, "n d", CHECK_ENCODER)
    check_count("the number of levels", len(levels), 1, latents.shape[1], "an axis carries one level each")
    for level in levels:
        check_count("a level", level, 1, len(latents), "every value is the mean of some latents")
    mean = latents.mean(axis=0)
    axes = np.linalg.svd((latents - mean).T @ (latents - mean))[0][:, : len(levels)]
    coordinates = np.sort((latents - mean) @ axes, axis=0)
    values = [
        [part.mean() for part in np.array_split(column, count)]
        for column, count in zip(coordinates.T, levels, strict=True)
    ]
    grid = np.stack(np.meshgrid(*values, indexing="ij"), axis=-1).reshape(-1, len(levels))
    return Baseline((mean + grid @ axes.T).astype(latents.dtype), axes.astype(latents.dtype))


def scalar_levels(num_codes: int, dimensions: int) -> tuple[int, ...]:
    """Levels of about four values whose product is K, most values first.

    Raises:
        ValueError: a K that is no power of two, or with too many factors for the dimensions.
    """
    check_count("num_codes", num_codes)
    check_count("dimensions", dimensions)
    bits = int(math.log2(num_codes))
    if 2**bits != num_codes:
        raise ValueError(f"expected a power of two for the number of scalar codes, got {num_codes}; choose one")
    axes = min(dimensions, -(-bits // 2))
    return tuple(2 ** (bits // axes + (axis < bits % axes)) for axis in range(axes))


def cell_means(latents: Latents, codes: Int[np.ndarray, " n"], num_clusters: int) -> Float[np.ndarray, "K d"]:
    """Mean latent of each cell, [K, d]; of all latents where a cell is empty."""
    counts = np.bincount(codes, minlength=num_clusters)
    sums = np.stack([np.bincount(codes, column, minlength=num_clusters) for column in latents.T], axis=1)
    means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], latents.mean(axis=0)[None])
    return means.astype(latents.dtype)


def _check(latents: Any, num_clusters: int) -> None:
    check_array("latents", latents, "n d", CHECK_ENCODER)
    check_count("num_clusters", num_clusters, 1, len(latents), "every cluster needs a latent")


def _kmeans(points: np.ndarray, num_clusters: int, seed: int, *, restarts: int = _RESTARTS) -> np.ndarray:
    model = KMeans(num_clusters, n_init=restarts, max_iter=_ITERATIONS, random_state=seed).fit(points)
    return np.asarray(model.cluster_centers_, points.dtype)


def nearest_members(
    points: Float[np.ndarray, "n d"], codes: Int[np.ndarray, " n"], vectors: Float[np.ndarray, "K d"]
) -> Int[np.ndarray, " K"]:
    """Row of the member of each cluster nearest to its vector; of the nearest point of all where a cluster is empty."""
    distances = np.sum((points - vectors[codes]) ** 2, axis=1)
    order = np.lexsort((distances, codes))
    cells, first = np.unique(codes[order], return_index=True)
    members = np.asarray(knn(points, 1, queries=vectors).indices)[:, 0].astype(np.int64)
    members[cells] = order[first]
    return members
