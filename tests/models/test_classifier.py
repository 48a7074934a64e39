from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from geovq_jax.models import classifier
from geovq_jax.models.classifier import Architecture

DIGITS = Architecture((8, 8, 1), 10, channels=(8, 16), num_features=32)


loss = jax.jit(classifier.loss, static_argnums=2)


def indices(seed, step, num_examples=1200, batch_size=64):
    return np.random.default_rng((seed, step)).integers(0, num_examples, batch_size).astype(np.int32)


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    images = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], labels[order].astype(np.int32)


augmented = []


def augment(key, images):
    augmented.append(images)
    return images + 0.1 * jax.random.normal(key, images.shape)


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    images, labels = digits
    folder = tmp_path_factory.mktemp("classifier")
    train = partial(
        classifier.train,
        DIGITS,
        images[:1200],
        labels[:1200],
        images[1200:1500],
        labels[1200:1500],
        key=jax.random.key(0),
        indices_fn=partial(indices, 0),
        num_steps=250,
        evaluate_every=125,
        augment_fn=augment,
        directory=folder,
    )
    return train(), train


def test_learns_digits(digits, trained):
    images, labels = digits
    predictions = classifier.predict(trained[0].params, DIGITS, images[1500:])
    assert (predictions.labels == labels[1500:]).mean() > 0.92
    assert predictions.features.shape == (len(images) - 1500, 32)
    assert ((predictions.confidences > 0.1) & (predictions.confidences <= 1.0)).all()
    best = min(trained[0].history, key=lambda record: record["valid/objective"])
    assert best["valid/accuracy"] > 0.9
    assert best["step"] == trained[0].best_step


def test_augmentation_sees_the_batch(trained):
    # Once a trace, with the abstract batch.
    assert {(images.shape, images.dtype.name) for images in augmented} == {((64, 8, 8, 1), "float32")}


def test_a_finished_training_is_read_back(trained):
    again = trained[1]()
    assert again.best_step == trained[0].best_step
    jax.tree.map(np.testing.assert_array_equal, again.params, trained[0].params)


def test_predictions_do_not_depend_on_batches_or_storage(digits, trained):
    images, params = digits[0][:37], trained[0].params
    whole = classifier.predict(params, DIGITS, images)
    ragged = classifier.predict(params, DIGITS, images, batch_size=16)
    as_float = classifier.predict(params, DIGITS, images.astype(np.float32) / 255)
    for other in (ragged, as_float):
        np.testing.assert_array_equal(whole.labels, other.labels)
        np.testing.assert_allclose(whole.features, other.features, atol=1e-5)
    table, features = classifier.log_probabilities(params, DIGITS, images)
    np.testing.assert_allclose(np.exp(table).sum(axis=1), 1.0, atol=1e-5)
    by_hand = features @ np.asarray(params["logits"]["kernel"]) + np.asarray(params["logits"]["bias"])
    np.testing.assert_array_equal(by_hand.argmax(axis=1), whole.labels)


def test_loss_of_an_undecided_classifier_is_log_c():
    shapes = jax.eval_shape(partial(classifier.init, arch=DIGITS), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    value, metrics = loss(jax.random.key(1), params, DIGITS, jnp.zeros((6, 8, 8, 1)), jnp.arange(6, dtype=jnp.int32))
    assert value == pytest.approx(np.log(10.0), rel=1e-6)
    assert metrics["accuracy"] == pytest.approx(1 / 6)


def test_loss_is_smoothed_cross_entropy(monkeypatch, trained):
    monkeypatch.setattr(classifier, "DROPOUT", 0.0)
    # A batch size of its own: `loss` is traced again, without dropout.
    params = trained[0].params
    images, labels = jax.random.uniform(jax.random.key(2), (5, 8, 8, 1)), np.array([3, 1, 4, 1, 5], np.int32)
    value, _ = loss(jax.random.key(1), params, DIGITS, images, jnp.asarray(labels))
    table, _ = classifier.log_probabilities(params, DIGITS, np.asarray(images))
    expected = -(0.95 * table[np.arange(5), labels] + 0.05 * table.mean(axis=1)).mean()
    assert value == pytest.approx(expected, rel=1e-5)


def test_any_image_size_and_refusal_of_another():
    arch = Architecture((10, 15, 3), 4, channels=(4, 4, 4), num_features=8)
    params = jax.eval_shape(partial(classifier.init, arch=arch), jax.random.key(0))
    image = jax.ShapeDtypeStruct(arch.image_shape, jnp.float32)
    shape = jax.eval_shape(lambda params, image: classifier.features(params, arch, image), params, image).shape
    assert shape == (8,)
    assert params["features"]["kernel"].shape == (2 * 2 * 4, 8)
    with pytest.raises(ValueError, match=r"expected images of shape \(10, 15, 3\), got \(8, 8, 1\)"):
        classifier.predict(params, arch, np.zeros((2, 8, 8, 1), np.uint8))
