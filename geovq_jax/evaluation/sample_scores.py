"""Scores of generated samples against real ones, on feature arrays: distances, coverage, consistency, diversity.

The features are those of a classifier that the run trains itself, so values cannot be compared with an Inception FID.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist

from geovq_jax.evaluation.statistics import Interval, bootstrap_interval, half_sample_interval

_SHARE, _POSITIVE = (0.0, 1.0), (0.0, np.inf)
_RANGES = {"frechet": _POSITIVE, "precision": _SHARE, "recall": _SHARE, "density": _POSITIVE, "coverage": _SHARE}
Tables = tuple[np.ndarray, np.ndarray, np.ndarray]  # of real and real, fake and fake, real and fake items


class SampleScores(NamedTuple):
    """Scores of samples against real items, each an `Interval`.

    `frechet` (squared feature units, 0 for equal Gaussians), `kernel` (no unit, 0 in expectation for equal
    distributions), `precision`, `recall`, `coverage` in [0, 1], `density` (1 in expectation for equal distributions).
    """

    frechet: Interval
    kernel: Interval
    precision: Interval
    recall: Interval
    density: Interval
    coverage: Interval


class Consistency(NamedTuple):
    """Agreement with the requested class: `overall` interval in [0, 1], `per_class` [C], NaN for a class not asked."""

    overall: Interval
    per_class: Float[np.ndarray, " C"]


def _check_features(real: np.ndarray, fake: np.ndarray, least: int) -> None:
    if real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < least:
        raise ValueError(
            f"expected two feature arrays of one width and at least {least} rows, got {real.shape} and {fake.shape}; "
            "take both from one classifier"
        )


def frechet_distance(real: Float[np.ndarray, "n f"], fake: Float[np.ndarray, "m f"]) -> float:
    """Squared Frechet distance between Gaussians fitted to two sets of features.

    |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)); with S = R'R from a QR decomposition of the centred rows, the
    last trace is the nuclear norm of R_1 R_2', which needs no matrix square root and allows singular covariances.
    It is biased upwards by an amount that falls with n and m: compare at equal sizes.

    Raises:
        ValueError: widths differ or fewer than two rows.

    Reference:
        Dowson and Landau, The Frechet distance between multivariate normal distributions, 1982, equation 4.
    """
    _check_features(real, fake, 2)

    def moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = rows.mean(axis=0, dtype=np.float64)
        return mean, np.linalg.qr(rows - mean[None, :], mode="r") / np.sqrt(len(rows) - 1.0)

    (mean_1, root_1), (mean_2, root_2) = moments(real), moments(fake)
    shared = np.linalg.svd(root_1 @ root_2.T, compute_uv=False).sum()
    return float(max(((mean_1 - mean_2) ** 2).sum() + (root_1**2).sum() + (root_2**2).sum() - 2.0 * shared, 0.0))


def cubic_kernel(a: Float[np.ndarray, "n f"], b: Float[np.ndarray, "m f"]) -> Float[np.ndarray, "n m"]:
    """k(x, y) = (x'y / f + 1)^3 for all pairs of rows."""
    return (a.astype(np.float64) @ b.T.astype(np.float64) / a.shape[1] + 1.0) ** 3


def kernel_distance(
    real: Float[np.ndarray, "n n"], fake: Float[np.ndarray, "m m"], across: Float[np.ndarray, "n m"]
) -> float:
    """Unbiased squared maximum mean discrepancy from the tables of a kernel, which may be slightly negative.

    Reference:
        Binkowski, Sutherland, Arbel and Gretton, Demystifying MMD GANs, 2018, section 4.
    """
    n, m = across.shape
    within_real = (real.sum() - np.trace(real)) / (n * (n - 1))
    within_fake = (fake.sum() - np.trace(fake)) / (m * (m - 1))
    return float(within_real + within_fake - 2.0 * across.mean())


def _neighbour_radii(distances: Float[np.ndarray, "n n"], k: int) -> Float[np.ndarray, " n"]:
    """Distance to the k-th nearest other item; the zero distance to the item itself counts as the 0-th."""
    return np.partition(distances, k, axis=1)[:, k]


def precision_recall(
    real: Float[np.ndarray, "n n"], fake: Float[np.ndarray, "m m"], across: Float[np.ndarray, "n m"], *, k: int = 3
) -> tuple[float, float]:
    """Share of samples on the real manifold, and of real items on the samples' manifold, from tables of distances.

    A manifold is the union of balls around its items that extend to their k-th nearest neighbour.

    Reference:
        Kynkaanniemi et al., Improved precision and recall metric for assessing generative models, 2019, equation 2.
    """
    precision = (across <= _neighbour_radii(real, k)[:, None]).any(axis=0).mean()
    recall = (across <= _neighbour_radii(fake, k)[None, :]).any(axis=1).mean()
    return float(precision), float(recall)


def density_coverage(
    real: Float[np.ndarray, "n n"], across: Float[np.ndarray, "n m"], *, k: int = 5
) -> tuple[float, float]:
    """Mean number of real balls around a sample over k (it may exceed 1), and share of real balls that hold a sample.

    Reference:
        Naeem et al., Reliable fidelity and diversity metrics for generative models, 2020, equations 3 and 4.
    """
    inside = across <= _neighbour_radii(real, k)[:, None]
    return float(inside.sum() / (k * across.shape[1])), float(inside.any(axis=1).mean())


def sample_scores(
    real: Float[np.ndarray, "n f"], fake: Float[np.ndarray, "m f"], *, seed: int, resamples: int = 60
) -> SampleScores:
    """All distribution scores of samples against real items, with 95 % intervals from `resamples` half samples.

    Memory grows with n^2 + m^2 (2,000 items: 100 MB). Limits are cut to the range of the score. Raises ValueError
    where widths differ or a set has fewer than 12 rows.
    """
    _check_features(real, fake, 12)  # a half needs more than the 5 neighbours of `density_coverage`

    def tables(compare: Callable[..., np.ndarray]) -> Callable[[list[np.ndarray]], Tables]:
        """Tables of chosen rows, cut out of those of all rows."""
        within_real, within_fake, across = compare(real, real), compare(fake, fake), compare(real, fake)
        return lambda rows: (
            within_real[np.ix_(rows[0], rows[0])],
            within_fake[np.ix_(rows[1], rows[1])],
            across[np.ix_(*rows)],
        )

    kernels, distances = tables(cubic_kernel), tables(cdist)
    statistics: dict[str, Callable[[list[np.ndarray]], float]] = {
        "frechet": lambda rows: frechet_distance(real[rows[0]], fake[rows[1]]),
        "kernel": lambda rows: kernel_distance(*kernels(rows)),
        "precision": lambda rows: precision_recall(*distances(rows))[0],
        "recall": lambda rows: precision_recall(*distances(rows))[1],
        "density": lambda rows: density_coverage(*distances(rows)[::2])[0],
        "coverage": lambda rows: density_coverage(*distances(rows)[::2])[1],
    }

    def interval(name: str) -> Interval:
        value, low, high = half_sample_interval(
            statistics[name], [len(real), len(fake)], seed=seed, resamples=resamples
        )
        least, largest = _RANGES.get(name, (-np.inf, np.inf))
        return Interval(value, max(low, least), min(high, largest))

    return SampleScores(**{name: interval(name) for name in statistics})


def compare_samples(
    reference: Float[np.ndarray, "n f"],
    candidates: Mapping[str, Float[np.ndarray, "_ f"]],
    *,
    seed: int,
    max_items: int = 2000,
    resamples: int = 60,
) -> dict[str, SampleScores]:
    """Scores of several sets against one reference, at one size, since most scores depend on the number of items.

    Include other real items among the candidates: their scores are the best that samples can reach. Every set is
    randomly reduced to the smallest size, and to `max_items`.
    """
    size = min(max_items, len(reference), *(len(rows) for rows in candidates.values()))
    rng = np.random.default_rng(seed)

    def cut(rows: np.ndarray) -> np.ndarray:
        return rows[np.sort(rng.choice(len(rows), size, replace=False))]

    chosen = cut(reference)
    return {name: sample_scores(chosen, cut(rows), seed=seed, resamples=resamples) for name, rows in candidates.items()}


def class_consistency(
    predicted: Int[np.ndarray, " n"], requested: Int[np.ndarray, " n"], *, num_classes: int, seed: int
) -> Consistency:
    """Share of conditional samples that a classifier assigns to the requested class, overall and per class.

    The test accuracy of the classifier is an upper bound in practice.
    """
    hits = predicted == requested
    counts = np.bincount(requested, minlength=num_classes)
    right = np.bincount(requested, weights=hits, minlength=num_classes)
    per_class = np.where(counts > 0, right / np.maximum(counts, 1), np.nan)
    return Consistency(bootstrap_interval(hits.astype(np.float64), seed=seed), per_class)


def diversity(features: Float[np.ndarray, "n f"], labels: Int[np.ndarray, " n"]) -> float:
    """Mean distance between two items of one class in feature units, over the classes with at least two items.

    Compare it with that of real items. Raises ValueError where no class has two items.
    """
    classes = (features[labels == label] for label in np.unique(labels))
    means = [cdist(rows, rows).sum() / (len(rows) * (len(rows) - 1)) for rows in classes if len(rows) > 1]
    if not means:
        raise ValueError("expected a class with at least two items, got none; draw more samples")
    return float(np.mean(means))
