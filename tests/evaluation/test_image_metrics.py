import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from geovq_jax.evaluation import image_metrics
from geovq_jax.evaluation.image_metrics import PAIRINGS


def pairs(n, height, width, channels, seed=0):
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0.0, 1.0, height * width).reshape(height, width, 1)
    truth = np.clip(ramp + 0.3 * rng.standard_normal((n, height, width, channels)), 0.0, 1.0)
    noise = np.linspace(0.02, 0.3, n)[:, None, None, None]
    return truth.astype(np.float32), np.clip(truth + noise * rng.standard_normal(truth.shape), 0, 1).astype(np.float32)


def skimage_ssim(first, second):
    return structural_similarity(
        first,
        second,
        data_range=1.0,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 20, 3)])
def test_psnr_and_ssim_equal_scikit_image(shape):
    first, second = pairs(4, *shape)
    expected_psnr = [peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(first, second, strict=True)]
    expected_ssim = [skimage_ssim(a.astype(np.float64), b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(image_metrics.psnr(first, second), expected_psnr, atol=1e-4)
    np.testing.assert_allclose(image_metrics.ssim(first, second), expected_ssim, atol=1e-4)


def loop_ssim(first, second, window):
    """Wang's equation 13, window by window."""
    taps = np.exp(-0.5 * ((np.arange(window) - window // 2) / 1.5) ** 2)
    weights = np.outer(taps, taps) / taps.sum() ** 2
    values = []
    for y in range(first.shape[0] - window + 1):
        for x in range(first.shape[1] - window + 1):
            a, b = (image[y : y + window, x : x + window, 0].astype(np.float64) for image in (first, second))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            top = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
            values.append(top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    return np.mean(values)


@pytest.mark.parametrize(("side", "window"), [(8, 7), (13, 11)])
def test_ssim_of_small_images_takes_the_largest_odd_window(side, window):
    first, second = pairs(3, side, side + 2, 1)
    expected = [loop_ssim(a, b, window) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(image_metrics.ssim(first, second), expected, atol=1e-4)


def test_psnr_of_a_known_error():
    zeros = np.zeros((2, 4, 5, 1), np.float32)
    shifted = zeros + np.array([0.1, 0.01], np.float32)[:, None, None, None]
    np.testing.assert_allclose(image_metrics.psnr(zeros, shifted), [20.0, 40.0], rtol=1e-5)


def test_psnr_is_taken_per_image_before_averaging():
    zeros = np.zeros((2, 12, 12, 1), np.float32)
    other = zeros + np.array([0.1, 1.0], np.float32)[:, None, None, None]
    scores = image_metrics.image_scores(zeros, other)
    assert scores.psnr.mean() == pytest.approx(10.0, abs=1e-4)  # the pooled error would give 2.97 dB


def test_image_scores_do_not_depend_on_the_batch_size():
    first, second = pairs(7, 14, 14, 1)
    seen = []
    ragged = image_metrics.image_scores(first, second, batch_size=3, progress=lambda *done: seen.append(done))
    whole = image_metrics.image_scores(first, second, batch_size=7)
    np.testing.assert_allclose(ragged.psnr, whole.psnr, rtol=1e-6)
    np.testing.assert_allclose(ragged.ssim, whole.ssim, rtol=1e-5)
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_three_pairings_and_their_summary():
    truth, continuous = pairs(6, 14, 14, 1, seed=1)
    quantized = pairs(6, 14, 14, 1, seed=2)[1]
    scores = image_metrics.reconstruction_scores(truth, continuous, quantized)
    assert tuple(scores) == PAIRINGS
    for name, (a, b) in zip(PAIRINGS, [(truth, continuous), (truth, quantized), (continuous, quantized)], strict=True):
        expected = -10 * np.log10(((a.astype(np.float64) - b) ** 2).mean(axis=(1, 2, 3)))
        np.testing.assert_allclose(scores[name].psnr, expected, atol=1e-4)
    row = image_metrics.summarise(scores)["truth-quantized"]
    assert row["psnr"] == pytest.approx(scores["truth-quantized"].psnr.mean())
    assert row["psnr_low"] < row["psnr"] < row["psnr_high"]
    assert row["ssim_low"] < row["ssim"] < row["ssim_high"]


@pytest.mark.usefixtures("unchecked")
def test_refusals():
    with pytest.raises(ValueError, match="one shape, got"):
        image_metrics.psnr(np.zeros((2, 12, 12, 1)), np.zeros((3, 12, 12, 1)))
    with pytest.raises(ValueError, match="divide uint8 by 255"):
        image_metrics.ssim(np.zeros((2, 12, 12, 1), np.uint8), np.zeros((2, 12, 12, 1), np.uint8))
    with pytest.raises(ValueError, match="at least one image pair"):
        image_metrics.image_scores(np.zeros((0, 12, 12, 1)), np.zeros((0, 12, 12, 1)))
