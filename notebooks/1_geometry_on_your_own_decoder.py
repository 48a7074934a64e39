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
# # Geometry on your own decoder
#
# Any differentiable JAX function of one latent is a decoder. Here it is a plane with two hills, which shortest curves
# avoid.

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from geovq_jax import geometry


def decode(z):
    hills = jnp.array([[0.0, 0.0], [1.6, 0.7]])
    height = 1.5 * jnp.exp(-2.0 * jnp.sum((z - hills) ** 2, axis=1)).sum()
    return jnp.append(z, height)


# %% [markdown]
# The metric at one latent, and the length of an edge by two rules.

# %%
a, b = np.array([-1.2, -0.15], np.float32), np.array([2.8, 0.6], np.float32)
print(geometry.pullback_metric(decode, np.array([0.4, 0.2], np.float32)))
for rule in ("endpoints", "gauss"):
    print(rule, geometry.edge_lengths(decode, np.stack([a, b]), np.array([[0, 1]]), rule=rule))

# %% [markdown]
# Three curves from `a` to `b`: the straight line, the shortest path along a graph of random latents, and the continuous
# geodesic computed from that path.

# %%
latents = np.random.default_rng(0).uniform([-2, -2], [3.5, 2.5], size=(3000, 2)).astype(np.float32)
latents = np.concatenate([[a, b], latents])
graph = geometry.knn_graph(latents, 12, decode_fn=decode)
path = latents[geometry.shortest_path(graph, 0, 1)]
found = geometry.geodesic(decode, a, b, initial=path, num_points=64)
lengths = {"straight": geometry.curve_length(decode, np.linspace(a, b, 64)), "geodesic": found.length}
print({name: float(length) for name, length in lengths.items()}, "graph:", geometry.dijkstra(graph, [0])[0, 1])

# %%
x, y = np.meshgrid(np.linspace(-2, 3.5, 90), np.linspace(-2, 2.5, 75))
plane = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
volume = geometry.volume(geometry.node_metrics(decode, plane)).reshape(x.shape)
plt.contourf(x, y, volume, 20, cmap="Greys")
for name, curve in {"straight": np.stack([a, b]), "graph": path, "geodesic": found.curve}.items():
    plt.plot(*np.asarray(curve).T, label=name)
plt.legend()
plt.show()

# %% [markdown]
# Many pairs share one compilation.

# %%
ratios = geometry.length_ratios(decode, latents[2:202], latents[202:402])
print("straight over geodesic, mean:", float(jnp.mean(ratios.straight_to_geodesic)), "of", len(ratios.geodesic))
print("all converged:", bool(ratios.converged.all()))
