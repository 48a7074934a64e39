"""One training step of the VAE against a twin in PyTorch: CPU milliseconds on one core, alternating, medians and ratio.

taskset -c 0 python benchmarks/vae_step.py --batch 128 --channels 32,64,128
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import numpy as np
import torch
from torch import nn

from geovq_jax.models import vae
from geovq_jax.training import loop
from geovq_jax.training.optimizer import make_optimizer


def jax_step(channels: tuple[int, ...], latent_dim: int, images: np.ndarray) -> Callable[[], None]:
    """A function that takes one step of our training and waits for it."""
    arch, objective = vae.Architecture(latent_dim=latent_dim, channels=channels), vae.Objective()

    def loss_fn(params, key, step, batch):
        return vae.loss(key, params, arch, objective, batch, step)

    optimizer = make_optimizer(learning_rate=1e-3, num_steps=10_000)
    key, indices, data = jax.random.key(0), np.arange(len(images), dtype=np.int32), jax.device_put(images)
    state = loop.init_state(vae.init(key, arch), optimizer)
    totals = loop.zero_totals(loss_fn, state.params, key, indices, data)
    train_step = loop.make_step(loss_fn, optimizer)

    def step() -> None:
        nonlocal state, totals
        state, totals = jax.block_until_ready(train_step(state, totals, key, indices, data))

    return step


def torch_step(channels: tuple[int, ...], latent_dim: int, images: np.ndarray) -> Callable[[], None]:
    """The same networks, loss, clipping and optimiser in PyTorch."""
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    encoder, decoder = [nn.ZeroPad2d(2)], [nn.Conv2d(latent_dim, channels[-1], 1), nn.SiLU()]
    for before, after in zip((1, *channels), channels, strict=False):
        encoder += [nn.Conv2d(before, after, 4, 2, 1), nn.SiLU()]
    for before, after in zip(reversed(channels), (*reversed(channels[:-1]), 1), strict=True):
        decoder += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.SiLU()]
    encode = nn.Sequential(*encoder, nn.Conv2d(channels[-1], 2 * latent_dim, 1))
    decode = nn.Sequential(*decoder[:-1])
    parameters = [*encode.parameters(), *decode.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)

    def step() -> None:
        mean, log_variance = encode(inputs).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        logits = decode(z)[:, :, 2:-2, 2:-2]
        reconstruction = nn.functional.binary_cross_entropy_with_logits(logits, inputs, reduction="sum")
        kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum()
        optimizer.zero_grad(set_to_none=True)
        ((reconstruction + kl) / len(inputs)).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--channels", type=lambda text: tuple(int(part) for part in text.split(",")), default=(32, 64, 128)
    )
    parser.add_argument("--latent-dim", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = np.random.default_rng(0).random((args.batch, 28, 28, 1), np.float32)
    steps = {"jax": jax_step, "torch": torch_step}
    ready = {name: make(args.channels, args.latent_dim, images) for name, make in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in ready}
    for repeat in range(args.repeats + 2):
        for name, step in ready.items():
            started = time.process_time()
            step()
            if repeat >= 2:
                times[name].append(1e3 * (time.process_time() - started))
    fastest = {name: min(values) for name, values in times.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name in times:
        print(f"{name:5s} median {medians[name]:7.1f} ms  fastest {fastest[name]:7.1f} ms")
    print(
        f"jax / torch: medians {medians['jax'] / medians['torch']:.2f}  fastest {fastest['jax'] / fastest['torch']:.2f}"
    )


if __name__ == "__main__":
    main()
