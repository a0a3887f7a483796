"""What optimizers keep for each edge follows the graph, or is reset with a word."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from topokit.graph import EdgeUpdate, LayerGraph
from topokit.nn import SparseLinear, decay_groups
from topokit.nn.engine import attach
from topokit.nn.optimizer_state import STARTS, carry_state, find_holders, unwrapped
from topokit.rules import UpdateRule
from topokit.rules.drop import smallest_magnitude
from topokit.rules.grow import uniform


def model_of(rng, *widths):
    parts = []
    for n_in, n_out in itertools.pairwise(widths):
        ids = np.sort(rng.permutation(n_in * n_out)[: n_in * n_out // 2])
        parts += [SparseLinear(LayerGraph.from_edge_ids(ids, (n_out, n_in)), rng=rng), nn.Tanh()]
    return nn.Sequential(*parts[:-1])


def step(model, optimizer, n=1):
    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(3, model[0].n_in).to(model[0].values)).square().mean()
        loss.backward()
        return loss

    for _ in range(n):
        optimizer.step(closure)


class Keeper(torch.optim.Optimizer):
    """An optimizer that keeps what it is told to keep for each parameter."""

    def __init__(self, parameters, **entries):
        super().__init__(parameters, {"lr": 0.1})
        self.entries = entries

    def step(self, closure=None):
        closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                for name, make in self.entries.items():
                    self.state[parameter].setdefault(name, make(parameter))


def ramp(p):
    return torch.arange(1.0, p.numel() + 1)


@pytest.mark.parametrize("name", list(STARTS))
@pytest.mark.parametrize("grown_state", ["neutral", "zero", {"other": "mean"}])
def test_kept_edges_keep_their_state_and_grown_ones_start_as_the_table_says(rng, name, grown_state):
    model = model_of(rng, 6, 5)
    optimizer = Keeper(model.parameters(), **{name: ramp, "step": lambda p: torch.tensor(3.0)})
    engine = attach(
        model, optimizer, "set", every=2, init="normal", grown_state=grown_state, rng=rng
    )
    step(model, optimizer, 2)
    update = engine.last["0"]
    start = "zero" if grown_state == "zero" else STARTS[name]
    kept = np.arange(1.0, 16)[update.source[~update.grown]]
    values = model[0].values.detach().numpy()[update.grown]
    fill = {"zero": 0.0, "mean": kept.mean(), "value": values, "lr": 0.1}[start]
    state = optimizer.state[model[0].values]
    np.testing.assert_allclose(state[name].numpy()[update.grown], fill, rtol=1e-6)
    assert state[name].numpy()[~update.grown].tolist() == kept.tolist()
    assert state["step"] == 3


def test_an_entry_nobody_knows_is_carried_with_a_word(rng):
    model = model_of(rng, 6, 5)
    optimizer = Keeper(model.parameters(), luck=ramp)
    engine = attach(model, optimizer, "set", every=1, rng=rng)
    with pytest.warns(UserWarning, match=r"Keeper keeps 'luck' for each edge.*start at 0; say"):
        step(model, optimizer)
    assert not optimizer.state[model[0].values]["luck"][engine.last["0"].grown].any()
    engine.detach()
    engine = attach(model, optimizer, "set", every=1, grown_state={"luck": "mean"}, rng=rng)
    step(model, optimizer)
    assert optimizer.state[model[0].values]["luck"][engine.last["0"].grown].all()


@pytest.mark.parametrize("make", [lambda p: [1.0], lambda p: torch.ones(3, 2)])
def test_state_that_cannot_follow_a_graph_is_reset_with_a_word(rng, make):
    model = model_of(rng, 6, 5)
    optimizer = Keeper(model.parameters(), exp_avg=ramp, blocks=make)
    attach(model, optimizer, "set", every=1, rng=rng)
    with pytest.warns(UserWarning, match="'blocks' of Keeper is not one number for each edge"):
        step(model, optimizer)
    assert not optimizer.state[model[0].values]
    assert set(optimizer.state[model[0].bias]) == {"exp_avg", "blocks"}


@pytest.mark.parametrize("rule", ["set", "gmp"])
def test_lbfgs_starts_anew_at_each_rewiring(rng, rule):
    model = model_of(rng, 6, 5)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    engine = attach(model, optimizer, rule, every=2, total=9, rng=rng)
    kept = []
    for _ in range(5):
        step(model, optimizer)
        kept.append(bool(optimizer.state))
    assert kept == [True, False, True, False, True]
    assert engine.updates == 2


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3), lambda p: torch.optim.SGD(p, lr=0.1),
])  # fmt: skip
def test_a_step_with_a_closure_shows_the_gradients_before_the_step(rng, make):
    model = model_of(rng, 6, 5).double()
    optimizer, seen = make(model.parameters()), []

    def keep(view, n, rng):
        seen.append(view)
        return smallest_magnitude(view, n, rng)

    rule = UpdateRule(keep, uniform, needs=("gradient",))
    attach(model, optimizer, rule, every=2, rng=rng)
    step(model, optimizer)
    (gradient,) = torch.autograd.grad(
        model(torch.ones(3, 6).double()).square().mean(), [model[0].values]
    )
    step(model, optimizer)
    np.testing.assert_allclose(seen[0].edge_grad(), gradient, atol=1e-12)
    assert len(seen) == 1


def test_adafactor_keeps_a_variance_for_each_edge(rng):
    model = model_of(rng, 6, 5)
    optimizer = torch.optim.Adafactor(model.parameters())
    engine = attach(model, optimizer, "set", every=3, rng=rng)
    step(model, optimizer, 3)
    update, variance = engine.last["0"], optimizer.state[model[0].values]["variance"].numpy()
    np.testing.assert_allclose(
        variance[update.grown], variance[~update.grown].mean(dtype=np.float32), rtol=1e-5
    )


def test_a_layer_that_was_empty_or_loses_all_edges(rng):
    empty = LayerGraph.from_edge_ids([], (2, 3))
    some = LayerGraph.from_edge_ids([0, 4], (2, 3))
    for before, after, mean in ((empty, some, 0.0), (some, empty, None)):
        values = nn.Parameter(torch.ones(before.n_edges))
        optimizer = torch.optim.Adam([values])
        optimizer.state[values]["exp_avg_sq"] = torch.ones(before.n_edges)
        carry_state(optimizer, values, EdgeUpdate.between(before, after), np.ones(after.n_edges))
        assert optimizer.state[values]["exp_avg_sq"].tolist() == [mean] * after.n_edges


def test_wrapped_optimizers_are_unwrapped_and_others_refused(rng):
    model = model_of(rng, 6, 5)

    class Wrapper:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    assert unwrapped(Wrapper()) is Wrapper.optimizer
    engine = attach(model, Wrapper(), "set", every=1, rng=rng)
    step(model, Wrapper.optimizer)
    assert engine.updates == 1
    with pytest.raises(ValueError, match="expected an optimizer of torch, got float"):
        unwrapped(0.1)
    with pytest.raises(ValueError, match="the values of 'a' in two"):
        find_holders([Wrapper.optimizer, torch.optim.Adam([model[0].values])], {"a": model[0]})


def test_values_of_sparse_layers_decay_and_vectors_do_not(rng):
    model = nn.ModuleDict({"sparse": model_of(rng, 6, 5, 4), "norm": nn.BatchNorm1d(4),
                           "dense": nn.Linear(4, 2), "conv": nn.Conv1d(2, 2, 3)})  # fmt: skip
    model["conv"].weight.requires_grad_(False)
    decays, others = decay_groups(model, weight_decay=0.1)
    names = {p: name for name, p in model.named_parameters()}
    assert {names[p] for p in decays["params"]} == {
        "sparse.0.values", "sparse.2.values", "dense.weight",
    }  # fmt: skip
    assert (decays["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert len(decays["params"]) + len(others["params"]) + 1 == len(names)
    optimizer = torch.optim.SGD([decays, others], lr=1.0)
    before = model["sparse"][0].values.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model["sparse"][0].values, 0.9 * before)
