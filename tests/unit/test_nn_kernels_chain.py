"""Sparse layers as one node of torch's graph: the numbers of single layers, bit for bit."""

import contextlib
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import topokit as tk
from topokit.nn import Sequential, SparseLinear
from topokit.nn import fused as fused_module
from topokit.nn.kernels import chain
from topokit.nn.kernels.autograd import Masked
from topokit.nn.models import set_mlp

SIZES = {
    "complete output": [40, 30, 20, 25, 10],
    "wide output": [30, 20, 64, 40],
    "two layers": [20, 10, 10],
}


def parts(sizes, *, bias=True, dtype=torch.float32, relu_last=False, kernel="auto", density=0.3):
    rng, made = np.random.default_rng(0), []
    for at, (n_in, n_out) in enumerate(itertools.pairwise(sizes), start=2):
        share = 1.0 if at == len(sizes) and n_out in (10, 40) else density
        graph = tk.generate([n_in, n_out], "erdos_renyi", density=share, rng=rng)["fc1"]
        layer = SparseLinear(graph, bias=bias, kernel=kernel, rng=rng).to(dtype)
        if bias:
            with torch.no_grad():
                layer.bias.copy_(torch.from_numpy(0.1 * rng.standard_normal(n_out)))
        made += [layer, nn.ReLU()]
    return made if relu_last else made[:-1]


def batch(sizes, count, dtype=torch.float32, seed=0):
    draw = np.random.default_rng(seed).standard_normal((count, sizes[0]))
    return torch.from_numpy(draw).to(dtype)


def alone(monkeypatch):
    """Let layers be computed one by one."""
    monkeypatch.setattr(fused_module, "edge_chain", lambda x, layers: None)


def gradients(model, x, *, needs_x, frozen=()):
    """Return scores, then the gradients of the input and of all parameters."""
    x = x.clone().requires_grad_(needs_x)
    for name, parameter in model.named_parameters():
        parameter.grad = None
        parameter.requires_grad_(name not in frozen)
    y = model(x)
    found = [y.detach()]
    if y.requires_grad:
        (y * torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape)).sum().backward()
    return y.grad_fn, [*found, x.grad, *(p.grad for p in model.parameters())]


def same(some, others):
    for a, b in zip(some, others, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


def both_ways(monkeypatch, model, x, **options):
    node, found = gradients(model, x, **options)
    with monkeypatch.context() as patch:
        alone(patch)
        other, expected = gradients(model, x, **options)
    if node is not None:
        assert [type(each).__name__ for each in (node, other)] == [
            "EdgeChainBackward", "EdgeProductBackward",
        ]  # fmt: skip
    same(found, expected)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=list(SIZES))
@pytest.mark.parametrize("count", [1, 7, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("needs_x", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_numbers_are_those_of_single_layers(monkeypatch, sizes, count, dtype, needs_x, bias):
    model = Sequential(*parts(sizes, bias=bias, dtype=dtype, relu_last=count == 7))
    both_ways(monkeypatch, model, batch(sizes, count, dtype), needs_x=needs_x)


@pytest.mark.parametrize("kernel", ["csr", "dense", "mixed"])
def test_layers_that_torch_multiplies_are_links_too(monkeypatch, kernel):
    sizes = SIZES["wide output"]
    model = Sequential(*parts(sizes, kernel="auto" if kernel == "mixed" else kernel))
    if kernel == "mixed":
        model[2].kernel = "dense"
    both_ways(monkeypatch, model, batch(sizes, 9), needs_x=True)


@pytest.mark.parametrize("needs_x", [False, True])
@pytest.mark.parametrize(
    "frozen",
    [
        ["0.values"],
        ["0.values", "0.bias"],
        ["0.values", "0.bias", "2.values"],
        ["0.values", "0.bias", "2.values", "2.bias", "4.bias"],
        ["4.values", "6.values", "6.bias"],
        ["0.values", "0.bias", "2.values", "2.bias", "4.values", "4.bias", "6.values"],
        ["0.values", "0.bias", "2.values", "2.bias", "4.values", "4.bias", "6.values", "6.bias"],
    ],
    ids=len,
)
def test_only_what_is_needed_is_computed(monkeypatch, frozen, needs_x):
    sizes = SIZES["complete output"]
    model = Sequential(*parts(sizes))
    both_ways(monkeypatch, model, batch(sizes, 12), needs_x=needs_x, frozen=frozen)


def test_gradients_of_some_parameters(monkeypatch):
    sizes = SIZES["complete output"]
    model, x, found = Sequential(*parts(sizes)), batch(sizes, 12), []
    for way in (False, True):
        if way:
            alone(monkeypatch)
        loss = model(x).square().sum()
        wanted = [model[4].values, model[2].bias]
        found.append(torch.autograd.grad(loss, wanted, retain_graph=True))
        found[-1] += torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        found[-1] += torch.autograd.grad(loss, [model[6].bias])
    same(*found)


@pytest.mark.parametrize("before", [nn.Tanh(), "relu"])
@pytest.mark.parametrize("used_twice", [False, True])
def test_between_other_nodes(monkeypatch, before, used_twice):
    """A chain after a product with ReLU masks its gradient; one with ReLU before such a product."""
    first, second = parts([15, 20, 10], relu_last=True), parts([10, 12, 8, 8], density=0.4)
    x, found = batch([15], 20), []
    for way in (False, True):
        if way:
            alone(monkeypatch)
        start = Sequential(*first[:2]) if before == "relu" else nn.Sequential(first[0], before)
        middle, end = Sequential(*first[2:], *second[:2]), Sequential(*second[2:])
        for part in (start, middle, end):
            part.zero_grad()
        hidden = middle(start(x))
        y = end(hidden) + (hidden[:, :8] if used_twice else 0)
        y.sin().sum().backward()
        found.append([p.grad for part in (start, middle, end) for p in part.parameters()])
    same(*found)


def test_derivatives_of_gradients(monkeypatch):
    sizes = [6, 5, 4, 3]
    model = Sequential(*parts(sizes, dtype=torch.float64, density=0.7))
    x, parameters = batch(sizes, 4, torch.float64), dict(model.named_parameters())
    inputs = (x.requires_grad_(), *parameters.values())

    def scores(x, *tensors):
        named = dict(zip(parameters, tensors, strict=True))
        return torch.func.functional_call(model, named, (x,))

    assert scores(*inputs).grad_fn.name() == "EdgeChainBackward"
    assert torch.autograd.gradcheck(scores, inputs)
    assert torch.autograd.gradgradcheck(scores, inputs)
    assert torch.autograd.gradcheck(scores, inputs, check_batched_grad=True)
    second = torch.autograd.functional.hessian(lambda v: model(v).square().sum(), x[:1].detach())
    alone(monkeypatch)
    other = torch.autograd.functional.hessian(lambda v: model(v).square().sum(), x[:1].detach())
    torch.testing.assert_close(second, other)


def test_what_torch_puts_around_a_computation(monkeypatch):
    sizes = SIZES["complete output"]
    model, x, found = Sequential(*parts(sizes)), batch(sizes, 12), []
    for way in (False, True):
        if way:
            alone(monkeypatch)
        model.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t.clone()):
            y = model(x)
        y.square().sum().backward()
        checkpoint(model, x, use_reentrant=False).sin().sum().backward()
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
        y.cos().sum().backward()
        model(x).relu_().sum().backward()  # a result may be changed in place
        found.append([p.grad.clone() for p in model.parameters()])
    same(*found)


def test_a_value_changed_between_forward_and_backward_is_noticed():
    sizes = SIZES["two layers"]
    for change in ("values", "bias"):
        model = Sequential(*parts(sizes))
        y = model(batch(sizes, 3)).sum()
        with torch.no_grad():
            getattr(model[0], change).add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()


def test_errors_are_those_of_the_layer():
    model = Sequential(*parts(SIZES["two layers"]))
    with pytest.raises(ValueError, match=r"expected an input of shape \(..., 20\), got \(3, 21\)"):
        model(torch.ones(3, 21))
    with pytest.raises(TypeError, match=r"expected the input in torch\.float32"):
        model(torch.ones(3, 20, dtype=torch.float64))
    model[2].double()
    with pytest.raises(TypeError, match=r"expected the input in torch\.float64"):
        model(torch.ones(3, 20))


def test_a_rewiring_is_followed_and_its_plans_are_forgotten(monkeypatch):
    sizes = SIZES["complete output"]
    model, x = Sequential(*parts(sizes)), batch(sizes, 12)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    tk.attach(model, optimizer, "set", every=1, skip=["0", "6"], rng=0)
    first = model[0].index
    for _ in range(3 * chain.MOST_PLANS):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        both_ways(monkeypatch, model, x, needs_x=False)
    assert model[0].index is first
    assert len(first.plans) <= chain.MOST_PLANS


def test_memory_is_as_before_where_no_gradient_is_needed(monkeypatch):
    sizes, used = SIZES["complete output"], []
    model, x = Sequential(*parts(sizes)), batch(sizes, 50)
    apply = fused_module.edge_chain
    monkeypatch.setattr(
        fused_module, "edge_chain", lambda *a: (y := apply(*a), used.append(y is not None))[0]
    )
    with torch.no_grad():
        small = model(x)
        monkeypatch.setattr(tk.nn.kernels, "MOST_CELLS", 50 * 85 - 1)
        same([small], [model(x)])
    assert used[:2] == [True, False]
    assert torch.equal(model(x), small)
    assert used[-1]


@pytest.mark.parametrize("count", [64, 300])
def test_results_do_not_depend_on_the_number_of_threads(count):
    sizes, before, found = [200, 300, 250, 10], torch.get_num_threads(), []
    model = Sequential(*parts(sizes, kernel="csr"))  # torch's dense product does depend on it
    x = batch(sizes, count)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found += [gradients(model, x, needs_x=True)[1] for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        same(found[0], other)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_set_mlp(monkeypatch, dropout):
    topology = tk.generate([30, 20, 20, 10], "erdos_renyi", epsilon=4, rng=0)
    model, x = set_mlp(topology, dropout=dropout, rng=1), batch([30], 16)
    node = "EdgeChainBackward" if dropout == 0 else "EdgeProductBackward"
    assert model(x).grad_fn.name() == node
    model.eval()
    assert model(x.view(16, 5, 6)).grad_fn.name() == "EdgeChainBackward"
    both_ways(monkeypatch, model, x, needs_x=True)
    model.fc2.capture = True
    assert model(x).grad_fn.name() == "EdgeProductBackward"


ASKED = (
    "hook",
    "hook of a tensor that is gone",
    "retain_grad",
    "grad",
    "grad with others",
    "inputs",
)


def of_hidden(hidden, end, parameters, asked):
    """Return the gradient of a hidden layer, and those of some parameters, as somebody asks."""
    seen, loss = [], end(hidden).sin().sum()
    if asked.startswith("grad"):
        return torch.autograd.grad(loss, [hidden, *(parameters if "others" in asked else ())])
    if asked == "inputs":
        loss.backward(inputs=[hidden, *parameters])
        return hidden.grad, *(p.grad for p in parameters)
    if asked == "retain_grad":
        hidden.retain_grad()
        loss.backward()
        return hidden.grad, *(p.grad for p in parameters)
    hidden.register_hook(lambda g: seen.append(g.clone()))
    if "gone" in asked:
        del hidden
    loss.backward()
    return *seen, *(p.grad for p in parameters)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("after", ["layer", "chain"])
@pytest.mark.parametrize("saved", ["as it is", "elsewhere"])
def test_the_gradient_of_a_hidden_layer_is_whole(asked, after, saved):
    """It is not 0 where the layer's outputs are, which its own backward pass makes of it."""
    found = []
    for kind in (Sequential, nn.Sequential):
        modules = parts([15, 20, 12, 8, 5], dtype=torch.float64, density=0.4)
        start = kind(*modules[:4]) if after == "layer" else kind(*modules[:2])
        end = kind(*modules[4:6]) if after == "layer" else kind(*modules[2:])
        x, wanted = batch([15], 20, torch.float64), [*start.parameters(), *end.parameters()]
        copied = torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t)
        with copied if saved == "elsewhere" else contextlib.nullcontext():
            hidden = start(x)
            masked = hidden == 0
            found.append(of_hidden(hidden, end, wanted, asked))
            del hidden
        assert (found[-1][0][masked] != 0).any()
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_training_masks_within_the_kernel(monkeypatch):
    """Where nobody else looks at a gradient, a layer leaves its ReLU's derivative to the next."""
    whole = []

    def noted(*fields):
        whole.append(Masked(*fields).whole)
        return Masked(*fields)

    monkeypatch.setattr(chain, "Masked", noted)
    first, second = parts([15, 20, 10], relu_last=True), parts([10, 12, 8])
    start, end, x = Sequential(*first), Sequential(*second), batch([15], 20)
    end(start(x)).sum().backward()
    end.requires_grad_(False)
    end(start(x)).sum().backward()
    assert whole == [False, False]
    torch.autograd.grad(end(start(x)).sum(), [first[0].values])
    assert whole[2:] == [True]  # it is not known which tensors were named


def test_a_function_with_an_attribute_of_that_name_is_left_alone():
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.relu = True
            return 2 * x

        @staticmethod
        def backward(ctx, g):
            return 2 * g

    sizes = SIZES["two layers"]
    for model in (Sequential(*parts(sizes)), Sequential(*parts(sizes[:2]))):
        x, other = (batch(sizes, 7).requires_grad_() for _ in range(2))
        model(Doubled.apply(x)).sum().backward()
        model(2 * other).sum().backward()
        assert torch.equal(x.grad, other.grad)


@pytest.mark.parametrize("times", [2, 3])
def test_a_layer_that_stands_in_a_chain_several_times(times):
    layer = parts([6, 6], dtype=torch.float64, density=0.6)[0]
    x, found = batch([6], 4, torch.float64).requires_grad_(), []
    for kind in (Sequential, nn.Sequential):
        model = kind(*[layer, nn.ReLU()] * times)
        wanted = [x, layer.values, layer.bias]
        first = torch.autograd.grad(model(x).square().sum(), wanted)
        again = torch.autograd.grad(model(x).square().sum(), wanted, create_graph=True)
        rows = torch.autograd.grad(
            model(x), wanted, torch.ones(1, *x.shape, dtype=x.dtype), is_grads_batched=True
        )
        second = torch.autograd.grad(sum(g.square().sum() for g in again), wanted)
        found.append([*first, *again, *rows, *second])
        same_as = zip(first, again, strict=True)
        assert all(torch.allclose(one, other) for one, other in same_as)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("of", ["input", "gradient", "values", "bias"])
def test_a_negative_view_has_the_other_sign(of, layers, count):
    """Its memory holds the numbers with the sign changed, as that of ``z.conj().imag`` does."""
    sizes = [6, 5, 8, 4][: layers + 1]
    model = Sequential(*parts(sizes, dtype=torch.float64, density=0.6))
    x, g = batch(sizes, count, torch.float64), batch(sizes[-1:], count, torch.float64, seed=1)
    named, found = {name: p.detach() for name, p in model.named_parameters()}, []
    key = {"values": "0.values", "bias": "0.bias"}.get(of)
    for turned in (torch.neg, lambda t: torch._neg_view(t.t().contiguous()).t()):
        own = named if key is None else {**named, key: turned(named[key])}
        own = {name: t.requires_grad_() for name, t in own.items()}
        y = torch.func.functional_call(model, own, (turned(x) if of == "input" else x,))
        gradients = torch.autograd.grad(y, own.values(), turned(g) if of == "gradient" else g)
        found.append([y, *gradients])
        named = {name: t.detach() for name, t in named.items()}
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
