"""What rules see of a step: gradients of all possible edges, and activations."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from topokit.graph import LayerGraph
from topokit.nn import SparseConv2d, SparseLinear, sparse_layers
from topokit.nn.activations import AllReLU, SReLU
from topokit.nn.engine import attach
from topokit.rules import RULES, UpdateRule
from topokit.rules.drop import smallest_magnitude
from topokit.rules.grow import uniform

N = 6  # units of each layer


def spy(*needs):
    """A rule that keeps the views it is shown, and the list of them."""
    seen = []

    def grow(view, occupied, n, rng):
        seen.append(view)
        return uniform(view, occupied, n, rng)

    return UpdateRule(smallest_magnitude, grow, needs=needs), seen


def sparse(rng, n_in=N, n_out=N):
    ids = np.sort(rng.permutation(n_in * n_out)[: n_in * n_out // 2])
    return SparseLinear(LayerGraph.from_edge_ids(ids, (n_out, n_in)), rng=rng)


class Net(nn.Module):
    """A layer used three times, recomputed on request, and one used once."""

    def __init__(self, rng, recompute=None):
        super().__init__()
        self.inner, self.out, self.recompute = sparse(rng), sparse(rng), recompute

    def block(self, x):
        return torch.tanh(self.inner(torch.tanh(self.inner(x))))

    def forward(self, x):
        x = torch.tanh(self.inner(x))
        if self.recompute is None or not self.training:
            x = self.block(x)
        else:
            x = checkpoint(self.block, x, use_reentrant=self.recompute)
        return self.out(x)


class Dense(nn.Module):
    """The same on dense weights, masked by being zero."""

    def __init__(self, net):
        super().__init__()
        for name in ("inner", "out"):
            linear = nn.Linear(N, N).double()
            layer = getattr(net, name)
            linear.weight.data, linear.bias.data = (
                layer.to_dense().detach(),
                layer.bias.data.clone(),
            )
            setattr(self, name, linear)
        self.recompute = None

    block, forward = Net.block, Net.forward


def loss(model, x):
    return (model(x) ** 2).mean()


def plain(model, optimizer, xs):
    optimizer.zero_grad()
    loss(model, xs[0]).backward()


def accumulated(model, optimizer, xs):
    optimizer.zero_grad()
    for x in xs:
        loss(model, x).backward()


def several_forwards_first(model, optimizer, xs):
    optimizer.zero_grad(set_to_none=False)
    losses = [loss(model, x) for x in xs]
    sum(losses[1:]).backward()
    losses[0].backward()


def one_graph_twice(model, optimizer, xs):
    optimizer.zero_grad()
    y = model(xs[0])
    (y**2).mean().backward(retain_graph=True)
    y.sum().backward()


def evaluated_in_between(model, optimizer, xs):
    optimizer.zero_grad()
    loss(model, xs[0]).backward()
    loss(model, xs[1])  # with a graph that no gradient runs through
    model.eval()
    with torch.no_grad():
        loss(model, xs[2])
    model.train()


def zeroed_in_between(model, optimizer, xs):
    for set_to_none in (True, False):
        accumulated(model, optimizer, xs)
        optimizer.zero_grad(set_to_none=set_to_none)
    loss(model, xs[1]).backward()


def with_gradients_of_inputs(model, optimizer, xs):
    optimizer.zero_grad()
    x = xs[1].clone().requires_grad_()
    torch.autograd.grad(loss(model, x), x)
    loss(model, xs[0]).backward()
    torch.autograd.grad(loss(model, x), x)


WAYS = [
    plain, accumulated, several_forwards_first, one_graph_twice, evaluated_in_between,
    zeroed_in_between, with_gradients_of_inputs,
]  # fmt: skip


@pytest.mark.parametrize("recompute", [None, False, True])
@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_all_possible_edges_are_those_of_the_step(rng, way, recompute):
    if recompute and way is with_gradients_of_inputs:
        return  # torch refuses it
    net = Net(rng, recompute).double()
    dense = Dense(net)
    rule, seen = spy("gradient")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine = attach(net, optimizer, rule, every=1, rng=rng)
    for _ in range(2):
        twin = torch.optim.SGD(dense.parameters(), lr=0.1)
        xs = [torch.from_numpy(rng.standard_normal((4, N))) for _ in range(3)]
        way(net, optimizer, xs)
        way(dense, twin, xs)
        optimizer.step()
        for view, linear in zip(seen[-2:], (dense.inner, dense.out), strict=True):
            expected = linear.weight.grad.numpy()
            np.testing.assert_allclose(view.dense_grad(slice(0, N)), expected, rtol=0, atol=1e-12)
            at_edges = expected.ravel()[view.graph.edge_ids]
            np.testing.assert_allclose(view.edge_grad(), at_edges, rtol=0, atol=1e-12)
        dense = Dense(net)
    assert engine.updates == 2


@pytest.mark.parametrize("rule", ["rigl", "snfs", "mest", "granet"])
def test_rules_decide_as_from_one_batch(rng, rule):
    """Accumulated gradients of half batches lead to the edges of the whole batch."""
    ends = []
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((8, N)))
    for parts in (1, 4):
        net = Net(np.random.default_rng(0)).double()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
        engine = attach(net, optimizer, rule, every=3, total=20, rng=1)
        for _ in range(12):
            optimizer.zero_grad()
            for part in x.chunk(parts):
                (loss(net, part) / parts).backward()
            optimizer.step()
        ends.append({name: graph.edge_ids.tolist() for name, graph in engine.topology.items()})
    assert ends[0] == ends[1]


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_are_without_the_factor_of_a_scaler_and_skipped_steps_do_not_count(rng, fused):
    net = Net(rng)
    twin = copy.deepcopy(net)
    rule, seen = spy("gradient", "sensitivity")
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, fused=fused)
    engine = attach(net, optimizer, rule, every=1, rng=rng)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**9)
    x = torch.from_numpy(rng.standard_normal((4, N))).float()
    scaler.scale(loss(net, x) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert (engine.steps, engine.updates) == (0, 0)
    optimizer.zero_grad()
    scaler.scale(loss(net, x)).backward()
    scaler.step(optimizer)
    assert (engine.steps, engine.updates) == (1, 1)
    loss(twin, x).backward()
    for view, layer in zip(seen, (twin.inner, twin.out), strict=True):
        np.testing.assert_allclose(view.edge_grad(), layer.values.grad, rtol=1e-4, atol=1e-7)
        expected = (layer.values * layer.values.grad).detach().abs()
        np.testing.assert_allclose(view.extra["sensitivity"], expected, rtol=1e-4, atol=1e-9)


def test_gradients_are_clipped_as_the_optimizers_are(rng):
    net = Net(rng).double()
    rule, seen = spy("gradient")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    attach(net, optimizer, rule, every=1, rng=rng)
    loss(net, torch.ones(3, N).double()).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
    expected = [net.inner.values.grad.clone(), net.out.values.grad.clone()]
    optimizer.step()
    for view, gradient in zip(seen, expected, strict=True):
        np.testing.assert_allclose(view.edge_grad(), gradient, rtol=1e-9, atol=1e-15)


def test_layers_without_a_part_in_the_step_keep_their_graph(rng):
    net = nn.ModuleList([sparse(rng), sparse(rng)])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine = attach(net, optimizer, "rigl", every=1, rng=rng)
    loss(net[1], torch.ones(3, N)).backward()
    with pytest.warns(UserWarning, match="layers 0 got no gradient"):
        optimizer.step()
    assert list(engine.last) == ["1"]


def test_gradients_that_come_another_way_are_refused(rng):
    net = nn.Sequential(sparse(rng))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    attach(net, optimizer, "rigl", every=1, rng=rng)
    (torch.ones(3, N) @ net[0].weight.T).square().sum().backward()
    with pytest.raises(ValueError, match="gradient of layer '0' came from elsewhere than calls"):
        optimizer.step()


def test_capture_ends_with_the_step_and_holds_no_unused_graph(rng):
    layer = sparse(rng)
    layer.capture = True
    for _ in range(3):
        layer(torch.ones(3, N))
    assert not layer.calls.done
    layer(torch.ones(2, N)).sum().backward()
    assert layer.view().inputs.shape == (2, N)
    layer(torch.ones(3, N)).sum().backward()
    assert layer.view().inputs.shape == (5, N)
    layer.capture = False
    layer(torch.ones(3, N)).sum().backward()
    assert layer.view().inputs is None
    assert not layer.values._post_accumulate_grad_hooks


ACTIVATED = {
    "relu": (nn.ReLU(), torch.relu),
    "gelu": (nn.GELU(), nn.functional.gelu),
    "clamp": (None, lambda x: x.clamp(min=0)),
    "silu": (None, nn.functional.silu),
    "srelu": (SReLU(N, rng=0), None),
    "all_relu": (AllReLU(1), None),
    "norm": (nn.Sequential(nn.LayerNorm(N), nn.Dropout(0.0), nn.Tanh()), None),
    "none": (nn.Identity(), lambda x: x),
}


class Chain(nn.Module):
    def __init__(self, rng, module, function):
        super().__init__()
        self.first, self.last = sparse(rng), sparse(rng, N, 3)
        self.act, self.function = module, function

    def forward(self, x):
        y = self.first(x)
        y = self.function(y) if self.act is None else self.act(y)
        return self.last(y)


@pytest.mark.parametrize("by", ["samples", "last batch"])
@pytest.mark.parametrize("name", list(ACTIVATED))
def test_activations_are_those_after_the_activation_function(rng, name, by):
    module, function = ACTIVATED[name]
    model = Chain(rng, copy.deepcopy(module), function)
    x = torch.from_numpy(rng.standard_normal((5, N))).float()
    with torch.no_grad():
        y = model.first(x)
        hidden = function(y) if model.act is None else model.act(y)
        shares = torch.softmax(model.last(hidden), dim=1)
    rule, seen = spy("activations")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    samples = {"samples": x} if by == "samples" else {}
    engine = attach(model, optimizer, rule, every=1, rng=rng, **samples)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model))) if function is None else None
    nn.functional.cross_entropy(model(x), torch.arange(5) % 3).backward()
    optimizer.step()
    np.testing.assert_allclose(seen[0].inputs, x)
    np.testing.assert_allclose(seen[0].outputs, hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen[1].inputs, hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen[1].outputs, shares, rtol=1e-5, atol=1e-6)
    if twin is not None:
        assert not any(layer.capture for layer in sparse_layers(twin).values())
        assert twin(x).shape == (5, 3)
    engine.detach()
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_activations_of_a_convolution_and_of_several_calls(rng):
    graph = LayerGraph.from_edge_ids(range(0, 36, 2), (2, 18))
    model = nn.Sequential(SparseConv2d(graph, 3, rng=rng), nn.BatchNorm2d(2), nn.ReLU())
    rule, seen = spy("activations", "gradient")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attach(model, optimizer, rule, every=1, rng=rng)
    xs = [torch.from_numpy(rng.standard_normal((n, 2, 5, 5))).float() for n in (2, 3)]
    expected = []
    for x in xs:
        y = model(x)
        expected.append(y.detach().permute(0, 2, 3, 1).reshape(-1, 2))
        y.square().sum().backward()
    optimizer.step()
    assert seen[0].inputs.shape == (45, 18)
    np.testing.assert_allclose(seen[0].outputs, torch.cat(expected), rtol=1e-6)
    assert seen[0].output_grad.shape == (45, 2)


# torch's tracer looks at the gradient of a tensor that is no leaf, where capture breaks the graph
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_activations_that_cannot_be_known_are_refused(rng):
    for way in ("parts", "compiled"):
        model = nn.Sequential(sparse(rng), nn.ReLU(), sparse(rng))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        attach(model, optimizer, "ctre_sim", every=1, rng=rng)
        forward = torch.compile(model, backend="eager") if way == "compiled" else model[2]
        forward(torch.ones(3, N)).sum().backward()
        with pytest.raises(ValueError, match=r"uncompiled and not recomputed .*; pass samples="):
            optimizer.step()


def test_an_error_in_a_forward_ends_the_watch(rng):
    model = nn.Sequential(sparse(rng), nn.ReLU(), sparse(rng))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = attach(model, optimizer, "ctre_sim", every=1, rng=rng)
    with pytest.raises(ValueError, match="expected an input of shape"):
        model(torch.ones(3, N + 1))
    model(torch.ones(3, N)).square().sum().backward()
    optimizer.step()
    assert engine.updates == 1
    assert torch.overrides._get_current_function_mode() is None


@pytest.mark.parametrize("rule", ["ctre_sim", "rigl"])
def test_a_batch_given_by_a_function_counts_alone(rng, rule):
    model = nn.Sequential(sparse(rng), nn.ReLU(), sparse(rng))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = attach(model, optimizer, RULES[rule](), every=1000, rng=rng)
    loss(model, torch.ones(3, N)).backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    for layer in sparse_layers(model).values():
        layer.requires_grad_(layer is model[2])
    engine.rewire(lambda: loss(model, torch.ones(2, N)))
    assert list(engine.last) in (["2"], [])
    assert torch.equal(model[0].values.grad, before["0.values"])
