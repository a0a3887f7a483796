"""The small GPT: a dense twin, causality, what is refused."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from topokit import attach, densify
from topokit.generators import generate_layers
from topokit.nn import sparse_layers
from topokit.nn.language import gpt, gpt_layers
from topokit.nn.models import layers_for

SMALL = {"vocabulary": 11, "context": 12, "width": 16, "blocks": 2, "heads": 4}
X = torch.from_numpy(np.random.default_rng(0).integers(0, 11, (5, 12)))


def made(density=0.3, rng=0, dense=("head",), **options):
    topology = generate_layers(
        gpt_layers(**SMALL, dense=dense), "erdos_renyi", density=density, rng=rng
    )
    return gpt(topology, **SMALL, dense=dense, rng=rng, **options), topology


def test_sizes_and_parameters():
    model, topology = made(density=1.0, dense=[])
    width = 16
    block = 12 * width**2 + 13 * width  # weights, biases and layer norms
    expected = (11 + 12) * width + 2 * block + 2 * width + 11 * width
    assert sum(p.numel() for p in model.parameters()) == expected
    assert list(sparse_layers(model)) == list(topology)
    assert len(topology) == 2 * 6 + 1


@pytest.mark.parametrize("kernel", ["csr", "dense"])
def test_outputs_and_gradients_are_those_of_a_dense_masked_network(kernel):
    model, topology = made(kernel=kernel, dense=[])
    dense = densify(copy.deepcopy(model))
    assert not sparse_layers(dense)
    for network in (model, dense):
        F.cross_entropy(network(X), X).backward()
    torch.testing.assert_close(model(X), dense(X), rtol=1e-4, atol=1e-5)
    twins = dict(dense.named_modules())
    for name, layer in sparse_layers(model).items():
        at = torch.from_numpy(topology[name].edge_ids)
        gradient = twins[name].weight.grad.flatten()[at]
        torch.testing.assert_close(layer.values.grad, gradient, rtol=1e-3, atol=1e-5)


def test_it_equals_its_formula():
    model, _ = made()
    h = model.characters.weight[X] + model.positions

    def norm(x):
        return (x - x.mean(-1, keepdim=True)) / (
            x.var(-1, keepdim=True, correction=0) + 1e-5
        ).sqrt()

    for at in (1, 2):
        block = model.get_submodule(f"block{at}")
        a, n = block.attention, norm(h)
        q, k, v = (
            (n @ p.weight.T + p.bias).view(5, 12, 4, 4) for p in (a.q_proj, a.k_proj, a.v_proj)
        )
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(4)
        scores = scores.masked_fill(~torch.ones(12, 12, dtype=torch.bool).tril(), -math.inf)
        heads = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(5, 12, 16)
        h = h + heads @ a.out_proj.weight.T + a.out_proj.bias
        inner = F.gelu(norm(h) @ block.fc1.weight.T + block.fc1.bias)
        h = h + inner @ block.fc2.weight.T + block.fc2.bias
    expected = norm(h) @ model.head.weight.T
    torch.testing.assert_close(model(X), expected.transpose(1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at", [1, 6, 11])
def test_a_later_character_changes_no_earlier_score(at):
    model, _ = made(density=1.0)
    other = X.clone()
    other[:, at] = (other[:, at] + 1) % 11
    a, b = model(X), model(other)
    torch.testing.assert_close(a[:, :, :at], b[:, :, :at], rtol=0, atol=1e-6)
    assert ((a - b).abs()[:, :, at:].amax(dim=(1, 2)) > 1e-4).all()
    torch.testing.assert_close(model(X[:, :at]), a[:, :, :at], rtol=1e-4, atol=1e-5)


def test_set_rewires_every_layer():
    model, topology = made(dense=[])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    engine = attach(model, optimizer, "set", every=4, rng=0)
    for _ in range(8):
        optimizer.zero_grad()
        F.cross_entropy(model(X), X.roll(-1, 1)).backward()
        optimizer.step()
    for name, graph in engine.topology.items():
        assert graph.n_edges == topology[name].n_edges
        assert not np.array_equal(graph.edge_ids, topology[name].edge_ids), name


def test_it_learns_and_drops_by_its_generator():
    model, _ = made(density=0.5, dropout=0.2)
    state = model.generator.get_state()
    torch.manual_seed(1)
    first = model(X)
    model.generator.set_state(state)
    torch.manual_seed(2)
    assert torch.equal(model(X), first)
    assert not torch.equal(model(X), first)
    assert torch.equal(model.eval()(X), model(X))
    assert F.cross_entropy(model(X), X).item() == pytest.approx(math.log(11), abs=0.2)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), X)  # tell the character itself
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 30, "heads": 4}, "a width that 4 heads divide"),
        ({"blocks": 0}, "blocks and heads of at least 1"),
        ({"dense": ["embedding"]}, "expected a list of attention, mlp, head, got"),
        ({"dense": ["attention", "mlp", "head"]}, "at least one kind of layers to be sparse"),
    ],
)
def test_sizes_that_do_not_fit(options, words):
    with pytest.raises(ValueError, match=words):
        gpt_layers(**options)


def test_what_does_not_fit_is_refused():
    model, topology = made()
    assert isinstance(model.head, nn.Linear)
    with pytest.raises(ValueError, match="at most 12 characters, the context, got 13"):
        model(torch.zeros(1, 13))
    for shape in ((12,), (1, 12, 1)):
        with pytest.raises(ValueError, match=r"expected codes of shape \(batch, length\), got"):
            model(torch.zeros(shape))
    topology.pop("block2.fc1")
    with pytest.raises(ValueError, match=r"layer 'block2.fc1' should be of shape .64, 16. and"):
        gpt(topology, **SMALL, rng=0)
    with pytest.raises(ValueError, match=r"use --set model\.context=32"):
        layers_for("gpt", n_features=32, n_classes=97)
    with pytest.raises(ValueError, match=r"use --set model\.vocabulary=10"):
        layers_for("gpt", n_features=64, n_classes=10)
