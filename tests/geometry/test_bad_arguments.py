"""Arguments of the wrong form: every public function refuses each of them in one line that says what to do.

A table of functions with sound arguments, and of values that no argument of a kind may have.
"""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax import geometry
from geovq_jax.geometry.graphs.construction import subset_lengths
from geovq_jax.geometry.graphs.knn import Neighbours, rerank
from geovq_jax.geometry.graphs.relaxation import pad_graph
from geovq_jax.quantization import assign_pullback, baselines, codebook, context, pullback_kmeans, refinement, tokenizer

pytestmark = pytest.mark.usefixtures("unchecked")
RNG = np.random.default_rng(0)
Z = RNG.normal(size=(6, 2)).astype(np.float32)
GRIDS = Z.reshape(3, 2, 1, 2)
EYES = np.tile(np.eye(2, dtype=np.float32), (6, 1, 1))
EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]])
GRAPH = geometry.graph_from_edges(EDGES, np.ones(5), 6)
PADDED = pad_graph(GRAPH)
LABELS = np.array([0, 1, 0, 1, 0, 1])
BOOK = codebook.Codebook(Z[:2], np.zeros(2, int), np.zeros(2, int), np.zeros(2), {})
NODES = tokenizer.Tokenizer(Z, EYES, LABELS.astype(np.int32), np.zeros(6))
PLAIN = NODES._replace(metrics=None)
KMEANS = baselines.Baseline(Z[:2], np.eye(2, dtype=np.float32))
CODES = LABELS.reshape(3, 2, 1).astype(np.int32)


def image(z):
    return jnp.sin(z)


def with_entry(array, value):
    changed = np.array(array, np.float64 if np.abs(value) > 1e38 else array.dtype)
    changed.reshape(-1)[-1] = value
    return changed


def one_row(array):
    return array[None]


def one_axis_more(array):
    return array[..., None]


NOT_ARRAYS = [None, "text", {}, [[1.0], [2.0, 3.0]]]
NOT_REAL = [
    lambda a: a.astype(complex),
    lambda a: a.astype(int),
    lambda a: a > 0,
    lambda a: a.astype(str),
    lambda a: a.astype(object),
]
KINDS = {
    # kind: values that are refused, as functions of the sound one
    "array": [
        *(lambda a, x=x: x for x in NOT_ARRAYS),
        *NOT_REAL,
        one_row,
        one_axis_more,
        lambda a: a[..., :0],
        lambda a: a[0],
        lambda a: a.tolist(),
        *(lambda a, x=x: with_entry(a, x) for x in (np.nan, np.inf, -np.inf, 1e200)),
    ],
    "lengths": [
        *(lambda a, x=x: x for x in NOT_ARRAYS),
        lambda a: a.astype(complex),
        lambda a: a.astype(str),
        one_row,
        lambda a: np.concatenate([a, a]),
        lambda a: a[:-1],
        *(lambda a, x=x: with_entry(a, x) for x in (np.nan, -1.0, -np.inf, 1e200)),
    ],
    "ids": [
        *(lambda a, x=x: x for x in NOT_ARRAYS),
        lambda a: a + 0.9,
        lambda a: a.astype(float),
        lambda a: a > 0,
        lambda a: a.astype(str),
        lambda a: a.astype(complex),
        one_row,
        lambda a: with_entry(a, -1),
        lambda a: with_entry(a, 99),
    ],
    "count": [lambda a, x=x: x for x in (None, "3", 1.5, 2.0, 0, -1, True, 3j, [2], np.float32(2), float("nan"))],
    "number": [lambda a, x=x: x for x in (None, "3", -1.0, 1j, float("nan"), [1.0], True)],
    "name": [lambda a, x=x: x for x in (None, "cuda", 1, ["euclidean"], b"euclidean")],
}
KINDS["node"] = [lambda a, x=x: x for x in (None, "3", 1.5, -1, 99, 1j, [2], [[1], [2, 3]])]
KINDS["count or 0"] = [bad for bad in KINDS["count"] if bad(1) != 0]
KINDS["flat or shaped array"] = [bad for bad in KINDS["array"] if bad is not one_axis_more]
KINDS["ids of any shape"] = [bad for bad in KINDS["ids"] if bad is not one_row]
KINDS |= {
    f"{kind} or None": [bad for bad in KINDS[kind] if bad(Z) is not None]
    for kind in ("array", "ids", "count", "lengths")
}

# name: (function, sound arguments, kind of each argument that is checked)
DOORS = {
    "unique_edges": (
        geometry.unique_edges,
        {"neighbours": np.array([[1], [0], [1]]), "symmetry": "union"},
        {"neighbours": "ids", "symmetry": "name"},
    ),
    "graph_from_edges": (
        geometry.graph_from_edges,
        {"edges": EDGES, "lengths": np.ones(5), "num_nodes": 6},
        {"edges": "ids", "lengths": "lengths", "num_nodes": "count"},
    ),
    "add_edges": (
        geometry.add_edges,
        {"graph": GRAPH, "edges": EDGES, "lengths": np.ones(5)},
        {"edges": "ids", "lengths": "lengths"},
    ),
    "knn": (
        geometry.knn,
        {"points": Z, "k": 2, "backend": "kdtree", "metric": "euclidean"},
        {"points": "array", "k": "count", "backend": "name", "metric": "name"},
    ),
    "knn of queries": (
        geometry.knn,
        {"points": Z, "k": 2, "queries": Z[:3]},
        {"points": "array", "queries": "array or None"},
    ),
    "knn of rows": (geometry.knn, {"points": Z, "k": 2, "rows": np.arange(3)}, {"rows": "ids or None"}),
    "knn_graph": (
        geometry.knn_graph,
        {"points": Z, "k": 2, "symmetry": "union", "metric": "euclidean", "backend": "jax", "weights": "distance"},
        {"points": "array", "k": "count", "symmetry": "name", "metric": "name", "backend": "name", "weights": "name"},
    ),
    "knn_graph of a decoder": (
        geometry.knn_graph,
        {"points": Z, "k": 2, "decode_fn": image, "rule": "chord", "max_edges": 5},
        {"rule": "name", "max_edges": "count or None"},
    ),
    "bridges": (geometry.bridges, {"points": Z, "graph": GRAPH}, {"points": "array"}),
    "rerank": (
        lambda k, lengths: rerank(Neighbours(PADDED.neighbours, PADDED.lengths), k, lambda edges: lengths),
        {"k": 1, "lengths": np.ones(PADDED.neighbours.size)},
        {"k": "count", "lengths": "lengths"},
    ),
    "subset_lengths": (
        lambda lengths: subset_lengths(EDGES, np.ones(5), lambda edges: lengths, None),
        {"lengths": np.ones(5)},
        {"lengths": "lengths"},
    ),
    "dijkstra": (
        geometry.dijkstra,
        {"graph": GRAPH, "sources": LABELS, "limit": 2.0},
        {"sources": "ids", "limit": "number"},
    ),
    "nearest_source": (
        geometry.nearest_source,
        {"graph": GRAPH, "sources": LABELS, "limit": 2.0},
        {"sources": "ids", "limit": "number"},
    ),
    "shortest_path": (
        geometry.shortest_path,
        {"graph": GRAPH, "a": 0, "b": np.int64(5)},
        {"a": "node", "b": "node"},
    ),
    "distances_between": (
        geometry.distances_between,
        {"graph": GRAPH, "sources": LABELS, "targets": LABELS, "batch_size": 2},
        {"sources": "ids", "targets": "ids", "batch_size": "count"},
    ),
    "relax": (
        geometry.relax,
        PADDED._asdict() | {"sources": LABELS, "batch_size": 2},
        {
            "neighbours": "ids",
            "lengths": "lengths",
            "sources": "ids",
            "num_nodes": "count or None",
            "batch_size": "count",
        },
    ),
    "relax_nearest": (
        geometry.relax_nearest,
        PADDED._asdict() | {"sources": LABELS},
        {"neighbours": "ids", "lengths": "lengths", "sources": "ids", "num_nodes": "count or None"},
    ),
    "geodesic_map": (
        geometry.geodesic_map,
        {"graph": GRAPH, "seed": 0, "num_dimensions": 2, "num_landmarks": 4},
        {"num_dimensions": "count", "num_landmarks": "count"},
    ),
    "edge_lengths": (
        geometry.edge_lengths,
        {"decode_fn": image, "z": Z, "edges": EDGES, "rule": "gauss", "order": 2},
        {"z": "array", "edges": "ids", "rule": "name", "order": "count"},
    ),
    "cell_edge_lengths": (
        geometry.cell_edge_lengths,
        {"decode_fn": image, "grids": GRIDS, "edges": EDGES, "rule": "chord", "context": "own"},
        {"grids": "array", "edges": "ids", "rule": "name", "context": "name"},
    ),
    "cell_metrics": (
        geometry.cell_metrics,
        {"decode_fn": image, "grids": GRIDS, "context": "isolated"},
        {"grids": "array", "context": "name"},
    ),
    "node_metrics": (geometry.node_metrics, {"decode_fn": image, "z": Z}, {"z": "array"}),
    "node_speeds": (
        geometry.node_speeds,
        {"decode_fn": image, "z": Z, "vectors": np.ones((6, 3, 2), np.float32)},
        {"z": "array", "vectors": "array"},
    ),
    "lengths_from_metrics": (
        geometry.lengths_from_metrics,
        {"points": Z, "metrics": EYES, "edges": EDGES, "batch_size": 3},
        {"points": "array", "metrics": "array", "edges": "ids", "batch_size": "count"},
    ),
    "geodesic": (
        geometry.geodesic,
        {
            "decode_fn": image,
            "a": Z[0],
            "b": Z[1],
            "num_points": 4,
            "initial": Z[:3],
            "tolerance": 0.1,
            "max_iterations": 1,
        },
        {
            "a": "array",
            "b": "array",
            "num_points": "count",
            "initial": "array or None",
            "tolerance": "number",
            "max_iterations": "count or 0",
        },
    ),
    "geodesics": (
        geometry.geodesics,
        {"decode_fn": image, "a": Z[:2], "b": Z[2:4], "num_points": 4, "tolerance": 0.1, "max_iterations": 1},
        {"a": "array", "b": "array", "num_points": "count", "tolerance": "number", "max_iterations": "count or 0"},
    ),
    "length_ratios": (
        geometry.length_ratios,
        {"decode_fn": image, "a": Z[:2], "b": Z[2:4], "num_points": 4, "graph_lengths": np.ones(2)},
        {"a": "array", "b": "array", "num_points": "count", "graph_lengths": "lengths or None"},
    ),
    "exp_map": (
        geometry.exp_map,
        {"decode_fn": image, "z": Z[0], "v": Z[1], "num_steps": 2},
        {"z": "array", "v": "array", "num_steps": "count"},
    ),
    "log_map": (
        geometry.log_map,
        {"decode_fn": image, "a": Z[0], "b": Z[1], "num_points": 4},
        {"a": "array", "b": "array", "num_points": "count"},
    ),
    "refine_centres": (
        refinement.refine_centres,
        {
            "decode_fn": image,
            "centres": Z[:2],
            "latents": Z,
            "labels": LABELS,
            "assignment": "given",
            "max_iterations": 1,
        },
        {
            "centres": "array",
            "latents": "array",
            "labels": "ids",
            "assignment": "name",
            "max_iterations": "count or 0",
        },
    ),
    "refine_cell_centres": (
        refinement.refine_cell_centres,
        {
            "decode_fn": image,
            "centres": Z[:2],
            "grids": GRIDS,
            "labels": CODES,
            "max_iterations": 1,
            "tolerance": 0.1,
            "batch_size": 2,
        },
        {
            "centres": "array",
            "grids": "array",
            "labels": "ids",
            "max_iterations": "count or 0",
            "tolerance": "number",
            "batch_size": "count",
        },
    ),
    "assign_pullback": (
        assign_pullback,
        {"latents": Z, "metrics": EYES, "centres": Z[:2]},
        {"latents": "array", "metrics": "array", "centres": "array"},
    ),
    "pullback_kmeans": (
        pullback_kmeans,
        {"latents": Z, "metrics": EYES, "centres": Z[:2], "max_iterations": 1, "tolerance": 0.1},
        {
            "latents": "array",
            "metrics": "array",
            "centres": "array",
            "max_iterations": "count or 0",
            "tolerance": "number",
        },
    ),
    "kmeans": (
        baselines.kmeans,
        {"latents": Z, "num_clusters": 2, "seed": 0},
        {"latents": "array", "num_clusters": "count"},
    ),
    "kmedoids": (
        baselines.kmedoids,
        {"latents": Z, "num_clusters": 2, "seed": 0},
        {"latents": "array", "num_clusters": "count"},
    ),
    "mahalanobis": (
        baselines.mahalanobis,
        {"latents": Z, "metric": EYES[0], "num_clusters": 2, "seed": 0},
        {"latents": "array", "metric": "array", "num_clusters": "count"},
    ),
    "decoded_kmeans": (
        baselines.decoded_kmeans,
        {"decode_fn": image, "latents": Z, "num_clusters": 2, "seed": 0},
        {"latents": "array", "num_clusters": "count"},
    ),
    "encode_decoded": (
        baselines.encode_decoded,
        {"decode_fn": image, "vectors": Z[:2], "images": Z},
        {"vectors": "array", "images": "flat or shaped array"},
    ),
    "gaussian": (
        baselines.gaussian,
        {"latents": Z, "num_clusters": 2, "seed": 0},
        {"latents": "array", "num_clusters": "count"},
    ),
    "scalar": (
        lambda latents, levels: baselines.scalar(latents, (levels,)),
        {"latents": Z, "levels": 2},
        {"latents": "array", "levels": "count"},
    ),
    "scalar_levels": (
        baselines.scalar_levels,
        {"num_codes": 8, "dimensions": 2},
        {"num_codes": "count", "dimensions": "count"},
    ),
    "encode of a baseline": (baselines.encode, {"baseline": KMEANS, "latents": Z}, {"latents": "array"}),
    "encode": (
        tokenizer.encode,
        {"tokenizer": NODES, "latents": Z, "decode_fn": image, "k": 2, "batch_size": 4},
        {"latents": "array", "k": "count", "batch_size": "count"},
    ),
    "encode grids": (
        tokenizer.encode,
        {"tokenizer": NODES, "latents": GRIDS, "decode_fn": image, "k": 2, "context": "isolated"},
        {"latents": "array", "context": "name"},
    ),
    "encode without a decoder": (
        tokenizer.encode,
        {"tokenizer": PLAIN, "latents": Z, "k": 2},
        {"latents": "array", "k": "count"},
    ),
    "encode_measured": (
        tokenizer.encode_measured,
        {"tokenizer": NODES, "latents": Z, "metrics": EYES, "k": 2},
        {"latents": "array", "metrics": "array", "k": "count"},
    ),
    "nodes of a tokenizer": (
        lambda **nodes: tokenizer.encode_measured(tokenizer.Tokenizer(**nodes), Z, EYES, k=2),
        NODES._asdict(),
        {"points": "array", "metrics": "array", "labels": "ids", "distances": "lengths"},
    ),
    "lookup": (codebook.lookup, {"codebook": BOOK, "codes": LABELS}, {"codes": "ids of any shape"}),
    "encode_in_context": (
        context.encode_in_context,
        {
            "decode_fn": image,
            "vectors": Z[:2],
            "codes": CODES,
            "metrics": EYES.reshape(3, 2, 1, 2, 2),
            "targets": GRIDS,
            "sweeps": 1,
            "batch_size": 2,
        },
        {
            "vectors": "array",
            "codes": "ids",
            "metrics": "array",
            "targets": "array",
            "sweeps": "count or 0",
            "batch_size": "count",
        },
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_argument_of_the_wrong_form_is_refused_in_one_line(door):
    function, sound, kinds = DOORS[door]
    function(**sound)
    for argument, kind in kinds.items():
        for place, change in enumerate(KINDS[kind]):
            value = change(sound[argument])
            try:
                function(**(sound | {argument: value}))
            except (ValueError, TypeError) as error:
                message = str(error)
            else:
                message = f"{value!r} was accepted"
            assert re.fullmatch(r"expected [^\n]*, got [^\n]*; [^\n]+", message), (argument, place, message)
