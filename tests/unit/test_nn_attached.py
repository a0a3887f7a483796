"""Steps of optimizers that an engine does not follow are refused; whatever else a loop does is not.

And a model converted to another number type after steps: its optimizer's state has to be, too.
"""

import copy
import gc

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.test_nn_engine_owned import backward, fit, sgd, small
from topokit.nn import attached
from topokit.nn.engine import attach
from topokit.rules import RULES


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


class Wrapper:
    """As the prepared optimizer of accelerate: no optimizer of torch, but it has one."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.zero_grad, self.step = optimizer.zero_grad, optimizer.step


class Lookahead(torch.optim.Optimizer):
    """An optimizer whose step makes that of another one, as those of published wrappers do."""

    def __init__(self, base):
        super().__init__(base.param_groups, {})
        self.base = base

    def step(self, closure=None):
        return self.base.step(closure)


# Made anew.


@pytest.mark.parametrize("every", [2, "epoch"])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("make", [adam, lambda p: Wrapper(sgd(p)), lambda p: Lookahead(sgd(p))])
def test_steps_of_an_optimizer_made_anew_are_refused(make, keep, every):
    model = small()
    optimizer = sgd(model.parameters())
    kept = [attach(model, optimizer, every=every, rng=0), optimizer]
    fit(model, optimizer)
    if not keep:
        kept.clear()
        del optimizer
        gc.collect()
    remedy = r"call engine\.follow\(optimizer\)" if keep else "gone with its optimizer: call attach"
    new = make(model.parameters())
    for _ in range(2):  # each time, whether or not an error was caught
        with pytest.raises(ValueError, match=rf"layers 0, 2 .* another \w+ that holds .*{remedy}"):
            fit(model, new)


def test_an_engine_follows_an_optimizer_made_anew():
    model, twin = small(), small()
    optimizers = [sgd(model.parameters()), sgd(twin.parameters())]
    engine = attach(model, optimizers[0], "snfs", every=2, total=9, rng=0)
    other = attach(twin, optimizers[1], "snfs", every=2, total=9, rng=0)
    fit(model, optimizers[0], steps=3)
    fit(twin, optimizers[1], steps=3)
    anew = sgd(model.parameters())
    anew.load_state_dict(optimizers[0].state_dict())
    engine.follow(Wrapper(anew))
    with pytest.raises(ValueError, match="of another SGD"):
        fit(model, optimizers[0])
    with torch.no_grad():  # that step was made
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.copy_(q)
    anew.load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
    fit(model, anew, steps=4)
    fit(twin, optimizers[1], steps=4)
    assert (engine.steps, engine.updates) == (other.steps, other.updates) == (7, 3)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


def test_an_engine_may_follow_several_and_only_those_that_hold_its_values():
    model = small()
    engine = attach(model, sgd(model.parameters()), every=1, rng=0)
    first, second = adam(model[0].parameters()), sgd(model[2].parameters())
    with pytest.raises(ValueError, match="holds the values of layers 2"):
        engine.follow(first)
    engine.follow([first, second])
    fit(model, first, second, steps=2)
    assert (engine.steps, engine.updates) == (2, 2)
    engine.detach()
    with pytest.raises(ValueError, match="an engine that is attached, got a detached one"):
        engine.follow(sgd(model.parameters()))


def test_the_momentum_window_is_that_of_the_optimizer_followed():
    model = small()
    engine = attach(model, sgd(model.parameters()), "snfs", every=9, rng=0)
    engine.follow(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5))
    assert (engine._data.window, engine._data._decay) == (8, 0.5)


# Which parameters an optimizer holds.


def test_parameters_replaced_in_the_optimizer_are_noticed_at_the_next_step():
    for change in ("group", "list", "fewer"):
        model = small()
        optimizer = sgd(model.parameters())
        attach(model, optimizer, every=100, rng=0)
        fit(model, optimizer)
        others = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
        if change == "group":
            optimizer.param_groups = [{**optimizer.param_groups[0], "params": others}]
        elif change == "list":
            optimizer.param_groups[0]["params"][0] = others[0]
        else:
            del optimizer.param_groups[0]["params"][0]
        backward(model)
        with pytest.raises(ValueError, match="expected an optimizer that holds the values of"):
            optimizer.step()


def test_parameters_replaced_in_the_model_are_noticed_at_the_next_step():
    model = small()
    optimizer = sgd(model.parameters())
    attach(model, optimizer, every=100, rng=0)
    model[0].values = nn.Parameter(model[0].values.detach().clone())
    backward(model)
    with pytest.raises(ValueError, match="holds the values of layers 0"):
        optimizer.step()


def test_copies_of_an_optimizer():
    model = small()
    optimizer = sgd(model.parameters())
    engine = attach(model, optimizer, every=1, rng=0)
    fit(model, optimizer)
    with pytest.raises(ValueError, match="of another SGD"):
        copy.copy(optimizer).step()
    both, of_both = copy.deepcopy((model, optimizer))  # a training of its own, without rewiring
    fit(both, of_both)
    assert engine.steps == 1


# What is not refused.


def loops():
    """Loops that keep their optimizer, by name: what they do, and steps and rewirings then."""

    def accumulates(model, optimizer, engine):
        for _ in range(40):
            backward(model)
        optimizer.step()

    def reads_gradients(model, optimizer, engine):
        for _ in range(5):
            optimizer.zero_grad()
            backward(model)
        optimizer.step()

    def loads_its_state(model, optimizer, engine):
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        fit(model, optimizer)

    def adds_parameters(model, optimizer, engine):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
        fit(model, optimizer)

    def has_a_scheduler(model, optimizer, engine):
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        fit(model, optimizer)
        schedule.step()

    def is_wrapped(model, optimizer, engine):
        fit(model, Wrapper(optimizer))

    def steps_within_another(model, optimizer, engine):
        fit(model, Lookahead(optimizer))

    def steps_another_within(model, optimizer, engine):
        outer = Lookahead(sgd(model.parameters()))
        engine.follow(outer)
        fit(model, outer)

    def trains_other_things(model, optimizer, engine):
        other = nn.Linear(3, 2)
        fit(model, optimizer)
        other(torch.ones(1, 3)).sum().backward()
        adam(other.parameters()).step()
        torch.optim.LBFGS(other.parameters()).step(lambda: other(torch.ones(1, 3)).sum())

    def has_a_closure(model, optimizer, engine):
        optimizer.step(lambda: backward(model))

    return [
        accumulates, reads_gradients, loads_its_state, adds_parameters, has_a_scheduler,
        is_wrapped, steps_within_another, steps_another_within, trains_other_things, has_a_closure,
    ]  # fmt: skip


@pytest.mark.parametrize("rule", ["set", "rigl"])
@pytest.mark.parametrize("loop", loops(), ids=lambda loop: loop.__name__)
def test_loops_that_keep_their_optimizer_go_on(loop, rule):
    model = small()
    optimizer = sgd(model.parameters())
    engine = attach(model, optimizer, rule, every=1, rng=0)
    loop(model, optimizer, engine)
    assert (engine.steps, engine.updates) == (1, 1)


def test_another_optimizer_after_the_rewiring():
    model = small()
    for end in ("total", "detach", "attach"):
        optimizer = sgd(model.parameters())
        engine = attach(model, optimizer, every=1, total=2 if end == "total" else None, rng=0)
        fit(model, optimizer, steps=2)
        if end == "detach":
            engine.detach()
        if end == "attach":
            engine.detach()
            optimizer = adam(model.parameters())
            attach(model, optimizer, every=1, rng=0)
            fit(model, optimizer)
            return
        fit(model, adam(model.parameters()))
        engine.detach()


def test_another_optimizer_of_layers_that_keep_their_graph():
    model = small()
    optimizer = sgd(model[2].parameters())
    attach(model, optimizer, every=1, skip=["0"], rng=0)
    fit(model, optimizer, adam(model[0].parameters()), steps=2)


def test_nothing_is_watched_when_no_engine_is_left():
    gc.collect()
    before = len(attached._ATTACHMENTS)
    models = [small(), small()]
    engines = [attach(m, sgd(m.parameters()), every=1, rng=0) for m in models]
    assert len(attached._ATTACHMENTS) == before + 2
    engines[0].detach()
    del models, engines
    gc.collect()
    other = nn.Parameter(torch.ones(2))
    other.sum().backward()
    sgd([other]).step()
    assert len(attached._ATTACHMENTS) <= before
    assert bool(attached._hooks) == bool(attached._ATTACHMENTS)


# Epochs.


def test_an_epoch_without_a_step_is_refused():
    model = small()
    optimizer = sgd(model.parameters())
    engine = attach(model, optimizer, every="epoch", total=3, rng=0)
    with pytest.raises(ValueError, match="steps of the attached optimizer in the epoch that ends"):
        engine.end_epoch()
    for _ in range(3):
        fit(model, optimizer)
        engine.end_epoch()
    engine.end_epoch()  # nothing is rewired any more
    assert engine.updates == 2


def test_an_epoch_of_steps_that_a_scaler_skips_is_one():
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    engine = attach(model, optimizer, every="epoch", rng=0)
    optimizer.found_inf = torch.ones(())
    fit(model, optimizer)
    engine.end_epoch()
    assert (engine.steps, engine.updates) == (0, 1)


# Number types.


@pytest.mark.parametrize("rule", ["set", "snfs", "sensitivity", "ctre_sim"])
@pytest.mark.parametrize("make", [adam, sgd, torch.optim.Adadelta], ids=["adam", "sgd", "adadelta"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_model_converted_after_steps(dtype, make, rule):
    model = small()
    optimizer = make(model.parameters())
    engine = attach(model, optimizer, rule, every=2, total=99, rng=0)
    fit(model, optimizer, steps=3)
    model.to(dtype)

    def step():
        optimizer.zero_grad()
        x = torch.from_numpy(np.random.default_rng(1).standard_normal((12, 8))).to(dtype)
        nn.functional.cross_entropy(model(x), torch.arange(12) % 4).backward()
        optimizer.step()

    words = f"float32 on cpu to {str(dtype)[6:]} on cpu.*layer '0' was not; call optimizer.load_"
    with pytest.raises(ValueError, match=words):
        step()
    optimizer.load_state_dict(optimizer.state_dict())
    for _ in range(5):
        step()
    assert (engine.steps, engine.updates) == (8, 4)
    for layer in (model[0], model[2]):
        state = optimizer.state[layer.values]
        rows = [v for v in state.values() if getattr(v, "shape", None) == layer.values.shape]
        assert {layer.values.dtype, *(row.dtype for row in rows)} == {dtype}


@pytest.mark.parametrize("rule", [name for name in RULES if name not in ("ctre_seq",)])
def test_a_model_converted_where_nothing_is_kept_needs_no_more(rule):
    """In float64 from the first step on, or converted after one: the same edges."""
    graphs = []
    for late in (False, True):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        if not late:
            model.double()
        params = {"final_density": 0.2} if rule in ("gmp", "granet") else {}
        params |= {"initial_density": 0.5} if rule == "gmp" else {}
        engine = attach(model, optimizer, rule, every=2, total=9, rng=0, **params)
        for number in range(6):
            if late and number == 3:
                model.double()
            optimizer.zero_grad()
            x = torch.from_numpy(np.random.default_rng(number).standard_normal((12, 8)))
            x = x.to(model[0].values.dtype)
            nn.functional.cross_entropy(model(x), torch.arange(12) % 4).backward()
            optimizer.step()
        assert engine.updates == 3
        graphs.append([layer.indices.tolist() for layer in (model[0], model[2])])
    assert graphs[0] == graphs[1]
