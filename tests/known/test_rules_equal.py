"""Which rules are the same at their default settings: found by training, and warned about."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from topokit import attach
from topokit.graph import LayerGraph
from topokit.nn import SparseLinear
from topokit.rules import RULES

EQUAL = {
    "gmp": ("static", {"final_density": 0.05}),
    "granet": ("rigl", {"final_density": 0.05}),
    "mest": ("set_magnitude", {"gradient_weight": 3.0}),
    "itop": ("set_magnitude", {"growth": "unfired"}),
    "chtss": ("chts", {"final_density": 0.05}),
}


def trained(name, **params):
    """The edges of a network of density 0.1 after 24 steps with 5 rewirings."""
    rng = np.random.default_rng(0)
    graphs = [
        LayerGraph.from_edge_ids(rng.choice(a * b, a * b // 10, replace=False), (b, a))
        for a, b in ((30, 40), (40, 20))
    ]
    layers = [SparseLinear(graph, rng=rng) for graph in graphs]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    engine = attach(
        model, optimizer, name, every=4, total=24, epoch_steps=30, drop_fraction=0.3, rng=1,
        **params,
    )  # fmt: skip
    x = torch.from_numpy(rng.standard_normal((24, 50, 30)).astype(np.float32))
    y = torch.from_numpy(rng.integers(20, size=(24, 50)))
    for batch, labels in zip(x, y, strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), labels).backward()
        optimizer.step()
    assert engine.updates == 5
    return tuple(tuple(layer.graph.edge_ids.tolist()) for layer in layers)


@pytest.mark.slow
def test_the_rules_that_equal_another_are_those_that_warn():
    edges = {name: trained(name) for name in RULES}
    found = {
        name: [other for other in RULES if other != name and edges[other] == edges[name]]
        for name in RULES
    }
    group = {name: EQUAL.get(name, (name,))[0] for name in RULES}
    assert found == {
        name: [other for other in RULES if other != name and group[other] == group[name]]
        for name in RULES
    }


@pytest.mark.parametrize("name", EQUAL)
def test_a_rule_that_equals_another_says_so_once_and_what_differs(name):
    other, difference = EQUAL[name]
    with pytest.warns(UserWarning, match=rf"{name!r} with its default .* equals {other!r}") as seen:
        RULES[name]()
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert set(difference) <= set(str(seen[0].message).replace("=", " ").split())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RULES[name](**difference)
    assert trained(name, **difference) != trained(other)


def test_mest_without_gradients_is_set_magnitude():
    assert trained("mest", gradient_weight=0.0) == trained("set_magnitude")
