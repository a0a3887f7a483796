import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given

from tests.strategies import layer_graphs, topologies
from topokit.graph import LayerGraph
from topokit.graph.convert import to_networkx
from topokit.measures.connectivity import active_flow, efficiency
from topokit.measures.degree import hub_share
from topokit.measures.structure import (
    assortativity,
    butterflies,
    nestedness,
    rich_club,
    robins_alexander,
)


def circulant(n, steps):
    rows = np.repeat(np.arange(n), len(steps))
    return LayerGraph.from_edge_ids(rows * n + (rows + np.tile(steps, n)) % n, (n, n))


def complete(n_out, n_in):
    return LayerGraph.from_edge_ids(range(n_out * n_in), (n_out, n_in))


@given(layer_graphs())
def test_butterflies_and_clustering_agree_with_counting(graph):
    b = graph.to_csr().toarray()
    common = b @ b.T
    np.fill_diagonal(common, 0)
    assert butterflies(graph) == (common * (common - 1)).sum() / 4
    oracle = nx.bipartite.robins_alexander_clustering(to_networkx(graph))
    assert robins_alexander(graph) == pytest.approx(oracle)


@given(layer_graphs())
def test_efficiency_agrees_with_networkx(graph):
    if graph.n_in + graph.n_out >= 2:
        assert efficiency(graph) == pytest.approx(nx.global_efficiency(to_networkx(graph)))


def test_known_structures():
    heawood = circulant(7, [0, 1, 3])
    assert (butterflies(heawood), robins_alexander(heawood)) == (0, 0)
    assert butterflies(circulant(6, [1, 2, 3, 4, 5])) == 90
    assert butterflies(circulant(11, [1, 3, 4, 5, 9])) == 55
    assert robins_alexander(circulant(4, [1, 2, 3])) == 0.5
    assert np.isnan(assortativity(complete(3, 5)))
    assert nestedness(complete(4, 4)) == 0
    assert rich_club(complete(4, 6)) == 1


def test_dense_path_counts():
    widths = [784, 1000, 1000, 1000, 10]
    dense = {f"fc{i}": complete(b, a) for i, (a, b) in enumerate(itertools.pairwise(widths))}
    flow = active_flow(dense)
    assert flow.log10_paths == pytest.approx(np.log10(7.84e12))
    assert (flow.units, flow.edges, flow.effective_density) == (1, 1, 1)


def test_a_unit_without_inputs_is_inactive():
    first = LayerGraph.from_edge_ids([0, 1], (2, 2))
    flow = active_flow({"fc1": first, "fc2": complete(2, 2)})
    assert flow.units == 0.5
    assert flow.effective_density == 4 / 8
    assert flow.log10_paths == pytest.approx(np.log10(4))


@given(topologies())
def test_path_counts_are_the_matrix_product(topology):
    product = None
    for graph in topology.values():
        b = graph.to_csr().toarray()
        product = b if product is None else b @ product
    count = product.sum()
    flow = active_flow(topology)
    if count:
        assert 10**flow.log10_paths == pytest.approx(count)
    else:
        assert np.isnan(flow.log10_paths)


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_a_share_of_units_is_above_0_and_at_most_1(share):
    graph = LayerGraph.from_edge_ids(range(6), (2, 3))
    for call in (lambda: rich_club(graph, share=share), lambda: hub_share([1, 2], share=share)):
        with pytest.raises(ValueError, match=r"expected a share of units in \(0, 1\], got"):
            call()
