"""Figures of records with gaps, and of more values than a layer has."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from topokit.experiments.record import Recording
from topokit.graph import LayerGraph
from topokit.measures import structure
from topokit.plots import (
    HISTORY_PLOTS,
    accuracy_against_measure,
    accuracy_over_epochs,
    degree_evolution,
    degree_heatmap,
    degree_histogram,
    degree_multiples,
    edge_survival,
    frames,
    growth_flow,
    measure_over_epochs,
    network,
    spectrum_over_epochs,
)
from topokit.plots.history import evenly_spaced
from topokit.plots.layer import null_steps


def recording(shape, n_edges, every=1, n=6):
    found, rng = Recording(every=every), np.random.default_rng(0)
    for epoch in range(n):
        ids = rng.permutation(shape[0] * shape[1])[:n_edges]
        found(epoch, {"fc1": LayerGraph.from_edge_ids(ids, shape)})
    return found


@pytest.mark.parametrize(("every", "words"), [(1, "there 2 epochs later"), (3, "there 1 record")])
def test_growth_is_followed_over_records(every, words):
    run = recording((6, 5), 9, every, n=7)
    ax = growth_flow(run, survived=2, ax=Figure().add_subplot())
    assert ax.child_axes[1].get_title().startswith(words)


@pytest.mark.parametrize("n_values", [139, 140, 300])
@pytest.mark.parametrize("n_edges", [900, 0])
def test_a_layer_has_no_more_singular_values_than_units(n_values, n_edges):
    run = recording((150, 140), n_edges, n=2)
    ax = spectrum_over_epochs(run, n_values=n_values, ax=Figure().add_subplot())
    lines = [line for line in ax.lines if line.get_gid() != "mark"]
    assert len(lines) == min(n_values, 140)


def test_pairs_of_units_are_compared_in_blocks(monkeypatch):
    graph = LayerGraph.from_edge_ids(np.random.default_rng(0).permutation(2000)[:600], (40, 50))
    whole = structure.nestedness(graph), structure.butterflies(graph)
    sizes = []
    monkeypatch.setattr(structure, "BLOCK", 500)
    common = structure._common

    def counted(matrix):
        for start, block in common(matrix):
            sizes.append(block.nnz)
            yield start, block

    monkeypatch.setattr(structure, "_common", counted)
    assert structure.nestedness(graph) == pytest.approx(whole[0], rel=1e-12)
    assert max(sizes) <= 500
    assert structure.butterflies(graph) == whole[1]


def test_degrees_of_a_layer_without_inputs_are_drawn():
    ax = degree_histogram(LayerGraph.from_edge_ids([], (4, 0)), ax=Figure().add_subplot())
    assert [bar.get_height() for bar in ax.patches] == [4.0]
    assert not ax.lines


def test_the_line_at_1_is_that_of_a_sparse_random_graph():
    # at density 0.9 a random layer's variance over mean is about 0.1
    run = Recording(measures=["fan_in"])
    ids = np.random.default_rng(0).permutation(4000)[:3600]
    run(0, {"fc1": LayerGraph.from_edge_ids(ids, (50, 80))})
    ax = measure_over_epochs(run, ax=Figure().add_subplot())
    (dotted,) = [line for line in ax.lines if line.get_label() == "sparse random graph"]
    assert dotted.get_ydata()[0] == 1
    assert ax.lines[0].get_ydata()[0] == pytest.approx(0.1, abs=0.05)


def with_edges(*numbers, shape=(30, 40)):
    """A run whose layer has these numbers of edges."""
    run, rng = Recording(name="pruned"), np.random.default_rng(1)
    for epoch, n in enumerate(numbers):
        ids = rng.permutation(shape[0] * shape[1])[:n]
        run(epoch, {"fc1": LayerGraph.from_edge_ids(ids, shape)})
        run.note(epoch, test_accuracy=0.5)
    return run


@pytest.mark.parametrize("numbers", [(600, 300, 90), (90, 90, 300), (300, 90, 300), (90, 90, 90)])
@pytest.mark.parametrize("draw", [degree_evolution, degree_multiples])
def test_each_number_of_edges_has_its_random_graph(draw, numbers):
    run = with_edges(*numbers)
    ax = draw(run, n_epochs=3, ax=Figure().add_subplot())
    ax = ax.child_axes[0] if ax.child_axes else ax
    nulls = [line for line in ax.lines if line.get_gid() == "null"]
    wanted = {tuple(map(float, null_steps(run.topology(e)["fc1"], "fan_in")[0])) for e in range(3)}
    assert {tuple(line.get_xdata()) for line in nulls} == wanted
    words = [line.get_label() for line in nulls if not line.get_label().startswith("_")]
    several = len(set(numbers)) > 1
    assert words == ["random graphs of as many edges" if several else "random graph"]


def test_frames_have_the_random_graph_of_their_epoch():
    run = with_edges(600, 300, 600)
    side = frames(run)["layers"]["fc1"]["fan_in"]
    assert side["null"] == [0, 1, 0]
    for epoch in range(3):
        k, share = side["nulls"][side["null"][epoch]]
        n = run.topology(epoch)["fc1"].n_edges
        assert sum(share) == pytest.approx(n / 30, rel=1e-3)  # the sum of P(K >= k) is the mean
        assert k[0] == 1


def test_edges_of_a_layer_that_changes_its_size_are_censored_there():
    run = Recording(name="grown")
    for epoch, (ids, shape) in enumerate(
        [([0, 1, 2, 5], (3, 4)), ([0, 1, 2, 6], (3, 4)), ([0, 1, 6], (3, 5)), ([0, 6, 7], (3, 5))]
    ):
        run(epoch, {"fc1": LayerGraph.from_edge_ids(ids, shape)})
    ax = edge_survival(run, ax=Figure().add_subplot())
    # of the first size one of four dies at age 1, and three are censored there, one at age 0; of
    # the second one of three dies at age 1
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [1, 1 - 2 / 7])
    ax = growth_flow(run, survived=1, ax=Figure().add_subplot())
    titles = [panel.get_title() for panel in ax.child_axes[:2]]
    assert titles == ["grown:\n2 edges", "there 1 epoch later:\nnot known"]
    for draw in HISTORY_PLOTS.values():
        if draw not in (accuracy_over_epochs, accuracy_against_measure):
            draw(run, ax=Figure().add_subplot())


def test_an_epoch_that_was_not_recorded_is_refused_whatever_its_sign():
    run = with_edges(90, 90)
    for epoch in (-3, 2, 1.5):
        with pytest.raises(ValueError, match=r"not recorded|a recorded epoch|whole number"):
            network(run, epoch=epoch, ax=Figure().add_subplot())
    assert network(run, epoch=-2, ax=Figure().add_subplot()).get_title() == "Network, epoch 0"


def test_more_epochs_than_there_are_cost_nothing():
    assert evenly_spaced(with_edges(90, 90, 90), 10**15) == [0, 1, 2]


def test_a_mean_degree_below_one_is_between_the_rows_of_zero_and_one():
    run = with_edges(10, 20, 30, shape=(4, 40))
    ax = degree_heatmap(run, side="fan_out", ax=Figure().add_subplot())
    assert ax.lines[0].get_ydata() == pytest.approx([0.625, 0.75, 0.875])
    assert ax.get_ylim()[0] <= 0.5


def path_of(values, epochs=None):
    """A run of four epochs with these values of a measure."""
    run = Recording(name="run")
    for epoch in range(4):
        run.note(epoch, test_accuracy=0.5 + epoch / 10)
    frame = pd.DataFrame({"epoch": epochs or range(4), "layer": "fc1", "measure": "x"})
    run._frames = {0: frame.assign(value=values, run="run")}
    return run


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, 2, 3, 4], ["first epoch", "last epoch"]),
        ([np.nan, 2, 3, 4], ["first of the path", "last epoch"]),
        ([0, 2, 3, 0.0], ["first of the path", "last of the path", "exactly 0"]),
        ([1, 2, np.nan, np.nan], ["first epoch", "last of the path"]),
    ],
)
def test_the_ends_of_a_path_are_called_those_of_the_run_only_if_they_are(values, words):
    ax = accuracy_against_measure(path_of(values), "x", ax=Figure().add_subplot())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == words


def test_the_last_measured_epoch_is_not_called_the_last_one():
    ax = accuracy_against_measure(path_of([1.0, 2], [0, 2]), "x", ax=Figure().add_subplot())
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["first epoch", "last of the path"]


def test_every_axes_of_a_figure_has_the_scale_of_its_epochs():
    first, second = Figure(figsize=(8, 3)).subplots(1, 2)
    for ax in (first, second):
        for label in ("one", "other"):
            accuracy_against_measure(path_of([1.0, 2, 3, 4]), "x", label=label, ax=ax)
    bars = [one for one in first.figure.axes if one.get_label() == "<colorbar>"]
    assert len(bars) == 2


def test_two_quantities_in_one_axes_are_both_on_its_labels():
    run = with_edges(90, 90)
    run.names = ["fan_in"]
    for epoch in range(2):
        run.keep(epoch, run.topology(epoch))
    ax = Figure().add_subplot()
    for measure in ("fan_in.dispersion", "fan_in.maximum", "fan_in.dispersion"):
        measure_over_epochs(run, measure, label=measure, ax=ax)
    assert ax.get_ylabel() == "fan-in variance / mean /\nfan-in, maximum"
    assert ax.get_title() == "Topology over epochs"
    ax = Figure().add_subplot()
    for side in ("fan_in", "fan_out"):
        degree_evolution(run, side=side, ax=ax)
    assert ax.get_xlabel() == "fan-in k / fan-out k"
    assert "(fc1 fan-in)" in ax.get_title()
    assert "(fc1 fan-out)" in ax.get_title()
    ax.set(xlabel="mine", title="mine")
    degree_evolution(run, ax=ax)
    assert ax.get_xlabel() == "fan-in k"
    other = Recording(name="other")
    other.note(0, val_acc=0.5)
    ax = accuracy_over_epochs(run, ax=Figure().add_subplot())
    accuracy_over_epochs(other, ax=ax)
    assert ax.get_ylabel() == "test accuracy /\nval acc"
