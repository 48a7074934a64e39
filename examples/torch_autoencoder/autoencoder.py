"""What geovq_jax asks of an autoencoder in PyTorch: `encode`, and `decode` as a function of JAX."""

import torch
from torch_network import WEIGHTS, Autoencoder

from geovq_jax.torch import decode_fn_of

torch.set_num_threads(1)  # JAX computes between torch's calls
model = Autoencoder()
model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
model.eval()


@torch.no_grad()
def encode(images):
    """NumPy images [n, 64, 64, 3] -> latents [n, 8, 8, 4]."""
    return model.encoder(torch.tensor(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()


# Latents [n, 8, 8, 4] -> images [n, 64, 64, 3], in torch.
decode = decode_fn_of(lambda z: model.decoder(z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
