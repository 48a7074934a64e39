"""Rate-distortion curves against closed forms and scaling laws."""

import numpy as np
import pytest

from geovq_jax.evaluation.rate_distortion import bd_rate, paired_interval, quality_at

RATES = np.asarray([20.0, 35.0, 60.0, 90.0])


def gaussian(rates, gain=0.0):
    """Quality of 16 Gaussian components at a rate: 6.02 dB per bit of each."""
    return 20 * np.log10(2) * rates / 16 + gain


def test_a_scaled_rate_is_its_own_difference():
    quality = np.log(RATES)
    assert bd_rate((0.8 * RATES, quality), (RATES, quality)) == pytest.approx(-0.2, abs=1e-12)
    assert bd_rate((RATES[::-1], quality[::-1]), (RATES, quality)) == pytest.approx(0.0, abs=1e-12)


def test_against_numerical_integration_of_exact_curves():
    """Quality linear in the logarithm of the rate, which the interpolation has exactly; ranges overlap in part."""
    first, second = 3.0 * np.log(RATES) + 1.0, 2.5 * np.log(RATES) + 2.0
    low, high = max(first.min(), second.min()), min(first.max(), second.max())
    grid = np.linspace(low, high, 100_001)
    gap = np.mean((grid - 1.0) / 3.0 - (grid - 2.0) / 2.5)
    assert bd_rate((RATES, first), (RATES, second)) == pytest.approx(np.expm1(gap), abs=1e-6)


def test_swapped_curves_invert_the_ratio():
    first, second = (RATES, gaussian(RATES)), (RATES, gaussian(RATES, gain=0.4))
    assert (1 + bd_rate(first, second)) * (1 + bd_rate(second, first)) == pytest.approx(1.0, abs=1e-12)
    assert bd_rate(second, first) < 0


def test_curves_without_a_common_quality():
    assert np.isnan(bd_rate((RATES, np.log(RATES)), (RATES, 10 + np.log(RATES))))
    assert np.isnan(quality_at(95.0, (RATES, np.log(RATES))))


def test_quality_between_and_at_the_points():
    assert quality_at(50.0, (RATES, np.log(RATES))) == pytest.approx(np.log(50.0), abs=1e-12)
    assert [quality_at(rate, (RATES, gaussian(RATES))) for rate in RATES] == pytest.approx(gaussian(RATES))


@pytest.mark.parametrize("curve", [([3.0], [20.0]), ([0.0, 1.0], [20.0, 21.0]), ([1.0, 2.0], [20.0, 20.0])])
def test_curves_that_say_nothing(curve):
    with pytest.raises(ValueError, match="expected"):
        bd_rate(curve, (RATES, np.log(RATES)))


def test_pairing_removes_what_images_share():
    """The interval of a difference is that of its own spread, 0.1 / sqrt(n), not of the images', 5 / sqrt(n)."""
    rng = np.random.default_rng(0)
    shared = rng.normal(20.0, 5.0, 900)
    scores = np.stack([shared, shared + 0.5 + rng.normal(0.0, 0.1, 900)], axis=1)
    found = paired_interval(scores, lambda means: means[1] - means[0], seed=0)
    assert found.value == pytest.approx(np.diff(scores.mean(axis=0))[0])
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.1 / 30, rel=0.15)
