"""Checks of arguments and results at the public functions, in the form "expected ..., got ...; what to do".

Of traced arrays only the form is checked, since their values are known only when the program runs.
"""

from collections.abc import Collection
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from geovq_jax.geometry.metric import as_pytree

CHECK_DECODER = "check the decoder"
CHECK_ENCODER = "check the encoder's output"
_T = TypeVar("_T")


def is_traced(*trees: Any) -> bool:
    """Whether an array among the leaves is traced by a transformation of JAX, so that its values are unknown."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def check_finite(name: str, rows: _T, advice: str = CHECK_DECODER, *, limit: float | None = None) -> _T:
    """Returns the rows; raises ValueError with the number of bad rows and the first of them.

    Bad values are NaN, infinity and magnitudes above `limit`, by default the largest number of the JAX type of the
    array. Traced arrays pass. `name` is the plural noun for the rows in messages.
    """
    if is_traced(rows):
        return rows
    values = np.asarray(rows)
    if limit is None and values.dtype == np.float64:
        limit = float(jnp.finfo(jnp.result_type(float)).max)
    good = np.isfinite(values) if limit is None else np.abs(values) <= limit
    if not good.all():
        bad = np.flatnonzero(~good.reshape(len(values), -1).all(axis=1))
        found = f"numbers above {limit:.2g}" if np.isfinite(values).all() else "NaN or infinity"
        where = f"in {len(bad)} of {len(values)} rows, first row {bad[0]}"
        raise ValueError(f"expected finite {name}, got {found} {where}; {advice}")
    return rows


def check_form(name: str, array: Any, axes: str) -> None:
    """Raises ValueError unless `array`, traced or not, is a NumPy or JAX array of real numbers with the given axes.

    `axes` has one word per axis: a number is its size, a letter stands for any size from 1, a letter with a star for
    any size.
    """
    if not isinstance(array, np.ndarray | jax.Array):
        raise ValueError(f"expected {name} as an array, got {type(array).__name__}; use numpy.asarray")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"expected {name} of real numbers, got {array.dtype}; use astype('float32')")
    _check_shape(name, array.shape, axes)


def check_array(name: str, array: _T, axes: str, advice: str = "check how they were made") -> _T:
    """Returns the array after `check_form` and `check_finite`."""
    check_form(name, array, axes)
    return check_finite(name, array, advice)


def check_lengths(name: str, lengths: Any, axes: str, *, infinite: bool = False) -> Any:
    """Returns an array or list of lengths as an array; raises ValueError unless they are finite and >= 0.

    `axes` as in `check_form`; `infinite` accepts infinity, for places that hold no edge.
    """
    values = lengths if is_traced(lengths) else _on_host(name, lengths)
    if not (jnp.issubdtype(values.dtype, jnp.floating) or jnp.issubdtype(values.dtype, jnp.integer)):
        raise ValueError(f"expected {name} of real numbers, got {_kind(lengths, values)}; use astype('float64')")
    _check_shape(name, values.shape, axes)
    if not is_traced(values):
        check_finite(name, np.where(values == np.inf, 0, values) if infinite else values)
        if values.size and values.min() < 0:
            bad = np.flatnonzero((values < 0).reshape(len(values), -1).any(axis=1))
            where = f"in {len(bad)} of {len(values)} rows, first row {bad[0]}"
            raise ValueError(f"expected {name} >= 0, got {values.min():g} {where}; a length is never negative")
    return values


def check_ids(name: str, ids: Any, num_ids: int | None, axes: str = "s") -> np.ndarray:
    """Returns an array or list of integers as an array of their type; raises ValueError for ids outside [0, num_ids).

    `num_ids` None stands for the number of rows of `ids`. `axes` as in `check_form`; "..." for any shape.
    """
    array = _on_host(name, ids)
    if array.dtype.kind not in "iu":
        raise ValueError(f"expected {name} as integers, got {_kind(ids, array)}; name rows by their numbers")
    if axes != "...":
        _check_shape(name, array.shape, axes)
    num_ids = len(array) if num_ids is None else num_ids
    if array.size and (array.min() < 0 or array.max() >= num_ids):
        raise ValueError(
            f"expected {name} in [0, {num_ids}), got {array.min()} to {array.max()}; number rows from 0, and name only "
            "those that exist"
        )
    return array


def check_count(name: str, value: Any, low: int = 1, high: int | None = None, advice: str = "") -> None:
    """Raises ValueError unless `value` is traced or an integer from `low` to `high`."""
    if is_traced(value):
        return
    number = _on_host(name, value)
    if number.shape or number.dtype.kind not in "iu" or number < low or (high is not None and number > high):
        bounds = f"{name} >= {low}" if high is None else f"{low} <= {name} <= {high}"
        raise ValueError(f"expected an integer {bounds}, got {_brief(value)}; {advice or 'choose one in this range'}")


def check_number(name: str, value: Any, low: float = 0.0) -> None:
    """Raises ValueError unless `value` is traced or a real number >= `low`."""
    if is_traced(value):
        return
    number = _on_host(name, value)
    if number.shape or number.dtype.kind not in "fiu" or not number >= low:
        raise ValueError(f"expected a number {name} >= {low:g}, got {_brief(value)}; choose one in this range")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises ValueError unless `value` is one of the names."""
    if not isinstance(value, str) or value not in choices:
        names = ", ".join(map(repr, choices))
        raise ValueError(f"expected {name} among {names}, got {_brief(value)}; choose one of these names")


def check_latents(decode_fn: Any, latents: Any, axes: str) -> Any:
    """Shapes and types that the decoder, traced but not run, returns for one latent, in its pytree.

    `axes` is "d" for one latent, "n d" or "n h w d" for many. Raises ValueError if latents are not finite real numbers
    (traced ones are taken to be), or if the decoder does not map one of them to real arrays.
    """
    check_form("latents", latents, axes)
    many = latents if " " in axes else latents[None]
    check_finite("latents", many, CHECK_ENCODER)
    one = jax.ShapeDtypeStruct(many.shape[1:], jnp.asarray(many[:0]).dtype)
    try:
        output = _decode_one.eval_shape(as_pytree(decode_fn), one)
    except Exception as error:  # the decoder may raise anything
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ValueError(
            f"expected a decoder of one latent {list(one.shape)} in JAX, got from it: {reason}; correct it, or take "
            "latents of its encoder"
        ) from error
    leaves = jax.tree.leaves(output)
    if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        kinds = sorted({str(leaf.dtype) for leaf in leaves}) or "nothing"
        raise ValueError(
            f"expected a decoder that returns arrays of real numbers, got {kinds}; do not round its output"
        )
    return output


def check_images(decode_fn: Any, latents: Any, axes: str) -> tuple[int, ...]:
    """As `check_latents`, for a decoder that must return a single array: the shape of one decoded latent."""
    output = check_latents(decode_fn, latents, axes)
    if not isinstance(output, jax.ShapeDtypeStruct):
        raise ValueError(f"expected a decoder that returns one array, got {type(output).__name__}; return images alone")
    return tuple(output.shape)


@jax.jit
def _decode_one(decode_fn: Any, latent: jax.Array) -> Any:
    """Never executed; jitted so that eval_shape is cached per decoder."""
    return decode_fn(latent)


def _check_shape(name: str, shape: tuple[int, ...], axes: str) -> None:
    words = axes.split()
    fits = [
        str(size) == word if word.isdigit() else size > 0 or word.endswith("*")
        for size, word in zip(shape, words, strict=False)
    ]
    if len(shape) != len(words) or not all(fits):
        form = f"[{', '.join(words)}]".replace("*", "")
        advice = "pass at least one entry" if 0 in shape else "reshape or select them"
        raise ValueError(f"expected {name} {form}, got shape {tuple(shape)}; {advice}")


def _on_host(name: str, value: Any) -> np.ndarray:
    if is_traced(value):
        raise ValueError(f"expected concrete {name}, got a traced array; pass them from outside jit")
    try:
        return np.asarray(value)
    except Exception as error:  # ragged lists, or an object that raises
        raise ValueError(f"expected {name} as an array, got {_brief(value)}; use numpy.asarray") from error


def _kind(value: Any, array: np.ndarray) -> str:
    return str(array.dtype) if array.dtype != object else type(value).__name__


def _brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
