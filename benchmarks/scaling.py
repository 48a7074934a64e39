"""Work a device and bytes between devices of split node metrics and relaxation sweeps, on simulated devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python benchmarks/scaling.py

Weak scaling: rows, sources and (where nodes are split) nodes a device stay the same. Figures are those of the compiled
program, not times: simulated devices share the cores of one machine.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from geovq_jax.geometry import nodes as at_nodes
from geovq_jax.geometry.graphs import relaxation

ROWS, DIM, SIDE, SOURCES, NODES, WIDTH = 64, 16, 784, 16, 10_000, 20
COLLECTIVE = re.compile(r"= (\w+)\[([\d,]*)\]\S* (all-reduce|all-gather|all-to-all|collective-permute)(?:-start)?\(")
BYTES = {"pred": 1, "f32": 4, "s32": 4, "u32": 4}


def collectives(text: str) -> tuple[int, int]:
    """Number of collective operations of a program and the bytes of their results."""
    found = COLLECTIVE.findall(text)
    return len(found), sum(
        BYTES[kind] * int(np.prod([int(n) for n in shape.split(",") if n])) for kind, shape, _ in found
    )


def measure(name: str, lowered: jax.stages.Lowered, devices: int) -> None:
    """Print a row of the table."""
    compiled = lowered.compile()
    cost = compiled.cost_analysis()
    number, moved = collectives(compiled.as_text())
    print(
        f"| {name} | {devices} | {cost['flops']:.4g} | {cost['bytes accessed']:.4g} | {number} | {moved} |", flush=True
    )


def main() -> None:
    """Compile both programs for 1, 2, 4 and 8 devices."""
    weights = jnp.ones((DIM, 64)), jnp.ones((64, SIDE))
    decode = jax.tree_util.Partial(lambda w, z: jax.nn.sigmoid(jax.nn.silu(z @ w[0]) @ w[1]), weights)
    print(
        "| program | devices | FLOPs a device | bytes a device | collectives | bytes moved |\n|---|---|---|---|---|---|"
    )
    for devices in (1, 2, 4, 8):
        mesh = Mesh(np.asarray(jax.devices()[:devices]), ("data",))
        rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
        copied = jax.device_put(decode, whole)
        z = jax.ShapeDtypeStruct((ROWS * devices, DIM), jnp.float32, sharding=rows)
        measure("node metrics", jax.jit(at_nodes._metrics_chunk).lower(copied, z), devices)
        neighbours = jax.ShapeDtypeStruct((NODES, WIDTH), jnp.int32, sharding=whole)
        lengths = jax.ShapeDtypeStruct((NODES, WIDTH), jnp.float32, sharding=whole)
        starts = jax.ShapeDtypeStruct((devices, SOURCES), jnp.int32, sharding=rows)
        specs = (PartitionSpec("data"), PartitionSpec(), PartitionSpec())
        relax = jax.shard_map(
            lambda s, *graph: relaxation._relax_batches(s, *graph, NODES),
            mesh=mesh,
            in_specs=specs,
            out_specs=PartitionSpec("data"),
            check_vma=False,
        )
        measure("a sweep of relax", jax.jit(relax).lower(starts, neighbours, lengths), devices)
        nodes = NODES * devices
        nearest = jax.shard_map(
            partial(relaxation._relax_labels, n=nodes, num_devices=devices),
            mesh=mesh,
            in_specs=(PartitionSpec("data"), PartitionSpec()),
            out_specs=PartitionSpec("data"),
            check_vma=False,
        )
        parts = [
            tuple(jax.ShapeDtypeStruct((number, WIDTH), kind, sharding=rows) for kind in (jnp.int32, jnp.float32))
            for number in (nodes, 0)
        ]
        sources = jax.ShapeDtypeStruct((SOURCES,), jnp.int32, sharding=whole)
        measure("a sweep of relax_nearest", jax.jit(nearest).lower(parts, sources), devices)


if __name__ == "__main__":
    main()
