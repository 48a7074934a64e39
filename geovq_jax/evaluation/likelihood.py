"""Likelihood of held-out codes: bits per code, per image and per dimension, and baselines by code frequencies."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer

CONSTANTS = tuple(10.0**exponent for exponent in np.arange(-4.0, 1.51, 0.25))


class Likelihood(NamedTuple):
    """Code length of a set of images under one model.

    `bits_per_code` is the mean over images and grid positions of -log2 p(c_i | c_<i), `bits_per_image` the mean over
    images of its sum over positions. `bits_per_dimension` is bits_per_image per value (pixels x channels) of an image:
    the rate at which the codes describe it, not a likelihood of its pixels. `standard_error` is that of bits_per_image
    over images.
    """

    bits_per_code: float
    bits_per_image: float
    bits_per_dimension: float
    standard_error: float


def likelihood(log_probabilities: Float[np.ndarray, "n t"], num_dimensions: int) -> Likelihood:
    """Turn log p(c_i | c_<i) in nats into bits; an image has `num_dimensions` = H * W * C values.

    Raises ValueError for no code and for num_dimensions < 1.
    """
    if log_probabilities.size == 0:
        raise ValueError(f"expected at least one image and code, got shape {log_probabilities.shape}; check the split")
    if num_dimensions < 1:
        raise ValueError(f"expected num_dimensions = H * W * C >= 1, got {num_dimensions}; pass that of the images")
    bits = -log_probabilities.astype(np.float64).sum(axis=1) / np.log(2)
    n, t = log_probabilities.shape
    per_image = float(bits.mean())
    error = float(bits.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return Likelihood(per_image / t, per_image, per_image / num_dimensions, error)


def uniform_log_probabilities(codes: Integer[np.ndarray, "n ..."], num_codes: int) -> Float[np.ndarray, "n t"]:
    """-log K for every code."""
    return np.full(_raster(codes, num_codes).shape, -np.log(num_codes))


def unigram_log_probabilities(
    train: Integer[np.ndarray, "m ..."],
    codes: Integer[np.ndarray, "n ..."],
    num_codes: int,
    *,
    constant: float | None = None,
) -> Float[np.ndarray, "n t"]:
    """Log-probability in nats of codes by their frequency in the training codes, the same at every position.

    p(k) = (n_k + a) / (n + a K), n_k the count of code k among n training codes.

    Args:
        constant: a > 0; None takes the one of `CONSTANTS` with the largest leave-one-out likelihood of `train`.

    Raises:
        ValueError: codes lie outside [0, K), or the constant is not positive.
    """
    train, codes = _raster(train, num_codes), _raster(codes, num_codes)
    return _log_p(np.zeros_like(train), train, np.zeros_like(codes), codes, num_codes, constant)


def bigram_log_probabilities(
    train: Integer[np.ndarray, "m ..."],
    codes: Integer[np.ndarray, "n ..."],
    num_codes: int,
    *,
    constant: float | None = None,
) -> Float[np.ndarray, "n t"]:
    """Log-probability in nats of codes given the code before in raster order, or as a first code.

    p(k | j) = (n_jk + a) / (n_j + a K), n_jk the count of code k after code j in the training codes. `constant` and
    errors as in `unigram_log_probabilities`; None takes one constant for first codes and one for pairs.
    """
    train, codes = _raster(train, num_codes), _raster(codes, num_codes)
    log_p = np.empty(codes.shape)
    log_p[:, 0] = unigram_log_probabilities(train[:, :1], codes[:, :1], num_codes, constant=constant)[:, 0]
    if codes.shape[1] > 1:
        log_p[:, 1:] = _log_p(train[:, :-1], train[:, 1:], codes[:, :-1], codes[:, 1:], num_codes, constant)
    return log_p


def _log_p(
    before: Int[np.ndarray, "..."],
    train: Int[np.ndarray, "..."],
    given: Int[np.ndarray, "n t"],
    codes: Int[np.ndarray, "n t"],
    num_codes: int,
    constant: float | None,
) -> Float[np.ndarray, "n t"]:
    """Log of the add-constant smoothed share of `codes` after `given`, from counts of `train` after `before`.

    Only pairs that occur are counted: K^2 numbers would not fit in memory for large K.
    """
    pairs, counts = np.unique(before.ravel() * num_codes + train.ravel(), return_counts=True)
    totals = np.bincount(before.ravel(), minlength=num_codes)
    of_pairs = totals[pairs // num_codes]
    if constant is None:
        constant = max(CONSTANTS, key=lambda a: _leave_one_out(counts, of_pairs, a * num_codes, a))
    elif constant <= 0:
        raise ValueError(f"expected constant > 0, got {constant}: a code never seen would have probability 0")
    asked = given * num_codes + codes
    place = np.minimum(np.searchsorted(pairs, asked), len(pairs) - 1)
    seen = np.where(pairs[place] == asked, counts[place], 0)
    return np.log(seen + constant) - np.log(totals[given] + constant * num_codes)


def _leave_one_out(
    counts: Int[np.ndarray, " p"], totals: Int[np.ndarray, " p"], added: float, constant: float
) -> float:
    """Log-likelihood of every counted code under the counts without itself."""
    return float(np.sum(counts * (np.log(counts - 1 + constant) - np.log(totals - 1 + added))))


def _raster(codes: Integer[np.ndarray, "n ..."], num_codes: int) -> Int[np.ndarray, "n t"]:
    if codes.size == 0:
        raise ValueError(f"expected at least one image and code, got shape {codes.shape}; check the split")
    flat = codes.reshape(codes.shape[0], -1).astype(np.int64)
    if flat.min() < 0 or flat.max() >= num_codes:
        raise ValueError(f"expected codes in [0, {num_codes}), got {flat.min()} to {flat.max()}; check num_codes")
    return flat
