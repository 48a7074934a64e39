"""The devices that a program computes on: one axis of a mesh, over which batches, chunks and sources are split.

Every device runs the same program on its own rows. Data sets and graphs are replicated, and so are parameters unless
they are sharded; XLA inserts the reductions across devices. Without `use_devices`, and on one device, there is no mesh.

The devices may belong to several processes that `jax.distributed.initialize` has joined. All of them then run the same
program on the same values and end with the same results.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"
LEAST_SPLIT = 2**14  # entries; smaller arrays of a training state are replicated
_current: ContextVar[Mesh | None] = ContextVar("mesh", default=None)
_in_parts: ContextVar[bool] = ContextVar("in_parts", default=False)


@contextlib.contextmanager
def use_devices(num_devices: int, *, shard_parameters: bool = False) -> Iterator[None]:
    """Context in which work is split over `num_devices` devices; 0 for all.

    With `shard_parameters` parameters and optimiser state are sharded over the devices during training and gathered
    layer by layer when they are used. Raises ValueError if there are fewer devices, or if a process would have no
    device of the mesh.
    """
    devices = jax.devices()
    if num_devices > len(devices):
        raise ValueError(
            f"expected mesh.data at most the number of devices {len(devices)}, got {num_devices}; lower "
            "--config.mesh.data"
        )
    count = num_devices or len(devices)
    if jax.process_count() > 1 and count != len(devices):
        raise ValueError(
            f"expected mesh.data 0 for all devices of {jax.process_count()} processes, got {num_devices}; set "
            "--config.mesh.data=0"
        )
    token = _current.set(Mesh(np.asarray(devices[:count]), (AXIS,)) if count > 1 else None)
    parts = _in_parts.set(shard_parameters)
    try:
        yield
    finally:
        _current.reset(token)
        _in_parts.reset(parts)


def size() -> int:
    """Number of devices that work is split over."""
    mesh = _current.get()
    return 1 if mesh is None else mesh.size


def round_up(batch_size: int) -> int:
    """The smallest multiple of `size()` that is at least `batch_size`."""
    return batch_size + -batch_size % size()


def replicated() -> NamedSharding | None:
    """The replicated sharding; None without a mesh."""
    mesh = _current.get()
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any) -> Any:
    """The pytree replicated on every device; unchanged without a mesh."""
    sharding = replicated()
    return tree if sharding is None else jax.tree.map(lambda leaf: _put(leaf, sharding), tree)


def shard_state(tree: Any) -> Any:
    """A training state with its storage sharding: replicated, or with large arrays sharded under `shard_parameters`."""
    mesh = _current.get()
    if mesh is None:
        return tree
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree)):
        return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, _kept(mesh, leaf.shape)), tree)
    return jax.tree.map(lambda leaf: _put(leaf, _kept(mesh, leaf.shape)), tree)


def unshard(tree: Any) -> Any:
    """The result of `shard_state`, replicated on every device."""
    if _current.get() is None or not _in_parts.get():
        return tree
    return jax.jit(lambda leaves: leaves, out_shardings=replicated())(tree)


def _kept(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Sharding along the longest divisible axis, for large arrays."""
    axes = [axis for axis in np.argsort(shape)[::-1] if shape[axis] % mesh.size == 0]
    if not _in_parts.get() or int(np.prod(shape)) < LEAST_SPLIT or not axes:
        return NamedSharding(mesh, PartitionSpec())
    return NamedSharding(mesh, PartitionSpec(*[None] * int(axes[0]), AXIS))


def shard_rows(array: Any) -> Any:
    """The array with its rows sharded over the devices, whose number divides the rows; unchanged without a mesh."""
    mesh = _current.get()
    return array if mesh is None else _put(array, NamedSharding(mesh, PartitionSpec(AXIS)))


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """The leaf under a sharding; with several processes, each provides its part of the common value."""
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if jax.dtypes.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def to_host(tree: Any) -> Any:
    """The complete pytree as numpy arrays on every process."""
    return jax.tree.map(_fetch, tree)


def _fetch(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return jax.device_get(leaf)


def over_rows(function: Callable[..., Any], rows: Any, *whole: Any) -> Any:
    """`function(rows, *whole)` on each device's own rows, concatenated in order.

    `function` maps a pytree of arrays [r, ...] to arrays with r rows, or a fixed multiple; it may communicate along
    `AXIS`. `size()` divides the number of rows; `whole` is replicated.
    """
    mesh = _current.get()
    if mesh is None:
        return function(rows, *whole)
    specs = (PartitionSpec(AXIS), *(PartitionSpec() for _ in whole))
    alone = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False)
    joined = jax.jit(alone)(jax.tree.map(shard_rows, rows), *map(replicate, whole))
    return joined if jax.process_count() == 1 else jax.tree.map(jax.numpy.asarray, to_host(joined))


def all_gather(rows: Any) -> Any:
    """Inside a function called by `over_rows` on a mesh: the rows of all devices, in order, on every device."""
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, AXIS, tiled=True), rows)
