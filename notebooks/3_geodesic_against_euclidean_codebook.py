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
# # Geodesic against Euclidean codebook
#
# The same latents, quantized three ways: K-means in flat latent space, K-medoids on the graph with Euclidean edges, and
# K-medoids on the graph with pull-back edges. Which codebook is better depends on the unit of the error.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import geovq_jax
from geovq_jax import figures, geometry, pipeline
from geovq_jax.config import experiment
from geovq_jax.evaluation.clustering_scores import clustering_scores
from geovq_jax.presets import SMOKE
from geovq_jax.quantization import baselines
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

# %% [markdown]
# Two graphs over the same edges: lengths in the metric of the decoder, and in flat latent space.

# %%
pullback, points, labels = run.graph.graph, run.graph.points, run.graph_labels
edges, _ = geometry.edges_of(pullback)
flat = geometry.graph_from_edges(edges, geometry.straight_lengths(points, edges), len(points))
graphs = {"pull-back graph": pullback, "Euclidean graph": flat}

# %% [markdown]
# ## Elbow
#
# Cost of K-medoids against K, each graph in its own unit, divided by the cost of K = 4.

# %%
sizes = np.array([4, 8, 16, 32])
fits = {
    name: [geometry.kmedoids(graph, int(size), seed=0, max_iterations=20) for size in sizes]
    for name, graph in graphs.items()
}
costs = {name: np.array([fit.cost / found[0].cost for fit in found]) for name, found in fits.items()}
figures.elbow(sizes, costs, unit="share of the cost at K = 4")

# %% [markdown]
# ## Every codebook in every unit
#
# Squared distance of a latent to its code: in latent space, along the pull-back graph, and between the decoded images.
# The last is the error of the image.

# %%
K = int(sizes[-1])
images = geometry.decode_all(run.decode_fn, points).reshape(len(points), -1)
means = baselines.kmeans(points, K, seed=0)
nearest_mean = baselines.encode(means, points)
codebooks = {
    "K-means": (means.vectors[nearest_mean], nearest_mean, None),
    **{name: (points[fit[-1].medoids[fit[-1].labels]], fit[-1].labels, fit[-1]) for name, fit in fits.items()},
}
table = {}
for name, (vectors, codes, fit) in codebooks.items():
    own = geometry.decode_all(run.decode_fn, vectors).reshape(len(points), -1)
    along = np.nan if fit is None else np.mean(geometry.nearest_source(pullback, fit.medoids).distance ** 2)
    scores = clustering_scores(codes.astype(np.int32), labels)
    table[name] = [
        np.mean(np.sum((points - vectors) ** 2, axis=1)),
        along,
        np.mean(np.sum((images - own) ** 2, axis=1)),
    ]
    print(f"{name:16} latent {table[name][0]:7.3f}  graph {along:7.2f}  decoded {table[name][2]:6.2f}", end="  ")
    print(f"purity {scores.purity:.3f}  NMI {scores.nmi:.3f}  ARI {scores.ari:.3f}")

# %%
figures.comparison({name: float(row[2]) for name, row in table.items()}, "mean squared decoded distance to the code")

# %% [markdown]
# ## Cells in the plane of largest variance, and their sizes

# %%
figures.latent_map(points, codes=codebooks["pull-back graph"][1], codebook=points[fits["pull-back graph"][-1].medoids])

# %%
figures.latent_map(points, codes=codebooks["Euclidean graph"][1], codebook=points[fits["Euclidean graph"][-1].medoids])

# %%
figures.code_usage(np.bincount(codebooks["pull-back graph"][1], minlength=K))

# %%
figures.code_usage(np.bincount(codebooks["Euclidean graph"][1], minlength=K))
