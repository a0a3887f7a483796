import numpy as np
import pytest
from hypothesis import example, given

from tests.strategies import layer_graphs
from topokit.graph import LayerGraph
from topokit.measures import LAYER_MEASURES
from topokit.measures.expansion import (
    imdb,
    mixing_certificate,
    percolation,
    sweep_cut,
    universal_cover_margin,
    universal_cover_radius,
)

mixing = LAYER_MEASURES["normalized_spectral_gap"]


def circulant(n, steps):
    rows = np.repeat(np.arange(n), len(steps))
    return LayerGraph.from_edge_ids(rows * n + (rows + np.tile(steps, n)) % n, (n, n))


@pytest.mark.parametrize(
    ("graph", "radius"),
    [
        (LayerGraph.from_edge_ids(range(12), (3, 4)), np.sqrt(2) + np.sqrt(3)),
        (circulant(9, [0, 1]), 2),
        (circulant(7, [0, 1, 3]), 2 * np.sqrt(2)),
    ],
)
def test_radius_of_biregular_covers(graph, radius):
    assert universal_cover_radius(graph) == pytest.approx(radius, abs=1e-6)


def test_trees_are_their_own_cover():
    star = LayerGraph.from_edge_ids(range(9), (1, 9))
    assert universal_cover_radius(star) == pytest.approx(3, abs=1e-5)


def bisected(graph):
    """Radius by its definition: messages from nothing stay positive or not, 20,000 rounds."""
    rows, columns = graph.rows, graph.indices

    def stays(trial):
        down = np.zeros(graph.n_edges)
        for _ in range(20_000):
            new = down
            for units, count in ((columns, graph.n_in), (rows, graph.n_out)):
                sums = np.bincount(units, new, count)
                room = trial - (sums[units] - new)
                if sums.max() >= trial or room.min() <= 0:
                    return False
                new = 1 / room
            if np.abs(new - down).max() < 1e-12:
                return True
            down = new
        return True

    low, high = 1.0, 10.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if stays(middle) else (middle, high)
    return high


@pytest.mark.slow
def test_radius_of_irregular_covers_is_that_of_its_definition(rng):
    nested = LayerGraph.from_edge_ids([6 * i + j for i in range(6) for j in range(6 - i)], (6, 6))
    mask = rng.random((15, 12)) < 0.2
    for graph in (nested, LayerGraph.from_edge_ids(np.flatnonzero(mask), mask.shape)):
        assert universal_cover_radius(graph) == pytest.approx(bisected(graph), abs=3e-6)


def test_uneven_degrees_raise_the_bound(rng):
    weights = rng.pareto(2.0, 80) + 0.2
    mask = rng.random((100, 80)) < np.minimum(0.1 * weights / weights.mean(), 1)
    graph = LayerGraph.from_edge_ids(np.flatnonzero(mask), (100, 80))
    assert universal_cover_margin(graph) > LAYER_MEASURES["ramanujan_margin"](graph)


@given(layer_graphs())
def test_mixing_lemma(graph):
    value = mixing_certificate(graph)
    assert np.isnan(value) or value <= 1 + 1e-7


@example(LayerGraph.from_edge_ids([0], (2, 2)))  # without its leading vector the operator is 0
@example(LayerGraph.from_edge_ids([0, 1], (3, 2)))
@given(layer_graphs())
def test_cheeger(graph):
    cut = sweep_cut(graph)
    if np.isnan(cut.conductance):
        return
    gap = mixing(graph)
    assert gap / 2 - 1e-9 <= cut.conductance
    inside = np.isin(graph.indices, cut.inputs).astype(int) + np.isin(graph.rows, cut.outputs)
    volume = graph.fan_out[cut.inputs].sum() + graph.fan_in[cut.outputs].sum()
    assert cut.conductance == pytest.approx(np.count_nonzero(inside == 1) / volume)
    if min(np.count_nonzero(graph.fan_in), np.count_nonzero(graph.fan_out)) > 1:
        assert cut.conductance <= np.sqrt(2 * gap) + 1e-7


def test_sweep_cut_names_the_bottleneck():
    rng = np.random.default_rng(0)
    mask = np.zeros((200, 200))
    mask[:80, :90] = rng.random((80, 90)) < 0.2
    mask[80:, 90:] = rng.random((120, 110)) < 0.2
    mask[0, 199] = 1
    cut = sweep_cut(LayerGraph.from_edge_ids(np.flatnonzero(mask), (200, 200)))
    assert cut.inputs.tolist() == list(range(90))
    assert cut.outputs.tolist() == list(range(80))


def test_imdb_is_the_margin_of_even_parts():
    graph = circulant(13, [0, 1, 3, 9])
    assert imdb(graph) == pytest.approx(LAYER_MEASURES["ramanujan_margin"](graph))
    wide = LayerGraph.from_edge_ids(range(36), (6, 6))
    both = np.zeros((19, 19))
    both[:13, :13], both[13:, 13:] = graph.to_csr().toarray(), 1
    mean = (imdb(graph) + imdb(wide)) / 2
    assert imdb(LayerGraph.from_edge_ids(np.flatnonzero(both), both.shape)) == pytest.approx(mean)
    assert np.isnan(imdb(circulant(9, [0, 1])))


def test_percolation_of_equal_degrees():
    assert percolation(circulant(9, [0, 1])) == 1
    assert percolation(LayerGraph.from_edge_ids(range(12), (3, 4))) == 2 * 3
    assert np.isnan(percolation(LayerGraph.from_edge_ids([], (3, 4))))


def test_random_layers_percolate_above_the_threshold(rng):
    for edges, giant in ((250, False), (900, True)):
        graph = LayerGraph.from_edge_ids(rng.permutation(400 * 400)[:edges], (400, 400))
        assert (percolation(graph) > 1) == giant
        assert (LAYER_MEASURES["giant_share"](graph) > 0.3) == giant
