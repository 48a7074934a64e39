# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From images to codes
#
# The stages up to the codes, run from Python on real digits: images, VAE, latents, graph, codebook, codes. Each stage
# writes files to a work directory, and a finished stage is skipped, so this notebook is fast the second time. The same
# from a terminal: `python -m geovq_jax.run --config=configs/mnist5k.py`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import geovq_jax
from geovq_jax import figures, geometry, pipeline
from geovq_jax.config import experiment
from geovq_jax.evaluation.code_usage import code_usage
from geovq_jax.presets import SMOKE
from geovq_jax.stages.codes import code_pictures
from geovq_jax.terminal import log_to_console

plt.switch_backend(plt.get_backend())  # a notebook shows figures from here on

# %% [markdown]
# An experiment is what differs from the defaults of `geovq_jax/config.py`. With GEOVQ_SMOKE set, everything shrinks to
# seconds and the pictures are meaningless.

# %%
config = experiment(
    "tour",
    {
        "data.max_train": 2_000,
        "vae.channels": (16, 32, 64),
        "vae.latent_dim": 8,
        "vae.learning_rate": 2e-3,
        "vae.num_steps": 600,
        "vae.evaluate_every": 200,
        "graph.k": 10,
        "graph.num_images": 800,
        "codebook.num_clusters": 128,
        "codebook.finetune_steps": 300,
        "prior.embed_dim": 64,
        "prior.num_layers": 2,
        "prior.num_heads": 4,
        "prior.num_steps": 400,
        "prior.evaluate_every": 100,
    },
    variants="smoke" if "GEOVQ_SMOKE" in os.environ else "",
    known_variants={"smoke": SMOKE},
)
given = os.environ.get("GEOVQ_WORKDIR")  # of a finished run of your own
workdir = Path(given or Path(os.environ.get("GEOVQ_RUNS", "runs")) / config.name).absolute()
log_to_console()
if not given:
    pipeline.entry("vae", "latents", "metrics", "graph", "codebook", "decoder", "codes")(workdir, config)
run = geovq_jax.load_run(workdir)

# %% [markdown]
# ## Latents
#
# The encoder gives each image a grid of 4 x 4 vectors. One vector, a cell, is a node of the graph. Every file is a
# plain npz file.

# %%
latents = run.latents("test")
print("latents:", latents.mean.shape, "images:", run.image_shape)
points = latents.mean.reshape(-1, latents.mean.shape[-1])
figures.latent_map(points, classes=np.repeat(latents.label, 16))

# %% [markdown]
# ## Graph
#
# Each node is joined to its k nearest neighbours; the length of an edge is the change of the image along it. Where the
# decoder is flat, as in the blank margin of digits, edges are short however far apart the latents lie.

# %%
print(geometry.connectivity(run.graph.graph))
edges, lengths = geometry.edges_of(run.graph.graph)
figures.edge_scatter(geometry.straight_lengths(run.graph.points, edges), lengths)

# %% [markdown]
# ## Codebook
#
# K-medoids on the graph chooses K nodes that are near to all others along shortest paths; from there the code vectors
# move to the minimum of the decoded error, to first order. Each picture shows a code decoded within the grid of an
# image of its cluster.

# %%
book = run.codebook
print("codebook:", book.vectors.shape, "largest cluster:", book.counts.max(), "nodes")
figures.code_atlas(code_pictures(run), book.counts, max_codes=64)

# %% [markdown]
# ## Codes
#
# Images of every split become 16 codes, each the nearest code vector in the metric at the latent. From top to bottom:
# test images, and the images decoded from their codes. `run.encode` and `run.decode` do the same for any images.

# %%
codes = run.codes("test").codes
usage = code_usage(codes, config.codebook.num_clusters)
print("codes of one image:", codes[0].tolist())
print(f"used: {usage['used']} of {usage['num_codes']}, perplexity {usage['perplexity']:.1f}")
truth = run.images("test")[:12]
decoded = run.decode(codes[:12])
figures.image_grid(np.stack([truth, decoded]), ["truth", "from 16 codes"])
