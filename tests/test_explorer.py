"""The model behind the explorer, without a browser: graphs, distances, ways, pictures; a run as a space."""

import base64
import io

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import kneighbors_graph

from geovq_jax.explorer.drawing import markers, png_address, scatter, way_on_map
from geovq_jax.explorer.space import (
    Space,
    View,
    build_graph,
    describe_graph,
    geodesic_view,
    graphs_of,
    log_volumes,
    members,
    nearest,
    neighbour_table,
    path_to,
    pick,
    ways,
)

SCALE = np.array([[2.0, 0.0], [0.0, 0.5], [1.0, 1.0]], np.float32)


def linear_decoder(z):
    return jnp.clip(0.5 + 0.05 * (jnp.asarray(SCALE) @ z), 0.0, 1.0).reshape(3, 1, 1)


@pytest.fixture(scope="module")
def space() -> Space:
    """Latents of a linear decoder: the metric is 0.05^2 A'A everywhere and geodesics are straight."""
    points = np.random.default_rng(3).normal(size=(80, 2)).astype(np.float32)
    metrics = np.tile((0.05**2 * SCALE.T @ SCALE).astype(np.float32), (80, 1, 1))
    codes = np.arange(80, dtype=np.int32) % 4
    decode_fn = jax.tree_util.Partial(linear_decoder)
    return Space(
        name="linear",
        subject="a point",
        points=points,
        views=(View("latents", points.astype(np.float64), ("x", "y"), linear=True),),
        labels=codes % 2,
        codes=codes,
        metrics=metrics,
        log_volume=log_volumes(metrics),
        neighbours=neighbour_table(points),
        picture=lambda nodes: np.asarray(jax.vmap(linear_decoder)(points[np.asarray(nodes)])),
        decoder=lambda node: decode_fn,
        frames=lambda node: None,
        code_pictures=np.zeros((5, 3, 1, 1)),
        medoids=np.array([0, 1, 2, 3, -1]),
        draw=None,
        num_classes=2,
    )


def test_the_graph_has_the_edges_of_the_k_nearest_in_either_direction(space):
    directed = kneighbors_graph(space.points, 4).toarray() > 0
    graph = build_graph(space, 4, "Euclidean").toarray()
    np.testing.assert_array_equal(graph > 0, directed | directed.T)
    gaps = np.linalg.norm(space.points[:, None] - space.points[None], axis=2)
    np.testing.assert_allclose(graph[graph > 0], gaps[graph > 0], rtol=1e-5)
    decoded = np.linalg.norm((space.points[:, None] - space.points[None]) @ (0.05 * SCALE.T), axis=2)
    pulled = build_graph(space, 4, "pull-back").toarray()
    np.testing.assert_allclose(pulled[graph > 0], decoded[graph > 0], rtol=1e-4)


@pytest.mark.parametrize("metric", ["pull-back", "Euclidean"])
def test_the_part_of_the_largest_graph_is_the_graph_of_k(space, metric):
    graphs = graphs_of(space)
    for k in (1, 2, 12, 30):
        assert (graphs.graph(k, metric) != build_graph(space, k, metric)).nnz == 0


@pytest.mark.parametrize(("k", "metric"), [(0, "Euclidean"), (31, "Euclidean"), (3, "cosine")])
def test_settings_that_are_not_on_offer_are_refused(space, k, metric):
    with pytest.raises(ValueError, match="expected"):
        build_graph(space, k, metric)


def test_distances_paths_and_nearest_agree_with_networkx(space):
    reach = graphs_of(space).reach(5, "pull-back", 11)
    graph = networkx.from_scipy_sparse_array(build_graph(space, 5, "pull-back"))
    lengths = networkx.single_source_dijkstra_path_length(graph, 11)
    for node, length in lengths.items():
        assert reach.distance[node] == pytest.approx(length)
    order = sorted((length, node) for node, length in lengths.items() if node != 11)
    assert nearest(reach, 6).tolist() == [node for _, node in order[:6]]
    path = path_to(reach, order[-1][1])
    assert networkx.path_weight(graph, path.tolist(), "weight") == pytest.approx(order[-1][0])


def test_nodes_that_no_path_reaches(space):
    reach = graphs_of(space).reach(1, "Euclidean", 0)
    away = int(np.flatnonzero(np.isinf(reach.distance))[0])
    assert path_to(reach, away) is None
    assert len(nearest(reach, 79)) == np.isfinite(reach.distance).sum() - 1
    assert [way.name for way in ways(space, reach, away)] == ["straight", "continuous"]
    assert markers(space, "distance", reach)["color"][away] is None
    assert "components" in describe_graph(build_graph(space, 1, "Euclidean"))


def test_ways_of_a_linear_decoder_are_as_long_as_the_decoded_chord(space):
    reach = graphs_of(space).reach(10, "pull-back", 0)
    straight, graph, continuous = ways(space, reach, 50)
    chord = np.linalg.norm(0.05 * SCALE @ (space.points[50] - space.points[0]))
    assert straight.length == pytest.approx(chord, rel=1e-4)
    assert continuous.length == pytest.approx(chord, rel=1e-3)
    assert graph.length >= chord
    assert graph.length == pytest.approx(reach.distance[50], rel=0.05)
    np.testing.assert_allclose(straight.pictures[0], linear_decoder(space.points[0]), atol=1e-5)
    np.testing.assert_allclose(straight.pictures[-1], linear_decoder(space.points[50]), atol=1e-5)
    np.testing.assert_allclose(way_on_map(space, space.views[0], graph), graph.curve, atol=1e-5)


def test_on_a_curved_view_the_path_leads_through_its_nodes(space):
    reach = graphs_of(space).reach(10, "pull-back", 0)
    whole = np.arange(80)
    (view,) = geodesic_view(build_graph(space, 10, "pull-back"), whole, seed=0)
    straight, graph, _ = ways(space, reach, 50)
    np.testing.assert_allclose(way_on_map(space, view, graph), view.points[path_to(reach, 50)], atol=1e-6)
    drawn = way_on_map(space, view, straight)
    np.testing.assert_allclose(drawn[[0, -1]], view.points[[0, 50]], atol=1e-6)
    assert (drawn >= view.points.min(axis=0) - 1e-9).all()
    assert (drawn <= view.points.max(axis=0) + 1e-9).all()
    assert geodesic_view(build_graph(space, 1, "pull-back"), whole, seed=0) == ()


def test_a_second_click_joins_the_first_and_a_third_starts_anew():
    assert pick([], 4) == [4]
    assert pick([4], 9) == [4, 9]
    assert pick([4], 4) == [4]
    assert pick([4, 9], 2) == [2]


def test_members_start_at_the_medoid_and_an_empty_cell_has_none(space):
    found = members(space, 2, 5)
    assert found[0] == 2
    assert (space.codes[found] == 2).all()
    gaps = np.linalg.norm(space.points[found] - space.points[2], axis=1)
    assert (np.diff(gaps) >= 0).all()


def test_a_picture_survives_its_address():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3)) / 255.0
    data = base64.b64decode(png_address(image).removeprefix("data:image/png;base64,"))
    read = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(read, np.round(image * 255))


def test_colours_carry_one_number_a_point(space):
    for colouring, numbers in (("class", space.labels), ("code", space.codes), ("volume", space.log_volume)):
        np.testing.assert_allclose(markers(space, colouring, None)["color"], numbers, atol=1e-4)
    scale = markers(space, "class", None)["colorscale"]
    assert [edge for edge, _ in scale] == [0.0, 0.5, 0.5, 1.0]
    figure = scatter(space, "class")
    assert [trace.get("name") for trace in figure["data"][1:4]] == ["straight", "graph", "continuous"]
    with pytest.raises(ValueError, match="expected a colouring"):
        markers(space, "rainbow", None)
