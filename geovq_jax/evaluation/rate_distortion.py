"""Rate-distortion curves: quality at a rate, mean difference in rate at equal quality, and their intervals."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator

from geovq_jax.evaluation.statistics import Interval

Curve = tuple[Sequence[float] | Float[np.ndarray, " m"], Sequence[float] | Float[np.ndarray, " m"]]
"""Rates, above 0, and the qualities there, in any order."""


def bd_rate(curve: Curve, reference: Curve) -> float:
    """Bjontegaard's delta rate: mean difference in rate at equal quality, as a share of the reference's rate.

    The logarithm of the rate is interpolated as a function of quality, monotonically between the points, and averaged
    over the qualities that both curves reach: -0.05 means 5 % fewer bits. NaN where the curves share no quality.

    Raises:
        ValueError: a curve of fewer than two points, with a rate not above 0, or with two points of one quality.

    References:
        Bjontegaard 2001, "Calculation of average PSNR differences between RD-curves", VCEG-M33; for the monotone
        interpolation, Fritsch and Butland 1984.

    Example:
        >>> round(bd_rate(([9.0, 18.0], [20.0, 22.0]), ([10.0, 20.0], [20.0, 22.0])), 9)
        -0.1
    """
    logarithms = [
        _interpolator(np.asarray(qualities), np.log(_rates(rates))) for rates, qualities in (curve, reference)
    ]
    low, high = (pick(one.x[end] for one in logarithms) for pick, end in ((max, 0), (min, -1)))
    if low >= high:
        return float("nan")
    gap = [one.integrate(low, high) / (high - low) for one in logarithms]
    return float(np.expm1(gap[0] - gap[1]))


def quality_at(rate: float, curve: Curve) -> float:
    """Quality of a curve at a rate, interpolated over the logarithm of the rate; NaN outside its rates.

    Raises ValueError as `bd_rate`, but for two points of one rate.

    Example:
        >>> quality_at(20.0, ([10.0, 40.0], [20.0, 22.0]))
        21.0
    """
    rates, qualities = curve
    return float(_interpolator(np.log(_rates(rates)), np.asarray(qualities, np.float64))(np.log(rate)))


def _rates(rates: Any) -> Float[np.ndarray, " m"]:
    rates = np.asarray(rates, np.float64)
    if rates.size < 2 or not (rates > 0).all():
        raise ValueError(f"expected at least two rates above 0, got {rates.tolist()}; measure more points")
    return rates


def _interpolator(x: Float[np.ndarray, " m"], y: Float[np.ndarray, " m"]) -> PchipInterpolator:
    order = np.argsort(x)
    if (np.diff(x[order]) <= 0).any():
        raise ValueError(f"expected points that differ, got {sorted(x.tolist())}; drop one of two equal points")
    return PchipInterpolator(x[order], y[order], extrapolate=False)


def paired_interval(
    scores: Float[np.ndarray, "n m"],
    statistic: Callable[[Float[np.ndarray, " m"]], float],
    *,
    seed: int,
    resamples: int = 1000,
) -> Interval:
    """Bootstrap interval (95 %, percentile) of a statistic of the means of m scores over the same n units.

    Units, such as images, are resampled with all their scores, so that what they share cancels. NaN where the
    statistic is NaN on some resample.

    Example:
        >>> scores = np.random.default_rng(0).normal([1.0, 3.0], 0.1, (400, 2))
        >>> found = paired_interval(scores, lambda means: means[1] - means[0], seed=0)
        >>> found.low < 2.0 < found.high
        True
    """
    rng, count = np.random.default_rng(seed), len(scores)
    values = []
    for _ in range(resamples):
        weights = np.bincount(rng.integers(0, count, count), minlength=count)
        values.append(statistic(weights @ scores / count))
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(statistic(scores.mean(axis=0))), float(low), float(high))
