"""How well codes agree with classes: NMI, ARI, purity, and a linear probe on code histograms."""

import warnings
from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Int

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


def _check(codes: Codes, labels: Int[np.ndarray, " n"]) -> None:
    if len(codes) != len(labels) or len(codes) == 0:
        raise ValueError(f"expected one label per image, got {len(labels)} for {len(codes)} images; use one split")


def clustering_scores(codes: Codes, labels: Int[np.ndarray, " n"]) -> ClusteringScores:
    """NMI, ARI and purity of codes against labels; with a grid of codes, each cell takes the label of its image.

    NMI = I(codes; labels) / mean(H(codes), H(labels)), and with n_ij the number of items of code i and label j
    purity = sum_i max_j n_ij / n, which rises with the number of codes: compare it at equal K.

    Raises:
        ValueError: the numbers of codes and labels differ, or are zero.

    Reference:
        Hubert and Arabie, Comparing partitions, Journal of Classification 2, 1985, equation 5 (ARI).
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    _check(codes, labels)
    found = codes.reshape(-1)
    classes = np.repeat(labels, len(found) // len(labels))
    table = contingency_matrix(classes, found)
    return ClusteringScores(
        float(normalized_mutual_info_score(classes, found)),
        float(adjusted_rand_score(classes, found)),
        float(table.max(axis=0).sum() / table.sum()),
    )


def code_histograms(codes: Codes, num_codes: int) -> scipy.sparse.csr_array:
    """Count of each code in each image, [n, K]."""
    table = codes.reshape(len(codes), -1)
    rows = np.repeat(np.arange(len(table)), table.shape[1])
    place = (rows, table.ravel())
    return scipy.sparse.coo_array((np.ones(table.size), place), shape=(len(table), num_codes)).tocsr()


def linear_probe(
    train_codes: Codes,
    train_labels: Int[np.ndarray, " n"],
    test_codes: Int[np.ndarray, "m ..."],
    test_labels: Int[np.ndarray, " m"],
    num_codes: int,
    *,
    regularisation: float = 1.0,
    max_iterations: int = 300,
) -> Probe:
    """Test accuracy of logistic regression (L-BFGS) from code histograms to classes.

    `regularisation` is the weight of half the squared norm of the coefficients. Raises ValueError where lengths differ
    or the training labels hold a single class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    _check(train_codes, train_labels)
    _check(test_codes, test_labels)
    if len(np.unique(train_labels)) < 2:
        raise ValueError("expected at least two classes in the training labels, got one; take more images")
    model = LogisticRegression(C=1.0 / regularisation, max_iter=max_iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(code_histograms(train_codes, num_codes), train_labels)
    accuracy = model.score(code_histograms(test_codes, num_codes), test_labels)
    return Probe(float(accuracy), bool(model.n_iter_.max() < max_iterations))
