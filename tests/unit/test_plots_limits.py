"""Figures of records with gaps, and of more values than a layer has."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from topokit.experiments.record import Recording
from topokit.graph import LayerGraph
from topokit.measures import structure
from topokit.plots import (
    degree_histogram,
    growth_flow,
    measure_over_epochs,
    spectrum_over_epochs,
)


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
