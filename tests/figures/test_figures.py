"""What the figures draw, read back from their artists."""

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import EllipseCollection, PathCollection
from PIL import Image
from scipy import stats
from sklearn.decomposition import PCA

from geovq_jax import figures
from geovq_jax.evaluation.statistics import edge_agreement
from geovq_jax.figures import style
from geovq_jax.figures.images import mosaic
from geovq_jax.geometry.graphs.embedding import principal_plane, project

RNG = np.random.default_rng(0)


def render(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    return np.asarray(Image.open(buffer).convert("RGB"))


def scatters(axes):
    return [drawn for drawn in axes.collections if isinstance(drawn, PathCollection) and len(drawn.get_offsets())]


def test_mosaic_keeps_every_pixel_in_its_place():
    images = RNG.random((2, 3, 5, 4, 1))
    picture = mosaic(images, gap=2)
    assert picture.shape == (12, 16, 1)
    for row in range(2):
        for column in range(3):
            np.testing.assert_array_equal(
                picture[7 * row : 7 * row + 5, 6 * column : 6 * column + 4], images[row, column]
            )
    assert (picture[5:7] == 1.0).all()
    as_bytes = mosaic((images * 255).astype(np.uint8), gap=2)
    np.testing.assert_allclose(as_bytes, picture, atol=1 / 255)


def test_image_grid_shows_the_mosaic_with_its_captions():
    images = RNG.random((3, 4, 7, 7, 3))
    figure = figures.image_grid(
        images, ["truth", "continuous", "quantized"], column_captions=list("abcd"), title="test"
    )
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.images[0].get_array(), mosaic(images, gap=1))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["truth", "continuous", "quantized"]
    assert [label.get_text() for label in axes.get_xticklabels()] == list("abcd")
    assert render(figure).std() > 0.1


def test_class_colours_are_constant_and_apart():
    assert style.class_colours(3) == style.class_colours(10)[:3]
    assert len(set(style.class_colours(25))) == 25
    assert len(set(style.code_colours(512))) > 400
    neighbours = np.array([matplotlib.colors.to_rgb(colour) for colour in style.code_colours(100)])
    assert np.linalg.norm(np.diff(neighbours, axis=0), axis=1).min() > 0.2


def test_figures_ignore_and_keep_the_callers_settings():
    with matplotlib.rc_context({"font.size": 40.0, "axes.facecolor": "red"}):
        figure = figures.code_usage(np.array([3, 1, 0]))
        assert matplotlib.rcParams["font.size"] == 40.0
    plain = figures.code_usage(np.array([3, 1, 0]))
    np.testing.assert_array_equal(render(figure), render(plain))


def test_latent_map_projects_as_scikit_learn():
    points = RNG.standard_normal((200, 5)) * np.array([3.0, 0.2, 1.5, 0.1, 0.4])
    plane = principal_plane(points)
    pca = PCA(2).fit(points)
    signs = np.sign((plane.axes * pca.components_).sum(axis=1))
    np.testing.assert_allclose(plane.axes, pca.components_ * signs[:, None], atol=1e-9)
    np.testing.assert_allclose(plane.explained, pca.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(project(plane, points), pca.transform(points) * signs, atol=1e-9)


def test_latent_map_colours_each_latent_by_its_class():
    latents, classes = RNG.standard_normal((50, 2)), RNG.integers(0, 3, 50)
    figure = figures.latent_map(latents, classes=classes, class_names=["a", "b", "c"])
    drawn = scatters(figure.axes[0])[0]
    colours = {
        tuple(point): matplotlib.colors.to_hex(colour)
        for point, colour in zip(drawn.get_offsets(), drawn.get_facecolors(), strict=True)
    }
    for point, label in zip(latents, classes, strict=True):
        assert colours[tuple(point)] == style.CLASS_COLOURS[label]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]


def test_latent_map_by_code_shows_the_codebook_and_by_value_the_unreachable():
    latents, codes = RNG.standard_normal((50, 2)), RNG.integers(0, 8, 50)
    figure = figures.latent_map(latents, codes=codes, codebook=latents[:8])
    np.testing.assert_array_equal(scatters(figure.axes[0])[1].get_offsets(), latents[:8])
    many = np.minimum(np.arange(50), 30)  # 31 codes, of which the last is the most frequent
    others, coloured = scatters(figures.latent_map(latents, codes=many).axes[0])
    assert (len(others.get_offsets()), len(coloured.get_offsets())) == (11, 39)
    assert len(np.unique(coloured.get_facecolors(), axis=0)) == 20
    values = np.where(np.arange(50) < 5, np.inf, np.arange(50.0))
    unreachable, reached = scatters(figures.latent_map(latents, values=values, value_label="x").axes[0])
    assert (len(unreachable.get_offsets()), len(reached.get_offsets())) == (5, 45)


def test_edge_agreement_equals_scipy():
    euclidean = np.concatenate([RNG.gamma(3.0, 1.0, 300), [0.0]])
    pullback = np.concatenate([euclidean[:-1] * RNG.lognormal(0.0, 0.4, 300), [0.0]])
    summary = edge_agreement(euclidean, pullback)
    assert summary.correlation == pytest.approx(stats.pearsonr(euclidean, pullback).statistic)
    assert summary.rank_correlation == pytest.approx(stats.spearmanr(euclidean, pullback).statistic)
    assert summary.ratio_median == pytest.approx(np.median(pullback[:-1] / euclidean[:-1]))
    title = figures.edge_scatter(euclidean, pullback).axes[0].get_title(loc="left")
    assert title.startswith("301 edges")
    assert f"r {summary.correlation:.2f}" in title
    assert np.isnan(edge_agreement(np.ones(3), np.arange(3.0)).correlation)


def test_code_usage_states_used_codes_and_perplexity():
    figure = figures.code_usage(np.array([8, 0, 8, 8, 8]))
    assert figure.axes[0].get_title(loc="left") == "4 of 5 codes used, perplexity 4"
    np.testing.assert_allclose(figure.axes[0].patches[0].get_data().values, [25, 25, 25, 25, 0])


def test_position_maps_write_each_value_in_its_cell():
    perplexity, information = RNG.random((3, 4)), 7.0 + RNG.random((3, 4))
    figure = figures.position_maps({"perplexity": perplexity, "information [bits]": information})
    render(figure)
    for axes, values in zip(figure.axes, (perplexity, information), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), values)
        for text in axes.texts:
            column, row = text.get_position()
            assert float(text.get_text()) == pytest.approx(values[row, column], abs=1e-2)
        assert len({len(text.get_text().partition(".")[2]) for text in axes.texts}) == 1
        assert len(axes.texts) == 12
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["perplexity", "information [bits]"]


def test_code_atlas_is_in_the_order_of_use():
    images = np.arange(4.0)[:, None, None, None] / 4 + np.zeros((4, 3, 3, 1))
    figure = figures.code_atlas(images, np.array([5, 9, 0, 7]), max_codes=3)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["9", "7", "5"]
    shown = axes.images[0].get_array()
    assert [float(shown[-1, round(text.get_position()[0])]) for text in axes.texts] == [0.25, 0.75, 0.0]


def test_training_curves_and_strips():
    steps = np.arange(20)
    figure = figures.training_curves({"loss [nats]": {"train": (steps, 1.0 / (steps + 1))}}, best_step=7)
    lines = figure.axes[0].lines
    np.testing.assert_array_equal(lines[0].get_ydata(), 1.0 / (steps + 1))
    assert list(lines[1].get_xdata()) == [7, 7]
    strips = {"straight": RNG.random((5, 6, 6, 1)), "graph": RNG.random((5, 6, 6, 1))}
    figure = figures.interpolation_strips([strips] * 3, lengths=[{"straight": 2.0, "graph": 1.5}] * 3)
    assert len(figure.axes) == 3
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array()[7:, :6], strips["graph"][0, :, :, 0])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "straight 2.00",
        "graph 1.50",
    ]


def test_captions_of_strips_are_whole():
    names = ("straight", "graph", "pixel geodesic")
    strips, lengths = {name: RNG.random((10, 28, 28, 1)) for name in names}, dict.fromkeys(names, 12.5)
    figure = figures.interpolation_strips([strips] * 6, lengths=[lengths] * 6)
    assert (render(figure)[:, 0] == 255).all()


def test_comparisons():
    rates, quality = np.array([128.0, 64.0]), np.array([19.0, 17.0])
    figure = figures.rate_distortion(
        {"geodesic": (rates, quality)}, intervals={"geodesic": (quality - 0.5, quality + 0.2)}
    )
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xydata(), [[64, 17], [128, 19]])
    single = figures.rate_distortion({"two": (rates, quality), "one": (rates[:1], quality[:1])})
    assert [line.get_linestyle() for line in single.axes[0].lines] == [
        "-",
        "None",
    ]  # a point has no line, nor a legend's
    groups = {"curve": "K-means", "point": "K-means"}
    grouped = figures.rate_distortion(
        {"curve": (rates, quality), "alone": (rates, quality), "point": (rates, quality)}, groups=groups
    )
    curve, alone, point = grouped.axes[0].lines
    assert curve.get_color() == point.get_color() != alone.get_color()
    assert curve.get_marker() != point.get_marker()
    segments = figure.axes[0].collections[0].get_segments()
    np.testing.assert_allclose([segment[:, 1] for segment in segments], [[16.5, 17.2], [18.5, 19.2]])
    figure = figures.comparison({"a": 1.0, "b": 2.0}, "PSNR [dB]", intervals={"b": (1.5, 2.5)})
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_xdata(), [1.5, 2.5])
    counts = np.array([16, 32, 64])
    figure = figures.elbow(counts, {"swaps": np.array([4.0, 2.0, 1.0])})
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["16", "32", "64"]
    assert render(figure).std() > 0.1


def test_many_curves_differ_in_colour_or_marker():
    curves = {f"codebook {i}": (np.array([float(i)]), np.array([2.0 * i])) for i in range(20)}
    figure = figures.rate_distortion(curves)
    lines = figure.axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 20
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(curves)
    assert render(figure).shape[2] == 3


def test_distance_histogram_adds_to_all_pairs_and_leaves_out_the_infinite():
    distances = np.append(RNG.gamma(2.0, 1.0, 200), np.inf)
    figure = figures.distance_histogram({"paths": distances}, bins=20)
    assert figure.axes[0].patches[0].get_data().values.sum() == pytest.approx(100.0)
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "paths (200)"


def test_connectivity_bars():
    left, right = figures.connectivity_bars(np.array([3, 9]), np.array([7, 1]), np.array([0.8, 1.0])).axes
    assert [bar.get_height() for bar in left.patches] == [7, 1]
    assert [bar.get_height() for bar in right.patches] == [80.0, 100.0]


def test_ellipses_solve_the_metric():
    points = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    angle = 0.7
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    metric = rotation @ np.diag([1.0, 4.0]) @ rotation.T
    figure = figures.metric_ellipses(points, np.tile(metric, (4, 1, 1)))
    (drawn,) = [c for c in figure.axes[0].collections if isinstance(c, EllipseCollection)]
    # The small eigenvalue belongs to the long axis, twice as long as the other.
    np.testing.assert_allclose(drawn.get_widths() / drawn.get_heights(), 2.0)
    np.testing.assert_allclose(np.mod(drawn.get_angles(), 180.0), np.degrees(angle))


def test_voronoi_map_gives_the_plane_to_the_nearest_latent():
    latents = RNG.uniform(-1.0, 1.0, (400, 2))
    codes = (latents[:, 0] > 0).astype(int)
    figure = figures.voronoi_map(latents, codes, np.array([[-0.5, 0.0], [0.5, 0.0]]), resolution=100)
    image = figure.axes[0].images[0]
    picture, (left, right, bottom, top) = np.asarray(image.get_array()), image.get_extent()
    colours = 0.45 + 0.55 * np.array([matplotlib.colors.to_rgb(colour) for colour in style.code_colours(2)])
    for x, code in ((-0.5, 0), (0.5, 1)):
        column = int((x - left) / (right - left) * picture.shape[1])
        row = int((0.0 - bottom) / (top - bottom) * picture.shape[0])
        np.testing.assert_allclose(picture[row, column], colours[code])


def test_volume_map_draws_curves_by_name():
    x, y = np.linspace(0, 1, 6), np.linspace(0, 2, 5)
    curves = {"straight": np.zeros((3, 2)), "graph": np.ones((4, 2))}
    figure = figures.volume_map(x, y, np.exp(RNG.random((5, 6))), latents=RNG.random((9, 2)), curves=curves)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["straight", "graph"]
    assert render(figure).std() > 0.1


def test_channels_that_are_no_colours_are_shown_side_by_side():
    images = RNG.random((1, 1, 4, 5, 2))
    picture = mosaic(images, gap=1)
    assert picture.shape == (4, 10, 1)
    np.testing.assert_array_equal(picture[..., 0], np.concatenate([images[0, 0, ..., 0], images[0, 0, ..., 1]], axis=1))
    deep = mosaic(np.full((1, 1, 2, 2, 1), 13107, np.uint16))
    np.testing.assert_allclose(deep, 0.2)


@pytest.mark.usefixtures("unchecked")
def test_refusals():
    pair = RNG.standard_normal((4, 2))
    cases = [
        (lambda: figures.image_grid(np.zeros((2, 1, 4, 4, 1)), ["a"]), "expected 2 row captions, got 1"),
        (lambda: figures.training_curves({}), "at least one panel"),
        (lambda: figures.code_atlas(np.zeros((3, 4, 4, 1)), np.zeros(2, int)), "one count per code"),
        (
            lambda: figures.interpolation_strips(
                [{"a": np.zeros((2, 4, 4, 1)), "b": np.zeros((3, 4, 4, 1))}], lengths=[{"a": 1.0, "b": 1.0}]
            ),
            "one length",
        ),
        (lambda: figures.latent_map(pair, classes=np.zeros(4, int), codes=np.zeros(4, int)), "got several"),
        (lambda: principal_plane(np.zeros((5, 1))), "at least 2 dimensions"),
        (lambda: edge_agreement(np.zeros(3), np.ones(3)), "at least two edges"),
        (lambda: figures.distance_histogram({"a": np.array([np.inf])}), "finite distances"),
        (lambda: figures.voronoi_map(pair, np.zeros(4, int), pair), "more than 8 latents"),
        (lambda: figures.volume_map(np.arange(2.0), np.arange(2.0), np.zeros((2, 2))), "positive volume density"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()


def test_ball_map_counts_the_nearest_by_either_distance():
    latents = np.stack([np.arange(20.0), np.zeros(20)], axis=1)
    geodesic, euclidean = np.arange(20.0), np.arange(20.0)
    geodesic[1], geodesic[19] = 50.0, 0.5
    figure = figures.ball_map(latents, geodesic, euclidean, share=0.2)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["neither (15)", "Euclidean only (1)", "geodesic only (1)", "both (3)"]
    np.testing.assert_array_equal(figure.axes[0].collections[1].get_offsets(), [[1.0, 0.0]])
