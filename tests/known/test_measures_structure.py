"""Communities and correlations worked out by hand."""

import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.measures import LAYER_MEASURES, find_communities, structure
from topokit.measures.structure import barber_modularity


def test_modularity_of_communities_that_lie_on_one_side_alone():
    graph = LayerGraph.from_edge_ids([0, 1, 4, 5, 10, 11, 14, 15], (4, 4))  # two blocks of 2 x 2
    assert barber_modularity(graph, [0, 0, 1, 1], [0, 0, 1, 1]) == pytest.approx(0.5)
    assert barber_modularity(graph, [0, 0, 0, 0], [0, 0, 1, 1]) == pytest.approx(0)
    assert barber_modularity(graph, [0, 0, 1, 1], [0, 0, 2, 3]) == pytest.approx(0.25)
    assert barber_modularity(graph, [0, 0, 1, 5], [0, 0, 1, 1]) == pytest.approx(3 / 8)


@pytest.mark.parametrize("seed", range(3))
def test_a_cycle_is_cut_into_arcs(seed):
    # c arcs of one length on a cycle of 120 edges have modularity 1 - c / 120 - 1 / c.
    at = np.arange(60)
    cycle = LayerGraph.from_edge_ids(np.concatenate([at * 61, at * 60 + (at + 1) % 60]), (60, 60))
    found = find_communities(cycle, rng=np.random.default_rng(seed))
    assert found.modularity == pytest.approx(barber_modularity(cycle, *found[1:3]))
    assert 0.99 * (1 - 11 / 120 - 1 / 11) < found.modularity <= 1 - 11 / 120 - 1 / 11


def test_merging_goes_on_with_the_gains_of_merged_communities():
    found = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        graph = LayerGraph.from_edge_ids(rng.permutation(3600)[:150], (60, 60))
        found.append(find_communities(graph, rng=rng).modularity)
    assert np.mean(found) > 0.605  # 0.59 with the gains of before


def test_assortativity_is_undefined_where_one_side_is_regular():
    uneven = LayerGraph.from_edge_ids([0, 1, 2, 4], (2, 3))
    assert np.isfinite(LAYER_MEASURES["assortativity"](uneven))
    for edges in ([(0, 0), (0, 1), (1, 0), (1, 2)], [(0, 0), (1, 0), (0, 1), (2, 1)], [(0, 0)]):
        for pairs in (edges, [(b, a) for a, b in edges]):
            graph = LayerGraph.from_edge_ids([3 * a + b for a, b in pairs], (3, 3))
            assert np.isnan(LAYER_MEASURES["assortativity"](graph))


def test_overlaps_do_not_depend_on_how_many_rows_are_taken_at_once(monkeypatch, rng):
    graph = LayerGraph.from_edge_ids(rng.permutation(30 * 40)[:200], (30, 40))
    whole = LAYER_MEASURES["pair_clustering"](LayerGraph.from_edge_ids(graph.edge_ids, graph.shape))
    monkeypatch.setattr(structure, "BLOCK", 60)
    parts = LAYER_MEASURES["pair_clustering"](graph)
    assert parts == pytest.approx(whole)
    matrix = graph.to_csr().toarray()
    values = []
    for one in (matrix, matrix.T):
        shared, degree = one @ one.T, one.sum(axis=1)
        for i in range(len(one)):
            with_i = [j for j in range(len(one)) if j != i and shared[i, j]]
            if degree[i]:
                union = [shared[i, j] / (degree[i] + degree[j] - shared[i, j]) for j in with_i]
                values.append(np.mean(union) if union else 0.0)
    assert whole.union == pytest.approx(np.mean(values))
