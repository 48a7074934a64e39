"""Measure the metric at the latents, build graph and codebook, fine-tune the decoder, encode every image.

geovq build-codebook --workdir=runs/mnist5k --config.codebook.num_clusters=256
"""

from geovq_jax import cli, pipeline

if __name__ == "__main__":
    cli.main(pipeline.entry("metrics", "graph", "codebook", "decoder", "codes"), documentation=__doc__)
