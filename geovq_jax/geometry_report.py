"""Measure the decoder's metric and the graph of the latents, and write a page on them: no codes needed.

    geovq geometry-report --workdir=runs/mnist5k

Builds the graph first, where there is only a trained VAE. Writes geometry/index.html and geometry/metrics.json.
"""

from geovq_jax import cli, pipeline

if __name__ == "__main__":
    cli.main(pipeline.entry("metrics", "graph", "geometry"), documentation=__doc__)
