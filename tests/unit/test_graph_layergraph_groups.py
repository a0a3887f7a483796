"""Graphs whose edges lie within the groups of a grouped convolution."""

import pickle

import numpy as np
import pytest

from topokit.graph import EdgeUpdate, LayerGraph, sample_absent, top_absent
from topokit.rules import RULES, LayerView
from topokit.rules.rewire import rewire_network

SHAPES = [((6, 9), 3), ((4, 20), 4), ((6, 6), 1), ((5, 45), 5)]


def possible(shape, groups):
    """Cells within the groups, by hand: ones on the blocks of the diagonal."""
    n_out, n_in = shape
    return np.kron(np.eye(groups), np.ones((n_out // groups, n_in // groups))).astype(bool)


def grouped(rng, shape, groups, n):
    ids = rng.choice(np.flatnonzero(possible(shape, groups)), n, replace=False)
    return LayerGraph.from_edge_ids(ids, shape, groups)


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_ids_in_groups_are_those_of_the_stored_weight(rng, shape, groups):
    graph = grouped(rng, shape, groups, 11)
    blocks = graph.to_csr().toarray().reshape(groups, shape[0] // groups, groups, -1)
    stored = np.concatenate([blocks[g, :, g] for g in range(groups)])
    assert np.array_equal(graph.ids_in_groups, np.flatnonzero(stored))
    assert LayerGraph.from_ids_in_groups(graph.ids_in_groups, shape, groups) == graph
    assert graph.n_possible == possible(shape, groups).sum()
    assert graph.n_absent == graph.n_possible - 11
    assert graph.density == 11 / graph.n_possible
    assert pickle.loads(pickle.dumps(graph)).groups == groups


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_absent_edges_are_drawn_and_scored_within_groups(rng, shape, groups):
    graph = grouped(rng, shape, groups, 7)
    absent = np.flatnonzero(possible(shape, groups))
    absent = np.setdiff1d(absent, graph.edge_ids)
    assert np.array_equal(sample_absent(graph, graph.n_absent, rng), absent)
    drawn = np.concatenate([sample_absent(graph, 2, rng) for _ in range(400)])
    assert np.array_equal(np.unique(drawn), absent)
    scores = rng.standard_normal(shape)
    best = absent[np.argsort(-scores.ravel()[absent])[:5]]
    for cells in (1, 1 << 20):
        found = top_absent(graph, 5, lambda rows: scores[rows], block_cells=cells)
        assert np.array_equal(found, np.sort(best))
    with pytest.raises(ValueError, match="cannot pick"):
        sample_absent(graph, graph.n_absent + 1, rng)


def test_edges_between_groups_are_refused():
    with pytest.raises(ValueError, match="expected edges within 2 groups"):
        LayerGraph.from_edge_ids([1], (2, 2), 2)
    with pytest.raises(ValueError, match="divides 3 input and 2 output units, got 2"):
        LayerGraph.from_edge_ids([0], (2, 3), 2)
    graph = LayerGraph.from_edge_ids([0], (2, 2), 2)
    with pytest.raises(ValueError, match="expected edges within 2 groups"):
        EdgeUpdate.from_decisions(graph, [], [1])
    assert EdgeUpdate.from_decisions(graph, [], [3]).after.groups == 2


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_grows_within_groups(rng, name):
    shape, groups, rule = (12, 24), 4, RULES[name]()
    graph = grouped(rng, shape, groups, 40)
    allowed = possible(shape, groups)
    for _ in range(5):
        sides = {"inputs": 24, "outputs": 12, "output_grad": 12}
        arrays = {side: rng.standard_normal((8, width)) for side, width in sides.items()}
        extra = {
            "explored": graph, "sign": np.sign(rng.standard_normal(graph.n_edges)),
            "sensitivity": rng.random(graph.n_edges), "stalled": False,
        }  # fmt: skip
        view = LayerView(graph, rng.standard_normal(graph.n_edges), **arrays, extra=extra)
        for entry, memory in (rule.memory or {}).items():
            extra[entry] = memory.show(memory.start(view), graph)
        changes = rewire_network({"conv": view}, rule, drop_fraction=0.4, progress=0.5, rng=rng)
        if changes:
            graph = changes["conv"][0].after
        assert graph.groups == groups
        assert allowed.ravel()[graph.edge_ids].all()
    full = LayerGraph.from_edge_ids(np.flatnonzero(allowed), shape, groups)
    assert full.n_absent == 0
