"""Layers that no step trains between two rewirings keep their graph, and a warning names them."""

import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from topokit.graph import LayerGraph, same_edges
from topokit.nn import SparseLinear
from topokit.nn.engine import attach
from topokit.rules import RULES

WORDS = r"layers {} got no gradient in any step since the last rewiring, and keep their graph"


class Heads(nn.Module):
    """A body with two heads, of which calls name the one to use."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        for name, (n_in, n_out) in {"body": (8, 7), "a": (7, 4), "b": (7, 4)}.items():
            ids = np.sort(rng.permutation(n_in * n_out)[: n_in * n_out // 2])
            graph = LayerGraph.from_edge_ids(ids, (n_out, n_in))
            setattr(self, name, SparseLinear(graph, rng=rng))

    def forward(self, x, head="a"):
        return getattr(self, head)(self.body(x).tanh())


def loss_of(model, head="a", seed=0):
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((12, 8))).float()
    return nn.functional.cross_entropy(model(x, head), torch.arange(12) % 4)


def not_called(model, seed):
    return loss_of(model, "a", seed)


def detached(model, seed):
    return loss_of(model, "a", seed) + loss_of(model, "b", seed).detach()


def without_gradients(model, seed):
    with torch.no_grad():
        other = loss_of(model, "b", seed)
    return loss_of(model, "a", seed) + other


def of_weight_zero(model, seed):
    return loss_of(model, "a", seed) + 0.0 * loss_of(model, "b", seed)


def both(model, seed):
    return loss_of(model, "a", seed) + loss_of(model, "b", seed)


def every_second(model, seed):
    return loss_of(model, "ab"[seed % 2], seed)


WAYS = [not_called, detached, without_gradients]


def attached(rule="set", every=2, make=torch.optim.AdamW, **options):
    model = Heads()
    optimizer = make(model.parameters(), lr=0.05, weight_decay=0.1)
    return model, optimizer, attach(model, optimizer, rule, every=every, rng=0, **options)


def train(model, optimizer, way, steps, *, start=0, to_none=True):
    for seed in range(start, start + steps):
        optimizer.zero_grad(set_to_none=to_none)
        way(model, seed).backward()
        optimizer.step()


@pytest.mark.parametrize("rule", ["set", "random", "gmp", "rigl"])
@pytest.mark.parametrize("way", WAYS)
def test_a_layer_that_is_not_trained_keeps_its_graph_and_is_named_once(way, rule):
    options = {"total": 20} if rule == "gmp" else {}
    model, optimizer, engine = attached(rule, **options)
    before = engine.topology
    with pytest.warns(UserWarning, match=WORDS.format("b")) as caught:
        train(model, optimizer, way, 8)
    assert len(caught) == 1
    assert engine.updates == 4
    assert same_edges(before["b"], model.b.graph)
    assert not same_edges(before["body"], model.body.graph)
    assert not same_edges(before["a"], model.a.graph)


@pytest.mark.filterwarnings("error")
def test_gradients_of_zeros_count_as_the_optimizer_steps_with_them():
    model, optimizer, engine = attached()
    before = model.b.values.detach().clone()
    train(model, optimizer, of_weight_zero, 2)
    assert set(engine.last) == {"body", "a", "b"}
    assert not torch.equal(before, model.b.values)


def test_a_layer_used_in_some_intervals_is_rewired_after_these():
    model, optimizer, engine = attached(make=torch.optim.SGD)
    train(model, optimizer, both, 2)
    assert set(engine.last) == {"body", "a", "b"}
    with pytest.warns(UserWarning, match=WORDS.format("b")):
        train(model, optimizer, not_called, 2)
    assert set(engine.last) == {"body", "a"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, both, 2)
        assert set(engine.last) == {"body", "a", "b"}
        train(model, optimizer, not_called, 2)  # named before
    assert set(engine.last) == {"body", "a"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("every", [2, 3])
@pytest.mark.parametrize("to_none", [True, False])
def test_a_layer_used_every_second_step_is_trained(to_none, every):
    model, optimizer, engine = attached(every=every)
    for start in range(6):
        updates = engine.updates
        train(model, optimizer, every_second, 1, start=start, to_none=to_none)
        if engine.updates > updates:
            assert set(engine.last) == {"body", "a", "b"}
    assert engine.updates == 6 // every


@pytest.mark.filterwarnings("error")
def test_gradients_of_several_batches_in_one_step():
    model, optimizer, engine = attached(every=1)
    for _ in range(2):
        optimizer.zero_grad()
        for seed in range(3):
            every_second(model, seed).backward()
        optimizer.step()
        assert set(engine.last) == {"body", "a", "b"}


@pytest.mark.filterwarnings("error")
def test_calls_without_gradients_before_the_training_do_not_count():
    model, optimizer, engine = attached(every=2)
    with torch.no_grad():
        for seed in range(3):
            not_called(model, seed)
    train(model, optimizer, both, 2)
    assert set(engine.last) == {"body", "a", "b"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rule", ["set", "rigl"])
def test_frozen_and_skipped_layers_are_not_named(rule):
    for options in ({}, {"skip": ["b"]}):
        model, optimizer, engine = attached(rule, **options)
        model.b.values.requires_grad_(bool(options))
        train(model, optimizer, not_called, 4)
        assert set(engine.last) == {"body", "a"}


@pytest.mark.filterwarnings("error")
def test_a_rewiring_without_any_step_takes_all_layers():
    model, optimizer, engine = attached(every=100)
    assert set(engine.rewire()) == {"body", "a", "b"}
    train(model, optimizer, both, 1)
    engine.rewire()
    assert set(engine.rewire()) == {"body", "a", "b"}


def test_no_layer_is_trained():
    _, optimizer, engine = attached("set", every=1)
    with pytest.warns(UserWarning, match=WORDS.format("body, a, b")):
        optimizer.step()
    assert (engine.updates, engine.last) == (1, {})
    _, optimizer, engine = attached("rigl", every=1)
    with pytest.raises(ValueError, match="none was captured: the loss of the last step does not"):
        optimizer.step()


@pytest.mark.filterwarnings("error")
def test_layers_that_an_optimizer_changes_without_a_gradient_are_trained():
    class Perturbing(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.add_(torch.randn_like(parameter), alpha=group["lr"])

    model = Heads()
    optimizer = Perturbing(model.parameters(), {"lr": 0.1})
    engine = attach(model, optimizer, every=1, rng=0)
    for _ in range(2):
        optimizer.step()
        assert set(engine.last) == {"body", "a", "b"}


@pytest.mark.filterwarnings("error")
def test_a_rule_that_takes_part_in_every_step_trains_the_layers_itself():
    rule = RULES["deep_r"](temperature=0.01)
    model, optimizer, engine = attached(rule, every=1, make=torch.optim.SGD)
    before = model.b.values.detach().clone()
    train(model, optimizer, not_called, 1)
    assert not torch.equal(before, model.b.values)
    assert engine.updates == 1


@pytest.mark.filterwarnings("error")
def test_a_step_with_a_closure():
    model, optimizer, engine = attached(every=1)

    def closure():
        optimizer.zero_grad()
        loss = both(model, 0)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert set(engine.last) == {"body", "a", "b"}


@pytest.mark.filterwarnings("error")
def test_several_optimizers():
    model = Heads()
    every = [
        torch.optim.SGD(getattr(model, name).parameters(), lr=0.1) for name in ("a", "b", "body")
    ]
    engine = attach(model, every, every=2, rng=0)
    for seed in range(2):
        for optimizer in every:
            optimizer.zero_grad()
        every_second(model, seed).backward()
        for optimizer in every:
            optimizer.step()
    assert set(engine.last) == {"body", "a", "b"}


@pytest.mark.parametrize("saved_after", [1, 2, 3])
@pytest.mark.parametrize("early", [True, False])
def test_a_resumed_training_equals_one_without_interruption(saved_after, early):
    def way(model, seed):  # b is used only before or after the state is saved, between rewirings
        used = (seed < 1) == early if seed < 3 else False
        return both(model, seed) if used else not_called(model, seed)

    whole = attached(every=3)
    train(*whole[:2], way, saved_after)
    with io.BytesIO() as file:
        torch.save([part.state_dict() for part in whole], file)
        file.seek(0)
        states = torch.load(file, weights_only=True)
    again = attached(every=3)
    train(*again[:2], both, 1)  # what is loaded takes the place of what was noted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the graphs are replaced
        for part, state in zip(again, states, strict=True):
            part.load_state_dict(state)
    for model, optimizer, engine in (whole, again):
        with pytest.warns(UserWarning, match=WORDS.format("b")):
            train(model, optimizer, way, 6 - saved_after, start=saved_after)
        assert engine.updates == 2
    for name, graph in whole[2].topology.items():
        assert same_edges(graph, again[2].topology[name])
    for ours, theirs in zip(whole[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_replayed_steps_train_the_layers_that_steps_before_have():
    model, optimizer, engine = attached(every=3)
    with pytest.warns(UserWarning, match=WORDS.format("b")):
        train(model, optimizer, not_called, 3)
    for parameter in model.parameters():
        parameter.grad = None  # of a replay nothing is in ``.grad``
    for _ in range(3):
        engine.stepped()
    assert set(engine.last) == {"body", "a"}
    new = attached(every=3)
    for each in (engine, new[2]):
        each.count(2)  # of networks that are trained together: all layers
        each.stepped()
        assert set(each.last) == {"body", "a", "b"}
