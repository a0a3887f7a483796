import itertools
import warnings

import networkx as nx
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import layer_graphs, topologies
from topokit.foreign import ReadingNote
from topokit.graph import LayerGraph, same_edges
from topokit.graph.convert import (
    as_graph,
    as_topology,
    channel_graph,
    from_dense,
    from_networkx,
    from_scipy,
    load_topology,
    save_topology,
    to_networkx,
    unrolled_graph,
)


@given(layer_graphs())
def test_scipy_dense_and_networkx_round_trips(graph):
    assert same_edges(from_scipy(graph.to_csr()), graph)
    assert same_edges(from_scipy(sp.csc_matrix(graph.to_csr())), graph)
    assert same_edges(from_dense(graph.to_csr().toarray()), graph)
    assert same_edges(from_networkx(to_networkx(graph)), graph)


def test_explicit_zeros_are_edges():
    assert from_scipy(sp.csr_array(([0.0], [1], [0, 1]), shape=(1, 2))).n_edges == 1


@given(topologies())
def test_npz_round_trip(topology):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "topology.npz"
        save_topology(path, topology)
        loaded = load_topology(path)
        assert list(loaded) == list(topology)
        assert all(same_edges(loaded[name], topology[name]) for name in topology)
        assert [p.name for p in Path(folder).iterdir()] == ["topology.npz"]


@given(topologies())
def test_networkx_graph_of_a_network_has_all_edges_and_is_bipartite(topology):
    graph = to_networkx(topology)
    assert graph.number_of_edges() == sum(layer.n_edges for layer in topology.values())
    assert nx.is_bipartite(graph)


@given(layer_graphs(), st.integers(1, 4))
def test_channel_graph_undoes_unrolled_graph(graph, cells):
    assert same_edges(channel_graph(unrolled_graph(graph, cells), cells), graph)


def test_bad_inputs_are_named(tmp_path):
    with pytest.raises(TypeError, match="scipy sparse"):
        from_scipy(np.eye(2))
    with pytest.raises(ValueError, match="bipartite=0"):
        from_networkx(nx.path_graph(3))
    graph = nx.Graph([(0, 1)])
    nx.set_node_attributes(graph, 0, "bipartite")
    with pytest.raises(ValueError, match="within one"):
        from_networkx(graph)
    with pytest.raises(ValueError, match="dividing 4"):
        channel_graph(LayerGraph.from_edge_ids([], (1, 4)), 3)
    with pytest.raises(FileNotFoundError, match="found nothing"):
        load_topology(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK nonsense")
    with pytest.raises(ValueError, match="expected a topology written by topokit"):
        load_topology(tmp_path / "bad.npz")
    np.savez(tmp_path / "object.npz", format=np.array({"a": 1}, dtype=object))
    with pytest.raises(ValueError, match="expected a topology written by topokit"):
        load_topology(tmp_path / "object.npz")


@pytest.mark.parametrize("key", ["bipartite", "type", "layer"])
def test_defaults_of_a_graphml_file_that_networkx_has_read_apply(key):
    graph = nx.Graph([("a", "c"), ("b", "c")])
    graph.nodes["c"][key] = 1
    with pytest.raises(ValueError, match="expected the node attribute"):
        from_networkx(graph)
    graph.graph["node_default"] = {key: 0}
    assert from_networkx(graph) == LayerGraph.from_edge_ids([0, 1], (1, 2))


@pytest.mark.parametrize("widths", [(9, 7, 5, 4), (4, 4, 6), (5, 8, 8)])
def test_matrices_that_follow_each_other_with_inputs_as_rows_are_noted(rng, widths):
    shapes = list(itertools.pairwise(widths))
    turned = {f"w{i}": sp.csr_array(rng.random(shape) < 0.5) for i, shape in enumerate(shapes)}
    straight = {name: sp.csr_array(matrix.T) for name, matrix in turned.items()}
    with pytest.warns(ReadingNote, match="transpose the matrices if rows are inputs"):
        assert as_topology(turned)["w0"].shape == shapes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert as_topology(straight)["w0"].shape == shapes[0][::-1]
        as_topology({"w0": turned["w0"]})


@pytest.mark.parametrize(("n_in", "n_out"), [(7, 4), (3, 9), (5, 5)])
def test_adjacency_matrices_of_whole_bipartite_graphs_are_noted(rng, tmp_path, n_in, n_out):
    layer = rng.random((n_out, n_in)) < 0.5
    layer[0, -1] = layer[-1, 0] = True  # the last inputs and first outputs have edges
    whole = np.block([[np.zeros((n_in, n_in)), layer.T], [layer, np.zeros((n_out, n_out))]])
    first = from_networkx(to_networkx(from_dense(layer)))
    assert first == from_dense(whole[n_in:, :n_in])
    np.save(tmp_path / "a.npy", whole)
    np.savez(tmp_path / "b.npz", fc1=whole)
    sp.save_npz(tmp_path / "c.npz", sp.csr_array(whole))
    scipy.io.mmwrite(tmp_path / "d.mtx", sp.coo_array(whole))
    paths = [tmp_path / name for name in ("a.npy", "b.npz", "c.npz", "d.mtx")]
    words = rf"whole bipartite graph.*matrix\[{n_in}:, :{n_in}\] if the inputs"
    for make in (from_dense, from_scipy, as_topology, as_graph):
        with pytest.warns(ReadingNote, match=words):
            make(whole if make is from_dense else sp.csr_array(whole))
    with pytest.warns(ReadingNote, match=words):
        as_topology({"fc1": sp.csr_array(whole)})
    for path in paths:
        with pytest.warns(ReadingNote, match=words):
            as_topology(path)


def test_square_layers_with_symmetric_edges_are_not_taken_for_adjacency_matrices():
    n = 8
    ring = np.roll(np.eye(n), 1, axis=0)
    halves = np.kron([[0, 1], [1, 0]], np.triu(np.ones((4, 4))))  # not symmetric
    for mask in (np.eye(n), ring + ring.T, np.ones((n, n)), np.zeros((n, n)), halves, ring):
        from_dense(mask)
        as_graph(sp.csr_array(mask))
