"""Tokenizing held-out latents and the codebook record, against brute force on a joint graph."""

import numpy as np
import pytest
from scipy.sparse import csgraph

from geovq_jax import geometry
from geovq_jax.quantization import codebook as codebooks
from geovq_jax.quantization import tokenizer as tokenizing


@pytest.fixture(scope="module")
def setting():
    """A curved surface: 300 nodes, 60 held-out latents, a smooth field of metrics, 12 medoids."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (360, 3)).astype(np.float32)
    factor = np.eye(3)[None] * (1.0 + points[:, :1, None] ** 2) + 0.3 * points[:, :, None] * points[:, None, :]
    metrics = (factor @ factor.transpose(0, 2, 1)).astype(np.float32)
    train = slice(0, 300)
    edges = geometry.unique_edges(geometry.knn(points[train], 10).indices)
    lengths = np.asarray(geometry.lengths_from_metrics(points[train], metrics[train], edges))
    graph = geometry.graph_from_edges(edges, lengths, 300)
    clusters = geometry.kmedoids(graph, 12, seed=0, max_iterations=5)
    distances, _ = geometry.nearest_source(graph, clusters.medoids)
    nodes = tokenizing.Tokenizer(
        points[train], metrics[train], np.asarray(clusters.labels, np.int32), np.asarray(distances)
    )
    return points, metrics, graph, clusters, nodes


def test_codes_equal_those_of_a_joint_graph_solved_by_dijkstra(setting):
    points, metrics, graph, clusters, nodes = setting
    k = 8
    codes, distances = tokenizing.encode(nodes, points[300:], metrics[300:], k=k)
    for row in range(60):
        query, metric = points[300 + row].astype(np.float64), metrics[300 + row].astype(np.float64)
        gaps = points[:300].astype(np.float64) - query
        nearest = np.argsort((gaps**2).sum(axis=1))[:k]
        joint = np.zeros((301, 301))
        joint[:300, :300] = graph.toarray()
        for p in nearest:
            here, there = gaps[p] @ metric @ gaps[p], gaps[p] @ metrics[p].astype(np.float64) @ gaps[p]
            joint[300, p] = 0.5 * (np.sqrt(here) + np.sqrt(there))
        to_medoids = csgraph.dijkstra(joint, directed=True, indices=300)[clusters.medoids]
        assert codes[row] == to_medoids.argmin()
        assert distances[row] == pytest.approx(to_medoids.min(), rel=1e-5)
    assert codes.dtype == np.int32


def test_a_node_keeps_its_code_and_distance(setting):
    points, metrics, _, clusters, nodes = setting
    codes, distances = tokenizing.encode(nodes, points[:300], metrics[:300], k=1)
    np.testing.assert_array_equal(codes, clusters.labels)
    np.testing.assert_allclose(distances, nodes.distances, rtol=1e-12)


def test_euclidean_tokenizer_uses_euclidean_lengths(setting):
    points, _, _, _, nodes = setting
    plain = nodes._replace(metrics=None)
    codes, distances = tokenizing.encode(plain, points[300:], None, k=5)
    for row in range(60):
        gaps = np.linalg.norm(points[:300].astype(np.float64) - points[300 + row], axis=1)
        nearest = np.argsort(gaps)[:5]
        through = gaps[nearest] + nodes.distances[nearest]
        assert codes[row] == nodes.labels[nearest[through.argmin()]]
        assert distances[row] == pytest.approx(through.min())


def test_bad_latents_and_metrics_are_refused(setting):
    points, metrics, _, _, nodes = setting
    with pytest.raises(ValueError, match="expected a metric for each latent"):
        tokenizing.encode(nodes, points[300:], None, k=3)
    with pytest.raises(ValueError, match="expected no metrics"):
        tokenizing.encode(nodes._replace(metrics=None), points[300:], metrics[300:], k=3)
    with pytest.raises(ValueError, match="expected finite latents"):
        tokenizing.encode(nodes, np.full((2, 3), np.nan, np.float32), metrics[:2], k=3)


def make_codebook(**settings):
    return codebooks.Codebook(
        vectors=np.arange(6, dtype=np.float32).reshape(3, 2),
        medoids=np.array([4, 0, 2]),
        counts=np.array([1, 2, 3]),
        radii=np.array([0.0, 0.5, 1.0]),
        settings=settings,
    )


def test_a_codebook_round_trips_and_refuses_another_vae(tmp_path):
    params = {"decoder": {"kernel": np.ones((2, 2), np.float32)}}
    other = {"decoder": {"kernel": np.nextafter(np.ones((2, 2), np.float32), 2)}}
    book = make_codebook(vae=codebooks.parameters_hash(params), k=15)
    path = tmp_path / "codebook.npz"
    codebooks.save_codebook(path, book, node_labels=np.zeros(5, np.int32))
    loaded = codebooks.load_codebook(path, vae_hash=codebooks.parameters_hash(params))
    for name in ("vectors", "medoids", "counts", "radii"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(book, name))
    assert loaded.settings == book.settings
    with pytest.raises(ValueError, match="expected a codebook of the VAE .* rerun"):
        codebooks.load_codebook(path, vae_hash=codebooks.parameters_hash(other))


def test_lookup_takes_codes_of_any_shape_and_refuses_others():
    book = make_codebook()
    np.testing.assert_array_equal(codebooks.lookup(book, np.array([[2, 0]])), [[[4, 5], [0, 1]]])
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=r"expected codes in \[0, 3\)"):
            codebooks.lookup(book, np.array([0, wrong]))
