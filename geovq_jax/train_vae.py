"""Train the VAE and extract the latents of every split.

geovq train-vae --config=mnist5k --workdir=runs/mnist5k
"""

from geovq_jax import cli, pipeline

if __name__ == "__main__":
    cli.main(pipeline.entry("vae", "latents"), documentation=__doc__)
