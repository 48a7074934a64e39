"""Evaluates a linear map only where its input is non-zero.

The tangent of one cell of a grid is zero outside the cell, and convolutions spread it by a few pixels per layer.
Evaluating the linearised decoder equation by equation on the non-zero box, the window, takes a fraction of the
products. Equations without a rule here are evaluated on the whole array, so the result is always the same.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array


class Window(NamedTuple):
    """An array that is zero outside a box.

    Attributes:
        value: the entries inside the box.
        start: first index of the box along each axis.
        shape: shape of the whole array.
    """

    value: Array
    start: tuple[int, ...]
    shape: tuple[int, ...]


def dense(window: Window) -> Array:
    """The whole array."""
    return _grown(window, (0,) * len(window.shape), window.shape).value


def push_window(linear: Callable[[Array], Any], window: Window) -> list[Window]:
    """Leaves of linear(x) for an input that is zero outside a window.

    Args:
        linear: a linear function of one array, such as the second result of `jax.linearize`.
        window: its input.

    Returns:
        Windows that hold all non-zero entries of the leaves of the output.
    """
    closed = jax.make_jaxpr(linear)(jax.ShapeDtypeStruct(window.shape, window.value.dtype))
    return _evaluate(closed.jaxpr, closed.consts, [window])


def _evaluate(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        outputs = _apply(equation, [read(atom) for atom in equation.invars])
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return [
        result if isinstance(result, Window) else _whole(jnp.asarray(result)) for result in map(read, jaxpr.outvars)
    ]


def product_flops(jaxpr: Any) -> float:
    """Floating-point operations in the matrix products of a program.

    Args:
        jaxpr: what `jax.make_jaxpr` returns.

    Returns:
        Two for every multiplication with addition; loops of known length count every pass.
    """
    total = 0.0
    for equation in jaxpr.jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2.0 * depth * math.prod(equation.outvars[0].aval.shape)
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        if hasattr(inner, "jaxpr"):
            total += equation.params.get("length", 1) * product_flops(inner)
    return total


def _apply(equation: Any, inputs: list[Any]) -> list[Any]:
    name, parameters = equation.primitive.name, equation.params
    if not any(isinstance(value, Window) for value in inputs):
        return _bound(equation, inputs)
    if name in ("jit", "pjit", "closed_call"):
        inner = parameters["jaxpr"] if "jaxpr" in parameters else parameters["call_jaxpr"]
        return _evaluate(inner.jaxpr, inner.consts, inputs)
    rule = _RULES.get(name)
    outputs = None if rule is None else rule(parameters, *inputs)
    if outputs is None:
        return [_whole(x) for x in _bound(equation, [dense(v) if isinstance(v, Window) else v for v in inputs])]
    return outputs if isinstance(outputs, list) else [outputs]


def _bound(equation: Any, inputs: list[Any]) -> list[Any]:
    outputs = equation.primitive.bind(*inputs, **equation.params)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def _whole(x: Array) -> Window:
    return Window(x, (0,) * x.ndim, x.shape)


def _stop(window: Window) -> tuple[int, ...]:
    return tuple(s + size for s, size in zip(window.start, window.value.shape, strict=True))


def _grown(window: Window, start: Sequence[int], stop: Sequence[int]) -> Window:
    """The same array with the box moved to [start, stop): padded with zeros or cropped."""
    padding = [(a - lo, hi - b, 0) for a, lo, b, hi in zip(window.start, start, _stop(window), stop, strict=True)]
    value = window.value if not any(map(any, padding)) else jax.lax.pad(window.value, _zero(window), padding)
    return Window(value, tuple(start), window.shape)


def _zero(window: Window) -> Array:
    return jnp.zeros((), window.value.dtype)


def _union(windows: Sequence[Window]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    starts, stops = [w.start for w in windows], [_stop(w) for w in windows]
    return tuple(map(min, zip(*starts, strict=True))), tuple(map(max, zip(*stops, strict=True)))


def _cut(other: Any, window: Window, axes: dict[int, int]) -> Any:
    """The part of a plain array that overlaps the window: its axis i runs along the window's axis axes[i]."""
    starts, stops = [0] * other.ndim, list(other.shape)
    for axis, along in axes.items():
        starts[axis], stops[axis] = window.start[along], _stop(window)[along]
    return jax.lax.slice(other, starts, stops)


def _same(apply: Callable[[Array], Array]) -> Callable:
    return lambda parameters, window: window._replace(value=apply(window.value))


def _convert(parameters: dict, window: Window) -> Window:
    return window._replace(value=window.value.astype(parameters["new_dtype"]))


def _scale(parameters: dict, a: Any, b: Any, operation: Callable = jnp.multiply) -> Window | None:
    if isinstance(a, Window) and isinstance(b, Window):
        return None
    window, other = (a, b) if isinstance(a, Window) else (b, a)
    other = jnp.asarray(other)
    if any(n == 1 < m for n, m in zip(window.shape, other.shape, strict=False)):
        return None
    part = _cut(other, window, {i: i for i, n in enumerate(other.shape) if n == window.shape[i]})
    return window._replace(value=operation(window.value, part))


def _divide(parameters: dict, a: Any, b: Any) -> Window | None:
    return _scale(parameters, a, b, jnp.divide) if isinstance(a, Window) else None


def _add(parameters: dict, a: Any, b: Any, sign: float = 1.0) -> Window | None:
    if not (isinstance(a, Window) and isinstance(b, Window)) or a.shape != b.shape:
        return None
    start, stop = _union([a, b])
    first, second = (_grown(w, start, stop).value for w in (a, b))
    return Window(first + second if sign > 0 else first - second, start, a.shape)


def _subtract(parameters: dict, a: Any, b: Any) -> Window | None:
    return _add(parameters, a, b, -1.0)


def _dot(parameters: dict, a: Any, b: Any) -> Window | None:
    if isinstance(a, Window) and isinstance(b, Window):
        return None
    (contract_a, contract_b), (batch_a, batch_b) = parameters["dimension_numbers"]
    shape_a, shape_b = a.shape, b.shape
    to_a = dict(zip((*contract_b, *batch_b), (*contract_a, *batch_a), strict=True))
    if isinstance(a, Window):
        b = _cut(b, a, to_a)
    else:
        a = _cut(a, b, {i: j for j, i in to_a.items()})
    value_a, value_b = (x.value if isinstance(x, Window) else x for x in (a, b))
    names = ("dimension_numbers", "precision", "preferred_element_type")
    value = jax.lax.dot_general(value_a, value_b, **{name: parameters[name] for name in names})
    free_a = [i for i in range(len(shape_a)) if i not in (*contract_a, *batch_a)]
    free_b = [i for i in range(len(shape_b)) if i not in (*contract_b, *batch_b)]
    start_a, start_b = (x.start if isinstance(x, Window) else (0,) * x.ndim for x in (a, b))
    batch_start = [start_a[i] for i in batch_a] if isinstance(a, Window) else [start_b[i] for i in batch_b]
    start = (*batch_start, *(start_a[i] for i in free_a), *(start_b[i] for i in free_b))
    shape = (*(shape_a[i] for i in (*batch_a, *free_a)), *(shape_b[i] for i in free_b))
    return Window(value, start, shape)


def _transpose(parameters: dict, window: Window) -> Window:
    order = parameters["permutation"]
    start, shape = (tuple(x[i] for i in order) for x in (window.start, window.shape))
    return Window(jnp.transpose(window.value, order), start, shape)


def _pad(parameters: dict, window: Window, padding_value: Any) -> Window | None:
    low, high, interior = (tuple(map(int, amounts)) for amounts in zip(*parameters["padding_config"], strict=True))
    if any(interior) or isinstance(padding_value, Window):
        return None
    shape = tuple(lo + n + hi for lo, n, hi in zip(low, window.shape, high, strict=True))
    moved = Window(window.value, tuple(s + lo for s, lo in zip(window.start, low, strict=True)), shape)
    return _clipped(moved)


def _clipped(window: Window) -> Window:
    """The window cut to its array; a single zero where nothing is left."""
    start = [min(max(s, 0), n - 1) for s, n in zip(window.start, window.shape, strict=True)]
    stop = [max(min(e, n), s + 1) for s, e, n in zip(start, _stop(window), window.shape, strict=True)]
    outside = any(e <= 0 or s >= n for s, e, n in zip(window.start, _stop(window), window.shape, strict=True))
    if outside:
        return Window(jnp.zeros((1,) * len(start), window.value.dtype), (0,) * len(start), window.shape)
    return _grown(window, start, stop)


def _slice(parameters: dict, window: Window) -> Window | None:
    if parameters["strides"] is not None and any(stride != 1 for stride in parameters["strides"]):
        return None
    return _taken(window, *(tuple(map(int, parameters[name])) for name in ("start_indices", "limit_indices")))


def _taken(window: Window, first: Sequence[int], last: Sequence[int]) -> Window:
    shape = tuple(hi - lo for lo, hi in zip(first, last, strict=True))
    return _clipped(Window(window.value, tuple(s - lo for s, lo in zip(window.start, first, strict=True)), shape))


def _split(parameters: dict, window: Window) -> list[Window]:
    axis, offset, pieces = parameters["axis"], 0, []
    for size in map(int, parameters["sizes"]):
        first, last = [0] * len(window.shape), list(window.shape)
        first[axis], last[axis] = offset, offset + size
        pieces.append(_taken(window, first, last))
        offset += size
    return pieces


def _concatenate(parameters: dict, *parts: Any) -> Window | None:
    if not all(isinstance(part, Window) for part in parts):
        return None
    axis, offset, moved = parameters["dimension"], 0, []
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    for part in parts:
        start = tuple(s + offset * (i == axis) for i, s in enumerate(part.start))
        moved.append(Window(part.value, start, tuple(shape)))
        offset += part.shape[axis]
    start, stop = _union(moved)
    pieces = [_grown(part, start, stop).value for part in moved]
    return Window(sum(pieces[1:], start=pieces[0]), start, tuple(shape))


def _sum(parameters: dict, window: Window) -> Window:
    kept = [i for i in range(len(window.shape)) if i not in parameters["axes"]]
    start, shape = (tuple(x[i] for i in kept) for x in (window.start, window.shape))
    return Window(jnp.sum(window.value, axis=tuple(parameters["axes"])), start, shape)


def _squeeze(parameters: dict, window: Window) -> Window:
    return _sum({"axes": parameters["dimensions"]}, window)


def _broadcast(parameters: dict, window: Window, *_: Any) -> Window:
    shape, axes = parameters["shape"], parameters["broadcast_dimensions"]
    start, size = [0] * len(shape), list(shape)
    for i, axis in enumerate(axes):
        if window.shape[i] == shape[axis]:
            start[axis], size[axis] = window.start[i], window.value.shape[i]
    return Window(jax.lax.broadcast_in_dim(window.value, size, axes), tuple(start), tuple(shape))


def _reshape(parameters: dict, window: Window) -> Window | None:
    """Lone axes keep their range; of axes that merge or split, the first keeps it, widened to whole steps."""
    if parameters.get("dimensions") is not None or 0 in window.shape:
        return None
    new = tuple(parameters["new_sizes"])
    start, stop = list(window.start), list(_stop(window))
    new_start, new_stop = [0] * len(new), list(new)
    for old_axes, new_axes in _groups(window.shape, new):
        if not old_axes or not new_axes:
            continue  # axes of length one
        for axis in old_axes[1:]:
            start[axis], stop[axis] = 0, window.shape[axis]
        inner = math.prod(window.shape[axis] for axis in old_axes[1:])
        step = math.prod(new[axis] for axis in new_axes[1:])
        low, high = start[old_axes[0]] * inner, stop[old_axes[0]] * inner
        # Whole steps of the new first axis that are whole steps of the old one as well.
        common = math.lcm(step, inner)
        low, high = low // common * common, min(-(-high // common) * common, inner * window.shape[old_axes[0]])
        start[old_axes[0]], stop[old_axes[0]] = low // inner, high // inner
        new_start[new_axes[0]], new_stop[new_axes[0]] = low // step, high // step
    value = _grown(window, start, stop).value
    size = [hi - lo for lo, hi in zip(new_start, new_stop, strict=True)]
    return Window(value.reshape(size), tuple(new_start), new)


def _groups(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Runs of consecutive axes of equal products that a reshape turns into each other."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        old_axes: list[int] = []
        new_axes: list[int] = []
        size_old = size_new = 1
        while True:
            if i < len(old) and (size_old < size_new or not old_axes):
                size_old, i = size_old * old[i], i + 1
                old_axes.append(i - 1)
            elif j < len(new) and (size_new < size_old or not new_axes):
                size_new, j = size_new * new[j], j + 1
                new_axes.append(j - 1)
            else:
                break
            if old_axes and new_axes and size_old == size_new:
                break
        groups.append(([a for a in old_axes if old[a] > 1], [a for a in new_axes if new[a] > 1]))
    return groups


_RULES: dict[str, Callable] = {
    "neg": _same(jnp.negative),
    "copy": _same(lambda x: x),
    "convert_element_type": _convert,
    "mul": _scale,
    "div": _divide,
    "add": _add,
    "add_any": _add,
    "sub": _subtract,
    "dot_general": _dot,
    "transpose": _transpose,
    "pad": _pad,
    "slice": _slice,
    "split": _split,
    "concatenate": _concatenate,
    "reduce_sum": _sum,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
}
