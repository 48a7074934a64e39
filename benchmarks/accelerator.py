"""What an accelerator computes a second, as a share of its peak, beside one core of the CPU.

    python benchmarks/accelerator.py [--seconds 5] [--channels 64,128,256] [--core 0]

Rows: edge lengths, node metrics and geodesics of the decoder of one latent of 16 dimensions; images searched in context
on a 4 x 4 grid, one sweep; images of a training step; tokens sampled from the prior. The share is that of the measured
rate of matrix products in float32 (or, for sampling, of the bandwidth of copies), by the operations that the decoder,
the encoder and the prior need according to XLA and the multiples of them that each row takes. Without an accelerator
only the column of the core is printed. One call takes at most eight minutes.
"""

import argparse
import os
import time
from functools import partial

BATCH = 1_024  # items at a time on an accelerator
ON_CPU = 64  # and on a core
DIM, SIDE, CODES = 16, 4, 256


def per_second(function, items: int, seconds: float) -> float:
    """Items a second of repeated calls, after one that compiles."""
    import jax

    jax.block_until_ready(function())
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        jax.block_until_ready(function())
        calls += 1
    return items * calls / (time.perf_counter() - start)


def operations(function, *arguments) -> float:
    """Floating-point operations of a function, as XLA counts them."""
    import jax

    return float(jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"])


def peaks(seconds: float) -> dict[str, float]:
    """Operations a second of a large product in float32, and bytes a second of a copy."""
    import jax
    import jax.numpy as jnp

    size = 8_192 if jax.default_backend() != "cpu" else 1_024
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
    copy = jax.jit(lambda a: a + 1.0)
    return {
        "operations": per_second(lambda: product(a), 2 * size**3, seconds),
        "bytes": per_second(lambda: copy(a), 2 * a.nbytes, seconds),
    }


def rows(channels: tuple[int, ...], batch: int, seconds: float) -> dict[str, tuple[float, str, float]]:
    """Name -> items a second, the peak that limits it, and what an item takes of it."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from geovq_jax import geometry
    from geovq_jax.models import gpt, vae
    from geovq_jax.models.objective import Objective
    from geovq_jax.models.sampling import draw
    from geovq_jax.quantization.context import encode_in_context
    from geovq_jax.training.optimizer import make_optimizer

    rng = np.random.default_rng(0)
    vanilla = vae.Architecture("vanilla", (28, 28, 1), DIM, channels)
    spatial = vae.Architecture("spatial", (28, 28, 1), DIM, channels)
    found = {}
    decoders, costs = {}, {}
    for arch in (vanilla, spatial):
        params = vae.init(jax.random.key(0), arch)
        decoders[arch.kind] = jax.tree_util.Partial(lambda params, z, arch=arch: vae.decode(params, arch, z), params)
        costs[arch.kind] = operations(decoders[arch.kind], jnp.zeros(vae.latent_shape(arch)))
    decode, cost = decoders["vanilla"], costs["vanilla"]
    points = rng.normal(size=(batch, DIM)).astype(np.float32)
    edges = rng.integers(0, batch, (4 * batch, 2)).astype(np.int32)
    edges = edges[edges[:, 0] != edges[:, 1]]
    length = partial(geometry.edge_lengths, decode, points, edges, rule="gauss")
    found["edge lengths, Gauss"] = per_second(length, len(edges), seconds), "operations", 2 * 4 * cost
    metrics = partial(geometry.node_metrics, decode, points)
    found["node metrics"] = per_second(metrics, batch, seconds), "operations", (1 + DIM) * cost
    pairs = max(batch // 16, 4)
    solve = partial(geometry.geodesics, decode, points[:pairs], points[-pairs:], num_points=8)
    # Six inner points, each with a Jacobian by DIM tangents, in every iteration.
    each = float(np.mean(np.asarray(solve().iterations))) * 6 * (1 + DIM) * cost
    found["geodesics, 8 points"] = per_second(solve, pairs, seconds), "operations", each
    grid, images = decoders["spatial"], rng.random((batch, 28, 28, 1)).astype(np.float32)
    vectors = rng.normal(size=(CODES, DIM)).astype(np.float32)
    codes = rng.integers(0, CODES, (batch, SIDE, SIDE)).astype(np.int32)
    metric = np.broadcast_to(np.eye(DIM, dtype=np.float32), (*codes.shape, DIM, DIM)).copy()
    search = partial(encode_in_context, grid, vectors, codes, metric, images, sweeps=1, batch_size=batch)
    found["images searched, one sweep"] = per_second(search, batch, seconds), "operations", 4 * 3 * costs["spatial"]
    params, optimizer = vae.init(jax.random.key(0), spatial), make_optimizer(learning_rate=1e-3, num_steps=1_000)

    @jax.jit
    def step(params, state, key):
        loss = lambda params: vae.loss(key, params, spatial, Objective(), jnp.asarray(images), 0)[0]  # noqa: E731
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return jax.tree.map(jnp.add, params, updates), state

    train = partial(step, params, optimizer.init(params), jax.random.key(1))
    both = costs["spatial"] + operations(
        lambda params, image: vae.encode(params, spatial, image).mean, params, jnp.zeros((28, 28, 1))
    )
    found["training images"] = per_second(train, batch, seconds), "operations", 3 * both
    arch = gpt.Architecture(CODES, SIDE**2, 10, 192, 6, 6, grid=(SIDE, SIDE))
    prior = gpt.init(jax.random.key(2), arch)
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "guidance": 1.0}
    sample = partial(draw, jax.random.key(3), prior, arch, np.zeros(batch, np.int32), settings)
    # Every position reads all parameters once for the batch, and the keys and values before it.
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(prior))
    cache = 2 * arch.num_layers * arch.embed_dim * 4 * SIDE**2 / 2
    found["tokens sampled"] = per_second(sample, batch * SIDE**2, seconds), "bytes", size / batch + cache
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--channels", default="64,128,256")
    parser.add_argument("--core", type=int, default=0)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # before JAX starts its threads
        os.sched_setaffinity(0, {arguments.core})
    import jax

    channels = tuple(map(int, arguments.channels.split(",")))
    device = jax.devices()[0]
    columns = {}
    if device.platform != "cpu":
        columns[device.device_kind] = (peaks(arguments.seconds), rows(channels, BATCH, arguments.seconds))
    with jax.default_device(jax.devices("cpu")[0]):
        columns["one core"] = (peaks(arguments.seconds), rows(channels, ON_CPU, arguments.seconds))
    print(f"| items per second | {' | '.join(f'{name} | share of its peak' for name in columns)} |")
    print(f"|---{'|---|---' * len(columns)}|")
    for name, unit in (("operations", "product in float32 [Gflop/s]"), ("bytes", "copy [GB/s]")):
        print(f"| {unit} | {' | '.join(f'{peak[name] / 1e9:,.0f} | 1' for peak, _ in columns.values())} |")
    for name in columns["one core"][1]:
        cells = []
        for peak, measured in columns.values():
            speed, limit, each = measured[name]
            cells.append(f"{speed:,.0f} | {speed * each / peak[limit]:.2f}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
