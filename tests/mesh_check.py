"""Run by tests/test_mesh.py: everything that is split, against one device.

python tests/mesh_check.py 8 FOLDER                            eight simulated devices
python tests/mesh_check.py 4 FOLDER 0/2@localhost:9911         the first of two processes with two devices each
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from geovq_jax import geometry, mesh, processes
from geovq_jax.geometry.batching import map_chunks
from geovq_jax.models import gpt, vae, vqvae
from geovq_jax.models.objective import Objective
from geovq_jax.training import checkpoint, loop
from geovq_jax.training.optimizer import make_optimizer

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (48, 8, 8, 1), np.uint8)
LABELS = RNG.integers(0, 10, 48).astype(np.int32)
CODES = RNG.integers(0, 7, (48, 4)).astype(np.int32)
ARCH = vae.Architecture("spatial", (8, 8, 1), 3, (4, 6), "none", "sigmoid")
WEIGHTS = RNG.normal(size=(2, 3, 24)).astype(np.float32)


def decode(z):
    """A smooth map of 3 dimensions into 24."""
    return jnp.tanh(z @ WEIGHTS[0]) + jnp.sin(z @ WEIGHTS[1])


def decode_grid(grid):
    """A smooth map of a grid of cells that couples neighbours."""
    mixed = grid + 0.3 * jnp.roll(grid, 1, axis=0)
    return jnp.tanh(mixed @ WEIGHTS[0])


def geometry_results():
    """Distances, lengths and metrics that are split over devices, and the labels that follow from them."""
    points = RNG_POINTS
    grids = points[:60].reshape(15, 2, 2, 3)
    neighbours = geometry.knn(points, 6, backend="jax")
    edges = geometry.unique_edges(np.asarray(neighbours.indices))
    lengths = np.asarray(geometry.edge_lengths(decode, points, edges))
    graph = geometry.graph_from_edges(edges, lengths.astype(np.float64), len(points))
    padded = geometry.pad_graph(graph)
    sources = np.arange(0, len(points), 7)
    clusters = geometry.kmedoids(graph, 9, seed=0)
    cells = geometry.unique_edges(np.asarray(geometry.knn(points[:60], 3).indices))
    exact = {"neighbours": neighbours.indices, "labels": clusters.labels, "medoids": clusters.medoids}
    nearest = geometry.relax_nearest(*padded[:2], clusters.medoids, num_nodes=len(points))
    exact["nearest medoids"] = nearest.source
    ring = np.stack([np.roll(np.arange(10), 1), np.roll(np.arange(10), -1)], axis=1)  # no row overflows
    exact["nearest on a ring"] = geometry.relax_nearest(ring, np.ones((10, 2)), [6, 1]).source
    close = {
        "distances": neighbours.distances,
        "node metrics": geometry.node_metrics(decode, points),
        "endpoints": lengths,
        "gauss": geometry.edge_lengths(decode, points, edges, rule="gauss"),
        "chord": geometry.edge_lengths(decode, points, edges, rule="chord"),
        "cell metrics": geometry.cell_metrics(decode_grid, grids),
        "cell lengths": geometry.cell_edge_lengths(decode_grid, grids, cells),
        "relax": geometry.relax(*padded[:2], sources, num_nodes=len(points), batch_size=4),
    }
    return exact, close


def fit(name, directory=None, num_steps=4):
    """A few steps of one of the three models."""
    key = jax.random.key(0)
    if name == "vae":
        params = vae.init(key, ARCH)
        batch_loss = lambda p, k, s, b: vae.loss(k, p, ARCH, Objective(), b["images"] / 255.0, s)  # noqa: E731
    elif name == "vqvae":
        quantizer = vqvae.Quantizer(num_codes=8)
        params = vqvae.init(key, ARCH, quantizer, jnp.asarray(IMAGES, jnp.float32) / 255.0)
        batch_loss = lambda p, k, s, b: vqvae.loss(k, p, ARCH, quantizer, Objective(), b["images"] / 255.0)  # noqa: E731
    else:
        arch = gpt.Architecture(num_codes=7, length=4, num_classes=10, embed_dim=16, num_layers=1, num_heads=2)
        params = gpt.init(key, arch)
        batch_loss = lambda p, k, s, b: gpt.loss(k, p, arch, b["codes"], b["labels"])  # noqa: E731
    return loop.fit(
        batch_loss,
        params,
        {"images": IMAGES.astype(np.float32), "codes": CODES, "labels": LABELS},
        key=jax.random.key(1),
        optimizer=make_optimizer(learning_rate=1e-3, num_steps=4),
        num_steps=num_steps,
        indices_fn=lambda step: np.random.default_rng(step).integers(0, 48, 16).astype(np.int32),
        evaluate_fn=lambda p: {"objective": jnp.float32(0)},
        evaluate_every=2,
        directory=directory,
        update_fn=vqvae.replace_codebook if name == "vqvae" else None,
    )


def assert_close(one, many, what):
    """Within 1e-5 of the largest entry, and 1e-6: Adam scales up what rounding leaves of a gradient that is 0."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(many), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        atol = 1e-6 + 1e-5 * np.abs(a).max()
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=atol, err_msg=f"{what} {path}")


def main():
    """Compare, and say what was split."""
    count, folder, *joined = sys.argv[1:]
    if joined:
        processes.join(*joined)
    assert len(jax.devices()) == int(count)
    exact, close = geometry_results()
    with mesh.use_devices(0):
        assert mesh.size() == int(count)
        spread = map_chunks(jax.jit(lambda x: x + 1), (np.zeros((21, 2), np.float32),), batch_size=5)
        assert spread.shape == (21, 2)
        assert len(mesh.shard_rows(np.zeros(16)).sharding.device_set) == int(count)
        exact_many, close_many = geometry_results()
        latents_many = latents()
    for name, values in exact.items():
        np.testing.assert_array_equal(exact_many[name], values, err_msg=name)
    for name, values in close.items():
        assert_close(values, close_many[name], name)
    assert_close(latents(), latents_many, "latents")
    fit_alone = {}
    for name in ("vae", "vqvae", "gpt"):
        fit_alone[name] = fit(name)
        with mesh.use_devices(0):
            many = fit(name)
        assert_close(fit_alone[name].params, many.params, name)
        assert_close(fit_alone[name].history, many.history, name)
    mesh.LEAST_SPLIT = 64
    with mesh.use_devices(0, shard_parameters=True):
        kept = mesh.shard_state({"large": np.zeros((3, 24)), "odd": np.zeros((9, 9)), "small": np.zeros(24)})
        sizes = {name: leaf.addressable_shards[0].data.size for name, leaf in kept.items()}
        assert sizes == {"large": 72 // int(count), "odd": 81, "small": 24}
        for name in ("vae", "vqvae", "gpt"):
            many = fit(name)
            assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(many.params))
            assert_close(fit_alone[name].params, many.params, f"{name}, parameters in parts")
            assert_close(fit_alone[name].history, many.history, f"{name}, parameters in parts")
        fit("vae", folder, num_steps=2)
    with mesh.use_devices(0 if joined else 4):
        moved = fit("vae", folder)
    assert_close(fit_alone["vae"].params, moved.params, "continued on other devices")
    alone = checkpoint.load(f"{folder}/best", jax.tree.map(np.asarray, moved.params))
    assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(alone))
    print(f"equal on {count} devices", file=sys.stdout)


def latents():
    """Posterior means, chunk after chunk."""
    params = vae.init(jax.random.key(0), ARCH)
    encode = jax.jit(jax.vmap(partial(vae.encode, params, ARCH)))
    return map_chunks(encode, (IMAGES.astype(np.float32) / 255.0,), batch_size=20).mean


RNG_POINTS = RNG.normal(size=(101, 3)).astype(np.float32)

if __name__ == "__main__":
    main()
