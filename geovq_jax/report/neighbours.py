"""Part of the report on the graph as its number of neighbours grows: connectivity, distances, balls."""

import numpy as np
from jaxtyping import Float

from geovq_jax import figures, geometry
from geovq_jax.geometry.graphs.embedding import principal_plane
from geovq_jax.report.page import ReportFigure, Section
from geovq_jax.stages.run import Run

_NODES = 5_000
_SOURCES = 40
_BALL = 0.1


def section(run: Run) -> Section:
    """Union graphs of 1, 2, 4, ... neighbours over nodes of the training graph, without joining components."""
    stored = run.graph
    rows = np.sort(np.random.default_rng(run.config.seed).permutation(len(stored.points))[:_NODES])
    points, labels = stored.points[rows], run.graph_labels[rows]
    metrics = run.metrics_at(rows)
    most = min(run.num_neighbours, len(points) - 1)
    sizes = np.unique([k for k in (1, 2, 4, 8, 16, 32) if k < most] + [most])
    neighbours = geometry.knn(points, most).indices
    graphs = {k: geometry.metric_graph(points, neighbours[:, :k], metrics, repair=False) for k in sizes.tolist()}
    states = [geometry.connectivity(graph) for graph in graphs.values()]
    graph_states = list(zip(sizes.tolist(), states, strict=True))
    counts = [{"k": k, **state._asdict()} for k, state in graph_states]
    least = next((k for k, state in graph_states if state.num_components == 1), None)
    shown = sizes <= (least or most)  # once all nodes are connected, more neighbours change nothing
    bars = figures.connectivity_bars(
        sizes[shown],
        np.array([s.num_components for s in states])[shown],
        np.array([s.largest_fraction for s in states])[shown],
    )
    # The node nearest to the mean, which most paths pass nearby.
    start = int(np.argmin(np.linalg.norm(points - points.mean(axis=0, keepdims=True), axis=1)))
    plane = None if points.shape[1] == 2 else principal_plane(points)
    joined = f"{least} neighbours connect all nodes." if least else "No number of neighbours connects all nodes."
    pictures = [ReportFigure("Components by the number of neighbours.", bars, "components", counts, joined)]
    before = None
    for k in dict.fromkeys((int(sizes[min(2, len(sizes) - 1)]), most)):
        reach = np.asarray(geometry.dijkstra(graphs[k], [start]))[0]
        figure = figures.latent_map(points, values=reach, value_label=f"geodesic distance, k = {k}", plane=plane)
        finite = reach[np.isfinite(reach)]
        data = {"k": k, "reached": len(finite), "mean": finite.mean(), "largest": finite.max()}
        finding = f"{100 * len(finite) / len(points):.0f} % of the nodes are reached"
        if before is not None:
            both = np.isfinite(before) & np.isfinite(reach)
            shorter = 1.0 - reach[both].sum() / max(before[both].sum(), 1e-12)
            finding += f"; distances are {100 * shorter:.0f} % shorter than with fewer neighbours"
        before = reach
        pictures.append(
            ReportFigure(f"Distance from one node, k = {k}.", figure, f"distance_k{k}", data, f"{finding}.")
        )
    direct = np.linalg.norm(points - points[start][None], axis=1)
    balls = figures.ball_map(points, reach, direct, share=_BALL, plane=plane)
    size = max(1, round(_BALL * len(points)))
    shared = len(np.intersect1d(np.argsort(reach, kind="stable")[:size], np.argsort(direct, kind="stable")[:size]))
    text = f"The nearest {100 * _BALL:.0f} % of nodes by geodesic and by Euclidean distance."
    finding = f"{100 * shared / size:.0f} % are in both."
    pictures.append(ReportFigure(text, balls, "balls", {"nodes": size, "in_both": shared}, finding))
    sources = np.linspace(0, len(points) - 1, _SOURCES).astype(np.int64)
    table = np.asarray(geometry.dijkstra(graphs[most], sources))
    same = labels[sources][:, None] == labels[None]
    apart = np.isfinite(table) & (table > 0)
    kinds = {"same class": table[same & apart], "another class": table[~same & apart]}
    if all(len(values) for values in kinds.values()):
        share = overlap(*kinds.values())
        means = {"overlap": share, **{name: values.mean() for name, values in kinds.items()}}
        histogram = figures.distance_histogram(kinds, unit="length of the graph's edges")
        verdict = "says little about the class" if share > 0.8 else "separates the classes"
        finding = f"The two histograms overlap by {100 * share:.0f} %: distance {verdict}."
        pictures.append(ReportFigure("Geodesic distances between nodes.", histogram, "pair_distances", means, finding))
    return Section(
        "Neighbours",
        f"{len(points):,} nodes of the training graph; union graphs of their k nearest neighbours, without joining "
        "components. Grey nodes cannot be reached.",
        figures=pictures,
        links=[("the graph of the run", "../graph.npz")],
    )


def overlap(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " m"], *, bins: int = 60) -> float:
    """Common area of the histograms of two sets of values, in [0, 1]."""
    edges = np.histogram_bin_edges(np.concatenate([first, second]), bins)
    shares = [np.histogram(values, edges)[0] / len(values) for values in (first, second)]
    return float(np.minimum(*shares).sum())
