import numpy as np
import pytest
from scipy.stats import norm

from geovq_jax.evaluation.statistics import bootstrap_interval, half_sample_interval, paired_difference

VALUES = np.random.default_rng(0).gamma(2.0, 1.5, 400)
ERROR = VALUES.std(ddof=1) / np.sqrt(len(VALUES))


def test_bootstrap_of_a_mean_matches_the_normal_interval():
    interval = bootstrap_interval(VALUES, seed=0)
    assert interval.value == pytest.approx(VALUES.mean())
    assert interval.low == pytest.approx(VALUES.mean() - 1.96 * ERROR, abs=0.15 * ERROR)
    assert interval.high == pytest.approx(VALUES.mean() + 1.96 * ERROR, abs=0.15 * ERROR)


def test_bootstrap_covers_at_its_level():
    rng = np.random.default_rng(1)
    intervals = [
        bootstrap_interval(rng.standard_normal(60), seed=i, level=0.8, resamples=300, statistic=np.median)
        for i in range(150)
    ]
    covered = np.mean([interval.low <= 0.0 <= interval.high for interval in intervals])
    assert 0.69 < covered < 0.91


def test_bootstrap_is_a_function_of_its_seed():
    assert bootstrap_interval(VALUES, seed=3) == bootstrap_interval(VALUES, seed=3)
    assert bootstrap_interval(VALUES, seed=3) != bootstrap_interval(VALUES, seed=4)


@pytest.mark.parametrize("values", [[2.5], [2.5, 2.5, 2.5]])
def test_what_does_not_vary_has_no_width(values):
    assert bootstrap_interval(np.array(values), seed=0) == (2.5, 2.5, 2.5)


def test_paired_difference_removes_the_shared_part():
    rng = np.random.default_rng(2)
    shared = 10.0 * rng.standard_normal(300)
    first, second = shared + 0.3 + 0.1 * rng.standard_normal(300), shared + 0.1 * rng.standard_normal(300)
    interval = paired_difference(first, second, seed=0)
    assert interval.value == pytest.approx((first - second).mean())
    error = norm.ppf(0.975) * (first - second).std(ddof=1) / np.sqrt(300)
    assert interval.high - interval.low == pytest.approx(2.0 * error, rel=0.1)
    assert interval.low > 0.2


def test_halves_give_the_standard_error_of_a_mean():
    interval = half_sample_interval(lambda rows: VALUES[rows[0]].mean(), [len(VALUES)], seed=0, resamples=800)
    assert interval.value == pytest.approx(VALUES.mean())
    assert interval.high - interval.value == pytest.approx(1.96 * ERROR, rel=0.1)


def test_halves_of_two_samples_add_their_variances():
    other = np.random.default_rng(5).normal(0.0, 4.0, 100)
    interval = half_sample_interval(
        lambda rows: VALUES[rows[0]].mean() - other[rows[1]].mean(), [400, 100], seed=0, resamples=800
    )
    expected = 1.96 * np.hypot(ERROR, other.std(ddof=1) / 10.0)
    assert interval.high - interval.value == pytest.approx(expected, rel=0.1)


@pytest.mark.usefixtures("unchecked")
def test_refusals():
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval(np.zeros(0), seed=0)
    with pytest.raises(ValueError, match=r"level in \(0, 1\), got 95"):
        bootstrap_interval(VALUES, seed=0, level=95)
    with pytest.raises(ValueError, match="same units"):
        paired_difference(VALUES, VALUES[1:], seed=0)
    with pytest.raises(ValueError, match="at least 2 items"):
        half_sample_interval(lambda rows: 0.0, [1], seed=0)
