"""The model behind the explorer, without a browser: graphs, distances, ways, pictures; a run as a space."""

import base64
import csv
import io

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest
from PIL import Image
from sklearn.manifold import trustworthiness
from sklearn.neighbors import kneighbors_graph

from geovq_jax.explorer.drawing import curve_on_map, markers, on_map, png_address, scatter
from geovq_jax.explorer.selection import find, ids_as_csv, selected, summarise
from geovq_jax.explorer.space import (
    STARTS,
    Draw,
    Space,
    build_graph,
    curves_between,
    describe_graph,
    graphs_of,
    log_volumes,
    members,
    nearest,
    neighbour_table,
    path_to,
)
from geovq_jax.explorer.views import View, geodesic_view, umap_view
from geovq_jax.figures.style import even_decimals

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
        images=np.arange(80) // 2,
        class_names=("low tide", "flood"),
        metrics=metrics,
        log_volume=log_volumes(metrics),
        neighbours=neighbour_table(points),
        picture=lambda nodes: np.asarray(jax.vmap(linear_decoder)(points[np.asarray(nodes)])),
        decoder=lambda node: decode_fn,
        frames=lambda node: None,
        code_pictures=np.zeros((5, 3, 1, 1)),
        vectors=points[:5],
        medoids=np.array([0, 1, 2, 3, -1]),
        draw=None,
        sampling=Draw(-1, 10, 1.0, 0, 1.0, 0.0, 1.0, 0),
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
    assert [curve.name for curve in curves_between(space, reach, away)] == ["straight", "continuous"]
    assert markers(space, "distance", reach)["color"][away] is None
    assert "components" in describe_graph(build_graph(space, 1, "Euclidean"))


def test_curves_of_a_linear_decoder_are_as_long_as_the_decoded_chord(space):
    reach = graphs_of(space).reach(10, "pull-back", 0)
    straight, graph, continuous = curves_between(space, reach, 50)
    chord = np.linalg.norm(0.05 * SCALE @ (space.points[50] - space.points[0]))
    assert straight.length == pytest.approx(chord, rel=1e-4)
    assert continuous.length == pytest.approx(chord, rel=1e-3)
    assert graph.length >= chord
    assert graph.length == pytest.approx(reach.distance[50], rel=0.05)
    np.testing.assert_allclose(straight.pictures[0], linear_decoder(space.points[0]), atol=1e-5)
    np.testing.assert_allclose(straight.pictures[-1], linear_decoder(space.points[50]), atol=1e-5)
    np.testing.assert_allclose(curve_on_map(space, space.views[0], graph), graph.latents, atol=1e-5)


def test_on_a_curved_view_the_path_leads_through_its_nodes(space):
    reach = graphs_of(space).reach(10, "pull-back", 0)
    whole = np.arange(80)
    (view,) = geodesic_view(build_graph(space, 10, "pull-back"), whole, seed=0)
    straight, graph, _ = curves_between(space, reach, 50)
    np.testing.assert_allclose(curve_on_map(space, view, graph), view.points[path_to(reach, 50)], atol=1e-6)
    drawn = curve_on_map(space, view, straight)
    np.testing.assert_allclose(drawn[[0, -1]], view.points[[0, 50]], atol=1e-6)
    assert (drawn >= view.points.min(axis=0) - 1e-9).all()
    assert (drawn <= view.points.max(axis=0) + 1e-9).all()
    assert geodesic_view(build_graph(space, 1, "pull-back"), whole, seed=0) == ()


@pytest.mark.slow
@pytest.mark.parametrize("scale", [None, np.diag([1.0, 0.2, 0.2]).astype(np.float32)])
def test_umap_keeps_what_is_near_in_the_metric(scale):
    """Under the constant metric A'A, what is near is near after A."""
    pytest.importorskip("umap", reason="the extra umap is not installed")
    points = np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32)
    metrics = None if scale is None else np.tile((scale.T @ scale).astype(np.float32), (600, 1, 1))
    neighbours = neighbour_table(points)
    (view,) = umap_view(points, neighbours, metrics, seed=0)
    assert trustworthiness(points if scale is None else points @ scale.T, view.points, n_neighbors=10) > 0.85
    np.testing.assert_array_equal(umap_view(points, neighbours, metrics, seed=0)[0].points, view.points)


@pytest.mark.parametrize("start_from", STARTS)
def test_a_geodesic_of_a_linear_decoder_is_the_chord_from_every_start(space, start_from):
    reach = graphs_of(space).reach(10, "pull-back", 0)
    chord = np.linalg.norm(0.05 * SCALE @ (space.points[50] - space.points[0]))
    assert curves_between(space, reach, 50, start_from)[2].length == pytest.approx(chord, rel=1e-3)


def test_an_outline_selects_what_lies_inside(space):
    x, y = space.points.T
    box = np.flatnonzero((x > -0.5) & (x < 0.7) & (y > -1.0) & (y < 0.4))
    assert selected(space, "outline latents -0.5 -1 0.7 -1 0.7 0.4 -0.5 0.4").tolist() == box.tolist()
    half = np.flatnonzero((x > 0) & (y > 0) & (x + y < 1))
    assert selected(space, "outline latents 0 0 1 0 0 1").tolist() == half.tolist()
    assert len(selected(space, "")) == 0


@pytest.mark.parametrize(
    "text",
    [
        *("rainbow 3", "class", "class -1", "code x", "code 1e3", "image 99999999999", "outline", "outline latents"),
        *("outline latents 0 0 1 1", "outline latents 0 0 1 0 0", "outline latents 0 0 1 0 nan 1"),
        "outline plane 0 0 1 0 0 1",
    ],
)
def test_what_is_no_selection_is_refused(space, text):
    with pytest.raises(ValueError, match="expected"):
        selected(space, text)


def test_points_and_selections_are_found_by_number_and_name(space):
    assert find(space, "12") == find(space, " point 12 ") == (12, "")
    assert find(space, "Flood") == find(space, "class flood") == find(space, "class 1") == (None, "class 1")
    assert find(space, "low tide") == (None, "class 0")
    assert find(space, "code 3") == (None, "code 3")
    assert selected(space, find(space, "image 7")[1]).tolist() == [14, 15]
    for text in ("80", "point", "code 4", "class 2", "image 40", "ebb", "", "class ebb"):  # no point has code 4
        with pytest.raises(ValueError, match=r"expected|no point"):
            find(space, text)


def test_a_summary_counts_and_averages(space):
    nodes = np.array([0, 1, 2, 5, 9])
    summary = summarise(space, nodes)
    assert summary.classes.tolist() == np.bincount(space.labels[nodes], minlength=2).tolist()
    assert dict(zip(summary.codes.tolist(), summary.counts.tolist(), strict=True)) == {1: 3, 0: 1, 2: 1}
    assert summary.num_codes == 3
    np.testing.assert_allclose(summary.mean_image, space.picture(nodes).mean(axis=0), atol=1e-6)


def test_ids_are_read_back_from_the_csv(space):
    rows = list(csv.DictReader(io.StringIO(ids_as_csv(space, np.array([3, 50])))))
    assert rows[0] == {"point": "3", "image": "1", "class": "1", "name": "flood", "code": "3"}
    assert [int(row["point"]) for row in rows] == [3, 50]


def test_latents_are_placed_at_themselves_on_an_affine_view(space):
    np.testing.assert_allclose(on_map(space, space.views[0], space.vectors), space.points[:5], atol=1e-5)


def test_colours_of_the_volume_are_clipped_to_percentiles(space):
    volume = np.arange(80.0)
    marker = markers(space._replace(log_volume=volume), "volume", None)
    assert (marker["cmin"], marker["cmax"]) == pytest.approx(tuple(np.percentile(volume, [1, 99])))


def test_tiles_of_one_row_have_the_same_decimals():
    assert even_decimals([0.041, 0.0478, 0.123]) == ["0.0410", "0.0478", "0.1230"]
    assert even_decimals([]) == []
    assert even_decimals([120.0, 340.0]) == ["120", "340"]
    assert even_decimals([0.0, 0.0]) == ["0.000", "0.000"]


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
