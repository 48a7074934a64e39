"""A convolutional autoencoder in flax, independent of geovq_jax, and its training: `python flax_network.py`."""

import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization
from sklearn.datasets import load_digits

WEIGHTS = Path(__file__).parent / "weights.msgpack"


class Autoencoder(nn.Module):
    """Images [n, 8, 8, 1] in [0, 1] to grids of latents [n, 2, 2, 4] and back."""

    def setup(self):
        self.encoder = nn.Sequential(
            [nn.Conv(16, (3, 3), 2), nn.silu, nn.Conv(32, (3, 3), 2), nn.silu, nn.Conv(4, (1, 1))]
        )
        up = [nn.ConvTranspose(32, (3, 3), (2, 2)), nn.silu, nn.ConvTranspose(16, (3, 3), (2, 2)), nn.silu]
        self.decoder = nn.Sequential([*up, nn.Conv(1, (3, 3)), nn.sigmoid])

    def encode(self, images):
        return self.encoder(images)

    def decode(self, latents):
        return self.decoder(latents)

    def __call__(self, images):
        return self.decode(self.encode(images))


def train(num_steps: int = 2000, batch_size: int = 64) -> None:
    """Minimise the squared error on scikit-learn's digits, and write the parameters to WEIGHTS."""
    images = jnp.asarray(load_digits().images[..., None] / 16.0, jnp.float32)
    model, optimizer = Autoencoder(), optax.adam(2e-3)
    params = model.init(jax.random.key(0), images[:1])
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, batch):
        loss, gradient = jax.value_and_grad(lambda p: jnp.mean(jnp.square(model.apply(p, batch) - batch)))(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss

    rng = np.random.default_rng(0)
    for _ in range(num_steps):
        params, state, loss = step(params, state, images[rng.integers(len(images), size=batch_size)])
    WEIGHTS.write_bytes(serialization.to_bytes(params))
    print(f"mean squared error {loss:.4f}, {WEIGHTS}")


if __name__ == "__main__":
    train(*map(int, sys.argv[1:2]))
