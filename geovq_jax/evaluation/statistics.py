"""Bootstrap intervals of means and of paired differences."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap


class Interval(NamedTuple):
    """An estimate with its confidence limits: `value`, `low`, `high`, floats in the unit of the data."""

    value: float
    low: float
    high: float


def _percentile_limits(draws: Float[np.ndarray, " r"], level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def bootstrap_interval(
    values: Float[np.ndarray, " n"],
    *,
    seed: int,
    statistic: Callable[..., Any] = np.mean,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Percentile bootstrap interval of a statistic of n independent values.

    Args:
        values: one value an independent unit (an image, a seed) [n].
        seed: seed of the resampling.
        statistic: function of an array that takes `axis`.
        level: confidence level in (0, 1).
        resamples: number of bootstrap samples.

    Returns:
        The statistic and its limits; both limits equal the value where nothing varies (one value, or all equal)
        or where a value is not finite.

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


def paired_difference(
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Bootstrap interval of mean(first - second) over n units scored under both conditions.

    Resampling units and keeping their two scores together removes what the units share (an easy image is easy for both
    codebooks), so the interval is far narrower than the difference of two unpaired ones.

    Args:
        first: scores of the n units under the first condition [n].
        second: scores of the same units, in the same order, under the second condition [n].
        seed: seed of the resampling.
        level: confidence level in (0, 1).
        resamples: number of bootstrap samples.

    Returns:
        The mean difference and its limits; a difference is resolved where zero lies outside them.

    Raises:
        ValueError: the two arrays differ in length.
    """
    if first.shape != second.shape:
        raise ValueError(f"expected scores of the same units, got {first.shape} and {second.shape}; score one split")
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return bootstrap_interval(difference, seed=seed, level=level, resamples=resamples)


def resampled_interval(
    statistic: Callable[[list[np.ndarray]], float],
    sizes: list[int],
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 100,
) -> Interval:
    """Spread of a statistic of several samples when each is resampled, centred on the value of the full samples.

    For statistics that are biased upwards by repeated items (distances between distributions, neighbourhoods), each
    resample draws half of the items *without* replacement; the spread about the mean of these draws estimates the
    standard error at half the size, and sqrt(1/2) scales it to the full size.

    Args:
        statistic: maps one index array for each sample to a number.
        sizes: number of items in each sample.
        seed: seed of the resampling.
        level: confidence level in (0, 1).
        resamples: number of half samples.

    Returns:
        The statistic on all items, with limits.

    Reference:
        Politis, Romano and Wolf, Subsampling, 1999, section 2.2 (the rate is the square root).
    """
    rng = np.random.default_rng(seed)
    value = float(statistic([np.arange(size) for size in sizes]))
    draws = np.array(
        [
            statistic([np.sort(rng.choice(size, max(size // 2, 1), replace=False)) for size in sizes])
            for _ in range(resamples)
        ]
    )
    low, high = _percentile_limits(value + (draws - draws.mean()) * np.sqrt(0.5), level)
    return Interval(value, low, high)
