import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.measures import barber_modularity, find_communities


def blocks(k, a, b):
    ids = [
        (block * b + row) * k * a + block * a + column
        for block in range(k)
        for row in range(b)
        for column in range(a)
    ]
    return LayerGraph.from_edge_ids(ids, (k * b, k * a))


@pytest.mark.parametrize("k", [1, 2, 3, 7, 20])
def test_equal_complete_blocks(k):
    graph = blocks(k, 4, 3)
    inputs, outputs = np.repeat(np.arange(k), 4), np.repeat(np.arange(k), 3)
    assert barber_modularity(graph, inputs, outputs) == pytest.approx(1 - 1 / k)
    found = find_communities(graph, rng=np.random.default_rng(0))
    assert found.modularity == pytest.approx(1 - 1 / k)


def test_by_definition():
    rng = np.random.default_rng(0)
    mask = rng.random((9, 14)) < 0.3
    graph = LayerGraph.from_edge_ids(np.flatnonzero(mask), mask.shape)
    one, two = rng.integers(0, 3, 14), rng.integers(0, 3, 9)
    chance = np.outer(mask.sum(1), mask.sum(0)) / mask.sum()
    exact = ((mask - chance) * (two[:, None] == one[None, :])).sum() / mask.sum()
    assert barber_modularity(graph, one, two) == pytest.approx(exact)
    found = find_communities(graph, rng=rng)
    assert found.modularity == pytest.approx(barber_modularity(graph, found.inputs, found.outputs))
    assert found.modularity > exact


def test_planted_communities_are_found():
    rng = np.random.default_rng(1)
    one, two = np.repeat(np.arange(5), 30), np.repeat(np.arange(5), 20)
    mask = rng.random((100, 150)) < np.where(two[:, None] == one[None, :], 0.3, 0.02)
    graph = LayerGraph.from_edge_ids(np.flatnonzero(mask), mask.shape)
    found = find_communities(graph, rng=rng)
    assert found.modularity >= barber_modularity(graph, one, two) - 1e-9


def test_wrong_communities_are_named():
    graph = blocks(2, 2, 2)
    with pytest.raises(ValueError, match="expected a community for each of 4 input and 4 output"):
        barber_modularity(graph, [0], [0] * 4)
    with pytest.raises(ValueError, match="expected communities 0 or more"):
        barber_modularity(graph, [0, 0, 0, -1], [0] * 4)
    with pytest.raises(ValueError, match=r"expected communities 0 or more: .* got 0\.9"):
        barber_modularity(graph, [0, 0, 0, 0.9], [0] * 4)
    with pytest.raises(ValueError, match=r"expected communities 0 or more: .* got dtype"):
        barber_modularity(graph, [0] * 4, list("aabb"))
    empty = LayerGraph.from_edge_ids([], (2, 2))
    assert np.isnan(barber_modularity(empty, [0, 0], [0, 0]))
    assert np.isnan(find_communities(empty, rng=np.random.default_rng(0)).modularity)
