"""Train the VAE and extract the latents of every split.

python -m geovq_jax.train_vae --config=configs/mnist5k.py --workdir=runs/mnist5k
"""

from geovq_jax import cli, pipeline

if __name__ == "__main__":
    cli.main(pipeline.entry("vae", "latents"), documentation=__doc__)
