"""Positions a rule must not name, among others that are right."""

import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.rules import UpdateRule
from topokit.rules.rewire import LayerView, rewire

VIEW = LayerView(LayerGraph.from_edge_ids([0, 2, 5, 7, 9], (3, 4)), np.arange(5.0))


@pytest.mark.parametrize(("positions", "span"), [([-1, 2], "-1..2"), ([2, 5], "2..5")])
def test_a_single_wrong_position_is_refused(positions, span):
    rule = UpdateRule(lambda *_: np.array(positions), lambda *_: np.array([1]))
    with pytest.raises(ValueError, match=rf"positions to drop in 0\.\.4, got {span}"):
        rewire(VIEW, rule, n_drop=2, n_grow=1, rng=np.random.default_rng(0))


def test_edges_may_enter_without_any_that_leave():
    rule = UpdateRule(lambda *_: np.empty(0, int), lambda *_: np.array([1, 11]))
    update, values = rewire(VIEW, rule, n_drop=0, n_grow=2, rng=np.random.default_rng(0))
    assert update.after.edge_ids.tolist() == [0, 1, 2, 5, 7, 9, 11]
    assert values.tolist() == [0, 0, 1, 2, 3, 4, 0]
