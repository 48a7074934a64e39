"""What geovq_jax asks of an autoencoder in JAX: `encode`, `decode`, and `params` if the decoder may be fine-tuned."""

import jax
import jax.numpy as jnp
from flax import serialization
from flax_network import WEIGHTS, Autoencoder

model = Autoencoder()
_shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
params = serialization.from_bytes(_shapes, WEIGHTS.read_bytes())


def decode(params, z):
    """One grid of latents [2, 2, 4] -> one image [8, 8, 1]."""
    return model.apply(params, z[None], method="decode")[0]


@jax.jit
def encode(images):
    """Images [n, 8, 8, 1] -> latents [n, 2, 2, 4]."""
    return model.apply(params, images, method="encode")
