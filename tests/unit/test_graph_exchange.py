import re
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given

import topokit as tk
from tests.strategies import layer_graphs, topologies
from topokit.graph import LayerGraph
from topokit.graph.convert import as_topology

igraph = pytest.importorskip("igraph")
rustworkx = pytest.importorskip("rustworkx")
NETWORK = tk.generate([6, 5, 4], "erdos_renyi", density=0.5, rng=0)
WAYS = {
    "networkx": (tk.to_networkx, as_topology),
    "igraph": (tk.to_igraph, as_topology),
    "rustworkx": (tk.to_rustworkx, as_topology),
    "arrays": (tk.to_network_index, lambda parts: tk.from_network_index(*parts)),
    "tensors": (
        lambda topology: [torch.from_numpy(part) for part in tk.to_network_index(topology)],
        lambda parts: tk.from_network_index(parts[0].flip(0), parts[1].int()),
    ),
}


@pytest.mark.parametrize("way", WAYS)
@given(topology=topologies())
def test_networks_come_back_as_their_layers(way, topology):
    there, back = WAYS[way]
    found = back(there(topology))
    assert list(found.values()) == list(topology.values())
    if way not in ("arrays", "tensors") or len(topology) > 1:
        assert list(found) == list(topology)


@given(graph=layer_graphs(min_side=1))
def test_single_layers_come_back(graph):
    assert tk.from_igraph(tk.to_igraph(graph)) == graph
    assert tk.from_rustworkx(tk.to_rustworkx(graph)) == graph
    assert tk.from_edge_index(tk.to_edge_index(graph), (graph.n_in, graph.n_out)) == graph


@given(topology=topologies())
def test_files_written_and_read_by_others(topology, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    nx.write_gexf(tk.to_networkx(topology), folder / "n.gexf")
    nx.write_graphml(tk.to_networkx(topology), folder / "n.graphml")
    tk.to_igraph(topology).write_graphml(str(folder / "i.graphml"))
    for path in sorted(folder.iterdir()):
        assert as_topology(path) == topology
    tk.save_topology(folder / "t.graphml", topology)
    tk.save_topology(folder / "t.gexf", topology)
    read = [igraph.Graph.Read_GraphML(str(folder / "t.graphml"))]
    read.append(nx.read_graphml(folder / "t.graphml"))
    read.append(nx.read_gexf(folder / "t.gexf"))
    read += rustworkx.read_graphml(str(folder / "t.graphml"))
    for graph in read:
        assert as_topology(graph) == topology


def test_igraph_says_the_side_by_type():
    graph = tk.to_igraph(NETWORK["fc1"])
    assert graph.is_bipartite(return_types=True) == (True, graph.vs["type"])
    found = tk.from_igraph(igraph.Graph.Full_Bipartite(3, 2, directed=True))
    assert found == LayerGraph.from_edge_ids(range(6), (2, 3))
    with pytest.raises(ValueError, match="expected the node attribute bipartite=0"):
        tk.from_igraph(igraph.Graph.Full(3))
    with pytest.raises(ValueError, match="within one"):
        tk.from_igraph(igraph.Graph([(0, 1)], vertex_attrs={"type": [True, True]}))


def test_nodes_may_have_been_removed_from_a_graph_of_rustworkx():
    graph = tk.to_rustworkx(LayerGraph.from_edge_ids([0, 3, 4], (2, 3)))
    graph.remove_node(1)
    for node in graph.node_indices():
        del graph[node]["unit"]
    assert tk.from_rustworkx(graph) == LayerGraph.from_edge_ids([0, 2], (2, 2))
    directed = rustworkx.PyDiGraph()
    directed.add_nodes_from([{"type": True}, {"type": False}])
    directed.add_edge(0, 1, None)
    assert tk.from_rustworkx(directed).n_edges == 1
    directed.add_node("c")
    with pytest.raises(ValueError, match=r"that are dictionaries .* got str at node 2"):
        tk.from_rustworkx(directed)


def test_graphs_are_measured_as_they_are():
    value = tk.LAYER_MEASURES["spectral_gap"](NETWORK["fc1"])
    for way in (tk.to_igraph, tk.to_rustworkx):
        assert tk.LAYER_MEASURES["spectral_gap"](way(NETWORK["fc1"])) == value
        assert tk.measure({"a": way(NETWORK["fc1"])}, ["spectral_gap"])["value"][0] == value
    assert list(as_topology(tk.to_igraph(NETWORK))) == ["fc1", "fc2"]
    with pytest.raises(TypeError, match=r"a graph of scipy, networkx, igraph or rustworkx"):
        as_topology(3)


def test_a_bipartite_edge_index_is_that_of_pytorch_geometric():
    graph = NETWORK["fc1"]
    source, target = tk.to_edge_index(graph)
    assert source.max() < graph.n_in == 6
    assert target.max() < graph.n_out == 5
    dense = np.zeros(graph.shape)
    dense[target, source] = 1
    np.testing.assert_array_equal(dense, graph.to_csr().toarray() != 0)
    doubled = np.concatenate([tk.to_edge_index(graph)] * 2, axis=1)
    assert tk.from_edge_index(torch.from_numpy(doubled), (6, 5)) == graph


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: tk.from_edge_index([[6], [0]], (6, 5)), "input units in 0..5, got 6..6"),
        (lambda: tk.from_edge_index([[0], [-1]], (6, 5)), "output units in 0..4, got -1..-1"),
        (lambda: tk.from_edge_index([[0, 1]], (6, 5)), "shape (2, n_edges), got (1, 2)"),
        (lambda: tk.from_edge_index([[0.5], [1]], (6, 5)), "expected integers, got float64"),
        (lambda: tk.from_network_index([[0], [2]], [0, 1]), "nodes in 0..1, got 0..2"),
        (lambda: tk.from_network_index([[0], [1]], [0, 2]), "layer: expected numbers from 0"),
        (lambda: tk.from_network_index([[0], [1]], [0, 0]), "layer: expected numbers from 0"),
        (lambda: tk.from_network_index([[0], [2]], [0, 1, 2]), "'0 - 2 within one or past one'"),
        (lambda: tk.from_network_index([[0], [1]], [[0, 1]]), "layer: expected numbers from 0"),
    ],
)
def test_wrong_arrays_are_refused(read, message):
    with pytest.raises(ValueError, match=re.escape(message.strip("'"))):
        read()


@pytest.mark.parametrize("name", ["igraph", "rustworkx"])
def test_a_missing_package_is_one_sentence(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=f"not installed: pip install {name}"):
        getattr(tk, f"to_{name}")(NETWORK)


def test_importing_topokit_imports_neither():
    code = (
        "import sys, topokit, topokit.graph.exchange; "
        "print([name for name in ('igraph', 'rustworkx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "numbered",
    [
        lambda layer, unit: unit,
        lambda layer, unit: unit + 1,  # from 1
        lambda layer, unit: 100 * layer + unit,  # through the network
        lambda layer, unit: 3 * unit - 4,  # units that are not there left out
        lambda layer, unit: str(unit + 1),
    ],
)
def test_units_are_in_the_order_of_their_numbers(numbered, tmp_path):
    drawn = np.random.default_rng(0)
    whole = tk.to_networkx(NETWORK)
    graph = nx.Graph()
    for node in drawn.permutation(len(whole)).tolist():
        data = whole.nodes[node]
        graph.add_node(f"n{node}", **{**data, "unit": numbered(data["layer"], data["unit"])})
    graph.add_edges_from((f"n{u}", f"n{v}") for u, v in whole.edges)
    nx.write_graphml(graph, tmp_path / "t.graphml")
    read = [graph, tk.load_topology(tmp_path / "t.graphml"), igraph.Graph.from_networkx(graph)]
    assert all(as_topology(each) == NETWORK for each in read)


def test_units_of_one_number_are_in_the_order_of_the_nodes():
    graph = nx.Graph()
    graph.add_nodes_from("ab", bipartite=0, unit=5)
    graph.add_nodes_from("xy", bipartite=1, unit=5)
    graph.add_edge("a", "y")
    assert tk.from_networkx(graph).edge_ids.tolist() == [2]
