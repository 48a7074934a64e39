"""Tokenizing held-out latents and the codebook record, against brute force on a joint graph."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csgraph

from geovq_jax import geometry
from geovq_jax.quantization import codebook as codebooks
from geovq_jax.quantization import tokenizer as tokenizing
from geovq_jax.workdir import load_npz


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
    codes, distances = tokenizing.encode_measured(nodes, points[300:], metrics[300:], k=k)
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
    codes, distances = tokenizing.encode_measured(nodes, points[:300], metrics[:300], k=1)
    np.testing.assert_array_equal(codes, clusters.labels)
    np.testing.assert_allclose(distances, nodes.distances, rtol=1e-12)


def test_euclidean_tokenizer_uses_euclidean_lengths(setting):
    points, _, _, _, nodes = setting
    plain = nodes._replace(metrics=None)
    codes, distances = tokenizing.encode_measured(plain, points[300:], None, k=5)
    for row in range(60):
        gaps = np.linalg.norm(points[:300].astype(np.float64) - points[300 + row], axis=1)
        nearest = np.argsort(gaps)[:5]
        through = gaps[nearest] + nodes.distances[nearest]
        assert codes[row] == nodes.labels[nearest[through.argmin()]]
        assert distances[row] == pytest.approx(through.min())


def test_bad_latents_and_metrics_are_refused(setting):
    points, metrics, _, _, nodes = setting
    with pytest.raises(ValueError, match="expected a metric for each latent"):
        tokenizing.encode_measured(nodes, points[300:], None, k=3)
    with pytest.raises(ValueError, match="expected Euclidean edges"):
        tokenizing.encode_measured(nodes._replace(metrics=None), points[300:], metrics[300:], k=3)
    with pytest.raises(ValueError, match="expected finite latents"):
        tokenizing.encode_measured(nodes, np.full((2, 3), np.nan, np.float32), metrics[:2], k=3)


MATRIX = np.random.default_rng(4).normal(size=(5, 3)).astype(np.float32)


def linear_image(z):
    return (MATRIX @ z.reshape(-1, 3).T).T.reshape(*z.shape[:-1], 5)


def linear_setting(setting):
    """The nodes of the setting under a linear decoder, and its metric, which is the same everywhere."""
    metric = MATRIX.T @ MATRIX
    return setting[-1]._replace(metrics=np.broadcast_to(metric, (300, 3, 3)).copy()), metric


@pytest.mark.parametrize("shape", [(60, 3), (15, 2, 2, 3)])
def test_latents_and_grids_are_measured_by_the_decoder_and_chunks_do_not_matter(setting, shape):
    nodes, metric = linear_setting(setting)
    flat, seen = setting[0][300:], []
    latents = flat.reshape(shape)
    expected = tokenizing.encode_measured(nodes, flat, np.broadcast_to(metric, (60, 3, 3)), k=6)
    for size in (7, 100):
        found = tokenizing.encode(
            nodes, latents, linear_image, k=6, batch_size=size, progress=lambda *done: seen.append(done)
        )
        np.testing.assert_array_equal(found.codes, expected.codes.reshape(shape[:-1]))
        np.testing.assert_allclose(found.distances, expected.distances.reshape(shape[:-1]), rtol=1e-5)
    assert seen[-1] == (shape[0], shape[0])
    assert len(seen) == -(-shape[0] // 7) + 1
    again = tokenizing.encode(nodes, latents, linear_image, k=6, batch_size=100)
    np.testing.assert_array_equal(again.distances, found.distances)


@pytest.mark.parametrize("k", [1, 4, 11])
def test_entries_that_are_not_tried_could_not_have_won(setting, k):
    points, _, _, _, nodes = setting

    def bent(z):
        return jnp.tanh(1.5 * MATRIX @ z) + jnp.square(MATRIX @ z)

    metrics = np.asarray(geometry.node_metrics(bent, points), np.float32)
    bent_nodes = nodes._replace(metrics=metrics[:300])
    expected = tokenizing.encode_measured(bent_nodes, points[300:], metrics[300:], k=k)
    found = tokenizing.encode(bent_nodes, points[300:], bent, k=k)
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-5)


def test_a_latent_at_infinite_speed_from_every_entry_is_refused():
    points = np.array([[1.0], [2.0], [3.0], [4.0], [5.0]], np.float32)
    tokenizer = tokenizing.Tokenizer(points, np.ones((5, 1, 1), np.float32), np.arange(5, dtype=np.int32), np.zeros(5))
    with pytest.raises(ValueError, match="expected finite lengths, got NaN or infinity in 1 of 2 rows, first row 1"):
        tokenizing.encode(tokenizer, np.array([[1.5], [0.0]], np.float32), jnp.sqrt, k=5)


def test_euclidean_latents_need_no_decoder_to_encode(setting):
    nodes, _ = linear_setting(setting)
    plain = nodes._replace(metrics=None)
    latents = setting[0][300:]
    expected = tokenizing.encode_measured(plain, latents, None, k=4)
    np.testing.assert_array_equal(tokenizing.encode(plain, latents, k=4).codes, expected.codes)
    with pytest.raises(ValueError, match="expected a decoder"):
        tokenizing.encode(nodes, latents, k=4)
    with pytest.raises(ValueError, match="expected Euclidean edges"):
        tokenizing.encode(plain, latents, linear_image, k=4)
    with pytest.raises((ValueError, TypeError), match="latents"):
        tokenizing.encode(plain, latents.reshape(10, 6, 3), k=4)


def make_codebook(**settings):
    return codebooks.Codebook(
        vectors=np.arange(6, dtype=np.float32).reshape(3, 2),
        medoids=np.array([4, 0, 2]),
        counts=np.array([1, 2, 3]),
        radii=np.array([0.0, 0.5, 1.0]),
        settings=settings,
    )


def test_a_codebook_round_trips_and_refuses_damage(tmp_path):
    params = {"decoder": {"kernel": np.ones((2, 2), np.float32)}}
    other = {"decoder": {"kernel": np.nextafter(np.ones((2, 2), np.float32), 2)}}
    book = make_codebook(vae=codebooks.parameters_hash(params), k=15)
    path = tmp_path / "codebook.npz"
    codebooks.save_codebook(path, book, node_labels=np.zeros(5, np.int32))
    arrays = load_npz(path, stage="build_codebook")
    loaded = codebooks.codebook_of(arrays, path)
    for name in ("vectors", "medoids", "counts", "radii"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(book, name))
    assert loaded.settings == book.settings
    assert loaded.settings["vae"] != codebooks.parameters_hash(other)
    for damage in ({"settings": np.asarray("{")}, {"vectors": None}):
        spoilt = {name: array for name, array in (arrays | damage).items() if array is not None}
        with pytest.raises(ValueError, match="expected a codebook in .* rerun"):
            codebooks.codebook_of(spoilt, path)


def test_lookup_takes_codes_of_any_shape_and_refuses_others():
    book = make_codebook()
    np.testing.assert_array_equal(codebooks.lookup(book, np.array([[2, 0]])), [[[4, 5], [0, 1]]])
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=r"expected codes in \[0, 3\)"):
            codebooks.lookup(book, np.array([0, wrong]))


@pytest.mark.parametrize("measured", [True, False])
def test_a_saved_tokenizer_encodes_the_same(setting, tmp_path, measured):
    points, metrics, _, _, nodes = setting
    nodes, own = (nodes, metrics[300:]) if measured else (nodes._replace(metrics=None), None)
    tokenizing.save_tokenizer(tmp_path / "tokenizer.npz", nodes)
    loaded = tokenizing.load_tokenizer(tmp_path / "tokenizer.npz")
    before, after = (tokenizing.encode_measured(found, points[300:], own, k=4) for found in (nodes, loaded))
    np.testing.assert_array_equal(before.codes, after.codes)
    np.testing.assert_array_equal(before.distances, after.distances)


def test_a_file_that_holds_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a tokenizer in .*, got no file; write it by save_tokenizer"):
        tokenizing.load_tokenizer(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", vectors=np.zeros(3))
    with pytest.raises(ValueError, match="expected the arrays points, metrics, labels, distances in .*, got vectors"):
        tokenizing.load_tokenizer(tmp_path / "other.npz")
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="expected an npz file"):
        tokenizing.load_tokenizer(tmp_path / "damaged.npz")
