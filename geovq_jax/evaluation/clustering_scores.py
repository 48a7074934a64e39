"""How well codes agree with classes: NMI, ARI, purity, and a linear probe on code histograms."""

import warnings
from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Int

from geovq_jax.evaluation.code_usage import contingency, entropy_bits, mutual_information_bits

Codes = Int[np.ndarray, "n ..."]


class ClusteringScores(NamedTuple):
    """Agreement of codes with labels, floats: `nmi` and `purity` in [0, 1], `ari` in [-0.5, 1]."""

    nmi: float
    ari: float
    purity: float


class Probe(NamedTuple):
    """A linear classifier on codes: test `accuracy` in [0, 1], and whether its fit `converged`."""

    accuracy: float
    converged: bool


def _pairs(codes: Codes, labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, "K C"]:
    if len(codes) != len(labels) or len(codes) == 0:
        raise ValueError(f"expected one label an image, got {len(labels)} for {len(codes)} images; use one split")
    table = codes.reshape(len(codes), -1)
    return contingency(table.ravel(), np.repeat(labels, table.shape[1]))


def normalised_mutual_information(codes: Codes, labels: Int[np.ndarray, " n"]) -> float:
    """NMI = I(codes; labels) / mean(H(codes), H(labels)).

    Args:
        codes: code of each item [n], or [n, ...] with one code a grid cell, which takes the label of its image.
        labels: class of each item [n].

    Returns:
        A number in [0, 1]; 1 also where both sides have a single value.
    """
    table = _pairs(codes, labels)
    scale = (entropy_bits(table.sum(axis=1)) + entropy_bits(table.sum(axis=0))) / 2.0
    return 1.0 if scale == 0.0 else min(mutual_information_bits(table) / scale, 1.0)


def adjusted_rand_index(codes: Codes, labels: Int[np.ndarray, " n"]) -> float:
    """Adjusted Rand index: agreement over pairs of items, 0 in expectation for random codes of the same sizes.

    ARI = (S - E) / ((A + B) / 2 - E), S = sum_ij C(n_ij, 2), A = sum_i C(a_i, 2), B = sum_j C(b_j, 2),
    E = A B / C(n, 2).

    Args:
        codes: code of each item [n] or [n, ...].
        labels: class of each item [n].

    Returns:
        A number in [-0.5, 1].

    Reference:
        Hubert and Arabie, Comparing partitions, Journal of Classification 2, 1985, equation 5.
    """
    table = _pairs(codes, labels).astype(np.float64)

    def choose_two(counts: np.ndarray) -> float:
        return float((counts * (counts - 1.0) / 2.0).sum())

    together, rows, columns = choose_two(table), choose_two(table.sum(axis=1)), choose_two(table.sum(axis=0))
    total = choose_two(np.array([table.sum()]))
    expected = rows * columns / total if total > 0 else 0.0
    largest = (rows + columns) / 2.0
    return 1.0 if largest == expected else (together - expected) / (largest - expected)


def purity(codes: Codes, labels: Int[np.ndarray, " n"]) -> float:
    """Fraction of items whose label is the most frequent one of their code: sum_i max_j n_ij / n.

    Args:
        codes: code of each item [n] or [n, ...].
        labels: class of each item [n].

    Returns:
        A number in (0, 1]. It rises with the number of codes: compare at equal K.
    """
    table = _pairs(codes, labels)
    return float(table.max(axis=1).sum() / table.sum())


def clustering_scores(codes: Codes, labels: Int[np.ndarray, " n"]) -> ClusteringScores:
    """NMI, ARI and purity of codes against labels.

    Args:
        codes: code of each item [n], or [n, ...] with one code a grid cell, which takes the label of its image.
        labels: class of each item [n].

    Returns:
        The three scores.

    Raises:
        ValueError: the lengths differ or there is no item.
    """
    return ClusteringScores(
        normalised_mutual_information(codes, labels), adjusted_rand_index(codes, labels), purity(codes, labels)
    )


def code_histograms(codes: Codes, num_codes: int, *, positional: bool = False) -> scipy.sparse.csr_array:
    """Count of each code in each image.

    Args:
        codes: codes of n images [n] or [n, ...], t cells an image.
        num_codes: K.
        positional: one column for each pair of cell and code, instead of one a code.

    Returns:
        Counts [n, K], or [n, t K] when positional, float64.
    """
    table = codes.reshape(len(codes), -1).astype(np.int64)
    images, cells = table.shape
    columns = table + num_codes * np.arange(cells)[None, :] if positional else table
    width = num_codes * (cells if positional else 1)
    rows = np.repeat(np.arange(images), cells)
    counts = scipy.sparse.coo_array((np.ones(table.size), (rows, columns.ravel())), shape=(images, width))
    return counts.tocsr()


def linear_probe(
    train_codes: Codes,
    train_labels: Int[np.ndarray, " n"],
    test_codes: Int[np.ndarray, "m ..."],
    test_labels: Int[np.ndarray, " m"],
    num_codes: int,
    *,
    positional: bool = False,
    regularisation: float = 1.0,
    max_iterations: int = 300,
) -> Probe:
    """Accuracy of logistic regression from code histograms to classes.

    Args:
        train_codes: codes of the training images [n] or [n, ...].
        train_labels: their classes [n].
        test_codes: codes of the test images, shaped alike.
        test_labels: their classes [m].
        num_codes: K.
        positional: features are pairs of cell and code instead of codes.
        regularisation: weight of half the squared norm of the coefficients.
        max_iterations: iterations of L-BFGS.

    Returns:
        Test accuracy and whether the fit converged.

    Raises:
        ValueError: lengths differ, or the training labels hold a single class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    for codes, labels in ((train_codes, train_labels), (test_codes, test_labels)):
        if len(codes) != len(labels) or len(codes) == 0:
            raise ValueError(f"expected one label an image, got {len(labels)} for {len(codes)} images; use one split")
    if len(np.unique(train_labels)) < 2:
        raise ValueError("expected at least two classes in the training labels, got one; take more images")
    model = LogisticRegression(C=1.0 / regularisation, max_iter=max_iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(code_histograms(train_codes, num_codes, positional=positional), train_labels)
    accuracy = model.score(code_histograms(test_codes, num_codes, positional=positional), test_labels)
    return Probe(float(accuracy), bool(model.n_iter_.max() < max_iterations))
