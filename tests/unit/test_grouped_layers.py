"""Grouped convolutions: random layers, null samples and figures have edges within groups only."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import kstest
from torch import nn

import topokit as tk
from topokit.generators import randomized_twin, switched_twin
from topokit.graph import EdgeUpdate, LayerGraph, describe, snapshots
from topokit.graph.convert import channel_graph, load_topology, save_topology, unrolled_graph
from topokit.measures import (
    active_flow,
    degree_report,
    explored_fraction,
    fan_in,
    jaccard_excess,
    kept_core,
    power_law_of,
)
from topokit.measures.nulls import NULLS, null_scores
from topokit.nn import sparsity_report
from topokit.nn.engine import Engine
from topokit.nn.kernels import choose_kernel
from topokit.plots import degree_histogram, spectrum
from topokit.plots.growth import _possible
from topokit.plots.layer import null_ccdf, random_bulk
from topokit.plots.network import _columns
from topokit.plots.summary import _random_range
from topokit.rules import RULES, Rewiring
from topokit.rules.memory import MEMORIES, explore

SHAPE, GROUPS = (64, 128), 4


def random_layer(seed, share=0.5, shape=SHAPE, groups=GROUPS):
    cells = shape[0] * shape[1] // groups
    ids = np.random.default_rng(seed).permutation(cells)[: round(share * cells)]
    return LayerGraph.from_ids_in_groups(ids, shape, groups)


def test_a_random_grouped_layer_is_random():
    graphs = [random_layer(seed) for seed in range(40)]
    for side in ("fan_in", "fan_out"):
        words = [power_law_of(graph, side).verdict for graph in graphs]
        assert words.count("random") >= 38, words
    p_values = [fan_in(graph).dispersion_p for graph in graphs]
    assert kstest(p_values, "uniform").pvalue > 1e-3


def test_a_grouped_layer_with_all_possible_edges_is_complete():
    graph = random_layer(0, share=1.0)
    assert power_law_of(graph).verdict == power_law_of(graph, "fan_out").verdict == "complete"
    assert np.isnan(fan_in(graph).dispersion_p)


def test_the_report_compares_with_layers_of_the_same_groups():
    report = degree_report(random_layer(1), bootstrap=1, rng=0)
    assert report.binomial.p_value > 0.05
    assert report.maximum_p > 0.01
    assert report.aic["binomial"] < report.aic["negative_binomial"]


@pytest.mark.parametrize("draw", [*NULLS.values(), switched_twin], ids=[*NULLS, "switched"])
def test_null_samples_keep_the_groups(draw):
    graph = random_layer(2, share=0.3)
    sample = draw(graph, rng=np.random.default_rng(0))
    assert sample.groups == GROUPS  # which the constructor checks against the edges
    assert sample != graph
    if draw in (randomized_twin, switched_twin):
        assert sample.fan_in.tolist() == graph.fan_in.tolist()
        assert sample.fan_out.tolist() == graph.fan_out.tolist()


def test_twins_of_a_grouped_layer_are_uniform():
    # two groups, each a matching of two and two units: 2 x 2 graphs with these degrees
    graph = LayerGraph.from_edge_ids([0, 5, 10, 15], (4, 4), groups=2)
    rng = np.random.default_rng(0)
    counts = {}
    for _ in range(400):
        key = tuple(randomized_twin(graph, rng=rng, sweeps=2).edge_ids.tolist())
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 4
    assert min(counts.values()) > 65


def test_the_number_of_groups_is_no_structure():
    found = null_scores(random_layer(3, share=0.2), ["butterflies"], twins=10, rng=0)
    assert abs(found["butterflies"].z) < 4


def test_independent_grouped_layers_have_no_excess_overlap():
    found = [
        jaccard_excess(EdgeUpdate.between(random_layer(i), random_layer(100 + i)))
        for i in range(10)
    ]
    assert abs(np.mean(found)) < 0.01


def test_groups_are_kept_by_files_and_conversions(tmp_path):
    graph = random_layer(4, shape=(8, 36), groups=2)
    save_topology(tmp_path / "t.npz", {"conv": graph, "fc": LayerGraph.from_edge_ids([1], (2, 8))})
    loaded = load_topology(tmp_path / "t.npz")
    assert [layer.groups for layer in loaded.values()] == [2, 1]
    channels = channel_graph(graph, 9)
    assert (channels.groups, unrolled_graph(channels, 9).groups) == (2, 2)
    assert kept_core(graph, np.arange(1.0, graph.n_edges + 1), 0.5).groups == 2


def test_figures_compare_with_random_layers_of_the_same_groups():
    graph = random_layer(5, share=1.0)  # every degree is fixed
    k, share = null_ccdf(graph, "fan_in")
    assert (k[share > 0.5].max(), graph.fan_in.max()) == (32, 32)
    assert _random_range(graph, "fan_out") == (16.0, 16.0)
    ax = degree_histogram(graph, ax=Figure().add_subplot())
    assert ax.lines[0].get_ydata()[ax.lines[0].get_xdata() == 32].tolist() == [64.0]
    columns, _ = _columns({"conv": graph})
    assert [column.null.argmax() for column in columns] == [16, 32]


def test_the_bulk_of_a_random_grouped_layer_is_that_of_its_groups():
    graph = random_layer(6, share=0.3, shape=(200, 400))
    values = np.linalg.svd(graph.to_csr().toarray(), compute_uv=False)
    bulk = random_bulk(graph)
    assert bulk.shape == values.shape
    assert np.abs(values[GROUPS:] - bulk[GROUPS:]).max() < 0.4
    line = spectrum(graph, ax=Figure().add_subplot()).lines[1]
    assert line.get_xdata()[0] == GROUPS + 1


def test_growth_is_compared_with_possible_edges():
    graph = random_layer(7)
    rng = np.random.default_rng(0)
    columns, rows = rng.integers(0, 3, graph.n_in), rng.integers(0, 3, graph.n_out)
    found = np.zeros((3, 3))
    for row in range(graph.n_out):
        for column in range(graph.n_in):
            if row // (graph.n_out // GROUPS) == column // (graph.n_in // GROUPS):
                found[columns[column], rows[row]] += 1
    assert _possible(columns, rows, GROUPS).tolist() == found.tolist()
    assert _possible(columns, rows, 1).sum() == graph.n_in * graph.n_out


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_the_density_is_the_share_of_the_possible_edges(groups):
    conv = nn.Conv2d(16, 8, 3, groups=groups, padding=1)
    model = tk.sparsify(nn.Sequential(conv), density=0.25, rng=0)
    possible = conv.weight.numel()
    assert model[0].density == model[0].graph.density == round(0.25 * possible) / possible
    report = sparsity_report(model)
    assert report.layers[0].density == report.density == model[0].density
    table = describe({"a": model[0].graph, "b": model[0].graph})
    assert table["density"].tolist() == 3 * [model[0].density]
    complete = tk.sparsify(nn.Sequential(conv), density=1, rng=0)[0].graph
    assert complete.density == 1
    assert choose_kernel("auto", complete, "cpu")[1].startswith("the graph is complete")


@pytest.mark.parametrize("groups", [1, 4])
def test_a_layer_whose_edges_were_all_present_is_explored(groups, tmp_path):
    whole = random_layer(0, share=1.0, groups=groups)
    half = whole.n_edges // 2
    parts = [
        LayerGraph.from_edge_ids(ids, SHAPE, groups)
        for ids in (whole.edge_ids[:half], whole.edge_ids[half:])
    ]
    assert explored_fraction(parts) == 1
    assert explore(*parts) == whole
    update = EdgeUpdate.between(*parts)
    seen = MEMORIES["explored"].carry(update, parts[0].edge_ids, np.zeros(half))
    assert MEMORIES["explored"].show(seen, whole) == whole
    snapshot = None
    for epoch, graph in enumerate(parts):
        snapshot = snapshots.append(tmp_path, epoch, {"conv": graph}, snapshot)
    assert snapshots.explored(tmp_path, range(2)) == {"conv": whole}
    flow = active_flow({"a": whole})
    assert flow.effective_density == 1
    assert explored_fraction(parts[:1]) == 0.5
    with pytest.raises(ValueError, match="number of groups"):
        explored_fraction([whole, LayerGraph.from_edge_ids([0], SHAPE, 2 * groups)])


@pytest.mark.parametrize("groups", [1, 4])
def test_an_engine_says_which_share_of_the_possible_edges_was_present(groups):
    model = tk.sparsify(
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=groups, padding=1)), density=0.5, rng=0
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = Rewiring(drop_fraction=0.3, every=1)
    rng = np.random.default_rng(0)
    engine = Engine(model, optimizer, RULES["random"](), options, track_explored=True, rng=rng)
    assert engine.explored == {"0": 0.5}
    seen = set(model[0].graph.edge_ids.tolist())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 8, 4, 4)).square().sum().backward()
        optimizer.step()
        seen |= set(model[0].graph.edge_ids.tolist())
    assert engine.explored == {"0": len(seen) / model[0].graph.n_possible}
    assert engine.explored["0"] > 0.7
