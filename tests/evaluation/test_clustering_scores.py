import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geovq_jax.evaluation import clustering_scores as scores
from geovq_jax.evaluation.code_usage import contingency, entropy_bits, mutual_information_bits


def by_definition(codes, labels):
    """NMI from entropies, ARI from all pairs of items, purity from the largest class per code."""
    table = contingency(codes, labels)
    scale = (entropy_bits(table.sum(axis=1)) + entropy_bits(table.sum(axis=0))) / 2
    nmi = mutual_information_bits(table) / scale if scale > 0 else 1.0
    pairs = list(itertools.combinations(range(len(codes)), 2))
    same_code = np.array([codes[a] == codes[b] for a, b in pairs], bool)
    same_label = np.array([labels[a] == labels[b] for a, b in pairs], bool)
    expected = same_code.sum() * same_label.sum() / max(len(pairs), 1)
    largest = (same_code.sum() + same_label.sum()) / 2
    ari = ((same_code & same_label).sum() - expected) / (largest - expected) if largest != expected else 1.0
    purity = sum(max(np.bincount(labels[codes == code])) for code in np.unique(codes)) / len(codes)
    return nmi, ari, purity


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), k=st.integers(1, 6), c=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_scores_equal_their_definitions(n, k, c, seed):
    rng = np.random.default_rng(seed)
    codes, labels = rng.integers(0, k, n), rng.integers(0, c, n)
    assert scores.clustering_scores(codes, labels) == pytest.approx(by_definition(codes, labels), abs=1e-9)


def test_cells_take_the_label_of_their_image():
    rng = np.random.default_rng(0)
    codes, labels = rng.integers(0, 7, (30, 2, 3)), rng.integers(0, 4, 30)
    flat = scores.clustering_scores(codes.reshape(-1), np.repeat(labels, 6))
    assert scores.clustering_scores(codes, labels) == flat


def test_perfect_and_useless_codes():
    labels = np.repeat(np.arange(5), 20)
    assert scores.clustering_scores((labels + 2) % 5, labels) == (1.0, 1.0, 1.0)
    assert scores.clustering_scores(np.zeros(100, int), labels) == (0.0, 0.0, 0.2)


def test_histograms_count_codes():
    codes = np.array([[[0, 2], [2, 2]], [[1, 1], [0, 2]]])
    np.testing.assert_array_equal(scores.code_histograms(codes, 3).toarray(), [[1, 0, 3], [1, 2, 1]])


def test_probe_reads_what_the_codes_hold():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 240)
    # The class is the code of one cell, which that cell tells exactly and the histogram of all cells only in part.
    codes = rng.integers(0, 3, (240, 4))
    codes[:, 1] = labels
    halves = codes[:160], labels[:160], codes[160:], labels[160:], 3
    plain = scores.linear_probe(*halves)
    one_cell = scores.linear_probe(codes[:160, 1], labels[:160], codes[160:, 1], labels[160:], 3)
    assert one_cell == (1.0, True)
    assert 0.45 < plain.accuracy < 0.9
    assert (
        abs(scores.linear_probe(codes[:160, 2:], labels[:160], codes[160:, 2:], labels[160:], 3).accuracy - 0.33) < 0.2
    )


def test_probe_reports_a_fit_that_ran_out_of_iterations():
    rng = np.random.default_rng(0)
    codes, labels = rng.integers(0, 20, (60, 6)), rng.integers(0, 3, 60)
    assert not scores.linear_probe(codes, labels, codes, labels, 20, regularisation=1e-6, max_iterations=3).converged


@pytest.mark.usefixtures("unchecked")
def test_refusals():
    codes, labels = np.zeros(4, int), np.zeros(4, int)
    with pytest.raises(ValueError, match="one label per image, got 3 for 4"):
        scores.clustering_scores(codes, labels[:3])
    with pytest.raises(ValueError, match="at least two classes"):
        scores.linear_probe(codes, labels, codes, labels, 1)
