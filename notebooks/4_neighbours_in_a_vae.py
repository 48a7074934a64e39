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
# # Neighbours in the latent space of a VAE
#
# Neighbours in flat latent space and in the metric of the decoder, the connectivity of the graph as k grows, and
# distances along the graph.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import geovq_jax
from geovq_jax import figures, geometry, pipeline
from geovq_jax.config import experiment
from geovq_jax.evaluation.statistics import edge_agreement
from geovq_jax.geometry.graphs.embedding import principal_plane
from geovq_jax.geometry.graphs.knn import rerank
from geovq_jax.presets import SMOKE
from geovq_jax.terminal import log_to_console

plt.switch_backend(plt.get_backend())  # a notebook shows figures from here on

# %%
config = experiment(
    "tour_vanilla",
    {
        "data.max_train": 2_000,
        "vae.kind": "vanilla",
        "vae.channels": (16, 32, 64),
        "vae.latent_dim": 8,
        "vae.beta": 1.0,
        "vae.learning_rate": 2e-3,
        "vae.num_steps": 600,
        "vae.evaluate_every": 200,
        "graph.k": 12,
    },
    variants="smoke" if "GEOVQ_SMOKE" in os.environ else "",
    known_variants={"smoke": SMOKE},
)
given = os.environ.get("GEOVQ_WORKDIR")  # of a finished run of your own
workdir = Path(given or Path(os.environ.get("GEOVQ_RUNS", "runs")) / config.name).absolute()
log_to_console()
if not given:
    pipeline.entry("vae", "latents", "metrics", "graph")(workdir, config)
run = geovq_jax.load_run(workdir)
points, metrics, labels = run.graph.points, run.graph.metrics, run.graph_labels
images = run.dataset.train.images[run.graph.rows]


def pullback(edges):
    return geometry.lengths_from_metrics(points, metrics, edges)


# %% [markdown]
# ## Neighbours of one image
#
# Thirty Euclidean candidates, re-ranked by pull-back length.

# %%
candidates = geometry.knn(points, 30)
nearest = {"Euclidean": candidates.indices[:, :10], "pull-back": rerank(candidates, 10, pullback).indices}
row = 7
figures.image_grid(np.stack([images[np.concatenate([[row], found[row]])] for found in nearest.values()]), [*nearest])

# %% [markdown]
# How often a neighbour has the class of its point:

# %%
for name, found in nearest.items():
    print(f"{name:10} same class: {np.mean(labels[found] == labels[:, None]):.3f}")

# %% [markdown]
# ## Edges in two units

# %%
edges = geometry.unique_edges(candidates.indices[:, :12])
euclidean = geometry.straight_lengths(points, edges)
lengths = np.asarray(pullback(edges), np.float64)
print(edge_agreement(euclidean, lengths))
figures.edge_scatter(euclidean, lengths)

# %% [markdown]
# ## Connectivity as k grows
#
# Union graphs, not repaired.

# %%
sizes = np.array([1, 2, 4, 8, 12])
graphs = {}
for k in sizes.tolist():
    graphs[k] = geometry.metric_graph(points, candidates.indices[:, :k], metrics, repair=False)
states = [geometry.connectivity(graph) for graph in graphs.values()]
figures.connectivity_bars(
    sizes, np.array([s.num_components for s in states]), np.array([s.largest_fraction for s in states])
)

# %% [markdown]
# ## Geodesic distance from one image, for a small and a large k
#
# Grey points cannot be reached. With more edges, paths get shorter.

# %%
plane = principal_plane(points)
reached = {k: geometry.dijkstra(graphs[k], [row])[0] for k in (2, 12)}
figures.latent_map(points, values=reached[2], value_label="geodesic distance, k = 2", plane=plane)

# %%
figures.latent_map(points, values=reached[12], value_label="geodesic distance, k = 12", plane=plane)

# %% [markdown]
# ## Distances inside and between classes

# %%
table = geometry.dijkstra(graphs[12], np.arange(40))
same = labels[:40, None] == labels[None]
apart = table > 0
figures.distance_histogram(
    {"same class": table[same & apart], "another class": table[~same & apart]}, unit="pull-back length"
)
