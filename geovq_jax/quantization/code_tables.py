"""Code lengths of grids of codes by tables of counts: a model small enough to evaluate for every candidate code.

In raster order the code c at place p, with l to its left and u above it, has the probability

    p(c | l, u) = U_p(c) A(l, c) B(u, c) / Z_p(l, u),    Z_p(l, u) = sum_c U_p(c) A(l, c) B(u, c).

U are the frequencies at each place; A and B say how much more often two neighbours occur than independent codes would.
See docs/quantization.md, equations (5) and (6).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from geovq_jax.geometry.checks import check_count, check_ids

POOLED = 10.0  # images; weight of the frequencies over all places in those of each place
SMOOTHING = (1.0, 4.0, 16.0)  # counts added to those of pairs
EXPONENTS = (0.25, 0.5, 0.75, 1.0)  # exponents of their ratios; the best pair on held-out codes is used


class CodeTables(NamedTuple):
    """Logarithms to base 2 of U, A, B and Z for K codes at P places; index K of a neighbour stands for none."""

    place: Float[np.ndarray | Array, "P K"]
    left: Float[np.ndarray | Array, "K+1 K"]
    above: Float[np.ndarray | Array, "K+1 K"]
    norm: Float[np.ndarray | Array, "P K+1 K+1"]


class _Counts(NamedTuple):
    """Counts at each place [P, K], of left and upper pairs [K, K], and both as expected of independent codes."""

    place: np.ndarray
    left: np.ndarray
    above: np.ndarray
    left_expected: np.ndarray
    above_expected: np.ndarray


def fit_tables(
    codes: Int[np.ndarray, "n ..."], num_codes: int, *, held_out: Int[np.ndarray, "m ..."] | None = None
) -> CodeTables:
    """Fits tables to codes; smoothing and exponent minimise the bits of held-out codes.

    Args:
        codes: grids of codes [n, h, w], or single codes [n].
        num_codes: K.
        held_out: other grids of the same size; by default a quarter of `codes`, which is included in the final fit.

    Raises:
        ValueError: codes outside [0, K), or grids of another form.

    Example:
        >>> codes = np.random.default_rng(0).integers(4, size=(200, 2, 2))
        >>> bits = code_lengths(fit_tables(codes, 4), codes)
        >>> bits.shape, bool(1.9 < bits.mean() < 2.1)
        ((200, 2, 2), True)
    """
    check_count("num_codes", num_codes)
    codes = check_ids("codes", _as_grids(codes), num_codes, "n h w")
    fitted = codes
    if held_out is None:
        held_out, fitted = codes[::4], np.delete(codes, slice(None, None, 4), axis=0) if len(codes) > 1 else codes
    held_out = check_ids("held-out codes", _as_grids(held_out), num_codes, f"m {codes.shape[1]} {codes.shape[2]}")
    counts = _count(fitted, num_codes)
    tried = [(smoothing, exponent) for smoothing in SMOOTHING for exponent in EXPONENTS]
    bits = [_mean_bits(*_factors(counts, *settings, len(fitted)), held_out) for settings in tried]
    place, left, above = _factors(_count(codes, num_codes), *tried[int(np.argmin(bits))], len(codes))
    norm = np.stack([(own * left) @ above.T for own in place])
    return CodeTables(*(np.log2(table).astype(np.float32) for table in (place, left, above, norm)))


def _as_grids(codes: np.ndarray) -> np.ndarray:
    return codes[:, None, None] if codes.ndim == 1 else codes


def _count(codes: np.ndarray, num_codes: int) -> _Counts:
    n, height, width = codes.shape
    flat = codes.reshape(n, -1)
    place = np.stack([np.bincount(column, minlength=num_codes) for column in flat.T]).astype(np.float64)
    at = place.reshape(height, width, num_codes)

    def pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        together = first.astype(np.int64).ravel() * num_codes + second.ravel()
        return np.bincount(together, minlength=num_codes**2).reshape(num_codes, num_codes).astype(np.float64)

    def expected(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return first.reshape(-1, num_codes).T @ second.reshape(-1, num_codes) / n

    return _Counts(
        place,
        pairs(codes[:, :, :-1], codes[:, :, 1:]),
        pairs(codes[:, :-1], codes[:, 1:]),
        expected(at[:, :-1], at[:, 1:]),
        expected(at[:-1], at[1:]),
    )


def _factors(counts: _Counts, smoothing: float, exponent: float, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U, A and B, with a row of ones in A and B for the missing neighbour."""
    num_codes = counts.place.shape[1]
    pooled = (counts.place.sum(axis=0) + 1.0) / (counts.place.sum() + num_codes)
    place = (counts.place + POOLED * pooled) / (n + POOLED)
    ones = np.ones((1, num_codes))
    left = ((counts.left + smoothing) / (counts.left_expected + smoothing)) ** exponent
    above = ((counts.above + smoothing) / (counts.above_expected + smoothing)) ** exponent
    return place, np.concatenate([left, ones]), np.concatenate([above, ones])


def _neighbours(codes: Any, none: int) -> tuple[Any, Any]:
    """Codes to the left of and above each cell of grids [..., h, w], on the host or within jit; `none` for no cell."""
    numpy, sides = jnp if isinstance(codes, jax.Array) else np, [(0, 0)] * (codes.ndim - 2)
    left = numpy.pad(codes[..., :, :-1], [*sides, (0, 0), (1, 0)], constant_values=none)
    return left, numpy.pad(codes[..., :-1, :], [*sides, (1, 0), (0, 0)], constant_values=none)


def _places(codes: Any) -> np.ndarray:
    """Index of the place of each cell, [h, w]."""
    return np.arange(np.prod(codes.shape[-2:])).reshape(codes.shape[-2:])


def _cell_bits(tables: CodeTables, codes: Any) -> Any:
    """Bits of each code of grids [..., h, w]."""
    places, (left, above) = _places(codes), _neighbours(codes, tables.place.shape[1])
    own = tables.place[places, codes] + tables.left[left, codes] + tables.above[above, codes]
    return tables.norm[places, left, above] - own


def _mean_bits(place: np.ndarray, left: np.ndarray, above: np.ndarray, codes: np.ndarray) -> float:
    """Mean code length per cell, without the table of all norms."""
    to_left, over = _neighbours(codes, place.shape[1])
    total = 0.0
    for p, (c, l, u) in enumerate(
        zip(*(part.reshape(len(codes), -1).T for part in (codes, to_left, over)), strict=True)
    ):
        weights = place[p] * left[l] * above[u]
        total -= np.log2(weights[np.arange(len(c)), c] / weights.sum(axis=1)).mean()
    return total / codes[0].size


def code_lengths(tables: CodeTables, codes: Int[np.ndarray, "n h w"]) -> Float[np.ndarray, "n h w"]:
    """Bits of each code of grids, given those before it in raster order; their sum is the length of a grid.

    Raises:
        ValueError: codes outside [0, K), or grids of another size than that of the tables.
    """
    num_places, num_codes = tables.place.shape
    codes = check_ids("codes", codes, num_codes, "n h w")
    if codes[0].size != num_places:
        raise ValueError(f"expected grids of {num_places} cells, got {codes.shape[1:]}; fit tables to such grids")
    return np.asarray(_cell_bits(tables, codes), np.float64)


def grid_bits(tables: CodeTables, codes: Int[Array, "h w"]) -> Float[Array, ""]:
    """Bits of one grid, within jit."""
    return jnp.sum(_cell_bits(tables, codes))


def candidate_bits(tables: CodeTables, codes: Int[Array, "h w"], cells: Int[Array, " m"]) -> Float[Array, "m K"]:
    """Bits of some cells and of the cells right of and below each, for every possible code of the cell.

    Cells are numbered in raster order. Up to a constant this is the length of the grid, for one cell or for several of
    which no two touch. Within jit.
    """
    tables = jax.tree.map(jnp.asarray, tables)  # which read the last entry where a neighbour is missing
    (height, width), num_codes = codes.shape, tables.place.shape[1]
    row, column = jnp.divmod(cells, width)
    around = jnp.pad(codes, 1, constant_values=num_codes)

    def at(down: int, right: int) -> Array:
        return around[row + 1 + down, column + 1 + right]

    left, above = at(0, -1), at(-1, 0)
    own = tables.place[cells] + tables.left[left] + tables.above[above] - tables.norm[cells, left, above][:, None]
    right = tables.left.T[at(0, 1)] - tables.norm[cells + 1, :, at(-1, 1)]
    below = tables.above.T[at(1, 0)] - tables.norm[cells + width, at(1, -1)]
    own += jnp.where((column + 1 < width)[:, None], right[:, :num_codes], 0.0)
    return -(own + jnp.where((row + 1 < height)[:, None], below[:, :num_codes], 0.0))
