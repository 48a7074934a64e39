"""PyTorch decoders as JAX functions; requires PyTorch, the extra `torch`.

The decoder runs in torch, on the device of torch: a host callback evaluates it on a batch of latents, its
Jacobian-vector products with `torch.func.jvp` and their transposes with `torch.func.vjp`. One primitive covers all
three, so that vmap, jit, forward and reverse mode and derivatives of any order work as for a decoder in JAX.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

BATCH = 256  # latents or tangents per call of torch


def decode_fn_of(decode: Callable[[torch.Tensor], torch.Tensor], *, device: str = "cpu") -> Callable[..., jax.Array]:
    """A torch decoder as a `decode_fn`: a JAX function from one latent to one image.

    The result works wherever a `decode_fn` is expected: metrics, edge lengths, geodesics, code searches. Put the model
    into eval mode first; its weights are constants.

    Args:
        decode: map of a batch of latents [n, d] or [n, h, w, d] to images [n, H, W, C], each image a function of its
            own latent only.
        device: device on which torch computes, such as "cuda".

    Example:
        >>> decode_fn = decode_fn_of(lambda z: torch.stack([z[:, 0], z[:, 1], z[:, 0] * z[:, 1]], dim=1))
        >>> jax.jacfwd(decode_fn)(jnp.array([2.0, 3.0])).tolist()
        [[1.0, 0.0], [0.0, 1.0], [3.0, 2.0]]
    """
    call = _Call(lambda z: (decode(z),), torch.device(device))
    return lambda z: _torch_p.bind(jnp.asarray(z), call=call, batch_axes=0)[0]


@dataclass(frozen=True, eq=False)
class _Call:
    """A function of batches of tensors that returns a tuple of batches, row by row.

    If it is linear in the arguments after the first `num_residuals`, `transposed` maps the latter and cotangents of the
    results to cotangents of the linear arguments.
    """

    function: Callable[..., tuple[torch.Tensor, ...]]
    device: torch.device
    num_residuals: int = 0
    transposed: "_Call | None" = None
    shapes: dict[Any, list[tuple[int, ...]]] = field(default_factory=dict)

    def pushed(self, num_arguments: int) -> "_Call":
        """(arguments, tangents) -> tangents of the results."""

        def push(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return torch.func.jvp(self.function, tensors[:num_arguments], tensors[num_arguments:])[1]

        return _Call(push, self.device, num_arguments, self.pulled(num_arguments))

    def pulled(self, num_arguments: int) -> "_Call":
        """(arguments, cotangents of the results) -> cotangents of the arguments."""

        def pull(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            vjp: Any = torch.func.vjp(self.function, *tensors[:num_arguments])[1]
            return vjp(tensors[num_arguments:])

        return _Call(pull, self.device)

    def result_shapes(self, shapes: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
        """Row shapes of the results for row shapes of the arguments, from one call on zeros."""
        if shapes not in self.shapes:
            rows = self.run([np.zeros((1, *shape), np.float32) for shape in shapes])
            self.shapes[shapes] = [row.shape[1:] for row in rows]
        return self.shapes[shapes]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Results for arrays of rows, computed in batches."""
        parts = []
        for start in range(0, len(arrays[0]), BATCH):
            tensors = [torch.tensor(array[start : start + BATCH], device=self.device) for array in arrays]
            with torch.enable_grad():  # else the derivatives that torch takes cannot be differentiated again
                results = self.function(*tensors)
            parts.append([result.detach().cpu().numpy() for result in results])
        return [np.concatenate(rows) for rows in zip(*parts, strict=True)]


_torch_p = Primitive("torch_call")
_torch_p.multiple_results = True


def _abstract(*arguments: Any, call: _Call, batch_axes: int) -> list[jax.core.ShapedArray]:
    leading = arguments[0].shape[:batch_axes]
    shapes = call.result_shapes(tuple(argument.shape[batch_axes:] for argument in arguments))
    return [jax.core.ShapedArray((*leading, *shape), arguments[0].dtype) for shape in shapes]


def _on_host(call: _Call, batch_axes: int, *arrays: Any) -> list[np.ndarray]:
    arrays = tuple(np.asarray(array) for array in arrays)
    leading = arrays[0].shape[:batch_axes]
    rows = call.run([array.reshape(-1, *array.shape[batch_axes:]) for array in arrays])
    return [result.astype(arrays[0].dtype).reshape(*leading, *result.shape[1:]) for result in rows]


def _called(*arguments: Any, call: _Call, batch_axes: int) -> list[jax.Array]:
    return [jnp.asarray(result) for result in _on_host(call, batch_axes, *arguments)]


def _lowered(ctx: Any, *arguments: Any, call: _Call, batch_axes: int) -> Any:
    # Not by jax.pure_callback: it wraps the arguments in arrays of JAX, and waits for their copies in the pool of
    # threads of which the callback holds one. Where there is one core, it waits forever.
    results, _, _ = mlir.emit_python_callback(
        ctx,
        lambda *arrays: tuple(_on_host(call, batch_axes, *arrays)),
        None,
        list(arguments),
        ctx.avals_in,
        ctx.avals_out,
        has_side_effect=False,
        returns_token=False,
    )
    return results


def _batched(arguments: Any, axes: Any, *, call: _Call, batch_axes: int) -> tuple[list[jax.Array], list[int]]:
    size = next(a.shape[axis] for a, axis in zip(arguments, axes, strict=True) if axis is not None)
    rows = [
        jnp.broadcast_to(a[None], (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(arguments, axes, strict=True)
    ]
    results = _torch_p.bind(*rows, call=call, batch_axes=batch_axes + 1)
    return results, [0] * len(results)


def _jvp(primals: Any, tangents: Any, *, call: _Call, batch_axes: int) -> tuple[list[jax.Array], list[jax.Array]]:
    results = _torch_p.bind(*primals, call=call, batch_axes=batch_axes)
    moved = [ad.instantiate_zeros(tangent) for tangent in tangents]
    return results, _torch_p.bind(*primals, *moved, call=call.pushed(len(primals)), batch_axes=batch_axes)


def _transposed(cotangents: Any, *arguments: Any, call: _Call, batch_axes: int) -> list[Any]:
    known = arguments[: call.num_residuals]
    if call.transposed is None or any(map(ad.is_undefined_primal, known)):
        raise NotImplementedError(
            "expected a function that is linear in its tangents, got another; transpose only its derivatives"
        )
    pulled = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    results = _torch_p.bind(*known, *pulled, call=call.transposed, batch_axes=batch_axes)
    return [None] * len(known) + results


_torch_p.def_impl(_called)
_torch_p.def_abstract_eval(_abstract)
mlir.register_lowering(_torch_p, _lowered, cacheable=False)
batching.primitive_batchers[_torch_p] = _batched
ad.primitive_jvps[_torch_p] = _jvp
ad.primitive_transposes[_torch_p] = _transposed
