"""Training step of the prior on one core: JAX against PyTorch.

    python benchmarks/gpt_step.py

Prints CPU milliseconds a step: forward, backward, clip and AdamW; batch 64, 16 codes (256 wide, 4 layers, 4 heads,
K = 512), with dropout 0.1 and without.
"""

import argparse
import os
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, default=0, help="core to run on")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16])
    arguments = parser.parse_args()
    # Before the imports: both libraries size their thread pools by the cores they may use.
    os.sched_setaffinity(0, {arguments.core})

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    import torch
    import torch_gpt

    from geovq_jax.models import gpt

    torch.set_num_threads(1)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(1e-3, weight_decay=0.01, mask=lambda tree: jax.tree.map(lambda p: p.ndim > 1, tree)),
    )
    print(f"{'codes':>6}{'dropout':>9}{'torch ms':>10}{'jax ms':>9}{'ratio':>7}")
    for length in arguments.lengths:
        for dropout in (0.0, 0.1):
            arch = gpt.Architecture(512, length, 10, embed_dim=256, num_layers=4, num_heads=4, dropout=dropout)
            params = gpt.init(jax.random.key(0), arch)
            rng = np.random.default_rng(0)
            codes, labels = rng.integers(0, 512, (64, length)), rng.integers(0, 10, 64)
            model = torch_gpt.from_jax(params, arch)
            torch_optimizer = torch_gpt.adamw(model, 1e-3)
            torch_batch = torch.tensor(codes), torch.tensor(labels)
            batch = jnp.asarray(codes, jnp.int32), jnp.asarray(labels, jnp.int32)

            def step(params, state, key, arch=arch, batch=batch):
                value_and_grad = jax.value_and_grad(gpt.loss, argnums=1, has_aux=True)
                (value, _), gradient = value_and_grad(key, params, arch, *batch)
                updates, state = optimizer.update(gradient, state, params)
                return optax.apply_updates(params, updates), state, value

            compiled = jax.jit(step, donate_argnums=(0, 1))
            state = optimizer.init(params)
            times: dict[str, list[float]] = {"torch": [], "jax": []}
            # Alternating, so that a slow spell of the machine falls on both.
            for i in range(arguments.repeats + 2):
                start = time.process_time()
                torch_gpt.train_step(model, torch_optimizer, *torch_batch)
                middle = time.process_time()
                params, state, value = compiled(params, state, jax.random.key(i))
                value.block_until_ready()
                times["torch"].append(middle - start)
                times["jax"].append(time.process_time() - middle)
            slow, fast = (1e3 * float(np.median(times[name][2:])) for name in ("torch", "jax"))
            print(f"{length:6d}{dropout:9.1f}{slow:10.1f}{fast:9.1f}{fast / slow:7.2f}")


if __name__ == "__main__":
    main()
