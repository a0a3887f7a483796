"""Optimizers within others, and slow weights: what each keeps follows the graph, or is refused."""

import copy
import warnings
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.test_nn_engine_owned import small
from topokit.graph import same_edges
from topokit.nn import sparse_layers
from topokit.nn.engine import attach


def backward(model):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((12, 8))).float()
    loss = nn.functional.cross_entropy(model(x), torch.arange(12) % 4)
    loss.backward()
    return loss


class Sam(torch.optim.Optimizer):
    """Makes its steps with an optimizer of its own, as the published code of SAM does."""

    def __init__(self, inner, rho=0.05):
        super().__init__(inner.param_groups, {"rho": rho})
        self.base_optimizer = inner
        self.param_groups = inner.param_groups

    @torch.no_grad()
    def first_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old_p"] = p.data.clone()
                p.add_(p.grad, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old_p"]
        self.base_optimizer.step()
        self.zero_grad()

    def step(self, closure):
        self.first_step()
        closure()
        self.second_step()


class Lookahead(torch.optim.Optimizer):
    """Slow weights around another optimizer, kept where a subclass says."""

    held_as = "optimizer"

    def __init__(self, inner):
        setattr(self, self.held_as, inner)
        self.param_groups, self.defaults, self.state = inner.param_groups, {}, defaultdict(dict)
        for what in ("step", "state_dict", "load_state_dict"):
            for when in ("pre", "post"):
                setattr(self, f"_optimizer_{what}_{when}_hooks", OrderedDict())
        self.begin()

    def begin(self):
        """Make slow weights, where that is done at once."""

    def slow(self, p):
        return self.state[p].setdefault("slow_param", p.detach().clone())

    @torch.no_grad()
    def step(self, closure):
        getattr(self, self.held_as).step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.slow(p).lerp_(p, 0.5)
                p.copy_(self.slow(p))


class OfTimm(Lookahead):
    held_as = "_base_optimizer"

    def slow(self, p):
        return self._base_optimizer.state[p].setdefault("lookahead_slow_buff", p.detach().clone())


class OfLists(Lookahead):
    def begin(self):
        every = [p for group in self.param_groups for p in group["params"]]
        self.slow_weights = [[p.detach().clone() for p in every]]

    def slow(self, p):
        every = [p for group in self.param_groups for p in group["params"]]
        (at,) = (i for i, each in enumerate(every) if each is p)
        return self.slow_weights[0][at]


class OfNames(Lookahead):
    """Its state has numbers as keys, and is empty before the first step."""

    def slow(self, p):
        every = [p for group in self.param_groups for p in group["params"]]
        (at,) = (i for i, each in enumerate(every) if each is p)
        return self.state[at].setdefault("slow", p.detach().clone())


class OfGroups(Lookahead):
    def begin(self):
        for group in self.param_groups:
            group["slow"] = [p.detach().clone() for p in group["params"]]


class OneVector(Lookahead):
    def begin(self):
        every = [p for group in self.param_groups for p in group["params"]]
        self.flat = nn.utils.parameters_to_vector(every).detach().clone()


class Around:
    """Not even an optimizer, as wrappers of training libraries."""

    def __init__(self, inner):
        self.held = [[inner]]  # not where it is looked for, except by the property

    @property
    def optimizer(self):
        return self.held[0][0]

    @property
    def state(self):
        return self.optimizer.state


FOLLOWING = {
    "SAM": Sam, "Lookahead": Lookahead, "of timm": OfTimm, "wrapped": Around,
    "wrapped Lookahead": lambda inner: Around(Lookahead(inner)),
    "Lookahead of SAM": lambda inner: Lookahead(Sam(inner)),
}  # fmt: skip
INNER = ("optimizer", "base_optimizer", "_base_optimizer")


def make(outer, lr=0.1):
    model = small()
    inner = torch.optim.Adam(model.parameters(), lr=lr, amsgrad=True)
    return model, inner, outer(inner)


def within(optimizer):
    """An optimizer and those in it, from outside inwards."""
    while optimizer is not None:
        yield optimizer
        optimizer = next((o for name in INNER if (o := getattr(optimizer, name, None))), None)


def step(model, optimizer):
    def closure():
        model.zero_grad()
        with torch.enable_grad():
            return backward(model)

    closure()
    real = next(each for each in within(optimizer) if isinstance(each, torch.optim.Optimizer))
    real.step(closure)


def by_edge(layer, entry):
    assert entry.shape == (layer.nnz,)
    return dict(zip(layer.graph.edge_ids.tolist(), entry.tolist(), strict=True))


def states(optimizer, layer):
    """What all optimizers in a family keep of a layer, by edge."""
    return {
        (type(each).__name__, name): by_edge(layer, entry)
        for each in within(optimizer)
        for name, entry in each.state.get(layer.values, {}).items()
        if getattr(entry, "ndim", 0)
    }


@pytest.mark.parametrize("outer", FOLLOWING.values(), ids=FOLLOWING)
def test_every_state_of_nested_optimizers_follows_its_edges(outer):
    model, _, optimizer = make(outer)
    engine = attach(model, optimizer, "set", every=1000, rng=0)
    for _ in range(3):
        step(model, optimizer)
        before = {name: states(optimizer, v) for name, v in sparse_layers(model).items()}
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # all of it is known
            changed = engine.rewire()
        for name, layer in sparse_layers(model).items():
            now = states(optimizer, layer)
            ids = layer.graph.edge_ids[~changed[name].grown].tolist()
            assert now.keys() == before[name].keys()
            assert min(len(now), len(ids)) >= 3
            for entry, of_edges in now.items():
                kept = {edge: before[name][entry][edge] for edge in ids}
                assert {edge: of_edges[edge] for edge in ids} == kept, entry


@pytest.mark.parametrize("given", ["outer", "inner"])
@pytest.mark.parametrize("outer", FOLLOWING.values(), ids=FOLLOWING)
def test_weights_that_do_not_learn_stay_at_their_edges(outer, given):
    """Also where the optimizer within is attached, whose steps are made by the one around it."""
    model, inner, optimizer = make(outer, lr=0.0)
    engine = attach(model, inner if given == "inner" else optimizer, "set", every=2, rng=0)
    before = {}
    for _ in range(8):
        step(model, optimizer)
        for name, layer in sparse_layers(model).items():
            now, old = by_edge(layer, layer.values.detach()), before.get(name, {})
            change = engine.last.get(name) if engine.steps % 2 == 0 else None
            new = [] if change is None else layer.graph.edge_ids[change.grown].tolist()
            kept = {edge: x for edge, x in now.items() if edge not in new}
            assert not old or kept == {edge: old[edge] for edge in kept}
            before[name] = now
    assert engine.updates == 4


OUTSIDE = {
    "lists": OfLists, "names": OfNames, "groups": OfGroups, "one vector": OneVector,
    "lists, wrapped": lambda inner: Around(OfLists(inner)),
}  # fmt: skip


@pytest.mark.parametrize("given", ["outer", "inner"])
@pytest.mark.parametrize("outer", OUTSIDE.values(), ids=OUTSIDE)
def test_slow_weights_that_cannot_follow_are_refused(outer, given):
    model, inner, optimizer = make(outer)
    words = r"in its state\[parameter\], .* got '\w+' of \w+, where the same position"
    before = [layer.graph for layer in sparse_layers(model).values()]

    def attach_and_step():
        attach(model, inner if given == "inner" else optimizer, "set", every=2, rng=0)
        for _ in range(2):
            step(model, optimizer)

    with pytest.raises(ValueError, match=words):
        attach_and_step()
    for layer, graph in zip(sparse_layers(model).values(), before, strict=True):
        assert same_edges(layer.graph, graph)


def test_tensors_that_are_not_of_all_layers_are_no_slow_weights():
    model, inner, optimizer = make(Sam)
    inner.table, inner.of_one = torch.ones(4), model[0].values.detach().clone()
    inner.own = [*model.parameters()]
    inner.its_state, optimizer.its_state = inner.state, inner.state
    attach(model, optimizer, "set", every=1, rng=0)
    step(model, optimizer)


def test_an_optimizer_whose_own_step_is_never_called_is_refused():
    model, inner, optimizer = make(Sam)

    def both_steps():
        backward(model)
        optimizer.first_step()
        backward(model)
        optimizer.second_step()

    engine = attach(model, optimizer, "set", every=1, rng=0)
    with pytest.raises(ValueError, match=r"another Adam .*; attach with this one, whose steps are"):
        both_steps()
    engine.detach()
    engine = attach(model, inner, "rigl", every=1, rng=0)
    both_steps()
    assert engine.updates == 1


@pytest.mark.parametrize("model_first", [True, False])
def test_states_of_nested_optimizers_are_loaded_in_any_order(model_first):
    model, inner, optimizer = make(Lookahead)
    engine = attach(model, optimizer, "set", every=2, rng=0)
    for _ in range(4):
        step(model, optimizer)
    saved = copy.deepcopy((model.state_dict(), inner.state_dict(), optimizer.state_dict()))
    kept = {name: states(optimizer, layer) for name, layer in sparse_layers(model).items()}
    for _ in range(4):
        step(model, optimizer)
    steps = [lambda: inner.load_state_dict(saved[1]), lambda: optimizer.load_state_dict(saved[2])]
    of_model = lambda: model.load_state_dict(saved[0])  # noqa: E731
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the graph of a sparse layer was replaced")
        for load in [of_model, *steps] if model_first else [*steps, of_model]:
            load()
    assert kept == {name: states(optimizer, layer) for name, layer in sparse_layers(model).items()}
    step(model, optimizer)
    assert engine.steps == 9
