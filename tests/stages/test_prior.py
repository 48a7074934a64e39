"""Training and scoring of a prior on any codes: the source's entropy, exact resume, what simple models reach."""

import jax
import numpy as np
import pytest

from geovq_jax.config import default_config
from geovq_jax.models import gpt
from geovq_jax.stages import prior
from geovq_jax.stages.records import prior_architecture

SIZES = {
    "embed_dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "dropout": 0.0,
    "learning_rate": 2e-2,
    "warmup_steps": 5,
    "batch_size": 64,
    "num_steps": 120,
    "evaluate_every": 40,
}


def section(**changes):
    config = default_config()
    config.update_from_flattened_dict({f"prior.{name}": value for name, value in (SIZES | changes).items()})
    return config.prior


def grids(num, seed=0):
    """2 x 2 grids of 4 codes: the first is the class, each further one stays or steps up by one, at even odds."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, num).astype(np.int32)
    steps = np.cumsum(np.pad(rng.integers(0, 2, (num, 3)), ((0, 0), (1, 0))), axis=1)
    return ((labels[:, None] + steps) % 4).astype(np.int32).reshape(num, 2, 2), labels


SPLITS = {"train": grids(1000), "valid": grids(200, seed=1)}


def fit(directory=None, progress=None, **changes):
    return prior.fit_prior(
        directory, SPLITS, num_codes=4, num_classes=4, section=section(**changes), seed=3, progress=progress
    )


@pytest.fixture(scope="module")
def unbroken():
    return fit()


@pytest.mark.slow
def test_the_entropy_of_the_source_is_reached_and_beats_simple_models(unbroken):
    params, arch, found = unbroken
    test_codes, test_labels = grids(500, seed=2)
    bits = prior.likelihoods(params, arch, SPLITS["train"][0], test_codes, test_labels, num_dimensions=10)
    # Three choices at even odds in four codes, and two bits more for the first code where the class is not known.
    assert bits["gpt"].bits_per_code == pytest.approx(0.75, abs=0.05)
    assert bits["gpt_without_class"].bits_per_code == pytest.approx(1.25, abs=0.08)
    assert bits["bigram"].bits_per_code == pytest.approx(1.25, abs=0.02)
    assert bits["unigram"].bits_per_code == pytest.approx(2.0, abs=0.02)
    assert bits["uniform"].bits_per_code == 2.0
    assert bits["gpt"].bits_per_dimension == pytest.approx(bits["gpt"].bits_per_image / 10)
    valid = prior.log_probabilities(params, arch, *SPLITS["valid"])
    assert found.best_value == pytest.approx(-valid.mean() / np.log(2), rel=1e-6)


@pytest.mark.slow
def test_a_training_cut_short_ends_in_the_same_bits(unbroken, tmp_path):
    def stop(done, total):
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, stop)
    resumed, _, found = fit(tmp_path)
    assert found.history == unbroken[2].history
    jax.tree.map(np.testing.assert_array_equal, resumed, unbroken[0])


def test_sizes_follow_the_configuration():
    def architecture(shape, **changes):
        return prior_architecture(section(**changes), shape, num_codes=9, num_classes=3)

    assert architecture((4, 2)).grid == (4, 2)
    assert architecture((4, 2), positions="1d").grid is None
    assert architecture(()).length == 1
    assert architecture((5,)).length == 5
    other = architecture((4, 2), tied=False, bfloat16=True)
    assert (other.tied, other.bfloat16) == (False, True)
    # An untied head is one matrix more.
    one, two = (jax.eval_shape(lambda k, a=a: gpt.init(k, a), jax.random.key(0)) for a in (architecture((4, 2)), other))
    assert set(two) - set(one) == {"head"}
