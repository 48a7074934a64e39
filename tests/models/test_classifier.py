"""The classifier: values known by hand, and shapes for any image size."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.special

from geovq_jax.models import classifier
from geovq_jax.models.classifier import Architecture

DIGITS = Architecture((8, 8, 1), 10, channels=(8, 16), num_features=32)

loss = jax.jit(classifier.loss, static_argnums=2)


@pytest.fixture(scope="module")
def params():
    return jax.jit(partial(classifier.init, arch=DIGITS))(jax.random.key(0))


def test_features_and_logits_equal_scipy(params):
    image = np.random.default_rng(0).random((8, 8, 1), np.float32)
    x = image - 0.5
    for layer in ("convolutions_0", "convolutions_1"):
        kernel, bias = np.asarray(params[layer]["kernel"]), np.asarray(params[layer]["bias"])
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        x = np.stack(
            [
                sum(
                    scipy.signal.correlate2d(padded[..., i], kernel[..., i, o], mode="valid")[::2, ::2]
                    for i in range(x.shape[-1])
                )
                + bias[o]
                for o in range(kernel.shape[-1])
            ],
            axis=-1,
        )
        x = x * scipy.special.expit(x)
    hidden = x.reshape(-1) @ np.asarray(params["dense"]["kernel"])
    hidden = hidden * scipy.special.expit(hidden)
    found = classifier.features(params, DIGITS, jnp.asarray(image))
    np.testing.assert_allclose(found, hidden, rtol=1e-4, atol=1e-5)
    by_hand = hidden @ np.asarray(params["head"]["kernel"])
    np.testing.assert_allclose(classifier.logits(params, DIGITS, found), by_hand, rtol=1e-4, atol=1e-5)


def test_loss_of_an_undecided_classifier_is_log_c():
    shapes = jax.eval_shape(partial(classifier.init, arch=DIGITS), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    value, metrics = loss(jax.random.key(1), params, DIGITS, jnp.zeros((6, 8, 8, 1)), jnp.arange(6, dtype=jnp.int32))
    assert value == pytest.approx(np.log(10.0), rel=1e-6)
    assert metrics["accuracy"] == pytest.approx(1 / 6)


def test_loss_is_smoothed_cross_entropy(monkeypatch, params):
    monkeypatch.setattr(classifier, "DROPOUT", 0.0)
    # A batch size of its own: `loss` is traced again, without dropout.
    images, labels = jax.random.uniform(jax.random.key(2), (5, 8, 8, 1)), np.array([3, 1, 4, 1, 5], np.int32)
    value, _ = loss(jax.random.key(1), params, DIGITS, images, jnp.asarray(labels))
    logits = jax.vmap(lambda image: classifier.logits(params, DIGITS, classifier.features(params, DIGITS, image)))(
        images
    )
    table = scipy.special.log_softmax(np.asarray(logits), axis=1)
    expected = -(0.95 * table[np.arange(5), labels] + 0.05 * table.mean(axis=1)).mean()
    assert value == pytest.approx(expected, rel=1e-5)


def test_any_image_size():
    arch = Architecture((10, 15, 3), 4, channels=(4, 4, 4), num_features=8)
    params = jax.eval_shape(partial(classifier.init, arch=arch), jax.random.key(0))
    image = jax.ShapeDtypeStruct(arch.image_shape, jnp.float32)
    shape = jax.eval_shape(lambda params, image: classifier.features(params, arch, image), params, image).shape
    assert shape == (8,)
    assert params["dense"]["kernel"].shape == (2 * 2 * 4, 8)
