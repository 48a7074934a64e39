"""Sampling speed of the prior on one core: cached scan in JAX against an uncached loop in PyTorch.

    python benchmarks/sampling.py

Prints tokens per CPU-second for batches of 64 and sequences of 16 and 64 codes (256 wide, 4 layers, 4 heads, K = 512).
"""

import argparse
import os
import time


def cpu_seconds(function, repeats: int) -> float:
    """Least CPU time of a call, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 64])
    arguments = parser.parse_args()
    # Before the imports: both libraries size their thread pools by the cores they may use.
    os.sched_setaffinity(0, {arguments.core})

    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch
    import torch_gpt

    from geovq_jax.models import gpt, sampling

    torch.set_num_threads(1)
    batch_size = 64
    labels = np.arange(batch_size) % 10
    print(f"{'codes':>6}{'torch tokens/s':>16}{'jax tokens/s':>14}{'ratio':>8}{'top-k, top-p':>14}{'guided':>9}")
    for length in arguments.lengths:
        arch = gpt.Architecture(512, length, 10, embed_dim=256, num_layers=4, num_heads=4)
        params = gpt.init(jax.random.key(0), arch)
        model = torch_gpt.from_jax(params, arch).eval()
        codes = np.random.default_rng(0).integers(0, 512, (2, length))
        tokens = torch.tensor(np.pad(codes, ((0, 0), (1, 0)), constant_values=arch.bos)[:, :-1])
        theirs = model(tokens, torch.tensor(labels[:2])).detach().numpy()
        ours = jax.vmap(lambda c, y, p=params, a=arch: gpt.logits(p, a, c, y))(
            jnp.asarray(codes), jnp.asarray(labels[:2])
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-4)

        def jax_sample(params=params, arch=arch, **settings):
            drawn = sampling.sample(jax.random.key(1), params, arch, jnp.asarray(labels), **settings)
            jax.block_until_ready(drawn)

        def torch_sample(model=model, length=length):
            torch_gpt.sample(model, torch.tensor(labels), length)

        count = batch_size * length
        slow = count / cpu_seconds(torch_sample, max(2, arguments.repeats // 2))
        fast = count / cpu_seconds(jax_sample, arguments.repeats)
        truncated = count / cpu_seconds(lambda f=jax_sample: f(top_k=100, top_p=0.95), arguments.repeats)
        guided = count / cpu_seconds(lambda f=jax_sample: f(guidance=2.0), arguments.repeats)
        print(f"{length:6d}{slow:16.0f}{fast:14.0f}{fast / slow:8.1f}{truncated:14.0f}{guided:9.0f}")


if __name__ == "__main__":
    main()
