"""Codebooks without geodesics, fitted to the same latents as the geodesic one, with the same interface.

Each function returns a `Baseline`: K vectors, and a linear map under which a latent's code is its nearest vector.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.cluster import KMeans

from geovq_jax.geometry.batching import decode_all
from geovq_jax.geometry.checks import CHECK_DECODER, CHECK_ENCODER, check_array, check_count, check_form, check_lengths
from geovq_jax.geometry.graphs.knn import knn
from geovq_jax.geometry.metric import DecodeFn

Latents = Float[np.ndarray, "n d"]
_RESTARTS = 3
_ITERATIONS = 100


class Baseline(NamedTuple):
    """A codebook of latents whose cells are Voronoi cells: Euclidean after the linear map `transform`."""

    vectors: Float[np.ndarray, "K d"]
    transform: Float[np.ndarray, "d m"]


def encode(baseline: Baseline, latents: Float[np.ndarray, "*n d"]) -> Int[np.ndarray, "*n"]:
    """Code of each latent, [n] or [n, h, w] int32: the nearest vector after the baseline's linear map.

    Raises ValueError for latents of another form or dimension, or not finite.
    """
    check_array("code vectors", baseline.vectors, "K d")
    size = baseline.vectors.shape[1]
    check_array("transform", baseline.transform, f"{size} m")
    check_array("latents", latents, f"n h w {size}" if getattr(latents, "ndim", 0) == 4 else f"n {size}", CHECK_ENCODER)
    rows = latents.reshape(-1, size)
    found = knn(baseline.vectors @ baseline.transform, 1, queries=rows @ baseline.transform)
    return np.asarray(found.indices, np.int32).reshape(latents.shape[:-1])


def kmeans(latents: Latents, num_clusters: int, *, seed: int) -> Baseline:
    """Euclidean K-means, the best of three starts; ValueError for fewer latents than clusters or latents not finite."""
    _check(latents, num_clusters)
    return Baseline(_kmeans(latents, num_clusters, seed), np.eye(latents.shape[1], dtype=latents.dtype))


def mahalanobis(latents: Latents, metric: Float[np.ndarray, "d d"], num_clusters: int, *, seed: int) -> Baseline:
    """K-means in one constant metric, such as the mean pull-back metric E[J'J] over the training latents.

    With metric = A A', distances are Euclidean after z -> A' z, the map of the baseline; the centres are means of
    latents. Raises ValueError as `kmeans`, and for a metric that is not positive semi-definite.
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
    """Euclidean K-medoids of squared distances, by alternation from K-means centres; the vectors are latents.

    The member that minimises the squared distances to its cell is the one nearest to the cell's mean, since the sum is
    N |z - mean|^2 + constant; so both halves of an iteration are exact and O(n K).
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
    """K-means of the decoded training latents; all images are kept in memory.

    The centres are means of images, which need not be the image of any latent; clusters are formed in image space.
    Returns the baseline with the latent of each cell whose image is nearest to the cell's mean image, the mean images,
    flat [K, p], and the codes of the latents [n].
    """
    _check(latents, num_clusters)
    images = decode_all(decode_fn, latents, batch_size=batch_size).reshape(len(latents), -1)
    means = _kmeans(images, num_clusters, seed, restarts=1)
    codes = np.asarray(knn(means, 1, queries=images).indices[:, 0], np.int32)
    members = nearest_members(images, codes, means)
    return Baseline(latents[members], np.eye(latents.shape[1], dtype=latents.dtype)), means, codes


def encode_decoded(
    decode_fn: DecodeFn,
    vectors: Float[np.ndarray, "K d"],
    images: Float[np.ndarray, "n ..."],
    *,
    costs: Float[np.ndarray, " K"] | None = None,
) -> Int[np.ndarray, " n"]:
    """Code of each image, of the decoded shape or flat: the one whose vector decodes nearest to it.

    The assignment for codebooks of vanilla latents: K images are decoded, so the search is exact. With `costs` it is
    the code of least squared error, summed over x, plus cost.
    """
    known = decode_all(decode_fn, vectors).reshape(len(vectors), -1)
    check_form("images", images, " ".join("n" * getattr(images, "ndim", 1)))
    queries = check_array("images", images.reshape(len(images), -1), f"n {known.shape[1]}")
    if costs is not None:  # one more coordinate, in which the squared distance of a vector to every image is its cost
        known = np.concatenate([known, np.sqrt(check_lengths("costs", costs, str(len(known))))[:, None]], axis=1)
        queries = np.pad(queries, [(0, 0), (0, 1)])
    return np.asarray(knn(known, 1, queries=queries).indices[:, 0], np.int32)


def gaussian(latents: Latents, num_clusters: int, *, seed: int) -> Baseline:
    """Vectors drawn from the normal distribution with the latents' mean and covariance: a codebook without learning."""
    check_array("latents", latents, "n d", CHECK_ENCODER)
    check_count("the number of latents", len(latents), 2, advice="one latent has no covariance")
    check_count("num_clusters", num_clusters)
    rng = np.random.default_rng(seed)
    drawn = rng.multivariate_normal(latents.mean(axis=0), np.cov(latents.T).reshape(2 * latents.shape[1:]),
                                    num_clusters, method="cholesky", check_valid="ignore")  # fmt: skip
    return Baseline(drawn.astype(latents.dtype), np.eye(latents.shape[1], dtype=latents.dtype))


def scalar(latents: Latents, levels: tuple[int, ...]) -> Baseline:
    """Finite scalar quantization after training: a grid of quantiles along the leading principal axes.

    Axis i has levels[i] values, the means of equally filled bins; the other axes stay at the mean. The map keeps
    the axes in use, so that the nearest vector is the nearest level of each. There are at most d levels; their product
    is K.

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

    Raises ValueError for a K that is not a power of two.
    """
    check_count("num_codes", num_codes)
    check_count("dimensions", dimensions)
    bits = int(math.log2(num_codes))
    if 2**bits != num_codes:
        raise ValueError(f"expected a power of two for the number of scalar codes, got {num_codes}; choose one")
    axes = min(dimensions, -(-bits // 2))
    return tuple(2 ** (bits // axes + (axis < bits % axes)) for axis in range(axes))


def cell_means(latents: Latents, codes: Int[np.ndarray, " n"], num_clusters: int) -> Float[np.ndarray, "K d"]:
    """Mean latent of each cell; of all latents where a cell is empty."""
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
    """Row of each cluster's member nearest to its vector; of the nearest point of all where a cluster is empty."""
    distances = np.sum((points - vectors[codes]) ** 2, axis=1)
    order = np.lexsort((distances, codes))
    cells, first = np.unique(codes[order], return_index=True)
    members = np.asarray(knn(points, 1, queries=vectors).indices)[:, 0].astype(np.int64)
    members[cells] = order[first]
    return members
