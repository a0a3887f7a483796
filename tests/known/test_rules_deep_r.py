"""DEEP R with its prior and noise, against the algorithm written out on dense matrices."""

import numpy as np
import pytest
import torch

from topokit import attach
from topokit.graph import LayerGraph, same_edges
from topokit.nn import SparseLinear
from topokit.rules import RULES, LayerView
from topokit.rules.drop import random as drop_random
from topokit.rules.grow import uniform
from topokit.rules.rewire import UpdateRule, per_layer
from topokit.rules.stream import absent_drawn

LR, L1, TEMPERATURE, STEPS = 0.05, 0.02, 1e-3, 60
SHAPE = (6, 9)


def start():
    rng = np.random.default_rng(0)
    graph = LayerGraph.from_edge_ids(rng.choice(54, 20, replace=False), SHAPE)
    model = torch.nn.Sequential(SparseLinear(graph, bias=False, rng=1)).double()
    x = torch.from_numpy(rng.standard_normal((40, 9)))
    y = x @ torch.from_numpy(rng.standard_normal((9, 6)) * (rng.random((9, 6)) < 0.2))
    return model, x, y


def step(model, optimizer, x, y):
    optimizer.zero_grad()
    ((model(x) - y) ** 2).sum(dim=1).mean().backward()
    optimizer.step()


def by_the_paper(model, x, y, temperature):
    """Theta of every possible edge, its sign, and which are active, all dense; theta >= 0."""
    layer, rng, x, y = model[0], np.random.default_rng(7), x.numpy(), y.numpy()
    weight = layer.to_dense().detach().numpy().copy()
    active, sign, theta = weight != 0, np.sign(weight), np.abs(weight)
    moved = 0
    for at in range(1, STEPS + 1):
        weight = np.where(active, sign * theta, 0)
        gradient = 2 * (x @ weight.T - y).T @ x / len(x)
        theta = theta - LR * sign * gradient - LR * L1
        noise = np.zeros(SHAPE)
        noise[active] = rng.standard_normal(np.count_nonzero(active))
        theta = theta + sign * np.sqrt(2 * LR * temperature) * noise
        if at == STEPS:
            break
        dormant = active & (theta <= 0)
        active &= ~dormant
        n = np.count_nonzero(dormant)
        left = LayerGraph.from_edge_ids(np.flatnonzero(active), SHAPE)
        chosen = absent_drawn(left, n, rng) if n else np.empty(0, int)
        active.flat[chosen] = True
        theta.flat[chosen] = 1e-12
        view = LayerView(left, np.zeros(left.n_edges))
        sign.flat[chosen] = np.sign(RULES["deep_r"]().init(view, np.sort(chosen), rng))
        moved += n
    return active, np.where(active, sign * theta, 0), moved


@pytest.mark.parametrize("temperature", [TEMPERATURE, 1e-2])
def test_every_step_is_that_of_the_paper(temperature):
    model, x, y = start()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    rule = RULES["deep_r"](l1=L1, temperature=temperature)
    engine = attach(model, optimizer, rule, every=1, total=STEPS, rng=np.random.default_rng(7))
    active, weight, moved = by_the_paper(model, x, y, temperature)
    for _ in range(STEPS):
        step(model, optimizer, x, y)
    assert engine.updates == STEPS - 1
    assert moved > 20
    assert np.array_equal(model[0].graph.edge_ids, np.flatnonzero(active))
    assert np.allclose(model[0].to_dense().detach().numpy(), weight, rtol=1e-9, atol=1e-15)


def test_the_prior_shrinks_and_the_noise_has_the_papers_variance():
    graph = LayerGraph.from_edge_ids(range(40_000), (200, 200))
    values = np.where(np.arange(40_000) % 2, 1.0, -1.0)
    view = LayerView(graph, values, extra={"sign": np.sign(values)})
    rng = np.random.default_rng(0)
    assert np.allclose(RULES["deep_r"](l1=0.5).step(view, 0.1, rng), 0.95 * values)
    moved = RULES["deep_r"](temperature=0.2).step(view, 0.1, rng) - values
    assert moved.std() == pytest.approx(np.sqrt(2 * 0.1 * 0.2), rel=0.02)
    assert abs(moved.mean()) < 0.005
    assert RULES["deep_r"]().step is None


@pytest.mark.parametrize("stop_at", [1, 17, 40])
def test_a_run_stopped_and_resumed_equals_one_that_was_not(stop_at):
    def parts():
        model, x, y = start()
        optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.5)
        rule = RULES["deep_r"](l1=L1, temperature=TEMPERATURE)
        engine = attach(model, optimizer, rule, every=3, total=STEPS, rng=7)
        return model, optimizer, engine, x, y

    whole, optimizer, _, x, y = parts()
    for _ in range(STEPS):
        step(whole, optimizer, x, y)
    model, optimizer, engine, x, y = parts()
    for _ in range(stop_at):
        step(model, optimizer, x, y)
    states = [part.state_dict() for part in (model, optimizer, engine)]
    states = [torch.load(saved(state), weights_only=True) for state in states]
    model, optimizer, engine, x, y = parts()
    for part, state in zip((model, optimizer, engine), states, strict=True):
        part.load_state_dict(state)
    for _ in range(stop_at, STEPS):
        step(model, optimizer, x, y)
    assert same_edges(model[0].graph, whole[0].graph)
    assert torch.equal(model[0].values, whole[0].values)


def saved(state):
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_that_keep_their_graph_get_neither_prior_nor_noise(dtype):
    rng = np.random.default_rng(0)
    graphs = [LayerGraph.from_edge_ids(range(0, 30, 2), shape) for shape in ((5, 6), (6, 5))]
    model = torch.nn.Sequential(*(SparseLinear(graph, rng=rng) for graph in graphs)).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rule = RULES["deep_r"](temperature=0.5)
    attach(model, optimizer, rule, every=5, skip=["1"], rng=0)
    before = [layer.values.detach().clone() for layer in model]
    for layer in model:
        layer.values.grad = torch.zeros_like(layer.values)
    optimizer.step()
    assert not torch.equal(model[0].values, before[0])
    assert torch.equal(model[1].values, before[1])
    assert model[0].values.dtype == dtype


def test_any_rule_can_change_the_values_of_a_step():
    def clip(view, lr, rng):
        return np.clip(view.values, -0.1, 0.1)

    model, x, y = start()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    rule = UpdateRule(drop_random, uniform, plan=per_layer, step=clip)
    attach(model, optimizer, rule, every=4, rng=0)
    for _ in range(9):
        step(model, optimizer, x, y)
        assert model[0].values.abs().max() <= 0.1
    rule = rule._replace(step=lambda view, lr, rng: np.zeros(3))
    model, x, y = start()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    attach(model, optimizer, rule, every=4, rng=0)
    with pytest.raises(ValueError, match="expected 20 values from the rule's step"):
        step(model, optimizer, x, y)


@pytest.mark.parametrize("wrong", ["l1", "temperature"])
def test_negative_strengths_are_refused(wrong):
    with pytest.raises(ValueError, match=f"expected {wrong} of at least 0, got -1"):
        RULES["deep_r"](**{wrong: -1})


class WithoutRate(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            parameter -= 0.1 * parameter.grad


def test_an_optimizer_without_a_learning_rate_is_refused():
    model, x, y = start()
    optimizer = WithoutRate(model.parameters())
    attach(model, optimizer, RULES["deep_r"](temperature=0.1), every=3, rng=0)
    with pytest.raises(ValueError, match="expected a learning rate of layer '0'"):
        step(model, optimizer, x, y)
