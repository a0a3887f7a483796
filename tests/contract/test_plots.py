"""What every figure keeps, whichever it is: loops over the two tables of plots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from topokit.generators import erdos_renyi
from topokit.graph import LayerGraph
from topokit.measures import measure
from topokit.plots import HISTORY_PLOTS, LAYER_PLOTS

GRAPHS = {
    "random": erdos_renyi(30, 20, density=0.2, rng=np.random.default_rng(1)),
    "empty": LayerGraph.from_edge_ids([], (4, 3)),
    "one unit": LayerGraph.from_edge_ids([0], (1, 1)),
    "disconnected": LayerGraph.from_edge_ids([0, 5, 15], (4, 4)),
    "dense": LayerGraph.from_edge_ids(range(30), (5, 6)),
}


@dataclass
class Run:
    """The attributes of a History that figures read, without a folder."""

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
    """A run of one layer that had these graphs."""
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


def check(draw: Any) -> None:
    """Drawing keeps the axes, labels them, leaves no figure open and no setting changed."""
    settings, opened = dict(mpl.rcParams), plt.get_fignums()
    figure = Figure()
    ax = figure.add_subplot()
    assert draw(ax=ax) is ax
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert ax.get_title()
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
def test_a_plot_without_axes_draws_on_the_current_ones(name):
    ax = LAYER_PLOTS[name](GRAPHS["random"])
    try:
        assert ax in plt.gcf().axes
    finally:
        plt.close(ax.figure)
