"""Bits and baselines against closed forms, brute force and a source of known entropy."""

import itertools
import math

import numpy as np
import pytest

from geovq_jax.evaluation.likelihood import (
    CONSTANTS,
    bigram_log_probabilities,
    likelihood,
    uniform_log_probabilities,
    unigram_log_probabilities,
)


def entropy(p):
    return -np.sum(p * np.log2(p), axis=-1)


def test_bits_of_known_probabilities():
    # Images of 3 codes of probability 1/2 and of 3 codes of probability 1/8: 3 and 9 bits.
    log_p = np.log(np.array([[0.5] * 3, [0.125] * 3], np.float32))
    found = likelihood(log_p, num_dimensions=12)
    np.testing.assert_allclose(found, (2.0, 6.0, 0.5, 3.0), rtol=1e-6)
    assert math.isnan(likelihood(log_p[:1], 1).standard_error)


def test_uniform_is_log_k():
    codes = np.arange(12).reshape(3, 2, 2) % 5
    found = likelihood(uniform_log_probabilities(codes, 32), 784)
    np.testing.assert_allclose(found, (5.0, 20.0, 20 / 784, 0.0), atol=1e-12)


def test_unigram_equals_counting():
    train = np.array([[0, 0, 1], [0, 2, 1]], np.int32)
    held_out = np.array([[3, 0, 1]], np.uint16)
    found = unigram_log_probabilities(train, held_out, 4, constant=0.5)
    np.testing.assert_allclose(found, np.log([[0.5 / 8, 3.5 / 8, 2.5 / 8]]))


def test_bigram_equals_counting_in_raster_order():
    rng = np.random.default_rng(0)
    train, held_out = rng.integers(0, 5, (30, 2, 3)), rng.integers(0, 5, (4, 2, 3))
    found = bigram_log_probabilities(train, held_out, 5, constant=0.3)
    assert found.shape == (4, 6)
    for i in range(4):
        for place in range(6):
            row, column = divmod(place, 3)
            code = held_out[i, row, column]
            if place == 0:
                hits, total = np.sum(train[:, 0, 0] == code), 30
            else:
                above, left = divmod(place - 1, 3)
                before = held_out[i, above, left]
                hits = total = 0
                for grid in train:
                    for other in range(5):
                        first, second = grid.ravel()[other], grid.ravel()[other + 1]
                        total += first == before
                        hits += first == before and second == code
            np.testing.assert_allclose(found[i, place], math.log((hits + 0.3) / (total + 0.3 * 5)))


@pytest.mark.parametrize("score", [unigram_log_probabilities, bigram_log_probabilities])
def test_baselines_are_distributions(score):
    train = np.random.default_rng(1).integers(0, 6, (20, 2))
    every = np.stack(np.meshgrid(np.arange(6), np.arange(6), indexing="ij"), -1).reshape(-1, 2)
    np.testing.assert_allclose(np.exp(score(train, every, 6).sum(1)).sum(), 1, rtol=1e-12)


def test_constant_is_chosen_by_leaving_each_code_out():
    rng = np.random.default_rng(2)
    train = np.minimum(rng.geometric(0.4, (12, 3)) - 1, 19)
    flat = train.ravel()

    def left_out(constant):
        return sum(
            unigram_log_probabilities(np.delete(flat, i)[:, None], flat[i : i + 1, None], 20, constant=constant).sum()
            for i in range(flat.size)
        )

    best = max(CONSTANTS, key=left_out)
    assert CONSTANTS[0] < best < CONSTANTS[-1]
    codes = np.arange(20)[:, None]
    np.testing.assert_allclose(
        unigram_log_probabilities(train, codes, 20), unigram_log_probabilities(train, codes, 20, constant=best)
    )


def test_baselines_reach_the_entropy_of_a_markov_source():
    rng = np.random.default_rng(3)
    transition = rng.dirichlet(np.full(6, 0.5), 6)
    values, vectors = np.linalg.eig(transition.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary /= stationary.sum()
    codes = np.empty((6000, 8), int)
    codes[:, 0] = rng.choice(6, 6000, p=stationary)
    for place in range(1, 8):
        drawn = rng.random(6000)[:, None]
        codes[:, place] = (drawn > np.cumsum(transition, axis=1)[codes[:, place - 1]]).sum(1).clip(0, 5)
    train, held_out = codes[:4000], codes[4000:]
    unigram = likelihood(unigram_log_probabilities(train, held_out, 6), 64)
    bigram = likelihood(bigram_log_probabilities(train, held_out, 6), 64)
    marginal, rate = entropy(stationary), stationary @ entropy(transition)
    assert abs(unigram.bits_per_image - 8 * marginal) < 4 * unigram.standard_error
    assert abs(bigram.bits_per_image - marginal - 7 * rate) < 4 * bigram.standard_error
    assert 8 * marginal - (marginal + 7 * rate) > 20 * bigram.standard_error


def test_bigrams_of_many_codes_take_no_table_of_pairs():
    rng, num_codes = np.random.default_rng(3), 200_000  # K^2 counts would be 320 GB
    train, codes = rng.integers(num_codes, size=(50, 4)), rng.integers(num_codes, size=(5, 4))
    codes[0] = train[7]
    found = bigram_log_probabilities(train, codes, num_codes, constant=0.5)
    pairs, before = [tuple(p) for row in train for p in itertools.pairwise(row)], train[:, :-1].ravel().tolist()
    for row, one in zip(codes.tolist(), found, strict=True):
        for place, pair in enumerate(itertools.pairwise(row)):
            share = (pairs.count(pair) + 0.5) / (before.count(pair[0]) + 0.5 * num_codes)
            np.testing.assert_allclose(one[place + 1], np.log(share), rtol=1e-12)


def test_one_code_an_image():
    codes = np.array([0, 1, 1, 2])
    np.testing.assert_allclose(
        bigram_log_probabilities(codes, codes, 3, constant=1.0),
        unigram_log_probabilities(codes, codes, 3, constant=1.0),
    )


def test_out_of_range_is_refused():
    codes = np.array([[0, 4]])
    with pytest.raises(ValueError, match=r"codes in \[0, 4\)"):
        unigram_log_probabilities(codes, codes, 4)
    with pytest.raises(ValueError, match="constant > 0"):
        bigram_log_probabilities(codes, codes, 5, constant=0.0)
    with pytest.raises(ValueError, match="at least one image"):
        likelihood(np.zeros((0, 4)), 1)
    with pytest.raises(ValueError, match="num_dimensions"):
        likelihood(np.zeros((1, 4)), 0)
