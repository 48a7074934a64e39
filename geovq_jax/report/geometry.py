"""Part of the report on geometry: how the metric of the decoder differs from a flat one."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import cdist

from geovq_jax import figures, geometry
from geovq_jax.evaluation.statistics import edge_agreement
from geovq_jax.geometry.distances import decode_flat
from geovq_jax.geometry.graphs.embedding import Plane, principal_plane
from geovq_jax.report import findings, interpolation
from geovq_jax.report.interpolation import GRID_POINTS, POINTS, Paths, curves, flat_decoder
from geovq_jax.report.page import ReportFigure, Section, Table
from geovq_jax.stages.run import Run
from geovq_jax.terminal import progress_bar

_ERROR_EDGES = 500
_CENTRES = 64  # nodes among which the nearest is found along the graph and by geodesics


def measure(run: Run) -> dict[str, Any]:
    """Numbers on the graph, its edges and paths, the node metrics and continuous geodesics."""
    stored = run.graph
    edges, lengths = geometry.edges_of(stored.graph)
    euclidean = geometry.straight_lengths(stored.points, edges)
    result = {
        "connectivity": geometry.connectivity(stored.graph)._asdict(),
        "components_before_repair": stored.components_before_repair,
        "edges": edge_agreement(euclidean, lengths)._asdict(),
        "edge_length_ratio_of_means": float(lengths.mean() / euclidean.mean()),
        "paths": _paths(run, edges, euclidean),
        "geodesics": _geodesics(run),
    }
    if run.config.graph.weights == "pullback":
        result["metrics"] = _metrics(run.metrics_at(_sample(stored.points)))
        result["quadrature"] = _quadrature(run, edges, lengths)
    return result


def _paths(run: Run, edges: np.ndarray, euclidean: np.ndarray) -> dict[str, Any]:
    """Shortest paths between random nodes under pull-back and Euclidean lengths of the same edges."""
    graph, points, config, size = run.graph.graph, run.graph.points, run.config, len(run.graph.points)
    straight = geometry.graph_from_edges(edges, euclidean, size)
    rng = np.random.default_rng(config.seed)
    sources = rng.choice(size, min(20, size), replace=False)
    targets = rng.choice(size, min(config.evaluate.geometry_pairs, size), replace=False)
    pullback_paths = geometry.distances_between(graph, sources, targets)
    euclidean_paths = geometry.distances_between(straight, sources, targets)
    direct = np.linalg.norm(points[sources][:, None] - points[targets][None], axis=2)
    apart = (direct > 0) & np.isfinite(pullback_paths)
    return {
        "pairs": int(apart.sum()),
        "pullback_over_euclidean": float(pullback_paths[apart].mean() / euclidean_paths[apart].mean()),
        "euclidean_dilation": float(np.mean(euclidean_paths[apart] / direct[apart])),
    }


def _sample(points: np.ndarray) -> np.ndarray:
    """A subset of the nodes whose metrics hold at most 2^25 numbers."""
    number = min(5000, max(1, 2**25 // points.shape[1] ** 2), len(points))
    return np.linspace(0, len(points) - 1, number).astype(np.int64)


def _metrics(metrics: np.ndarray | None) -> dict[str, float]:
    """Volume density, condition number and effective rank over a sample of the nodes."""
    chosen = jnp.asarray(metrics)
    low, middle, high = np.quantile(np.asarray(geometry.log_volume(chosen)) / np.log(10), [0.05, 0.5, 0.95])
    return {
        "log10_volume_median": float(middle),
        "log10_volume_low": float(low),
        "log10_volume_high": float(high),
        "condition_median": float(np.median(np.asarray(geometry.condition_number(chosen)))),
        "effective_rank_mean": float(np.asarray(geometry.effective_rank(chosen)).mean()),
    }


def _quadrature(run: Run, edges: np.ndarray, lengths: np.ndarray) -> dict[str, float]:
    """Relative difference of the endpoint rule for edges to four Gauss nodes, over a sample of edges."""
    chosen = np.linspace(0, len(edges) - 1, min(_ERROR_EDGES, len(edges))).astype(np.int64)
    latents, decode_fn = run.graph_latents, run.metric_fn
    if latents.ndim == 2:
        fine = geometry.edge_lengths(decode_fn, latents, edges[chosen], rule="gauss")
    else:
        fine = geometry.cell_edge_lengths(
            decode_fn, latents, edges[chosen], rule="gauss", context=run.config.graph.context, batch_size=50
        )
    exact = np.asarray(fine, np.float64)
    relative = np.abs(lengths[chosen] - exact)[exact > 0] / exact[exact > 0]
    median, high = np.median(relative), np.quantile(relative, 0.95)
    return {"relative_error_median": float(median), "relative_error_high": float(high)}


def _pairs(count: int, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pairs of different rows."""
    rng = np.random.default_rng(seed)
    a = rng.integers(count, size=number)
    return a, (a + rng.integers(1, count, size=number)) % count


def _geodesics(run: Run) -> dict[str, Any]:
    """Continuous geodesics between the latents of random pairs of images, against straight lines and graph paths."""
    latents, config, graph = run.graph_latents, run.config, run.graph.graph
    vanilla = latents.ndim == 2
    if config.evaluate.geodesic_pairs == 0:
        return {"pairs": 0}
    a, b = _pairs(len(latents), config.evaluate.geodesic_pairs, config.seed)
    flat = latents.reshape(len(latents), -1)
    along_graph = None
    if vanilla:
        along_graph = np.array([geometry.distances_between(graph, [s], [t])[0, 0] for s, t in zip(a, b, strict=True)])
    with progress_bar("continuous geodesics") as progress:
        found = geometry.length_ratios(
            flat_decoder(run.metric_fn, latents.shape[1:]),
            flat[a],
            flat[b],
            graph_lengths=along_graph,
            num_points=POINTS if vanilla else GRID_POINTS,
            batch_size=min(len(a), 25) if vanilla else 1,
            progress=progress,
        )
    result: dict[str, Any] = {
        "pairs": len(a),
        "straight_over_geodesic": float(np.mean(found.straight_to_geodesic)),
        "converged_fraction": float(np.mean(found.converged)),
    }
    if found.graph_to_geodesic is not None:
        result["graph_over_geodesic"] = float(np.mean(found.graph_to_geodesic))
        result["nearest"] = _nearest(run, np.unique(a)[: min(_CENTRES, len(latents) // 2)])
    return result


def _nearest(run: Run, nodes: np.ndarray) -> dict[str, float]:
    """For other distances: share of nodes whose nearest of `_CENTRES` others agrees with continuous geodesics."""
    latents = run.graph_latents
    others = np.setdiff1d(np.arange(len(latents)), nodes)
    centres = np.random.default_rng(run.config.seed).choice(others, min(_CENTRES, len(others)), replace=False)
    truth = geometry.nearest_geodesic(run.metric_fn, latents[nodes], latents[centres])
    images = [decode_flat(run.metric_fn, latents[rows]) for rows in (nodes, centres)]
    tables = {
        "graph": geometry.distances_between(run.graph.graph, nodes, centres),
        "decoded": cdist(*images),
        "euclidean": cdist(latents[nodes], latents[centres]),
    }
    found = {name: float(np.mean(table.argmin(axis=1) == truth.index)) for name, table in tables.items()}
    return found | {"centres": len(centres), "nodes": len(nodes), "certified": float(truth.certified.mean())}


def section(run: Run, metrics: dict[str, Any], paths: Paths | None, *, with_codes: bool = True) -> Section:
    """Edge lengths, paths between images, and the metric over the latents; `metrics` is that of report/metrics.json."""
    stored, numbers = run.graph, metrics["geometry"]
    edges, lengths = geometry.edges_of(stored.graph)
    scatter = figures.edge_scatter(geometry.straight_lengths(stored.points, edges), lengths)
    pictures = [ReportFigure("Edge lengths.", scatter, "edge_lengths", numbers, findings.metric_spread(metrics))]
    tables = [_table(numbers)]
    if paths is not None:
        pictures.insert(0, interpolation.figure(paths, findings.path_quality(metrics)))
        tables.append(interpolation.table(paths.numbers))
    if stored.metrics is not None and stored.points.shape[1] > 2:
        pictures.append(_volume(stored.points, stored.metrics, numbers["metrics"]))
    if run.latents("train").mean.ndim == 2:
        if numbers["connectivity"]["num_components"] == 1:
            pictures.append(_map(run))
        if with_codes and stored.points.shape[1] == 2:
            pictures += _plane(run)
    return Section(
        "Geometry",
        "Edges of the training graph: length under the metric that the decoder induces against Euclidean length. A "
        "shortest path in image space can be a cross-fade: short, but through unrealistic images. The scores of paths "
        "show whether they stay on the data." + _quality(numbers),
        tables=tables,
        figures=pictures,
    )


def _shares(metrics: dict[str, Any]) -> dict[str, float]:
    """Distance -> share of nodes for which it finds the same nearest node as geodesics; empty for grids."""
    found = metrics["geodesics"].get("nearest", {})
    names = {"graph": "along the graph", "decoded": "decoded distance", "euclidean": "Euclidean"}
    return {words: found[name] for name, words in names.items() if name in found}


def _quality(metrics: dict[str, Any]) -> str:
    """A sentence on how well distances along the graph approximate geodesic distances."""
    if not (shares := _shares(metrics)):
        return ""
    graph, others = shares["along the graph"], max(value for name, value in shares.items() if name != "along the graph")
    excess = 100.0 * (metrics["geodesics"]["graph_over_geodesic"] - 1.0)
    verdict = (
        "worse than a distance that needs no graph" if graph < others else "no worse than distances without a graph"
    )
    return (
        f" Paths of the graph are on average {excess:.0f} % longer than continuous geodesics and find the same nearest "
        f"node in {100.0 * graph:.0f} % of cases: {verdict}."
    )


def _table(metrics: dict[str, Any]) -> Table:
    """Table of the numbers of `measure`."""
    graph, edges, paths, ways = (metrics[part] for part in ("connectivity", "edges", "paths", "geodesics"))
    rows: list[list[Any]] = [
        ["nodes", graph["num_nodes"]],
        ["edges", graph["num_edges"]],
        ["edges per node: minimum", graph["degree_min"]],
        ["edges per node: mean", graph["degree_mean"]],
        ["edges per node: maximum", graph["degree_max"]],
        ["components before repair", metrics["components_before_repair"]],
        ["edges, pull-back against Euclidean: correlation", edges["correlation"]],
        ["edges, pull-back over Euclidean: median", edges["ratio_median"]],
        ["edges, pull-back over Euclidean: ratio of the means", metrics["edge_length_ratio_of_means"]],
        [f"paths, pull-back over Euclidean ({paths['pairs']:,} pairs)", paths["pullback_over_euclidean"]],
        ["paths, Euclidean length over distance: mean", paths["euclidean_dilation"]],
    ]
    if "metrics" in metrics:
        node, error = metrics["metrics"], metrics["quadrature"]
        rows += [
            ["volume density, log10: median", node["log10_volume_median"]],
            ["condition number of the metric: median", node["condition_median"]],
            ["effective rank of the metric: mean", node["effective_rank_mean"]],
            ["error of the endpoint rule for edges [%]: median", 100.0 * error["relative_error_median"]],
            ["error of the endpoint rule for edges [%]: 95 %", 100.0 * error["relative_error_high"]],
        ]
    if ways["pairs"]:
        rows.append([f"straight line over geodesic: mean ({ways['pairs']} pairs)", ways["straight_over_geodesic"]])
    if "graph_over_geodesic" in ways:
        rows.append(["graph path over geodesic: mean", ways["graph_over_geodesic"]])
    for name, value in _shares(metrics).items():
        rows.append([f"nearest of {ways['nearest']['centres']} nodes as by geodesics [%]: {name}", 100.0 * value])
    return Table("Graph, edges, paths and metric", ["quantity", "value"], rows, mixed=True)


def _volume(points: np.ndarray, metrics: np.ndarray, numbers: dict[str, float]) -> ReportFigure:
    """Nodes in the plane of their first two principal components, coloured by the volume density of the metric."""
    chosen = np.linspace(0, len(points) - 1, min(5000, len(points))).astype(np.int64)
    density = np.asarray(geometry.log_volume(jnp.asarray(metrics[chosen])), np.float64) / np.log(10)
    # A few blank cells would otherwise dominate the colour scale.
    density = np.clip(density, *np.quantile(density, [0.01, 0.99]))
    label = "log10 of the volume density, 1 % to 99 %"
    figure = figures.latent_map(points[chosen], values=density, value_label=label, plane=principal_plane(points))
    spread = numbers["log10_volume_high"] - numbers["log10_volume_low"]
    finding = f"It spans {spread:.1f} orders of magnitude between the 5 % and 95 % quantiles."
    return ReportFigure(
        "Training nodes by the volume density of the metric.", figure, "latents_by_volume", None, finding
    )


def _map(run: Run) -> ReportFigure:
    """Nodes laid out by their distances along the graph, coloured by class."""
    graph, labels = run.graph.graph, run.graph_labels
    found = geometry.geodesic_map(graph, seed=run.config.seed)
    chosen = np.linspace(0, graph.shape[0] - 1, min(5000, graph.shape[0])).astype(np.int64)
    plane = Plane(np.zeros(2), np.eye(2), found.explained)
    figure = figures.latent_map(
        found.points[chosen],
        classes=labels[chosen],
        class_names=run.class_names,
        plane=plane,
        axis="geodesic axis",
    )
    words = "Training nodes laid out by their distances along the graph (landmark Isomap)."
    finding = f"The two axes explain {100 * sum(found.explained[:2]):.0f} % of the variance of these distances."
    return ReportFigure(words, figure, "geodesic_map", None, finding)


def _plane(run: Run) -> list[ReportFigure]:
    """Metric ellipses, volume density with geodesics and straight lines, and the cells of the codebook, in 2-D."""
    latents, decode_fn, labels = run.graph_latents, run.metric_fn, run.graph_labels
    low, high = np.quantile(latents, 0.005, axis=0), np.quantile(latents, 0.995, axis=0)

    def lattice(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, y = (np.linspace(low[axis], high[axis], side).astype(np.float32) for axis in (0, 1))
        return x, y, np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)

    coarse = lattice(15)[2]
    tensors = np.asarray(geometry.node_metrics(decode_fn, coarse))
    ellipses = figures.metric_ellipses(coarse, tensors, latents=latents, classes=labels)
    x, y, fine = lattice(80)
    volume = np.asarray(geometry.volume(geometry.node_metrics(decode_fn, fine))).reshape(80, 80)
    a, b = _pairs(len(latents), 1, run.config.seed + 3)
    ways = curves(run, int(a[0]), int(b[0]))
    volumes = figures.volume_map(x, y, np.maximum(volume, 1e-12), latents=latents, curves=ways)
    cells = figures.voronoi_map(latents, run.codes("train").codes[run.graph.rows], run.codebook.vectors)
    ratio = float(np.median(np.asarray(geometry.condition_number(jnp.asarray(tensors))))) ** 0.5
    span = float(np.ptp(np.log10(np.maximum(volume, 1e-12))))
    used = len(np.unique(run.codes("train").codes[run.graph.rows]))
    return [
        ReportFigure(
            "Ellipses of equal pull-back length.",
            ellipses,
            "metric_ellipses",
            finding=f"The median ratio of the longer to the shorter axis is {ratio:.3g}.",
        ),
        ReportFigure(
            "Volume density and paths between two latents.",
            volumes,
            "volume_map",
            finding=f"The density spans {span:.1f} orders of magnitude over the map.",
        ),
        ReportFigure(
            "Cells of the codebook.",
            cells,
            "voronoi_map",
            finding=f"{used} of {len(run.codebook.vectors)} codes have a cell.",
        ),
    ]
