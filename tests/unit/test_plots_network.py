import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

from topokit.generators import erdos_renyi, generate
from topokit.graph import LayerGraph
from topokit.plots.network import network
from topokit.plots.style import figure


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


def words(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []


def test_hubs_are_said_to_be_where_a_random_network_has_none(ax):
    graph = erdos_renyi(500, 400, density=0.05, rng=np.random.default_rng(0))
    network({"fc1": graph}, ax=ax)
    assert not any("hubs" in word for word in words(ax))
    assert any(word.startswith("usual (") for word in words(ax))
    hubs = np.unique(np.concatenate([graph.edge_ids, np.arange(3 * 500)]))  # three full rows
    other = Figure().add_subplot()
    network({"fc1": LayerGraph.from_edge_ids(hubs, (400, 500))}, ax=other)
    assert "hubs (3)" in words(other)


def test_the_height_of_a_class_is_its_share_of_the_edges(ax):
    ids = np.concatenate([np.arange(100), 100 + np.arange(100), np.arange(200, 10_000, 100)])
    graph = LayerGraph.from_edge_ids(ids, (100, 100))  # two full rows, 98 units with one edge
    after = erdos_renyi(100, 100, density=0.01, rng=np.random.default_rng(0))
    network({"fc1": graph, "fc2": after}, ax=ax)
    bars = [bar for bar in ax.patches if bar.get_x() == pytest.approx(1 - 0.07)]
    total = sum(bar.get_height() for bar in bars)
    assert max(bar.get_y() + bar.get_height() for bar in bars) == pytest.approx(1)
    hub = max(bars, key=lambda bar: bar.get_y())
    degrees = graph.fan_in + after.fan_out
    assert hub.get_height() / total == pytest.approx(degrees[:2].sum() / degrees.sum())


def test_a_small_network_has_hubs_only_where_there_are_any(ax, rng):
    network({"fc1": erdos_renyi(40, 30, density=0.2, rng=rng)}, ax=ax)
    assert not words(ax)
    star = LayerGraph.from_edge_ids([*range(40), *range(41, 1200, 80)], (30, 40))
    other = Figure().add_subplot()
    network({"fc1": star}, ax=other)
    assert words(other) == ["hubs: more edges than in a random network"]


def test_a_shortcut_is_parallel_to_its_block(ax, rng):
    def layer(n_in, n_out):
        return erdos_renyi(n_in, n_out, density=0.4, rng=rng)

    names = {"conv1": layer(8, 12), "conv2": layer(12, 12), "shortcut": layer(8, 12)}
    network({"fc": layer(6, 8), **{f"b.{name}": graph for name, graph in names.items()}}, ax=ax)
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["inputs\n6", "fc\n8", "b.conv1\n12", "b.conv2\n12"]
    ends = np.array(ax.collections[3].get_segments()[0])
    assert (ends[0, 0], ends[-1, 0]) == (1, 3)  # from the block's input to its output
    straight = np.linspace(ends[0, 1], ends[-1, 1], len(ends))
    assert (ends[1:-1, 1] > straight[1:-1]).all()


def test_convolutions_follow_each_other_by_channels(ax, rng):
    shapes = {"conv1": (27, 8), "conv2": (72, 16), "fc": (16 * 25, 10)}
    parts = {name: erdos_renyi(*shape, density=0.3, rng=rng) for name, shape in shapes.items()}
    network(parts, ax=ax)
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["inputs\n27", "conv1\n8", "conv2\n16", "fc\n10"]


def test_names_of_many_layers_do_not_overlap(rng):
    names = [f"stage{i}.block1.conv1" for i in range(14)]
    topology = {name: erdos_renyi(70, 70, density=0.05, rng=rng) for name in names}
    with figure() as ax:
        network(topology, ax=ax)
        ax.figure.draw_without_rendering()
        boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    assert ax.get_xticklabels()[1].get_text() == "s0.b1.conv1, 70"


def test_inputs_of_a_layer_of_another_width_are_a_column_of_their_own(ax, rng):
    parts = {
        "a": erdos_renyi(5, 4, density=0.5, rng=rng),
        "b": erdos_renyi(7, 3, density=0.5, rng=rng),
    }
    network(parts, ax=ax)
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["inputs\n5", "a\n4", "inputs of b\n7", "b\n3"]
