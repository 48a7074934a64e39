"""Variational autoencoder, joint VQ-VAE and GPT prior: pure functions around flax.linen modules."""
