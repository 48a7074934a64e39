"""What is no graph is refused in one line at every door; what is one passes, whatever its shape."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from geovq_jax import geometry
from geovq_jax.geometry.graphs.graph import check_graph

NODES = np.array([0, 2])
DOORS = {
    "bridges": lambda graph: raw(geometry.bridges)(np.random.default_rng(0).normal(size=(graph.shape[0], 2)), graph),
    "connectivity": lambda graph: raw(geometry.connectivity)(graph),
    "dijkstra": lambda graph: raw(geometry.dijkstra)(graph, NODES),
    "distances_between": lambda graph: raw(geometry.distances_between)(graph, NODES, NODES),
    "edges_of": lambda graph: raw(geometry.edges_of)(graph),
    "add_edges": lambda graph: raw(geometry.add_edges)(graph, np.array([[0, 1]]), np.ones(1)),
    "kmedoids": lambda graph: raw(geometry.kmedoids)(graph, 2, seed=0),
    "nearest_source": lambda graph: raw(geometry.nearest_source)(graph, NODES),
    "pad_graph": lambda graph: raw(geometry.pad_graph)(graph),
    "geodesic_map": lambda graph: raw(geometry.geodesic_map)(graph, seed=0),
    "shortest_path": lambda graph: raw(geometry.shortest_path)(graph, 0, 1),
}
PATH = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 2.0], [0.0, 2.0, 0.0]])


def raw(function):
    """As users call it: without the run-time type checks of the tests."""
    return inspect.unwrap(function)


def csr(data, indices, indptr):
    return sparse.csr_array((np.asarray(data), np.asarray(indices), np.asarray(indptr)), shape=(3, 3))


def with_value(value):
    return csr([1.0, 1.0, value, value], [1, 0, 2, 1], [0, 1, 3, 4])


BAD = {
    "dense": PATH,
    "matrix": np.asmatrix(PATH),
    "list": sparse.lil_array(PATH),
    "coo": sparse.coo_array(PATH),
    "csc": sparse.csc_array(PATH),
    "negative": with_value(-1.0),
    "nan": with_value(np.nan),
    "infinite": with_value(np.inf),
    "complex": with_value(1j),
    "bool": sparse.csr_array(PATH > 0),
    "wide": sparse.csr_array(np.ones((3, 4))),
    "empty": sparse.csr_array((0, 0)),
    "no columns": sparse.csr_array((3, 0)),
    "one direction": csr([1.0, 1.0, 2.0], [1, 0, 2], [0, 1, 3, 3]),
    "two lengths": csr([1.0, 1.0, 2.0, 3.0], [1, 0, 2, 1], [0, 1, 3, 4]),
    "zero one way": csr([1.0, 1.0, 0.0], [1, 0, 2], [0, 1, 3, 3]),
    "self-loop": sparse.csr_array(PATH + np.eye(3)),
    "zero self-loop": csr([0.0], [0], [0, 1, 1, 1]),
    "twice": csr([1.0, 4.0, 1.0, 4.0], [1, 1, 0, 0], [0, 2, 4, 4]),
    "twice, apart": csr([1.0, 5.0, 4.0, 1.0, 4.0, 5.0], [1, 2, 1, 0, 0, 0], [0, 3, 5, 6]),
}


def corrupted(**parts):
    """A path of three nodes whose arrays were replaced: SciPy looks at them only when it builds a matrix."""
    graph = sparse.csr_array(PATH)
    for name, part in parts.items():
        setattr(graph, name, part)
    return graph


# Each of these reads memory outside of the arrays, or raises from inside SciPy or Numba, where it is not refused.
CORRUPT = {
    "indptr too short": corrupted(indptr=np.array([0, 1, 4], np.int32)),
    "indptr too long": corrupted(indptr=np.array([0, 1, 3, 4, 4], np.int32)),
    "indptr beyond the end": corrupted(indptr=np.array([0, 1, 3, 4_000_000], np.int32)),
    "indptr within": corrupted(indptr=np.array([0, 1, 2, 3], np.int32)),
    "indptr falls": corrupted(indptr=np.array([0, 3, 1, 4], np.int32)),
    "indptr falls far": corrupted(indptr=np.array([0, 4_000_000, 3, 4], np.int32)),
    "indptr from one": corrupted(indptr=np.array([1, 1, 3, 4], np.int32)),
    "indptr negative": corrupted(indptr=np.array([-4, 1, 3, 4], np.int32)),
    "indptr of floats": corrupted(indptr=np.array([0.0, 1.0, 3.0, 4.0])),
    "indptr as a matrix": corrupted(indptr=np.array([[0, 1, 3, 4]], np.int32)),
    "indptr as a list": corrupted(indptr=[0, 1, 3, 4]),
    "no indptr": corrupted(indptr=None),
    "index beyond the end": corrupted(indices=np.array([1, 0, 2_000_000_000, 1], np.int32)),
    "index of no node": corrupted(indices=np.array([1, 0, 3, 1], np.int32)),
    "index negative": corrupted(indices=np.array([1, 0, -1, 1], np.int32)),
    "indices of floats": corrupted(indices=np.array([1.0, 0.0, 2.0, 1.0])),
    "indices of objects": corrupted(indices=np.array([1, 0, 2, 1], object)),
    "indices of bytes": corrupted(indices=np.array([1, 0, 2, 1], np.int8)),
    "indices too few": corrupted(indices=np.array([1, 0, 2], np.int32)),
    "indices too many": corrupted(indices=np.array([1, 0, 2, 1, 0], np.int32)),
    "no indices": corrupted(indices=None),
    "lengths too few": corrupted(data=np.ones(3)),
    "lengths too many": corrupted(data=np.ones(5)),
    "lengths as a matrix": corrupted(data=np.ones((4, 1))),
    "lengths as text": corrupted(data=np.array(["1", "1", "2", "2"])),
    "lengths of half precision": corrupted(data=np.ones(4, np.float16)),
    "no lengths": corrupted(data=None),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_what_is_no_graph(door, unchecked):
    for graph in (BAD | CORRUPT).values():
        with pytest.raises(ValueError, match=r"^expected [^\n]*, got [^\n]*; [^\n]*$"):
            DOORS[door](graph)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 12), st.floats(0, 1), st.booleans())
def test_every_symmetric_graph_passes_and_no_change_of_one_entry_does(seed, n, density, sort):
    """Disconnected, without edges, with lengths of zero, with lists of neighbours in any order."""
    rng = np.random.default_rng(seed)
    lengths = np.triu(rng.integers(0, 3, (n, n)).astype(float), 1)
    there = np.triu(rng.random((n, n)) < density, 1)
    there, lengths = there | there.T, lengths + lengths.T
    rows, columns = np.nonzero(there)
    order = np.lexsort((columns if sort else rng.random(len(rows)), rows))
    indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    graph = sparse.csr_array((lengths[rows, columns][order], columns[order], indptr), shape=(n, n))
    check_graph(graph)
    assert geometry.connectivity(graph).num_edges == there.sum() // 2
    for entry in range(graph.nnz):
        changed = graph.copy()
        changed.data[entry] += 0.5
        with pytest.raises(ValueError, match="expected a symmetric graph"):
            check_graph(changed)


@pytest.mark.parametrize("door", sorted(DOORS.keys() - {"shortest_path", "geodesic_map"}))
def test_a_graph_in_parts_passes_every_other_door(door):
    graph = geometry.graph_from_edges(np.array([[0, 1], [2, 3]]), np.array([1.0, 0.0]), 4)
    DOORS[door](graph)
    DOORS[door](sparse.csr_matrix(graph))


def test_no_path_between_parts_is_told():
    graph = geometry.graph_from_edges(np.array([[0, 2]]), np.ones(1), 3)
    with pytest.raises(ValueError, match="expected connected nodes, got 0 and 1 in different components"):
        geometry.shortest_path(graph, 0, 1)
