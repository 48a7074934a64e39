"""Scores of sets whose marks are known: real images, copies of training images, noise, wrong classes."""

from functools import partial

import jax
import numpy as np
import pytest

from geovq_jax import data
from geovq_jax.models import classifier as classifiers
from geovq_jax.stages import scores
from geovq_jax.stages.classifier import predict
from geovq_jax.stages.records import Classifier

ARCH = classifiers.Architecture((8, 8, 1), 10, channels=(4, 8), num_features=8)


@pytest.fixture(scope="module")
def dataset():
    return data.load("digits", seed=0)


@pytest.fixture(scope="module")
def classifier():
    # Random weights: every score below holds in any features.
    return Classifier(jax.jit(partial(classifiers.init, arch=ARCH))(jax.random.key(0)), ARCH)


@pytest.fixture(scope="module")
def table(dataset, classifier):
    real = scores.real_images(dataset, num_items=60, seed=0)
    predicted = predict(*classifier, real.floor).labels
    copies = np.asarray(data.to_float(dataset.train.images[:60]))
    noise = np.random.default_rng(0).random(real.floor.shape).astype(np.float32)
    sets = {"same": real.floor, "copies": copies, "noise": noise}
    labels = {"same": predicted, "copies": (predict(*classifier, copies).labels + 1) % 10}
    return real, scores.score_samples(classifier, sets, labels | {"noise": real.labels}, real, seed=0, resamples=6)


def test_halves_are_disjoint_and_of_equal_size(dataset, table):
    real = table[0]
    assert real.reference.shape == real.floor.shape == (60, 8, 8, 1)
    np.testing.assert_array_equal(real.labels, dataset.test.labels[real.rows])
    np.testing.assert_allclose(real.floor * 255, dataset.test.images[real.rows], atol=1e-4)
    assert not (real.reference[:, None] == real.floor[None]).all(axis=(2, 3, 4)).any()


def test_the_floor_is_scored_as_the_images_that_it_is(table):
    _, found = table
    assert list(found) == ["real", "same", "copies", "noise"]
    assert found["same"]["frechet"] == found["real"]["frechet"]
    assert found["same"]["memorisation"] == found["real"]["memorisation"]


def test_the_class_asked_for(table):
    _, found = table
    assert found["same"]["consistency"].value == 1.0
    assert found["copies"]["consistency"].value == 0.0


def test_copies_are_noticed_and_noise_is_far(table):
    _, found = table
    assert found["copies"]["memorisation"].share_close.value == 1.0
    assert found["copies"]["memorisation"].sample_median == 0.0
    assert found["real"]["memorisation"].share_close.value <= 0.05
    assert found["noise"]["memorisation"].share_close.value == 0.0
    assert found["noise"]["frechet"].value > 2 * found["copies"]["frechet"].value
    assert found["noise"]["coverage"].value < found["copies"]["coverage"].value
