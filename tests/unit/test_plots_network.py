import numpy as np
import pytest
from matplotlib.figure import Figure

from topokit.generators import erdos_renyi, generate
from topokit.graph import LayerGraph
from topokit.plots.network import network


@pytest.fixture
def ax():
    return Figure().add_subplot()


def test_a_small_network_has_a_line_for_every_edge_and_a_dot_for_every_unit(ax, rng):
    topology = generate([20, 30, 10], "erdos_renyi", density=0.2, rng=rng)
    network(topology, ax=ax)
    *edges, inputs, hidden, outputs = ax.collections
    found = [len(lines.get_segments()) for lines in edges]
    assert found == [graph.n_edges for graph in topology.values()]
    assert [len(dots.get_offsets()) for dots in (inputs, hidden, outputs)] == [20, 30, 10]


def test_lines_join_the_two_units_of_each_edge(ax):
    # Fan-out 2, 1, 0 and fan-in 1, 2: the second output has the highest degree and is on top.
    network({"fc1": LayerGraph.from_edge_ids([0, 3, 4], (2, 3))}, ax=ax)
    lines = {tuple(map(tuple, ends.tolist())) for ends in ax.collections[0].get_segments()}
    assert lines == {((0, 1), (1, 0)), ((0, 1), (1, 1)), ((0, 0.5), (1, 1))}


def test_a_large_network_is_drawn_in_groups_with_its_hubs(ax):
    rng = np.random.default_rng(0)
    graph = erdos_renyi(500, 400, density=0.05, rng=rng)
    hubs = np.unique(np.concatenate([graph.edge_ids, np.arange(3 * 500)]))  # three full rows
    network({"fc1": LayerGraph.from_edge_ids(hubs, (400, 500))}, ax=ax)
    edges, inputs, outputs = ax.collections
    assert len(inputs.get_offsets()) == len(outputs.get_offsets()) == 24
    ends = np.array([segment[1][1] for segment in edges.get_segments()])
    darkness = edges.get_colors()[:, 3]
    to_hubs = ends > 1 - 2.5 / 23  # the three highest positions on the right
    assert darkness[to_hubs].min() == darkness.max()
    assert np.median(darkness[~to_hubs]) < 0.6 * darkness.max()
    assert len(edges.get_segments()) <= 24 * 24


def test_inputs_of_a_layer_of_another_width_are_a_column_of_their_own(ax, rng):
    parts = {
        "a": erdos_renyi(5, 4, density=0.5, rng=rng),
        "b": erdos_renyi(7, 3, density=0.5, rng=rng),
    }
    network(parts, ax=ax)
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["inputs\n5", "a\n4", "inputs of b\n7", "b\n3"]
