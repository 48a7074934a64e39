"""Code usage: dead codes, entropy, cluster sizes, and mutual information with labels."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

Codes = Int[Array, "n ..."] | Int[np.ndarray, "n ..."]
Labels = Int[Array, " n"] | Int[np.ndarray, " n"]


def _check_codes(codes: Codes, num_codes: int) -> np.ndarray:
    table = np.asarray(jax.device_get(codes))
    if table.size == 0:
        raise ValueError("expected at least one code, got none; check the split")
    low, high = int(table.min()), int(table.max())
    if low < 0 or high >= num_codes:
        raise ValueError(f"expected codes in [0, {num_codes}), got values from {low} to {high}; re-assign the codes")
    return table.reshape(len(table), -1)


def entropy_bits(counts: Int[np.ndarray, "*shape"] | Float[np.ndarray, "*shape"]) -> float:
    """Entropy in bits of the distribution proportional to non-negative `counts`, not all zero: H = - sum p log2 p.

    Example:
        >>> entropy_bits(np.array([1, 1, 2]))
        1.5
    """
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0


def usage_gini(counts: Int[np.ndarray, " K"]) -> float:
    """Gini coefficient of code usage: 0 where all codes are used equally, (K - 1) / K where one code takes all.

    G = sum_i (2 i - K - 1) c_(i) / (K sum c), with c_(i) the counts in ascending order, i = 1..K.
    """
    size = len(counts)
    rank = np.arange(1, size + 1)
    return float(((2 * rank - size - 1) * np.sort(counts)).sum() / (size * counts.sum()))


def contingency(
    codes: Int[np.ndarray, " m"], labels: Int[np.ndarray, " m"], num_codes: int | None = None
) -> Int[np.ndarray, "K C"]:
    """Number of items with code i and label j, for codes below K (the largest plus one by default)."""
    rows = int(codes.max()) + 1 if num_codes is None else num_codes
    columns = int(labels.max()) + 1
    flat = codes.astype(np.int64) * columns + labels
    return np.bincount(flat, minlength=rows * columns).reshape(rows, columns)


def mutual_information_bits(table: Int[np.ndarray, "K C"]) -> float:
    """Mutual information in bits of the two sides of a contingency table: I = H(rows) + H(columns) - H(both) >= 0.

    The plug-in estimate is biased upwards by about (K - 1)(C - 1) / (2 m ln 2) for m items.
    """
    information = entropy_bits(table.sum(axis=1)) + entropy_bits(table.sum(axis=0)) - entropy_bits(table)
    return max(information, 0.0)


def distortion(distances: Mapping[str, Float[np.ndarray, "n ..."]]) -> dict[str, dict[str, float]]:
    """Error of quantization in each unit: unit -> `mean`, `rms`, `median` and `p95` (95 % quantile) of the distances.

    The keys are units ("latent", "geodesic", "decoded chord", "pixels"). A codebook may win in the unit it was built
    for and lose in the others, so all of them are reported. Raises ValueError for a distance that is not finite, that
    is, for a latent that no code reaches.
    """
    table = {}
    for unit, values in distances.items():
        lengths = np.asarray(values, np.float64)
        if not np.isfinite(lengths).all():
            raise ValueError(f"expected finite distances in unit '{unit}', got NaN or infinity; repair the graph")
        table[unit] = {
            "mean": float(lengths.mean()),
            "rms": float(np.sqrt((lengths**2).mean())),
            "median": float(np.median(lengths)),
            "p95": float(np.quantile(lengths, 0.95)),
        }
    return table


def _usage(counts: Int[np.ndarray, " K"]) -> dict[str, Any]:
    bits = entropy_bits(counts)
    used = int((counts > 0).sum())
    return {"used": used, "dead": len(counts) - used, "entropy_bits": bits, "perplexity": float(2.0**bits)}


def code_usage(codes: Codes, num_codes: int, labels: Labels | None = None) -> dict[str, Any]:
    """Usage of a codebook over a split, over all grid positions and at each.

    Args:
        codes: one code per image or per cell of its grid, in [0, num_codes).
        labels: class of each image; a cell takes the class of its image.

    Returns:
        Plain floats, integers and lists: `num_codes`, `num_items`, `used`, `dead`, `entropy_bits`, `perplexity`
        (2 to the entropy), `usage_gini`, `cell_sizes` (items per code) with `cell_size_min`, `cell_size_median` and
        `cell_size_max`, `per_position` (one dict per cell in raster order with `used`, `dead`, `entropy_bits`,
        `perplexity`) and, with labels, `mutual_information_bits` of code and class (also in `per_position`) with its
        upper bound `label_entropy_bits`.

    Raises:
        ValueError: a code out of range, no code, or another number of labels than images.
    """
    table = _check_codes(codes, num_codes)
    counts = np.bincount(table.ravel(), minlength=num_codes)
    result: dict[str, Any] = {"num_codes": num_codes, "num_items": int(table.size), **_usage(counts)}
    result["usage_gini"] = usage_gini(counts)
    result["cell_sizes"] = counts.tolist()
    result["cell_size_min"] = int(counts.min())
    result["cell_size_median"] = float(np.median(counts))
    result["cell_size_max"] = int(counts.max())
    result["per_position"] = [_usage(np.bincount(column, minlength=num_codes)) for column in table.T]
    if labels is not None:
        classes = np.asarray(jax.device_get(labels))
        if len(classes) != len(table):
            raise ValueError(f"expected one label per image, got {len(classes)} for {len(table)} images; use one split")
        everywhere = contingency(table.ravel(), np.repeat(classes, table.shape[1]), num_codes)
        result["mutual_information_bits"] = mutual_information_bits(everywhere)
        result["label_entropy_bits"] = entropy_bits(everywhere.sum(axis=0))
        for entry, column in zip(result["per_position"], table.T, strict=True):
            entry["mutual_information_bits"] = mutual_information_bits(contingency(column, classes, num_codes))
    return result
