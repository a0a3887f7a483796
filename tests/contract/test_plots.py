"""Every plot of the tables: returns its axes, says what it shows, and changes nothing else."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from topokit.graph import EdgeUpdate, LayerGraph, sample_absent
from topokit.history import History, Recorder, RunDirectory
from topokit.measures import measure
from topokit.plots import HISTORY_PLOTS, LAYER_PLOTS, save_figures

GRAPHS = {
    "random": LayerGraph.from_edge_ids(np.random.default_rng(0).choice(1200, 200, False), (30, 40)),
    "empty": LayerGraph.from_edge_ids([], (5, 4)),
    "no units": LayerGraph.from_edge_ids([], (0, 0)),
    "one unit": LayerGraph.from_edge_ids([0], (1, 1)),
    "disconnected": LayerGraph.from_edge_ids([0, 1, 14, 15], (4, 4)),
    "dense": LayerGraph.from_edge_ids(np.arange(12), (3, 4)),
}


def recorded(path, n_epochs):
    rng = np.random.default_rng(1)
    graph, run = GRAPHS["random"], RunDirectory.create(path, "epochs = 5\n", {})
    recorder = Recorder(run)
    for epoch in range(n_epochs):
        topology = {"fc1": graph, "fc2": GRAPHS["dense"]}
        frame = measure(topology, previous=recorder.previous)
        metrics = {"train_loss": 1.0, "test_loss": 1.0, "test_accuracy": 0.5 + epoch / 50}
        recorder.write(epoch, {**metrics, "seconds": 0.1}, topology, frame)
        dropped = rng.choice(graph.n_edges, 60, replace=False)
        graph = EdgeUpdate.from_decisions(graph, dropped, sample_absent(graph, 60, rng)).after
    return History.load(path)


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("histories")
    return {n: recorded(folder / f"epochs-{n}", n) for n in (0, 1, 5)}


def draws(plot, what):
    settings = dict(mpl.rcParams)
    ax = Figure().add_subplot()
    assert plot(what, ax=ax) is ax
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert ax.get_title()
    ax.figure.canvas.draw()
    assert dict(mpl.rcParams) == settings
    assert not plt.get_fignums()
    return ax


@pytest.mark.parametrize("graph", list(GRAPHS))
@pytest.mark.parametrize("name", list(LAYER_PLOTS))
def test_layer_plots_draw_any_graph(name, graph):
    draws(LAYER_PLOTS[name], GRAPHS[graph])


@pytest.mark.parametrize("n_epochs", [0, 1, 5])
@pytest.mark.parametrize("name", list(HISTORY_PLOTS))
def test_history_plots_draw_any_history(name, n_epochs, histories):
    draws(HISTORY_PLOTS[name], histories[n_epochs])


@pytest.mark.parametrize("table", [LAYER_PLOTS, HISTORY_PLOTS], ids=["layer", "history"])
def test_without_axes_the_current_ones_are_used(table, histories):
    try:
        for plot in table.values():
            _, ax = plt.subplots()
            assert plot(GRAPHS["random"] if table is LAYER_PLOTS else histories[5]) is ax
    finally:
        plt.close("all")


def test_plotted_degrees_are_those_of_the_graph():
    graph = GRAPHS["random"]
    ax = draws(LAYER_PLOTS["degree_distribution"], graph)
    line = next(line for line in ax.lines if line.get_label() == "this graph")
    for k, share in line.get_xydata():
        assert share == np.mean(graph.fan_in >= k)


def test_plotted_measures_are_those_of_the_frame(histories):
    history = histories[5]
    ax = draws(HISTORY_PLOTS["measure_over_epochs"], history)
    frame = history.measures.query("layer == 'fc1' and measure == 'fan_in.dispersion'")
    line = next(line for line in ax.lines if line.get_label() == "fc1")
    assert np.array_equal(line.get_xydata(), frame[["epoch", "value"]].to_numpy(float))


def test_figures_are_identical_when_made_twice(histories, tmp_path):
    for kind in ("png", "svg", "pdf"):
        one, two = (save_figures(histories[5], tmp_path / i, formats=(kind,)) for i in "ab")
        assert [p.name for p in one] == [p.name for p in two]
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_unknown_formats_and_empty_histories_are_refused(histories, tmp_path):
    with pytest.raises(ValueError, match="expected formats of png, pdf, svg"):
        save_figures(histories[5], tmp_path, formats=("gif",))
    with pytest.raises(ValueError, match="has not recorded an epoch"):
        save_figures(histories[0], tmp_path)


@pytest.mark.slow
def test_a_layer_of_ten_million_links_is_drawn_small(tmp_path):
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(100_000), 100)
    columns = rng.integers(0, 100_000, rows.size)
    graph = LayerGraph.from_edge_ids(np.unique(rows * 100_000 + columns), (100_000, 100_000))
    ax = draws(LAYER_PLOTS["adjacency"], graph)
    ax.figure.savefig(tmp_path / "adjacency.svg")
    assert (tmp_path / "adjacency.svg").stat().st_size < 1_000_000
