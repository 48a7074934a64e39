"""Train the joint VQ-VAE that post-hoc codes are compared with: the VAE's networks, grid, K, optimiser and budget.

geovq train-vqvae --config=mnist5k

Writes vqvae/ into the work directory. Its steps are those of the VAE and of the fine-tuning together.
"""

from geovq_jax import cli, pipeline

if __name__ == "__main__":
    cli.main(pipeline.entry("vqvae"), documentation=__doc__)
