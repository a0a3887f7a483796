"""What every figure guarantees: loops over the tables of plots."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from topokit.generators import erdos_renyi
from topokit.graph import LayerGraph
from topokit.measures import measure
from topokit.plots import ACROSS_PLOTS, HISTORY_PLOTS, LAYER_PLOTS
from topokit.plots.style import figure, save

GRAPHS = {
    "random": erdos_renyi(30, 20, density=0.2, rng=np.random.default_rng(1)),
    "empty": LayerGraph.from_edge_ids([], (4, 3)),
    "one unit": LayerGraph.from_edge_ids([0], (1, 1)),
    "disconnected": LayerGraph.from_edge_ids([0, 5, 15], (4, 4)),
    "dense": LayerGraph.from_edge_ids(range(30), (5, 6)),
}


@dataclass
class Run:
    """The attributes of a History that figures read, without a run directory."""

    topologies: list[dict[str, LayerGraph]]
    epochs: pd.DataFrame
    measures: pd.DataFrame
    name: str = "run"
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def recorded(self) -> list[int]:
        return list(range(len(self.topologies)))

    def topology(self, epoch: int) -> dict[str, LayerGraph]:
        return self.topologies[epoch]


def make_run(graphs: list[LayerGraph]) -> Run:
    """A run of one layer with one of these graphs at each epoch."""
    topologies = [{"fc1": graph} for graph in graphs]
    frames = []
    for epoch, now in enumerate(topologies):
        before = topologies[epoch - 1] if epoch else None
        frame = measure(now, previous=before).assign(run="run", epoch=epoch)
        frames.append(frame[["run", "epoch", "layer", "measure", "value"]])
    n = np.arange(len(graphs))
    losses = {"train_loss": 1 / (n + 1), "test_loss": 1 / (n + 1)}
    epochs = pd.DataFrame(
        {"run": "run", "epoch": n, **losses, "test_accuracy": 0.5 + n / 100, "seconds": 1.0}
    )
    return Run(topologies, epochs, pd.concat(frames, ignore_index=True))


@pytest.fixture(scope="module", params=GRAPHS)
def history(request):
    return make_run([GRAPHS[request.param]] * 3)


def texts(figure: Figure) -> list[str]:
    """Every title, label, tick, legend entry and annotation of a figure."""
    return [text.get_text() for text in figure.findobj(Text)]


def check(draw: Any) -> None:
    """Drawing returns the given axes, labelled, leaves no figure open and no setting changed."""
    settings, opened = dict(mpl.rcParams), plt.get_fignums()
    figure = Figure()
    ax = figure.add_subplot()
    assert draw(ax=ax) is ax
    assert ax.get_xlabel()
    assert ax.get_ylabel() or all(panel.get_ylabel() for panel in ax.child_axes)
    assert ax.get_title()
    assert not [
        text for text in texts(figure) if re.search(r"\b(links?|film|twins?|arms?)\b", text)
    ]
    figure.canvas.draw()
    assert plt.get_fignums() == opened
    assert dict(mpl.rcParams) == settings


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("name", LAYER_PLOTS)
def test_a_plot_of_any_graph_keeps_the_contract(name, kind):
    check(lambda ax: LAYER_PLOTS[name](GRAPHS[kind], ax=ax))


@pytest.mark.parametrize("name", HISTORY_PLOTS)
def test_a_plot_of_any_run_keeps_the_contract(name, history):
    check(lambda ax: HISTORY_PLOTS[name](history, ax=ax))


@pytest.mark.parametrize("name", LAYER_PLOTS)
def test_a_plot_without_axes_makes_a_new_figure(name):
    mine = plt.figure().add_subplot()
    ax = LAYER_PLOTS[name](GRAPHS["random"])
    try:
        assert ax.figure is not mine.figure
        assert not mine.has_data()
    finally:
        plt.close("all")


def pixels(name, run):
    """The pixels of a figure of a run."""
    with figure() as ax:
        HISTORY_PLOTS[name](run, ax=ax)
        target = io.BytesIO()
        save(ax, target, format="rgba")
    return target.getvalue()


@pytest.mark.parametrize("name", HISTORY_PLOTS)
def test_a_figure_of_a_run_shows_that_run(name):
    even, again = (
        [erdos_renyi(30, 20, density=0.3, rng=np.random.default_rng(4))] * 3 for _ in "ab"
    )
    hubs = [LayerGraph.from_edge_ids(np.arange(90 + 9 * i), (20, 30)) for i in range(3)]
    assert pixels(name, make_run(even)) == pixels(name, make_run(again))
    assert pixels(name, make_run(even)) != pixels(name, make_run(hubs + hubs[:1]))


@pytest.mark.parametrize("arms", [0, 1, 3])
@pytest.mark.parametrize("name", ACROSS_PLOTS)
def test_a_plot_of_many_runs_keeps_the_contract(name, arms):
    rows = [
        {"arm": f"condition {i}", "seed": seed, "epoch": epoch,
         "normalized_spectral_gap": i + seed / 9,
         "test_accuracy": 0.5 + i / 10 + epoch / 100 + seed / 99}
        for i in range(arms) for seed in range(3) for epoch in range(2)
    ]  # fmt: skip
    columns = ["arm", "seed", "epoch", "normalized_spectral_gap", "test_accuracy"]
    check(lambda ax: ACROSS_PLOTS[name](pd.DataFrame(rows, columns=columns), ax=ax))


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYER_PLOTS)
def test_the_file_of_a_layer_with_a_million_edges_is_small(name):
    graph = erdos_renyi(4000, 4000, density=1 / 16, rng=np.random.default_rng(0))
    assert graph.n_edges == 1_000_000
    target = io.BytesIO()
    with figure() as ax:
        LAYER_PLOTS[name](graph, ax=ax)
        save(ax, target, format="png", dpi=200)
    assert target.tell() < 1_000_000
