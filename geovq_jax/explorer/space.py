"""The model of the explorer: points of a latent space, graphs over them, distances and curves between them."""

from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import sparse

from geovq_jax import geometry
from geovq_jax.explorer.views import View
from geovq_jax.figures import style
from geovq_jax.geometry.curves import resample
from geovq_jax.geometry.graphs.graph import components

MAX_POINTS = 60_000
MAX_NEIGHBOURS = 30
METRICS = ("pull-back", "Euclidean")

STARTS = ("shorter curve", "graph path", "straight line")  # initial curves of the continuous geodesic

_FINE = 64  # points used to measure a curve
_START = 128  # points of the initial curve of a geodesic
_STRIP = 9  # images along a curve

Images = Float[np.ndarray, "m height width channels"]
Pictures = Callable[[Any], np.ndarray]


class Draw(NamedTuple):
    """Settings of a draw from the prior: `label` (-1 for all classes), `number` of images, and those of `sample`."""

    label: int
    number: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    guidance: float
    seed: int


class Drawn(NamedTuple):
    """Samples of a prior: codes, decoded images in [0, 1], and classes."""

    codes: Int[np.ndarray, "n ..."]
    images: Float[np.ndarray, "n H W C"]
    labels: Int[np.ndarray, " n"]


class Versus(NamedTuple):
    """Two runs on the same test images.

    Attributes:
        names: distinct names of the runs.
        rows: rows of the images in the test split.
        images: the images in [0, 1].
        labels: their classes.
        decoded: images that each run decodes from its codes.
        codes: codes of each run.
        errors: mean squared error per run and image.
    """

    names: tuple[str, str]
    rows: Int[np.ndarray, " n"]
    images: Float[np.ndarray, "n height width channels"]
    labels: Int[np.ndarray, " n"]
    decoded: tuple[Float[np.ndarray, "n height width channels"], Float[np.ndarray, "n height width channels"]]
    codes: tuple[Int[np.ndarray, "n ..."], Int[np.ndarray, "n ..."]]
    errors: Float[np.ndarray, "2 n"]


class Space(NamedTuple):
    """A latent space of at most `MAX_POINTS` points; a point is the latent of an image, or of one cell of its grid.

    Attributes:
        name: title of the page.
        subject: description of what a point is.
        views: one or more two-dimensional views of the points.
        images: row of the training image that each point comes from.
        class_names: name of each class.
        metrics: pull-back metric at each point; None if only Euclidean lengths are known.
        log_volume: logarithm (base 10) of the volume density at each point; None if `metrics` is.
        neighbours: Euclidean neighbours of each point, nearest first, at most `MAX_NEIGHBOURS`.
        picture: nodes [m] -> their images [m, height, width, channels] in [0, 1].
        decoder: node -> map of z [d] to an image, which measures and draws the curves that start at the node.
        frames: node -> (top, left, height, width) of its cell as fractions of the image; None for the whole image.
        code_pictures: decoded codes, in [0, 1].
        vectors: code vectors, in the space of `points`.
        medoids: node of the medoid of each code; -1 if it is not among the points.
        draw: (settings, rows) -> the given rows of the `number` samples; None without a prior.
        sampling: sampling settings of the run.
        versus: comparison with another run on the same images; None without one.
    """

    name: str
    subject: str
    points: Float[np.ndarray, "n d"]
    views: tuple[View, ...]
    labels: Int[np.ndarray, " n"]
    codes: Int[np.ndarray, " n"]
    images: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    metrics: Float[np.ndarray, "n d d"] | None
    log_volume: Float[np.ndarray, " n"] | None
    neighbours: Int[np.ndarray, "n k"]
    picture: Pictures
    decoder: Callable[[int], Any]
    frames: Callable[[int], tuple[float, float, float, float] | None]
    code_pictures: Float[np.ndarray, "K h w c"]
    vectors: Float[np.ndarray, "K d"]
    medoids: Int[np.ndarray, " K"]
    draw: Callable[[Draw, Int[np.ndarray, " m"]], Drawn] | None
    sampling: Draw
    versus: Versus | None = None


class Reach(NamedTuple):
    """Shortest distances from node `start`: `distance` [n], infinite if unreachable, and `predecessor` [n]."""

    start: int
    distance: Float[np.ndarray, " n"]
    predecessor: Int[np.ndarray, " n"]


class Curve(NamedTuple):
    """One curve between two nodes.

    `name` is "straight", "graph" or "continuous", `length` the pull-back length in the decoder of the first node.
    `pictures` are at equal pull-back distances; `converged` is False only for a geodesic that missed its tolerance.
    """

    name: str
    latents: Float[np.ndarray, "t d"]
    length: float
    pictures: Float[np.ndarray, "s h w c"]
    converged: bool


class Graphs(NamedTuple):
    """Cached functions of one space.

    `graph` maps (k, metric) to the k-nearest-neighbour graph, `reach` maps (k, metric, node) to distances along it.
    """

    graph: Callable[[int, str], sparse.csr_array]
    reach: Callable[[int, str, int], Reach]


def neighbour_table(points: Float[np.ndarray, "n d"]) -> Int[np.ndarray, "n k"]:
    """Euclidean neighbours of every point, nearest first: the largest k of the explorer, or all n - 1."""
    return np.asarray(geometry.knn(points, min(MAX_NEIGHBOURS, len(points) - 1)).indices)


def log_volumes(metrics: Float[np.ndarray, "n d d"]) -> Float[np.ndarray, " n"]:
    """Logarithm (base 10) of the volume density sqrt(det G) at each point."""
    return np.asarray(geometry.log_volume(metrics), np.float64) / np.log(10.0)


def view_of(space: Space, name: str) -> View:
    """The view with this name; raises ValueError if there is none."""
    names = [view.name for view in space.views]
    if name not in names:
        raise ValueError(f"expected a view among {names}, got {name!r}; choose one of them")
    return space.views[names.index(name)]


def class_title(space: Space, label: int | np.integer) -> str:
    """The name of a class, or "class 3" if the name is a number."""
    return style.class_title(space.class_names[label])


def metrics_of(space: Space) -> tuple[str, ...]:
    """Names of the metrics of a space."""
    return METRICS if space.metrics is not None else METRICS[1:]


def first_k(space: Space) -> int:
    """Initial number of neighbours."""
    return min(12, space.neighbours.shape[1])


def build_graph(space: Space, k: int, metric: str) -> sparse.csr_array:
    """Union graph of the k nearest neighbours with lengths in one metric, without joining components.

    Raises ValueError for a k or metric that the space does not support.
    """
    most = space.neighbours.shape[1]
    if not 1 <= k <= most:
        raise ValueError(f"expected 1 <= k <= {most}, got {k}; choose another k")
    if metric not in metrics_of(space):
        raise ValueError(f"expected a metric among {metrics_of(space)}, got {metric!r}; choose one of them")
    metrics = space.metrics if metric == "pull-back" else None
    return geometry.metric_graph(space.points, space.neighbours[:, :k], metrics, repair=False)


def graphs_of(space: Space) -> Graphs:
    """Graphs and distances of a space; edges are measured once per metric, for the largest k.

    A smaller graph keeps the edges of the largest that join a node to one of its k nearest. Caches are small: with
    `MAX_POINTS` points each graph takes 30 MB, and allocating such arrays repeatedly fragments the heap. Threads that
    request a graph at the same time wait for each other.
    """
    lock = Lock()
    count, most = space.neighbours.shape
    largest = {metric: build_graph(space, most, metric) for metric in metrics_of(space)}
    pairs = np.stack([np.repeat(np.arange(count), most), space.neighbours.ravel()], axis=1)
    ranks = geometry.graph_from_edges(pairs, np.tile(np.arange(1.0, most + 1), count), count).data.astype(np.uint8)

    @lru_cache(maxsize=2)
    def part(k: int, metric: str) -> sparse.csr_array:
        whole, kept = largest[metric], ranks <= k
        starts = np.append(0, np.cumsum(kept, dtype=np.int32))[whole.indptr]
        return sparse.csr_array((whole.data[kept], whole.indices[kept], starts), shape=whole.shape)

    def graph(k: int, metric: str) -> sparse.csr_array:
        with lock:
            return part(k, metric)

    @lru_cache(maxsize=16)
    def reach(k: int, metric: str, node: int) -> Reach:
        return reach_from(graph(k, metric), node)

    return Graphs(graph, reach)


def reach_from(graph: sparse.csr_array, node: int) -> Reach:
    """Shortest distances from a node along a graph."""
    distance, predecessor = geometry.dijkstra(graph, [node], return_predecessors=True)
    return Reach(node, distance[0], predecessor[0])


def describe_graph(graph: sparse.csr_array) -> str:
    """Number of edges and components of a graph, as text."""
    sizes = np.bincount(components(graph))
    plural = "" if len(sizes) == 1 else "s"
    share = 100.0 * sizes.max() / sizes.sum()
    return f"{graph.nnz // 2:,} edges, {len(sizes):,} component{plural}, largest {share:.1f} % of points"


def nearest(reach: Reach, count: int) -> Int[np.ndarray, " m"]:
    """The `count` nearest nodes along the graph, nearest first, without the start and unreachable nodes."""
    count = min(count + 1, len(reach.distance))
    ids = np.argpartition(reach.distance, count - 1)[:count]
    ids = ids[(ids != reach.start) & np.isfinite(reach.distance[ids])]
    return ids[np.argsort(reach.distance[ids], kind="stable")][: count - 1]


def path_to(reach: Reach, target: int) -> Int[np.ndarray, " t"] | None:
    """Nodes of the shortest path to a node, ends included; None if there is no path."""
    if not np.isfinite(reach.distance[target]):
        return None
    path = [target]
    while reach.predecessor[path[-1]] >= 0:
        path.append(int(reach.predecessor[path[-1]]))
    return np.array(path[::-1], np.int64)


@jax.jit
def _measure(decode_fn: Any, curve: Float[Array, "t d"]) -> tuple[Array, Array]:
    """Pull-back length of a fine curve, and its decoded images at equal distances."""
    even = geometry.constant_speed(decode_fn, curve, num_points=_STRIP)
    return geometry.curve_length(decode_fn, curve, rule="chord"), jnp.clip(jax.vmap(decode_fn)(even), 0.0, 1.0)


def curves_between(space: Space, reach: Reach, stop: int, start_from: str = STARTS[0]) -> list[Curve]:
    """The straight line, the shortest path of the graph (if any) and the continuous geodesic, in this order.

    All are measured and drawn with the decoder of the first node, `reach.start`.

    Args:
        space: the space.
        reach: distances from the first node.
        stop: the second node.
        start_from: one of `STARTS`, the initial curve of the geodesic, which is a local minimum; the straight line if
            there is no path in the graph.
    """
    decode_fn = space.decoder(reach.start)
    ends = space.points[[reach.start, stop]]
    curves = [_curve(decode_fn, "straight", ends, converged=True)]
    path = path_to(reach, stop)
    if path is not None:
        curves.append(_curve(decode_fn, "graph", space.points[path], converged=True))
    initial = {STARTS[0]: min(curves, key=lambda curve: curve.length), STARTS[1]: curves[-1], STARTS[2]: curves[0]}
    d = space.points.shape[1]
    # d tangents per point and step: wide latents get fewer points, so that a response takes about a second.
    found = geometry.geodesics(
        decode_fn,
        ends[:1],
        ends[1:],
        initial=resample(initial[start_from].latents, _START)[None],
        num_points=32 if d <= 4 else 16,
        max_iterations=100 if d <= 4 else 30,
        batch_size=1,
    )
    latents, converged = np.asarray(found.curve[0]), bool(found.converged[0])
    return [*curves, _curve(decode_fn, "continuous", latents, converged=converged)]


def _curve(decode_fn: Any, name: str, latents: np.ndarray, *, converged: bool) -> Curve:
    length, pictures = _measure(decode_fn, resample(latents, _FINE))
    return Curve(name, latents, float(length), np.asarray(pictures), converged)


def code_counts(space: Space) -> Int[np.ndarray, " K"]:
    """Number of points in each cell of the codebook."""
    return np.bincount(space.codes, minlength=len(space.code_pictures))


def members(space: Space, code: int, count: int) -> Int[np.ndarray, " m"]:
    """At most `count` points of a cell, evenly spaced in the order of their distance to the medoid.

    The medoid comes first; if it is not among the points, distances are to the mean of the cell.
    """
    nodes = np.flatnonzero(space.codes == code)
    centre = space.points[nodes].mean(axis=0) if space.medoids[code] < 0 else space.points[space.medoids[code]]
    nodes = nodes[np.argsort(np.linalg.norm(space.points[nodes] - centre[None], axis=1), kind="stable")]
    return nodes[np.unique(np.linspace(0, len(nodes) - 1, min(count, len(nodes))).astype(np.int64))]
