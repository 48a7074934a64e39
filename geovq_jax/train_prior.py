"""Train the GPT prior over the codes.

python -m geovq_jax.train_prior --workdir=runs/mnist5k
"""

from geovq_jax import cli, pipeline

if __name__ == "__main__":
    cli.main(pipeline.entry("prior"), documentation=__doc__)
