"""Measure a finished run on the test split and write its report; trains the classifier in whose features samples are
scored.

geovq evaluate --workdir=runs/mnist5k
"""

from geovq_jax import cli, pipeline

if __name__ == "__main__":
    cli.main(pipeline.entry("classifier", "scores", "report"), documentation=__doc__)
