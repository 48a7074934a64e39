"""Build graph, codebook and codes from the latents, and fine-tune the decoder on the codes.

python -m geovq_jax.build_codebook --workdir=runs/mnist5k --config.codebook.num_clusters=256
"""

from geovq_jax import cli, pipeline

if __name__ == "__main__":
    cli.main(pipeline.entry("graph", "codebook", "codes", "decoder"), documentation=__doc__)
