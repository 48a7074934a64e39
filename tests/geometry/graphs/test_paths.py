"""Shortest paths against networkx and the full table of distances."""

import jax
import joblib
import networkx as nx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse

from geovq_jax.geometry.graphs.construction import knn_graph
from geovq_jax.geometry.graphs.graph import edges_of, graph_from_edges
from geovq_jax.geometry.graphs.paths import dijkstra, distances_between, nearest_source, read_path, shortest_path
from geovq_jax.geometry.graphs.relaxation import pad_graph, relax, relax_nearest


def random_graph(seed, n, num_edges, integer):
    """Sparse enough for several components, a third of the lengths zero, parallel edges, a hub."""
    rng = np.random.default_rng(seed)
    edges = rng.integers(0, n, size=(num_edges, 2))
    edges[: num_edges // 4, 0] = 0
    edges = edges[edges[:, 0] != edges[:, 1]]
    lengths = rng.integers(1, 4, size=len(edges)).astype(float) if integer else rng.exponential(size=len(edges))
    lengths[rng.random(len(edges)) < 1 / 3] = 0
    return graph_from_edges(edges, lengths, n), rng.integers(0, n, size=rng.integers(1, 9))


def by_networkx(graph, sources):
    """Distances [s, n] by another library, lengths of zero included."""
    edges, lengths = edges_of(graph)
    reference = nx.Graph()
    reference.add_nodes_from(range(graph.shape[0]))
    reference.add_weighted_edges_from(zip(*edges.T.tolist(), lengths.tolist(), strict=True))
    table = np.full((len(sources), graph.shape[0]), np.inf)
    for row, source in zip(table, sources, strict=True):
        found = nx.single_source_dijkstra_path_length(reference, int(source))
        row[list(found)] = list(found.values())
    return table


def check_nearest(found, table, sources, *, ties_to_first):
    """Distances to 1e-6; a source that attains the least distance (the first such); -1 where there is none."""
    distance, source = np.asarray(found.distance), np.asarray(found.source)
    least, reached = table.min(axis=0), np.isfinite(table.min(axis=0))
    np.testing.assert_allclose(distance, least, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(source[~reached], -1)
    assert np.isin(source[reached], sources).all()
    position = np.array([list(sources).index(s) for s in source[reached]], int)
    np.testing.assert_allclose(table[position, np.flatnonzero(reached)], least[reached], rtol=1e-5, atol=1e-5)
    if ties_to_first:
        np.testing.assert_array_equal(source[reached], sources[table.argmin(axis=0)][reached])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 70), st.integers(0, 130), st.booleans())
def test_host_searches_agree_with_networkx(seed, n, num_edges, integer):
    graph, sources = random_graph(seed, n, num_edges, integer)
    table = by_networkx(graph, sources)
    np.testing.assert_allclose(dijkstra(graph, sources), table, rtol=1e-12)
    check_nearest(nearest_source(graph, sources), table, sources, ties_to_first=integer)
    targets = np.arange(0, n, 3)
    np.testing.assert_allclose(distances_between(graph, sources, targets, batch_size=2), table[:, targets], rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 110), st.booleans())
@example(seed=0, num_edges=20, integer=False)  # the last node is a source, and some nodes are out of reach
def test_relaxation_agrees_with_networkx(seed, num_edges, integer):
    """One size of graph and of source list, so that few shapes are compiled."""
    n = 48
    graph, sources = random_graph(seed, n, num_edges, integer)
    sources = np.resize(sources, 6)
    table = by_networkx(graph, sources)
    neighbours, lengths = pad_to(pad_graph(graph), rows=96, width=16)
    found = relax(neighbours, lengths, sources, num_nodes=n, batch_size=4)
    assert found.shape == (6, n)
    np.testing.assert_allclose(found, table, rtol=1e-6, atol=1e-6)
    nearest = relax_nearest(neighbours, lengths, sources, num_nodes=n)
    check_nearest(jax.device_get(nearest), table, sources, ties_to_first=integer)


def pad_to(padded, rows, width):
    """The same graph in more rows and slots, all of them free."""
    r, w = padded.neighbours.shape
    neighbours = np.tile(np.arange(rows, dtype=np.int32)[:, None], (1, width))
    lengths = np.full((rows, width), np.inf)
    neighbours[:r, :w], lengths[:r, :w] = padded.neighbours, padded.lengths
    return neighbours, lengths


def test_distances_along_directed_edges_equal_networkx():
    rng = np.random.default_rng(4)
    table = rng.exponential(size=(30, 30)) * (rng.random((30, 30)) < 0.1)
    np.fill_diagonal(table, 0)
    reference = nx.DiGraph()
    reference.add_nodes_from(range(30))
    reference.add_weighted_edges_from((int(a), int(b), float(table[a, b])) for a, b in np.argwhere(table))
    expected = np.full((30, 30), np.inf)
    for source, reached in nx.all_pairs_dijkstra_path_length(reference):
        expected[source, list(reached)] = list(reached.values())
    graph = sparse.csr_array(table)
    np.testing.assert_allclose(dijkstra(graph, np.arange(30), directed=True), expected)
    assert (expected != expected.T).any()
    with pytest.raises(ValueError, match="expected a symmetric graph"):
        dijkstra(graph, [0])


def test_relaxation_equals_dijkstra_on_a_neighbour_graph_in_float64():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(800, 12))  # hubs: the largest degree is several times the mean
    points[300:308] = points[1]
    graph = knn_graph(points, 6, repair=False)
    padded, sources = pad_graph(graph), rng.choice(800, 20, replace=False)
    assert len(padded.neighbours) > 800  # some nodes overflow
    with jax.enable_x64(True):
        table = np.asarray(relax(padded.neighbours, padded.lengths, sources, num_nodes=800))
        nearest = jax.device_get(relax_nearest(padded.neighbours, padded.lengths, sources, num_nodes=800))
    np.testing.assert_allclose(table, dijkstra(graph, sources), rtol=1e-14)
    expected = nearest_source(graph, sources)
    np.testing.assert_array_equal(nearest.distance, expected.distance)
    np.testing.assert_array_equal(nearest.source, expected.source)


def test_relaxation_without_overflow_rows():
    """The ring 0 - 1 - ... - 9 - 0 with unit lengths: distances around it."""
    nodes = np.arange(10)
    neighbours = np.stack([(nodes - 1) % 10, (nodes + 1) % 10], axis=1)
    found = relax(neighbours, np.ones((10, 2)), [0, 3])
    expected = [np.minimum((nodes - s) % 10, (s - nodes) % 10) for s in (0, 3)]
    np.testing.assert_array_equal(found, expected)
    nearest = relax_nearest(neighbours, np.ones((10, 2)), [6, 0])
    np.testing.assert_array_equal(nearest.source, [0, 0, 0, 6, 6, 6, 6, 6, 6, 0])
    np.testing.assert_array_equal(nearest.distance, np.minimum(np.abs(nodes - 6), expected[0]))


def test_padding_holds_every_edge_of_a_star_with_few_slots():
    n = 2001
    edges = np.stack([np.zeros(n - 1, int), np.arange(1, n)], axis=1)
    graph = graph_from_edges(edges, np.arange(1.0, n), n)
    padded = pad_graph(graph)
    assert padded.neighbours.size < 60 * n  # one wide row would make it 2000 n
    found = relax(padded.neighbours, padded.lengths, [5], num_nodes=n)
    np.testing.assert_array_equal(found, dijkstra(graph, [5]))


def test_unreachable_nodes_have_no_source():
    graph = graph_from_edges(np.array([[0, 1], [2, 3]]), np.array([1.0, 0.0]), 5)
    padded = pad_graph(graph)
    for found in (
        nearest_source(graph, [3]),
        relax_nearest(padded.neighbours, padded.lengths, [3], num_nodes=5),
    ):
        np.testing.assert_array_equal(found.source, [-1, -1, 3, 3, -1])
        np.testing.assert_array_equal(found.distance, [np.inf, np.inf, 0, 0, np.inf])
    with pytest.raises(ValueError, match="different components"):
        shortest_path(graph, 0, 3)


def test_among_equal_distances_the_first_listed_source_wins():
    line = graph_from_edges(np.array([[0, 1], [1, 2], [2, 3], [3, 4]]), np.array([1.0, 1.0, 1.0, 0.0]), 5)
    padded = pad_graph(line)
    for sources, expected in [
        ([0, 2], [0, 0, 2, 2, 2]),
        ([2, 0], [0, 2, 2, 2, 2]),
        ([4, 3, 1], [1, 1, 4, 4, 4]),
    ]:
        np.testing.assert_array_equal(nearest_source(line, sources).source, expected)
        found = relax_nearest(padded.neighbours, padded.lengths, sources, num_nodes=5)
        np.testing.assert_array_equal(found.source, expected)


def test_limit_and_unweighted():
    graph, _ = random_graph(3, 60, 120, integer=False)
    table = dijkstra(graph, range(60))
    limited = dijkstra(graph, range(60), limit=0.7)
    np.testing.assert_array_equal(limited, np.where(table <= 0.7, table, np.inf))
    near = nearest_source(graph, [4, 9], limit=0.7)
    least = table[[4, 9]].min(axis=0)
    np.testing.assert_array_equal(near.distance, np.where(least <= 0.7, least, np.inf))
    np.testing.assert_array_equal(near.source >= 0, least <= 0.7)
    edges, _ = edges_of(graph)
    hops = nx.Graph(edges.tolist())
    hops.add_nodes_from(range(60))
    counted = dict(nx.single_source_shortest_path_length(hops, 4))
    expected = [[counted.get(node, np.inf) for node in range(60)]]
    np.testing.assert_array_equal(dijkstra(graph, [4], unweighted=True), expected)


def test_paths_are_as_long_as_the_distance():
    rng = np.random.default_rng(5)
    graph = knn_graph(rng.normal(size=(200, 3)), 5)
    distances, predecessors = dijkstra(graph, [17], return_predecessors=True)
    for target in (0, 17, 42, 199):
        path = shortest_path(graph, 17, target)
        assert (path[0], path[-1]) == (17, target)
        steps = graph[path[:-1], path[1:]] if len(path) > 1 else np.zeros(0)
        assert (steps > 0).all()
        np.testing.assert_allclose(steps.sum(), distances[0, target])
        read = read_path(predecessors[0], target)
        np.testing.assert_allclose(graph[read[:-1], read[1:]].sum() if len(read) > 1 else 0, distances[0, target])


def test_processes_give_the_same_answers():
    graph, _ = random_graph(7, 60, 100, integer=False)
    alone, shared = (dijkstra(graph, range(11), return_predecessors=True, num_jobs=jobs) for jobs in (1, 2))
    np.testing.assert_array_equal(shared[0], alone[0])
    np.testing.assert_array_equal(shared[1], alone[1])
    np.testing.assert_array_equal(distances_between(graph, range(9), range(30), num_jobs=2), alone[0][:9, :30])


@pytest.mark.parametrize(
    "sources",
    [np.zeros(0, int), np.array([-1]), np.array([60])],
)
def test_wrong_sources_are_refused(sources):
    graph, _ = random_graph(8, 60, 100, integer=False)
    padded = pad_graph(graph)
    with pytest.raises(ValueError, match="expected sources"):
        dijkstra(graph, sources)
    with pytest.raises(ValueError, match="expected sources"):
        nearest_source(graph, sources)
    with pytest.raises(ValueError, match="expected sources"):
        relax(padded.neighbours, padded.lengths, sources, num_nodes=60)
    with pytest.raises(ValueError, match="expected sources"):
        relax_nearest(padded.neighbours, padded.lengths, sources, num_nodes=60)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_searches_over_the_workers_of_a_dask_cluster():
    distributed = pytest.importorskip("dask.distributed")
    graph, _ = random_graph(5, 300, 900, integer=False)
    sources = np.arange(0, 300, 4)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
        joblib.parallel_config(backend="dask"),
    ):
        table, before = dijkstra(graph, sources, num_jobs=-1, return_predecessors=True)
        between = distances_between(graph, sources[:9], sources, num_jobs=-1)
        workers = len(client.scheduler_info()["workers"])
    assert workers == 2
    expected, expected_before = dijkstra(graph, sources, return_predecessors=True)
    np.testing.assert_array_equal(table, expected)
    np.testing.assert_array_equal(before, expected_before)
    np.testing.assert_array_equal(between, expected[:9][:, sources])
