"""Intervals: bootstrap of means and paired differences, halves for statistics of whole samples."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import bootstrap, norm


class Interval(NamedTuple):
    """An estimate with its confidence limits: `value`, `low`, `high`, floats in the unit of the data."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    values: Float[np.ndarray, " n"],
    *,
    seed: int,
    statistic: Callable[..., Any] = np.mean,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Percentile bootstrap interval of a statistic (a function that takes `axis`) of n independent values.

    Both limits equal the statistic where nothing varies (one value, or all equal) or where a value is not finite.

    Args:
        values: one value per independent unit (an image, a seed).
        level: confidence level in (0, 1).
        resamples: number of bootstrap samples.

    Raises:
        ValueError: no value, or a level outside (0, 1).

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    if values.size == 0:
        raise ValueError("expected at least one value, got none; check the split that was scored")
    if not 0.0 < level < 1.0:
        raise ValueError(f"expected a confidence level in (0, 1), got {level}; write 0.95 for 95 %")
    data = np.asarray(values, dtype=np.float64)
    value = float(statistic(data))
    if not np.isfinite(data).all() or data.min() == data.max():
        return Interval(value, value, value)
    # Blocks of resamples keep the n x resamples table of indices under about 64 MB.
    batch = max(1, min(resamples, 8_000_000 // data.size))
    limits = bootstrap(
        (data,),
        statistic,
        n_resamples=resamples,
        batch=batch,
        confidence_level=level,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value, float(limits.low), float(limits.high))


def paired_difference(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"], *, seed: int) -> Interval:
    """95 % bootstrap interval of mean(first - second) over n units scored, in the same order, under both conditions.

    Resampling units and keeping their two scores together removes what the units share (an easy image is easy for both
    codebooks), so the interval is far narrower than the difference of two unpaired ones. A difference is resolved where
    zero lies outside its limits. Raises ValueError where the lengths differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"expected scores of the same units, got {first.shape} and {second.shape}; score one split")
    return bootstrap_interval(np.asarray(first, np.float64) - np.asarray(second, np.float64), seed=seed)


def half_sample_interval(
    statistic: Callable[[list[Int[np.ndarray, " _"]]], float], sizes: Sequence[int], *, seed: int, resamples: int = 60
) -> Interval:
    """95 % normal interval of a statistic of several samples, from their halves (delete-half jackknife).

    Repeated items distort distances between distributions and neighbourhood scores, so the bootstrap is not suitable.
    Halves drawn without replacement repeat nothing, and as the variance of a mean over half of n items, drawn so, is
    s^2 / (n / 2) (1 - 1/2) = s^2 / n, their spread is the standard error at the full size. A bias that depends on
    the sample size is in the value, not in the limits: compare only values of equal sizes.

    Args:
        statistic: maps one array of item indices per sample to a number.
        sizes: number of items in each sample, at least 2 (else ValueError).
        resamples: number of halvings.

    Reference:
        Shao and Tu, The Jackknife and Bootstrap, 1995, section 2.3, delete-d jackknife with d = n / 2.
    """
    if min(sizes) < 2:
        raise ValueError(f"expected samples of at least 2 items, got sizes {list(sizes)}; draw more samples")
    rng = np.random.default_rng(seed)
    value = float(statistic([np.arange(size) for size in sizes]))

    def halves() -> list[np.ndarray]:
        return [np.sort(rng.choice(size, size // 2, replace=False)) for size in sizes]

    error = np.std([statistic(halves()) for _ in range(resamples)], ddof=1) * norm.ppf(0.975)
    return Interval(value, float(value - error), float(value + error))


class EdgeAgreement(NamedTuple):
    """Pull-back against Euclidean edge lengths: correlations, and median, 5 % and 95 % quantile of their ratio.

    The ratio is pull-back over Euclidean length, over edges of positive Euclidean length.
    """

    correlation: float
    rank_correlation: float
    ratio_median: float
    ratio_low: float
    ratio_high: float


def edge_agreement(euclidean: Float[np.ndarray, " e"], pullback: Float[np.ndarray, " e"]) -> EdgeAgreement:
    """Correlation and ratio of pull-back and Euclidean edge lengths; correlations are NaN where one side is constant.

    Raises ValueError for fewer than two edges, or none of positive length.
    """
    positive = euclidean > 0
    if len(euclidean) < 2 or not positive.any():
        raise ValueError(f"expected at least two edges with some of positive length, got {len(euclidean)}; raise k")

    def correlation(x: np.ndarray, y: np.ndarray) -> float:
        x, y = x - x.mean(), y - y.mean()
        scale = np.sqrt((x @ x) * (y @ y))
        return float(x @ y / scale) if scale > 0 else float("nan")

    from scipy.stats import rankdata

    low, median, high = np.quantile(pullback[positive] / euclidean[positive], [0.05, 0.5, 0.95])
    ranks = correlation(rankdata(euclidean), rankdata(pullback))
    linear = correlation(np.asarray(euclidean, np.float64), np.asarray(pullback, np.float64))
    return EdgeAgreement(linear, ranks, float(median), float(low), float(high))
