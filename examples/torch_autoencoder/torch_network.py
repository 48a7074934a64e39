"""A convolutional autoencoder in PyTorch, independent of geovq_jax, with its images and its training.

`python torch_network.py [STEPS]` draws coloured shapes into images.npz and writes the trained weights to weights.pt.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

IMAGES, WEIGHTS = (Path(__file__).with_name(name) for name in ("images.npz", "weights.pt"))


class Autoencoder(nn.Module):
    """Images [n, 3, 64, 64] in [0, 1] to grids of latents [n, 4, 8, 8] and back."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, 8, 4, 2, 1), nn.SiLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.SiLU()),
            *(nn.Conv2d(16, 16, 4, 2, 1), nn.SiLU(), nn.Conv2d(16, 4, 1)),
        )
        self.decoder = nn.Sequential(
            *(nn.Conv2d(4, 16, 1), nn.SiLU(), nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.SiLU()),
            *(nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Sigmoid()),
        )

    def forward(self, images):
        return self.decoder(self.encoder(images))


def draw(num_images: int = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Discs, squares and bars of random place, size and colour: images [n, 64, 64, 3] uint8, and their kind."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64][:, None] - rng.uniform(16, 48, (2, num_images, 1, 1))
    size, kind = rng.uniform(6, 16, (num_images, 1, 1)), rng.integers(3, size=num_images)
    shapes = np.stack([np.hypot(x, y) < size, np.maximum(abs(x), abs(y)) < size, abs(x) < size / 2])
    colours = rng.uniform(0, 255, (2, num_images, 1, 1, 3))
    inside = shapes[kind, np.arange(num_images)][..., None]
    return np.where(inside, *colours).astype(np.uint8), kind


def train(num_steps: int = 2000) -> None:
    """Minimise the squared error, and write IMAGES and WEIGHTS."""
    torch.manual_seed(0)
    images, labels = draw()
    np.savez(IMAGES, images=images, labels=labels)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2) / 255, dtype=torch.float32)
    model = Autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(num_steps):
        batch = pixels[torch.randint(len(pixels), (32,))]
        loss = (model(batch) - batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(model.state_dict(), WEIGHTS)
    print(f"mean squared error {loss.item():.4f}, {WEIGHTS}")


if __name__ == "__main__":
    train(*map(int, sys.argv[1:2]))
