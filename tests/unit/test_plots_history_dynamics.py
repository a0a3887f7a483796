from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from topokit.generators import erdos_renyi
from topokit.graph import LayerGraph
from topokit.plots import HISTORY_PLOTS
from topokit.plots.degrees import degree_heatmap, degree_multiples
from topokit.plots.growth import edge_survival
from topokit.plots.history import spectrum_over_epochs


def run_of(*edge_sets, shape=(3, 4)):
    """The attributes of a History that these figures read: one layer, a graph for each epoch."""
    topologies = [{"fc1": LayerGraph.from_edge_ids(ids, shape)} for ids in edge_sets]
    return SimpleNamespace(
        recorded=list(range(len(topologies))), topology=topologies.__getitem__, name="run"
    )


@pytest.fixture
def ax():
    return Figure().add_subplot()


def test_survival_is_that_of_kaplan_and_meier(ax):
    # Four edges at first; one dies at age 1, one at age 2; one born at epoch 1 dies at age 1.
    run = run_of([0, 1, 2, 3], [1, 2, 3, 7], [2, 3, 8, 9])
    edge_survival(run, ax=ax)
    # Ages: deaths at 1 (edge 0), 2 (edge 1), 1 (edge 7); censored: 2, 3 at age 2, 8, 9 at age 0.
    # At risk at age 1: 5, of which 2 die; at age 2: 3, of which 1 dies.
    share = ax.lines[0].get_ydata()
    np.testing.assert_allclose(share, [1, 3 / 5, 3 / 5 * 2 / 3])


def test_edges_that_never_move_all_survive(ax):
    edge_survival(run_of([0, 5], [0, 5], [0, 5]), ax=ax)
    assert set(ax.lines[0].get_ydata()) == {1.0}


def test_every_unit_is_in_one_cell_of_the_heatmap(ax):
    degree_heatmap(run_of([0, 1, 2, 3], [0, 1, 2, 7], [4, 5, 6, 7]), ax=ax)
    shares = ax.collections[0].get_array()
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    assert ax.lines[0].get_ydata() == pytest.approx([4 / 3] * 3)


def test_panels_share_their_vertical_scale(ax):
    first, second = (
        LayerGraph.from_edge_ids(ids, shape) for ids, shape in (([0, 5], (3, 4)), ([1], (2, 3)))
    )
    both = [{"fc1": first, "fc2": second}] * 2
    run = SimpleNamespace(recorded=[0, 1], topology=both.__getitem__)
    degree_multiples(run, ax=ax)
    assert [panel.get_title() for panel in ax.child_axes] == ["fc1", "fc2"]
    assert len({panel.get_ylim() for panel in ax.child_axes}) == 1


def test_leading_singular_values_are_those_of_numpy(ax):
    run = run_of([0, 1, 2, 7], [0, 5, 10])
    spectrum_over_epochs(run, n_values=2, ax=ax)
    for rank, line in enumerate(ax.lines):
        for epoch, value in enumerate(line.get_ydata()):
            dense = run.topology(epoch)["fc1"].to_csr().toarray()
            assert value == pytest.approx(np.linalg.svd(dense, compute_uv=False)[rank])


def test_leading_values_of_a_wide_layer_are_those_of_numpy_too(ax, rng):
    graph = erdos_renyi(300, 200, density=0.1, rng=rng)
    spectrum_over_epochs(run_of(graph.edge_ids, shape=(200, 300)), n_values=5, ax=ax)
    found = [line.get_ydata()[0] for line in ax.lines]
    wanted = np.linalg.svd(graph.to_csr().toarray(), compute_uv=False)[:5]
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


@pytest.mark.parametrize("name", ["degree_heatmap", "spectrum_over_epochs"])
def test_an_unknown_layer_is_refused(name, ax):
    with pytest.raises(ValueError, match="expected a layer of fc1, got 'fc9'"):
        HISTORY_PLOTS[name](run_of([0]), layer="fc9", ax=ax)


def test_a_curve_that_reaches_zero_ends_in_a_cross(ax):
    edge_survival(run_of([0, 1], [2, 3], [4, 5], []), ax=ax)  # every edge lives for one epoch
    curve, end = ax.lines
    assert curve.get_xydata().tolist() == [[0, 1]]
    assert end.get_label() == "none is left"
    assert end.get_xdata().tolist() == [1]


def test_units_without_edges_have_a_labelled_row(ax):
    degree_heatmap(run_of([0, 1, 2, 3], [0, 1, 4, 7]), ax=ax)
    ax.figure.canvas.draw()
    ticks = dict(zip(ax.get_yticks(), (t.get_text() for t in ax.get_yticklabels()), strict=True))
    assert ticks[0.5] == "0"
    assert {"1", "2"} <= set(ticks.values())


def test_two_runs_share_the_panels(ax):
    first, second = run_of([0, 5], [0, 6]), run_of([1, 2, 3], [4, 5, 6])
    degree_multiples(first, label="a", ax=ax)
    degree_multiples(second, label="b", ax=ax)
    (panel,) = ax.child_axes
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"a, epoch 1", "b, epoch 1"} <= set(words)
    with pytest.raises(ValueError, match="expected an empty axes or one with panels for fc1"):
        degree_multiples(first, ax=panel)
