"""Training and predictions of the classifier on handwritten digits."""

from functools import partial

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from geovq_jax.models.classifier import Architecture
from geovq_jax.stages.classifier import fit_classifier, log_probabilities, predict

DIGITS = Architecture((8, 8, 1), 10, channels=(8, 16), num_features=32)


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
        fit_classifier,
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
    predictions = predict(trained[0].params, DIGITS, images[1500:])
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
    whole = predict(params, DIGITS, images)
    ragged = predict(params, DIGITS, images, batch_size=16)
    as_float = predict(params, DIGITS, images.astype(np.float32) / 255)
    for other in (ragged, as_float):
        np.testing.assert_array_equal(whole.labels, other.labels)
        np.testing.assert_allclose(whole.features, other.features, atol=1e-5)
    table, features = log_probabilities(params, DIGITS, images)
    np.testing.assert_allclose(np.exp(table).sum(axis=1), 1.0, atol=1e-5)
    by_hand = features @ np.asarray(params["head"]["kernel"]) + np.asarray(params["head"]["bias"])
    np.testing.assert_array_equal(by_hand.argmax(axis=1), whole.labels)


def test_images_of_another_size_are_refused(trained):
    with pytest.raises(ValueError, match=r"expected images of shape \(8, 8, 1\), got \(10, 15, 3\)"):
        predict(trained[0].params, DIGITS, np.zeros((2, 10, 15, 3), np.uint8))
