"""Measure a finished run on the test split and write its report.

python -m geovq_jax.evaluate --workdir=runs/mnist5k
"""

from geovq_jax import cli, pipeline

if __name__ == "__main__":
    cli.main(pipeline.entry("report"), documentation=__doc__)
