import numpy as np
import pytest

from topokit.graph import LayerGraph
from topokit.rules import RULES, LayerView, rewire_network


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("rigl", {"regrown": "maybe"}, "expected regrown to be 'zero' or 'keep', got 'maybe'"),
        ("mest", {"gradient_weight": -1}, "expected a gradient_weight of at least 0, got -1"),
        ("itop", {"growth": "new"}, "expected growth to be 'unfired' or 'random', got 'new'"),
        ("deep_r", {"start": 0}, "expected a positive start, got 0"),
        ("gmp", {"final_density": 0}, "expected 0 < final <= initial <= 1"),
        ("granet", {"final_density": 0.6}, "expected 0 < final <= initial <= 1"),
    ],
)
def test_parameters_are_checked_when_the_rule_is_made(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        RULES[name](**parameters)


@pytest.mark.parametrize(
    ("name", "missing"),
    [("sensitivity", "sensitivity"), ("deep_r", "sign"), ("ctre_seq", "stalled")],
)
def test_missing_memory_is_named(name, missing, rng):
    rule, view = RULES[name](), LayerView(LayerGraph.from_edge_ids([0, 1], (2, 2)), np.ones(2))
    with pytest.raises(ValueError, match=rf"needs extra\['{missing}'\] in the view"):
        rewire_network({"a": view}, rule, drop_fraction=0.5, progress=0.0, rng=rng)


def test_importance_must_fit_the_layer():
    view = LayerView(
        LayerGraph.from_edge_ids([0, 1], (2, 2)), np.ones(2), extra={"sensitivity": np.ones(3)}
    )
    with pytest.raises(ValueError, match=r"expected extra\['sensitivity'\] of shape \(2,\)"):
        RULES["sensitivity"]().drop(view, 1, np.random.default_rng(0))


def test_chain_removal_cannot_drop_more_than_it_prepared(rng):
    graph = LayerGraph.from_edge_ids([0, 1], (2, 2))
    view = LayerView(graph, np.ones(2), extra={"leaving": np.array([1])})
    rule = RULES["cht"](chain_removal=True)
    assert rule.drop(view, 1, rng).tolist() == [1]
    with pytest.raises(ValueError, match="expected n_drop of at most 1, got 2"):
        rule.drop(view, 2, rng)
