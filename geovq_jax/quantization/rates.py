"""Code lengths during a search: by tables of counts, or by an unconditional prior.

The code length under a prior is exact for the candidate code and of first order for the codes after it: a candidate c
instead of k costs

    -log2 p(c | codes before) + (e_c - e_k)' dR/de,

with R the bits of the whole grid and e the input embedding of the later positions. See docs/quantization.md, equation
(8).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from geovq_jax.geometry.metric import bind_static
from geovq_jax.models import gpt
from geovq_jax.quantization.code_tables import CodeTables, candidate_bits, grid_bits


class Rate(NamedTuple):
    """Code lengths as functions for use within jit, whose arrays are leaves.

    `bits` maps a grid of codes [h, w] to its exact total length; `candidates` maps it and some cells [m], in raster
    order, to [m, K], the length of the grid with each code at each of them, up to a constant per cell.
    """

    bits: jax.tree_util.Partial
    candidates: jax.tree_util.Partial
    num_cells: int
    num_codes: int


def rate_of_tables(tables: CodeTables) -> Rate:
    """Code lengths by tables, see `code_tables`; those of candidates are exact for cells of which no two touch.

    Example:
        >>> import numpy as np
        >>> from geovq_jax.quantization.code_tables import fit_tables
        >>> rate = rate_of_tables(fit_tables(np.random.default_rng(0).integers(4, size=(200, 2, 2)), 4))
        >>> rate.candidates(jnp.zeros((2, 2), int), jnp.array([0, 3])).shape
        (2, 4)
    """
    num_cells, num_codes = tables.place.shape
    bits, candidates = jax.tree_util.Partial(grid_bits, tables), jax.tree_util.Partial(candidate_bits, tables)
    return Rate(bits, candidates, num_cells, num_codes)


def rate_of_prior(params: Any, arch: gpt.Architecture) -> Rate:
    """Code lengths by an unconditional prior of codes in raster order, see `models.gpt`."""
    bits, candidates = (bind_static(function, arch, params) for function in (_bits, _candidates))
    return Rate(bits, candidates, arch.length, arch.num_codes)


def _bits(arch: gpt.Architecture, params: Any, codes: Int[Array, "h w"]) -> Float[Array, ""]:
    labels = jnp.full((1,), arch.no_class, jnp.int32)
    return -jnp.sum(gpt.log_probabilities(params, arch, codes.reshape(1, -1), labels)) / math.log(2)


def _candidates(
    arch: gpt.Architecture, params: Any, codes: Int[Array, "h w"], cells: Int[Array, " m"]
) -> Float[Array, "m K"]:
    return gpt.candidate_costs(params, arch, codes.reshape(-1), arch.no_class)[cells] / math.log(2)
