"""Train the GPT prior over the codes.

geovq train-prior --workdir=runs/mnist5k
"""

from geovq_jax import cli, pipeline

if __name__ == "__main__":
    cli.main(pipeline.entry("prior"), documentation=__doc__)
