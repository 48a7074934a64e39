"""Edge lengths on one core against the naive double-backward formulation in PyTorch, on the same decoder and edges.

    python benchmarks/edge_lengths.py

Both sides take the endpoints rule of the same edges of a 20-neighbour union graph, with decoders of the package's own
sizes: vanilla (d = 16) and spatial in context (4 x 4 x 16). The torch side evaluates each Jacobian-vector product by
two backward passes, a batch of edges at a time, and is measured on a sample of the edges; ours on all of them. Sides
alternate; times are CPU seconds after a warm-up, and the ratio is of medians. FLOP/s counts the matrix products that
ours takes, and is given as a share of the peak of one large product measured in the same run.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable


def cpu_seconds(function: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def matmul_peak() -> float:
    """FLOP/s of a 1024 x 1024 float32 product."""
    import jax
    import numpy as np

    matrix = jax.device_put(np.random.default_rng(0).random((1024, 1024), np.float32))
    product = jax.jit(lambda a: a @ a)
    product(matrix).block_until_ready()
    return 2.0 * 1024**3 / min(cpu_seconds(lambda: product(matrix).block_until_ready()) for _ in range(10))


def torch_decoder(arch, params) -> Callable:
    """The package's decoder in PyTorch, on batches of latents [b, d] or [b, h, w, d]."""
    import numpy as np
    import torch
    from torch.nn import functional

    def tensor(array) -> torch.Tensor:
        return torch.from_numpy(np.array(array))

    decoder = params["decoder"]
    head = tensor(decoder["head"]["kernel"]), tensor(decoder["head"]["bias"])
    ups = [decoder[f"_Resample_{i}"] for i in range(len(arch.channels))]
    ups = [(tensor(up["kernel"]).permute(2, 3, 0, 1).contiguous(), tensor(up["bias"])) for up in ups]
    grid = [-(-side // 2 ** len(arch.channels)) for side in arch.image_shape[:2]]
    margins = [(g * 2 ** len(arch.channels) - side) // 2 for g, side in zip(grid, arch.image_shape, strict=False)]

    def decode(z: torch.Tensor) -> torch.Tensor:
        x = (z @ head[0] + head[1]).reshape(len(z), *grid, -1).permute(0, 3, 1, 2)
        for kernel, bias in ups:
            x = functional.conv_transpose2d(functional.silu(x), kernel, bias, stride=2, padding=1)
        rows, columns = (slice(m, m + side) for m, side in zip(margins, arch.image_shape, strict=False))
        return torch.sigmoid(x[:, :, rows, columns])

    return decode


def torch_lengths(decode: Callable, latents, edges, batch_size: int):
    """1/2 (|J(a) D| + |J(b) D|) of edges between latents [n, d] or between cells of latents [n, h, w, d]."""
    import numpy as np
    import torch

    shape = latents.shape
    cells = latents.reshape(-1, shape[-1])
    per_latent = cells.shape[0] // shape[0]
    flat = latents.reshape(shape[0], per_latent, shape[-1])
    lengths = []
    for start in range(0, len(edges), batch_size):
        ends = edges[start : start + batch_size]
        vectors = cells[ends[:, 1]] - cells[ends[:, 0]]
        speeds = []
        for end in (ends[:, 0], ends[:, 1]):
            tangents = np.zeros((len(ends), per_latent, shape[-1]), np.float32)
            tangents[np.arange(len(ends)), end % per_latent] = vectors
            points = torch.from_numpy(flat[end // per_latent].reshape(-1, *shape[1:]))
            directions = torch.from_numpy(tangents.reshape(-1, *shape[1:]))
            pushed = torch.autograd.functional.jvp(decode, points, directions)[1]
            speeds.append(pushed.flatten(1).norm(dim=1).numpy())
        lengths.append(0.5 * (speeds[0] + speeds[1]))
    return np.concatenate(lengths)


def compare(name: str, arch, latents, arguments: argparse.Namespace, peak: float) -> None:
    """Measures both sides and prints the comparison."""
    from functools import partial

    import jax
    import numpy as np

    from geovq_jax.geometry import cell_edge_lengths, edge_lengths, knn, pullback_metric, unique_edges
    from geovq_jax.geometry.cells import windowed_grid_metrics
    from geovq_jax.geometry.windows import product_flops
    from geovq_jax.models import vae

    params = vae.init(jax.random.key(0), arch)
    decode_fn = jax.tree_util.Partial(partial(lambda arch, params, z: vae.decode(params, arch, z), arch), params)
    measure = edge_lengths if arch.kind == "vanilla" else cell_edge_lengths
    decode = torch_decoder(arch, jax.device_get(params))

    cells = latents.reshape(-1, latents.shape[-1])
    edges = unique_edges(np.asarray(knn(cells, arguments.neighbours).indices))
    sample = np.random.default_rng(1).choice(len(edges), arguments.torch_edges, replace=False)
    measure(decode_fn, latents, edges)
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        found["ours"] = np.asarray(measure(decode_fn, latents, edges))

    def naive() -> None:
        found["naive"] = torch_lengths(decode, latents, edges[sample], arguments.torch_batch)

    torch_lengths(decode, latents, edges[sample[:64]], arguments.torch_batch)
    times: dict[str, list[float]] = {"ours": [], "naive": []}
    for _ in range(arguments.rounds):
        times["naive"].append(cpu_seconds(naive))
        times["ours"].append(cpu_seconds(ours))
    rates = {
        "ours": len(edges) / statistics.median(times["ours"]),
        "naive": len(sample) / statistics.median(times["naive"]),
    }
    difference = np.abs(found["ours"][sample] - found["naive"]).max() / found["naive"].max()
    program = jax.make_jaxpr(partial(pullback_metric if arch.kind == "vanilla" else windowed_grid_metrics, decode_fn))
    flops = len(latents) * product_flops(program(latents[0])) / statistics.median(times["ours"])
    print(f"{name}: {len(cells)} nodes, {len(edges)} edges, mean degree {2 * len(edges) / len(cells):.1f}")
    print(f"    naive double backward  {rates['naive']:>9.0f} edges/s")
    print(
        f"    edge lengths           {rates['ours']:>9.0f} edges/s, {rates['ours'] / rates['naive']:.1f} times as many"
    )
    print(
        f"    {flops / 1e9:.1f} GFLOP/s, {flops / peak:.0%} of the peak; largest relative difference {difference:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=10_000, help="nodes of the vanilla graph")
    parser.add_argument("--images", type=int, default=400, help="images of the spatial graph, 16 nodes each")
    parser.add_argument("--neighbours", type=int, default=20)
    parser.add_argument("--torch-edges", type=int, default=2048, help="edges measured on the torch side")
    parser.add_argument("--torch-batch", type=int, default=128)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Before the imports: XLA sizes its thread pool by the cores it may use.
    os.sched_setaffinity(0, {arguments.core})

    import numpy as np
    import torch

    from geovq_jax.models import vae

    torch.set_num_threads(1)
    rng, peak = np.random.default_rng(0), matmul_peak()
    print(f"peak of a matrix product: {peak / 1e9:.1f} GFLOP/s")
    vanilla = vae.Architecture(kind="vanilla", latent_dim=16, channels=(32, 64, 128))
    compare("vanilla", vanilla, rng.normal(size=(arguments.nodes, 16)).astype(np.float32), arguments, peak)
    spatial = vae.Architecture(kind="spatial", latent_dim=16, channels=(64, 128, 256))
    compare("spatial", spatial, rng.normal(size=(arguments.images, 4, 4, 16)).astype(np.float32), arguments, peak)


if __name__ == "__main__":
    main()
