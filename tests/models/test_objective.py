"""Every term of the loss against hand values, scipy's densities or a scaling law."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from geovq_jax.models import objective as objectives
from geovq_jax.models.objective import Objective

IMAGES = jnp.array([[[[0.0]], [[1.0]]], [[[0.5]], [[0.25]]]])
LOGITS = jnp.array([[[[0.0]], [[2.0]]], [[[-1.0]], [[3.0]]]])
PIXELS = jnp.array([[[[0.5]], [[0.5]]], [[[0.5]], [[0.75]]]])


def test_bernoulli_is_the_cross_entropy_of_a_coin():
    probability = 1.0 / (1.0 + np.exp(-np.asarray(LOGITS, np.float64)))
    target = np.asarray(IMAGES, np.float64)
    by_hand = -(target * np.log(probability) + (1 - target) * np.log1p(-probability)).sum() / 2
    np.testing.assert_allclose(objectives.bernoulli_loss(LOGITS, IMAGES), by_hand, rtol=1e-6)


def test_bernoulli_stays_finite_at_large_logits():
    np.testing.assert_allclose(objectives.bernoulli_loss(jnp.full((1, 1, 1, 1), -200.0), jnp.ones((1, 1, 1, 1))), 200.0)


@pytest.mark.parametrize(("loss", "by_hand"), [("mse", (0.25 + 0.25 + 0.0 + 0.25) / 2), ("l1", (0.5 + 0.5 + 0.5) / 2)])
def test_pixel_losses_sum_over_pixels_and_average_over_images(loss, by_hand):
    value = objectives.reconstruction(Objective(loss=loss), LOGITS, PIXELS, IMAGES)
    np.testing.assert_allclose(value, by_hand)


def test_calibrated_is_the_gaussian_likelihood_at_its_best_variance():
    residual = np.asarray(PIXELS - IMAGES, np.float64).ravel()

    def negative_log_likelihood(scale):
        return -stats.norm.logpdf(residual, scale=scale).sum() / 2

    value = objectives.reconstruction(Objective(loss="calibrated"), LOGITS, PIXELS, IMAGES)
    best = math.sqrt(np.mean(residual**2))
    np.testing.assert_allclose(value, negative_log_likelihood(best), rtol=1e-6)
    assert float(value) < min(negative_log_likelihood(0.9 * best), negative_log_likelihood(1.1 * best))


def test_bernoulli_alone_reads_the_logits():
    value = objectives.reconstruction(Objective(loss="bernoulli"), LOGITS, jnp.zeros_like(PIXELS), IMAGES)
    np.testing.assert_allclose(value, objectives.bernoulli_loss(LOGITS, IMAGES))


@pytest.mark.parametrize(
    ("mean", "variance", "by_hand"), [(0.0, 1.0, 0.0), (1.0, 1.0, 0.5), (0.0, math.e, 0.5 * (math.e - 2.0))]
)
def test_gaussian_kl_hand_values(mean, variance, by_hand):
    value = objectives.gaussian_kl(jnp.array(mean), jnp.log(jnp.array(variance)))
    np.testing.assert_allclose(value, by_hand, atol=1e-7)


def test_gaussian_kl_is_the_integral_it_stands_for():
    mean, scale = 0.7, 0.4
    x, width = np.linspace(-5, 5, 20_001, retstep=True)
    log_ratio = stats.norm.logpdf(x, mean, scale) - stats.norm.logpdf(x)
    integral = (stats.norm.pdf(x, mean, scale) * log_ratio).sum() * width
    value = objectives.gaussian_kl(jnp.array(mean), jnp.array(2 * math.log(scale)))
    np.testing.assert_allclose(value, integral, rtol=1e-5)


def test_linear_ramp():
    ramp = [float(objectives.linear_ramp(step, 10)) for step in (0, 5, 10, 40)]
    np.testing.assert_allclose(ramp, [0.0, 0.5, 1.0, 1.0])
    assert float(objectives.linear_ramp(0, 0)) == 1.0


KL = jnp.array([[1.0, 0.0, 0.3], [3.0, 0.2, 0.5]])  # batch means 2.0, 0.1, 0.4


@pytest.mark.parametrize(
    ("objective", "step", "by_hand"),
    [
        (Objective(), 0, 2.5),
        (Objective(beta=0.2), 7, 0.5),
        (Objective(beta=0.2, anneal_steps=100), 25, 0.125),
        (Objective(free_bits=0.25), 0, 2.0 + 0.25 + 0.4),
        (Objective(beta=3.0, capacity=4.0), 0, 3.0 * 1.5),
        (Objective(capacity=4.0, capacity_mode="clipped"), 0, 0.0),
        (Objective(capacity=4.0, capacity_steps=8, capacity_mode="clipped"), 2, 1.5),
        (Objective(capacity=4.0, capacity_steps=8), 6, 0.5),
    ],
)
def test_rate_hand_values(objective, step, by_hand):
    np.testing.assert_allclose(objectives.rate(objective, KL, step), by_hand, rtol=1e-6, atol=1e-7)


def test_cell_bits_steer_each_latent_vector():
    # Two cells of two dimensions; batch means of their rates are 3 ln 2 and 0.5 ln 2, targets 2 bits.
    kl = math.log(2.0) * jnp.array([[[[1.0, 2.0], [0.25, 0.0]]], [[[1.0, 2.0], [0.5, 0.25]]]])
    for mode, by_hand in (("abs", 1.0 + 1.5), ("clipped", 1.0)):
        value = objectives.rate(Objective(cell_bits=2.0, capacity_mode=mode), kl, 0)
        np.testing.assert_allclose(value, by_hand * math.log(2.0), rtol=1e-6)


def test_free_bits_give_no_gradient_below_their_level():
    gradient = jax.grad(lambda kl: objectives.rate(Objective(free_bits=0.25), kl, 0))(KL)
    np.testing.assert_allclose(gradient, [[0.5, 0.0, 0.5], [0.5, 0.0, 0.5]])


def test_without_annealing_is_the_end_of_the_schedules():
    objective = Objective(beta=0.3, anneal_steps=10, capacity=5.0, capacity_steps=20)
    final = objectives.without_annealing(objective)
    np.testing.assert_allclose(objectives.rate(final, KL, 0), objectives.rate(objective, KL, 1_000))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Objective(loss="huber"), "expected loss to be one of bernoulli, mse, l1, calibrated, got 'huber'"),
        (Objective(capacity_mode="soft"), "expected capacity_mode to be one of abs, clipped, got 'soft'"),
        (Objective(capacity=1.0, cell_bits=2.0), "at most one of capacity and cell_bits"),
    ],
)
def test_meaningless_objectives_are_refused(objective, message):
    with pytest.raises(ValueError, match=message):
        objectives.check(objective)
