"""The devices that a program computes on: one axis of a mesh, over which batches, chunks and sources are split.

Every device runs the same program on its own rows; parameters, data sets and graphs are copied to all, and XLA adds the
few sums that cross devices. Without `over`, and on one device, everything is as it is without a mesh.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"
_current: ContextVar[Mesh | None] = ContextVar("mesh", default=None)


@contextlib.contextmanager
def over(num_devices: int) -> Iterator[None]:
    """Within it, work is split over so many devices; 0 for all there are.

    Raises:
        ValueError: there are fewer.
    """
    devices = jax.devices()
    if num_devices > len(devices):
        raise ValueError(
            f"expected mesh.data at most the number of devices {len(devices)}, got {num_devices}; lower "
            "--config.mesh.data"
        )
    count = num_devices or len(devices)
    token = _current.set(Mesh(np.asarray(devices[:count]), (AXIS,)) if count > 1 else None)
    try:
        yield
    finally:
        _current.reset(token)


def size() -> int:
    """Devices that work is split over."""
    mesh = _current.get()
    return 1 if mesh is None else mesh.size


def rounded(batch_size: int) -> int:
    """The smallest multiple of `size()` that is no smaller."""
    return batch_size + -batch_size % size()


def replicated() -> NamedSharding | None:
    """Sharding of what every device holds whole; None without a mesh."""
    mesh = _current.get()
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any) -> Any:
    """The pytree whole on every device; as it is without a mesh."""
    sharding = replicated()
    return tree if sharding is None else jax.device_put(tree, sharding)


def split(array: Any) -> Any:
    """The array with its rows dealt out to the devices, whose number divides theirs; as it is without a mesh."""
    mesh = _current.get()
    return array if mesh is None else jax.device_put(array, NamedSharding(mesh, PartitionSpec(AXIS)))


def over_rows(function: Callable[..., Any], rows: Any, *whole: Any) -> Any:
    """`function(rows, *whole)`, each device on its own rows and for itself, joined in order.

    Args:
        function: maps rows [r, ...] to an array with as many, or a fixed multiple of as many, rows.
        rows: array whose length `size()` divides.
        whole: arrays that every device needs.
    """
    mesh = _current.get()
    if mesh is None:
        return function(rows, *whole)
    specs = (PartitionSpec(AXIS), *(PartitionSpec() for _ in whole))
    alone = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False)
    return alone(rows, *whole)
