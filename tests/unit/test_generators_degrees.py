import itertools

import numpy as np
import pytest
from hypothesis import given

from tests.strategies import layer_graphs
from topokit.generators.degrees import (
    gale_ryser_violation,
    graph_with_degrees,
    randomized_twin,
    switched_twin,
)
from topokit.generators.random import biregular, configuration, erdos_renyi
from topokit.graph import LayerGraph, same_edges


def degrees(graph):
    return graph.fan_in.tolist(), graph.fan_out.tolist()


@given(layer_graphs(min_side=1))
def test_degrees_of_any_graph_can_be_drawn(graph):
    rng = np.random.default_rng(0)
    assert gale_ryser_violation(graph.fan_in, graph.fan_out) is None
    drawn = graph_with_degrees(graph.fan_in, graph.fan_out, rng=rng)
    assert degrees(drawn) == degrees(graph)
    assert degrees(randomized_twin(graph, rng=rng)) == degrees(graph)
    assert degrees(switched_twin(graph, rng=rng)) == degrees(graph)


def test_gale_ryser_agrees_with_enumeration():
    possible = set()
    for bits in itertools.product([0, 1], repeat=9):
        matrix = np.reshape(bits, (3, 3))
        possible.add((tuple(matrix.sum(1)), tuple(matrix.sum(0))))
    for a in itertools.product(range(4), repeat=3):
        for b in itertools.product(range(4), repeat=3):
            assert (gale_ryser_violation(a, b) is None) == ((a, b) in possible)


def test_impossible_degrees_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="the 1 largest fan-ins add up to 3, but"):
        graph_with_degrees([3, 0], [2, 1, 0], rng=rng)
    with pytest.raises(ValueError, match="fan-in adds up to 2 edges and fan-out to 3"):
        graph_with_degrees([1, 1], [2, 1], rng=rng)
    with pytest.raises(ValueError, match="expected fan_in to be a list of integers >= 0"):
        graph_with_degrees([-1, 1], [0], rng=rng)


def test_nested_degrees_have_one_realisation():
    fan_out = np.arange(30, 0, -1)
    nested = LayerGraph.from_edge_ids(
        [i * 30 + j for i in range(30) for j in range(30) if i + j < 30], (30, 30)
    )
    drawn = graph_with_degrees(fan_out, fan_out, rng=np.random.default_rng(0))
    assert same_edges(drawn, nested)


def test_few_rows_with_hubs():
    fan_in, fan_out = [50, 50, 1], [3] + [2] * 49
    drawn = graph_with_degrees(fan_in, fan_out, rng=np.random.default_rng(0))
    assert degrees(drawn) == (fan_in, fan_out)


@pytest.mark.parametrize("chain", [randomized_twin, switched_twin])
def test_every_realisation_is_equally_likely(chain):
    start = LayerGraph.from_edge_ids([0, 4, 8], (3, 3))
    rng = np.random.default_rng(3)
    counts = {}
    for _ in range(3000):
        key = tuple(chain(start, rng=rng).indices.tolist())
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 6
    assert sum((c - 500) ** 2 / 500 for c in counts.values()) < 20.5  # 0.1 % point, 5 degrees


@pytest.mark.parametrize("chain", [randomized_twin, switched_twin])
def test_twins_keep_no_more_edges_than_chance(chain):
    rng = np.random.default_rng(0)
    band = LayerGraph.from_edge_ids(
        [i * 200 + (i + j) % 200 for i in range(200) for j in range(10)], (200, 200)
    )
    twin = chain(band, rng=rng)
    kept = np.isin(twin.edge_ids, band.edge_ids).sum()
    assert abs(kept - 100) < 5 * np.sqrt(100)
    dense = erdos_renyi(60, 50, density=0.7, rng=rng)
    assert degrees(chain(dense, rng=rng)) == degrees(dense)


def test_twin_of_a_trivial_graph():
    rng = np.random.default_rng(0)
    for graph in (
        LayerGraph.from_edge_ids([], (3, 2)),
        LayerGraph.from_edge_ids([1], (1, 3)),
        LayerGraph.from_edge_ids(range(6), (2, 3)),
    ):
        assert same_edges(randomized_twin(graph, rng=rng), graph)
    with pytest.raises(ValueError, match="expected at least 1 sweep, got 0"):
        randomized_twin(graph, rng=rng, sweeps=0)


def test_configuration_says_what_would_fit():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="expected 2 degrees in fan_in, got 3"):
        configuration(3, 2, density=0.5, rng=rng, fan_in=[1, 1, 1])
    with pytest.raises(ValueError, match=r"add up to 3 edges.*got 4; density 0\.6666"):
        configuration(3, 2, density=0.5, rng=rng, fan_in=[2, 2])


@pytest.mark.parametrize("density", [0.01, 0.013, 0.5, 0.77])
def test_biregular_degrees_are_within_one(density):
    for n_in, n_out in [(64, 10), (200, 500), (97, 101)]:
        graph = biregular(n_in, n_out, density=density, rng=np.random.default_rng(1))
        assert np.ptp(graph.fan_in) <= 1
        assert np.ptp(graph.fan_out) <= 1


@pytest.mark.slow
def test_a_million_edges():
    graph = biregular(100_000, 100_000, density=1e-4, rng=np.random.default_rng(0))
    assert set(graph.fan_in) == set(graph.fan_out) == {10}
    twin = randomized_twin(graph, rng=np.random.default_rng(1))
    assert abs(np.isin(twin.edge_ids, graph.edge_ids).sum() - 100) < 50


@pytest.mark.parametrize("swaps", [0, -1, np.inf, np.nan])
def test_a_chain_of_no_swaps_is_refused(swaps):
    graph = LayerGraph.from_edge_ids([0, 5], (2, 4))
    with pytest.raises(ValueError, match="expected swaps_per_edge above 0, got"):
        switched_twin(graph, rng=0, swaps_per_edge=swaps)
    with pytest.raises(ValueError, match=r"expected at least 1 sweep, got 1\.5"):
        randomized_twin(graph, rng=0, sweeps=1.5)
