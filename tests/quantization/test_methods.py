"""The table of methods: each fits and assigns as its definition says, by brute force on a decoder with known metric."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax import geometry
from geovq_jax.quantization import methods
from geovq_jax.quantization.assignment import assign, measure, search

WEIGHTS = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
LATENTS = np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32)
HELD_OUT = np.random.default_rng(2).normal(size=(40, 3)).astype(np.float32)
DECODE = jax.tree_util.Partial(lambda w, z: jnp.sin(z @ w), WEIGHTS)
K = 16


@pytest.fixture(scope="module")
def nodes() -> methods.Nodes:
    metrics = measure(DECODE, LATENTS)
    graph = geometry.metric_graph(LATENTS, geometry.knn(LATENTS, 8).indices, metrics)
    found = geometry.kmedoids(graph, K, seed=0)
    distances = np.asarray(geometry.nearest_source(graph, found.medoids).distance)
    return methods.Nodes(DECODE, LATENTS, metrics, methods.Clusters(found.medoids, found.labels, distances), metrics)


def brute_force(quantizer, latents: np.ndarray) -> np.ndarray:
    """Distance of every latent to every code vector [n, K] by the definition of the assignment."""
    gaps = latents[:, None] - quantizer.vectors[None]
    if quantizer.assignment == "linear":
        return np.linalg.norm(gaps @ quantizer.transform, axis=2)
    if quantizer.assignment == "local":
        return np.sqrt(np.einsum("nki,nij,nkj->nk", gaps, measure(DECODE, latents), gaps))
    images, known = (np.asarray(jax.vmap(DECODE)(part)) for part in (latents, quantizer.vectors))
    return np.linalg.norm(images[:, None] - known[None], axis=2)


@pytest.mark.parametrize("name", [name for name in methods.METHODS if name not in ("geodesic", "geodesic_means")])
def test_every_method_assigns_the_nearest_vector_in_its_own_unit(nodes, name):
    quantizer, encoded = methods.fit(name, nodes, K, seed=0)
    assert quantizer.vectors.shape == (K, 3)
    for latents, found in ((LATENTS, encoded), (HELD_OUT, assign(quantizer, HELD_OUT, DECODE))):
        table = brute_force(quantizer, latents)
        chosen = np.take_along_axis(table, found.codes[:, None].astype(np.int64), axis=1)[:, 0]
        np.testing.assert_allclose(chosen, table.min(axis=1), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.distances, chosen, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["geodesic", "geodesic_means"])
def test_geodesic_codes_are_nearest_in_geodesic_distance(nodes, name):
    quantizer, encoded = methods.fit(name, nodes, K, seed=0)
    tried = HELD_OUT[:10]
    found = assign(quantizer, tried, DECODE)
    rows, columns = np.divmod(np.arange(len(tried) * K), K)
    ways = geometry.geodesics(DECODE, tried[rows], quantizer.vectors[columns], num_points=24, tolerance=1e-4)
    table = np.asarray(ways.length).reshape(-1, K)
    chosen = np.take_along_axis(table, found.codes[:, None].astype(np.int64), axis=1)[:, 0]
    np.testing.assert_allclose(chosen, table.min(axis=1), rtol=5e-3)
    np.testing.assert_allclose(found.distances, chosen, rtol=0.2)  # the mean of bounds that decide
    assert nodes.clusters is not None
    first, last = (
        geometry.nearest_geodesic(DECODE, LATENTS, centres)
        for centres in (LATENTS[nodes.clusters.medoids], quantizer.vectors)
    )
    assert np.mean(last.distance**2) <= np.mean(first.distance**2)
    assert (encoded.codes == last.index).mean() > 0.99


def test_metrics_given_or_computed_give_the_same_codes(nodes):
    for name in ("local_metrics", "geodesic"):
        quantizer, _ = methods.fit(name, nodes._replace(distance="graph"), K, seed=0)
        given = assign(quantizer, HELD_OUT, DECODE, metrics=measure(DECODE, HELD_OUT), neighbours=8)
        computed = assign(quantizer, HELD_OUT, DECODE, neighbours=8)
        np.testing.assert_array_equal(given.codes, computed.codes)


def test_geodesic_codes_in_the_distance_of_the_graph(nodes):
    quantizer, encoded = methods.fit("geodesic", nodes._replace(distance="graph"), K, seed=0)
    assert nodes.clusters is not None
    np.testing.assert_array_equal(encoded.codes, nodes.clusters.labels)
    np.testing.assert_array_equal(quantizer.vectors, LATENTS[nodes.clusters.medoids])
    again = assign(quantizer, LATENTS, DECODE, metrics=nodes.metrics, neighbours=8)
    np.testing.assert_array_equal(again.codes, encoded.codes)


def test_refinement_lowers_the_error_that_it_names(nodes):
    errors = {}
    for name in ("geodesic", "geodesic_refined", "geodesic_decoded"):
        quantizer, encoded = methods.fit(name, nodes, K, seed=0)
        gaps = LATENTS - quantizer.vectors[encoded.codes]
        linear = np.einsum("ni,nij,nj->n", gaps, nodes.metrics, gaps).mean()
        images, quantized = (np.asarray(jax.vmap(DECODE)(z)) for z in (LATENTS, quantizer.vectors[encoded.codes]))
        errors[name] = linear, np.sum((images - quantized) ** 2, axis=1).mean()
    assert errors["geodesic_refined"][0] < 0.98 * errors["geodesic"][0]
    assert errors["geodesic_decoded"][1] < 0.98 * errors["geodesic"][1]


def test_grids_are_assigned_cell_by_cell():
    grids = np.random.default_rng(3).normal(size=(30, 2, 2, 3)).astype(np.float32)
    decode = jax.tree_util.Partial(lambda w, z: jnp.sin(z.reshape(-1, 3) @ w).sum(axis=0), WEIGHTS)
    nodes = methods.Nodes(decode, grids, measure(decode, grids))
    quantizer, encoded = methods.fit("local_metrics", nodes, 8, seed=0)
    found = assign(quantizer, grids, decode)
    assert found.codes.shape == (30, 2, 2)
    np.testing.assert_array_equal(found.codes.ravel(), encoded.codes)
    images = np.asarray(jax.vmap(decode)(grids)) + 0.1
    searched = search(decode, quantizer.vectors, found.codes, images, sweeps=2)
    error = lambda codes: np.sum((np.asarray(jax.vmap(decode)(quantizer.vectors[codes])) - images) ** 2, axis=1)  # noqa: E731
    assert (error(searched) <= error(found.codes) + 1e-4).all()
    assert error(searched).mean() < 0.97 * error(found.codes).mean()


@pytest.mark.parametrize("name", ["geodesic", "geodesic_means"])
def test_geodesic_codes_of_grids_are_nearest_in_the_slices_of_cells(name):
    grids = np.random.default_rng(4).normal(size=(20, 1, 2, 3)).astype(np.float32)
    weights = np.random.default_rng(5).normal(size=(6, 20)).astype(np.float32)
    decode = jax.tree_util.Partial(lambda w, z: jnp.sin(0.5 * z.reshape(-1) @ w), weights)
    metrics, cells = measure(decode, grids), grids.reshape(-1, 3)
    graph = geometry.metric_graph(cells, geometry.knn(cells, 8).indices, metrics)
    found = geometry.kmedoids(graph, 5, seed=0)
    clusters = methods.Clusters(found.medoids, found.labels, np.zeros(len(cells)))
    quantizer, encoded = methods.fit(name, methods.Nodes(decode, grids, metrics, clusters, metrics), 5, seed=0)
    chords = np.empty((20, 2, 5))
    for cell, code in np.ndindex(2, 5):
        moved = grids.copy()
        moved[:, 0, cell] = quantizer.vectors[code]
        gap = jax.vmap(decode)(moved) - jax.vmap(decode)(grids)
        chords[:, cell, code] = np.linalg.norm(gap.reshape(20, -1), axis=1)
    chosen = np.take_along_axis(chords.reshape(40, 5), encoded.codes[:, None].astype(np.int64), axis=1)[:, 0]
    # No geodesic is shorter than its chord, and slices of this decoder bend little.
    assert (encoded.distances >= chosen * (1.0 - 1e-4)).all()
    assert np.mean(encoded.codes == chords.reshape(40, 5).argmin(axis=1)) > 0.85
    np.testing.assert_array_equal(assign(quantizer, grids, decode, metrics=metrics).codes.ravel(), encoded.codes)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("kmeens", {}, "expected a method among .*, got 'kmeens'"),
        ("mean_metric", {"metrics": None}, "expected the metric at each node"),
        ("geodesic", {"clusters": None}, "expected K-medoids of the graph"),
        ("kmeans_decoded", {"latents": np.zeros((2, 2, 2, 3), np.float32)}, "expected latents"),
        ("geodesic_means", {"distance": "graph"}, "codebook.distance=geodesic"),
    ],
)
def test_what_is_missing_is_named(nodes, name, given, message):
    with pytest.raises(ValueError, match=message):
        methods.fit(name, nodes._replace(**given), K, seed=0)


def test_the_default_is_the_best_of_the_results():
    """Without search, means over the seeds of every committed comparison."""
    import json
    from pathlib import Path

    results = Path(__file__).parents[2] / "results"
    for kind, names in (("spatial", ("mnist", "fashion_mnist", "cifar10")), ("vanilla", ("mnist-vanilla",))):
        for name in names:
            rows = json.loads((results / f"{name}.json").read_text())["rows"]
            scores = {row["method"]: row["psnr"] for row in rows if row["rung"] == "decoder"}
            scores = {method: psnr for method, psnr in scores.items() if method in methods.METHODS}
            assert scores[methods.BEST[kind]] > max(scores.values()) - 0.01, name
