"""Reach and paths counted by hand."""

import itertools

import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.measures.connectivity import (
    active_flow,
    distances,
    efficiency,
    network_giant_share,
)
from topokit.measures.spectral import algebraic_connectivity_giant


def layer(shape, edges):
    """A layer of (output unit, input unit) pairs."""
    return LayerGraph.from_edge_ids([a * shape[1] + b for a, b in edges], shape)


def test_units_and_edges_on_a_path_from_input_to_output():
    # Of 4 + 3 hidden units, four are on a path: 0 and 1 of the first layer, 0 and 2 of the second.
    found = active_flow(
        {
            "fc1": layer((4, 2), [(0, 0), (1, 1), (2, 0)]),
            "fc2": layer((3, 4), [(0, 0), (2, 1), (1, 3)]),
            "fc3": layer((2, 3), [(0, 0), (1, 2), (0, 1)]),
        }
    )
    assert found.units == pytest.approx(4 / 7)
    assert found.edges == pytest.approx(6 / 9)
    assert found.effective_density == pytest.approx(6 / (8 + 12 + 6))
    assert found.log10_paths == pytest.approx(np.log10(2))


def test_paths_of_a_wide_first_layer():
    wide = {"fc1": layer((2, 5), [(0, 4), (0, 0), (1, 3)]), "fc2": layer((1, 2), [(0, 0), (0, 1)])}
    found = active_flow(wide)
    assert found.log10_paths == pytest.approx(np.log10(3))
    assert (found.units, found.edges) == (1, 1)


def test_more_paths_than_a_float_can_hold():
    dense = LayerGraph.from_edge_ids(range(100), (10, 10))
    assert active_flow({f"fc{i}": dense for i in range(400)}).log10_paths == pytest.approx(401)


def test_the_share_of_the_largest_component_of_a_network():
    chain = {"fc1": layer((2, 3), [(0, 0), (1, 1)]), "fc2": layer((1, 2), [(0, 0)])}
    assert network_giant_share(chain) == pytest.approx(3 / 6)


def test_networks_that_do_not_chain_have_no_components():
    apart = {"fc1": layer((2, 3), [(0, 0)]), "fc2": layer((2, 3), [(0, 0)])}
    assert np.isnan(network_giant_share(apart))
    assert np.isnan(network_giant_share({}))


@pytest.mark.parametrize("measure", [lambda graph: distances(graph).mean, efficiency])
def test_distances_of_more_units_than_the_limit_are_not_taken(measure):
    for n_in in (4096 - 50, 51):
        graph = layer((4096 + 1 - n_in, n_in), [(0, 0), (1, 0)])
        assert np.isnan(measure(graph))
    assert np.isfinite(measure(layer((30, 51), [(0, 0), (1, 0)])))


def test_of_tied_components_those_with_most_edges_count():
    """A square, a path of four units, and a square again, in every order."""
    square, path = [(0, 0), (0, 1), (1, 0), (1, 1)], [(0, 0), (0, 1), (1, 1)]
    for order in itertools.permutations([square, path, path]):
        pairs = [(a + 2 * i, b + 2 * i) for i, block in enumerate(order) for a, b in block]
        graph = layer((6, 6), pairs)
        assert distances(graph) == pytest.approx((4 / 3, 2))
        assert algebraic_connectivity_giant(graph) == pytest.approx(2)


def test_thousands_of_tied_components_have_the_least_connectivity():
    """5,000 paths of three edges; of stars and paths with as many edges, the path has less."""
    n = 5000
    pairs = [(2 * i + a, 2 * i + b) for i in range(n) for a, b in ((0, 0), (0, 1), (1, 1))]
    assert algebraic_connectivity_giant(layer((2 * n, 2 * n), pairs)) == pytest.approx(
        2 - np.sqrt(2)
    )
    stars = [(i, 3 * i + j) for i in range(100) for j in range(3)]
    at = (100, 300)
    mixed = [*stars, *((at[0] + a, at[1] + b) for a, b in ((0, 0), (0, 1), (1, 1)))]
    assert algebraic_connectivity_giant(layer((102, 302), mixed)) == pytest.approx(2 - np.sqrt(2))
    assert algebraic_connectivity_giant(layer((100, 300), stars)) == pytest.approx(1)
