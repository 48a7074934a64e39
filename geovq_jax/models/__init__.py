"""Variational autoencoder, joint VQ-VAE and GPT prior: pure functions around flax.linen modules."""

__all__ = ["classifier", "gpt", "objective", "quantizers", "sampling", "transformer", "vae", "vqvae"]
